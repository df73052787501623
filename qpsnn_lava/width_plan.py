"""How many channels each layer keeps under a budget: ``prune.budget_...``.

What layer l costs depends on its own width and on that of the layer before it, so the widths are found together, by dynamic
programming along the chain: of all widths that keep the cost within the budget, those with the largest

    sum over layers of log(share of the layer's score that its kept channels hold),

the product of the shares: halving the score of one layer weighs as much as halving that of another.  For words and cores the widths
that the chip stores well (:func:`mapping.widths.good_widths`) are among those that are tried; the others are not left out, because a good
width of one layer can be a dear one for the layer behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import mapping
from mapping.cost import ConvInput
from netx_export.errors import CapacityError, ConfigError
from netx_export.network import Network
from qpsnn_lava.config import WidthUnit

Widths: TypeAlias = Mapping[str, int]
Floats: TypeAlias = NDArray[np.float64]
MAX_WIDTHS = {"words": 24, "cores": 24, "parameters": 64, "mb": 64, "ops": 64}  # candidates of a layer
MAX_STATES = 2000  # partial choices that are kept for each width of a layer
BIAS_BITS = 13


@dataclass(frozen=True)
class WidthPlan:
    """What was chosen.

    Args:
        unit: of the numbers below.
        budget: that was asked for.
        cost: with the chosen widths, as it was estimated from the network before pruning.
        before: of that network; None where it does not fit the chip.
        widths: layer -> channels that stay.
    """

    unit: WidthUnit
    budget: float
    cost: float
    before: float | None
    widths: Widths

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def plan_widths(
    network: Network,
    scores: Mapping[str, Floats],
    budget: float,
    unit: WidthUnit,
    chip: mapping.Chip,
    operations: Mapping[str, float] | None = None,
    *,
    part: float = 1.0,
) -> WidthPlan:
    """The widths of the layers in ``scores`` within a budget.

    All widths are tried of a layer with up to :data:`MAX_WIDTHS` channels, else so many, evenly spread (for words and cores: half of
    them good ones).  Up to :data:`MAX_STATES` partial choices of each are kept; where there are more, the best of each of so many equal
    parts of the budget.
    Stored bits and firing rates are taken to stay as they are.  Where layers depend on each other on the chip, the whole is mapped at
    the end, and the search repeated with less until it fits.

    Args:
        network: frozen, before pruning; a chain.
        scores: of the channels of every layer that may be cut, at least 0, by population, in order.
        budget: above 0: stored weights and biases, megabytes (1e6 bytes, as :func:`qpsnn_lava.sizes.deployed_mb`), synaptic operations
            per inference, words of 64 bits, or cores.
        unit: of the budget.
        chip: for words and cores.
        operations: for ops: synaptic operations per inference into each population of ``network``.
        part: of the way to the budget that is gone, above 0, at most 1: ``before (budget / before) ** part`` is kept (for rounds).

    Raises:
        ConfigError: a budget below what the narrowest network takes.
    """
    layers = mapping.plan_layers(network)
    price = _price(network, unit, chip, operations)
    scale = 8e6 if unit == "mb" else 1.0
    names, limit, before = list(scores), scale * budget, _whole(layers, {}, unit, chip, price)
    if part < 1 and math.isfinite(before) and limit < before:
        limit = before * (limit / before) ** part
    room = limit
    candidates = {name: _candidates(layers, name, unit, chip) for name in names}
    tables, fixed = _tables(layers, candidates, price)
    least = fixed + _least(tables)
    if not least <= limit:
        raise _too_little(unit, budget, least)
    worth = {name: _worth(scores[name], candidates[name]) for name in names}
    while True:
        found = _search([worth[name] for name in names], tables, room - fixed)
        if found is None:
            raise _too_little(unit, budget, least)
        widths = {name: candidates[name][k] for name, k in zip(names, found, strict=True)}
        total = _whole(layers, widths, unit, chip, price)
        if total <= limit:
            return WidthPlan(unit, budget, total / scale, before / scale if math.isfinite(before) else None, widths)
        room -= max(total - limit, 1) if math.isfinite(total) else max(1.0, 0.02 * room)


def _too_little(unit: WidthUnit, budget: float, least: float) -> ConfigError:
    if not math.isfinite(least):
        return ConfigError(
            f"prune.budget_{unit}: a layer of the network fits the chip of [map] at no width; take another chip."
        )
    need = f"{math.ceil(least / 8) / 1e6:.6g}" if unit == "mb" else f"{math.ceil(least)}"
    return ConfigError(
        f"prune.budget_{unit} is {budget:g}, but the network takes {need} with the fewest channels that are tried in every layer; "
        "give more, or make the network smaller."
    )


def _candidates(layers: Sequence[mapping.Layer], name: str, unit: WidthUnit, chip: mapping.Chip) -> list[int]:
    layer = next(layer for layer in layers if layer.name == name)
    channels, most = layer.shape[0], MAX_WIDTHS[unit]
    if channels <= most:
        return list(range(1, channels + 1))
    if unit not in ("words", "cores"):
        return _thinned(range(1, channels + 1), most)
    return sorted({*_thinned(range(1, channels + 1), most // 2), *_thinned(mapping.good_widths(layer, chip), most // 2)})


def _thinned(widths: Sequence[int], most: int) -> list[int]:
    """Up to so many of the widths, evenly, the first and the last among them."""
    return [widths[k] for k in np.unique(np.linspace(0, len(widths) - 1, min(len(widths), most)).round().astype(int))]


def _price(
    network: Network, unit: WidthUnit, chip: mapping.Chip, operations: Mapping[str, float] | None
) -> Callable[[mapping.Layer], float]:
    """What one layer costs."""
    biased = {p.name for p in network.populations if p.bias is not None}
    before = {layer.name: _synapses(layer) for layer in mapping.plan_layers(network)}

    def price(layer: mapping.Layer) -> float:
        if unit == "ops":
            assert operations is not None
            return operations.get(layer.name, 0.0) * _synapses(layer) / max(before[layer.name], 1)
        if unit in ("parameters", "mb"):
            bits = [s.weight_bits if unit == "mb" else 1 for s in layer.inputs]
            stored = sum(_weights(layer, s) * b for s, b in zip(layer.inputs, bits, strict=True))
            return stored + (layer.shape[0] * (BIAS_BITS if unit == "mb" else 1) if layer.name in biased else 0)
        try:
            cut = mapping.cut_layer(layer, chip)
        except CapacityError:
            return math.inf
        if unit == "cores":
            return cut.cores
        return sum(mapping.slice_usage(layer, ranges, chip).synapse_words for ranges in cut.slices())

    return price


def _weights(layer: mapping.Layer, synapses: Any) -> int:
    if isinstance(synapses, ConvInput):
        return synapses.out_channels * synapses.in_per_group * math.prod(synapses.kernel)
    return int(synapses.pre) * math.prod(layer.shape)


def _synapses(layer: mapping.Layer) -> int:
    """Weights, a measure of the synapses that a layer's input reaches: of a given kernel they grow alike."""
    return sum(_weights(layer, synapses) for synapses in layer.inputs)


