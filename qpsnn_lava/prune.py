"""SVS pruning: channels are scored by the rank of their spike-rate maps, the others are cut out (QP-SNN, section 4.2)."""

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
from qpsnn_lava import parallel
from qpsnn_lava.blocks import blocks_of
from qpsnn_lava.coding import Coding
from qpsnn_lava.data import TrainingData, stratified_choice
from qpsnn_lava.train import device_of, to_input

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

    ``score_f = mean_n #{i : sigma_i(S_nf) > eps}``, S_nf the H x W map of spike rates of channel f in sample n.  A dense
    unit's map is 1 x 1: its score is the share of samples in which it fires at all.

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
            rate = rates.double().transpose(0, 1).flatten(1).mean(1)
            sums[index].append(torch.stack([rank, nuclear, rate]))

        return collect

    handles = [block.register_forward_hook(hook(i)) for i, block in enumerate(blocks_of(model)) if i in layers]
    try:
        model.eval()
        with torch.no_grad():
            for low in range(0, len(chosen), batch):
                part = chosen[low : low + batch][parallel.rank() :: parallel.size()]
                if not len(part):
                    continue
                spikes = to_input(dataset.train.images[part], coding, dataset.max_value, seed, dataset.train.indices[part])
                model(spikes.to(device_of(model)))
                weights.append(len(part))
    finally:
        for handle in handles:
            handle.remove()
    share = torch.tensor(weights, dtype=torch.float64) / len(chosen)
    weighted = {i: torch.einsum("b,bkc->kc", share.to(parts[0].device), torch.stack(parts)) for i, parts in sums.items()}
    means = {i: parallel.total(mean).cpu().numpy() for i, mean in weighted.items()}
    return {i: Scores(m[0], m[1], m[2], len(chosen)) for i, m in means.items()}


def prunable(model: torch.nn.Module) -> list[int]:
    """Indices of the blocks whose output channels may be cut: all with weights of their own but the last."""
    listed = list(blocks_of(model))
    own = [
        i for i, b in enumerate(listed) if hasattr(b, "synapse") and not _depthwise(b) and type(b.synapse).__name__ != "Pool"
    ]
    return own[:-1]


def choose(
    scores: Mapping[int, Scores],
    keep: float | Sequence[float] | Mapping[int, int],
    scope: Literal["layer", "global"] = "layer",
    tie_break: TieBreak = "nuclear",
) -> dict[int, NDArray[np.int64]]:
    """The channels that stay, ascending, per block: highest scores first; ties go to the higher nuclear norm (or rate), then
    to the lower channel.

    Args:
        scores: of :func:`score`.
        keep: shares as of :func:`keep_counts`, or how many channels stay of each block.
        scope: of shares, see there.
        tie_break: nuclear, rate or none.

    Raises:
        ConfigError: as :func:`keep_counts`, or a number of channels that a block does not have.
    """
    counts = keep if isinstance(keep, Mapping) else keep_counts(scores, keep, scope, tie_break)
    if set(counts) != set(scores):
        raise ConfigError(f"channels to keep are given for the blocks {sorted(counts)}; scored are {sorted(scores)}.")
    for i, count in counts.items():
        if not 0 <= count <= len(scores[i].rank):
            raise ConfigError(f"layer {i} has {len(scores[i].rank)} channels and cannot keep {count}.")
        if count < 1:
            raise ConfigError(
                f"layer {i} would lose all of its {len(scores[i].rank)} channels; keep at least 1 "
                "(a larger keep, or scope per layer)."
            )
    return {i: np.sort(_order(s, tie_break)[: counts[i]]) for i, s in scores.items()}


def keep_counts(
    scores: Mapping[int, Scores],
    keep: float | Sequence[float],
    scope: Literal["layer", "global"] = "layer",
    tie_break: TieBreak = "nuclear",
) -> dict[int, int]:
    """How many channels of each block a share leaves.

    A layer of C channels keeps ``floor(keep * C + 1/2)``.  ``global``: one threshold for all layers, on the rank relative to the
    layer's highest.

    Args:
        scores: of :func:`score`.
        keep: in (0, 1]: one for all, or one per block in order.
        scope: per layer, or one ratio over all channels together.
        tie_break: as of :func:`choose`; it decides at the threshold of ``global``.

    Raises:
        ConfigError: a ratio or their number does not fit.
    """
    ratios = [keep] * len(scores) if isinstance(keep, float | int) else list(keep)
    if len(ratios) != len(scores):
        raise ConfigError(f"keep lists {len(ratios)} ratios for {len(scores)} layers that can be pruned.")
    for ratio in ratios:
        if not 0 < ratio <= 1:
            raise ConfigError(f"keep is {ratio}; the share of the channels that stays is above 0 and at most 1.")
    if scope == "global" and not isinstance(keep, float | int):
        raise ConfigError("keep lists a share per layer, but the scope is global; give one number.")
    if scope == "layer":
        return {i: math.floor(r * len(s.rank) + 0.5) for (i, s), r in zip(scores.items(), ratios, strict=True)}
    return _global_counts(scores, {i: _order(s, tie_break) for i, s in scores.items()}, float(ratios[0]))


