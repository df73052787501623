"""Spikes between slices and cores, synaptic operations of a slice: what cuts and placements are weighed by."""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingType
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mapping.cost import ConvInput, DenseInput, Layer, channels_by_group, plan_layers
from mapping.mapping import Mapping, Range
from netx_export.errors import ConfigError
from netx_export.network import Network

ASSUMED_RATE = 0.1  # spikes per neuron and step, where nobody has counted them
Activity = MappingType[str, float]


def rates(network: Network, activity: Activity | None) -> dict[str, float]:
    """Spikes per neuron and step of every population: as given, else ``ASSUMED_RATE``.

    Args:
        network: whose populations are meant.
        activity: population -> spikes per neuron and step, such as the mean of a simulation's spikes; None or a population
            that is not there: ``ASSUMED_RATE`` (assumed).

    Raises:
        ConfigError: an unknown population, or a rate that is negative or not finite.
    """
    known = {p.name: ASSUMED_RATE for p in network.populations}
    for name, rate in (activity or {}).items():
        if name not in known:
            raise ConfigError(f"activity of {name!r}: the network has no such population; it has {', '.join(known)}.")
        if not math.isfinite(rate) or rate < 0:
            raise ConfigError(f"activity of {name} is {rate} spikes per neuron and step; it must be a number of at least 0.")
        known[name] = float(rate)
    return known


def activity_of(spikes: MappingType[str, NDArray[np.integer]]) -> dict[str, float]:
    """Spikes per neuron and step of each recorded population: the share of entries that are not 0.

    Args:
        spikes: population -> (batch, *shape, time), such as ``netx_export.simulate.Run.spikes``.
    """
    return {name: float(np.count_nonzero(recorded)) / max(1, recorded.size) for name, recorded in spikes.items()}


@lru_cache(maxsize=1 << 16)
def _reach(size: int, kernel: int, stride: int, padding: int, dilation: int, outputs: Range) -> tuple[int, int]:
    """Along an axis: inputs that have synapses to the outputs, and pairs of output and kernel position that meet an input."""
    inputs = (np.arange(*outputs) * stride - padding)[:, None] + np.arange(kernel) * dilation
    inside = inputs[(inputs >= 0) & (inputs < size)]
    return int(np.unique(inside).size), int(inside.size)


def axis_reach(conv: ConvInput, axis: int, outputs: Range) -> tuple[int, int]:
    """Along axis 0 (channels), 1 (y) or 2 (x) of a convolution: inputs that reach the outputs, and synapses.

    Their products over the axes are the source neurons that send to a box and the synapses that end there.
    """
    if axis == 0:
        groups = len(channels_by_group(conv.out_channels, conv.groups, outputs))
        return groups * conv.in_per_group, (outputs[1] - outputs[0]) * conv.in_per_group
    i = axis - 1
    return _reach(conv.source_size[i], conv.kernel[i], conv.stride[i], conv.padding[i], conv.dilation[i], outputs)


def senders(synapses: DenseInput | ConvInput, ranges: tuple[Range, ...]) -> int:
    """Source neurons with synapses to the slice: the messages that one spike of each would send there."""
    if isinstance(synapses, DenseInput):
        return synapses.pre
    return math.prod(axis_reach(synapses, axis, bounds)[0] for axis, bounds in enumerate(ranges))


def synapses_into(synapses: DenseInput | ConvInput, ranges: tuple[Range, ...]) -> int:
    """Logical connections that end in the slice, zeros included."""
    if isinstance(synapses, DenseInput):
        return synapses.pre * math.prod(stop - start for start, stop in ranges)
    return math.prod(axis_reach(synapses, axis, bounds)[1] for axis, bounds in enumerate(ranges))


def slice_operations(layer: Layer, ranges: tuple[Range, ...], rate: Activity) -> float:
    """Synaptic operations of a slice in a step: sum over its projections of the source's rate times :func:`synapses_into`."""
    return sum(rate[synapses.source] * synapses_into(synapses, ranges) for synapses in layer.inputs)


def slice_messages(layer: Layer, ranges: tuple[Range, ...], rate: Activity) -> float:
    """Spikes that arrive at a slice in a step: sum over its projections of the source's rate times :func:`senders`."""
    return sum(rate[synapses.source] * senders(synapses, ranges) for synapses in layer.inputs)


