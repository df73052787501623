"""Convolutions of spikes that only add where there is a spike, forward and for the weights' gradient.

A dense convolution multiplies every weight with every value of its input, most of which are zeros.  Here each spike, at (c, y, x) of a
frame, is an event that adds rows of ``out`` numbers, which lie side by side and are summed in registers::

    sums[oy, ox, :] += W[ky, kx, c, :]        dW[ky, kx, c, :] += g[oy, ox, :]        y = oy stride - padding + ky dilation

The sums are those of ``conv2d``, in another order: equal, bit for bit, where they are exact (whole numbers over a power of two, as
quantised weights give).  The list of events is kept for the backward pass, not the dense input.  The gradient of the input is dense and
stays with torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (as everybody calls it)

from qpsnn_lava import dynamics

numba = dynamics.numba
DENSEST = 0.3
"""Share of the input that may be spikes; beyond it torch's dense convolution is as fast."""
PARTS = 16
"""Sums of the weights' gradient, each over its share of the frames, that are then added: the same for any number of threads."""
LANES, ROW = 8, 16
"""Channels of the input and of the output come in whole multiples of these; others go to torch, ..."""
FEWEST = 32
"""... and so do fewer: too few events a pixel, or too short rows, to pay."""


@dataclass(frozen=True)
class Window:
    """What a convolution does with space, all as (y, x)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def out(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H', W') of the output for (H, W) of the input."""
        both = zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((n + 2 * pad - spread * (k - 1) - 1) // step + 1 for n, k, step, pad, spread in both)
        return height, width


def convolve(frames: torch.Tensor, kernel: torch.Tensor, window: Window) -> torch.Tensor:
    """``conv2d`` of frames of spikes.

    Args:
        frames: float32 (M, C, H, W); the events are used where it is on the CPU, in
            channels-last, and holds few ones and else zeros.
        kernel: (out, C, ky, kx).
        window: stride, padding, dilation.

    Returns:
        (M, out, H', W').
    """
    events = Events.of(frames) if _pays(frames, kernel) else None
    if events is None:
        return F.conv2d(frames, kernel, None, window.stride, window.padding, window.dilation)
    result: torch.Tensor = _Convolve.apply(frames, kernel, events, window)  # type: ignore[no-untyped-call]
    return result


def _pays(frames: torch.Tensor, kernel: torch.Tensor) -> bool:
    out, channels, _, _ = kernel.shape
    return (
        dynamics.AVAILABLE
        and not frames.is_cuda
        and frames.dtype == torch.float32
        and frames.numel() > 0
        and min(out, channels) >= FEWEST
        and out % ROW == 0
        and channels % LANES == 0
        and channels == frames.shape[1]
        and frames.is_contiguous(memory_format=torch.channels_last)
    )


@dataclass(frozen=True, eq=False)
class Events:
    """The spikes of frames (M, C, H, W).

    Args:
        ends: int64 (M * H, W + 1), where the events of each pixel begin, and those of a row end, in ``places``.
        places: int32, ``x * C + c``, row by row, ascending.
    """

    ends: Any
    places: Any

    @staticmethod
    def of(frames: torch.Tensor) -> Events | None:
        """None where they are too many, or not all ones."""
        m, c, h, w = frames.shape
        rows = frames.detach().permute(0, 2, 3, 1).reshape(m * h, w * c).numpy()
        counts = np.zeros(m * h + 1, np.int64)
        _count(rows, counts)
        if counts.min() < 0 or counts.sum() > DENSEST * rows.size:
            return None
        np.cumsum(counts, out=counts)
        found = Events(np.empty((m * h, w + 1), np.int64), np.empty(int(counts[-1]), np.int32))
        _list(rows, counts, c, ONES, found.ends, found.places)
        return found


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: torch.Tensor, kernel: torch.Tensor, events: Events, window: Window) -> torch.Tensor:
        m, c, h, w = frames.shape
        height, width = window.out((h, w))
        rows = kernel.detach().permute(2, 3, 1, 0).contiguous().numpy()  # (ky, kx, c, out)
        sums = torch.empty((m, height, width, kernel.shape[0]), dtype=torch.float32)
        numbers = (h, w, c, height, width, *window.kernel, *window.stride, *window.padding, *window.dilation)
        _forward(events.ends, events.places, rows.reshape(-1), kernel.shape[0], numbers, sums.numpy().reshape(m, -1))
        ctx.events, ctx.window, ctx.shape, ctx.numbers = events, window, tuple(frames.shape), numbers
        ctx.save_for_backward(kernel)
        return sums.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        (kernel,) = ctx.saved_tensors
        window: Window = ctx.window
        g = gradients[0].contiguous(memory_format=torch.channels_last)
        g_frames = g_kernel = None
        if ctx.needs_input_grad[0]:
            _, c, h, w = ctx.shape
            like = torch.empty_strided(ctx.shape, (c * h * w, 1, c * w, c))  # only its shape and layout are read
            pairs = (list(window.stride), list(window.padding), list(window.dilation))
            back = torch.ops.aten.convolution_backward
            g_frames = back(g, like, kernel, None, *pairs, False, [0, 0], 1, [True, False, False])[0]
        if ctx.needs_input_grad[1]:
            out, c, ky, kx = kernel.shape
            made = np.zeros((min(len(g), PARTS), ky * kx * c * out), np.float32)
            flat = g.permute(0, 2, 3, 1).reshape(len(g), -1).numpy()
            _weights(ctx.events.ends, ctx.events.places, flat, out, ctx.numbers, made)
            g_kernel = torch.from_numpy(made).sum(0).view(ky, kx, c, out).permute(3, 2, 0, 1)
        return g_frames, g_kernel, None, None


