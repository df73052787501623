"""SLAYER blocks that compute with the chip's integers: convolution, dense, sum pooling, flatten, read-out.

They are ``slayer.block.cuba`` blocks with two things plugged in where SLAYER has its own places for them: the synapse's weights
are quantised (``pre_hook_fx``'s place) and the neuron's current is normalised (``neuron.norm``'s place).  One step of a block::

    u[t] = (1 - d_u) u[t-1] + (W x)[t];      v[t] = (1 - d_v) v[t-1] + norm(u[t]);      s = v > threshold;  v := 0 where s

**Folding.**  norm is a batch normalisation of the current, ``scale * u + shift`` per channel, with running statistics.  The scale is
folded into the weights before they are quantised, the shift is the bias that the chip adds to v.  (Because it acts on
u and not on W x this is exact for any current decay: netx, too, adds its bias after u.)

**Folded domain.**  With ``scale * W ~ step * q`` (q whole numbers, :mod:`qpsnn_lava.quantise`) the block computes with the weights
``q * 2**k / 64``, the threshold ``n / 64`` and the bias ``b / 64``, where::

    unit = 2**k / (64 * step)      n = round(64 * unit * theta)      b = round(64 * unit * shift)

These are the integers of the chip over 64, so what SLAYER computes in the forward pass is what the chip computes.  k is the
largest power with ``max|q| * 2**k <= 254`` that keeps every bound of the exactness contract (:func:`largest_exponent`); where
not even k = 0 does (a read-out of many inputs at 8 bit) gamma is doubled until it does: smaller integers, less clipping.  The
surrogate's width follows the threshold, so gradients with respect to the real weights do not depend on k.

While training with batch statistics (``norm.frozen`` false) the weights are folded with the running scale, and the norm
undoes that and applies the batch's own statistics, as PyTorch's fused conv-batch-norm modules for quantisation-aware training do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 (as everybody calls it)

from netx_export.errors import ConfigError
from netx_export.integers import STATE_LIMIT
from netx_export.lava_compat import import_slayer
from netx_export.network import MAX_THRESHOLD
from qpsnn_lava import dynamics, events, parallel
from qpsnn_lava.quantise import WEIGHT_LIMIT, WEIGHT_SCALE, Quantiser, inside, integers, scales_of, straight_through

slayer = import_slayer()
slayer_cuba = slayer.neuron.cuba
_CubaConv: Any = slayer.block.cuba.Conv
_CubaDense: Any = slayer.block.cuba.Dense
_CubaAffine: Any = slayer.block.cuba.Affine
_CubaFlatten: Any = slayer.block.cuba.Flatten

NormKind = Literal["full", "shared", "mean", "bias"]
BIAS_LIMIT = 4095
ODD_LIMIT = 127  # beyond it only even weights fit
MAX_WIDEN = 8


@dataclass(frozen=True)
class NeuronOptions:
    """Parameters of a population's neurons.

    Args:
        current_decay, voltage_decay: device integers 0..4096, in 4096ths a step.
        threshold: theta, in real units (those of the normalised current).
        surrogate_width: the exponential surrogate's width, in thresholds.
        surrogate_scale: its area; the derivative is ``scale / (2 width) * exp(-|v - theta| / width)`` with v in thresholds.
    """

    current_decay: int = 4096
    voltage_decay: int = 2048
    threshold: float = 1.0
    surrogate_width: float = 0.5
    surrogate_scale: float = 1.0

    def slayer(self) -> dict[str, float]:
        """The arguments of ``slayer.neuron.cuba.Neuron`` (which multiplies tau_grad by 100 and scale_grad by 0.1)."""
        return {
            "threshold": self.threshold,
            "current_decay": self.current_decay / 4096,
            "voltage_decay": self.voltage_decay / 4096,
            "tau_grad": self.surrogate_width / 100,
            "scale_grad": self.surrogate_scale * 10,
        }


@dataclass(frozen=True, eq=False)
class Folded:
    """What a block computes with in one forward pass.

    Args:
        weight: as the synapse's weight, in the folded domain, with the straight-through gradient.
        bias: (channels,) in the folded domain, or None.
        threshold: in the folded domain (``n / 64``), or None where nothing spikes.
        unit: folded domain per real unit.
        quantised: whether the numbers are the chip's integers over 64.
        whole: then, whether the weights are (of a gamma for each channel they are not).
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    threshold: float | None
    unit: float
    quantised: bool
    whole: bool = True


