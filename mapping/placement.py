"""Which chip and which place of its mesh each core takes: few spikes between chips, few hops within them.

Chips are cut off a row of cores that keeps the order of the layers, by an exact dynamic programme.  Within a chip cores start
on a snake and are then exchanged two by two (simulated annealing, seeded).  Weights and thresholds are whole numbers, so the
answer is the same with and without numba.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapping.chip import Chip
from mapping.mapping import Core, Mapping
from mapping.traffic import Activity, slice_traffic
from netx_export.network import Network

MOVES_PER_CORE = 300  # exchanges tried
MAX_MOVES = 400_000
STARTS = 16  # draws of few cores, whose exchanges end in corners more easily
SEARCHED = 200  # cores times draws
SCALE = 1 << 20  # a spike as a whole number
COOLING = 1e-4  # last temperature, of the first
COMPILE_FROM = 20_000  # moves; for fewer, compiling takes longer than it saves

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Routing:
    """What spikes cost on the mesh, per step.

    Args:
        messages: spikes between cores, one for each destination core.
        hops: sum over messages within a chip of the links that they take (|dx| + |dy| tiles).
        horizontal_hops, vertical_hops: the same along x and along y.
        largest_link: messages on the busiest link of any chip, routed along x first.
        between_chips: messages between chips.
    """

    messages: float
    hops: float
    horizontal_hops: float
    vertical_hops: float
    largest_link: float
    between_chips: float


@dataclass(frozen=True)
class Placement:
    """A placed mapping, its routing, and what the snake alone would have come to."""

    mapping: Mapping
    routing: Routing
    snake: Routing


def tile_of(chip: Chip, core: int | Ints) -> tuple[Any, Any]:
    """(x, y) of the tile of a core, whole numbers or arrays of them."""
    tile = core // int(chip.rule("cores_per_tile"))
    return tile % int(chip.rule("mesh_width")), tile // int(chip.rule("mesh_width"))


def place(
    network: Network, mapping: Mapping, activity: Activity | None = None, seed: int = 0, moves: int | None = None
) -> Placement:
    """Gives the cores of a mapping their chips and their places.

    Args:
        network: that was mapped.
        mapping: its cores in an order that keeps layers together, as :func:`mapping.mapper.map_network` makes it.
        activity: population -> spikes per neuron and step; None: a rate is assumed (:func:`mapping.traffic.rates`).
        seed: of the exchanges.
        moves: exchanges tried; None: 300 per core, at most 400,000.  Few cores are tried with several draws, of which the
            best is taken.

    Returns:
        the mapping with new indices, in the order of these; as many chips as its cores need at least.
    """
    source, target, spikes = slice_traffic(network, mapping, activity)
    chips = cut_chips(len(mapping.cores), mapping.chip.cores_per_chip, source, target, spikes)
    seats = _snake(mapping.chip)
    first = np.concatenate([seats[: int(n)] for n in np.bincount(chips)] or [np.zeros(0, np.int64)])
    snake = _routing(mapping.chip, chips, first, source, target, spikes)
    moves = min(MOVES_PER_CORE * len(mapping.cores), MAX_MOVES) if moves is None else moves
    best, routing = first, snake
    for start in range(max(1, min(STARTS, SEARCHED // max(1, len(mapping.cores))))):
        annealed = anneal(mapping.chip, chips, first, (source, target, spikes), (seed, start), moves)
        found = _routing(mapping.chip, chips, annealed, source, target, spikes)
        if (found.hops, found.largest_link) < (routing.hops, routing.largest_link):
            best, routing = annealed, found
    cores = [Core(int(chip), int(seat), core.slices) for chip, seat, core in zip(chips, best, mapping.cores, strict=True)]
    return Placement(replace(mapping, cores=tuple(sorted(cores, key=lambda core: (core.chip, core.core)))), routing, snake)


def routing(network: Network, mapping: Mapping, activity: Activity | None = None) -> Routing:
    """The :class:`Routing` of a mapping as it is placed."""
    chips, cores = (np.array([getattr(core, name) for core in mapping.cores], dtype=np.int64) for name in ("chip", "core"))
    return _routing(mapping.chip, chips, cores, *slice_traffic(network, mapping, activity))


def cut_chips(cores: int, room: int, source: Ints, target: Ints, spikes: NDArray[np.float64]) -> Ints:
    """The chip of each core of a row: the fewest chips, and of those cuts the one with the fewest spikes between chips.

    ``best(e) = max over e - room <= s < e of best(s) + kept(s, e)``, kept(s, e) the spikes among cores s..e-1, chips first.

    Args:
        cores: in the row.
        room: cores of a chip.
        source, target, spikes: from core to core, as :func:`mapping.traffic.slice_traffic` gives them.
    """
    low, high = np.minimum(source, target), np.maximum(source, target)
    order = np.argsort(high, kind="stable")
    low, high, weight = low[order], high[order], spikes[order]
    begin = np.searchsorted(high, np.arange(cores + 1))
    needed = np.zeros(cores + 1, dtype=np.int64)
    kept = np.zeros(cores + 1)
    came_from = np.zeros(cores + 1, dtype=np.int64)
    within: NDArray[np.float64] = np.zeros(0)  # kept(s, e) for s = e - len(within) .. e - 1
    for e in range(1, cores + 1):
        size = min(e, room)
        column = np.zeros(size)
        mine = slice(begin[e - 1], begin[e])
        near = low[mine] >= e - size
        np.add.at(column, low[mine][near] - (e - size), weight[mine][near])
        within = np.append(within, 0.0)[-size:] + np.cumsum(column[::-1])[::-1]
        chips = needed[e - size : e] + 1
        sums = np.where(chips == chips.min(), kept[e - size : e] + within, -np.inf)
        best = int(np.argmax(sums))
        needed[e], kept[e], came_from[e] = chips[best], sums[best], e - size + best
    chip = np.zeros(cores, dtype=np.int64)
    end = cores
    while end:
        start = int(came_from[end])
        chip[start:end] = needed[start]
        end = start
    return chip


def _snake(chip: Chip) -> Ints:
    """The cores of a chip along its rows of tiles, every second row backwards."""
    cores = np.arange(chip.cores_per_chip)
    x, y = tile_of(chip, cores)
    order: Ints = np.lexsort((cores, np.where(y % 2, -x, x), y))
    return order


def _routing(chip: Chip, chips: Ints, seats: Ints, source: Ints, target: Ints, spikes: NDArray[np.float64]) -> Routing:
    x, y = tile_of(chip, seats)
    inside = chips[source] == chips[target]
    crossing = float(spikes[~inside].sum())
    a, b, weight = source[inside], target[inside], spikes[inside]
    dx, dy = np.abs(x[a] - x[b]), np.abs(y[a] - y[b])
    width, height = int(x.max(initial=0)) + 1, int(y.max(initial=0)) + 1
    number = int(chips.max(initial=0)) + 1
    busiest = 0.0
    for forward in (True, False):  # along x in the row of the source, then along y in the column of the target
        across = np.zeros((number, height, width + 1))
        along = np.zeros((number, width, height + 1))
        for load, line, start, stop in ((across, y[a], x[a], x[b]), (along, x[b], y[a], y[b])):
            ahead = (stop > start) if forward else (stop < start)
            first, last = np.minimum(start, stop)[ahead], np.maximum(start, stop)[ahead]
            np.add.at(load, (chips[a][ahead], line[ahead], first), weight[ahead])
            np.add.at(load, (chips[a][ahead], line[ahead], last), -weight[ahead])
            busiest = max(busiest, float(np.cumsum(load, axis=2).max(initial=0.0)))
    horizontal, vertical = float((weight * dx).sum()), float((weight * dy).sum())
    return Routing(float(spikes.sum()), horizontal + vertical, horizontal, vertical, busiest, crossing)


def anneal(
    chip: Chip,
    chips: Ints,
    seats: Ints,
    traffic: tuple[Ints, Ints, NDArray[np.float64]],
    seed: int | tuple[int, int],
    moves: int,
    compiled: bool | None = None,
) -> Ints:
    """Exchanges the seats of two cores of a chip, or of a core and an empty seat, where hops or the temperature allow it.

    The cost is the sum over messages of their distance in tiles; only the messages of the two cores are looked at again.

    Args:
        chip: with its mesh.
        chips: of each core.
        seats: of each core on its chip, to start with.
        traffic: source, target and spikes.
        seed, moves: of the exchanges.
        compiled: with numba or without; None: with it where it is installed and worth it.  The answer is the same.

    Returns:
        the seats after the last move.
    """
    source, target, spikes = traffic
    count = chips.size
    inside = (chips[source] == chips[target]) & (source != target)
    a, b = source[inside], target[inside]
    weight = np.rint(spikes[inside] * SCALE).astype(np.int64)
    ends, others, weights = np.concatenate([a, b]), np.concatenate([b, a]), np.concatenate([weight, weight])
    order = np.argsort(ends, kind="stable")
    starts = np.searchsorted(ends[order], np.arange(count + 1)).astype(np.int64)
    others, weights = others[order], weights[order]
    if not moves or not weight.size:
        return seats.copy()
    x, y = (np.asarray(n, dtype=np.int64) for n in tile_of(chip, np.arange(chip.cores_per_chip)))
    rng = np.random.default_rng(seed)
    who = rng.integers(0, count, moves)
    where = rng.integers(0, chip.cores_per_chip, moves)
    warm = 2.0 * float(weights.sum()) / count * COOLING ** (np.arange(moves) / moves)
    allowed = np.floor(-warm * np.log1p(-rng.random(moves)) * 0.05).astype(np.int64)
    holder = np.full((int(chips.max()) + 1, chip.cores_per_chip), -1, dtype=np.int64)
    holder[chips, seats] = np.arange(count)
    sweep = _kernel(moves if compiled is None else MAX_MOVES * 2 if compiled else 0)
    result = seats.copy()
    sweep(who, where, allowed, chips, result, holder, starts, others, weights, x, y)
    return result


def _kernel(moves: int) -> Callable[..., None]:
    if moves < COMPILE_FROM:
        return _sweep_numpy
    return _compiled()


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., None]:
    try:
        import numba
    except ImportError:
        return _sweep_numpy
    compile_: Callable[[Callable[..., None]], Callable[..., None]] = numba.njit
    return compile_(_sweep_loops)


def _sweep_loops(  # pragma: no cover (compiled)
    who: Ints,
    where: Ints,
    allowed: Ints,
    chips: Ints,
    seats: Ints,
    holder: Ints,
    starts: Ints,
    others: Ints,
    weights: Ints,
    x: Ints,
    y: Ints,
) -> None:
    for m in range(who.size):
        a, new = who[m], where[m]
        old = seats[a]
        if new == old:
            continue
        b = holder[chips[a], new]
        delta = 0
        for k in range(starts[a], starts[a + 1]):
            if others[k] != b:
                p = seats[others[k]]
                delta += weights[k] * (abs(x[new] - x[p]) + abs(y[new] - y[p]) - abs(x[old] - x[p]) - abs(y[old] - y[p]))
        if b >= 0:
            for k in range(starts[b], starts[b + 1]):
                if others[k] != a:
                    p = seats[others[k]]
                    delta += weights[k] * (abs(x[old] - x[p]) + abs(y[old] - y[p]) - abs(x[new] - x[p]) - abs(y[new] - y[p]))
        if delta <= allowed[m]:
            seats[a] = new
            holder[chips[a], new] = a
            holder[chips[a], old] = b
            if b >= 0:
                seats[b] = old


def _sweep_numpy(
    who: Ints,
    where: Ints,
    allowed: Ints,
    chips: Ints,
    seats: Ints,
    holder: Ints,
    starts: Ints,
    others: Ints,
    weights: Ints,
    x: Ints,
    y: Ints,
) -> None:
    """The same as :func:`_sweep_loops`, a core's messages at a time."""
    distance = np.abs(x[:, None] - x) + np.abs(y[:, None] - y)
    near = [others[i:j] for i, j in pairwise(starts)]
    heavy = [weights[i:j] for i, j in pairwise(starts)]
    for a, new, limit, chip in zip(who.tolist(), where.tolist(), allowed.tolist(), chips[who].tolist(), strict=True):
        old = int(seats[a])
        if new == old:
            continue
        b = int(holder[chip, new])
        change = distance[new] - distance[old]
        delta = int(heavy[a] @ change[seats[near[a]]])
        if b >= 0:
            delta -= int(heavy[b] @ change[seats[near[b]]])
            # Between the two nothing changes, but each was counted as if the other stayed.
            between = int(heavy[a][near[a] == b].sum())
            delta += 2 * between * int(distance[new, old])
        if delta <= limit:
            seats[a] = new
            holder[chip, new] = a
            holder[chip, old] = b
            if b >= 0:
                seats[b] = old
