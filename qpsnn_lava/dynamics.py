"""SLAYER's CUBA dynamics in one pass over time: the same spikes and states, bit for bit, and the same gradients.

Stock SLAYER runs a dozen int64 tensor operations in every time step.  Here numba kernels keep each neuron's state in a
register block and go through time once.  Tensors are laid out with time next to the batch, (N, T, ...), as the convolutions make them.

States are whole numbers (SLAYER's values times 4096, below 2**52) held in float64, where ``trunc(x * (4096 - d) / 4096)`` is exact::

    y[t] = trunc(y[t-1] (4096 - d) / 4096) + trunc(4096 x[t])        s[t] = y[t] >= 4096 threshold + eps;  y := 0 after a spike

Backward, as SLAYER: ``g_y[t] = (1 - d / 4096) g_y[t+1] + g_v[t]`` and, for spikes,
``g_v = g_s scale / (2 tau) exp(-|v - threshold| / tau)``; the reset does not enter the gradient.

Source: lava-dl 0.6 ``slayer/neuron/dynamics/leaky_integrator.py`` and ``slayer/spike/spike.py``, held equal to them by tests.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

numba: Any
try:
    import numba
except ImportError:  # an extra; without it the blocks run on stock SLAYER
    numba = None

AVAILABLE = numba is not None
STATE_SCALE = 4096.0
_CHUNK = 2048  # neurons whose states are worked on together: 16 KiB


def set_threads(threads: int) -> None:
    """How many threads the kernels use (torch's own number is set apart)."""
    if AVAILABLE:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def integrate(x: torch.Tensor, decay: int) -> torch.Tensor:
    """The current: ``y`` above, without spikes.

    Args:
        x: float32 (N, T, ...); copied where the memory of a time step has gaps or repeats.
        decay: 0..4096.
    """
    result: torch.Tensor = _Integrate.apply(_dense(x), decay)  # type: ignore[no-untyped-call]
    return result


def fire(x: torch.Tensor, decay: int, threshold: float, tau: float, scale: float) -> torch.Tensor:
    """The voltage and its spikes.

    Args:
        x: float32 (N, T, ...), the (normalised) current, as in :func:`integrate`.
        decay: 0..4096.
        threshold: in SLAYER's units, its eps included.
        tau, scale: width and area of the surrogate, in the same units.

    Returns:
        float32 spikes (0 or 1) of the same shape and layout.
    """
    result: torch.Tensor = _Fire.apply(_dense(x), decay, threshold, tau, scale)  # type: ignore[no-untyped-call]
    return result


class _Integrate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, decay: int) -> torch.Tensor:
        ctx.keep = 1.0 - decay / 4096
        y = torch.empty_like(x)
        _integrate(_flat(x), ctx.keep, _flat(y))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        g = gradients[0].contiguous()
        out = torch.empty_like(g)
        _integrate_backward(_flat(g), np.float32(ctx.keep), _flat(out))
        return out, None


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, decay: int, threshold: float, tau: float, scale: float) -> torch.Tensor:
        keep = 1.0 - decay / 4096
        spikes = torch.empty_like(x)
        voltage = torch.empty_like(x)
        _fire(_flat(x), keep, np.float32(threshold * STATE_SCALE), _flat(spikes), _flat(voltage))
        ctx.save_for_backward(voltage)
        ctx.constants = (keep, threshold, tau, scale)
        return spikes

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (voltage,) = ctx.saved_tensors
        keep, threshold, tau, scale = ctx.constants
        g = gradients[0]
        if g.stride() != voltage.stride():
            g = torch.empty_like(voltage).copy_(g)
        out = torch.empty_like(voltage)
        constants = (np.float32(v) for v in (keep, threshold, 1 / tau, scale / 2 / tau))
        _fire_backward(_flat(g), _flat(voltage), *constants, _flat(out))
        return out, None, None, None, None


def _dense(x: torch.Tensor) -> torch.Tensor:
    """``x``, or a copy where its time steps are not dense in memory (the order of the inner axes does not matter)."""
    step = 1
    for stride, size in sorted(zip(x.stride()[2:], x.shape[2:], strict=True)):
        if size != 1 and stride != step:
            return x.contiguous()
        step *= size
    return x


