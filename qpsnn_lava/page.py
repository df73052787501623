"""``report.html``: a report as one file that asks for nothing, drawn from plain data (:func:`page`).

What it has in common with the other pages, and how its numbers say where they come from: :mod:`qpsnn_lava.shell`.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mapping.chip import STATEMENT
from netx_export.network import MAX_THRESHOLD
from qpsnn_lava.report import ALIVE, count_compared, csv_table, evidence_row, is_alive, plain, spikes
from qpsnn_lava.report_file import STAGES, Report
from qpsnn_lava.shell import MAX_LAYERS, MAX_PANELS, axis, bar_height, drawn, histogram, json_text, name_text

MAX_CORES = 2048  # on the page; the rest is in cores.csv
MAX_SIDE = 40  # populations of a traffic matrix
MAX_MESH = 1024  # cores of a chip that is drawn
STEPS = (0, 5, 10, 25, 50, 75, 90)  # %: where the shades of a share begin
RESOURCES = {"axon_in": "axons in", "axon_out": "axons out", "axon_map": "axon map", "pool": "shared pool"}
LOADS = {"operations": "synaptic operations a step", "spikes_in": "spikes in a step", "spikes_out": "spikes out a step"}
_AXES = {1: ("neurons",), 3: ("channels", "rows", "columns")}

_RUN = ("accuracy", "ties", "agreement", "metrics", "layers", "unpruned", "seconds", "config", "weights", "scores", "raster")
_DETAILS = ("layers", "core_use", "mesh", "synapses", "traffic", "energy", "what_if", "pareto", "compared", "widths")


def page(report: Report) -> str:
    """The report as HTML, everything inside: style, script, data, downloads.

    Args:
        report: as :func:`qpsnn_lava.report_file.check` accepts it, or of a mapping alone (:func:`of_mapping`).  Sections without data
            are left out; of more than 2048 cores or 500 layers the first are shown, and the page says so.
    """
    details = dict.fromkeys((*_DETAILS, "profile", "neurons", "assumed_rate"))
    shown = {**dict.fromkeys(_RUN), **report, "mapping": {**details, **report["mapping"]}}
    view = _view(report)
    return drawn(
        "report.html.j2",
        report,
        titles=(report["name"], f" on {name_text(report['mapping']['chip'])}"),
        foot=STATEMENT,
        file="report.json",
        tables={f"{name}.csv": csv_table(rows) for name, rows in _tables(report).items() if rows},
        own=("report.css", "report.js"),
        report=shown,
        view=view,
        shades=Markup(json_text(view["shades"])),
        STATEMENT=STATEMENT,
        STEPS=STEPS,
    )


def of_mapping(
    name: str,
    command: str,
    used: Mapping[str, Any],
    details: Mapping[str, Any],
    weights: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """What :func:`page` takes, of a mapping without a run.

    Args:
        name: of the file that was mapped.
        command: the command line.
        used: of :meth:`mapping.utilisation.Utilisation.to_dict`, and what stands beside it; or of
            :func:`mapping.utilisation.partial_utilisation`.
        details: of :func:`mapping.details.describe`; empty where a layer fits no core.
        weights: of :func:`qpsnn_lava.plots.weight_rows`.
        versions: of the packages that the figures depend on.
    """
    made = {"name": name, "command": command, "versions": versions, "mapping": {**used, **details}, "weights": weights}
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def _tables(report: Report) -> dict[str, Sequence[Mapping[str, Any]]]:
    mapping = report["mapping"]
    return {"layers": mapping.get("layers") or report.get("layers") or [], "cores": mapping.get("core_use") or []}


# --- what is drawn -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """A layer of the page: where the report has it; None where it does not."""

    name: str
    mapped: int | None
    trained: int | None
    before: int | None


def _view(report: Report) -> dict[str, Any]:
    mapping, accuracy = report["mapping"], report.get("accuracy") or {}
    layers = _layers(report)
    index = {layer.name: i for i, layer in enumerate(layers)}
    cores = _cores(mapping, index)
    resources = [key.removeprefix("percent_") for key in (mapping.get("core_use") or [{}])[0] if key.startswith("percent_")]
    evidence = [(i, evidence_row(line)) for i, line in enumerate(mapping["evidence"]) if line != STATEMENT]
    tags = Counter(row.tag for _, row in evidence if row.tag)
    return {
        "layers": layers,
        "layers_in_all": len(_tables(report)["layers"]),
        "index": index,
        "sentence": plain(re.sub(r"\A(fits|does not fit): ", "", mapping["verdict"]), 600).rstrip("."),
        "misfits": [(i, row) for i, row in enumerate(mapping.get("layers") or []) if row.get("error")],
        "binding": _binding(report),
        "stages": [(stage, label) for stage, label in STAGES.items() if stage in accuracy],
        "missing": [label for stage, label in STAGES.items() if stage not in accuracy],
        "final": next((s for s in ("integer", "lava", "pruned", "quantised", "float") if s in accuracy), None),
        "axis": axis([entry["interval"] for entry in accuracy.values()]),
        "exact": _exact(report),
        "weak": [row["name"] for row in (report.get("layers") or []) if not is_alive(row)],
        "cores": cores,
        "cores_in_all": len(mapping.get("core_use") or []),
        "resources": {name: _resource(name) for name in resources},
        "loads": LOADS,
        "words": RESOURCES,
        "chips": _chips(mapping, cores),
        "shades": _shades(mapping, resources, len(cores)),
        "fullest": _fullest(mapping, resources),
        "weights": [histogram(row) for row in (report.get("weights") or [])[:MAX_PANELS]],
        "scores": [_score_bars(row) for row in ((report.get("scores") or {}).get("layers") or [])[:MAX_PANELS]],
        "raster": [_raster(row, report["raster"]["steps"]) for row in ((report.get("raster") or {}).get("layers") or [])],
        "firing": [i for i, row in enumerate(report.get("layers") or []) if row["firing_rate"] is not None and spikes(row)],
        "alive": ALIVE,
        "silent": MAX_THRESHOLD,
        "matrix": _matrix(mapping.get("traffic")),
        "bits": sorted({int(bits) for row in mapping.get("what_if") or [] for bits in row["cores_by_bits"]}),
        "evidence": evidence,
        "tags": sorted(tags.items(), key=lambda item: (-item[1], item[0])),
        "cautions": [*mapping.get("warnings", []), *(line for line in mapping["evidence"] if "assumed legal" in line)],
        "compared_layers": _compared_layers(mapping),
        "MAX_PANELS": MAX_PANELS,
    }


def _layers(report: Report) -> list[_Layer]:
    def where(rows: Sequence[Mapping[str, Any]] | None) -> dict[str, int]:
        return {row["name"]: i for i, row in reversed(list(enumerate(rows or [])))}

    mapped, trained = where(report["mapping"].get("layers")), where(report.get("layers"))
    before = where((report.get("unpruned") or {}).get("layers"))
    names = list(dict.fromkeys(row["name"] for row in _tables(report)["layers"]))[:MAX_LAYERS]
    return [_Layer(name, mapped.get(name), trained.get(name), before.get(name)) for name in names]


def _binding(report: Report) -> dict[str, Any] | None:
    """The layer whose fullest core is the fullest of all, where its use stands in the report, and the layer with most cores."""
    mapped = report["mapping"].get("layers")
    rows, key = (mapped, "binding_percent") if mapped else (report.get("layers") or [], "utilisation")
    shares = [row.get(key) or 0 for row in rows]
    if not any(shares):
        return None
    i = shares.index(max(shares))
    resource = rows[i].get("binding") or ""
    return {
        "name": rows[i]["name"],
        "key": resource,
        "resource": _resource(resource),
        "at": ("mapping", "layers", i, key) if mapped else ("layers", i, key),
        "share": shares[i],
        "most": max(rows, key=lambda row: row["cores"] or 0)["name"],
    }


def _resource(name: str) -> str:
    return RESOURCES.get(name, name.replace("_", " "))


def _exact(report: Report) -> str:
    """exact, wrong or unchecked."""
    count, wrong = count_compared(report.get("agreement"))
    return "unchecked" if not count else "wrong" if wrong else "exact"


@dataclass(frozen=True)
class _Core:
    """A core of the page: its place in the report, its cell, what lies on it."""

    at: int
    chip: int
    core: int
    slices: list[tuple[str, int | None, list[tuple[str, str]]]]
    layers: list[int]


_RANGES = re.compile(r"\[(\d+:\d+(?:, \d+:\d+)*)\](?:; |\Z)")


def _cores(mapping: Mapping[str, Any], index: Mapping[str, int]) -> list[_Core]:
    made = []
    for i, row in enumerate((mapping.get("core_use") or [])[:MAX_CORES]):
        slices = list(_slices(row["slices"], index))
        layers = sorted({layer for _, layer, _ in slices if layer is not None})
        made.append(_Core(i, row["chip"], row["core"], slices, layers))
    return made


def _slices(text: str, index: Mapping[str, int]) -> Iterator[tuple[str, int | None, list[tuple[str, str]]]]:
    """(name, layer, [(axis, first to last)]) of each slice of such a text as "conv1[0:24, 0:32, 0:4]; dense[0:10]"."""
    start = 0
    for found in _RANGES.finditer(text):
        name, pairs = text[start : found.start()], [pair.split(":") for pair in found[1].split(", ")]
        axes = _AXES.get(len(pairs), tuple(f"axis {i}" for i in range(len(pairs))))
        yield name, index.get(name), [(axis, f"{a}–{int(b) - 1}") for axis, (a, b) in zip(axes, pairs, strict=True)]  # noqa: RUF001
        start = found.end()
    if start < len(text):
        yield text[start:], index.get(text[start:]), []


def _chips(mapping: Mapping[str, Any], cores: Sequence[_Core]) -> list[dict[str, Any]]:
    """Each chip in use as rows of tiles, a tile as a list of cells: the number of a core on this page, or None."""
    mesh = mapping.get("mesh")
    if not mesh or not cores or mesh["cores_per_chip"] > MAX_MESH or mesh["cores_per_tile"] > mesh["cores_per_chip"]:
        return []
    each = mesh["cores_per_tile"]
    tiles = -(-mesh["cores_per_chip"] // each)
    wide = min(mesh["width"], tiles)
    across = next(n for n in range(math.isqrt(each - 1) + 1, each + 1) if each % n == 0)
    made = []
    for chip in dict.fromkeys(core.chip for core in cores):
        rows = ((i, mapping["core_use"][core.at]) for i, core in enumerate(cores) if core.chip == chip)
        here = {(row["x"], row["y"], row["core"] % each): i for i, row in rows}
        cells = [[here.get((tile % wide, tile // wide, k)) for k in range(each)] for tile in range(tiles)]
        made.append({"chip": chip, "tiles": cells, "wide": wide, "across": across, "used": len(here)})
    return made


def _fullest(mapping: Mapping[str, Any], resources: Sequence[str]) -> int:
    rows = (mapping.get("core_use") or [])[:MAX_CORES]
    shares = [max((row.get(f"percent_{name}", 0) for name in resources), default=0) for row in rows]
    return shares.index(max(shares)) if shares else 0


def _shades(mapping: Mapping[str, Any], resources: Sequence[str], count: int) -> dict[str, dict[str, Any]]:
    """Of each thing that can colour the mesh: the shade and the short text of every core."""
    rows = (mapping.get("core_use") or [])[:count]
    made: dict[str, dict[str, Any]] = {}
    for name in resources:
        values = [row.get(f"percent_{name}", 0) for row in rows]
        made[f"percent_{name}"] = {"shade": [_shade(value) for value in values], "text": [_short(value) for value in values]}
    for name in LOADS if rows else ():
        values = [row[name] for row in rows]
        most = max(values) or 1
        made[name] = {"shade": [_shade(100 * value / most) for value in values], "text": [_short(value) for value in values]}
    return made


def _short(value: float) -> str:
    """At most four letters, for a cell of the mesh."""
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return f"{value / factor:.{int(value < 9.95 * factor)}f}{letter}"
    return "<1" if 0 < value < 0.5 else f"{value:.0f}"


def _shade(percent: float) -> int:
    return sum(percent >= start for start in STEPS) - 1


def _score_bars(row: Mapping[str, Any]) -> dict[str, Any]:
    """Bars of the sorted scores in a box of (channels, 100): those that stay and those that go, and where the cut is."""
    kept = set(row["kept"])
    order = sorted(range(len(row["rank"])), key=lambda i: (-row["rank"][i], i not in kept, -row["nuclear"][i]))
    most = max(row["rank"], default=0) or 1
    paths = {True: "", False: ""}
    for at, i in enumerate(order):
        paths[i in kept] += f"M{at + 0.08:.2f} 100v-{bar_height(100 * row['rank'][i] / most)}h.84V100z"
    clean = all((i in kept) == (at < len(kept)) for at, i in enumerate(order))
    cut = len(kept) if clean and len(kept) < len(order) else None
    extremes = (order[0], order[-1]) if order else None
    return {
        "kept": Markup(paths[True]),
        "cut": Markup(paths[False]),
        "channels": len(order),
        "stay": len(kept),
        "at": cut,
        "ends": extremes,
    }


def _raster(row: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """A dash for each spike in a box of (steps, neurons)."""
    path = "".join(f"M{t + 0.08:.2f} {i}.5h.84" for i, times in enumerate(row["spikes"]) for t in times)
    return {"path": Markup(path), "rows": len(row["shown"]), "spikes": sum(map(len, row["spikes"])), "steps": steps}


def _matrix(traffic: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Rows and columns that carry anything, and the shade of each entry."""
    if not traffic or not traffic["populations"]:
        return None
    messages = traffic["messages"]
    side = range(len(messages))
    senders = [i for i in side if any(messages[i])] or list(side)
    receivers = [j for j in side if any(messages[i][j] for i in side)] or list(side)
    most = max((value for row in messages for value in row), default=0) or 1
    senders, receivers = senders[:MAX_SIDE], receivers[:MAX_SIDE]
    shades = {(i, j): _shade(100 * messages[i][j] / most) for i in senders for j in receivers}
    return {"senders": senders, "receivers": receivers, "shades": shades, "whole": len(side) <= MAX_SIDE}


def _compared_layers(mapping: Mapping[str, Any]) -> list[tuple[str, list[int | None]]]:
    """Of each layer of the networks side by side: its place in each of them."""
    rows = mapping.get("compared") or []
    tables = [{layer[0]: i for i, layer in enumerate(row.get("layers") or [])} for row in rows]
    names = list(dict.fromkeys(name for table in tables for name in table))[:MAX_LAYERS]
    return [(name, [table.get(name) for table in tables]) for name in names]
