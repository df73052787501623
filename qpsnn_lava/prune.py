"""Pruning: channels are scored by a criterion (:mod:`qpsnn_lava.criteria`), the best stay, the others are cut out (QP-SNN, section 4.2)."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from netx_export.errors import ConfigError
from qpsnn_lava import parallel
from qpsnn_lava.blocks import blocks_of
from qpsnn_lava.coding import Coding
from qpsnn_lava.config import CriterionName
from qpsnn_lava.criteria import CRITERIA, WITHOUT_IMAGES, Seen, Settings, map_ranks, membrane
from qpsnn_lava.data import TrainingData, stratified_choice
from qpsnn_lava.train import device_of, to_input

T = TypeVar("T")
TieBreak = Literal["nuclear", "rate", "none"]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of the channels of one population, or of a group of populations that share their channels.

    Args:
        value: float64 (channels,), mean over samples of the criterion; of svs and hrank the number of singular values above eps.
        nuclear: float64 (channels,), svs and hrank: mean sum of the singular values; zeros elsewhere.
        rate: float64 (channels,), mean spikes per neuron and step; zeros where no images were looked at.
        samples: how many were scored; 0: the criterion takes none.
        stability: Spearman's rank correlation of the scores from one half of the samples with those from the other, -1..1.
        seconds: that the criterion itself took, all batches, without the model's forward pass.
    """

    value: NDArray[np.float64]
    nuclear: NDArray[np.float64]
    rate: NDArray[np.float64]
    samples: int
    stability: float = 1.0
    seconds: float = 0.0


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
    rank, nuclear = map_ranks(rates, Settings(eps))
    return rank.mean(0), nuclear.mean(0)


def score(
    model: torch.nn.Module,
    dataset: TrainingData,
    coding: Coding,
    *,
    samples: int,
    eps: float,
    seed: int,
    batch: int = 128,
    criterion: CriterionName = "svs",
    relative: bool = False,
    nuclear: bool = True,
) -> dict[int, Scores]:
    """Scores of every group of channels (:func:`groups`), from training images, in eval mode.

    A group's score is the mean of the scores of its blocks, each seen by itself.

    Args:
        model: a model with blocks (see :func:`qpsnn_lava.blocks.blocks_of`).
        dataset, coding: as in training.
        samples: training images (stratified choice by seed); all where there are fewer.
        eps, relative, nuclear: of :class:`qpsnn_lava.criteria.Settings`.
        seed: of the choice, and of the criterion random.
        batch: images at a time.
        criterion: a key of :data:`qpsnn_lava.criteria.CRITERIA`.

    Returns:
        by index of the block that the group begins with: all blocks whose output channels are their own (convolution, dense) but
        the last.
    """
    coupled, listed = groups(model), list(blocks_of(model))
    members = sorted({i for group in coupled.values() for i in group})
    settings, judge = Settings(eps, relative, nuclear, seed), CRITERIA[criterion]
    if criterion in WITHOUT_IMAGES:
        return _without_images(coupled, listed, criterion, settings)
    chosen = stratified_choice(dataset.train.labels, min(samples, len(dataset.train.labels)), seed, 7)
    sums: dict[int, list[torch.Tensor]] = {i: [] for i in members}
    halves: dict[int, torch.Tensor] = {}
    seconds = dict.fromkeys(members, 0.0)
    weights: list[int] = []
    odd = torch.zeros(0, dtype=torch.bool)

    def hook(index: int) -> Any:
        def collect(module: Any, args: tuple[torch.Tensor, ...], spikes: torch.Tensor) -> None:
            start = time.perf_counter()
            seen = Seen(index, module.synapse.weight, spikes, lambda: membrane(module, args[0]))
            value, second = judge(seen, settings)
            rate = spikes.mean(-1).double().transpose(0, 1).flatten(1).mean(1)
            sums[index].append(torch.stack([value.mean(0), second.mean(0), rate]))
            parts = torch.stack([value[~odd].sum(0), value[odd].sum(0)]).cpu()
            halves[index] = halves[index] + parts if index in halves else parts
            seconds[index] += time.perf_counter() - start

        return collect

    handles = [listed[i].register_forward_hook(hook(i)) for i in members]
    try:
        model.eval()
        with torch.no_grad():
            for low in range(0, len(chosen), batch):
                mine = slice(parallel.rank(), None, parallel.size())
                part = chosen[low : low + batch][mine]
                if not len(part):
                    continue
                odd = torch.arange(low, low + batch)[mine][: len(part)] % 2 == 1
                images, own = dataset.train.images[part], dataset.train.indices[part]
                model(to_input(images, coding, dataset.max_value, seed, own, device_of(model)))
                weights.append(len(part))
    finally:
        for handle in handles:
            handle.remove()
    share = torch.tensor(weights, dtype=torch.float64) / len(chosen)
    weighted = {i: torch.einsum("b,bkc->kc", share.to(parts[0].device), torch.stack(parts)) for i, parts in sums.items()}
    means = {i: parallel.total(mean).cpu().numpy() for i, mean in weighted.items()}
    split = {i: parallel.total(parts.to(device_of(model))).cpu().numpy() for i, parts in halves.items()}
    found = {}
    for i, group in coupled.items():
        value, second, rate = np.mean([means[k] for k in group], axis=0)
        stability = _spearman(*np.sum([split[k] for k in group], axis=0))
        found[i] = Scores(value, second, rate, len(chosen), stability, sum(seconds[k] for k in group))
    return found


