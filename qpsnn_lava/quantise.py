"""ReScaW: rescale the weights, then quantise them uniformly to 2..8 bits (QP-SNN, Wei et al., ICLR 2025, section 4.1).

Two halves that training and freezing share: :func:`integers` turns real weights into integers q and a step; the real weights that the
network computes with are ``step * q``.  On a chip only q is stored; the step folds into the threshold (see :mod:`qpsnn_lava.blocks`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from netx_export.errors import ConfigError

Grid = Literal["mid_tread", "mid_rise"]
Gamma = Literal["mean_abs", "max", "percentile"]

WEIGHT_LIMIT = 254  # the largest weight mantissa: 8 bits and a shift
WEIGHT_SCALE = 64  # SLAYER computes with weights in 64ths of a device unit


@dataclass(frozen=True)
class Quantiser:
    """How real weights become integers.

    Args:
        bits: 2..8, the bits that the chip shall store.
        grid: ``mid_tread``: the whole numbers -(2**(b-1) - 1)..2**(b-1) - 1, with a zero, stored in b bits; ``mid_rise`` (the
            paper's): the odd numbers -(2**b - 1)..2**b - 1, without a zero, which a chip stores in one bit more.
        gamma: what the weights are divided by before the clamp to -1..1: their 1-norm mean (the paper's default), their
            maximum, or the larger magnitude of their 1 % and 99 % percentiles.
    """

    bits: int
    grid: Grid = "mid_tread"
    gamma: Gamma = "mean_abs"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"bits {self.bits}: weights are quantised to 2..8 bits.")
        if self.grid not in ("mid_tread", "mid_rise"):
            raise ConfigError(f"grid {self.grid!r}: known are mid_tread and mid_rise.")
        if self.gamma not in ("mean_abs", "max", "percentile"):
            raise ConfigError(f"gamma {self.gamma!r}: known are mean_abs, max and percentile.")

    @property
    def top(self) -> int:
        """The largest integer of the grid."""
        return (1 << (self.bits - 1)) - 1 if self.grid == "mid_tread" else (1 << self.bits) - 1


def rescale(weight: torch.Tensor, gamma: Gamma) -> float:
    """The scale gamma of ReScaW.

    ``mean_abs``: ``|W|_1 / n``;  ``max``: ``max |W|``;  ``percentile``: ``max(|P_0.01|, |P_0.99|)`` of W.  (Equations 9-11.)
    P_x is the smallest weight that at least x of the weights do not exceed.
    """
    weight = weight.detach()
    if gamma == "max":
        return float(weight.abs().max())
    if gamma == "percentile":
        flat = weight.flatten().double()
        low, high = (-(-percent * flat.numel() // 100) - 1 for percent in (1, 99))
        ordered = flat.sort().values
        return float(max(abs(ordered[low]), abs(ordered[high])))
    return float(weight.abs().mean(dtype=torch.float64))


def integers(weight: torch.Tensor, quantiser: Quantiser, widen: int = 0) -> tuple[torch.Tensor, float]:
    """Integers q and step so that ``step * q`` is the quantised weight.

    mid_tread: ``q = round(clamp(W / gamma, -1, 1) * top)``;  mid_rise (equations 1-2 of the paper with W / gamma for W):
    ``q = 2 * round(s / 2 * (clamp(W / gamma, -1, 1) + 1)) - s`` with ``s = 2**b - 1``;  both: ``step = gamma / top``.

    Args:
        weight: real weights, any shape.
        quantiser: bits, grid, gamma.
        widen: gamma is multiplied by ``2**widen``: a coarser step, less clipping, smaller integers.

    Returns:
        q as float32 whole numbers of the same shape (no gradient), step > 0 (1.0 for all-zero weights).

    Raises:
        ConfigError: where a weight is not a finite number.
    """
    weight = weight.detach()
    if not bool(torch.isfinite(weight).all()):
        raise ConfigError("weights hold values that are not numbers: the training has diverged; take a smaller learning rate.")
    gamma = rescale(weight, quantiser.gamma) * 2.0**widen
    if not gamma > 0.0:
        return torch.zeros_like(weight) if quantiser.grid == "mid_tread" else torch.ones_like(weight), 1.0
    unit = (weight / gamma).clamp(-1.0, 1.0)
    if quantiser.grid == "mid_tread":
        q = torch.round(unit * quantiser.top)
    else:
        q = 2.0 * torch.round(quantiser.top / 2.0 * (unit + 1.0)) - quantiser.top
    return q + 0.0, gamma / quantiser.top


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
