"""Freezing: a trained model becomes an immutable integer :class:`netx_export.network.Network`, or a sentence why it cannot.

``freeze`` takes the integers that the model's forward pass computes with (see :mod:`qpsnn_lava.blocks`); nothing is rounded here.
What cannot be exact, or has no place on the chip, is refused by layer and number (contract point 5).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from netx_export.bounds import largest_states, voltage_limit
from netx_export.errors import FreezeError
from netx_export.integers import STATE_LIMIT
from netx_export.lava_run import dense_is_exact
from netx_export.network import (
    MAX_THRESHOLD,
    Conv,
    Dense,
    Integrator,
    Lif,
    Network,
    Neuron,
    Population,
    Projection,
    Readout,
    neuron_of,
)
from qpsnn_lava.blocks import Block, blocks_of, slayer
from qpsnn_lava.model import SpikingNetwork
from qpsnn_lava.quantise import WEIGHT_SCALE, Quantiser

MIN_WEIGHT, MAX_WEIGHT, MAX_ODD = -256, 254, 127
MIN_BIAS, MAX_BIAS = -4096, 4095


def freeze(
    model: torch.nn.Module,
    shape: tuple[int, ...],
    steps: int,
    *,
    input_bits: int = 0,
    readout: Readout | None = None,
    names: tuple[str, ...] | None = None,
) -> Network:
    """The integer network that ``model`` computes.

    Args:
        model: our :class:`SpikingNetwork`, or any model of stock ``slayer.block.cuba`` blocks (Conv, Dense, Pool, Affine, Flatten)
            with ``delay_shift=False``, ``threshold_eps = 1 / s_scale`` and an exact quantiser (:class:`qpsnn_lava.quantise.ReScaW`,
            or SLAYER's own).
        shape: (C, H, W) or (N,) of the input.
        steps: T, the window that states must not overflow in.
        input_bits: bits of a graded input, 0 for spikes.
        readout: default: the model's own, if it has one.
        names: of the populations; default: the model's, else type and index.

    Raises:
        FreezeError: naming the layer, the number, the limit and a way out.
    """
    if isinstance(model, SpikingNetwork):
        readout, names = readout or model.readout, names or model.names
    was_training = model.training
    model.eval()
    populations = [Population("input", shape)]
    projections: list[Projection] = []
    input_max = (1 << input_bits) - 1 if input_bits else 1
    try:
        with torch.no_grad():
            for i, block in enumerate(blocks_of(model)):
                if not hasattr(block, "synapse"):
                    _check_shape_only(block, i)
                    continue
                source = populations[-1]
                kind = "conv" if hasattr(block.synapse, "kernel_size") and not _is_dense(block) else "dense"
                name = names[len(projections)] if names else f"{kind}{i}"
                population, projection = _layer(block, name, source, steps, input_max)
                check(projection, population, steps, input_max)
                populations.append(population)
                projections.append(projection)
                input_max = 1
    finally:
        model.train(was_training)
    if not projections:
        raise FreezeError("the model has no blocks with a synapse; give a model with a list `blocks`, or a Sequential.")
    return Network(tuple(populations), tuple(projections), readout, input_bits, steps)


def _layer(block: Any, name: str, source: Population, steps: int, input_max: int) -> tuple[Population, Projection]:
    """Population and projection of one block."""
    _check_block(block, name)
    synapse = block.synapse
    if isinstance(block, Block):
        if not block.quantised:
            raise FreezeError(
                f"{name}: its weights are still real numbers; call set_quantised(model, True) and train (or at least check) it."
            )
        quantiser: Quantiser | None = getattr(block, "quantiser", None)
        if quantiser is not None and quantiser.per == "channel":
            raise FreezeError(
                f"{name}: it was trained with a scale for each of its channels, and so with a threshold for each; a netx layer has "
                'one. Take per = "channel_shift" (powers of two, which the integers carry) or "layer".'
            )
        expected = getattr(block, "input_max", 1)
        if expected != input_max:
            raise FreezeError(
                f"{name}: it was trained for inputs up to {expected}, but is frozen for inputs up to {input_max}."
            )
        folded = block.fold(steps)
        weight = folded.weight * WEIGHT_SCALE
        bias = None if folded.bias is None else folded.bias * WEIGHT_SCALE
        threshold = None if folded.threshold is None else folded.threshold * WEIGHT_SCALE
    else:
        weight = _stock_weight(synapse, name)
        bias = _stock_bias(block.neuron, name)
        threshold = None if type(block).__name__ == "Affine" else float(block.neuron.threshold) * WEIGHT_SCALE
        _check_epsilon(block.neuron, name, threshold)
    neuron = _neuron(block.neuron, name, threshold)
    whole = _whole(name, "weight", weight)
    whole_bias: NDArray[np.int32] | None = None if bias is None else _whole(name, "bias", bias).reshape(-1)
    if whole_bias is not None and whole_bias.size == 1:
        whole_bias = np.repeat(whole_bias, whole.shape[0])
    if _is_dense(block):
        made: Dense | Conv = Dense(whole.reshape(whole.shape[0], -1))
        if made.weight.shape[1] != source.size:
            raise FreezeError(
                f"{name}: it takes {made.weight.shape[1]} inputs, but the layer before it has {source.size} neurons."
            )
        target: tuple[int, ...] = (whole.shape[0],)
    else:
        kernel = whole[..., 0]
        groups = synapse.groups
        stride, padding, dilation = (tuple(int(n) for n in getattr(synapse, k)[:2]) for k in ("stride", "padding", "dilation"))
        if isinstance(synapse, slayer.synapse.Pool):
            groups = source.shape[0]
            kernel = np.repeat(kernel, groups, axis=0)
            if any(n % k for n, k in zip(source.shape[1:], kernel.shape[2:], strict=True)):
                raise FreezeError(
                    f"{name}: SLAYER pads its pooling where {kernel.shape[2:]} does not divide {source.shape[1:]}; crop the input."
                )
        made = Conv(kernel, stride, padding, dilation, groups)  # type: ignore[arg-type]
        target = made.output_shape(source.shape)
    return Population(name, target, neuron, whole_bias), Projection(source.name, name, made)


def _neuron(neuron: Any, name: str, threshold: float | None) -> Neuron:
    decays = []
    for label in ("current_decay", "voltage_decay"):
        values = torch.round(getattr(neuron, label).detach()).unique()
        if len(values) != 1:
            raise FreezeError(
                f"{name}: {len(values)} different values of {label}; a netx layer has one. Use shared_param=True."
            )
        decays.append(int(values[0]))
    if threshold is None:
        return Integrator(*decays)
    if threshold != round(threshold) or not 1 <= threshold <= MAX_THRESHOLD:
        raise FreezeError(
            f"{name}: threshold mantissa {threshold:g}; the chip holds whole numbers in 1..{MAX_THRESHOLD}. Rescale the weights."
        )
    return neuron_of(decays[0], decays[1], int(threshold))


def _stock_weight(synapse: Any, name: str) -> torch.Tensor:
    weight: torch.Tensor = synapse.weight
    if synapse.pre_hook_fx is not None:
        weight = synapse.pre_hook_fx(weight)
    return weight * WEIGHT_SCALE


def _stock_bias(neuron: Any, name: str) -> torch.Tensor | None:
    norm = neuron.norm
    if norm is None:
        return None
    if type(norm).__name__ != "MeanOnlyBatchNorm":
        raise FreezeError(f"{name}: {type(norm).__name__} has no integer form; use our blocks, or slayer's MeanOnlyBatchNorm.")
    bias: torch.Tensor = -norm.pre_hook_fx(norm.running_mean) * WEIGHT_SCALE
    return bias


def _check_block(block: Any, name: str) -> None:
    if getattr(block, "delay_shift", False):
        raise FreezeError(
            f"{name}: it was made with delay_shift=True, which is not exact with biases; make it with delay_shift=False."
        )
    if getattr(block, "delay", None) is not None:
        raise FreezeError(f"{name}: learnt axonal delays cannot be frozen yet; make the block with delay=False.")
    if getattr(block, "mask", None) is not None:
        raise FreezeError(
            f"{name}: SLAYER applies a mask only in training; multiply it into the weights, or cut the channels."
        )
    if getattr(block.synapse, "complex", False) or not hasattr(block.neuron, "voltage_decay"):
        raise FreezeError(f"{name}: only blocks of slayer.block.cuba have an integer form here.")
    if getattr(block.neuron, "graded_spike", False):
        raise FreezeError(f"{name}: graded spikes between layers are ignored by Lava's LIF; use graded_spike=False.")
    if type(block).__name__ in ("ConvT", "Unpool", "KWTA", "Recurrent") or type(block.synapse).__name__ in (
        "ConvTranspose",
        "Unpool",
    ):
        raise FreezeError(f"{name}: {type(block).__name__} blocks have no netx form; use Conv, Dense, Pool or Flatten.")
    if block.neuron.scale != WEIGHT_SCALE:
        raise FreezeError(f"{name}: neuron scale {block.neuron.scale}; the device unit is {WEIGHT_SCALE}.")


def _check_shape_only(block: Any, index: int) -> None:
    if type(block).__name__ not in ("Flatten", "Dropout", "Identity"):
        raise FreezeError(
            f"block {index} ({type(block).__name__}) has no netx form; use Conv, Dense, Pool, Affine or Flatten."
        )


def _check_epsilon(neuron: Any, name: str, threshold: float | None) -> None:
    """SLAYER must spike exactly where v > threshold: v >= threshold + eps does, in float32, unless eps vanishes in it."""
    if threshold is None:
        return
    base = np.float32(float(neuron.threshold) * neuron.s_scale)
    effective = np.float32((float(neuron.threshold) + neuron.threshold_eps) * neuron.s_scale)
    if not base < effective <= base + 1:
        raise FreezeError(
            f"{name}: at threshold {threshold:g} SLAYER's threshold_eps of {neuron.threshold_eps:g} vanishes and it spikes at equality, "
            "which the chip does not; set block.neuron.threshold_eps = 1 / block.neuron.s_scale before training."
        )


def _is_dense(block: Any) -> bool:
    return isinstance(block.synapse, slayer.synapse.Dense)


def _whole(name: str, what: str, values: torch.Tensor) -> NDArray[np.int32]:
    array = values.detach().double().cpu().numpy()
    if not np.all(np.isfinite(array)):
        raise FreezeError(f"{name}: its {what} holds values that are not numbers; the training has diverged.")
    odd = array != np.rint(array)
    if odd.any():
        raise FreezeError(
            f"{name}: {int(odd.sum())} of {array.size} {what} values are not whole numbers of the device unit, the first is "
            f"{array[odd].flat[0]:.6g}; quantise them (ReScaW as pre_hook_fx, or our blocks)."
        )
    largest = float(np.abs(array).max(initial=0.0))
    if largest > np.iinfo(np.int32).max:
        raise FreezeError(
            f"{name}: its {what} reaches {largest:.3g}, far beyond what the chip holds; the training has diverged."
        )
    whole: NDArray[np.int32] = np.rint(array).astype(np.int32)
    return whole


# --- the bounds of contract point 5 ------------------------------------------------------------------------------------


def check(projection: Projection, population: Population, steps: int, input_max: int) -> None:
    """Refuses what the chip cannot hold or where SLAYER, simulation and Lava could differ.

    Args:
        projection, population: the layer, its synapses first.
        steps: T.
        input_max: the largest value of a spike that arrives.

    Raises:
        FreezeError: one of the bounds, by name and number.
    """
    weight = projection.synapse.weight.astype(np.int64)
    name = population.name
    neuron = population.neuron
    assert isinstance(neuron, Lif | Integrator)
    if not weight.any():
        raise FreezeError(f"{name}: all weights are zero (Lava's reader overflows on them); train longer, or with more bits.")
    _check_weights(weight, name)
    if isinstance(projection.synapse, Dense) and not dense_is_exact(weight):
        raise FreezeError(
            f"{name}: no weight is positive and the least is {weight.min()}, a power of two; Lava's dense synapse cuts such a matrix "
            "(-8, -8 runs as zeros). Train longer, or with more bits."
        )
    bias = np.zeros(weight.shape[0], np.int64) if population.bias is None else population.bias.astype(np.int64)
    if bias.min() < MIN_BIAS or bias.max() > MAX_BIAS:
        raise FreezeError(
            f"{name}: bias mantissas {bias.min()}..{bias.max()}; the chip holds {MIN_BIAS}..{MAX_BIAS}. "
            "Fewer weight bits or a smaller batch-norm shift bring them down."
        )
    u, v = largest_states(weight, bias, neuron.current_decay, neuron.voltage_decay, steps, input_max)
    if u >= STATE_LIMIT:
        raise FreezeError(
            f"{name}: its current can reach {u} within {steps} steps; it must stay below 2**23 = {STATE_LIMIT}. "
            "Use fewer inputs, fewer bits, a faster current decay or a shorter window."
        )
    top = voltage_limit(neuron)
    if v >= top:
        raise FreezeError(
            f"{name}: its voltage can reach {v} within {steps} steps; it must stay below {top}. "
            "Use fewer inputs, fewer bits, faster decays or a shorter window."
        )


def _check_weights(weight: NDArray[np.int64], name: str) -> None:
    low, high = int(weight.min()), int(weight.max())
    if low < MIN_WEIGHT or high > MAX_WEIGHT:
        raise FreezeError(
            f"{name}: weights {low}..{high}; the chip holds {MIN_WEIGHT}..{MAX_WEIGHT}. Quantise to at most 8 bits."
        )
    odd = (weight % 2 != 0).any()
    if odd and max(-low - 1, high) > MAX_ODD:
        raise FreezeError(
            f"{name}: weights {low}..{high}, some of them odd; beyond {MAX_ODD} only even ones fit 8 bits and a shift."
        )
