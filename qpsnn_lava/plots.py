"""The pictures of a report: weights on their integer grid, firing rates, cores before and after, SVS scores with the cut; and of
a mapping: every core on the mesh, what layers take of their cores, traffic, and the front of cores against traffic; and of a
sweep: accuracy against what it costs.

Figures are made without pyplot, so nothing of the caller's plots changes; each has a function that returns the
:class:`matplotlib.figure.Figure` and is written by :func:`save`.  Colours (Okabe and Ito's) differ in lightness, too.
"""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from netx_export.atomic import replacing
from netx_export.engine import simulate_fast
from netx_export.errors import ConfigError, FormatError
from netx_export.hdf5 import read
from netx_export.integers import stored_bits
from netx_export.network import Network
from qpsnn_lava.report import ALIVE, plain, spikes
from qpsnn_lava.report_file import MAX_LEVELS, MAX_SHOWN, MAX_STEPS, read_report

DPI = 150
FORMATS: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}  # and what they say of themselves
MAX_BARS = 100  # layers in a bar chart; more would not be read
MAX_PANELS = 40  # layers in a chart of panels
CORE_UNITS = {"cores": "cores", "synapse_words": "synapse words (64 bits each)"}
MAX_CHIPS = 16  # on a picture of the mesh
BLUE, VERMILLION, GREY, BAND, TEXT = "#0072B2", "#D55E00", "#BDBDBD", "#EEF2E6", "#333333"
POOL_PARTS = {"synapse_words": BLUE, "neurons_mean": "#E69F00", "axon_in": "#009E73", "axon_map": "#CC79A7"}
SWEEP_COSTS = {"size_mb": "deployed MB", "cores": "cores", "synaptic_ops": "synaptic operations a sample"}
SCALE = "cividis"  # even in lightness, and the same to those who do not tell red from green
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
    "svg.hashsalt": "qpsnn",  # the same figure, the same names inside
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}

Report: TypeAlias = Mapping[str, Any]
LayerScores: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]
_AGAIN = "Score the channels again."


