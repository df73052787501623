"""Mapped = unmapped, spike for spike, over consecutive samples, and every way to break a mapping shows in the spikes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from mapping_strategies import chips, networks

from mapping.chip import Chip, load_chip
from mapping.mapped import simulate_mapped
from mapping.mapper import map_network
from mapping.mapping import Mapping, Slice
from mapping.placement import place
from mapping.traffic import slice_traffic
from netx_export.errors import CapacityError, ConfigError
from netx_export.network import Conv, Dense, Lif, Network, Population, Projection
from netx_export.simulate import Reset, simulate

RESET = Reset(6)


def frames(network: Network, seed: int, steps: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    high = 60 if network.input.neuron is not None else 2  # bias mantissas, or spikes
    return rng.integers(0, high, (2, *network.input.shape, steps))


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), chips(), st.booleans(), st.integers(0, 1 << 16))
def test_mapped_equals_unmapped(network: Network, chip: Chip, relaxed: bool, seed: int) -> None:
    try:
        mapping = map_network(network, chip, free_tiles=relaxed, share_cores=relaxed)
    except CapacityError:
        assume(False)
        raise
    inputs = frames(network, seed)
    expected = simulate(network, inputs, reset=RESET)
    got = simulate_mapped(network, mapping, inputs, reset=RESET)
    assert got.spikes.keys() == expected.spikes.keys()
    for name, spikes in expected.spikes.items():
        np.testing.assert_array_equal(got.spikes[name], spikes, err_msg=name)
    fired = [0.02 < expected.spikes[p.name].mean() < 0.8 for p in network.populations if isinstance(p.neuron, Lif)]
    event("all layers fire" if all(fired) else "some layers are silent or saturated")


def network() -> Network:
    rng = np.random.default_rng(5)

    def weight(*shape: int) -> np.ndarray:
        return rng.integers(-6, 12, shape)

    return Network(
        (
            Population("in", (2, 8, 8)),
            Population("a", (6, 8, 8), Lif(4096, 512, 90), bias=np.arange(6) * 4),
            Population("b", (6, 4, 4), Lif(3000, 512, 20)),
            Population("c", (20,), Lif(4096, 1024, 200)),
            Population("out", (5,), Lif(4096, 256, 60)),
        ),
        (
            Projection("in", "a", Conv(weight(6, 2, 3, 3), padding=(1, 1))),
            Projection("a", "b", Conv(np.full((6, 1, 2, 2), 9), stride=(2, 2), groups=6)),
            Projection("b", "c", Dense(weight(20, 96)), delay=rng.integers(0, 3, (20, 1))),
            Projection("c", "c", Dense(weight(20, 20) - 3), delay=rng.integers(0, 3, (1, 20))),
            Projection("c", "out", Dense(weight(5, 20))),
            Projection("a", "out", Dense(weight(5, 384) // 4)),
        ),
    )


LIMITS = {"neurons": 40, "synapse_words": 500}


def test_a_net_in_which_every_layer_fires() -> None:
    net, inputs = network(), frames(network(), 1, 24)
    expected = simulate(net, inputs, reset=RESET)
    for population in net.populations[1:]:
        assert 0.02 < expected.spikes[population.name].mean() < 0.8, population.name
    for chip in (load_chip("loihi2", LIMITS), load_chip("loihi1", {"neurons": 40})):
        mapping = place(net, map_network(net, chip, free_tiles=True, share_cores=True)).mapping
        assert len(mapping.cores) > 10
        got = simulate_mapped(net, mapping, inputs, reset=RESET)
        for name, spikes in expected.spikes.items():
            np.testing.assert_array_equal(got.spikes[name], spikes, err_msg=name)


def test_a_slice_in_the_wrong_place_changes_the_spikes() -> None:
    net, inputs = network(), frames(network(), 1, 24)
    mapping = map_network(net, load_chip("loihi2", LIMITS))
    expected = simulate(net, inputs, reset=RESET)

    def differs(broken: Mapping) -> bool:
        got = simulate_mapped(net, broken, inputs, reset=RESET)
        return any((got.spikes[name] != spikes).any() for name, spikes in expected.spikes.items())

    assert not differs(mapping)
    for population in ("a", "b", "c", "out"):
        number = next(i for i, core in enumerate(mapping.cores) if core.slices[0].population == population)
        assert differs(replace(mapping, cores=mapping.cores[:number] + mapping.cores[number + 1 :])), population
    moved = list(mapping.cores)
    number = next(i for i, core in enumerate(moved) if core.slices[0].population == "a")
    (c0, c1), rows, columns = moved[number].slices[0].ranges
    assert c1 - c0 < 6 or columns[1] < 8 or rows[1] < 8
    moved[number] = replace(moved[number], slices=(Slice("a", ((c0, c1), rows, (columns[0], columns[1] - 1))),))
    assert differs(replace(mapping, cores=tuple(moved)))


def test_messages_are_those_that_the_traffic_model_expects() -> None:
    """No message where the model knows no way, and at most a spike per neuron, sample and machine step."""
    net = network()
    inputs = frames(net, 1, 24)
    mapping = map_network(net, load_chip("loihi2", LIMITS))
    run = simulate_mapped(net, mapping, inputs, reset=None)
    ones = slice_traffic(net, mapping, dict.fromkeys((p.name for p in net.populations), 1.0))
    reach = np.zeros(run.messages.shape)
    reach[ones[0], ones[1]] = ones[2]
    assert ((run.messages > 0) <= (reach > 0)).all()
    assert (run.messages <= reach * 2 * (24 + 4)).all()
    assert run.messages.sum() > 0


def test_an_input_of_the_wrong_shape() -> None:
    net = network()
    mapping = map_network(net, load_chip("loihi2"))
    with pytest.raises(ConfigError, match=r"the input has the shape \(2, 8, 8\); expected \(batch, 2, 8, 8, time\)"):
        simulate_mapped(net, mapping, np.zeros((2, 8, 8), dtype=int))
