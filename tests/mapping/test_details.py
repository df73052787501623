from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from mapping.chip import allow, load_chip
from mapping.cost import plan_layers
from mapping.details import (
    bound,
    compare,
    core_rows,
    describe,
    energy,
    front,
    front_rows,
    synapse_numbers,
    traffic,
    what_if,
)
from mapping.mapper import map_network
from mapping.mapping import Mapping
from mapping.placement import place
from mapping.utilisation import partial_utilisation, utilisation
from mapping.widths import at_bits
from netx_export.errors import CapacityError, ConfigError
from netx_export.network import Conv, Dense, Integrator, Lif, Network, Population, Projection
from netx_export.simulate import fan_out

LIF = Lif(4096, 1024, 25)


def network(channels: int = 6, bits: int = 4) -> Network:
    rng = np.random.default_rng(4)
    high = 1 << bits - 1
    return Network(
        (Population("image", (2, 9, 9)), Population("c", (channels, 9, 9), LIF), Population("out", (10,), Integrator())),
        (
            Projection("image", "c", Conv(rng.integers(-high, high, (channels, 2, 3, 3)), padding=(1, 1))),
            Projection(
                "c", "out", Dense(rng.integers(-high, high, (10, channels * 81)) * (rng.random((10, channels * 81)) < 0.4))
            ),
        ),
    )


RATE = {"image": 0.5, "c": 0.2}


def mapped(name: str = "loihi2") -> Mapping:
    return place(network(), map_network(network(), load_chip(name, {"neurons": 90})), RATE).mapping


@pytest.mark.parametrize("name", ["loihi2", "loihi1"])
def test_core_rows_add_up(name: str) -> None:
    net, mapping = network(), mapped(name)
    rows = core_rows(net, mapping, RATE)
    use = utilisation(net, mapping)
    assert len(rows) == use.cores and sum(row.neurons for row in rows) == use.neurons
    assert sum(row.used["synapse_words"] for row in rows) == use.synapse_words
    # Synaptic operations: every connection, zeros too, at the rate of its source.
    logical = {
        "c": sum(int(f.sum()) for f in [fan_out(Conv(np.ones((6, 2, 3, 3), int), padding=(1, 1)), (2, 9, 9))]),
        "out": 4860,
    }
    assert math.fsum(row.operations for row in rows) == pytest.approx(0.5 * logical["c"] + 0.2 * logical["out"])
    assert math.fsum(row.spikes_out for row in rows) == pytest.approx(0.2 * 486)  # c sends to the one core of out
    for row in rows:
        assert row.chip == 0 and row.y == row.core // 4 // 8 and row.x == row.core // 4 % 8
        assert all(0 <= row.percent[r] == 100 * row.used[r] / row.limit[r] <= 100 for r in row.used)
    table = json.loads(json.dumps([row.to_row() for row in rows]))
    assert {"chip", "core", "x", "y", "slices", "operations", "spikes_in", "spikes_out"} <= set(table[0])
    assert {f"{kind}_neurons" for kind in ("used", "limit", "percent")} <= set(table[0])
    assert any(row["slices"] == "out[0:10]" for row in table)


def test_the_synapse_numbers_are_kept_apart() -> None:
    net, mapping = network(), mapped()
    c, out = synapse_numbers(net, mapping)
    conv, dense = net.projections[0].synapse, net.projections[1].synapse
    assert c.logical == int(fan_out(Conv(np.ones_like(conv.weight), padding=(1, 1)), (2, 9, 9)).sum())
    assert c.nonzero == int(fan_out(conv, (2, 9, 9)).sum()) < c.logical
    assert c.unique == np.count_nonzero(conv.weight)
    assert c.sharing_ratio == c.logical / c.unique
    assert (out.logical, out.nonzero, out.unique) == (4860, np.count_nonzero(dense.weight), np.count_nonzero(dense.weight))
    use = utilisation(net, mapping)
    assert [c.words, out.words] == [row.synapse_words_total for row in use.layers[1:]]
    assert out.overhead == pytest.approx(64 * out.words / (4 * out.unique))
    # 486 inputs, 10 outputs of 8 + 12 or 4 + 12 bits and 8 bits of header: 4 or 3 words each.
    assert (out.saved_by_pruning, out.saved_by_quantisation) == (0, 486 * (4 - 3))
    # 18 lists of 4 + 2 channels: a word for each part at 4 bits and at 8.
    assert (c.saved_by_pruning, c.saved_by_quantisation) == (0, 0)


