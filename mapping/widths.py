"""What a layer costs as a function of its width, and which widths are good ones to prune to.

The chip cuts a convolution's lists into power-of-two groups of channels, so an odd width can cost more than a larger one
(64 -> 63 channels at 4 bits: +80 % synapse words).  A width is *good* where every larger one costs more words or more cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mapping.chip import Chip
from mapping.cost import ConvInput, DenseInput, Layer, slice_usage
from mapping.coupled import cuts_of
from mapping.partition import cut_layer
from mapping.traffic import ASSUMED_RATE
from netx_export.errors import CapacityError, ConfigError

NOT_PRUNED = "not pruned"
WEIGHT_BITS = (1, 2, 3, 4, 5, 6, 8)  # that the chip stores


@dataclass(frozen=True)
class WidthCost:
    """A layer at one width.

    Args:
        width: channels of a convolution, neurons of a dense layer.
        words: synapse words of all its channels on one core, whatever the pixels.
        cores: that the layer takes by itself; None where it was not asked for, or no core holds one of its neurons.
    """

    width: int
    words: int
    cores: int | None


def conv_layer(
    shape: tuple[int, int, int],
    source: tuple[int, int, int],
    kernel: tuple[int, int],
    bits: int,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    feeds_conv: bool = True,
    name: str = "conv",
) -> Layer:
    """A convolution as the cost model sees it, from numbers alone.

    Args:
        shape, source: (C, H, W) of the layer and of its source.
        kernel, stride, padding, dilation: (y, x).
        bits: stored bits of a weight, 1..8.
        groups: of the convolution.
        feeds_conv: whether a convolution follows (else a dense layer or the host).
        name: for messages.

    Raises:
        ConfigError: channels that the groups do not divide, or bits that no chip stores.
    """
    _check_bits(bits, name)
    if shape[0] % groups or source[0] % groups:
        raise ConfigError(f"{name}: groups {groups} must divide its {shape[0]} channels and the {source[0]} of its source.")
    conv = ConvInput(
        "source", source[1:], shape[0], source[0] // groups, groups, kernel, stride, padding, dilation, bits
    )  # fmt: skip
    return Layer(name, "conv", shape, (conv,), int(feeds_conv), int(not feeds_conv))


def dense_layer(inputs: int, neurons: int, bits: int, *, name: str = "dense") -> Layer:
    """A dense layer as the cost model sees it, from numbers alone (no zeros)."""
    _check_bits(bits, name)
    return Layer(name, "dense", (neurons,), (DenseInput("source", inputs, bits),), 0, 1)


def _check_bits(bits: int, name: str) -> None:
    if bits not in WEIGHT_BITS:
        raise ConfigError(f"{name}: {bits} bits a weight; chips store {', '.join(map(str, WEIGHT_BITS))}.")


def at_width(layer: Layer, width: int) -> Layer:
    """The layer with another number of channels (dense: neurons); a depthwise convolution gets as many groups.

    Raises:
        ConfigError: a width below 1, or one that the groups of its convolution do not divide.
    """
    return at_widths((layer,), {layer.name: width})[0]


def at_widths(layers: Sequence[Layer], widths: Mapping[str, int]) -> tuple[Layer, ...]:
    """The layers with other numbers of channels (dense: neurons), each with the inputs that it then has.

    A depthwise convolution whose source gets narrower gets narrower with it.  What changes is counted without zeros.

    Args:
        layers: of a network, each after its sources (but for loops).
        widths: name -> channels, at least 1; layers that are not named keep theirs.

    Raises:
        ConfigError: a width below 1, one that the groups of a convolution do not divide, or a name that no layer has.
    """
    before = {layer.name: layer.shape[0] for layer in layers}
    for name, width in widths.items():
        if name not in before:
            raise ConfigError(f"{name}: there is no such layer; the layers are {', '.join(before)}.")
        if width < 1:
            raise ConfigError(f"{name}: width {width}; it must be at least 1.")
    after = {**before, **widths}
    new = []
    for layer in layers:
        sources = [after[s.source] for s in layer.inputs if _is_depthwise(s) and s.source in after]
        if sources and layer.name not in widths:
            after[layer.name] = sources[0]
        width = after[layer.name]
        changed = layer.name in widths or any(after.get(s.source) != before.get(s.source) for s in layer.inputs)
        inputs = tuple(_resized(s, layer.name, width, before, after) for s in layer.inputs) if changed else layer.inputs
        new.append(replace(layer, shape=(width, *layer.shape[1:]), inputs=inputs))
    return tuple(new)


def _is_depthwise(synapses: DenseInput | ConvInput) -> bool:
    return isinstance(synapses, ConvInput) and synapses.groups == synapses.out_channels and synapses.in_per_group == 1


def _resized(
    synapses: DenseInput | ConvInput, name: str, width: int, before: Mapping[str, int], after: Mapping[str, int]
) -> DenseInput | ConvInput:
    """The synapses into a layer of another width, from a source that may have another one."""
    old, now = before.get(synapses.source, 1), after.get(synapses.source, 1)
    if isinstance(synapses, DenseInput):
        return replace(synapses, pre=synapses.pre // old * now, nonzero=None)
    if _is_depthwise(synapses):
        if synapses.source in after and now != width:
            raise ConfigError(f"{name}: {width} channels; it is depthwise and has those of {synapses.source}, {now}.")
        return replace(synapses, out_channels=width, groups=width)
    inputs = synapses.in_per_group * synapses.groups // old * now
    if width % synapses.groups or inputs % synapses.groups:
        groups = f"its {synapses.groups} groups must divide them"
        raise ConfigError(f"{name}: {width} channels{f' from {inputs}' if inputs % synapses.groups else ''}; {groups}.")
    return replace(synapses, out_channels=width, in_per_group=inputs // synapses.groups)


def at_bits(layer: Layer, bits: int) -> Layer:
    """The layer with another number of stored bits in all its projections."""
    _check_bits(bits, layer.name)
    return replace(layer, inputs=tuple(replace(synapses, weight_bits=bits) for synapses in layer.inputs))


def width_cost(layer: Layer, chip: Chip, width: int | None = None, *, count_cores: bool = True) -> WidthCost:
    """What the layer costs at a width (None: its own)."""
    layer = layer if width is None else at_width(layer, width)
    words = slice_usage(layer, tuple((0, n) for n in layer.shape), chip).synapse_words
    return WidthCost(layer.shape[0], words, _cores(layer, chip) if count_cores else None)


def _cores(layer: Layer, chip: Chip) -> int | None:
    try:
        return cut_layer(layer, chip).cores
    except CapacityError:
        return None


def costs_by_width(
    layer: Layer, chip: Chip, widths: Iterable[int] | None = None, *, count_cores: bool = True
) -> tuple[WidthCost, ...]:
    """The cost at each of ``widths``, in their order; None: at every width up to the layer's own that its groups divide."""
    return tuple(
        width_cost(layer, chip, width, count_cores=count_cores) for width in (widths or _widths(layer, layer.shape[0]))
    )


