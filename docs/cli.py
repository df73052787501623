"""Writes docs/cli.md, every command with its options, from the command line itself:  python docs/cli.py"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from qpsnn_lava.cli import app

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Command line

Made by `docs/cli.py` from the commands themselves; `qpsnn COMMAND --help` says the same. Every command takes `--json`, which prints only
JSON on stdout; all else goes to stderr. Exit codes: 0 all is well; 1 a mistake in the request, something missing, or an internal error;
2 the network does not fit the chip; 3 two computations that must be equal are not; 130 interrupted.
"""


def commands(group: Any, before: str = "qpsnn") -> Iterator[tuple[str, Any]]:
    """Every command below a group, with the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before} {name}")
        else:
            yield f"{before} {name}", command


def section(words: str, command: Any) -> str:
    """One command: how it is called, what it does, its arguments and options."""
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    options = [p for p in command.params if p.opts[0].startswith("-") and not getattr(p, "hidden", False)]
    call = " ".join([words, "[OPTIONS]", *(p.metavar or p.name.upper() for p in arguments)])
    rows = [(f"`{p.metavar or p.name.upper()}`", _help(p)) for p in arguments]
    rows += [(f"`{_names(p)}`", _help(p)) for p in options]
    table = "".join(f"| {left} | {right} |\n" for left, right in [("", ""), ("---", "---"), *rows])
    return f"\n## {words}\n\n```text\n{call}\n```\n\n{_text(inspect.cleandoc(command.help or ''))}\n\n{table}"


def _names(option: Any) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {option.metavar or _kind(option)}"


def _kind(option: Any) -> str:
    kind = next((kind for kind in (int, float, Path) if _is(option, kind)), str)
    return {int: "N", float: "X", Path: "PATH", str: "NAME"}[kind]


def _is(option: Any, kind: type) -> bool:
    try:
        return bool(kind is option.type_descriptor.annotation)
    except AttributeError:  # typer before 0.29 wraps click
        return {"int": int, "float": float, "path": Path}.get(option.type.name.split()[0]) is kind


def _help(parameter: Any) -> str:
    text = _text(" ".join((parameter.help or "").split()))
    shown = parameter.show_default is True and parameter.default not in (None, False, (), [])
    return f"{text} Default: `{parameter.default}`." if shown and "efault" not in text else text


def _text(text: str) -> str:
    """Help as Markdown: words with two hyphens in front, names with underscores and commands in code."""
    return re.sub(r"(?<![\w`-])(--[\w-]+(?:=\w+)?|\w+(?:\.\w+)*_\w+)", r"`\1`", re.sub(r"([|*<])", r"\\\1", text))


def page() -> str:
    """docs/cli.md."""
    return HEAD + "".join(section(words, command) for words, command in commands(typer.main.get_command(app)))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
