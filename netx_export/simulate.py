"""The exact reference simulation of a network: plain numpy integers, one step after another, as Lava runs them.

Time.  As in Lava every projection takes one step: in *machine step* m = 1, 2, ... the host shows frame m - 1, and a population
at depth d integrates what its sources sent in step m - 1 - delay.  Population p at depth d therefore sees frame t in machine
step t + 1 + d; that t is its *aligned* time, and everything returned here is aligned: index t of any population answers to
index t of the input.  (SLAYER with ``delay_shift=False`` counts in the same way.)

One step of a population::

    where t = phase (mod interval):  u := v := 0                                    (LIFReset)
    a := sum over projections of  W . s_source[m - 1 - delay]
    u := wrap24(dec(u, current_decay) + (a << 6))
    v := sat24(dec(v, voltage_decay) + u + (bias << 6))
    s := v > (threshold << 6);  v := 0 where s                                      (dec, wrap24, sat24: netx_export.integers)

An input population with neurons has a = 0 and takes the host's frame as its bias mantissa.

Sigma-delta populations compute what :class:`netx_export.network.Delta`, ``SigmaDelta`` and ``Sigma`` say, on messages with a
sign; they know no reset (Lava has none for them).  Where states are asked for, u is sigma (of a Delta: what the host shows,
shifted) and v the activation that is encoded (of a Sigma: sigma).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netx_export.errors import ConfigError
from netx_export.integers import SHIFT, decay, sat24, wrap24, wrap_signed
from netx_export.network import (
    Conv,
    Delta,
    Dense,
    Integrator,
    Lif,
    Network,
    Population,
    Projection,
    Rate,
    Sigma,
    SigmaDelta,
    Voltage,
)

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

FRACTION = 12  # of a sigma-delta state: 6 bits of the message's fraction (lava-dl's spike_exp), 6 of the state's (state_exp)
MAX_ENCODED = (1 << 18) - 1  # of a value that Delta neurons encode: the change from one end to the other fits 32 bits


@dataclass(frozen=True)
class Reset:
    """Clears u and v of every population before its aligned steps t = phase (mod interval).

    Lava's ``reset_offset`` is ``phase + 1`` for a network that the host feeds with spikes and ``phase`` for one whose input
    neurons it drives through their bias.  Phase 0 with the interval a sample has is the one recipe without leaks between
    samples; sums under way in a projection with delays are not cleared, neither here nor in Lava.
    """

    interval: int
    phase: int = 0

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise ConfigError(f"reset interval {self.interval}: it must be at least 1 step.")


@dataclass(frozen=True)
class Run:
    """What a simulation recorded, all of it aligned, keyed by population.

    Args:
        spikes: int32 (batch, *shape, time); the input population's are the host's frames, or its neurons' spikes.
        voltage: int32 (batch, *shape, time), v after the reset by a spike, for the populations asked for.
        current: int32, u, likewise.
    """

    spikes: Mapping[str, Int32]
    voltage: Mapping[str, Int32]
    current: Mapping[str, Int32]


WINDOW = Reset(1 << 30)  # one reset, before the first frame arrives


def simulate(
    network: Network,
    spikes: NDArray[np.integer],
    *,
    reset: Reset | None = WINDOW,
    record: Collection[str] | None = None,
    states: Collection[str] | None = None,
) -> Run:
    """Runs ``network`` on a batch of independent inputs from a state of zero.

    Args:
        network: any network.
        spikes: (batch, *input shape, time) integers: 0/1, or graded below 2**input_bits (with a sign, -2**(input_bits - 1) and
            above, where they are messages to sigma-delta neurons); for an input population that has neurons: their bias
            mantissas, or the values that Delta neurons encode.
        reset: when states are cleared; WINDOW (default) once, before frame 0; None never (Lava's plain LIF: biases then
            act from machine step 1, before any spike has arrived).
        record: names of the populations whose spikes are kept; None for all.
        states: names of the populations whose u and v are kept; None for the output only.

    Returns:
        A :class:`Run` with as many steps as the input has.

    Raises:
        ConfigError: for an input of the wrong shape, type or range, or an unknown name.

    Source: Lava 0.10 process models (dense, conv, lif); verified against them and against Intel's recorded vectors.
    """
    frames = check_input(network, spikes)
    kept = check_names(network, record, default=[p.name for p in network.populations])
    probed = check_names(network, states, default=[network.output.name])
    steps = frames.shape[-1]
    depth = network.depth
    machines = {p.name: _machine(p, frames.shape[0]) for p in network.populations if p.neuron is not None}
    wires = [_Wire(p, network[p.source], network[p.target], frames.shape[0]) for p in network.projections]
    out_spikes = {n: np.zeros((frames.shape[0], *network[n].shape, steps), np.int32) for n in kept}
    out_v = {n: np.zeros((frames.shape[0], *network[n].shape, steps), np.int32) for n in probed}
    out_u = {n: np.zeros_like(out_v[n]) for n in probed}

    silence = np.zeros_like(frames[..., 0])
    for machine_step in range(1, steps + max(depth.values()) + 1):
        sent = {}
        for population in network.populations:
            t = machine_step - 1 - depth[population.name]
            frame = frames[..., t] if population is network.input and 0 <= t < steps else silence
            if population.neuron is None:
                sent[population.name] = frame
            else:
                neurons = machines[population.name]
                if reset is not None and t % reset.interval == reset.phase % reset.interval:
                    neurons.clear()
                arriving = sum((w.arriving() for w in wires if w.target == population.name), start=np.int64(0))
                drive = frame if population is network.input else np.int64(0)
                sent[population.name] = neurons.step(arriving, drive)
            if 0 <= t < steps:
                if population.name in out_spikes:
                    out_spikes[population.name][..., t] = sent[population.name]
                if population.name in out_v and population.neuron is not None:
                    neurons = machines[population.name]
                    out_v[population.name][..., t] = neurons.v
                    out_u[population.name][..., t] = neurons.u
        for wire in wires:
            wire.send(sent[wire.source])
    return Run(out_spikes, out_v, out_u)


class _Neurons:
    """u and v of one population, int64 (batch, *shape)."""

    def __init__(self, population: Population, neuron: Lif | Integrator, batch: int) -> None:
        self.neuron = neuron
        self.u: Int64 = np.zeros((batch, *population.shape), np.int64)
        self.v: Int64 = np.zeros_like(self.u)
        self.bias = _bias(population)

    def clear(self) -> None:
        self.u[:] = 0
        self.v[:] = 0

    def step(self, arriving: Int64 | np.int64, drive: Int64 | np.int64) -> Int64:
        self.u = wrap24(decay(self.u, self.neuron.current_decay) + (arriving << SHIFT))
        self.v = sat24(decay(self.v, self.neuron.voltage_decay) + self.u + ((self.bias + drive) << SHIFT))
        fired = self.v > (self.neuron.threshold << SHIFT)
        self.v[fired] = 0
        return fired.astype(np.int64)


class _SigmaDelta:
    """sigma (as u), activation (as v) and residue of one sigma-delta population, int64 (batch, *shape) within 32 bits."""

    def __init__(self, population: Population, neuron: Delta | SigmaDelta | Sigma, batch: int) -> None:
        self.neuron = neuron
        self.u: Int64 = np.zeros((batch, *population.shape), np.int64)
        self.v: Int64 = np.zeros_like(self.u)
        self.residue: Int64 = np.zeros_like(self.u)
        self.bias = wrap_signed(_bias(population) << FRACTION, 32)

    def clear(self) -> None:
        """Nothing: they have no reset."""

    def step(self, arriving: Int64 | np.int64, drive: Int64 | np.int64) -> Int64:
        before = self.v
        if isinstance(self.neuron, Delta):
            self.u = self.v = wrap_signed(np.broadcast_to(drive, before.shape) << FRACTION, 32)
        else:
            self.u = self.v = wrap_signed(self.u + arriving, 32)
        if isinstance(self.neuron, Sigma):
            return self.u
        if isinstance(self.neuron, SigmaDelta):
            self.v = np.maximum(wrap_signed(self.u + self.bias, 32), 0)
        change = wrap_signed(self.v - before + self.residue, 32)
        sent = np.where(np.abs(change) >= (self.neuron.threshold << FRACTION), change, 0)
        self.residue = change - sent
        return sent >> SHIFT


def _bias(population: Population) -> Int64:
    """int64 that broadcasts over (batch, *shape)."""
    if population.bias is None:
        return np.zeros((), np.int64)
    return population.bias.astype(np.int64).reshape((-1,) + (1,) * (len(population.shape) - 1))


def _machine(population: Population, batch: int) -> _Neurons | _SigmaDelta:
    if isinstance(population.neuron, Delta | SigmaDelta | Sigma):
        return _SigmaDelta(population, population.neuron, batch)
    assert population.neuron is not None
    return _Neurons(population, population.neuron, batch)


class _Wire:
    """One projection and the sums that are under way in it: ``coming[i]`` arrives i machine steps from now."""

    def __init__(self, projection: Projection, source: Population, target: Population, batch: int) -> None:
        self.source = projection.source
        self.target = projection.target
        self.synapse = projection.synapse
        self.shape = target.shape
        self.delay = projection.delay
        longest = 0 if self.delay is None else int(self.delay.max())
        self.coming: Int64 = np.zeros((longest + 1, batch, target.size), np.int64)

    def arriving(self) -> Int64:
        sums: Int64 = self.coming[0].reshape(-1, *self.shape)
        return sums

    def send(self, spikes: Int64) -> None:
        """Moves all sums one step on, then adds those of ``spikes``: without a delay they arrive in the next machine step."""
        self.coming = np.concatenate([self.coming[1:], np.zeros_like(self.coming[:1])])
        batch = spikes.shape[0]
        if self.delay is None or isinstance(self.synapse, Conv):
            self.coming[0] += project(self.synapse, spikes).reshape(batch, -1)
        elif self.delay.shape[1] == 1:  # one per target neuron
            posts = np.arange(self.delay.size)
            self.coming[self.delay[:, 0], :, posts] += project(self.synapse, spikes).T
        else:  # one per source neuron
            for steps in np.unique(self.delay):
                chosen = np.where(self.delay[0] == steps, spikes.reshape(batch, -1), 0)
                self.coming[steps] += project(self.synapse, chosen)


def project(synapse: Dense | Conv, spikes: Int64) -> Int64:
    """The sums that one step of spikes causes.

    Dense: ``a[n, post] = sum_pre weight[post, pre] * s[n, pre]`` with the source flattened in C, H, W order.
    Conv: the cross-correlation of :class:`netx_export.network.Conv`, wrapped to 24 bits as Lava's Conv does.

    Args:
        synapse: Dense or Conv.
        spikes: int64 (batch, *source shape).

    Returns:
        int64 (batch, post) or (batch, C, H, W).
    """
    batch = spikes.shape[0]
    if isinstance(synapse, Dense):
        arriving: Int64 = spikes.reshape(batch, -1) @ synapse.weight.T.astype(np.int64)
        return arriving
    channels, height, width = synapse.output_shape(spikes.shape[1:])
    (sy, sx), (py, px), (dy, dx) = synapse.stride, synapse.padding, synapse.dilation
    padded = np.pad(spikes, ((0, 0), (0, 0), (py, py), (px, px)))
    per_group = channels // synapse.groups
    inputs = synapse.weight.shape[1]
    sums = np.zeros((batch, channels, height, width), np.int64)
    for g in range(synapse.groups):
        source = padded[:, g * inputs : (g + 1) * inputs]
        target = sums[:, g * per_group : (g + 1) * per_group]
        kernel = synapse.weight[g * per_group : (g + 1) * per_group].astype(np.int64)
        for j in range(kernel.shape[2]):
            for k in range(kernel.shape[3]):
                y, x = j * dy, k * dx
                patch = source[:, :, y : y + (height - 1) * sy + 1 : sy, x : x + (width - 1) * sx + 1 : sx]
                target += np.einsum("oi,nihw->nohw", kernel[:, :, j, k], patch)
    return wrap_signed(sums, 24)


def synaptic_operations(network: Network, run: Run) -> dict[str, int]:
    """Synaptic operations per projection, ``"source -> target"``: spikes times the non-zero synapses that each one reaches.

    (NeuroBench's effective synaptic operations; a graded spike counts once.)  The spikes of every source must have been
    recorded.
    """
    counts = {}
    for projection in network.projections:
        spikes = np.count_nonzero(run.spikes[projection.source], axis=(0, -1)).astype(np.int64)
        counts[f"{projection.source} -> {projection.target}"] = int((spikes * fan_out(projection.synapse, spikes.shape)).sum())
    return counts


def fan_out(synapse: Dense | Conv, shape: tuple[int, ...]) -> Int64:
    """Non-zero synapses that leave each source neuron.

    Args:
        synapse: Dense or Conv.
        shape: of the source population.

    Returns:
        int64 of that shape.
    """
    if isinstance(synapse, Dense):
        leaving: Int64 = np.count_nonzero(synapse.weight, axis=0).astype(np.int64).reshape(shape)
        return leaving
    _, *size = synapse.output_shape(shape)
    per_group = synapse.weight.shape[0] // synapse.groups
    nonzero = (synapse.weight != 0).reshape(synapse.groups, per_group, *synapse.weight.shape[1:]).sum(axis=1)
    nonzero = nonzero.reshape(shape[0], *synapse.weight.shape[2:]).astype(np.int64)  # (in, ky, kx)
    reach = []  # per axis: taps[i, k] = does input i meet an output through kernel position k?
    for axis in (0, 1):
        n, stride, padding, dilation = shape[1 + axis], synapse.stride[axis], synapse.padding[axis], synapse.dilation[axis]
        position = np.arange(n)[:, None] + padding - np.arange(synapse.weight.shape[2 + axis])[None, :] * dilation
        reach.append(((position % stride == 0) & (position >= 0) & (position // stride < size[axis])).astype(np.int64))
    through_taps: Int64 = np.einsum("cjk,yj,xk->cyx", nonzero, reach[0], reach[1])
    return through_taps


def decide(network: Network, run: Run) -> tuple[Int64, Int64]:
    """The host's answer: class per sample, and how many classes share the highest score (1: no tie).

    Voltage: the output neurons' v at the end of the window.  Rate: spike counts summed over each class's consecutive
    neurons.  Ties go to the lowest class.

    Returns:
        int64 (batch,) classes, int64 (batch,) number of classes at the maximum.

    Raises:
        ConfigError: when the network does not say how it is read.
    """
    return decide_scores(scores(network, run))


def decide_scores(scores: Int64) -> tuple[Int64, Int64]:
    """The lowest class with the highest score, and how many classes share that score.

    Args:
        scores: integers (batch, classes).

    Returns:
        int64 (batch,) classes, int64 (batch,) number of classes at the maximum.
    """
    best = scores.max(axis=1, keepdims=True)
    return scores.argmax(axis=1), (scores == best).sum(axis=1)


def scores(network: Network, run: Run) -> Int64:
    """int64 (batch, classes): what :func:`decide` takes the maximum of."""
    name = network.output.name
    if isinstance(network.readout, Voltage):
        return read_out(network, voltage=run.voltage[name][..., -1])
    return read_out(network, counts=run.spikes[name].sum(axis=-1, dtype=np.int64) if network.readout else None)


def read_out(
    network: Network, *, voltage: NDArray[np.integer] | None = None, counts: NDArray[np.integer] | None = None
) -> Int64:
    """int64 (batch, classes): the scores that the host makes of the output population, wherever it ran.

    Args:
        network: whose read-out decides which of the two is taken.
        voltage: (batch, *output shape), v at the end of the window.
        counts: (batch, *output shape), spikes of the window.

    Raises:
        ConfigError: when the network does not say how it is read.
    """
    if isinstance(network.readout, Voltage) and voltage is not None:
        return voltage.reshape(voltage.shape[0], -1).astype(np.int64)
    if isinstance(network.readout, Rate) and counts is not None:
        per_class: Int64 = counts.reshape(counts.shape[0], network.readout.classes, -1).sum(axis=2, dtype=np.int64)
        return per_class
    raise ConfigError("the network does not say how its output is read; give it a read-out (integrator or rate).")


def check_input(network: Network, spikes: NDArray[np.integer]) -> Int64:
    """The input as int64 (batch, *shape, time), or a sentence about what is wrong with it."""
    return checked(network, spikes).astype(np.int64)


def checked(network: Network, spikes: NDArray[np.integer]) -> NDArray[np.integer]:
    """The input as it is, of any integer type, or a sentence about what is wrong with it."""
    array = np.asarray(spikes)
    expected = network.input.shape
    if array.dtype.kind not in "iub":
        raise ConfigError(f"the input is of type {array.dtype}; whole numbers are expected.")
    if array.ndim != len(expected) + 2 or array.shape[1:-1] != expected:
        raise ConfigError(f"the input has the shape {array.shape}; expected (batch, {', '.join(map(str, expected))}, time).")
    if not array.size:
        raise ConfigError(f"the input has the shape {array.shape}, which is empty.")
    if network.input.neuron is None or isinstance(network.input.neuron, Delta):
        low, high = int(array.min()), int(array.max())
        least, most = input_range(network)
        if low < least or high > most:
            what, why = ("spikes", f"input_bits {network.input_bits}") if network.input.neuron is None else ("values", "Delta")
            raise ConfigError(f"input {what} {low}..{high}; this network takes {least}..{most} ({why}).")
    return array


def input_range(network: Network) -> tuple[int, int]:
    """The least and the largest value of an input that is not a bias: spikes, messages, or what Delta neurons encode."""
    if isinstance(network.input.neuron, Delta):
        return -MAX_ENCODED, MAX_ENCODED
    if network.has_signed_input:
        return -(1 << network.input_bits >> 1), max((1 << network.input_bits >> 1) - 1, 0)
    return 0, (1 << network.input_bits) - 1 if network.input_bits else 1


def check_names(network: Network, names: Collection[str] | None, default: list[str]) -> list[str]:
    """The populations asked for, or the default; refuses unknown names."""
    known = [p.name for p in network.populations]
    for name in names or ():
        if name not in known:
            raise ConfigError(f"there is no population {name!r}; the network has {', '.join(known)}.")
    return default if names is None else list(names)