def _tables(
    layers: Sequence[mapping.Layer], candidates: Mapping[str, Sequence[int]], price: Callable[[mapping.Layer], float]
) -> tuple[list[Floats], float]:
    """The cost of each part of the chain, [width before, own width], and of what comes before the first; a part is a layer that may
    be cut and all behind it that may not.
    """
    places = {layer.name: i for i, layer in enumerate(layers)}
    begins = [places[name] for name in candidates]
    names = list(candidates)
    tables: list[Floats] = []
    for k, name in enumerate(names):
        low, high = begins[k], begins[k + 1] if k + 1 < len(names) else len(layers)
        since = begins[k - 1] if k else 0
        before: Sequence[int | None] = candidates[names[k - 1]] if k else [None]
        table = np.empty((len(before), len(candidates[name])))
        for a, source in enumerate(before):
            for b, own in enumerate(candidates[name]):
                widths = {name: own} if source is None else {names[k - 1]: source, name: own}
                table[a, b] = sum(map(price, mapping.at_widths(layers[since:high], widths)[low - since :]))
        tables.append(table)
    return tables, float(sum(map(price, layers[: begins[0]])))


def _worth(scores: Floats, widths: Sequence[int]) -> Floats:
    """Log of the share of the scores that the best channels hold, by how many stay."""
    best = np.cumsum(np.sort(scores)[::-1])
    if best[-1] <= 0:  # a silent layer: every channel is as good
        best = np.arange(1, len(scores) + 1, dtype=np.float64)
    return np.asarray(np.log(np.maximum(best[np.asarray(widths) - 1] / best[-1], 1e-12)), np.float64)


