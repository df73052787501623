from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest

from mapping.check import check
from mapping.chip import Chip, load_chip
from mapping.cost import ConvInput, DenseInput, Layer
from mapping.mapper import map_network
from mapping.mapping import Core, Mapping, Slice
from mapping.partition import Cut, cut_layer, halvings, partition, tiles
from netx_export.errors import CapacityError
from netx_export.network import Conv, Dense, Lif, Network, Population, Projection

LIF = Lif(4096, 1024, 25)


def dense_layer(pre: int, neurons: int, bits: int) -> Layer:
    return Layer("dense", "dense", (neurons,), (DenseInput("source", pre, bits),), 0, 1)


def conv_layer(shape: tuple[int, int, int], per_group: int, bits: int = 4, groups: int = 1) -> Layer:
    channels, height, width = shape
    conv = ConvInput("source", (height + 2, width + 2), channels, per_group, groups, (3, 3), (1, 1), (0, 0), (1, 1), bits)
    return Layer("conv", "conv", shape, (conv,), 1, 0)


def sizes(cut: Cut) -> list[int]:
    return [math.prod(stop - start for start, stop in ranges) for ranges in cut.slices()]


def test_the_published_dense_split() -> None:
    """PilotNet's 2560 -> 100 at 3 bits on 12,000 words: 6 cores by words do not do, so 12: eleven of 9 and one of 1."""
    assert sizes(cut_layer(dense_layer(2560, 100, 3), load_chip("loihi2-2022"))) == [9] * 11 + [1]


def test_the_smallest_even_split_elsewhere() -> None:
    chip = load_chip("loihi2", {"synapse_words": 12000})
    assert sizes(cut_layer(dense_layer(2560, 100, 3), chip)) == [15] * 6 + [10]  # 16 would fit: 7 cores, of 15
    assert sizes(cut_layer(dense_layer(2560, 100, 3), load_chip("loihi2"))) == [25] * 4


@pytest.mark.parametrize("profile", ["loihi2", "loihi2-2022"])
def test_a_dense_layer_that_fits_takes_one_core(profile: str) -> None:
    assert sizes(cut_layer(dense_layer(100, 50, 4), load_chip(profile))) == [50]


def test_doubling_also_serves_the_neuron_limit() -> None:
    chip = load_chip("loihi2-2022", {"neurons": 10})
    assert sizes(cut_layer(dense_layer(4, 100, 3), chip)) == [7] * 14 + [2]  # 1, 2, 4, 8 cores are too few; 16 it is, 7 each


def test_halvings() -> None:
    assert halvings(66) == [66, 33, 17, 9, 5, 3, 2, 1]
    assert halvings(1) == [1]


def test_tiles_keep_the_profiles_rule() -> None:
    layer = conv_layer((36, 15, 49), 24)
    steps = {cut.step for cut in tiles(layer, load_chip("loihi2"))}
    assert {step[2] for step in steps} == {1, 2, 4, 8, 16, 32}
    assert {step[1] for step in steps} == {15, 8, 4, 2, 1}
    assert {step[0] for step in steps} == {36, 18, 9, 5, 3, 2, 1}
    assert all(math.prod(step) <= 4095 for step in steps)
    assert 49 not in {step[2] for step in steps} and 25 in {cut.step[2] for cut in tiles(layer, load_chip("loihi1"))}
    counts = [cut.cores for cut in tiles(layer, load_chip("loihi2"))]
    assert counts == sorted(counts)


def test_ties_go_to_the_fewest_words_then_to_whole_channels() -> None:
    chip = load_chip("loihi2", {"neurons": 64})
    # 8x8x8: eight cores of 64 neurons as 8x8 pixels of 1 channel, ... or as 8 channels of 4x2 pixels.  One list of 8 channels
    # takes 1 word as one of 1 channel does, so all words are equal and the whole channels win, then the tallest tile.
    cut = cut_layer(conv_layer((8, 8, 8), 1, bits=4), chip)
    assert (cut.cores, cut.step) == (8, (8, 8, 1))
    # 64 channels on 2 cores: cut in channels, each takes 3 words a list (6 in all); cut in pixels, each 5 (10 in all).
    wide = cut_layer(conv_layer((64, 1, 2), 1, bits=4), chip)
    assert (wide.cores, wide.step) == (2, (32, 1, 2))


def test_the_rest_of_a_layer_can_cost_more_than_a_full_tile() -> None:
    """127 channels in tiles of 64: the rest of 63 has six parts (9 words a list), the full tile one (5 words)."""
    layer = conv_layer((127, 1, 1), 100)
    assert cut_layer(layer, load_chip("loihi2", {"neurons": 64, "synapse_words": 9 * 900})).step == (64, 1, 1)
    assert cut_layer(layer, load_chip("loihi2", {"neurons": 64, "synapse_words": 9 * 900 - 1})).step != (64, 1, 1)


