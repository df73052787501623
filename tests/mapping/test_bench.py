from __future__ import annotations

import json

import pytest

from mapping import bench as benches
from mapping.chip import load_chip
from mapping.mapper import map_network
from mapping.placement import place
from netx_export.network import Conv


def test_ten_layers_have_more_than_500_cores_and_a_stride_in_the_first_ten() -> None:
    network = benches.ten_layers(448, 14)
    convs = [p.synapse for p in network.projections]
    assert [c.stride[0] for c in convs if isinstance(c, Conv)] == [2, 1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 1, 1]
    assert network.output.shape[1:] == (28, 28) and network.input.shape == (3, 448, 448)
    assert len(map_network(benches.ten_layers(), load_chip("loihi2")).cores) > 500


def test_the_448_net_with_free_tiles_is_near_its_lower_bound() -> None:
    found = benches.bench(size=448, seated=16, layers=(1,))
    default, free, shared = found.ways
    assert (default.what, free.what, shared.what) == ("default", "free tiles", "free tiles, shared cores")
    assert free.gap_percent <= 4 and shared.gap_percent <= 4
    assert default.lower_bound == free.lower_bound <= free.cores <= default.cores and shared.cores <= free.cores


def test_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benches, "pilotnet", lambda: None)
    chip = load_chip("loihi2", {"neurons": 500})
    found = benches.bench(chip, size=24, seated=32, layers=(2, 4))
    table = json.loads(json.dumps(found.to_dict()))
    assert table["chip"] == "loihi2 with neurons=500" and table["pilotnet"] is None
    assert [(row["what"], row["layers"]) for row in table["growth"]] == [("2 layers", 2), ("4 layers", 4)]
    for row in table["ways"] + table["growth"]:
        assert row["gap_percent"] == pytest.approx(100 * (row["cores"] / row["lower_bound"] - 1)) and row["seconds"] > 0
    network = benches.ten_layers(32)
    seats = place(network, map_network(network, chip))
    assert table["placement"]["cores"] == len(seats.mapping.cores) > 20
    assert (table["placement"]["hops_before"], table["placement"]["hops"]) == (seats.snake.hops, seats.routing.hops)
    assert table["placement"]["hops"] < table["placement"]["hops_before"]


def test_pilotnet_is_found_where_lava_dl_is() -> None:
    network = benches.pilotnet()
    if network is None:
        pytest.skip("lava-dl, which ships the PilotNet file, is not installed")
    assert network.input.shape == (3, 66, 200) and len(network.populations) == 10
