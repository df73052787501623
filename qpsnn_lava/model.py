"""A spiking network of our blocks, and how a model's output becomes scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from netx_export.errors import ConfigError, NetworkError
from netx_export.network import Rate, Readout, Voltage
from qpsnn_lava import blocks
from qpsnn_lava.blocks import NeuronOptions
from qpsnn_lava.config import ConvLayer, Experiment, PoolLayer, weight_bits
from qpsnn_lava.quantise import Quantiser, grid_use


class SpikingNetwork(torch.nn.Module):
    """Blocks one after another; the last one is the read-out.

    Args:
        blocks: our blocks, or stock ``slayer.block.cuba`` blocks.
        names: of the populations, one for each block that has neurons.
        readout: how the output is read.
    """

    def __init__(self, blocks: list[torch.nn.Module], names: list[str], readout: Readout) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(blocks)
        self.names = tuple(names)
        self.readout = readout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W, T) -> (N, units, T): spikes, or the read-out's voltage in real units."""
        for block in self.blocks:
            x = block(x)
        last = self.blocks[-1]
        return x / last.norm.unit if isinstance(last, blocks.Integrate) else x


def build(experiment: Experiment, shape: tuple[int, int, int], classes: int, input_max: int) -> SpikingNetwork:
    """The network that an experiment describes, in float, with weights drawn from torch's global generator.

    Args:
        experiment: layers, neurons, bits, read-out.
        shape: (C, H, W) of the input.
        classes: of the data.
        input_max: the largest input value.

    Raises:
        NetworkError: where a layer does not fit on the map that reaches it.
    """
    neuron, quantise = experiment.neuron, experiment.quantise
    options = NeuronOptions(**neuron.model_dump())
    pool_options = NeuronOptions(current_decay=4096, voltage_decay=4096, threshold=0.5)
    quantisers = iter(_quantisers(experiment))
    made: list[torch.nn.Module] = []
    names: list[str] = []
    channels, height, width = shape
    flat = 0
    for i, layer in enumerate(experiment.network):
        quantiser = None if isinstance(layer, PoolLayer) else next(quantisers)
        names.append(f"{layer.type}{i + 1}")
        if isinstance(layer, ConvLayer):
            assert quantiser is not None
            reach = height + 2 * layer.padding - layer.kernel, width + 2 * layer.padding - layer.kernel
            _check_fits(f"network[{i}]", reach, layer.kernel, (height, width))
            if channels % layer.groups:
                raise NetworkError(
                    f"network[{i}].groups is {layer.groups}, which does not divide its {channels} input channels."
                )
            made.append(
                blocks.Conv(
                    options,
                    quantiser,
                    channels,
                    layer.channels,
                    layer.kernel,
                    layer.stride,
                    layer.padding,
                    groups=layer.groups,
                    norm=quantise.norm,
                    input_max=input_max,
                )
            )
            channels, height, width = layer.channels, reach[0] // layer.stride + 1, reach[1] // layer.stride + 1
        elif isinstance(layer, PoolLayer):
            reach = height - layer.kernel, width - layer.kernel
            _check_fits(f"network[{i}]", reach, layer.kernel, (height, width))
            made.append(blocks.SumPool(pool_options, channels, layer.kernel))
            height, width = reach[0] // layer.kernel + 1, reach[1] // layer.kernel + 1
        else:
            assert quantiser is not None
            if not flat:
                made.append(blocks.Flatten())
            made.append(
                blocks.Dense(options, quantiser, flat or channels * height * width, layer.units, quantise.norm, input_max)
            )
            flat = layer.units
        input_max = 1
    if not flat:
        made.append(blocks.Flatten())
        flat = channels * height * width
    names.append("output")
    last = next(quantisers)
    readout: Readout
    if experiment.readout.kind == "integrator":
        readout = Voltage()
        made.append(blocks.Integrate(last, flat, classes))
    else:
        readout = Rate(classes)
        made.append(blocks.Dense(options, last, flat, classes * experiment.readout.neurons_per_class, quantise.norm))
    for block in made:
        if isinstance(block, blocks.Block):
            block.fused = block.fused and experiment.train.dynamics == "fused"
    return SpikingNetwork(made, names, readout)


