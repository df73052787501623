"""What all commands share: data on stdout; progress, hints and errors on stderr."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from qpsnn_lava.pipeline import Event

JsonFlag = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.")]
NetFile = Annotated[Path, typer.Argument(metavar="FILE.net", help="A netx file.", show_default=False)]


def screen() -> Console:
    """Standard output: tables and results."""
    return Console(highlight=False)


def columns(*titles: str, left: Sequence[str]) -> Table:
    """A plain table; columns are right-aligned but for those named in ``left``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, justify="left" if title in left else "right", no_wrap=True, overflow="ellipsis")
    return table


def command_line() -> str:
    """The command as it can be typed again."""
    return shlex.join(["qpsnn", *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Of what the numbers of a page depend on."""
    import platform

    from qpsnn_lava.doctor import installed_version

    found = {package: installed_version(package) for package in ("qpsnn-lava", "numpy", "h5py")}
    return {"python": platform.python_version()} | {package: text for package, text in found.items() if text}


def err() -> Console:
    """Standard error."""
    return Console(stderr=True)


def complain(message: str) -> None:
    """One line on stderr that begins with ``error:``."""
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(' '.join(message.split()))}", highlight=False)


def print_json(value: Any) -> None:
    """JSON on stdout."""
    print(json.dumps(value, indent=1, allow_nan=False))


@contextmanager
def telling(quiet: bool) -> Iterator[Callable[[Event], None]]:
    """A listener that draws a progress bar on a terminal and prints plain lines elsewhere, all on stderr."""
    console = err()
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
