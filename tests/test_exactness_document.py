"""docs/exactness.md names tests that exist, and has one for every row."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "exactness.md").read_text(encoding="utf-8")
TABLES, TESTS = TEXT.split("## Tests\n")


def test_every_named_test_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", TESTS)
    assert len(named) > 40
    for file, name in named:
        path = ROOT / (file if "/" in file else f"tests/netx_export/{file}")
        assert re.search(rf"^def {name}\(", path.read_text(encoding="utf-8"), re.MULTILINE), f"{file}::{name}"


def test_every_row_has_a_test_and_seven_cells() -> None:
    rows = re.findall(r"^\| ([A-Z]\d+) \|(.*)$", TABLES, re.MULTILINE)
    tested = {name for line in re.findall(r"^\| ([^|]*) \|", TESTS, re.MULTILINE) for name in re.findall(r"[A-Z]\d+", line)}
    assert len(rows) > 20 and {name for name, _ in rows} == tested
    for name, cells in rows:
        assert len(cells.strip(" |").split(" | ")) == 6, name
