from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netx_export.errors import ConfigError
from qpsnn_lava.statistics import Accuracy, wilson_interval


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3 (score, without continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_intervals(correct: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5.1e-5)


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_each_end_is_z_standard_errors_from_the_point(case: tuple[int, int]) -> None:
    correct, n = case
    for end in wilson_interval(correct, n):
        if 0 < end < 1:
            assert abs(correct / n - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(1.959964, rel=1e-4)


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_holds_the_point_and_shrinks(case: tuple[int, int]) -> None:
    correct, n = case
    accuracy = Accuracy.of(correct, n)
    low, high = accuracy.interval
    assert 0 <= low <= accuracy.value <= high <= 1
    assert low < high
    more_low, more_high = wilson_interval(4 * correct, 4 * n)
    assert more_high - more_low < high - low


def test_all_and_none_right_end_exactly_at_the_edge() -> None:
    assert wilson_interval(450, 450)[1] == 1.0
    assert wilson_interval(0, 450)[0] == 0.0
    assert wilson_interval(450, 450)[0] == pytest.approx(1 - wilson_interval(0, 450)[1])


def test_text_and_json() -> None:
    accuracy = Accuracy.of(438, 450)
    assert str(accuracy) == "97.33 % (n = 450, 95 % 95.4..98.5)"
    assert json.loads(json.dumps(accuracy.to_dict())) == {"value": 438 / 450, "n": 450, "interval": list(accuracy.interval)}
    assert accuracy == Accuracy.of(438, 450)


@pytest.mark.parametrize(
    ("correct", "n", "message"),
    [
        (0, 0, "over 0 samples; at least 1"),
        (5, 4, r"5 right answers of 4; they must be in 0\.\.4"),
        (-1, 4, "-1 right answers"),
    ],
)
def test_refused(correct: int, n: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Accuracy.of(correct, n)
