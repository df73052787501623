"""Weight bits for each layer under a budget of megabytes, synapse words or cores: ``quantise.bits = "auto"``.

Sensitivity of a layer at b bits: the Kullback-Leibler divergence of the model's class probabilities with only this layer quantised
from those in float, averaged over training images.  The bits that minimise the sum of the sensitivities within the budget are found
by dynamic programming.  That the sensitivities of layers add up is an assumption.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

import mapping
from netx_export.errors import ConfigError
from netx_export.integers import stored_bits
from netx_export.network import Network
from qpsnn_lava.coding import Coding
from qpsnn_lava.data import TrainingData, stratified_choice
from qpsnn_lava.model import SpikingNetwork, logits, named_blocks, set_quantised
from qpsnn_lava.quantise import Quantiser
from qpsnn_lava.train import to_input

CHOICES = range(2, 9)
SAMPLES = 512
MAX_STATES = 20_000  # the budget is counted in at most so many units

Unit = Literal["mb", "words", "cores"]
Costs = Mapping[str, Mapping[int, int]]


@dataclass(frozen=True)
class BitPlan:
    """What was chosen.

    Args:
        bits: layer -> weight bits.
        cost: of the whole network with them, in bits of weights (mb), synapse words or cores.
        budget: in the same unit.
        sensitivity: layer -> bits -> nats.
    """

    bits: Mapping[str, int]
    cost: int
    budget: int
    sensitivity: Mapping[str, Mapping[int, float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON (whose keys are texts)."""
        table = {name: {str(bits): loss for bits, loss in row.items()} for name, row in self.sensitivity.items()}
        return {"bits": dict(self.bits), "cost": self.cost, "budget": self.budget, "sensitivity": table}


def plan_bits(
    model: SpikingNetwork,
    network: Network,
    names: Sequence[str],
    dataset: TrainingData,
    coding: Coding,
    budget: float,
    unit: Unit,
    chip: mapping.Chip,
    *,
    samples: int = SAMPLES,
    seed: int,
) -> BitPlan:
    """The weight bits of the layers ``names`` that cost least accuracy, as :func:`sensitivity` counts it, within a budget.

    Costs are counted for each layer by itself; where layers depend on each other on the chip (cores), the whole is counted again, and
    the budget of the layers lowered until the whole fits.

    Args:
        model: trained in float; its quantisers say grid and gamma.
        network: the same, frozen at any bits: its shapes count.
        names: layers whose bits are free; the others cost what they have in ``network``.
        dataset, coding, samples, seed: training images that the sensitivity is measured on.
        budget: megabytes of stored weights and biases (1e6 bytes, as :func:`qpsnn_lava.sizes.deployed_mb`), words of 64 bits, or cores.
        unit: of the budget.
        chip: for words and cores.

    Raises:
        ConfigError: no free layer, or a budget below what the network takes with the fewest bits.
    """
    if not names:
        raise ConfigError(
            'quantise.bits is "auto", but no layer may choose: the first takes first_bits, the read-out last_bits, and a layer with '
            'bits of its own those; add a hidden layer, or give "bits" a number.'
        )
    quantisers = _quantisers(model, names)
    stored = {name: {b: min(8, replace(q, bits=b).stored_bits) for b in CHOICES} for name, q in quantisers.items()}
    price = _Price(network, stored, unit, chip)
    limit = math.floor(budget * 8e6) if unit == "mb" else math.floor(budget)
    costs, fixed = price.each()
    cheapest = {name: min(row, key=lambda bits: (row[bits], bits)) for name, row in costs.items()}
    least = price.whole(cheapest)
    if least > limit:
        raise _too_little(budget, least, unit)
    loss = sensitivity(model, names, dataset, coding, samples=samples, seed=seed)
    room = limit - fixed
    while True:
        enough = room >= sum(min(row.values()) for row in costs.values())
        bits = assign(loss, costs, room) if enough else cheapest
        total = price.whole(bits)
        if total <= limit:
            return BitPlan(bits, total, limit, loss)
        room -= total - limit


def _too_little(budget: float, least: int, unit: Unit) -> ConfigError:
    need = f"{math.ceil(least / 8) / 1e6:.6g}" if unit == "mb" else str(least)
    return ConfigError(
        f"quantise.budget_{unit} is {budget:g}, but the network takes {need} with the fewest bits in every layer that may choose; "
        "give more, or make the network smaller."
    )


