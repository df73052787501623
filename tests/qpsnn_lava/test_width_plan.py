from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapping_strategies import LIF
from numpy.typing import NDArray

from mapping import at_widths, compare, load_chip, plan_layers
from netx_export.engine import summarise
from netx_export.errors import ConfigError
from netx_export.network import Conv, Dense, Network, Population, Projection
from qpsnn_lava import width_plan
from qpsnn_lava.sizes import deployed_mb
from qpsnn_lava.width_plan import _front, _search, plan_widths

LOIHI2 = load_chip("loihi2")


def _network(channels: tuple[int, ...] = (6, 8), size: int = 6) -> Network:
    """3x3 convolutions with a bias, a sum-pooling behind the first, and a dense layer of 5."""
    rng = np.random.default_rng(0)
    populations, projections = [Population("input", (2, size, size))], []

    def add(name: str, synapse: Conv | Dense, shape: tuple[int, ...], bias: NDArray[np.int32] | None) -> None:
        projections.append(Projection(populations[-1].name, name, synapse))
        populations.append(Population(name, shape, LIF, bias))

    for i, width in enumerate(channels):
        weight = rng.integers(-7, 8, (width, populations[-1].shape[0], 3, 3)).astype(np.int32)
        weight.flat[0] = -7
        conv = Conv(weight, padding=(1, 1))
        add(f"c{i}", conv, conv.output_shape(populations[-1].shape), rng.integers(-3, 9, width).astype(np.int32))
        if not i:
            pool = Conv(np.full((width, 1, 2, 2), 64, np.int32), (2, 2), groups=width)
            add("pool", pool, pool.output_shape(populations[-1].shape), None)
    weight = rng.integers(-7, 8, (5, populations[-1].size)).astype(np.int32)
    add("out", Dense(weight), (5,), None)
    return Network(tuple(populations), tuple(projections))


