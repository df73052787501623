"""``qpsnn inspect --html``: what a netx file holds and what Lava ignores in it, as one file that asks for nothing.

What it has in common with the other pages, and how its numbers say where they come from: :mod:`qpsnn_lava.shell`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from netx_export.bounds import LONGEST
from qpsnn_lava.report import plain
from qpsnn_lava.shell import MAX_LAYERS, MAX_PANELS, drawn, histogram

FOOT = "read from the file and bounded in exact arithmetic; nothing was run"
MAX_WARNINGS = 500  # in a table
_MARKS = {"taken": "✓", "as_lava": "▲", "refused": "✕"}
_TITLES = {"taken": "Taken as it is", "as_lava": "Taken with --as-lava", "refused": "Refused"}


def of_file(
    name: str,
    command: str,
    found: Mapping[str, Any],
    histograms: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """What :func:`inspect_page` takes.

    Args:
        name: of the file.
        command: the command line.
        found: of :func:`netx_export.inspect.inspect_file`.
        histograms: of :func:`qpsnn_lava.plots.weight_rows`.
        versions: of the packages that the figures depend on.
    """
    made = {"name": name, "command": command, "versions": versions, **found, "histograms": histograms}
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def inspect_page(made: Mapping[str, Any]) -> str:
    """The page as HTML, everything inside.

    Args:
        made: by :func:`of_file`; of more than 500 layers or warnings the first are shown, and the page says so.
    """
    return drawn(
        "inspect.html.j2",
        made,
        titles=(made["name"], ", a netx file"),
        foot=FOOT,
        file="inspect.json",
        found=made,
        view=_view(made),
    )


def _view(made: Mapping[str, Any]) -> dict[str, Any]:
    layers, warnings = made["layers"], made["warnings"]
    shown = layers[:MAX_LAYERS]
    return {
        "index": {row["name"]: i for i, row in reversed(list(enumerate(shown)))},
        "layers": shown,
        "warnings": warnings[:MAX_WARNINGS],
        "mark": _MARKS[made["read"]],
        "title": _TITLES[made["read"]],
        "sentence": _sentence(made["read"], warnings),
        "tight": _tight(layers),
        "longest": LONGEST,
        "dilated": any(row["dilation"] not in (None, [1, 1]) for row in layers),
        "grouped": any(row["groups"] not in (None, 1) for row in layers),
        "delayed": any(row["delay"] for row in layers),
        "biased": any(row["bias"] for row in layers),
        "conv": any(row["kernel"] for row in layers),
        "bounded": [i for i, row in enumerate(shown) if row["reach"] is not None],
        "beyond": _beyond,
        "weights": [histogram(row) for row in made["histograms"][:MAX_PANELS]],
    }


def _sentence(read: str, warnings: Sequence[Mapping[str, Any]]) -> str:
    """What the other commands do with the file, and why."""
    if read == "taken":
        silent = "Lava ignores nothing in it" if not warnings else "what Lava makes of it without saying so stands below"
        return f"Every command reads this file, and {silent}."
    told = [warning for warning in warnings if warning["read"] == read]
    reasons = "; ".join(f"{w['layer']}, {w['key']} {w['what']}".rstrip(".") for w in told[:2])
    why = f": {reasons}{'; and more, below' if len(told) > 2 else ''}" if told else ""
    if read == "as_lava":
        both = "simulate and verify take this file with --as-lava and ignore what Lava ignores"
        return plain(f"{both}; without it every command refuses it{why}.", 900)
    ways = "; ".join(dict.fromkeys(w["way"].rstrip(".") for w in told))
    return plain(f"No command runs this file as it is{why}. Way out: {ways}.", 900)


def _tight(layers: Sequence[Mapping[str, Any]]) -> int | None:
    """The layer with the shortest safe window; None where no layer has bounds."""
    steps = {
        i: float("inf") if row["reach"]["safe_steps"] is None else row["reach"]["safe_steps"]
        for i, row in enumerate(layers)
        if row["reach"] is not None
    }
    return min(steps, key=lambda i: steps[i]) if steps else None


def _beyond(reach: Mapping[str, Any], state: str) -> bool:
    """Whether a state can go to its limit within the window."""
    return reach[state] is not None and reach[state] >= reach[f"{state}_limit"]
