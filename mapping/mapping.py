"""Where every neuron of a network lives: slices of populations on cores of chips.  Nouns only; the verbs are elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from typing import Any

from mapping.chip import Chip, chip_from_dict
from netx_export.errors import FormatError

SCHEMA = 1
Range = tuple[int, int]


@dataclass(frozen=True)
class Slice:
    """A block of one population's neurons.

    Args:
        population: its name.
        ranges: half-open (start, stop), either of (C, H, W) or of the flat neuron number (C, H, W order).
    """

    population: str
    ranges: tuple[Range, ...]

    @property
    def size(self) -> int:
        """Number of neurons."""
        return math.prod(stop - start for start, stop in self.ranges)


@dataclass(frozen=True)
class Core:
    """One core that is in use, and the slices on it.

    Args:
        chip: index of the chip, from 0.
        core: index of the core on its chip, from 0.
        slices: at least one.
    """

    chip: int
    core: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Mapping:
    """A network on cores.

    Args:
        chip: the chip whose limits the mapping keeps.
        cores: those in use, in the order of their indices.
    """

    chip: Chip
    cores: tuple[Core, ...]

    def slices(self, population: str) -> tuple[Slice, ...]:
        """The slices of that population, in the order of their cores."""
        return tuple(piece for core in self.cores for piece in core.slices if piece.population == population)

    def _repr_html_(self) -> str:
        from mapping.notebook import mapping_html  # which imports this module

        return mapping_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; :meth:`from_dict` gives back an equal mapping."""
        return {
            "schema": SCHEMA,
            "chip": self.chip.to_dict(),
            "cores": [
                {
                    "chip": core.chip,
                    "core": core.core,
                    "slices": [{"population": s.population, "ranges": [list(r) for r in s.ranges]} for s in core.slices],
                }
                for core in self.cores
            ],
        }

    @classmethod
    def from_dict(cls, data: object) -> Mapping:
        """The mapping that :meth:`to_dict` wrote.

        Raises:
            FormatError: a key is missing or unknown, or a value has the wrong type; the message names the place.
        """
        table = _table(data, "mapping", {"schema", "chip", "cores"})
        if table["schema"] != SCHEMA:
            raise FormatError(f"mapping: schema is {table['schema']!r}; this version reads {SCHEMA}. Map the network again.")
        cores = []
        for i, entry in enumerate(_list(table["cores"], "mapping.cores")):
            where = f"mapping.cores[{i}]"
            core = _table(entry, where, {"chip", "core", "slices"})
            slices = tuple(_slice(s, f"{where}.slices[{j}]") for j, s in enumerate(_list(core["slices"], f"{where}.slices")))
            cores.append(Core(_index(core["chip"], f"{where}.chip"), _index(core["core"], f"{where}.core"), slices))
        return cls(chip_from_dict(table["chip"], "mapping.chip"), tuple(cores))


def _slice(data: object, where: str) -> Slice:
    table = _table(data, where, {"population", "ranges"})
    if not isinstance(table["population"], str):
        raise FormatError(f"{where}.population is {table['population']!r}; expected a name.")
    ranges = []
    for pair in _list(table["ranges"], f"{where}.ranges"):
        bounds = _list(pair, f"{where}.ranges")
        if len(bounds) != 2:
            raise FormatError(f"{where}.ranges: {bounds!r}; expected pairs of start and stop.")
        ranges.append((_index(bounds[0], f"{where}.ranges"), _index(bounds[1], f"{where}.ranges")))
    return Slice(table["population"], tuple(ranges))


def _table(data: object, where: str, keys: set[str]) -> MappingType[str, Any]:
    if not isinstance(data, dict):
        raise FormatError(f"{where}: expected a table of {', '.join(sorted(keys))}, found {type(data).__name__}.")
    if set(data) != keys:
        odd = ", ".join(sorted(str(key) for key in set(data) ^ keys))
        raise FormatError(f"{where}: unknown or missing key {odd}; expected exactly {', '.join(sorted(keys))}.")
    return data


def _list(data: object, where: str) -> list[Any]:
    if not isinstance(data, list):
        raise FormatError(f"{where}: expected a list, found {type(data).__name__}.")
    return data


def _index(data: object, where: str) -> int:
    if isinstance(data, bool) or not isinstance(data, int) or not 0 <= data < 1 << 40:
        raise FormatError(f"{where} is {data!r}; expected a whole number of at least 0.")
    return data
