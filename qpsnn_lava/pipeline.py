"""The whole flow, stage by stage, into one run folder.

    config.toml -> float -> quantised -> scored, cut, fine-tuned -> network.net -> simulated, run on Lava, mapped -> report

Every stage writes its artefact whole and the next one reads it, so an interrupted run goes on where it was, and a finished one is
only read.  Nothing is printed here: what happens is told to a ``say`` callback and to ``log.jsonl``.
"""

from __future__ import annotations

import copy
import ctypes
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

import mapping
from netx_export import engine, hdf5
from netx_export.atomic import write_bytes, write_text
from netx_export.errors import ConfigError, MismatchError, MissingError
from netx_export.integers import stored_bits
from netx_export.lava_run import run_lava
from netx_export.network import Conv, Integrator, Network
from netx_export.simulate import Run, decide_scores, read_out
from qpsnn_lava import bit_plan, checkpoint, dynamics, page, parallel, plots, prune, report, width_plan
from qpsnn_lava.coding import Coding, encode
from qpsnn_lava.config import Experiment, free_layers, load_experiment, to_toml
from qpsnn_lava.criteria import WITHOUT_IMAGES
from qpsnn_lava.data import Dataset, Split, load
from qpsnn_lava.freeze import freeze
from qpsnn_lava.metrics import metrics
from qpsnn_lava.model import SpikingNetwork, build, own_blocks, parameters_of, set_bits, set_quantised
from qpsnn_lava.quantise import grid_use
from qpsnn_lava.sizes import deployed_mb, paper_mb
from qpsnn_lava.statistics import Accuracy
from qpsnn_lava.train import Progress, Schedule, Trained, calibrate, evaluate, to_input, train

SCHEMA = 1
CHUNK = 256  # samples that are compared or simulated at a time
CALIBRATION = 2048  # training images for the norms' statistics after the cut


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    Args:
        stage: float, quantised, prune, fine-tune, freeze, simulate, lava, map or report.
        text: one line for people.
        done, total: how far the stage is, 0 of 0 where that cannot be said.
        final: whether the line should stay on the terminal.
    """

    stage: str
    text: str
    done: int = 0
    total: int = 0
    final: bool = False


Say = Callable[[Event], None]
Until: TypeAlias = Literal["float", "quantised", "fine-tune"]


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def network(self) -> Path:
        return self.path / "network.net"

    @property
    def unpruned(self) -> Path:
        return self.path / "unpruned.net"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def training(self) -> Path:
        return self.path / "training.json"

    @property
    def checks(self) -> Path:
        return self.path / "checks.json"

    @property
    def mapping(self) -> Path:
        return self.path / "mapping.json"

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    def phase(self, name: str) -> Path:
        """The model that a training phase ended with."""
        return self.path / "checkpoints" / f"{name}.safetensors"

    def snapshot(self, name: str) -> Path:
        """The state of a training phase under way."""
        return self.path / "checkpoints" / f"{name}.state.safetensors"


def run(experiment: Experiment, folder: Path, *, say: Say, command: str = "") -> dict[str, Any]:
    """Runs all stages, or what is left of them, and returns the report.

    Args:
        experiment: what to do.
        folder: the run folder; made, or gone on with where it holds the same experiment.
        say: told what happens.
        command: the command line that made it, for the report.

    Raises:
        ConfigError: when the folder holds another experiment.
        MismatchError: when SLAYER, simulation and Lava do not agree (the report is written all the same).
    """
    files = open_folder(experiment, folder)
    fit(experiment, files, say)
    export(experiment, files, say)
    check(experiment, files, say)
    place(experiment, files, say)
    made = write_report(experiment, files, say, command)
    wrong = made["agreement"]["spike_mismatches"] + made["agreement"]["voltage_mismatches"]
    if wrong:
        raise MismatchError(
            f"{wrong} values differ between SLAYER, simulation and Lava; the report in {files.path} says where."
        )
    return made


def open_folder(experiment: Experiment, folder: Path) -> RunFolder:
    """The run folder with the experiment's config.toml in it; refuses one that holds another experiment."""
    files = RunFolder(folder)
    if parallel.rank() == 0:
        _claim(experiment, files)
    parallel.wait()
    return files


def _claim(experiment: Experiment, files: RunFolder) -> None:
    if files.config.exists():
        if load_experiment(files.config) != experiment:
            raise ConfigError(
                f"{files.path} holds another experiment (its config.toml differs); choose another --out, or remove the folder."
            )
        return
    if files.path.exists() and not (files.path.is_dir() and not any(files.path.iterdir())):
        raise ConfigError(f"{files.path} is not empty and is no run folder; choose another --out.")
    write_text(files.config, to_toml(experiment))


