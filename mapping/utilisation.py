"""What a mapping uses, per layer and in total: the numbers of a report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import reduce
from operator import add
from typing import Any

from mapping.cost import (
    FanOut,
    Layer,
    Usage,
    binding,
    fan_out,
    lower_bound,
    plan_layers,
    slice_usage,
    traffic_usage,
)
from mapping.mapping import Mapping, Range
from netx_export.errors import ConfigError
from netx_export.network import Network


@dataclass(frozen=True)
class LayerUse:
    """One row: a population and its cores.  Means over its cores are cut to whole numbers, as the compiler prints them.

    Args:
        name: of the population.
        type: "input", "conv", "dense", or "host" for an input without neurons, which takes no core.
        shape: of the population.
        cores: that it takes.
        lower_bound: cores that it takes at least, however it is cut.
        tile: [width, height, channels] of its largest slice; None where it is cut by neurons.
        neurons_per_core: neurons of its largest slice where it is cut by neurons; None where it has tiles.
        neurons: in all.
        neurons_tile: neurons of its largest slice.
        neurons_mean: mean.
        synapse_words: mean, words of 64 bits.
        synapse_words_total: over all its cores.
        axon_in, axon_out, axon_map: mean (axon_out: loihi1 only; axon_map: loihi2 only).
        axon_mem: mean; an estimate that no limit is compared with (loihi2 only).
        pool_percent: mean use of the shared pool without axon_mem; None where the chip has no pool.
        binding: the resource that is fullest on its fullest core; None where it takes no core.
        binding_percent: how full.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    cores: int
    lower_bound: int
    tile: tuple[int, int, int] | None
    neurons_per_core: int | None
    neurons: int
    neurons_tile: int
    neurons_mean: int
    synapse_words: int
    synapse_words_total: int
    axon_in: int
    axon_out: int
    axon_map: int
    axon_mem: int
    pool_percent: float | None
    binding: str | None
    binding_percent: float | None


@dataclass(frozen=True)
class Utilisation:
    """A mapping in numbers.

    Args:
        chip, profile: name of the chip, and the limits that the caller changed.
        fits: whether the board's chips suffice.
        verdict: the same in one sentence, with what binds and a way out.
        cores, chips: that the mapping takes.
        lower_bound: sum of the layers' (layers do not share cores).
        neurons, synapse_words: over all cores.
        core_percent: cores in use, of those of its chips.
        layers: one row per population.
        evidence: what the numbers rest on; the first entry is the sentence that must stand in every report.
    """

    chip: str
    profile: str
    fits: bool
    verdict: str
    cores: int
    chips: int
    lower_bound: int
    neurons: int
    synapse_words: int
    core_percent: float
    layers: tuple[LayerUse, ...]
    evidence: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        table = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**table, "layers": [_plain(asdict(row)) for row in self.layers], "evidence": list(self.evidence)}


def utilisation(network: Network, mapping: Mapping, chips: int = 1) -> Utilisation:
    """What the mapping of a network uses.

    Args:
        network: that was mapped.
        mapping: of it.
        chips: how many the board has.

    Raises:
        ConfigError: the mapping is of another network, or ``chips`` is below 1.
    """
    if chips < 1:
        raise ConfigError(f"a board has at least 1 chip, not {chips}.")
    layers = {layer.name: layer for layer in plan_layers(network)}
    slices = {name: [piece.ranges for piece in mapping.slices(name)] for name in layers}
    strangers = {piece.population for core in mapping.cores for piece in core.slices} - set(layers)
    for name in (*strangers, *(name for name in layers if not slices[name])):
        where = "the network" if name in strangers else "the mapping"
        raise ConfigError(f"mapping and network do not belong together: {where} has no layer {name!r}. Map the network again.")
    needed = len({core.chip for core in mapping.cores})
    uses = {name: _layer_usages(layer, layers, slices, mapping, needed) for name, layer in layers.items()}
    rows = []
    for population in network.populations:
        name, shape = population.name, population.shape
        if name in layers:
            rows.append(_row(layers[name], slices[name], uses[name], shape, mapping))
        else:
            rows.append(_host_row(name, shape, population.size))
    total = reduce(add, (use for usages in uses.values() for use in usages), Usage())
    return Utilisation(
        chip=mapping.chip.name,
        profile=mapping.chip.profile,
        fits=needed <= chips,
        verdict=_verdict(rows, mapping, needed, chips),
        cores=len(mapping.cores),
        chips=needed,
        lower_bound=sum(row.lower_bound for row in rows),
        neurons=total.neurons,
        synapse_words=total.synapse_words,
        core_percent=100 * len(mapping.cores) / (mapping.chip.cores_per_chip * max(1, needed)),
        layers=tuple(rows),
        evidence=mapping.chip.evidence,
    )