class CurrentNorm(torch.nn.Module):
    """Batch normalisation of the current: ``(u - mean) * gain / sqrt(var + eps) + shift``.

    Args:
        channels: of the population.
        kind: ``full``: gain and variance per channel; ``shared``: one gain and one variance (the channels' mean) per layer;
            ``mean``: no scale, only the mean is taken off; ``bias``: only the shift, no statistics.  The statistics are those of
            the batch in all processes (:mod:`qpsnn_lava.parallel`).
        momentum, eps: as torch's BatchNorm.

    Attributes:
        frozen: compute with the running statistics also while training.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int, kind: NormKind, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        if kind not in ("full", "shared", "mean", "bias"):
            raise ConfigError(f"norm {kind!r}: known are full, shared, mean and bias.")
        self.kind = kind
        self.momentum = momentum
        self.eps = eps
        self.frozen = False
        self.folded: Folded | None = None
        self.shift = torch.nn.Parameter(torch.zeros(channels))
        if kind in ("full", "shared"):
            size = channels if kind == "full" else 1
            self.gain = torch.nn.Parameter(torch.ones(size))
            self.register_buffer("running_var", torch.ones(size))
        if kind != "bias":
            self.register_buffer("running_mean", torch.zeros(channels))

    @property
    def unit(self) -> float:
        """Folded domain per real unit, in the last forward pass."""
        assert self.folded is not None
        return self.folded.unit

    @property
    def with_batch(self) -> bool:
        """Whether this pass uses the batch's statistics."""
        return self.training and not self.frozen and self.kind != "bias"

    def scale(self) -> torch.Tensor:
        """(channels,) or (1,): what the weights are multiplied with."""
        if self.kind in ("full", "shared"):
            return self.gain / torch.sqrt(self.running_var + self.eps)
        return torch.ones(1, device=self.shift.device)

    def offset(self) -> torch.Tensor:
        """(channels,): the bias in real units, from the running statistics."""
        if self.kind == "bias":
            return self.shift
        return self.shift - self.running_mean * self.scale()

    def forward(self, current: torch.Tensor, axis: int = 1) -> torch.Tensor:
        """Normalises a current with its channels at ``axis``, given in the folded domain of ``self.folded``."""
        folded = self.folded
        assert folded is not None
        per_channel = [1] * current.dim()
        per_channel[axis] = -1
        if not self.with_batch:
            return current if folded.bias is None else current + folded.bias.view(per_channel)
        real = folded.unit * self.scale().detach()  # the current came scaled by this
        if self.kind == "full" and parallel.size() == 1:
            return self._full(current, axis, real, folded.unit)
        dims = [d for d in range(current.dim()) if d != axis]
        count = float(parallel.total(torch.tensor(current.numel() / current.shape[axis], device=current.device)))
        mean = parallel.total(current.sum(dims)) / count
        if self.kind == "mean":
            self._update(mean / real, None)
            return current + (folded.unit * self.shift - mean).view(per_channel)
        centred = current - mean.view(per_channel)
        var = parallel.total(centred.square().sum(dims)) / count / real**2
        if self.kind == "shared":
            var = var.mean(0, keepdim=True)
        self._update(mean / real, var * count / max(count - 1, 1))
        scale = self.gain / torch.sqrt(var + self.eps)
        return centred * (folded.unit * scale / real).view(per_channel) + (folded.unit * self.shift).view(per_channel)

    def _full(self, current: torch.Tensor, axis: int, real: torch.Tensor, unit: float) -> torch.Tensor:
        """Statistics per channel, by torch's own kernels; eps and the gain's sign are scaled as the current is."""
        frames = current.flatten(0, axis - 1) if axis > 1 else current
        normed, mean, var = _BatchNorm.apply(  # type: ignore[no-untyped-call]
            frames, self.gain * real.sign() * unit, self.shift * unit, self.eps * real**2
        )
        count = current.numel() / current.shape[axis]
        self._update(mean / real, var / real**2 * (count / max(count - 1, 1)))
        result: torch.Tensor = normed.view(current.shape) if axis > 1 else normed
        return result

    def fire(self, sums: torch.Tensor, how: dynamics.Firing) -> torch.Tensor:
        """Normalises sums (N, T, C, ...) of kind ``full`` with the batch's statistics and lets neurons fire, in one pass."""
        assert self.folded is not None
        unit = self.folded.unit
        real = unit * self.scale().detach()
        spikes, mean, var = dynamics.fire_normed(
            sums, how, self.gain * real.sign() * unit, self.shift * unit, self.eps * real**2
        )
        count = parallel.size() * sums.numel() / sums.shape[2]
        self._update(mean / real, var / real**2 * (count / max(count - 1, 1)))
        return spikes

    def _update(self, mean: torch.Tensor, var: torch.Tensor | None) -> None:
        with torch.no_grad():
            self.running_mean.lerp_(mean.expand_as(self.running_mean), self.momentum)
            if var is not None:
                self.running_var.lerp_(var, self.momentum)


