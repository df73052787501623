"""The command line, called as the entry point calls it, and one tiny run from images to report."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

import mapping
from netx_export import hdf5
from netx_export.errors import CapacityError, MissingError
from netx_export.network import Conv, Dense, Integrator, Lif, Network, Population, Projection, Voltage
from netx_export.simulate import simulate
from qpsnn_lava import checkpoint, cli, data, pipeline, plots, prune
from qpsnn_lava.cli import console as streams
from qpsnn_lava.pipeline import checking, reporting, training
from qpsnn_lava.report_file import check as check_report

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]
VERBS = ("run", "train", "export", "inspect", "simulate", "verify", "map", "report", "compare", "plot", "doctor")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of an error; nothing else may have been said."""
        assert self.code != 0 and self.err.count("\n") == 1 and self.err.startswith("error: "), self.err
        assert "Traceback" not in self.err and "internal error" not in self.err
        return self.err[len("error: ") : -1]


@pytest.fixture
def qpsnn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs ``qpsnn ...`` in this process on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("QPSNN_DEBUG", raising=False)

    def call(*words: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["qpsnn", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        assert all(len(line) <= 80 for line in out.splitlines()) or out.startswith(("{", "/")), out
        code = left.value.code
        assert isinstance(code, int)
        return Result(code, out, err)

    return call


@pytest.fixture(scope="session")
def pilotnet() -> Path:
    """Intel's PilotNet, of the lava-dl wheel."""
    name = "tests/lava/lib/dl/netx/gts/pilotnet_lif/network.net"
    path = Path(str(metadata.distribution("lava-dl").locate_file(name)))
    if not path.exists():
        pytest.skip("this lava-dl has no example networks")
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Eight inputs, five LIF neurons, two integrators."""
    rng = np.random.default_rng(0)
    populations = (
        Population("input", (8,)),
        Population("hidden", (5,), Lif(4096, 2048, 60), np.array([3, 0, -2, 1, 0], np.int32)),
        Population("output", (2,), Integrator(4096, 0)),
    )
    weights = [rng.integers(-7, 8, shape).astype(np.int32) * 8 for shape in ((5, 8), (2, 5))]
    projections = (Projection("input", "hidden", Dense(weights[0])), Projection("hidden", "output", Dense(weights[1])))
    path = tmp_path / "small.net"
    hdf5.write(Network(populations, projections, Voltage(), 0, 6), path)
    return path


# --- usage -------------------------------------------------------------------------------------------------------------


def test_help(qpsnn: Callable[..., Result]) -> None:
    for words in ((), ("--help",), ("-h",)):
        result = qpsnn(*words)
        assert result.code == 0 and not result.err
        assert all(re.search(rf"\b{verb}\b", result.out) for verb in VERBS) and "Usage: qpsnn" in result.out


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb(qpsnn: Callable[..., Result], verb: str) -> None:
    result = qpsnn(verb, "-h")
    assert result.code == 0 and not result.err and f"Usage: qpsnn {verb} " in result.out and "--json" in result.out
    assert "default: runs/NAME" in result.out or verb not in ("run", "train")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], r"No such command 'nope'\. Try 'qpsnn --help'\."),
        (["map", "--wrong-flag", "x.net"], r"No such option: --wrong-flag\. Try 'qpsnn map --help'\."),
        (["run"], r"Missing argument 'EXPERIMENT'\. Try 'qpsnn run --help'\."),
        (["simulate", "x.net"], r"Missing option '--input'\. Try 'qpsnn simulate --help'\."),
        (["verify", "x.net", "--samples", "0"], r"Invalid value for '--samples': .*1.*\. Try 'qpsnn verify --help'\."),
        (["verify"], r"verify needs a FILE\.net, or the results of shards: --merge R1\.json"),
        (["map", "x.net", "--chips", "two"], r"Invalid value for '--chips'.*Try 'qpsnn map --help'\."),
        (["inspect", "a.net", "b.net"], r"unexpected extra argument.*\. Try 'qpsnn inspect --help'\."),
    ],
)
def test_usage_errors(qpsnn: Callable[..., Result], words: list[str], message: str) -> None:
    result = qpsnn(*words)
    assert result.code == 1 and not result.out
    assert re.search(message, result.error)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "gone.net"], r"gone\.net: there is no such file"),
        (["map", "gone.net"], r"gone\.net: there is no such file"),
        (["simulate", "gone.net", "--input", "x.npy"], r"gone\.net: there is no such file"),
        (
            ["export", "gone"],
            r"gone is no run folder: it has no config\.toml\. Make one with: qpsnn run EXPERIMENT --out gone",
        ),
        (["report", "gone"], r"gone is no run folder"),
        (["run", "gone.toml"], r"there is no experiment 'gone\.toml'"),
        (["run", "digit"], r"there is no experiment 'digit': .*did you mean 'digits'\?"),
        (["run", "digits", "--set", "prune.keap=0.5"], r"prune\.keap is unknown; .*did you mean 'keep'\?"),
        (["train", "digits", "--set", "prune"], r"--set 'prune' is not of the form section\.key=value"),
        (["run", "fashion-mnist", "--data", "gone", "--out", "r"], r"fashion-mnist is not in gone .*--data FOLDER\."),
    ],
)
def test_what_is_not_there(
    qpsnn: Callable[..., Result], words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = qpsnn(*words)
    assert result.code == 1 and not result.out
    assert re.search(message, result.error), result.error


def test_a_folder_that_is_taken(qpsnn: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file"):
        assert re.search(
            r"is not empty and is no run folder; choose another --out\.", qpsnn("run", "digits", "--out", out).error
        )
    assert (tmp_path / "file").read_text() == "mine"
    assert "cannot write" in qpsnn("run", "digits", "--out", tmp_path / "file" / "below").error


def test_an_error_of_ours_is_one_line(qpsnn: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    from netx_export import inspect

    def broken(_: object) -> None:
        raise ZeroDivisionError("1 / [red]0")

    monkeypatch.setattr(inspect, "describe", broken)
    result = qpsnn("inspect", small)
    assert result.code == 1
    assert result.err == (
        "error: internal error (ZeroDivisionError: 1 / [red]0). Set QPSNN_DEBUG=1 to see where, and please report it.\n"
    )
    monkeypatch.setenv("QPSNN_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["qpsnn", "inspect", str(small)])
    with pytest.raises(ZeroDivisionError):
        cli.main()


# --- files -------------------------------------------------------------------------------------------------------------


def test_inspect(qpsnn: Callable[..., Result], small: Path) -> None:
    result = qpsnn("inspect", small)
    assert result.code == 0 and not result.err
    lines = result.out.splitlines()
    assert lines[0].split() == ["layer", "type", "shape", "weights", "range", "bits", "thresh.", "bias"]
    assert lines[2].split() == ["hidden", "dense", "5", "40", "-56..56", "4", "60", "-2..3"]
    assert re.fullmatch(r"7 neurons, \d+ synapses, window of 6 steps, read-out: .+", lines[-1])
    found = qpsnn("inspect", small, "--json").json
    assert found["neurons"] == 7 and [layer["name"] for layer in found["layers"]] == ["input", "hidden", "output"]


def test_inspect_pilotnet(qpsnn: Callable[..., Result], pilotnet: Path) -> None:
    lines = qpsnn("inspect", pilotnet).out.splitlines()
    assert lines[2].split() == ["conv1", "conv", "24x32x99", "648", "-20..18", "5", "25", "-60..64"]
    assert lines[12].split() == ["layer", "decay", "u", "decay", "v", "safe", "steps"]
    assert lines[21].split() == ["dense10", "4096", "0", "468"] and {line.split()[-1] for line in lines[13:21]} == {"any"}
    assert len(lines) == 25 and lines[-1].startswith("158,509 neurons, 10,685,862 synapses")


def test_simulate(qpsnn: Callable[..., Result], small: Path, tmp_path: Path) -> None:
    frames = (np.random.default_rng(1).random((4, 8, 6)) < 0.5).astype(np.uint8)
    np.save(tmp_path / "x.npy", frames)
    network = hdf5.read(small)
    expected = simulate(network, frames, states=["output"])
    result = qpsnn("simulate", small, "--input", tmp_path / "x.npy", "--out", tmp_path / "y.npz", "--json")
    assert result.code == 0 and not result.err
    fired = int(expected.spikes["hidden"].sum())
    assert result.json["samples"] == 4 and result.json["steps"] == 6
    assert result.json["spikes"] == {"input": int(frames.sum()), "hidden": fired, "output": 0} and fired > 0
    assert result.json["rates"]["hidden"] == pytest.approx(fired / (4 * 5 * 6))
    assert result.json["classes"] == expected.voltage["output"][..., -1].argmax(1).tolist()
    with np.load(tmp_path / "y.npz") as written:
        assert np.array_equal(written["spikes/hidden"], expected.spikes["hidden"])
        assert np.array_equal(written["voltage/output"], expected.voltage["output"])
    table = qpsnn("simulate", small, "--input", tmp_path / "x.npy").out.splitlines()
    operations = fired_times_fan_out(network, expected.spikes["hidden"])
    assert table[2].split() == ["hidden", str(fired), f"{100 * fired / 120:.2f}", "%", str(operations)]
    assert result.json["synaptic_ops"]["hidden -> output"] == operations


def fired_times_fan_out(network: Network, spikes: NDArray[Any]) -> int:
    """Each spike of the hidden layer meets the non-zero weights of its column."""
    weight = network.into("output")[0].synapse.weight
    return int(sum((weight[:, pre] != 0).sum() for _, pre, _ in np.argwhere(spikes)))


def test_simulate_keeps_no_spikes_that_nobody_asked_for(
    qpsnn: Callable[..., Result], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts and classes come from pieces of the input; the whole run is not even called."""
    from netx_export import engine
    from qpsnn_lava.cli import netx

    frames = (np.random.default_rng(1).random((7, 8, 6)) < 0.5).astype(np.uint8)
    np.save(tmp_path / "x.npy", frames)
    words = ("simulate", small, "--input", tmp_path / "x.npy", "--json")
    whole = qpsnn(*words).json
    monkeypatch.setattr(engine, "simulate_fast", lambda *_, **__: pytest.fail("kept all spikes"))
    monkeypatch.setattr(netx, "PIECE", 2 * 8 * 6)  # two samples
    assert [len(piece) for piece in netx._pieces(frames)] == [2, 2, 2, 1]
    assert qpsnn(*words, "--threads", "1", "--max-memory", "1MB").json == whole


def test_simulate_probes(qpsnn: Callable[..., Result], small: Path, tmp_path: Path) -> None:
    frames = (np.random.default_rng(1).random((4, 8, 6)) < 0.5).astype(np.uint8)
    np.save(tmp_path / "x.npy", frames)
    expected = simulate(hdf5.read(small), frames, states=["hidden", "output"])
    words = ("simulate", small, "--input", tmp_path / "x.npy", "--probe", "hidden, output", "--probe-out", tmp_path / "p.npz")
    result = qpsnn(*words, "--probe-samples", "3,0", "--probe-steps", "1:3,5", "--json")
    assert result.code == 0 and result.json["probe_out"] == str(tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz") as kept:
        assert kept["samples"].tolist() == [3, 0] and kept["steps"].tolist() == [1, 2, 5]
        for name in ("hidden", "output"):
            for kind, run in (("spikes", expected.spikes), ("v", expected.voltage), ("u", expected.current)):
                assert np.array_equal(kept[f"{name}.{kind}"], run[name][[3, 0]][..., [1, 2, 5]])
        assert kept["hidden.bias"].tolist() == [64 * n for n in (3, 0, -2, 1, 0)]
    assert qpsnn(*words, "--probe", "input").code == 0  # a second time: one more layer, all samples and steps
    with np.load(tmp_path / "p.npz") as kept:
        assert np.array_equal(kept["input.spikes"], frames) and kept["output.v"].shape == (4, 2, 6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--probe", "hidden"], r"--probe and --probe-out belong together: name layers and a file"),
        (["--probe-out", "p.npz"], r"--probe and --probe-out belong together"),
        (["--probe", "hidden,conv", "--probe-out", "p.npz"], r"there is no population 'conv'; the network has input, hidden, output"),
        (["--probe", "hidden", "--probe-out", "p.npz", "--probe-samples", "1,4"], r"--probe-samples 4: the input has the samples 0\.\.3"),
        (["--probe", "hidden", "--probe-out", "p.npz", "--probe-steps", "4:9"], r"--probe-steps 4:9: the input has the steps 0\.\.5"),
        (["--probe", "hidden", "--probe-out", "p.npz", "--probe-steps", "3:3"], r"--probe-steps 3:3: .* a range ends after it begins"),
        (["--probe", "hidden", "--probe-out", "p.npz", "--probe-steps", "1;2"], r"--probe-steps '1;2' is not a list such as 0,3 or 0:4"),
        (["--probe", "hidden", "--probe-out", "p.npz", "--probe-steps", ""], r"--probe-steps '' is not a list"),
        (["--probe", "hidden", "--probe-out", "p.npz", "--max-memory", "200"], r"probing hidden takes \d+ bytes; the limit is 200"),
        (["--max-memory", "2 GiBi"], r"--max-memory '2 GiBi' is not a size; write a number of bytes, or one with kB, MB, GB, MiB or GiB"),
        (["--max-memory", "-1"], r"--max-memory '-1' is not a size"),
        (["--max-memory", "0"], r"one sample of 6 steps needs \d+ MiB, more than max_memory, 0 MiB"),
        (["--out", "y.npz", "--max-memory", "1kB"], r"--out keeps all spikes, 1632 bytes; --max-memory is 1000\. Allow more"),
        (["--threads", "0"], r"Invalid value for '--threads'"),
    ],
)  # fmt: skip
def test_simulate_requests(
    qpsnn: Callable[..., Result],
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((4, 8, 6), np.uint8))
    result = qpsnn("simulate", small, "--input", "x.npy", *words)
    assert result.code == 1 and not result.out and re.search(message, result.error), result.error
    assert not Path("p.npz").exists() and not Path("y.npz").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("17", 17),
        ("2GiB", 2 << 30),
        ("500MB", 500_000_000),
        ("1.5 kB", 1500),
        ("3KiB", 3072),
        ("4M", 4_000_000),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    from qpsnn_lava.cli import netx

    assert netx.size_of(text) == size


def test_what_lava_ignores_is_ignored_on_request(qpsnn: Callable[..., Result], small: Path, tmp_path: Path) -> None:
    """A refractory delay, which Lava does not know: refused, or simulated without."""
    np.save(tmp_path / "x.npy", (np.random.default_rng(1).random((2, 8, 6)) < 0.5).astype(np.uint8))
    words = ("simulate", small, "--input", tmp_path / "x.npy")
    plain = qpsnn(*words, "--json").json
    assert plain["spikes"]["hidden"] > 0
    with h5py.File(small, "a") as file:
        file["layer/1/neuron/refDelay"][...] = 3
    for command in (words, ("verify", small)):
        assert "has refDelay 3, which Lava ignores (it runs as 1)" in qpsnn(*command).error
    assert qpsnn(*words, "--as-lava", "--json").json == plain
    spikes = simulate(hdf5.read(small, as_lava=True), np.load(tmp_path / "x.npy")).voltage["output"]
    np.save(tmp_path / "y.npy", spikes)
    assert qpsnn("verify", small, "--as-lava", "--input", tmp_path / "x.npy", "--against", tmp_path / "y.npy").code == 0


PEAK = """
import sys
import numpy as np
from qpsnn_lava import cli

try:
    cli.main()
finally:
    with open("/proc/self/status") as status:
        print(next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM")), file=sys.stderr)
"""


def test_simulate_ten_thousand_samples_in_bounded_memory(tmp_path: Path) -> None:
    """10,000 images of 28 x 28 pixels in 4 steps through 6,000 neurons, whose spikes would take 1 GB: the peak is that of 20 samples and
    at most 60 MB more (31 MB of it the pages of the input), and both are below --max-memory beside an interpreter with numpy and
    numba (300 MB)."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is read from /proc")
    rng = np.random.default_rng(0)
    network = Network(
        (Population("in", (1, 28, 28)), Population("conv", (8, 26, 26), Lif(4096, 512, 20)), Population("out", (10,), Integrator())),
        (
            Projection("in", "conv", Conv(rng.integers(-9, 12, (8, 1, 3, 3)))),
            Projection("conv", "out", Dense(rng.integers(-9, 10, (10, 5408)))),
        ),
        Voltage(),
    )  # fmt: skip
    hdf5.write(network, tmp_path / "a.net")
    limit = 64 << 20
    peaks = []
    for samples in (20, 20, 10_000):  # the first compiles, where nobody has yet
        np.save(tmp_path / "x.npy", (rng.random((samples, 1, 28, 28, 4)) < 0.1).astype(np.uint8))
        words = ["simulate", "a.net", "--input", "x.npy", "--max-memory", str(limit), "--threads", "2", "--json"]
        child = subprocess.run(
            [sys.executable, "-c", PEAK, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert child.returncode == 0, child.stderr
        found = json.loads(child.stdout)
        assert found["samples"] == samples == len(found["classes"]) and 0.02 < found["rates"]["conv"] < 0.8
        peaks.append(int(child.stderr))
    assert peaks[2] - peaks[1] < 60 << 20
    assert max(peaks[1:]) < limit + (300 << 20)


def _several(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, a=np.zeros(3), b=np.zeros(2))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: np.save(p, np.zeros((4, 7, 6), np.int64)), r"shape \(4, 7, 6\); expected \(batch, 8, time\)"),
        (lambda p: np.save(p, np.zeros((4, 8, 6))), "of type float64; whole numbers are expected"),
        (lambda p: np.save(p, np.full((4, 8, 6), 2)), r"input spikes 2\.\.2; this network takes 0\.\.1"),
        (lambda p: np.save(p, np.array([{}], object)), r"x\.npy is not an \.npy file of numbers; write one with numpy\.save"),
        (lambda p: p.write_bytes(b"0 1 1 0"), r"x\.npy is not an \.npy file of numbers"),
        (lambda p: p.write_bytes(b""), r"x\.npy is not an \.npy file of numbers"),
        (_several, r"x\.npy holds several arrays; one is expected"),
        (lambda p: None, r"x\.npy: there is no such file"),
    ],
)
def test_simulate_refuses(
    qpsnn: Callable[..., Result], small: Path, tmp_path: Path, write: Callable[[Path], object], message: str
) -> None:
    write(tmp_path / "x.npy")
    for verb in ("simulate", "verify"):
        result = qpsnn(verb, small, "--input", tmp_path / "x.npy")
        assert result.code == 1 and not result.out and re.search(message, result.error), result.error


def test_simulate_leaves_nothing_half_written(
    qpsnn: Callable[..., Result], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 6), np.int64))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    before = sorted(p.name for p in tmp_path.iterdir())
    message = qpsnn("simulate", small, "--input", tmp_path / "x.npy", "--out", tmp_path / "y.npz").error
    assert "cannot write" in message and "No space left on device" in message
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def _verification(mismatches: int) -> Any:
    from netx_export.verify import Verification

    return Verification(8, 96, 0, 0, 16, mismatches, "sample 3, output[1], v at the end: ..." if mismatches else "")


@pytest.mark.parametrize("mismatches", [0, 2])
def test_verify_codes(qpsnn: Callable[..., Result], small: Path, monkeypatch: pytest.MonkeyPatch, mismatches: int) -> None:
    """What is run is Lava's business (tests of netx_export); here: what is said about it, and the exit code."""
    from netx_export import verify

    asked: list[Any] = []

    def stand_in(path: Path, network: Network, frames: NDArray[Any], **options: Any) -> Any:
        asked.append((path, frames.shape, options))
        return _verification(mismatches)

    monkeypatch.setattr(verify, "verify_lava", stand_in)
    plain = qpsnn("verify", small, "--samples", "3")
    both = qpsnn(
        "verify",
        small,
        "--json",
        "--timeout",
        "5",
        "--backend",
        "loihi2",
        "--lava-models",
        "fast",
        "--shard",
        "2/3",
        "--results",
        "r",
    )
    assert asked == [
        (small, (3, 8, 6), {"backend": "cpu", "models": "stock", "timeout": 600.0, "shard": (1, 1), "results": None}),
        (small, (8, 8, 6), {"backend": "loihi2", "models": "fast", "timeout": 5.0, "shard": (2, 3), "results": Path("r")}),
    ]
    assert plain.code == both.code == (3 if mismatches else 0)
    assert both.json["mismatches"] == mismatches and f"{mismatches} of 16 voltages differ" in " ".join(plain.out.split())
    if mismatches:
        assert plain.error.startswith("sample 3, output[1]")


def test_map(qpsnn: Callable[..., Result], pilotnet: Path, tmp_path: Path) -> None:
    result = qpsnn("map", pilotnet, "--limit", "synapse_words=12000", "--check", "--out", tmp_path / "mapped")
    assert result.code == 0 and not result.err
    lines = result.out.splitlines()
    assert lines[0].split("  ")[0] == "layer"
    assert lines[2].split()[:4] == ["conv1", "24x32x4", "25", "19"]  # channels, height, width as everywhere
    said = " ".join(result.out.split())
    assert re.search(r"fits: \d+ cores on 1 chip of loihi2 with 120 cores each; dense7 fills synapse_words to \d+ %", said)
    assert "not run on hardware" in said
    written = json.loads((tmp_path / "mapped" / "mapping.json").read_text())
    again = qpsnn("map", pilotnet, "--limit", "synapse_words=12000", "--json").json
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in written["utilisation"].items() if k != "seconds"
    }
    assert again["cores"] == sum(row["cores"] for row in again["layers"]) == len(written["mapping"]["cores"])
    assert "<title>network.net on loihi2</title>" in (tmp_path / "mapped" / "report.html").read_text(encoding="utf-8")
    with (tmp_path / "mapped" / "cores.csv").open() as stream:
        cores = list(csv.DictReader(stream))
    assert len(cores) == again["cores"]
    assert sum(int(row["neurons"]) for row in cores) == again["neurons"]
    with (tmp_path / "mapped" / "layers.csv").open() as stream:
        assert [row["name"] for row in csv.DictReader(stream)] == [row["name"] for row in again["layers"]]
    keys = {"chip", "profile", "fits", "verdict", "cores", "chips", "lower_bound", "layers", "evidence", "seconds"}
    assert keys <= set(again) and "pareto" not in again
    of_layers = {"name", "type", "cores", "tile", "neurons_per_core", "synapse_words", "synapse_words_total", "neurons_tile"}
    of_layers |= {"neurons_mean", "axon_in", "axon_map", "axon_mem", "pool_percent", "binding"}
    assert all(of_layers <= set(row) for row in again["layers"])
    assert again["layers"][1]["tile"] == [4, 32, 24] and again["layers"][6]["neurons_per_core"] == 15  # w, h, c
    assert written["details"]["core_use"][0]["slices"] == "input[0:3, 0:66, 0:16]"
    assert {p.name for p in (tmp_path / "mapped").glob("*.png")} == {"mesh.png", "use.png", "traffic.png"}


def test_map_shows_the_front(qpsnn: Callable[..., Result], small: Path, tmp_path: Path) -> None:
    words = ("map", small, "--limit", "neurons=1", "--pareto")
    found = qpsnn(*words, "--json", "--out", tmp_path / "front").json
    plans = found["pareto"]
    assert plans[0]["messages"] == pytest.approx(found["messages"]) and found["assumed_rate"] == 0.1
    assert plans[0]["cores"] == found["cores"] == 7 and all(set(p) == {"cores", "messages", "operations"} for p in plans)
    assert (tmp_path / "front" / "pareto.png").exists()
    text = qpsnn(*words).out
    assert "None of these beats another in all three" in text
    row = [f"{plans[0][key]:,.0f}" for key in ("cores", "messages", "operations")]
    assert any(line.split() == row for line in text.splitlines())


def test_map_puts_networks_side_by_side(qpsnn: Callable[..., Result], small: Path, tmp_path: Path) -> None:
    names = ["a/small.net", "b/small.net"]
    for name in names:
        (tmp_path / name).parent.mkdir()
        shutil.copy(small, tmp_path / name)
    out = tmp_path / "compared"
    result = qpsnn("map", *(tmp_path / name for name in names), "--out", out)
    assert result.code == 0 and not result.err
    assert [line.split("  ")[0] for line in result.out.splitlines()[1:4]] == [f"{names[0]}, at 8 bits", *names]
    found = qpsnn("map", *(tmp_path / name for name in names), "--json").json
    assert found == json.loads((out / "mapping.json").read_text()) and found["chip"] == "loihi2"
    wide, first, second = found["networks"]
    alone = qpsnn("map", small, "--json").json
    for row in (first, second):
        assert (row["cores"], row["synapse_words"], row["lower_bound"]) == tuple(
            alone[key] for key in ("cores", "synapse_words", "lower_bound")
        )
    assert wide["synapse_words"] == 8 * 2 + 5 * 1  # 8 inputs of 5 * (8 + 12) + 8 bits, 5 inputs of 2 * 20 + 8 bits
    page = (out / "mapping.md").read_text()
    assert all(f"| {name} |" in page for name in names) and "not run on hardware" in page and "at 8 bits" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--check"], r"--check, --place, --pareto and --objective are of one file; give one FILE\.net"),
        (["--limit", "axon_in=4"], r"hidden: one neuron needs 8 axon_in, a core of loihi2 has 4\. Way out"),
    ],
)
def test_map_refuses_to_compare(
    qpsnn: Callable[..., Result], small: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    shutil.copy(small, tmp_path / "b.net")
    result = qpsnn("map", small, tmp_path / "b.net", *words)
    assert result.code in (1, 2) and re.search(message, result.error), result.error
    twice = qpsnn("map", small, small)
    assert twice.code == 1 and "a file is named twice; give each once." in twice.error


def test_bench_map(qpsnn: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    from mapping import bench

    measure = bench.bench
    monkeypatch.setattr(bench, "bench", lambda chip: measure(chip, size=24, seated=24, layers=(1, 2)))
    result = qpsnn("bench", "map")
    assert result.code == 0
    rows = [line.split("  ")[0] for line in result.out.splitlines()[1:6]]
    assert rows == ["default", "free tiles", "free tiles, shared cores", "1 layers", "2 layers"]
    assert re.search(r"placing \d+ cores: \S+ s, hops a step \S+ -> \S+", result.out)
    monkeypatch.setattr(bench, "pilotnet", lambda: None)
    assert "PilotNet is left out" in qpsnn("bench", "map").out
    assert {"ways", "growth", "pilotnet", "placement"} <= set(qpsnn("bench", "map", "--chip", "loihi2-2022", "--json").json)


def test_map_with_relaxed_rules_on_a_board(qpsnn: Callable[..., Result], pilotnet: Path) -> None:
    words = ("map", pilotnet, "--chip", "loihi2-2022", "--free-tiles", "--share-cores", "--check", "--place")
    found = qpsnn(*words, "--json").json
    assert found["lower_bound"] <= found["cores"] <= 52 and found["fits"]
    assert found["routing"]["hops"] < found["routing"]["snake_hops"]
    assert any("assumed legal" in line for line in found["evidence"])
    assert "assumed legal" in " ".join(qpsnn(*words).out.split())
    board = qpsnn("map", pilotnet, "--board", "kapoho-point", "--limit", "cores_per_chip=10", "--json")
    assert board.code == 0 and board.json["chips"] == 7


def test_verify_against_a_recording_in_shards(qpsnn: Callable[..., Result], small: Path, tmp_path: Path) -> None:
    network = hdf5.read(small)
    frames = np.random.default_rng(0).integers(0, 2, (5, *network.input.shape, 6))
    voltage = simulate(network, frames).voltage[network.output.name]
    np.save(tmp_path / "x.npy", frames)
    np.save(tmp_path / "out.npy", voltage)
    words = ("verify", small, "--input", tmp_path / "x.npy", "--against", tmp_path / "out.npy")
    assert qpsnn(*words).code == 0
    parts = [tmp_path / f"{i}.json" for i in (1, 2)]
    for i, part in enumerate(parts, 1):
        assert qpsnn(*words, "--shard", f"{i}/2", "--results", part).code == 0
    assert qpsnn("verify", "--merge", parts[0], "--merge", parts[1], "--json").json["samples"] == 5
    voltage[3, 1, 2] += 1
    np.save(tmp_path / "out.npy", voltage)
    wrong = qpsnn(*words)
    assert wrong.code == 3 and "sample 3" in wrong.error
    assert qpsnn(*words, "--shard", "3/2").code == 1


def test_chips(qpsnn: Callable[..., Result]) -> None:
    listed = qpsnn("chips", "list", "--json").json
    assert {"loihi1", "loihi2", "loihi2-2022"} <= set(listed["chips"]) and "oheo-gulch" in listed["boards"]
    for name in (*listed["chips"], *listed["boards"]):
        shown = qpsnn("chips", "show", name)
        assert shown.code == 0 and "not run on hardware" in " ".join(shown.out.split())
    wrong = qpsnn("chips", "show")
    assert wrong.code == 1 and "qpsnn chips show NAME" in wrong.error
    assert qpsnn("chips", "show", "loihi9").code == 1


def test_map_that_does_not_fit(qpsnn: Callable[..., Result], pilotnet: Path) -> None:
    result = qpsnn("map", pilotnet, "--limit", "cores_per_chip=10", "--json")
    assert result.code == 2 and result.json["fits"] is False
    assert result.json["verdict"] == result.error
    assert re.match(r"does not fit: 66 cores need 7 chips, .*Way out: .*a board with 7 chips", result.error)
    assert result.json["cores"] == 66 and len(result.json["layers"]) == 10 and result.json["evidence"]
    table = qpsnn("map", pilotnet, "--limit", "cores_per_chip=10")
    assert table.code == 2 and table.error == result.error and "conv1" in table.out
    assert qpsnn("map", pilotnet, "--limit", "cores_per_chip=10", "--chips", "7").code == 0


def test_map_where_not_even_a_neuron_fits(qpsnn: Callable[..., Result], pilotnet: Path) -> None:
    result = qpsnn("map", pilotnet, "--limit", "synapse_words=100", "--json")
    assert result.code == 2 and result.json["fits"] is False and result.json["verdict"] == result.error
    assert re.match(r"conv2: one neuron needs 216 synapse_words, a core of loihi2 has 100\. Way out: ", result.error)
    assert result.json["seconds"] > 0 and len(result.json["layers"]) == 10 and result.json["evidence"]
    assert qpsnn("map", pilotnet, "--limit", "synapse_words=100").out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "axon_in"], r"--limit 'axon_in' is not of the form NAME=WHOLE NUMBER, such as synapse_words=12000"),
        (["--limit", "axon_in=1.5"], r"--limit 'axon_in=1\.5' is not of the form"),
        (["--limit", "rows=3"], r"loihi2 has no limit 'rows'; it has "),
        (["--chip", "loihi3"], r"there is no chip 'loihi3' and no such file; known are loihi1, loihi2"),
    ],
)
def test_map_refuses(qpsnn: Callable[..., Result], small: Path, words: list[str], message: str) -> None:
    result = qpsnn("map", small, *words)
    assert result.code == 1 and re.search(message, result.error)


