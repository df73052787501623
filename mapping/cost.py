"""What a slice of a population takes of a core: the cost model as pure functions on whole numbers.

``loihi2`` is fitted to tables that Intel's compiler printed for published networks, ``loihi1`` counts as nengo-loihi 1.1.0
does.  Which constant rests on what stands in the chip's file (:mod:`mapping.chip`).  Symbols: ``n`` neurons, ``w`` stored
bits of a weight (:func:`netx_export.integers.stored_bits`), ``p`` header bits of a list, words of 64 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mapping.chip import Chip, Loihi1Cost, Loihi2Cost
from mapping.mapping import Range
from netx_export.integers import stored_bits
from netx_export.network import Conv, Network, Projection

MAX_CUMULATIVE = 1 << 25  # entries; of a larger weight matrix non-zero weights are counted slice by slice
Posts = Range | NDArray[np.int64]  # outputs [start, stop), or their flat numbers
RESOURCES = ("neurons", "neuron_groups", "axon_in", "axon_out", "axon_map", "synapse_words", "list_words", "pool")


@dataclass(frozen=True)
class Usage:
    """What is used of a core, or of many: usages add.

    Args:
        neurons: compartments.
        neuron_groups: slices.
        axon_in: in-axons (loihi2: AxonIn entries).
        axon_out: out-axon slots (loihi1 only).
        axon_map: AxonMap entries (loihi2 only).
        axon_mem: AxonMem entries (loihi2 only): an estimate, not part of any limit.
        synapse_words: words of 64 bits.
        list_words: words of the longest list of one axon (loihi1 only); the one field of which a sum keeps the larger.
    """

    neurons: int = 0
    neuron_groups: int = 0
    axon_in: int = 0
    axon_out: int = 0
    axon_map: int = 0
    axon_mem: int = 0
    synapse_words: int = 0
    list_words: int = 0

    @property
    def pool(self) -> int:
        """Words of the shared pool (loihi2): AxonIn + neurons + synapse words + AxonMap, without the AxonMem estimate."""
        return self.axon_in + self.neurons + self.synapse_words + self.axon_map

    def __add__(self, other: Usage) -> Usage:
        values = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Usage(**{**values, "list_words": max(self.list_words, other.list_words)})

    def used(self, resource: str) -> int:
        """The amount of one of ``RESOURCES``."""
        return int(getattr(self, resource))


class NonZero:
    """Where a dense weight matrix is not zero; counted when somebody asks.

    Args:
        weight: integers (post, pre).
    """

    def __init__(self, weight: NDArray[np.int32]) -> None:
        self._weight = weight

    @cached_property
    def _cumulative(self) -> NDArray[np.int32] | None:
        if self._weight.size > MAX_CUMULATIVE:
            return None
        counts = np.zeros((self._weight.shape[0] + 1, self._weight.shape[1]), np.int32)
        np.cumsum(self._weight != 0, axis=0, out=counts[1:])
        return counts

    @cached_property
    def _used(self) -> NDArray[np.bool_]:
        return np.asarray(self._weight.any(axis=1), dtype=np.bool_)

    @cached_property
    def total(self) -> int:
        """Non-zero weights in all."""
        return int(np.count_nonzero(self._weight))

    def counts(self, posts: Posts) -> NDArray[np.int64]:
        """int64[pre]: non-zero weights of each input to the outputs."""
        if isinstance(posts, tuple):
            if self._cumulative is not None:
                return np.asarray(self._cumulative[posts[1]] - self._cumulative[posts[0]], dtype=np.int64)
            posts = np.arange(*posts)
        return np.asarray(np.count_nonzero(self._weight[posts], axis=0), dtype=np.int64)

    def last(self, posts: Posts) -> int:
        """The place, among the outputs, of the last one that has a non-zero weight; -1 where none has."""
        used = self._used[posts[0] : posts[1]] if isinstance(posts, tuple) else self._used[posts]
        places = np.flatnonzero(used)
        return int(places[-1]) if places.size else -1


@dataclass(frozen=True)
class DenseInput:
    """The synapses of one dense projection, as far as they cost.

    Args:
        source: name of the population that they come from.
        pre: neurons of the source.
        weight_bits: stored bits.
        delay_bits: bits of the longest delay (counted by loihi1 only).
        nonzero: where the weights are not zero, for sparse lists; None: nowhere zero.
    """

    source: str
    pre: int
    weight_bits: int
    delay_bits: int = 0
    nonzero: NonZero | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class ConvInput:
    """The synapses of one convolution, as far as they cost.

    Args:
        source: name of the population that they come from.
        source_size: (H, W) of the source.
        out_channels, in_per_group, groups: of the convolution.
        kernel, stride, padding, dilation: (y, x).
        weight_bits: stored bits.
    """

    source: str
    source_size: tuple[int, int]
    out_channels: int
    in_per_group: int
    groups: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    weight_bits: int


@dataclass(frozen=True)
class Layer:
    """A population that takes cores, with everything that its cost depends on: shapes and bit widths.

    Weights themselves count only where zeros are not stored.

    Args:
        name: of the population.
        kind: "input", "conv" (at least one convolution comes in) or "dense".
        shape: how it is cut: (C, H, W), or (N,) where only dense projections come in.
        inputs: one per incoming projection.
        conv_targets: outgoing projections that are convolutions.
        neuron_targets: outgoing dense projections, and one more for the output that the host reads.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    inputs: tuple[DenseInput | ConvInput, ...]
    conv_targets: int
    neuron_targets: int


