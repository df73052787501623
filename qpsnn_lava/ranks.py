"""Numerical rank of many small matrices at once: how many of the singular values of each are above a threshold.

``r(A) = #{i : sigma_i(A) > eps}``, the same number that comes of :func:`torch.linalg.svdvals`, mostly without singular values.
Gauss-Jordan exchange steps on pivots above ``eps / (16 n)`` turn A, with its r pivot rows and columns first, into::

    [A11 A12]      [ A11^-1      A11^-1 A12           ]
    [A21 A22]  ->  [-A21 A11^-1  A22 - A21 A11^-1 A12 ] = [ X  . ]
                                                          [ .  S ]

and these two blocks bound the singular values on both sides of the gap, ``sigma_r >= 1 / |X|_F`` (A11 is a part of A) and
``sigma_{r+1} <= |S|_F`` (A without S has rank r).  Where eps lies between the bounds with a factor of 16 to spare on both sides, and
the roundings (from the largest products of every step, at least the pivots) stay as far below eps, r is the answer; else svdvals
decides.

Without numba, or on a GPU, svdvals decides everything.
"""

from __future__ import annotations

import numpy as np
import torch

from qpsnn_lava.dynamics import AVAILABLE, numba

MARGIN = 16.0
ROUNDING = 2.0**-50
TOGETHER = 16  # matrices that a thread takes at a time
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
    if min(height, width) == 1 or not AVAILABLE or maps.is_cuda or max(height, width) > PLACES:
        return above(singular_values(maps.double()), eps, relative, max(height, width))
    exact = maps.detach() if maps.dtype in (torch.float32, torch.float64) else maps.detach().double()
    flat = exact.reshape(-1, height, width)
    wide = (flat if height <= width else flat.transpose(1, 2)).numpy()
    counts, sure = np.zeros(len(wide), np.int64), np.zeros(len(wide), np.bool_)
    _certify(wide, eps * max(height, width) if relative else eps, relative, counts, sure)
    found = torch.from_numpy(counts)
    left = torch.from_numpy(np.flatnonzero(~sure))
    for part in left.split(max(1, _CHUNK // (height * width))):
        found[part] = above(torch.linalg.svdvals(flat[part].double()), eps, relative, max(height, width))
    return found.view(maps.shape[:-2])


if AVAILABLE:
    from netx_export.vectors import BLOCK, PLACES, reduce_row, scale_row, subtract_two

    # NaN and infinity stay what they are: no bound holds for them.
    _jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})

    @_jit
    def _factors(a, at, factors, x, out):  # type: ignore[no-untyped-def]
        """``out[i] = a[i, at] - factors[i] * x[at]``; the largest of them."""
        most = 0.0
        for i in range(a.shape[0]):
            value = a[i, at] - factors[i] * x[at]
            out[i] = value
            if abs(value) > most:
                most = abs(value)
        return most

    @_jit
    def _norms(a, column, free):  # type: ignore[no-untyped-def]
        """``|X|_F`` and ``|S|_F``."""
        inner = outer = 0.0
        for i in range(a.shape[0]):
            of_row = of_row_free = 0.0
            for k in range(a.shape[1]):
                square = a[i, k] * a[i, k]
                of_row += square * (1.0 - free[k])
                of_row_free += square * free[k]
            if column[i] == 1.0:
                inner += of_row
            else:
                outer += of_row_free
        return np.sqrt(inner), np.sqrt(outer)

    @_jit
    def _exchange(a, low, high, lines, pillars):  # type: ignore[no-untyped-def]
        """The exchange steps on float64 (H <= W, W): how many pivots, and whether they prove the rank for thresholds in [low, high].

        One pivot of each row at most, its largest value in a column that has none yet.  W is a multiple of BLOCK, with zeros where there
        is no column.  Two steps at a time change the other rows, each row once: after the first of them only the rows that are looked
        at next see it, in a copy.  A step with pivot p, row j and column c subtracts ``a[i, c] * x`` from each other row i, where
        ``x = a[j] / p`` but ``x[c] = 1 + 1 / p``.
        """
        height, width = a.shape
        free, x, y, row = lines[0], lines[1], lines[2], lines[3]
        column, first, second = pillars[0], pillars[1], pillars[2]
        free[:] = 1.0
        x[:] = 0.0
        first[:] = 0.0
        column[:] = 0.0
        rounding = 0.0
        found = 0
        waiting = False
        for j in range(height):
            at = reduce_row(a, j * width, first[j], x, free, width, row)
            pivot = row[at]
            if not abs(pivot) * free[at] * MARGIN * height > low:
                continue
            if waiting:
                most = _factors(a, at, first, x, second)
                first[j] = second[j] = 0.0
                rounding += max(most, abs(pivot)) * scale_row(row, 1.0 / pivot, at, width, y, a, j * width)
                subtract_two(a, height, width, first, x, second, y)
                first[:] = 0.0
            else:
                most = _factors(a, at, first, x, first)
                first[j] = 0.0
                rounding += most * scale_row(row, 1.0 / pivot, at, width, x, a, j * width)
            waiting = not waiting
            free[at] = 0.0
            column[j] = 1.0
            found += 1
        if waiting:
            second[:] = 0.0
            subtract_two(a, height, width, first, x, second, x)
        inner, outer = _norms(a, column, free)
        sure = inner * high * MARGIN < 1.0 and outer * MARGIN <= low and rounding * ROUNDING * MARGIN * width <= low
        return found, sure

    @numba.njit(parallel=True, cache=True, nogil=True, error_model="numpy")
    def _certify(maps, eps, relative, counts, sure):  # type: ignore[no-untyped-def]
        """Fills counts, and whether they are sure, of float32 or float64 (N, H <= W, W)."""
        total, height, width = maps.shape
        whole = (width + BLOCK - 1) // BLOCK * BLOCK
        for part in numba.prange((total + TOGETHER - 1) // TOGETHER):
            a, lines, pillars = np.zeros((height, whole)), np.empty((4, whole)), np.empty((3, height))
            for n in range(part * TOGETHER, min((part + 1) * TOGETHER, total)):
                low = high = eps
                square = 0.0
                for i in range(height):
                    for k in range(width):
                        a[i, k] = maps[n, i, k]
                    for k in range(width, whole):
                        a[i, k] = 0.0
                if relative:  # |A|_F / sqrt(H) <= sigma_1 <= |A|_F
                    for i in range(height):
                        for k in range(width):
                            square += a[i, k] * a[i, k]
                    high = eps * np.sqrt(square)
                    low = high / np.sqrt(height)
                counts[n], sure[n] = _exchange(a, low, high, lines, pillars)
