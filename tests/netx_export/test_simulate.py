"""The reference simulator against a slower and plainer one, written here synapse by synapse in Python integers.

``reference`` takes nothing from netx_export.simulate: it enumerates synapses from the definition of the convolution, keeps a
calendar of arriving sums, and steps each neuron on its own, from the equations in :class:`netx_export.network.Lif` and Lava
0.10's ``PyLifModelBitAcc``, ``PyDenseModelBitAcc``, ``PyDelayDenseModelBitAcc`` and ``PyConvModelFixed``.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import Case, cases, consecutive, geometries, graphs, inputs, networks, shapes

from netx_export.errors import ConfigError
from netx_export.network import Conv, Dense, Integrator, Lif, Network, Population, Projection, Rate, Synapse, Voltage
from netx_export.simulate import WINDOW, Reset, Run, decide, fan_out, scores, simulate, synaptic_operations

LIF = Lif(4096, 1024, 10)


# --- the independent simulator


def synapses(synapse: Synapse, source: tuple[int, ...], target: tuple[int, ...]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """(flat source neuron, flat target neuron, index of the weight) of every synapse, by its definition."""
    if isinstance(synapse, Dense):
        for post, pre in itertools.product(*(range(n) for n in synapse.weight.shape)):
            yield pre, post, (post, pre)
        return
    channels_out, inputs_per_group, ky, kx = synapse.weight.shape
    (_, height, width), (_, rows, columns) = source, target
    for o, y, x in itertools.product(range(channels_out), range(rows), range(columns)):
        group = o // (channels_out // synapse.groups)
        for i, j, k in itertools.product(range(inputs_per_group), range(ky), range(kx)):
            row = y * synapse.stride[0] + j * synapse.dilation[0] - synapse.padding[0]
            column = x * synapse.stride[1] + k * synapse.dilation[1] - synapse.padding[1]
            if 0 <= row < height and 0 <= column < width:
                pre = ((group * inputs_per_group + i) * height + row) * width + column
                yield pre, (o * rows + y) * columns + x, (o, i, j, k)


def turned(value: int) -> int:
    """24-bit current of Lava: +2**23 stays, -2**23 turns."""
    if value > 2**23:
        return value - 2**24
    return value + 2**24 if value <= -(2**23) else value


def decayed(value: int, rate: int) -> int:
    kept = abs(value) * (4096 - rate) // 4096
    return kept if value >= 0 else -kept


def depths(network: Network) -> dict[str, int]:
    """Longest path from the input, projections that go back left out."""
    order = [p.name for p in network.populations]
    found = {order[0]: 0}
    for name in order[1:]:
        before = [p.source for p in network.projections if p.target == name and order.index(p.source) < order.index(name)]
        found[name] = 1 + max(found[source] for source in before)
    return found


def reference(network: Network, frames: NDArray[Any], interval: int | None = None, phase: int = 0) -> dict[str, NDArray[Any]]:
    """Spikes, u and v of every population, stacked: (3, samples, neurons, steps), aligned as ``simulate`` says."""
    samples, steps = frames.shape[0], frames.shape[-1]
    depth = depths(network)
    size = {p.name: math.prod(p.shape) for p in network.populations}
    shape = {p.name: p.shape for p in network.populations}
    wires = []
    for p in network.projections:
        leaving = defaultdict(list)
        for pre, post, index in synapses(p.synapse, shape[p.source], shape[p.target]):
            delay = 0
            if p.delay is not None:
                delay = int(p.delay[post, 0] if p.delay.shape[1] == 1 else p.delay[0, pre])
            leaving[pre].append((post, int(p.synapse.weight[index]), delay))
        wires.append((p.source, p.target, leaving, isinstance(p.synapse, Conv)))
    out = {name: np.zeros((3, samples, n, steps), np.int64) for name, n in size.items()}
    for sample in range(samples):
        u = {name: [0] * n for name, n in size.items()}
        v = {name: [0] * n for name, n in size.items()}
        calendar: dict[tuple[int, str, int], int] = defaultdict(int)  # (machine step, population, neuron): sum
        for m in range(1, steps + max(depth.values()) + 1):
            sent = {}
            for p in network.populations:
                t = m - 1 - depth[p.name]
                host = [0] * size[p.name]
                if p is network.populations[0] and 0 <= t < steps:
                    host = [int(x) for x in frames[sample, ..., t].reshape(-1)]
                spikes = host
                if p.neuron is not None:
                    if interval is not None and (t - phase) % interval == 0:
                        u[p.name], v[p.name] = [0] * size[p.name], [0] * size[p.name]
                    spikes = []
                    for n in range(size[p.name]):
                        bias = 0 if p.bias is None else int(p.bias[n // (size[p.name] // p.shape[0])])
                        if p is network.populations[0]:
                            bias += host[n]
                        arrived = calendar.pop((m, p.name, n), 0)
                        current = turned(decayed(u[p.name][n], p.neuron.current_decay) + 64 * arrived)
                        voltage = decayed(v[p.name][n], p.neuron.voltage_decay) + current + 64 * bias
                        voltage = max(-(2**23) + 1, min(2**23 - 1, voltage))
                        fired = voltage > 64 * p.neuron.threshold
                        u[p.name][n], v[p.name][n] = current, 0 if fired else voltage
                        spikes.append(int(fired))
                sent[p.name] = spikes
                if 0 <= t < steps:
                    out[p.name][0, sample, :, t] = spikes
                    out[p.name][1, sample, :, t] = u[p.name]
                    out[p.name][2, sample, :, t] = v[p.name]
            for source, target, leaving, is_conv in wires:
                sums: dict[tuple[int, int], int] = defaultdict(int)
                for pre, spike in enumerate(sent[source]):
                    if spike:
                        for post, weight, delay in leaving[pre]:
                            sums[delay, post] += weight * spike
                for (delay, post), total in sums.items():
                    if is_conv:
                        total = (total + 2**23) % 2**24 - 2**23
                    calendar[m + 1 + delay, target, post] += total
    return out


def stacked(network: Network, frames: NDArray[Any], reset: Reset | None = WINDOW) -> dict[str, NDArray[Any]]:
    """What ``simulate`` makes of it, in the same form."""
    names = [p.name for p in network.populations]
    run = simulate(network, frames, reset=reset, states=names)
    flat = (len(frames), -1, frames.shape[-1])
    return {n: np.stack([x[n].reshape(flat) for x in (run.spikes, run.current, run.voltage)]).astype(np.int64) for n in names}


def equal(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# --- equal to it


@settings(max_examples=60)
@given(st.data())
def test_equals_the_synapse_by_synapse_simulator(data: st.DataObject) -> None:
    case = data.draw(cases())
    steps = case.frames.shape[-1]
    kind = data.draw(st.sampled_from(["window", "never", "interval"]))
    event(kind)
    event("delays" if any(p.delay is not None for p in case.network.projections) else "no delays")
    interval, phase, reset = None, 0, None
    if kind == "window":
        interval, reset = 1 << 30, WINDOW
    elif kind == "interval":
        interval, phase = data.draw(st.integers(1, steps)), data.draw(st.integers(0, steps))
        reset = Reset(interval, phase)
    assert equal(stacked(case.network, case.frames, reset), reference(case.network, case.frames, interval, phase))


@settings(max_examples=30)
@given(st.data())
def test_equals_it_on_graphs_with_skips_and_loops(data: st.DataObject) -> None:
    network = data.draw(graphs())
    frames = data.draw(inputs(network))
    event(f"{len(network.projections) - len(network.populations) + 1} beside the chain")
    assert equal(stacked(network, frames), reference(network, frames, 1 << 30))


@settings(max_examples=20)
@given(st.data())
def test_equals_it_where_states_overflow(data: st.DataObject) -> None:
    """Current turns round, voltage saturates: weights of 8 bits and more, enlarged by what no freezing would let through."""
    network = data.draw(networks(convs=1, delays=False, safe=False, steps=(4, 8)))
    frames = data.draw(inputs(network))
    (first, *rest) = network.projections
    large = dataclasses.replace(first, synapse=dataclasses.replace(first.synapse, weight=first.synapse.weight * 1001))
    network = dataclasses.replace(network, projections=(large, *rest))
    assert equal(stacked(network, frames), reference(network, frames, 1 << 30))


def single(weight: int, neuron: Lif | Integrator, frames: list[int], bias: int = 0, bits: int = 24) -> Run:
    network = Network(
        (Population("in", (1,)), Population("out", (1,), neuron, np.array([bias]))),
        (Projection("in", "out", Dense(np.array([[weight]]))),),
        input_bits=bits,
    )
    return simulate(network, np.array(frames)[None, None])


def test_worked_by_hand() -> None:
    """u: 64*7 = 448, halved to 224, + 448 = 672; v quarters away: 448 - 112 = 336, + 224 ...; threshold 10*64 = 640."""
    run = single(7, Lif(2048, 1024, 10), [1, 0, 1, 0])
    assert run.current["out"].tolist() == [[[448, 224, 560, 280]]]
    # 448; 336 + 224 = 560; 420 + 560 = 980 > 640: spike, 0; 280
    assert run.voltage["out"].tolist() == [[[448, 560, 0, 280]]]
    assert run.spikes["out"].tolist() == [[[0, 0, 1, 0]]]


def test_a_voltage_at_the_threshold_does_not_fire() -> None:
    assert single(10, Lif(4096, 4096, 10), [1]).spikes["out"].tolist() == [[[0]]]
    assert single(10, Lif(4096, 4096, 9), [1]).spikes["out"].tolist() == [[[1]]]
    assert single(10, Lif(4096, 4096, 10), [1], bias=1).spikes["out"].tolist() == [[[1]]]


@pytest.mark.parametrize(
    ("total", "u", "v"),
    [
        (2**17, 2**23, 2**23 - 1),  # +2**23 stays in u; v saturates below it
        (2**17 + 1, 2**23 + 64 - 2**24, -(2**23) + 64),
        (-(2**17), 2**23, 2**23 - 1),  # -2**23 turns
        (-(2**17) + 1, -(2**23) + 64, -(2**23) + 64),
    ],
)
def test_edges_of_24_bits(total: int, u: int, v: int) -> None:
    run = single(total, Integrator(4096, 0), [1])
    assert (run.current["out"].item(), run.voltage["out"].item()) == (u, 0 if v > 131071 * 64 else v)
    run = single(total, Lif(4096, 0, 1 << 24), [1])
    assert (run.current["out"].item(), run.voltage["out"].item()) == (u, v)


# --- time


@settings(max_examples=25)
@given(st.data())
def test_samples_one_after_another_equal_samples_apart(data: st.DataObject) -> None:
    """The recipe without leaks: interval R, phase 0, without delays; R may exceed the window T, T be below the depth."""
    case = data.draw(cases(delays=False, samples=3))
    steps = case.frames.shape[-1]
    interval = steps + data.draw(st.integers(0, 3))
    event("T below the depth" if steps < len(case.network.projections) else "T at least the depth")
    apart = stacked(case.network, case.frames)
    joined = stacked(case.network, consecutive(case.frames, interval), Reset(interval))
    for name, states in joined.items():
        for n in range(3):
            window = states[:, 0, :, n * interval : n * interval + steps]
            assert np.array_equal(window, apart[name][:, n])


def test_delays_leak_into_the_next_sample() -> None:
    """As in Lava: a reset clears u and v, not the sums that are under way."""
    network = Network(
        (Population("in", (1,)), Population("out", (1,), Lif(4096, 4096, 100))),
        (Projection("in", "out", Dense(np.array([[5]])), np.array([[3]])),),
    )
    frames = np.array([[[0, 1]], [[0, 0]]])
    run = simulate(network, consecutive(frames, 4), reset=Reset(4))
    assert run.current["out"].tolist() == [[[0, 0, 0, 0, 320, 0, 0, 0]]]


def test_without_a_reset_biases_act_before_the_first_frame() -> None:
    """Never reset, a population at depth d has integrated its bias for d steps when frame 0 arrives."""
    populations = (
        Population("in", (1,)),
        Population("a", (1,), Integrator(), np.array([1])),
        Population("b", (1,), Integrator(), np.array([1])),
    )
    one = Dense(np.array([[1]]))
    network = Network(populations, (Projection("in", "a", one), Projection("a", "b", one)))
    run = simulate(network, np.zeros((1, 1, 2), np.int8), reset=None, states=["a", "b"])
    assert run.voltage["a"].tolist() == [[[128, 192]]]
    assert run.voltage["b"].tolist() == [[[192, 256]]]
    assert simulate(network, np.zeros((1, 1, 2), np.int8), states=["b"]).voltage["b"].tolist() == [[[64, 128]]]


@given(st.data())
@settings(max_examples=15)
def test_input_is_not_changed_and_batches_do_not_mix(data: st.DataObject) -> None:
    case = data.draw(cases(samples=3))
    before = case.frames.copy()
    together = stacked(case.network, case.frames)
    assert np.array_equal(before, case.frames)
    for n in range(3):
        alone = stacked(case.network, case.frames[n : n + 1])
        assert all(np.array_equal(alone[name][:, 0], together[name][:, n]) for name in alone)


# --- mutations


@settings(max_examples=30)
@given(st.data())
def test_one_weight_more_is_caught(data: st.DataObject) -> None:
    """Any synapse whose source fires: the comparison above sees a weight that is one larger."""
    case = data.draw(cases(delays=False))
    good = reference(case.network, case.frames, 1 << 30)
    i = data.draw(st.integers(0, len(case.network.projections) - 1))
    projection = case.network.projections[i]
    source, target = case.network[projection.source], case.network[projection.target]
    fired = good[projection.source][0].any(axis=(0, 2))
    used = sorted({index for pre, _, index in synapses(projection.synapse, source.shape, target.shape) if fired[pre]})
    if not used:  # every spike falls where the stride or the padding loses it
        event("no synapse is reached")
        return
    weight = projection.synapse.weight.copy()
    weight[data.draw(st.sampled_from(used))] += 1
    mutated = dataclasses.replace(projection, synapse=dataclasses.replace(projection.synapse, weight=weight))
    projections = (*case.network.projections[:i], mutated, *case.network.projections[i + 1 :])
    assert not equal(stacked(dataclasses.replace(case.network, projections=projections), case.frames), good)


@settings(max_examples=30)
@given(cases(delays=False, samples=3, driven=False, readouts=False, steps=(3, 9)))
def test_a_reset_one_step_late_is_caught(case: Case) -> None:
    """Phase 1 (Lava's reset_offset 2 instead of 1) over consecutive samples, wherever it makes a difference at all."""
    interval = case.frames.shape[-1]
    frames = consecutive(case.frames, interval)
    good = reference(case.network, frames, interval)
    assert equal(stacked(case.network, frames, Reset(interval)), good)
    late = reference(case.network, frames, interval, 1)
    event("no difference (no memory)" if equal(late, good) else "a difference")
    assert equal(stacked(case.network, frames, Reset(interval, 1)), late)
    if any(p.neuron is not None and p.neuron.voltage_decay <= 2048 for p in case.network.populations):
        assert not equal(late, good)


def test_a_late_reset_is_caught_by_spikes_alone() -> None:
    rng = np.random.default_rng(5)
    network = Network(
        (Population("in", (12,)), Population("a", (10,), Lif(1024, 256, 20)), Population("b", (6,), Lif(2048, 256, 25))),
        (
            Projection("in", "a", Dense(rng.integers(-6, 9, (10, 12)))),
            Projection("a", "b", Dense(rng.integers(-6, 9, (6, 10)))),
        ),
    )
    frames = (rng.random((1, 12, 40)) < 0.4).astype(np.int64)
    good = simulate(network, frames, reset=Reset(8)).spikes
    assert all(0.02 <= good[name].mean() <= 0.8 for name in "ab")
    late = simulate(network, frames, reset=Reset(8, 1)).spikes
    assert not np.array_equal(late["b"], good["b"])
    caught = 0
    for index in itertools.product(range(10), range(12)):
        weight = network.projections[0].synapse.weight.copy()
        weight[index] += 1
        first = dataclasses.replace(network.projections[0], synapse=Dense(weight))
        changed = dataclasses.replace(network, projections=(first, network.projections[1]))
        spikes = simulate(changed, frames, reset=Reset(8)).spikes
        caught += not (np.array_equal(spikes["a"], good["a"]) and np.array_equal(spikes["b"], good["b"]))
    assert caught >= 60  # of 120, seen by spikes without any state


# --- operations


@settings(max_examples=60)
@given(st.data())
def test_fan_out_counts_every_synapse(data: st.DataObject) -> None:
    source = data.draw(shapes())
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    synapse: Synapse
    if data.draw(st.booleans()):
        ones = data.draw(geometries(source))
        synapse = dataclasses.replace(ones, weight=rng.integers(-1, 2, ones.weight.shape))
        target: tuple[int, ...] = ones.output_shape(source)
    else:
        target = (3,)
        synapse = Dense(rng.integers(-1, 2, (3, math.prod(source))))
    counted = np.zeros(math.prod(source), np.int64)
    for pre, _, index in synapses(synapse, source, target):
        counted[pre] += synapse.weight[index] != 0
    assert np.array_equal(fan_out(synapse, source), counted.reshape(source))


@settings(max_examples=15)
@given(cases())
def test_synaptic_operations_count_spikes_times_synapses(case: Case) -> None:
    run = simulate(case.network, case.frames)
    expected = {}
    for p in case.network.projections:
        spikes = np.count_nonzero(run.spikes[p.source], axis=-1).reshape(len(case.frames), -1).sum(axis=0)
        pairs = synapses(p.synapse, case.network[p.source].shape, case.network[p.target].shape)
        expected[f"{p.source} -> {p.target}"] = sum(int(spikes[pre]) for pre, _, i in pairs if p.synapse.weight[i])
    assert synaptic_operations(case.network, run) == expected
    assert any(expected.values())


# --- the answer


def answering(readout: Voltage | Rate | None, size: int = 4) -> Network:
    """Weights of one input that spread over the outputs as 3, 5, 5, 1."""
    return Network(
        (Population("in", (1,)), Population("out", (size,), Integrator() if readout != Rate(2) else Lif(4096, 4096, 4))),
        (Projection("in", "out", Dense(np.array([[3], [5], [5], [1]]))),),
        readout,
    )


def test_ties_go_to_the_lowest_class_and_are_counted() -> None:
    run = simulate(answering(Voltage()), np.ones((1, 1, 2), np.int8))
    assert scores(answering(Voltage()), run).tolist() == [[384, 640, 640, 128]]
    classes, tied = decide(answering(Voltage()), run)
    assert (classes.tolist(), tied.tolist()) == ([1], [2])


def test_rate_sums_the_neurons_of_each_class() -> None:
    run = simulate(answering(Rate(2)), np.array([[[1, 0, 1]], [[0, 0, 0]]]))
    assert scores(answering(Rate(2)), run).tolist() == [[2, 2], [0, 0]]
    classes, tied = decide(answering(Rate(2)), run)
    assert (classes.tolist(), tied.tolist()) == ([0, 0], [2, 2])


def test_only_what_is_asked_for_is_kept() -> None:
    network = answering(Voltage())
    run = simulate(network, np.ones((1, 1, 2), np.int8), record=[], states=["out"])
    assert (set(run.spikes), set(run.voltage), set(run.current)) == (set(), {"out"}, {"out"})
    assert decide(network, run)[0].tolist() == [1]


# --- errors


def test_errors() -> None:
    network = answering(None)
    frames = np.ones((1, 1, 2), np.int8)
    with pytest.raises(ConfigError, match=r"the network does not say how its output is read; give it a read-out"):
        decide(network, simulate(network, frames))
    with pytest.raises(ConfigError, match=r"reset interval 0: it must be at least 1 step"):
        Reset(0)
    with pytest.raises(ConfigError, match=r"the input is of type float64; whole numbers are expected"):
        simulate(network, frames * 1.0)
    with pytest.raises(ConfigError, match=r"the input has the shape \(1, 2\); expected \(batch, 1, time\)"):
        simulate(network, frames[0])
    with pytest.raises(ConfigError, match=r"the input has the shape \(1, 2, 1\); expected \(batch, 1, time\)"):
        simulate(network, frames.transpose(0, 2, 1))
    with pytest.raises(ConfigError, match=r"the input has the shape \(0, 1, 2\), which is empty"):
        simulate(network, frames[:0])
    with pytest.raises(ConfigError, match=r"input spikes 0\.\.2; this network takes 0\.\.1 \(input_bits 0\)"):
        simulate(network, np.array([[[0, 2]]]))
    with pytest.raises(ConfigError, match=r"input spikes -1\.\.1; this network takes 0\.\.1"):
        simulate(network, np.array([[[-1, 1]]]))
    with pytest.raises(ConfigError, match=r"input spikes 0\.\.8; this network takes 0\.\.7 \(input_bits 3\)"):
        simulate(dataclasses.replace(network, input_bits=3), np.array([[[0, 8]]]))
    with pytest.raises(ConfigError, match=r"there is no population 'hidden'; the network has in, out"):
        simulate(network, frames, record=["hidden"])
    with pytest.raises(ConfigError, match=r"there is no population 'hidden'; the network has in, out"):
        simulate(network, frames, states=["hidden"])
