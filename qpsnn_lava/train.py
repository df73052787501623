"""Training: ``train(model, dataset, ...)`` for our networks and for any SLAYER model."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from netx_export.errors import ConfigError, FormatError, QpsnnError
from netx_export.network import Rate, Readout, Voltage
from qpsnn_lava import checkpoint, parallel
from qpsnn_lava.blocks import CurrentNorm
from qpsnn_lava.coding import Coding, encode
from qpsnn_lava.data import Augment, Samples, TrainingData, augmented
from qpsnn_lava.model import SpikingNetwork, logits, set_frozen
from qpsnn_lava.statistics import Accuracy


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Args:
        epochs: passes over the training set.
        frozen_epochs: so many of the last run with frozen batch-norm statistics.
        batch: images per step.
        optimiser: adam or sgd (momentum 0.9).
        learning_rate: at the start; a cosine takes it to 0.
        weight_decay: L2.
        label_smoothing: share e of each label that is spread evenly: the target is ``(1 - e) onehot + e / classes`` (Szegedy et al.,
            CVPR 2016, section 7).
        augment: see :func:`qpsnn_lava.data.augmented`.
        seed: of order and augmentation.
    """

    epochs: int
    frozen_epochs: int = 0
    batch: int = 64
    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    augment: Augment = "none"
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """One line of the log: after some batches, or (with ``validation``) after an epoch."""

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    validation: Accuracy | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Trained:
    """What training gives back: the best epoch's accuracy on the validation set, and that epoch."""

    validation: Accuracy
    epoch: int
    epochs: int
    seconds: float


DEFAULT_CODING = Coding("direct", steps=4)
DEFAULT_SCHEDULE = Schedule(epochs=10)


class StoppedError(QpsnnError):
    """Training was asked to stop by a signal, and did, between two steps.

    Args:
        number: of the signal; the exit code is 128 more.
        where: how far training was, and where its state is.
    """

    def __init__(self, number: int, where: str) -> None:
        super().__init__(f"{signal.Signals(number).name}: stopped {where}.")
        self.exit_code = 128 + number


def train(
    model: torch.nn.Module,
    dataset: TrainingData,
    coding: Coding = DEFAULT_CODING,
    schedule: Schedule = DEFAULT_SCHEDULE,
    *,
    readout: Readout | None = None,
    progress: Callable[[Progress], None] | None = None,
    snapshots: Path | None = None,
    notice: Callable[[str], None] = warnings.warn,
) -> Trained:
    """Trains ``model`` in place by cross-entropy and leaves it at the epoch with the best validation accuracy (the last of several).

    While any of the last ``frozen_epochs`` runs, only those count (their forward pass is the one that will be frozen).

    With ``snapshots`` the state is kept after every epoch, and when SIGINT or SIGTERM asks to stop; the next call with the same
    arguments goes on from there and ends, on the same machine and number of threads, on a CPU with the same weights bit for bit.  In
    several processes (:mod:`qpsnn_lava.parallel`) each takes its share of every batch.

    Args:
        model: maps (N, C, H, W, T) to (N, units, T): one of ours, or any SLAYER model.
        dataset: has ``train`` and ``validation`` with ``images`` (uint8), ``labels``, ``indices``, and ``max_value``, ``classes``.
        coding: how images become spikes.
        schedule: how long and how fast.
        readout: how the output is read; default: the model's own ``readout``, else spike counts per class.
        progress: called now and then.
        snapshots: the file that holds the training's state while it runs; removed by nobody but the caller.
        notice: told of a damaged snapshot that is passed over.

    Returns:
        the best epoch; with no epochs at all, the model as it was.

    Raises:
        ConfigError: when the loss stops being a number.
        FormatError: when no snapshot is whole, or it is of another training.
        StoppedError: after a signal.
        MismatchError: where several processes end with different weights.
    """
    start = time.perf_counter()
    how = readout_of(model, dataset.classes, readout)
    optimiser = _optimiser([p for p in model.parameters() if p.requires_grad], schedule)
    found = None if snapshots is None else checkpoint.load_snapshot(snapshots, notice)
    if found is not None:
        at = _resume(model, optimiser, found, schedule, str(snapshots))
    else:
        accuracy = evaluate(model, dataset.validation, dataset, coding, readout=how)
        at = _Course(Trained(accuracy, 0, schedule.epochs, 0.0), copy.deepcopy(model.state_dict()))
    before = at.seconds
    parallel_model = _parallel(model)
    batches = math.ceil(len(dataset.train.labels) / schedule.batch)
    total = max(1, schedule.epochs * batches)
    first_frozen = schedule.epochs - min(schedule.frozen_epochs, schedule.epochs)

    def keep() -> None:
        at.seconds = before + time.perf_counter() - start
        if snapshots is not None and parallel.rank() == 0:
            checkpoint.save_snapshot(snapshots, _snapshot(model, optimiser, at, schedule))

    def tell(loss: float, validation: Accuracy | None = None) -> None:
        if progress is not None:
            seconds = before + time.perf_counter() - start
            progress(Progress(at.epoch + 1, schedule.epochs, at.batch, batches, loss, validation, seconds))

    with _deferred_signals() as signalled:
        while at.epoch < schedule.epochs:
            set_frozen(model, at.epoch >= first_frozen)
            model.train()
            for indices in _batches(len(dataset.train.labels), schedule, at.epoch, at.batch):
                for group in optimiser.param_groups:
                    step = at.epoch * batches + at.batch
                    group["lr"] = schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * step / total))
                images = augmented(
                    dataset.train.images[indices],
                    schedule.augment,
                    seed=schedule.seed,
                    epoch=at.epoch,
                    indices=dataset.train.indices[indices],
                )
                at.losses.append(_step(parallel_model, optimiser, images, indices, dataset, coding, schedule, how))
                at.batch += 1
                if not math.isfinite(at.losses[-1]):
                    raise ConfigError(f"the loss is {at.losses[-1]} in epoch {at.epoch + 1}; take a smaller learning rate.")
                recent = at.losses[-50:]
                tell(sum(recent) / len(recent))
                if signal_ := signalled():
                    keep()
                    kept = f"; {snapshots} keeps it, the same command goes on from there" if snapshots else ""
                    raise StoppedError(signal_, f"in epoch {at.epoch + 1} after {at.batch} of {batches} batches{kept}")
            accuracy = evaluate(model, dataset.validation, dataset, coding, readout=how)
            if at.epoch in (0, first_frozen) or accuracy.value >= at.best.validation.value:
                at.best, at.best_state = (
                    Trained(accuracy, at.epoch + 1, schedule.epochs, 0.0),
                    copy.deepcopy(model.state_dict()),
                )
            tell(sum(at.losses) / len(at.losses), accuracy)
            at.epoch, at.batch, at.losses = at.epoch + 1, 0, []
            keep()
    model.load_state_dict(at.best_state)
    parallel.require_equal(model)
    set_frozen(model, False)
    model.eval()
    return replace(at.best, seconds=before + time.perf_counter() - start)