def _flat(x: torch.Tensor) -> Any:
    """A numpy view (N, T, M) of a tensor that is dense within each time step, whatever the order of its inner axes."""
    n, t, *shape = x.shape
    inner = math.prod(shape)
    return torch.as_strided(x, (n, t, inner), (x.stride(0), x.stride(1), 1)).detach().numpy()


if AVAILABLE:
    # The inner loops are functions of their own on one-dimensional arrays: so LLVM turns them into vector code.
    _jit = numba.njit(cache=True, nogil=True, error_model="numpy")
    _parallel = numba.njit(parallel=True, cache=True, nogil=True, error_model="numpy")

    @_jit
    def _integrate_step(x, y, keep, out):  # type: ignore[no-untyped-def]
        for m in range(x.size):
            y[m] = np.trunc(y[m] * keep) + np.trunc(np.float64(x[m]) * 4096.0)
            out[m] = np.float32(y[m]) * np.float32(1 / 4096.0)

    @_jit
    def _fire_step(x, y, keep, threshold, spikes, voltage):  # type: ignore[no-untyped-def]
        for m in range(x.size):
            v = np.trunc(y[m] * keep) + np.trunc(np.float64(x[m]) * 4096.0)
            single = np.float32(v)
            fired = single >= threshold
            spikes[m] = np.float32(1.0) if fired else np.float32(0.0)
            voltage[m] = single * np.float32(1 / 4096.0)
            y[m] = 0.0 if fired else v

    @_jit
    def _decay_step(g, keep, later, out):  # type: ignore[no-untyped-def]
        for m in range(g.size):
            later[m] = g[m] + keep * later[m]
            out[m] = later[m]

    @_jit
    def _surrogate_step(g, voltage, keep, threshold, inverse_tau, height, later, out):  # type: ignore[no-untyped-def]
        for m in range(g.size):
            # exp(-x) = p(x / 256) ** 256, p the Taylor polynomial of degree 8: 1e-7 relative, and vector code (exp is a call)
            x = abs(voltage[m] - threshold) * inverse_tau
            x = x if x < np.float32(87.0) else np.float32(87.0)
            z = np.float64(x) * (-1.0 / 256)
            p = 1 / 5040 + z * (1 / 40320)
            p = 1 / 720 + z * p
            p = 1 / 120 + z * p
            p = 1 / 24 + z * p
            p = 1 / 6 + z * p
            p = 1 / 2 + z * p
            p = 1.0 + z * p
            p = 1.0 + z * p
            p = p * p
            p = p * p
            p = p * p
            p = p * p
            p = p * p
            p = p * p
            p = p * p
            p = p * p
            later[m] = g[m] * height * np.float32(p) + keep * later[m]
            out[m] = later[m]

    @_parallel
    def _integrate(x, keep, out):  # type: ignore[no-untyped-def]
        for n in numba.prange(x.shape[0]):
            for low in range(0, x.shape[2], _CHUNK):
                y = np.zeros(min(_CHUNK, x.shape[2] - low), np.float64)
                for t in range(x.shape[1]):
                    _integrate_step(x[n, t, low : low + y.size], y, keep, out[n, t, low : low + y.size])

    @_parallel
    def _fire(x, keep, threshold, spikes, voltage):  # type: ignore[no-untyped-def]
        for n in numba.prange(x.shape[0]):
            for low in range(0, x.shape[2], _CHUNK):
                y = np.zeros(min(_CHUNK, x.shape[2] - low), np.float64)
                for t in range(x.shape[1]):
                    part = slice(low, low + y.size)
                    _fire_step(x[n, t, part], y, keep, threshold, spikes[n, t, part], voltage[n, t, part])

    @_parallel
    def _integrate_backward(g, keep, out):  # type: ignore[no-untyped-def]
        for n in numba.prange(g.shape[0]):
            later = np.zeros(g.shape[2], np.float32)
            for t in range(g.shape[1] - 1, -1, -1):
                _decay_step(g[n, t], keep, later, out[n, t])

    @_parallel
    def _fire_backward(g, voltage, keep, threshold, inverse_tau, height, out):  # type: ignore[no-untyped-def]
        for n in numba.prange(g.shape[0]):
            later = np.zeros(g.shape[2], np.float32)
            for t in range(g.shape[1] - 1, -1, -1):
                _surrogate_step(g[n, t], voltage[n, t], keep, threshold, inverse_tau, height, later, out[n, t])
