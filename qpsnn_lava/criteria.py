"""Pruning criteria: what a channel is worth, each a function of the same signature.

A criterion looks at one population in one batch (:class:`Seen`) and gives every channel a number for every sample; a channel's score is
the mean over the samples, and the highest stay.  ``N`` samples, ``C`` channels, ``T`` steps, maps of ``H x W`` neurons (a dense
unit's is 1 x 1); ``s`` spikes, ``v`` the membrane before the reset in thresholds, ``W`` weights, ``c`` a channel:

- ``svs``: ``#{i : sigma_i(mean_t s) > eps}``, the rank of the map of spike rates (QP-SNN, Wei et al., ICLR 2025, section 4.2);
- ``hrank``: the same of ``mean_t v`` (HRank, Lin et al., CVPR 2020, whose feature map the membrane is here);
- ``sca``: ``mean_t sum_pixels |v|`` (spiking channel activity: the criterion that QP-SNN compares itself with);
- ``rate``: ``mean s``; ``l1``: ``sum |W_c|`` of the latent weights; ``random``: uniform in [0, 1) from the seed and the block's number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch

from qpsnn_lava.blocks import Block, Conv, connect, convolve
from qpsnn_lava.config import CriterionName
from qpsnn_lava.ranks import above, ranks, singular_values

WITHOUT_IMAGES: frozenset[CriterionName] = frozenset({"l1", "random"})


@dataclass(frozen=True)
class Settings:
    """What criteria can be told.

    Args:
        eps: svs, hrank: singular values above it count.
        relative: the threshold is ``sigma_1 max(H, W) eps`` of each map (the authors' code, with eps = 2**-23 of float32).
        nuclear: svs, hrank: also give the nuclear norm, which breaks ties (without it the rank alone is much faster).
        seed: of random.
    """

    eps: float = 1e-6
    relative: bool = False
    nuclear: bool = True
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Seen:
    """One population in one batch.

    Args:
        number: of its block.
        weight: (C, ...) latent weights.
        spikes: (N, C, H, W, T) or (N, C, T); (1, C, 1) of anything for criteria without images.
        membrane: makes (N, C, ..., T), the membrane before the reset, in thresholds.
    """

    number: int
    weight: torch.Tensor
    spikes: torch.Tensor
    membrane: Callable[[], torch.Tensor]


Criterion: TypeAlias = Callable[[Seen, Settings], tuple[torch.Tensor, torch.Tensor]]
"""Float64 (N, C) each: the score, and what breaks ties (nuclear norms; zeros elsewhere)."""


def svs(seen: Seen, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Rank and nuclear norm of the map of spike rates."""
    return map_ranks(seen.spikes.mean(-1), settings)


def hrank(seen: Seen, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Rank and nuclear norm of the map of the membrane's mean over time."""
    return map_ranks(seen.membrane().mean(-1), settings)


def sca(seen: Seen, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """L1 norm of the membrane's map, mean over time."""
    return _alone(seen.membrane().double().abs().mean(-1).unsqueeze(-1).flatten(2).sum(2))


def rate(seen: Seen, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Spikes per neuron and step."""
    return _alone(seen.spikes.double().flatten(2).mean(2))


def l1(seen: Seen, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """L1 norm of a channel's weights."""
    return _alone(seen.weight.detach().double().abs().flatten(1).sum(1).expand(len(seen.spikes), -1))


def random(seen: Seen, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """The same numbers for every sample."""
    drawn = np.random.default_rng([settings.seed, 8, seen.number]).random(len(seen.weight))
    return _alone(torch.from_numpy(drawn).to(seen.weight.device).expand(len(seen.spikes), -1))


CRITERIA: Mapping[CriterionName, Criterion] = MappingProxyType(
    {"svs": svs, "sca": sca, "l1": l1, "rate": rate, "random": random, "hrank": hrank}
)


def map_ranks(maps: torch.Tensor, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranks of maps, and their nuclear norms (zeros where the settings leave them out).

    Args:
        maps: (N, C, H, W), or (N, C) for dense populations.
        settings: eps, relative, nuclear.
    """
    maps = maps if maps.dim() == 4 else maps[:, :, None, None]
    if not settings.nuclear:
        return _alone(ranks(maps, settings.eps, settings.relative).double())
    sigma = singular_values(maps.double())
    return above(sigma, settings.eps, settings.relative, max(maps.shape[2:])).double(), sigma.sum(2)


def membrane(block: Any, x: torch.Tensor) -> torch.Tensor:
    """(N, C, ..., T): a block's voltage before the reset, in thresholds, in eval mode, by SLAYER's own dynamics.

    Computed anew from the input, so that the fused path need not hand out what it keeps for training only.

    Args:
        block: one of ours, after a forward pass of the same input (which folds it), or a stock one.
        x: (N, C, H, W, T) or (N, C, T) spikes that come in.
    """
    if isinstance(block, Block):
        folded = block.norm.folded
        assert folded is not None
        of = convolve(x, folded.weight, block.synapse) if isinstance(block, Conv) else connect(x, folded.weight)
        sums = of.movedim(1, -1).contiguous()
    else:
        sums = block.synapse(x)
    neuron: Any = block.neuron
    before = neuron.shape, neuron.current_state, neuron.voltage_state
    try:
        voltage: torch.Tensor = neuron.dynamics(sums)[1]
    finally:
        neuron.shape, neuron.current_state, neuron.voltage_state = before
    thresholds: torch.Tensor = voltage / neuron.threshold
    return thresholds


def _alone(score: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return score, torch.zeros_like(score)