def _step(
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    images: NDArray[np.uint8],
    indices: NDArray[np.int64],
    dataset: TrainingData,
    coding: Coding,
    schedule: Schedule,
    how: Readout,
) -> float:
    """One step on this process's share of a batch; returns the loss over the whole batch."""
    mine = slice(parallel.rank(), None, parallel.size())
    device = device_of(model)
    spikes = to_input(images[mine], coding, dataset.max_value, schedule.seed, dataset.train.indices[indices[mine]], device)
    labels = torch.from_numpy(dataset.train.labels[indices[mine]]).to(device)
    scores, smoothing = logits(model(spikes), how), schedule.label_smoothing
    loss = torch.nn.functional.cross_entropy(scores, labels, reduction="sum", label_smoothing=smoothing) / len(indices)
    optimiser.zero_grad(set_to_none=True)
    (loss * parallel.size()).backward()  # torch's wrapper takes the mean over the processes
    value = float(parallel.total(loss.detach()))
    if math.isfinite(value):
        optimiser.step()
    return value


# --- the state of a training -------------------------------------------------------------------------------------------


@dataclass
class _Course:
    """How far a training is: with the model and the optimiser, all that the rest of it depends on.

    Args:
        best, best_state: the best epoch so far.
        epoch, batch: complete epochs, and steps of the next one.
        losses: of these steps.
        seconds: of work.
    """

    best: Trained
    best_state: dict[str, torch.Tensor]
    epoch: int = 0
    batch: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


def _snapshot(
    model: torch.nn.Module, optimiser: torch.optim.Optimizer, at: _Course, schedule: Schedule
) -> checkpoint.Snapshot:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()} | {f"best.{k}": v for k, v in at.best_state.items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{k}": v for k, v in state.items() if v is not None}
    facts = {
        "schedule": asdict(schedule),
        "epoch": at.epoch,
        "batch": at.batch,
        "losses": at.losses,
        "seconds": at.seconds,
        "best": {"epoch": at.best.epoch, "value": at.best.validation.value, "n": at.best.validation.n},
    }
    return checkpoint.Snapshot(tensors, facts)


def _resume(
    model: torch.nn.Module, optimiser: torch.optim.Optimizer, found: checkpoint.Snapshot, schedule: Schedule, name: str
) -> _Course:
    """Puts model and optimiser where a snapshot was taken."""
    parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "best": {}, "optimiser": {}}
    for key, value in found.tensors.items():
        kind, _, rest = key.partition(".")
        parts.get(kind, {})[rest] = value
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    if found.facts["schedule"] != asdict(schedule) or any(
        {k: tuple(v.shape) for k, v in parts[kind].items()} != shapes for kind in ("model", "best")
    ):
        raise FormatError(f"{name} is of another training (its model or schedule differs); remove it to train from the start.")
    model.load_state_dict(parts["model"])
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in parts["optimiser"].items():
        number, _, rest = key.partition(".")
        states.setdefault(int(number), {})[rest] = value
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
    facts = found.facts
    value, n = facts["best"]["value"], facts["best"]["n"]
    best = Trained(Accuracy.of(round(value * n), n), facts["best"]["epoch"], schedule.epochs, 0.0)
    return _Course(best, parts["best"], facts["epoch"], facts["batch"], list(facts["losses"]), facts["seconds"])