def _without_images(
    coupled: Mapping[int, tuple[int, ...]], listed: Sequence[Any], criterion: CriterionName, settings: Settings
) -> dict[int, Scores]:
    """Scores that need no forward pass."""
    found = {}
    for i, group in coupled.items():
        start = time.perf_counter()
        values = []
        for k in group:
            weight = listed[k].synapse.weight
            none = torch.zeros(1, len(weight), 1, device=weight.device)
            seen = Seen(k, weight, none, none.clone)
            values.append(CRITERIA[criterion](seen, settings)[0][0].cpu().numpy())
        value = np.mean(values, axis=0)
        zeros = np.zeros(len(value))
        found[i] = Scores(value, zeros, zeros, 0, 1.0, time.perf_counter() - start)
    return found


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's rank correlation, ties with their mean rank; of numbers that are all equal: 1 where both are, else 0."""
    ranked = []
    for values in (a, b):
        _, inverse, counts = np.unique(np.round(values, 9), return_inverse=True, return_counts=True)
        places = (np.cumsum(counts) - (counts + 1) / 2)[inverse]
        ranked.append(places - places.mean())
    lengths = [float(np.linalg.norm(places)) for places in ranked]
    if min(lengths) == 0:
        return float(max(lengths) == 0)
    return float(ranked[0] @ ranked[1] / (lengths[0] * lengths[1]))


def with_peak(work: Callable[[], T]) -> tuple[T, int | None]:
    """What ``work`` returns, and how many bytes of memory it needed at most beyond those in use before.

    Of the GPU where there is one, else of the process, as Linux counts them (which knows one peak, and forgets it here); None where
    neither can be told.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        used = torch.cuda.memory_allocated()
        return work(), torch.cuda.max_memory_allocated() - used
    before = _resident("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        before = None
    result = work()
    peak = _resident("VmHWM")
    return result, None if before is None or peak is None else max(0, peak - before)


def _resident(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


def groups(model: torch.nn.Module) -> dict[int, tuple[int, ...]]:
    """The blocks that share their channels, by the block that the channels are of: it, and the depthwise convolutions behind it."""
    listed, own = list(blocks_of(model)), prunable(model)
    found: dict[int, tuple[int, ...]] = {}
    for i in own:
        coupled = [i]
        for k in range(i + 1, len(listed)):
            if not hasattr(listed[k], "synapse") or not (_depthwise(listed[k]) or type(listed[k].synapse).__name__ == "Pool"):
                break
            if type(listed[k].synapse).__name__ != "Pool" and listed[k].synapse.weight.requires_grad:
                coupled.append(k)  # pooling learns nothing, and is not scored
        found[i] = tuple(coupled)
    return found


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
        if not 0 <= count <= len(scores[i].value):
            raise ConfigError(f"layer {i} has {len(scores[i].value)} channels and cannot keep {count}.")
        if count < 1:
            raise ConfigError(
                f"layer {i} would lose all of its {len(scores[i].value)} channels; keep at least 1 "
                "(a larger keep, or scope per layer)."
            )
    return {i: np.sort(_order(s, tie_break)[: counts[i]]) for i, s in scores.items()}


def keep_counts(
    scores: Mapping[int, Scores],
    keep: float | Sequence[float],
    scope: Literal["layer", "global"] = "layer",
    tie_break: TieBreak = "nuclear",
    whole: Mapping[int, int] | None = None,
) -> dict[int, int]:
    """How many channels of each block a share leaves.

    A layer of C channels keeps ``floor(keep * C + 1/2)``.  ``global``: one threshold for all layers, on the score relative to the
    layer's highest.

    Args:
        scores: of :func:`score`.
        keep: in (0, 1]: one for all, or one per block in order.
        scope: per layer, or one ratio over all channels together.
        tie_break: as of :func:`choose`; it decides at the threshold of ``global``.
        whole: channels C of each block that the shares are of, where earlier rounds have cut some (None: those that are scored).

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
    whole = whole or {i: len(s.value) for i, s in scores.items()}
    if scope == "layer":
        return {i: math.floor(r * whole[i] + 0.5) for i, r in zip(scores, ratios, strict=True)}
    total = math.floor(float(ratios[0]) * sum(whole.values()) + 0.5)
    return _global_counts(scores, {i: _order(s, tie_break) for i, s in scores.items()}, total)


def _order(scores: Scores, tie_break: TieBreak) -> NDArray[np.int64]:
    """Channels from best to worst."""
    channels = np.arange(len(scores.value))
    second = {"nuclear": scores.nuclear, "rate": scores.rate, "none": np.zeros(len(channels))}[tie_break]
    order: NDArray[np.int64] = np.lexsort((channels, -second, -scores.value)).astype(np.int64)
    return order


def _global_counts(scores: Mapping[int, Scores], orders: Mapping[int, NDArray[np.int64]], total: int) -> dict[int, int]:
    entries = []
    for i, s in scores.items():
        top = max(float(s.value.max()), 1e-300)
        entries += [(-s.value[c] / top, place / len(s.value), i) for place, c in enumerate(orders[i])]
    entries.sort()
    stay = entries[:total]
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
    groups, weight = block.synapse.groups, block.synapse.weight
    return bool(groups > 1 and groups == weight.shape[0] and weight.shape[1] == 1)


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
