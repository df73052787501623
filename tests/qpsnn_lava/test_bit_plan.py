"""Bits under a budget: the programme against every assignment, sensitivities against plain forward passes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mapping
from netx_export.errors import ConfigError
from netx_export.network import Voltage
from qpsnn_lava import bit_plan
from qpsnn_lava.bit_plan import assign, plan_bits, sensitivity
from qpsnn_lava.blocks import Conv, Dense, Flatten, Integrate, NeuronOptions
from qpsnn_lava.coding import Coding
from qpsnn_lava.data import Dataset, Split
from qpsnn_lava.freeze import freeze
from qpsnn_lava.model import SpikingNetwork, logits, set_bits, set_quantised
from qpsnn_lava.quantise import Quantiser
from qpsnn_lava.sizes import deployed_mb
from qpsnn_lava.train import to_input

CODING = Coding("direct", 3, 4)


def dataset(count: int = 24) -> Dataset:
    rng = np.random.default_rng(0)
    parts = [Split(rng.integers(0, 16, (n, 2, 6, 6)).astype(np.uint8), np.arange(n) % 4, np.arange(n)) for n in (count, 4, 4)]
    return Dataset("made", *parts, classes=4, max_value=15, licence="", source="")


def network() -> SpikingNetwork:
    torch.manual_seed(0)
    options = NeuronOptions(threshold=0.1)
    quantiser = Quantiser(4, gamma="max")
    blocks = [
        Conv(options, Quantiser(8, gamma="max"), 2, 6, padding=1, input_max=15),
        Conv(options, quantiser, 6, 8, stride=2, padding=1),
        Flatten(),
        Dense(options, quantiser, 72, 20),
        Integrate(Quantiser(8, gamma="max"), 20, 4),
    ]
    return SpikingNetwork(blocks, ["conv1", "conv2", "dense3", "output"], Voltage())


def frozen(model: SpikingNetwork) -> Any:
    set_quantised(model, True)
    return freeze(model, (2, 6, 6), 3, input_bits=4)


@settings(max_examples=80)
@given(
    rows=st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), min_size=1, max_size=4), min_size=1, max_size=4),
    budget=st.integers(0, 120),
)
def test_the_programme_finds_the_best_of_all_assignments(rows: list[list[tuple[int, int]]], budget: int) -> None:
    loss = {f"l{i}": {c: float(entry[0]) for c, entry in enumerate(row)} for i, row in enumerate(rows)}
    costs = {f"l{i}": {c: entry[1] for c, entry in enumerate(row)} for i, row in enumerate(rows)}
    every = [dict(zip(loss, choice, strict=True)) for choice in itertools.product(*(range(len(row)) for row in rows))]

    def total(table: Any, choice: dict[str, int]) -> Any:
        return sum(table[name][c] for name, c in choice.items())

    allowed = [(total(loss, choice), total(costs, choice)) for choice in every if total(costs, choice) <= budget]
    if not allowed:
        with pytest.raises(ConfigError, match=rf"the cheapest choices cost \d+, more than the budget of {budget}; give more"):
            assign(loss, costs, budget)
        return
    chosen = assign(loss, costs, budget)
    assert (total(loss, chosen), total(costs, chosen)) == min(allowed)


def test_a_large_budget_is_held_though_it_is_counted_coarsely(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    sizes = {f"l{i}": int(rng.integers(1, 10**6)) for i in range(12)}
    costs = {name: {b: size * b for b in range(2, 9)} for name, size in sizes.items()}
    loss = {name: {b: float(rng.random() * 4.0**-b) for b in range(2, 9)} for name in costs}
    budget = sum(row[4] for row in costs.values())

    def total(table: Any, choice: dict[str, int]) -> Any:
        return sum(table[name][bits] for name, bits in choice.items())

    fine = assign(loss, costs, budget)
    monkeypatch.setattr(bit_plan, "MAX_STATES", 200)
    coarse = assign(loss, costs, budget)
    for chosen in (fine, coarse):
        assert total(costs, chosen) <= budget and total(loss, chosen) <= total(loss, dict.fromkeys(costs, 4))
    assert total(loss, fine) <= total(loss, coarse)
    tight = sum(row[2] for row in costs.values())
    assert assign(loss, costs, tight) == dict.fromkeys(costs, 2)  # rounding up would leave nothing


def test_sensitivity_is_the_divergence_of_the_answers() -> None:
    model, data = network(), dataset()
    set_bits(model, {"conv2": 5})
    set_quantised(model, True)
    found = sensitivity(model, ["conv2", "dense3"], data, CODING, samples=24, seed=0, batch=7)
    assert [b.quantiser.bits for b in model.blocks if hasattr(b, "quantiser")] == [8, 5, 4, 8]
    assert all(b.quantised for b in model.blocks if hasattr(b, "quantiser")) and model.training
    model.eval()
    set_quantised(model, False)
    x = to_input(data.train.images, CODING, 15, 0, data.train.indices)
    with torch.no_grad():
        p = torch.softmax(logits(model(x), model.readout), 1).double().numpy()
        for index, name in ((1, "conv2"), (3, "dense3")):
            block: Any = model.blocks[index]
            for bits in (2, 6):
                set_bits(model, {name: bits})
                block.quantised = True
                q = torch.softmax(logits(model(x), model.readout), 1).double().numpy()
                block.quantised = False
                assert found[name][bits] == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-3, abs=1e-9)
    assert found["conv2"][2] > found["conv2"][8] >= 0 and found["dense3"][2] > 0


@pytest.mark.parametrize("unit", ["mb", "words", "cores"])
def test_the_plan_keeps_the_budget_and_beats_equal_bits(unit: bit_plan.Unit) -> None:
    model, data, chip = network(), dataset(), mapping.load_chip("loihi2")
    names = ["conv2", "dense3"]

    def cost(bits: int) -> float:
        set_bits(model, dict.fromkeys(names, bits))
        made = frozen(model)
        if unit == "mb":
            return deployed_mb(made)
        row = mapping.compare({"": mapping.plan_layers(made)}, chip)[0]
        return float(row.cores or 0) if unit == "cores" else float(row.synapse_words or 0)

    equal = cost(4)
    made = plan_bits(model, frozen(model), names, data, CODING, equal, unit, chip, samples=24, seed=0)
    assert made.cost <= made.budget == math.floor(equal * 8e6 if unit == "mb" else equal)
    assert sum(made.sensitivity[n][made.bits[n]] for n in names) <= sum(made.sensitivity[n][4] for n in names)
    set_bits(model, made.bits)
    if unit == "mb":
        assert deployed_mb(frozen(model)) * 8e6 == pytest.approx(made.cost)  # what the network then takes
    most = plan_bits(model, frozen(model), names, data, CODING, 10 * cost(8), unit, chip, samples=24, seed=0)
    assert all(most.sensitivity[n][most.bits[n]] == min(most.sensitivity[n].values()) for n in names)
    assert made.to_dict()["sensitivity"]["conv2"].keys() == {str(b) for b in range(2, 9)}


def test_budgets_that_cannot_be_kept() -> None:
    model, data, chip = network(), dataset(), mapping.load_chip("loihi2")
    made = frozen(model)
    with pytest.raises(
        ConfigError, match=r"quantise\.budget_mb is 1e-06, but the network takes 0\.00\d+ with the fewest bits in "
    ):
        plan_bits(model, made, ["conv2"], data, CODING, 1e-6, "mb", chip, samples=8, seed=0)
    with pytest.raises(ConfigError, match=r"quantise\.budget_cores is 1, but the network takes 6 with the fewest bits in"):
        plan_bits(model, made, ["conv2"], data, CODING, 1, "cores", chip, samples=8, seed=0)
    with pytest.raises(ConfigError, match=r'quantise\.bits is "auto", but no layer may choose: the first takes first_bits'):
        plan_bits(model, made, [], data, CODING, 1, "cores", chip, samples=8, seed=0)