def test_doctor(qpsnn: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    from qpsnn_lava import doctor

    whole = qpsnn("doctor")
    assert whole.code in (0, 1) and "component" in whole.out and "lava-nc" in whole.out
    assert qpsnn("doctor", "--json").json["rows"][0]["component"] == "Python"
    installed = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: None if name == "lava-dl" else installed(name))
    result = qpsnn("doctor", "--json")
    assert result.code == 1 and result.json["command"] == doctor.INSTALL_COMMAND
    assert {row["component"]: row["state"] for row in result.json["rows"]}["lava-dl"] == "missing"


# --- the flow ----------------------------------------------------------------------------------------------------------

TOML = """
name = "tiny"
[data]
name = "fashion-mnist"
steps = 3
input_bits = 2
[[network]]
type = "conv"
channels = 4
stride = 4
[[network]]
type = "pool"
[[network]]
type = "dense"
units = 12
[train]
epochs = 2
quantised_epochs = 2
finetune_epochs = 1
frozen_epochs = 1
batch = 24
learning_rate = 1e-2
threads = 1
[prune]
keep = 0.5
samples = 32
[lava]
samples = 2
timeout = 100
"""
FILES = (
    "checks.json",
    "checkpoints",
    "config.toml",
    "log.jsonl",
    "mapping.json",
    "model.safetensors",
    "network.net",
    "report.html",
    "report.json",
    "report.md",
    "training.json",
    "unpruned.net",
)


