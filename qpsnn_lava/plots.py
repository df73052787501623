"""The pictures of a report: weights on their integer grid, firing rates, cores before and after, SVS scores with the cut.

Figures are made without pyplot, so nothing of the caller's plots changes; each has a function that returns the
:class:`matplotlib.figure.Figure` and is written by :func:`save_all`.  Colours (Okabe and Ito's) differ in lightness, too.
"""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from netx_export.atomic import replacing
from netx_export.errors import FormatError
from netx_export.integers import stored_bits
from netx_export.network import Network
from qpsnn_lava.report import ALIVE, plain, spikes

DPI = 150
MAX_BARS = 100  # layers in a bar chart; more would not be read
MAX_PANELS = 40  # layers in a chart of panels
CORE_UNITS = {"cores": "cores", "synapse_words": "synapse words (64 bits each)"}
MAX_LEVELS = 512  # grid levels drawn one by one: what the chip can hold; a wider foreign file is put into bins
BLUE, VERMILLION, GREY, BAND, TEXT = "#0072B2", "#D55E00", "#BDBDBD", "#EEF2E6", "#333333"
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": TEXT,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelcolor": TEXT,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}

Report: TypeAlias = Mapping[str, Any]
LayerScores: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]
_AGAIN = "Score the channels again."


def save_all(report: Report, network: Network, scores: LayerScores | None, folder: Path | str) -> list[Path]:
    """Writes weights.png, firing.png, cores.png and scores.png, each whole or not at all; what has no data is left out.

    Args:
        report: as :func:`qpsnn_lava.report.check` accepts it.
        network: the integer network of the report.
        scores: by layer, ``rank`` and ``nuclear`` of each channel and ``kept``, the indices of the channels that stay; None
            where nothing was pruned.
        folder: is made where it is missing.

    Returns:
        the files written.

    Raises:
        FormatError: scores that contradict themselves (then nothing is written).
        RunError: the folder or the disk does not take a file.
    """
    figures = {
        "weights": weights_figure(network),
        "firing": firing_figure(report),
        "cores": cores_figure(report),
        "scores": scores_figure(scores) if scores else None,
    }
    written = []
    for name, figure in figures.items():
        if figure is not None:
            path = Path(folder) / f"{name}.png"
            with _style(), replacing(path) as temporary:
                figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
            written.append(path)
    return written


