"""Integer arithmetic of Loihi as Lava's fixed-point models compute it, and the bits that weights need.

Everything here is a pure function on integers, tested against brute force at the edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STATE_BITS = 24
STATE_LIMIT = 1 << (STATE_BITS - 1)  # 2**23
DECAY_ONE = 4096  # 12 bits
SHIFT = 6  # activations, biases and thresholds are mantissas of 2**6

IntArray = NDArray[np.signedinteger[Any]]


def decay(state: IntArray, rate: int) -> IntArray:
    """``sign(x) * ((|x| * (4096 - rate)) >> 12)``: one step of exponential decay, rounded towards zero.

    Args:
        state: integers below 2**51 in magnitude, any shape.
        rate: 0..4096, in 4096ths.

    Returns:
        int64 of the same shape.

    Source: Lava 0.10 ``PyLifModelBitAcc.subthr_dynamics``.
    """
    wide = state.astype(np.int64)
    decayed: NDArray[np.int64] = np.sign(wide) * ((np.abs(wide) * (DECAY_ONE - rate)) >> 12)
    return decayed


def wrap24(state: IntArray) -> IntArray:
    """The current's overflow: one turn of 2**24 where x > 2**23 or x <= -2**23 (as Lava: +2**23 stays, -2**23 turns)."""
    turn = 2 * STATE_LIMIT
    return np.where(state > STATE_LIMIT, state - turn, np.where(state <= -STATE_LIMIT, state + turn, state))


def sat24(state: IntArray) -> IntArray:
    """The voltage's overflow: clipped to -(2**23 - 1)..2**23 - 1."""
    return np.clip(state, -STATE_LIMIT + 1, STATE_LIMIT - 1)


def wrap_signed(value: IntArray, bits: int) -> IntArray:
    """Two's complement of ``bits`` bits, as Lava's Conv applies to its sums (24 bits)."""
    half = 1 << (bits - 1)
    return (value + half) % (2 * half) - half


@dataclass(frozen=True)
class WeightFormat:
    """How netx and Lava store a weight array: ``stored * 2**exponent`` with ``bits`` bits.

    Args:
        bits: stored weight bits as the netx reader finds them: 1..9 (9 does not exist on the chip), or 0 where all weights
            are the same negative power of two.
        exponent: power of two that the stored mantissas are multiplied with (as netx hands it to Lava's Dense: <= 1).
        sign: "mixed", "excitatory" (all >= 0) or "inhibitory" (all < 0).
    """

    bits: int
    exponent: int
    sign: str


def weight_format(weight: IntArray) -> WeightFormat:
    """Stored bits of integer weights, by divisibility: the largest power of two in all of them costs nothing.

    ``scale = min(127 / max, 128 / |min|)`` (mixed), ``255 / max`` or ``256 / |min|``; ``scale_bits = floor(log2 scale)``, one
    more where the sign is mixed; n = log2 of the largest power of two (at most 2**8) that divides all weights, less one
    where mixed; ``bits = 8 - scale_bits - n``.

    Args:
        weight: integers, any shape, not all zero.

    Raises:
        ValueError: where all weights are zero (the netx reader overflows on such a matrix).

    Source: lava-dl 0.6 ``netx/utils.py`` (optimize_weight_bits), held equal to it by a test.
    """
    high, low = int(weight.max()), int(weight.min())
    if high == 0 and low == 0:
        raise ValueError("all weights are zero: no weight format holds them (the netx reader overflows)")
    mixed = not (high < 0 or low >= 0)
    if mixed:
        scale_bits = min(_log2_floor(127, high), _log2_floor(128, -low)) + 1
    elif low >= 0:
        scale_bits = _log2_floor(255, high)
    else:
        scale_bits = _log2_floor(256, -low)
    common = int(np.bitwise_or.reduce(np.abs(weight.astype(np.int64)), axis=None))
    n = min((common & -common).bit_length() - 1, 8) - int(mixed)
    return WeightFormat(8 - scale_bits - n, -scale_bits, "mixed" if mixed else "excitatory" if low >= 0 else "inhibitory")


def stored_bits(weight: IntArray) -> int:
    """Bits per weight that the chip stores (7 is stored as 8, at least 1; 0 for an all-zero array, which nothing stores)."""
    if not weight.any():
        return 0
    bits = weight_format(weight).bits
    return 8 if bits == 7 else max(bits, 1)


def _log2_floor(limit: int, value: int) -> int:
    """``floor(log2(limit / value))`` for whole numbers, exactly; a large number where value <= 0 (no bound)."""
    if value <= 0:
        return 1 << 10
    exponent = limit.bit_length() - value.bit_length()
    fits = value << exponent <= limit if exponent >= 0 else value <= limit << -exponent
    return exponent if fits else exponent - 1