def _parallel(model: torch.nn.Module) -> torch.nn.Module:
    """The model whose gradients are averaged over all processes (and whose weights begin as process 0's)."""
    if parallel.size() == 1:
        return model
    return torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)


@contextmanager
def _deferred_signals() -> Iterator[Callable[[], int]]:
    """While inside, the first SIGINT or SIGTERM is only noted; yields a function that returns its number, or 0 (the same in all processes).

    The second one acts at once.  Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    noted = [0]
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        noted[0] = number
        for one, handler in before.items():
            signal.signal(one, handler)

    for one in before:
        signal.signal(one, note)
    try:
        yield lambda: parallel.largest(noted[0])
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


# --- evaluation and input ----------------------------------------------------------------------------------------------


def evaluate(
    model: torch.nn.Module,
    samples: Samples,
    dataset: TrainingData,
    coding: Coding,
    *,
    readout: Readout | None = None,
    batch: int = 256,
    seed: int = 0,
) -> Accuracy:
    """Share of the samples that the model gets right (ties go to the lowest class), with its 95 % interval."""
    how = readout_of(model, dataset.classes, readout)
    device = device_of(model)
    model.eval()
    correct = 0
    with torch.no_grad():
        for low in range(parallel.rank() * batch, len(samples.labels), parallel.size() * batch):
            part = slice(low, low + batch)
            spikes = to_input(samples.images[part], coding, dataset.max_value, seed, samples.indices[part], device)
            decided = first_maximum(logits(model(spikes), how)).cpu()
            correct += int((decided.numpy() == samples.labels[part]).sum())
    return Accuracy.of(int(parallel.total(torch.tensor(correct, device=device))), len(samples.labels))


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's parameters are; the CPU where it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def first_maximum(scores: torch.Tensor) -> torch.Tensor:
    """The lowest class among those with the highest score (torch's argmax does not promise which)."""
    return (scores == scores.max(1, keepdim=True).values).to(torch.uint8).argmax(1)


def calibrate(model: torch.nn.Module, dataset: TrainingData, coding: Coding, *, samples: int, batch: int, seed: int) -> None:
    """Estimates the norms' running statistics anew, as plain means over ``samples`` training images, without a gradient step."""
    norms = [m for m in model.modules() if isinstance(m, CurrentNorm)]
    before = [n.momentum for n in norms]
    set_frozen(model, False)
    model.train()
    chosen = np.random.default_rng([seed, 3]).permutation(len(dataset.train.labels))[:samples]
    with torch.no_grad():
        for low in range(0, len(chosen), batch):
            indices = chosen[low : low + batch]
            for norm in norms:
                norm.momentum = len(indices) / (low + len(indices))
            indices = indices[parallel.rank() :: parallel.size()]
            images, own = dataset.train.images[indices], dataset.train.indices[indices]
            model(to_input(images, coding, dataset.max_value, seed, own, device_of(model)))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    model.eval()


def to_input(
    images: NDArray[np.uint8],
    coding: Coding,
    max_value: int,
    seed: int,
    indices: NDArray[np.int64],
    device: torch.device | None = None,
) -> torch.Tensor:
    """float32 (N, C, H, W, T) of whole numbers; direct coding is one step, expanded over time without a copy."""
    steps = 1 if coding.kind == "direct" else coding.steps
    frames = encode(images, Coding(coding.kind, steps, coding.input_bits), max_value=max_value, seed=seed, indices=indices)
    return torch.from_numpy(frames).to(device).float().expand(*frames.shape[:-1], coding.steps)


def readout_of(model: torch.nn.Module, classes: int, readout: Readout | None) -> Readout:
    """The read-out that was asked for, else the model's own, else spike counts per class."""
    if readout is not None:
        return readout
    if isinstance(model, SpikingNetwork):
        return model.readout
    own = getattr(model, "readout", None)
    return own if isinstance(own, Voltage | Rate) else Rate(classes)


def _batches(count: int, schedule: Schedule, epoch: int, begin: int) -> Iterator[NDArray[np.int64]]:
    """The batches of an epoch from number ``begin`` on."""
    order = np.random.default_rng([schedule.seed, 1, epoch]).permutation(count)
    for number in range(begin, math.ceil(count / schedule.batch)):
        yield order[number * schedule.batch :][: schedule.batch]


def _optimiser(parameters: list[torch.nn.Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(parameters, schedule.learning_rate, momentum=0.9, weight_decay=schedule.weight_decay)
    return torch.optim.Adam(parameters, schedule.learning_rate, weight_decay=schedule.weight_decay)