def weight_levels(weight: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """How many weights stand on each level of their grid: ``weight = level * 2**exponent``.

    ``exponent`` is the largest one that leaves all levels whole.  Where the levels span more than 512 (no chip holds that),
    neighbouring ones are put into bins of equal width, and a bin is named by its first level.

    Args:
        weight: int32, any shape.

    Returns:
        levels (int64, ascending, evenly spaced), counts (int64, their sum is ``weight.size``), exponent.
    """
    wide = weight.astype(np.int64).ravel()
    common = int(np.bitwise_or.reduce(np.abs(wide)))
    exponent = max(0, (common & -common).bit_length() - 1)
    level = wide >> exponent
    low, high = int(level.min()), int(level.max())
    width = -(-(high - low + 1) // MAX_LEVELS)
    counts = np.bincount((level - low) // width, minlength=(high - low) // width + 1)
    return low + width * np.arange(len(counts), dtype=np.int64), counts.astype(np.int64), exponent


def weights_figure(network: Network) -> Figure | None:
    """A panel per projection: the number of weights on each level of the integer grid."""
    if not network.projections:
        return None
    shown, total = network.projections[:MAX_PANELS], len(network.projections)
    with _style():
        figure, panels = _panels(len(shown), "Integer weights on their grid: how many have each value", total)
        for axes, projection in zip(panels, shown, strict=True):
            weight = projection.synapse.weight
            levels, counts, exponent = weight_levels(weight)
            single = len(network.into(projection.target)) == 1
            name = projection.target if single else f"{projection.source} > {projection.target}"
            bits, zero = stored_bits(weight), float(np.mean(weight == 0))
            _bars_on_grid(axes, levels, counts)
            _title(axes, name, f"{bits} bit, {weight.size:,} weights, {100 * zero:.0f} % zero")
            reach = max(2, int(np.abs(levels).max())) * 1.08 + 0.5
            axes.set_xlim(-reach, reach)
            axes.set_xlabel(rf"weight, in units of $2^{{{exponent}}}$" if exponent else "weight", labelpad=1)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
            axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
        for axes in _first_column(panels):
            axes.set_ylabel("number of weights")
    return figure


def firing_figure(report: Report) -> Figure | None:
    """A bar per spiking layer, spikes per neuron and step in %, over the band 2..80 %; what is outside it is marked."""
    layers = [row for row in report["layers"] if row["firing_rate"] is not None and spikes(row)]
    if not layers:
        return None
    shown = layers[:MAX_BARS]
    rates = np.array([100 * row["firing_rate"] for row in shown])
    low, high = (100 * end for end in ALIVE)
    with _style():
        figure, (axes,) = _bar_chart(1, [row["name"] for row in shown], 0.27)
        axes.axvspan(low, high, color=BAND, zorder=0)
        inside = (rates >= low) & (rates <= high)
        bars = axes.barh(range(len(shown)), rates, 0.62, color=[BLUE if good else VERMILLION for good in inside])
        notes = [
            f"{rate:.1f} %" if good else f"{rate:.2g} %, {'nearly silent' if rate < low else 'nearly saturated'}"
            for rate, good in zip(rates, inside, strict=True)
        ]
        axes.bar_label(bars, notes, padding=3, fontsize=8)
        axes.set_xlim(0, 100 if rates.max() < 85 else 120)
        axes.set_xticks([0, low, 20, 40, 60, high, 100])
        axes.set_xlabel(f"spikes per neuron and step (%); shaded: {low:.0f} to {high:.0f} %, neither silent nor saturated")
        odd = f": {int((~inside).sum())} of {len(shown)} outside the shaded band" if not inside.all() else ""
        axes.set_title(f"Firing rate per layer{_first_of(len(shown), len(layers))}{odd}", fontsize=11)
    return figure


def cores_figure(report: Report) -> Figure | None:
    """Two bars per layer, before and after pruning: cores on the left, synapse words on the right."""
    after = {row["name"]: row for row in report["layers"]}
    unpruned = report.get("unpruned") or {}
    before = {row["name"]: row for row in unpruned.get("layers") or []}
    names = [name for name in {**after, **before} if any(table.get(name, {}).get("cores") for table in (after, before))]
    if not names:
        return None
    shown = names[:MAX_BARS]
    with _style():
        figure, panels = _bar_chart(2, shown, 0.46 if before else 0.27)
        for axes, (key, label) in zip(panels, CORE_UNITS.items(), strict=True):
            rows = np.arange(len(shown))
            series = [("after pruning", after, BLUE)] if before else [("", after, BLUE)]
            if before:
                series.insert(0, ("before pruning", before, GREY))
            for i, (series_label, table, colour) in enumerate(series):
                values = [table.get(name, {}).get(key, 0) for name in shown]
                height = 0.76 / len(series)
                at = rows + (i - (len(series) - 1) / 2) * height
                bars = axes.barh(at, values, height * 0.92, color=colour, label=series_label)
                axes.bar_label(bars, [f"{value:,}" for value in values], padding=2, fontsize=7.5)
            axes.margins(x=0.2)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
            axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
            axes.set_xlabel(label)
            total = sum(row[key] for row in after.values())
            old = f"{unpruned[key]:,} → " if before else ""
            axes.set_title(f"{key.replace('_', ' ').capitalize()}: {old}{total:,}", fontsize=9, fontweight="bold")
        if before:
            handles, labels = panels[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="upper right", ncol=2, handlelength=1.2, borderaxespad=0.2)
        title = f"What each layer takes on {_text(report['mapping']['chip'], 24)}, by the public cost model"
        _headline(figure, f"{title}{_first_of(len(shown), len(names))}")
    return figure


def scores_figure(scores: LayerScores) -> Figure | None:
    """A panel per layer: the SVS score of each channel, highest first, and the cut behind the last channel that is kept.

    Raises:
        FormatError: not one rank and one nuclear norm per channel, or a kept channel that is not there.
    """
    if not scores:
        return None
    shown = list(scores.items())[:MAX_PANELS]
    with _style():
        figure, panels = _panels(len(shown), "SVS score of each channel, highest first", len(scores))
        for axes, (name, entry) in zip(panels, shown, strict=True):
            rank, kept = _sorted_scores(name, entry)
            at = np.arange(1, len(rank) + 1)
            for mask, colour, label in ((kept, BLUE, "kept"), (~kept, GREY, "cut")):
                heights = np.where(mask, rank, 0.0)
                edges = np.stack([at - 0.42, at + 0.42], 1).ravel()
                axes.stairs(_with_gaps(heights), edges, fill=True, color=colour, label=label, linewidth=0)
            count = int(kept.sum())
            if count < len(rank) and kept[:count].all():
                axes.axvline(count + 0.5, color=VERMILLION, linewidth=1.2, linestyle=(0, (4, 2)))
            _title(axes, name, f"{count} of {len(rank)} channels kept")
            axes.set_xlim(0.3, len(rank) + 0.7)
            axes.set_ylim(0, max(float(rank.max()) * 1.12, 1e-9) if rank.max() > 0 else 1)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
            axes.set_xlabel("channel, in order of its score", labelpad=1)
        for axes in _first_column(panels):
            axes.set_ylabel("score (mean rank)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", ncol=2, handlelength=1.2, borderaxespad=0.2)
    return figure


def _sorted_scores(name: str, entry: Mapping[str, Sequence[float]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Ranks, highest first, and which of them are kept; equal ranks: kept ones first, then by nuclear norm."""
    label = f"scores of {plain(name, 40)}"
    try:
        rank, nuclear = (np.asarray(entry[key], dtype=np.float64) for key in ("rank", "nuclear"))
        chosen = np.asarray(entry["kept"])
    except (KeyError, TypeError, ValueError):
        raise FormatError(f"{label}: expected lists of numbers rank, nuclear and kept. {_AGAIN}") from None
    if rank.ndim != 1 or rank.shape != nuclear.shape or not len(rank):
        counts = f"{rank.size} ranks and {nuclear.size} nuclear norms"
        raise FormatError(f"{label}: {counts}; expected one of each per channel. {_AGAIN}")
    whole = chosen.ndim == 1 and (not chosen.size or chosen.dtype.kind in "iu")
    if not whole or not np.all((chosen >= 0) & (chosen < len(rank))):
        found = plain(reprlib.repr(entry["kept"]), 60)
        raise FormatError(f"{label}: kept is {found}; expected channels, whole numbers in 0..{len(rank) - 1}. {_AGAIN}")
    if not np.all(np.isfinite(rank)) or not np.all(np.isfinite(nuclear)):
        raise FormatError(f"{label}: some are not finite numbers. {_AGAIN}")
    kept = np.zeros(len(rank), dtype=bool)
    kept[chosen.astype(np.int64)] = True
    order = np.lexsort((-nuclear, ~kept, -rank))
    return rank[order], kept[order]


# --- shared looks --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Our looks whatever the user's matplotlibrc says (LaTeX texts, dark styles), and theirs again afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]  # a plain dict
        yield


def _panels(count: int, title: str, total: int) -> tuple[Figure, list[Axes]]:
    """A grid of small panels under one title."""
    columns = count if count <= 4 else 3 if count in (5, 6, 9) else 4
    rows = -(-count // columns)
    figure = Figure(figsize=(max(5.0, 2.75 * columns), 0.45 + 2.0 * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    _headline(figure, f"{title}{_first_of(count, total)}")
    return figure, axes


def _headline(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.06 / figure.get_figwidth(), ha="left", fontsize=11, parse_math=False)


def _first_column(panels: Sequence[Axes]) -> list[Axes]:
    return [axes for axes in panels if axes.get_subplotspec().is_first_col()]  # type: ignore[union-attr]


def _bar_chart(columns: int, names: Sequence[str], pitch: float) -> tuple[Figure, list[Axes]]:
    """Horizontal bars, the first layer on top, names on the left."""
    figure = Figure(figsize=(5.0 + 2.6 * columns, 1.25 + pitch * len(names)), layout="constrained")
    panels = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for i, axes in enumerate(panels):
        labels = [_text(name, 24) for name in names] if i == 0 else [""] * len(names)
        axes.set_yticks(range(len(names)), labels, parse_math=False)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(names) - 0.45, -0.55)
    return figure, panels


def _bars_on_grid(axes: Axes, levels: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    """One bar per level, with gaps between them where they can be seen."""
    step = int(levels[1] - levels[0]) if len(levels) > 1 else 1
    half = (0.4 if len(levels) <= 64 else 0.5) * step
    centre = levels + (step - 1) / 2
    edges = np.stack([centre - half, centre + half], 1).ravel()
    axes.stairs(_with_gaps(counts), edges, fill=True, color=BLUE, linewidth=0)


def _with_gaps(heights: NDArray[Any]) -> NDArray[Any]:
    """h0, 0, h1, 0, ..., hn: the steps of bars with gaps."""
    steps = np.zeros(2 * len(heights) - 1, dtype=heights.dtype)
    steps[::2] = heights
    return steps


def _title(axes: Axes, name: str, note: str) -> None:
    """Name of the layer, and its numbers in a second, lighter line."""
    axes.set_title(f"{_text(name, 30)}\n", fontsize=9, fontweight="bold", parse_math=False, pad=3)
    axes.text(0, 1.03, note, transform=axes.transAxes, fontsize=7.5, color="#666666", ha="left", va="bottom", parse_math=False)


def _first_of(shown: int, total: int) -> str:
    return f" (the first {shown} of {total} layers)" if shown < total else ""


def _text(name: str, longest: int) -> str:
    """A name as a figure can show it: one line, only characters that the font has."""
    return "".join(c if _has_glyph(ord(c)) else "?" for c in plain(name, longest))


@lru_cache(maxsize=4096)
def _has_glyph(code: int) -> bool:
    """Whether DejaVu Sans, which comes with matplotlib, has that character."""
    return bool(get_font(findfont("DejaVu Sans")).get_char_index(code))


def _thousands(value: float, position: int | None = None) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value:,.0f}"