def test_saved_by_pruning_is_counted_against_the_unpruned_net_of_8_bits() -> None:
    net, mapping = network(), mapped()
    c, out = synapse_numbers(net, mapping, unpruned=network(channels=16, bits=6))
    # 16 channels of 8 bits are 3 words a list, 4 + 2 channels 2; the dense layer had 16 * 81 inputs of 4 words.
    assert (c.saved_by_pruning, out.saved_by_pruning) == (18 * (3 - 2), (16 - 6) * 81 * 4)
    other = Network(
        (Population("image", (2,)), Population("x", (3,), LIF)), (Projection("image", "x", Dense(np.ones((3, 2)))),)
    )
    with pytest.raises(ConfigError, match="the unpruned network has no layer 'c'"):
        synapse_numbers(net, mapping, unpruned=other)


def test_traffic_matrix_and_the_busiest_core() -> None:
    net, mapping = network(), mapped()
    found = traffic(net, mapping, RATE)
    rows = core_rows(net, mapping, RATE)
    assert found.populations == ("image", "c", "out")
    assert math.fsum(map(math.fsum, found.messages)) == pytest.approx(math.fsum(row.spikes_in for row in rows))
    assert found.messages[1][2] == pytest.approx(0.2 * 486) and found.messages[2] == (0.0, 0.0, 0.0)
    busiest = max(rows, key=lambda row: row.operations)
    assert found.busiest_core == (busiest.chip, busiest.core) and found.busiest_operations == busiest.operations
    assert found.between_chips == 0 and found.hops > 0 and found.largest_link <= found.hops


def test_energy_is_a_range_and_of_loihi1_only() -> None:
    net = network()
    assert energy(net, mapped("loihi2"), RATE) is None
    mapping = mapped("loihi1")
    spent = energy(net, mapping, RATE)
    assert spent is not None
    rows = core_rows(net, mapping, RATE)
    operations = math.fsum(row.operations for row in rows)
    # The ends of Davies' range differ by the update of an active or an inactive neuron, SANA-FE's by the synaptic operation.
    assert spent.davies[1] - spent.davies[0] == pytest.approx(496 * (81 - 52) / 1e3)
    assert spent.sana_fe[1] - spent.sana_fe[0] == pytest.approx(operations * (35.5 - 24) / 1e3)
    assert spent.static_milliwatts == 104 and all("[published]" in line for line in spent.sources)
    silent = energy(net, mapping, dict.fromkeys(("image", "c", "out"), 0.0))
    assert silent is not None and silent.davies == pytest.approx((496 * 52 / 1e3, 496 * 81 / 1e3))


def test_what_if() -> None:
    c, out = what_if(network(), load_chip("loihi2", {"synapse_words": 500}))
    assert (c.name, c.width, c.bits, c.good_widths) == ("c", 6, 4, (4, 6))  # 5 and 6 channels take two words a list
    assert list(c.cores_by_bits) == [1, 2, 3, 4, 5, 6, 8]
    assert out.next_width_cores is not None and out.cores_by_bits[4] is not None
    assert [w.name for w in what_if(network(), load_chip("loihi2"), layers=["out"])] == ["out"]


def test_front_and_bound() -> None:
    chip = load_chip("loihi2", {"neurons": 90})
    plans = front(network(), chip, RATE)
    assert plans[0].cores == len(map_network(network(), chip).cores) >= bound(network(), chip)


def test_all_of_it_as_plain_data() -> None:
    net, mapping = network(), mapped("loihi1")
    found = describe(net, mapping, RATE, network(channels=16))
    assert json.loads(json.dumps(found)) == found
    assert list(found) == ["core_use", "mesh", "synapses", "traffic", "energy", "what_if"]
    assert found["core_use"] == [row.to_row() for row in core_rows(net, mapping, RATE)]
    assert found["mesh"] == {"cores_per_chip": 128, "cores_per_tile": 4, "width": 8}
    assert found["synapses"] == [asdict(row) for row in synapse_numbers(net, mapping, network(channels=16))]
    assert found["traffic"]["messages"][1][2] == traffic(net, mapping, RATE).messages[1][2]
    assert found["energy"]["davies"] == list(energy(net, mapping, RATE).davies)  # type: ignore[union-attr]
    assert found["what_if"][0]["cores_by_bits"]["4"] == what_if(net, mapping.chip)[0].cores_by_bits[4]
    assert describe(net, mapped("loihi2"), RATE)["energy"] is None
    plans = front(net, load_chip("loihi2"), RATE)
    assert front_rows(plans)[0] == {"cores": plans[0].cores, "messages": plans[0].messages, "operations": plans[0].operations}


