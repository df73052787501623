"""Generators of networks, inputs and shapes for the tests of all packages (Hypothesis).

``networks()`` draws chains with every feature of the netx file; ``cases()`` draws chains together with an input that keeps
every layer alive (thresholds are chosen from the layer's own voltages), because equality on silent networks proves nothing;
``graphs()`` adds skips and loops.  Structure is drawn by Hypothesis (so that it shrinks), values come from a seeded generator.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import NDArray

from netx_export.network import (
    Conv,
    Dense,
    Drive,
    Integrator,
    Lif,
    Network,
    Neuron,
    Population,
    Projection,
    Rate,
    Readout,
    Synapse,
    Voltage,
)
from netx_export.simulate import Run, simulate

Integers: TypeAlias = NDArray[Any]

LOW, HIGH = 0.02, 0.80  # a layer that fires is one that fires at that many of its (sample, neuron, step)
MAX_STATE = 1 << 23  # of u and v: the bound of design.md's contract point 5


@dataclass(frozen=True)
class Case:
    """A network and an input under which each of its layers fires.

    Args:
        network: a chain; ``network.steps`` is the input's number of steps.
        frames: int64 (samples, *input shape, time), what ``simulate`` takes.
    """

    network: Network
    frames: Integers


# --- shapes


@st.composite
def shapes(draw: st.DrawFn, largest: int = 7) -> tuple[int, int, int]:
    """(C, H, W) of a population, 1..4 channels."""
    return (draw(st.integers(1, 4)), draw(st.integers(1, largest)), draw(st.integers(1, largest)))


@st.composite
def geometries(draw: st.DrawFn, source: tuple[int, ...], out: int = 5) -> Conv:
    """A convolution of ones that takes ``source`` (C, H, W): any stride, padding, dilation and groups that fit."""
    channels = source[0]
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    pairs = []
    for size in source[1:]:
        p = draw(st.integers(0, 2))
        k = draw(st.integers(1, min(3, size + 2 * p)))
        d = draw(st.integers(1, 2)) if size + 2 * p >= 2 * (k - 1) + 1 else 1
        s = draw(st.integers(1, 3))
        pairs.append((k, s, p, d))
    kernel, stride, padding, dilation = zip(*pairs, strict=True)
    channels_out = groups * draw(st.integers(1, max(1, out // groups)))
    ones = np.ones((channels_out, channels // groups, *kernel), np.int32)
    return Conv(ones, (stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1]), groups)


@st.composite
def sum_pools(draw: st.DrawFn, source: tuple[int, ...]) -> Conv:
    """A sum-pooling of ``source`` as SLAYER exports it: depthwise, stride = kernel, one weight for all."""
    ky, kx = draw(st.integers(1, min(2, source[1]))), draw(st.integers(1, min(2, source[2])))
    weight = np.full((source[0], 1, ky, kx), 1 << draw(st.integers(0, 6)), np.int32)
    return Conv(weight, (ky, kx), groups=source[0])


# --- values


def weights(rng: np.random.Generator, shape: tuple[int, ...], bits: int, shift: int) -> Integers:
    """Integers of ``bits`` bits times ``2**shift``, more of them positive than negative, never all zero."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    values = np.maximum(rng.integers(low, high + 1, shape), rng.integers(low, high + 1, shape))
    if not values.any():
        values.flat[rng.integers(values.size)] = high
    return values << shift


def bounded(weight: Integers, neuron: Neuron, bias: int, largest: int, steps: int) -> Integers:
    """``weight``, halved until neither u nor v can reach 2**23 in ``steps`` steps of inputs up to ``largest``."""
    while np.abs(weight).max() > 1:
        reach = 64.0 * float(np.abs(weight).reshape(weight.shape[0], -1).sum(axis=1).max()) * largest
        u = v = 0.0
        for _ in range(steps):
            u = u * (4096 - neuron.current_decay) / 4096 + reach
            v = v * (4096 - neuron.voltage_decay) / 4096 + u + 64.0 * bias
        if max(u, v) < MAX_STATE:
            break
        weight = np.fix(weight / 2).astype(np.int64)
        if not weight.any():
            weight.flat[0] = 1
    return weight


DECAYS = st.sampled_from([0, 1, 100, 1024, 2048, 4095, 4096]) | st.integers(0, 4096)


@st.composite
def neurons(draw: st.DrawFn) -> Lif:
    """LIF, IF (no leak) and the common one whose current has no memory, with a threshold that says nothing yet."""
    kind = draw(st.sampled_from(["leaky", "leaky", "current", "if"]))
    threshold = draw(st.integers(1, 4000))
    if kind == "if":
        return Lif(0, 0, threshold)
    if kind == "current":
        return Lif(4096, draw(DECAYS), threshold)
    return Lif(draw(DECAYS), draw(DECAYS), threshold)


# --- networks


