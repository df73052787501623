"""Draws docs/flow.png, the picture of the flow in README.md:  python docs/flow.py"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

TRAINING, NETWORK, MAPPING = "#dbe9f6", "#fde5cd", "#dcefdc"
INK, GREY = "#222222", "#666666"
HALF_HEIGHT = 0.42

# name: (x of the centre, y, half width, colour, first line, second line)
BOXES = {
    "data": (0.95, 4.0, 0.85, TRAINING, "data set", "images, as spikes"),
    "train": (3.35, 4.0, 1.2, TRAINING, "train in SLAYER", "ReScaW: chip integers"),
    "prune": (6.0, 4.0, 1.1, TRAINING, "prune", "SVS scores, cut"),
    "tune": (8.3, 4.0, 0.85, TRAINING, "fine-tune", "the small model"),
    "freeze": (10.55, 4.0, 1.05, TRAINING, "freeze", "or say why not"),
    "network": (10.55, 2.45, 1.05, NETWORK, "Network", "immutable integers"),
    "file": (8.3, 1.0, 0.85, NETWORK, "network.net", "a netx file"),
    "simulate": (8.3, 2.45, 0.85, NETWORK, "simulate", "integers, exact"),
    "lava": (5.7, 1.0, 1.0, NETWORK, "Lava", "fixed-point run"),
    "map": (10.55, 1.0, 1.05, MAPPING, "map", "cores, utilisation"),
    "report": (1.95, 2.45, 1.15, TRAINING, "report", "json, markdown, plots"),
}
ARROWS = [
    ("data", "train"),
    ("train", "prune"),
    ("prune", "tune"),
    ("tune", "freeze"),
    ("freeze", "network"),
    ("network", "simulate"),
    ("network", "file"),
    ("network", "map"),
    ("file", "lava"),
]


def draw() -> Figure:
    """The whole picture."""
    figure = Figure(figsize=(11.8, 4.6), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0.0, 11.8), ylim=(-0.15, 4.75))
    axes.axis("off")
    for x, y, half, colour, first, second in BOXES.values():
        axes.add_patch(
            FancyBboxPatch(
                (x - half, y - HALF_HEIGHT),
                2 * half,
                2 * HALF_HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.12",
                facecolor=colour,
                edgecolor=INK,
                linewidth=1,
            )
        )
        axes.text(x, y + 0.14, first, ha="center", va="center", fontsize=12.5, weight="bold", color=INK)
        axes.text(x, y - 0.18, second, ha="center", va="center", fontsize=10, color=INK)
    for source, target in ARROWS:
        _arrow(axes, *_ends(source, target))
    # SLAYER = simulator = Lava: the equalities that every run checks
    _equality(axes, (8.3, 3.58), (8.3, 2.87), (7.35, 3.22), "= spike for spike")
    _equality(axes, (7.75, 2.03), (6.4, 1.42), (6.15, 1.78), "= spike for spike")
    # everything ends in the report: one gathering line below the boxes, one arrow up
    for name in ("map", "lava"):
        x = BOXES[name][0]
        axes.plot([x, x], [1.0 - HALF_HEIGHT, 0.25], color=GREY, linewidth=1.2)
    axes.plot([10.55, 1.95], [0.25, 0.25], color=GREY, linewidth=1.2)
    _arrow(axes, (1.95, 0.25), (1.95, 2.45 - HALF_HEIGHT), GREY)
    _arrow(axes, (7.45, 2.45), (3.1, 2.45), GREY)
    _legend(axes)
    return figure


def _ends(source: str, target: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow leaves one box and reaches the other: side to side in a row, else from below or across to the corner."""
    x0, y0, half0, *_ = BOXES[source]
    x1, y1, half1, *_ = BOXES[target]
    if y0 == y1:
        way = 1 if x1 > x0 else -1
        return (x0 + way * half0, y0), (x1 - way * half1, y1)
    if x0 == x1:
        return (x0, y0 - HALF_HEIGHT), (x1, y1 + HALF_HEIGHT)
    return (x0 - half0 + 0.1, y0 - HALF_HEIGHT), (x1 + half1 - 0.15, y1 + HALF_HEIGHT)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = INK) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color=colour, linewidth=1.2, shrinkA=0, shrinkB=1)
    )


def _equality(axes: Axes, a: tuple[float, float], b: tuple[float, float], at: tuple[float, float], text: str) -> None:
    axes.plot([a[0], b[0]], [a[1], b[1]], color="#b03030", linewidth=1.4, linestyle=(0, (4, 2)))
    axes.text(
        *at,
        text,
        color="#b03030",
        fontsize=11,
        weight="bold",
        ha="center",
        va="center",
    )


def _legend(axes: Axes) -> None:
    for i, (colour, name) in enumerate(((TRAINING, "qpsnn_lava"), (NETWORK, "netx_export"), (MAPPING, "mapping"))):
        x = 3.1 + 1.75 * i
        axes.add_patch(
            FancyBboxPatch((x, -0.06), 0.25, 0.16, boxstyle="square,pad=0", facecolor=colour, edgecolor=INK, linewidth=0.8)
        )
        axes.text(x + 0.34, 0.02, name, fontsize=10, family="monospace", va="center", color=INK)


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("flow.png"), dpi=110, metadata={"Software": None})
