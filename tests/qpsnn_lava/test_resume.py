"""Training that is stopped and goes on, and training in several processes: the same weights as in one go."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from netx_export.errors import FormatError
from netx_export.network import Voltage
from qpsnn_lava import checkpoint
from qpsnn_lava.blocks import Conv, Flatten, Integrate, NeuronOptions
from qpsnn_lava.coding import Coding
from qpsnn_lava.data import Dataset, load
from qpsnn_lava.model import SpikingNetwork, set_quantised
from qpsnn_lava.quantise import Quantiser
from qpsnn_lava.train import Progress, Schedule, StoppedError, train

torch.set_num_threads(1)

CODING = Coding("direct", 2, 4)
SCHEDULE = Schedule(epochs=3, frozen_epochs=1, batch=32, learning_rate=5e-3, augment="flip-shift", seed=3)
TINY = [
    "data.steps=2",
    "network.0.channels=4",
    "network.1.channels=4",
    "network.2.channels=6",
    "train.epochs=2",
    "train.quantised_epochs=2",
    "train.finetune_epochs=2",
    "train.threads=1",
    "prune.samples=64",
]
"""The digits experiment, small enough to be trained in seconds."""


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = load("digits")

    def some(part: object, n: int) -> object:
        return replace(part, images=part.images[:n], labels=part.labels[:n], indices=part.indices[:n])  # type: ignore[attr-defined, type-var]

    return replace(whole, train=some(whole.train, 200), validation=some(whole.validation, 50))  # type: ignore[arg-type]


@pytest.fixture
def model() -> SpikingNetwork:
    torch.manual_seed(1)
    layers = [
        Conv(NeuronOptions(), Quantiser(4), 1, 4, padding=1, stride=2, input_max=15),
        Flatten(),
        Integrate(Quantiser(8), 64, 10),
    ]
    net = SpikingNetwork(layers, ["conv", "output"], Voltage())
    set_quantised(net, True)
    return net


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def _at(epoch: int, batch: int, act: Callable[[], None]) -> Callable[[Progress], None]:
    def progress(p: Progress) -> None:
        if p.validation is None and (p.epoch, p.batch) == (epoch, batch):
            act()

    return progress


class KilledError(Exception):
    """Stands for the end of the process: nothing is saved when it comes."""


def _die() -> None:
    raise KilledError


def _signal(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize(
    ("where", "act", "stopped"),
    [
        ((1, 3), _signal(signal.SIGTERM), (0, 3)),
        ((3, 7), _signal(signal.SIGINT), (2, 7)),
        ((2, 4), _die, (1, 0)),
        ((3, 1), _die, (2, 0)),
        ((1, 2), _die, None),
    ],
    ids=["SIGTERM", "SIGINT after the last batch", "killed", "killed in the frozen epoch", "killed in the first epoch"],
)
def test_going_on_gives_the_same_weights(
    digits: Dataset,
    model: SpikingNetwork,
    tmp_path: Path,
    optimiser: str,
    where: tuple[int, int],
    act: Callable[[], None],
    stopped: tuple[int, int] | None,
) -> None:
    plan = replace(SCHEDULE, optimiser=optimiser, learning_rate=5e-3 if optimiser == "adam" else 0.05)  # type: ignore[arg-type]
    whole, again = copy.deepcopy(model), copy.deepcopy(model)
    best = train(whole, digits, CODING, plan)
    assert not _equal(whole.state_dict(), model.state_dict())
    path = tmp_path / "state.safetensors"
    with pytest.raises((StoppedError, KilledError)):
        train(again, digits, CODING, plan, snapshots=path, progress=_at(*where, act))
    found = checkpoint.load_snapshot(path, pytest.fail)
    assert (None if found is None else (found.facts["epoch"], found.facts["batch"])) == stopped
    fresh = copy.deepcopy(model) if stopped is None else _scrambled(model)
    resumed = train(fresh, digits, CODING, plan, snapshots=path)
    assert _equal(fresh.state_dict(), whole.state_dict())
    assert (resumed.epoch, resumed.validation) == (best.epoch, best.validation)


def _scrambled(model: SpikingNetwork) -> SpikingNetwork:
    """The same network with other weights: all of them must come from the snapshot."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    return other


