"""What a netx file holds, layer by layer, how far its states can go, and what the stock reader would not say: plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from netx_export.bounds import Reach, reach
from netx_export.hdf5 import Finding, survey
from netx_export.integers import stored_bits
from netx_export.lava_run import wrong_on_lava
from netx_export.network import Conv, Dense, Integrator, Lif, Network
from netx_export.simulate import fan_out

NEURONS = {"Lif": "LIF", "Integrator": "integrator", "Delta": "delta", "SigmaDelta": "sigma-delta", "Sigma": "sigma"}


@dataclass(frozen=True)
class LayerInfo:
    """One population and the projection into it.

    Args:
        name, type: "input", "dense" or "conv".
        shape: (C, H, W) or (N,).
        neuron: "LIF", "integrator", "delta", "sigma-delta", "sigma", or "" for the host's input.
        current_decay, voltage_decay, threshold: device integers; None for the host's input (decays: also for sigma-delta neurons).
        bias: [lowest, highest] mantissa, None where there is none.
        weight: [lowest, highest], None for the input.
        weights, nonzero: stored weights, and how many are not zero.
        synapses: non-zero logical connections.
        stored_bits: bits per weight on the chip.
        kernel, stride, padding, dilation, groups: of a convolution, else None.
        delay: the longest axonal delay, in steps.
        reach: how far u and v can go; None for the host's input and sigma-delta neurons.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    neuron: str
    current_decay: int | None
    voltage_decay: int | None
    threshold: int | None
    bias: tuple[int, int] | None
    weight: tuple[int, int] | None
    weights: int
    nonzero: int
    synapses: int
    stored_bits: int
    kernel: tuple[int, int] | None
    stride: tuple[int, int] | None
    padding: tuple[int, int] | None
    dilation: tuple[int, int] | None
    groups: int | None
    delay: int
    reach: Reach | None


def inspect_file(path: Path | str, *, steps: int | None = None) -> dict[str, Any]:
    """A netx file as plain data, also one that :func:`netx_export.hdf5.read` refuses for what the stock reader ignores in silence.

    Args:
        path: the file.
        steps: a window to bound the states in; None: the file's, if it says one.

    Returns:
        what :func:`describe` says of the network that stock Lava would set up, and ``warnings``: a table
        (:class:`netx_export.hdf5.Finding`) of each thing that Lava ignores, cuts or computes wrongly without saying so, those of the
        file first; ``read``: "refused", "as_lava" or "taken", by what :func:`netx_export.hdf5.read` does with the file.

    Raises:
        FormatError: the file is damaged, or has what nobody reads.
        NetworkError: ``steps`` outside 1..2**20.
    """
    return surveyed(path, steps=steps)[1]


def surveyed(path: Path | str, *, steps: int | None = None) -> tuple[Network, dict[str, Any]]:
    """The network that stock Lava would set up from a file, and what :func:`inspect_file` says of it; likewise."""
    network, found = survey(path)
    if steps is not None:
        network = replace(network, steps=steps)
    wrong = [Finding(w.layer, w.key, w.what, w.way, "taken") for w in wrong_on_lava(network)]
    worst = next((read for read in ("refused", "as_lava") if any(f.read == read for f in found)), "taken")
    return network, {**describe(network), "read": worst, "warnings": [asdict(finding) for finding in (*found, *wrong)]}


def describe(network: Network) -> dict[str, Any]:
    """The whole network as plain data: input, read-out, window, totals and one entry per population."""
    layers = [_layer(network, p.name) for p in network.populations]
    return {
        "input_shape": list(network.input.shape),
        "input_bits": network.input_bits,
        "steps": network.steps,
        "readout": None if network.readout is None else str(network.readout),
        "neurons": sum(p.size for p in network.populations if p.neuron is not None),
        "weights": sum(layer.weights for layer in layers),
        "synapses": sum(layer.synapses for layer in layers),
        "layers": [asdict(layer) for layer in layers],
    }


def _layer(network: Network, name: str) -> LayerInfo:
    population = network[name]
    neuron = population.neuron
    incoming = network.into(name)
    synapse = incoming[0].synapse if incoming else None
    conv = synapse if isinstance(synapse, Conv) else None
    delays = [int(np.max(p.delay)) for p in incoming if p.delay is not None]
    return LayerInfo(
        name=name,
        type="conv" if conv else "dense" if isinstance(synapse, Dense) else "input",
        shape=population.shape,
        neuron="" if neuron is None else NEURONS[type(neuron).__name__],
        current_decay=neuron.current_decay if isinstance(neuron, Lif | Integrator) else None,
        voltage_decay=neuron.voltage_decay if isinstance(neuron, Lif | Integrator) else None,
        threshold=None if neuron is None else neuron.threshold,
        bias=None if population.bias is None else (int(population.bias.min()), int(population.bias.max())),
        weight=None if synapse is None else (int(synapse.weight.min()), int(synapse.weight.max())),
        weights=sum(p.synapse.weight.size for p in incoming),
        nonzero=sum(int(np.count_nonzero(p.synapse.weight)) for p in incoming),
        synapses=sum(int(fan_out(p.synapse, network[p.source].shape).sum()) for p in incoming),
        stored_bits=max((stored_bits(p.synapse.weight) for p in incoming), default=0),
        kernel=None if conv is None else (conv.weight.shape[2], conv.weight.shape[3]),
        stride=None if conv is None else conv.stride,
        padding=None if conv is None else conv.padding,
        dilation=None if conv is None else conv.dilation,
        groups=None if conv is None else conv.groups,
        delay=max(delays, default=0),
        reach=reach(network, name),
    )