@st.composite
def networks(
    draw: st.DrawFn,
    *,
    convs: int = 2,
    denses: int = 2,
    graded: bool | None = None,
    driven: bool | None = None,
    delays: bool = True,
    readouts: bool = True,
    steps: tuple[int, int] = (2, 10),
    safe: bool = True,
) -> Network:
    """Chains: convolutions and sum-pools, then dense layers; biases, LIF, IF and read-out neurons.

    Args:
        convs, denses: at most that many layers of the kind; one layer at least.
        graded, driven: whether the input is graded, or a population that the host drives through its bias; None: any.
        delays: whether dense layers may have axonal delays.
        readouts: whether the last population may be an Integrator, and the network may say how it is read.
        steps: the window's shortest and longest length.
        safe: no state can overflow (contract point 5); False: weights as they come, up to -256..254.
    """
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    window = draw(st.integers(*steps))
    number_of_convs = draw(st.integers(0, convs))
    number_of_denses = draw(st.integers(0 if number_of_convs else 1, denses)) if denses else 0
    image = number_of_convs > 0 or draw(st.booleans())
    shape: tuple[int, ...] = draw(shapes()) if image else (draw(st.integers(2, 12)),)
    is_driven = draw(st.booleans()) and draw(st.booleans()) if driven is None else driven
    is_graded = not is_driven and (draw(st.booleans()) if graded is None else graded)
    bits = draw(st.integers(1, 4)) if is_graded else 0
    largest = (1 << bits) - 1 if bits else 1
    populations = [Population("in", shape)]
    if is_driven:
        drive = draw(st.sampled_from([None, Drive(), Drive(36, 34), Drive(-3, 0)]))
        populations = [Population("in", shape, draw(neurons()), drive=drive)]
    projections: list[Projection] = []

    def connect(name: str, synapse: Synapse, shape: tuple[int, ...], last: bool) -> None:
        neuron: Neuron = draw(neurons())
        if last and readouts and draw(st.booleans()):
            neuron = Integrator(neuron.current_decay, neuron.voltage_decay)
        bias: Integers | None = rng.integers(-20, 21, shape[0]) if draw(st.booleans()) else None
        weight: Integers = synapse.weight.astype(np.int64)
        if weight.min() == weight.max() == 1:  # not a sum-pool with a weight of its own
            width = draw(st.integers(2, 8))
            weight = weights(rng, weight.shape, width, draw(st.integers(0, 9 - width)))
        if safe:
            weight = bounded(weight, neuron, 20, largest if len(populations) == 1 else 1, window)
        delay: Integers | None = None
        if delays and isinstance(synapse, Dense) and draw(st.booleans()):
            post, pre = weight.shape
            delay = rng.integers(0, draw(st.sampled_from([2, 4, 62])) + 1, (post, 1))
            if post != pre and draw(st.booleans()):
                delay = rng.integers(0, 4, (1, pre))
        source = populations[-1].name
        populations.append(Population(name, shape, neuron, bias))
        projections.append(Projection(source, name, dataclasses.replace(synapse, weight=weight), delay))

    total = number_of_convs + number_of_denses
    for i in range(number_of_convs):
        source = populations[-1].shape
        conv = draw(sum_pools(source) if draw(st.integers(0, 3)) == 0 else geometries(source))
        connect(f"conv{i}", conv, conv.output_shape(source), len(projections) == total - 1)
    for i in range(number_of_denses):
        size = draw(st.integers(2, 10))
        ones = np.ones((size, populations[-1].size), np.int32)
        connect(f"dense{i}", Dense(ones), (size,), len(projections) == total - 1)
    readout: Readout | None = None
    if readouts:
        size = populations[-1].size
        readout = draw(st.sampled_from([None, Voltage(), *(Rate(n) for n in (1, 2, size) if size % n == 0)]))
    stated = window if draw(st.booleans()) else None
    return Network(tuple(populations), tuple(projections), readout, bits, stated)


@st.composite
def graphs(draw: st.DrawFn) -> Network:
    """A chain with, perhaps, a skip from the first to the last population and a loop at the last one (netx has neither)."""
    chain = draw(networks(driven=False, delays=True, readouts=False))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    first, last = chain.input, chain.output
    more = []
    if draw(st.booleans()):
        more.append(Projection(first.name, last.name, Dense(weights(rng, (last.size, first.size), 5, 0))))
    if draw(st.booleans()):
        more.append(Projection(last.name, last.name, Dense(weights(rng, (last.size, last.size), 4, 0))))
    return dataclasses.replace(chain, projections=(*chain.projections, *more))


# --- inputs


