"""Runs side by side: what they were told, what came out, what they take of the chip; as plain data and as Markdown.

A run is a run folder, a ``report.json``, or a network alone (a netx file, which is mapped here and has no accuracy).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mapping
from mapping.chip import STATEMENT, Chip
from netx_export import hdf5
from netx_export.errors import ConfigError
from netx_export.integers import stored_bits
from netx_export.network import Network
from qpsnn_lava.config import Experiment, experiment_of, load_experiment
from qpsnn_lava.report import NONE, escape, markdown_table, seconds_text, three_digits, value_text
from qpsnn_lava.report_file import STAGES, read_report
from qpsnn_lava.sizes import deployed_mb

SCHEMA = 1
MAX_RUNS = 64
NUMBERS = {  # in the order of the tables
    "size_mb": "deployed, MB",
    "float_mb": "float, MB",
    "parameters": "weights and biases",
    "bits": "bits a weight, mean",
    "synaptic_ops": "synaptic ops a sample",
    "cores": "cores",
    "lower_bound": "cores, at least",
    "chips": "chips",
    "synapse_words": "synapse words",
    "seconds": "seconds, all stages",
}
COLUMNS = ("channels", "bits", "cores", "synapse_words")  # of each layer


@dataclass(frozen=True)
class Run:
    """What is known of one run.

    Args:
        label: that tells it from the others.
        path: as it was given.
        kind: "run", "report" or "network".
        config: dotted key -> value of the experiment, as ``--set`` names them; None where it is not known.
        facts: dotted key -> value of what a report or a network says itself: data, chip, versions.
        accuracy: stage (of :data:`qpsnn_lava.report_file.STAGES`) -> ``value``, ``n``, ``interval``.
        numbers: key of :data:`NUMBERS` -> value; what is not known is left out.
        seconds: stage -> seconds.
        layers: ``name`` and the :data:`COLUMNS` of each layer; None where one is not known.
        error: why the network does not fit the chip; None where it does.
    """

    label: str
    path: str
    kind: str
    config: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    layers: tuple[Mapping[str, Any], ...] = ()
    error: str | None = None


# --- reading -------------------------------------------------------------------------------------------------------------


def load_runs(paths: Sequence[Path], chip: Chip) -> tuple[Run, ...]:
    """Reads what :func:`compared` takes.

    Args:
        paths: two or more of: run folders with a report, report.json files, netx files.
        chip: to map netx files to; reports bring theirs.

    Raises:
        ConfigError: fewer than two, more than 64, one named twice, or a folder without a report.
        FormatError: a file that cannot be read as what it is.
    """
    if not 2 <= len(paths) <= MAX_RUNS:
        raise ConfigError(f"compare takes 2..{MAX_RUNS} run folders, report.json files or netx files; {len(paths)} given.")
    return tuple(load_run(path, label, chip) for path, label in zip(paths, labels(paths), strict=True))


def labels(paths: Sequence[Path]) -> list[str]:
    """The ends of the paths, as many parts as it takes to tell them apart.

    Raises:
        ConfigError: a path is there twice.
    """
    parts = [path.absolute().parts for path in paths]
    least = [1 + (path.name in ("report.json", "network.net")) for path in paths]  # every run has these
    more = 0
    if len(set(parts)) < len(parts):
        raise ConfigError("a file is named twice; give each once.")
    while len({part[-more - own :] for part, own in zip(parts, least, strict=True)}) < len(parts):
        more += 1
    return ["/".join(part[-more - own :]) for part, own in zip(parts, least, strict=True)]


def load_run(path: Path, label: str, chip: Chip) -> Run:
    """One of :func:`load_runs`."""
    if path.is_dir():
        if not (path / "report.json").exists():
            raise ConfigError(f"{path} has no report.json; finish the run first: qpsnn run EXPERIMENT --out {path}")
        config, network = path / "config.toml", path / "network.net"
        return _of_report(
            Run(label, str(path), "run"),
            read_report(path / "report.json"),
            load_experiment(config) if config.exists() else None,
            hdf5.read(network) if network.exists() else None,
        )
    if path.suffix == ".json":
        return _of_report(Run(label, str(path), "report"), read_report(path), None, None)
    return _of_network(Run(label, str(path), "network"), hdf5.read(path), chip)


def _of_report(run: Run, report: Any, experiment: Experiment | None, network: Network | None) -> Run:
    if experiment is None and report.get("config"):
        experiment = experiment_of(report["config"], f"the config in {run.path}")
    placed = report["mapping"]
    numbers = {
        "size_mb": report["size_mb"]["deployed"],
        "float_mb": report["size_mb"]["float"],
        "synaptic_ops": report["synaptic_ops"],
        "cores": placed["cores"],
        "lower_bound": placed["lower_bound"],
        "chips": placed["chips"],
        "synapse_words": sum(row["synapse_words"] for row in report["layers"]),
        "seconds": sum(report["seconds"].values()),
    }
    if network is not None:
        numbers |= _stored(network)
    elif report.get("weights"):
        stored = sum(row["weights"] for row in report["weights"])
        numbers["bits"] = sum(row["weights"] * row["stored_bits"] for row in report["weights"]) / max(1, stored)
    facts = {"name": report["name"], "chip": placed.get("profile", placed["chip"]), "seed": report["seed"]}
    facts |= {f"dataset.{key}": value for key, value in report["dataset"].items() if key not in ("licence", "source")}
    facts |= {f"versions.{key}": value for key, value in report["versions"].items()}
    layers = tuple(
        {"name": row["name"], "channels": row["channels_after"], "bits": row["stored_bits"]}
        | {key: row[key] for key in ("cores", "synapse_words")}
        for row in report["layers"]
    )
    return Run(
        run.label,
        run.path,
        run.kind,
        None if experiment is None else flat(experiment.model_dump(mode="json", exclude_none=True)),
        facts,
        {stage: report["accuracy"][stage] for stage in STAGES if report["accuracy"].get(stage) is not None},
        numbers,
        report["seconds"],
        layers,
        None if placed["fits"] else placed["verdict"],
    )


def _of_network(run: Run, network: Network, chip: Chip) -> Run:
    (row,) = mapping.compare({run.label: mapping.plan_layers(network)}, chip)
    counts = {"cores": row.cores, "chips": row.chips, "synapse_words": row.synapse_words, "lower_bound": row.lower_bound}
    numbers = {"size_mb": deployed_mb(network), **_stored(network)} | {k: v for k, v in counts.items() if v is not None}
    on_cores = {name: (cores, words) for name, _, cores, words in row.layers}
    layers = tuple(
        {
            "name": population.name,
            "channels": population.shape[0],
            "bits": max(stored_bits(p.synapse.weight) for p in network.into(population.name)),
            "cores": on_cores.get(population.name, (None, None))[0],
            "synapse_words": on_cores.get(population.name, (None, None))[1],
        }
        for population in network.populations[1:]
    )
    facts = {"chip": chip.profile, "dataset.input_bits": network.input_bits, "dataset.steps": network.steps}
    return Run(run.label, run.path, run.kind, None, facts, numbers=numbers, layers=layers, error=row.error)


def _stored(network: Network) -> dict[str, float]:
    weights = [(p.synapse.weight.size, stored_bits(p.synapse.weight)) for p in network.projections]
    biases = sum(p.bias.size for p in network.populations if p.bias is not None)
    count = sum(size for size, _ in weights)
    return {"parameters": count + biases, "bits": sum(size * bits for size, bits in weights) / max(1, count)}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one of dotted keys, as ``--set`` names them: ``prune.keep``, ``network.0.channels``."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
            found |= flat({str(i): entry for i, entry in enumerate(value)}, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


# --- comparing -----------------------------------------------------------------------------------------------------------


def compared(runs: Sequence[Run]) -> dict[str, Any]:
    """The differences between runs as plain data for JSON; every list of values has one entry for each run.

    Args:
        runs: two or more; changes are against the first.

    Returns:
        ``runs`` [{``label``, ``path``, ``kind``, ``error``}]; ``settings`` [{``key``, ``values``}] that are not the same in all that
        know them; ``accuracy`` [{``stage``, ``values`` (``value``, ``n``, ``interval``), ``overlaps``: whether the interval
        shares a point with the first run's; None for the first and where one is missing}]; ``numbers`` [{``key``, ``title``,
        ``values``, ``changes``: value / the first's - 1}]; ``seconds`` [{``stage``, ``values``}]; ``layers`` [{``name``,
        ``channels``, ``bits``, ``cores``, ``synapse_words``}], by name.  None: not known.
    """
    tables = [{row["name"]: row for row in run.layers} for run in runs]
    return {
        "schema": SCHEMA,
        "runs": [{"label": run.label, "path": run.path, "kind": run.kind, "error": run.error} for run in runs],
        "settings": _settings(runs),
        "accuracy": [_accuracies(stage, runs) for stage in STAGES if any(stage in run.accuracy for run in runs)],
        "numbers": [_changes(key, runs) for key in NUMBERS if any(key in run.numbers for run in runs)],
        "seconds": [
            {"stage": stage, "values": [run.seconds.get(stage) for run in runs]}
            for stage in dict.fromkeys(stage for run in runs for stage in run.seconds)
        ],
        "layers": [
            {"name": name} | {key: [table.get(name, {}).get(key) for table in tables] for key in COLUMNS}
            for name in _in_order(tables)
        ],
    }


def _in_order(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of all tables; one that the first lacks stands behind the one it follows in its own."""
    names: list[str] = []
    for table in tables:
        at = 0
        for name in table:
            if name in names:
                at = names.index(name) + 1
            else:
                names.insert(at, name)
                at += 1
    return names


