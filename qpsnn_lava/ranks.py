"""Numerical rank of many small matrices at once: how many of the singular values of each are above a threshold.

``r(A) = #{i : sigma_i(A) > eps}``, the same number that comes of :func:`torch.linalg.svdvals`, mostly without singular values.
Gauss-Jordan exchange steps on r pivots turn A, with their rows and columns first, into::

    [A11 A12]      [ A11^-1      A11^-1 A12           ]
    [A21 A22]  ->  [-A21 A11^-1  A22 - A21 A11^-1 A12 ] = [ X  . ]
                                                          [ .  S ]

and these two blocks bound the singular values on both sides of the gap, ``sigma_r >= 1 / |X|_F`` (A11 is a part of A) and
``sigma_{r+1} <= |S|_F`` (A without S has rank r).  Where eps lies between the bounds, r is the answer; else svdvals decides.

Eight matrices lie side by side, one in each lane of a vector, and take the same rows as pivots, column after column.  For a row to
suit all of them, their rows are first turned among each other by rotations, which leave singular values as they are: what was sparse
gets dense.  Where no row suits a matrix, its bounds fail, and it is tried again with other rotations.

Steps are done for blocks of columns within blocks, so that most of the work is products: a block of columns W, exchanged with rows R on
its own, turns the other columns A into ``A' + W A_R``, where A' is A with zeros in rows R.  What the last block makes of X in the columns
before it is bounded by norms first, ``|X'|_F + |W|_F |A_R|_F``, and done only where that proves too little.

The bounds hold for numbers with roundings.  Errors E of exchanged numbers are those of ``L E U`` in A, where L has columns of A and of
the unit matrix, and U rows of both: ``|L|_2 |U|_2 <= 1 + |A|_F^2``, which is 2, for the matrices are scaled to a norm of 1.  Where columns
are still to be turned by a block W, its errors E count once more as ``E A_R``.  A sum of n products has n + 1 roundings of what
bounds its terms, by norms of columns.  Twice the sum of all that is added to the upper bound and taken from the lower.

Without numba, or on a GPU, svdvals decides everything.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qpsnn_lava.dynamics import AVAILABLE, numba

MARGIN = 1.25  # of the bounds
ROUNDING = 2.0**-53
ANGLE = 0.54  # of the rotations
TRIES = 3
TINY = 1e-30  # a sum of squares, in float32 too, that lost none
LARGEST = 1 << 18  # values of a matrix: eight of them are 16 MiB
TOGETHER = 128  # matrices that a thread takes at a time
WIDEST = 16  # columns of the largest block: 32 rows of eight matrices are 32 KiB
_CHUNK = 1 << 24  # values that svdvals gets at a time


def singular_values(maps: torch.Tensor) -> torch.Tensor:
    """float64 (..., min(H, W)) singular values of float64 (..., H, W); a vector has one, its length."""
    if min(maps.shape[-2:]) == 1:
        lengths: torch.Tensor = torch.linalg.vector_norm(maps.flatten(-2), dim=-1, keepdim=True)
        return lengths
    sigma: torch.Tensor = torch.linalg.svdvals(maps.flatten(0, -3))
    return sigma.view(*maps.shape[:-2], -1)


def above(sigma: torch.Tensor, eps: float, relative: bool, size: int) -> torch.Tensor:
    """int64 (...): how many of the singular values (..., k), the largest first, exceed eps, or ``sigma_1 * size * eps``."""
    limit: float | torch.Tensor = eps
    if relative:
        limit = sigma[..., :1] * (size * eps)
    return (sigma > limit).sum(-1)


def ranks(maps: torch.Tensor, eps: float, relative: bool = False) -> torch.Tensor:
    """The number of singular values of each matrix that exceed eps.

    Args:
        maps: (..., H, W) of float32 or float64, both without a copy, or another type; computed in float64.
        eps: above 0.
        relative: the threshold is ``sigma_1 * max(H, W) * eps`` of each matrix.

    Returns:
        int64 (...).
    """
    height, width = maps.shape[-2:]
    if min(height, width) == 1 or height * width > LARGEST or not AVAILABLE or maps.is_cuda:
        return above(singular_values(maps.double()), eps, relative, max(height, width))
    exact = maps.detach() if maps.dtype in (torch.float32, torch.float64) else maps.detach().double()
    flat = exact.reshape(-1, height, width).contiguous()
    limit = eps * max(height, width) if relative else eps
    found, sure = certify(flat.numpy(), limit, relative)
    counts = torch.from_numpy(found)
    left = torch.from_numpy(np.flatnonzero(~sure))
    for part in left.split(max(1, _CHUNK // (height * width))):
        counts[part] = above(torch.linalg.svdvals(flat[part].double()), eps, relative, max(height, width))
    return counts.view(maps.shape[:-2])


def certify(maps: NDArray[Any], eps: float, relative: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """int64 (N,) ranks of float32 or float64 (N, H, W), and bool (N,): which of them are proved.

    ``relative``: the threshold is ``sigma_1 * eps``.
    """
    counts, sure = np.zeros(len(maps), np.int64), np.zeros(len(maps), np.bool_)
    left: NDArray[Any] = np.arange(len(maps))
    for attempt in range(TRIES):
        _certify(maps, left, _rotations(max(maps.shape[1:]), attempt), eps, relative, counts, sure)
        left = np.flatnonzero(~sure)
        if not len(left):
            break
    return counts, sure


def _rotations(height: int, attempt: int) -> NDArray[Any]:
    """int64 (rounds * tall,): in every round, all rows in an order; each eight of them are turned among each other.

    Eight that are together in a round come from as many eights of the round before as there are.
    """
    rng = np.random.default_rng([attempt, height])
    rows: NDArray[Any] = np.arange(-(-height // LANES) * LANES)
    rounds: list[NDArray[Any]] = []
    while not rounds or LANES ** len(rounds) < len(rows):
        rounds.append(rng.permuted(rows.reshape(-1, LANES), axis=1))
        rows = rounds[-1].T.reshape(-1)
    whole: NDArray[Any] = np.concatenate(rounds).reshape(-1)
    return whole


if AVAILABLE:
    from qpsnn_lava.lanes import (
        LANES,
        TILE,
        fetch,
        find_row,
        measure,
        multiply,
        pivot,
        rotate,
        spread,
        square,
        take_rows,
    )

    # NaN and infinity stay what they are: no bound holds for them.
    _jit = numba.njit(cache=True, nogil=True, error_model="numpy")

    @_jit
    def _layout(tall, wide):  # type: ignore[no-untyped-def]
        """Where things are in a room that begins with eight matrices, counted in vectors: rows that were taken out; which rows are free;

        bounds of each column and of its errors; the matrices' scale; sums, which are: the least pivot; squares of what was left without
        a pivot; the number of pivots; the errors' bound; squares of exchanged rows, and of free ones, in all blocks but the last, in
        the last, and in those that were updated; then the end.
        """
        taken = tall * wide
        free = taken + WIDEST * wide
        bounds = free + tall
        scale = bounds + 2 * wide
        sums = scale + 1
        return taken, free, bounds, scale, sums, sums + 10

    @_jit
    def _begin(room, maps, starts, rounds, eps, relative, squares, low, high, tall, wide):  # type: ignore[no-untyped-def]
        """Everything but the matrices; low and high become the least and the largest threshold of each, in units of its norm."""
        height, width = maps.shape[1:]
        _, free, _, scale, sums, end = _layout(tall, wide)
        room[free * LANES : scale * LANES] = 1.0
        room[sums * LANES : end * LANES] = 0.0
        shrink = math.cos(ANGLE) ** (3 * rounds)
        for lane in range(LANES):
            squares[lane] = square(maps, starts[lane], height * width)
            norm = np.sqrt(squares[lane])
            low[lane] = high[lane] = eps if relative else eps / norm
            if relative:  # sigma_1, of all the largest, is 1 / sqrt(columns) at least
                low[lane] /= np.sqrt(min(height, width))
            room[scale * LANES + lane] = shrink / norm if norm > 0.0 else 0.0
            room[sums * LANES + lane] = low[lane] / (2 * tall)
            room[(sums + 3) * LANES + lane] = 12.0 * rounds

    @_jit
    def _enter(room, maps, numbers, starts, rotations, low, high, tall, wide):  # type: ignore[no-untyped-def]
        """Puts columns low..high-1 of the matrices, or rows of those that are wider than high, into the room, and turns their rows."""
        height, width = maps.shape[1:]
        scale = _layout(tall, wide)[3]
        if height % LANES or width % LANES:
            room[low * tall * LANES : high * tall * LANES] = 0.0
        upright = height >= width
        rows = range(height) if upright else range(low, min(high, height))
        first, last = (low, min(high, width)) if upright else (0, width)
        whole = min(last, width // LANES * LANES)
        for i in rows:
            if upright:
                at = (first // TILE * tall + i) * TILE
                spread(maps, starts, i * width + first, whole - first, room, at, 1, tall * TILE, scale)
            else:
                at = i // TILE * tall * TILE + i % TILE
                spread(maps, starts, i * width, whole, room, at, TILE, TILE * TILE, scale)
            for k in range(whole, last):
                row, column = (i, k) if upright else (k, i)
                at = ((column // TILE * tall + row) * TILE + column % TILE) * LANES
                for lane in range(LANES):
                    room[at + lane] = maps[numbers[lane], i, k] * room[scale * LANES + lane]
        for block in range(low * tall, high * tall, TILE * tall):
            for eight in range(0, len(rotations), LANES):
                rotate(room, block, rotations, eight, math.tan(ANGLE))

    @_jit
    def _measure(room, low, high, total, norms, tall, wide):  # type: ignore[no-untyped-def]
        """The squares of columns low..high-1 to sums ``total`` and the next; and their norms to their bounds, if asked for."""
        _, free, bounds, _, sums, _ = _layout(tall, wide)
        room[(sums + total) * LANES : (sums + total + 2) * LANES] = 0.0
        for k in range(low, high, TILE):
            measure(room, k * tall, tall, free, sums + total, bounds + 2 * k, norms)

    @_jit
    def _update(room, order, low, high, first, last, tall, wide):  # type: ignore[no-untyped-def]
        """Columns low..high-1 after the exchange of columns first..last-1."""
        taken, _, bounds, _, sums, _ = _layout(tall, wide)
        terms = (last - first + TILE - 1) // TILE
        for k in range(low, high, TILE):
            own, of = bounds + 2 * k, bounds + 2 * first
            out = taken + (k - low) * terms * TILE
            take_rows(room, k * tall, order, first, last, out, own, of, sums + 3)
            if (last - first) % TILE:
                room[(out + (last - first) * TILE) * LANES : (out + terms * TILE * TILE) * LANES] = 0.0
        multiply(room, low * tall, (high - low) // TILE, tall, first * tall, terms, taken)
        if wide > 2 * WIDEST:  # bounds of what bounds multiply grow with every block
            _measure(room, low, high, 8, True, tall, wide)

    @_jit
    def _exchange(room, order, low, high, tall, wide, maps, ahead, many):  # type: ignore[no-untyped-def]
        """Columns low..high-1, WIDEST at most, one after another, and after each the blocks that end there, from the smallest on: a left

        half then turns its right half, a right half its left one.
        """
        _, free, bounds, _, sums, _ = _layout(tall, wide)
        at = 0
        for j in range(low, high):
            fetch(maps, ahead + j * many, many)
            block, number = j // TILE * TILE, j % TILE
            if number == 0:
                at = find_row(room, block * tall, order, j, tall, sums)
            order[j], order[at] = order[at], order[j]
            at = pivot(room, block * tall, tall, number, order, j, free, bounds + 2 * block, sums)
            end, size = j + 1, TILE
            while size < WIDEST and (end % size == 0 or end == high):
                first = j // size * size
                if first // size % 2:
                    _update(room, order, first - size, first, first, end, tall, wide)
                elif end < high:
                    _update(room, order, end, end + size, first, end, tall, wide)
                    break
                size *= 2

    @_jit
    def _prove(room, maps, numbers, squares, low, high, many, whole, tall, wide, counts, sure):  # type: ignore[no-untyped-def]
        """The ranks of the first ``many`` matrices and whether they are sure; returns whether more would be if X were ``whole``."""
        columns = min(maps.shape[1:])
        sums = _layout(tall, wide)[4]
        more = False
        for lane in range(many):
            n, place = numbers[lane], sums * LANES + lane
            if not TINY < squares[lane] < np.inf:
                counts[n], sure[n] = 0, not maps[n].any()
                continue
            outer, count, error = np.sqrt(room[place + LANES]), int(room[place + 2 * LANES]), room[place + 3 * LANES]
            before, rest, last = room[place + 4 * LANES], room[place + 5 * LANES], room[place + 6 * LANES]
            if not whole:
                before = (np.sqrt(before) + np.sqrt(rest * last)) ** 2
            error *= 2.0 * ROUNDING
            upper = count == columns or (outer + error) * MARGIN <= low[lane]
            lower = count == 0 or 1.0 / np.sqrt(before + last) - error > MARGIN * high[lane]
            counts[n], sure[n] = count, upper and lower
            more |= upper and not lower
        return more

    @numba.njit(parallel=True, cache=True, nogil=True, error_model="numpy")
    def _certify(maps, left, rotations, eps, relative, counts, sure):  # type: ignore[no-untyped-def]
        """Fills counts, and whether they are sure, of the matrices left of float32 or float64 (N, H, W)."""
        height, width = maps.shape[1:]
        size, columns = height * width, min(height, width)
        tall, wide = (max(height, width) + LANES - 1) // LANES * LANES, (columns + LANES - 1) // LANES * LANES
        rounds, end = len(rotations) // tall, _layout(tall, wide)[-1]
        for part in numba.prange((len(left) + TOGETHER - 1) // TOGETHER):
            memory = np.zeros((end + 1) * LANES)
            room = memory[-(memory.ctypes.data // 8) % LANES :]  # a vector that lies on two cache lines costs twice
            order, starts, numbers = np.zeros(tall, np.int64), np.zeros(LANES, np.int64), np.zeros(LANES, np.int64)
            squares, low, high = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
            stop = min((part + 1) * TOGETHER, len(left))
            for first in range(part * TOGETHER, stop, LANES):
                for lane in range(LANES):
                    numbers[lane] = left[min(first + lane, stop - 1)]
                    starts[lane] = numbers[lane] * size
                ahead = left[min(first + LANES, len(left) - 1)] * size
                for i in range(tall):
                    order[i] = i
                _begin(room, maps, starts, rounds, eps, relative, squares, low, high, tall, wide)
                last = (columns - 1) // WIDEST * WIDEST
                for begin in range(0, columns, WIDEST):
                    _enter(room, maps, numbers, starts, rotations, begin, min(begin + WIDEST, wide), tall, wide)
                    if begin > 0:
                        _update(room, order, begin, min(begin + WIDEST, wide), 0, begin, tall, wide)
                    close = min(begin + WIDEST, columns)
                    _exchange(room, order, begin, close, tall, wide, maps, ahead, size * LANES // columns)
                    if begin < last:
                        for other in range(0, begin, WIDEST):
                            _update(room, order, other, other + WIDEST, begin, close, tall, wide)
                        _measure(room, 0, close, 4, False, tall, wide)
                _measure(room, last, wide, 6, False, tall, wide)
                many = min(LANES, stop - first)
                if _prove(room, maps, numbers, squares, low, high, many, False, tall, wide, counts, sure) and last > 0:
                    for other in range(0, last, WIDEST):
                        _update(room, order, other, other + WIDEST, last, columns, tall, wide)
                    _measure(room, 0, last, 4, False, tall, wide)
                    _prove(room, maps, numbers, squares, low, high, many, True, tall, wide, counts, sure)
