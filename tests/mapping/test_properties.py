"""Random small networks on every profile: legal, conserved, above their bounds, deterministic, and counted alike four ways."""

from __future__ import annotations

import json
import time
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from mapping_strategies import LIF, chips, networks, weights

from mapping.bench import ten_layers
from mapping.check import check, recount
from mapping.chip import Chip, load_chip
from mapping.cost import RESOURCES, FanOut, fan_out, plan_layers, slice_usage, traffic_usage
from mapping.mapper import map_network
from mapping.mapping import Mapping
from mapping.utilisation import core_usages, utilisation
from netx_export.errors import CapacityError
from netx_export.network import Conv, Dense, Network, Population, Projection

PROFILE = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def mapped(network: Network, chip: Chip, relaxed: bool = False) -> Mapping:
    try:
        return map_network(network, chip, free_tiles=relaxed, share_cores=relaxed)
    except CapacityError as error:  # with such limits a single neuron may be too much; it must say so
        event("one neuron does not fit")
        assert "Way out: " in str(error) and chip.name in str(error)
        assert error.partial is not None and error.partial["verdict"] == str(error)
        assume(False)
        raise


@PROFILE
@given(networks(), chips())
def test_mappings_are_legal_and_above_their_bounds(network: Network, chip: Chip) -> None:
    mapping = mapped(network, chip)
    event(f"{min(len(mapping.cores), 20)} cores (20: or more)")
    assert check(network, mapping) == ()
    use = utilisation(network, mapping)
    assert all(row.cores >= row.lower_bound for row in use.layers)
    assert use.cores >= use.lower_bound >= 1
    assert use.cores == sum(row.cores for row in use.layers)
    assert use.neurons == sum(p.size for p in network.populations if p.neuron is not None)
    for row in use.layers:
        assert row.binding_percent is None or 0 < row.binding_percent <= 100


@PROFILE
@given(networks(), chips())
def test_relaxed_rules_are_legal_and_save_cores(network: Network, chip: Chip) -> None:
    tight, loose = mapped(network, chip), mapped(network, chip, relaxed=True)
    assert check(network, loose) == ()
    use = utilisation(network, loose)
    assert use.cores >= use.lower_bound >= 1
    assert use.cores <= len(tight.cores) or chip.model == "loihi1"  # there, free tiles are a part of all only
    assert use.neurons == utilisation(network, tight).neurons
    assert max(len(core.slices) for core in loose.cores) <= chip.core_limits["neuron_groups"]
    for by_synapse, by_formula in zip(recount(network, loose, True), recount(network, loose, False), strict=True):
        assert by_synapse == by_formula
    for counted, used in zip(recount(network, loose), core_usages(network, loose), strict=True):
        for name, amount in counted.items():
            assert used.used(name) == amount or (name == "axon_out" and used.used(name) >= amount)


@PROFILE
@given(networks(), chips())
def test_counted_alike_by_the_cost_model_by_formulas_and_synapse_by_synapse(network: Network, chip: Chip) -> None:
    mapping = mapped(network, chip)
    by_synapse, by_formula = recount(network, mapping, True), recount(network, mapping, False)
    layers = {layer.name: layer for layer in plan_layers(network)}
    chips_used = len({core.chip for core in mapping.cores})
    for core, enumerated, formula in zip(mapping.cores, by_synapse, by_formula, strict=True):
        piece = core.slices[0]
        fans = fans_of(piece.population, network, mapping)
        used = slice_usage(layers[piece.population], piece.ranges, chip) + traffic_usage(piece.ranges, fans, chip, chips_used)
        counted = {name: used.used(name) for name in RESOURCES if name in chip.core_limits}
        # Where a kernel position only ever meets padding, or a stride skips a pixel, no synapse is there to be enumerated, but
        # both formulas know that too.
        assert enumerated == formula
        if chips_used > 1 and "axon_out" in counted:  # the mapper takes every out-axon for one to another chip
            assert counted.pop("axon_out") >= formula["axon_out"]
        assert counted == {name: formula[name] for name in counted}


def fans_of(source: str, network: Network, mapping: Mapping) -> list[FanOut]:
    layers = plan_layers(network)
    shape = next(layer.shape for layer in layers if layer.name == source)
    return [
        fan_out(shape, synapses, [piece.ranges for piece in mapping.slices(target.name)])
        for target in layers
        for synapses in target.inputs
        if synapses.source == source
    ]


@PROFILE
@given(networks(), chips(), st.booleans())
def test_deterministic_and_saved_as_loaded(network: Network, chip: Chip, relaxed: bool) -> None:
    mapping = mapped(network, chip, relaxed)
    assert map_network(network, chip, free_tiles=relaxed, share_cores=relaxed) == mapping
    again = Mapping.from_dict(json.loads(json.dumps(mapping.to_dict())))
    assert again == mapping
    assert utilisation(network, again) == utilisation(network, mapping)


@PROFILE
@given(networks(), chips(), st.integers(0, 1 << 16))
def test_a_dropped_core_is_always_missed(network: Network, chip: Chip, number: int) -> None:
    mapping = mapped(network, chip)
    dropped = number % len(mapping.cores)
    rest = Mapping(chip, mapping.cores[:dropped] + mapping.cores[dropped + 1 :])
    name = mapping.cores[dropped].slices[0].population
    missing = mapping.cores[dropped].slices[0].size
    assert any(line.startswith(f"{name}: {missing} of ") and "on no core" in line for line in check(network, rest))


