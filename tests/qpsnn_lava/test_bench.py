"""The comparison of speeds: that all contenders run the same network on the same input, in turn, and that its numbers follow from
what was measured.  How fast anything is is no test."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import enlivened, inputs, networks

from netx_export import hdf5
from netx_export.errors import ConfigError, MissingError, NetworkError
from netx_export.lava_run import LavaRun
from netx_export.network import (
    Conv,
    Delta,
    Dense,
    Drive,
    Integrator,
    Lif,
    Network,
    Population,
    Projection,
    Sigma,
    SigmaDelta,
)
from netx_export.simulate import simulate
from qpsnn_lava import bench as module
from qpsnn_lava import cli
from qpsnn_lava.bench import CONTENDERS, Series, bench, float_network, skip_layers

torch.set_num_threads(1)

RNG = np.random.default_rng(0)
DRIVEN = Network(
    (
        Population("image", (2, 6, 5), Lif(4096, 100, 100), drive=Drive(10, 5)),
        Population("conv", (3, 3, 2), Lif(1024, 512, 60), np.array([1, -2, 3])),
        Population("hidden", (7,), Lif(4096, 0, 80)),
        Population("out", (4,), Integrator()),
    ),
    (
        Projection("image", "conv", Conv(RNG.integers(-9, 20, (3, 2, 3, 3)), (2, 2), (1, 0))),
        Projection("conv", "hidden", Dense(RNG.integers(-8, 20, (7, 18)))),
        Projection("hidden", "out", Dense(RNG.integers(-8, 8, (4, 7)))),
    ),
)


# --- leaving out the first layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_rest_answers_the_spikes_of_what_was_left_out_as_the_whole_did(count: int, tmp_path: Path) -> None:
    frames = np.repeat(RNG.integers(0, 40, (3, 2, 6, 5, 1)), 8, axis=-1)
    whole = simulate(DRIVEN, frames)
    assert all(0.02 < whole.spikes[name].mean() < 0.8 for name in ("image", "conv", "hidden"))
    rest = skip_layers(DRIVEN, count)
    assert rest.input.neuron is None and rest.input.shape == DRIVEN.populations[count - 1].shape
    found = simulate(rest, whole.spikes[rest.input.name])
    assert list(found.spikes) == [p.name for p in DRIVEN.populations[count - 1 :]]
    for name, spikes in found.spikes.items():
        assert np.array_equal(spikes, whole.spikes[name]), name
    assert np.array_equal(found.voltage["out"], whole.voltage["out"])
    hdf5.write(rest, tmp_path / "rest.net")
    assert hdf5.read(tmp_path / "rest.net") == rest


def test_what_else_is_left_out() -> None:
    assert skip_layers(DRIVEN, 0) is DRIVEN
    graded = Network(
        (Population("in", (3,)), Population("out", (1,), Integrator())),
        (Projection("in", "out", Dense([[1, 2, 3]])),),
        None,
        4,
    )
    assert skip_layers(graded, 1) == graded
    looped = Network(
        (Population("in", (3,)), Population("a", (2,), Lif(1, 2, 3)), Population("b", (2,), Lif(1, 2, 3))),
        (
            Projection("in", "a", Dense(np.ones((2, 3), int))),
            Projection("a", "a", Dense(np.ones((2, 2), int))),
            Projection("a", "b", Dense(np.ones((2, 2), int))),
            Projection("b", "b", Dense(np.ones((2, 2), int))),
        ),
    )
    rest = skip_layers(looped, 2)
    assert [(p.source, p.target) for p in rest.projections] == [("a", "b"), ("b", "b")] and rest.input == Population("a", (2,))
    for count in (-1, 3):
        with pytest.raises(ConfigError, match=rf"skip is {count}; it must be in 0\.\.2, and the network a chain"):
            skip_layers(looped, count)
    sigma_delta = Network(
        (Population("in", (3,), Delta(0)), Population("a", (2,), SigmaDelta(1)), Population("b", (1,), Sigma())),
        (Projection("in", "a", Dense(np.ones((2, 3), int))), Projection("a", "b", Dense(np.ones((1, 2), int)))),
    )
    assert skip_layers(sigma_delta, 1).input_bits == 16


# --- the same network in torch ------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(data=st.data())
def test_the_float_network_is_the_integers_where_no_decay_rounds(data: st.DataObject) -> None:
    """Decays of 0 and 4096 leave integers, and below 2**23 / 64 float32 holds them all."""
    network = data.draw(networks(delays=False, steps=(2, 6)))
    ends = st.sampled_from([0, 4096])

    def extreme(population: Population) -> Population:
        if population.neuron is None:
            return population
        neuron = dataclasses.replace(population.neuron, current_decay=data.draw(ends), voltage_decay=data.draw(ends))
        return dataclasses.replace(population, neuron=neuron)

    network = dataclasses.replace(network, populations=tuple(extreme(p) for p in network.populations))
    frames = data.draw(inputs(network, samples=3))
    network = enlivened(network, frames)
    names = [p.name for p in network.populations if p.neuron is not None]
    run = simulate(network, frames, states=names)
    assume(all(np.abs(run.voltage[n]).max() < (1 << 23) - 1 and np.abs(run.current[n]).max() < 1 << 22 for n in names))
    spikes, v = float_network(network)(torch.from_numpy(np.moveaxis(frames, -1, 0).astype(np.float32)))
    output = network.output.name
    assert np.array_equal(np.moveaxis(spikes.numpy(), 0, -1), run.spikes[output])
    assert np.array_equal(v.numpy() * 64, run.voltage[output][..., -1])


def test_the_float_network_decays() -> None:
    """One neuron, by hand: u and v lose a quarter and a half a step."""
    network = Network(
        (Population("in", (1,)), Population("out", (1,), Lif(1024, 2048, 9), np.array([2]))),
        (Projection("in", "out", Dense([[8]])),),
    )
    u, v, expected = 0.0, 0.0, []
    for s in (1, 0, 1, 0, 0, 0):
        u = 0.75 * u + 8 * s
        v = 0.5 * v + u + 2
        expected.append(float(v > 9))
        v = 0.0 if v > 9 else v
    spikes, last = float_network(network)(torch.tensor([1.0, 0, 1, 0, 0, 0]).reshape(6, 1, 1))
    assert spikes.reshape(-1).tolist() == expected and 0 < sum(expected) < 6
    assert last.item() == pytest.approx(v)


def test_what_torch_cannot_be_asked_for() -> None:
    late = dataclasses.replace(DRIVEN.projections[2], delay=np.array([[0], [1], [0], [2]]))
    with pytest.raises(
        NetworkError, match="plain layers of torch have no delays, recurrent projections or sigma-delta neurons"
    ):
        float_network(dataclasses.replace(DRIVEN, projections=(*DRIVEN.projections[:2], late)))


# --- the comparison -----------------------------------------------------------------------------------------------------


class Lava:
    """Stands in for run_lava: simulates the file; its clock says 0.5 s a step, or 0.01 for the fast models."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, turns: list[str], wrong: bool = False) -> None:
        self.turns = turns
        self.asked: list[tuple[Network, NDArray[Any]]] = []
        self.wrong = wrong
        monkeypatch.setattr(module, "run_lava", self)

    def __call__(self, path: Path, frames: NDArray[Any], *, timeout: float, models: str, voltage: bool = False, record: list[str] | None = None) -> LavaRun:  # fmt: skip  # noqa: E501
        self.turns.append(models)
        network = hdf5.read(path)
        self.asked.append((network, frames))
        run = simulate(network, frames)
        if self.wrong:
            run.spikes["hidden"][0, 3, 5] ^= 1
        steps = frames.shape[0] * frames.shape[-1] + len(network.projections)
        output = network.output.name
        v = run.voltage[output][..., -1] if voltage else None
        seconds = steps * (0.5 if models == "stock" else 0.01)
        return LavaRun(run.spikes[output], v, seconds, steps, {}, {n: run.spikes[n] for n in record or ()})


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who was measured, in order; one call a measurement."""
    order: list[str] = []
    timed = module._timed

    def told(run: Callable[[], object], sample_steps: int) -> module.Measure:
        measure = timed(run, sample_steps)

        def measure_and_tell() -> tuple[int, float]:
            order.append(str(sample_steps))
            return measure()

        return measure_and_tell

    monkeypatch.setattr(module, "MIN_SECONDS", 1e-9)
    monkeypatch.setattr(module, "_timed", told)
    return order


@pytest.fixture
def path(tmp_path: Path) -> Path:
    hdf5.write(DRIVEN, tmp_path / "driven.net")
    return tmp_path / "driven.net"


def test_all_run_the_network_without_its_driven_layer_in_turn(
    path: Path, turns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lava = Lava(monkeypatch, turns)
    said: list[str] = []
    found = bench(path, batch=5, rounds=3, threads=1, say=said.append)
    rest = skip_layers(hdf5.read(path), 1)
    frames = np.random.default_rng(0).random((5, 2, 6, 5, 16)) < 0.1  # the documented draw
    assert all(network == rest for network, _ in lava.asked)
    assert all(np.array_equal(shown, frames[: len(shown)]) for _, shown in lava.asked)
    # Warm-up: each once; then rounds.  Stock Lava runs one sample, the fast models the two seconds' worth, up to all five.
    one_round = ["stock", "fast", "16", "16", "80", "16", "80"]
    assert turns == one_round * 4 and [len(shown) for _, shown in lava.asked] == [1, 1, *[1, 5] * 3]
    assert said == [*(f"warm-up: {title}" for title in CONTENDERS.values()), *(f"round {n} of 3" for n in (1, 2, 3))]
    assert [(s.contender, s.batch) for s in found.series] == [
        ("lava", 1), ("fast_lava", 1), ("reference", 1), ("engine", 1), ("engine", 5), ("torch", 1), ("torch", 5)
    ]  # fmt: skip
    assert found.series[0] == Series("lava", 1, (19,) * 3, (9.5,) * 3) and found.series[1].sample_steps == (83,) * 3
    assert all(n % s.batch == 0 and n >= 16 for s in found.series[2:] for n in s.sample_steps)
    exact = simulate(rest, frames.astype(int))
    assert found.density == {name: pytest.approx(np.mean(spikes != 0)) for name, spikes in exact.spikes.items()}
    assert all(0.02 < found.density[name] < 0.8 for name in ("image", "conv", "hidden"))
    assert found.mismatches == 0 and found.where == "" and not found.left_out
    assert [layer.name for layer in found.checks["lava"].layers] == ["conv", "hidden", "out"]
    assert found.checks["engine"].samples == 5 and found.checks["reference"].voltages_compared == 4 * 16
    assert (found.skipped, found.steps, found.seed, found.input_shape) == (1, 16, 0, (2, 6, 5))


def test_the_numbers_follow_from_the_measurements(path: Path, turns: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Lava(monkeypatch, turns)
    found = bench(path, batch=2, rounds=5, threads=1).to_dict()
    rates = {
        (m["contender"], m["batch"]): statistics.median(n / s for n, s in zip(m["sample_steps"], m["seconds"], strict=True))
        for m in found["measurements"]
    }
    assert len(rates) == 7 and all(len(m["seconds"]) == 5 for m in found["measurements"])
    assert found["steps_per_second"] == {
        name: {str(b): rate for (n, b), rate in rates.items() if n == name} for name in CONTENDERS
    }
    assert found["steps_per_second"]["lava"] == {"1": pytest.approx(2.0)}
    for batch in (1, 2):
        engine = rates["engine", batch]
        assert found["speedup_over_lava"][str(batch)] == pytest.approx(engine / 2.0)
        assert found["speedup_over_fast_lava"][str(batch)] == pytest.approx(engine / 100.0)
        assert found["speedup_over_reference"][str(batch)] == pytest.approx(engine / rates["reference", 1])
        assert found["speedup_over_torch"][str(batch)] == pytest.approx(engine / rates["torch", batch])
    assert found["mismatches"] == 0 and found["threads"] == 1 and {"python", "numpy", "torch"} <= found["versions"].keys()
    assert json.loads(json.dumps(found, allow_nan=False))["measurements"] == found["measurements"]


def test_a_driven_input_of_ones_own(path: Path, turns: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An image as biases, with nothing left out; fewer samples than the batch are repeated."""
    lava = Lava(monkeypatch, turns)
    frames = np.repeat(RNG.integers(-3, 40, (2, 2, 6, 5, 1)), 6, axis=-1)
    found = bench(path, frames=frames, batch=5, skip=0, rounds=1, threads=1)
    assert np.array_equal(lava.asked[-1][1], frames[[0, 1, 0, 1, 0]]) and lava.asked[-1][0] == hdf5.read(path)
    exact = simulate(DRIVEN, frames[[0, 1, 0, 1, 0]])
    assert found.density["image"] == pytest.approx(exact.spikes["image"].mean()) and found.density["image"] > 0.02
    assert found.mismatches == 0 and found.seed is None and "image" in {layer.name for layer in found.checks["lava"].layers}


