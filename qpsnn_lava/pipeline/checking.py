"""The simulate and lava stages: the test set is read, and SLAYER, simulation and Lava are held equal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from netx_export import engine, hdf5
from netx_export.errors import MissingError
from netx_export.lava_run import run_lava
from netx_export.network import Integrator, Network
from netx_export.simulate import Run, decide_scores, read_out
from qpsnn_lava import checkpoint
from qpsnn_lava.coding import Coding
from qpsnn_lava.config import Experiment
from qpsnn_lava.data import Dataset
from qpsnn_lava.metrics import metrics
from qpsnn_lava.model import SpikingNetwork, grid_uses, named_blocks
from qpsnn_lava.pipeline.folder import Event, RunFolder, Say
from qpsnn_lava.pipeline.inputs import chunks, coding_of, data_of, first, spikes_of
from qpsnn_lava.pipeline.machine import set_threads
from qpsnn_lava.pipeline.model import models
from qpsnn_lava.pipeline.simulating import simulated
from qpsnn_lava.statistics import Accuracy
from qpsnn_lava.train import evaluate, to_input


def check(experiment: Experiment, files: RunFolder, say: Say) -> dict[str, Any]:
    """Reads the test set: accuracies of all stages, and the equality of SLAYER, simulation and Lava.  Keeps checks.json."""
    if files.checks.exists():
        return checkpoint.load_json(files.checks)  # type: ignore[no-any-return]
    set_threads(experiment)
    dataset, coding = data_of(experiment), coding_of(experiment)
    made = models(experiment, files)
    network, unpruned = hdf5.read(files.network), hdf5.read(files.unpruned)
    accuracy: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    with _timed(seconds, "evaluate"):
        for name in ("float", "quantised", "pruned"):
            say(Event("simulate", f"test accuracy of the {name} model"))
            found = evaluate(made[name], dataset.test, dataset, coding, seed=experiment.seed)
            accuracy[name] = found.to_dict()
    with _timed(seconds, "simulate"):
        integer, counted = _simulated(experiment, network, unpruned, dataset, say)
        accuracy["integer"] = integer.to_dict()
        counted["grid_use"] = grid_uses(made["final"])
    with _timed(seconds, "compare"):
        agreement = compare_slayer(made["final"], network, dataset, coding, experiment.seed, say)
    say(
        Event(
            "simulate",
            f"integer {100 * integer.value:.2f} % (n = {integer.n}); SLAYER and simulation: "
            f"{agreement['spike_mismatches']} of {agreement['spikes_compared']} spikes differ",
            final=True,
        )
    )
    with _timed(seconds, "lava"):
        agreement, on_lava = _on_lava(experiment, files, network, dataset, agreement, say)
        if on_lava is not None:
            accuracy["lava"] = on_lava.to_dict()
    result = {"accuracy": accuracy, "seconds": seconds, **counted, "agreement": agreement}
    checkpoint.save_json(files.checks, result)
    return result


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Writes down how long what is inside took."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def _simulated(
    experiment: Experiment, network: Network, unpruned: Network, dataset: Dataset, say: Say
) -> tuple[Accuracy, dict[str, Any]]:
    """Both integer networks on the test set: the final one's accuracy, and what was counted on the way."""
    test = dataset.test

    def progress(done: int) -> None:
        say(Event("simulate", "test set, exact simulation", done, len(test)))

    after, before = (simulated(experiment, one, dataset, test, progress) for one in (network, unpruned))
    slots = {p.name: p.size * after.summary.steps * after.summary.samples for p in network.populations}
    return after.accuracy, {
        "ties": after.ties,
        "firing": {name: after.summary.spikes[name] / count for name, count in slots.items()},
        "synaptic_ops": after.synaptic_ops,
        "unpruned_synaptic_ops": before.synaptic_ops,
        "metrics": {
            "network": metrics(network, after.summary).to_dict(),
            "unpruned": metrics(unpruned, before.summary).to_dict(),
        },
    }


# --- SLAYER against simulation -----------------------------------------------------------------------------------------


def compare_slayer(
    model: SpikingNetwork, network: Network, dataset: Dataset, coding: Coding, seed: int, say: Say
) -> dict[str, int]:
    """SLAYER's forward pass against the simulation, spike by spike in all layers, over the whole test set."""
    names = [p.name for p in network.populations[1:]]
    seen: dict[str, torch.Tensor] = {}
    handles = [
        block.register_forward_hook(lambda _m, _a, out, name=name: seen.__setitem__(name, out))
        for name, block in zip(names, named_blocks(model).values(), strict=True)
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
        for part in chunks(dataset.test):
            with torch.no_grad():
                model(to_input(part.images, coding, dataset.max_value, seed, part.indices))
            spikes = spikes_of(part, dataset, coding, seed)
            exact = engine.simulate_fast(network, spikes, record=names, states=[names[-1]])
            _compare(network, seen, exact, counts)
            counts["samples"] += len(part)
            say(Event("simulate", "SLAYER against simulation", counts["samples"], len(dataset.test)))
    finally:
        for handle in handles:
            handle.remove()
    counts["simulated_samples"] = counts["samples"]
    return counts


def _compare(network: Network, seen: dict[str, torch.Tensor], exact: Run, counts: dict[str, int]) -> None:
    """Adds what a batch holds and where it differs to ``counts``."""
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


# --- Lava against simulation -------------------------------------------------------------------------------------------


def _on_lava(
    experiment: Experiment, files: RunFolder, network: Network, dataset: Dataset, before: dict[str, int], say: Say
) -> tuple[dict[str, int], Accuracy | None]:
    """The first test samples on Lava: how they differ from the simulation, added to ``before``, and the accuracy.

    Where Lava is not installed, ``before`` and no accuracy.
    """
    part = first(dataset.test, experiment.lava.samples)
    spikes = spikes_of(part, dataset, coding_of(experiment), experiment.seed)
    name = network.output.name
    try:
        lava = run_lava(
            files.network,
            spikes,
            voltage=isinstance(network.output.neuron, Integrator),
            timeout=experiment.lava.timeout,
            progress=lambda done, total: say(Event("lava", "Lava, fixed point", done, total)),
        )
    except MissingError as error:
        say(Event("lava", f"not run: {error}", final=True))
        return before, None
    exact = engine.simulate_fast(network, spikes, record=[name], states=[name])
    agreement = {**before, "lava_samples": len(part)}
    agreement["spikes_compared"] += int(lava.spikes.size)
    agreement["spike_mismatches"] += int((lava.spikes != exact.spikes[name]).sum())
    last = exact.voltage[name][..., -1]
    if lava.voltage is not None:
        agreement["voltages_compared"] += int(last.size)
        agreement["voltage_mismatches"] += int((lava.voltage != last).sum())
    classes, _ = decide_scores(read_out(network, voltage=lava.voltage, counts=lava.spikes.sum(-1)))
    say(
        Event(
            "lava",
            f"{len(part)} samples on Lava: {agreement['spike_mismatches']} spikes and "
            f"{agreement['voltage_mismatches']} voltages differ",
            final=True,
        )
    )
    return agreement, Accuracy.of(int((classes == part.labels).sum()), len(part))
