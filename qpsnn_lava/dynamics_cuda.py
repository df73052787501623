"""The loops of :mod:`qpsnn_lava.dynamics` on CUDA: Triton kernels, or plain torch where Triton is not installed.

A program of the grid takes ``BLOCK`` neurons of a sample, holds their states in registers and goes through time once.

The bits are those of the loops on the CPU, and cannot differ:

- a decayed state is ``trunc(y keep)`` in float64, an input ``trunc(4096 x)``, where the product by a power of two is exact; between
  each product and the sum that follows stands a truncation, so no compiler can contract the two to a fused multiply-add;
- ``c scale + offset`` and the gradients are products and sums that could be contracted: the kernels are compiled with
  ``enable_fp_fusion=False``, which makes each ``mul.rn`` and ``add.rn``, rounded on its own as IEEE 754 says;
- the surrogate's exponential is the polynomial of the loops on the CPU, not the hardware's approximation;
- v >= threshold is compared in float32, with the threshold as the CPU has it: a neuron that stands exactly at the threshold is
  no special case (SLAYER's own CUDA kernel cuts the threshold to an int, so there such a neuron is reset without a spike).

Only sums over samples, steps and pixels (statistics, gradients of bias and gain) have another order; they are float64.  In plain
torch the exponential is torch's: gradients agree within 1e-6.

Tensors are those of :class:`qpsnn_lava.dynamics.Loops`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from qpsnn_lava.dynamics import STATE_SCALE, Firing, Loops

try:
    import triton
    import triton.language as tl
except ImportError:  # builds of torch for CUDA on Linux bring it
    triton = None

BLOCK = 512
"""Neurons of a program."""
TILE = 1024
"""Values that a program of the sums reads at once: rows of neurons by channels."""
ROWS = 1024
"""Neurons per channel of a step whose sum one program takes, at most."""


# --- plain torch -------------------------------------------------------------------------------------------------------


def _plain_integrate(x: torch.Tensor, keep: float, out: torch.Tensor) -> None:
    y = x.new_zeros((len(x), x.shape[2]), dtype=torch.float64)
    for t in range(x.shape[1]):
        y = torch.trunc(y * keep) + torch.trunc(x[:, t] * 4096.0)
        out[:, t] = y.float() / 4096.0


def _plain_integrate_backward(g: torch.Tensor, keep: float, out: torch.Tensor) -> None:
    later = g.new_zeros((len(g), g.shape[2]))
    for t in reversed(range(g.shape[1])):
        later = g[:, t] + later * keep
        out[:, t] = later


def _plain_fire(
    x: torch.Tensor, how: Firing, scale: torch.Tensor, offset: torch.Tensor, spikes: torch.Tensor, voltage: torch.Tensor
) -> None:
    (keep_u, keep), late = how.keeps, how.late
    threshold = how.surrogate[0] * STATE_SCALE
    scale, offset = (_repeated(values, x.shape[2]) for values in (scale, offset))
    u = y = x.new_zeros((len(x), x.shape[2]), dtype=torch.float64)
    spikes[:, :late] = 0.0
    for t in range(x.shape[1]):
        c = torch.trunc(x[:, t] * 4096.0)
        if keep_u > 0.0:
            u = torch.trunc(u * keep_u) + c
            c = u.float()
        y = torch.trunc(y * keep) + torch.trunc((c / 4096.0 * scale + offset) * 4096.0)
        single = y.float()
        fired = single >= threshold
        voltage[:, t] = single / 4096.0
        if t + late < x.shape[1]:
            spikes[:, t + late] = fired.float()
        y = torch.where(fired, 0.0, y)


def _plain_fire_backward(g: torch.Tensor, voltage: torch.Tensor, how: Firing, out: torch.Tensor) -> None:
    (keep_u, keep), late = how.keeps, how.late
    threshold, inverse_tau, height = how.surrogate
    later = later_u = g.new_zeros((len(g), g.shape[2]))
    steps = g.shape[1]
    for t in reversed(range(steps)):
        if t + late < steps:
            slope = torch.exp(-((voltage[:, t] - threshold).abs() * inverse_tau).clamp_max(87.0))
            later = g[:, t + late] * height * slope + later * keep
        later_u = later + later_u * keep_u
        out[:, t] = later_u


def _plain_fire_backward_sums(
    g: torch.Tensor, voltage: torch.Tensor, x: torch.Tensor | None, how: Firing, out: torch.Tensor, channels: int
) -> torch.Tensor:
    _plain_fire_backward(g, voltage, replace(how, current_decay=4096), out)
    split = out.unflatten(2, (-1, channels)).double()
    rows = [split] if x is None else [split, split * _truncated(x, channels)]
    return torch.stack([row.sum((0, 1, 2)) for row in rows])


def _plain_moments(x: torch.Tensor, channels: int) -> torch.Tensor:
    c = _truncated(x, channels)
    return torch.stack([c.sum((0, 1, 2)), c.square().sum((0, 1, 2))])


def _truncated(x: torch.Tensor, channels: int) -> torch.Tensor:
    """float64 (N, T, M / C, C) of what a neuron takes of its current."""
    return torch.trunc(x.unflatten(2, (-1, channels)) * 4096.0).double() / 4096.0


def _plain_affine(g: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> None:
    a, b, c = (_repeated(values, g.shape[2]) for values in (a, b, c))
    g.copy_(a * g + b * x + c)


def _repeated(values: torch.Tensor, size: int) -> torch.Tensor:
    """``values`` over and over, ``size`` of them."""
    return values.repeat(-(-size // len(values)))[:size]


PLAIN = Loops(
    integrate=_plain_integrate,
    integrate_backward=_plain_integrate_backward,
    fire=_plain_fire,
    fire_backward=_plain_fire_backward,
    fire_backward_sums=_plain_fire_backward_sums,
    moments=_plain_moments,
    affine=_plain_affine,
)
LOOPS = PLAIN


# --- Triton ------------------------------------------------------------------------------------------------------------

if triton is not None:
    _jit: Callable[[Any], Any] = triton.jit

    @_jit
    def _add(a, b):  # type: ignore[no-untyped-def]
        return a + b

    @_jit
    def _trunc(x):  # type: ignore[no-untyped-def]
        return tl.where(x < 0.0, tl.ceil(x), tl.floor(x))

    @_jit
    def _place(size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803 (as Triton's users write it)
        """The sample of this program, its neurons, and which of them there are."""
        blocks = (size + BLOCK - 1) // BLOCK
        n = (tl.program_id(0) // blocks).to(tl.int64)
        m = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
        return n, m, m < size

    @_jit
    def _integrate_kernel(x, out, steps, size, x_n, x_t, out_n, out_t, keep, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
        n, m, there = _place(size, BLOCK)
        x += n * x_n + m
        out += n * out_n + m
        y = tl.full([BLOCK], 0.0, tl.float64)
        for _ in range(steps):
            y = _trunc(y * keep) + _trunc(tl.load(x, mask=there, other=0.0) * 4096.0)
            tl.store(out, y.to(tl.float32) * 0.000244140625, mask=there)
            x += x_t
            out += out_t

    @_jit
    def _integrate_backward_kernel(g, out, steps, size, g_n, g_t, out_n, out_t, keep, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
        n, m, there = _place(size, BLOCK)
        g += n * g_n + m
        out += n * out_n + m
        later = tl.full([BLOCK], 0.0, tl.float32)
        for _ in range(steps):
            later = tl.load(g, mask=there, other=0.0) + keep * later
            tl.store(out, later, mask=there)
            g -= g_t
            out -= out_t

    @_jit
    def _fire_kernel(  # type: ignore[no-untyped-def]
        x, scale, offset, spikes, voltage, steps, size, period, x_n, x_t, s_n, s_t, v_n, v_t, keep_u, keep, threshold,
        LEAKY: tl.constexpr, LATE: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
    ):  # fmt: skip
        n, m, there = _place(size, BLOCK)
        x += n * x_n + m
        spikes += n * s_n + m
        voltage += n * v_n + m
        gain = tl.load(scale + m % period, mask=there, other=0.0)
        shift = tl.load(offset + m % period, mask=there, other=0.0)
        u = tl.full([BLOCK], 0.0, tl.float64)
        y = tl.full([BLOCK], 0.0, tl.float64)
        if LATE:
            tl.store(spikes, tl.full([BLOCK], 0.0, tl.float32), mask=there)
            spikes += s_t
        for t in range(steps):
            c = _trunc(tl.load(x, mask=there, other=0.0) * 4096.0)
            if LEAKY:
                u = _trunc(u * keep_u) + c
                c = u.to(tl.float32)
            y = _trunc(y * keep) + _trunc((c * 0.000244140625 * gain + shift) * 4096.0)
            single = y.to(tl.float32)
            fired = single >= threshold
            tl.store(voltage, single * 0.000244140625, mask=there)
            if t + LATE < steps:
                tl.store(spikes, fired.to(tl.float32), mask=there)
            y = tl.where(fired, 0.0, y)
            x += x_t
            spikes += s_t
            voltage += v_t

    @_jit
    def _fire_backward_kernel(  # type: ignore[no-untyped-def]
        g, voltage, out, steps, size, g_n, g_t, v_n, v_t, out_n, out_t, keep_u, keep, threshold, inverse_tau, height,
        LEAKY: tl.constexpr, LATE: tl.constexpr, BLOCK: tl.constexpr,  # noqa: N803
    ):  # fmt: skip
        n, m, there = _place(size, BLOCK)
        g += n * g_n + m
        voltage += n * v_n + m
        out += n * out_n + m
        later = tl.full([BLOCK], 0.0, tl.float32)
        later_u = tl.full([BLOCK], 0.0, tl.float32)
        for back in range(steps):
            if back >= LATE:  # a spike of the last step that comes out late is lost
                x = tl.abs(tl.load(voltage, mask=there, other=0.0) - threshold) * inverse_tau
                x = tl.where(x < 87.0, x, 87.0)
                whole = tl.floor(x * 1.4426950408889634 + 0.5)
                r = whole * -2.12194440e-4 - (x - whole * 0.693359375)
                p = 0.001388888888888889 + r * 0.0001984126984126984
                p = 0.008333333333333333 + r * p
                p = 0.041666666666666664 + r * p
                p = 0.16666666666666666 + r * p
                p = 0.5 + r * p
                p = 1.0 + r * p
                p = 1.0 + r * p
                power = ((127 - whole.to(tl.int32)) << 23).to(tl.float32, bitcast=True)
                later = tl.load(g, mask=there, other=0.0) * height * (p * power) + keep * later
                g -= g_t
            if LEAKY:
                later_u = later + keep_u * later_u
                tl.store(out, later_u, mask=there)
            else:
                tl.store(out, later, mask=there)
            voltage -= v_t
            out -= out_t

    @_jit
    def _sums_kernel(  # type: ignore[no-untyped-def]
        g, x, parts, steps, size, channels, chunks, g_n, g_t, x_n, x_t,
        PRODUCTS: tl.constexpr, ROWS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,  # noqa: N803
    ):  # fmt: skip
        """Over rows of one step: of c and c^2, or of g and g c."""
        part = tl.program_id(0).to(tl.int64)
        frame = part // chunks
        n, t = frame // steps, frame % steps
        channel = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
        first = tl.full([HIGH, WIDE], 0.0, tl.float64)
        second = tl.full([HIGH, WIDE], 0.0, tl.float64)
        for high in range(0, ROWS, HIGH):
            row = (part % chunks).to(tl.int32) * ROWS + high + tl.arange(0, HIGH)
            m = row[:, None] * channels + channel[None, :]
            there = (m < size) & (channel < channels)[None, :]
            c = _trunc(tl.load(x + n * x_n + t * x_t + m, mask=there, other=0.0) * 4096.0) * 0.000244140625
            a = c
            if PRODUCTS:
                a = tl.load(g + n * g_n + t * g_t + m, mask=there, other=0.0)
            first += a.to(tl.float64)
            second += a.to(tl.float64) * c.to(tl.float64)
        parts += part * 2 * channels + channel
        tl.store(parts, tl.reduce(first, 0, _add), mask=channel < channels)
        tl.store(parts + channels, tl.reduce(second, 0, _add), mask=channel < channels)

    @_jit
    def _affine_kernel(g, x, a, b, c, steps, size, period, g_n, g_t, x_n, x_t, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
        n, m, there = _place(size, BLOCK)
        g += n * g_n + m
        x += n * x_n + m
        of_g = tl.load(a + m % period, mask=there, other=0.0)
        of_x = tl.load(b + m % period, mask=there, other=0.0)
        shift = tl.load(c + m % period, mask=there, other=0.0)
        for _ in range(steps):
            value = of_g * tl.load(g, mask=there, other=0.0) + of_x * tl.load(x, mask=there, other=0.0) + shift
            tl.store(g, value, mask=there)
            g += g_t
            x += x_t

    def _launch(kernel: Any, x: torch.Tensor, *arguments: Any, **constants: int) -> None:
        """Runs a program for each block of neurons of each sample of ``x`` (N, T, M)."""
        n, _, size = x.shape
        if x.numel():
            with torch.cuda.device_of(x):
                kernel[(n * -(-size // BLOCK),)](*arguments, **constants, BLOCK=BLOCK, enable_fp_fusion=False)

    def _steps(*tensors: torch.Tensor) -> tuple[int, ...]:
        """Strides of samples and steps."""
        return tuple(stride for x in tensors for stride in x.stride()[:2])

    def _integrate(x: torch.Tensor, keep: float, out: torch.Tensor) -> None:
        _launch(_integrate_kernel, x, x, out, *x.shape[1:], *_steps(x, out), float(keep))

    def _integrate_backward(g: torch.Tensor, keep: float, out: torch.Tensor) -> None:
        _launch(_integrate_backward_kernel, g, g[:, -1:], out[:, -1:], *g.shape[1:], *_steps(g, out), float(keep))

    def _fire(
        x: torch.Tensor, how: Firing, scale: torch.Tensor, offset: torch.Tensor, spikes: torch.Tensor, voltage: torch.Tensor
    ) -> None:
        numbers = (*how.keeps, how.surrogate[0] * STATE_SCALE)
        strides = _steps(x, spikes, voltage)
        arguments = (x, scale, offset, spikes, voltage, *x.shape[1:], len(scale), *strides, *numbers)
        _launch(_fire_kernel, x, *arguments, LEAKY=int(how.current_decay < 4096), LATE=how.late)

    def _fire_backward(g: torch.Tensor, voltage: torch.Tensor, how: Firing, out: torch.Tensor) -> None:
        numbers = (*how.keeps, *how.surrogate)
        arguments = (g[:, -1:], voltage[:, -1:], out[:, -1:], *g.shape[1:], *_steps(g, voltage, out), *numbers)
        _launch(_fire_backward_kernel, g, *arguments, LEAKY=int(how.current_decay < 4096), LATE=how.late)

    def _sums(g: torch.Tensor, x: torch.Tensor, channels: int, products: bool) -> torch.Tensor:
        n, steps, size = x.shape
        wide = min(64, triton.next_power_of_2(channels))
        high = TILE // wide
        rows = max(high, min(ROWS, triton.next_power_of_2(size // channels)))
        chunks = -(-size // channels // rows)
        parts = x.new_zeros((n * steps * chunks, 2, channels), dtype=torch.float64)
        if x.numel():
            with torch.cuda.device_of(x):
                _sums_kernel[(len(parts), -(-channels // wide))](
                    g, x, parts, steps, size, channels, chunks, *_steps(g, x),
                    PRODUCTS=int(products), ROWS=rows, HIGH=high, WIDE=wide, enable_fp_fusion=False,
                )  # fmt: skip
        return parts.sum(0)

    def _fire_backward_sums(
        g: torch.Tensor, voltage: torch.Tensor, x: torch.Tensor | None, how: Firing, out: torch.Tensor, channels: int
    ) -> torch.Tensor:
        _fire_backward(g, voltage, replace(how, current_decay=4096), out)
        return _sums(out, out if x is None else x, channels, True)[: 1 if x is None else 2]

    def _moments(x: torch.Tensor, channels: int) -> torch.Tensor:
        return _sums(x, x, channels, False)

    def _affine(g: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> None:
        _launch(_affine_kernel, g, g, x, a, b, c, *g.shape[1:], len(a), *_steps(g, x))

    LOOPS = Loops(
        integrate=_integrate,
        integrate_backward=_integrate_backward,
        fire=_fire,
        fire_backward=_fire_backward,
        fire_backward_sums=_fire_backward_sums,
        moments=_moments,
        affine=_affine,
    )