def slice_traffic(
    network: Network, mapping: Mapping, activity: Activity | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Spikes a step from core to core: a sparse matrix (source, target, spikes) of cores by their place in the mapping.

    A neuron's spike goes once to every core that has synapses of it, as Loihi sends it (one message per destination core:
    Davies et al. 2018).  Where slices share a core, a message that serves two of its slices over one projection counts twice.
    Spikes of the host are not in it.
    """
    rate = rates(network, activity)
    layers = {layer.name: layer for layer in plan_layers(network)}
    places: dict[str, list[tuple[int, tuple[Range, ...]]]] = {name: [] for name in layers}
    for number, core in enumerate(mapping.cores):
        for piece in core.slices:
            places[piece.population].append((number, piece.ranges))
    sources: list[NDArray[np.int64]] = []
    targets: list[NDArray[np.int64]] = []
    spikes: list[NDArray[np.float64]] = []
    for layer in layers.values():
        for synapses in layer.inputs:
            if synapses.source not in layers:
                continue
            senders_at = places[synapses.source]
            numbers = np.array([number for number, _ in senders_at], dtype=np.int64)
            boxes = [ranges for _, ranges in senders_at]
            counts = _overlaps(layers[synapses.source].shape, boxes, synapses)
            for number, ranges in places[layer.name]:
                shared = counts(ranges)
                hit = np.flatnonzero(shared)
                sources.append(numbers[hit])
                targets.append(np.full(hit.size, number, dtype=np.int64))
                spikes.append(shared[hit].astype(np.float64) * rate[synapses.source])
    if not sources:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    size = max(1, len(mapping.cores))
    keys, inverse = np.unique(np.concatenate(sources) * size + np.concatenate(targets), return_inverse=True)
    totals = np.bincount(inverse.ravel(), weights=np.concatenate(spikes), minlength=keys.size).astype(np.float64)
    return keys // size, keys % size, totals


class _overlaps:  # noqa: N801 (a function with a memory)
    """ranges of a target slice -> how many neurons of each source box have synapses to it."""

    def __init__(self, shape: tuple[int, ...], boxes: Sequence[tuple[Range, ...]], synapses: DenseInput | ConvInput) -> None:
        self.synapses, self.shape = synapses, shape
        self.sizes = np.array([math.prod(b - a for a, b in ranges) for ranges in boxes], dtype=np.int64)
        self.flat = not boxes or len(boxes[0]) == 1
        self.bounds = np.array([[bounds for bounds in ranges] for ranges in boxes], dtype=np.int64)
        self.memory: dict[tuple[int, Range], NDArray[np.int64]] = {}

    def __call__(self, ranges: tuple[Range, ...]) -> NDArray[np.int64]:
        if isinstance(self.synapses, DenseInput):
            return self.sizes
        if self.flat:  # a dense layer that feeds a convolution: its neurons lie in the order C, H, W
            touched = np.zeros(math.prod(self.shape) + 1, dtype=np.int64)
            touched[1:] = np.cumsum(_block_of_senders(self.synapses, ranges))
            return touched[self.bounds[:, 0, 1]] - touched[self.bounds[:, 0, 0]]
        return self._axis(0, ranges[0]) * self._axis(1, ranges[1]) * self._axis(2, ranges[2])

    def _axis(self, axis: int, outputs: Range) -> NDArray[np.int64]:
        if (axis, outputs) not in self.memory:
            assert isinstance(self.synapses, ConvInput)
            counted = np.concatenate([[0], np.cumsum(reaching(self.synapses, axis, outputs))])
            self.memory[axis, outputs] = counted[self.bounds[:, axis, 1]] - counted[self.bounds[:, axis, 0]]
        return self.memory[axis, outputs]


def reaching(conv: ConvInput, axis: int, outputs: Range) -> NDArray[np.bool_]:
    """bool[size of the source along axis 0 (channels), 1 (y) or 2 (x)]: whether an input has synapses to the outputs."""
    if axis == 0:
        each = conv.out_channels // conv.groups
        hit = np.zeros(conv.groups * conv.in_per_group, dtype=bool)
        hit[outputs[0] // each * conv.in_per_group : ((outputs[1] - 1) // each + 1) * conv.in_per_group] = True
        return hit
    i = axis - 1
    inputs = (np.arange(*outputs) * conv.stride[i] - conv.padding[i])[:, None] + np.arange(conv.kernel[i]) * conv.dilation[i]
    hit = np.zeros(conv.source_size[i], dtype=bool)
    hit[inputs[(inputs >= 0) & (inputs < conv.source_size[i])]] = True
    return hit


def _block_of_senders(conv: ConvInput, ranges: tuple[Range, ...]) -> NDArray[np.bool_]:
    c, y, x = (reaching(conv, axis, bounds) for axis, bounds in enumerate(ranges))
    block: NDArray[np.bool_] = (c[:, None, None] & y[:, None] & x).ravel()
    return block
