"""``qpsnn run``, ``train``, ``export`` and ``report``: the flow from an experiment to a report, in a run folder."""

from __future__ import annotations

import json
import os
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
    str,
    typer.Argument(
        metavar="EXPERIMENT", help="digits, fashion-mnist, another built-in name, or a TOML file.", show_default=False
    ),
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

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("run is for one process; start 'train' with torchrun, then 'run' without it: it goes on from there.")
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
        err().print(f"\nReport: {escape(str(folder / 'report.html'))}", highlight=False, soft_wrap=True)
    if not made["mapping"]["fits"]:
        raise CapacityError(made["mapping"]["verdict"])


def train(
    experiment: Annotated[
        str | None, typer.Argument(metavar="[EXPERIMENT]", help="As for run; left out with --resume.", show_default=False)
    ] = None,
    set_: Overrides = None,
    data: DataFolder = None,
    out: OutFolder = None,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="RUN", help="Go on with a run folder's training.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train, prune and fine-tune only: leaves model.safetensors in the run folder.

    The state is kept after every epoch and on SIGTERM or Ctrl-C. Several processes: torchrun --nproc_per_node=N -m qpsnn_lava train ...
    """
    from qpsnn_lava import parallel, pipeline

    with parallel.joined():
        if resume is None:
            if experiment is None:
                raise ConfigError("train needs an EXPERIMENT, or --resume RUN to go on with a run folder.")
            plan, folder = plan_of(experiment, set_, data, out)
            files = pipeline.open_folder(plan, folder)
        else:
            if experiment or set_ or data or out:
                raise ConfigError(
                    f"--resume {resume} brings its own experiment; leave out EXPERIMENT, --set, --data and --out."
                )
            files, plan = open_run(resume)
        with telling(quiet=as_json or parallel.rank() > 0) as say:
            done = pipeline.fit(plan, files, say)
        if parallel.rank() > 0:
            return
    if as_json:
        print_json({"run": str(files.path), "phases": {k: v for k, v in done.items() if k != "prune"}})
    else:
        err().print(f"Model: {escape(str(files.model))}", highlight=False, soft_wrap=True)


def export(
    run_folder: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run folder.", show_default=False)] = None,
    nir: Annotated[Path | None, typer.Option("--nir", metavar="FILE.net", help="Write this netx file as NIR instead.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="X.nir", help="With --nir: where to (default: beside FILE.net).")
    ] = None,
    dt: Annotated[float | None, typer.Option(metavar="SECONDS", help="With --nir: the step's length (default: 1e-4).")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Freeze a trained run to integers (network.net, unpruned.net), or write a netx file for other frameworks (--nir)."""
    if nir is not None and run_folder is None:
        _export_nir(nir, out or nir.with_suffix(".nir"), dt, as_json)
        return
    if run_folder is None or nir is not None or out is not None or dt is not None:
        raise ConfigError("export takes either a RUN, or --nir FILE.net with --out X.nir and --dt SECONDS.")
    from qpsnn_lava import pipeline

    files, plan = open_run(run_folder)
    with telling(quiet=as_json) as say:
        pipeline.export(plan, files, say)
    if as_json:
        print_json({"network": str(files.network), "unpruned": str(files.unpruned)})
    else:
        print(files.network)


def _export_nir(file: Path, out: Path, dt: float | None, as_json: bool) -> None:
    from netx_export import hdf5, nir_file

    step = nir_file.DT if dt is None else dt
    nir_file.write_nir(hdf5.read(file), out, step)
    if as_json:
        print_json({"nir": str(out), "dt": step})
    else:
        print(out)


def report(run_folder: RunArgument, as_json: JsonFlag = False) -> None:
    """Write a finished run's report.json, report.html, report.md and plots again, and show the summary."""
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
