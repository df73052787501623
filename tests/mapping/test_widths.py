from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapping_strategies import LIF
from numpy.typing import NDArray

from mapping.chip import load_chip
from mapping.cost import Layer, plan_layers
from mapping.mapper import map_network
from mapping.utilisation import utilisation
from mapping.widths import (
    at_bits,
    at_width,
    at_widths,
    choose_widths,
    conv_layer,
    cores_by_bits,
    costs_by_width,
    dense_layer,
    good_widths,
    next_lower_width_that_saves,
    width_cost,
)
from netx_export.errors import CapacityError, ConfigError
from netx_export.network import Conv, Dense, Network, Population, Projection

LOIHI2 = load_chip("loihi2")


def layer(channels: int = 64, bits: int = 4, source: int = 10, groups: int = 1) -> Layer:
    return conv_layer((channels, 8, 8), (source, 10, 10), (3, 3), bits, groups=groups)


# Words per (input channel, ky, kx) for the widths of the loihi-mapping notes (p = 2 there, 8 here: equal at these).
@pytest.mark.parametrize(("width", "words"), [(64, 5), (63, 9), (40, 4), (36, 4), (32, 3), (16, 2)])
def test_words_of_the_published_rule(width: int, words: int) -> None:
    assert width_cost(layer(), LOIHI2, width).words == words * 10 * 9


def test_good_widths_by_hand() -> None:
    """At 4 bits a list takes: 64 -> 5 words, 33..63 -> 4..9, 40 -> 3 + 1, 32 -> 3, 24 -> 2 + 1, 16 -> 2, 8 -> 1."""
    good = good_widths(conv_layer((64, 4, 4), (10, 6, 6), (3, 3), 4), LOIHI2)  # a single core whatever the width
    assert {8, 32, 40, 64} <= set(good)
    assert not {63, 60, 56, 48, 36, 33, 31, 7} & set(good)
    assert good[-1] == 64


@settings(max_examples=20)
@given(st.integers(2, 66), st.sampled_from([2, 3, 4, 8]), st.sampled_from([4096, 700, 40]))
def test_good_means_that_every_larger_width_costs_more(channels: int, bits: int, neurons: int) -> None:
    chip = load_chip("loihi2", {"neurons": neurons})
    costs = {cost.width: (cost.words, cost.cores or 10**9) for cost in costs_by_width(layer(channels, bits), chip)}
    assert sorted(costs) == list(range(1, channels + 1))
    larger = {n: range(n + 1, channels + 1) for n in costs}
    expected = [n for n in costs if all(any(a > b for a, b in zip(costs[m], costs[n], strict=True)) for m in larger[n])]
    assert list(good_widths(layer(channels, bits), chip)) == expected


def chain(channels: Sequence[int], pool: bool = True, size: int = 9) -> Network:
    """3x3 convolutions of 4 bits with so many channels, a sum-pooling behind the first, then a dense layer of 10."""
    populations = [Population("in", (3, size, size))]
    projections = []

    def connect(name: str, synapse: Conv | Dense, shape: tuple[int, ...]) -> None:
        projections.append(Projection(populations[-1].name, name, synapse))
        populations.append(Population(name, shape, LIF))

    def weight(*shape: int) -> NDArray[np.int32]:
        values = np.ones(shape, dtype=np.int32)
        values.flat[0] = -8
        return values

    for i, width in enumerate(channels):
        conv = Conv(weight(width, populations[-1].shape[0], 3, 3), padding=(1, 1))
        connect(f"c{i}", conv, conv.output_shape(populations[-1].shape))
        if pool and i == 0:
            pooling = Conv(np.full((width, 1, 2, 2), 8, np.int32), stride=(2, 2), groups=width)
            connect("pool", pooling, pooling.output_shape(populations[-1].shape))
    connect("out", Dense(weight(10, populations[-1].size)), (10,))
    return Network(tuple(populations), tuple(projections))


CHANNELS = st.lists(st.integers(2, 40), min_size=1, max_size=3)


@given(CHANNELS, st.booleans(), st.data())
def test_layers_at_other_widths_are_those_of_a_network_that_has_them(
    channels: list[int], pool: bool, data: st.DataObject
) -> None:
    other = [data.draw(st.integers(2, n)) for n in channels]
    narrow = at_widths(plan_layers(chain(channels, pool)), {f"c{i}": n for i, n in enumerate(other)})
    assert narrow == plan_layers(chain(other, pool))  # shapes, inputs, bits and groups, the depthwise layer's too


