"""Runs on Lava against two other ways to compute the same spikes: netx_export.simulate, and a loop written down here."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from netx_files import wheel
from numpy.typing import NDArray
from strategies import Case, cases

from netx_export import hdf5, lava_compat, lava_run
from netx_export.errors import ConfigError, FormatError, MissingError, NetworkError, RunError
from netx_export.lava_run import dense_is_exact, run_lava, supervise
from netx_export.network import Conv, Delta, Dense, Integrator, Lif, Network, Population, Projection, Sigma, SigmaDelta
from netx_export.simulate import Run, simulate
from netx_export.verify import random_input

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60.0  # seconds for one Lava run of these tests; it takes about three


def integers(seed: int, low: int, high: int, *shape: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(low, high, shape)


def chain(*stages: Population | Dense | Conv, input_bits: int = 0) -> Network:
    populations = stages[::2]
    projections = tuple(
        Projection(before.name, after.name, synapse)
        for before, synapse, after in zip(populations, stages[1::2], populations[1:], strict=False)
    )
    return Network(populations, projections, input_bits=input_bits)


def fires(run: Run, *names: str) -> None:
    """Equality on silent networks proves nothing."""
    for name in names:
        assert 0.02 <= run.spikes[name].mean() <= 0.8, name


CONV_NET = chain(
    Population("image", (2, 6, 5)),
    Conv(integers(1, -9, 11, 3, 2, 3, 3), stride=(2, 2), padding=(1, 0)),
    Population("conv", (3, 3, 2), Lif(1024, 512, 60), np.array([1, -2, 3])),
    Dense(integers(2, -8, 12, 7, 18)),
    Population("hidden", (7,), Lif(4096, 0, 30)),
    Dense(integers(3, -8, 8, 4, 7)),
    Population("out", (4,), Integrator()),
    input_bits=4,
)

DRIVEN_NET = Network((Population("image", (2, 6, 5), Lif(4096, 100, 60)), *CONV_NET.populations[1:]), CONV_NET.projections)


def test_graded_conv_net_with_consecutive_samples_equals_simulation(tmp_path: Path) -> None:
    frames = integers(4, 0, 16, 5, 2, 6, 5, 6)  # T = 6 is no power of two
    hdf5.write(CONV_NET, tmp_path / "a.net")
    expected = simulate(CONV_NET, frames)
    fires(expected, "conv", "hidden")
    seen: list[tuple[int, int]] = []
    got = run_lava(tmp_path / "a.net", frames, voltage=True, timeout=LIMIT, progress=lambda done, of: seen.append((done, of)))
    assert got.spikes.dtype == np.int32 and got.voltage is not None and got.voltage.dtype == np.int32
    np.testing.assert_array_equal(got.spikes, expected.spikes["out"])
    np.testing.assert_array_equal(got.voltage, expected.voltage["out"][..., -1])
    assert len(np.unique(got.voltage)) > 10
    assert (got.steps, got.seconds > 0) == (4 * 8 + 3 + 6, True)
    assert got.versions["lava-nc"] == lava_compat.LAVA_NC
    assert seen[-1] == (5, 5) and seen == sorted(seen)

    hidden = run_lava(tmp_path / "a.net", frames, num_layers=4, timeout=LIMIT)
    np.testing.assert_array_equal(hidden.spikes, expected.spikes["hidden"])
    cleared = run_lava(tmp_path / "a.net", frames, num_layers=4, reset_phase=2, timeout=LIMIT)  # a mutation must be seen
    assert (cleared.spikes != expected.spikes["hidden"]).any()
    after = run_lava(tmp_path / "a.net", expected.spikes["conv"].reshape(5, 18, 6), skip_layers=3, input_bits=0, timeout=LIMIT)
    fed = simulate(chain(Population("f", (18,)), *_stages("hidden")), expected.spikes["conv"].reshape(5, 18, 6))
    np.testing.assert_array_equal(after.spikes, fed.spikes["out"])


def _stages(start: str) -> tuple[Any, ...]:
    stages: list[Any] = []
    for population in CONV_NET.populations[[p.name for p in CONV_NET.populations].index(start) :]:
        stages += [CONV_NET.into(population.name)[0].synapse, population]
    return tuple(stages)


def write_by_hand(path: Path, weights: list[NDArray[np.int64]], decays: list[tuple[int, int]], thresholds: list[int]) -> None:
    """A netx file of dense layers as lava-dl writes it, without our writer, with an average at the end."""
    with h5py.File(path, "w") as file:
        for i, (weight, (current, voltage), threshold) in enumerate(zip(weights, decays, thresholds, strict=True)):
            layer = file.create_group(f"layer/{i}")
            layer.create_dataset("type", (1,), "S10", [b"dense"])
            layer["shape"] = np.array([weight.shape[0]])
            layer["inFeatures"], layer["outFeatures"] = weight.shape[1], weight.shape[0]
            layer["weight"] = weight.astype(np.float32)
            layer["neuron/type"] = np.array([b"LOIHI"])
            layer["neuron/iDecay"], layer["neuron/vDecay"], layer["neuron/vThMant"] = current, voltage, threshold
            layer["neuron/refDelay"], layer["neuron/gradedSpike"] = 1, False
        last = file.create_group(f"layer/{len(weights)}")
        last.create_dataset("type", (1,), "S10", [b"average"])
        last["shape"] = np.array([3])


def loop(
    weights: list[NDArray[np.int64]], decays: list[tuple[int, int]], thresholds: list[int], frames: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Neuron by neuron, with Python's integers; spikes of all layers, each (N, T)."""
    layers = [frames]
    for weight, (current_decay, voltage_decay), threshold in zip(weights, decays, thresholds, strict=True):
        spikes = np.zeros((weight.shape[0], frames.shape[-1]), np.int64)
        for n, row in enumerate(weight.tolist()):
            u = v = 0
            for t in range(frames.shape[-1]):
                u = int(u * (4096 - current_decay) / 4096) + 64 * sum(
                    w for w, s in zip(row, layers[-1][:, t], strict=True) if s
                )
                v = int(v * (4096 - voltage_decay) / 4096) + u
                if v > 64 * threshold:
                    spikes[n, t], v = 1, 0
        layers.append(spikes)
    return layers[1:]