def test_what_a_signal_says_and_leaves(digits: Dataset, model: SpikingNetwork, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    path = tmp_path / "state.safetensors"
    with pytest.raises(
        StoppedError, match=r"SIGTERM: stopped in epoch 1 after 2 of 7 batches; .*state.safetensors keeps it"
    ) as raised:
        train(model, digits, CODING, SCHEDULE, snapshots=path, progress=_at(1, 2, _signal(signal.SIGTERM)))
    assert raised.value.exit_code == 128 + signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with pytest.raises(StoppedError, match=r"SIGINT: stopped in epoch 1 after 1 of 7 batches\.$"):
        train(model, digits, CODING, SCHEDULE, progress=_at(1, 1, _signal(signal.SIGINT)))


@pytest.mark.parametrize("damage", ["short", "a bit", "empty", "facts"])
def test_a_damaged_snapshot_falls_back_to_the_one_before(
    digits: Dataset, model: SpikingNetwork, tmp_path: Path, damage: str
) -> None:
    whole, again = copy.deepcopy(model), copy.deepcopy(model)
    train(whole, digits, CODING, SCHEDULE)
    path = tmp_path / "state.safetensors"
    with pytest.raises(KilledError):
        train(again, digits, CODING, SCHEDULE, snapshots=path, progress=_at(3, 2, _die))
    _damage(path, damage)
    told: list[str] = []
    fresh = _scrambled(model)
    train(fresh, digits, CODING, SCHEDULE, snapshots=path, notice=told.append)
    assert _equal(fresh.state_dict(), whole.state_dict())
    (line,) = told
    assert "is not a whole snapshot" in line and line.endswith("Going on from the one before, state.previous.safetensors.")


def _damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "short":
        content = content[: len(content) // 2]
    elif how == "a bit":
        content[-5] ^= 4
    elif how == "empty":
        content = bytearray()
    else:
        content = bytearray(bytes(content).replace(b'\\"epoch\\": 2', b'\\"epoch\\": 1'))
        assert content != path.read_bytes()
    path.write_bytes(content)


def test_snapshots_that_are_all_damaged(digits: Dataset, model: SpikingNetwork, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    for file in (path, checkpoint.previous(path)):
        file.write_bytes(b"no")
    with pytest.raises(
        FormatError, match=r"state.safetensors is not a whole .* Remove what is damaged to train from the start"
    ):
        train(model, digits, CODING, SCHEDULE, snapshots=path)


def test_a_snapshot_of_another_training(digits: Dataset, model: SpikingNetwork, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    train(model, digits, CODING, replace(SCHEDULE, epochs=1), snapshots=path)
    with pytest.raises(FormatError, match=r"is of another training \(its model or schedule differs\); remove it"):
        train(model, digits, CODING, SCHEDULE, snapshots=path)
    other = SpikingNetwork([Flatten(), Integrate(Quantiser(8), 64, 10, input_max=15)], ["output"], Voltage())
    with pytest.raises(FormatError, match="is of another training"):
        train(other, digits, CODING, replace(SCHEDULE, epochs=1), snapshots=path)


def test_an_absurd_snapshot_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"x" * 100)
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 99)
    with pytest.raises(FormatError, match="has 100 bytes; a checkpoint has at most 99"):
        checkpoint.load_snapshot(path, pytest.fail)


# --- the command line, killed and in two processes ---------------------------------------------------------------------


def _command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "qpsnn_lava", *map(str, words)]


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def _train(*words: str | Path, launcher: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    command = _command("train", *words) if launcher is None else [*launcher, "-m", "qpsnn_lava", "train", *map(str, words)]
    return subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=110, check=False)


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one")
    done = _train("digits", *(word for value in TINY for word in ("--set", value)), "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_kill_9_then_resume(in_one_go: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("train", "digits", *(word for value in TINY for word in ("--set", value)), "--out", out)
    with subprocess.Popen(_command(*words), env=_environment(), stderr=subprocess.PIPE) as child:
        deadline = time.monotonic() + 100
        while not (out / "checkpoints/quantised.state.safetensors").exists():
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert not (out / "model.safetensors").exists() and not (out / "checkpoints/quantised.safetensors").exists()
    done = _train("--resume", out)
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "checkpoints/float.safetensors", "checkpoints/quantised.safetensors"):
        assert (out / name).read_bytes() == (in_one_go / name).read_bytes(), name
    assert not list(out.rglob("*.state*")) and not list(in_one_go.rglob("*.state*"))


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    """Each on its half of every batch: to 1e-5 after some steps (later a rounding turns over a spike, and paths part)."""
    few = [*TINY[:4], "train.batch=700", "train.epochs=1", "train.quantised_epochs=1", "train.finetune_epochs=1", *TINY[7:]]
    few += ["train.optimiser=sgd", "train.learning_rate=0.1"]  # Adam divides by the gradient and so makes its roundings large
    words = ["digits", *(word for value in few for word in ("--set", value)), "--out"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    two = _train(*words, tmp_path / "two", launcher=launcher)
    assert two.returncode == 0, two.stderr
    one = _train(*words, tmp_path / "one")
    assert one.returncode == 0, one.stderr
    for phase in ("float", "quantised"):
        ours, theirs = (load_file(tmp_path / n / f"checkpoints/{phase}.safetensors") for n in ("two", "one"))
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=f"{phase} {name}")
    done = [checkpoint.load_json(tmp_path / n / "training.json") for n in ("two", "one")]
    for key, scores in done[1]["prune"]["scores"].items():
        np.testing.assert_allclose(done[0]["prune"]["scores"][key]["nuclear"], scores["nuclear"], rtol=0.02)
    assert two.stderr.count("epoch 1/1") == 3  # process 0 alone speaks