class _BatchNorm(torch.autograd.Function):
    """Batch normalisation over all axes but 1 with an eps of its own for each channel: (x, gain, shift, eps) -> y, mean, variance."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor, eps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
        y = torch.native_batch_norm(x, gain, shift, mean, var + eps, False, 0.0, 0.0)[0]
        ctx.save_for_backward(x, gain, mean, torch.rsqrt(var + eps))
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        x, gain, mean, inverse = ctx.saved_tensors
        back = torch.ops.aten.native_batch_norm_backward
        g_x, g_gain, g_shift = back(gradients[0], x, gain, None, None, mean, inverse, True, 0.0, [True, True, True])
        return g_x, g_gain, g_shift, None


class Block(torch.nn.Module):
    """What our blocks share: options, folding, and the neuron's passage.

    Attributes:
        quantised: compute with the chip's integers, or in float.
        fused: run on :mod:`qpsnn_lava.dynamics` and 2-D convolutions (on the CPU that needs numba), or on SLAYER's own code.
    """

    synapse: Any
    neuron: Any

    def _set_up(self, options: NeuronOptions, quantiser: Quantiser, norm: NormKind, channels: int, input_max: int) -> None:
        self.options = options
        self.quantiser = quantiser
        self.quantised = False
        self.fused = dynamics.AVAILABLE or torch.cuda.is_available()
        self.input_max = input_max
        self.neuron.norm = CurrentNorm(channels, norm)
        self.neuron.threshold_eps = 1 / self.neuron.s_scale  # v > threshold, also where 64 * threshold is large

    @property
    def norm(self) -> CurrentNorm:
        """The normalisation of the current, in SLAYER's place for it."""
        norm: CurrentNorm = self.neuron.norm
        return norm

    def scaled_weight(self) -> torch.Tensor:
        """The weights in real units that are quantised: times the norm's scale, over the largest input."""
        weight: torch.Tensor = self.synapse.weight
        return weight * (self.norm.scale().view(-1, *[1] * (weight.dim() - 1)) / self.input_max)

    def fold(self, steps: int) -> Folded:
        """What this block computes with over a window of ``steps``.

        By one thread: the tensors are small, and the sums then do not depend on the number of threads.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._fold(steps)
        finally:
            torch.set_num_threads(threads)

    def _fold(self, steps: int) -> Folded:
        weight = self.scaled_weight()
        offset = self.norm.offset()
        if not self.quantised:
            return Folded(weight, offset, self._threshold(1.0, exact=False), 1.0, False)
        if not bool(torch.isfinite(offset).all()):
            raise ConfigError(
                "biases hold values that are not numbers: the training has diverged; take a smaller learning rate."
            )
        q, step, k, widen = self._widened(weight, offset.detach(), steps)
        k = max(k, 0)  # freezing refuses by name what does not fit even so
        unit = 2.0**k / (WEIGHT_SCALE * step)
        bias = straight_through(torch.round(WEIGHT_SCALE * unit * offset.detach()) / WEIGHT_SCALE, unit * offset)
        if self.quantiser.masked:
            weight = torch.where(inside(weight, self.quantiser, widen), weight, weight.detach())
        folded = straight_through(q * (2.0**k / WEIGHT_SCALE), unit * weight)
        return Folded(folded, bias, self._threshold(unit), unit, True, self.quantiser.per != "channel")

    def _widened(self, weight: torch.Tensor, offset: torch.Tensor, steps: int) -> tuple[torch.Tensor, float, int, int]:
        """The integers, their step, the largest exponent, and how often gamma was doubled: as seldom as keeps every bound.

        Each doubling makes all that is bounded smaller, or leaves it, so that the search may begin where the first try points to.
        """

        scales = scales_of(weight, self.quantiser)

        def tried(widen: int) -> tuple[torch.Tensor, float, int, int]:
            q, step = integers(weight, self.quantiser, widen, scales)
            k = largest_exponent(q, step, offset, self.options, self.input_max, steps, spikes=self._spikes)
            return q, step, k, widen

        found = tried(0)
        if found[2] < 0:
            found = tried(min(MAX_WIDEN, -found[2]))
            while found[2] < 0 and found[3] < MAX_WIDEN:
                found = tried(found[3] + 1)
            while found[2] >= 0 and found[3] > 1 and (less := tried(found[3] - 1))[2] >= 0:
                found = less
        return found

    _spikes = True

    def _threshold(self, unit: float, exact: bool = True) -> float | None:
        if not self._spikes:
            return None
        threshold = unit * self.options.threshold
        return max(1, round(WEIGHT_SCALE * threshold)) / WEIGHT_SCALE if exact else threshold

    def _prepare(self, steps: int) -> Folded:
        """Folds, and hands threshold and bias to the neuron."""
        folded = self.fold(steps)
        self.norm.folded = folded
        if folded.threshold is not None:
            self.neuron._threshold = folded.threshold
            self.neuron.tau_rho = self.options.surrogate_width / 100 * folded.threshold
        return folded

    def _on_ours(self, x: torch.Tensor) -> bool:
        return self.fused and dynamics.runs_on(x.device)

    def _sums(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The convolution's sums (N, T, C, H, W), by ours or by SLAYER's."""
        if self._on_ours(x):
            return convolve(x, weight, self.synapse)
        synapse = self.synapse
        return F.conv3d(x, weight, None, synapse.stride, synapse.padding, synapse.dilation, synapse.groups).movedim(-1, 1)

    def _inexact(self, sums: torch.Tensor, folded: Folded) -> bool:
        """Whether a library of the GPU may have left the grid: cuDNN's Winograd convolutions do, TF32 may."""
        return sums.is_cuda and folded.quantised and folded.whole

    def _spike(self, sums: torch.Tensor, folded: Folded) -> torch.Tensor:
        """The neurons' spikes: (N, T, C, ...) sums in, (N, C, ..., T) spikes out."""
        neuron = self.neuron
        if self._inexact(sums, folded):
            sums = whole(sums)
        if not self._on_ours(sums):
            spikes: torch.Tensor = neuron(sums.movedim(1, -1).contiguous())
            return spikes
        norm: CurrentNorm | None = neuron.norm
        how = dynamics.Firing(
            self.options.voltage_decay,
            neuron.threshold + neuron.threshold_eps,
            neuron.tau_rho * slayer_cuba.TAU_RHO_MULT,
            neuron.scale_rho * slayer_cuba.SCALE_RHO_MULT,
            self.options.current_decay,
        )
        if norm is None or not norm.with_batch:
            return dynamics.fire(sums, how, None if norm is None else folded.bias).movedim(1, -1)
        if how.current_decay < 4096:
            sums, how = dynamics.integrate(sums, how.current_decay), replace(how, current_decay=4096)
        return (norm.fire(sums, how) if norm.kind == "full" else dynamics.fire(norm(sums, axis=2), how)).movedim(1, -1)


