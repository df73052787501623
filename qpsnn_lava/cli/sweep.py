"""``qpsnn sweep``: many trials of an experiment, by any number of workers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from netx_export.errors import ConfigError
from qpsnn_lava.cli.console import JsonFlag, columns, err, print_json, screen, telling

if TYPE_CHECKING:
    from qpsnn_lava.sweep import Sweep


def sweep(
    space: Annotated[Path, typer.Argument(metavar="SPACE.toml", help="What varies (docs/sweep.md).", show_default=False)],
    storage: Annotated[
        Path, typer.Option("--storage", metavar="FILE", help="The journal that all workers share.", show_default=False)
    ],
    trials: Annotated[
        int | None, typer.Option("--trials", metavar="N", help="Trials of all workers together, instead of the file's.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Results (default: runs/SWEEP).")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train and map an experiment with many values; the same command elsewhere is another worker on the same sweep.

    A trial whose worker was killed is done by another one, or when the command is given again. Judged on the validation set.
    """
    from qpsnn_lava import sweep as sweeps
    from qpsnn_lava.space import load_space

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("sweep is for one process; start it several times instead, with the same --storage.")
    plan = load_space(space)
    folder = out or Path("runs") / plan.name
    with telling(quiet=as_json) as say:
        found = sweeps.sweep(plan, storage, folder, trials=trials, say=say)
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)
        err().print(f"\nResults: {escape(str(folder / 'sweep.md'))}", highlight=False, soft_wrap=True)


def _print(found: Sweep) -> None:
    from qpsnn_lava.sweep import cells, value_text

    keys = list(dict.fromkeys(key for trial in found.trials for key in trial.values))
    table = columns("", "trial", *keys, "accuracy", "MB", "cores", "ops", "seconds", "state", left=["", "state"])
    for trial in found.trials:
        values = (value_text(trial.values[key]) if key in trial.values else "" for key in keys)
        mark = "*" if trial.number in found.front else ""
        accuracy, *rest = cells(trial)
        table.add_row(mark, str(trial.number), *map(escape, (*values, accuracy.partition(" (")[0], *rest, trial.state)))
    console = screen()
    console.print(table)
    samples = next((trial.outcome.accuracy.n for trial in found.trials if trial.outcome is not None), 0)
    objectives = " and ".join(found.objectives)
    console.print(f"[dim]*: no other trial beats it in {objectives}; all on the {samples:,} samples of the validation set[/]")
    for trial in found.trials:
        if trial.note:
            console.print(f"trial {trial.number}: {escape(trial.note)}", highlight=False, soft_wrap=True)