def _write_images(folder: Path) -> None:
    """A small Fashion-MNIST: classes are bars of other positions, with noise."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 240), ("t10k", 40)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = rng.integers(0, 80, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 2 : 2 * label + 8] += 150
        for kind, values in (("images-idx3", images.astype(np.uint8)), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + values.tobytes())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images and the experiment."""
    folder = tmp_path_factory.mktemp("flow")
    (folder / "images").mkdir()
    _write_images(folder / "images")
    assert all((folder / "images" / name).exists() for name in data.FASHION_FILES)
    (folder / "tiny.toml").write_text(TOML)
    return folder


def _words(made: Path, out: Path) -> tuple[str | Path, ...]:
    return ("run", made / "tiny.toml", "--data", made / "images", "--out", out)


@pytest.fixture(scope="module")
def done(made: Path) -> Path:
    """A finished run, made by the command line itself, with Lava in it."""
    out = made / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qpsnn", *map(str, _words(made, out))])
        with pytest.raises(SystemExit) as left:
            cli.main()
    assert left.value.code == 0
    return out


def test_a_run_is_complete(done: Path) -> None:
    assert {p.name for p in done.iterdir()} >= set(FILES) and list(done.glob("**/*.png"))
    assert not list(done.rglob("*.tmp")) and len(list(done.rglob("report.json"))) == 1
    report = json.loads((done / "report.json").read_text())
    assert report["command"].startswith("qpsnn run ") and report["dataset"]["n_test"] == 40
    assert set(report["accuracy"]) == {"float", "quantised", "pruned", "integer", "lava"}
    assert report["accuracy"]["integer"]["n"] == 40 and report["accuracy"]["lava"]["n"] == 2
    agreement = report["agreement"]
    assert agreement["spike_mismatches"] == agreement["voltage_mismatches"] == 0
    assert agreement["samples"] == 40 and agreement["lava_samples"] == 2
    assert agreement["spikes_compared"] == 40 * 3 * (2 * 7 * 7 + 2 * 3 * 3 + 6 + 10) + 2 * 3 * 10
    assert [(row["name"], row["channels_before"], row["channels_after"]) for row in report["layers"]] == [
        ("conv1", 4, 2),
        ("pool2", 4, 2),
        ("dense3", 12, 6),
        ("output", 10, 10),
    ]
    assert [row["bits"] for row in report["layers"]] == [8, None, 4, 8]
    assert report["layers"][2]["stored_bits"] <= 4 and report["seconds"].keys() >= {"float", "fine-tune", "lava", "map"}
    network = hdf5.read(done / "network.net")
    assert [p.shape for p in network.populations] == [(1, 28, 28), (2, 7, 7), (2, 3, 3), (6,), (10,)]
    assert hdf5.read(done / "unpruned.net")["dense3"].shape == (12,)
    log = [json.loads(line) for line in (done / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["epoch"]) for line in log] == [
        ("float", 1),
        ("float", 2),
        ("quantised", 1),
        ("quantised", 2),
        ("fine-tune", 1),
    ]