def coding_of(experiment: Experiment) -> Coding:
    """How the experiment's images become spikes."""
    return Coding(experiment.data.coding, experiment.data.steps, experiment.data.input_bits)


def data_of(experiment: Experiment) -> Dataset:
    """The experiment's data set."""
    folder = Path(experiment.data.folder) if experiment.data.folder else None
    data = experiment.data
    return load(data.name, folder=folder, seed=experiment.seed, steps=data.steps, train_images=data.train_images)


def untrained(experiment: Experiment, dataset: Dataset) -> SpikingNetwork:
    """The experiment's network for its data, with fresh weights from torch's global generator."""
    coding = coding_of(experiment)
    return build(experiment, input_shape(coding, dataset), dataset.classes, coding.input_max)


def input_shape(coding: Coding, dataset: Dataset) -> tuple[int, int, int]:
    """(C, H, W) of the network's input for this data."""
    return coding.input_shape(dataset.train.images.shape[1:])


# --- training ----------------------------------------------------------------------------------------------------------


def fit(experiment: Experiment, files: RunFolder, say: Say, until: Until = "fine-tune") -> dict[str, Any]:
    """The training phases up to ``until``: float, quantised, scored and cut, fine-tuned.  Returns (and keeps) training.json."""
    done: dict[str, Any] = checkpoint.load_json(files.training) if files.training.exists() else {}
    if until in done and (until != "fine-tune" or files.model.exists()):
        say(Event(until, "trained before; going on from there", final=True))
        return done
    with parallel.joined() as device:
        return _fit(experiment, files, say if parallel.rank() == 0 else lambda event: None, device, done, until)


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


