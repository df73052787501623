"""The training stages: float, quantised, pruned round by round, fine-tuned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

import mapping
from netx_export.atomic import write_bytes
from qpsnn_lava import bit_plan, checkpoint, parallel
from qpsnn_lava.coding import Coding
from qpsnn_lava.config import Experiment, free_layers
from qpsnn_lava.data import Dataset
from qpsnn_lava.model import SpikingNetwork, asked_bits, set_bits, set_quantised
from qpsnn_lava.pipeline.folder import Event, RunFolder, Say
from qpsnn_lava.pipeline.freezing import frozen
from qpsnn_lava.pipeline.inputs import coding_of, data_of
from qpsnn_lava.pipeline.machine import keep_freed_memory, set_threads
from qpsnn_lava.pipeline.model import bits_in, untrained
from qpsnn_lava.pipeline.pruning import cut_on, scored
from qpsnn_lava.train import Progress, Schedule, calibrate, train

CALIBRATION = 2048  # training images for the norms' statistics after the cut

Until: TypeAlias = Literal["float", "quantised", "fine-tune"]


def fit(experiment: Experiment, files: RunFolder, say: Say, until: Until = "fine-tune") -> dict[str, Any]:
    """The training phases up to ``until``: float, quantised, scored and cut, fine-tuned.  Returns (and keeps) training.json."""
    done: dict[str, Any] = checkpoint.load_json(files.training) if files.training.exists() else {}
    if until in done and (until != "fine-tune" or files.model.exists()):
        say(Event(until, "trained before; going on from there", final=True))
        return done
    with parallel.joined() as device:
        set_threads(experiment)
        keep_freed_memory()
        dataset = data_of(experiment)
        speaks = say if parallel.rank() == 0 else lambda event: None
        torch.manual_seed(experiment.seed)
        model = untrained(experiment, dataset).to(device)
        _phases(_Shared(experiment, files, dataset, coding_of(experiment), done, speaks), model, until)
    return done


def take_over(before: RunFolder, files: RunFolder) -> None:
    """Copies the training phases that another run folder has finished into one that has none; :func:`fit` goes on from there.

    Whoever calls this knows that both experiments agree in all that decides these phases.
    """
    if files.training.exists():
        return
    done = checkpoint.load_json(before.training)
    for path in (before.phase(name) for name in done):
        if path.exists():
            write_bytes(files.path / path.relative_to(before.path), path.read_bytes())
    checkpoint.save_json(files.training, done)


# --- the phases --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shared:
    """What the phases share, in this process or in several; process 0 writes and speaks.

    Args:
        experiment, files, dataset, coding: of the run.
        done: training.json; each phase adds its entry.
        say: told what happens.
    """

    experiment: Experiment
    files: RunFolder
    dataset: Dataset
    coding: Coding
    done: dict[str, Any]
    say: Say

    def keep_done(self) -> None:
        if parallel.rank() == 0:
            checkpoint.save_json(self.files.training, self.done)


def _phases(shared: _Shared, model: SpikingNetwork, until: Until) -> None:
    """The phases that are not done; the model is trained in place, and cut into a new one."""
    experiment, done = shared.experiment, shared.done
    settings, order = experiment.train, experiment.prune.order
    _phase(shared, "float", model, _schedule(experiment, settings.epochs, settings.learning_rate, 0, stream=0))
    if until == "float":
        return
    set_quantised(model, True)
    if experiment.quantise.bits == "auto" and "bits" not in done:
        _choose_bits(shared, model)
    set_bits(model, bits_in(done))

    def quantised(epochs: int) -> Schedule:
        return _schedule(experiment, epochs, settings.learning_rate, settings.frozen_epochs, stream=1)

    # in another order than "qp" it is only looked at here, for the report
    _phase(shared, "quantised", model, quantised(settings.quantised_epochs if order == "qp" else 0))
    if until == "quantised":
        return
    set_quantised(model, order != "pq")
    small = _pruned_and_tuned(shared, model)
    if order == "pq":
        set_quantised(small, True)
        _phase(shared, "pruned-quantised", small, quantised(settings.quantised_epochs))
    if parallel.rank() == 0:
        checkpoint.save_model(small, shared.files.model)
    parallel.wait()


def _pruned_and_tuned(shared: _Shared, model: SpikingNetwork) -> SpikingNetwork:
    """Round by round: scored, cut, fine-tuned.  The last round has what the others leave of the epochs, and the plain names."""
    experiment, dataset, done = shared.experiment, shared.dataset, shared.done
    settings, order, rounds = experiment.train, experiment.prune.order, experiment.prune.rounds
    epochs = settings.finetune_epochs + (settings.quantised_epochs if order == "together" else 0)
    before = None
    for number in range(1, rounds + 1):
        last = number == rounds
        cut, tune = ("prune", "fine-tune") if last else (f"prune-{number}", f"fine-tune-{number}")
        if cut not in done:
            done[cut], line = scored(experiment, model, dataset, number, before, shared.say)
            shared.keep_done()
            shared.say(Event("prune", line, final=True))
        model = cut_on(experiment, model, dataset, done[cut], before)
        if tune not in done and not shared.files.snapshot(tune).exists():
            calibrate(model, dataset, shared.coding, samples=CALIBRATION, batch=settings.batch, seed=experiment.seed)
        share = epochs - (rounds - 1) * (epochs // rounds) if last else epochs // rounds
        frozen_epochs = settings.frozen_epochs if last and order != "pq" else 0
        stream = 2 if last else 3 + number
        rate = settings.finetune_learning_rate
        _phase(shared, tune, model, _schedule(experiment, share, rate, frozen_epochs, stream))
        before = done[cut]
    return model


def _phase(shared: _Shared, name: str, model: SpikingNetwork, schedule: Schedule) -> None:
    """Trains, goes on training, or takes up what was trained."""
    files, say = shared.files, shared.say
    if name in shared.done:
        checkpoint.load_model(model, files.phase(name))
        return
    best = train(
        model,
        shared.dataset,
        shared.coding,
        schedule,
        progress=_teller(name, files, say) if parallel.rank() == 0 else None,
        snapshots=files.snapshot(name),
        notice=lambda text: say(Event(name, text, final=True)),
    )
    shared.done[name] = {
        "validation": best.validation.to_dict(),
        "epoch": best.epoch,
        "epochs": best.epochs,
        "seconds": best.seconds,
    }
    if parallel.rank() == 0:
        checkpoint.save_model(model, files.phase(name))
        shared.keep_done()
        checkpoint.remove_snapshots(files.snapshot(name))


def _schedule(experiment: Experiment, epochs: int, rate: float, frozen_epochs: int, stream: int) -> Schedule:
    """Of a phase; each has a stream of random numbers of its own."""
    settings = experiment.train
    return Schedule(
        epochs,
        frozen_epochs,
        settings.batch,
        settings.optimiser,
        rate,
        settings.weight_decay,
        settings.label_smoothing,
        settings.augment,
        seed=experiment.seed + stream,
    )


def _teller(stage: str, files: RunFolder, say: Say) -> Callable[[Progress], None]:
    """Tells how a phase goes on, and writes its epochs into log.jsonl."""

    def tell(p: Progress) -> None:
        total = p.epochs * p.batches
        if p.validation is None:
            say(Event(stage, f"epoch {p.epoch}/{p.epochs}  loss {p.loss:.3f}", (p.epoch - 1) * p.batches + p.batch, total))
            return
        line = f"epoch {p.epoch}/{p.epochs}  loss {p.loss:.3f}  validation {100 * p.validation.value:.2f} %"
        say(Event(stage, line, p.epoch * p.batches, total, final=True))
        entry = {"stage": stage, "epoch": p.epoch, "loss": p.loss, "validation": p.validation.to_dict(), "seconds": p.seconds}
        with files.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")

    return tell


# --- bits under a budget -----------------------------------------------------------------------------------------------


def _choose_bits(shared: _Shared, model: SpikingNetwork) -> None:
    """Plans the bits of the layers that may choose, and keeps the plan."""
    shared.say(Event("quantised", "choosing the bits of each layer"))
    plan = _planned_bits(shared.experiment, model, shared.dataset)
    shared.done["bits"] = plan.to_dict()
    shared.keep_done()
    chosen = ", ".join(f"{name} {bits}" for name, bits in plan.bits.items())
    shared.say(Event("quantised", f"bits: {chosen}", final=True))


def _planned_bits(experiment: Experiment, model: SpikingNetwork, dataset: Dataset) -> bit_plan.BitPlan:
    """The bits of the layers that may choose, within the experiment's budget; the model is trained in float.

    Raises:
        ConfigError: the budget is below what the network takes with the fewest bits.
    """
    quantise = experiment.quantise
    budgets: dict[bit_plan.Unit, float | None] = {
        "mb": quantise.budget_mb, "words": quantise.budget_words, "cores": quantise.budget_cores
    }  # fmt: skip
    unit, budget = next((unit, float(value)) for unit, value in budgets.items() if value is not None)
    weighted = list(asked_bits(model))
    names = [weighted[i] for i in free_layers(experiment)]
    chip = mapping.load_chip(experiment.map.chip)
    network = frozen(experiment, model, dataset)
    coding, seed = coding_of(experiment), experiment.seed
    return bit_plan.plan_bits(model, network, names, dataset, coding, budget, unit, chip, seed=seed)
