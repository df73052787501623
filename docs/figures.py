"""Puts the figures of results/ into the documents, between their markers:  python docs/figures.py"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from qpsnn_lava.ablation_report import WORDS, difference_text, place_text
from qpsnn_lava.report import markdown_table, summary

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- figures: (?P<name>[\w./-]+) -->\n)(?P<body>.*?)(<!-- end of figures -->)", re.DOTALL)
DOCUMENTS = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("benchmarks", "mapping", "method")))


def of_report(report: dict[str, Any]) -> str:
    """What `qpsnn run` printed at its end, without the time, which is the machine's."""
    rows = [(label, value) for label, value in summary(report) if label != "time"]
    width = max(len(label) for label, _ in rows)
    return "\n".join(["```text", *(f"{label:<{width}}  {value}" for label, value in rows), "```\n"])


def table(titles: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, its first column to the left."""
    return markdown_table(titles, rows, "l" + "r" * (len(titles) - 1)) + "\n"


def of_simulation(found: dict[str, Any]) -> str:
    names = {
        "lava": "stock Lava",
        "fast_lava": "Lava, our models",
        "reference": "the reference",
        "engine": "the engine",
        "torch": "torch, float32",
    }
    rows = []
    for name, title in names.items():
        for batch, rate in found["steps_per_second"][name].items():
            rows.append([title, batch, f"{rate:,.3g}" if rate < 100 else f"{rate:,.0f}", f"{rate / _lava(found):,.3g}"])
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    note = f"\n{found['mismatches']} values differ. {found['threads']} threads; {versions}.\n"
    return table(["", "batch", "time steps a second", "times stock Lava"], rows) + note


def _lava(found: dict[str, Any]) -> float:
    return float(found["steps_per_second"]["lava"]["1"])


def of_mapping(found: dict[str, Any]) -> str:
    ways = [*found["ways"], *found["growth"][1:], found["pilotnet"]]
    rows = [
        [way["what"], *(f"{way[key]:,}" for key in ("layers", "cores", "lower_bound")), f"{way['seconds']:.2f}"]
        for way in ways
    ]
    seats = found["placement"]
    note = f"\nPlacing {seats['cores']} cores: {seats['seconds']:.1f} s, {seats['hops_before']:,.0f} -> {seats['hops']:,.0f} hops a step.\n"
    return table(["network", "layers", "cores", "at least", "seconds"], rows) + note


def of_training(found: dict[str, Any]) -> str:
    rows = [
        [
            title,
            *(f"{1000 * found['parts'][name][part]:,.1f}" for part in ("forward", "backward", "optimiser", "step")),
            memory,
        ]
        for name, title in (("slayer", "stock SLAYER"), ("fused", "fused"))
        for memory in [f"{found['peak_bytes'][name] / 1e6:,.0f}"]
    ]
    share = found["peak_bytes"]["fused"] / found["peak_bytes"]["slayer"]
    equal = "equal" if found["spikes_equal"] else "NOT EQUAL"
    note = (
        f"\nThe whole step {found['speedup']:.1f} times faster, in {share:.2f} of the memory; spikes {equal} in all layers, gradients "
        f"within {found['max_gradient_error']:.0e} of the largest. {found['threads']} threads, torch {found['versions']['torch']}.\n"
    )
    return table(["", "forward, ms", "backward, ms", "optimiser, ms", "step, ms", "memory, MB"], rows) + note


def of_scores(found: dict[str, Any]) -> str:
    rows = [
        [f"one map after another (scaled from {found['loop_samples']} samples)", f"{found['loop_seconds']:.1f}"],
        ["all at once: ranks", f"{found['batched_seconds']:.2f}"],
        ["all at once: ranks and nuclear norms (scaled likewise)", f"{found['nuclear_seconds']:.1f}"],
    ]
    note = (
        f"\n{found['speedup']:.0f} times faster, scores {'equal' if found['equal'] else 'NOT EQUAL'}. {found['samples']} samples of "
        f"{found['channels']} maps of {found['size']}x{found['size']}; median of {found['rounds']} rounds, {found['threads']} threads.\n"
    )
    return table(["", "seconds"], rows) + note


def of_norms(found: dict[str, Any]) -> str:
    def share(value: dict[str, float]) -> str:
        return f"{100 * value['mean']:.2f} ± {100 * value['deviation']:.2f}"

    rows = [[f"`{row['norm']}`", *(share(row[stage]) for stage in ("float", "quantised", "integer"))] for row in found["rows"]]
    first = found["rows"][0]
    note = f"\nMean ± standard deviation over {first['runs']} seeds, n = {first['n']} test images each.\n"
    return table(["norm", "float, %", "quantised, %", "pruned, integer, %"], rows) + note


def of_widths(found: dict[str, Any]) -> str:
    names = [network["name"].removesuffix(".net") for network in found["networks"]]
    keys = {"cores": "cores", "at least": "lower_bound", "neurons": "neurons", "synapse words": "synapse_words"}
    rows = [[title, *(f"{network[key]:,}" for network in found["networks"])] for title, key in keys.items()]
    for i, (layer, *_) in enumerate(found["networks"][0]["layers"]):
        cells = [network["layers"][i] for network in found["networks"]]
        rows.append([f"{layer}: channels / words", *(f"{width} / {words:,}" for _, width, _, words in cells)])
    return table(["", *names], rows)


def of_cells(study: dict[str, Any]) -> str:
    """Accuracy of every cell; of several axes the last two side by side, of one with what the network costs."""
    axes = {axis: list(settings) for axis, settings in study["axes"].items()}
    cells = {tuple(cell["settings"].values()): cell for cell in study["cells"] if cell["n"]}
    if len(axes) == 1:
        titles = [*axes, "integer, %", "kB", "synapse words", "cores"]
        costs = [
            (f"{1000 * c['size_mb']['mean']:,.1f}", *(f"{c[key]['mean']:,.0f}" for key in ("synapse_words", "cores")))
            for c in cells.values()
        ]
        return table(titles, [[key[0], _mean(cell), *cost] for (key, cell), cost in zip(cells.items(), costs, strict=True)])
    below = max(1, len(axes) - 2)
    columns = list(itertools.product(*list(axes.values())[below:]))
    titles = [
        ", ".join(list(axes)[:below]),
        *(
            ", ".join(f"{axis} {setting}" for axis, setting in zip(list(axes)[below:], point, strict=True))
            for point in columns
        ),
    ]
    rows = itertools.product(*list(axes.values())[:below])
    return table(titles, [[", ".join(row), *(_mean(cells.get((*row, *point))) for point in columns)] for row in rows])


def _mean(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    deviation = cell["integer"]["deviation"]
    return f"{cell['integer']['mean']:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def of_differences(study: dict[str, Any]) -> str:
    """Each setting against its baseline: over all, and by bits and share kept."""
    rows = [
        [
            f"{row['setting']} - {row['baseline']}",
            place_text(row) if row["at"] else "all",
            difference_text(row),
            str(row["n"]),
            WORDS[row["verdict"]],
        ]
        for row in study["differences"]
        if not row["at"] or (set(row["at"]) <= {"bits", "keep"} and len(row["at"]) == 1)
    ]
    return table(["accuracy of", "at", "points, 95 % interval", "pairs", "is"], rows)


def of_study(report: dict[str, Any], name: str) -> str:
    """The two tables of a study of an ablation."""
    study = next(study for study in report["studies"] if study["name"] == name)
    return f"{of_cells(study)}\n{of_differences(study)}"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "bench/simulate-pilotnet": of_simulation,
    "bench/map": of_mapping,
    "bench/train": of_training,
    "bench/score": of_scores,
    "norm": of_norms,
    "fashion-mnist/mapping": of_widths,
}


def updated(text: str, results: Path) -> str:
    """``text`` with every block renewed whose figures stand in ``results``.

    These are NAME.json of a table; FOLDER/report.json of a study, whose block is named FOLDER/STUDY; else NAME/report.json.
    """

    def renew(found: re.Match[str]) -> str:
        name = found["name"]
        folder, _, study = name.partition("/")
        make: Callable[[dict[str, Any]], str] = TABLES.get(name, of_report)
        file = results / f"{name}.json" if name in TABLES else results / name / "report.json"
        if folder.startswith("ablation-"):
            make, file = partial(of_study, name=study), results / folder / "report.json"
        body = make(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else found["body"]
        return found[1] + body + found[4]

    return BLOCK.sub(renew, text)


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(updated(document.read_text(encoding="utf-8"), ROOT / "results"), encoding="utf-8")
