"""Choosing the cuts of all layers together: an exact dynamic programme along chains, a beam where a graph branches widely.

A layer's out-axons (loihi1) depend on its own tiles and on those of the layers that it feeds, so the cut with the fewest
cores for one layer can force many on the one before it.  Every layer gets a list of candidates that fit by themselves; the
programme goes from the last layer to the first and keeps, for each cut of the layers that are still coupled to earlier ones,
the best sum so far.  On chains nothing is dropped; elsewhere at most ``BEAM`` states are kept, and the out-axons to several
targets are bounded by the sum of each one's maximum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mapping.chip import Chip
from mapping.cost import ConvInput, DenseInput, Layer
from mapping.mapping import Range
from mapping.partition import (
    WAYS_OUT,
    Boxes,
    Cut,
    cut_layer,
    even_ranges,
    free_boxes,
    halved_tiles,
    has_free_tiles,
    is_legal,
    partition,
    require_neuron,
    tiles,
)
from mapping.traffic import axis_reach, reaching, slice_messages, slice_operations
from netx_export.errors import CapacityError, ConfigError

OBJECTIVES = ("cores", "traffic", "balance")
BEAM = 4096  # states kept where a graph branches
MAX_TRIED = 1500  # tiles of a layer that are looked at
MAX_FREE = 120  # free tiles of a layer that are kept beside the halved ones
LEVELS = 10  # of the largest load, for the Pareto front


@dataclass(frozen=True)
class Candidate:
    """A cut of a layer that fits by itself.

    Args:
        cut: the slices.
        cores: how many.
        messages: spikes that arrive at them in a step (a spike counts at each slice that it reaches).
        operations: synaptic operations of the busiest slice in a step.
    """

    cut: Cut | Boxes
    cores: int
    messages: float
    operations: float


@dataclass(frozen=True)
class Plan:
    """The cuts of all layers, and what they come to.

    Args:
        cuts: one per layer.
        cores: slices in all.
        messages: spikes that arrive at slices, in a step.
        operations: synaptic operations of the busiest slice, in a step.
    """

    cuts: tuple[Cut | Boxes, ...]
    cores: int
    messages: float
    operations: float


def choose_cuts(layers: Sequence[Layer], chip: Chip, rate: Mapping[str, float], objective: str = "cores") -> Plan:
    """The best cuts for one objective.

    Args:
        layers: of the network.
        chip: limits and rules.
        rate: population -> spikes per neuron and step.
        objective: "cores": the fewest, of those the fewest messages; "traffic": the fewest messages, of those the fewest
            cores; "balance": the smallest maximum of synaptic operations on a core that the cores of as many chips allow as
            the fewest cores need.

    Raises:
        CapacityError: a neuron fits no core, or out-axons never fit.
        ConfigError: an unknown objective.
    """
    if objective not in OBJECTIVES:
        raise ConfigError(f"objective {objective!r}: expected one of {', '.join(OBJECTIVES)}.")
    search = _Search(layers, chip, rate)
    fewest = search.best("cores", math.inf)
    if fewest is None:
        raise search.impossible()
    if objective == "traffic":
        return search.best("traffic", math.inf) or fewest
    if objective == "balance":
        budget = max(1, -(-fewest.cores // chip.cores_per_chip)) * chip.cores_per_chip
        return search.most_even(budget) or fewest
    return fewest


def cuts_of(
    layers: Sequence[Layer], chip: Chip, rate: Mapping[str, float], objective: str = "cores"
) -> tuple[Cut | Boxes, ...]:
    """The cuts that a mapping takes: one layer at a time where that is as good, else of all together (:func:`choose_cuts`).

    Args:
        layers, chip, rate, objective: as of :func:`choose_cuts`.

    Raises:
        CapacityError, ConfigError: likewise.
    """
    if objective == "cores" and "axon_out" not in chip.core_limits:
        return partition(layers, chip)
    return choose_cuts(layers, chip, rate, objective).cuts


def pareto_front(layers: Sequence[Layer], chip: Chip, rate: Mapping[str, float]) -> tuple[Plan, ...]:
    """Plans of which none is better in cores, messages and the busiest core's operations at once, fewest cores first.

    For some ten levels of the largest load the fewest cores and the fewest messages are found; what others dominate goes.
    The chips are as many as the fewest cores need.
    """
    search = _Search(layers, chip, rate)
    fewest = search.best("cores", math.inf)
    if fewest is None:
        raise search.impossible()
    budget = max(1, -(-fewest.cores // chip.cores_per_chip)) * chip.cores_per_chip
    even = search.most_even(budget) or fewest
    loads = sorted({c.operations for offers in search.candidates for c in offers})
    between = [load for load in loads if even.operations <= load <= fewest.operations]
    chosen = {between[round(i * (len(between) - 1) / (LEVELS - 1))] for i in range(LEVELS)} if between else set()
    plans = [fewest, even]
    for load in sorted(chosen | {math.inf}):
        plans += [plan for goal in ("cores", "traffic") if (plan := search.best(goal, load)) and plan.cores <= budget]
    values = {(p.cores, p.messages, p.operations): p for p in plans}

    def dominated(key: tuple[float, ...]) -> bool:
        return any(other != key and all(a <= b for a, b in zip(other, key, strict=True)) for other in values)

    return tuple(values[key] for key in sorted(values) if not dominated(key))


def candidates(layer: Layer, chip: Chip, rate: Mapping[str, float]) -> list[Candidate]:
    """Cuts of a layer that fit by themselves, in the order of preference, that of :func:`mapping.partition.cut_layer` too.

    Without out-axons only those that no other dominates in cores, messages and operations.
    """
    require_neuron(layer, chip)
    cuts: list[Cut | Boxes] = []
    if len(layer.shape) == 1:
        cuts = [cut for cut in even_ranges(layer) if is_legal(layer, cut, chip)]
        if chip.rule("dense_split") == "doubling":
            cuts = [cut_layer(layer, chip), *(cut for cut in cuts if cut != cut_layer(layer, chip))]
    else:
        if has_free_tiles(layer, chip):
            cuts += islice(free_boxes(layer, chip), 4)
        offers = tiles(layer, chip)
        if chip.rule("tile_width") == "free":
            cuts += islice((cut for cut in offers[:MAX_TRIED] if is_legal(layer, cut, chip)), MAX_FREE)
            offers = halved_tiles(layer, chip)
        cuts += [cut for cut in offers if cut not in cuts and is_legal(layer, cut, chip)]
    found = [_candidate(layer, cut, rate) for cut in cuts]
    if "axon_out" in chip.core_limits:
        return found
    kept: list[Candidate] = []
    for _, equals in groupby(sorted(found, key=lambda c: (c.cores, c.messages, c.operations)), key=lambda c: c.cores):
        for c in equals:
            if not any(k.messages <= c.messages and k.operations <= c.operations for k in kept):
                kept.append(c)
    return kept


def _candidate(layer: Layer, cut: Cut | Boxes, rate: Mapping[str, float]) -> Candidate:
    if not layer.inputs:
        return Candidate(cut, cut.cores, 0.0, 0.0)
    if isinstance(cut, Cut) and len(cut.shape) == 3 and len(layer.inputs) == 1 and isinstance(layer.inputs[0], ConvInput):
        conv = layer.inputs[0]  # separable: no need to go through the slices
        reach = [[axis_reach(conv, axis, bounds) for bounds in cut.axis(axis)] for axis in range(3)]
        messages = math.prod(sum(inputs for inputs, _ in along) for along in reach)
        operations = math.prod(max(synapses for _, synapses in along) for along in reach)
        return Candidate(cut, cut.cores, rate[conv.source] * messages, rate[conv.source] * operations)
    if isinstance(cut, Cut) and len(cut.shape) == 1:
        first = next(cut.slices())
        return Candidate(cut, cut.cores, cut.cores * slice_messages(layer, first, rate), slice_operations(layer, first, rate))
    boxes = list(cut.slices())
    messages_, operations_ = (
        [slice_messages(layer, ranges, rate) for ranges in boxes],
        [slice_operations(layer, ranges, rate) for ranges in boxes],
    )
    return Candidate(cut, cut.cores, math.fsum(messages_), max(operations_))


_Path: TypeAlias = "tuple[int, _Path] | None"


@dataclass(frozen=True)
class _State:
    """Cuts so far: ``key`` of the layers still coupled, ``path`` of all (candidate, the rest of the path)."""

    key: tuple[int, ...]
    main: float
    second: float
    path: _Path


class _Search:
    """The candidates of all layers, and the dynamic programme over them."""

    def __init__(self, layers: Sequence[Layer], chip: Chip, rate: Mapping[str, float]) -> None:
        self.layers, self.chip = layers, chip
        self.candidates = [candidates(layer, chip, rate) for layer in layers]
        index = {layer.name: i for i, layer in enumerate(layers)}
        self.feeds: list[list[tuple[int, DenseInput | ConvInput]]] = [[] for _ in layers]
        self.coupled = "axon_out" in chip.core_limits
        for target, layer in enumerate(layers):
            for synapses in layer.inputs:
                if self.coupled and synapses.source in index:
                    self.feeds[index[synapses.source]].append((target, synapses))
        self.tables: dict[tuple[int, int], NDArray[np.int64]] = {}
        self.stuck = 0

    def impossible(self) -> CapacityError:
        name, slots = self.layers[self.stuck].name, self.chip.core_limits["axon_out"]
        return CapacityError(
            f"{name}: its out-axons need more cores each time its targets are spread over more; {self.chip.name} has "
            f"{slots} out-axon slots a core. Way out: {WAYS_OUT['axon_out']}.",
            layer=name,
            excess=[("axon_out", None, slots)],
        )

    def best(self, goal: str, load: float) -> Plan | None:
        """The best plan whose busiest slice has at most ``load`` operations; None where there is none.

        Out-axons to other chips take a second slot, so a plan that needs several chips is made anew with all slots doubled.
        """
        plan = self._solve(goal, load, 1)
        if self.coupled and (plan is None or plan.cores > self.chip.cores_per_chip):
            return self._solve(goal, load, int(self.chip.rule("cross_chip_slots")))
        return plan

    def most_even(self, budget: int) -> Plan | None:
        """The plan with the smallest maximum of operations that takes at most ``budget`` cores; None where none does."""
        loads = sorted({c.operations for offers in self.candidates for c in offers})
        low, high = 0, len(loads)  # the answer lies in loads[low:high]
        found: Plan | None = None
        while low < high:
            middle = (low + high) // 2
            plan = self.best("cores", loads[middle])
            if plan is not None and plan.cores <= budget:
                found, high = plan, middle
            else:
                low = middle + 1
        return found

    def _solve(self, goal: str, load: float, slots: int) -> Plan | None:
        last = len(self.layers) - 1
        involved = [{s, *(t for t, _ in feeds)} if feeds else set() for s, feeds in enumerate(self.feeds)]
        states = [_State((), 0.0, 0.0, None)]
        frontier: tuple[int, ...] = ()
        for i in range(last, -1, -1):
            ready = [s for s, layers in enumerate(involved) if layers and min(layers) == i]
            needed = {layer for layers in involved if layers and min(layers) < i for layer in layers if layer >= i}
            kept = tuple(layer for layer in frontier if layer in needed)
            figures = np.array([(c.cores, c.messages) for c in self.candidates[i]], dtype=float).reshape(-1, 2)
            main, second = figures.T if goal == "cores" else figures.T[::-1]
            allowed = np.array([c.operations <= load for c in self.candidates[i]])
            groups: dict[tuple[int, ...], tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]] = {}
            for number, state in enumerate(states):
                chosen = dict(zip(frontier, state.key, strict=True))
                mask = allowed.copy()
                for s in ready:
                    mask &= slots * self._axon_out(s, i, chosen) <= self.chip.core_limits["axon_out"]
                key = tuple(chosen[layer] for layer in kept)
                if key not in groups:
                    size = len(self.candidates[i])
                    groups[key] = (np.full(size, np.inf), np.full(size, np.inf), np.zeros(size, np.int64))
                first, then, origin = groups[key]
                a, b = state.main + main, state.second + second
                better = mask & ((a < first) | ((a == first) & (b < then)))
                first[better], then[better], origin[better] = a[better], b[better], number
            new: list[_State] = []
            for key, (first, then, origin) in groups.items():
                places = np.flatnonzero(np.isfinite(first))
                if i not in needed and places.size:  # nothing earlier depends on it: the best one is enough
                    places = places[np.lexsort((then[places], first[places]))[:1]]
                for place in places:
                    c = int(place)
                    chosen_so_far = (c, states[int(origin[c])].path)
                    new.append(_State((c, *key) if i in needed else key, float(first[c]), float(then[c]), chosen_so_far))
            if not new:
                self.stuck = i
                return None
            states = sorted(new, key=lambda state: (state.main, state.second))[:BEAM] if len(new) > BEAM else new
            frontier = (i, *kept) if i in needed else kept
        best = min(states, key=lambda state: (state.main, state.second))
        picks: list[int] = []
        path = best.path
        while path is not None:
            pick, path = path
            picks.append(pick)
        plan = [offers[pick] for offers, pick in zip(self.candidates, picks, strict=True)]
        return Plan(
            tuple(c.cut for c in plan),
            sum(c.cores for c in plan),
            math.fsum(c.messages for c in plan),
            max((c.operations for c in plan), default=0.0),
        )

    def _axon_out(self, source: int, i: int, chosen: Mapping[int, int]) -> NDArray[np.int64]:
        """Out-axons of the source's worst slice, for every candidate of layer i (on one chip)."""
        total = np.zeros(len(self.candidates[i]), dtype=np.int64)
        for number, (target, _) in enumerate(self.feeds[source]):
            table = self._table(source, number)
            if source == i == target:
                total += np.diagonal(table)
            elif source == i:
                total += table[:, chosen[target]]
            elif target == i:
                total += table[chosen[source]]
            else:
                total += table[chosen[source], chosen[target]]
        return total

    def _table(self, source: int, number: int) -> NDArray[np.int64]:
        """[cut of the source, cut of the target] -> the most out-axon slots of a slice, over one projection."""
        if (source, number) not in self.tables:
            target, synapses = self.feeds[source][number]
            cuts, fed = ([c.cut for c in self.candidates[i]] for i in (source, target))
            largest = np.array([_largest(cut) for cut in cuts], dtype=np.int64)
            if isinstance(synapses, DenseInput):
                table = np.outer(largest, [cut.cores for cut in fed])
            elif len(self.layers[source].shape) == 1:  # flat neurons into a convolution: the widest fan of all, an upper bound
                widest = [math.prod(int(_fan(synapses, a, cut).max()) for a in range(3)) for cut in fed]
                table = np.outer(largest, widest)
            else:
                table = np.ones((len(cuts), len(fed)), dtype=np.int64)
                for axis in range(3):
                    table *= _AxisTable(synapses, axis, cuts, fed).table
            self.tables[source, number] = table
        return self.tables[source, number]


