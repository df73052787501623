"""``qpsnn doctor``: what is installed, what is missing, and how to mend it."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.markup import escape

from qpsnn_lava.cli.console import JsonFlag, columns, print_json, screen


def doctor(as_json: JsonFlag = False) -> None:
    """Say which versions are installed, what is missing, and the one command that mends it."""
    from qpsnn_lava.doctor import diagnose

    found = diagnose()
    if as_json:
        print_json(asdict(found))
    else:
        titles = ("component", "found", "needed", "for", "state")
        table = columns(*titles, left=titles)
        for row in found.rows:
            style = "" if row.state == "ok" else "bold yellow"
            table.add_row(row.component, row.found or "-", row.needed, row.purpose, row.state, style=style)
        console = screen()
        console.print(table)
        console.print(
            "\nEverything is there." if found.command is None else f"\nTo mend it:  {escape(found.command)}", soft_wrap=True
        )
    if found.command is not None:
        raise typer.Exit(1)
