"""Cutting layers into slices of one core each: tiles of convolutions, neuron ranges of dense layers.

A strategy is a callable ``(layer, chip, fits) -> cuts in the order of preference``; the first legal one is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise, product

import numpy as np

from mapping.chip import Chip
from mapping.cost import (
    ConvInput,
    DenseInput,
    FanOut,
    Layer,
    Usage,
    channels_by_group,
    conv_masks,
    excess,
    slice_usage,
)
from mapping.mapping import Range
from netx_export.errors import CapacityError

WAYS_OUT = {
    "neurons": "map it to a chip with room for a neuron",
    "neuron_groups": "map it to a chip with a neuron group",
    "axon_in": "give the layer fewer inputs (prune the layer before it, or put a convolution between them)",
    "axon_out": "let the layer feed fewer neurons, so that its spikes go to fewer cores",
    "axon_map": "let the layer feed fewer layers",
    "synapse_words": "give the layer fewer inputs or a smaller kernel, or store fewer bits per weight",
    "list_words": "give the layer a smaller kernel or fewer bits per weight",
    "pool": "give the layer fewer inputs or a smaller kernel, or store fewer bits per weight",
}


@dataclass(frozen=True)
class Cut:
    """A layer of ``shape`` cut every ``step`` along each axis; the last slice of an axis takes the rest."""

    shape: tuple[int, ...]
    step: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Slices along each axis."""
        return tuple(-(-n // step) for n, step in zip(self.shape, self.step, strict=True))

    @property
    def cores(self) -> int:
        """Number of slices, each on a core of its own."""
        return math.prod(self.counts)

    def axis(self, index: int) -> list[Range]:
        """The ranges along one axis."""
        size, step = self.shape[index], self.step[index]
        return [(start, min(start + step, size)) for start in range(0, size, step)]

    def slices(self) -> Iterator[tuple[Range, ...]]:
        """The ranges of every slice, the last axis fastest."""
        return product(*(self.axis(i) for i in range(len(self.shape))))


@dataclass(frozen=True)
class Boxes:
    """A layer of ``shape`` cut into boxes of any sizes (free tiles)."""

    shape: tuple[int, ...]
    boxes: tuple[tuple[Range, ...], ...]

    @property
    def cores(self) -> int:
        """Number of slices."""
        return len(self.boxes)

    def slices(self) -> Iterator[tuple[Range, ...]]:
        """The ranges of every slice."""
        return iter(self.boxes)


def partition(layers: Sequence[Layer], chip: Chip) -> tuple[Cut | Boxes, ...]:
    """How each layer is cut so that every slice fits a core of its own, for chips whose layers are independent (no out-axons).

    Where out-axons couple the layers (loihi1), :func:`mapping.coupled.choose_cuts` does it.

    Raises:
        CapacityError: one neuron of a layer needs more of a resource than a core has.
    """
    return tuple(cut_layer(layer, chip) for layer in layers)


def cut_layer(layer: Layer, chip: Chip, fans: Sequence[FanOut] = (), chips: int = 1) -> Cut | Boxes:
    """The cut of one layer: the first legal one in the order of its strategy (tiles, doubled or even ranges of neurons).

    Args:
        layer: what to cut.
        chip: its limits and rules.
        fans: where the layer's spikes go (loihi1).
        chips: on how many chips the mapping lies (loihi1).

    Raises:
        CapacityError: a slice of one neuron does not fit; names layer, resource, need, limit and a way out.
    """
    single = Cut(layer.shape, (1,) * len(layer.shape))
    require_neuron(layer, chip, fans, chips)
    if has_free_tiles(layer, chip):
        return next(free_boxes(layer, chip))
    if len(layer.shape) == 1:
        doubling = chip.rule("dense_split") == "doubling"
        candidates = doubled_ranges(layer, chip) if doubling else even_ranges(layer)
        return next(cut for cut in candidates if not _first_excess(layer, cut, chip, fans, chips))
    for _, equals in groupby(tiles(layer, chip), key=lambda cut: cut.cores):
        legal = [cut for cut in equals if not _first_excess(layer, cut, chip, fans, chips)]
        if legal:
            return min(legal, key=lambda cut: (_total_words(layer, cut, chip), tuple(-n for n in cut.step)))
    return single


def require_neuron(layer: Layer, chip: Chip, fans: Sequence[FanOut] = (), chips: int = 1) -> None:
    """Nothing where a core has room for any single neuron of the layer.

    Raises:
        CapacityError: it has not; names layer, resource, need, limit and a way out.
    """
    over = _first_excess(layer, Cut(layer.shape, (1,) * len(layer.shape)), chip, fans, chips)
    if over:
        resource, need, limit = over[0]
        raise CapacityError(
            f"{layer.name}: one neuron needs {need} {resource}, a core of {chip.name} has {limit}. "
            f"Way out: {WAYS_OUT[resource]}, or choose a chip or limit with more {resource}.",
            layer=layer.name,
            excess=over,
        )


def tiles(layer: Layer, chip: Chip) -> list[Cut]:
    """The tiles that the chip's rule allows, fewest cores first.

    ``ty = ceil(H / 2^j)``, ``tc = ceil(C / 2^k)``, and ``tx`` a power of two <= W (rule "power-of-two", inferred) or
    ``ceil(W / 2^i)`` (rule "halved"); with the rule "free" each is any ``ceil(size / k)``.

    Ties: the published compiler takes the fewest cores; PilotNet's tiles are each the only one with the fewest, so they say
    nothing about ties, which are not decoded.  :func:`cut_layer` chooses, of equal counts, the fewest synapse words over all
    cores, then the most channels, the tallest and the widest tile (assumed).
    """
    channels, height, width = layer.shape
    if chip.rule("tile_width") == "free":
        return _tiles(layer, chip, quotients(channels), quotients(height), quotients(width))
    powers = [1 << i for i in range(width.bit_length())]
    widths = powers if chip.rule("tile_width") == "power-of-two" else halvings(width)
    return _tiles(layer, chip, halvings(channels), halvings(height), widths)


def halved_tiles(layer: Layer, chip: Chip) -> list[Cut]:
    """The tiles of ``ceil(size / 2^j)`` along each axis, fewest cores first."""
    return _tiles(layer, chip, *(halvings(size) for size in layer.shape))


def _tiles(layer: Layer, chip: Chip, *steps: Sequence[int]) -> list[Cut]:
    neurons = chip.core_limits["neurons"]
    return sorted(
        (Cut(layer.shape, step) for step in product(*steps) if math.prod(step) <= neurons), key=lambda cut: cut.cores
    )


def halvings(size: int) -> list[int]:
    """``ceil(size / 2^j)`` for j = 0, 1, ... down to 1, each once: 66 -> [66, 33, 17, 9, 5, 3, 2, 1]."""
    return sorted({-(-size // (1 << j)) for j in range(size.bit_length() + 1)}, reverse=True)


def quotients(size: int) -> list[int]:
    """``ceil(size / k)`` for k = 1, 2, ..., each once: 10 -> [10, 5, 4, 3, 2, 1]."""
    return sorted({-(-size // k) for k in range(1, size + 1)}, reverse=True)


def has_free_tiles(layer: Layer, chip: Chip) -> bool:
    """Whether :func:`free_boxes` can cut the layer: a tile's cost must depend on its channels and number of pixels only."""
    if chip.rule("tile_width") != "free" or chip.model != "loihi2" or len(layer.shape) != 3:
        return False
    return not any(isinstance(synapses, DenseInput) for synapses in layer.inputs)


def free_boxes(layer: Layer, chip: Chip, full_first: bool = False) -> Iterator[Boxes]:
    """Cuts of a convolution or input layer into boxes of any size, fewest boxes first (several with equal counts may come).

    The channels are cut into equal parts and a rest.  Of a part of c channels a core holds up to P(c) pixels, since all that a
    tile takes grows in proportion to its pixels; the H x W pixels are cut into bands, each cut into boxes of at most P(c)
    pixels: the fewest boxes over all heights of the bands, along both axes (a dynamic programme), squarer ones first.

    Args:
        layer: with a shape of (C, H, W).
        chip: its limits.
        full_first: boxes as large as a core can hold and a rest, instead of equal ones (better for cores that are shared).
    """
    channels, height, width = layer.shape
    offers: list[tuple[int, int, list[Range], list[int]]] = []
    for step in sorted({*quotients(channels), *(1 << i for i in range(channels.bit_length()))}, reverse=True):
        parts = [(c, min(c + step, channels)) for c in range(0, channels, step)]
        room = [_most_pixels(layer, chip, part) for part in parts]
        if all(room):
            offers.append((sum(-(-height * width // pixels) for pixels in room), len(offers), parts, room))
    found: list[tuple[int, int, Boxes]] = []
    best = math.inf
    for bound, _, parts, room in sorted(offers):
        if bound > best:
            break
        planes = [bands(height, width, min(pixels, height * width), full_first) for pixels in room]
        boxes = tuple((part, *box) for part, plane in zip(parts, planes, strict=True) for box in plane)
        words = sum(slice_usage(layer, ranges, chip).synapse_words for ranges in boxes)
        best = min(best, len(boxes))
        found.append((len(boxes), words, Boxes(layer.shape, boxes)))
    yield from (boxes for _, _, boxes in sorted(found, key=lambda entry: entry[:2]))


def _most_pixels(layer: Layer, chip: Chip, channels: Range) -> int:
    """How many pixels of these channels fit a core; 0 where none does."""
    one, two = (slice_usage(layer, (channels, (0, 1), (0, n)), chip) for n in (1, 2))
    most = math.prod(layer.shape[1:])
    for name, limit in chip.core_limits.items():
        each = two.used(name) - one.used(name)
        if one.used(name) > limit:
            return 0
        if each:
            most = min(most, 1 + (limit - one.used(name)) // each)
    return most


@lru_cache(maxsize=1 << 12)
def bands(height: int, width: int, pixels: int, full_first: bool = False) -> tuple[tuple[Range, Range], ...]:
    """The fewest boxes of at most ``pixels`` pixels that a cut into bands makes of a plane; of equal counts squarer boxes.

    ``f(r) = min over h of ceil(W / floor(P / h)) + f(r - h)``, r rows left, and the same with rows and columns exchanged.

    Returns:
        (rows, columns) of every box.
    """
    by_rows, by_columns = _banded(height, width, pixels), _banded(width, height, pixels)
    turned = by_columns[0] < by_rows[0]
    size, across = (width, height) if turned else (height, width)
    boxes: list[tuple[Range, Range]] = []
    start = 0
    for depth in (by_columns if turned else by_rows)[1]:
        assert start + depth <= size
        step = pixels // depth
        number = -(-across // step)
        cuts = [min(i * step, across) if full_first else i * across // number for i in range(number + 1)]
        for a, b in pairwise(cuts):
            boxes.append(((a, b), (start, start + depth)) if turned else ((start, start + depth), (a, b)))
        start += depth
    return tuple(boxes)


def _banded(size: int, across: int, pixels: int) -> tuple[tuple[int, int], tuple[int, ...]]:
    """(fewest boxes, sum of their sides) and the depths of the bands, largest first."""
    depths = np.arange(1, min(size, pixels) + 1)
    counts = -(-across // (pixels // depths))
    weight = (size + across) * (size * across + 1)  # more than any sum of sides
    costs = counts * weight + counts * depths + across
    best = np.zeros(size + 1, dtype=np.int64)
    choice = np.zeros(size + 1, dtype=np.int64)
    for left in range(1, size + 1):
        usable = min(left, depths.size)
        totals = costs[:usable] + best[left - usable : left][::-1]
        choice[left] = int(np.argmin(totals)) + 1
        best[left] = totals[choice[left] - 1]
    chosen = []
    left = size
    while left:
        chosen.append(int(choice[left]))
        left -= chosen[-1]
    return divmod(int(best[size]), weight), tuple(sorted(chosen, reverse=True))


def doubled_ranges(layer: Layer, chip: Chip) -> Iterator[Cut]:
    """Splits of a dense layer as the compiler of 2022-23 made them: ``ceil(words / limit)`` cores, then twice as many, ...

    Each core takes ``ceil(N / cores)`` neurons and the last the rest: 100 neurons on 12 cores are eleven of 9 and one of 1.
    ``words`` is the whole layer's count.  Inferred; not decoded in general.
    """
    size = layer.shape[0]
    words = slice_usage(layer, ((0, size),), chip).synapse_words
    cores = max(1, -(-words // chip.core_limits["synapse_words"]))
    while cores < size:
        yield Cut(layer.shape, (-(-size // cores),))
        cores *= 2
    yield Cut(layer.shape, (1,))


def even_ranges(layer: Layer) -> Iterator[Cut]:
    """Splits of a dense layer into 1, 2, 3, ... cores, each of ``ceil(N / cores)`` neurons, the last with the rest."""
    size = layer.shape[0]
    step = size + 1
    for cores in range(1, size + 1):
        if -(-size // cores) < step:
            step = -(-size // cores)
            yield Cut(layer.shape, (step,))


def _total_words(layer: Layer, cut: Cut | Boxes, chip: Chip) -> int:
    return sum(count * slice_usage(layer, ranges, chip).synapse_words for ranges, count in _distinct(layer, cut, chip))


def _first_excess(
    layer: Layer, cut: Cut | Boxes, chip: Chip, fans: Sequence[FanOut], chips: int
) -> tuple[tuple[str, int, int], ...]:
    """What the first slice that does not fit has too much of; empty where all slices fit."""
    out = _most_axon_out(cut, fans, chip, chips)
    for ranges, _ in _distinct(layer, cut, chip):
        over = excess(slice_usage(layer, ranges, chip) + Usage(axon_out=out), chip.core_limits)
        if over:
            return over
    return ()


def is_legal(layer: Layer, cut: Cut | Boxes, chip: Chip) -> bool:
    """Whether every slice of the cut fits a core of its own, out-axons aside."""
    return not _first_excess(layer, cut, chip, (), 1)


def _most_axon_out(cut: Cut | Boxes, fans: Sequence[FanOut], chip: Chip, chips: int) -> int:
    """The most out-axon slots that a slice of the cut takes (:func:`mapping.cost.traffic_usage` for all slices at once)."""
    if not fans:
        return 0
    total = np.sum([fan.cores for fan in fans], axis=0)
    slots = 1 if chips == 1 else int(chip.rule("cross_chip_slots"))
    if isinstance(cut, Boxes):
        return slots * max(int(total[tuple(slice(*r) for r in ranges)].sum()) for ranges in cut.slices())
    for axis, (size, step) in enumerate(zip(cut.shape, cut.step, strict=True)):
        total = np.add.reduceat(total, np.arange(0, size, step), axis=axis)
    return slots * int(total.max())


def _distinct(layer: Layer, cut: Cut | Boxes, chip: Chip) -> list[tuple[tuple[Range, ...], int]]:
    """One slice of every kind that costs differently, and how many there are of it."""
    if isinstance(cut, Boxes) or counts_zeros(layer, chip):
        return [(ranges, 1) for ranges in cut.slices()]
    convs = [synapses for synapses in layer.inputs if isinstance(synapses, ConvInput)]
    kinds: list[Sequence[tuple[Range, int]]] = []
    for axis, (size, step) in enumerate(zip(cut.shape, cut.step, strict=True)):
        if not convs or (chip.model == "loihi2" and (axis > 0 or all(conv.groups == 1 for conv in convs))):
            full, rest = divmod(size, step)
            kinds.append([((0, step), full)] * (full > 0) + [((size - rest, size), 1)] * (rest > 0))
            continue
        kinds.append(_axis_kinds(tuple(convs), axis, size, step))
    return [(tuple(r for r, _ in combo), math.prod(n for _, n in combo)) for combo in product(*kinds)]


@lru_cache(maxsize=1 << 14)
def _axis_kinds(convs: tuple[ConvInput, ...], axis: int, size: int, step: int) -> tuple[tuple[Range, int], ...]:
    """Along one axis cut every ``step``: one range of every kind that costs differently, and how many there are of it."""
    seen: dict[object, tuple[Range, int]] = {}
    for start in range(0, size, step):
        bounds = (start, min(start + step, size))
        key = _kind(convs, axis, bounds)
        seen[key] = (seen[key][0], seen[key][1] + 1) if key in seen else (bounds, 1)
    return tuple(seen.values())


def counts_zeros(layer: Layer, chip: Chip) -> bool:
    """Whether a slice's cost depends on which weights are zero, and so on where it lies."""
    sparse = chip.rule("dense_lists") != "dense"
    return sparse and any(isinstance(synapses, DenseInput) and synapses.nonzero is not None for synapses in layer.inputs)


def _kind(convs: Sequence[ConvInput], axis: int, bounds: Range) -> tuple[object, ...]:
    """Ranges along an axis that have the same kind cost the same: its size, and its channels by group or its kernel masks."""
    size = bounds[1] - bounds[0]
    if axis == 0:
        return size, *(tuple(sorted(channels_by_group(conv.out_channels, conv.groups, bounds))) for conv in convs)
    # Where the blocks of a base's 256 neurons fall depends on the bases; they are a part of the key.
    return size, *(tuple(sorted(conv_masks(conv, axis - 1, bounds))) for conv in convs)
