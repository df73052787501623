from __future__ import annotations

import pytest

from mapping.board import board_names, load_board
from mapping.chip import STATEMENT, allow, chip_from_dict, load_chip
from netx_export.errors import ConfigError, MissingError

# Published numbers of chips.
CHIPS = {
    "oheo-gulch": ("loihi2", 1),
    "kapoho-point": ("loihi2", 8),
    "alia-point": ("loihi2", 32),
    "hala-point": ("loihi2", 1152),
    "nahuku32": ("loihi1", 32),
    "pohoiki-springs": ("loihi1", 768),
}


@pytest.mark.parametrize("name", CHIPS)
def test_boards(name: str) -> None:
    board = load_board(name)
    assert (board.chip.name, board.chips) == CHIPS[name] and name in board_names()
    assert board.evidence[0] == STATEMENT
    assert board.evidence[1].startswith(f"{name} = {board.chips} chips of {board.chip.name} [published] ")


def test_hala_point_has_its_140544_cores() -> None:
    board = load_board("hala-point")
    assert board.chips * board.chip.cores_per_chip == 140_544
    assert load_board("hala-point", limits={"cores_per_chip": 128}).chip.cores_per_chip == 128


def test_another_profile_of_the_same_chip() -> None:
    assert load_board("oheo-gulch", "loihi2-2022", {"pool": 9000}).chip.core_limits["pool"] == 9000
    with pytest.raises(ConfigError, match="nahuku32 has chips of the kind loihi1, the profile loihi2 is of loihi2"):
        load_board("nahuku32", "loihi2")


def test_unknown_board() -> None:
    with pytest.raises(MissingError, match=r"there is no board 'loihi'; known are alia-point, hala-point, .*pohoiki-springs"):
        load_board("loihi")


def test_the_brief_has_the_published_numbers_only() -> None:
    chip = load_chip("loihi2-brief")
    published = {limit.name: limit.value for limit in chip.limits if limit.tag == "published"}
    assert published == {"cores_per_chip": 128, "neurons": 8192, "synapse_words": 24_576, "pool": 24_576}
    assert 24_576 * 8 == 192 * 1024  # words of 64 bits in 192 KB


def test_relaxed_rules_say_that_they_are_assumed_legal() -> None:
    chip = load_chip("loihi2-2022", {"pool": 19_000})
    assert allow(chip) is chip
    relaxed = allow(chip, free_tiles=True, share_cores=True, sparse=True)
    assert relaxed.profile == "loihi2-2022 with pool=19000, free tiles, shared cores, sparse lists"
    assert allow(load_chip("loihi2"), free_tiles=True).profile == "loihi2 with free tiles"
    assert (relaxed.rule("tile_width"), relaxed.rule("layers_per_core"), relaxed.rule("dense_lists")) == ("free", 8, "sparse")
    changed = [p for p in relaxed.parameters if p not in chip.parameters]
    assert {p.name for p in changed} == {"tile_width", "dense_split", "layers_per_core", "dense_lists"}
    assert all(p.tag == "assumed" and "assumed legal" in p.source for p in changed)
    assert sum("assumed legal" in line for line in relaxed.evidence) == 4
    assert chip_from_dict(relaxed.to_dict()) == relaxed
