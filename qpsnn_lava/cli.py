"""The command line: parse, call one function, print.  Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from netx_export.errors import CapacityError, ConfigError, FormatError, MismatchError, QpsnnError

if TYPE_CHECKING:
    from qpsnn_lava.config import Experiment
    from qpsnn_lava.pipeline import Event

app = typer.Typer(
    name="qpsnn",
    help="Quantised, pruned spiking networks: trained in SLAYER, exact on Lava, mapped onto Loihi.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.")]
NetFile = Annotated[Path, typer.Argument(metavar="FILE.net", help="A netx file.", show_default=False)]
ExperimentName = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="digits, fashion-mnist, or a TOML file.", show_default=False)
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace one value, e.g. prune.keep=0.4.")
]
DataFolder = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Folder of the data set's files.")]
OutFolder = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Run folder (default: runs/NAME).")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]

_INTERRUPTED = 130  # 128 + SIGINT
_UsageError: Any = typer.BadParameter.__bases__[0]  # click's UsageError, or that of the copy of click in newer typer


def main() -> None:
    """Runs the command line and exits with the design's codes: 0 ok, 1 usage or internal, 2 does not fit, 3 mismatch."""
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="qpsnn", standalone_mode=False)
        if code == _INTERRUPTED:  # what newer typer makes of Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _complain("interrupted; the same command goes on from the last finished stage.")
        sys.exit(_INTERRUPTED)
    except _UsageError as error:
        hint = f" Try '{error.ctx.command_path} --help'." if error.ctx else ""
        _complain(f"{error.format_message().rstrip('.')}.{hint}")
        sys.exit(1)
    except QpsnnError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        _complain(f"{error.name} is not installed, and this needs it. 'qpsnn doctor' says how to install it.")
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("QPSNN_DEBUG"):
            raise
        _complain(f"internal error ({type(error).__name__}: {error}). Set QPSNN_DEBUG=1 to see where, and please report it.")
        sys.exit(1)


# --- the flow ----------------------------------------------------------------------------------------------------------


@app.command()
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

    plan, folder = _plan(experiment, set_, data, out)
    with _telling(quiet=as_json) as say:
        try:
            made = pipeline.run(plan, folder, say=say, command=_command_line())
        except MismatchError:
            if as_json and (folder / "report.json").exists():
                _print_json(_read_report(folder))
            raise
    if as_json:
        _print_json(made)
    else:
        _print_summary(made)
        _err().print(f"\nReport: {escape(str(folder / 'report.md'))}", highlight=False, soft_wrap=True)
    if not made["mapping"]["fits"]:
        raise CapacityError(made["mapping"]["verdict"])


@app.command()
def train(
    experiment: ExperimentName,
    set_: Overrides = None,
    data: DataFolder = None,
    out: OutFolder = None,
    as_json: JsonFlag = False,
) -> None:
    """Train, prune and fine-tune only: leaves model.safetensors in the run folder."""
    from qpsnn_lava import pipeline

    plan, folder = _plan(experiment, set_, data, out)
    with _telling(quiet=as_json) as say:
        done = pipeline.fit(plan, pipeline.open_folder(plan, folder), say)
    if as_json:
        _print_json({"run": str(folder), "phases": {k: v for k, v in done.items() if k != "prune"}})
    else:
        _err().print(f"Model: {escape(str(folder / 'model.safetensors'))}", highlight=False, soft_wrap=True)


@app.command()
def export(run_folder: RunArgument, as_json: JsonFlag = False) -> None:
    """Freeze a trained run to integers: writes its network.net and unpruned.net."""
    from qpsnn_lava import pipeline

    files, plan = _open_run(run_folder)
    with _telling(quiet=as_json) as say:
        pipeline.export(plan, files, say)
    if as_json:
        _print_json({"network": str(files.network), "unpruned": str(files.unpruned)})
    else:
        print(files.network)