def _layer_usages(
    layer: Layer, layers: dict[str, Layer], slices: dict[str, list[tuple[Range, ...]]], mapping: Mapping, chips: int
) -> list[Usage]:
    """The usage of each core of a layer."""
    fans: list[FanOut] = [
        fan_out(layer.shape, synapses, slices[target.name])
        for target in layers.values()
        for synapses in target.inputs
        if synapses.source == layer.name
    ]
    chip = mapping.chip
    return [slice_usage(layer, ranges, chip) + traffic_usage(ranges, fans, chip, chips) for ranges in slices[layer.name]]


def _row(
    layer: Layer, slices: list[tuple[Range, ...]], usages: list[Usage], shape: tuple[int, ...], mapping: Mapping
) -> LayerUse:
    chip = mapping.chip
    total = reduce(add, usages)
    cores = len(usages)
    largest = max(range(cores), key=lambda i: usages[i].neurons)
    extents = [stop - start for start, stop in slices[largest]]
    limits = chip.core_limits
    resource, share = max((binding(use, limits) for use in usages), key=lambda entry: entry[1])
    return LayerUse(
        name=layer.name,
        type=layer.kind,
        shape=shape,
        cores=cores,
        lower_bound=lower_bound(layer, chip),
        tile=(extents[2], extents[1], extents[0]) if len(extents) == 3 else None,
        neurons_per_core=extents[0] if len(extents) == 1 else None,
        neurons=total.neurons,
        neurons_tile=usages[largest].neurons,
        neurons_mean=total.neurons // cores,
        synapse_words=total.synapse_words // cores,
        synapse_words_total=total.synapse_words,
        axon_in=total.axon_in // cores,
        axon_out=total.axon_out // cores,
        axon_map=total.axon_map // cores,
        axon_mem=total.axon_mem // cores,
        pool_percent=100 * total.pool / cores / limits["pool"] if "pool" in limits else None,
        binding=resource,
        binding_percent=100 * share,
    )


def _host_row(name: str, shape: tuple[int, ...], size: int) -> LayerUse:
    return LayerUse(name, "host", shape, 0, 0, None, None, size, 0, 0, 0, 0, 0, 0, 0, 0, None, None, None)


def _verdict(rows: list[LayerUse], mapping: Mapping, needed: int, chips: int) -> str:
    chip, cores = mapping.chip, len(mapping.cores)
    board = f"{chips} chip{'s' if chips > 1 else ''} of {chip.name} with {chip.cores_per_chip} cores each"
    largest = max(rows, key=lambda row: row.cores)
    if needed <= chips:
        fullest = max(rows, key=lambda row: row.binding_percent or 0.0)
        share = fullest.binding_percent or 0.0
        return f"fits: {cores} cores on {board}; {fullest.name} fills {fullest.binding} to {share:.0f} %"
    return (
        f"does not fit: {cores} cores need {needed} chips, the board is {board}; {largest.name} takes the most, "
        f"{largest.cores} cores, bound by {largest.binding}. "
        f"Way out: fewer channels or bits there, or a board with {needed} chips"
    )


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}