def _fit(
    experiment: Experiment, files: RunFolder, say: Say, device: torch.device, done: dict[str, Any], until: Until
) -> dict[str, Any]:
    """The phases that are not done, in this process or in several; process 0 writes and speaks."""
    first = parallel.rank() == 0
    set_threads(experiment)
    keep_freed_memory()
    dataset, coding = data_of(experiment), coding_of(experiment)
    settings = experiment.train
    torch.manual_seed(experiment.seed)
    model = untrained(experiment, dataset).to(device)

    def schedule(epochs: int, rate: float, frozen: int, stream: int) -> Schedule:
        seed = experiment.seed + stream
        return Schedule(
            epochs, frozen, settings.batch, settings.optimiser, rate, settings.weight_decay, settings.augment, seed
        )

    def keep_done() -> None:
        if first:
            checkpoint.save_json(files.training, done)

    def phase(name: str, one: SpikingNetwork, plan: Schedule) -> None:
        """Trains, goes on training, or takes up what was trained."""
        if name in done:
            checkpoint.load_model(one, files.phase(name))
            return
        progress = _teller(name, files, say) if first else None
        best = train(
            one,
            dataset,
            coding,
            plan,
            progress=progress,
            snapshots=files.snapshot(name),
            notice=lambda text: say(Event(name, text, final=True)),
        )
        done[name] = _trained(best)
        if first:
            checkpoint.save_model(one, files.phase(name))
            keep_done()
            checkpoint.remove_snapshots(files.snapshot(name))

    phase("float", model, schedule(settings.epochs, settings.learning_rate, 0, 0))
    if until == "float":
        return done
    set_quantised(model, True)
    if experiment.quantise.bits == "auto" and "bits" not in done:
        say(Event("quantised", "choosing the bits of each layer"))
        plan = chosen_bits(experiment, model, dataset)
        done["bits"] = plan.to_dict()
        keep_done()
        say(Event("quantised", f"bits: {', '.join(f'{name} {bits}' for name, bits in plan.bits.items())}", final=True))
    set_bits(model, _bits_in(done))
    order, rounds = experiment.prune.order, experiment.prune.rounds
    trained_before = settings.quantised_epochs if order == "qp" else 0  # else it is only looked at, for the report
    phase("quantised", model, schedule(trained_before, settings.learning_rate, settings.frozen_epochs, 1))
    if until == "quantised":
        return done
    set_quantised(model, order != "pq")

    small = model
    epochs = settings.finetune_epochs + (settings.quantised_epochs if order == "together" else 0)
    for number in range(1, rounds + 1):
        last = number == rounds
        cut, tune = ("prune", "fine-tune") if last else (f"prune-{number}", f"fine-tune-{number}")
        if cut not in done:
            entry, line = _scored(experiment, small, dataset, done, number, say)
            done[cut] = entry
            keep_done()
            say(Event("prune", line, final=True))
        small = _cut_on(experiment, small, done, number, dataset)
        if tune not in done and not files.snapshot(tune).exists():
            calibrate(small, dataset, coding, samples=CALIBRATION, batch=settings.batch, seed=experiment.seed)
        share = epochs - (rounds - 1) * (epochs // rounds) if last else epochs // rounds
        frozen_epochs = settings.frozen_epochs if last and order != "pq" else 0
        stream = 2 if last else 3 + number
        phase(tune, small, schedule(share, settings.finetune_learning_rate, frozen_epochs, stream))
    if order == "pq":
        set_quantised(small, True)
        again = schedule(settings.quantised_epochs, settings.learning_rate, settings.frozen_epochs, 1)
        phase("pruned-quantised", small, again)
    if first:
        checkpoint.save_model(small, files.model)
    parallel.wait()
    return done


def chosen_bits(experiment: Experiment, model: SpikingNetwork, dataset: Dataset) -> bit_plan.BitPlan:
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


def _bits_in(done: dict[str, Any]) -> dict[str, int]:
    """The bits that training.json says were chosen."""
    return dict(done.get("bits", {}).get("bits", {}))


def _scored(
    experiment: Experiment, model: SpikingNetwork, dataset: Dataset, done: dict[str, Any], number: int, say: Say
) -> tuple[dict[str, Any], str]:
    """Scores a model that earlier rounds have cut, and says which channels stay (as they were numbered at first), and a line for people."""
    start, settled = time.perf_counter(), experiment.prune
    if settled.criterion in WITHOUT_IMAGES:
        say(Event("prune", "scoring channels"))
    else:
        say(Event("prune", f"scoring channels on {settled.samples} training images"))
    scores, peak_bytes = prune.with_peak(
        lambda: prune.score(
            model,
            dataset,
            coding_of(experiment),
            samples=settled.samples,
            eps=settled.eps,
            seed=experiment.seed,
            criterion=settled.criterion,
            relative=settled.eps_relative,
            nuclear=settled.tie_break == "nuclear",
        )
    )
    scoring_seconds = time.perf_counter() - start
    alive = _kept(done, number - 1) or {i: np.arange(len(s.value)) for i, s in scores.items()}
    known = done.get(f"prune-{number - 1}", {}).get("scores", {})
    table, whole = {}, {}
    for i, s in scores.items():  # of a channel that is gone: its score when it was last there
        row = known.get(str(i), {"rank": s.value, "nuclear": s.nuclear})
        table[str(i)] = {"rank": np.array(row["rank"]), "nuclear": np.array(row["nuclear"])}
        table[str(i)]["rank"][alive[i]], table[str(i)]["nuclear"][alive[i]] = s.value, s.nuclear
        whole[i] = len(row["rank"])
    counts, rounded, plan = _counts(experiment, model, dataset, scores, whole, number)
    kept = prune.choose(scores, counts, tie_break=settled.tie_break)
    entry = {
        "seconds": time.perf_counter() - start,
        "kept": {str(i): alive[i][k].tolist() for i, k in kept.items()},
        "scores": {i: {key: values.tolist() for key, values in row.items()} for i, row in table.items()},
        "widths": [asdict(choice) for choice in rounded],
        "plan": None if plan is None else plan.to_dict(),
        "scoring": {
            "criterion": settled.criterion,
            "samples": next((s.samples for s in scores.values()), 0),
            "seconds": scoring_seconds,
            "criterion_seconds": {str(i): s.seconds for i, s in scores.items()},
            "peak_bytes": peak_bytes,
            "stability": {str(i): s.stability for i, s in scores.items()},
        },
    }
    return entry, _cut_line(scores, kept, rounded)


def _kept(done: dict[str, Any], number: int) -> dict[int, np.ndarray[Any, np.dtype[np.int64]]]:
    """Channels that stay after a round that is not the last, as they were numbered at first; none of round 0."""
    entry = done.get(f"prune-{number}", {"kept": {}})
    return {int(i): np.asarray(k, np.int64) for i, k in entry["kept"].items()}


def _cut_on(
    experiment: Experiment, model: SpikingNetwork, done: dict[str, Any], number: int, dataset: Dataset
) -> SpikingNetwork:
    """What a round leaves of the model that the round before left."""
    if number == experiment.prune.rounds == 1:
        return pruned_model(experiment, model, done, dataset)
    alive = _kept(done, number - 1)
    entry = done["prune" if number == experiment.prune.rounds else f"prune-{number}"]
    stay = {int(i): np.asarray(k, np.int64) for i, k in entry["kept"].items()}
    stay = {i: np.searchsorted(alive[i], k) if alive else k for i, k in stay.items()}
    small = prune.cut(model, stay, input_shape(coding_of(experiment), dataset))
    assert isinstance(small, SpikingNetwork)
    return small


def channels_to_keep(
    experiment: Experiment, model: SpikingNetwork, dataset: Dataset, scores: dict[int, prune.Scores]
) -> tuple[dict[int, int], tuple[mapping.WidthChoice, ...]]:
    """How many channels of each block stay, and how that was rounded for the experiment's chip, where that is asked for.

    What a layer costs is counted from the model's own integers before pruning.

    Raises:
        CapacityError: the network would not fit the chip with the widths that the share leaves.
        ConfigError: a budget that no widths keep.
    """
    whole = {i: len(s.value) for i, s in scores.items()}
    return _counts(experiment, model, dataset, scores, whole, experiment.prune.rounds)[:2]


def _counts(
    experiment: Experiment,
    model: SpikingNetwork,
    dataset: Dataset,
    scores: dict[int, prune.Scores],
    whole: dict[int, int],
    number: int,
) -> tuple[dict[int, int], tuple[mapping.WidthChoice, ...], width_plan.WidthPlan | None]:
    """:func:`channels_to_keep` of a round; ``whole``: channels before the first.

    The share that stays after round r of n is ``keep ** (r / n)``; a budget is approached by equal factors.
    """
    settled = experiment.prune
    names = dict(zip([i for i, block in enumerate(model.blocks) if hasattr(block, "synapse")], model.names, strict=True))
    if settled.keep is None:
        return _within_budget(experiment, model, dataset, {names[i]: s.value for i, s in scores.items()}, number, names)
    part = number / settled.rounds
    keep = tuple(k**part for k in settled.keep) if isinstance(settled.keep, tuple) else settled.keep**part
    counts = prune.keep_counts(scores, keep, settled.scope, settled.tie_break, whole)
    if settled.widths == "any" or number < settled.rounds:
        return counts, (), None
    layers = mapping.plan_layers(frozen(experiment, _integers_of(model), dataset))
    chip = mapping.load_chip(experiment.map.chip)
    chosen = mapping.choose_widths(layers, chip, {names[i]: count for i, count in counts.items()})
    taken = {choice.name: choice.taken for choice in chosen}
    return {i: taken[names[i]] for i in counts}, chosen, None


def _within_budget(
    experiment: Experiment,
    model: SpikingNetwork,
    dataset: Dataset,
    scores: dict[str, np.ndarray[Any, np.dtype[np.float64]]],
    number: int,
    names: dict[int, str],
) -> tuple[dict[int, int], tuple[mapping.WidthChoice, ...], width_plan.WidthPlan]:
    budget = experiment.prune.budget
    assert budget is not None
    network = frozen(experiment, _integers_of(model), dataset)
    operations = None
    if budget[0] == "ops":
        images = first(dataset.train, experiment.prune.samples)
        summary = engine.summarise(network, encoded(images, dataset, coding_of(experiment), experiment.seed))
        operations = {key.split(" -> ")[1]: total / summary.samples for key, total in summary.operations.items()}
    plan = width_plan.plan_widths(
        network,
        scores,
        budget[1],
        budget[0],
        mapping.load_chip(experiment.map.chip),
        operations,
        part=1 / (experiment.prune.rounds - number + 1),
    )
    blocks = {name: i for i, name in names.items()}
    return {blocks[name]: width for name, width in plan.widths.items()}, (), plan


def _integers_of(model: SpikingNetwork) -> SpikingNetwork:
    """The model with the chip's integers, also where it still is in float (order "pq")."""
    copied = copy.deepcopy(model)
    set_quantised(copied, True)
    return copied


def models(experiment: Experiment, files: RunFolder) -> dict[str, SpikingNetwork]:
    """The trained models of a run: float, quantised, pruned (cut, before fine-tuning) and final."""
    done = checkpoint.load_json(files.training)
    dataset = data_of(experiment)
    plain, quantised = unpruned_model(experiment, files, dataset, "float"), unpruned_model(experiment, files, dataset)
    small = pruned_model(experiment, quantised, done, dataset)
    final = pruned_model(experiment, quantised, done, dataset)
    checkpoint.load_model(final, files.model)
    return {"float": plain, "quantised": quantised, "pruned": small, "final": final}


def unpruned_model(
    experiment: Experiment, files: RunFolder, dataset: Dataset, phase: Literal["float", "quantised"] = "quantised"
) -> SpikingNetwork:
    """The model that a training phase before the cut ended with."""
    model = untrained(experiment, dataset)
    checkpoint.load_model(model, files.phase(phase))
    if phase == "quantised":
        set_quantised(model, True)
        set_bits(model, _bits_in(checkpoint.load_json(files.training)))
    return model


def pruned_model(experiment: Experiment, model: SpikingNetwork, done: dict[str, Any], dataset: Dataset) -> SpikingNetwork:
    """The model with the channels cut that training.json says."""
    kept = {int(i): np.asarray(k, np.int64) for i, k in done["prune"]["kept"].items()}
    small = prune.cut(model, kept, input_shape(coding_of(experiment), dataset))
    assert isinstance(small, SpikingNetwork)
    return small


def set_threads(experiment: Experiment) -> None:
    """Threads of torch and numba: as asked, else all cores."""
    threads = experiment.train.threads or max(1, (os.cpu_count() or 1) // parallel.size())
    torch.set_num_threads(threads)
    dynamics.set_threads(threads)


def keep_freed_memory() -> None:
    """Has glibc keep what tensors free for the next step: else it goes back to the kernel, and returns page by page, cleared.

    That was a fifth of a training step.  Elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        mallopt(option, 1 << 30)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


# --- export, simulation, Lava ------------------------------------------------------------------------------------------


def export(experiment: Experiment, files: RunFolder, say: Say) -> None:
    """Freezes the final and the unpruned quantised model into network.net and unpruned.net."""
    if files.network.exists() and files.unpruned.exists():
        return
    made, dataset = models(experiment, files), data_of(experiment)
    for name, path in (("quantised", files.unpruned), ("final", files.network)):
        network = frozen(experiment, made[name], dataset)
        hdf5.write(network, path)
    weights = sum(p.synapse.weight.size for p in network.projections)
    say(Event("freeze", f"{weights} integer weights in {len(network.projections)} layers -> {files.network}", final=True))


def frozen(experiment: Experiment, model: SpikingNetwork, dataset: Dataset) -> Network:
    """The integers of a quantised model of the experiment."""
    coding = coding_of(experiment)
    return freeze(model, input_shape(coding, dataset), coding.steps, input_bits=coding.graded_bits)


def check(experiment: Experiment, files: RunFolder, say: Say) -> dict[str, Any]:
    """Reads the test set: accuracies of all stages, and the equality of SLAYER, simulation and Lava.  Keeps checks.json."""
    if files.checks.exists():
        return checkpoint.load_json(files.checks)  # type: ignore[no-any-return]
    set_threads(experiment)
    dataset, coding = data_of(experiment), coding_of(experiment)
    made = models(experiment, files)
    network, unpruned = hdf5.read(files.network), hdf5.read(files.unpruned)
    test = dataset.test
    result: dict[str, Any] = {"accuracy": {}, "seconds": {}}
    start = time.perf_counter()
    for name in ("float", "quantised", "pruned"):
        say(Event("simulate", f"test accuracy of the {name} model"))
        result["accuracy"][name] = evaluate(made[name], test, dataset, coding, seed=experiment.seed).to_dict()
    result["seconds"]["evaluate"] = time.perf_counter() - start

    start = time.perf_counter()
    summary = engine.summarise(
        network, encoded(test, dataset, coding, experiment.seed), progress=_counter("simulate", test, say)
    )
    classes, tied = decide_scores(engine.scores(network, summary))
    result["accuracy"]["integer"] = _accuracy(classes, test)
    result["ties"] = int((tied > 1).sum())
    result["firing"] = {
        p.name: summary.spikes[p.name] / (p.size * coding.steps * summary.samples) for p in network.populations
    }
    result["synaptic_ops"] = sum(summary.operations.values()) / summary.samples
    before = engine.summarise(
        unpruned, encoded(test, dataset, coding, experiment.seed), progress=_counter("simulate", test, say)
    )
    result["unpruned_synaptic_ops"] = sum(before.operations.values()) / before.samples
    result["metrics"] = {"network": metrics(network, summary).to_dict(), "unpruned": metrics(unpruned, before).to_dict()}
    result["grid_use"] = grid_uses(made["final"])
    result["seconds"]["simulate"] = time.perf_counter() - start

    start = time.perf_counter()
    result["agreement"] = compare_slayer(made["final"], network, dataset, coding, experiment.seed, say)
    result["seconds"]["compare"] = time.perf_counter() - start
    say(
        Event(
            "simulate",
            f"integer {_percent(result['accuracy']['integer'])}; SLAYER and simulation: "
            f"{result['agreement']['spike_mismatches']} of {result['agreement']['spikes_compared']} spikes differ",
            final=True,
        )
    )

    start = time.perf_counter()
    result.update(_on_lava(experiment, files, network, dataset, coding, result, say))
    result["seconds"]["lava"] = time.perf_counter() - start
    checkpoint.save_json(files.checks, result)
    return result


def _on_lava(
    experiment: Experiment,
    files: RunFolder,
    network: Network,
    dataset: Dataset,
    coding: Coding,
    result: dict[str, Any],
    say: Say,
) -> dict[str, Any]:
    """The first test samples on Lava, and how they differ from the simulation."""
    part = first(dataset.test, experiment.lava.samples)
    spikes = encode(part.images, coding, max_value=dataset.max_value, seed=experiment.seed, indices=part.indices)
    agreement = dict(result["agreement"])
    name = network.output.name
    voltage = isinstance(network.output.neuron, Integrator)
    try:
        lava = run_lava(
            files.network,
            spikes,
            voltage=voltage,
            timeout=experiment.lava.timeout,
            progress=lambda done, total: say(Event("lava", "Lava, fixed point", done, total)),
        )
    except MissingError as error:
        say(Event("lava", f"not run: {error}", final=True))
        return {"agreement": agreement}
    exact = engine.simulate_fast(network, spikes, record=[name], states=[name])
    agreement["lava_samples"] = len(part.labels)
    agreement["spikes_compared"] += int(lava.spikes.size)
    agreement["spike_mismatches"] += int((lava.spikes != exact.spikes[name]).sum())
    last = exact.voltage[name][..., -1]
    if lava.voltage is not None:
        agreement["voltages_compared"] += int(last.size)
        agreement["voltage_mismatches"] += int((lava.voltage != last).sum())
    classes, _ = decide_scores(read_out(network, voltage=lava.voltage, counts=lava.spikes.sum(-1)))
    accuracy = dict(result["accuracy"], lava=_accuracy(classes, part))
    say(
        Event(
            "lava",
            f"{len(part.labels)} samples on Lava: {agreement['spike_mismatches']} spikes and "
            f"{agreement['voltage_mismatches']} voltages differ",
            final=True,
        )
    )
    return {"agreement": agreement, "accuracy": accuracy}


def compare_slayer(
    model: SpikingNetwork, network: Network, dataset: Dataset, coding: Coding, seed: int, say: Say
) -> dict[str, int]:
    """SLAYER's forward pass against the simulation, spike by spike in all layers, over the whole test set."""
    names = [p.name for p in network.populations[1:]]
    listed = [b for b in model.blocks if hasattr(b, "synapse")]
    seen: dict[str, torch.Tensor] = {}
    handles = [
        block.register_forward_hook(lambda _m, _a, out, name=name: seen.__setitem__(name, out))
        for name, block in zip(names, listed, strict=True)
    ]
    counts = dict.fromkeys(
        (
            "samples",
            "simulated_samples",
            "lava_samples",
            "spikes_compared",
            "spike_mismatches",
            "voltages_compared",
            "voltage_mismatches",
        ),
        0,
    )
    model.eval()
    try:
        for low in range(0, len(dataset.test.labels), CHUNK):
            part = slice(low, low + CHUNK)
            images, indices = dataset.test.images[part], dataset.test.indices[part]
            with torch.no_grad():
                model(to_input(images, coding, dataset.max_value, seed, indices))
            spikes = encode(images, coding, max_value=dataset.max_value, seed=seed, indices=indices)
            exact = engine.simulate_fast(network, spikes, record=names, states=[names[-1]])
            _compare(network, seen, exact, counts)
            counts["samples"] += len(images)
            say(Event("simulate", "SLAYER against simulation", counts["samples"], len(dataset.test.labels)))
    finally:
        for handle in handles:
            handle.remove()
    counts["simulated_samples"] = counts["samples"]
    return counts


def _compare(network: Network, seen: dict[str, torch.Tensor], exact: Run, counts: dict[str, int]) -> None:
    for population in network.populations[1:]:
        ours = seen[population.name].numpy()
        if isinstance(population.neuron, Integrator):
            theirs = exact.voltage[population.name]
            counts["voltages_compared"] += int(theirs.size)
            counts["voltage_mismatches"] += int((ours * 4096.0 != theirs.reshape(ours.shape)).sum())
            ours = np.zeros_like(ours)  # SLAYER's read-out has no spikes
        spikes = exact.spikes[population.name].reshape(ours.shape)
        counts["spikes_compared"] += int(spikes.size)
        counts["spike_mismatches"] += int((ours != spikes).sum())


def encoded(part: Split, dataset: Dataset, coding: Coding, seed: int) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
    """The network's input for a split, chunk by chunk."""
    for low in range(0, len(part.labels), CHUNK):
        piece = slice(low, low + CHUNK)
        yield encode(part.images[piece], coding, max_value=dataset.max_value, seed=seed, indices=part.indices[piece])


def first(part: Split, count: int) -> Split:
    """The first ``count`` samples of a split."""
    return Split(part.images[:count], part.labels[:count], part.indices[:count])


# --- mapping and report ------------------------------------------------------------------------------------------------


def place(experiment: Experiment, files: RunFolder, say: Say) -> None:
    """Maps both networks onto the chip, the final one with every detail, as busy as the simulation was; keeps mapping.json."""
    if files.mapping.exists():
        return
    start = time.perf_counter()
    chip = mapping.load_chip(experiment.map.chip)
    firing = checkpoint.load_json(files.checks)["firing"]
    networks = {"network": hdf5.read(files.network), "unpruned": hdf5.read(files.unpruned)}
    tables: dict[str, Any] = {}
    for name, network in networks.items():
        placed = mapping.place(network, mapping.map_network(network, chip), firing, experiment.seed).mapping
        mapping.require(network, placed)
        tables[name] = {"utilisation": mapping.utilisation(network, placed).to_dict(), "mapping": placed.to_dict()}
    final = mapping.Mapping.from_dict(tables["network"]["mapping"])
    before = mapping.plan_layers(networks["unpruned"])
    variants = {
        "unpruned, at 8 bits": [mapping.at_bits(layer, 8) for layer in before],
        "unpruned, quantised": before,
        "pruned": mapping.plan_layers(networks["network"]),
    }
    tables["details"] = {
        **mapping.describe(networks["network"], final, firing, networks["unpruned"]),
        "pareto": mapping.front_rows(mapping.front(networks["network"], chip, firing)),
        "compared": [asdict(row) for row in mapping.compare(variants, chip)],
    }
    checkpoint.save_json(files.mapping, {**tables, "seconds": time.perf_counter() - start})
    used, cores = tables["network"]["utilisation"], tables["unpruned"]["utilisation"]["cores"]
    say(
        Event(
            "map",
            f"{chip.name}: {used['cores']} cores (unpruned {cores}), lower bound {used['lower_bound']}",
            final=True,
        )
    )


def write_report(experiment: Experiment, files: RunFolder, say: Say, command: str = "") -> dict[str, Any]:
    """report.json, report.html, report.md and the plots, from what the stages before left."""
    training = checkpoint.load_json(files.training)
    checks = checkpoint.load_json(files.checks)
    tables = checkpoint.load_json(files.mapping)
    network, unpruned = hdf5.read(files.network), hdf5.read(files.unpruned)
    dataset, coding = data_of(experiment), coding_of(experiment)
    torch.manual_seed(experiment.seed)
    plain = untrained(experiment, dataset)
    set_bits(plain, _bits_in(training))
    scores = _score_table(training, plain)
    made = {
        "schema": SCHEMA,
        "name": experiment.name,
        "command": _command_before(files, command),
        "versions": versions(),
        "seed": experiment.seed,
        "dataset": {
            "name": dataset.name,
            "n_train": len(dataset.train.labels),
            "n_validation": len(dataset.validation.labels),
            "n_test": len(dataset.test.labels),
            "licence": dataset.licence,
            "source": dataset.source,
            "coding": coding.kind,
            "steps": coding.steps,
            "input_bits": coding.graded_bits,
        },
        "accuracy": checks["accuracy"],
        "ties": checks["ties"],
        "agreement": checks["agreement"],
        "size_mb": {
            "float": parameters_of(plain) * 4 / 1e6,
            "deployed": deployed_mb(network),
            "paper": paper_mb(network, asked_bits(plain)),
        },
        "synaptic_ops": checks["synaptic_ops"],
        "metrics": checks.get("metrics"),
        "layers": _layer_rows(network, unpruned, plain, checks, tables["network"]["utilisation"]),
        "mapping": {
            **{key: tables["network"]["utilisation"][key] for key in ("chip", "profile", "cores", "chips", "fits", "verdict")},
            **{key: tables["network"]["utilisation"][key] for key in ("lower_bound", "evidence", "layers")},
            **tables.get("details", {}),
            "warnings": list(tables["network"]["utilisation"]["warnings"]),
            "widths": training["prune"].get("widths", []),
        },
        "unpruned": {
            "cores": tables["unpruned"]["utilisation"]["cores"],
            "synapse_words": tables["unpruned"]["utilisation"]["synapse_words"],
            "size_mb": deployed_mb(unpruned),
            "synaptic_ops": checks["unpruned_synaptic_ops"],
            "layers": [
                {"name": row["name"], "cores": row["cores"], "synapse_words": row["synapse_words_total"]}
                for row in tables["unpruned"]["utilisation"]["layers"]
            ],
        },
        "seconds": {
            **{name: entry["seconds"] for name, entry in training.items() if "seconds" in entry},
            **checks["seconds"],
            "map": tables["seconds"],
        },
        "config": to_toml(experiment),
        "weights": plots.weight_rows(network),
        "scores": {
            "criterion": experiment.prune.criterion,
            "layers": [{"name": name, **entry} for name, entry in scores.items()],
        },
        "raster": _raster(experiment, network, dataset, coding),
    }
    checkpoint.save_json(files.report, made)
    drawn = plots.save_all(made, network, scores, files.path)
    for name, rows in (("layers", made["mapping"]["layers"]), ("cores", made["mapping"].get("core_use"))):
        if rows:
            write_text(files.path / f"{name}.csv", report.csv_table(rows))
    write_text(files.path / "report.md", report.markdown(made, [path.name for path in drawn]))
    write_text(files.path / "report.html", page.page(made))
    say(Event("report", str(files.path / "report.html"), final=True))
    return made


def _raster(experiment: Experiment, network: Network, dataset: Dataset, coding: Coding) -> dict[str, Any]:
    """Some neurons' spikes in the first test sample."""
    part = first(dataset.test, 1)
    spikes = encode(part.images, coding, max_value=dataset.max_value, seed=experiment.seed, indices=part.indices)
    return {"sample": int(part.indices[0]), **plots.raster_rows(network, spikes)}


def _command_before(files: RunFolder, command: str) -> str:
    """The command that made the run: of the first report, so that looking at it again does not change it."""
    if files.report.exists():
        known = checkpoint.load_json(files.report).get("command")
        if isinstance(known, str) and known:
            return known
    return command


def _layer_rows(
    network: Network, unpruned: Network, plain: SpikingNetwork, checks: dict[str, Any], used: dict[str, Any]
) -> list[dict[str, Any]]:
    asked = asked_bits(plain)
    mapped = {row["name"]: row for row in used["layers"]}
    rows = []
    for population in network.populations[1:]:
        synapse = network.into(population.name)[0].synapse
        row = mapped[population.name]
        assert population.neuron is not None
        rows.append(
            {
                "name": population.name,
                "type": "conv" if isinstance(synapse, Conv) else "dense",
                "shape": list(population.shape),
                "channels_before": unpruned[population.name].shape[0],
                "channels_after": population.shape[0],
                "bits": asked.get(population.name),
                "stored_bits": stored_bits(synapse.weight),
                "grid_use": checks.get("grid_use", {}).get(population.name),
                "threshold": population.neuron.threshold,
                "firing_rate": checks["firing"][population.name],
                "cores": row["cores"],
                "synapse_words": row["synapse_words_total"],
                "utilisation": row["binding_percent"],
            }
        )
    return rows


def asked_bits(model: SpikingNetwork) -> dict[str, int]:
    """Weight bits that the experiment asks for, by population, of the layers with trained weights."""
    listed: list[Any] = [block for block in model.blocks if hasattr(block, "synapse")]
    own = {id(block) for block in own_blocks(model)}
    return {name: block.quantiser.bits for name, block in zip(model.names, listed, strict=True) if id(block) in own}


def grid_uses(model: SpikingNetwork) -> dict[str, tuple[float, float]]:
    """How much of the grid the weights use, without and with gamma, by population (:func:`qpsnn_lava.quantise.grid_use`)."""
    listed: list[Any] = [block for block in model.blocks if hasattr(block, "synapse")]
    own = {id(block) for block in own_blocks(model)}
    return {
        name: grid_use(block.scaled_weight(), block.quantiser)
        for name, block in zip(model.names, listed, strict=True)
        if id(block) in own
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that a figure depends on."""
    found = {"python": platform.python_version()}
    for name in ("qpsnn-lava", "numpy", "torch", "numba", "lava-nc", "lava-dl", "h5py"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _score_table(training: dict[str, Any], plain: SpikingNetwork) -> dict[str, dict[str, Any]]:
    """Scores and kept channels by the population's name."""
    weighted = [i for i, block in enumerate(plain.blocks) if hasattr(block, "synapse")]
    names = dict(zip(weighted, plain.names, strict=True))
    pruned = training["prune"]
    return {names[int(i)]: {**scores, "kept": pruned["kept"][i]} for i, scores in pruned["scores"].items()}


def _trained(best: Trained) -> dict[str, Any]:
    return {"validation": best.validation.to_dict(), "epoch": best.epoch, "epochs": best.epochs, "seconds": best.seconds}


def _teller(stage: str, files: RunFolder, say: Say) -> Callable[[Progress], None]:
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


def _counter(stage: str, part: Split, say: Say) -> Callable[[int], None]:
    return lambda done: say(Event(stage, "test set, exact simulation", done, len(part.labels)))


def _accuracy(classes: np.ndarray[Any, np.dtype[np.int64]], part: Split) -> dict[str, Any]:
    return Accuracy.of(int((classes == part.labels).sum()), len(part.labels)).to_dict()


def _percent(accuracy: dict[str, Any]) -> str:
    return f"{100 * accuracy['value']:.2f} % (n = {accuracy['n']})"


def _cut_line(
    scores: dict[int, prune.Scores],
    kept: dict[int, np.ndarray[Any, np.dtype[np.int64]]],
    rounded: tuple[mapping.WidthChoice, ...],
) -> str:
    line = "channels kept: " + ", ".join(f"{len(kept[i])} of {len(s.value)}" for i, s in scores.items())
    asked = ", ".join(str(choice.asked) for choice in rounded if choice.why != mapping.widths.NOT_PRUNED)
    return f"{line} (good widths; asked: {asked})" if asked else line
