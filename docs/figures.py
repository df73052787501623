"""Puts the figures of results/NAME/report.json into README.md, between its markers:  python docs/figures.py"""

from __future__ import annotations

import json
import re
from pathlib import Path

from qpsnn_lava.report import summary

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- figures: (?P<name>[\w.-]+) -->\n)(?P<body>.*?)(<!-- end of figures -->)", re.DOTALL)


def block(report: Path) -> str:
    """What `qpsnn run` printed at its end, without the time, which is the machine's."""
    rows = [(label, value) for label, value in summary(json.loads(report.read_text(encoding="utf-8"))) if label != "time"]
    width = max(len(label) for label, _ in rows)
    return "\n".join(["```text", *(f"{label:<{width}}  {value}" for label, value in rows), "```\n"])


def updated(text: str, results: Path) -> str:
    """``text`` with every block renewed whose report stands in ``results``."""

    def renew(found: re.Match[str]) -> str:
        report = results / found["name"] / "report.json"
        return found[1] + (block(report) if report.exists() else found["body"]) + found[4]

    return BLOCK.sub(renew, text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(updated(readme.read_text(encoding="utf-8"), ROOT / "results"), encoding="utf-8")
