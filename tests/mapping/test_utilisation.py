from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mapping.chip import STATEMENT, load_chip
from mapping.mapper import map_network
from mapping.mapping import Mapping
from mapping.utilisation import utilisation
from netx_export.errors import ConfigError
from netx_export.network import Conv, Dense, Integrator, Lif, Network, Population, Projection

LIF = Lif(4096, 1024, 25)


def network() -> Network:
    rng = np.random.default_rng(2)
    return Network(
        (Population("image", (1, 10, 10)), Population("conv", (6, 8, 8), LIF), Population("out", (10,), Integrator())),
        (
            Projection("image", "conv", Conv(rng.integers(-8, 8, (6, 1, 3, 3)))),
            Projection("conv", "out", Dense(rng.integers(-8, 8, (10, 384)))),
        ),
    )


def test_rows_and_totals() -> None:
    use = utilisation(network(), map_network(network(), load_chip("loihi2", {"neurons": 200})))
    host, conv, out = use.layers
    assert (host.type, host.cores, host.binding, host.neurons) == ("host", 0, None, 100)
    assert (conv.type, conv.tile, conv.neurons_per_core, conv.cores) == ("conv", (4, 8, 6), None, 2)
    assert (conv.neurons, conv.neurons_tile, conv.neurons_mean, conv.lower_bound) == (384, 192, 192, 2)
    # 4 bits, 6 = 4 + 2 channels, 9 kernel positions; it feeds a dense layer: one AxonMap entry per neuron.
    assert (conv.synapse_words, conv.synapse_words_total, conv.axon_in, conv.axon_map, conv.axon_mem) == (18, 36, 2, 192, 0)
    assert conv.pool_percent == pytest.approx(100 * (192 + 18 + 2 + 192) / 20000)
    assert (conv.binding, conv.binding_percent) == ("neurons", pytest.approx(96.0))
    assert (out.type, out.tile, out.neurons_per_core, out.cores) == ("dense", None, 10, 1)
    assert (out.synapse_words, out.axon_in, out.axon_map) == (384 * 3, 384, 10)
    assert (use.cores, use.chips, use.lower_bound, use.fits) == (3, 1, 3, True)
    assert (use.neurons, use.synapse_words, use.core_percent) == (394, 36 + 384 * 3, 2.5)
    assert use.verdict == "fits: 3 cores on 1 chip of loihi2 with 120 cores each; conv fills neurons to 96 %"
    assert use.profile == "loihi2 with neurons=200"


@pytest.mark.parametrize(("width", "warned"), [(256, 0), (257, 1)])
def test_wide_convolutions_are_warned_of(width: int, warned: int) -> None:
    net = Network(
        (Population("image", (1, 1, width)), Population("wide", (1, 1, width), LIF)),
        (Projection("image", "wide", Conv(np.ones((1, 1, 1, 1), dtype=int))),),
    )
    use = utilisation(net, map_network(net, load_chip("loihi2")))
    assert len(use.warnings) == warned == len(use.to_dict()["warnings"])
    assert not warned or use.warnings[0].startswith(
        "image is 257 pixels wide and feeds a convolution; beyond 256 the chip may drop"
    )
    assert utilisation(net, map_network(net, load_chip("loihi1"))).warnings == ()


def test_json_has_the_keys_that_reports_need() -> None:
    use = utilisation(network(), map_network(network(), load_chip("loihi2")))
    table = json.loads(json.dumps(use.to_dict()))
    assert {"chip", "profile", "fits", "verdict", "cores", "chips", "lower_bound", "layers", "evidence"} <= set(table)
    assert {
        "name", "type", "cores", "tile", "neurons_per_core", "synapse_words", "synapse_words_total", "neurons_tile",
        "neurons_mean", "axon_in", "axon_map", "axon_mem", "pool_percent", "binding", "lower_bound",
    } <= set(table["layers"][0])  # fmt: skip
    assert table["evidence"][0] == STATEMENT
    assert table["layers"][1]["tile"] == [8, 8, 6]
    assert any("[inferred]" in line for line in table["evidence"])


def test_a_board_that_is_too_small() -> None:
    mapping = map_network(network(), load_chip("loihi2", {"neurons": 50, "cores_per_chip": 4}))
    use = utilisation(network(), mapping)
    assert use.cores > 4 and use.chips == -(-use.cores // 4) and not use.fits
    assert use.verdict == (
        f"does not fit: {use.cores} cores need {use.chips} chips, the board is 1 chip of loihi2 with 4 cores each; conv takes "
        f"the most, {use.layers[1].cores} cores, bound by neurons. "
        f"Way out: fewer channels or bits there, or a board with {use.chips} chips"
    )
    assert utilisation(network(), mapping, chips=use.chips).fits
    with pytest.raises(ConfigError, match="a board has at least 1 chip, not 0"):
        utilisation(network(), mapping, chips=0)


def test_a_mapping_of_another_network() -> None:
    mapping = map_network(network(), load_chip("loihi2"))
    with pytest.raises(ConfigError, match="do not belong together: the mapping has no layer 'out'"):
        utilisation(network(), replace(mapping, cores=mapping.cores[:-1]))
    other = Network((Population("only", (4,), LIF),), ())
    with pytest.raises(ConfigError, match=r"do not belong together: the network has no layer '(conv|out)'"):
        utilisation(other, Mapping.from_dict(mapping.to_dict()))


def test_loihi1_reports_out_axons_and_no_pool() -> None:
    use = utilisation(network(), map_network(network(), load_chip("loihi1")))
    conv = use.layers[1]
    assert (conv.axon_out, conv.axon_map, conv.pool_percent, conv.cores) == (384, 0, None, 1)
    assert conv.axon_in == 100
