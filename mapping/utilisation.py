"""What a mapping uses, per layer and in total: the numbers of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingType
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from mapping.chip import Chip
from mapping.cost import (
    ConvInput,
    DenseInput,
    FanOut,
    Layer,
    Usage,
    binding,
    fan_out,
    lower_bound,
    network_lower_bound,
    plan_layers,
    slice_usage,
    traffic_usage,
)
from mapping.mapping import Mapping, Range
from mapping.partition import cut_layer
from netx_export.errors import CapacityError, ConfigError
from netx_export.network import Conv, Network


@dataclass(frozen=True)
class LayerUse:
    """One row: a population and its cores.  Means over its cores are cut to whole numbers, as the compiler prints them.

    Args:
        name: of the population.
        type: "input", "conv", "dense", or "host" for an input without neurons, which takes no core.
        shape: of the population.
        cores: that it takes (those it shares with other layers count too).
        lower_bound: cores that it takes at least where it shares none, however it is cut.
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
        gap_percent: cores above the lower bound, of it; None where it takes no core.
        percent: resource -> mean, least and most that its cores use of their limit, by this layer alone.
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
    gap_percent: float | None
    percent: MappingType[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Utilisation:
    """A mapping in numbers.

    Args:
        chip, profile: name of the chip, and the limits that the caller changed.
        fits: whether the board's chips suffice.
        verdict: the same in one sentence, with what binds and a way out.
        cores, chips: that the mapping takes.
        lower_bound: cores that are needed at least (:func:`mapping.cost.network_lower_bound`): the sum of the layers', or,
            where layers may share cores, from all resources together.
        gap_percent: cores above it, of it.
        neurons, synapse_words: over all cores.
        core_percent: cores in use, of those of its chips.
        layers: one row per population.
        warnings: what is legal and yet not safe, one sentence each.
        evidence: what the numbers rest on; the first entry is the sentence that must stand in every report.
    """

    chip: str
    profile: str
    fits: bool
    verdict: str
    cores: int
    chips: int
    lower_bound: int
    gap_percent: float
    neurons: int
    synapse_words: int
    core_percent: float
    layers: tuple[LayerUse, ...]
    warnings: tuple[str, ...]
    evidence: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        table = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **table,
            "layers": [_plain(asdict(row)) for row in self.layers],
            "warnings": list(self.warnings),
            "evidence": list(self.evidence),
        }


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
    slices = {name: _by_core(mapping, name) for name in layers}
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
            rows.append(_row(layers[name], slices[name], uses[name], shape, mapping.chip))
        else:
            rows.append(_host_row(name, shape, population.size))
    total = reduce(add, (use for usages in uses.values() for use in usages), Usage())
    bound = network_lower_bound(list(layers.values()), mapping.chip)
    return Utilisation(
        chip=mapping.chip.name,
        profile=mapping.chip.profile,
        fits=needed <= chips,
        verdict=_verdict(rows, mapping, needed, chips),
        cores=len(mapping.cores),
        chips=needed,
        lower_bound=bound,
        gap_percent=_gap(len(mapping.cores), bound) or 0.0,
        neurons=total.neurons,
        synapse_words=total.synapse_words,
        core_percent=100 * len(mapping.cores) / (mapping.chip.cores_per_chip * max(1, needed)),
        layers=tuple(rows),
        warnings=_warnings(network, mapping.chip),
        evidence=mapping.chip.evidence,
    )


def partial_utilisation(network: Network, chip: Chip, reason: CapacityError) -> dict[str, Any]:
    """What can be said of a network that does not fit: the tables of :meth:`Utilisation.to_dict`, None for what is unknown.

    Layers that fit by themselves have their rows without what depends on others.  Each row has two keys more: ``error``, a
    sentence where the layer has no place, else None; ``excess``, a table (``resource``, ``need``, ``limit``) for each resource of which one
    of its neurons needs more than a core has (``need`` is None where it is not one number).

    Args:
        network: that was to be mapped.
        chip: with the rules that were asked for.
        reason: why it does not fit; its sentence becomes the verdict.
    """
    rows: list[dict[str, Any]] = []
    layers = {layer.name: layer for layer in plan_layers(network)}
    for population in network.populations:
        layer = layers.get(population.name)
        if layer is None:
            rows.append(_with_fault(_host_row(population.name, population.shape, population.size), None))
            continue
        try:
            slices = [[ranges] for ranges in cut_layer(layer, chip).slices()]
        except CapacityError as error:
            unknown = {f.name: None for f in fields(LayerUse)}
            shape, least = list(population.shape), lower_bound(layer, chip)
            known = {"name": layer.name, "type": layer.kind, "shape": shape, "neurons": population.size, "lower_bound": least}
            rows.append({**unknown, **known, "percent": {}, **_fault(error)})
            continue
        usages = [slice_usage(layer, boxes[0], chip) for boxes in slices]
        fault = reason if reason.layer == layer.name else None  # by itself it fits, together with the others it does not
        rows.append(_with_fault(_row(layer, slices, usages, population.shape, chip), fault))
    unknown = {f.name: None for f in fields(Utilisation)}
    bound = network_lower_bound(list(layers.values()), chip)
    known = {"chip": chip.name, "profile": chip.profile, "fits": False, "verdict": str(reason), "lower_bound": bound}
    return {**unknown, **known, "layers": rows, "warnings": list(_warnings(network, chip)), "evidence": list(chip.evidence)}


