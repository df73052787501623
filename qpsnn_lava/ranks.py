"""Numerical rank of many small matrices at once: how many of the singular values of each are above a threshold.

``r(A) = #{i : sigma_i(A) > eps}``, the same number that comes of :func:`torch.linalg.svdvals`, mostly without singular values.
Gauss-Jordan exchange steps on pivots above ``eps / (16 n)`` turn A, with its r pivot rows and columns first, into::

    [A11 A12]      [ A11^-1      A11^-1 A12           ]
    [A21 A22]  ->  [-A21 A11^-1  A22 - A21 A11^-1 A12 ] = [ X  . ]
                                                          [ .  S ]

and these two blocks bound the singular values on both sides of the gap, ``sigma_r >= 1 / |X|_F`` (A11 is a part of A) and
``sigma_{r+1} <= |S|_F`` (A without S has rank r).  Where eps lies between the bounds with a factor of 16 to spare on both sides, and
the roundings (from the largest products of every step) stay as far below eps, r is the answer; else svdvals decides.

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
        maps: float64 (..., H, W).
        eps: above 0.
        relative: the threshold is ``sigma_1 * max(H, W) * eps`` of each matrix.

    Returns:
        int64 (...).
    """
    height, width = maps.shape[-2:]
    if min(height, width) == 1 or not AVAILABLE or maps.is_cuda:
        return above(singular_values(maps), eps, relative, max(height, width))
    flat = maps.detach().reshape(-1, height, width)
    wide = (flat if height <= width else flat.transpose(1, 2)).numpy()
    counts, sure = np.zeros(len(wide), np.int64), np.zeros(len(wide), np.bool_)
    _certify(wide, eps * max(height, width) if relative else eps, relative, counts, sure)
    found = torch.from_numpy(counts)
    left = torch.from_numpy(np.flatnonzero(~sure))
    for part in left.split(max(1, _CHUNK // (height * width))):
        found[part] = above(torch.linalg.svdvals(flat[part]), eps, relative, max(height, width))
    return found.view(maps.shape[:-2])


if AVAILABLE:
    # The inner loops are functions of their own on one-dimensional arrays: so LLVM turns them into vector code.
    _jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nnan", "nsz", "reassoc"})

    @_jit
    def _subtract(x, factor, x2, factor2, y):  # type: ignore[no-untyped-def]
        for k in range(y.size):  # two rows at once: half of the loads of y
            x[k] -= factor * y[k]
            x2[k] -= factor2 * y[k]

    @_jit
    def _largest(x, weight):  # type: ignore[no-untyped-def]
        most = 0.0
        for k in range(x.size):
            most = max(most, abs(x[k]) * weight[k])
        return most

    @_jit
    def _squares(x, weight):  # type: ignore[no-untyped-def]
        total = 0.0
        for k in range(x.size):
            total += x[k] * x[k] * weight[k]
        return total

    @_jit
    def _exchange(a, low, high, column, factors, row, free, ones, spare):  # type: ignore[no-untyped-def]
        """The exchange steps on float64 (H <= W, W): how many pivots, and whether they prove the rank for thresholds in [low, high].

        One pivot of each row at most, its largest value in a column that has none yet.
        """
        height, width = a.shape
        free[:] = 1.0
        rounding = 0.0
        found = 0
        for j in range(height):
            best = _largest(a[j], free)
            if not best * MARGIN * height > low:
                column[j] = 0.0  # no pivot
                continue
            at = 0
            while abs(a[j, at]) != best or free[at] == 0.0:
                at += 1
            inverse = 1.0 / a[j, at]
            for k in range(width):
                row[k] = a[j, k] * inverse
            row[at] = inverse
            for i in range(height):
                factors[i] = a[i, at]
                a[i, at] = 0.0
            rounding += _largest(factors, ones) * _largest(row, ones)
            factors[j] = 0.0
            for i in range(0, height - 1, 2):
                if factors[i] != 0.0 or factors[i + 1] != 0.0:
                    _subtract(a[i], factors[i], a[i + 1], factors[i + 1], row)
            if height % 2:
                _subtract(a[height - 1], factors[height - 1], spare, 0.0, row)
            a[j, :] = row
            free[at] = 0.0
            column[j] = 1.0
            found += 1
        inner = outer = 0.0  # |X|_F^2, |S|_F^2
        for k in range(width):
            row[k] = 1.0 - free[k]
        for i in range(height):
            if column[i] == 1.0:
                inner += _squares(a[i], row)
            else:
                outer += _squares(a[i], free)
        sure = (
            np.sqrt(inner) * high * MARGIN < 1.0
            and np.sqrt(outer) * MARGIN <= low
            and rounding * ROUNDING * MARGIN * width <= low
        )
        return found, sure

    @numba.njit(parallel=True, cache=True, nogil=True, error_model="numpy")
    def _certify(maps, eps, relative, counts, sure):  # type: ignore[no-untyped-def]
        """Fills counts, and whether they are sure, of float64 (N, H <= W, W)."""
        total, height, width = maps.shape
        for part in numba.prange((total + TOGETHER - 1) // TOGETHER):
            a, column, factors = np.empty((height, width)), np.empty(height), np.empty(height)
            row, free, ones, spare = np.empty(width), np.empty(width), np.ones(width), np.zeros(width)
            for n in range(part * TOGETHER, min((part + 1) * TOGETHER, total)):
                low = high = eps
                square = 0.0
                for i in range(height):
                    for k in range(width):
                        a[i, k] = maps[n, i, k]
                    if relative:
                        square += _squares(a[i], ones)
                if relative:  # |A|_F / sqrt(H) <= sigma_1 <= |A|_F
                    high = eps * np.sqrt(square)
                    low = high / np.sqrt(height)
                counts[n], sure[n] = _exchange(a, low, high, column, factors, row, free, ones, spare)