def brute_force(network: Network, chip: Chip) -> int:
    """The fewest cores over all tiles of the rule for the last population, as the checker judges them."""
    population = network.output
    channels, height, width = population.shape
    steps = {
        (-(-channels // 2**k), -(-height // 2**j), 2**i) for k, j, i in product(range(8), range(8), range(8)) if 2**i <= width
    }
    grids = [[range(0, n, s) for n, s in zip(population.shape, step, strict=True)] for step in steps]
    for grid in sorted(grids, key=lambda grid: math.prod(map(len, grid))):
        boxes = product(*([(a, min(a + axis.step, axis.stop)) for a in axis] for axis in grid))
        cores = tuple(Core(0, n, (Slice(population.name, ranges),)) for n, ranges in enumerate(boxes))
        if not check(network, Mapping(chip, cores)):
            return len(cores)
    raise AssertionError("no tile is legal")


@pytest.mark.parametrize("seed", range(6))
def test_no_tile_of_the_rule_takes_fewer_cores(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 2]))
    channels, height, width = int(rng.integers(3, 7)) * groups, int(rng.integers(2, 7)), int(rng.integers(4, 8))
    weight = rng.integers(-8, 8, (channels, 2, 3, 3))
    weight[0, 0, 0, 0] = 1
    network = Network(
        (Population("in", (2 * groups, height, width)), Population("c", (channels, height, width), LIF)),
        (Projection("in", "c", Conv(weight, padding=(1, 1), groups=groups)),),
    )
    limits = {"neurons": int(rng.integers(20, 60)), "synapse_words": int(rng.integers(20, 60)), "cores_per_chip": 999}
    chip = load_chip("loihi2", limits)
    assert len(map_network(network, chip).cores) == brute_force(network, chip) > 1


@pytest.mark.parametrize(
    ("layer", "limits", "message"),
    [
        (
            dense_layer(20_000, 10, 4),
            {},
            r"dense: one neuron needs 20000 axon_in, a core of loihi2 has 16000\. Way out: give the layer fewer inputs",
        ),
        (
            dense_layer(900, 10, 4),
            {"synapse_words": 800},
            r"dense: one neuron needs 900 synapse_words, a core of loihi2 has 800\. Way out: .*fewer bits per weight",
        ),
        (
            conv_layer((8, 4, 4), 512),
            {"synapse_words": 4000},
            r"conv: one neuron needs 4608 synapse_words, a core of loihi2 has 4000\. Way out: .*smaller kernel",
        ),
        (dense_layer(900, 10, 4), {"pool": 1000}, r"dense: one neuron needs 1802 pool, a core of loihi2 has 1000\. Way out"),
    ],
)
def test_one_neuron_that_fits_nowhere(layer: Layer, limits: dict[str, int], message: str) -> None:
    with pytest.raises(CapacityError, match=message) as caught:
        cut_layer(layer, load_chip("loihi2", limits))
    assert caught.value.exit_code == 2


def dense_net(*sizes_: int, recurrent: bool = False) -> Network:
    populations = [Population("in", (sizes_[0],))]
    projections = []
    for i, (pre, post) in enumerate(pairwise(sizes_)):
        populations.append(Population(f"d{i}", (post,), LIF))
        projections.append(Projection(populations[-2].name, f"d{i}", Dense(np.ones((post, pre), dtype=np.int32))))
    if recurrent:
        projections.append(Projection("d0", "d0", Dense(np.ones((sizes_[1], sizes_[1]), dtype=np.int32))))
    return Network(tuple(populations), tuple(projections))


def test_loihi1_counts_an_out_axon_per_neuron_and_core() -> None:
    """100 neurons that feed 5 cores take 500 slots; with room for 260 they take 2 cores of 50, which send to 5 each."""
    network = dense_net(4, 100, 50)
    chip = load_chip("loihi1", {"neurons": 100, "axon_out": 260, "synapse_words": 100})
    mapping = map_network(network, chip)
    feeding, fed = mapping.slices("d0"), mapping.slices("d1")
    assert max(piece.size for piece in feeding) * len(fed) <= 260
    assert not check(network, mapping)


def test_out_axons_to_other_chips_take_two_slots() -> None:
    network = dense_net(4, 60, 60)
    one_chip = map_network(network, load_chip("loihi1", {"neurons": 60, "axon_out": 60}))
    assert len(one_chip.cores) == 2
    chip = load_chip("loihi1", {"neurons": 60, "axon_out": 60, "cores_per_chip": 1})
    mapping = map_network(network, chip)
    assert len(mapping.slices("d0")) == 2 and not check(network, mapping)
    squeezed = Mapping(chip, tuple(Core(i, 0, core.slices) for i, core in enumerate(one_chip.cores)))
    assert any("120 axon_out, the limit is 60" in sentence for sentence in check(network, squeezed))


def test_a_recurrent_layer_that_can_never_send_to_itself() -> None:
    """On loihi1, n neurons a core that send to N / n cores take N slots, however they are cut."""
    network = dense_net(4, 64, recurrent=True)
    with pytest.raises(CapacityError, match=r"d0: (its out-axons need more cores each time|one neuron needs 64 axon_out)"):
        map_network(network, load_chip("loihi1", {"neurons": 16, "axon_out": 40}))
    assert len(map_network(network, load_chip("loihi1", {"neurons": 16, "axon_out": 64})).cores) == 4


def test_an_empty_loop_of_layers() -> None:
    assert partition((), load_chip("loihi2")) == ()