def _quantisers(experiment: Experiment) -> list[Quantiser]:
    """Of each layer with trained weights, in order."""
    settled = experiment.quantise
    options = settled.model_dump(include={field.name for field in fields(Quantiser)} - {"bits"})
    return [Quantiser(bits, **options) for bits in weight_bits(experiment)]


def _check_fits(where: str, reach: tuple[int, int], kernel: int, size: tuple[int, int]) -> None:
    if min(reach) < 0:
        raise NetworkError(
            f"{where}: its kernel of {kernel} does not fit on a map of {size[0]}x{size[1]}; use fewer or smaller strides."
        )


RATE_GAIN = 8.0  # logits per spike and step: turns rates in 0..1 into scores that a cross-entropy can separate


def logits(output: torch.Tensor, readout: Readout) -> torch.Tensor:
    """Scores (N, classes) of a model's output (N, units, T), for the cross-entropy.

    Voltage: ``v[T-1] / T``.  Rate: the mean rate of each class's consecutive units, times 8.
    """
    steps = output.shape[-1]
    if isinstance(readout, Voltage):
        return output[..., -1] / steps
    if output.shape[1] % readout.classes:
        raise ConfigError(f"{output.shape[1]} output units cannot be shared evenly by {readout.classes} classes.")
    return RATE_GAIN * output.mean(-1).reshape(output.shape[0], readout.classes, -1).mean(-1)


_OWN = (blocks.Conv, blocks.Dense, blocks.Integrate)


def own_blocks(model: torch.nn.Module) -> Iterator[Any]:
    """The blocks of ours that a model holds (those with a quantiser), in order."""
    return (m for m in model.modules() if isinstance(m, _OWN))


def block_names(model: SpikingNetwork) -> dict[int, str]:
    """The population of each block that has neurons, by the block's index, in order."""
    weighted = [i for i, block in enumerate(model.blocks) if hasattr(block, "synapse")]
    return dict(zip(weighted, model.names, strict=True))


def named_blocks(model: SpikingNetwork) -> dict[str, Any]:
    """The blocks that have neurons, by their population's name, in order."""
    return {name: model.blocks[i] for i, name in block_names(model).items()}


def _own_by_name(model: SpikingNetwork) -> dict[str, Any]:
    return {name: block for name, block in named_blocks(model).items() if isinstance(block, _OWN)}


def asked_bits(model: SpikingNetwork) -> dict[str, int]:
    """Weight bits that the experiment asks for, by population, of the layers with trained weights."""
    return {name: block.quantiser.bits for name, block in _own_by_name(model).items()}


def grid_uses(model: SpikingNetwork) -> dict[str, tuple[float, float]]:
    """How much of the grid the weights use, without and with gamma, by population (:func:`qpsnn_lava.quantise.grid_use`)."""
    return {name: grid_use(block.scaled_weight(), block.quantiser) for name, block in _own_by_name(model).items()}


def set_quantised(model: torch.nn.Module, quantised: bool) -> None:
    """Whether our blocks compute with the chip's integers or in float."""
    for block in own_blocks(model):
        block.quantised = quantised


def set_bits(model: SpikingNetwork, bits: Mapping[str, int]) -> None:
    """Gives the named layers so many weight bits (2..8); the others keep theirs."""
    for name, block in named_blocks(model).items():
        if name in bits:
            block.quantiser = replace(block.quantiser, bits=bits[name])


def set_frozen(model: torch.nn.Module, frozen: bool) -> None:
    """Whether the norms of our blocks keep to their running statistics while training."""
    for block in own_blocks(model):
        block.norm.frozen = frozen


def parameters_of(model: torch.nn.Module) -> int:
    """Number of trained parameters."""
    return sum(math.prod(p.shape) for p in model.parameters() if p.requires_grad)