def _order(scores: Scores, tie_break: TieBreak) -> NDArray[np.int64]:
    """Channels from best to worst."""
    channels = np.arange(len(scores.rank))
    second = {"nuclear": scores.nuclear, "rate": scores.rate, "none": np.zeros(len(channels))}[tie_break]
    order: NDArray[np.int64] = np.lexsort((channels, -second, -scores.rank)).astype(np.int64)
    return order


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

    Latent weights are carried over.  Behind a flatten the columns of a channel's H x W neurons go (C, H, W order); pooling and
    depthwise convolutions lose the channels of their source.

    Args:
        model: of our blocks or stock SLAYER blocks; it stays as it is.
        kept: channels that stay, ascending, by index of the block.
        shape: (C, H, W) or (N,) of the input.

    Raises:
        ConfigError: for a channel or layer that does not exist, a layer that would lose all of them or is in several groups
            that are not depthwise, weight norm, axonal delays, or an input of another shape.
    """
    new = copy.deepcopy(model)
    listed = list(blocks_of(new))
    unknown = sorted(i for i in kept if not 0 <= i < len(listed) or not hasattr(listed[i], "synapse"))
    if unknown:
        raise ConfigError(f"block {unknown[0]} has no channels that could be cut; those that have are {prunable(model)}.")
    channels = torch.arange(shape[0])
    size = tuple(shape[1:])
    was = shape[0]
    columns: torch.Tensor | None = None  # of a flattened input
    for i, block in enumerate(listed):
        if not hasattr(block, "synapse"):  # flatten
            area = math.prod(size)
            columns = (channels[:, None] * area + torch.arange(area)[None, :]).flatten()
            was, size = was * area, ()
            continue
        synapse = block.synapse
        _check_plain(block, i)
        incoming = channels if columns is None else columns
        pool = type(synapse).__name__ == "Pool"
        outputs = was if pool else synapse.weight.shape[0]
        inputs = was if pool else synapse.weight.shape[1] * synapse.groups
        if inputs != was:
            raise ConfigError(f"layer {i} takes {inputs} inputs, but {was} arrive from an input of shape {tuple(shape)}.")
        stay = torch.from_numpy(np.asarray(kept[i], np.int64)) if i in kept else torch.arange(outputs)
        if len(stay) < 1:
            raise ConfigError(f"layer {i} would lose all of its {outputs} channels; keep at least 1.")
        if int(stay.min()) < 0 or int(stay.max()) >= outputs or len(stay.unique()) != len(stay):
            raise ConfigError(f"layer {i} has channels 0..{outputs - 1}, each once; asked to keep {_some(stay)}.")
        depthwise = _depthwise(block)
        if pool or depthwise:
            if i in kept and not torch.equal(stay, channels):
                raise ConfigError(f"layer {i} is depthwise: it has the channels of its source and cannot be pruned itself.")
            stay = channels
        elif synapse.groups > 1 and (len(stay) < outputs or len(incoming) < inputs):
            raise ConfigError(
                f"layer {i} has {synapse.groups} groups; only depthwise and ungrouped layers, and those before them, "
                "can be pruned."
            )
        if not pool:
            weight = synapse.weight if synapse.groups > 1 else synapse.weight[:, incoming]
            synapse.weight = _parameter(synapse.weight, weight[stay])
            if depthwise:
                synapse.groups = len(stay)
            synapse.in_channels, synapse.out_channels = len(incoming), len(stay)
        if getattr(block, "mask", None) is not None:
            block.mask = block.mask[:, incoming][stay]
        _cut_neuron(block.neuron, stay, outputs)
        was, channels, columns = outputs, stay, None
        if len(size) == 2:
            if pool:  # SLAYER pads it
                size = tuple(n + n % k for n, k in zip(size, synapse.kernel_size, strict=False))
            size = tuple(
                (n + 2 * p - d * (k - 1) - 1) // s + 1
                for n, k, s, p, d in zip(
                    size, synapse.kernel_size, synapse.stride, synapse.padding, synapse.dilation, strict=False
                )
            )
    return new


def _some(channels: torch.Tensor) -> str:
    listed = ", ".join(map(str, channels.tolist()[:8]))
    return f"{listed}, ..." if len(channels) > 8 else listed


def _check_plain(block: Any, index: int) -> None:
    """Refuses what SLAYER adds to a block and a cut would leave in the old shape."""
    if getattr(block.synapse, "weight_norm_enabled", False):
        raise ConfigError(f"layer {index} has SLAYER's weight norm; take it off first: block.synapse.disable_weight_norm().")
    if getattr(block, "delay", None) is not None:
        raise ConfigError(f"layer {index} has learnt axonal delays, which cannot be cut; make the block with delay=False.")


def _depthwise(block: Any) -> bool:
    groups = block.synapse.groups
    return bool(groups > 1 and groups == block.synapse.weight.shape[0])


def _parameter(old: torch.nn.Parameter, values: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(values.detach().clone(), requires_grad=old.requires_grad)


def _cut_neuron(neuron: Any, stay: torch.Tensor, outputs: int) -> None:
    """Cuts the shape and the decays that SLAYER keeps, forgets its states, and cuts the norm's per-channel values."""
    if neuron.shape is not None:
        neuron.shape = torch.Size((len(stay), *neuron.shape[1:]))
    for name in ("current_decay", "voltage_decay"):  # one per channel with shared_param=False
        parameter = getattr(neuron, name)
        if len(parameter) == outputs > 1:
            setattr(neuron, name, _parameter(parameter, parameter[stay]))
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
