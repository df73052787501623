"""Several slices on one core: which ones, so that the fewest cores are used (assumed legal, see :func:`mapping.chip.allow`).

Bin packing with several resources: first-fit decreasing and a greedy filler, the better of the two over a few ways of cutting
each layer; small cases are then solved exactly by ``scipy.optimize.milp`` where scipy is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapping.chip import Chip
from mapping.cost import Layer, Usage, network_lower_bound, slice_usage
from mapping.mapping import Range, Slice
from mapping.partition import Boxes, Cut, counts_zeros, even_ranges, free_boxes, has_free_tiles, is_legal

MAX_TRIED = 400  # slices; a network with more is packed as it was cut first
MAX_BINARIES = 400  # of the exact programme: slices times cores
MAX_NODES = 2000  # of its search: a bound on nodes, not on seconds, keeps the answer the same on every machine
NOT_ADDED = ("list_words",)  # the limit of one list, whatever shares its core


@dataclass(frozen=True)
class _Items:
    """Slices and what they take: ``usage`` int64[slices, resources], of ``limits`` int64[resources] on a core."""

    slices: tuple[Slice, ...]
    usage: NDArray[np.int64]
    limits: NDArray[np.int64]


def pack(
    layers: Sequence[Layer], chip: Chip, cuts: Sequence[Cut | Boxes], extra: Sequence[Sequence[Usage]] | None = None
) -> tuple[tuple[Slice, ...], ...]:
    """The slices of each core, as few cores as were found, in the order of the layers.

    Args:
        layers: of the network.
        chip: its limits, with ``layers_per_core`` slices allowed on a core.
        cuts: of the layers, one slice a core; other cuts are tried too where the chip has no out-axons to couple them.
        extra: what each slice takes beside :func:`mapping.cost.slice_usage` (loihi1: out-axons); None: nothing.
    """
    resources = [name for name in chip.core_limits if name not in NOT_ADDED]
    caps = [min(limit, int(chip.rule("layers_per_core"))) if name == "neuron_groups" else limit
            for name, limit in chip.core_limits.items() if name in resources]  # fmt: skip
    limits = np.array(caps, dtype=np.int64)

    def items_of(layer: Layer, cut: Cut | Boxes, more: Sequence[Usage] | None = None) -> _Items:
        boxes = list(cut.slices())
        used = [slice_usage(layer, ranges, chip) for ranges in boxes]
        if more is not None:
            used = [a + b for a, b in zip(used, more, strict=True)]
        table = np.array([[use.used(name) for name in resources] for use in used], dtype=np.int64).reshape(-1, len(resources))
        return _Items(tuple(Slice(layer.name, ranges) for ranges in boxes), table, limits)

    chosen = [
        items_of(layer, cut, extra[i] if extra else None) for i, (layer, cut) in enumerate(zip(layers, cuts, strict=True))
    ]
    bound = network_lower_bound(layers, chip)
    bins = _pack(_joined(chosen, limits))
    if extra is None and sum(len(items.slices) for items in chosen) <= MAX_TRIED:
        for i in sorted(range(len(layers)), key=lambda i: -len(chosen[i].slices)):
            for cut in _other_cuts(layers[i], chip, cuts[i]):
                if len(bins) <= bound:
                    break
                tried = [*chosen[:i], items_of(layers[i], cut), *chosen[i + 1 :]]
                again = _pack(_joined(tried, limits))
                if len(again) < len(bins):
                    chosen, bins = tried, again
    items = _joined(chosen, limits)
    if len(bins) > bound and len(items.slices) * (len(bins) - 1) <= MAX_BINARIES:
        bins = _exact(items, len(bins) - 1) or bins
    return tuple(tuple(items.slices[i] for i in sorted(content)) for content in sorted(sorted(content) for content in bins))


def _joined(parts: Sequence[_Items], limits: NDArray[np.int64]) -> _Items:
    usage = np.concatenate([np.zeros((0, limits.size), np.int64), *(part.usage for part in parts)])
    return _Items(tuple(piece for part in parts for piece in part.slices), usage, limits)


def _other_cuts(layer: Layer, chip: Chip, cut: Cut | Boxes) -> list[Cut | Boxes]:
    """Other cuts that may leave fewer holes: tiles as full as they go, and somewhat more and smaller slices."""
    others: list[Cut | Boxes] = []
    if has_free_tiles(layer, chip):
        others = [next(free_boxes(layer, chip, full_first=True))]
    elif len(layer.shape) == 1 and not counts_zeros(layer, chip):
        others = [c for c in even_ranges(layer) if cut.cores < c.cores <= cut.cores + 4 and is_legal(layer, c, chip)]
    return [other for other in others if list(other.slices()) != list(cut.slices())]


def _pack(items: _Items) -> list[list[int]]:
    """The better of two heuristics; the first where they are equal."""
    return min((_first_fit_decreasing(items), _greedy(items)), key=len)


def _first_fit_decreasing(items: _Items) -> list[list[int]]:
    """Slices by their largest share of a core, largest first, each onto the first core that has room."""
    shares = (items.usage / items.limits).max(axis=1, initial=0.0)
    used = np.zeros_like(items.usage)
    bins: list[list[int]] = []
    for i in np.argsort(-shares, kind="stable"):
        fits = np.flatnonzero((used[: len(bins)] + items.usage[i] <= items.limits).all(axis=1))
        place = int(fits[0]) if fits.size else len(bins)
        if place == len(bins):
            bins.append([])
        bins[place].append(int(i))
        used[place] += items.usage[i]
    return bins


def _greedy(items: _Items) -> list[list[int]]:
    """One core after another: always the slice that fits best into what is left of it (largest dot product of shares)."""
    shares = items.usage / items.limits
    left = np.ones(len(items.slices), dtype=bool)
    bins: list[list[int]] = []
    while left.any():
        used = np.zeros_like(items.limits)
        content: list[int] = []
        while True:
            fits = left & (used + items.usage <= items.limits).all(axis=1)
            if not fits.any():
                break
            score = np.where(fits, shares @ ((items.limits - used) / items.limits), -1.0)
            best = int(np.argmax(score))
            content.append(best)
            used = used + items.usage[best]
            left[best] = False
        bins.append(content)
    return bins


def _exact(items: _Items, most: int) -> list[list[int]] | None:
    """A packing into at most ``most`` cores, the best that the search found; None where it found none or has no scipy."""
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import lil_matrix
    except ImportError:
        return None
    slices, resources = items.usage.shape
    if most < 1:
        return None
    size = slices * most + most  # x[i, b], then y[b]
    rows = lil_matrix((slices + most * resources + most - 1, size))
    low = np.full(rows.shape[0], -np.inf)
    high = np.zeros(rows.shape[0])
    for i in range(slices):
        rows[i, i * most : (i + 1) * most] = 1
        low[i] = high[i] = 1
    for b in range(most):
        for r in range(resources):
            row = slices + b * resources + r
            rows[row, b : slices * most : most] = items.usage[:, r] / items.limits[r]
            rows[row, slices * most + b] = -1
    for b in range(most - 1):  # cores are used in their order
        row = slices + most * resources + b
        rows[row, slices * most + b], rows[row, slices * most + b + 1] = -1, 1
    cost = np.concatenate([np.zeros(slices * most), np.ones(most)])
    found = milp(
        cost,
        constraints=LinearConstraint(rows.tocsr(), low, high),
        integrality=np.ones(size),
        bounds=Bounds(0, 1),
        options={"node_limit": MAX_NODES},
    )
    if found.x is None:
        return None
    placed = np.rint(found.x[: slices * most]).reshape(slices, most).argmax(axis=1)
    bins = [[int(i) for i in np.flatnonzero(placed == b)] for b in range(most)]
    legal = all((items.usage[content].sum(axis=0) <= items.limits).all() for content in bins)
    return [content for content in bins if content] if legal else None


def slices_of(layers: Sequence[Layer], cuts: Sequence[Cut | Boxes]) -> tuple[tuple[Slice, ...], ...]:
    """One slice a core, layers and slices in their order."""
    pairs: list[tuple[str, tuple[Range, ...]]] = [
        (layer.name, ranges) for layer, cut in zip(layers, cuts, strict=True) for ranges in cut.slices()
    ]
    return tuple((Slice(name, ranges),) for name, ranges in pairs)
