"""What a layer costs as a function of its width, and which widths are good ones to prune to.

The chip cuts a convolution's lists into power-of-two groups of channels, so an odd width can cost more than a larger one
(64 -> 63 channels at 4 bits: +80 % synapse words).  A width is *good* where every larger one costs more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mapping.chip import Chip
from mapping.cost import ConvInput, DenseInput, Layer, slice_usage
from mapping.partition import cut_layer
from netx_export.errors import CapacityError, ConfigError

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
    if width < 1:
        raise ConfigError(f"{layer.name}: width {width}; it must be at least 1.")
    inputs: list[DenseInput | ConvInput] = []
    for synapses in layer.inputs:
        if isinstance(synapses, DenseInput):
            inputs.append(replace(synapses, nonzero=None))
            continue
        depthwise = synapses.groups == synapses.out_channels
        groups = width if depthwise else synapses.groups
        if width % groups:
            raise ConfigError(f"{layer.name}: {width} channels; its {groups} groups must divide them.")
        inputs.append(replace(synapses, out_channels=width, groups=groups))
    return replace(layer, shape=(width, *layer.shape[1:]), inputs=tuple(inputs))


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
    """The widths up to ``largest`` (None: the layer's own) of which every larger one, up to it, costs more words; ascending.

    ``largest`` itself is one of them.
    """
    good: list[int] = []
    least: int | None = None
    for cost in reversed(costs_by_width(layer, chip, _widths(layer, largest or layer.shape[0]), count_cores=False)):
        if least is None or cost.words < least:
            good.append(cost.width)
            least = cost.words
    return tuple(reversed(good))


def round_to_good_width(layer: Layer, chip: Chip, count: int) -> int:
    """The good width (up to the layer's own) that is nearest to ``count``; of two equally near ones the larger.

    Where the nearest good width above costs no more words than ``count`` itself, it is taken: channels that are free are kept.

    Args:
        layer: before pruning.
        chip: to map it to.
        count: how many channels pruning would keep, at least 1.

    Raises:
        ConfigError: a count outside 1..the layer's width.
    """
    if not 1 <= count <= layer.shape[0]:
        raise ConfigError(f"{layer.name}: {count} channels to keep; it has {layer.shape[0]}, at least 1 must stay.")
    widths = good_widths(layer, chip)
    above = min(width for width in widths if width >= count)
    if above == count or (
        not count % _step(layer)
        and width_cost(layer, chip, above, count_cores=False).words <= width_cost(layer, chip, count, count_cores=False).words
    ):
        return above
    return min(widths, key=lambda width: (abs(width - count), -width))


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
