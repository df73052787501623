"""SLAYER's CUBA dynamics in one pass over time: the same spikes and states, bit for bit, and the same gradients.

Stock SLAYER runs a dozen int64 tensor operations in every time step.  Here numba kernels keep each neuron's state in a
register block and go through time once; on CUDA Triton kernels do (:mod:`qpsnn_lava.dynamics_cuda`).  Tensors are laid out with time
next to the batch, (N, T, ...), as the convolutions make them.

States are whole numbers (SLAYER's values times 4096, below 2**52) held in float64, where ``trunc(x * (4096 - d) / 4096)`` is exact::

    u[t] = trunc(u[t-1] (4096 - d_u) / 4096) + trunc(4096 x[t])
    v[t] = trunc(v[t-1] (4096 - d_v) / 4096) + trunc(4096 norm(u[t] / 4096))
    s[t] = v[t] >= 4096 threshold + eps;    v := 0 after a spike

with ``norm(c) = c``, ``c + bias`` or ``scale c + offset`` per channel, the last with a batch's own statistics:

    scale = gain / sqrt(var + eps),    offset = shift - mean scale

Backward, as SLAYER: ``g_y[t] = (1 - d / 4096) g_y[t+1] + g_v[t]`` and, for spikes,
``g_v = g_s scale / (2 tau) exp(-|v - threshold| / tau)``; the reset does not enter the gradient.  Batch normalisation's own
(Ioffe and Szegedy, 2015): ``g_c = scale (g - mean(g) - c^ mean(g c^))`` with ``c^ = (c - mean) / sqrt(var + eps)``.

Source: lava-dl 0.6 ``slayer/neuron/dynamics/leaky_integrator.py`` and ``slayer/spike/spike.py``, held equal to them by tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from qpsnn_lava import parallel

numba: Any
try:
    import numba
except ImportError:  # an extra; without it the blocks run on stock SLAYER
    numba = None

AVAILABLE = numba is not None
STATE_SCALE = 4096.0
_CHUNK = 1024  # neurons whose states are worked on together: 8 KiB each


def set_threads(threads: int) -> None:
    """How many threads the kernels use (torch's own number is set apart)."""
    if AVAILABLE:
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def threads() -> int:
    """How many threads the kernels use."""
    return int(numba.get_num_threads()) if AVAILABLE else 1


def runs_on(device: torch.device) -> bool:
    """Whether there are loops for a device: on the CPU numba's, on CUDA always (without Triton in plain torch)."""
    return device.type == "cuda" or AVAILABLE


@dataclass(frozen=True)
class Firing:
    """How neurons turn their current into spikes.

    Args:
        voltage_decay, current_decay: 0..4096.
        threshold: in SLAYER's units, its eps included.
        tau, scale: width and area of the surrogate, in the same units.
        late: 1: spikes come out one time step later (the last step's are lost), as SLAYER's ``delay_shift`` makes them.
    """

    voltage_decay: int
    threshold: float
    tau: float
    scale: float
    current_decay: int = 4096
    late: int = 0

    @property
    def keeps(self) -> tuple[float, float]:
        """1 - d / 4096 of the current (0: it is the input of the step) and of the voltage."""
        return 1.0 - self.current_decay / 4096, 1.0 - self.voltage_decay / 4096

    @property
    def surrogate(self) -> tuple[float, float, float]:
        """Threshold, 1 / tau and the surrogate's height ``scale / (2 tau)``, as float32 holds them."""
        threshold, inverse_tau, height = (
            float(np.float32(value)) for value in (self.threshold, 1 / self.tau, self.scale / 2 / self.tau)
        )
        return threshold, inverse_tau, height


@dataclass(frozen=True)
class Loops:
    """The loops over time of one kind of processor.

    Tensors are float32 (N, T, M), each step dense; ``keep`` is 1 - d / 4096; values per channel have period C along M.

    Args:
        integrate: (x, keep, out): the current, from its input.
        integrate_backward: (g, keep, out): its gradient; ``out`` may be ``g``.
        fire: (x, how, scale, offset, spikes, voltage): spikes, and voltages before the reset.
        fire_backward: (g, voltage, how, out): their gradient.
        fire_backward_sums: (g, voltage, x, how, out, channels): the gradient where no current is kept (whatever ``how`` says), and
            per channel its sums and, where x is not None, those of its product with the truncated x: float64 (1 or 2, C).
        moments: (x, channels): the sums of the truncated x and of its square: float64 (2, C).
        affine: (g, x, a, b, c): g := a g + b x + c.
    """

    integrate: Callable[[torch.Tensor, float, torch.Tensor], None]
    integrate_backward: Callable[[torch.Tensor, float, torch.Tensor], None]
    fire: Callable[[torch.Tensor, Firing, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
    fire_backward: Callable[[torch.Tensor, torch.Tensor, Firing, torch.Tensor], None]
    fire_backward_sums: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, Firing, torch.Tensor, int], torch.Tensor]
    moments: Callable[[torch.Tensor, int], torch.Tensor]
    affine: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]


