"""What an ablation found: cells with mean and standard deviation over seeds, differences with intervals, as plain data and Markdown."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qpsnn_lava.ablation import Plan, Study
from qpsnn_lava.pipeline.machine import versions
from qpsnn_lava.report import escape, markdown_table
from qpsnn_lava.statistics import Difference, paired_difference

SCHEMA = 1
COSTS = ("size_mb", "parameters", "cores", "synapse_words", "synaptic_ops", "activation_sparsity")
WORDS = {"higher": "higher", "lower": "lower", "open": "not told apart"}
NONE = "-"


def summary(plan: Plan, rows: Sequence[Mapping[str, Any]], command: str = "") -> dict[str, Any]:
    """report.json: of every study its cells and its differences.

    A cell is a combination of settings: mean, standard deviation (n - 1) and the values of the integer accuracy over its seeds, in
    percent, and means of what the network costs.  A difference is that of a setting and its axis's baseline in percentage points, all
    other axes equal, paired by seed (:func:`qpsnn_lava.statistics.paired_difference`): of the means over the ``over`` combinations
    of the other axes in which those that ``at`` names have these settings.  A seed counts that has all of them.

    Args:
        plan: what was asked for.
        rows: as runs.jsonl holds them.
        command: the command line that made them.
    """
    done = [row for row in rows if row["state"] == "done"]
    return {
        "schema": SCHEMA,
        "name": plan.name,
        "base": plan.base.replace("\\", "/").rsplit("/", 1)[-1],
        "command": command,
        "versions": versions(),
        "runs": len(rows),
        "done": len(done),
        "n_test": done[0]["accuracy"]["integer"]["n"] if done else None,
        "studies": [_study(study, [row for row in rows if row["study"] == study.name]) for study in plan.studies],
    }


def _study(study: Study, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    done = [row for row in rows if row["state"] == "done"]
    failed = [row for row in rows if row["state"] == "failed"]
    return {
        "name": study.name,
        "question": study.question,
        "axes": {axis: list(settings) for axis, settings in study.axes.items()},
        "baseline": dict(study.baseline),
        "seeds": list(study.seeds),
        "cells": [_cell(point, [row for row in done if row["settings"] == point]) for point in study.points()],
        "differences": list(_comparisons(study, done)),
        "failures": [{name: row[name] for name in ("settings", "seed", "error")} for row in failed],
    }


def _cell(point: dict[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    cell: dict[str, Any] = {"settings": point, "n": len(rows)}
    if not rows:
        return cell
    for stage in ("float", "unpruned", "integer"):
        values = {str(row["seed"]): 100 * row["accuracy"][stage]["value"] for row in rows}
        cell[stage] = {**spread(list(values.values())), "values": values}
    for name in COSTS:
        cell[name] = spread([row[name] for row in rows])
    stabilities = [row["scoring"]["stability"] for row in rows if row["scoring"]["stability"] is not None]
    cell["stability"] = spread(stabilities) if stabilities else None
    cell["criterion_seconds"] = spread([row["scoring"]["seconds"] for row in rows])
    cell["seconds"] = spread([sum(row["seconds"].values()) - row["seconds"]["shared"] for row in rows])
    return cell


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation (n - 1; None for one value)."""
    return {"mean": statistics.fmean(values), "deviation": statistics.stdev(values) if len(values) > 1 else None}