def save_all(report: Report, network: Network, scores: LayerScores | None, folder: Path | str) -> list[Path]:
    """Writes weights.png, firing.png, cores.png and scores.png, and those of :func:`save_mapping`; what has no data is left out.

    Args:
        report: as :func:`qpsnn_lava.report_file.check` accepts it.
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
        **_mapping_figures(report["mapping"]),
    }
    return save(figures, folder)


def save_mapping(mapping: Mapping[str, Any], folder: Path | str) -> list[Path]:
    """Writes mesh.png, use.png, traffic.png and pareto.png of a mapping, each whole or not at all; what has no data is left out.

    Args:
        mapping: ``mapping`` of a report: ``chip``, and maybe ``layers``, ``core_use``, ``mesh``, ``traffic``, ``pareto``.
        folder: is made where it is missing.

    Returns:
        the files written.

    Raises:
        RunError: the folder or the disk does not take a file.
    """
    return save(_mapping_figures(mapping), folder)


def _mapping_figures(mapping: Mapping[str, Any]) -> dict[str, Figure | None]:
    return {
        "mesh": mesh_figure(mapping),
        "use": use_figure(mapping),
        "traffic": traffic_figure(mapping),
        "pareto": pareto_figure(mapping),
    }


def save(figures: Mapping[str, Figure | None], folder: Path | str, kind: str = "png") -> list[Path]:
    """Writes NAME.png or NAME.svg of every figure, each whole or not at all; the same figure gives the same bytes.

    Args:
        figures: by name; None is left out.
        folder: is made where it is missing.
        kind: "png" or "svg".

    Returns:
        the files written.

    Raises:
        ConfigError: another kind.
        RunError: the folder or the disk does not take a file.
    """
    if kind not in FORMATS:
        raise ConfigError(f"--format {kind!r} is not known; take png or svg.")
    written = []
    for name, figure in figures.items():
        if figure is not None:
            path = Path(folder) / f"{name}.{kind}"
            with _style(), replacing(path) as temporary:
                figure.savefig(temporary, format=kind, dpi=DPI, metadata=FORMATS[kind])
            written.append(path)
    return written


@dataclass(frozen=True)
class Drawn:
    """Figures, and what could not be drawn.

    Args:
        figures: by name.
        skipped: name -> what is missing, and where it comes from.
    """

    figures: Mapping[str, Figure]
    skipped: Mapping[str, str]


def figures_in(source: Path) -> Drawn:
    """Every figure that a file has the data for.

    Args:
        source: a run folder (its report.json and network.net), a report.json, or a netx file.

    Raises:
        ConfigError: a folder with neither of the two.
        FormatError: a file that cannot be read as what it is, or scores that contradict themselves.
    """
    if source.is_dir():
        report, network = source / "report.json", source / "network.net"
        if not report.exists() and not network.exists():
            raise ConfigError(
                f"{source} has neither report.json nor network.net; give a run folder, a report.json or a netx file."
            )
        made = read_report(report) if report.exists() else None
        return _drawn(made, read(network) if network.exists() else None, source)
    if source.suffix == ".json":
        return _drawn(read_report(source), None, source)
    return _drawn(None, read(source), source)


def _drawn(report: Report | None, network: Network | None, source: Path) -> Drawn:
    mapping = {} if report is None else report["mapping"]
    scores = (report or {}).get("scores")
    table = {row["name"]: row for row in scores["layers"]} if scores else None
    figures = {
        "weights": None if network is None else weights_figure(network),
        "firing": None if report is None else firing_figure(report),
        "cores": None if report is None else cores_figure(report),
        "scores": scores_figure(table) if table else None,
        "raster": None if report is None else raster_figure(report),
        **_mapping_figures(mapping),
    }
    found = {name: figure for name, figure in figures.items() if figure is not None}
    missing = {}
    for name in figures:
        if name in found:
            continue
        if name == "weights":
            missing[name] = "the weights are in a netx file; give that, or the run folder."
        elif report is None:
            missing[name] = _NOT_IN_A_NETWORK.get(name, f"it is of a mapping: qpsnn map {source} --out DIR draws it.")
        else:
            missing[name] = _NOT_IN_THE_REPORT.get(
                name, "the report does not have this part of the mapping; map the network again."
            )
    return Drawn(found, missing)


_NOT_IN_A_NETWORK = {
    "firing": "rates come from a run; give a run folder or a report.json.",
    "cores": "cores before and after pruning come from a run; give a run folder or a report.json.",
    "scores": "scores come from pruning; give a run folder or a report.json.",
    "raster": "spikes come from a run; give a run folder or a report.json.",
}
_NOT_IN_THE_REPORT = {
    "firing": "no layer of the report has a firing rate.",
    "cores": "no layer of the report takes a core.",
    "scores": "the report has no scores: nothing was pruned, or an older version wrote it (qpsnn report RUN writes it again).",
    "raster": "the report has no spikes of a sample: an older version wrote it (qpsnn report RUN writes it again).",
}


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


def weight_rows(network: Network) -> list[dict[str, Any]]:
    """How many weights stand on each level of their grid, of each projection, as plain data for a report.

    Returns:
        of each: ``name`` and ``source``, its populations; ``weights``, how many are stored, and ``zeros`` of them;
        ``stored_bits``; ``first``, ``step``, ``exponent`` and ``counts``: ``counts[i]`` of the weights are
        ``(first + i * step) * 2**exponent`` (where ``step`` is above 1: that, or less than a step more); see :func:`weight_levels`.
    """
    rows = []
    for projection in network.projections:
        weight = projection.synapse.weight
        levels, counts, exponent = weight_levels(weight)
        rows.append(
            {
                "name": projection.target,
                "source": projection.source,
                "weights": int(weight.size),
                "zeros": int(np.count_nonzero(weight == 0)),
                "stored_bits": stored_bits(weight),
                "first": int(levels[0]),
                "step": int(levels[1] - levels[0]) if len(levels) > 1 else 1,
                "exponent": exponent,
                "counts": counts.tolist(),
            }
        )
    return rows


def raster_rows(network: Network, frames: NDArray[np.integer[Any]]) -> dict[str, Any]:
    """When some neurons of every layer fire in one sample, as plain data for a report.

    Args:
        network: any network.
        frames: (1, *input shape, time), as :func:`netx_export.simulate.simulate` takes them.

    Returns:
        ``steps``, at most the first 256; ``layers``, of each population: ``name``, ``neurons``, how many it has, ``shown``, the indices of
        at most 64 of them, spread evenly over its (channel, row, column) order, and ``spikes``, of each of these the steps in
        which it fires (of the host's input: in which it is not 0).
    """
    shown = frames[..., :MAX_STEPS]
    names = [population.name for population in network.populations]
    run = simulate_fast(network, shown, record=names)
    layers = []
    for population in network.populations:
        count = min(population.size, MAX_SHOWN)
        chosen = np.arange(count) * population.size // count
        fired = run.spikes[population.name][0].reshape(population.size, -1)[chosen] != 0
        steps = [np.flatnonzero(row).tolist() for row in fired]
        layers.append({"name": population.name, "neurons": population.size, "shown": chosen.tolist(), "spikes": steps})
    return {"steps": int(shown.shape[-1]), "layers": layers}


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


def raster_figure(report: Report) -> Figure | None:
    """A panel per population: when the neurons that the report keeps fire in its one sample, a point for each spike."""
    raster = report.get("raster")
    if not raster or not raster["layers"]:
        return None
    shown = raster["layers"][:MAX_PANELS]
    with _style():
        title = f"When neurons fire in test sample {raster['sample']:,}"
        figure, panels = _panels(len(shown), title, len(raster["layers"]))
        for axes, row in zip(panels, shown, strict=True):
            neuron = [i for i, times in enumerate(row["spikes"]) for _ in times]
            step = [t for times in row["spikes"] for t in times]
            axes.scatter(step, neuron, s=120 / max(16, raster["steps"]), color=BLUE, linewidth=0)
            count = len(row["shown"])
            which = f"{count} of {row['neurons']:,} neurons" if count < row["neurons"] else f"{count} neuron{_s(row['shown'])}"
            _title(axes, row["name"], f"{which}, {len(step):,} spikes")
            axes.set_xlim(-0.5, raster["steps"] - 0.5)
            axes.set_ylim(max(1, count) - 0.5, -0.5)
            axes.set_yticks([])
            axes.set_xlabel("step", labelpad=1)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        for axes in _first_column(panels):
            axes.set_ylabel("neurons")
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


# --- the mapping ---------------------------------------------------------------------------------------------------------


def mesh_figure(mapping: Mapping[str, Any]) -> Figure | None:
    """A panel per resource: every core at its place on its chip's mesh, coloured by how much of the resource it uses.

    A tile of the mesh holds several cores, drawn as a block of cells; cores that are not used are empty.  The last panel has
    synaptic operations, as shares of the busiest core's.
    """
    rows, mesh = mapping.get("core_use"), mapping.get("mesh")
    if not rows or not mesh:
        return None
    used = sorted({row["chip"] for row in rows})
    shown = used[:MAX_CHIPS]
    layout = _Mesh.of(mesh, len(shown))
    panels = {name: np.array([row[name] for row in rows]) for name in rows[0] if name.startswith("percent_")}
    if all(row.get("used_neuron_groups", 1) == 1 for row in rows):  # nothing to see
        panels.pop("percent_neuron_groups", None)
    heads = {
        name: f"{name.removeprefix('percent_').replace('_', ' ')}: at most {_short(v.max())} %" for name, v in panels.items()
    }
    busiest = max(row["operations"] for row in rows)
    if busiest > 0:
        panels["operations"] = np.array([100 * row["operations"] / busiest for row in rows])
        heads["operations"] = f"synaptic operations: 100 % = {_short(busiest)} a step"
    height, width = layout.shape
    columns = 3 if layout.columns < 3 and len(panels) > 4 else 2
    lines = -(-len(panels) // columns)
    with _style():
        title = 0.5 if len(shown) > 1 else 0.35
        size = (10.7, 0.6 + lines * (title + 9.6 / columns * height / width))
        figure = Figure(figsize=size, layout="constrained")
        axes = [figure.add_subplot(lines, columns, i + 1) for i in range(len(panels))]
        for panel, (name, values) in zip(axes, panels.items(), strict=True):
            image = np.full(layout.shape, np.nan)
            for row, value in zip(rows, values, strict=True):
                if row["chip"] in shown:
                    image[layout.cell(shown.index(row["chip"]), row["x"], row["y"], row["core"])] = value
            drawn = panel.imshow(image, cmap=SCALE, vmin=0, vmax=100, interpolation="nearest")
            _grid(panel, layout, shown)
            panel.set_title(heads[name], fontsize=9.5, fontweight="bold", pad=16 if len(shown) > 1 else 5)
        bar = figure.colorbar(drawn, ax=axes, fraction=0.025, pad=0.01, aspect=30)
        bar.set_label("use of a core (%); white: not in use")
        chips = f"{len(used)} chip{_s(used)} of {_text(mapping['chip'], 24)}"
        more = f" (the first {len(shown)} chips)" if len(shown) < len(used) else ""
        _headline(figure, f"Every core at its place on the mesh: {len(rows):,} core{_s(rows)} on {chips}{more}")
    return figure


@dataclass(frozen=True)
class _Mesh:
    """Where a core's cell is in a picture of several chips.

    Args:
        across, down: cells of a tile.
        wide, high: tiles of a chip.
        chips, columns: in the picture, and side by side.
    """

    across: int
    down: int
    wide: int
    high: int
    chips: int
    columns: int

    @staticmethod
    def of(mesh: Mapping[str, int], chips: int) -> _Mesh:
        each = mesh["cores_per_tile"]
        across = next(n for n in range(int(np.ceil(each**0.5)), each + 1) if each % n == 0)
        tiles = -(-mesh["cores_per_chip"] // each)
        wide = min(mesh["width"], tiles)
        return _Mesh(across, each // across, wide, -(-tiles // wide), chips, int(np.ceil(chips**0.5)))

    def corner(self, chip: int) -> tuple[int, int]:
        """First row and column of the chip-th chip."""
        line, column = divmod(chip, self.columns)
        return line * (self.high * self.down + 3), column * (self.wide * self.across + 2)

    @property
    def shape(self) -> tuple[int, int]:
        lines = -(-self.chips // self.columns)
        top, left = self.corner(self.columns * lines - 1)
        return top + self.high * self.down, left + self.wide * self.across

    def cell(self, chip: int, x: int, y: int, core: int) -> tuple[int, int]:
        top, left = self.corner(chip)
        below, right = divmod(core % (self.across * self.down), self.across)
        return top + y * self.down + below, left + x * self.across + right


def _grid(axes: Axes, layout: _Mesh, chips: Sequence[int]) -> None:
    """Lines between tiles, and each chip's number."""
    axes.set_axis_off()
    for i, chip in enumerate(chips):
        top, left = (n - 0.5 for n in layout.corner(i))
        bottom, right = top + layout.high * layout.down, left + layout.wide * layout.across
        axes.vlines(np.linspace(left, right, layout.wide + 1), top, bottom, color="#AAAAAA", linewidth=0.5)
        axes.hlines(np.linspace(top, bottom, layout.high + 1), left, right, color="#AAAAAA", linewidth=0.5)
        if len(chips) > 1:
            axes.text(left, top - 0.2, f"chip {chip}", fontsize=7.5, va="bottom")
    axes.set_xlim(-0.7, layout.shape[1] - 0.3)
    axes.set_ylim(layout.shape[0] - 0.3, -0.7)


def use_figure(mapping: Mapping[str, Any]) -> Figure | None:
    """A bar per layer: what it takes of its cores.

    Where a chip has a pool, a layer's mean share of it, its parts stacked; else a panel per resource, with mean, least and most.
    """
    layers = [row for row in mapping.get("layers") or [] if row["cores"]]
    if not layers:
        return None
    shown = layers[:MAX_BARS]
    names = [f"{plain(row['name'], 16)} ({row['cores']:,})" for row in shown]
    where = f"{_text(mapping['chip'], 24)}{_first_of(len(shown), len(layers))}"
    title = f"What each layer takes of its cores (how many: in brackets) on {where}"
    pooled = all(row["pool_percent"] is not None for row in shown)
    with _style():
        figure = _pool_bars(shown, names) if pooled else _resource_bars(shown, names)
        _headline(figure, title)
    return figure


def _pool_bars(layers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    figure, (axes,) = _bar_chart(1, names, 0.3)
    start = np.zeros(len(layers))
    for part, colour in POOL_PARTS.items():
        size = np.array([row["pool_percent"] * row[part] / max(1, sum(row[p] for p in POOL_PARTS)) for row in layers])
        label = part.replace("_mean", "").replace("_", " ")
        axes.barh(range(len(layers)), size, 0.62, left=start, color=colour, label=label, edgecolor="white", linewidth=0.4)
        start = start + size
    for y, row in enumerate(layers):
        note = f"{row['pool_percent']:.0f} % (fullest: {row['binding'].replace('_', ' ')} {row['binding_percent']:.0f} %)"
        axes.text(start[y] + 1, y, note, va="center", fontsize=7.5)
    axes.set_xlim(0, 140 if start.max() > 60 else 100)
    axes.set_xticks([0, 20, 40, 60, 80, 100])
    axes.set_xlabel("mean share of the pool of a core (%); in brackets: what binds on the layer's fullest core")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncol=len(POOL_PARTS), handlelength=1.2)
    return figure


def _resource_bars(layers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Figure:
    resources = [name for name in layers[0]["percent"] if name not in ("neuron_groups", "list_words")]
    figure, panels = _bar_chart(len(resources), names, 0.3)
    figure.set_figwidth(3.0 + 2.0 * len(resources))
    for axes, resource in zip(panels, resources, strict=True):
        mean, low, high = np.array([row["percent"][resource] for row in layers]).T
        axes.barh(range(len(layers)), mean, 0.62, color=BLUE)
        ranged = np.flatnonzero(high > low)
        axes.hlines(ranged, low[ranged], high[ranged], color=VERMILLION, linewidth=2)
        axes.set_xlim(0, 100)
        axes.set_xlabel("of a core (%); line: least to most")
        axes.set_title(resource.replace("_", " "), fontsize=9, fontweight="bold")
    return figure


def traffic_figure(mapping: Mapping[str, Any]) -> Figure | None:
    """The traffic matrix: spikes a step from each population (row) to the cores of each other (column)."""
    traffic = mapping.get("traffic")
    if not traffic or not traffic["populations"]:
        return None
    names, total = traffic["populations"][:MAX_PANELS], len(traffic["populations"])
    matrix = np.array(traffic["messages"], dtype=float)[: len(names), : len(names)]
    filled = matrix[matrix > 0]
    if not filled.size:
        return None
    with _style():
        side = max(3.4, 1.6 + 0.52 * len(names))
        figure = Figure(figsize=(side + 1.5, side + 0.2), layout="constrained")
        axes = figure.add_subplot()
        norm = LogNorm(filled.min() * 0.9, filled.max() * 1.1)
        drawn = axes.imshow(np.where(matrix > 0, matrix, np.nan), cmap=SCALE, norm=norm, interpolation="nearest")
        labels = [_text(name, 16) for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(len(names)), labels, parse_math=False)
        axes.set_xlabel("to the cores of")
        axes.set_ylabel("from")
        if len(names) <= 16:
            for y, x in np.argwhere(matrix > 0):
                light = norm(matrix[y, x]) > 0.55
                axes.text(
                    x, y, _short(matrix[y, x]), ha="center", va="center", fontsize=7, color="black" if light else "white"
                )
        bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
        bar.set_label("spikes a step, one for each core that they go to")
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
        _headline(figure, f"Traffic between layers{_first_of(len(names), total)}")
    return figure


def pareto_figure(mapping: Mapping[str, Any]) -> Figure | None:
    """Cuts of which none beats another in all of cores, traffic and the busiest core: the front of what can be chosen."""
    plans = mapping.get("pareto")
    if not plans:
        return None
    cores, messages, operations = (
        np.array([plan[key] for plan in plans], float) for key in ("cores", "messages", "operations")
    )
    with _style():
        figure = Figure(figsize=(6.4, 3.9), layout="constrained")
        axes = figure.add_subplot()
        drawn = axes.scatter(cores, messages, c=operations, cmap=SCALE, s=52, edgecolor=TEXT, linewidth=0.6, zorder=3)
        first = int(np.lexsort((messages, cores))[0])
        axes.scatter(
            cores[first], messages[first], s=170, facecolor="none", edgecolor=VERMILLION, linewidth=1.6, label="fewest cores"
        )
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", handletextpad=0.1)
        axes.margins(0.1, 0.14)
        axes.set_xlabel("cores")
        axes.set_ylabel("spikes that arrive at cores, a step")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        bar = figure.colorbar(drawn, ax=axes)
        bar.set_label("synaptic operations of the busiest core, a step")
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        count = f"{len(plans)} cut{_s(plans)} of which none beats another in all three"
        _headline(figure, f"Cores against traffic on {_text(mapping['chip'], 24)}: {count}")
    return figure


# --- a sweep -------------------------------------------------------------------------------------------------------------


def save_sweep(sweep: Mapping[str, Any], folder: Path | str) -> list[Path]:
    """Writes pareto.png of a sweep, whole or not at all; nothing where no trial is done.

    Args:
        sweep: as :meth:`qpsnn_lava.sweep.Sweep.to_dict` makes it.
        folder: is made where it is missing.

    Raises:
        RunError: the folder or the disk does not take the file.
    """
    return save({"pareto": sweep_figure(sweep)}, folder)


def sweep_figure(sweep: Mapping[str, Any]) -> Figure | None:
    """Validation accuracy of each trial, with its 95 % interval, against its MB, its cores and its synaptic operations.

    A line joins the trials of each panel's own front: no other is at least as accurate and needs less.  Those with a ring are of
    the front of all the sweep's objectives.
    """
    rows = [row for row in sweep["trials"] if row["accuracy"] is not None]
    if not rows:
        return None
    accuracy, low, high = (100 * np.array([row[key] for row in rows], dtype=float) for key in ("accuracy", "low", "high"))
    chosen = np.array([row["front"] for row in rows], dtype=bool)
    with _style():
        figure = Figure(figsize=(10.4, 3.7), layout="constrained")
        panels = figure.subplots(1, len(SWEEP_COSTS), sharey=True)
        for axes, (key, label) in zip(panels, SWEEP_COSTS.items(), strict=True):
            cost = np.array([row[key] for row in rows], dtype=float)
            axes.vlines(cost, low, high, color=GREY, linewidth=0.7, zorder=1)
            axes.scatter(cost, accuracy, s=22, color=BLUE, linewidth=0, zorder=3, label="trial")
            front = _front(cost, -accuracy)
            axes.plot(
                cost[front],
                accuracy[front],
                drawstyle="steps-post",
                color=VERMILLION,
                linewidth=1.2,
                marker="o",
                markersize=5,
                zorder=4,
                label="front of this panel",
            )
            ring = {"facecolor": "none", "edgecolor": TEXT, "linewidth": 1.0, "zorder": 5}
            axes.scatter(cost[chosen], accuracy[chosen], s=85, label="front of the objectives", **ring)
            axes.margins(0.08, 0.06)
            axes.set_xlabel(label)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=key == "cores"))
        panels[2].xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        panels[0].set_ylabel("validation accuracy (%)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncol=3, handletextpad=0.3)
        objectives = ", ".join(name.replace("_", " ") for name in sweep["objectives"])
        what = f"{len(rows)} trial{_s(rows)}, n = {rows[0]['n']:,}, grey: 95 % interval; objectives: {objectives}"
        _headline(figure, f"Sweep {_text(sweep['name'], 40)}: {what}")
    return figure


def _front(cost: NDArray[np.float64], loss: NDArray[np.float64]) -> list[int]:
    """Indices of what no other beats in both, by rising cost; of equals the first."""
    front: list[int] = []
    for i in np.lexsort((loss, cost)):
        if not front or loss[i] < loss[front[-1]]:
            front.append(int(i))
    return front


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


def _short(value: float) -> str:
    """Three digits at most: 0.12, 9.5, 120, 3.2k, 1.5M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * limit:
            scaled = value / limit
            return f"{scaled:.0f}{unit}" if scaled >= 99.5 else f"{scaled:.3g}{unit}"
    return f"{value:.0f}" if value >= 99.5 else f"{value:.2g}"


def _s(things: Sequence[Any]) -> str:
    return "" if len(things) == 1 else "s"