@app.command()
def inspect(
    file: NetFile,
    as_lava: Annotated[bool, typer.Option("--as-lava", help="Ignore what Lava ignores.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show what a netx file holds: shapes, integer ranges, stored bits, thresholds."""
    from netx_export import hdf5
    from netx_export.inspect import describe

    found = describe(hdf5.read(file, as_lava=as_lava))
    if as_json:
        _print_json(found)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, right in (
        ("layer", 0),
        ("type", 0),
        ("shape", 0),
        ("weights", 1),
        ("range", 1),
        ("bits", 1),
        ("thresh.", 1),
        ("bias", 1),
    ):
        table.add_column(title, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for layer in found["layers"]:
        table.add_row(
            escape(layer["name"]),
            layer["type"],
            "x".join(map(str, layer["shape"])),
            f"{layer['weights']:,}" if layer["weights"] else "",
            _range(layer["weight"]),
            str(layer["stored_bits"] or ""),
            "" if layer["threshold"] is None else str(layer["threshold"]),
            _range(layer["bias"]),
        )
    console = Console(highlight=False)
    console.print(table)
    graded = f", graded input of {found['input_bits']} bits" if found["input_bits"] else ""
    window = f", window of {found['steps']} steps" if found["steps"] else ""
    readout = f", read-out: {found['readout']}" if found["readout"] else ""
    console.print(f"\n{found['neurons']:,} neurons, {found['synapses']:,} synapses{graded}{window}{readout}")


@app.command()
def simulate(
    file: NetFile,
    input_: Annotated[Path, typer.Option("--input", metavar="X.npy", help="Whole numbers (samples, *shape, time).")],
    out: Annotated[Path | None, typer.Option("--out", metavar="Y.npz", help="Where spikes and voltages go.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run a netx file exactly, on integers; writes every population's spikes and the output's voltage."""
    import numpy as np

    from netx_export import engine, hdf5
    from netx_export.atomic import replacing
    from netx_export.simulate import decide, synaptic_operations

    network = hdf5.read(file)
    frames = _load_array(input_)
    made = engine.simulate_fast(network, frames)
    result: dict[str, Any] = {
        "samples": int(frames.shape[0]),
        "steps": int(frames.shape[-1]),
        "spikes": {name: int(np.count_nonzero(s)) for name, s in made.spikes.items()},
        "rates": {name: float(np.count_nonzero(s) / s.size) for name, s in made.spikes.items()},
        "synaptic_ops": synaptic_operations(network, made),
    }
    if network.readout is not None:
        result["classes"] = decide(network, made)[0].tolist()
    if out is not None:
        with replacing(out) as temporary, temporary.open("wb") as stream:
            arrays = {f"spikes/{k}": v for k, v in made.spikes.items()} | {f"voltage/{k}": v for k, v in made.voltage.items()}
            np.savez_compressed(stream, allow_pickle=False, **arrays)
        result["out"] = str(out)
    if as_json:
        _print_json(result)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("population", "spikes", "rate"):
        table.add_column(title, justify="left" if title == "population" else "right")
    for name, count in result["spikes"].items():
        table.add_row(escape(name), f"{count:,}", f"{100 * result['rates'][name]:.2f} %")
    Console(highlight=False).print(table)


@app.command()
def verify(
    file: Annotated[Path | None, typer.Argument(metavar="FILE.net", help="A netx file.", show_default=False)] = None,
    input_: Annotated[
        Path | None, typer.Option("--input", metavar="X.npy", help="Whole numbers; random where it is left out.")
    ] = None,
    against: Annotated[Path | None, typer.Option(metavar="OUT.npy", help="A recording instead of Lava.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples of random input.")] = 8,
    density: Annotated[float, typer.Option(min=0.0, max=1.0, help="Spikes per neuron and step of random input.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the random input.")] = 0,
    lava_models: Annotated[str, typer.Option(help="stock, or fast (ours, the same integers).")] = "stock",
    backend: Annotated[str, typer.Option(help="cpu or loihi2.")] = "cpu",
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds.")] = 600.0,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only the I-th of N parts of the samples.")] = "1/1",
    results: Annotated[
        Path | None, typer.Option(metavar="R.json", help="Keeps what is done; a stopped check goes on.")
    ] = None,
    merge: Annotated[
        list[Path] | None, typer.Option("--merge", metavar="R.json", help="Add up the results of all shards.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Hold a netx file's run on Lava, or a recording, against the exact simulation (exit code 3 where they differ)."""
    from netx_export import hdf5
    from netx_export import verify as checks

    if merge:
        result = checks.merge(merge)
    elif file is None:
        raise ConfigError("verify needs a FILE.net, or the results of shards: --merge R1.json --merge R2.json.")
    else:
        network = hdf5.read(file)
        frames = checks.random_input(network, samples, density, seed) if input_ is None else _load_array(input_)
        part = _shard(shard)
        if against is None:
            result = checks.verify_lava(
                file, network, frames, backend=backend, models=lava_models, timeout=timeout, shard=part, results=results
            )
        else:
            result = checks.verify_recorded(file, network, frames, against, shard=part, results=results)
    if as_json:
        _print_json(result.to_dict())
    else:
        Console(highlight=False).print(escape(str(result)))
    if result.mismatches:
        raise MismatchError(result.where)


@app.command(name="map")
def map_(
    file: NetFile,
    chip: Annotated[str | None, typer.Option(help="Name or TOML file of the chip (default: loihi2).")] = None,
    board: Annotated[str | None, typer.Option(help="Name of a board; it brings its chip and their number.")] = None,
    limit: Annotated[list[str] | None, typer.Option("--limit", metavar="NAME=VALUE", help="Replace one limit.")] = None,
    chips: Annotated[int | None, typer.Option(min=1, help="Chips on the board (default: 1, or the board's).")] = None,
    objective: Annotated[str, typer.Option(help="cores, traffic or balance.")] = "cores",
    free_tiles: Annotated[
        bool, typer.Option("--free-tiles", help="Any width, height, channels a slice: assumed legal.")
    ] = False,
    share_cores: Annotated[bool, typer.Option("--share-cores", help="Several slices a core: assumed legal.")] = False,
    sparse: Annotated[bool, typer.Option("--sparse", help="Dense layers without their zeros.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Recount everything independently.")] = False,
    place: Annotated[bool, typer.Option("--place", help="Also seat the cores on the mesh and count hops.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the placement.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="mapping.json, layers.csv and cores.csv.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Map a netx file onto a chip's cores (exit code 2 where it does not fit)."""
    import time

    import mapping
    from netx_export import hdf5

    network = hdf5.read(file)
    if board is not None:
        found = mapping.load_board(board, profile=chip, limits=_limits(limit))
        target, room = found.chip, chips or found.chips
    else:
        target, room = mapping.load_chip(chip or "loihi2", limits=_limits(limit)), chips or 1
    start = time.perf_counter()
    try:
        placed = mapping.map_network(
            network, target, free_tiles=free_tiles, share_cores=share_cores, sparse=sparse, objective=objective
        )
    except CapacityError as error:  # not even one neuron of a layer fits a core
        if as_json:
            _print_json(
                error.partial or {"chip": target.name, "profile": target.profile, "fits": False, "verdict": str(error)}
            )
        raise
    used = mapping.utilisation(network, placed, chips=room).to_dict()
    used["seconds"] = time.perf_counter() - start
    if check:
        mapping.require(network, placed)
    if place:
        seated = mapping.place(network, placed, seed=seed)
        placed = seated.mapping
        used["routing"] = {**asdict(seated.routing), "snake_hops": seated.snake.hops}
    if out is not None:
        _write_mapping(out, used, placed, [row.to_row() for row in mapping.core_rows(network, placed)])
    if as_json:
        _print_json(used)
    else:
        _print_mapping(used)
    if not used["fits"]:
        raise CapacityError(used["verdict"])


@app.command()
def chips(
    action: Annotated[str, typer.Argument(help="list or show.")] = "list",
    name: Annotated[str | None, typer.Argument(help="For show: a chip, a chip file or a board.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the chips and boards, or show every number of one with its unit, tag and source."""
    import mapping

    if action == "list" and name is None:
        names = {"chips": list(mapping.chip_names()), "boards": list(mapping.board_names())}
        if as_json:
            _print_json(names)
        else:
            for title, entries in names.items():
                print(f"{title:<7} {'  '.join(entries)}")
        return
    if action != "show" or name is None:
        raise ConfigError("the words are: qpsnn chips list, or qpsnn chips show NAME.")
    board = mapping.load_board(name) if name in mapping.board_names() else None
    chip = board.chip if board else mapping.load_chip(name)
    if as_json:
        _print_json(chip.to_dict() if board is None else {"board": board.name, "chips": board.chips, "chip": chip.to_dict()})
        return
    console = Console(highlight=False)
    for line in board.evidence if board else chip.evidence:
        console.print(escape(line))


@app.command()
def report(run_folder: RunArgument, as_json: JsonFlag = False) -> None:
    """Write a finished run's report.json, report.md and plots again, and show the summary."""
    from qpsnn_lava import pipeline

    files, plan = _open_run(run_folder)
    with _telling(quiet=as_json) as say:
        made = pipeline.write_report(plan, files, say)
    if as_json:
        _print_json(made)
    else:
        _print_summary(made)


@app.command()
def doctor(as_json: JsonFlag = False) -> None:
    """Say which versions are installed, what is missing, and the one command that mends it."""
    from qpsnn_lava.doctor import diagnose

    found = diagnose()
    if as_json:
        _print_json(asdict(found))
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("component", "found", "needed", "for", "state"):
            table.add_column(title, no_wrap=True)
        for row in found.rows:
            style = "" if row.state == "ok" else "bold yellow"
            table.add_row(row.component, row.found or "-", row.needed, row.purpose, row.state, style=style)
        console = Console(highlight=False)
        console.print(table)
        console.print(
            "\nEverything is there." if found.command is None else f"\nTo mend it:  {escape(found.command)}", soft_wrap=True
        )
    if found.command is not None:
        raise typer.Exit(1)


# --- helpers -----------------------------------------------------------------------------------------------------------


def _plan(experiment: str, overrides: list[str] | None, data: Path | None, out: Path | None) -> tuple[Experiment, Path]:
    from qpsnn_lava.config import load_experiment

    extra = [f"data.folder={json.dumps(str(data))}"] if data is not None else []
    plan = load_experiment(experiment, [*(overrides or []), *extra])
    return plan, out or Path("runs") / plan.name


def _open_run(folder: Path) -> tuple[Any, Experiment]:
    from qpsnn_lava.config import load_experiment
    from qpsnn_lava.pipeline import RunFolder

    files = RunFolder(folder)
    if not files.config.exists():
        raise ConfigError(
            f"{folder} is no run folder: it has no config.toml. Make one with: qpsnn run EXPERIMENT --out {folder}"
        )
    return files, load_experiment(files.config)


def _read_report(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def _load_array(path: Path) -> Any:
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False, mmap_mode="r")
    except FileNotFoundError:
        raise FormatError(f"{path}: there is no such file.") from None
    except (OSError, ValueError, EOFError):
        raise FormatError(f"{path} is not an .npy file of numbers; write one with numpy.save.") from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise FormatError(f"{path} holds several arrays; one is expected: write it with numpy.save.")
    return found


def _limits(limits: list[str] | None) -> dict[str, int]:
    found = {}
    for entry in limits or []:
        name, equals, value = entry.partition("=")
        if not equals or not value.strip().isdigit():
            raise ConfigError(f"--limit {entry!r} is not of the form NAME=WHOLE NUMBER, such as synapse_words=12000.")
        found[name.strip()] = int(value)
    return found


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not slash or not part.isdigit() or not parts.isdigit() or not 1 <= int(part) <= int(parts):
        raise ConfigError(f"--shard {text!r} is not of the form I/N with 1 <= I <= N, such as 2/8.")
    return int(part), int(parts)


def _command_line() -> str:
    return shlex.join(["qpsnn", *sys.argv[1:]])


def _err() -> Console:
    return Console(stderr=True)


def _complain(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(' '.join(message.split()))}", highlight=False)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, allow_nan=False))


def _print_summary(made: dict[str, Any]) -> None:
    from qpsnn_lava.report import summary

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for label, value in summary(made):
        table.add_row(escape(label), escape(value))
    Console(highlight=False).print(table)


def _print_mapping(used: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("layer", "tile", "cores", "at least", "neurons", "axons in", "words", "binds"):
        table.add_column(title, justify="left" if title in ("layer", "binds") else "right", no_wrap=True)
    for row in used["layers"]:
        if not row["cores"]:
            continue
        tile = "x".join(map(str, reversed(row["tile"]))) if row["tile"] else str(row["neurons_per_core"])
        binding = f"{row['binding']} {row['binding_percent']:.0f} %" if row["binding"] else ""
        numbers = (row["cores"], row["lower_bound"], row["neurons_tile"], row["axon_in"], row["synapse_words"])
        table.add_row(escape(row["name"]), tile, *(f"{n:,}" for n in numbers), binding)
    console = Console(highlight=False)
    console.print(table)
    console.print("[dim]tile (C x H x W), neurons, axons in and words: of a layer's largest core[/]")
    console.print(f"\n{escape(used['verdict'])}")
    console.print(f"lower bound {used['lower_bound']} cores")
    if "routing" in used:
        hops, snake = used["routing"]["hops"], used["routing"]["snake_hops"]
        console.print(f"placed on the mesh: {hops:,.0f} hops a step (in the order of the layers: {snake:,.0f})")
    for line in used["evidence"]:
        if "assumed legal" in line:
            console.print(f"[yellow]{escape(line)}[/]")
    console.print(f"[dim]{escape(used['evidence'][0])}[/]")


def _write_mapping(folder: Path, used: dict[str, Any], placed: Any, cores: list[dict[str, Any]]) -> None:
    import csv
    import io

    from netx_export.atomic import write_text

    def table(rows: list[dict[str, Any]]) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    write_text(folder / "mapping.json", json.dumps({"utilisation": used, "mapping": placed.to_dict()}, indent=1) + "\n")
    write_text(folder / "layers.csv", table(used["layers"]))
    write_text(folder / "cores.csv", table(cores))


def _range(pair: list[int] | tuple[int, int] | None) -> str:
    return "" if pair is None else f"{pair[0]}..{pair[1]}"


@contextmanager
def _telling(quiet: bool) -> Iterator[Callable[[Event], None]]:
    """A listener that draws a progress bar on a terminal and prints plain lines elsewhere, all on stderr."""
    console = _err()
    if quiet:
        yield lambda event: None
        return
    if not console.is_terminal:

        def plain(event: Event) -> None:
            if event.final:
                print(f"{event.stage:>9}  {event.text}", file=sys.stderr, flush=True)

        yield plain
        return
    columns = (
        TextColumn("[bold]{task.fields[stage]:>9}[/]"),
        BarColumn(bar_width=18),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def draw(event: Event) -> None:
            if event.stage not in tasks:
                for old in tasks.values():
                    bar.update(old, visible=False)
                tasks[event.stage] = bar.add_task("", stage=event.stage, total=event.total or None)
            bar.update(tasks[event.stage], completed=event.done, total=event.total or None, description=escape(event.text))
            if event.final:
                bar.console.print(f"[bold]{event.stage:>9}[/]  {escape(event.text)}", highlight=False)

        yield draw