def good_widths(layer: Layer, chip: Chip, *, largest: int | None = None) -> tuple[int, ...]:
    """The widths up to ``largest`` (None: the layer's own) of which every larger one, up to it, costs more words or more cores.

    Ascending; ``largest`` itself is one of them.
    """
    return tuple(reversed(list(_good_down_from(layer, chip, largest or layer.shape[0], 0))))


def _good_down_from(layer: Layer, chip: Chip, largest: int, least: int) -> Iterator[int]:
    """The good widths from ``largest`` down to the first that is at most ``least``."""
    front: list[tuple[int, float]] = []  # words and cores of good widths so far, of which none beats another in both
    for width in reversed(list(_widths(layer, largest))):
        words = width_cost(layer, chip, width, count_cores=False).words
        rivals = [cores for other, cores in front if other <= words]
        if 1 in rivals:
            continue
        cores = _cores(at_width(layer, width), chip) or math.inf
        if any(rival <= cores for rival in rivals):
            continue
        front = [(w, c) for w, c in front if w < words or c < cores] + [(words, cores)]
        yield width
        if width <= least:
            return


@dataclass(frozen=True)
class WidthChoice:
    """What became of the number of channels that pruning would keep of a layer, or of a layer that goes with others.

    Args:
        name: of the layer.
        width: channels before pruning.
        asked: channels that pruning would keep, or that the layer would then have.
        taken: channels that are kept, likewise.
        words_asked, words_taken: synapse words over all its cores, all layers as asked, and all as taken.
        cores_asked, cores_taken: its cores, likewise.
        why: in words; ``NOT_PRUNED`` where the layer only goes with others.
    """

    name: str
    width: int
    asked: int
    taken: int
    words_asked: int
    words_taken: int
    cores_asked: int
    cores_taken: int
    why: str


