"""``qpsnn ablate``: which choice matters, over seeds, with intervals."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from netx_export.errors import ConfigError
from qpsnn_lava.cli.console import JsonFlag, columns, command_line, err, print_json, screen, telling


def ablate(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="What varies (docs/ablation.md).", show_default=False)],
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="Processes that train at the same time (default: cores).")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Results (default: runs/PLAN).")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train a plan's settings with several seeds, sharing what they share, and compare them on the test set.

    An interrupted plan goes on where it was: finished runs are kept, one under way goes on from its last epoch.
    """
    from qpsnn_lava import ablate as ablation
    from qpsnn_lava.ablation import load_plan

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("ablate is for one process, which starts the others itself; take --workers N instead of torchrun.")
    asked = load_plan(plan)
    folder = out or Path("runs") / asked.name
    count = (os.cpu_count() or 1) if workers is None else workers
    with telling(quiet=as_json) as say:
        made = ablation.ablate(asked, folder, workers=count, say=say, command=command_line())
    if as_json:
        print_json(made)
    else:
        _print(made)
        err().print(f"\nResults: {escape(str(folder / 'report.md'))}", highlight=False, soft_wrap=True)


def _print(made: dict[str, Any]) -> None:
    from qpsnn_lava.ablation_report import WORDS, difference_text, place_text

    console = screen()
    for study in made["studies"]:
        table = columns(study["name"], "at", "difference, 95 % interval", "n", "is", left=[study["name"], "at"])
        for row in study["differences"]:
            if len(row["at"]) <= 1:
                what = f"{row['setting']} - {row['baseline']}"
                verdict = WORDS[row["verdict"]] if row["interval"] else ""
                table.add_row(escape(what), escape(place_text(row)), difference_text(row), str(row["n"]), verdict)
        console.print(table)
    console.print(f"[dim]{made['done']} of {made['runs']} runs; percentage points on the whole test set, paired by seed[/]")
