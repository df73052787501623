from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from mapping.chip import load_chip
from mapping.mapping import Core, Mapping, Slice
from netx_export.errors import FormatError

MAPPING = Mapping(
    load_chip("loihi2", {"neurons": 100}),
    (
        Core(0, 0, (Slice("conv", ((0, 3), (0, 4), (4, 8))),)),
        Core(1, 7, (Slice("dense", ((0, 10),)), Slice("other", ((10, 12),)))),
    ),
)


def test_slices() -> None:
    assert MAPPING.slices("conv")[0].size == 48
    assert MAPPING.slices("dense") == (Slice("dense", ((0, 10),)),)
    assert MAPPING.slices("nobody") == ()


def test_json_round_trip() -> None:
    again = Mapping.from_dict(json.loads(json.dumps(MAPPING.to_dict())))
    assert again == MAPPING and hash(again) == hash(MAPPING)
    assert again.chip.core_limits["neurons"] == 100


def damaged(path: list[Any], value: object) -> Any:
    data: Any = deepcopy(MAPPING.to_dict())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], 2, r"mapping: schema is 2; this version reads 1"),
        (["extra"], 1, r"mapping: unknown or missing key extra; expected exactly chip, cores, schema"),
        (["cores"], {}, r"mapping\.cores: expected a list, found dict"),
        (["cores", 0], 5, r"mapping\.cores\[0\]: expected a table of chip, core, slices, found int"),
        (["cores", 1, "core"], -1, r"mapping\.cores\[1\]\.core is -1; expected a whole number of at least 0"),
        (["cores", 1, "chip"], True, r"mapping\.cores\[1\]\.chip is True"),
        (["cores", 0, "slices", 0, "population"], 3, r"mapping\.cores\[0\]\.slices\[0\]\.population is 3; expected a name"),
        (
            ["cores", 0, "slices", 0, "ranges"],
            [[1, 2, 3]],
            r"slices\[0\]\.ranges: \[1, 2, 3\]; expected pairs of start and stop",
        ),
        (["cores", 0, "slices", 0, "ranges", 0, 0], 0.5, r"slices\[0\]\.ranges is 0\.5; expected a whole number"),
        (["chip", "limits", "pool", "value"], "many", r"mapping\.chip: limits\.pool\.value: Input should be a valid integer"),
    ],
)
def test_damaged_files(path: list[Any], value: object, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Mapping.from_dict(damaged(path, value))


def test_not_a_mapping() -> None:
    with pytest.raises(FormatError, match=r"mapping: expected a table of chip, cores, schema, found list"):
        Mapping.from_dict([])