def _least(tables: Sequence[Floats]) -> float:
    """The cost of the cheapest widths."""
    best = np.zeros(1)
    for table in tables:
        best = (best[:, None] + table).min(0)
    return float(best.min())


def _search(worth: Sequence[Floats], tables: Sequence[Floats], budget: float) -> tuple[int, ...] | None:
    """One width for each layer: the largest sum of ``worth`` with a cost of at most ``budget``; None where nothing fits.

    Of equal worths the cheaper is taken.

    Args:
        worth: per layer, float64[width].
        tables: per layer, float64[width before, width]; of the first, [1, width].
    """
    after = np.zeros(tables[-1].shape[1])  # the least that the rest costs
    rests = [after]
    for table in reversed(tables[1:]):
        after = (table + after).min(1)
        rests.append(after)
    rests.reverse()
    states: list[tuple[Floats, Floats, NDArray[np.int32]]]  # by width: costs, worths, choices
    states = [(np.zeros(1), np.zeros(1), np.zeros((1, 0), np.int32))]
    for gain, table, rest in zip(worth, tables, rests, strict=True):
        grown = []
        for width in range(table.shape[1]):
            cost = np.concatenate([spent + table[k, width] for k, (spent, _, _) in enumerate(states)])
            value = np.concatenate([total + gain[width] for _, total, _ in states])
            taken = np.concatenate([choices for _, _, choices in states])
            keep = _front(cost, value, budget - rest[width])
            own = np.full((len(keep), 1), width, np.int32)
            grown.append((cost[keep], value[keep], np.hstack([taken[keep], own])))
        states = grown
    ends = [(-float(value[-1]), float(cost[-1]), tuple(map(int, taken[-1]))) for cost, value, taken in states if len(value)]
    return min(ends)[2] if ends else None


def _front(cost: Floats, value: Floats, limit: float) -> NDArray[np.int64]:
    """The states within the limit that no other beats in cost and value, by cost; at most :data:`MAX_STATES`."""
    order: NDArray[np.int64] = np.lexsort((-value, cost)).astype(np.int64)
    order = order[cost[order] <= limit]
    if not len(order):
        return order
    ahead = np.concatenate([[-np.inf], np.maximum.accumulate(value[order])[:-1]])
    order = order[value[order] > ahead]
    if len(order) > MAX_STATES:
        low, high = cost[order[0]], cost[order[-1]]
        part = np.floor((cost[order] - low) / max(high - low, 1e-300) * (MAX_STATES - 1))
        last = np.append(part[1:] != part[:-1], True)
        last[0] = True
        order = order[last]
    return order


def _whole(
    layers: Sequence[mapping.Layer],
    widths: Widths,
    unit: WidthUnit,
    chip: mapping.Chip,
    price: Callable[[mapping.Layer], float],
) -> float:
    """The cost of the network with these widths, mapped as a whole; infinite where it does not fit the chip."""
    made = mapping.at_widths(layers, widths)
    if unit not in ("words", "cores"):
        return sum(map(price, made))
    row = mapping.compare({"": made}, chip)[0]
    taken = row.cores if unit == "cores" else row.synapse_words
    return math.inf if taken is None else float(taken)