@settings(max_examples=25)
@given(CHANNELS, st.booleans(), st.sampled_from(["loihi2", "loihi2-2022"]), st.data())
def test_rounded_widths_never_take_more_than_those_asked_for(
    channels: list[int], pool: bool, name: str, data: st.DataObject
) -> None:
    """Held to mappings of networks that were really built with these widths."""
    chip = load_chip(name, {"neurons": 300, "synapse_words": 15_000})
    asked = {f"c{i}": data.draw(st.integers(2, n)) for i, n in enumerate(channels)}
    rows = choose_widths(plan_layers(chain(channels, pool)), chip, asked)
    assert [row.name for row in rows] == [*(["c0", "pool"] if pool else ["c0"]), *list(asked)[1:], "out"]
    taken = {row.name: row.taken for row in rows}
    total = {}
    for when, widths in (("asked", asked), ("taken", taken)):
        network = chain([widths[f"c{i}"] for i in range(len(channels))], pool)
        use = utilisation(network, map_network(network, chip))
        for row, layer in zip(rows, use.layers[1:], strict=True):
            mapped = (layer.shape[0], layer.synapse_words_total, layer.cores)
            assert mapped == tuple(getattr(row, f"{key}{when}") for key in ("", "words_", "cores_"))
        total[when] = (use.synapse_words, use.cores)
    assert total["taken"][0] <= total["asked"][0] and total["taken"][1] <= total["asked"][1]
    for layer, row in zip(plan_layers(chain(channels, pool)), rows, strict=True):
        if row.name not in asked:
            assert row.why == "not pruned"
            continue
        nearest = min(good_widths(layer, chip), key=lambda width: (abs(width - row.asked), -width))
        assert row.taken in (row.asked, nearest)
        starts = {True: "good as asked" if nearest == row.asked else f"as asked: {nearest} would cost the network more"}
        assert row.why.startswith(starts.get(row.taken == row.asked, "up" if row.taken > row.asked else "down"))
        assert not (row.taken == row.asked > nearest)  # going down always saves


@pytest.mark.parametrize(
    ("asked", "taken", "words", "why"),
    [
        (40, 40, (4, 4), "good as asked"),
        (63, 64, (9, 5), "up to a good width: no more words or cores in all"),
        (58, 64, (7, 5), "up to a good width: no more words or cores in all"),
        (41, 40, (5, 4), "down to a good width: fewer words or cores"),
        (34, 32, (4, 3), "down to a good width: fewer words or cores"),
    ],
)
def test_a_layer_is_rounded_to_the_nearest_good_width(asked: int, taken: int, words: tuple[int, int], why: str) -> None:
    small = conv_layer((128, 4, 4), (10, 6, 6), (3, 3), 4)
    (row,) = choose_widths([small], LOIHI2, {"conv": asked})
    found = (row.width, row.asked, row.taken, row.words_asked, row.words_taken, row.why)
    assert found == (128, asked, taken, *(n * 90 for n in words), why)  # 10 input channels, 3 x 3


def test_what_the_next_layers_pay_counts_too() -> None:
    """7 -> 8 channels saves 2 words in each of 27 lists (4 + 2 + 1), and adds 81 inputs of 3 words to the dense layer."""
    (row, _) = choose_widths(plan_layers(chain([16], pool=False)), LOIHI2, {"c0": 7})
    assert (row.taken, row.why) == (7, "as asked: 8 would cost the network more")
    (row, out) = choose_widths(plan_layers(chain([16], pool=False, size=4)), LOIHI2, {"c0": 7})  # 16 inputs more
    assert (row.taken, row.words_asked - row.words_taken, out.words_taken - out.words_asked) == (8, 54, 48)


def test_who_goes_down_makes_room_for_others() -> None:
    """c0: 14 -> 16 would add lists to c1, which costs 29 channels (16 + 8 + 4 + 1) there, and 32 once c1 is rounded, too."""
    layers = plan_layers(chain([32, 64], pool=False, size=5))
    alone = choose_widths(layers, LOIHI2, {"c0": 14, "c1": 32})
    both = choose_widths(layers, LOIHI2, {"c0": 14, "c1": 34})
    assert [(row.asked, row.taken) for row in alone][:2] == [(14, 14), (32, 32)]
    assert [(row.asked, row.taken) for row in both][:2] == [(14, 16), (34, 32)]


