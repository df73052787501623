"""Networks by name, and how much of each layer the paper prunes: an experiment file's ``[network]`` and ``prune.plan``.

A name stands for the list of ``[[network]]`` entries that :func:`conv_layers` or :func:`mlp_layers` returns, a plan for the list
``prune.keep`` that :func:`plan_shares` returns; whoever reads the experiment sees the lists.

VGG-16, VGGSNN and the plans are those of QP-SNN (W. Wei, M. Zhang et al., ICLR 2025, arXiv 2502.05905); where the paper has
max-pooling, which a chip has not, a convolution takes stride 2 or sum-pooling follows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from netx_export.errors import ConfigError

ConvName = Literal["vgg16", "vggsnn", "conv28-small", "conv28-medium", "conv28-large"]
Pool = Literal["stride", "sum"]
PlanName = Literal["vgg16-45-51", "vgg16-49-80", "vgg16-45-70", "vgg16-45-78", "vggsnn-50-70", "vggsnn-50-80", "vggsnn-82-93"]

# Output channels of the stages of 3x3 convolutions of padding 1; each stage ends by halving height and width.
STAGES: Mapping[ConvName, tuple[tuple[int, ...], ...]] = MappingProxyType(
    {
        "vgg16": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
        "vggsnn": ((64, 128), (256, 256), (512, 512), (512, 512)),
        "conv28-small": ((32,), (64,)),
        "conv28-medium": ((32, 32), (64, 64)),
        "conv28-large": ((64, 64), (128, 128), (256, 256)),
    }
)


def conv_layers(name: ConvName, width: float = 1.0, pool: Pool = "stride") -> list[dict[str, Any]]:
    """The hidden layers of a convolutional network of :data:`STAGES`, as ``[[network]]`` lists them.

    Args:
        name: "vgg16" (CIFAR; 32x32 leave 1x1), "vggsnn" (events; 48x48 leave 3x3), or "conv28-small", "conv28-medium",
            "conv28-large" for 28x28.
        width: every layer of C channels gets ``max(1, floor(width * C + 1/2))``.
        pool: a stage ends with "stride" (its last convolution has stride 2) or "sum" (sum-pooling 2x2 follows it).
    """
    layers: list[dict[str, Any]] = []
    for stage in STAGES[name]:
        layers += ({"type": "conv", "channels": max(1, math.floor(width * channels + 0.5))} for channels in stage)
        if pool == "stride":
            layers[-1]["stride"] = 2
        else:
            layers.append({"type": "pool"})
    return layers


def mlp_layers(hidden: Sequence[int]) -> list[dict[str, Any]]:
    """Dense layers of these numbers of units, as ``[[network]]`` lists them."""
    return [{"type": "dense", "units": units} for units in hidden]


@dataclass(frozen=True)
class Plan:
    """How much of each conv layer is pruned; the last one is kept whole.

    Args:
        groups: (layers, percent of their channels that is cut), in order.
    """

    groups: tuple[tuple[int, int], ...]

    @property
    def cuts(self) -> tuple[int, ...]:
        """Percent of the channels that is cut, of each conv and dense layer in order."""
        return (*(percent for layers, percent in self.groups for _ in range(layers)), 0)


# The paper's pruning rates of VGG-16's layers 1-7 and 8-12 and of VGGSNN's layers 1-3 and 4-7.  Parameters that it says are left:
# CIFAR-10 4.25 M (45-51) and 1.42 M (49-80), CIFAR-100 2.31 M (45-70) and 1.68 M (45-78), DVS-CIFAR10 1.46 M (50-70),
# 0.90 M (50-80) and 0.25 M (82-93).
PLANS: Mapping[PlanName, Plan] = MappingProxyType(
    {
        "vgg16-45-51": Plan(((7, 45), (5, 51))),
        "vgg16-49-80": Plan(((7, 49), (5, 80))),
        "vgg16-45-70": Plan(((7, 45), (5, 70))),
        "vgg16-45-78": Plan(((7, 45), (5, 78))),
        "vggsnn-50-70": Plan(((3, 50), (4, 70))),
        "vggsnn-50-80": Plan(((3, 50), (4, 80))),
        "vggsnn-82-93": Plan(((3, 82), (4, 93))),
    }
)


def plan_shares(plan: PlanName, channels: Sequence[int]) -> tuple[float, ...]:
    """The share of each layer's channels that a plan keeps: ``max(1, floor(C (100 - percent) / 100)) / C``.

    The paper's parameter counts come out with this floor, and :func:`qpsnn_lava.prune.keep_counts` makes the same whole number
    of the share.

    Args:
        plan: of :data:`PLANS`.
        channels: C of each conv and dense layer, in order.

    Raises:
        ConfigError: where the network has another number of layers.
    """
    cuts = PLANS[plan].cuts
    if len(cuts) != len(channels):
        raise ConfigError(
            f'prune.plan "{plan}" has a share for each of {len(cuts)} conv and dense layers, but the network has {len(channels)}; '
            "take it for the network that it is named after, or list prune.keep."
        )
    return tuple(max(1, c * (100 - percent) // 100) / c for c, percent in zip(channels, cuts, strict=True))