def _loops(x: torch.Tensor) -> Loops:
    if x.is_cuda:
        from qpsnn_lava import dynamics_cuda  # Triton is heavy

        return dynamics_cuda.LOOPS
    return COMPILED


def integrate(x: torch.Tensor, decay: int) -> torch.Tensor:
    """The current: ``u`` above.

    Args:
        x: float32 (N, T, ...); copied where the memory of a time step has gaps or repeats.
        decay: 0..4096.
    """
    result: torch.Tensor = _Integrate.apply(_dense(x), decay)  # type: ignore[no-untyped-call]
    return result


def fire(x: torch.Tensor, how: Firing, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Spikes of a current.

    Args:
        x: float32 (N, T, C, ...), sums; as in :func:`integrate`.
        how: decays, threshold, surrogate, delay.
        bias: (C,) added to u, or None.

    Returns:
        float32 spikes (0 or 1) of the same shape; each time step dense, with the channels innermost where there is a bias.
    """
    result: torch.Tensor
    if bias is None:
        result = _Fire.apply(_dense(x), how)  # type: ignore[no-untyped-call]
    else:
        ones = torch.ones_like(bias)
        result = _FireAffine.apply(_channels_last(x), ones, bias, None, how)[0]  # type: ignore[no-untyped-call]
    return result


def fire_normed(
    x: torch.Tensor, how: Firing, gain: torch.Tensor, shift: torch.Tensor, eps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Spikes of a current that is normalised with the batch's statistics, those of all processes together.

    Args:
        x: as in :func:`fire`; ``how.current_decay`` is 4096 (integrate first where it is not).
        how: decays, threshold, surrogate, delay.
        gain, shift, eps: (C,).

    Returns:
        spikes; mean and (biased) variance (C,), float32, without gradients.
    """
    assert how.current_decay == 4096
    result: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    result = _FireAffine.apply(_channels_last(x), gain, shift, eps, how)  # type: ignore[no-untyped-call]
    return result


class _Integrate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, decay: int) -> torch.Tensor:
        ctx.keep = 1.0 - decay / 4096
        y = torch.empty_like(x)
        _loops(x).integrate(_flat(x), ctx.keep, _flat(y))
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        g = _dense(gradients[0])
        out = torch.empty_like(g)
        _loops(g).integrate_backward(_flat(g), ctx.keep, _flat(out))
        return out, None


