"""``qpsnn run``, ``train``, ``export`` and ``report``: the flow from an experiment to a report, in a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from netx_export.errors import CapacityError, ConfigError, MismatchError
from qpsnn_lava.cli.console import JsonFlag, command_line, err, print_json, screen, telling

if TYPE_CHECKING:
    from qpsnn_lava.config import Experiment

ExperimentName = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="digits, fashion-mnist, or a TOML file.", show_default=False)
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace one value, e.g. prune.keep=0.4.")
]
DataFolder = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Folder of the data set's files.")]
OutFolder = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Run folder (default: runs/NAME).")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]


def run(
    experiment: ExperimentName,
    set_: Overrides = None,
    data: DataFolder = None,
    out: OutFolder = None,
    as_json: JsonFlag = False,
) -> None:
    """Train, prune, freeze, simulate, run on Lava, map and report: everything, into one run folder.

    A run that was interrupted goes on where it was.
    """
    from qpsnn_lava import pipeline

    plan, folder = plan_of(experiment, set_, data, out)
    with telling(quiet=as_json) as say:
        try:
            made = pipeline.run(plan, folder, say=say, command=command_line())
        except MismatchError:
            if as_json and (folder / "report.json").exists():
                print_json(read_report(folder))
            raise
    if as_json:
        print_json(made)
    else:
        _print_summary(made)
        err().print(f"\nReport: {escape(str(folder / 'report.md'))}", highlight=False, soft_wrap=True)
    if not made["mapping"]["fits"]:
        raise CapacityError(made["mapping"]["verdict"])


def train(
    experiment: ExperimentName,
    set_: Overrides = None,
    data: DataFolder = None,
    out: OutFolder = None,
    as_json: JsonFlag = False,
) -> None:
    """Train, prune and fine-tune only: leaves model.safetensors in the run folder."""
    from qpsnn_lava import pipeline

    plan, folder = plan_of(experiment, set_, data, out)
    with telling(quiet=as_json) as say:
        done = pipeline.fit(plan, pipeline.open_folder(plan, folder), say)
    if as_json:
        print_json({"run": str(folder), "phases": {k: v for k, v in done.items() if k != "prune"}})
    else:
        err().print(f"Model: {escape(str(folder / 'model.safetensors'))}", highlight=False, soft_wrap=True)


def export(run_folder: RunArgument, as_json: JsonFlag = False) -> None:
    """Freeze a trained run to integers: writes its network.net and unpruned.net."""
    from qpsnn_lava import pipeline

    files, plan = open_run(run_folder)
    with telling(quiet=as_json) as say:
        pipeline.export(plan, files, say)
    if as_json:
        print_json({"network": str(files.network), "unpruned": str(files.unpruned)})
    else:
        print(files.network)


def report(run_folder: RunArgument, as_json: JsonFlag = False) -> None:
    """Write a finished run's report.json, report.md and plots again, and show the summary."""
    from qpsnn_lava import pipeline

    files, plan = open_run(run_folder)
    with telling(quiet=as_json) as say:
        made = pipeline.write_report(plan, files, say)
    if as_json:
        print_json(made)
    else:
        _print_summary(made)


def plan_of(experiment: str, overrides: list[str] | None, data: Path | None, out: Path | None) -> tuple[Experiment, Path]:
    from qpsnn_lava.config import load_experiment

    extra = [f"data.folder={json.dumps(str(data))}"] if data is not None else []
    plan = load_experiment(experiment, [*(overrides or []), *extra])
    return plan, out or Path("runs") / plan.name


def open_run(folder: Path) -> tuple[Any, Experiment]:
    from qpsnn_lava.config import load_experiment
    from qpsnn_lava.pipeline import RunFolder

    files = RunFolder(folder)
    if not files.config.exists():
        raise ConfigError(
            f"{folder} is no run folder: it has no config.toml. Make one with: qpsnn run EXPERIMENT --out {folder}"
        )
    return files, load_experiment(files.config)


def read_report(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def _print_summary(made: dict[str, Any]) -> None:
    from qpsnn_lava.report import summary

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for label, value in summary(made):
        table.add_row(escape(label), escape(value))
    screen().print(table)