class Conv(Block, _CubaConv):  # type: ignore[misc]
    """Convolution -> norm -> LIF, on ``slayer.block.cuba.Conv``.

    Args:
        options: the neurons.
        quantiser: bits and grid of the weights.
        in_channels, out_channels, kernel, stride, padding, dilation, groups: as torch's Conv2d; pairs are (y, x).
        norm: see :class:`CurrentNorm`.
        input_max: the largest value of a spike that comes in (1, or ``2**input_bits - 1``): the real input is x / input_max.
    """

    def __init__(
        self,
        options: NeuronOptions,
        quantiser: Quantiser,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        norm: NormKind = "full",
        input_max: int = 1,
    ) -> None:
        slayer.block.cuba.Conv.__init__(
            self, options.slayer(), in_channels, out_channels, kernel, stride, padding, dilation, groups, delay_shift=False
        )
        self._set_up(options, quantiser, norm, out_channels, input_max)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W, T) spikes in, spikes out."""
        folded = self._prepare(x.shape[-1])
        return self._spike(self._sums(x, folded.weight), folded)


class SumPool(Block, _CubaConv):  # type: ignore[misc]
    """Sum pooling as a depthwise convolution with one shared weight -> LIF.

    A neuron sums the spikes of its window with weight 1 and fires above ``options.threshold`` (in spikes): 0.5 with a voltage decay
    of 4096 is a logical or, the spiking counterpart of max pooling.  Nothing is learnt; the integers are 64 and
    ``round(64 * threshold)``.

    Args:
        options: the neurons; the threshold counts spikes.
        channels: of the source and of this population.
        kernel: window and stride; pairs are (y, x).
    """

    def __init__(self, options: NeuronOptions, channels: int, kernel: int | tuple[int, int] = 2) -> None:
        slayer.block.cuba.Conv.__init__(
            self, options.slayer(), channels, channels, kernel, kernel, groups=channels, delay_shift=False
        )
        self.options = options
        self.fused = dynamics.AVAILABLE or torch.cuda.is_available()
        self.quantised = True
        self.synapse.weight.requires_grad_(False).fill_(1.0)
        self.neuron.threshold_eps = 1 / self.neuron.s_scale

    def fold(self, steps: int) -> Folded:
        """Weights 1 (64 on the chip), whatever the window."""
        threshold = max(1, round(WEIGHT_SCALE * self.options.threshold)) / WEIGHT_SCALE
        return Folded(self.synapse.weight, None, threshold, 1.0, True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W, T) spikes in, spikes out."""
        folded = self.fold(x.shape[-1])
        assert folded.threshold is not None
        self.neuron._threshold = folded.threshold
        self.neuron.tau_rho = self.options.surrogate_width / 100 * folded.threshold
        return self._spike(self._sums(x, folded.weight), folded)


