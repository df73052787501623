"""The dynamic programme against trying everything, and what each objective is for."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mapping_strategies import networks

from mapping.check import check, recount
from mapping.chip import Chip, allow, load_chip
from mapping.cost import plan_layers
from mapping.coupled import OBJECTIVES, candidates, choose_cuts, pareto_front
from mapping.mapper import map_network, mapping_of
from mapping.mapping import Core, Mapping, Slice
from mapping.traffic import rates, slice_messages, slice_operations, slice_traffic
from netx_export.errors import CapacityError, ConfigError
from netx_export.network import Conv, Dense, Lif, Network, Population, Projection

LIF = Lif(4096, 1024, 25)


def chain(seed: int) -> Network:
    """Two convolutions and a dense layer, small enough to try every combination of cuts."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(4, 8))
    first = Conv(rng.integers(1, 8, (int(rng.integers(2, 5)), 1, 3, 3)), padding=(1, 1))
    second = Conv(rng.integers(1, 8, (int(rng.integers(2, 5)), first.weight.shape[0], 2, 2)), stride=(2, 2))
    shapes = [(1, size, size), first.output_shape((1, size, size))]
    shapes.append(second.output_shape(shapes[1]))
    post = int(rng.integers(4, 12))
    return Network(
        (
            Population("in", shapes[0], LIF),
            Population("a", shapes[1], LIF),
            Population("b", shapes[2], LIF),
            Population("d", (post,), LIF),
        ),
        (
            Projection("in", "a", first),
            Projection("a", "b", second),
            Projection("b", "d", Dense(rng.integers(1, 8, (post, math.prod(shapes[2]))))),
        ),
    )


def brute_force(network: Network, chip: Chip) -> int | None:
    """The fewest cores over all combinations of the layers' cuts, as the checker judges them."""
    layers = plan_layers(network)
    offers = [[c.cut for c in candidates(layer, chip, rates(network, None))] for layer in layers]
    best = None
    for cuts in sorted(product(*offers), key=lambda cuts: sum(cut.cores for cut in cuts)):
        slices = [Slice(layer.name, ranges) for layer, cut in zip(layers, cuts, strict=True) for ranges in cut.slices()]
        mapping = Mapping(chip, tuple(Core(0, i, (piece,)) for i, piece in enumerate(slices)))
        if (
            len(slices) <= chip.cores_per_chip
            and max(u["axon_out"] for u in recount(network, mapping, False)) <= (chip.core_limits["axon_out"])
        ):
            best = len(slices)
            break
    return best


@pytest.mark.parametrize("seed", range(5))
def test_no_combination_of_cuts_takes_fewer_cores(seed: int) -> None:
    network = chain(seed)
    rng = np.random.default_rng(seed + 100)
    neurons = int(rng.integers(24, 40))
    chip = load_chip("loihi1", {"neurons": neurons, "axon_out": int(rng.integers(30, 60)), "cores_per_chip": 999})
    expected = brute_force(network, chip)
    if expected is None:
        with pytest.raises(CapacityError, match="out-axon"):
            map_network(network, chip)
        return
    mapping = map_network(network, chip)
    assert check(network, mapping) == ()
    assert len(mapping.cores) == expected


def test_cutting_one_layer_at_a_time_is_short_sighted() -> None:
    """A layer cut into single channels has the fewest cores itself but makes every input neuron send to each of them."""
    rng = np.random.default_rng(0)
    network = Network(
        (Population("in", (1, 16, 16), LIF), Population("a", (16, 16, 16), LIF)),
        (Projection("in", "a", Conv(rng.integers(1, 8, (16, 1, 3, 3)), padding=(1, 1))),),
    )
    mapping = map_network(network, load_chip("loihi1", {"axon_out": 512}))
    tiles = {piece.ranges for piece in mapping.slices("a")}
    assert check(network, mapping) == ()
    assert len(mapping.slices("a")) == 4 and len(mapping.slices("in")) <= 2
    assert (
        len({rows for _, rows, _ in tiles}) * len({columns for _, _, columns in tiles}) == 4
    )  # cut in pixels, not in channels


