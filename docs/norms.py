"""Which way to fold batch normalisation: trains the digits with each, five seeds, into results/norm.json.

    python docs/norms.py [FOLDER]

Runs that FOLDER (default: runs/norm) already holds are read, not made again.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from netx_export.atomic import write_text
from qpsnn_lava import pipeline
from qpsnn_lava.config import load_experiment

ROOT = Path(__file__).resolve().parents[1]
NORMS = ("full", "shared", "mean")
SEEDS = range(5)


def row(norm: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of the accuracies of one norm's runs."""
    found: dict[str, Any] = {"norm": norm, "runs": len(reports), "n": reports[0]["accuracy"]["integer"]["n"]}
    for stage in ("float", "quantised", "integer"):
        values = [report["accuracy"][stage]["value"] for report in reports]
        found[stage] = {"mean": statistics.mean(values), "deviation": statistics.stdev(values), "values": values}
    return found


def main(folder: Path) -> None:
    rows = []
    for norm in NORMS:
        reports = []
        for seed in SEEDS:
            overrides = [f"quantise.norm={norm}", f"seed={seed}", "lava.samples=1"]
            plan, out = load_experiment("digits", overrides), folder / f"{norm}-{seed}"
            reports.append(pipeline.run(plan, out, say=lambda event: None))
        rows.append(row(norm, reports))
    write_text(ROOT / "results" / "norm.json", json.dumps({"experiment": "digits", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "norm")