@pytest.mark.parametrize(("free", "share"), [(False, False), (True, True)])
def test_networks_side_by_side_are_those_mapped_one_by_one(free: bool, share: bool) -> None:
    chip = allow(load_chip("loihi2", {"neurons": 90, "synapse_words": 2500}), free_tiles=free, share_cores=share)
    wide, narrow = network(channels=16, bits=8), network(channels=6)
    at_eight = [at_bits(layer, 8) for layer in plan_layers(network(channels=16))]
    variants = {"8 bits": at_eight, "wide": plan_layers(wide), "narrow": plan_layers(narrow)}
    rows = compare(variants, chip)
    assert [row.name for row in rows] == list(variants)
    for row, net in zip(rows, (wide, wide, narrow), strict=True):  # the shapes at 8 bits cost what the network of 8 bits does
        use = utilisation(net, map_network(net, chip))
        assert (row.cores, row.chips, row.lower_bound, row.neurons) == (use.cores, use.chips, use.lower_bound, use.neurons)
        assert row.synapse_words == use.synapse_words and row.error is None
        mapped_layers = [(r.name, r.shape[0], r.cores, r.synapse_words_total) for r in use.layers if r.cores]
        assert list(row.layers) == mapped_layers or share  # with shared cores a layer has several slices on a core
    assert rows[2].synapse_words < rows[1].synapse_words  # type: ignore[operator]


def test_one_that_does_not_fit_stands_beside_the_others() -> None:
    rows = compare({"a": plan_layers(network()), "b": plan_layers(network(channels=4))}, load_chip("loihi2", {"axon_in": 400}))
    assert rows[0].cores is None and rows[0].synapse_words is None and rows[0].layers == ()
    assert rows[0].error is not None and "out: one neuron needs 486 axon_in, a core of loihi2 has 400" in rows[0].error
    assert rows[1].error is None and rows[1].cores is not None and rows[1].cores >= rows[1].lower_bound


def test_a_network_that_does_not_fit_says_what_is_known() -> None:
    chip = load_chip("loihi2", {"axon_in": 400})
    with pytest.raises(CapacityError, match="out: one neuron needs 486 axon_in, a core of loihi2 has 400") as caught:
        map_network(network(), chip)
    partial = caught.value.partial
    assert partial is not None and caught.value.exit_code == 2
    assert json.loads(json.dumps(partial)) == partial
    full = utilisation(network(), map_network(network(), load_chip("loihi2"))).to_dict()
    assert set(full) == set(partial) and partial["verdict"] == str(caught.value) and partial["fits"] is False
    host, c, out = partial["layers"]
    assert (host["cores"], c["cores"], out["cores"]) == (0, 2, None)  # 9 pixels are 8 and 1
    assert set(full["layers"][1]) | {"error", "excess"} == set(c) == set(out) == set(host)
    assert c["error"] is None and out["error"] == str(caught.value) and out["lower_bound"] == 2
    assert c["excess"] == [] and out["excess"] == [{"resource": "axon_in", "need": 486, "limit": 400}]
    assert caught.value.layer == "out" and caught.value.excess == (("axon_in", 486, 400),)
    assert partial == partial_utilisation(network(), chip, caught.value)


def test_out_axons_that_never_fit_have_partial_results_too() -> None:
    with pytest.raises(CapacityError, match="out-axon") as caught:
        map_network(
            Network(
                (Population("a", (64,), LIF), Population("b", (64,), LIF)),
                (Projection("a", "b", Dense(np.ones((64, 64)))), Projection("b", "b", Dense(np.ones((64, 64))))),
            ),
            load_chip("loihi1", {"neurons": 16, "axon_out": 40}),
        )
    assert caught.value.partial is not None and [row["cores"] for row in caught.value.partial["layers"]] == [4, 4]
    (stuck,) = [row for row in caught.value.partial["layers"] if row["error"]]  # by itself it would fit
    assert stuck["name"] == caught.value.layer and stuck["error"] == str(caught.value)
    assert stuck["excess"] == [{"resource": "axon_out", "need": None, "limit": 40}]
