"""``qpsnn compare`` and ``plot``: looking at what runs left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from netx_export.text import plain
from qpsnn_lava.cli.console import JsonFlag, columns, print_json, screen


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, report.json or netx files, two or more.", show_default=False),
    ],
    chip: Annotated[str, typer.Option(help="To map netx files to: a name or a TOML file.")] = "loihi2",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="compare.html, compare.md and compare.json.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare runs: settings that differ, accuracy with its interval, size, operations, cores, time, layer by layer."""
    import mapping
    from netx_export.atomic import write_text
    from qpsnn_lava.compare import compared, load_runs, markdown
    from qpsnn_lava.compare_page import compare_page

    made = compared(load_runs(runs, mapping.load_chip(chip)))
    if out is not None:
        write_text(out / "compare.json", json.dumps(made, indent=1, allow_nan=False) + "\n")
        write_text(out / "compare.md", markdown(made))
        write_text(out / "compare.html", compare_page(json.loads(json.dumps(made))))
    if as_json:
        print_json(made)
    else:
        _print_compared(made)


def _print_compared(made: dict[str, Any]) -> None:
    from mapping.chip import STATEMENT
    from qpsnn_lava.compare import layer_rows, rows
    from qpsnn_lava.report import value_text

    console = screen()
    heads = [run["label"] for run in made["runs"]]
    settings = [[row["key"], *map(value_text, row["values"])] for row in made["settings"]]
    for title, table in (("", rows(made)), ("settings that differ", settings), ("layers", layer_rows(made))):
        if table:
            console.print(_side_by_side(title, heads, table))
            console.print()
    console.print(
        "[dim]in brackets: 95 % interval, and whether it overlaps the first run's; or change against the first run[/]"
    )
    console.print("[dim]layers: channels / stored bits / cores / synapse words[/]")
    console.print(f"[dim]cores and words: {STATEMENT}[/]")
    for run in made["runs"]:
        if run["error"]:
            console.print(f"[yellow]{escape(plain(run['label'], 40))} does not fit: {escape(plain(run['error'], 300))}[/]")


def _side_by_side(title: str, heads: list[str], rows: list[list[str]]) -> Table:
    """The cells of a run wrap where the terminal is narrow; the titles stay whole."""
    table = columns(title, *(escape(plain(head, 40)) for head in heads), left=[title])
    for column in table.columns[1:]:
        column.no_wrap, column.overflow = False, "fold"
    for row in rows:
        table.add_row(*(escape(plain(cell, 120)) for cell in row))
    return table


def plot(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN_OR_FILE", help="A run folder, a report.json or a netx file.", show_default=False),
    ],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: where the source is.")] = None,
    format_: Annotated[str, typer.Option("--format", help="svg or png.")] = "png",
    as_json: JsonFlag = False,
) -> None:
    """Draw every figure that a run folder, a report.json or a netx file has the data for, and say what was not drawn and why."""
    from qpsnn_lava.plots import figures_in, save

    drawn = figures_in(source)
    folder = out if out is not None else source if source.is_dir() else source.parent
    written = save(drawn.figures, folder, format_)
    if as_json:
        print_json({"written": [str(path) for path in written], "skipped": dict(drawn.skipped)})
        return
    for path in written:
        print(path)
    console = screen()
    for name, why in drawn.skipped.items():
        console.print(f"[dim]not drawn: {escape(name)}: {escape(why)}[/]")
