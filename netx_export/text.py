"""Texts from files that others wrote, made harmless."""

from __future__ import annotations

import unicodedata


def plain(text: str, longest: int = 60) -> str:
    """One line without control, invisible or direction characters, at most ``longest`` long (the middle goes)."""
    line = "".join(c if c.isprintable() and unicodedata.category(c) != "Cf" else "\N{REPLACEMENT CHARACTER}" for c in text)
    half = (longest - 1) // 2
    return line if len(line) <= longest else f"{line[: longest - 1 - half]}…{line[-half:]}"
