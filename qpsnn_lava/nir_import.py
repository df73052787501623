"""A NIR file of any framework as an integer network: its own integers where we wrote it, else quantised by ReScaW."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from netx_export.errors import ConfigError, FormatError, FreezeError
from netx_export.integers import DECAY_ONE
from netx_export.network import MAX_THRESHOLD, Conv, Dense, Network, Population, Projection, neuron_of
from netx_export.nir_file import RealLayer, RealNetwork, layers_of, network_of, read_nir
from netx_export.text import plain

if TYPE_CHECKING:
    from qpsnn_lava.quantise import Gamma, Quantiser

BITS = 8
GAMMA: Gamma = "max"  # nothing is clipped: there is no training that would make up for it
FINE = 4096  # a threshold of at least that is rounded by no more than one part in 8192, as decays are
MAX_BIAS = 4095  # mantissas: the chip's 13 bits
MAX_DOUBLINGS = 7  # of an integer, up to 254


@dataclass(frozen=True)
class Rounding:
    """What quantising changed in one layer.

    Args:
        layer: the NIR neuron's name.
        bits, gamma: ReScaW's, of this layer.
        weight_error: root mean square of ``q 2**k step / 2**k - W`` over that of W.
        clipped: share of the weights beyond gamma.
        threshold: the device's mantissa; of a read-out the chip's largest.
        threshold_error: relative.
        current_decay, voltage_decay: in 4096ths.
        current_decay_error, voltage_decay_error: absolute, in 4096ths.
        bias_error: the largest, in units of the threshold (of a read-out: of one weight step).
        notes: what else is not computed as the file says, in sentences.
    """

    layer: str
    bits: int
    gamma: str
    weight_error: float
    clipped: float
    threshold: int
    threshold_error: float
    current_decay: int
    current_decay_error: float
    voltage_decay: int
    voltage_decay_error: float
    bias_error: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Imported:
    """What a NIR file became.

    Args:
        network: device integers.
        dt: seconds a step.
        roundings: one a layer; empty where the file held the integers and nothing was rounded.
    """

    network: Network
    dt: float
    roundings: tuple[Rounding, ...]

    @property
    def exact(self) -> bool:
        """Whether the file held the integers."""
        return not self.roundings


def import_nir(
    path: Path | str,
    *,
    dt: float | None = None,
    bits: Mapping[str, int] | int = BITS,
    gamma: Mapping[str, Gamma] | Gamma = GAMMA,
    anew: bool = False,
) -> Imported:
    """Reads a NIR file as an integer network.

    A file that :func:`netx_export.nir_file.write_nir` wrote gives the same network back, bit for bit.  Any other is stepped by ``dt`` and
    quantised, as :func:`quantise` says.

    Args:
        path: a NIR file whose graph is a chain.
        dt: seconds a step, for files of others with time constants.
        bits, gamma: of ReScaW, for all layers, or by the NIR neuron's name with "" for all others.
        anew: quantise also a file that holds the integers.

    Raises:
        FormatError, ConfigError: as :mod:`netx_export.nir_file`.
        FreezeError: for a layer that has no place on the chip.
    """
    chain = read_nir(path)
    try:
        if chain.integers and not anew:
            return Imported(network_of(chain), float(np.asarray(chain.integers["dt"]).item()), ())
        if dt is None and chain.integers:
            kept = np.asarray(chain.integers.get("dt"))
            dt = float(kept) if kept.size == 1 and kept.dtype.kind == "f" else None
        real = layers_of(chain, dt)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    network, roundings = quantise(real, bits=bits, gamma=gamma)
    return Imported(network, real.dt, roundings)


def quantise(
    real: RealNetwork, *, bits: Mapping[str, int] | int = BITS, gamma: Mapping[str, Gamma] | Gamma = GAMMA
) -> tuple[Network, tuple[Rounding, ...]]:
    """Device integers for layers in units of their threshold, and what was rounded.

    ReScaW's integers q and step (:func:`qpsnn_lava.quantise.integers`, mid_tread) of ``W``, times a power of two that costs no bits::

        weight = q 2**k;  threshold = round(2**k / step);  bias = round(bias 2**k / step);  decays = round(4096 decay)

    with the smallest k that makes the threshold at least 4096, as far as ``|q| 2**k <= 254``, thresholds up to 131070 and biases up to 4095
    allow; where even k = 0 is too much, gamma is doubled until it fits.  A read-out has no threshold: k is 0, or as large as its bias
    allows.

    Args:
        real: from :func:`netx_export.nir_file.layers_of`.
        bits: 2..8, for all layers, or by name; "" stands for all others (8 where it is missing).
        gamma: likewise (max).

    Raises:
        ConfigError: for a name that is no layer.
        FreezeError: for a layer whose integers would all be zero, or whose weights are too large or too small for its threshold.
    """
    names = [layer.name for layer in real.layers]
    for what, choice in (("bits", bits), ("gamma", gamma)):
        for name in choice if isinstance(choice, Mapping) else ():
            if name and name not in names:
                known = ", ".join(plain(n) for n in names[:12])
                raise ConfigError(f"{what} of {plain(name)!r}: there is no such layer; the file has {known}.")
    populations = [Population(real.input_name, real.input_shape)]
    projections, roundings = [], []
    for layer in real.layers:
        chosen = _quantiser(layer.name, bits, gamma)
        population, synapse, rounding = _layer(layer, chosen)
        projections.append(Projection(populations[-1].name, layer.name, synapse))
        populations.append(population)
        roundings.append(rounding)
    return Network(tuple(populations), tuple(projections)), tuple(roundings)


def _quantiser(name: str, bits: Mapping[str, int] | int, gamma: Mapping[str, Gamma] | Gamma) -> Quantiser:
    from qpsnn_lava.quantise import Quantiser

    width = bits.get(name, bits.get("", BITS)) if isinstance(bits, Mapping) else bits
    scale = gamma.get(name, gamma.get("", GAMMA)) if isinstance(gamma, Mapping) else gamma
    return Quantiser(width, gamma=scale)


def _layer(layer: RealLayer, quantiser: Quantiser) -> tuple[Population, Dense | Conv, Rounding]:
    import torch

    from qpsnn_lava.quantise import WEIGHT_LIMIT, inside, integers

    name = plain(layer.name)
    weight = torch.from_numpy(layer.weight)
    most_bias = float(np.abs(layer.bias).max())
    largest, widen, bias_room = float(np.abs(layer.weight).max()), 0, 0
    while True:
        q, step = integers(weight, quantiser, widen)
        top = int(q.abs().max())
        if not top:
            limit = (
                "threshold is 131071" if bias_room >= 0 else f"bias is {MAX_BIAS}, and its own is {most_bias:.3g} thresholds"
            )
            raise FreezeError(
                f"{name}: its largest weight is {largest:.3g} thresholds, nothing in {quantiser.bits} bits where the largest {limit}; "
                "rescale the layer, or leave it out."
            )
        bias_room = _doublings(MAX_BIAS * step / most_bias) if most_bias else MAX_DOUBLINGS
        threshold_room = _doublings((MAX_THRESHOLD - 1) * step) if layer.spikes else MAX_DOUBLINGS
        room = min(math.floor(math.log2(WEIGHT_LIMIT / top)), bias_room, threshold_room)
        if room >= 0:
            break
        widen += 1
    wanted = max(0, math.ceil(math.log2(FINE * step))) if layer.spikes else room if most_bias else 0
    scale = 2 ** min(room, wanted)
    threshold = round(scale / step) if layer.spikes else MAX_THRESHOLD
    if threshold < 1:
        raise FreezeError(
            f"{name}: its largest weight is {largest:.3g} thresholds, beyond what 8 bits can say beside a threshold of at least 1; "
            "rescale the layer."
        )
    device = (q.double() * scale).numpy().astype(np.int64)
    bias = np.rint(layer.bias * scale / step).astype(np.int64)
    current, voltage = (round(DECAY_ONE * rate) for rate in (layer.current_decay, layer.voltage_decay))
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    synapse = Dense(device) if device.ndim == 2 else Conv(device, *geometry)
    unit = threshold if layer.spikes else scale
    rounding = Rounding(
        layer.name,
        quantiser.bits,
        quantiser.gamma,
        weight_error=float(np.sqrt(np.mean((q.double().numpy() * step - layer.weight) ** 2) / np.mean(layer.weight**2))),
        clipped=1 - float(inside(weight, quantiser, widen).double().mean()),
        threshold=threshold,
        threshold_error=abs(threshold * step / scale - 1) if layer.spikes else 0.0,
        current_decay=current,
        current_decay_error=abs(current - DECAY_ONE * layer.current_decay),
        voltage_decay=voltage,
        voltage_decay_error=abs(voltage - DECAY_ONE * layer.voltage_decay),
        bias_error=float(np.abs(bias - layer.bias * scale / step).max()) / unit,
        notes=layer.notes,
    )
    return Population(layer.name, layer.shape, neuron_of(current, voltage, threshold), bias), synapse, rounding


def _doublings(factor: float) -> int:
    """The largest k with ``2**k <= factor``; -1 where there is none."""
    return math.floor(math.log2(factor)) if factor >= 1 else -1
