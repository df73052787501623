"""Numerical rank of many small matrices at once: how many of the singular values of each are above a threshold.

``r(A) = #{i : sigma_i(A) > eps}``, the same number that comes of :func:`torch.linalg.svdvals`, mostly without singular values.
Gauss-Jordan exchange steps on pivots above ``eps / (4 n)`` turn A, with its r pivot rows and columns first, into::

    [A11 A12]      [ A11^-1      A11^-1 A12           ]
    [A21 A22]  ->  [-A21 A11^-1  A22 - A21 A11^-1 A12 ] = [ X  . ]
                                                          [ .  S ]

and these two blocks bound the singular values on both sides of the gap, ``sigma_r >= 1 / |X|_F`` (A11 is a part of A) and
``sigma_{r+1} <= |S|_F`` (A without S has rank r).  Where eps lies between the bounds with a factor of 4 to spare on both sides, and
the roundings (from the largest products of every step, at least the pivots) stay as far below eps, r is the answer; else svdvals
decides.

Without numba, or on a GPU, svdvals decides everything.
"""

from __future__ import annotations

import numpy as np
import torch

from qpsnn_lava.dynamics import AVAILABLE, numba

MARGIN = 4.0
ROUNDING = 2.0**-50
TOGETHER = 64  # matrices that a thread takes at a time
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
        maps: (..., H, W) of float32 or float64, both without a copy where H <= W, or another type; computed in float64.
        eps: above 0.
        relative: the threshold is ``sigma_1 * max(H, W) * eps`` of each matrix.

    Returns:
        int64 (...).
    """
    height, width = maps.shape[-2:]
    if min(height, width) == 1 or not AVAILABLE or maps.is_cuda or max(height, width) > PLACES:
        return above(singular_values(maps.double()), eps, relative, max(height, width))
    exact = maps.detach() if maps.dtype in (torch.float32, torch.float64) else maps.detach().double()
    flat = exact.reshape(-1, height, width)
    wide = (flat if height <= width else flat.transpose(1, 2)).contiguous().numpy()
    limit = eps * max(height, width) if relative else eps
    counts, sure = np.zeros(len(wide), np.int64), np.zeros(len(wide), np.bool_)
    _certify(wide, limit, relative, counts, sure)
    found = torch.from_numpy(counts)
    left = torch.from_numpy(np.flatnonzero(~sure))
    for part in left.split(max(1, _CHUNK // (height * width))):
        found[part] = above(torch.linalg.svdvals(flat[part].double()), eps, relative, max(height, width))
    return found.view(maps.shape[:-2])


if AVAILABLE:
    from netx_export.vectors import (
        BLOCK,
        LANES,
        PANEL,
        PLACES,
        copy_row,
        fetch,
        find_largest,
        make_step,
        scale_row,
        subtract_one,
        subtract_panel,
        sum_squares,
        take_column,
    )

    # NaN and infinity stay what they are: no bound holds for them.
    _jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})

    @_jit
    def _layout(height, width):  # type: ignore[no-untyped-def]
        """Where a matrix (H, W) has its things in a room of float64: the matrix itself, and where width asks for it a second place for it;

        two panels; the steps of a panel; a step of one row, and its factors; which columns are free; how many pivots each row has; sums
        of squares; roundings, largest step; the end.
        """
        spare = height * width
        panel = spare if width <= 2 * BLOCK else 2 * spare
        last = panel + PANEL * width
        steps = last + PANEL * width
        step = steps + PANEL * width
        factors = step + width
        free = factors + LANES
        pivots = free + width
        squares = pivots + height
        rounding = squares + LANES
        return spare, panel, last, steps, step, factors, free, pivots, squares, rounding, rounding + 1, rounding + LANES

    @_jit
    def _enter(room, maps, number, tall, wide):  # type: ignore[no-untyped-def]
        """Puts matrix ``number`` into the room; returns the sum of its squares."""
        spare, _, _, steps, _, _, free, _, squares, _, _, end = _layout(tall, wide)
        height, width = maps.shape[1:]
        for i in range(height):
            copy_row(maps, (number * height + i) * width, width, room, i * wide)
            for k in range(i * wide + width, (i + 1) * wide):
                room[k] = 0.0
        room[height * wide : spare] = 0.0
        room[steps:end] = 0.0
        room[free : free + wide] = 1.0
        room[squares] = sum_squares(room, 0, tall, wide, free, free)
        return room[squares]

    @_jit
    def _step(room, panel, j, row, height, width, least):  # type: ignore[no-untyped-def]
        """Row j of the panel takes its step, if its pivot is above ``least``, in the panel; returns its column, or -1."""
        _, _, _, _, step, factors, free, pivots, _, rounding, _, _ = _layout(height, width)
        at = find_largest(room, panel + j * width, free, width)
        pivot = room[panel + j * width + at]
        if not abs(pivot) * room[free + at] > least:
            return -1
        most = take_column(room, panel + at, width, factors)
        room[factors + j] = 0.0
        most *= scale_row(room, panel + j * width, 1.0 / pivot, at, width, step, free)
        subtract_one(room, panel, width, factors, step)
        room[pivots + row] = 1.0
        room[rounding] += most
        return at

    @_jit
    def _leave(room, panel, columns, height, width):  # type: ignore[no-untyped-def]
        """Makes the panel's steps, which all other rows have to take; returns the columns of their pivots, 0 for none."""
        _, _, _, steps, _, _, _, _, squares, rounding, most, _ = _layout(height, width)
        largest = square = 0.0
        for j in range(PANEL):
            step = steps + j * width
            if columns[j] < 0:
                room[step : step + width] = 0.0
            else:
                largest = max(largest, make_step(room, panel + j * width, columns[j], width, step))
        for k in range(squares, squares + LANES):
            square += room[k]
            room[k] = 0.0
        room[rounding] += PANEL * largest * (np.sqrt(square) + room[most])
        room[most] = max(room[most], largest)
        return max(columns[0], 0), max(columns[1], 0), max(columns[2], 0), max(columns[3], 0)

    @_jit
    def _exchange(room, least, height, width, maps, ahead, many):  # type: ignore[no-untyped-def]
        """The exchange steps on the float64 (H <= W, W) in the room; returns where in the room it is then.

        One pivot of each row at most, its largest value in a column that has none yet.  H is a multiple of 2 PANEL and W of BLOCK, with
        zeros where there is no row or column.  A step with pivot p, row j and column c subtracts ``a[i, c] * x`` from each other row i,
        where ``x = a[j] / p`` but ``x[c] = 1 + 1 / p``.

        PANEL rows take their steps among themselves first.  What these do to the other rows is done while the next panel, which sees it
        at once, takes its own: neither has to wait.  The other rows move to where the panel was and it follows them; where they are too
        wide for one block, whose values in ``columns`` all blocks need, they move to and fro between two places instead.
        """
        spare, panel, last, steps, _, _, _, _, squares, _, _, _ = _layout(height, width)
        in_place = width <= 2 * BLOCK
        half = height // 2 - PANEL  # of the other rows
        columns = (0, 0, 0, 0)
        now = 0
        for first in range(0, height, PANEL):
            fetch(maps, ahead, many)
            ahead += many
            others, to = now + PANEL * width, now if in_place else spare
            subtract_panel(room, now, PANEL, width, columns, steps, panel, squares)
            found = (0, 0, 0, 0)
            for j in range(PANEL):
                found = (found[1], found[2], found[3], _step(room, panel, j, first + j, height, width, least))
                if first > 0 and j % 2:
                    rows = (j // 2) * half * width
                    subtract_panel(room, others + rows, half, width, columns, steps, to + rows, squares)
            if first > 0:
                copy_row(room, last, PANEL * width, room, to + 2 * half * width)
                now, spare = to, now
            else:
                now = others
            columns = _leave(room, panel, found, height, width)
            panel, last = last, panel
        to = now - PANEL * width if in_place else spare
        subtract_panel(room, now, height - PANEL, width, columns, steps, to, squares)
        copy_row(room, last, PANEL * width, room, to + (height - PANEL) * width)
        return to

    @_jit
    def _exchange_32(room, least, maps, ahead, many):  # type: ignore[no-untyped-def]
        """:func:`_exchange` compiled for maps of 32 x 32, a tenth faster."""
        return _exchange(room, least, 32, 32, maps, ahead, many)

    @_jit
    def _proved(room, at, height, width, low, high):  # type: ignore[no-untyped-def]
        """The number of pivots, and whether it is the rank for all thresholds in [low, high]."""
        _, _, _, _, step, _, free, pivots, _, rounding, _, _ = _layout(height, width)
        for k in range(width):
            room[step + k] = 1.0 - room[free + k]
        inner = np.sqrt(sum_squares(room, at, height, width, pivots, step))
        outer = 0.0
        rank = height
        for i in range(height):
            if room[pivots + i] == 0.0:
                rank -= 1
                room[pivots + i] = 1.0
                outer += sum_squares(room, at + i * width, 1, width, pivots + i, free)
        exact = room[rounding] * ROUNDING * MARGIN * width <= low
        return rank, exact and inner * high * MARGIN < 1.0 and np.sqrt(outer) * MARGIN <= low

    @numba.njit(parallel=True, cache=True, nogil=True, error_model="numpy")
    def _certify(maps, eps, relative, counts, sure):  # type: ignore[no-untyped-def]
        """Fills counts, and whether they are sure, of float32 or float64 (N, H <= W, W)."""
        total, height, width = maps.shape
        size = height * width
        tall = (height + 2 * PANEL - 1) // (2 * PANEL) * 2 * PANEL
        wide = (width + BLOCK - 1) // BLOCK * BLOCK
        for part in numba.prange((total + TOGETHER - 1) // TOGETHER):
            whole = np.zeros(_layout(tall, wide)[-1] + LANES)
            room = whole[-(whole.ctypes.data // 8) % LANES :]  # a vector that lies on two cache lines costs twice
            for n in range(part * TOGETHER, min((part + 1) * TOGETHER, total)):
                square = _enter(room, maps, n, tall, wide)
                low = high = eps
                if relative:  # |A|_F / sqrt(H) <= sigma_1 <= |A|_F
                    low, high = eps * np.sqrt(square / height), eps * np.sqrt(square)
                least, ahead, many = low / (MARGIN * height), (n + 1) * size, size * PANEL // tall
                if tall == wide == 32:
                    at = _exchange_32(room, least, maps, ahead, many)
                else:
                    at = _exchange(room, least, tall, wide, maps, ahead, many)
                counts[n], sure[n] = _proved(room, at, tall, wide, low, high)