@st.composite
def inputs(draw: st.DrawFn, network: Network, samples: int = 2, steps: int | None = None) -> Integers:
    """Frames for a network: spikes, graded spikes, or the bias mantissas that drive its input, (samples, *shape, time)."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    time = steps or network.steps or draw(st.integers(2, 10))
    shape = (samples, *network.input.shape, time)
    if network.input.neuron is not None:
        return np.repeat(rng.integers(-10, 90, (*shape[:-1], 1)), time, axis=-1)
    rate = draw(st.sampled_from([0.3, 0.5, 0.7]))
    largest = (1 << network.input_bits) - 1 if network.input_bits else 1
    frames = np.where(rng.random(shape) < rate, rng.integers(1, largest + 1, shape), 0)
    frames[0].flat[0] = largest  # never silent
    return frames


def consecutive(frames: Integers, interval: int) -> Integers:
    """Samples one after another as one long input (1, *shape, samples * interval), idle steps after each."""
    idle = np.zeros((*frames.shape[:-1], interval - frames.shape[-1]), frames.dtype)
    return np.concatenate([np.concatenate([frames, idle], axis=-1)[n : n + 1] for n in range(len(frames))], axis=-1)


# --- life


def lively(network: Network, run: Run, low: float = LOW, high: float = HIGH) -> bool:
    """Whether each layer that can fire does so at 2..80 %, with a spike (a reset) before the last step, and read-outs move."""
    for population in network.populations:
        spikes = run.spikes[population.name]
        if isinstance(population.neuron, Integrator):
            if not run.voltage[population.name].any():
                return False
        elif population.neuron is not None and not (low <= spikes.mean() <= high and spikes[..., :-1].any()):
            return False
    return True


def enlivened(network: Network, frames: Integers) -> Network:
    """The chain with thresholds at which each of its layers fires, chosen from the voltages that the layer reaches.

    The layer's voltages without spikes are computed from what really arrives; thresholds at their quantiles are tried from the
    middle on, and a layer whose sums are nearly all negative gets its weights' signs turned.
    """
    populations, projections = [network.input], list(network.projections)
    spikes: NDArray[Any] = frames
    if network.input.neuron is not None:
        populations, spikes = [_calibrated(Network((network.input,), ()), frames)[0]], spikes
        spikes = simulate(Network((populations[0],), ()), frames).spikes[network.input.name]
    for i, (population, projection) in enumerate(zip(network.populations[1:], network.projections, strict=True)):
        host = Population(projection.source, populations[-1].shape)
        layer = Network((host, population), (projection,), input_bits=network.input_bits if i == 0 else 0)
        calibrated, negated = _calibrated(layer, spikes)
        if negated:
            synapse = projection.synapse
            turned = np.maximum(-synapse.weight.astype(np.int64), -256)
            turned = np.where(turned > 254, 254, turned)
            projections[i] = dataclasses.replace(projection, synapse=dataclasses.replace(synapse, weight=turned))
        layer = dataclasses.replace(layer, populations=(host, calibrated), projections=(projections[i],))
        spikes = simulate(layer, spikes, record=[population.name]).spikes[population.name]
        populations.append(calibrated)
    return dataclasses.replace(network, populations=tuple(populations), projections=tuple(projections), steps=frames.shape[-1])


def _calibrated(layer: Network, frames: NDArray[Any]) -> tuple[Population, bool]:
    """The layer's last population with a threshold at which it fires, and whether its weights must be negated for that."""
    population = layer.output
    if not isinstance(population.neuron, Lif):
        return population, False

    def with_threshold(threshold: int) -> Population:
        assert isinstance(population.neuron, Lif)
        return dataclasses.replace(population, neuron=dataclasses.replace(population.neuron, threshold=threshold))

    def runs(changed: Population, negate: bool) -> Run:
        projections = layer.projections
        if negate:
            (p,) = projections
            projections = (dataclasses.replace(p, synapse=dataclasses.replace(p.synapse, weight=-p.synapse.weight)),)
        return simulate(
            dataclasses.replace(layer, populations=(*layer.populations[:-1], changed), projections=projections), frames
        )

    choices: list[tuple[float, Population, bool]] = []
    for negate in (False, True) if layer.projections else (False,):
        free = runs(with_threshold(1 << 24), negate).voltage[population.name]
        for quantile in (0.7, 0.5, 0.85, 0.95, 0.3):
            threshold = math.floor(np.quantile(free, quantile)) >> 6
            if not 1 <= threshold <= 131070:
                continue
            changed = with_threshold(threshold)
            spikes = runs(changed, negate).spikes[population.name]
            rate = float(spikes.mean()) if spikes[..., :-1].any() else 0.0
            choices.append((abs(rate - 0.3), changed, negate))
            if 0.1 <= rate <= 0.6:
                return changed, negate
    if not choices:
        return population, False
    best = min(choices, key=lambda choice: choice[0])
    return best[1], best[2]


@st.composite
def cases(draw: st.DrawFn, /, *, samples: int = 2, **options: Any) -> Case:
    """A chain of :func:`networks` (same options) with an input under which every layer fires; ``network.steps`` is set."""
    network = draw(networks(**options))
    low, high = options.get("steps", (2, 10))
    frames = draw(inputs(network, samples, network.steps or draw(st.integers(low, high))))
    network = enlivened(network, frames)
    everything = [p.name for p in network.populations if p.neuron is not None]
    assume(lively(network, simulate(network, frames, states=everything)))
    return Case(network, frames)
