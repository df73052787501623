"""``compare.html``: runs side by side, as one file that asks for nothing.

What it has in common with the other pages, and how its numbers say where they come from: :mod:`qpsnn_lava.shell`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapping.chip import STATEMENT
from qpsnn_lava.compare import COLUMNS
from qpsnn_lava.report_file import STAGES
from qpsnn_lava.shell import MAX_LAYERS, axis, drawn, name_text

KINDS = {"size_mb": "three", "float_mb": "three", "bits": "three", "seconds": "seconds"}  # of a number; else count
TITLES = {"channels": "channels", "bits": "bits", "cores": "cores", "synapse_words": "words"}


def compare_page(made: Mapping[str, Any]) -> str:
    """The page as HTML, everything inside.

    Args:
        made: by :func:`qpsnn_lava.compare.compared`; of more than 500 settings or layers the first are shown, and the page says so.
    """
    first, *others = (run["label"] for run in made["runs"])
    return drawn(
        "compare.html.j2",
        made,
        titles=(first, f" beside {name_text(others[0]) if len(others) == 1 else f'{len(others)} others'}"),
        foot=f"cores and words: {STATEMENT}",
        file="compare.json",
        made=made,
        view=_view(made),
    )


def _view(made: Mapping[str, Any]) -> dict[str, Any]:
    runs = range(len(made["runs"]))
    accuracy = made["accuracy"]
    known = [value for row in accuracy for value in row["values"] if value is not None]
    keys = {row["key"]: i for i, row in enumerate(made["numbers"])}
    last = [_last(accuracy, i) for i in runs]
    return {
        "index": {},
        "axis": axis([value["interval"] for value in known]),
        "stages": STAGES,
        "kinds": KINDS,
        "columns": {key: TITLES[key] for key in COLUMNS},
        "most": MAX_LAYERS,
        "places": keys,
        "last": last,
        "measured": [[i for i in runs if row["values"][i] is not None] for row in accuracy],
        "unmeasured": [i for i in runs if last[i] is None],
        "same_data": not any(row["key"] == "dataset.name" for row in made["settings"]),
    }


def _last(accuracy: list[Mapping[str, Any]], run: int) -> int | None:
    """The last stage in which a run was measured, but for Lava's, which is of few samples: its place, or None."""
    measured = [i for i, row in enumerate(accuracy) if row["values"][run] is not None]
    exact = [i for i in measured if accuracy[i]["stage"] != "lava"]
    return max(exact or measured, default=None)
