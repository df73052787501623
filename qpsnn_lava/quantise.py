"""ReScaW: rescale the weights, then quantise them uniformly to 2..8 bits (QP-SNN, Wei et al., ICLR 2025, section 4.1).

Two halves that training and freezing share: :func:`integers` turns real weights into integers q and a step; the real weights that the
network computes with are ``step * q``.  On a chip only q is stored; the step folds into the threshold (see :mod:`qpsnn_lava.blocks`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch

from netx_export.errors import ConfigError
from netx_export.integers import stored_bits

Grid = Literal["mid_tread", "mid_rise"]
Gamma = Literal["mean_abs", "max", "percentile", "none"]
Per = Literal["layer", "channel", "channel_shift"]

WEIGHT_LIMIT = 254  # the largest weight mantissa: 8 bits and a shift
WEIGHT_SCALE = 64  # SLAYER computes with weights in 64ths of a device unit
MAX_SEGMENTS = 4
MAX_SHIFT_BITS = 6


@dataclass(frozen=True)
class Quantiser:
    """How real weights become integers.

    Args:
        bits: 2..8, the bits that the chip shall store.
        grid: ``mid_tread``: the whole numbers -(2**(b-1) - 1)..2**(b-1) - 1, with a zero, stored in b bits; ``mid_rise`` (the
            paper's): the odd numbers -(2**b - 1)..2**b - 1, without a zero, which a chip stores in one bit more.
        gamma: what the weights are divided by before the clamp to -1..1: their 1-norm mean (the paper's default), their
            maximum, the larger magnitude of their low and high percentiles, or ``none``: 1 (the paper's baseline without rescaling).
        percentile: x of the percentiles P_(1-x) and P_x, above 0.5, at most 1.
        n2uq: multiply gamma by ``(2**b - 1) / 2**(b - 1)``, as N2UQ does.
        per: one gamma for the ``layer``; one for each output ``channel``, which trains but has no place on a chip (a threshold for
            each channel); or ``channel_shift``: the layer's, times a power of two for each channel, which the integers carry.
        shift_bits: 1..6, the doublings between the finest and the coarsest channel of ``channel_shift``: bits that the chip stores
            on top of b, as far as 8 bits hold them.
        segments: 1..4 parts of |W|, each from gamma 2**(s-2) to gamma 2**(s-1) with the step 2**(s-1) (the first from 0): "piecewise
            gamma".  The integers stay in b bits, as each part gets the grid of b - segments + 1 bits; where those were below 2 it gets
            2, and :attr:`stored_bits` says what the chip stores.
        masked: clipped weights get no gradient (the paper), or all do.

    Raises:
        ConfigError: for a value out of its range, or gamma ``none`` with an option that changes gamma.
    """

    bits: int
    grid: Grid = "mid_tread"
    gamma: Gamma = "mean_abs"
    percentile: float = 0.99
    n2uq: bool = False
    per: Per = "layer"
    shift_bits: int = 1
    segments: int = 1
    masked: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"bits {self.bits}: weights are quantised to 2..8 bits.")
        if self.grid not in ("mid_tread", "mid_rise"):
            raise ConfigError(f"grid {self.grid!r}: known are mid_tread and mid_rise.")
        if self.gamma not in ("mean_abs", "max", "percentile", "none"):
            raise ConfigError(f"gamma {self.gamma!r}: known are mean_abs, max, percentile and none.")
        if self.per not in ("layer", "channel", "channel_shift"):
            raise ConfigError(f"per {self.per!r}: known are layer, channel and channel_shift.")
        if not 0.5 < self.percentile <= 1:
            raise ConfigError(f"percentile {self.percentile:g}: it must be above 0.5 and at most 1.")
        if not 1 <= self.segments <= MAX_SEGMENTS:
            raise ConfigError(f"segments {self.segments}: a grid has 1..{MAX_SEGMENTS}.")
        if not 1 <= self.shift_bits <= MAX_SHIFT_BITS:
            raise ConfigError(f"shift_bits {self.shift_bits}: it must be in 1..{MAX_SHIFT_BITS}.")
        if self.gamma == "none" and (self.n2uq or self.per != "layer"):
            what = "n2uq" if self.n2uq else f"per {self.per}"
            raise ConfigError(f"gamma none does not rescale, so it has no {what}; take mean_abs, max or percentile.")

    @property
    def part(self) -> int:
        """The largest integer of the first segment."""
        bits = max(2, self.bits - self.segments + 1)
        return (1 << (bits - 1)) - 1 if self.grid == "mid_tread" else (1 << bits) - 1

    @property
    def top(self) -> int:
        """The largest integer of the grid."""
        return self.part << (self.segments - 1)

    @property
    def levels(self) -> tuple[int, ...]:
        """The integers of the grid, ascending."""
        first = range(0, self.part + 1) if self.grid == "mid_tread" else range(1, self.part + 1, 2)
        sizes = list(first)
        for s in range(1, self.segments):
            sizes += [level << s for level in first if level << s > self.part << (s - 1)]
        return tuple(sorted({sign * size for size in sizes for sign in (-1, 1)}))

    @property
    def shifts(self) -> int:
        """Doublings between the finest and the coarsest channel that 8 bits hold: at most ``shift_bits``, 0 for one gamma a layer."""
        if self.per != "channel_shift":
            return 0
        return max(0, min(self.shift_bits, (127 // self.top).bit_length() - 1))

    @property
    def stored_bits(self) -> int:
        """Bits a weight that a chip stores where all levels of the grid occur (9 for the 8-bit mid_rise grid: none does)."""
        if self.top << self.shifts > 127:
            return (self.top << self.shifts).bit_length() + 1
        levels = np.array(self.levels, np.int64)
        return stored_bits(np.concatenate([levels << s for s in {0, self.shifts}]))


def rescale(weight: torch.Tensor, gamma: Gamma, percentile: float = 0.99, *, per_channel: bool = False) -> torch.Tensor:
    """The scale gamma of ReScaW.

    ``mean_abs``: ``|W|_1 / n``;  ``max``: ``max |W|``;  ``percentile``: ``max(|P_(1-x)|, |P_x|)`` of W (equations 9-11);
    ``none``: 1.  P_x is the smallest weight that at least a share x of the weights do not exceed.

    Args:
        weight: (channels, ...).
        gamma: which.
        percentile: x.
        per_channel: over the weights of each output channel, or over all.

    Returns:
        float64, (channels,) or ().
    """
    rows = weight.detach().flatten(1) if per_channel else weight.detach()
    if gamma == "none":
        return torch.ones(len(rows) if per_channel else (), dtype=torch.float64, device=weight.device)
    if gamma == "max":
        return (rows.abs().amax(1) if per_channel else rows.abs().max()).double()
    if gamma == "percentile":
        flat = rows if per_channel else rows.flatten()
        high, count = Fraction(repr(percentile)), flat.shape[-1]
        places = [max(1, math.ceil(share * count)) for share in (1 - high, high)]
        ends = [flat.kthvalue(place, -1).values.double().abs() for place in places]
        return torch.maximum(*ends)
    return rows.abs().mean(1 if per_channel else None, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Scales:
    """What :func:`integers` divides by.

    Args:
        layer: gamma, 0 for all-zero weights.
        ratio: what each channel's scale is over it, shaped for the weights; None: all the same.
    """

    layer: float
    ratio: torch.Tensor | None


def integers(
    weight: torch.Tensor, quantiser: Quantiser, widen: int = 0, scales: Scales | None = None
) -> tuple[torch.Tensor, float]:
    """Integers q and step so that ``step * q`` is the quantised weight.

    mid_tread: ``q = round(clamp(W / gamma, -1, 1) * top)``;  mid_rise (equations 1-2 of the paper with W / gamma for W):
    ``q = 2 * round(s / 2 * (clamp(W / gamma, -1, 1) + 1)) - s`` with ``s = 2**b - 1``;  both: ``step = gamma / top``.
    Of several segments: the level of the grid that is nearest to ``W / step``, ``step = gamma / part``.

    With ``channel_shift`` channel c has the scale ``gamma 2**e_c``, ``e_c = round(log2(gamma_c / gamma))`` cut to the window of
    ``shifts`` doublings around 0 that loses least (the squares of what is cut), and its integers are multiplied by
    ``2**(e_c - e_min)``.  With ``channel`` they are multiplied by ``gamma_c / max gamma_c``: q is then not whole.

    Args:
        weight: real weights, (channels, ...).
        quantiser: bits, grid, gamma.
        widen: gamma is multiplied by ``2**widen``: a coarser step, less clipping, smaller integers.
        scales: of :func:`scales_of`, where they are known.

    Returns:
        q as float32 whole numbers of the same shape (no gradient), step > 0 (1.0 for all-zero weights).

    Raises:
        ConfigError: where a weight is not a finite number.
    """
    weight = weight.detach()
    scales = scales or scales_of(weight, quantiser)
    gamma, ratio = scales.layer * 2.0**widen, scales.ratio
    if not gamma > 0.0:
        return torch.zeros_like(weight) if quantiser.grid == "mid_tread" else torch.ones_like(weight), 1.0
    unit = _unit(weight, gamma, ratio)
    if quantiser.segments > 1:
        levels = torch.tensor(quantiser.levels, dtype=torch.float32, device=weight.device)
        q = levels[torch.bucketize(unit * quantiser.part, (levels[1:] + levels[:-1]) / 2)]
    elif quantiser.grid == "mid_tread":
        q = torch.round(unit.clamp(-1.0, 1.0) * quantiser.top)
    else:
        q = 2.0 * torch.round(quantiser.top / 2.0 * (unit.clamp(-1.0, 1.0) + 1.0)) - quantiser.top
    if ratio is not None:
        q = q * ratio
    return q + 0.0, gamma / quantiser.part


def inside(weight: torch.Tensor, quantiser: Quantiser, widen: int = 0) -> torch.Tensor:
    """Where the grid reaches: true for the weights that :func:`integers` does not clip."""
    weight = weight.detach()
    scales = scales_of(weight, quantiser)
    if not scales.layer > 0.0:
        return torch.ones_like(weight, dtype=torch.bool)
    return _unit(weight, scales.layer * 2.0**widen, scales.ratio).abs() <= quantiser.top / quantiser.part


def grid_use(weight: torch.Tensor, quantiser: Quantiser) -> tuple[float, float]:
    """How much of the grid the weights use, without and with the division by gamma (equation 8 of the paper).

    ``R = (a s + 1) / (s + 1)`` with s + 1 levels and ``a = min(1, max(|P_0.01|, |P_0.99|))`` of W, and of W over the end of the grid.

    Args:
        weight: real weights, (channels, ...).
        quantiser: bits, grid, gamma.

    Returns:
        R without and with gamma, each in 0..1.
    """
    weight = weight.detach()
    scales = scales_of(weight, quantiser)
    scaled = _unit(weight, scales.layer, scales.ratio) * (quantiser.part / quantiser.top) if scales.layer > 0.0 else weight
    spaces = len(quantiser.levels) - 1
    reach = (min(1.0, float(rescale(values, "percentile"))) for values in (weight, scaled))
    before, after = ((a * spaces + 1) / (spaces + 1) for a in reach)
    return before, after


def scales_of(weight: torch.Tensor, quantiser: Quantiser) -> Scales:
    """The scales of a layer's weights.

    Raises:
        ConfigError: where a weight is not a finite number.
    """
    weight = weight.detach()
    if not bool(torch.isfinite(weight).all()):
        raise ConfigError("weights hold values that are not numbers: the training has diverged; take a smaller learning rate.")
    factor = 1.0
    if quantiser.n2uq:
        factor = ((1 << quantiser.bits) - 1) / (1 << (quantiser.bits - 1))
    layer = float(rescale(weight, quantiser.gamma, quantiser.percentile))
    if quantiser.per == "layer" or not layer > 0.0:
        return Scales(layer * factor, None)
    channels = rescale(weight, quantiser.gamma, quantiser.percentile, per_channel=True)
    channels = torch.where(channels > 0, channels, channels[channels > 0].min() if (channels > 0).any() else layer)
    if quantiser.per == "channel":
        layer = float(channels.max())
        ratio = channels / layer
    else:
        exponents = torch.round(torch.log2(channels / layer))
        room = quantiser.shifts
        low = min(range(-room, 1), key=lambda e: float((exponents - exponents.clamp(e, e + room)).square().sum()))
        layer *= 2.0**low
        ratio = torch.exp2(exponents.clamp(low, low + room) - low)
    return Scales(layer * factor, ratio.float().view(-1, *[1] * (weight.dim() - 1)))


def _unit(weight: torch.Tensor, gamma: float, ratio: torch.Tensor | None) -> torch.Tensor:
    """W over the scale of its channel."""
    return weight / gamma if ratio is None else weight / gamma / ratio


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exact: torch.Tensor, smooth: torch.Tensor) -> torch.Tensor:
        return exact.view_as(exact)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, gradients[0]


def straight_through(exact: torch.Tensor, smooth: torch.Tensor) -> torch.Tensor:
    """The value of ``exact``, bit for bit, with the gradient of ``smooth`` (the usual ``s + (e - s).detach()`` rounds)."""
    result: torch.Tensor = _StraightThrough.apply(exact, smooth)  # type: ignore[no-untyped-call]
    return result


@dataclass(frozen=True)
class ReScaW:
    """ReScaW as the ``pre_hook_fx`` of any SLAYER synapse, so that a network of stock blocks exports exactly.

    A stock block has no place for the step, so it is snapped to a power of two of the device unit: the synapse computes
    with ``q * 2**k / 64`` where ``k = round(log2(64 * step))``, at least 0 and at most what keeps ``|q| * 2**k <= 254``.

    Example::

        block.synapse.pre_hook_fx = ReScaW(bits=4)

    Args:
        bits, grid, gamma: as :class:`Quantiser`.
    """

    bits: int = 4
    grid: Grid = "mid_tread"
    gamma: Gamma = "mean_abs"

    def __post_init__(self) -> None:
        if Quantiser(self.bits, self.grid, self.gamma).top > WEIGHT_LIMIT:
            raise ConfigError(
                "an 8-bit mid_rise grid needs odd weights up to 255; the chip's end at 254 (even): use mid_tread."
            )

    def __call__(self, weight: torch.Tensor, descale: bool = False) -> torch.Tensor:
        """Quantised weights with a straight-through gradient.

        Args:
            weight: real weights in SLAYER's units.
            descale: True: the device's integers ``q * 2**k`` (what SLAYER's own export asks for), else those over 64.
        """
        quantiser = Quantiser(self.bits, self.grid, self.gamma)
        q, step = integers(weight, quantiser)
        k = max(0, min(round(math.log2(WEIGHT_SCALE * step)), int(math.log2(WEIGHT_LIMIT / quantiser.top))))
        device = q * 2.0**k
        return straight_through(device, weight * WEIGHT_SCALE) if descale else straight_through(device / WEIGHT_SCALE, weight)
