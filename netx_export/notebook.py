"""What a notebook shows of a network: a small HTML table; every text in it is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from netx_export.inspect import describe
from netx_export.network import Network
from netx_export.text import plain

MAX_ROWS = 60  # of a table; the rest is counted


def html_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """A table as HTML without style sheet or script, in the notebook's own looks.

    Args:
        title: above it.
        head: of the columns; the first is aligned to the left.
        rows: cells as plain text; at most 60 are shown.
        notes: lines below it.
    """

    def cell(text: str, tag: str, first: bool) -> str:
        return f'<{tag} style="text-align:{"left" if first else "right"}">{_safe(text)}</{tag}>'

    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(cell(text, tag, i == 0) for i, text in enumerate(cells))}</tr>"

    more = [f"and {len(rows) - MAX_ROWS:,} more"] if len(rows) > MAX_ROWS else []
    body = "".join(line(row, "td") for row in rows[:MAX_ROWS])
    below = "".join(f"<div><small>{_safe(note, 400)}</small></div>" for note in (*more, *notes))
    return f"<div><strong>{_safe(title, 200)}</strong><table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>{below}</div>"


def _safe(text: str, longest: int = 80) -> str:
    return escape(plain(text, longest))


def network_html(network: Network) -> str:
    """A row for each population: shape, neurons, weights, stored bits, threshold."""
    found = describe(network)
    rows = [
        [
            layer["name"],
            layer["type"],
            "x".join(map(str, layer["shape"])),
            layer["neuron"],
            f"{layer['weights']:,}" if layer["weights"] else "",
            "" if layer["weight"] is None else f"{layer['weight'][0]}..{layer['weight'][1]}",
            str(layer["stored_bits"] or ""),
            "" if layer["threshold"] is None else f"{layer['threshold']:,}",
        ]
        for layer in found["layers"]
    ]
    title = f"Network: {found['neurons']:,} neurons, {found['weights']:,} weights, {found['synapses']:,} synapses"
    says = [
        f"graded input of {network.input_bits} bits" if network.input_bits else "",
        f"window of {network.steps} steps" if network.steps else "",
        f"read-out: {network.readout}" if network.readout else "",
    ]
    head = ("population", "type", "shape", "neurons", "weights", "range", "stored bits", "threshold")
    return html_table(title, head, rows, [", ".join(filter(None, says))] if any(says) else [])
