"""Writes docs/chips.md, every number of every chip with its evidence, from mapping/chips and boards.toml:  python docs/chips.py"""

from __future__ import annotations

from pathlib import Path

from mapping import Chip, board_names, chip_names, load_board, load_chip
from qpsnn_lava.report import markdown_table

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Chips and boards: every number with its evidence

Made by `docs/chips.py` from the files in `mapping/chips/` and from `mapping/boards.toml`; `qpsnn chips show NAME` prints the same. What
the numbers count is in [mapping.md](mapping.md), how to write a file of your own in [how-to-chip.md](how-to-chip.md). All of it is a model
of public evidence, not Intel's compiler, and was not run on hardware.

| tag | the number |
|---|---|
| published | stands in a text that the makers of the chip published |
| source | stands in code, or in output of programs, that its makers published |
| inferred | was fitted to such output |
| assumed | is this project's choice; the report says so wherever it counts |
"""


def cell(value: object) -> str:
    """A cell of a Markdown table."""
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


def rows(head: tuple[str, ...], lines: list[tuple[object, ...]]) -> str:
    """A Markdown table."""
    return markdown_table(head, [[cell(value) for value in line] for line in lines], "l" * len(head)) + "\n"


def section(chip: Chip) -> str:
    """One chip: its limits and its parameters."""
    limits = [(f"`{limit.name}`", limit.value, limit.unit, limit.tag, limit.source) for limit in chip.limits]
    rules = [(f"`{rule.name}`", rule.value, rule.unit, rule.tag, rule.source) for rule in chip.parameters]
    head = ("", "value", "unit", "tag", "source")
    return (
        f"\n## {chip.name}\n\n{cell(chip.summary)}. Cost formulas: `{chip.model}`.\n\n"
        f"Limits:\n\n{rows(head, limits)}\nParameters:\n\n{rows(head, rules)}"
    )


def boards() -> str:
    """All boards."""
    found = [load_board(name) for name in board_names()]
    lines: list[tuple[object, ...]] = [
        (f"`{board.name}`", board.chips, board.chip.name, board.tag, board.source) for board in found
    ]
    return f"\n## Boards\n\n{rows(('', 'chips', 'chip', 'tag', 'source'), lines)}"


def page() -> str:
    """docs/chips.md."""
    return HEAD + "".join(section(load_chip(name)) for name in chip_names()) + boards()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
