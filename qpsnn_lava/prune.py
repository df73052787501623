"""SVS pruning: score the channels by the rank of their spike-rate maps, cut the others out of the tensors (QP-SNN, section 4.2)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from netx_export.errors import ConfigError
from qpsnn_lava.blocks import blocks_of
from qpsnn_lava.coding import Coding
from qpsnn_lava.data import TrainingData, stratified_choice
from qpsnn_lava.train import to_input

TieBreak = Literal["nuclear", "rate", "none"]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of the channels of one population.

    Args:
        rank: float64 (channels,), mean over samples of the number of singular values above eps.
        nuclear: float64 (channels,), mean sum of the singular values.
        rate: float64 (channels,), mean spikes per neuron and step.
        samples: how many were scored.
    """

    rank: NDArray[np.float64]
    nuclear: NDArray[np.float64]
    rate: NDArray[np.float64]
    samples: int


def svs(rates: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Singular values of the rate maps: how many exceed eps, and their sum, averaged over the samples.

    ``score_f = mean_n #{i : sigma_i(S_nf) > eps}``, S_nf the H x W map of spike rates of channel f in sample n.  A dense unit's map
    is 1 x 1: its score is the share of samples in which it fires at all.

    Args:
        rates: (N, C, H, W), or (N, C) for dense populations.
        eps: absolute.

    Returns:
        float64 (C,) ranks and nuclear norms.
    """
    maps = rates.double() if rates.dim() == 4 else rates.double()[:, :, None, None]
    if min(maps.shape[2:]) == 1:  # a vector has one singular value, its length
        sigma = maps.flatten(2).norm(dim=2, keepdim=True)
    else:
        sigma = torch.linalg.svdvals(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
    return (sigma > eps).sum(2).double().mean(0), sigma.sum(2).mean(0)


def score(
    model: torch.nn.Module, dataset: TrainingData, coding: Coding, *, samples: int, eps: float, seed: int, batch: int = 128
) -> dict[int, Scores]:
    """SVS scores of every hidden population, from training images, in eval mode.

    Args:
        model: a model with blocks (see :func:`qpsnn_lava.blocks.blocks_of`).
        dataset, coding: as in training.
        samples: training images (stratified choice by seed); all where there are fewer.
        eps: singular values above it count.
        batch: images at a time.

    Returns:
        by index of the block, for all blocks whose output channels are their own (convolution, dense) but the last.
    """
    layers = prunable(model)
    chosen = stratified_choice(dataset.train.labels, min(samples, len(dataset.train.labels)), seed, 7)
    sums: dict[int, list[torch.Tensor]] = {i: [] for i in layers}
    weights: list[int] = []

    def hook(index: int) -> Any:
        def collect(module: torch.nn.Module, args: object, spikes: torch.Tensor) -> None:
            rates = spikes.mean(-1)
            rank, nuclear = svs(rates, eps)
            sums[index].append(torch.stack([rank, nuclear, rates.flatten(2).mean(2).double().mean(0) if rates.dim() == 4 else rates.double().mean(0)]))

        return collect

    handles = [block.register_forward_hook(hook(i)) for i, block in enumerate(blocks_of(model)) if i in layers]
    try:
        model.eval()
        with torch.no_grad():
            for low in range(0, len(chosen), batch):
                part = chosen[low : low + batch]
                model(to_input(dataset.train.images[part], coding, dataset.max_value, seed, dataset.train.indices[part]))
                weights.append(len(part))
    finally:
        for handle in handles:
            handle.remove()
    share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    means = {i: torch.einsum("b,bkc->kc", share, torch.stack(parts)).numpy() for i, parts in sums.items()}
    return {i: Scores(m[0], m[1], m[2], len(chosen)) for i, m in means.items()}


def prunable(model: torch.nn.Module) -> list[int]:
    """Indices of the blocks whose output channels may be cut: all with weights of their own but the last."""
    listed = list(blocks_of(model))
    own = [i for i, b in enumerate(listed) if hasattr(b, "synapse") and not _depthwise(b)]
    return own[:-1]


def choose(
    scores: Mapping[int, Scores],
    keep: float | Sequence[float],
    scope: Literal["layer", "global"] = "layer",
    tie_break: TieBreak = "nuclear",
) -> dict[int, NDArray[np.int64]]:
    """The channels that stay, ascending, per block.

    A layer of C channels keeps ``floor(keep * C + 1/2)``, highest scores first; ties go to the higher nuclear norm (or rate), then to
    the lower channel.  ``global``: one threshold for all layers, on the rank relative to the layer's highest possible (its highest score).

    Args:
        scores: of :func:`score`.
        keep: in (0, 1]: one for all, or one per block in order.
        scope: per layer, or one ratio over all channels together.
        tie_break: nuclear, rate or none.

    Raises:
        ConfigError: where a layer would lose all its channels, or the number of ratios does not fit.
    """
    ratios = [keep] * len(scores) if isinstance(keep, float | int) else list(keep)
    if len(ratios) != len(scores):
        raise ConfigError(f"keep lists {len(ratios)} ratios for {len(scores)} layers that can be pruned.")
    orders = {i: _order(s, tie_break) for i, s in scores.items()}
    if scope == "layer":
        counts = {i: math.floor(r * len(s.rank) + 0.5) for (i, s), r in zip(scores.items(), ratios, strict=True)}
    else:
        counts = _global_counts(scores, orders, float(ratios[0]))
    for i, count in counts.items():
        if count < 1:
            raise ConfigError(
                f"layer {i} would lose all of its {len(scores[i].rank)} channels; keep at least 1 (a larger keep, or scope per layer)."
            )
    return {i: np.sort(orders[i][: counts[i]]) for i in scores}


def _order(scores: Scores, tie_break: TieBreak) -> NDArray[np.int64]:
    """Channels from best to worst."""
    channels = np.arange(len(scores.rank))
    second = {"nuclear": scores.nuclear, "rate": scores.rate, "none": np.zeros(len(channels))}[tie_break]
    return np.lexsort((channels, -second, -scores.rank)).astype(np.int64)


def _global_counts(scores: Mapping[int, Scores], orders: Mapping[int, NDArray[np.int64]], keep: float) -> dict[int, int]:
    entries = []
    for i, s in scores.items():
        top = max(float(s.rank.max()), 1e-300)
        entries += [(-s.rank[c] / top, place / len(s.rank), i) for place, c in enumerate(orders[i])]
    entries.sort()
    stay = entries[: math.floor(keep * len(entries) + 0.5)]
    return {i: sum(1 for entry in stay if entry[2] == i) for i in scores}


def cut(model: torch.nn.Module, kept: Mapping[int, NDArray[np.int64]], shape: tuple[int, ...]) -> torch.nn.Module:
    """A new model with smaller tensors: the outputs of each block in ``kept``, the inputs of the next, its norm's statistics.

    Latent weights are carried over.  Behind a flatten the columns of a channel's H x W neurons go (C, H, W order); a depthwise
    convolution (sum pooling) loses the channels of its source.

    Args:
        model: of our blocks or stock SLAYER blocks; it stays as it is.
        kept: channels that stay, ascending, by index of the block.
        shape: (C, H, W) or (N,) of the input.

    Raises:
        ConfigError: for a channel that does not exist, a layer that would lose all of them, or one in several groups that are not depthwise.
    """
    new = copy.deepcopy(model)
    channels = torch.arange(shape[0])
    size = tuple(shape[1:])
    was = shape[0]
    columns: torch.Tensor | None = None  # of a flattened input
    for i, block in enumerate(blocks_of(new)):
        if not hasattr(block, "synapse"):  # flatten
            area = math.prod(size)
            columns = (channels[:, None] * area + torch.arange(area)[None, :]).flatten()
            continue
        synapse = block.synapse
        outputs = synapse.weight.shape[0]
        incoming = channels if columns is None else columns
        if synapse.groups == 1:
            synapse.weight = _parameter(synapse.weight, synapse.weight[:, incoming])
            stay = torch.arange(outputs) if i not in kept else torch.from_numpy(np.asarray(kept[i], np.int64))
        elif _depthwise(block):
            if i in kept:
                raise ConfigError(f"layer {i} is depthwise: it has the channels of its source and cannot be pruned itself.")
            stay = channels
        else:
            if i in kept or len(incoming) != was:
                raise ConfigError(f"layer {i} has {synapse.groups} groups; only depthwise and ungrouped layers can be pruned.")
            stay = torch.arange(outputs)
        if len(stay) < 1:
            raise ConfigError(f"layer {i} would lose all of its {outputs} channels; keep at least 1.")
        if int(stay.min()) < 0 or int(stay.max()) >= outputs or len(stay.unique()) != len(stay):
            raise ConfigError(f"layer {i} has channels 0..{outputs - 1}; asked to keep {stay.tolist()[:8]}...")
        synapse.weight = _parameter(synapse.weight, synapse.weight[stay])
        if _depthwise(block):
            synapse.groups = len(stay)
        synapse.in_channels, synapse.out_channels = len(incoming), len(stay)
        _cut_neuron(block.neuron, stay, outputs)
        was, channels, columns = outputs, stay, None
        if hasattr(synapse, "kernel_size") and len(size) == 2:
            size = tuple(
                (n + 2 * p - d * (k - 1) - 1) // s + 1
                for n, k, s, p, d in zip(size, synapse.kernel_size, synapse.stride, synapse.padding, synapse.dilation, strict=False)
            )
    return new


def _depthwise(block: Any) -> bool:
    groups = block.synapse.groups
    return bool(groups > 1 and groups == block.synapse.weight.shape[0])


def _parameter(old: torch.nn.Parameter, values: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(values.detach().clone(), requires_grad=old.requires_grad)


def _cut_neuron(neuron: Any, stay: torch.Tensor, outputs: int) -> None:
    """Forgets what SLAYER remembers of the old shape, and cuts the norm's per-channel values."""
    neuron.shape = None
    neuron.current_state = torch.zeros(1)
    neuron.voltage_state = torch.zeros(1)
    norm = neuron.norm
    if norm is None:
        return
    for name, parameter in list(norm.named_parameters(recurse=False)):
        if parameter.shape[:1] == (outputs,) and (outputs > 1 or name != "gain"):
            setattr(norm, name, _parameter(parameter, parameter[stay]))
    for name, buffer in list(norm.named_buffers(recurse=False)):
        if buffer.shape[:1] == (outputs,):
            setattr(norm, name, buffer[stay].clone())
    if getattr(norm, "num_features", None) is not None:
        norm.num_features = len(stay)
