"""The engine's compiled loops (numba); imported by :mod:`netx_export.engine` only, and only where numba is installed.

**Events.**  The spikes of a population of shape (C, H, W), or (N,) taken as (N, 1, 1), are kept as lists, one per sample,
frame and row y: ``x * stride + c`` in ascending order, with stride = C rounded up to a multiple of 8 (the
neurons of the padding have no synapses and no bias; they stay silent).  ``ends[sample, frame, y, x]`` is where
pixel x begins in the list of its row, ``ends[..., W]`` its length.  The rows that a kernel row covers are then contiguous
pieces of lists, and ``event + offset`` is the row of the weights, which lie as (ky, kx, in, out): the inner loop is a sum
of a few contiguous rows of weights, kept in registers.

Graded events have their values in an array of int32 beside the list; else that array is an empty one of int8.

**Order.**  Rows of a layer do not depend on each other, and in aligned time its frames depend only on the same frames of
its source.  So a layer runs row by row and, within a row, frame by frame: u and v of one row stay in the L1 cache.

Plain loops, integers only, no fast-math; the innermost steps are in :mod:`netx_export.vectors`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core import types
from numba.extending import overload

from netx_export.vectors import BLOCK, ONES, append8, copy8, sum_rows

Function = TypeVar("Function", bound=Callable[..., Any])

_sum1, _sum2, _sum3, _sum4 = (sum_rows(n) for n in (1, 2, 3, 4))
_graded1, _graded2, _graded3, _graded4 = (sum_rows(n, graded=True) for n in (1, 2, 3, 4))


def _jit(function: Function) -> Function:
    """Compiled, without the GIL, kept on disk where numba finds a place for it."""
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no writable cache folder
        return cast(Function, numba.njit(nogil=True)(function))


def _part(function: Function) -> Function:
    """Compiled as a part of the loops that call it: a call with arrays costs more than these do."""
    return cast(Function, numba.njit(nogil=True, forceinline=True)(function))


# Numbers of a layer, one int64 array: see engine._numbers for their meaning.

(
    FRAMES, LEAD, INTERVAL, PHASE, KEEP_U, KEEP_V, LEVEL, SHORT, FEW, SHIFT, WRAP, ROWS, PIXELS, STRIDE, ROOM,
    IN_FRAMES, IN_LEAD, IN_ROWS, IN_PIXELS, IN_STRIDE, IN_ROOM,
    KY, KX, SY, SX, PY, PX, DY, DX, WIDTH, PER_GROUP, LIMIT,
) = range(32)  # fmt: skip


# --- neurons -----------------------------------------------------------------------------------------------------------


@_part
def _decay32(x: Any, keep: Any) -> Any:
    """``sign(x) * ((|x| * keep) >> 12)`` for |x| <= 2**23 and keep in 0..4096, within 32 bits."""
    sign = np.int32(x >> 31)
    size = np.int32((x ^ sign) - sign)
    high = np.int32(np.int32(size >> 12) * keep)
    low = np.int32(np.int32(np.int32(size & 4095) * keep) >> 12)
    return np.int32((np.int32(high + low) ^ sign) - sign)


@_part
def _membrane32(sums: Any, bias: Any, u: Any, v: Any, fired: Any, size: Any, dynamics: Any, keep: Any) -> None:
    """One step of ``size`` neurons in int32; the engine has made sure that |sums| <= 2**18 and |bias| <= 2**28.

    Where the current has no memory and cannot wrap (dynamics[SHORT]), u is only written where it is kept; where few bits
    of the voltage's decay are set (dynamics[FEW]), one product ``(|v| * few) >> shift`` fits 32 bits.
    """
    keep_u, keep_v = np.int32(dynamics[KEEP_U]), np.int32(dynamics[KEEP_V])
    level, few, shift = np.int32(dynamics[LEVEL]), np.int32(dynamics[FEW]), np.int32(dynamics[SHIFT])
    half, turn = np.int32(1 << 23), np.int32(1 << 24)
    if dynamics[SHORT] and few:
        for i in range(size):
            y = v[i]
            sign = np.int32(y >> 31)
            y = np.int32(np.int32(np.int32(np.int32(y ^ sign) - sign) * few) >> shift)
            y = np.int32(np.int32(np.int32(y ^ sign) - sign) + np.int32(np.int32(np.int32(sums[i]) << 6) + bias[i]))
            y = min(max(y, np.int32(1 - half)), np.int32(half - 1))
            spike = y > level
            v[i] = np.int32(0) if spike else y
            fired[i] = np.uint8(spike)
    elif dynamics[SHORT]:
        for i in range(size):
            y = np.int32(_decay32(v[i], keep_v) + np.int32(np.int32(np.int32(sums[i]) << 6) + bias[i]))
            y = min(max(y, np.int32(1 - half)), np.int32(half - 1))
            spike = y > level
            v[i] = np.int32(0) if spike else y
            fired[i] = np.uint8(spike)
    else:
        for i in range(size):
            x = np.int32(_decay32(u[i], keep_u) + np.int32(np.int32(sums[i]) << 6))
            if x > half:
                x = np.int32(x - turn)
            elif x <= -half:
                x = np.int32(x + turn)
            y = np.int32(np.int32(_decay32(v[i], keep_v) + x) + bias[i])
            y = min(max(y, np.int32(1 - half)), np.int32(half - 1))
            spike = y > level
            u[i] = x
            v[i] = np.int32(0) if spike else y
            fired[i] = np.uint8(spike)
        return
    if keep:
        for i in range(size):
            u[i] = np.int32(np.int32(sums[i]) << 6)


@_part
def _membrane64(sums: Any, bias: Any, u: Any, v: Any, fired: Any, size: Any, dynamics: Any, keep: Any) -> None:
    """The same in int64, for whatever fits the reference; dynamics[WRAP]: a Conv, whose sums wrap to 24 bits."""
    keep_u, keep_v, level, wrap = dynamics[KEEP_U], dynamics[KEEP_V], dynamics[LEVEL], dynamics[WRAP]
    half = 1 << 23
    for i in range(size):
        a = np.int64(sums[i])
        if wrap:
            a = ((a + half) & (2 * half - 1)) - half
        x = u[i]
        x = ((abs(x) * keep_u) >> 12) * (1 if x > 0 else -1) + (a << 6)
        if x > half:
            x -= 2 * half
        elif x <= -half:
            x += 2 * half
        y = v[i]
        y = ((abs(y) * keep_v) >> 12) * (1 if y > 0 else -1) + x + bias[i]
        y = min(max(y, 1 - half), half - 1)
        spike = y > level
        u[i] = x
        v[i] = 0 if spike else y
        fired[i] = np.uint8(spike)


def _membrane(sums: Any, bias: Any, u: Any, v: Any, fired: Any, size: Any, dynamics: Any, keep: Any) -> None:
    raise NotImplementedError


def _choose_membrane(sums: Any, bias: Any, u: Any, v: Any, fired: Any, size: Any, dynamics: Any, keep: Any) -> Any:
    chosen = _membrane64 if u.dtype == types.int64 else _membrane32

    def step(sums: Any, bias: Any, u: Any, v: Any, fired: Any, size: Any, dynamics: Any, keep: Any) -> None:
        chosen(sums, bias, u, v, fired, size, dynamics, keep)

    return step


overload(_membrane)(_choose_membrane)


@_part
def _list_events(fired: Any, pixels: Any, stride: Any, events: Any, start: Any, ends: Any, mark: Any) -> None:
    """Writes the events of one row from its neurons' 0/1 bytes, eight at a time, and where each pixel begins."""
    count = 0
    for x in range(pixels):
        ends[mark + x] = count
        for i in range(x * stride, (x + 1) * stride, 8):
            count += append8(fired, i, i, ONES, events, start + count)
    ends[mark + pixels] = count