if dynamics.AVAILABLE:
    from netx_export.vectors import ONES, add_row, append8, count8, sum_rows

    _parallel = numba.njit(parallel=True, cache=True, nogil=True, error_model="numpy")
    _part = numba.njit(nogil=True, forceinline=True)
    _sum1, _sum2, _sum4 = sum_rows(1), sum_rows(2), sum_rows(4)
    _add1, _add2, _add4 = add_row(1), add_row(2), add_row(4)

    @_part
    def _gather(out, rows, places, first, last, shift, sums, at):  # type: ignore[no-untyped-def]
        """sums[at : at + out] += rows[places[e] + shift] for e in first..last."""
        column = 0
        while column < out:
            start = shift * out + column
            if out - column >= 64:
                _sum4(rows, places, places, first, last, out, start, sums, at + column, True)
                column += 64
            elif out - column >= 32:
                _sum2(rows, places, places, first, last, out, start, sums, at + column, True)
                column += 32
            else:
                _sum1(rows, places, places, first, last, out, start, sums, at + column, True)
                column += 16

    @_part
    def _scatter(out, row, at, places, first, last, shift, sums):  # type: ignore[no-untyped-def]
        """sums[places[e] + shift] += row[at : at + out] for e in first..last."""
        column = 0
        while column < out:
            start = shift * out + column
            if out - column >= 64:
                _add4(row, at + column, places, first, last, out, start, sums)
                column += 64
            elif out - column >= 32:
                _add2(row, at + column, places, first, last, out, start, sums)
                column += 32
            else:
                _add1(row, at + column, places, first, last, out, start, sums)
                column += 16

    @_parallel
    def _count(rows, counts):  # type: ignore[no-untyped-def]
        for r in numba.prange(rows.shape[0]):
            row = rows[r]
            count = 0
            for i in range(0, row.size, 8):
                count += count8(row, i)
            counts[r + 1] = count

    @_parallel
    def _list(rows, counts, c, ones, ends, places):  # type: ignore[no-untyped-def]
        for r in numba.prange(rows.shape[0]):
            row = rows[r]
            here = np.empty(row.size + 8, np.int32)  # eight are written in any case
            count = 0
            for x in range(ends.shape[1] - 1):
                ends[r, x] = counts[r] + count
                for i in range(x * c, (x + 1) * c, 8):
                    count += append8(row, i, i, ones, here, count)
            ends[r, ends.shape[1] - 1] = counts[r] + count
            places[counts[r] : counts[r] + count] = here[:count]

    @_parallel
    def _forward(ends, places, weights, out, numbers, sums):  # type: ignore[no-untyped-def]
        h, w, c, height, width, kernel_y, kernel_x, step_y, step_x, pad_y, pad_x, spread_y, spread_x = numbers
        run = kernel_x if spread_x == 1 else 1  # pixels of a line that are neighbours in its list
        for m in numba.prange(sums.shape[0]):
            frame = sums[m]
            frame[:] = 0.0
            for j in range(kernel_y):  # outside: a line of the kernel stays in the L1 cache
                for y in range(height):
                    line = y * step_y - pad_y + j * spread_y
                    if line < 0 or line >= h:
                        continue
                    for x in range(width):
                        for k in range(0, kernel_x, run):
                            column = x * step_x - pad_x + k * spread_x
                            first, last = max(column, 0), min(column + run, w)
                            if first < last:
                                begin, end = ends[m * h + line, first], ends[m * h + line, last]
                                if begin < end:
                                    shift = (j * kernel_x + k - column) * c
                                    _gather(out, weights, places, begin, end, shift, frame, (y * width + x) * out)

    @_parallel
    def _weights(ends, places, g, out, numbers, made):  # type: ignore[no-untyped-def]
        h, w, c, height, width, kernel_y, kernel_x, step_y, step_x, pad_y, pad_x, spread_y, spread_x = numbers
        run = kernel_x if spread_x == 1 else 1
        parts, frames = made.shape[0], g.shape[0]
        for part in numba.prange(parts):
            here = made[part]
            for j in range(kernel_y):
                for m in range(part * frames // parts, (part + 1) * frames // parts):
                    for y in range(height):
                        line = y * step_y - pad_y + j * spread_y
                        if line < 0 or line >= h:
                            continue
                        for x in range(width):
                            for k in range(0, kernel_x, run):
                                column = x * step_x - pad_x + k * spread_x
                                first, last = max(column, 0), min(column + run, w)
                                if first < last:
                                    begin, end = ends[m * h + line, first], ends[m * h + line, last]
                                    if begin < end:
                                        shift = (j * kernel_x + k - column) * c
                                        _scatter(out, g[m], (y * width + x) * out, places, begin, end, shift, here)