def _with_fault(row: LayerUse, error: CapacityError | None) -> dict[str, Any]:
    return {**_plain(asdict(row)), **_fault(error)}


def _fault(error: CapacityError | None) -> dict[str, Any]:
    """Why a layer has no place, as a sentence and as numbers."""
    excess = error.excess if error else ()
    return {
        "error": str(error) if error else None,
        "excess": [{"resource": resource, "need": need, "limit": limit} for resource, need, limit in excess],
    }


def _warnings(network: Network, chip: Chip) -> tuple[str, ...]:
    """Convolutions that are wider than the x-coordinate of a spike, on Loihi 2."""
    if chip.model != "loihi2":
        return ()
    widest = int(chip.rule("widest_conv"))
    shapes = {p.source: network[p.source].shape for p in network.projections if isinstance(p.synapse, Conv)}
    return tuple(
        f"{name} is {shape[2]} pixels wide and feeds a convolution; beyond {widest} the chip may drop spikes. "
        "Way out: a stride or a pooling layer before it, or split the image"
        for name, shape in shapes.items()
        if shape[2] > widest
    )


Boxes = list[tuple[Range, ...]]  # the slices of one population on one core


def _by_core(mapping: Mapping, population: str) -> list[Boxes]:
    """The slices of a population, core by core."""
    found = [[piece.ranges for piece in core.slices if piece.population == population] for core in mapping.cores]
    return [boxes for boxes in found if boxes]


def fan_by_core(shape: tuple[int, ...], synapses: DenseInput | ConvInput, targets: Sequence[Boxes]) -> FanOut:
    """:func:`mapping.cost.fan_out` where a core may hold several slices of the target: it counts once."""
    alone = fan_out(shape, synapses, [boxes[0] for boxes in targets if len(boxes) == 1])
    together = [fan_out(shape, synapses, boxes).cores > 0 for boxes in targets if len(boxes) > 1]
    return FanOut(alone.cores + sum(together, start=np.int64(0)), alone.convolution)


def core_usages(network: Network, mapping: Mapping) -> tuple[Usage, ...]:
    """What each core of a mapping uses in all, its slices added up.

    On loihi1 every out-axon of a mapping on several chips is taken for one to another chip (two slots): an upper bound.
    """
    layers = {layer.name: layer for layer in plan_layers(network)}
    slices = {name: _by_core(mapping, name) for name in layers}
    needed = len({core.chip for core in mapping.cores})
    parts = {name: iter(_layer_usages(layer, layers, slices, mapping, needed)) for name, layer in layers.items()}
    totals = []
    for core in mapping.cores:
        populations = dict.fromkeys(piece.population for piece in core.slices)
        totals.append(reduce(add, (next(parts[name]) for name in populations), Usage()))
    return tuple(totals)


def _layer_usages(
    layer: Layer, layers: dict[str, Layer], slices: dict[str, list[Boxes]], mapping: Mapping, chips: int
) -> list[Usage]:
    """The usage of each core of a layer, by this layer alone."""
    fans: list[FanOut] = [
        fan_by_core(layer.shape, synapses, slices[target.name])
        for target in layers.values()
        for synapses in target.inputs
        if synapses.source == layer.name
    ]
    chip = mapping.chip
    return [
        reduce(add, (slice_usage(layer, ranges, chip) + traffic_usage(ranges, fans, chip, chips) for ranges in boxes))
        for boxes in slices[layer.name]
    ]


def _row(layer: Layer, slices: list[Boxes], usages: list[Usage], shape: tuple[int, ...], chip: Chip) -> LayerUse:
    total = reduce(add, usages)
    cores = len(usages)
    largest = max((ranges for boxes in slices for ranges in boxes), key=lambda ranges: math.prod(b - a for a, b in ranges))
    extents = [stop - start for start, stop in largest]
    limits = chip.core_limits
    resource, share = max((binding(use, limits) for use in usages), key=lambda entry: entry[1])
    bound = lower_bound(layer, chip)
    shares = {name: [100 * use.used(name) / limit for use in usages] for name, limit in limits.items()}
    return LayerUse(
        name=layer.name,
        type=layer.kind,
        shape=shape,
        cores=cores,
        lower_bound=bound,
        tile=(extents[2], extents[1], extents[0]) if len(extents) == 3 else None,
        neurons_per_core=extents[0] if len(extents) == 1 else None,
        neurons=total.neurons,
        neurons_tile=math.prod(extents),
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
        gap_percent=_gap(cores, bound),
        percent={name: (sum(values) / cores, min(values), max(values)) for name, values in shares.items()},
    )


def _gap(cores: int, bound: int) -> float | None:
    return 100 * (cores / bound - 1) if bound else None


def _host_row(name: str, shape: tuple[int, ...], size: int) -> LayerUse:
    return LayerUse(name, "host", shape, 0, 0, None, None, size, 0, 0, 0, 0, 0, 0, 0, 0, None, None, None, None, {})


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
    """The row with lists for tuples, as JSON gives it back."""
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}
    return {**plain, "percent": {name: list(value) for name, value in row["percent"].items()}}