class _Fire(torch.autograd.Function):
    """Spikes without a norm."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, how: Firing) -> torch.Tensor:
        spikes, voltage = torch.empty_like(x), torch.empty_like(x)
        _loops(x).fire(_flat(x), how, x.new_ones(1), x.new_zeros(1), _flat(spikes), _flat(voltage))
        ctx.save_for_backward(voltage)
        ctx.how = how
        return spikes

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (voltage,) = ctx.saved_tensors
        out = torch.empty_like(voltage)
        g = _flat(_like(gradients[0], voltage))
        _loops(g).fire_backward(g, _flat(voltage), ctx.how, _flat(out))
        return out, None


class _FireAffine(torch.autograd.Function):
    """Spikes with a bias (eps None: scale and offset are given), or normalised with the batch's statistics."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor, eps: torch.Tensor | None, how: Firing
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean = var = torch.zeros_like(shift)
        inverse = torch.ones_like(shift)
        count = shift.new_ones(())
        if eps is not None:
            count, mean64, var64 = _moments(x)
            inverse64 = torch.rsqrt(var64 + eps.double())
            mean, var, inverse = mean64.float(), var64.float(), inverse64.float()
        scale = gain * inverse
        offset = shift - mean * scale
        spikes, voltage = torch.empty_like(x), torch.empty_like(x)
        _loops(x).fire(_flat(x), how, scale, offset, _flat(spikes), _flat(voltage))
        if eps is None:
            ctx.save_for_backward(voltage)
        else:
            ctx.save_for_backward(voltage, x, gain, mean, inverse, count)
        ctx.how, ctx.channels = how, len(shift)
        ctx.mark_non_differentiable(mean, var)
        return spikes, mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        voltage, *normed = ctx.saved_tensors
        out = torch.empty_like(voltage)
        g, loops = _flat(_like(gradients[0], voltage)), _loops(voltage)
        if not normed:
            (g_bias,) = loops.fire_backward_sums(g, _flat(voltage), None, ctx.how, _flat(out), ctx.channels)
            if ctx.how.current_decay < 4096:
                loops.integrate_backward(_flat(out), ctx.how.keeps[0], _flat(out))
            return out, None, g_bias.float(), None, None
        x, gain, mean, inverse, count = normed
        local = loops.fire_backward_sums(g, _flat(voltage), _flat(x), ctx.how, _flat(out), ctx.channels)
        g_shift = local[0]
        g_gain = (local[1] - mean.double() * local[0]) * inverse
        whole_shift, whole_gain = parallel.total(torch.stack([g_shift, g_gain]))  # of the batch in all processes
        scale = (gain * inverse).double()
        slope = -scale * inverse * whole_gain / count
        offset = -scale * whole_shift / count - slope * mean
        loops.affine(_flat(out), _flat(x), scale.float(), slope.float(), offset.float())
        return out, g_gain.float(), g_shift.float(), None, None


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """float64 number of values per channel, mean and variance, over all processes; of the truncated current."""
    channels = x.shape[2]
    sums = _loops(x).moments(_flat(x), channels)
    here = torch.full((1, channels), float(x.numel() // channels), dtype=torch.float64, device=x.device)
    whole = parallel.total(torch.cat([sums, here]))
    mean = whole[0] / whole[2]
    return whole[2, 0], mean, (whole[1] / whole[2] - mean**2).clamp_min(0)


def _dense(x: torch.Tensor) -> torch.Tensor:
    """``x``, or a copy where its time steps are not dense in memory (the order of the inner axes does not matter)."""
    step = 1
    for stride, size in sorted(zip(x.stride()[2:], x.shape[2:], strict=True)):
        if size != 1 and stride != step:
            return x.contiguous()
        step *= size
    return x


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """``x``, or a copy whose time steps are dense with axis 2 innermost."""
    turned = x.movedim(2, -1)
    step = 1
    for stride, size in zip(reversed(turned.stride()[2:]), reversed(turned.shape[2:]), strict=True):
        if size != 1 and stride != step:
            return turned.contiguous().movedim(-1, 2)
        step *= size
    return x


def _like(g: torch.Tensor, voltage: torch.Tensor) -> torch.Tensor:
    """A gradient in the memory order of the voltage."""
    return g if g.stride() == voltage.stride() else torch.empty_like(voltage).copy_(g)


def _flat(x: torch.Tensor) -> torch.Tensor:
    """A view (N, T, M) of a tensor that is dense within each time step, whatever the order of its inner axes."""
    n, t, *shape = x.shape
    inner = math.prod(shape)
    return torch.as_strided(x, (n, t, inner), (x.stride(0), x.stride(1), 1)).detach()


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
    def _fire_step(x, y, keep, threshold, scale, offset, spikes, voltage):  # type: ignore[no-untyped-def]
        for m in range(x.size):
            c = np.float32(np.trunc(np.float64(x[m]) * 4096.0)) * np.float32(1 / 4096.0)
            v = np.trunc(y[m] * keep) + np.trunc(np.float64(c * scale[m] + offset[m]) * 4096.0)
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
            # exp(-x) = 2**-n exp(-r), |r| <= ln(2) / 2, a Taylor polynomial of degree 7: 1e-7 relative, and vector code (exp is a call)
            x = abs(voltage[m] - threshold) * inverse_tau
            x = x if x < np.float32(87.0) else np.float32(87.0)
            n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
            r = n * np.float32(-2.12194440e-4) - (x - n * np.float32(0.693359375))
            p = np.float32(1 / 720) + r * np.float32(1 / 5040)
            p = np.float32(1 / 120) + r * p
            p = np.float32(1 / 24) + r * p
            p = np.float32(1 / 6) + r * p
            p = np.float32(1 / 2) + r * p
            p = np.float32(1.0) + r * p
            p = np.float32(1.0) + r * p
            power = np.int32((np.int32(127) - np.int32(n)) << np.int32(23)).view(np.float32)
            later[m] = g[m] * height * (p * power) + keep * later[m]
            out[m] = later[m]

    @_jit
    def _sums_step(x, first, second):  # type: ignore[no-untyped-def]
        for m in range(x.size):
            c = np.float64(np.float32(np.trunc(np.float64(x[m]) * 4096.0))) * (1 / 4096.0)
            first[m] += c
            second[m] += c * c

    @_jit
    def _products_step(g, x, first, second):  # type: ignore[no-untyped-def]
        for m in range(g.size):
            c = np.float64(np.float32(np.trunc(np.float64(x[m]) * 4096.0))) * (1 / 4096.0)
            first[m] += g[m]
            second[m] += g[m] * c

    @_jit
    def _affine_step(g, x, a, b, c):  # type: ignore[no-untyped-def]
        for m in range(g.size):
            g[m] = a[m] * g[m] + b[m] * x[m] + c[m]

    @_jit
    def _fold(tile, out):  # type: ignore[no-untyped-def]
        """Adds a tile of whole rounds of channels to ``out``."""
        for low in range(0, tile.size, out.size):
            for c in range(out.size):
                out[c] += tile[low + c]

    @_parallel
    def _integrate(x, keep, out):  # type: ignore[no-untyped-def]
        for n in numba.prange(x.shape[0]):
            for low in range(0, x.shape[2], _CHUNK):
                y = np.zeros(min(_CHUNK, x.shape[2] - low), np.float64)
                for t in range(x.shape[1]):
                    _integrate_step(x[n, t, low : low + y.size], y, keep, out[n, t, low : low + y.size])

    @_parallel
    def _fire(x, keep_u, keep, threshold, scale, offset, late, spikes, voltage):  # type: ignore[no-untyped-def]
        steps = x.shape[1]
        for n in numba.prange(x.shape[0]):
            fired = np.empty(scale.size, np.float32)
            for low in range(0, x.shape[2], scale.size):
                size = min(scale.size, x.shape[2] - low)
                part = slice(low, low + size)
                u, v, c = np.zeros(size, np.float64), np.zeros(size, np.float64), np.empty(size, np.float32)
                for t in range(min(late, steps)):
                    spikes[n, t, part] = 0.0
                for t in range(steps):
                    if keep_u > 0.0:
                        _integrate_step(x[n, t, part], u, keep_u, c)
                    else:
                        c[:] = x[n, t, part]
                    _fire_step(c, v, keep, threshold, scale[:size], offset[:size], fired, voltage[n, t, part])
                    if t + late < steps:
                        spikes[n, t + late, part] = fired[:size]

    @_parallel
    def _integrate_backward(g, keep, out):  # type: ignore[no-untyped-def]
        for n in numba.prange(g.shape[0]):
            later = np.zeros(g.shape[2], np.float32)
            for t in range(g.shape[1] - 1, -1, -1):
                _decay_step(g[n, t], keep, later, out[n, t])

    @_parallel
    def _fire_backward(g, voltage, keep_u, keep, threshold, inverse_tau, height, late, out):  # type: ignore[no-untyped-def]
        steps = g.shape[1]
        for n in numba.prange(g.shape[0]):
            later, later_u = np.zeros(g.shape[2], np.float32), np.zeros(g.shape[2], np.float32)
            for t in range(steps - 1, -1, -1):
                if t + late < steps:
                    _surrogate_step(g[n, t + late], voltage[n, t], keep, threshold, inverse_tau, height, later, out[n, t])
                else:
                    out[n, t] = 0.0
                if keep_u > 0.0:
                    _decay_step(out[n, t], keep_u, later_u, out[n, t])

    @_parallel
    def _fire_backward_sums(g, voltage, x, keep, threshold, inverse_tau, height, late, out, tile, sums):  # type: ignore[no-untyped-def]
        steps = g.shape[1]
        for n in numba.prange(g.shape[0]):
            first, second = np.zeros(tile, np.float64), np.zeros(tile, np.float64)
            later = np.empty(tile, np.float32)
            for low in range(0, g.shape[2], tile):
                size = min(tile, g.shape[2] - low)
                part = slice(low, low + size)
                later[:] = 0.0
                for t in range(steps - 1, -1, -1):
                    to = out[n, t, part]
                    if t + late < steps:
                        _surrogate_step(
                            g[n, t + late, part], voltage[n, t, part], keep, threshold, inverse_tau, height, later[:size], to
                        )
                    else:
                        to[:] = 0.0
                    _products_step(to, x[n, t, part], first[:size], second[:size])
            _fold(first, sums[n, 0])
            if sums.shape[1] > 1:
                _fold(second, sums[n, 1])

    @_parallel
    def _sums(x, tile, sums):  # type: ignore[no-untyped-def]
        for n in numba.prange(x.shape[0]):
            first, second = np.zeros(tile, np.float64), np.zeros(tile, np.float64)
            for t in range(x.shape[1]):
                for low in range(0, x.shape[2], tile):
                    size = min(tile, x.shape[2] - low)
                    _sums_step(x[n, t, low : low + size], first[:size], second[:size])
            _fold(first, sums[n, 0])
            _fold(second, sums[n, 1])

    @_parallel
    def _affine(g, x, a, b, c):  # type: ignore[no-untyped-def]
        for n in numba.prange(g.shape[0]):
            for t in range(g.shape[1]):
                for low in range(0, g.shape[2], a.size):
                    size = min(a.size, g.shape[2] - low)
                    _affine_step(g[n, t, low : low + size], x[n, t, low : low + size], a[:size], b[:size], c[:size])

    def _tile_size(channels: int, size: int) -> int:
        """The length of a chunk of whole rounds of channels, so that kernels need not count channels."""
        return channels * max(1, min(size, _CHUNK) // channels)

    def _tile(values: torch.Tensor, size: int) -> Any:
        """Values per channel, repeated to the length of a chunk."""
        return np.tile(values.detach().numpy(), _tile_size(len(values), size) // len(values))

    def _run_integrate(x: torch.Tensor, keep: float, out: torch.Tensor) -> None:
        _integrate(x.numpy(), keep, out.numpy())

    def _run_integrate_backward(g: torch.Tensor, keep: float, out: torch.Tensor) -> None:
        _integrate_backward(g.numpy(), np.float32(keep), out.numpy())

    def _run_fire(
        x: torch.Tensor, how: Firing, scale: torch.Tensor, offset: torch.Tensor, spikes: torch.Tensor, voltage: torch.Tensor
    ) -> None:
        tiles = (_tile(scale, x.shape[2]), _tile(offset, x.shape[2]))
        threshold = np.float32(how.surrogate[0] * STATE_SCALE)
        _fire(x.numpy(), *how.keeps, threshold, *tiles, how.late, spikes.numpy(), voltage.numpy())

    def _run_fire_backward(g: torch.Tensor, voltage: torch.Tensor, how: Firing, out: torch.Tensor) -> None:
        numbers = map(np.float32, (*how.keeps, *how.surrogate))
        _fire_backward(g.numpy(), voltage.numpy(), *numbers, how.late, out.numpy())

    def _run_fire_backward_sums(
        g: torch.Tensor, voltage: torch.Tensor, x: torch.Tensor | None, how: Firing, out: torch.Tensor, channels: int
    ) -> torch.Tensor:
        sums = np.zeros((len(g), 1 if x is None else 2, channels))
        factor = (voltage if x is None else x).numpy()
        numbers = map(np.float32, (how.keeps[1], *how.surrogate))
        tile = _tile_size(channels, g.shape[2])
        _fire_backward_sums(g.numpy(), voltage.numpy(), factor, *numbers, how.late, out.numpy(), tile, sums)
        return torch.from_numpy(sums.sum(0))

    def _run_moments(x: torch.Tensor, channels: int) -> torch.Tensor:
        sums = np.zeros((len(x), 2, channels))
        _sums(x.numpy(), _tile_size(channels, x.shape[2]), sums)
        return torch.from_numpy(sums.sum(0))

    def _run_affine(g: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> None:
        _affine(g.numpy(), x.numpy(), *(_tile(values, g.shape[2]) for values in (a, b, c)))

    COMPILED = Loops(
        integrate=_run_integrate,
        integrate_backward=_run_integrate_backward,
        fire=_run_fire,
        fire_backward=_run_fire_backward,
        fire_backward_sums=_run_fire_backward_sums,
        moments=_run_moments,
        affine=_run_affine,
    )
