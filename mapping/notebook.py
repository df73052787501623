"""What a notebook shows of a mapping: a small HTML table; every text in it is escaped."""

from __future__ import annotations

from collections import Counter

from mapping.chip import STATEMENT
from mapping.mapping import Mapping, Slice
from netx_export.notebook import html_table


def mapping_html(mapping: Mapping) -> str:
    """A row for each population: its cores, slices and neurons, and its largest slice."""
    slices: dict[str, list[Slice]] = {}
    cores: Counter[str] = Counter()
    for core in mapping.cores:
        for piece in core.slices:
            slices.setdefault(piece.population, []).append(piece)
        cores.update({piece.population for piece in core.slices})
    rows = []
    for name, pieces in slices.items():
        largest = max(pieces, key=lambda piece: piece.size)
        extent = " x ".join(str(stop - start) for start, stop in largest.ranges)
        rows.append([name, f"{cores[name]:,}", f"{len(pieces):,}", f"{sum(piece.size for piece in pieces):,}", extent])
    chips = len({core.chip for core in mapping.cores})
    title = f"Mapping: {len(mapping.cores):,} cores on {chips:,} chip{'' if chips == 1 else 's'} of {mapping.chip.profile}"
    return html_table(title, ("population", "cores", "slices", "neurons", "largest slice"), rows, [STATEMENT])
