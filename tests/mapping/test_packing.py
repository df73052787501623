"""Free tiles and shared cores: few cores, never an illegal one."""

from __future__ import annotations

import math
import time
from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping import packing
from mapping.bench import ten_layers
from mapping.check import check, require
from mapping.chip import allow, load_chip
from mapping.cost import Layer, Usage, network_lower_bound, plan_layers
from mapping.mapper import map_network
from mapping.packing import pack
from mapping.partition import bands, free_boxes, quotients
from mapping.utilisation import utilisation
from mapping.widths import conv_layer, dense_layer
from netx_export.network import Dense, Lif, Network, Population, Projection

LIF = Lif(4096, 1024, 25)


@cache
def guillotine(height: int, width: int, pixels: int) -> int:
    """The fewest boxes of all cuts that go from edge to edge, again and again: a bound from below on bands."""
    if height * width <= pixels:
        return 1
    rows = (guillotine(h, width, pixels) + guillotine(height - h, width, pixels) for h in range(1, height))
    columns = (guillotine(height, w, pixels) + guillotine(height, width - w, pixels) for w in range(1, width))
    return min(*rows, *columns) if height > 1 and width > 1 else min([*rows, *columns])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.booleans())
def test_bands_cover_a_plane_once_with_few_boxes(height: int, width: int, pixels: int, full_first: bool) -> None:
    plane = np.zeros((height, width), dtype=int)
    boxes = bands(height, width, min(pixels, height * width), full_first)
    for (y0, y1), (x0, x1) in boxes:
        assert 0 < (y1 - y0) * (x1 - x0) <= pixels
        plane[y0:y1, x0:x1] += 1
    assert (plane == 1).all()
    grids = [-(-height // h) * -(-width // (pixels // h)) for h in range(1, min(height, pixels) + 1)]
    assert -(-height * width // pixels) <= guillotine(height, width, pixels) <= len(boxes) <= min(grids)


def test_bands_of_uneven_depth() -> None:
    """PilotNet's conv1: 32 x 99 pixels, 170 a core: 9 boxes of 15 rows and 10 of 17 reach the bound of 19; no grid does."""
    boxes = bands(32, 99, 170)
    assert len(boxes) == -(-32 * 99 // 170) == 19
    assert min(-(-32 // h) * -(-99 // (170 // h)) for h in range(1, 33)) == 20


def test_quotients() -> None:
    assert quotients(10) == [10, 5, 4, 3, 2, 1]
    assert quotients(1) == [1]


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 20), st.integers(1, 40), st.integers(20, 400))
def test_free_boxes_fit_and_cover(channels: int, height: int, width: int, source: int, neurons: int) -> None:
    layer = conv_layer((channels, height, width), (source, height, width), (3, 3), 4, padding=(1, 1))
    chip = allow(load_chip("loihi2", {"neurons": neurons}), free_tiles=True)
    cut = next(free_boxes(layer, chip))
    seen = np.zeros(layer.shape, dtype=int)
    for ranges in cut.slices():
        seen[tuple(slice(*r) for r in ranges)] += 1
        assert math.prod(b - a for a, b in ranges) <= neurons
    assert (seen == 1).all()


def chain(*sizes: int) -> tuple[Layer, ...]:
    return tuple(dense_layer(10, n, 4, name=f"d{i}") for i, n in enumerate(sizes))


def fewest_bins(sizes: tuple[int, ...], room: int, most: int) -> int:
    """By trying all ways."""
    for bins in range(1, len(sizes) + 1):
        for places in product(range(bins), repeat=len(sizes)):
            loads = [sum(s for s, p in zip(sizes, places, strict=True) if p == b) for b in range(bins)]
            if max(loads) <= room and max(places.count(b) for b in range(bins)) <= most:
                return bins
    raise AssertionError


@settings(max_examples=40)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(50, 80))
def test_small_cases_are_packed_as_well_as_can_be(sizes: list[int], room: int) -> None:
    pytest.importorskip("scipy")
    chip = allow(load_chip("loihi2", {"neurons": room}), share_cores=True)
    layers = chain(*sizes)
    cuts = [next(iter(packing.even_ranges(layer))) for layer in layers]
    cores = pack(layers, chip, cuts)
    assert len(cores) <= fewest_bins(tuple(sizes), room, 8)
    placed = dict.fromkeys((layer.name for layer in layers), 0)
    for piece in (piece for core in cores for piece in core):
        placed[piece.population] += piece.size
    assert list(placed.values()) == sizes


def test_a_case_in_which_all_must_fit_exactly() -> None:
    """Six slices fill two cores of 60 neurons to the last one, as 26 + 18 + 16 twice."""
    sizes = (26, 26, 18, 16, 18, 16)
    chip = allow(load_chip("loihi2", {"neurons": 60}), share_cores=True)
    layers = chain(*sizes)
    cores = pack(layers, chip, [next(iter(packing.even_ranges(layer))) for layer in layers])
    assert len(cores) == fewest_bins(sizes, 60, 8) == 2


def test_without_scipy_the_packing_is_legal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.optimize", None)
    items = packing._Items((), np.zeros((0, 2), np.int64), np.ones(2, np.int64))
    assert packing._exact(items, 3) is None


def test_at_most_as_many_slices_as_neuron_groups() -> None:
    chip = allow(load_chip("loihi2"), share_cores=True)
    layers = chain(*[3] * 17)
    cores = pack(layers, chip, [next(iter(packing.even_ranges(layer))) for layer in layers])
    assert len(cores) == 3 and max(len(core) for core in cores) == 8


def dense_net(*sizes: int) -> Network:
    populations = [Population("in", (sizes[0],))] + [Population(f"d{i}", (n,), LIF) for i, n in enumerate(sizes[1:])]
    projections = [
        Projection(a.name, b.name, Dense(np.ones((b.size, a.size), dtype=np.int32))) for a, b in pairwise(populations)
    ]
    return Network(tuple(populations), tuple(projections))


def test_shared_cores_in_the_numbers() -> None:
    network = dense_net(20, 30, 30, 30, 5)
    alone, shared = (map_network(network, load_chip("loihi2"), share_cores=share) for share in (False, True))
    assert (len(alone.cores), len(shared.cores)) == (4, 1)
    use = utilisation(network, shared)
    assert (use.cores, use.lower_bound, use.gap_percent, [row.cores for row in use.layers]) == (1, 1, 0.0, [0, 1, 1, 1, 1])
    assert utilisation(network, alone).lower_bound == 4
    assert any("assumed legal" in line for line in use.evidence)
    require(network, shared)


def test_the_bound_with_shared_cores_is_no_sum_of_ceilings() -> None:
    layers = chain(*[30] * 5)
    chip = load_chip("loihi2", {"neurons": 100})
    assert network_lower_bound(layers, chip) == 5
    assert network_lower_bound(layers, allow(chip, share_cores=True)) == 2
    assert sum((Usage(neurons=30) for _ in layers), Usage()).neurons == 150


def test_ten_layers_of_448_pixels() -> None:
    network = ten_layers()
    assert len(network.projections) == 10 and network.input.shape[1:] == (448, 448)
    chip = load_chip("loihi2")
    start = time.perf_counter()
    default = map_network(network, chip)
    seconds = time.perf_counter() - start
    assert len(default.cores) > 500
    assert seconds < 2.0
    free = map_network(network, chip, free_tiles=True)
    bound = network_lower_bound(plan_layers(network), free.chip)
    assert bound <= len(free.cores) <= 1.04 * bound
    assert check(network, free) == ()