def _settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    found = []
    known = [run.config or {} for run in runs]
    for key in dict.fromkeys(key for config in known for key in config):
        told = [config.get(key) for config, run in zip(known, runs, strict=True) if run.config is not None]
        if any(value != told[0] for value in told):  # what an experiment leaves out is a difference
            found.append({"key": key, "values": [config.get(key) for config in known]})
    for key in dict.fromkeys(key for run in runs for key in run.facts):
        values = [run.facts.get(key) for run in runs]
        told = [value for value in values if value is not None]
        if any(value != told[0] for value in told) and not any(row["key"] == key for row in found):
            found.append({"key": key, "values": values})
    return found


def _accuracies(stage: str, runs: Sequence[Run]) -> dict[str, Any]:
    values = [run.accuracy.get(stage) for run in runs]
    first = values[0]
    overlaps: list[bool | None] = [None]
    for value in values[1:]:
        both = first is not None and value is not None
        overlaps.append(_overlap(first["interval"], value["interval"]) if both else None)  # type: ignore[index]
    return {"stage": stage, "values": values, "overlaps": overlaps}


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return max(a[0], b[0]) <= min(a[1], b[1])


def _changes(key: str, runs: Sequence[Run]) -> dict[str, Any]:
    values = [run.numbers.get(key) for run in runs]
    first = values[0]
    changes = [None, *(value / first - 1 if first and value is not None else None for value in values[1:])]
    return {"key": key, "title": NUMBERS[key], "values": values, "changes": changes}


