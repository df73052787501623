"""The pictures of an ablation, in the looks of :mod:`qpsnn_lava.plots`: accuracy of every cell, and differences with intervals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qpsnn_lava.plots import BLUE, GREY, MAX_PANELS, TEXT, VERMILLION, _headline, _style, _text, save

COLOURS = (BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", TEXT)
MARKERS = "osD^vP*X"
MAX_SETTINGS = 24  # of one axis in a picture; more would not be read
MAX_ROWS = 60  # differences in a picture


def save_ablation(report: Mapping[str, Any], folder: Path | str) -> list[Path]:
    """Writes accuracy-STUDY.png and difference-STUDY.png of every study that has runs, each whole or not at all.

    Args:
        report: as :func:`qpsnn_lava.ablation_report.summary` makes it.
        folder: is made where it is missing.

    Returns:
        the files written.

    Raises:
        RunError: the folder or the disk does not take a file.
    """
    figures: dict[str, Figure | None] = {}
    for study in report["studies"]:
        figures[f"accuracy-{study['name']}"] = accuracy_figure(study, report["n_test"])
        figures[f"difference-{study['name']}"] = difference_figure(study)
    return save(figures, folder)


def accuracy_figure(study: Mapping[str, Any], n_test: int | None) -> Figure | None:
    """Mean and standard deviation of every cell, and each seed; None without runs or where there are too many cells to be read.

    The first axis is the colour, the second one stands below, each combination of the others has a panel.
    """
    axes = {axis: list(settings) for axis, settings in study["axes"].items()}
    listed = tuple(axes)
    coloured, below, rest = (listed[0], listed[1], listed[2:]) if len(listed) > 1 else (None, listed[0], ())
    panels = list(itertools.product(*(axes[axis] for axis in rest)))
    cells = {tuple(cell["settings"].values()): cell for cell in study["cells"] if cell["n"]}
    if not cells or len(panels) > MAX_PANELS or max(map(len, axes.values())) > MAX_SETTINGS:
        return None
    columns = len(axes[rest[-1]]) if rest and len(axes[rest[-1]]) <= 4 else min(len(panels), 4)
    rows = -(-len(panels) // columns)
    width = max(2.4, 0.55 * len(axes[below]) + 0.8)
    with _style():
        figure = Figure(figsize=(max(4.6, width * columns + 0.6), 1.1 + 2.1 * rows), layout="constrained")
        drawn = [figure.add_subplot(rows, columns, i + 1) for i in range(len(panels))]
        hues = axes[coloured] if coloured else [""]
        for panel, point in zip(drawn, panels, strict=True):
            for i, hue in enumerate(hues):
                shift = 0.0 if len(hues) == 1 else 0.5 * (i / (len(hues) - 1) - 0.5)
                _marks(
                    panel, cells, [((hue,) if coloured else ()) + (below_, *point) for below_ in axes[below]], i, shift, hue
                )
            panel.set_xticks(range(len(axes[below])), [_text(setting, 12) for setting in axes[below]], parse_math=False)
            panel.set_xlim(-0.6, len(axes[below]) - 0.4)
            panel.yaxis.set_major_locator(MaxNLocator(nbins=5))
            panel.grid(axis="y", color="#EEEEEE", linewidth=0.7)
            if rest:
                name = ", ".join(f"{axis} {setting}" for axis, setting in zip(rest, point, strict=True))
                panel.set_title(_text(name, 40), parse_math=False)
        for panel in drawn[-columns:]:
            panel.set_xlabel(_text(below, 30), parse_math=False)
        for panel in drawn[::columns]:
            panel.set_ylabel("accuracy (%)")
        if coloured:
            _legend(figure, drawn)
        n = f", n = {n_test:,}" if n_test else ""
        _headline(figure, f"{_text(study['name'], 40)}: mean ± s.d., faint: each seed{n}")
    return figure


def _marks(
    panel: Axes, cells: Mapping[tuple[str, ...], Any], keys: list[tuple[str, ...]], number: int, shift: float, label: str
) -> None:
    """One colour's cells, in the order of the settings below."""
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
    found = [(x + shift, cells[key]["integer"]) for x, key in enumerate(keys) if key in cells]
    for x, accuracy in found:
        values = list(accuracy["values"].values())
        panel.plot([x + 0.07] * len(values), values, marker, color=colour, markersize=3, alpha=0.35, markeredgewidth=0)
    places = [x for x, _ in found]
    means = [accuracy["mean"] for _, accuracy in found]
    deviations = [accuracy["deviation"] or 0.0 for _, accuracy in found]
    style = {"fmt": marker, "color": colour, "markersize": 5, "elinewidth": 1.2, "capsize": 2}
    panel.errorbar(places, means, deviations, label=_text(label, 24), **style)  # type: ignore[arg-type]


def _legend(figure: Figure, panels: list[Axes]) -> None:
    known: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    figure.legend(list(known.values()), list(known), loc="outside lower center", ncol=min(6, len(known)), handletextpad=0.3)


def difference_figure(study: Mapping[str, Any]) -> Figure | None:
    """Each setting's difference from its axis's baseline with its 95 % interval: over all combinations of the other axes, and over those
    with one of their settings; grey: in each combination.  None without pairs.
    """
    single = len(study["axes"]) - 1
    whole = [row for row in study["differences"] if row["value"] is not None and len(row["at"]) <= 1]
    rows = whole if len(whole) <= MAX_ROWS else [row for row in whole if not row["at"]][:MAX_ROWS]
    if not rows:
        return None
    with _style():
        figure = Figure(figsize=(7.0, 1.2 + 0.3 * len(rows)), layout="constrained")
        panel = figure.add_subplot()
        panel.axvline(0, color="#888888", linewidth=0.8, zorder=1)
        for y, row in enumerate(rows):
            values = [one["value"] for one in study["differences"] if _is_part(one, row, single)]
            spread = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(len(values))
            panel.scatter(values, y + spread, s=8, color=GREY, linewidth=0, zorder=2)
            if row["interval"] is not None:
                panel.plot(row["interval"], [y, y], color=BLUE, linewidth=1.6, solid_capstyle="butt", zorder=3)
            face = "white" if row["verdict"] == "open" else BLUE
            panel.plot([row["value"]], [y], "o", color=BLUE, markersize=4 if row["at"] else 6, markerfacecolor=face, zorder=4)
        panel.set_yticks(range(len(rows)), [_text(_named(row), 44) for row in rows], parse_math=False)
        for label, row in zip(panel.get_yticklabels(), rows, strict=True):
            label.set_fontweight("normal" if row["at"] else "bold")
        panel.tick_params(axis="y", length=0)
        panel.set_ylim(len(rows) - 0.4, -0.6)
        panel.grid(axis="x", color="#EEEEEE", linewidth=0.7)
        panel.set_xlabel("difference in percentage points, 95 % t interval over seeds (filled: it does not hold 0)")
        _headline(figure, f"{_text(study['name'], 40)}: accuracy against the baseline")
    return figure


def _is_part(one: Mapping[str, Any], row: Mapping[str, Any], single: int) -> bool:
    """Whether ``one`` is a single combination among those that ``row`` is the mean of."""
    same = (one["axis"], one["setting"]) == (row["axis"], row["setting"])
    return same and one["value"] is not None and 0 < len(one["at"]) == single and row["at"].items() <= one["at"].items()


def _named(row: Mapping[str, Any]) -> str:
    if not row["at"]:
        return f"{row['setting']} - {row['baseline']}"
    return ", ".join(f"{axis} {setting}" for axis, setting in row["at"].items())