class Dense(Block, _CubaDense):  # type: ignore[misc]
    """All-to-all -> norm -> LIF, on ``slayer.block.cuba.Dense``.

    Args:
        options: the neurons.
        quantiser: bits and grid of the weights.
        in_neurons, out_neurons: sizes.
        norm: see :class:`CurrentNorm`.
        input_max: as in :class:`Conv`.
    """

    def __init__(
        self,
        options: NeuronOptions,
        quantiser: Quantiser,
        in_neurons: int,
        out_neurons: int,
        norm: NormKind = "full",
        input_max: int = 1,
    ) -> None:
        slayer.block.cuba.Dense.__init__(self, options.slayer(), in_neurons, out_neurons, delay_shift=False)
        self._set_up(options, quantiser, norm, out_neurons, input_max)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in, T) spikes in, (N, out, T) spikes out."""
        folded = self._prepare(x.shape[-1])
        return self._spike(connect(x, folded.weight), folded)


class Integrate(Block, _CubaAffine):  # type: ignore[misc]
    """The read-out: all-to-all -> integrator, on ``slayer.block.cuba.Affine``; returns v in the folded domain, nothing spikes.

    Args:
        quantiser: bits and grid of the weights.
        in_neurons, classes: sizes.
        input_max: as in :class:`Conv`.
    """

    _spikes = False

    def __init__(self, quantiser: Quantiser, in_neurons: int, classes: int, input_max: int = 1) -> None:
        options = NeuronOptions(current_decay=4096, voltage_decay=0, threshold=MAX_THRESHOLD / WEIGHT_SCALE)
        slayer.block.cuba.Affine.__init__(self, options.slayer(), in_neurons, classes)
        self._set_up(options, quantiser, "bias", classes, input_max)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in, T) spikes in, (N, classes, T) voltages out."""
        folded = self._prepare(x.shape[-1])
        sums = connect(x, folded.weight)
        if self._inexact(sums, folded):
            sums = whole(sums)
        if not self._on_ours(sums):
            stock: torch.Tensor = self.neuron.dynamics(sums.movedim(1, -1).contiguous())[1]
            return stock
        current = self.norm(dynamics.integrate(sums, self.options.current_decay), axis=2)
        return dynamics.integrate(current, self.options.voltage_decay).movedim(1, -1)


