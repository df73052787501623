"""Probes against the whole run that they are cut from, and against the equations of one step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import inputs, networks

from netx_export import probe as module
from netx_export.errors import ConfigError
from netx_export.network import Dense, Integrator, Lif, Network, Population, Projection
from netx_export.probe import probe
from netx_export.simulate import simulate

RNG = np.random.default_rng(0)
NETWORK = Network(
    (
        Population("in", (6,)),
        Population("hidden", (5,), Lif(4096, 0, 30), np.array([3, -2, 0, 5, 1])),
        Population("out", (4,), Integrator()),
    ),
    (
        Projection("in", "hidden", Dense(RNG.integers(-9, 20, (5, 6)))),
        Projection("hidden", "out", Dense(RNG.integers(-9, 10, (4, 5)))),
    ),
)
FRAMES: NDArray[Any] = RNG.integers(0, 2, (4, 6, 7))


@settings(max_examples=15)
@given(data=st.data())
def test_equals_what_the_whole_run_has_there(data: st.DataObject) -> None:
    network = data.draw(networks())
    frames = data.draw(inputs(network, samples=3))
    names = data.draw(st.lists(st.sampled_from([p.name for p in network.populations]), min_size=1, unique=True))
    samples = data.draw(st.lists(st.integers(0, 2), max_size=3))
    steps = data.draw(st.lists(st.integers(0, frames.shape[-1] - 1), max_size=4))
    found = probe(network, frames, names, samples=samples, steps=steps)
    run = simulate(network, frames, states=[p.name for p in network.populations])
    assert found["samples"].tolist() == samples and found["steps"].tolist() == steps
    for name in names:
        whole = {"spikes": run.spikes[name]}
        if network[name].neuron is not None:
            whole |= {"u": run.current[name], "v": run.voltage[name]}
        assert {key.rpartition(".")[2] for key in found if key.startswith(f"{name}.")} - {"bias"} == set(whole)
        for kind, values in whole.items():
            np.testing.assert_array_equal(found[f"{name}.{kind}"], values[samples][..., steps])


def test_bias_u_and_v_are_one_step_of_the_neuron() -> None:
    """v grows by u and the bias current, where nothing leaks and nothing fired before."""
    found = probe(NETWORK, FRAMES, ["hidden"])
    assert found["hidden.bias"].tolist() == [192, -128, 0, 320, 64]
    before = found["hidden.v"][..., :-1]
    grown = before + found["hidden.u"][..., 1:] + found["hidden.bias"][:, None]
    fired = found["hidden.spikes"][..., 1:] > 0
    assert fired.any() and (~fired).any()
    np.testing.assert_array_equal(found["hidden.v"][..., 1:], np.where(fired, 0, grown))


def test_the_bias_of_a_driven_input_is_what_the_host_shows() -> None:
    network = Network((Population("in", (2, 1, 1), Lif(4096, 0, 900), np.array([7, 0])),), ())
    frames = np.arange(12).reshape(2, 2, 1, 1, 3)
    found = probe(network, frames, ["in"], samples=[1], steps=[2, 0])
    np.testing.assert_array_equal(found["in.bias"][0, :, 0, 0], [[64 * (8 + 7), 64 * (6 + 7)], [64 * 11, 64 * 9]])
    np.testing.assert_array_equal(found["in.v"][0, :, 0, 0], 64 * np.array([[6 + 7 + 8 + 7 + 7 + 7, 13], [9 + 10 + 11, 9]]))


def test_refused_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("simulated")

    monkeypatch.setattr(module, "simulate_fast", never)
    with pytest.raises(ConfigError, match="there is no population 'x'; the network has in, hidden, out"):
        probe(NETWORK, FRAMES, ["x"])
    with pytest.raises(ConfigError, match=r"sample 4 does not exist; the input has samples 0\.\.3"):
        probe(NETWORK, FRAMES, ["in"], samples=[0, 4])
    with pytest.raises(ConfigError, match=r"step -1 does not exist; the input has steps 0\.\.6"):
        probe(NETWORK, FRAMES, ["in"], steps=[-1])
    with pytest.raises(ConfigError, match=r"the input has the shape \(6, 7\); expected"):
        probe(NETWORK, FRAMES[0], ["in"])
    needed = 5 * (12 * 4 * 7 + 8) + 12 * 7 * 5
    with pytest.raises(ConfigError, match=rf"probing hidden takes {needed} bytes; the limit is {needed - 1}\. Ask for fewer"):
        probe(NETWORK, FRAMES, ["hidden"], max_memory=needed - 1)


def test_nothing_chosen_is_nothing() -> None:
    found = probe(NETWORK, FRAMES, ["out"], steps=[])
    assert found["out.v"].shape == (4, 4, 0)
    assert set(probe(NETWORK, FRAMES, [])) == {"samples", "steps"}