def test_a_file_by_hand_with_fewer_steps_than_layers_equals_a_loop(tmp_path: Path) -> None:
    weights = [integers(5, -20, 30, 9, 12), integers(6, -20, 40, 8, 9), integers(7, -20, 40, 6, 8)]
    decays, thresholds = [(4096, 300), (1000, 0), (2000, 700)], [40, 60, 50]
    write_by_hand(tmp_path / "hand.net", weights, decays, thresholds)
    frames = integers(8, 0, 2, 6, 12, 2)
    expected = [loop(weights, decays, thresholds, sample) for sample in frames]
    for layer in zip(*expected, strict=True):
        assert 0.02 <= np.mean(layer) <= 0.8
    got = run_lava(tmp_path / "hand.net", frames, timeout=LIMIT)
    np.testing.assert_array_equal(got.spikes, np.stack([layers[-1] for layers in expected]))
    assert got.voltage is None and got.steps == 5 * 2 + 3 + 2


def test_grouped_dilated_conv_of_a_wide_input_equals_simulation(tmp_path: Path) -> None:
    network = chain(
        Population("image", (4, 3, 140)),  # beyond 127: stock Lava on numpy 2 fails without lava_compat
        Conv(integers(9, -20, 25, 6, 2, 2, 3), stride=(1, 3), padding=(1, 2), dilation=(2, 1), groups=2),
        Population("conv", (6, 3, 48), Lif(4096, 100, 40)),
    )
    frames = integers(10, 0, 2, 2, 4, 3, 140, 3)
    hdf5.write(network, tmp_path / "wide.net")
    expected = simulate(network, frames)
    fires(expected, "conv")
    got = run_lava(tmp_path / "wide.net", frames, timeout=LIMIT)
    np.testing.assert_array_equal(got.spikes, expected.spikes["conv"])


def test_many_channels_equal_simulation(tmp_path: Path) -> None:
    network = chain(
        Population("image", (2, 3, 2)),
        Conv(integers(21, -20, 25, 130, 2, 2, 2)),  # beyond 127: stock Lava on numpy 2 fails without lava_compat
        Population("many", (130, 2, 1), Lif(4096, 100, 40)),
        Conv(integers(22, -20, 25, 4, 65, 1, 1), groups=2),
        Population("few", (4, 2, 1), Lif(4096, 100, 300)),
    )
    frames = integers(23, 0, 2, 3, 2, 3, 2, 6)
    hdf5.write(network, tmp_path / "many.net")
    expected = simulate(network, frames)
    fires(expected, "many", "few")
    got = run_lava(tmp_path / "many.net", frames, timeout=LIMIT)
    np.testing.assert_array_equal(got.spikes, expected.spikes["few"])