class Flatten(_CubaFlatten):  # type: ignore[misc]
    """(N, C, H, W, T) -> (N, C*H*W, T), in C, H, W order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Without a copy where the memory allows it."""
        if getattr(self, "shape", None) is None:  # as SLAYER: the first input sets it
            self.shape = [math.prod(x.shape[1:-1]), 1, 1]
        return x.movedim(-1, 1).flatten(2).movedim(1, -1)


def convolve(x: torch.Tensor, weight: torch.Tensor, synapse: Any) -> torch.Tensor:
    """SLAYER's convolution over H and W of every time step, as a 2-D convolution of all steps at once.

    An input that is the same in every step (a time axis of stride 0, as ``expand`` makes it) is convolved once.

    Args:
        x: (N, C, H, W, T); fastest where memory has time next to the batch.
        weight: (out, in/groups, ky, kx, 1).
        synapse: the SLAYER synapse whose stride, padding, dilation and groups apply.

    Returns:
        (N, T, out, H', W'), dense.
    """
    static = x.stride(-1) == 0 and x.shape[-1] > 1
    steps = x.shape[-1]
    frames = x[..., 0] if static else x.movedim(-1, 1).flatten(0, 1)
    if frames.shape[1] == 1:  # of one channel both layouts are true; torch shall see channels-last
        n, _, height, width = frames.shape
        frames = frames.contiguous().as_strided((n, 1, height, width), (height * width, 1, width, 1))
    kernel = weight[..., 0].contiguous(memory_format=torch.channels_last)  # a quarter faster, forward and backward
    window = events.Window((kernel.shape[2], kernel.shape[3]), synapse.stride[:2], synapse.padding[:2], synapse.dilation[:2])
    if static and synapse.groups == 1 and not frames.requires_grad:
        sums = _by_columns(frames, kernel, window)
    elif static or synapse.groups > 1:
        sums = F.conv2d(frames, kernel, None, window.stride, window.padding, window.dilation, synapse.groups)
    else:
        sums = events.convolve(frames, kernel, window)
    if static:
        return sums.permute(0, 2, 3, 1)[:, None].expand(-1, steps, -1, -1, -1).contiguous().permute(0, 1, 4, 2, 3)
    split: torch.Tensor = sums.unflatten(0, (x.shape[0], steps))
    return split