def _comparisons(study: Study, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The differences of every compared setting: over all combinations of the other axes, for each setting of one of them, in each."""
    values = {(tuple(row["settings"].items()), row["seed"]): 100 * row["accuracy"]["integer"]["value"] for row in rows}

    def mean(points: Sequence[Mapping[str, str]], axis: str, setting: str) -> dict[int, float]:
        """By seed, where it has all of the points."""
        placed = [tuple((key, setting if key == axis else point[key]) for key in study.axes) for point in points]
        whole = [seed for seed in study.seeds if all((key, seed) in values for key in placed)]
        return {seed: statistics.fmean(values[key, seed] for key in placed) for seed in whole}

    for axis, base in study.baseline.items():
        points = [point for point in study.points() if point[axis] == base]
        for setting in study.axes[axis]:
            if setting == base:
                continue
            for at in _places(study, axis):
                here = [point for point in points if at.items() <= point.items()]
                ours, theirs = mean(here, axis, setting), mean(here, axis, base)
                seeds = [seed for seed in ours if seed in theirs]
                row = {"axis": axis, "setting": setting, "baseline": base, "at": at, "over": len(here), "seeds": seeds}
                if seeds:
                    yield {**row, **_plain(paired_difference([ours[s] for s in seeds], [theirs[s] for s in seeds]))}
                else:
                    yield {**row, "n": 0, "value": None, "interval": None, "verdict": "open"}


def _places(study: Study, axis: str) -> Iterator[dict[str, str]]:
    """What of the other axes is held: nothing, then one of them, then all."""
    others = {key: settings for key, settings in study.axes.items() if key != axis}
    yield {}
    if len(others) > 1:
        yield from ({key: setting} for key, settings in others.items() for setting in settings)
    if others:
        yield from (dict(zip(others, point, strict=True)) for point in itertools.product(*others.values()))


def _plain(found: Difference) -> dict[str, Any]:
    interval = None if found.interval is None else list(found.interval)
    return {"n": found.n, "value": found.value, "interval": interval, "verdict": found.verdict}


# --- Markdown ------------------------------------------------------------------------------------------------------------


def markdown(report: Mapping[str, Any], plots: Sequence[str] = ()) -> str:
    """report.md of a :func:`summary`; ``plots``: names of the pictures beside it."""
    n = f", n = {report['n_test']:,} test images" if report["n_test"] else ""
    lines = [
        f"# Ablation {escape(report['name'])}",
        "",
        f"{report['done']} of {report['runs']} runs of `{escape(report['base'])}` done. Accuracy is that of the integer network on the "
        f"whole test set{n}, mean ± standard deviation over seeds. Differences are in percentage points, mean and 95 % t interval over "
        "pairs of the same seed (same split, same first weights). The interval is about other seeds, not about other test images. "
        "Nothing is corrected for the number of comparisons: of 20 settings without effect about one interval does not hold 0.",
        "",
        *([f"`{escape(report['command'], 1000)}`", ""] if report["command"] else []),
    ]
    for study in report["studies"]:
        lines += _study_lines(study, [name for name in plots if name.split("-", 1)[-1] == f"{study['name']}.png"])
    text = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return "\n".join([*lines, f"Versions: {text}.", ""])


def _study_lines(study: Mapping[str, Any], plots: Sequence[str]) -> list[str]:
    base = ", ".join(f"{axis} {setting}" for axis, setting in study["baseline"].items())
    seeds = ", ".join(map(str, study["seeds"]))
    lines = [
        f"## {escape(study['name'])}",
        "",
        f"{escape(study['question'])} Compared with: {escape(base)}. Seeds: {seeds}.",
        "",
        _difference_table(study),
        "",
        *(f"![{name.split('-', 1)[0]}]({name})\n" for name in plots),
        _cell_table(study),
        "",
    ]
    for failure in study["failures"]:
        where = ", ".join(failure["settings"].values())
        lines += [f"- {escape(where)}, seed {failure['seed']} failed: {escape(failure['error'])}"]
    return [*lines, ""] if study["failures"] else lines


def _difference_table(study: Mapping[str, Any]) -> str:
    several = len(study["axes"]) > 1
    rows = []
    for row in study["differences"]:
        bold = "**" if several and not row["at"] else ""
        cells = [escape(f"{row['setting']} - {row['baseline']}"), *([escape(place_text(row))] if several else [])]
        verdict = WORDS[row["verdict"]] if row["interval"] else NONE
        rows.append([*cells, f"{bold}{difference_text(row)}{bold}", str(row["n"]), verdict])
    head = ["accuracy of", *(["at"] if several else []), "difference, 95 % interval", "n", "is"]
    return markdown_table(head, rows, "llrrr" if several else "lrrr")


def place_text(row: Mapping[str, Any]) -> str:
    """Where a difference holds: "bits 2 (mean of 8)"."""
    where = ", ".join(f"{axis} {setting}" for axis, setting in row["at"].items()) or "all"
    return where if row["over"] == 1 else f"{where} (mean of {row['over']})"


def difference_text(row: Mapping[str, Any]) -> str:
    """ "+1.23 [+0.50, +1.96]"; without an interval, so without a claim, where there is one pair only."""
    if row["value"] is None:
        return NONE
    if row["interval"] is None:
        return f"{row['value']:+.2f} (no interval)"
    return f"{row['value']:+.2f} [{row['interval'][0]:+.2f}, {row['interval'][1]:+.2f}]"


def _cell_table(study: Mapping[str, Any]) -> str:
    axes = list(study["axes"])
    head = [
        *map(escape, axes),
        "integer, %",
        "unpruned, %",
        "float, %",
        "n",
        "kB",
        "cores",
        "words",
        "synaptic ops",
        "silent, %",
    ]
    rows = []
    for cell in study["cells"]:
        row = [escape(setting) for setting in cell["settings"].values()]
        if cell["n"]:
            row += [_accuracy(cell[stage]) for stage in ("integer", "unpruned", "float")]
            row += [str(cell["n"]), f"{1000 * cell['size_mb']['mean']:,.1f}", f"{cell['cores']['mean']:,.3g}"]
            row += [f"{cell[name]['mean']:,.0f}" for name in ("synapse_words", "synaptic_ops")]
            row += [f"{100 * cell['activation_sparsity']['mean']:.1f}"]
        else:
            row += [NONE] * 3 + ["0"] + [NONE] * 5
        rows.append(row)
    return markdown_table(head, rows, "l" * len(axes) + "r" * (len(head) - len(axes)))


def _accuracy(found: Mapping[str, Any]) -> str:
    deviation = "" if found["deviation"] is None else f" ± {found['deviation']:.2f}"
    return f"{found['mean']:.2f}{deviation}"