def figures(network: Network, mapping: Mapping) -> tuple[int, float, float]:
    rate = rates(network, None)
    layers = {layer.name: layer for layer in plan_layers(network)}
    pieces = [piece for core in mapping.cores for piece in core.slices]
    messages = math.fsum(slice_messages(layers[p.population], p.ranges, rate) for p in pieces)
    return len(mapping.cores), messages, max(slice_operations(layers[p.population], p.ranges, rate) for p in pieces)


@pytest.mark.parametrize("profile", ["loihi1", "loihi2"])
def test_each_objective_is_the_best_at_its_own(profile: str) -> None:
    network = chain(3)
    chip = load_chip(profile, {"neurons": 20, "cores_per_chip": 40})
    found = {goal: figures(network, map_network(network, chip, objective=goal)) for goal in OBJECTIVES}
    assert found["cores"][0] == min(f[0] for f in found.values())
    assert found["traffic"][1] == min(f[1] for f in found.values())
    assert found["balance"][2] == min(f[2] for f in found.values()) < found["cores"][2]
    assert found["balance"][0] <= 40  # within the chip that the fewest cores need anyway
    for goal in OBJECTIVES:
        assert check(network, map_network(network, chip, objective=goal)) == ()
    plan = choose_cuts(plan_layers(network), chip, rates(network, None), "balance")
    assert (plan.cores, plan.messages, plan.operations) == pytest.approx(found["balance"])


@pytest.mark.parametrize("profile", ["loihi1", "loihi2"])
def test_the_front_has_nothing_that_another_beats(profile: str) -> None:
    network = chain(2)
    chip = load_chip(profile, {"neurons": 20, "cores_per_chip": 40})
    rate = rates(network, None)
    plans = pareto_front(plan_layers(network), chip, rate)
    front = [(p.cores, p.messages, p.operations) for p in plans]
    for plan, point in zip(plans, front, strict=True):
        mapping = mapping_of(network, chip, plan)
        assert check(network, mapping) == () and figures(network, mapping) == pytest.approx(point)
    assert len(front) > 1 and front == sorted(front)
    for a, b in product(front, front):
        assert a == b or any(x < y for x, y in zip(a, b, strict=True))
    for goal, place in (("cores", 0), ("balance", 2)):
        plan = choose_cuts(plan_layers(network), chip, rate, goal)
        assert min(point[place] for point in front) == (plan.cores, plan.messages, plan.operations)[place]


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.sampled_from(["loihi1", "loihi2"]), st.sampled_from(OBJECTIVES), st.booleans(), st.integers(4, 40))
def test_every_objective_on_any_graph_is_legal(network: Network, name: str, goal: str, free: bool, neurons: int) -> None:
    limits = {"neurons": neurons, "cores_per_chip": 50}
    if name == "loihi1":
        limits["axon_out"] = 300
    try:
        mapping = map_network(network, load_chip(name, limits), objective=goal, free_tiles=free, share_cores=free)
    except CapacityError:
        assume(False)
        raise
    assert check(network, mapping) == ()


def test_more_spikes_of_a_layer_change_what_is_balanced() -> None:
    network = chain(3)
    chip = load_chip("loihi2", {"neurons": 20, "cores_per_chip": 40})
    quiet = choose_cuts(plan_layers(network), chip, rates(network, {"in": 0.0}), "balance")
    loud = choose_cuts(plan_layers(network), chip, rates(network, {"in": 1.0}), "balance")
    assert quiet.cuts != loud.cuts and quiet.operations < loud.operations


def test_unknown_objectives_and_rates() -> None:
    network = chain(0)
    chip = load_chip("loihi2")
    with pytest.raises(ConfigError, match="objective 'speed': expected one of cores, traffic, balance"):
        map_network(network, chip, objective="speed")
    with pytest.raises(ConfigError, match=r"activity of 'ghost': the network has no such population; it has in, a, b, d"):
        map_network(network, chip, activity={"ghost": 1.0})
    for rate in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"activity of a is .* it must be a number of at least 0"):
            slice_traffic(network, map_network(network, chip), {"a": rate})


def test_free_tiles_of_loihi1_are_never_worse() -> None:
    for seed in range(3):
        network = chain(seed)
        chip = load_chip("loihi1", {"neurons": 25, "axon_out": 80, "cores_per_chip": 999})
        halved, free = (map_network(network, c) for c in (chip, allow(chip, free_tiles=True)))
        assert len(free.cores) <= len(halved.cores) and check(network, free) == ()
