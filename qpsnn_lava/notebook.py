"""What a notebook shows of a report: small HTML tables; every text in them is escaped."""

from __future__ import annotations

from dataclasses import dataclass

from mapping.chip import STATEMENT
from netx_export.notebook import html_table
from qpsnn_lava.report import NONE, summary
from qpsnn_lava.report_file import Report


@dataclass(frozen=True)
class Shown:
    """A report that a notebook displays as tables; ``Shown(pipeline.run(...))`` as the last line of a cell.

    Args:
        report: as :func:`qpsnn_lava.report_file.check` accepts it.
    """

    report: Report

    def _repr_html_(self) -> str:
        return report_html(self.report)


def report_html(report: Report) -> str:
    """The summary, and a row for each layer: channels, bits, how often it fires, cores and synapse words."""
    top = html_table(report["name"], ("", ""), [[label, value] for label, value in summary(report) if label])
    rows = [
        [
            row["name"],
            row["type"],
            f"{row['channels_before']:,} → {row['channels_after']:,}",
            NONE if row["stored_bits"] is None else str(row["stored_bits"]),
            NONE if row["firing_rate"] is None else f"{100 * row['firing_rate']:.1f} %",
            f"{row['cores']:,}",
            f"{row['synapse_words']:,}",
        ]
        for row in report["layers"]
    ]
    head = ("layer", "type", "channels", "stored bits", "fires", "cores", "synapse words")
    return top + html_table("Layers", head, rows, [STATEMENT])