def plan_layers(network: Network) -> tuple[Layer, ...]:
    """The populations of a network that take cores, in its order: all but an input without neurons, which the host sends.

    Source: loihi-mapping notes; that dense populations are cut by the neuron number is what the compiler's tables show.
    """
    layers = []
    for population in network.populations:
        if population.neuron is None:
            continue
        incoming = network.into(population.name)
        outgoing = [p.synapse for p in network.projections if p.source == population.name]
        conv_targets = sum(isinstance(synapse, Conv) for synapse in outgoing)
        read_by_host = not outgoing or population is network.output
        has_conv = any(isinstance(p.synapse, Conv) for p in incoming)
        layers.append(
            Layer(
                name=population.name,
                kind="input" if population is network.input else "conv" if has_conv else "dense",
                shape=population.shape if has_conv or not incoming else (population.size,),
                inputs=tuple(_input(network, p) for p in incoming),
                conv_targets=conv_targets,
                neuron_targets=len(outgoing) - conv_targets + read_by_host,
            )
        )
    return tuple(layers)


def _input(network: Network, projection: Projection) -> DenseInput | ConvInput:
    synapse = projection.synapse
    bits = stored_bits(synapse.weight)
    if isinstance(synapse, Conv):
        out_channels, in_per_group, *kernel = synapse.weight.shape
        return ConvInput(
            source=projection.source,
            source_size=(network[projection.source].shape[1], network[projection.source].shape[2]),
            out_channels=out_channels,
            in_per_group=in_per_group,
            groups=synapse.groups,
            kernel=(kernel[0], kernel[1]),
            stride=synapse.stride,
            padding=synapse.padding,
            dilation=synapse.dilation,
            weight_bits=bits,
        )
    longest = 0 if projection.delay is None else int(projection.delay.max())
    return DenseInput(projection.source, synapse.weight.shape[1], bits, longest.bit_length(), NonZero(synapse.weight))


def power_of_two_parts(number: int) -> tuple[int, ...]:
    """The powers of two that add up to ``number`` >= 0, largest first: 44 -> (32, 8, 4)."""
    return tuple(1 << bit for bit in reversed(range(number.bit_length())) if number >> bit & 1)


def channels_by_group(out_channels: int, groups: int, channels: Range) -> tuple[int, ...]:
    """How many of the output channels ``channels`` = [c0, c1) each group of a convolution has, groups with none left out."""
    each = out_channels // groups
    first, last = channels[0] // each, (channels[1] - 1) // each
    return tuple(min(channels[1], (g + 1) * each) - max(channels[0], g * each) for g in range(first, last + 1))


