"""``qpsnn data``: which data sets there are, whether they are here, and whether they are whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from netx_export.errors import FormatError
from qpsnn_lava.cli.console import JsonFlag, columns, err, print_json, screen

if TYPE_CHECKING:
    from qpsnn_lava.data import SetCheck

app = typer.Typer(help="List the data sets, and check the ones that are here.")

DataFolder = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder of the files (default: the usual place of each set).")
]


@app.command("list")
def list_sets(data: DataFolder = None, as_json: JsonFlag = False) -> None:
    """Say which data sets there are, their size and licence, and whether they are installed, and where that was looked for."""
    from qpsnn_lava.data import listing

    found = listing(data)
    if as_json:
        print_json(
            [
                {**asdict(row.known), "installed": row.installed, "folder": str(row.folder), "missing": row.missing}
                for row in found
            ]
        )
        return
    console = screen()
    table = columns("name", "samples", "classes", "input", "MB", "installed", left=("name", "input", "installed"))
    for row in found:
        known = row.known
        table.add_row(
            known.name,
            f"{known.train + known.test:,}",
            str(known.classes),
            "x".join(str(n) for n in known.shape),
            "-" if known.megabytes is None else str(known.megabytes),
            "yes" if row.installed else "no",
            style="" if row.installed else "dim",
        )
    console.print(table)
    console.print("\nlooked for in, licence", style="bold")
    for row in found:
        line = f"{row.known.name}: {'scikit-learn' if row.known.name == 'digits' else row.folder}; {row.known.licence}"
        console.print(escape(line), highlight=False, soft_wrap=True)
    err().print("\nHow to get one: qpsnn data check NAME says what is missing.", highlight=False)


@app.command("check")
def check_sets(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A data set (default: all that are installed).", show_default=False)
    ] = None,
    data: DataFolder = None,
    as_json: JsonFlag = False,
) -> None:
    """Read a whole data set and hold its sizes, labels, counts and checksums against the published ones."""
    from qpsnn_lava.data import check, listing

    names = [name] if name is not None else [row.known.name for row in listing(data) if row.installed]
    found = []
    for one in names:
        checked = check(one, data)
        found.append(checked)
        if not as_json:
            _print(checked)
    if as_json:
        print_json([_plain(checked) for checked in found])
    wrong = [checked.name for checked in found if not checked.ok]
    if wrong:
        raise FormatError(f"not as published: {', '.join(wrong)}; get the files again, or mind that results will differ.")


def _plain(checked: SetCheck) -> dict[str, Any]:
    files = [{**asdict(file), "path": str(file.path)} for file in checked.files]
    return {**asdict(checked), "folder": str(checked.folder), "files": files, "ok": checked.ok}


def _print(checked: SetCheck) -> None:
    console = screen()
    counts = ", ".join(f"{part} {count:,}" for part, count in checked.samples.items())
    state = "as published" if checked.complete else "not the published numbers"
    console.print(f"[bold]{checked.name}[/]  {counts}, {checked.classes} classes: {state}", highlight=False, soft_wrap=True)
    for file in checked.files:
        line = f"  {file.path}  {file.size:,} bytes  {file.checksum}  {file.verdict}"
        console.print(escape(line), highlight=False, soft_wrap=True)
    if not checked.files:
        console.print("  no published checksum known", highlight=False)