def test_an_input_population_driven_through_its_bias_equals_simulation(tmp_path: Path) -> None:
    frames = np.repeat(integers(11, -10, 90, 4, 2, 6, 5, 1), 6, axis=-1)
    frames[2, ..., 3:] += 20  # and one that changes within its window
    hdf5.write(DRIVEN_NET, tmp_path / "driven.net")
    expected = simulate(DRIVEN_NET, frames)
    fires(expected, "image", "conv", "hidden")
    got = run_lava(tmp_path / "driven.net", frames, voltage=True, timeout=LIMIT)
    assert got.voltage is not None and len(np.unique(got.voltage)) > 8
    np.testing.assert_array_equal(got.voltage, expected.voltage["out"][..., -1])


def test_the_stock_network_runs_in_an_application_of_ones_own(tmp_path: Path) -> None:
    weights, decays, thresholds = [integers(5, -20, 30, 9, 12)], [(4096, 300)], [20]
    write_by_hand(tmp_path / "hand.net", weights, decays, thresholds)
    frames = integers(12, 0, 2, 2, 12, 4)
    np.save(tmp_path / "frames.npy", frames)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            """
import sys
import numpy as np
from netx_export.lava_run import lava_network

network = lava_network("hand.net", reset_interval=4)
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc import io
frames = np.concatenate([*np.load("frames.npy"), np.zeros((12, 1), int)], axis=-1)
source, sink = io.source.RingBuffer(data=frames), io.sink.RingBuffer(shape=network.out.shape, buffer=9)
source.s_out.connect(network.inp)
network.out.connect(sink.a_in)
sink.run(condition=RunSteps(9), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
np.save("spikes.npy", sink.data.get()[:, 1:])
sink.stop()
""",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    expected = np.concatenate([loop(weights, decays, thresholds, sample)[0] for sample in frames], axis=-1)
    assert 0.02 <= expected.mean() <= 0.8
    np.testing.assert_array_equal(np.load(tmp_path / "spikes.npy"), expected)


# --- recurrent and sigma-delta networks --------------------------------------------------------------------------------


def test_a_recurrent_network_equals_simulation_sample_by_sample(tmp_path: Path) -> None:
    network = Network(
        (Population("in", (12,)), Population("hidden", (9,), Lif(1000, 300, 80)), Population("out", (5,), Lif(4096, 0, 40))),
        (
            Projection("in", "hidden", Dense(integers(20, -20, 30, 9, 12))),
            Projection("hidden", "hidden", Dense(integers(21, -30, 20, 9, 9))),
            Projection("hidden", "out", Dense(integers(22, -20, 40, 5, 9))),
        ),
    )
    hdf5.write(network, tmp_path / "loop.net")
    frames = integers(23, 0, 2, 2, 12, 8)  # as long as the reset interval: the loop's last sums reach into the next window
    expected = simulate(network, frames)
    fires(expected, "hidden", "out")
    assert (simulate(network.without_loops, frames).spikes["hidden"] != expected.spikes["hidden"]).any()
    got = run_lava(tmp_path / "loop.net", frames, record=["hidden", "in"], timeout=LIMIT)
    np.testing.assert_array_equal(got.spikes, expected.spikes["out"])
    np.testing.assert_array_equal(got.hidden["hidden"], expected.spikes["hidden"])
    np.testing.assert_array_equal(got.hidden["in"], frames)


@pytest.mark.parametrize("models", ["stock", "fast"])
def test_a_sigma_delta_network_equals_simulation(tmp_path: Path, models: str) -> None:
    network = chain(
        Population("in", (2, 6, 5), Delta(2)),
        Conv(integers(24, -9, 11, 3, 2, 3, 3), stride=(2, 2), padding=(1, 0)),
        Population("conv", (3, 3, 2), SigmaDelta(5), np.array([3, -4, 2])),
        Dense(integers(25, -8, 12, 7, 18)),
        Population("dense", (7,), SigmaDelta(0), integers(26, -5, 6, 7)),
        Dense(integers(27, -8, 8, 4, 7)),
        Population("out", (4,), Sigma()),
    )
    hdf5.write(network, tmp_path / "sdnn.net")
    frames = np.cumsum(integers(28, -9, 10, 1, 2, 6, 5, 6), axis=-1)
    expected = simulate(network, frames)
    for name in ("in", "conv", "dense", "out"):
        assert np.mean(expected.spikes[name] != 0) > 0.02, name
    assert (expected.spikes["dense"] < 0).any()
    names = ["in", "conv", "dense", "out"]
    got = run_lava(tmp_path / "sdnn.net", frames, voltage=True, record=names, models=models, timeout=LIMIT)
    for name in names:
        np.testing.assert_array_equal(got.hidden[name], expected.spikes[name], err_msg=name)
    assert got.voltage is not None
    np.testing.assert_array_equal(got.voltage, expected.voltage["out"][..., -1])


