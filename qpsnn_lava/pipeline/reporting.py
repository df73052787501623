"""The report stage: puts together what the stages before left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from netx_export import hdf5
from netx_export.atomic import write_text
from netx_export.integers import stored_bits
from netx_export.network import Conv, Network
from qpsnn_lava import checkpoint, page, plots, report
from qpsnn_lava.coding import Coding
from qpsnn_lava.config import Experiment, to_toml
from qpsnn_lava.data import Dataset
from qpsnn_lava.model import asked_bits, block_names, parameters_of, set_bits
from qpsnn_lava.pipeline.folder import Event, RunFolder, Say, require
from qpsnn_lava.pipeline.inputs import coding_of, data_of, first, spikes_of
from qpsnn_lava.pipeline.machine import versions
from qpsnn_lava.pipeline.model import bits_in, untrained
from qpsnn_lava.sizes import deployed_mb, paper_mb

SCHEMA = 1
MAPPED = ("chip", "profile", "cores", "chips", "fits", "verdict", "lower_bound", "evidence", "layers")  # of a utilisation


def write_report(experiment: Experiment, files: RunFolder, say: Say, command: str = "") -> dict[str, Any]:
    """report.json, report.html, report.md and the plots, from what the stages before left.

    Raises:
        ConfigError: a stage before has not left its artefact.
    """
    require(files, files.training, files.network, files.unpruned, files.checks, files.mapping)
    training = checkpoint.load_json(files.training)
    checks = checkpoint.load_json(files.checks)
    tables = checkpoint.load_json(files.mapping)
    used = tables["network"]["utilisation"]
    network, unpruned = hdf5.read(files.network), hdf5.read(files.unpruned)
    dataset, coding = data_of(experiment), coding_of(experiment)
    torch.manual_seed(experiment.seed)
    plain = untrained(experiment, dataset)
    set_bits(plain, bits_in(training))
    asked = asked_bits(plain)
    scores = _score_table(training["prune"], block_names(plain))
    seconds = {
        **{name: entry["seconds"] for name, entry in training.items() if "seconds" in entry},
        **checks["seconds"],
        "map": tables["seconds"],
    }
    made = {
        "schema": SCHEMA,
        "name": experiment.name,
        "command": _command_before(files, command),
        "versions": versions(),
        "seed": experiment.seed,
        "dataset": _dataset(dataset, coding),
        "accuracy": checks["accuracy"],
        "ties": checks["ties"],
        "agreement": checks["agreement"],
        "size_mb": {
            "float": parameters_of(plain) * 4 / 1e6,
            "deployed": deployed_mb(network),
            "paper": paper_mb(network, asked),
        },
        "synaptic_ops": checks["synaptic_ops"],
        "metrics": checks.get("metrics"),
        "layers": _layer_rows(network, unpruned, asked, checks, used),
        "mapping": {
            **{key: used[key] for key in MAPPED},
            **tables.get("details", {}),
            "warnings": list(used["warnings"]),
            "widths": training["prune"].get("widths", []),
        },
        "unpruned": {
            "size_mb": deployed_mb(unpruned),
            "synaptic_ops": checks["unpruned_synaptic_ops"],
            **_mapped_before(tables["unpruned"]),
        },
        "seconds": seconds,
        "config": to_toml(experiment),
        "weights": plots.weight_rows(network),
        "scores": {
            "criterion": experiment.prune.criterion,
            "scoring": _scoring(training, sum(seconds.values())),
            "layers": [{"name": name, **entry} for name, entry in scores.items()],
        },
        "raster": _raster(experiment, network, dataset),
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


def _command_before(files: RunFolder, command: str) -> str:
    """The command that made the run: of the first report, so that looking at it again does not change it."""
    if files.report.exists():
        known = checkpoint.load_json(files.report).get("command")
        if isinstance(known, str) and known:
            return known
    return command


def _dataset(dataset: Dataset, coding: Coding) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "n_train": len(dataset.train),
        "n_validation": len(dataset.validation),
        "n_test": len(dataset.test),
        "licence": dataset.licence,
        "source": dataset.source,
        "coding": coding.kind,
        "steps": coding.steps,
        "input_bits": coding.graded_bits,
    }


def _mapped_before(table: Mapping[str, Any]) -> dict[str, Any]:
    """What the unpruned network takes of the chip, or why it has no place there."""
    if "error" in table:
        return {"error": table["error"]}
    used = table["utilisation"]
    layers = [
        {"name": row["name"], "cores": row["cores"], "synapse_words": row["synapse_words_total"]} for row in used["layers"]
    ]
    return {"cores": used["cores"], "synapse_words": used["synapse_words"], "layers": layers}


def _layer_rows(
    network: Network, unpruned: Network, asked: Mapping[str, int], checks: dict[str, Any], used: dict[str, Any]
) -> list[dict[str, Any]]:
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


def _score_table(pruned: dict[str, Any], names: Mapping[int, str]) -> dict[str, dict[str, Any]]:
    """Scores and kept channels by the population's name; ``names``: of the blocks."""
    return {names[int(i)]: {**scores, "kept": pruned["kept"][i]} for i, scores in pruned["scores"].items()}


def _scoring(training: dict[str, Any], whole: float) -> dict[str, Any]:
    """What scoring took in all rounds, also as a share of the ``whole`` run's seconds, and how stable the least stable layer was."""
    rounds = [entry["scoring"] for name, entry in training.items() if name.split("-")[0] == "prune"]
    seconds = sum(row["seconds"] for row in rounds)
    return {
        "samples": max(row["samples"] for row in rounds),
        "seconds": seconds,
        "criterion_seconds": sum(sum(row["criterion_seconds"].values()) for row in rounds),
        "share": min(1.0, seconds / whole) if whole else 0.0,
        "stability": min((value for row in rounds for value in row["stability"].values()), default=None),
        "peak_bytes": max((row["peak_bytes"] for row in rounds if row["peak_bytes"] is not None), default=None),
    }


def _raster(experiment: Experiment, network: Network, dataset: Dataset) -> dict[str, Any]:
    """Some neurons' spikes in the first test sample."""
    part = first(dataset.test, 1)
    spikes = spikes_of(part, dataset, coding_of(experiment), experiment.seed)
    return {"sample": int(part.indices[0]), **plots.raster_rows(network, spikes)}