def choose_widths(layers: Sequence[Layer], chip: Chip, asked: Mapping[str, int]) -> tuple[WidthChoice, ...]:
    """Rounds the widths that pruning would leave to good ones, so that the mapped network never takes more.

    Each layer gets the nearest good width (up to its own; of two equally near ones the larger) if the whole network, mapped
    with its rules, then takes neither more synapse words nor more cores than with the widths that were asked for; else it stays
    as asked.  Layers that go down come first, as they make room for the others.

    A good width below always saves words or a core.  One above can be free, because the chip cuts lists into powers of two: 58
    channels at 4 bits take 7 words a list, 64 take 5.  It is then taken: accuracy for nothing.

    Args:
        layers: of the network before pruning, each after its sources.
        chip: to map it to, with its rules.
        asked: name -> channels that pruning would keep, at least 1, at most the layer's.

    Returns:
        one for each layer with synapses, in their order.

    Raises:
        ConfigError: a name that no layer has, or a count outside 1..the layer's width.
        CapacityError: a neuron of the network as asked fits no core.
    """
    known = {layer.name: layer for layer in layers}
    for name, count in asked.items():
        if name in known and not 1 <= count <= known[name].shape[0]:
            raise ConfigError(f"{name}: {count} channels to keep; it has {known[name].shape[0]}, at least 1 must stay.")
    start = _words_and_cores(at_widths(layers, asked), chip)
    most = tuple(map(sum, zip(*start.values(), strict=True)))
    offers = {name: _nearest_good(known[name], chip, asked[name]) for name in known if name in asked}
    taken = dict(asked)
    left = sorted((name for name in offers if offers[name] != asked[name]), key=lambda name: offers[name] > asked[name])
    found = True
    while found:  # who had no room may have it after another went down
        found = False
        for name in list(left):
            trial = {**taken, name: offers[name]}
            try:
                total = map(sum, zip(*_words_and_cores(at_widths(layers, trial), chip).values(), strict=True))
            except (CapacityError, ConfigError):  # a width that the groups of the next layer do not divide
                continue
            if all(now <= limit for now, limit in zip(total, most, strict=True)):
                taken, found = trial, True
                left.remove(name)
    end = _words_and_cores(at_widths(layers, taken), chip)
    rows = []
    for layer, before, after in zip(layers, at_widths(layers, asked), at_widths(layers, taken), strict=True):
        if not layer.inputs:
            continue
        words, cores = zip(start[layer.name], end[layer.name], strict=True)
        old, new = before.shape[0], after.shape[0]
        why = _why(old, new, offers[layer.name]) if layer.name in offers else NOT_PRUNED
        rows.append(WidthChoice(layer.name, layer.shape[0], old, new, *words, *cores, why))
    return tuple(rows)


def _nearest_good(layer: Layer, chip: Chip, count: int) -> int:
    """The good width that is nearest to a width; of two equally near ones the larger."""
    return min(_good_down_from(layer, chip, layer.shape[0], count), key=lambda width: (abs(width - count), -width))


def _why(asked: int, taken: int, offer: int) -> str:
    if taken == asked:
        return "good as asked" if offer == asked else f"as asked: {offer} would cost the network more"
    if taken > asked:
        return "up to a good width: no more words or cores in all"
    return "down to a good width: fewer words or cores"


def _words_and_cores(layers: Sequence[Layer], chip: Chip) -> dict[str, tuple[int, int]]:
    """Name -> synapse words over all cores, and slices, of the layers as they are mapped."""
    sources = {synapses.source for layer in layers for synapses in layer.inputs}
    rate = dict.fromkeys(sources | {layer.name for layer in layers}, ASSUMED_RATE)
    cuts = cuts_of(layers, chip, rate)
    return {
        layer.name: (sum(slice_usage(layer, ranges, chip).synapse_words for ranges in cut.slices()), cut.cores)
        for layer, cut in zip(layers, cuts, strict=True)
    }


def next_lower_width_that_saves(layer: Layer, chip: Chip, *, cores: bool = False) -> WidthCost | None:
    """The largest width below the layer's own that costs fewer words (``cores``: fewer cores); None where there is none."""
    own = width_cost(layer, chip, layer.shape[0], count_cores=cores)  # without zeros, as the smaller ones are counted
    for width in reversed(list(_widths(layer, layer.shape[0] - 1))):
        cost = width_cost(layer, chip, width, count_cores=cores)
        if (cores and own.cores is not None and cost.cores is not None and cost.cores < own.cores) or (
            not cores and cost.words < own.words
        ):
            return width_cost(layer, chip, width)
    return None


def cores_by_bits(layer: Layer, chip: Chip) -> dict[int, int | None]:
    """What if: stored bits of its weights -> cores that the layer takes by itself; None where no core holds one neuron."""
    return {bits: _cores(at_bits(layer, bits), chip) for bits in WEIGHT_BITS}


def _step(layer: Layer) -> int:
    """Widths must be multiples of this: the groups of its convolutions, depthwise ones aside."""
    groups = [s.groups for s in layer.inputs if isinstance(s, ConvInput) and s.groups != s.out_channels]
    return max(groups, default=1)


def _widths(layer: Layer, largest: int) -> Iterable[int]:
    step = _step(layer)
    return range(step, largest + 1, step)