def test_who_cannot_run_is_left_out_with_the_reason(tmp_path: Path, turns: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(
        (Population("in", (4,)), Population("out", (3,), Lif(4096, 0, 20))),
        (Projection("in", "out", Dense(np.array([[9, 3, 5, 1], [2, 8, 8, 8], [1, -8, 7, 19]])), np.array([[0], [1], [2]])),),
    )
    hdf5.write(network, tmp_path / "late.net")

    def no_lava(*_: object, **options: Any) -> LavaRun:
        raise MissingError("lava-nc is not installed; get it with: pip")

    monkeypatch.setattr(module, "run_lava", no_lava)
    found = bench(tmp_path / "late.net", batch=1, rounds=1, density=0.4, without=["reference"])
    assert [s.contender for s in found.series] == ["engine"]
    assert found.left_out == {
        "reference": "not asked for",
        "lava": "lava-nc is not installed; get it with: pip",
        "fast_lava": "lava-nc is not installed; get it with: pip",
        "torch": "plain layers of torch have no delays, recurrent projections or sigma-delta neurons.",
    }
    data = found.to_dict()
    assert data["speedup_over_lava"] is data["speedup_over_torch"] is None and data["steps_per_second"].keys() == {"engine"}
    find_spec = module.importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    found = bench(tmp_path / "late.net", batch=1, rounds=1, without=["lava", "fast_lava"])
    assert found.left_out["torch"] == "torch is not installed; 'qpsnn doctor' says how to install it."
    assert [s.contender for s in found.series] == ["reference", "engine"] and found.mismatches == 0


def test_bad_requests(path: Path) -> None:
    frames = np.zeros((1, 2, 6, 5, 3), np.int64)
    for options, message in (
        ({"batch": 0}, "batch is 0; it must be at least 1"),
        ({"rounds": 0}, "rounds is 0; it must be at least 1"),
        ({"threads": 0}, "threads is 0; it must be at least 1"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"without": ["engine"]}, "'engine' cannot be left out; it must be one of lava, fast_lava, reference, torch"),
        ({"without": ["cuda"]}, "'cuda' cannot be left out"),
        ({"frames": frames, "density": 0.1}, "steps and density are those of a random input; drop them, or the input"),
        ({"frames": frames[0]}, r"the input has the shape \(2, 6, 5, 3\); expected \(batch, 2, 6, 5, time\)"),
        ({"frames": frames + 2}, r"input spikes 2\.\.2; this network takes 0\.\.1"),
        ({"batch": 1 << 20}, r"a random input of 1048576 samples, 60 neurons and 16 steps has 1006632960 values; at most"),
        ({"skip": 4}, r"skip is 4; it must be in 0\.\.3"),
    ):
        with pytest.raises(ConfigError, match=message):
            bench(path, **options)