def test_a_count_that_the_child_has_only_begun_to_write(tmp_path: Path) -> None:
    """The file is there before its header is: nothing is finished yet."""
    seen: list[tuple[int, int]] = []
    report = lava_run._reporter(tmp_path, 3, lambda *n: seen.append(n))
    np.save(tmp_path / "whole.npy", np.array([2]))
    whole = (tmp_path / "whole.npy").read_bytes()
    for size in (None, 0, 5, len(whole) - 1, len(whole)):
        if size is not None:
            (tmp_path / "done.npy").write_bytes(whole[:size])
        report()
    assert seen == [(0, 3), (2, 3)]


def test_delays_are_exact_sample_by_sample(tmp_path: Path) -> None:
    """Sums under way would reach from one window into the next: each sample is a run of its own."""
    network = Network(
        (Population("in", (6,)), Population("out", (5,), Lif(500, 300, 70))),
        (Projection("in", "out", Dense(integers(40, -10, 30, 5, 6)), np.array([[0], [3], [1], [62], [4]])),),
    )
    hdf5.write(network, tmp_path / "late.net")
    frames = integers(41, 0, 2, 2, 6, 8)
    expected = simulate(network, frames)
    fires(expected, "out")
    seen: list[tuple[int, int]] = []
    got = run_lava(tmp_path / "late.net", frames, timeout=LIMIT, progress=lambda *n: seen.append(n))
    np.testing.assert_array_equal(got.spikes, expected.spikes["out"])
    assert seen == [(1, 2), (2, 2)] and got.steps == 2 * (8 + 1)
    alone = dataclasses.replace(network, projections=(dataclasses.replace(network.projections[0], delay=None),))
    assert (simulate(alone, frames).spikes["out"] != expected.spikes["out"]).any()


@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases(), models=st.sampled_from(["fast", "stock"]))
def test_generated_networks_equal_simulation_in_all_layers(
    tmp_path_factory: pytest.TempPathFactory, case: Case, models: str
) -> None:
    """Every feature of the file; stock convolutions and ours."""
    try:
        lava_run.check_stock_lava(case.network)
    except NetworkError:
        assume(False)
    path = tmp_path_factory.getbasetemp() / "generated.net"
    hdf5.write(case.network, path)
    names = [p.name for p in case.network.populations if p.neuron is not None]
    expected = simulate(case.network, case.frames)
    got = run_lava(path, case.frames, voltage=True, record=names, models=models, timeout=LIMIT)
    for name in names:
        np.testing.assert_array_equal(got.hidden[name], expected.spikes[name], err_msg=f"{name} of {case.network}")
    assert got.voltage is not None
    np.testing.assert_array_equal(got.voltage, expected.voltage[case.network.output.name][..., -1])


# --- Intel's files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps", "models"),
    [
        ("mnist.net", 16, "stock"),
        ("tiny.net", 16, "stock"),
        ("gts/ntidigits/ntidigits.net", 60, "stock"),
        ("gts/pilotnet_lif/network.net", 8, "fast"),
        ("gts/pilotnet_sdnn/network.net", 4, "fast"),
        ("gts/pilotnet_sdnn/square_network.net", 4, "stock"),
    ],
)
def test_every_file_of_the_wheel_equals_simulation_in_all_layers(name: str, steps: int, models: str) -> None:
    """All six, a sample each, on the stock models where these take seconds; what was recorded of them is in test_recorded."""
    path = wheel(name)
    network = hdf5.read(path)
    frames = random_input(dataclasses.replace(network, steps=steps), 1, 0.3, 1)
    expected = simulate(network, frames)
    names = [p.name for p in network.populations if p.neuron is not None]
    got = run_lava(path, frames, voltage=True, record=names, models=models, timeout=LIMIT)
    for layer in names:
        np.testing.assert_array_equal(got.hidden[layer], expected.spikes[layer], err_msg=layer)
    assert got.voltage is not None
    np.testing.assert_array_equal(got.voltage, expected.voltage[network.output.name][..., -1])
    assert np.mean([expected.spikes[layer].any() for layer in names]) > 0.7


# --- our own models ----------------------------------------------------------------------------------------------------