def _by_columns(frames: torch.Tensor, kernel: torch.Tensor, window: events.Window) -> torch.Tensor:
    """A convolution as one product of matrices: of an image with few channels many times faster than oneDNN's weight gradient."""
    columns = F.unfold(frames, window.kernel, window.dilation, window.padding, window.stride).transpose(1, 2)
    sums = F.linear(columns, kernel.flatten(1)).transpose(1, 2)
    split: torch.Tensor = sums.unflatten(2, window.out((frames.shape[2], frames.shape[3])))
    return split


def connect(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """SLAYER's dense synapse in every time step: (N, in, T) by (out, in, 1, 1, 1) -> (N, T, out), dense."""
    return F.linear(x.movedim(-1, 1), weight.flatten(1))


def whole(sums: torch.Tensor) -> torch.Tensor:
    """Sums of the folded domain put back on its grid, ``round(64 sums) / 64``, with the gradient of ``sums``.

    Of whole inputs the sums are whole 64ths; a convolution that rounds on its way gives them back exactly as long as it errs by
    less than a 128th.
    """
    return straight_through(torch.round(sums.detach() * WEIGHT_SCALE) / WEIGHT_SCALE, sums)


def largest_exponent(
    q: torch.Tensor,
    step: float,
    offset: torch.Tensor,
    options: NeuronOptions,
    input_max: int,
    steps: int,
    spikes: bool,
) -> int:
    """The largest k whose device integers keep every bound of the exactness contract (point 5); below 0: q is too large.

    With S = sum |q| per target neuron, beta = offset / step, and the worst-case states over the window

    ``U_t = 64 S x_max sum_{i<=t} (1 - d_u)^i``,  ``V_t = (1 - d_v) V_{t-1} + U_t + 64 |beta|``:

    ``max|q| 2**k <= 254`` (for k = 0: 127),  ``U_T 2**k < 2**23``,  ``V_T 2**k < 2**23`` (131071 * 64 for a read-out),
    ``|beta| 2**k <= 4095``,  ``theta / step 2**k <= 131071``.
    """
    sums = q.abs().flatten(1).sum(1).double()
    beta = offset.abs().double() / step
    current = voltage = torch.zeros_like(sums)
    for _ in range(steps):
        current = current * (1 - options.current_decay / 4096) + WEIGHT_SCALE * input_max * sums
        voltage = voltage * (1 - options.voltage_decay / 4096) + current + WEIGHT_SCALE * beta
    top = float(STATE_LIMIT if spikes else MAX_THRESHOLD * WEIGHT_SCALE)
    rounded = steps * steps / 2 + 35 * steps + 1  # decays round up by at most 1 a step, a bias by at most half a unit
    largest = float(q.abs().max())
    room: list[tuple[float, float]] = [
        (WEIGHT_LIMIT if largest <= WEIGHT_LIMIT / 2 else ODD_LIMIT, largest),
        (STATE_LIMIT - steps - 1, float(current.max())),
        (top - rounded, float(voltage.max())),
        (BIAS_LIMIT, float(beta.max())),
    ]
    if spikes:
        room.append((MAX_THRESHOLD, options.threshold / step))
    return math.floor(min(math.log2(limit / need) for limit, need in room if need > 0))


def blocks_of(model: torch.nn.Module) -> Iterator[Any]:
    """The blocks of a model in order: its ``blocks`` (SLAYER's custom), or its children where it has no such list."""
    yield from getattr(model, "blocks", model.children())
