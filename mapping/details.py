"""Details of a mapping for a report: every core, synapse numbers kept apart, traffic, energy of loihi1, what-if."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping as MappingType
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from mapping.chip import Chip, Loihi1Cost
from mapping.cost import Layer, network_lower_bound, plan_layers, slice_usage
from mapping.coupled import Plan, pareto_front
from mapping.mapper import map_layers
from mapping.mapping import Mapping, Slice
from mapping.placement import routing, tile_of
from mapping.traffic import ASSUMED_RATE, Activity, rates, slice_messages, slice_operations, slice_traffic, synapses_into
from mapping.utilisation import core_usages
from mapping.widths import at_bits, cores_by_bits, good_widths, next_lower_width_that_saves
from netx_export.errors import CapacityError, ConfigError
from netx_export.integers import stored_bits
from netx_export.network import Conv, Dense, Network


@dataclass(frozen=True)
class CoreUse:
    """One core.

    Args:
        chip, core: its indices.
        x, y: its tile on the mesh.
        slices: such as "conv1[0:24, 0:32, 0:4]", several joined by "; ".
        neurons: on it.
        used: resource -> amount.
        limit: resource -> what a core has.
        percent: resource -> used of the limit.
        operations: synaptic operations a step, at the activity that was given or assumed.
        spikes_in: spikes that arrive in a step (from other cores, itself and the host), each once per slice.
        spikes_out: spikes sent in a step, each once per destination core, itself included.
    """

    chip: int
    core: int
    x: int
    y: int
    slices: str
    neurons: int
    used: dict[str, int]
    limit: dict[str, int]
    percent: dict[str, float]
    operations: float
    spikes_in: float
    spikes_out: float

    def to_row(self) -> dict[str, Any]:
        """Flat, for a table: ``used_X``, ``limit_X`` and ``percent_X`` of every resource X."""
        single = [f.name for f in fields(self) if f.name not in ("used", "limit", "percent")]
        row: dict[str, Any] = {name: getattr(self, name) for name in single}
        for name in self.used:
            row |= {
                f"used_{name}": self.used[name],
                f"limit_{name}": self.limit[name],
                f"percent_{name}": round(self.percent[name], 2),
            }
        return row


def core_rows(network: Network, mapping: Mapping, activity: Activity | None = None) -> tuple[CoreUse, ...]:
    """One row per core in use, in the order of the mapping.

    Args:
        network: that was mapped.
        mapping: of it, placed or not.
        activity: population -> spikes per neuron and step; None: a rate is assumed (:func:`mapping.traffic.rates`).
    """
    rate = rates(network, activity)
    layers = {layer.name: layer for layer in plan_layers(network)}
    source, _, spikes = slice_traffic(network, mapping, activity)
    sent = np.bincount(source, weights=spikes, minlength=len(mapping.cores))
    limits = mapping.chip.core_limits
    rows = []
    for number, (core, usage) in enumerate(zip(mapping.cores, core_usages(network, mapping), strict=True)):
        used = {name: usage.used(name) for name in limits}
        x, y = tile_of(mapping.chip, core.core)
        rows.append(
            CoreUse(
                chip=core.chip,
                core=core.core,
                x=int(x),
                y=int(y),
                slices="; ".join(_name(piece) for piece in core.slices),
                neurons=usage.neurons,
                used=used,
                limit=dict(limits),
                percent={name: 100 * used[name] / limit for name, limit in limits.items()},
                operations=math.fsum(slice_operations(layers[piece.population], piece.ranges, rate) for piece in core.slices),
                spikes_in=math.fsum(slice_messages(layers[piece.population], piece.ranges, rate) for piece in core.slices),
                spikes_out=float(sent[number]),
            )
        )
    return tuple(rows)


def _name(piece: Slice) -> str:
    return f"{piece.population}[{', '.join(f'{start}:{stop}' for start, stop in piece.ranges)}]"


@dataclass(frozen=True)
class SynapseNumbers:
    """What "synapses" can mean, kept apart, for one layer.  Words are of 64 bits.

    Args:
        name: of the population.
        logical: connections, zeros included (those that meet padding only are none).
        nonzero: of them, those with a weight that is not 0.
        unique: weights that are stored once, not 0, in the network (shared by the pixels of a convolution).
        words: memory words on all cores of the mapping.
        sharing_ratio: logical connections per unique weight.
        overhead: bits of memory per bit of unique weight (indices, headers, copies on several cores).
        saved_by_pruning: words that an unpruned net of 8 bits needs more than this one at 8 bits, each layer on a single core
            of unlimited size; 0 where no unpruned net was given.
        saved_by_quantisation: words that this net needs more at 8 bits than at its own, likewise.
    """

    name: str
    logical: int
    nonzero: int
    unique: int
    words: int
    sharing_ratio: float
    overhead: float
    saved_by_pruning: int
    saved_by_quantisation: int


def synapse_numbers(network: Network, mapping: Mapping, unpruned: Network | None = None) -> tuple[SynapseNumbers, ...]:
    """The :class:`SynapseNumbers` of every layer that has synapses.

    Args:
        network: that was mapped.
        mapping: of it.
        unpruned: the same network before pruning, for ``saved_by_pruning``; its layers have the same names.

    Raises:
        ConfigError: ``unpruned`` lacks a layer.
    """
    before = {layer.name: layer for layer in plan_layers(unpruned)} if unpruned is not None else {}
    stored: dict[str, int] = {}
    for core, usage in _alone(network, mapping):
        stored[core] = stored.get(core, 0) + usage
    rows = []
    for layer in plan_layers(network):
        if not layer.inputs:
            continue
        if unpruned is not None and layer.name not in before:
            raise ConfigError(f"the unpruned network has no layer {layer.name!r}; give the network that was pruned.")
        whole = tuple((0, n) for n in layer.shape)
        logical = sum(synapses_into(synapses, whole) for synapses in layer.inputs)
        nonzero = unique = bits = 0
        for projection in network.into(layer.name):
            weight = projection.synapse.weight
            count = int(np.count_nonzero(weight))
            unique += count
            bits += count * stored_bits(weight)
            shared = isinstance(projection.synapse, Conv)
            nonzero += _nonzero(projection.synapse, network, projection.source) if shared else count
        words = stored.get(layer.name, 0)
        at_own, at_eight = _words(layer, mapping.chip), _words(at_bits(layer, 8), mapping.chip)
        unpruned_words = _words(at_bits(before[layer.name], 8), mapping.chip) if unpruned is not None else at_eight
        rows.append(
            SynapseNumbers(
                name=layer.name,
                logical=logical,
                nonzero=nonzero,
                unique=unique,
                words=words,
                sharing_ratio=logical / unique if unique else 0.0,
                overhead=64 * words / bits if bits else 0.0,
                saved_by_pruning=unpruned_words - at_eight,
                saved_by_quantisation=at_eight - at_own,
            )
        )
    return tuple(rows)


def _alone(network: Network, mapping: Mapping) -> list[tuple[str, int]]:
    layers = {layer.name: layer for layer in plan_layers(network)}
    return [
        (piece.population, slice_usage(layers[piece.population], piece.ranges, mapping.chip).synapse_words)
        for core in mapping.cores
        for piece in core.slices
    ]


def _words(layer: Layer, chip: Chip) -> int:
    return slice_usage(layer, tuple((0, n) for n in layer.shape), chip).synapse_words


def _nonzero(conv: Conv | Dense, network: Network, source: str) -> int:
    """Connections of a convolution whose weight is not 0: weights times the outputs at which their position meets an input."""
    assert isinstance(conv, Conv)
    shape = network[source].shape
    _, *outputs = conv.output_shape(shape)
    meets = []
    for axis in (0, 1):
        o, k = np.arange(outputs[axis])[:, None], np.arange(conv.weight.shape[2 + axis])[None, :]
        i = o * conv.stride[axis] + k * conv.dilation[axis] - conv.padding[axis]
        meets.append(((i >= 0) & (i < shape[1 + axis])).sum(axis=0))
    return int(np.einsum("oijk,j,k->", (conv.weight != 0).astype(np.int64), *meets))


@dataclass(frozen=True)
class Traffic:
    """Spikes a step between layers, at the activity that was given or assumed.

    Args:
        populations: rows (senders) and columns (receivers); the host's input comes first where it takes no core.
        messages: [sender][receiver], spikes that arrive at cores, one per destination core.
        hops, largest_link, between_chips: as :class:`mapping.placement.Routing`.
        busiest_core: (chip, core) with the most synaptic operations; None where no core is in use.
        busiest_operations: how many, in a step.
    """

    populations: tuple[str, ...]
    messages: tuple[tuple[float, ...], ...]
    hops: float
    largest_link: float
    between_chips: float
    busiest_core: tuple[int, int] | None
    busiest_operations: float


def traffic(network: Network, mapping: Mapping, activity: Activity | None = None) -> Traffic:
    """The :class:`Traffic` of a mapping as it is placed."""
    rate = rates(network, activity)
    names = tuple(p.name for p in network.populations)
    index = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)))
    layers = {layer.name: layer for layer in plan_layers(network)}
    for core in mapping.cores:
        for piece in core.slices:
            for synapses in layers[piece.population].inputs:
                alone = Layer("", "", layers[piece.population].shape, (synapses,), 0, 0)
                matrix[index[synapses.source], index[piece.population]] += slice_messages(alone, piece.ranges, rate)
    cost = routing(network, mapping, activity)
    operations = [
        (math.fsum(slice_operations(layers[piece.population], piece.ranges, rate) for piece in core.slices), core)
        for core in mapping.cores
    ]
    most, busiest = max(operations, key=lambda entry: entry[0], default=(0.0, None))
    return Traffic(
        names,
        tuple(tuple(float(value) for value in row) for row in matrix),
        cost.hops,
        cost.largest_link,
        cost.between_chips,
        None if busiest is None else (busiest.chip, busiest.core),
        most,
    )


@dataclass(frozen=True)
class EnergyRange:
    """Dynamic energy of one step on Loihi 1 in nanojoules, from two published sets of numbers: a range, never one number.

    Args:
        davies: pre-silicon figures at 0.75 V.
        sana_fe: SANA-FE's fit, least and most.
        static_milliwatts: about what a chip draws, times the chips in use.
        sources: of both.
    """

    davies: tuple[float, float]
    sana_fe: tuple[float, float]
    static_milliwatts: float
    sources: tuple[str, ...]


def energy(network: Network, mapping: Mapping, activity: Activity | None = None) -> EnergyRange | None:
    """Energy of a step of a mapping on Loihi 1; None for Loihi 2, of which no energy per operation is public.

    Davies 2018: 23.6 pJ per synaptic operation, 52 (inactive) to 81 pJ (active) per neuron update, 3.0 pJ per hop east or
    west, 4.0 north or south, 1.7 within a tile.  SANA-FE: 24..35.5 pJ per synaptic operation, 51.2 + 21.6 pJ per neuron,
    69.3 pJ per spike and 111 pJ per message.
    """
    if not isinstance(mapping.chip.cost, Loihi1Cost):
        return None
    rate = rates(network, activity)
    rows = core_rows(network, mapping, activity)
    operations = math.fsum(row.operations for row in rows)
    neurons = sum(row.neurons for row in rows)
    layers = plan_layers(network)
    spikes = math.fsum(rate[layer.name] * math.prod(layer.shape) for layer in layers)
    cost = routing(network, mapping, activity)
    mesh = 3.0 * cost.horizontal_hops + 4.0 * cost.vertical_hops + 1.7 * cost.messages
    fixed = neurons * (51.2 + 21.6) + spikes * 69.3 + cost.messages * 111.0
    return EnergyRange(
        davies=((operations * 23.6 + neurons * 52.0 + mesh) / 1e3, (operations * 23.6 + neurons * 81.0 + mesh) / 1e3),
        sana_fe=((operations * 24.0 + fixed) / 1e3, (operations * 35.5 + fixed) / 1e3),
        static_milliwatts=104.0 * len({core.chip for core in mapping.cores}),
        sources=(
            "Davies et al., Loihi, IEEE Micro 38(1), 2018 (pre-silicon, 0.75 V) [published]",
            "SANA-FE's fit to Loihi [published]",
            "static: about 104 mW a chip, Frady et al. 2020 [published]",
        ),
    )


@dataclass(frozen=True)
class WhatIf:
    """A layer at other bits and widths.

    Args:
        name: of the population.
        width, bits: as it is.
        cores_by_bits: stored bits -> cores it would take by itself; None where a neuron would not fit.
        next_width_words: the largest smaller width with fewer synapse words, None where there is none.
        next_width_cores: the largest smaller width with fewer cores, likewise.
        good_widths: up to its own: every larger width costs more words or more cores.
    """

    name: str
    width: int
    bits: int
    cores_by_bits: dict[int, int | None]
    next_width_words: int | None
    next_width_cores: int | None
    good_widths: tuple[int, ...]


def what_if(network: Network, chip: Chip, layers: Sequence[str] | None = None) -> tuple[WhatIf, ...]:
    """The :class:`WhatIf` of layers with synapses (None: all)."""
    rows = []
    for layer in plan_layers(network):
        if not layer.inputs or (layers is not None and layer.name not in layers):
            continue
        words, cores = (next_lower_width_that_saves(layer, chip, cores=by_cores) for by_cores in (False, True))
        rows.append(
            WhatIf(
                layer.name,
                layer.shape[0],
                max(synapses.weight_bits for synapses in layer.inputs),
                cores_by_bits(layer, chip),
                words.width if words else None,
                cores.width if cores else None,
                good_widths(layer, chip),
            )
        )
    return tuple(rows)


def front(network: Network, chip: Chip, activity: Activity | None = None) -> tuple[Plan, ...]:
    """Cores against traffic against the busiest core: :func:`mapping.coupled.pareto_front` of a network."""
    return pareto_front(plan_layers(network), chip, rates(network, activity))


def bound(network: Network, chip: Chip) -> int:
    """:func:`mapping.cost.network_lower_bound` of a network."""
    return network_lower_bound(plan_layers(network), chip)


@dataclass(frozen=True)
class Compared:
    """A network beside others.

    Args:
        name: of the variant.
        cores, chips: that it takes; None where it does not fit.
        lower_bound: cores that it takes at least.
        neurons: that take cores.
        synapse_words: words of 64 bits over all cores; None where it does not fit.
        layers: (name, channels, cores, synapse words) of each layer with synapses; empty where it does not fit.
        error: why it does not fit.
    """

    name: str
    cores: int | None
    chips: int | None
    lower_bound: int
    neurons: int
    synapse_words: int | None
    layers: tuple[tuple[str, int, int, int], ...]
    error: str | None


def compare(variants: MappingType[str, Sequence[Layer]], chip: Chip) -> tuple[Compared, ...]:
    """Networks side by side on one chip: cores and synapse words of each.

    Only shapes and bits count, so a variant need not exist as weights: ``[at_bits(layer, 8) for layer in layers]`` is the same
    network at 8 bits, ``at_widths(layers, {"conv1": 24})`` with other channels.  (Where a chip skips zeros, they are counted of
    layers that come from weights.)

    Args:
        variants: name -> layers, as of :func:`mapping.cost.plan_layers`.
        chip: to map them to, with its rules.
    """
    rows = []
    for name, layers in variants.items():
        sources = {synapses.source for layer in layers for synapses in layer.inputs}
        bound, neurons = network_lower_bound(layers, chip), sum(math.prod(layer.shape) for layer in layers)
        try:
            placed = map_layers(layers, chip, dict.fromkeys(sources | {layer.name for layer in layers}, ASSUMED_RATE))
        except CapacityError as error:
            rows.append(Compared(name, None, None, bound, neurons, None, (), str(error)))
            continue
        table = []
        for layer in layers:
            pieces = placed.slices(layer.name)
            words = sum(slice_usage(layer, piece.ranges, chip).synapse_words for piece in pieces)
            table.append((layer.name, layer.shape[0], len(pieces), words))
        cores = len(placed.cores)
        total, chips = sum(row[3] for row in table), -(-cores // chip.cores_per_chip)
        rows.append(Compared(name, cores, chips, bound, neurons, total, tuple(table), None))
    return tuple(rows)


def describe(
    network: Network, mapping: Mapping, activity: Activity | None = None, unpruned: Network | None = None
) -> dict[str, Any]:
    """All that this module says of a mapping, as plain data for JSON.

    Args:
        network, mapping, activity, unpruned: as of :func:`core_rows` and :func:`synapse_numbers`.

    Returns:
        ``core_use`` (:meth:`CoreUse.to_row` of each), ``mesh`` (``cores_per_chip``, ``cores_per_tile``, ``width`` in tiles),
        ``synapses`` (:class:`SynapseNumbers`), ``traffic`` (:class:`Traffic`), ``energy`` (:class:`EnergyRange` or None) and
        ``what_if`` (:class:`WhatIf`), tuples as lists.
    """
    spent = energy(network, mapping, activity)
    found = {
        "core_use": [row.to_row() for row in core_rows(network, mapping, activity)],
        "mesh": {
            "cores_per_chip": mapping.chip.cores_per_chip,
            "cores_per_tile": mapping.chip.rule("cores_per_tile"),
            "width": mapping.chip.rule("mesh_width"),
        },
        "synapses": [asdict(row) for row in synapse_numbers(network, mapping, unpruned)],
        "traffic": asdict(traffic(network, mapping, activity)),
        "energy": None if spent is None else asdict(spent),
        "what_if": [asdict(row) for row in what_if(network, mapping.chip)],
    }
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def front_rows(plans: Sequence[Plan]) -> list[dict[str, float]]:
    """What each plan comes to, as plain data for JSON: ``cores``, ``messages`` and ``operations``."""
    return [{"cores": plan.cores, "messages": plan.messages, "operations": plan.operations} for plan in plans]
