from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapping.chip import load_chip
from mapping.cost import Layer
from mapping.widths import (
    at_bits,
    at_width,
    conv_layer,
    cores_by_bits,
    costs_by_width,
    dense_layer,
    good_widths,
    next_lower_width_that_saves,
    round_to_good_width,
    width_cost,
)
from netx_export.errors import ConfigError

LOIHI2 = load_chip("loihi2")


def layer(channels: int = 64, bits: int = 4, source: int = 10, groups: int = 1) -> Layer:
    return conv_layer((channels, 8, 8), (source, 10, 10), (3, 3), bits, groups=groups)


# Words per (input channel, ky, kx) for the widths of the loihi-mapping notes (p = 2 there, 8 here: equal at these).
@pytest.mark.parametrize(("width", "words"), [(64, 5), (63, 9), (40, 4), (36, 4), (32, 3), (16, 2)])
def test_words_of_the_published_rule(width: int, words: int) -> None:
    assert width_cost(layer(), LOIHI2, width).words == words * 10 * 9


def test_good_widths_by_hand() -> None:
    """At 4 bits a list takes: 64 -> 5 words, 33..63 -> 4..9, 40 -> 3 + 1, 32 -> 3, 24 -> 2 + 1, 16 -> 2, 8 -> 1."""
    good = good_widths(layer(), LOIHI2)
    assert {8, 32, 40, 64} <= set(good)
    assert not {63, 60, 56, 48, 36, 33, 31, 7} & set(good)
    assert good[-1] == 64


@given(st.integers(2, 130), st.sampled_from([2, 3, 4, 8]))
def test_good_means_that_every_larger_width_costs_more(channels: int, bits: int) -> None:
    costs = {cost.width: cost.words for cost in costs_by_width(layer(channels, bits), LOIHI2, count_cores=False)}
    assert sorted(costs) == list(range(1, channels + 1))
    expected = [n for n in costs if all(costs[m] > costs[n] for m in range(n + 1, channels + 1))]
    assert list(good_widths(layer(channels, bits), LOIHI2)) == expected


@given(st.integers(1, 96), st.sampled_from([2, 4, 8]))
def test_rounding_gives_a_good_width_and_never_more_words_than_it_must(count: int, bits: int) -> None:
    whole = layer(96, bits)
    rounded = round_to_good_width(whole, LOIHI2, count)
    good = good_widths(whole, LOIHI2)
    assert rounded in good
    if rounded != count and width_cost(whole, LOIHI2, rounded).words > width_cost(whole, LOIHI2, count).words:
        assert abs(rounded - count) == min(abs(width - count) for width in good)  # the price of being near


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
        (lambda: round_to_good_width(layer(), LOIHI2, 65), r"conv: 65 channels to keep; it has 64, at least 1 must stay"),
        (lambda: round_to_good_width(layer(), LOIHI2, 0), r"conv: 0 channels to keep"),
    ],
)
def test_bad_requests(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
