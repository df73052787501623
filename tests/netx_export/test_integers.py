"""The chip's integer arithmetic against brute force at its edges, and weight formats against lava-dl's own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from types import ModuleType

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netx_export.integers import STATE_LIMIT, WeightFormat, decay, sat24, stored_bits, weight_format, wrap24, wrap_signed

EDGE = 1 << 23


def array(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


# --- states


@pytest.mark.parametrize("rate", [0, 1, 2, 63, 1024, 2047, 2048, 4095, 4096])
def test_decay_is_rounded_towards_zero(rate: int) -> None:
    states = array(*range(-70, 71), EDGE, -EDGE, EDGE - 1, 1 - EDGE, 4096, -4096, 4095, -4095)
    for state, result in zip(states.tolist(), decay(states, rate).tolist(), strict=True):
        exact = abs(state) * (4096 - rate) / 4096  # below 2**36 times 2**-12: exact in a float
        assert result == math.copysign(math.floor(exact), state)


def test_decay_of_what_only_64_bits_hold() -> None:
    assert decay(array((1 << 50) + 1, -(1 << 50) - 1), 2048).tolist() == [1 << 49, -(1 << 49)]
    assert decay(np.array([EDGE], dtype=np.int32), 0).tolist() == [EDGE]  # 2**23 * 2**12 does not fit its input's 32 bits
    assert decay(np.array([-5], dtype=np.int8), 1).dtype == np.int64


@pytest.mark.parametrize(
    ("state", "wrapped"),
    [
        (0, 0),
        (EDGE - 1, EDGE - 1),
        (EDGE, EDGE),  # stays
        (EDGE + 1, 1 - EDGE),
        (1 - EDGE, 1 - EDGE),
        (-EDGE, EDGE),  # turns
        (-EDGE - 1, EDGE - 1),
        (2 * EDGE, 0),
        (-2 * EDGE, 0),
        (3 * EDGE, EDGE),
        (3 * EDGE + 1, EDGE + 1),  # one turn only, as Lava
    ],
)
def test_current_turns_once(state: int, wrapped: int) -> None:
    assert wrap24(array(state)).tolist() == [wrapped]


@given(st.integers(-(1 << 30), 1 << 30))
def test_current_is_the_same_modulo_a_turn(state: int) -> None:
    result = int(wrap24(array(state))[0])
    assert (result - state) % (2 * EDGE) == 0
    if abs(state) < 3 * EDGE:
        assert -EDGE < result <= EDGE


@pytest.mark.parametrize(
    ("state", "clipped"),
    [(0, 0), (EDGE - 1, EDGE - 1), (EDGE, EDGE - 1), (1 - EDGE, 1 - EDGE), (-EDGE, 1 - EDGE), (1 << 40, EDGE - 1)],
)
def test_voltage_saturates(state: int, clipped: int) -> None:
    assert sat24(array(state)).tolist() == [clipped]
    assert STATE_LIMIT == EDGE


@pytest.mark.parametrize("bits", [1, 2, 8, 24])
def test_two_s_complement(bits: int) -> None:
    values = [v + turn * (1 << bits) for v in (-(1 << bits - 1), -1, 0, (1 << bits - 1) - 1) for turn in (-2, -1, 0, 1, 2)]
    for value, result in zip(values, wrap_signed(array(*values), bits).tolist(), strict=True):
        raw = (value % (1 << bits)).to_bytes(4, "little")
        sign = -(1 << bits) if int.from_bytes(raw, "little") >> (bits - 1) else 0
        assert result == int.from_bytes(raw, "little") + sign


# --- weight formats


@pytest.fixture(scope="module")
def lava_dl() -> ModuleType:
    """lava-dl's netx/utils.py as it is installed, loaded without importing Lava."""
    files = importlib.metadata.files("lava-dl") or []
    (path,) = (f.locate() for f in files if f.as_posix() == "lava/lib/dl/netx/utils.py")
    spec = importlib.util.spec_from_file_location("installed_netx_utils", str(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_lava(module: ModuleType, weight: np.ndarray) -> tuple[WeightFormat, np.ndarray]:
    """(format, mantissas in 8 bits) of lava-dl's optimize_weight_bits."""
    with np.errstate(divide="ignore"):
        stored, bits, exponent, sign = module.optimize_weight_bits(weight)
    return WeightFormat(bits, exponent, sign.name.lower()), stored


def representable(stored: np.ndarray, bits: int, mixed: bool) -> bool:
    """Whether mantissas of 8 bits (and a sign) survive a format of ``bits``: Lava's truncate_weights drops the low ones."""
    dropped = 8 - bits + int(mixed)
    return dropped < 0 or bool(np.array_equal((stored >> dropped) << dropped, stored))


legal_weights = st.lists(st.integers(-127, 127) | st.integers(-128, 127).map(lambda w: 2 * w), min_size=1, max_size=12)


@given(legal_weights, st.integers(0, 7))
@example([-1], 0)
@example([-256], 0)
@example([254, -256], 0)
@example([0, -1], 0)
@example([0, 1], 0)
@example([127, -128], 0)
@example([128, 2], 0)
def test_format_is_lava_dl_s_and_minimal(lava_dl: ModuleType, values: list[int], shift: int) -> None:
    weight = array(*values)
    if (weight << shift).max() <= 254 and (weight << shift).min() >= -256:
        weight = weight << shift
    if not weight.any():
        with pytest.raises(ValueError, match=r"all weights are zero: no weight format holds them"):
            weight_format(weight)
        assert stored_bits(weight) == 0
        return
    found, stored = as_lava(lava_dl, weight)
    assert weight_format(weight) == found
    assert np.array_equal(stored, weight << -found.exponent)  # at most 0: mantissas times 2**exponent are the weights
    mixed = found.sign == "mixed"
    assert representable(stored, found.bits, mixed)
    assert not representable(stored, found.bits - 1, mixed)
    assert stored_bits(weight) == (8 if found.bits == 7 else max(found.bits, 1))


@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_times_a_power_of_two_store_in_their_own_bits(bits: int) -> None:
    grid = np.arange(-(1 << bits - 1), 1 << bits - 1)
    for shift in range(9 - bits + 1):
        weight = grid << shift
        if weight.min() >= -256 and weight.max() <= 254:
            assert weight_format(weight).bits == bits
            assert stored_bits(weight) == (8 if bits == 7 else bits)


@pytest.mark.parametrize(("levels", "bits"), [(2, 2), (4, 3), (8, 4), (16, 5), (32, 6), (64, 7), (128, 8), (254, 9)])
def test_odd_integers_cost_one_bit_more_than_their_levels(levels: int, bits: int) -> None:
    """A grid without zero (mid-rise) of 2**b levels costs b + 1 bits; 254 levels need 9, which no chip has."""
    grid = np.arange(1 - levels, levels, 2)
    assert len(grid) == levels
    assert weight_format(grid).bits == bits


def test_levels_of_another_spacing_cost_more() -> None:
    assert weight_format(6 * np.arange(-8, 8)).bits == 6  # 4-bit levels times 6


def test_stored_bits_of_lone_signs() -> None:
    assert [stored_bits(array(w)) for w in (1, -1, 64, -64, 3, -3, 0)] == [1, 1, 1, 1, 2, 2, 0]
    assert weight_format(array(-64)).bits == 0  # as lava-dl counts it


@given(legal_weights)
def test_format_does_not_depend_on_the_shape_or_type(values: list[int]) -> None:
    weight = array(*values)
    if weight.any():
        small = weight.astype(np.int16).reshape(1, -1)
        assert weight_format(small) == weight_format(weight)
