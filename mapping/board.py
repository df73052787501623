"""Boards by name: a chip and how many of it, as data with a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import tomli

from mapping.chip import Chip, load_chip
from netx_export.errors import ConfigError, MissingError


@dataclass(frozen=True)
class Board:
    """A board: ``chips`` chips of one kind.

    Args:
        name: as in :func:`board_names`.
        chip: its chips, with the limits that the board or the caller changed.
        chips: how many.
        tag: published, source, inferred or assumed.
        source: where the number of chips stands.
    """

    name: str
    chip: Chip
    chips: int
    tag: str
    source: str

    @property
    def evidence(self) -> tuple[str, ...]:
        """The sentence that a report must carry, one line for the board, then the chip's lines."""
        first, *rest = self.chip.evidence
        return (first, f"{self.name} = {self.chips} chips of {self.chip.name} [{self.tag}] {self.source}", *rest)


@lru_cache(maxsize=1)
def _boards() -> dict[str, dict[str, Any]]:
    return tomli.loads((resources.files("mapping") / "boards.toml").read_text(encoding="utf-8"))


def board_names() -> tuple[str, ...]:
    """Names of the boards that this package knows, sorted."""
    return tuple(sorted(_boards()))


def load_board(name: str, profile: str | None = None, limits: Mapping[str, int] | None = None) -> Board:
    """A board by name.

    Args:
        name: one of :func:`board_names`.
        profile: another profile of the same kind of chip, such as "loihi2-2022" for a board of Loihi 2; None: the usual one.
        limits: as of :func:`mapping.chip.load_chip`; they go before the board's own.

    Raises:
        MissingError: there is no such board.
        ConfigError: the profile is of another kind of chip.
    """
    entry = _boards().get(name)
    if entry is None:
        raise MissingError(f"there is no board {name!r}; known are {', '.join(board_names())}.")
    own = {"cores_per_chip": int(entry["cores_per_chip"])} if "cores_per_chip" in entry else {}
    chip = load_chip(profile or entry["chip"], {**own, **(limits or {})})
    usual = load_chip(entry["chip"])
    if chip.model != usual.model:
        raise ConfigError(f"{name} has chips of the kind {usual.model}, the profile {chip.name} is of {chip.model}.")
    return Board(name, chip, int(entry["chips"]), str(entry["tag"]), str(entry["source"]))