# --- Loihi 2 ----------------------------------------------------------------------------------------------------------


def dense_words(pre: int, neurons: int, weight_bits: int, cost: Loihi2Cost) -> int:
    """Synapse words of a dense layer with ``neurons`` of its outputs on the core; zeros are not skipped.

    ``words = pre * ceil((neurons * (w + 12) + p) / 64)`` (inferred).
    """
    return pre * -(-(neurons * (weight_bits + cost.dense_index_bits) + cost.header_bits) // cost.word_bits)


def sparse_words(synapses: DenseInput, posts: Posts, neurons: int, cost: Loihi2Cost) -> int:
    """Synapse words of a dense projection of which only the non-zero weights are stored (assumed legal).

    ``words = sum over inputs i with n_i > 0 of ceil((n_i * (w + 12) + p) / 64)``, n_i non-zero weights of input i to the
    slice's ``neurons`` outputs ``posts``.
    """
    if synapses.nonzero is None:
        return dense_words(synapses.pre, neurons, synapses.weight_bits, cost)
    counts = synapses.nonzero.counts(posts)
    bits = counts * (synapses.weight_bits + cost.dense_index_bits) + cost.header_bits
    return int((-(-bits // cost.word_bits))[counts > 0].sum())


def conv_list_words(channels: int, weight_bits: int, cost: Loihi2Cost) -> int:
    """Words of the list of one (input channel, ky, kx) that serves ``channels`` output channels on the core.

    ``sum over g of ceil((g * w + p) / 64)``, g over the power-of-two parts of ``channels`` (inferred).
    """
    return sum(-(-(part * weight_bits + cost.header_bits) // cost.word_bits) for part in power_of_two_parts(channels))


def conv_words(conv: ConvInput, channels: Range, cost: Loihi2Cost) -> int:
    """Synapse words of a convolution with the output channels [c0, c1) on the core, whatever the pixels.

    ``words = I * ky * kx * sum over groups of list_words(channels of that group on the core)``, I input channels per group.
    For one group inferred from published tables; for grouped and depthwise convolutions it is assumed that the lists of
    an input channel hold its own group's output channels only.
    """
    counts = channels_by_group(conv.out_channels, conv.groups, channels)
    return conv.in_per_group * math.prod(conv.kernel) * sum(conv_list_words(n, conv.weight_bits, cost) for n in counts)


def conv_axon_in(conv: ConvInput, channels: Range) -> int:
    """AxonIn entries of a convolution: 1, or 2 where the channels on the core are not a power of two (inferred).

    With several groups (assumed): 2 where any group's channels on the core are not.
    """
    return max(1 if n & (n - 1) == 0 else 2 for n in channels_by_group(conv.out_channels, conv.groups, channels))


def map_entries(pixels: int, channels: int, cost: Loihi2Cost) -> int:
    """AxonMap entries of a slice that feeds a convolution: pixels x power-of-two parts of its channels (inferred).

    Parts below 4 channels count with the next; there is at least one: 36 = 32 + 4 -> 2, 3 = 2 + 1 -> 1.
    """
    return pixels * max(1, sum(part >= cost.smallest_part for part in power_of_two_parts(channels)))


# --- Loihi 1 ----------------------------------------------------------------------------------------------------------


def list_words(synapses: int, synapse_bits: int, cost: Loihi1Cost) -> int:
    """Words of one axon's list: chunks of 64 synapses, each ``ceil((n * bits + 4 + 6) / 64)`` words.

    Source: nengo-loihi 1.1.0 (``SynapseConfig.bits_per_axon``).
    """

    def chunk(n: int) -> int:
        return -(-(n * synapse_bits + cost.chunk_bits) // cost.word_bits) if n else 0

    full, rest = divmod(synapses, cost.chunk_synapses)
    return full * chunk(cost.chunk_synapses) + chunk(rest)


def index_bits(neurons: int, cost: Loihi1Cost) -> int:
    """Bits of an index that can name any of ``neurons`` neurons: none for a single one, else one of 6..12.

    Source: nengo-loihi 1.1.0 (``SynapseConfig.INDEX_BITS_MAP``).
    """
    if neurons <= 1:
        return 0
    return min(max((neurons - 1).bit_length(), cost.smallest_index_bits), cost.largest_index_bits)


def dense_lists(synapses: DenseInput, posts: Posts, neurons: int, rule: str, cost: Loihi1Cost) -> Usage:
    """A dense projection's in-axons and lists: one of each per input.

    Dense lists hold every weight and no index: ``list_words(n, w + delay)``; sparse ones the non-zero weights with an index:
    ``list_words(n_i, w + delay + index)``.  The rule "cheapest" takes, per projection, what needs fewer words.

    Source: nengo-loihi 1.1.0 (``Synapse.set_weights``); it counts its sparse lists without the index bits that they need.
    """
    bits = synapses.weight_bits + synapses.delay_bits
    longest = list_words(neurons, bits, cost)
    dense = Usage(axon_in=synapses.pre, synapse_words=synapses.pre * longest, list_words=longest)
    if rule == "dense" or synapses.nonzero is None:
        return dense
    counts = synapses.nonzero.counts(posts)
    bits += index_bits(synapses.nonzero.last(posts) + 1, cost)
    lengths, times = np.unique(counts, return_counts=True)
    words = [list_words(int(n), bits, cost) for n in lengths]
    total = sum(n * int(t) for n, t in zip(words, times, strict=True))
    sparse = Usage(axon_in=synapses.pre, synapse_words=total, list_words=max(words))
    return sparse if rule == "sparse" or total < dense.synapse_words else dense


AxisLists = tuple[tuple[tuple[int, ...], tuple[int, ...], int], ...]


@lru_cache(maxsize=1 << 14)
def kernel_masks(size: int, kernel: int, stride: int, padding: int, dilation: int, outputs: Range) -> AxisLists:
    """Along one axis: which sets of kernel positions the inputs of outputs [o0, o1) use, and from which outputs on.

    Input i uses position k where ``i = o * stride + k * dilation - padding`` for an o of the range.  Inputs with equal sets
    also have equal distances between their outputs, and so can share lists (nengo-loihi's population axons).

    Returns:
        per set: its kernel positions, the first output (counted from o0) of each input that uses it, and the distance from
        the first output to the last.
    """
    used: dict[int, list[tuple[int, int]]] = {}
    for k in range(kernel):
        for o in range(*outputs):
            i = o * stride + k * dilation - padding
            if 0 <= i < size:
                used.setdefault(i, []).append((k, o - outputs[0]))
    masks: dict[tuple[int, ...], tuple[list[int], int]] = {}
    for pairs in used.values():
        reached = [o for _, o in pairs]
        bases, _ = masks.setdefault(tuple(k for k, _ in pairs), ([], max(reached) - min(reached)))
        bases.append(min(reached))
    return tuple((positions, tuple(bases), extent) for positions, (bases, extent) in masks.items())


def conv_masks(conv: ConvInput, axis: int, outputs: Range) -> AxisLists:
    """:func:`kernel_masks` of a convolution along y (axis 0) or x (axis 1)."""
    return kernel_masks(
        conv.source_size[axis], conv.kernel[axis], conv.stride[axis], conv.padding[axis], conv.dilation[axis], outputs
    )


def population_lists(conv: ConvInput, ranges: tuple[Range, ...], cost: Loihi1Cost) -> Usage:
    """A convolution's in-axons and lists: one in-axon per pixel that reaches the slice, lists that pixels share.

    Pixels share lists where they use the same kernel positions (my, mx) and their base, the first output pixel, lies in the
    same 256 neurons: ``words = sum over (my, mx, block of 256) of list_words(I * |my| * |mx| * C)``, I input channels per
    group, C channels of the slice; the index names the largest neuron of the slice that a list holds, less the part of the
    base below 256.  ``list_words``, the limit of a single list, is that of one input channel.

    Source: nengo-loihi 1.1.0 (``conv2d_loihi_weights`` with channels first, ``Synapse.bits``).
    """
    channels, rows, columns = ranges
    counts = channels_by_group(conv.out_channels, conv.groups, channels)
    width, pixels = _length(columns), _length(rows) * _length(columns)
    masks_y, masks_x = conv_masks(conv, 0, rows), conv_masks(conv, 1, columns)
    lists: list[tuple[int, int]] = []  # weights of one channel to another, how often
    largest = 0
    for (my, bases_y, extent_y), (mx, bases_x, extent_x) in product(masks_y, masks_x):
        blocks = 1
        first = 0
        if pixels > cost.base_limit:
            bases = np.add.outer(np.array(bases_y) * width, np.array(bases_x)) // cost.base_limit
            found = np.unique(bases)
            blocks, first = found.size, int(found[-1]) * cost.base_limit
        lists.append((len(my) * len(mx), blocks))
        largest = max(largest, first + extent_y * width + extent_x)
    bits = conv.weight_bits + index_bits(largest + (_length(channels) - 1) * pixels + 1, cost)
    each = conv.in_per_group * sum(counts)
    return Usage(
        axon_in=sum(len(bases) for _, bases, _ in masks_y) * sum(len(bases) for _, bases, _ in masks_x),
        synapse_words=sum(blocks * list_words(n * each, bits, cost) for n, blocks in lists),
        list_words=max((list_words(n * max(counts), bits, cost) for n, _ in lists), default=0),
    )


# --- a slice, a layer --------------------------------------------------------------------------------------------------


def slice_usage(layer: Layer, ranges: tuple[Range, ...], chip: Chip) -> Usage:
    """What the slice ``ranges`` of a layer takes of a core, without what depends on the cores of other layers.

    That is everything but axon_out and axon_mem (:func:`traffic_usage`).  Several incoming projections add up.
    """
    neurons = math.prod(stop - start for start, stop in ranges)
    total = Usage(neurons=neurons, neuron_groups=1)
    cost = chip.cost
    if isinstance(cost, Loihi1Cost):
        for synapses in layer.inputs:
            if isinstance(synapses, ConvInput):
                total += population_lists(synapses, ranges, cost)
            else:
                total += dense_lists(synapses, _posts(layer, ranges), neurons, str(chip.rule("dense_lists")), cost)
        return total
    pixels, channels = (neurons, 1) if len(ranges) == 1 else (neurons // _length(ranges[0]), _length(ranges[0]))
    # A flat slice (dense) that feeds a convolution has no tile: one entry per neuron (assumed).
    entries = layer.conv_targets * map_entries(pixels, channels, cost) + layer.neuron_targets * neurons
    total += Usage(axon_map=entries, axon_in=0 if layer.inputs else 1)
    for synapses in layer.inputs:
        if isinstance(synapses, ConvInput):
            words, axon_in = conv_words(synapses, ranges[0], cost), conv_axon_in(synapses, ranges[0])
        elif chip.rule("dense_lists") == "dense":
            words, axon_in = dense_words(synapses.pre, neurons, synapses.weight_bits, cost), synapses.pre
        else:
            words, axon_in = sparse_words(synapses, _posts(layer, ranges), neurons, cost), synapses.pre
        total += Usage(axon_in=axon_in, synapse_words=words)
    return total


@dataclass(frozen=True, eq=False)
class FanOut:
    """Where the spikes of a layer go over one projection.

    Args:
        cores: int64 of the layer's shape: on how many cores each neuron has synapses.
        convolution: whether the projection is one.
    """

    cores: NDArray[np.int64]
    convolution: bool


def fan_out(shape: tuple[int, ...], synapses: DenseInput | ConvInput, targets: Sequence[tuple[Range, ...]]) -> FanOut:
    """On how many cores each neuron of a source of ``shape`` has synapses.

    Args:
        shape: of the source, as it is cut.
        synapses: of the projection.
        targets: the ranges of the target's slices, each on a core of its own.
    """
    if isinstance(synapses, DenseInput):
        return FanOut(np.full(shape, len(targets), dtype=np.int64), False)
    counts = np.zeros((synapses.in_per_group * synapses.groups, *synapses.source_size), dtype=np.int64)
    each = synapses.out_channels // synapses.groups
    axes = [set(ranges) for ranges in zip(*targets, strict=True)]
    if len(targets) == math.prod(map(len, axes)) and len(set(targets)) == len(targets):  # a grid: the axes are independent
        along = [np.zeros(n, dtype=np.int64) for n in counts.shape]
        for c0, c1 in axes[0]:
            along[0][c0 // each * synapses.in_per_group : ((c1 - 1) // each + 1) * synapses.in_per_group] += 1
        for axis in (0, 1):
            for outputs in axes[1 + axis]:
                start, reach = _reaching(synapses, axis, outputs)
                along[1 + axis][start : start + reach.size] += reach
        return FanOut(np.einsum("c,y,x->cyx", *along).reshape(shape), True)
    for (c0, c1), rows, columns in targets:
        first, last = c0 // each * synapses.in_per_group, ((c1 - 1) // each + 1) * synapses.in_per_group
        (y, reach_y), (x, reach_x) = _reaching(synapses, 0, rows), _reaching(synapses, 1, columns)
        counts[first:last, y : y + reach_y.size, x : x + reach_x.size] += np.outer(reach_y, reach_x)
    return FanOut(counts.reshape(shape), True)


def _reaching(conv: ConvInput, axis: int, outputs: Range) -> tuple[int, NDArray[np.int64]]:
    """The first input along an axis that has synapses to the outputs [o0, o1), and 0 or 1 for it and the inputs after it."""
    starts = np.arange(*outputs) * conv.stride[axis] - conv.padding[axis]
    inputs = np.unique(starts[:, None] + np.arange(conv.kernel[axis]) * conv.dilation[axis])
    inputs = inputs[(inputs >= 0) & (inputs < conv.source_size[axis])]
    if not inputs.size:  # padding only
        return 0, np.zeros(0, dtype=np.int64)
    return int(inputs[0]), np.bincount(inputs - inputs[0]).astype(np.int64)


def traffic_usage(ranges: tuple[Range, ...], fans: Sequence[FanOut], chip: Chip, chips: int) -> Usage:
    """What a slice takes of its core for the cores that it sends to.

    loihi1: out-axon slots = sum over neurons of their destination cores, twice that where the mapping takes several chips
    (worst case: an out-axon to another chip takes a second slot).  loihi2: AxonMem, estimated (assumed, not decoded) as 2
    entries per AxonMap entry and destination core where a pixel has several, 0 otherwise and for dense targets.

    Args:
        ranges: of the slice.
        fans: of the projections that leave its layer.
        chip: whose model counts.
        chips: how many of them the mapping takes.
    """
    block = tuple(slice(start, stop) for start, stop in ranges)
    if isinstance(chip.cost, Loihi1Cost):
        slots = 1 if chips == 1 else chip.cost.cross_chip_slots
        return Usage(axon_out=slots * sum(int(fan.cores[block].sum()) for fan in fans))
    total = 0
    for fan in fans:
        if fan.convolution:
            cores = fan.cores[block] if len(ranges) == 1 else fan.cores[block].max(axis=0)
            entries = map_entries(1, 1 if len(ranges) == 1 else _length(ranges[0]), chip.cost)
            total += chip.cost.axon_mem_per_destination * entries * int(cores[cores > 1].sum())
    return Usage(axon_mem=total)


def least_usage(layer: Layer, chip: Chip) -> Usage:
    """What all cores of a layer take together at the very least, however it is cut: a bound from below of each resource.

    loihi2: the layer on one core of unlimited size.  Cutting a dense layer adds headers; cutting the channels of a
    convolution refines the power-of-two parts, and ``ceil((2gw + p) / 64) <= 2 ceil((gw + p) / 64)``; AxonMap is counted as
    one entry per pixel where it feeds a convolution.  loihi1: every weight in use stored once, without chunks and indices.
    """
    whole = tuple((0, n) for n in layer.shape)
    neurons = math.prod(layer.shape)
    cost = chip.cost
    if isinstance(cost, Loihi2Cost):
        used = slice_usage(layer, whole, chip)
        pixels = neurons // layer.shape[0] if len(layer.shape) == 3 else neurons
        entries = layer.conv_targets * pixels + layer.neuron_targets * neurons
        return used + Usage(axon_map=entries - used.axon_map)
    axons = bits = 0
    for synapses in layer.inputs:
        if isinstance(synapses, ConvInput):
            masks = [conv_masks(synapses, axis, whole[1 + axis]) for axis in (0, 1)]
            positions = [len({k for mask, _, _ in axis for k in mask}) for axis in masks]
            axons += math.prod(sum(len(bases) for _, bases, _ in axis) for axis in masks)
            weights = synapses.out_channels * synapses.in_per_group * math.prod(positions)
            bits += weights * synapses.weight_bits
        else:
            axons += synapses.pre
            weights = synapses.pre * neurons if synapses.nonzero is None else synapses.nonzero.total
            bits += weights * (synapses.weight_bits + synapses.delay_bits)
    return Usage(neurons=neurons, neuron_groups=1, axon_in=axons, synapse_words=-(-bits // cost.word_bits))


def lower_bound(layer: Layer, chip: Chip) -> int:
    """Cores that the layer takes at least: the largest ``ceil(total / limit)`` over the resources."""
    least = least_usage(layer, chip)
    return max(-(-least.used(name) // limit) for name, limit in chip.core_limits.items())


def network_lower_bound(layers: Sequence[Layer], chip: Chip) -> int:
    """Cores that all layers take at least: the sum of their bounds, or, where layers may share a core, the largest
    ``ceil(total / limit)`` over the resources with the total taken over all layers (not a sum of ceilings).
    """
    if int(chip.rule("layers_per_core")) == 1:
        return sum(lower_bound(layer, chip) for layer in layers)
    total = sum((least_usage(layer, chip) for layer in layers), Usage())
    counted = {name: limit for name, limit in chip.core_limits.items() if name not in ("neuron_groups", "list_words")}
    return max((-(-total.used(name) // limit) for name, limit in counted.items()), default=0)


def excess(usage: Usage, limits: Mapping[str, int]) -> tuple[tuple[str, int, int], ...]:
    """(resource, need, limit) of every resource of which the usage is beyond the limit, the worst ratio first.

    The pool comes last: it is the sum of others, of which one explains more.
    """
    over = [(name, usage.used(name), limit) for name, limit in limits.items() if usage.used(name) > limit]
    return tuple(sorted(over, key=lambda entry: (entry[0] == "pool", -entry[1] / entry[2])))


def binding(usage: Usage, limits: Mapping[str, int]) -> tuple[str, float]:
    """(resource, share of its limit) that is fullest; neuron groups aside, which only count slices."""
    shares = {name: usage.used(name) / limit for name, limit in limits.items() if name != "neuron_groups"}
    fullest = max(shares, key=lambda name: shares[name])
    return fullest, shares[fullest]


def _posts(layer: Layer, ranges: tuple[Range, ...]) -> Posts:
    """The outputs of a slice: a range where it is cut by neurons, else their flat numbers."""
    if len(ranges) == 1:
        return ranges[0]
    block = tuple(slice(start, stop) for start, stop in ranges)
    numbers: NDArray[np.int64] = np.arange(math.prod(layer.shape)).reshape(layer.shape)[block].ravel()
    return numbers


def _length(bounds: Range) -> int:
    return bounds[1] - bounds[0]