@dataclass(frozen=True)
class _AxisTable:
    """Along one axis, for each pair of cuts: the most that the inputs of a source range reach of the target's ranges."""

    conv: ConvInput
    axis: int
    cuts: Sequence[Cut | Boxes]
    fed: Sequence[Cut | Boxes]

    @cached_property
    def table(self) -> NDArray[np.int64]:
        steps = [cut.step[self.axis] for cut in self.cuts if isinstance(cut, Cut)]
        onto = [cut.step[self.axis] for cut in self.fed if isinstance(cut, Cut)]
        assert len(steps) == len(self.cuts) and len(onto) == len(self.fed)
        some: dict[int, Cut] = {cut.step[self.axis]: cut for cut in self.fed if isinstance(cut, Cut)}
        small: dict[tuple[int, int], int] = {}
        for b, cut in some.items():
            fan = _fan(self.conv, self.axis, cut)
            for a in set(steps):
                small[a, b] = int(np.add.reduceat(fan, np.arange(0, fan.size, a)).max())
        return np.array([[small[a, b] for b in onto] for a in steps], dtype=np.int64)


def _largest(cut: Cut | Boxes) -> int:
    """Neurons of the largest slice."""
    if isinstance(cut, Cut):
        return math.prod(cut.step)
    return max(math.prod(b - a for a, b in ranges) for ranges in cut.slices())


def _fan(conv: ConvInput, axis: int, cut: Cut | Boxes) -> NDArray[np.int64]:
    """int64[inputs along the axis]: how many ranges of the cut each reaches."""
    assert isinstance(cut, Cut)
    ranges: list[Range] = cut.axis(axis)
    return np.asarray(np.sum([reaching(conv, axis, bounds) for bounds in ranges], axis=0), dtype=np.int64)