# --- as text -------------------------------------------------------------------------------------------------------------


def rows(made: Mapping[str, Any]) -> list[list[str]]:
    """Accuracies and numbers as plain text, for a table: a title and one cell for each run.

    Args:
        made: by :func:`compared`.
    """
    table = []
    for entry in made["accuracy"]:
        cells = [accuracy_text(*pair) for pair in zip(entry["values"], entry["overlaps"], strict=True)]
        table.append([f"accuracy, {entry['stage']}", *cells])
    for entry in made["numbers"]:
        cells = [number_text(entry["key"], *pair) for pair in zip(entry["values"], entry["changes"], strict=True)]
        table.append([entry["title"], *cells])
    return table


def accuracy_text(accuracy: Mapping[str, Any] | None, overlaps: bool | None) -> str:
    """Such as "91.64 % (91.1..92.2), differs": percent, its 95 % interval, whether it lies apart from the first run's."""
    if accuracy is None:
        return NONE
    low, high = (100 * end for end in accuracy["interval"])
    apart = "" if overlaps is None else ", overlaps" if overlaps else ", apart"
    return f"{100 * accuracy['value']:.2f} % ({low:.1f}..{high:.1f}){apart}"


def number_text(key: str, value: float | None, change: float | None) -> str:
    """Such as "1,234 (-12 %)": the value, and its change against the first run's."""
    if value is None:
        return NONE
    if key == "seconds":
        text = seconds_text(value)
    else:
        text = f"{value:,}" if isinstance(value, int) else three_digits(value)
    if not change:
        return text
    return f"{text} ({100 * change:+,.{0 if abs(change) >= 0.1 else 1}f} %)"


def markdown(made: Mapping[str, Any]) -> str:
    """``compare.md``; every name and value is escaped.

    Args:
        made: by :func:`compared`.
    """
    heads = [escape(run["label"]) for run in made["runs"]]
    numeric = "l" + "r" * len(heads)
    sources = [[escape(run["label"]), escape(run["path"]), run["kind"], escape(run["error"] or "")] for run in made["runs"]]
    settings = [[escape(row["key"]), *(escape(value_text(value), 120) for value in row["values"])] for row in made["settings"]]
    seconds = [
        [escape(row["stage"]), *(NONE if value is None else seconds_text(value) for value in row["values"])]
        for row in made["seconds"]
    ]
    parts = [
        "# Runs side by side",
        markdown_table(["run", "from", "", "does not fit"], sources, "llll"),
        "## What came out",
        markdown_table(["", *heads], [[escape(cell) for cell in row] for row in rows(made)], numeric),
        "*Accuracy: on the test set, with its 95 % interval; overlaps, apart: of the first run's. In brackets: change against the "
        "first run.*",
        "## Settings that differ",
        markdown_table(["", *heads], settings, numeric) if settings else "None.",
        "## Layers",
        markdown_table(["layer", *heads], [[escape(cell) for cell in row] for row in layer_rows(made)], numeric),
        "*Channels (dense: neurons) / stored bits / cores / synapse words of 64 bits.*",
        *(["## Seconds per stage", markdown_table(["", *heads], seconds, numeric)] if seconds else []),
        f"Cores and words are **{STATEMENT}**.",
    ]
    return "\n\n".join(parts) + "\n"


def layer_rows(made: Mapping[str, Any]) -> list[list[str]]:
    """A row for each layer as plain text: its name, and channels / bits / cores / words of each run."""
    table = []
    for layer in made["layers"]:
        cells = []
        for values in zip(*(layer[key] for key in COLUMNS), strict=True):
            known = any(value is not None for value in values)
            cells.append(" / ".join(NONE if value is None else f"{value:,}" for value in values) if known else NONE)
        table.append([layer["name"], *cells])
    return table