# --- layers ------------------------------------------------------------------------------------------------------------


@_part
def _add_piece(graded: Any, width: Any, weights: Any, rows: Any, values: Any, first: Any, last: Any, out: Any, at: Any,
               add: Any) -> None:  # fmt: skip
    column = 0
    while column < width:
        blocks = min((width - column) // BLOCK, 4)
        if graded:
            if blocks == 4:
                _graded4(weights, rows, values, first, last, width, column, out, at + column, add)
            elif blocks == 3:
                _graded3(weights, rows, values, first, last, width, column, out, at + column, add)
            elif blocks == 2:
                _graded2(weights, rows, values, first, last, width, column, out, at + column, add)
            else:
                _graded1(weights, rows, values, first, last, width, column, out, at + column, add)
        elif blocks == 4:
            _sum4(weights, rows, values, first, last, width, column, out, at + column, add)
        elif blocks == 3:
            _sum3(weights, rows, values, first, last, width, column, out, at + column, add)
        elif blocks == 2:
            _sum2(weights, rows, values, first, last, width, column, out, at + column, add)
        else:
            _sum1(weights, rows, values, first, last, width, column, out, at + column, add)
        column += blocks * BLOCK


@_part
def _add_rows(
    graded: Any, width: Any, limit: Any, weights: Any, rows: Any, values: Any, count: Any, out: Any, at: Any
) -> None:
    """The sum of ``count`` rows of weights into out[at:], in pieces of at most ``limit`` rows, which fit the weights' type."""
    first = 0
    while True:
        _add_piece(graded, width, weights, rows, values, first, min(count, first + limit), out, at, first > 0)
        first += limit
        if first >= count:
            return


@_part
def _copy(
    events: Any, values: Any, start: Any, number: Any, offset: Any, graded: Any, rows: Any, factors: Any, at: Any
) -> None:
    """Rows of weights for ``number`` events, eight at a time; what is written beyond them is overwritten or not read."""
    copy8(events, start, offset, rows, at)  # always: no branch that the processor could guess wrong
    if graded:
        copy8(values, start, 0, factors, at)
    done = 8
    while done < number:
        copy8(events, start + done, offset, rows, at + done)
        if graded:
            copy8(values, start + done, 0, factors, at + done)
        done += 8


@_jit
def layer(numbers: Any, weights: Any, group_start: Any, bias: Any, events: Any, values: Any, ends: Any,
          sums_kind: Any, state_kind: Any, out_events: Any, out_ends: Any, out_u: Any, out_v: Any, last_v: Any, keep: Any,
          n0: Any, n1: Any, y0: Any, y1: Any) -> None:  # fmt: skip
    """Synapses, driven by events, and neurons of one layer: samples n0..n1, rows y0..y1, all frames; ``ends`` flat."""
    frames, lead, interval, phase = numbers[FRAMES], numbers[LEAD], numbers[INTERVAL], numbers[PHASE]
    rows, pixels, stride, room = numbers[ROWS], numbers[PIXELS], numbers[STRIDE], numbers[ROOM]
    in_frames, in_lead = numbers[IN_FRAMES], numbers[IN_LEAD]
    graded = values.itemsize == 4  # known to the compiler: no code for values where there are none
    in_rows, in_pixels, in_stride, in_room = numbers[IN_ROWS], numbers[IN_PIXELS], numbers[IN_STRIDE], numbers[IN_ROOM]
    kernel_y, kernel_x, step_y, step_x = numbers[KY], numbers[KX], numbers[SY], numbers[SX]
    pad_y, pad_x, spread_y, spread_x = numbers[PY], numbers[PX], numbers[DY], numbers[DX]
    width, per_group, limit = numbers[WIDTH], numbers[PER_GROUP], numbers[LIMIT]
    size = pixels * stride
    sums = np.zeros(size + width, sums_kind.dtype)
    u = np.zeros(size, state_kind.dtype)
    v = np.zeros(size, state_kind.dtype)
    fired = np.zeros(size, np.uint8)
    chosen = np.zeros(kernel_y * kernel_x * in_stride + 16, np.int32)
    factors = np.zeros(chosen.size if graded else 0, np.int32)
    run = kernel_x if spread_x == 1 else 1  # pixels of a line that are neighbours in its list
    runs = kernel_x // run
    begins = np.zeros(kernel_y, np.int64)  # of the lines that the kernel meets: where their events lie,
    marks = np.zeros(kernel_y, np.int64)  # where their pixels' ends lie,
    bases = np.zeros(kernel_y, np.int64)  # and the first row of weights of their kernel line
    for n in range(n0, n1):
        for y in range(y0, y1):
            u[:] = 0
            v[:] = 0
            for frame in range(frames):
                t = frame - lead
                if interval and (t - phase) % interval == 0:
                    u[:] = 0
                    v[:] = 0
                source = t + in_lead
                if source < 0 or per_group:
                    sums[:] = 0
                lines = 0
                if source >= 0:
                    for j in range(kernel_y):
                        line = y * step_y - pad_y + j * spread_y
                        if 0 <= line < in_rows:
                            place = (n * in_frames + source) * in_rows + line
                            begins[lines] = place * in_room
                            marks[lines] = place * (in_pixels + 1)
                            bases[lines] = j * kernel_x
                            lines += 1
                for x in range(pixels if source >= 0 else 0):
                    left = x * step_x - pad_x
                    count = 0
                    for j in range(lines):
                        for k in range(runs):
                            column = left + k * spread_x
                            first = max(column, 0)
                            last = min(column + run, in_pixels)
                            if first < last:
                                start = ends[marks[j] + first]
                                number = ends[marks[j] + last] - start
                                offset = (bases[j] + k - column) * in_stride
                                _copy(events, values, begins[j] + start, number, offset, graded, chosen, factors, count)
                                count += number
                    if not per_group:
                        _add_rows(graded, width, limit, weights, chosen, factors, count, sums, x * stride)
                        continue
                    for e in range(count):
                        row = np.int64(chosen[e])
                        value = factors[e] if graded else 1
                        place = x * stride + group_start[row]
                        for i in range(per_group):
                            sums[place + i] += weights[row * per_group + i] * value
                _membrane(sums, bias, u, v, fired, size, numbers, keep)
                place = (n * frames + frame) * rows + y
                _list_events(fired, pixels, stride, out_events, place * room, out_ends, place * (pixels + 1))
                if keep:
                    out_u[n, frame, y, :] = u
                    out_v[n, frame, y, :] = v
            if last_v.size:
                last_v[n, y, :] = v


@_jit
def neurons(numbers: Any, sums: Any, drive: Any, bias: Any, state_kind: Any, out_events: Any, out_ends: Any, out_u: Any, out_v: Any,
            last_v: Any, keep: Any, n0: Any, n1: Any, y0: Any, y1: Any) -> None:  # fmt: skip
    """Neurons of one layer from ready sums and a drive: (samples, frames, rows, pixels * stride), of size 0 for none."""
    rows, pixels, stride = numbers[ROWS], numbers[PIXELS], numbers[STRIDE]
    size = pixels * stride
    silence = np.zeros(size, sums.dtype)
    push = bias[:size].copy()
    u = np.zeros(size, state_kind.dtype)
    v = np.zeros(size, state_kind.dtype)
    fired = np.zeros(size, np.uint8)
    for n in range(n0, n1):
        for y in range(y0, y1):
            u[:] = 0
            v[:] = 0
            for frame in range(numbers[FRAMES]):
                if numbers[INTERVAL] and (frame - numbers[LEAD] - numbers[PHASE]) % numbers[INTERVAL] == 0:
                    u[:] = 0
                    v[:] = 0
                if drive.size:
                    for i in range(size):
                        push[i] = bias[i] + (drive[n, frame, y, i] << 6)
                here = sums[n, frame, y] if sums.size else silence
                _membrane(here, push, u, v, fired, size, numbers, keep)
                place = (n * numbers[FRAMES] + frame) * rows + y
                _list_events(fired, pixels, stride, out_events, place * numbers[ROOM], out_ends, place * (pixels + 1))
                if keep:
                    out_u[n, frame, y, :] = u
                    out_v[n, frame, y, :] = v
            if last_v.size:
                last_v[n, y, :] = v


@_jit
def dense_sums(numbers: Any, weights: Any, delay_post: Any, delay_pre: Any, events: Any, values: Any, ends: Any, sums: Any,
               n0: Any, n1: Any) -> None:  # fmt: skip
    """Sums of a dense projection with delays: sums[n, frame, post], each term in the frame in which it arrives."""
    in_rows, in_pixels, in_stride, in_room = numbers[IN_ROWS], numbers[IN_PIXELS], numbers[IN_STRIDE], numbers[IN_ROOM]
    frames, width, limit = numbers[FRAMES], numbers[WIDTH], numbers[LIMIT]
    graded = values.itemsize == 4
    posts = sums.shape[2]
    total = np.zeros(width, sums.dtype)
    chosen = np.zeros(in_rows * in_pixels * in_stride + 16, np.int32)
    factors = np.zeros(chosen.size if graded else 0, np.int32)
    for n in range(n0, n1):
        sums[n] = 0
        for source in range(numbers[IN_FRAMES]):
            frame = source - numbers[IN_LEAD] + numbers[LEAD]
            count = 0
            for y in range(in_rows):
                begin = ((n * numbers[IN_FRAMES] + source) * in_rows + y) * in_room
                number = ends[n, source, y, in_pixels]
                _copy(events, values, begin, number, y * in_pixels * in_stride, graded, chosen, factors, count)
                count += number
            if delay_pre.size:
                for e in range(count):
                    row = np.int64(chosen[e])
                    arrival = frame + delay_pre[row]
                    if 0 <= arrival < frames:
                        value = factors[e] if graded else 1
                        for i in range(posts):
                            sums[n, arrival, i] += weights[row * width + i] * value
                continue
            _add_rows(graded, width, limit, weights, chosen, factors, count, total, 0)
            for i in range(posts):
                arrival = frame + delay_post[i] if delay_post.size else frame
                if 0 <= arrival < frames:
                    sums[n, arrival, i] += total[i]


# --- into and out of events ------------------------------------------------------------------------------------------


@_jit
def encode(
    frames: Any, stride: Any, room: Any, events: Any, values: Any, ends: Any, n0: Any, n1: Any, y0: Any, y1: Any
) -> None:
    """Events of an input: frames (samples, C, H, W, time); values where their array is not empty; ``ends`` flat."""
    _, channels, rows, pixels, steps = frames.shape
    row = pixels * stride
    ones = np.zeros(steps * row, np.uint8)  # of one row of pixels, turned to (time, x, c)
    for n in range(n0, n1):
        for y in range(y0, y1):
            for x in range(pixels):
                for c in range(channels):
                    for t in range(steps):
                        ones[t * row + x * stride + c] = np.uint8(frames[n, c, y, x, t] != 0)
            for t in range(steps):
                place = (n * steps + t) * rows + y
                _list_events(ones[t * row : (t + 1) * row], pixels, stride, events, place * room, ends, place * (pixels + 1))
                if values.size:
                    for e in range(place * room, place * room + ends[place * (pixels + 1) + pixels]):
                        values[e] = frames[n, events[e] % stride, y, events[e] // stride, t]


@_jit
def decode(lead: Any, room: Any, stride: Any, events: Any, values: Any, ends: Any, n0: Any, n1: Any, out: Any) -> None:
    """Spikes out[n, c, y, x, t] (zeros before) from events of the samples n0..n1."""
    _, _, rows, pixels, steps = out.shape
    frames = ends.shape[1]
    graded = values.size > 0
    for n in range(n0, n1):
        for t in range(steps):
            for y in range(rows):
                begin = ((n * frames + t + lead) * rows + y) * room
                for e in range(begin, begin + ends[n, t + lead, y, pixels]):
                    out[n, events[e] % stride, y, events[e] // stride, t] = values[e] if graded else 1


@_jit
def tally(lead: Any, room: Any, events: Any, ends: Any, fan_out: Any, counts: Any, n0: Any, n1: Any) -> Any:
    """Spikes and synaptic operations of frames lead.. of the samples n0..n1; counts[n, y, x * stride + c] where not empty."""
    frames, rows = ends.shape[1], ends.shape[2]
    pixels = ends.shape[3] - 1
    spikes = 0
    operations = 0
    for n in range(n0, n1):
        for frame in range(lead, frames):
            for y in range(rows):
                begin = ((n * frames + frame) * rows + y) * room
                number = ends[n, frame, y, pixels]
                spikes += number
                if fan_out.size:
                    for e in range(begin, begin + number):
                        operations += fan_out[y, events[e]]
                if counts.size:
                    for e in range(begin, begin + number):
                        counts[n, y, events[e]] += 1
    return spikes, operations