def test_on_lava_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_SECONDS", 1e-9)
    found = bench(path, batch=2, steps=4, density=0.3, rounds=1, threads=1, without=["torch", "fast_lava"], timeout=60)
    assert found.mismatches == 0 and "lava" in found.checks
    assert all(layer.spikes for layer in found.checks["lava"].layers[:2])
    assert all(s.steps_per_second > 0 for s in found.series)


# --- the command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def qpsnn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qpsnn", "bench", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        assert isinstance(left.value.code, int) and "internal error" not in err, err
        return left.value.code, out, err

    return call


def test_the_command(
    qpsnn: Callable[..., tuple[int, str, str]], path: Path, turns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Lava(monkeypatch, turns)
    code, out, err = qpsnn("simulate", path, "--batch", "3", "--threads", "1", "--without", "fast-lava")
    lines = out.splitlines()
    assert code == 0 and max(map(len, lines)) <= 80 and "…" not in out
    assert lines[0].split() == ["batch", "steps/s", "times", "Lava", "steps", "a", "round"]
    assert lines[1].split() == ["stock", "Lava", "1", "2", "1", "19"]
    assert [re.split(r"\s{2,}", line)[0] for line in lines[2:7]] == [
        "the reference", "the engine", "the engine", "torch, float32", "torch, float32"
    ]  # fmt: skip
    said = " ".join(out.split())
    assert "input: 3 samples of 16 steps, 2x6x5, random with seed 0; instead of the first 1 layer(s)" in said
    assert "equality: 0 of " in said and "median of 5 rounds" in said and "1 threads" in said and "image 1" in said
    assert "left out: Lava with fast models: not asked for" in said and "round 5 of 5" in err
    code, out, err = qpsnn("simulate", path, "--batch", "3", "--json")
    found = json.loads(out)
    assert code == 0 and not err and found["mismatches"] == 0 and found["rounds"] == 5
    for other in ("lava", "fast_lava", "torch"):
        assert found[f"speedup_over_{other}"].keys() == {"1", "3"}
    assert found["density"].keys() == {"image", "conv", "hidden", "out"}


def test_a_mismatch_is_told_with_the_result(
    qpsnn: Callable[..., tuple[int, str, str]], path: Path, turns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Lava(monkeypatch, turns, wrong=True)
    words = ("simulate", path, "--batch", "1", "--without", "fast-lava", "--without", "torch", "--without", "reference")
    code, out, err = qpsnn(*words, "--json")
    assert code == 3 and json.loads(out)["mismatches"] == 1
    assert re.match(r"error: sample 0, layer hidden, neuron 3, step 5: simulation [01], stock Lava [01]\.\n$", err)
    code, out, _ = qpsnn(*words)
    assert code == 3 and "equality: 1 of " in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"Missing command\. Try 'qpsnn bench --help'"),
        (["simulate"], r"Missing argument 'FILE\.net'\. Try 'qpsnn bench simulate --help'"),
        (
            ["simulate", "x.net", "--rounds", "4"],
            r"Invalid value for '--rounds': (4 is not in the range x>=5|.*greater than or equal to 5)",
        ),
        (["simulate", "gone.net"], r"gone\.net: there is no such file"),
        (["simulate", "FILE", "--without", "gpu"], r"'gpu' cannot be left out; it must be one of lava, fast_lava"),
        (["simulate", "FILE", "--input", "gone.npy"], r"gone\.npy: there is no such file"),
    ],
)
def test_usage(qpsnn: Callable[..., tuple[int, str, str]], path: Path, words: list[str], message: str) -> None:
    code, out, err = qpsnn(*[path if word == "FILE" else word for word in words])
    assert code == 1 and not out and err.startswith("error: ") and err.count("\n") == 1 and re.search(message, err), err
