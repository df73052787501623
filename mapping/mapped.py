"""Running a network as it is mapped: slice by slice, every core with its own state and weights, spikes sent from core to core.

What :func:`netx_export.simulate.simulate` computes for whole populations is computed here from what a mapping says lies
where.  A spike reaches a slice only as a message that the routing table of its core sends there, so a neuron without a core,
a slice in the wrong place or a missing route changes the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingType
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapping.mapping import Mapping, Range
from netx_export.errors import ConfigError
from netx_export.integers import SHIFT, decay, sat24, wrap24, wrap_signed
from netx_export.network import Conv, Dense, Integrator, Lif, Network, Population, Projection
from netx_export.simulate import WINDOW, Reset

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class MappedRun:
    """What a mapped simulation recorded.

    Args:
        spikes: population -> int32 (batch, *shape, time), aligned as :class:`netx_export.simulate.Run`.
        messages: int64[cores, cores], spikes that went from core to core of the mapping (by their place in it), over the batch
            and all machine steps.
    """

    spikes: MappingType[str, NDArray[np.int32]]
    messages: Int64


def simulate_mapped(
    network: Network, mapping: Mapping, spikes: NDArray[np.integer], *, reset: Reset | None = WINDOW
) -> MappedRun:
    """Runs a mapped network on a batch of inputs; the spikes are those of :func:`netx_export.simulate.simulate`.

    Args:
        network: that was mapped.
        mapping: legal (:func:`mapping.check.require`).
        spikes: (batch, *input shape, time) whole numbers, as for ``simulate``.
        reset: as for ``simulate``.

    Raises:
        ConfigError: for an input of the wrong shape, or sigma-delta neurons.
    """
    for population in network.populations:
        if population.neuron is not None and not isinstance(population.neuron, Lif | Integrator):
            raise ConfigError(
                f"{population.name}: {type(population.neuron).__name__} neurons cannot be simulated as mapped; LIF neurons can."
            )
    frames = np.asarray(spikes)
    if frames.ndim != len(network.input.shape) + 2 or frames.shape[1:-1] != network.input.shape or not frames.size:
        shape = ", ".join(map(str, network.input.shape))
        raise ConfigError(f"the input has the shape {frames.shape}; expected (batch, {shape}, time).")
    frames = frames.astype(np.int64)
    batch, steps = frames.shape[0], frames.shape[-1]
    depth = network.depth
    slices = [
        _Slice(network, number, piece.population, piece.ranges, batch)
        for number, core in enumerate(mapping.cores)
        for piece in core.slices
    ]
    routes = _routes(network, slices)
    host = None if network.input.neuron is not None else np.arange(network.input.size)
    messages = np.zeros((len(mapping.cores), len(mapping.cores)), dtype=np.int64)
    recorded = {p.name: np.zeros((batch, p.size, steps), dtype=np.int32) for p in network.populations}
    silence = np.zeros((batch, network.input.size), dtype=np.int64)

    for machine_step in range(1, steps + max(depth.values()) + 1):
        t_input = machine_step - 1
        frame = frames[..., t_input].reshape(batch, -1) if t_input < steps else silence
        fired: list[Int64] = []
        for piece in slices:
            t = machine_step - 1 - depth[piece.population.name]
            if reset is not None and t % reset.interval == reset.phase % reset.interval:
                piece.u[:] = 0
                piece.v[:] = 0
            drive = frame[:, piece.neurons] if piece.population is network.input else np.zeros_like(piece.u)
            fired.append(piece.step(drive))
            if 0 <= t < steps:
                recorded[piece.population.name][:, piece.neurons, t] = fired[-1]
        if host is not None and 0 <= t_input < steps:
            recorded[network.input.name][..., t_input] = frame
        for piece in slices:
            piece.forget()
        for route in routes:
            sent = frame if route.source is None else fired[route.source]
            chosen = sent[:, route.chosen]
            slices[route.target].mail[route.wire][:, route.inputs] = chosen
            if route.source is not None:
                hits = int(np.count_nonzero(chosen))
                messages[slices[route.source].core, slices[route.target].core] += hits
        for piece in slices:
            piece.accumulate()
    shaped = {name: values.reshape(batch, *network[name].shape, steps) for name, values in recorded.items()}
    return MappedRun(shaped, messages)


@dataclass(frozen=True)
class _Route:
    """Messages from a slice (None: the host) to one wire of another: which of its neurons, and which inputs they are there."""

    source: int | None
    target: int
    wire: int
    chosen: NDArray[np.int64]
    inputs: NDArray[np.int64]


class _Slice:
    """One block of neurons on its core: state, own weights, and a mailbox per incoming projection."""

    def __init__(self, network: Network, core: int, name: str, ranges: tuple[Range, ...], batch: int) -> None:
        self.core = core
        self.population: Population = network[name]
        shape = self.population.shape if len(ranges) == 3 else (self.population.size,)
        block = tuple(slice(start, stop) for start, stop in ranges)
        self.neurons: Int64 = np.arange(self.population.size).reshape(shape)[block].ravel()
        self.u: Int64 = np.zeros((batch, self.neurons.size), dtype=np.int64)
        self.v: Int64 = np.zeros_like(self.u)
        bias: Int64 = np.zeros(self.population.size, dtype=np.int64)
        if self.population.bias is not None:
            bias = np.repeat(self.population.bias, self.population.size // self.population.shape[0]).astype(np.int64)
        self.bias = bias[self.neurons]
        self.wires = [_Wire(p, network, ranges, self.neurons, batch) for p in network.into(name)]
        self.mail = [np.zeros((batch, wire.inputs.size), dtype=np.int64) for wire in self.wires]

    def step(self, drive: Int64) -> Int64:
        neuron = self.population.neuron
        assert isinstance(neuron, Lif | Integrator)  # simulate_mapped refuses others
        arriving = sum((wire.coming[0] for wire in self.wires), start=np.zeros_like(self.u))
        self.u = wrap24(decay(self.u, neuron.current_decay) + (arriving << SHIFT)).astype(np.int64)
        self.v = sat24(decay(self.v, neuron.voltage_decay) + self.u + ((self.bias + drive) << SHIFT)).astype(np.int64)
        fired: NDArray[np.bool_] = self.v > (neuron.threshold << SHIFT)
        self.v[fired] = 0
        return fired.astype(np.int64)

    def forget(self) -> None:
        for mail in self.mail:
            mail[:] = 0

    def accumulate(self) -> None:
        for wire, mail in zip(self.wires, self.mail, strict=True):
            wire.accumulate(mail)


class _Wire:
    """The weights of one projection that end in a slice, as a matrix over the inputs that the slice has synapses of."""

    def __init__(
        self, projection: Projection, network: Network, ranges: tuple[Range, ...], neurons: Int64, batch: int
    ) -> None:
        self.projection = projection
        synapse = projection.synapse
        self.wraps = isinstance(synapse, Conv)
        if isinstance(synapse, Dense):
            self.inputs: Int64 = np.arange(network[projection.source].size)
            self.weight: Int64 = synapse.weight[neurons].astype(np.int64)
        else:
            self.inputs, self.weight = _unrolled(synapse, network[projection.source].shape, ranges)
        delay = np.zeros((1, 1), dtype=np.int64) if projection.delay is None else projection.delay.astype(np.int64)
        self.delay = delay[neurons] if delay.shape[0] > 1 else delay  # of the target neurons, or of the inputs
        self.coming: Int64 = np.zeros((int(self.delay.max()) + 1, batch, neurons.size), dtype=np.int64)

    def accumulate(self, mail: Int64) -> None:
        """Moves the sums under way one step on and adds those of the mail."""
        self.coming = np.concatenate([self.coming[1:], np.zeros_like(self.coming[:1])])
        for steps in np.unique(self.delay):
            weight = np.where(self.delay == steps, self.weight, 0)
            sums = mail @ weight.T
            self.coming[steps] += wrap_signed(sums, 24) if self.wraps else sums


def _unrolled(conv: Conv, source: tuple[int, ...], ranges: tuple[Range, ...]) -> tuple[Int64, Int64]:
    """The inputs (flat, of the whole source) that the slice has synapses of, and int64[neurons, inputs] of their weights."""
    channels, rows, columns = (np.arange(*bounds) for bounds in ranges)
    out, per_group, kernel_y, kernel_x = conv.weight.shape
    inner = (np.arange(n) for n in (per_group, kernel_y, kernel_x))
    o, y, x, i, j, k = np.meshgrid(channels, rows, columns, *inner, indexing="ij")
    row = y * conv.stride[0] + j * conv.dilation[0] - conv.padding[0]
    column = x * conv.stride[1] + k * conv.dilation[1] - conv.padding[1]
    channel = o // (out // conv.groups) * per_group + i
    inside = (row >= 0) & (row < source[1]) & (column >= 0) & (column < source[2])
    flat = ((channel * source[1] + row) * source[2] + column)[inside]
    inputs, place = np.unique(flat, return_inverse=True)
    post = np.arange(math.prod(a.size for a in (channels, rows, columns))).reshape(channels.size, rows.size, columns.size)
    post = np.broadcast_to(post[..., None, None, None], o.shape)[inside]
    weight = np.zeros((channels.size * rows.size * columns.size, inputs.size), dtype=np.int64)
    np.add.at(weight, (post, place.ravel()), conv.weight[o, i, j, k][inside])
    return inputs.astype(np.int64), weight


def _routes(network: Network, slices: list[_Slice]) -> list[_Route]:
    """What each core sends where: its neurons, by place, and the inputs that they are of the target slice's wire."""
    routes = []
    for target, piece in enumerate(slices):
        for number, wire in enumerate(piece.wires):
            if network[wire.projection.source].neuron is None:
                routes.append(_Route(None, target, number, wire.inputs, np.arange(wire.inputs.size)))
                continue
            for source, sender in enumerate(slices):
                if sender.population.name == wire.projection.source:
                    _, chosen, inputs = np.intersect1d(sender.neurons, wire.inputs, assume_unique=True, return_indices=True)
                    if chosen.size:
                        routes.append(_Route(source, target, number, chosen, inputs))
    return routes
