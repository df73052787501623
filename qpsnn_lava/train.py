"""Training: ``train(model, dataset, ...)`` for our networks and for any SLAYER model."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from netx_export.errors import ConfigError
from netx_export.network import Rate, Readout, Voltage
from qpsnn_lava.blocks import CurrentNorm
from qpsnn_lava.coding import Coding, encode
from qpsnn_lava.data import Samples, TrainingData
from qpsnn_lava.model import SpikingNetwork, logits, set_frozen
from qpsnn_lava.statistics import Accuracy

Augment = Literal["none", "shift", "flip-shift"]


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
        augment: none, shift (by up to 1 pixel in 12, either way), flip-shift (and mirrored left to right half of the time).
        seed: of order and augmentation.
    """

    epochs: int
    frozen_epochs: int = 0
    batch: int = 64
    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
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


def train(
    model: torch.nn.Module,
    dataset: TrainingData,
    coding: Coding = DEFAULT_CODING,
    schedule: Schedule = DEFAULT_SCHEDULE,
    *,
    readout: Readout | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Trains ``model`` in place by cross-entropy and leaves it at the epoch with the best validation accuracy (the last of several).

    While any of the last ``frozen_epochs`` runs, only those count (their forward pass is the one that will be frozen).

    Args:
        model: maps (N, C, H, W, T) to (N, units, T): one of ours, or any SLAYER model.
        dataset: has ``train`` and ``validation`` with ``images`` (uint8), ``labels``, ``indices``, and ``max_value``, ``classes``.
        coding: how images become spikes.
        schedule: how long and how fast.
        readout: how the output is read; default: the model's own ``readout``, else spike counts per class.
        progress: called now and then.

    Returns:
        the best epoch; with no epochs at all, the model as it was.

    Raises:
        ConfigError: when the loss stops being a number.
    """
    start = time.perf_counter()
    how = readout_of(model, dataset.classes, readout)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = _optimiser(parameters, schedule)
    batches = math.ceil(len(dataset.train.labels) / schedule.batch)
    total = max(1, schedule.epochs * batches)
    best = Trained(evaluate(model, dataset.validation, dataset, coding, readout=how), 0, schedule.epochs, 0.0)
    best_state = copy.deepcopy(model.state_dict())
    first_frozen = schedule.epochs - min(schedule.frozen_epochs, schedule.epochs)
    step = 0
    for epoch in range(schedule.epochs):
        frozen = epoch >= first_frozen
        set_frozen(model, frozen)
        model.train()
        losses: list[float] = []
        for indices, order in _batches(len(dataset.train.labels), schedule, epoch):
            for group in optimiser.param_groups:
                group["lr"] = schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * step / total))
            images = augmented(dataset.train.images[indices], schedule.augment, order)
            spikes = to_input(images, coding, dataset.max_value, schedule.seed, dataset.train.indices[indices])
            labels = torch.from_numpy(dataset.train.labels[indices])
            loss = torch.nn.functional.cross_entropy(logits(model(spikes), how), labels)
            if not math.isfinite(loss.item()):
                raise ConfigError(f"the loss is {loss.item()} in epoch {epoch + 1}; take a smaller learning rate.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            step += 1
            losses.append(loss.item())
            if progress is not None:
                mean = sum(losses[-50:]) / len(losses[-50:])
                progress(Progress(epoch + 1, schedule.epochs, len(losses), batches, mean, seconds=time.perf_counter() - start))
        accuracy = evaluate(model, dataset.validation, dataset, coding, readout=how)
        if epoch == first_frozen or epoch == 0 or accuracy.value >= best.validation.value:
            best = Trained(accuracy, epoch + 1, schedule.epochs, 0.0)
            best_state = copy.deepcopy(model.state_dict())
        if progress is not None:
            mean = sum(losses) / len(losses)
            progress(Progress(epoch + 1, schedule.epochs, batches, batches, mean, accuracy, time.perf_counter() - start))
    model.load_state_dict(best_state)
    set_frozen(model, False)
    model.eval()
    return Trained(best.validation, best.epoch, best.epochs, time.perf_counter() - start)


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
    model.eval()
    correct = 0
    with torch.no_grad():
        for low in range(0, len(samples.labels), batch):
            part = slice(low, low + batch)
            spikes = to_input(samples.images[part], coding, dataset.max_value, seed, samples.indices[part])
            decided = first_maximum(logits(model(spikes), how))
            correct += int((decided.numpy() == samples.labels[part]).sum())
    return Accuracy.of(correct, len(samples.labels))


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
            model(to_input(dataset.train.images[indices], coding, dataset.max_value, seed, dataset.train.indices[indices]))
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    model.eval()


def to_input(images: NDArray[np.uint8], coding: Coding, max_value: int, seed: int, indices: NDArray[np.int64]) -> torch.Tensor:
    """float32 (N, C, H, W, T) of whole numbers; direct coding is one step, expanded over time without a copy."""
    if coding.kind == "direct":
        once = Coding("direct", 1, coding.input_bits)
        frame = torch.from_numpy(encode(images, once, max_value=max_value, seed=seed, indices=indices)).float()
        return frame.expand(*frame.shape[:-1], coding.steps)
    return torch.from_numpy(encode(images, coding, max_value=max_value, seed=seed, indices=indices)).float()


def augmented(images: NDArray[np.uint8], augment: Augment, random: np.random.Generator) -> NDArray[np.uint8]:
    """Shifted (zeros come in) and mirrored copies of uint8 (N, C, H, W)."""
    if augment == "none":
        return images
    n, _, height, width = images.shape
    if augment == "flip-shift":
        mirrored = random.random(n) < 0.5
        images = np.where(mirrored[:, None, None, None], images[..., ::-1], images)
    reach = max(1, round(height / 12)), max(1, round(width / 12))
    padded = np.pad(images, ((0, 0), (0, 0), (reach[0], reach[0]), (reach[1], reach[1])))
    y, x = (random.integers(0, 2 * r + 1, n) for r in reach)
    rows = y[:, None] + np.arange(height)
    columns = x[:, None] + np.arange(width)
    shifted: NDArray[np.uint8] = padded[np.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(np.moveaxis(shifted, -1, 1))


def readout_of(model: torch.nn.Module, classes: int, readout: Readout | None) -> Readout:
    """The read-out that was asked for, else the model's own, else spike counts per class."""
    if readout is not None:
        return readout
    if isinstance(model, SpikingNetwork):
        return model.readout
    own = getattr(model, "readout", None)
    return own if isinstance(own, Voltage | Rate) else Rate(classes)


def _batches(count: int, schedule: Schedule, epoch: int) -> Iterator[tuple[NDArray[np.int64], np.random.Generator]]:
    random = np.random.default_rng([schedule.seed, 1, epoch])
    order = random.permutation(count)
    for low in range(0, count, schedule.batch):
        yield order[low : low + schedule.batch], random


def _optimiser(parameters: list[torch.nn.Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    if schedule.optimiser == "sgd":
        return torch.optim.SGD(parameters, schedule.learning_rate, momentum=0.9, weight_decay=schedule.weight_decay)
    return torch.optim.Adam(parameters, schedule.learning_rate, weight_decay=schedule.weight_decay)