def sensitivity(
    model: SpikingNetwork,
    names: Iterable[str],
    dataset: TrainingData,
    coding: Coding,
    *,
    samples: int = SAMPLES,
    seed: int,
    batch: int = 128,
) -> dict[str, dict[int, float]]:
    """What quantising one layer does to the model's answers: ``mean_n sum_c p_nc log(p_nc / p'_nc)``, in nats.

    p are the class probabilities (softmax of the scores) in float, p' those with only this layer quantised, in eval mode.

    Args:
        model: trained in float; as it was on return.
        names: of the layers.
        dataset, coding: as in training.
        samples: training images (stratified choice by seed); all where there are fewer.
        seed: of the choice.
        batch: images at a time.

    Returns:
        layer -> bits 2..8 -> nats.
    """
    layers = _blocks(model, names)
    chosen = stratified_choice(dataset.train.labels, min(samples, len(dataset.train.labels)), seed, 7)
    found = {name: dict.fromkeys(CHOICES, 0.0) for name in layers}
    before = {name: block.quantiser for name, block in layers.items()}
    modes = {id(block): block.quantised for block in _own(model)}
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    set_quantised(model, False)
    try:
        with torch.no_grad():
            for low in range(0, len(chosen), batch):
                part = chosen[low : low + batch]
                images, indices = dataset.train.images[part], dataset.train.indices[part]
                x = to_input(images, coding, dataset.max_value, seed, indices, device)
                exact = torch.log_softmax(logits(model(x), model.readout).double(), 1)
                for name, block in layers.items():
                    block.quantised = True
                    for bits in CHOICES:
                        block.quantiser = replace(before[name], bits=bits)
                        other = torch.log_softmax(logits(model(x), model.readout).double(), 1)
                        found[name][bits] += float((exact.exp() * (exact - other)).sum()) / len(chosen)
                    block.quantiser, block.quantised = before[name], False
    finally:
        for name, block in layers.items():
            block.quantiser = before[name]
        for block in _own(model):
            block.quantised = modes[id(block)]
        model.train(was_training)
    return found


def assign(loss: Mapping[str, Mapping[int, float]], costs: Costs, budget: int) -> dict[str, int]:
    """One choice for each layer so that the sum of losses is least while the sum of costs is at most ``budget``.

    Dynamic programming over the layers: of the partial choices, those stay that no other beats in cost and loss.  Above
    :data:`MAX_STATES` units of budget the costs are rounded up to a coarser unit (the budget holds all the same).  Of equal losses
    the cheaper choice is taken.

    Args:
        loss, costs: layer -> choice -> loss, or whole cost of at least 0; a choice counts where both have it.
        budget: whole number.

    Raises:
        ConfigError: the cheapest choices exceed the budget.
    """
    offers = {name: {choice: row[choice] for choice in loss[name] if choice in row} for name, row in costs.items()}
    cheapest = {name: min(row, key=lambda choice: (row[choice], choice)) for name, row in offers.items()}
    least = sum(offers[name][choice] for name, choice in cheapest.items())
    if least > budget:
        raise ConfigError(f"the cheapest choices cost {least}, more than the budget of {budget}; give more.")
    unit = max(1, -(-budget // MAX_STATES))
    states: list[tuple[int, float, tuple[int, ...]]] = [(0, 0.0, ())]
    for name, row in offers.items():
        grown = [
            (spent + -(-cost // unit), total + loss[name][choice], (*taken, choice))
            for spent, total, taken in states
            for choice, cost in row.items()
        ]
        states, best = [], math.inf
        for state in sorted(grown):
            if state[0] <= budget // unit and state[1] < best:
                states.append(state)
                best = state[1]
    return dict(zip(offers, states[-1][2], strict=True)) if states else cheapest  # none: only the rounding up was too much


class _Price:
    """What networks cost that differ from one in the bits of some layers."""

    def __init__(self, network: Network, stored: Mapping[str, Mapping[int, int]], unit: Unit, chip: mapping.Chip) -> None:
        self.network = network
        self.stored = stored
        self.unit = unit
        self.chip = chip
        self.layers = mapping.plan_layers(network)

    def each(self) -> tuple[dict[str, dict[int, int]], int]:
        """Layer -> bits -> cost, of those that fit the chip, and the cost of what has no choice."""
        costs: dict[str, dict[int, int]] = {name: {} for name in self.stored}
        fixed = 0
        for bits in CHOICES:
            rows = self._rows(dict.fromkeys(self.stored, bits))
            if rows is None:
                continue
            for name in self.stored:
                costs[name][bits] = rows[name]
            fixed = sum(cost for name, cost in rows.items() if name not in self.stored)
        if not all(costs.values()):
            raise ConfigError(
                f"the network does not fit {self.chip.name} with 2..8 bits in every layer that may choose; make it smaller, or give "
                "the budget in megabytes."
            )
        return costs, fixed

    def whole(self, bits: Mapping[str, int]) -> int:
        """The cost of the network with these bits; beyond every budget where it does not fit the chip."""
        rows = self._rows(bits)
        return 1 << 62 if rows is None else sum(rows.values())

    def _rows(self, bits: Mapping[str, int]) -> dict[str, int] | None:
        chosen = {name: self.stored[name][b] for name, b in bits.items()}
        if self.unit == "mb":
            rows = {}
            for projection in self.network.projections:
                weight, name = projection.synapse.weight, projection.target
                bias = self.network[name].bias
                rows[name] = weight.size * chosen.get(name, stored_bits(weight)) + (0 if bias is None else 13 * bias.size)
            return rows
        layers = [mapping.at_bits(layer, chosen[layer.name]) if layer.name in chosen else layer for layer in self.layers]
        made = mapping.compare({"": layers}, self.chip)[0]
        column = 2 if self.unit == "cores" else 3
        return {str(row[0]): int(row[column]) for row in made.layers} if made.error is None else None


def _own(model: SpikingNetwork) -> list[Any]:
    return [block for block in model.blocks if hasattr(block, "quantiser")]


def _blocks(model: SpikingNetwork, names: Iterable[str]) -> dict[str, Any]:
    listed = named_blocks(model)
    return {name: listed[name] for name in names}


def _quantisers(model: SpikingNetwork, names: Iterable[str]) -> dict[str, Quantiser]:
    return {name: block.quantiser for name, block in _blocks(model, names).items()}
