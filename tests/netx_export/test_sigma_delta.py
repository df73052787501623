"""Sigma-delta neurons: the reference against a loop in Python's integers, and against what the encoding promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from netx_export.engine import simulate_fast, summarise
from netx_export.errors import ConfigError, NetworkError
from netx_export.inspect import describe
from netx_export.network import Delta, Dense, Drive, Lif, Network, Population, Projection, Sigma, SigmaDelta
from netx_export.simulate import Reset, simulate


def network(seed: int, thresholds: tuple[int, int], bias: bool = True) -> Network:
    rng = np.random.default_rng(seed)
    return Network(
        (
            Population("in", (6,), Delta(thresholds[0])),
            Population("hidden", (5,), SigmaDelta(thresholds[1]), rng.integers(-20, 30, 5) if bias else None),
            Population("out", (3,), Sigma()),
        ),
        (
            Projection("in", "hidden", Dense(rng.integers(-9, 12, (5, 6)))),
            Projection("hidden", "out", Dense(rng.integers(-9, 12, (3, 5)))),
        ),
    )


def wrapped(value: int) -> int:
    """A C compiler's int32."""
    return (value + 2**31) % 2**32 - 2**31


def by_hand(net: Network, frames: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """One sample (N, T): sums, activations and messages of every neuron, step by step as Lava's processes run, aligned."""
    (first, second) = (p.synapse.weight.tolist() for p in net.projections)
    inputs, hidden, out = net.populations
    steps = frames.shape[1]
    bias = [0] * hidden.size if hidden.bias is None else hidden.bias.tolist()
    encoders = [{"before": 0, "residue": 0} for _ in range(inputs.size + hidden.size)]
    sigma = [0] * (hidden.size + out.size)
    arriving_hidden, arriving_out = [0] * hidden.size, [0] * out.size
    found: dict[str, list[list[int]]] = {"in": [], "hidden": [], "out": [], "sum": []}

    def encode(encoder: dict[str, int], value: int, threshold: int) -> int:
        change = wrapped(value - encoder["before"] + encoder["residue"])
        sent = change if abs(change) >= threshold * 4096 else 0
        encoder["before"], encoder["residue"] = value, change - sent
        return sent // 64

    for step in range(steps + 2):
        shown = frames[:, step].tolist() if step < steps else [0] * inputs.size
        messages = [encode(encoders[i], x * 4096, net.populations[0].neuron.threshold) for i, x in enumerate(shown)]
        for i in range(hidden.size):
            sigma[i] = wrapped(sigma[i] + arriving_hidden[i])
        spikes = [
            encode(encoders[inputs.size + i], max(sigma[i] + bias[i] * 4096, 0), hidden.neuron.threshold)
            for i in range(hidden.size)
        ]
        for i in range(out.size):
            sigma[hidden.size + i] = wrapped(sigma[hidden.size + i] + arriving_out[i])
        found["in"].append(messages)
        found["hidden"].append(spikes)
        found["sum"].append(sigma[: hidden.size])
        found["out"].append(sigma[hidden.size :])
        arriving_hidden = [sum(w * s for w, s in zip(row, messages, strict=True)) for row in first]
        arriving_out = [sum(w * s for w, s in zip(row, spikes, strict=True)) for row in second]
    late = {"in": 0, "hidden": 1, "sum": 1, "out": 2}
    return {name: np.array(values[late[name] : late[name] + steps]).T for name, values in found.items()}


@settings(max_examples=25)
@given(seed=st.integers(0, 1 << 20), first=st.sampled_from([0, 1, 7, 40]), second=st.sampled_from([0, 3, 200]))
def test_equals_the_loop(seed: int, first: int, second: int) -> None:
    net = network(seed, (first, second))
    frames = np.cumsum(np.random.default_rng(seed + 1).integers(-9, 10, (2, 6, 9)), axis=-1)
    run = simulate(net, frames, states=["in", "hidden", "out"])
    for sample in range(2):
        expected = by_hand(net, frames[sample])
        for name in ("in", "hidden", "out"):
            np.testing.assert_array_equal(run.spikes[name][sample], expected[name])
        np.testing.assert_array_equal(run.current["hidden"][sample], expected["sum"])
        np.testing.assert_array_equal(run.voltage["out"][sample], expected["out"])
        np.testing.assert_array_equal(run.voltage["in"][sample], 4096 * frames[sample])


def test_states_of_32_bits_wrap() -> None:
    net = network(3, (0, 0))
    frames = np.zeros((1, 6, 5), np.int64)
    frames[..., ::2] = (1 << 18) - 1
    expected = by_hand(net, frames[0])
    run = simulate(net, frames, states=["hidden"])
    np.testing.assert_array_equal(run.current["hidden"][0], expected["sum"])
    weight = net.projections[0].synapse.weight.astype(np.int64)
    assert np.abs(64 * weight @ frames[0]).max() > 2**23  # what a sum of 24 bits would not have held


def test_messages_without_a_threshold_add_up_to_the_value_and_one_weight_more_is_seen() -> None:
    """The promise of the encoding: nothing is lost but what the last six bits hold, which here are none."""
    net = network(5, (0, 0), bias=False)
    frames = np.cumsum(np.random.default_rng(6).integers(-9, 10, (3, 6, 12)), axis=-1)
    run = simulate(net, frames, states=["hidden", "out"])
    np.testing.assert_array_equal(np.cumsum(run.spikes["in"], axis=-1), 64 * frames)
    first, second = (p.synapse.weight.astype(np.int64) for p in net.projections)
    hidden = np.maximum(first @ (64 * frames), 0)
    np.testing.assert_array_equal(run.voltage["hidden"], hidden)
    assert (run.spikes["hidden"] < 0).any() and (run.spikes["hidden"] > 0).any()
    exact = second @ (hidden // 64)
    assert np.abs(run.voltage["out"] - exact).max() <= np.abs(second).sum(axis=1).max() * 12  # a bit in each of 12 steps
    other = first.copy()
    other[0, 0] += 1
    changed = Network(net.populations, (Projection("in", "hidden", Dense(other)), net.projections[1]))
    assert (simulate(changed, frames).spikes["out"] != run.spikes["out"]).any()


def test_a_reset_does_nothing_to_them() -> None:
    net = network(7, (3, 9))
    frames = np.cumsum(np.random.default_rng(8).integers(-9, 10, (1, 6, 8)), axis=-1)
    often, never = (simulate(net, frames, reset=reset).spikes["out"] for reset in (Reset(2), None))
    np.testing.assert_array_equal(often, never)


def test_what_the_host_may_show() -> None:
    net = network(9, (0, 0))
    with pytest.raises(ConfigError, match=r"input values 0\.\.262144; this network takes -262143\.\.262143 \(Delta\)"):
        simulate(net, np.full((1, 6, 1), 1 << 18) * np.array([1, 0, 0, 0, 0, 0])[:, None])
    host = Network((Population("in", (6,)), *net.populations[1:]), net.projections, input_bits=4)
    assert host.has_signed_input and net.has_signed_input
    simulate(host, np.full((1, 6, 1), -8))
    with pytest.raises(ConfigError, match=r"input spikes -9\.\.-9; this network takes -8\.\.7 \(input_bits 4\)"):
        simulate(host, np.full((1, 6, 1), -9))
    assert not Network((Population("in", (6,)),), ()).has_signed_input


def test_refused() -> None:
    for neuron in (Delta, SigmaDelta):
        with pytest.raises(NetworkError, match=r"threshold is 524288; it must be a whole number in 0\.\.524287"):
            neuron(1 << 19)
    for kind in (Delta(1), Sigma()):
        with pytest.raises(NetworkError, match=f"p: a {type(kind).__name__} neuron has no bias; drop it"):
            Population("p", (2,), kind, np.array([1, 2]))
    with pytest.raises(NetworkError, match="b: a Delta neuron encodes the host's input; it must be the first population"):
        Network((Population("a", (1,)), Population("b", (1,), Delta(1))), (Projection("a", "b", Dense([[1]])),))


def test_they_mix_with_spiking_neurons() -> None:
    """Spikes of a Lif are messages of 1 to a SigmaDelta, whose messages are graded input to a Lif."""
    net = Network(
        (
            Population("a", (1,)),
            Population("b", (1,), Lif(4096, 0, 0)),
            Population("c", (1,), SigmaDelta(0)),
            Population("d", (1,), Lif(4096, 4096, 1)),
        ),
        tuple(Projection(*names, Dense([[w]])) for names, w in ((("a", "b"), 1), (("b", "c"), 200), (("c", "d"), 1))),
    )
    run = simulate(net, np.array([[[1, 0, 1, 1]]]), states=["c", "d"])
    assert run.current["c"].reshape(-1).tolist() == [200, 200, 400, 600]
    assert run.spikes["c"].reshape(-1).tolist() == [3, 0, 3, 3]  # 200 // 64; the rest is lost
    assert run.current["d"].reshape(-1).tolist() == [192, 0, 192, 192]
    assert run.spikes["d"].reshape(-1).tolist() == [1, 0, 1, 1]


def test_they_are_described() -> None:
    net = network(9, (4, 5))
    driven = Network((Population("in", (6,), Delta(4), drive=Drive(1, 0)), *net.populations[1:]), net.projections)
    rows = describe(driven)["layers"]
    assert [row["neuron"] for row in rows] == ["delta", "sigma-delta", "sigma"]
    assert [row["threshold"] for row in rows] == [4, 5, 0]
    assert [row["current_decay"] for row in rows] == [None] * 3


def test_the_engine_hands_them_to_the_reference() -> None:
    frames = np.cumsum(np.random.default_rng(1).integers(-9, 10, (5, 6, 7)), axis=-1)
    driven = network(11, (3, 9))
    host = Network((Population("in", (6,)), *driven.populations[1:]), driven.projections, input_bits=16)
    for net in (driven, host):
        expected = simulate(net, frames, states=["hidden", "out"])
        found = simulate_fast(net, frames, states=["hidden", "out"])
        totals = summarise(net, frames)
        for name in ("in", "hidden", "out"):
            np.testing.assert_array_equal(found.spikes[name], expected.spikes[name])
            assert totals.spikes[name] == np.count_nonzero(expected.spikes[name])
        np.testing.assert_array_equal(found.current["hidden"], expected.current["hidden"])
        np.testing.assert_array_equal(totals.voltage, expected.voltage["out"][..., -1])
        for run in (simulate_fast, summarise):
            with pytest.raises(ConfigError, match=r"this network takes -\d+\.\.\d+ "):
                run(net, frames + (1 << 20))