def _scores(network: Network, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return {p.name: rng.uniform(0.2, 1, p.shape[0]) for p in network.populations[1:-1] if p.name != "pool"}


def _cut(network: Network, widths: dict[str, int]) -> Network:
    """The network with the first channels of each layer."""
    populations, projections, before = [network.populations[0]], [], 2
    for population, projection in zip(network.populations[1:], network.projections, strict=True):
        synapse = projection.synapse
        if isinstance(synapse, Conv):
            width = widths.get(population.name, before if synapse.groups > 1 else synapse.weight.shape[0])
            weight = synapse.weight[:width, : None if synapse.groups > 1 else before]
            made: Conv | Dense = Conv(weight, synapse.stride, synapse.padding, groups=width if synapse.groups > 1 else 1)
        else:
            area = math.prod(populations[-1].shape[1:])
            width, made = synapse.weight.shape[0], Dense(synapse.weight[:, : before * area])
        bias = None if population.bias is None else population.bias[:width]
        populations.append(Population(population.name, (width, *population.shape[1:]), population.neuron, bias))
        projections.append(Projection(projection.source, projection.target, made))
        before = width
    return Network(tuple(populations), tuple(projections), network.readout, network.input_bits, network.steps)


def _cost(network: Network, unit: str) -> float:
    """Counted from the small network itself."""
    if unit == "parameters":
        biases = sum(p.bias.size for p in network.populations if p.bias is not None)
        return sum(p.synapse.weight.size for p in network.projections) + biases
    if unit == "mb":
        return deployed_mb(network)
    row = compare({"": plan_layers(network)}, LOIHI2)[0]
    return float((row.cores if unit == "cores" else row.synapse_words) or math.inf)


@pytest.mark.parametrize("unit", ["parameters", "mb", "words", "cores"])
@settings(max_examples=8)
@given(share=st.floats(0.15, 1.0), seed=st.integers(0, 1000))
def test_the_best_of_all_widths(unit: Any, share: float, seed: int) -> None:
    """Against every pair of widths, each network cut and counted by itself."""
    network, chip = _network(), load_chip("loihi2", {"neurons": 40}) if unit == "cores" else LOIHI2
    scores = _scores(network, seed)
    layers = plan_layers(network)

    def cost(widths: dict[str, int]) -> float:
        if unit == "cores":
            return float(compare({"": at_widths(layers, widths)}, chip)[0].cores or math.inf)
        return _cost(_cut(network, widths), unit)

    def worth(widths: dict[str, int]) -> float:
        return sum(math.log(np.sort(scores[n])[::-1][:w].sum() / scores[n].sum()) for n, w in widths.items())

    choices = [dict(zip(scores, pair, strict=True)) for pair in itertools.product(range(1, 7), range(1, 9))]
    costs = [cost(widths) for widths in choices]
    budget = (
        min(costs) + share * (max(costs) - min(costs))
        if unit == "mb"
        else math.ceil(min(costs) + share * (max(costs) - min(costs)))
    )
    plan = plan_widths(network, scores, budget, unit, chip)
    best = max(worth(widths) for widths, price in zip(choices, costs, strict=True) if price <= budget + 1e-12)
    assert plan.cost <= budget + 1e-12 and cost(dict(plan.widths)) == pytest.approx(plan.cost)
    assert worth(dict(plan.widths)) == pytest.approx(best)
    assert plan.before == pytest.approx(cost({"c0": 6, "c1": 8})) and plan.unit == unit and plan.budget == budget


def test_a_budget_that_is_met_cuts_nothing() -> None:
    network = _network()
    for unit, enough in (("parameters", 10**6), ("words", 10**6), ("cores", 10**4), ("mb", 1.0)):
        assert dict(plan_widths(network, _scores(network), enough, unit, LOIHI2).widths) == {"c0": 6, "c1": 8}  # type: ignore[arg-type]


def test_synaptic_operations_are_estimated_from_those_before() -> None:
    network = _network()
    spikes = (np.random.default_rng(1).random((4, 2, 6, 6, 6)) < 0.3).astype(np.uint8)
    summary = summarise(network, [spikes])
    operations = {key.split(" -> ")[1]: total / 4 for key, total in summary.operations.items()}
    total = sum(operations.values())
    whole = plan_widths(network, _scores(network), 1.01 * total, "ops", LOIHI2, operations)
    assert whole.before == pytest.approx(total) and whole.cost == pytest.approx(total)
    half = plan_widths(network, _scores(network), total / 2, "ops", LOIHI2, operations)
    a, b = half.widths["c0"], half.widths["c1"]
    shares = {"c0": a / 6, "pool": a / 6, "c1": a * b / 48, "out": b / 8}
    assert (
        half.cost == pytest.approx(sum(operations[name] * share for name, share in shares.items())) and half.cost <= total / 2
    )


def test_halfway_to_a_budget() -> None:
    network = _network()
    whole = plan_widths(network, _scores(network), 300, "parameters", LOIHI2)
    half = plan_widths(network, _scores(network), 300, "parameters", LOIHI2, part=0.5)
    assert whole.before is not None
    assert whole.cost <= 300 < half.cost <= math.sqrt(300 * whole.before)


def test_silent_layers_and_unfair_scores() -> None:
    """A layer whose scores are all zero counts by its channels; one that holds all of its score in two keeps those."""
    network = _network()
    scores = {"c0": np.zeros(6), "c1": np.array([5.0, 0, 0, 5, 0, 0, 0, 0])}
    plan = plan_widths(network, scores, 300, "parameters", LOIHI2)
    assert plan.widths["c1"] == 2 and plan.widths["c0"] >= 2


@pytest.mark.parametrize(
    ("unit", "budget", "message"),
    [
        (
            "parameters",
            20,
            r"prune\.budget_parameters is 20, but the network takes \d+ with the fewest channels that are tried in every",
        ),
        ("words", 3, r"prune\.budget_words is 3, but the network takes \d+ with the fewest"),
        (
            "cores",
            2,
            r"prune\.budget_cores is 2, but the network takes \d with the fewest .*; give more, or make the network smaller",
        ),
        ("mb", 1e-5, r"prune\.budget_mb is 1e-05, but the network takes 4e-05 with"),
    ],
)
def test_a_budget_that_nothing_keeps(unit: Any, budget: float, message: str) -> None:
    network = _network()
    with pytest.raises(ConfigError, match=message):
        plan_widths(network, _scores(network), budget, unit, LOIHI2)


def test_a_network_that_fits_the_chip_at_no_width() -> None:
    network = _network()
    with pytest.raises(ConfigError, match=r"prune\.budget_words: a layer of the network fits the chip of \[map\] at no width"):
        plan_widths(network, _scores(network), 100, "words", load_chip("loihi2", {"axon_in": 1}))


def test_a_chip_whose_layers_depend_on_each_other() -> None:
    network, chip = _network(), load_chip("loihi1")
    before = compare({"": plan_layers(network)}, chip)[0].synapse_words
    assert before is not None
    plan = plan_widths(network, _scores(network), before // 2, "words", chip)
    row = compare({"": at_widths(plan_layers(network), plan.widths)}, chip)[0]
    assert row.synapse_words == plan.cost <= before // 2


@given(seed=st.integers(0, 10_000))
def test_the_search_is_the_best_of_all_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, int(rng.integers(1, 5)))
    tables = [rng.integers(1, 30, (a, b)).astype(float) for a, b in zip([1, *sizes[:-1]], sizes, strict=True)]
    worth = [np.log(rng.uniform(0.1, 1, n)) for n in sizes]
    budget = float(rng.integers(5, 120))
    priced = []
    for choice in itertools.product(*map(range, sizes)):
        cost = sum(table[a, b] for table, a, b in zip(tables, (0, *choice[:-1]), choice, strict=True))
        if cost <= budget:
            priced.append((sum(w[k] for w, k in zip(worth, choice, strict=True)), -cost, choice))
    found = _search(worth, tables, budget)
    if not priced:
        assert found is None
        return
    assert found is not None
    best = max(priced)
    assert sum(w[k] for w, k in zip(worth, found, strict=True)) == pytest.approx(best[0])


def test_many_states_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(width_plan, "MAX_STATES", 10)
    cost = np.arange(1000.0)
    kept = _front(cost, cost, 900.0)
    assert 2 < len(kept) <= 12 and kept[-1] == 900 and (cost[kept] <= 900).all()