def test_the_report_has_all_of_the_mapping(done: Path) -> None:
    report = json.loads((done / "report.json").read_text())
    check_report(report)
    found = report["mapping"]
    assert sum(row["used_synapse_words"] for row in found["core_use"]) == sum(row["synapse_words"] for row in report["layers"])
    assert [row["name"] for row in found["synapses"]] == ["conv1", "pool2", "dense3", "output"]
    rates = json.loads((done / "checks.json").read_text())["firing"]  # what the simulation counted, not an assumed rate
    network = hdf5.read(done / "network.net")
    into_output = found["traffic"]["messages"][3][4]
    assert into_output == pytest.approx(rates["dense3"] * network["dense3"].size) and rates["input"] > 0.1
    assert [row["name"] for row in found["compared"]] == ["unpruned, at 8 bits", "unpruned, quantised", "pruned"]
    assert found["compared"][2]["synapse_words"] == sum(row["used_synapse_words"] for row in found["core_use"])
    assert found["energy"] is None and found["widths"] == [] and found["pareto"][0]["cores"] == found["cores"]
    with (done / "cores.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == found["cores"]
    with (done / "layers.csv").open() as stream:
        assert [row["name"] for row in csv.DictReader(stream)] == ["input", "conv1", "pool2", "dense3", "output"]
    text = (done / "report.md").read_text()
    assert all(f"(<{name}.png>)" in text and (done / f"{name}.png").exists() for name in ("mesh", "use", "traffic", "pareto"))


def _no_lava(*_: Any, **__: Any) -> Any:
    raise MissingError("lava-nc is not installed; get it with: pip")


def test_pruning_to_the_good_widths_of_a_chip(
    qpsnn: Callable[..., Result], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """conv1: 14 of 20 channels at 8 bits are 8 + 4 + 2; 16 are fewer words.  dense3: 28 of 40 units at 4 bits; 27 are fewer."""
    monkeypatch.setattr(checking, "run_lava", _no_lava)
    sets = ("prune.widths=chip", "prune.keep=0.7", "network.0.channels=20", "network.2.units=40")
    result = qpsnn(*_words(made, tmp_path / "run"), *(word for one in sets for word in ("--set", one)))
    assert result.code == 0 and "channels kept: 16 of 20, 27 of 40 (good widths; asked: 14, 28)" in result.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    rows = {row["name"]: row for row in report["mapping"]["widths"]}
    assert {name: (row["width"], row["asked"], row["taken"]) for name, row in rows.items()} == {
        "conv1": (20, 14, 16),
        "pool2": (20, 14, 16),
        "dense3": (40, 28, 27),
        "output": (10, 10, 10),
    }
    network = hdf5.read(tmp_path / "run" / "network.net")
    assert [network[name].shape[0] for name in rows] == [16, 16, 27, 10]
    for row in report["layers"]:  # what was foreseen is what came out: words and cores of the mapped network
        assert (row["synapse_words"], row["cores"]) == (rows[row["name"]]["words_taken"], rows[row["name"]]["cores_taken"])
    for key in ("words", "cores"):
        assert sum(row[f"{key}_taken"] for row in rows.values()) <= sum(row[f"{key}_asked"] for row in rows.values())
    assert "### Pruned to good widths" in (tmp_path / "run" / "report.md").read_text()


def _drawn_before(_made: Any, _network: Network, _scores: Any, folder: Path) -> list[Path]:
    """Instead of drawing again, which takes a second."""
    names = ("weights", "firing", "cores", "scores", "mesh", "use", "traffic", "pareto")
    return [folder / f"{name}.png" for name in names if (folder / f"{name}.png").exists()]


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.suffix not in (".png", ".svg")
    }


def test_a_second_run_does_nothing_and_prints_the_same(
    qpsnn: Callable[..., Result], made: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _contents(done)
    first = qpsnn("report", done)
    monkeypatch.setattr(plots, "save_all", _drawn_before)
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(checking, "run_lava", lambda *_, **__: pytest.fail("ran Lava again"))
    result = qpsnn(*_words(made, done))
    assert result.code == 0 and result.out == first.out and "accuracy" in result.out
    assert f"\nReport: {done / 'report.html'}\n" in result.err and "\x1b" not in result.out + result.err
    assert _contents(done) == before
    as_json = qpsnn(*_words(made, done), "--json")
    assert as_json.code == 0 and not as_json.err and as_json.json == json.loads(before["report.json"])
    assert qpsnn("train", *_words(made, done)[1:], "--json").json["phases"].keys() == {"float", "quantised", "fine-tune"}
    assert qpsnn("export", done).out == f"{done / 'network.net'}\n"
    assert qpsnn("export", done, "--json").json == {
        "network": str(done / "network.net"),
        "unpruned": str(done / "unpruned.net"),
    }


def test_another_experiment_is_refused(qpsnn: Callable[..., Result], made: Path, done: Path) -> None:
    result = qpsnn(*_words(made, done), "--set", "prune.keep=0.75")
    assert result.code == 1
    assert result.error.startswith(f"{done} holds another experiment (its config.toml differs); choose another --out")


def test_an_interrupted_run_goes_on(
    qpsnn: Callable[..., Result], made: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at awkward places; what comes out in the end is what an undisturbed run gives, bit for bit."""
    out = made / "interrupted"
    trained: list[int] = []
    train, save_model = training.train, checkpoint.save_model

    def count(model: torch.nn.Module, *args: Any, **options: Any) -> Any:
        trained.append(1)
        return train(model, *args, **options)

    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    def interrupt_at(name: str) -> Callable[[torch.nn.Module, Path], None]:
        def save(model: torch.nn.Module, path: Path) -> None:
            if path.name == name:
                raise KeyboardInterrupt
            save_model(model, path)

        return save

    monkeypatch.setattr(training, "train", count)
    monkeypatch.setattr(plots, "save_all", _drawn_before)
    disturbances: list[tuple[Any, str, Any]] = [
        (checkpoint, "save_model", interrupt_at("quantised.safetensors")),
        (prune, "cut", interrupt),
        (checkpoint, "save_model", interrupt_at("model.safetensors")),  # fine-tuned, but not yet where export looks
        (pipeline, "export", interrupt),
        (checking, "compare_slayer", interrupt),
        (mapping, "map_network", interrupt),
        (reporting.report, "markdown", interrupt),
    ]
    for module, name, stand_in in disturbances:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stand_in)
            patch.setattr(checking, "run_lava", _no_lava)
            result = qpsnn(*_words(made, out))
        assert result.code == 130, (name, result.err)
        assert result.err.endswith("error: interrupted; the same command goes on from what was finished.\n")
        assert not list(out.rglob("*.tmp"))
    result = qpsnn(*_words(made, out), "--json")
    assert result.code == 0 and not result.err
    assert len(trained) == 4  # float, quantised twice, fine-tune
    assert hdf5.read(out / "network.net") == hdf5.read(done / "network.net")
    assert hdf5.read(out / "unpruned.net") == hdf5.read(done / "unpruned.net")
    whole = json.loads((done / "report.json").read_text())
    for key in ("layers", "mapping", "unpruned", "size_mb", "synaptic_ops", "ties", "dataset"):
        assert result.json[key] == whole[key], key
    assert "lava" not in result.json["accuracy"] and result.json["agreement"]["lava_samples"] == 0  # it was not there
    assert result.json["accuracy"]["integer"] == whole["accuracy"]["integer"]


@pytest.fixture
def out(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, whose plots are not drawn again."""
    monkeypatch.setattr(plots, "save_all", _drawn_before)
    return Path(shutil.copytree(done, tmp_path / "run"))


def test_what_only_fits_pruned(
    qpsnn: Callable[..., Result], done: Path, made: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unpruned network need not fit; the final one has to."""
    place, widest = mapping.map_network, hdf5.read(done / "unpruned.net")["dense3"].shape

    def refusing(width: tuple[int, ...]) -> Callable[..., Any]:
        def map_network(network: Network, *rest: Any) -> Any:
            if network["dense3"].shape == width:
                raise CapacityError("dense3: one neuron needs 25090 pool, a core of loihi2 has 20000.")
            return place(network, *rest)

        return map_network

    (out / "mapping.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(mapping, "map_network", refusing(widest))
        result = qpsnn(*_words(made, out), "--json")
    assert result.code == 0, result.err
    whole = json.loads((done / "report.json").read_text())
    assert result.json["mapping"]["cores"] == whole["mapping"]["cores"]
    assert result.json["unpruned"] == {
        "size_mb": whole["unpruned"]["size_mb"],
        "synaptic_ops": whole["unpruned"]["synaptic_ops"],
        "error": "dense3: one neuron needs 25090 pool, a core of loihi2 has 20000.",
    }
    assert "does not fit" in (out / "report.html").read_text() and "does not fit" in (out / "report.md").read_text()
    (out / "mapping.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(mapping, "map_network", refusing(hdf5.read(done / "network.net")["dense3"].shape))
        result = qpsnn(*_words(made, out))
    assert result.code == 2 and "error: dense3: one neuron needs 25090 pool" in result.err


def test_a_mismatch_is_told_with_the_report(qpsnn: Callable[..., Result], made: Path, out: Path) -> None:
    checks = json.loads((out / "checks.json").read_text())
    checks["agreement"]["spike_mismatches"] = 5
    (out / "checks.json").write_text(json.dumps(checks))
    result = qpsnn(*_words(made, out), "--json")
    assert result.code == 3 and result.json["agreement"]["spike_mismatches"] == 5
    assert result.error.startswith("5 values differ between SLAYER, simulation and Lava")


@pytest.mark.parametrize("name", ["network.net", "training.json", "mapping.json", "checkpoints/float.safetensors"])
def test_a_damaged_run(qpsnn: Callable[..., Result], made: Path, out: Path, name: str) -> None:
    if not name.endswith(".json"):  # what the checks read
        (out / "checks.json").unlink()
    content = (out / name).read_bytes()
    (out / name).write_bytes(content[: len(content) // 2])
    result = qpsnn(*_words(made, out), "--json")
    assert result.code == 1 and not result.out and name.split("/")[-1] in result.error


def test_progress_on_a_terminal_and_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A bar that is taken away and the final lines; on a pipe only these; nothing at all with --json."""
    events = [
        pipeline.Event("float", "epoch 1/2  loss [1.0]", 1, 4),
        pipeline.Event("float", "epoch 2/2  loss [0.5]", 4, 4, final=True),
        pipeline.Event("map", "done", final=True),
    ]
    screen = io.StringIO()
    for console, quiet in (
        (Console(file=screen, force_terminal=True, width=80), False),
        (streams.err(), False),
        (streams.err(), True),
    ):
        monkeypatch.setattr(streams, "err", lambda console=console: console)
        with streams.telling(quiet=quiet) as say:
            for event in events:
                say(event)
        monkeypatch.undo()
    assert "epoch 2/2  loss [0.5]" in screen.getvalue() and "done" in screen.getvalue() and "━" in screen.getvalue()
    out, err = capsys.readouterr()
    assert not out and err == "    float  epoch 2/2  loss [0.5]\n      map  done\n"


def test_the_command_in_the_report_can_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["qpsnn", "run", "digits", "--set", "prune.keep=[0.5, 0.4]", "--out", "it's here"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/qpsnn", *words[1:]])
    assert shlex.split(streams.command_line()) == words