def test_fast_and_stock_models_give_the_same_spikes_in_every_layer(tmp_path: Path) -> None:
    """Graded input, stride, padding, dilation and groups; all layers in one run, over consecutive samples."""
    network = chain(
        Population("image", (4, 9, 8)),
        Conv(integers(30, -9, 12, 6, 2, 3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        Population("first", (6, 5, 10), Lif(1024, 512, 260), integers(31, -9, 10, 6)),
        Conv(integers(32, -9, 20, 3, 6, 2, 3)),
        Population("second", (3, 4, 8), Lif(4096, 100, 150)),
        Dense(integers(33, -8, 9, 4, 96)),
        Population("out", (4,), Integrator()),
        input_bits=3,
    )
    hdf5.write(network, tmp_path / "a.net")
    frames = integers(34, 0, 8, 3, 4, 9, 8, 5)
    expected = simulate(network, frames)
    fires(expected, "first", "second")
    for models in ("stock", "fast"):
        got = run_lava(tmp_path / "a.net", frames, voltage=True, record=["first", "second"], models=models, timeout=LIMIT)
        for name in ("first", "second"):
            np.testing.assert_array_equal(got.hidden[name], expected.spikes[name], err_msg=f"{models} {name}")
        assert got.voltage is not None
        np.testing.assert_array_equal(got.voltage, expected.voltage["out"][..., -1])


def test_the_fast_models_take_many_groups(tmp_path: Path) -> None:
    network = chain(
        Population("in", (130, 3, 2)),
        Conv(integers(35, -3, 9, 260, 1, 2, 2), groups=130),
        Population("out", (260, 2, 1), Lif(4096, 300, 6)),
    )
    hdf5.write(network, tmp_path / "groups.net")
    frames = integers(36, 0, 2, 1, 130, 3, 2, 4)
    with pytest.raises(NetworkError, match="130 groups; stock Lava computes convolutions of more than 127 wrongly"):
        run_lava(tmp_path / "groups.net", frames, timeout=LIMIT)
    expected = simulate(network, frames)
    fires(expected, "out")
    got = run_lava(tmp_path / "groups.net", frames, models="fast", timeout=LIMIT)
    np.testing.assert_array_equal(got.spikes, expected.spikes["out"])


def test_the_fast_convolution_wraps_at_24_bits(tmp_path: Path) -> None:
    network = chain(
        Population("in", (1, 2, 2)),
        Conv(np.array([[[[254, 254], [254, 254]]]])),
        Population("out", (1, 1, 1), Lif(4096, 0, 1)),
        input_bits=16,
    )
    hdf5.write(network, tmp_path / "wrap.net")
    frames = np.array([0, 65535, 8191, 8192]).reshape(1, 1, 1, 1, 4).repeat(2, 2).repeat(2, 3)
    expected = simulate(network, frames, states=["out"])
    assert 4 * 254 * 65535 > 2**23
    got = run_lava(tmp_path / "wrap.net", frames, models="fast", voltage=True, timeout=LIMIT)
    assert got.voltage is not None
    np.testing.assert_array_equal(got.spikes, expected.spikes["out"])
    np.testing.assert_array_equal(got.voltage, expected.voltage["out"][..., -1])


class Port:
    """Stands in for both ports of a neuron model that runs by itself."""

    def __init__(self, arrivals: list[NDArray[np.int32]]) -> None:
        self.arrivals = iter(arrivals)
        self.sent: list[NDArray[Any]] = []

    def recv(self) -> NDArray[np.int32]:
        return next(self.arrivals)

    def send(self, spikes: NDArray[Any]) -> None:
        self.sent.append(np.array(spikes))


@pytest.mark.parametrize("decays", list(itertools.product([0, 1, 1000, 4095, 4096], [0, 1, 415, 4096])))
def test_the_fast_lif_equals_the_stock_one_at_the_edges_of_24_bits(tmp_path: Path, decays: tuple[int, int]) -> None:
    """The two models side by side, without processes: u wraps, v saturates, states are cleared, the host writes biases."""
    lava_compat.import_lava()
    ours = lava_run._declare_processes(tmp_path).LifModel
    from lava.proc.lif.models import PyLifResetModelBitAcc

    rng = np.random.default_rng(sum(decays))
    edges = [s * n for n in (0, 1, 63, 64, 131071, 131072, 131073, 200000) for s in (1, -1)]
    arrivals = [rng.choice(np.array([*edges, 7, -9, 500], np.int32), 400) for _ in range(30)]
    biases = [rng.integers(-32768, 32768, 400).astype(np.int16) for _ in range(2)]
    seen = []
    for kind in (PyLifResetModelBitAcc, ours):
        model = kind({"shape": (400,), "reset_interval": 16, "reset_offset": 3})
        port = model.a_in = model.s_out = Port(arrivals)
        model.u, model.v = np.zeros(400, np.int32), np.zeros(400, np.int32)
        model.du, model.dv, model.vth = decays[0] - 1, decays[1], 100000
        model.bias_exp = np.full(400, 6, np.int32)
        states = []
        for step in range(30):
            model.time_step, model.bias_mant = step, biases[step // 20]
            model.run_spk()
            states += [model.u.copy(), model.v.copy(), port.sent[-1].astype(np.int32)]
        seen.append(np.stack(states))
    np.testing.assert_array_equal(seen[0], seen[1])
    assert np.abs(seen[0][1::3]).max() == 2**23 - 1 and 0.02 < seen[0][2::3].mean() < 0.8


# --- what stock Lava computes wrongly ----------------------------------------------------------------------------------


def stock_is_exact(weight: NDArray[np.int64]) -> bool:
    """Stores a matrix as the stock reader and the stock Dense model do, by their own functions, and looks at what is left."""
    lava_compat.import_netx()
    from lava.lib.dl.netx.utils import optimize_weight_bits
    from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights

    with contextlib.redirect_stdout(io.StringIO()), np.errstate(divide="ignore"):
        try:
            shifted, bits, exponent, _ = optimize_weight_bits(weight)
        except OverflowError:
            return False
    sign = determine_sign_mode(shifted)
    stored = truncate_weights(clip_weights(shifted, sign, num_bits=8), sign, bits)
    return exponent <= 0 and bool(np.array_equal(stored, weight << -exponent))


def test_the_two_matrices_of_a_recurrent_layer_share_a_format() -> None:
    """By the stock functions: netx shifts both together, each Dense then judges its own signs."""
    lava_compat.import_netx()
    from lava.lib.dl.netx.utils import optimize_weight_bits
    from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights

    def stored(weight: NDArray[np.int64], loop: NDArray[np.int64]) -> bool:
        shifted, bits, exponent, _ = optimize_weight_bits(np.hstack((weight, loop)))
        exact = exponent <= 0
        for part, meant in ((shifted[:, : weight.shape[1]], weight), (shifted[:, weight.shape[1] :], loop)):
            sign = determine_sign_mode(part)
            kept = truncate_weights(clip_weights(part, sign, num_bits=8), sign, bits)
            exact = exact and np.array_equal(kept, meant << -exponent)
        return bool(exact)

    rng = np.random.default_rng(1)
    answers = []
    for _ in range(1500):
        sizes = [1 << int(rng.integers(0, 8)) for _ in range(2)]
        low, high = rng.integers(-1, 1, 2), rng.integers(0, 2, 2)
        pair = [rng.integers(lo * n, hi * n + 1, (2, 2)) for n, lo, hi in zip(sizes, low, high, strict=True)]
        if not any(matrix.any() for matrix in pair):
            continue
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(divide="ignore"):
            answers.append((dense_is_exact(*pair), stored(*pair), [m.tolist() for m in pair]))
    assert not [a for a in answers if a[0] != a[1]]
    assert min(sum(a[0] for a in answers), sum(not a[0] for a in answers)) > 100


def test_dense_is_exact_agrees_with_what_the_stock_functions_store() -> None:
    edges = sorted({sign * ((1 << k) + d) for k in range(9) for d in (-2, -1, 0, 1, 2) for sign in (1, -1)} | {0, -200, 200})
    edges = [e for e in edges if -258 <= e <= 258]
    matrices = [np.array([[a, b]]) for a, b in itertools.combinations_with_replacement(edges, 2)]
    rng = np.random.default_rng(0)
    for _ in range(3000):
        low, high = -int(2 ** rng.uniform(0, 8.1)), int(rng.choice([0, -1, 1, int(2 ** rng.uniform(0, 8))]))
        matrices.append(rng.integers(low, max(high, low) + 1, size=(2, rng.integers(1, 4))) * rng.choice([1, 2, 4, 8]))
    answers = [dense_is_exact(m) for m in matrices]
    wrong = [(m.tolist(), a) for m, a in zip(matrices, answers, strict=True) if a != stock_is_exact(m)]
    assert not wrong
    assert min(answers.count(True), answers.count(False)) > 100


def test_within_the_contract_a_dense_matrix_is_inexact_only_without_positive_weights_and_a_power_of_two() -> None:
    for low, high in itertools.product(range(-256, 1), range(-256, 255)):
        if low > high or (low < -127 and low % 2) or (high > 127 and high % 2) or (high < -127 and high % 2):
            continue
        power = low < 0 and -low in {1 << k for k in range(9)}
        assert dense_is_exact(np.array([[low, high]])) == (not (high <= 0 and (power or low == 0))), (low, high)


def test_what_is_refused_comes_out_wrong_on_lava(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = chain(
        Population("in", (2,)), Dense(np.array([[-8, 0], [-8, 0]])), Population("out", (2,), Integrator()), input_bits=1
    )
    hdf5.write(network, tmp_path / "minus.net")
    frames = np.ones((1, 2, 2), np.int64)
    with pytest.raises(
        NetworkError,
        match=r"in -> out: stock Lava does not store dense weights -8\.\.0 exactly .* Change one weight, or simulate",
    ):
        run_lava(tmp_path / "minus.net", frames, timeout=LIMIT)
    monkeypatch.setattr(lava_run, "check_stock_lava", lambda network, models: None)
    got = run_lava(tmp_path / "minus.net", frames, voltage=True, timeout=LIMIT)
    assert got.voltage is not None
    assert simulate(network, frames).voltage["out"][0, :, -1].tolist() == [2 * 64 * -8] * 2
    assert got.voltage[0].tolist() == [2 * 64 * -4] * 2


@pytest.mark.parametrize("models", ["stock", "fast"])
def test_a_bias_beyond_16_bits_is_refused_and_comes_out_wrong_on_lava(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: str
) -> None:
    biases = [32767, -32768, 32768, -32769]
    neurons = [Population("out", (4,), Integrator(4096, 4096), np.array(biases[:n] + [0] * (4 - n))) for n in (2, 4)]
    inside, beyond = (chain(Population("in", (1,)), Dense(np.ones((4, 1), int)), out) for out in neurons)
    lava_run.check_stock_lava(inside, models=models)
    hdf5.write(beyond, tmp_path / "bias.net")
    frames = np.zeros((1, 1, 2), np.int64)
    with pytest.raises(
        NetworkError,
        match=r"out: bias mantissas -32769\.\.32768; Lava cuts them to 16 bits \(-32768\.\.32767\), in silence\. Rescale",
    ):
        run_lava(tmp_path / "bias.net", frames, models=models, timeout=LIMIT)
    monkeypatch.setattr(lava_run, "check_stock_lava", lambda network, models: None)
    got = run_lava(tmp_path / "bias.net", frames, voltage=True, models=models, timeout=LIMIT)
    assert got.voltage is not None
    assert simulate(beyond, frames).voltage["out"][0, :, -1].tolist() == [64 * b for b in biases]
    assert got.voltage[0].tolist() == [64 * b for b in (32767, -32768, -32768, 32767)]


def test_a_recurrent_layer_with_delays_comes_out_wrong_on_lava(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays of zero steps, which mean nothing: Lava then forgets the exponent of both weights."""
    network = Network(
        (Population("in", (4,)), Population("out", (4,), Integrator())),
        (
            Projection("in", "out", Dense(integers(42, -9, 10, 4, 4))),
            Projection("out", "out", Dense(integers(43, -9, 9, 4, 4))),
        ),
    )
    path = tmp_path / "loop.net"
    hdf5.write(network, path)
    frames = integers(44, 0, 2, 1, 4, 4)
    right = simulate(network, frames).voltage["out"][..., -1]
    good = run_lava(path, frames, voltage=True, timeout=LIMIT)
    np.testing.assert_array_equal(good.voltage, right)
    with h5py.File(path, "a") as file:
        file["layer/1/delay"] = np.zeros(4)
    with pytest.raises(FormatError, match="Lava's recurrent layer computes wrongly or fails with them"):
        run_lava(path, frames, timeout=LIMIT)
    monkeypatch.setattr(hdf5, "read", lambda path, as_lava: network)
    bad = run_lava(path, frames, voltage=True, timeout=LIMIT)
    shift = 4  # weights -9..9 are stored as mantissas of 2**-4
    assert bad.voltage is not None and right.any()
    np.testing.assert_array_equal(bad.voltage, right << shift)


def test_many_groups_are_refused() -> None:
    network = chain(
        Population("in", (128, 1, 1)),
        Conv(np.ones((128, 1, 1, 1), int), groups=128),
        Population("o", (128, 1, 1), Lif(0, 0, 1)),
    )
    with pytest.raises(NetworkError, match="in -> o: 128 groups; stock Lava computes convolutions of more than 127 wrongly"):
        lava_run.check_stock_lava(network)


# --- errors and time limits --------------------------------------------------------------------------------------------


def test_bad_requests_are_refused_before_lava_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.net"
    hdf5.write(CONV_NET, path)
    frames = integers(4, 0, 16, 1, 2, 6, 5, 2)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"the input has the shape \(1, 2, 6, 2\); expected \(batch, 2, 6, 5, time\)"):
        run_lava(path, frames[:, :, :, 0])
    with pytest.raises(ConfigError, match=r"input spikes 0\.\.\d+; this network takes 0\.\.1 \(input_bits 0\)"):
        run_lava(path, frames, input_bits=0)
    with pytest.raises(ConfigError, match=r"the input has the shape \(3, 4\) of float64; expected whole"):
        run_lava(path, np.zeros((3, 4)), skip_layers=1)
    with pytest.raises(ConfigError, match=r"timeout is 0 s; it must be above 0"):
        run_lava(path, frames, timeout=0)
    with pytest.raises(ConfigError, match="num_layers 2 and skip_layers 3 leave no layer; num_layers must be the larger"):
        run_lava(path, frames, num_layers=2, skip_layers=3)
    hdf5.write(DRIVEN_NET, tmp_path / "driven.net")
    with pytest.raises(ConfigError, match=r"input biases 40000\.\.40000; Lava holds -32768\.\.32767, the chip 13 bits"):
        run_lava(tmp_path / "driven.net", np.full_like(frames, 40000))
    with pytest.raises(ConfigError, match="backend 'gpu' is unknown; choose one of cpu, loihi2"):
        run_lava(path, frames, backend="gpu")
    with pytest.raises(ConfigError, match="models 'quick' are unknown; choose one of stock, fast"):
        run_lava(path, frames, models="quick")
    with pytest.raises(ConfigError, match="there is no population 'x'"):
        run_lava(path, frames, record=["x"])
    with pytest.raises(ConfigError, match="other populations are recorded in a run of the whole file only; drop num_layers"):
        run_lava(path, frames, record=["conv"], num_layers=3)
    with monkeypatch.context() as patch:
        patch.setattr(lava_run, "check_backend", lambda backend: None)
        with pytest.raises(ConfigError, match="backend 'loihi2' runs stock models and no sigma-delta neurons here"):
            run_lava(path, frames, backend="loihi2", models="fast")
        patch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10))
        with pytest.raises(ConfigError, match=r"recording conv takes \d+ bytes, .* has 10; use fewer samples"):
            run_lava(path, frames, record=["conv"])
    with pytest.raises(MissingError, match="backend 'loihi2' needs Intel's Lava extension for Loihi"):
        run_lava(path, frames, backend="loihi2")
    with pytest.raises(FormatError, match="there is no such file"):
        run_lava(tmp_path / "none.net", frames)
    assert time.monotonic() - started < 5


def test_an_input_that_does_not_fit_the_skipped_layers_is_said_by_the_child(tmp_path: Path) -> None:
    hdf5.write(CONV_NET, tmp_path / "a.net")
    with pytest.raises(
        RunError, match=r"failed with exit code 1\. Its last lines were: the input has the shape \(5,\); expected \(18,\)"
    ):
        run_lava(tmp_path / "a.net", np.zeros((1, 5, 2), int), skip_layers=3, timeout=LIMIT)


def test_an_exception_in_a_process_model_ends_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hdf5.write(CONV_NET, tmp_path / "a.net")
    compact = lava_run._compact
    monkeypatch.setattr(lava_run, "_compact", lambda values: compact(values[:1]))  # the child is told of three samples
    started = time.monotonic()
    with pytest.raises(RunError, match=r"Lava on a\.net failed with exit code 1\. Its last lines were: .*IndexError"):
        run_lava(tmp_path / "a.net", integers(4, 0, 16, 3, 2, 6, 5, 2), timeout=LIMIT)
    assert time.monotonic() - started < LIMIT / 2


def test_a_run_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    hdf5.write(CONV_NET, tmp_path / "a.net")
    with pytest.raises(
        RunError, match=r"Lava on a\.net did not end within 0\.3 s and was stopped; give it more time or fewer samples"
    ):
        run_lava(tmp_path / "a.net", integers(4, 0, 16, 1, 2, 6, 5, 2), timeout=0.3)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie that nobody has fetched does not)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    return False


def test_a_hanging_child_is_killed_with_all_its_children(tmp_path: Path) -> None:
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); time.sleep(99)"])
open("pid", "w").write(str(child.pid))
print("first", "second", sep="\\n", file=sys.stderr, flush=True)
time.sleep(100)
"""
    polls: list[float] = []
    with pytest.raises(
        RunError, match=r"the child did not end within 1\.5 s and was stopped; .* Its last lines were: first \| second$"
    ):
        supervise(
            [sys.executable, "-c", code],
            tmp_path,
            timeout=1.5,
            what="the child",
            on_poll=lambda: polls.append(time.monotonic()),
        )
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)
    assert len(polls) > 5


def test_a_child_that_fails_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"it failed with exit code 3\. Its last lines were: \(none\)"):
        supervise([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, timeout=LIMIT, what="it")