def cores_at(bits: int, name: str) -> dict[str, int]:
    """Cores of a convolution and of a dense layer whose weights take that many bits."""

    def weight(*shape: int) -> np.ndarray:
        values = np.ones(shape, dtype=np.int32)
        values.flat[0] = -(1 << bits - 1)  # mixed sign
        return values

    network = Network(
        (Population("in", (96, 8, 8)), Population("c", (64, 6, 6), LIF), Population("d", (200,), LIF)),
        (Projection("in", "c", Conv(weight(64, 96, 3, 3))), Projection("c", "d", Dense(weight(200, 64 * 36)))),
    )
    mapping = map_network(network, load_chip(name))
    return {layer: len(mapping.slices(layer)) for layer in ("c", "d")}


@pytest.mark.parametrize(("name", "layers"), [("loihi1", "cd"), ("loihi2", "cd"), ("loihi2-2022", "c")])
def test_fewer_bits_never_need_more_cores(name: str, layers: str) -> None:
    counts = [cores_at(bits, name) for bits in (2, 3, 4, 5, 6, 8)]
    for layer in layers:
        along = [count[layer] for count in counts]
        assert along == sorted(along)
    assert counts[-1] != counts[0]


def test_except_by_the_doubling_of_the_2022_compiler() -> None:
    """2304 -> 200 at 2 bits: 101,376 words, 9 cores by words, 23 neurons each do not fit, so twice as many (12 each: 17).

    At 3 bits: 108,288 words, 10 cores by words, and their 20 neurons each do fit.
    """
    assert (cores_at(2, "loihi2-2022")["d"], cores_at(3, "loihi2-2022")["d"]) == (17, 10)


def test_totals_come_from_the_same_values_as_the_cores() -> None:
    network = Network(
        (Population("in", (2, 9, 9), LIF), Population("c", (6, 7, 7), LIF)),
        (Projection("in", "c", Conv(weights(np.random.default_rng(0), (6, 2, 3, 3), 4))),),
    )
    chip = load_chip("loihi2", {"neurons": 60})
    mapping = map_network(network, chip)
    totals = reduce(add, (np.array(list(used.values())) for used in recount(network, mapping)))
    names = list(chip.core_limits)
    use = utilisation(network, mapping)
    assert totals[names.index("synapse_words")] == use.synapse_words == sum(row.synapse_words_total for row in use.layers)
    assert totals[names.index("neurons")] == use.neurons


def stack(channels: tuple[int, ...], bits: int, size: int = 12) -> Network:
    """A chain of 3x3 convolutions with so many channels, and a dense layer of 10."""
    populations = [Population("in", (3, size, size), LIF)]
    projections = []
    for i, width in enumerate(channels):
        weight = np.ones((width, populations[-1].shape[0], 3, 3), dtype=np.int32)
        weight.flat[0] = -(1 << bits - 1)
        populations.append(Population(f"c{i}", (width, size, size), LIF))
        projections.append(Projection(populations[-2].name, f"c{i}", Conv(weight, padding=(1, 1))))
    weight = np.ones((10, populations[-1].size), dtype=np.int32)
    weight.flat[0] = -(1 << bits - 1)
    populations.append(Population("out", (10,), LIF))
    projections.append(Projection(populations[-2].name, "out", Dense(weight)))
    return Network(tuple(populations), tuple(projections))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 24), min_size=1, max_size=3),
    st.integers(0, 2),
    st.sampled_from(["loihi1", "loihi2"]),
    st.booleans(),
    st.integers(60, 400),
)
def test_halving_the_channels_or_the_bits_never_needs_more_cores(
    channels: list[int], which: int, name: str, free: bool, neurons: int
) -> None:
    """Half as many channels have as many power-of-two parts, each half as large.

    (The named exceptions are other smaller widths, see the next test, and the doubled dense splits of the 2022 compiler.)
    """
    chip = load_chip(name, {"neurons": neurons, "synapse_words": 3000, "cores_per_chip": 999})
    full = tuple(2 * n for n in channels)
    half = tuple(n if i == which % len(channels) else 2 * n for i, n in enumerate(channels))

    def cores(widths: tuple[int, ...], bits: int) -> int:
        try:
            return len(map_network(stack(widths, bits), chip, free_tiles=free).cores)
        except CapacityError:
            assume(False)
            raise

    whole = cores(full, 8)
    assert cores(half, 8) <= whole
    assert cores(full, 4) <= whole


def test_except_by_the_power_of_two_effect() -> None:
    """64 channels at 4 bits take 5 words a list, 63 take 9 (32 + 16 + 8 + 4 + 2 + 1): a core with room for 6 holds the one."""
    limits = {"synapse_words": 6 * 27, "neurons": 8192}
    counts = [len(map_network(stack((width,), 4, 1), load_chip("loihi2", limits)).slices("c0")) for width in (64, 63)]
    assert counts[0] == 1 < counts[1]


def test_time_grows_no_worse_than_linearly_in_layers() -> None:
    chip = load_chip("loihi2")

    def seconds(layers: int) -> float:
        network = ten_layers(64, layers)
        best = 1e9
        for _ in range(5):
            start = time.perf_counter()
            map_network(network, chip)
            best = min(best, time.perf_counter() - start)
        return best

    seconds(5)
    assert seconds(40) < 3 * 8 * seconds(5)  # eight times the layers; three times as slow is noise of a shared machine