def test_a_core_is_not_paid_for_a_word() -> None:
    """64 x 64 pixels: 16 channels in tiles of powers of two take 32 cores and fewer words a list, 15 channels 16 cores."""
    tall = conv_layer((16, 64, 64), (8, 66, 66), (3, 3), 4)
    (row,) = choose_widths([tall], LOIHI2, {"conv": 15})
    assert (row.cores_asked, row.cores_taken, row.taken, row.why) == (16, 16, 15, "good as asked")


def test_a_network_that_does_not_fit_as_asked_says_so() -> None:
    with pytest.raises(CapacityError, match=r"out: one neuron needs \d+ axon_in, a core of loihi2 has 100\. Way out: "):
        choose_widths(plan_layers(chain([8])), load_chip("loihi2", {"axon_in": 100}), {"c0": 8})


def test_what_a_smaller_width_saves() -> None:
    saved = next_lower_width_that_saves(layer(), LOIHI2)
    words = {cost.width: cost.words for cost in costs_by_width(layer(), LOIHI2, count_cores=False)}
    assert saved is not None and saved.width == max(n for n in words if words[n] < words[64]) == 40
    tall = conv_layer((16, 64, 64), (8, 66, 66), (3, 3), 4)
    own = width_cost(tall, LOIHI2)
    core = next_lower_width_that_saves(tall, LOIHI2, cores=True)
    # 64 x 64 pixels of 16 channels in tiles of powers of two: 32 cores of 2048 neurons (4096 would be one too many), and 15
    # channels already take 16 cores of 3840.
    assert own.cores == 32
    assert core is not None and (core.width, core.cores) == (15, 16)
    assert next_lower_width_that_saves(dense_layer(10, 1, 4), LOIHI2) is None


def test_loihi1_has_no_power_of_two_effect() -> None:
    words = [cost.words for cost in costs_by_width(layer(24), load_chip("loihi1"), count_cores=False)]
    assert words == sorted(words)


def test_dense_bits_and_groups() -> None:
    assert width_cost(dense_layer(100, 50, 4), LOIHI2).words == 1300  # PilotNet's, as published
    by_bits = cores_by_bits(dense_layer(2560, 100, 3), load_chip("loihi2", {"synapse_words": 12000}))
    assert by_bits[3] == 7 and list(by_bits.values()) == sorted(by_bits.values())  # type: ignore[type-var]
    assert cores_by_bits(dense_layer(20_000, 4, 2), LOIHI2) == dict.fromkeys((1, 2, 3, 4, 5, 6, 8))
    depthwise = layer(24, groups=24, source=24)
    assert width_cost(depthwise, LOIHI2, 12).words == 12 * 9
    assert good_widths(depthwise, LOIHI2) == tuple(range(1, 25))
    assert [cost.width for cost in costs_by_width(layer(12, groups=2), LOIHI2, count_cores=False)] == [2, 4, 6, 8, 10, 12]
    assert at_bits(layer(), 8).inputs[0].weight_bits == 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layer(bits=7), r"conv: 7 bits a weight; chips store 1, 2, 3, 4, 5, 6, 8"),
        (lambda: layer(10, groups=4), r"conv: groups 4 must divide its 10 channels and the 10 of its source"),
        (lambda: at_width(layer(), 0), r"conv: width 0; it must be at least 1"),
        (lambda: at_width(layer(12, groups=2), 5), r"conv: 5 channels; its 2 groups must divide them"),
        (lambda: at_widths([layer()], {"c": 5}), r"c: there is no such layer; the layers are conv"),
        (
            lambda: at_widths(plan_layers(chain([8])), {"c0": 6, "pool": 8}),
            r"pool: 8 channels; it is depthwise and has those of c0, 6",
        ),
        (
            lambda: choose_widths([layer()], LOIHI2, {"conv": 65}),
            r"conv: 65 channels to keep; it has 64, at least 1 must stay",
        ),
        (lambda: choose_widths([layer()], LOIHI2, {"conv": 0}), r"conv: 0 channels to keep"),
        (lambda: choose_widths([layer()], LOIHI2, {"other": 3}), r"other: there is no such layer"),
    ],
)
def test_bad_requests(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
