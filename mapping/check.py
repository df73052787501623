"""A checker that shares no code with the mapper: it counts everything anew from the emitted mapping.

Small networks are counted synapse by synapse, from the weights' indices; large ones by formulas of their own, on incidence
matrices.  Both count each limit of the chip; the AxonMem estimate is no limit and is not looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mapping.chip import Chip, Loihi1Cost, Loihi2Cost
from mapping.mapping import Core, Mapping, Slice
from netx_export.errors import CapacityError
from netx_export.integers import stored_bits
from netx_export.network import Conv, Network, Projection

MAX_ENUMERATED = 100_000  # synapses; a network with more is counted by formulas
SHOWN = 20  # violations that an error lists


def require(network: Network, mapping: Mapping) -> None:
    """Nothing where the mapping is legal.

    Raises:
        CapacityError: it is not; lists the first violations of :func:`check`.
    """
    violations = check(network, mapping)
    if violations:
        first = "; ".join(violations[:SHOWN])
        more = f" ... and {len(violations) - SHOWN} more" if len(violations) > SHOWN else ""
        raise CapacityError(f"the mapping breaks the rules {len(violations)} times: {first}{more}. Map the network again.")


def check(network: Network, mapping: Mapping) -> tuple[str, ...]:
    """What is wrong with a mapping, one sentence each; empty where it is legal.

    Counted: every neuron on exactly one core, slices within their populations, cores that exist and are used once, layers
    per core, tile widths where the chip has a rule, and every limit of a core.
    """
    broken = [*_cores(mapping), *_slices(network, mapping)]
    if broken:  # limits cannot be counted on slices that do not exist
        return tuple(broken)
    broken += [*_placed_once(network, mapping), *_rules(network, mapping)]
    for core, used in zip(mapping.cores, recount(network, mapping), strict=True):
        layers = ", ".join(dict.fromkeys(piece.population for piece in core.slices))
        where = f"core {core.core} of chip {core.chip} ({layers})"
        limits = mapping.chip.core_limits.items()
        broken += [f"{where}: {used[r]} {r}, the limit is {limit}" for r, limit in limits if used[r] > limit]
    return tuple(broken)


def recount(network: Network, mapping: Mapping, by_synapse: bool | None = None) -> tuple[dict[str, int], ...]:
    """Every limited resource that each core of a mapping uses, counted from its slices.

    Args:
        network: that was mapped.
        mapping: whose slices lie within the populations (:func:`check` makes sure).
        by_synapse: count synapse by synapse (True) or by formulas (False); None: by the size of the network.
    """
    if by_synapse is None:
        by_synapse = sum(_synapses(network, p) for p in network.projections) <= MAX_ENUMERATED
    count = _EnumeratedCount(network, mapping) if by_synapse else _FormulaCount(network, mapping)
    totals = []
    for core in mapping.cores:
        used = dict.fromkeys(mapping.chip.core_limits, 0)
        for piece in core.slices:
            for resource, amount in count.slice(core, piece).items():
                used[resource] = max(used[resource], amount) if resource == "list_words" else used[resource] + amount
        totals.append(used)
    return tuple(totals)


# --- structure --------------------------------------------------------------------------------------------------------


def _cores(mapping: Mapping) -> Iterator[str]:
    seen: set[tuple[int, int]] = set()
    for core in mapping.cores:
        name = f"core {core.core} of chip {core.chip}"
        if (core.chip, core.core) in seen:
            yield f"{name} is listed twice"
        seen.add((core.chip, core.core))
        if not 0 <= core.core < mapping.chip.cores_per_chip or core.chip < 0:
            yield f"{name} does not exist: {mapping.chip.name} has cores 0..{mapping.chip.cores_per_chip - 1}"
        if not core.slices:
            yield f"{name} is listed without a slice"


def _slices(network: Network, mapping: Mapping) -> Iterator[str]:
    shapes = {p.name: (p.shape, p.size) for p in network.populations if p.neuron is not None}
    reached_by_conv = {p.target for p in network.projections if isinstance(p.synapse, Conv)}
    for core in mapping.cores:
        for piece in core.slices:
            where = f"core {core.core} of chip {core.chip}"
            if piece.population not in shapes:
                yield f"{where} holds {piece.population!r}, which is no population with neurons"
                continue
            shape, size = shapes[piece.population]
            if len(piece.ranges) not in (1, len(shape)) or (len(piece.ranges) == 1 and piece.population in reached_by_conv):
                yield f"{where}: {piece.population} has {len(piece.ranges)} ranges, its shape is {shape}"
                continue
            extents = shape if len(piece.ranges) == len(shape) else (size,)
            for (start, stop), extent in zip(piece.ranges, extents, strict=True):
                if not 0 <= start < stop <= extent:
                    yield f"{where}: {piece.population} has the range {start}..{stop} where its extent is {extent}"


def _placed_once(network: Network, mapping: Mapping) -> Iterator[str]:
    for population in network.populations:
        if population.neuron is None:
            continue
        times = np.zeros(population.shape, dtype=np.int32)
        for core in mapping.cores:
            for piece in core.slices:
                if piece.population == population.name:
                    view = times.reshape(-1) if len(piece.ranges) == 1 else times
                    view[tuple(slice(a, b) for a, b in piece.ranges)] += 1
        missing, twice = int((times == 0).sum()), int((times > 1).sum())
        if missing:
            yield f"{population.name}: {missing} of {population.size} neurons are on no core"
        if twice:
            yield f"{population.name}: {twice} of {population.size} neurons are on more than one core"


def _rules(network: Network, mapping: Mapping) -> Iterator[str]:
    allowed = int(mapping.chip.rule("layers_per_core"))
    for core in mapping.cores:
        if len(core.slices) > allowed:
            yield f"core {core.core} of chip {core.chip} holds {len(core.slices)} slices, the profile allows {allowed}"
    if mapping.chip.rule("tile_width") != "power-of-two":
        return
    for population in network.populations:
        tiles = [piece.ranges[2] for piece in mapping.slices(population.name) if len(piece.ranges) == 3]
        widest = max((stop - start for start, stop in tiles), default=1)
        if bin(widest).count("1") != 1:
            yield f"{population.name}: tiles {widest} wide, the profile allows powers of two"


# --- counting ---------------------------------------------------------------------------------------------------------


def _synapses(network: Network, projection: Projection) -> int:
    synapse = projection.synapse
    if isinstance(synapse, Conv):
        return int(np.prod(network[projection.target].shape[1:])) * synapse.weight.size
    return synapse.weight.size


def _parts(number: int) -> list[int]:
    """Greedily: the largest power of two, then of what is left."""
    parts: list[int] = []
    while number:
        part = 1
        while part * 2 <= number:
            part *= 2
        parts.append(part)
        number -= part
    return parts


@lru_cache(maxsize=1 << 14)
def _chunked_words(synapses: int, bits: int, cost: Loihi1Cost) -> int:
    words = 0
    while synapses > 0:
        chunk = min(synapses, cost.chunk_synapses)
        words += int(np.ceil((chunk * bits + cost.chunk_bits) / cost.word_bits))
        synapses -= chunk
    return words


def _list_words(channels: int, bits: int, cost: Loihi2Cost) -> int:
    return sum(int(np.ceil((part * bits + cost.header_bits) / cost.word_bits)) for part in _parts(channels))


def _index_bits(largest: int, cost: Loihi1Cost) -> int:
    """Bits for the index ``largest``: none for 0."""
    if largest <= 0:
        return 0
    bits = cost.smallest_index_bits
    while 2**bits <= largest and bits < cost.largest_index_bits:
        bits += 1
    return bits


def _delay_bits(projection: Projection) -> int:
    return 0 if projection.delay is None else len(f"{int(projection.delay.max()):b}")


def _map_entries(network: Network, piece: Slice, cost: Loihi2Cost) -> int:
    """AxonMap of a slice: per outgoing convolution pixels times parts, per other target and for the host one per neuron."""
    size = int(np.prod([stop - start for start, stop in piece.ranges]))
    channels = piece.ranges[0][1] - piece.ranges[0][0] if len(piece.ranges) == 3 else 1
    parts = len([part for part in _parts(channels) if part >= cost.smallest_part]) or 1
    outgoing = [p for p in network.projections if p.source == piece.population]
    entries = sum(size // channels * parts if isinstance(p.synapse, Conv) else size for p in outgoing)
    return entries + (size if not outgoing or network.output.name == piece.population else 0)


class _FormulaCount:
    """Counts a slice by formulas: ``reach[i, k]`` says whether input i of an axis uses kernel position k."""

    def __init__(self, network: Network, mapping: Mapping) -> None:
        self.network, self.chip = network, mapping.chip
        self.bits = {id(p): stored_bits(p.synapse.weight) for p in network.projections}
        self.slots = _slots_by_formula(network, mapping) if "axon_out" in mapping.chip.core_limits else {}

    def slice(self, core: Core, piece: Slice) -> dict[str, int]:
        size = int(np.prod([stop - start for start, stop in piece.ranges]))
        used = {"neurons": size, "neuron_groups": 1, "axon_in": 0, "synapse_words": 0}
        incoming = self.network.into(piece.population)
        cost = self.chip.cost
        if isinstance(cost, Loihi1Cost):
            counts = [self._loihi1(p, piece, size, cost) for p in incoming]
            used["list_words"] = max((longest for _, _, longest in counts), default=0)
            used["axon_out"] = sum(
                int(slots[core.chip].reshape(-1 if len(piece.ranges) == 1 else slots[core.chip].shape)[_block(piece)].sum())
                for name, slots in self.slots.items()
                if name[0] == piece.population
            )
        else:
            counts = [self._loihi2(p, piece, size, cost) for p in incoming]
            used["axon_map"] = _map_entries(self.network, piece, cost)
            used["axon_in"] += not incoming
        used["axon_in"] += sum(axons for axons, _, _ in counts)
        used["synapse_words"] += sum(words for _, words, _ in counts)
        if "pool" in self.chip.core_limits:
            used["pool"] = used["neurons"] + used["axon_in"] + used["synapse_words"] + used["axon_map"]
        return used

    def _per_group(self, conv: Conv, piece: Slice) -> list[int]:
        each = conv.weight.shape[0] // conv.groups
        counts = np.bincount(np.arange(*piece.ranges[0]) // each, minlength=conv.groups)
        return [int(n) for n in counts if n]

    def _loihi2(self, projection: Projection, piece: Slice, size: int, cost: Loihi2Cost) -> tuple[int, int, int]:
        synapse, bits = projection.synapse, self.bits[id(projection)]
        if not isinstance(synapse, Conv):
            pre = synapse.weight.shape[1]
            per_input = np.full(pre, size)
            if self.chip.rule("dense_lists") != "dense":
                per_input = (synapse.weight[_members(self.network, piece)] != 0).sum(axis=0)
            lists = np.ceil((per_input[per_input > 0] * (bits + cost.dense_index_bits) + cost.header_bits) / cost.word_bits)
            return pre, int(lists.sum()), 0
        groups = self._per_group(synapse, piece)
        axons = 2 if any(len(_parts(n)) > 1 for n in groups) else 1
        number = int(np.prod(synapse.weight.shape[1:]))
        return axons, number * sum(_list_words(n, bits, cost) for n in groups), 0

    def _loihi1(self, projection: Projection, piece: Slice, size: int, cost: Loihi1Cost) -> tuple[int, int, int]:
        synapse, bits = projection.synapse, self.bits[id(projection)]
        if not isinstance(synapse, Conv):
            nonzero = synapse.weight[_members(self.network, piece)] != 0
            words, longest = _cheaper_lists(nonzero, size, bits + _delay_bits(projection), self.chip, cost)
            return synapse.weight.shape[1], words, longest
        source = self.network[projection.source].shape
        reach = [_incidence(synapse, axis, source[1 + axis], piece.ranges[1 + axis]) for axis in (0, 1)]
        axons = int(np.prod([int(matrix.any(axis=1).sum()) for matrix in reach]))
        (channels, (y0, y1), (x0, x1)) = piece.ranges
        starts, ends = zip(*(_outputs(synapse, axis, reach[axis]) for axis in (0, 1)), strict=True)
        # One number per pixel: its base on the core, the block of 256 that it lies in, and the masks of both axes.
        base = np.add.outer((starts[0] - y0) * (x1 - x0), starts[1] - x0)
        last = np.add.outer((ends[0] - y0) * (x1 - x0), ends[1] - x0)
        masks = [np.unique(matrix, axis=0, return_inverse=True)[1].ravel() for matrix in reach]
        used = np.add.outer(~reach[0].any(axis=1), ~reach[1].any(axis=1)) == 0
        block = base // cost.base_limit if (y1 - y0) * (x1 - x0) > cost.base_limit else np.zeros_like(base)
        keys = np.stack([*np.broadcast_arrays(masks[0][:, None], masks[1]), block])[:, used]
        length = np.outer(reach[0].sum(axis=1), reach[1].sum(axis=1))[used]
        if not length.size:
            return axons, 0, 0
        per_group = self._per_group(synapse, piece)
        indices = (last - base + block * cost.base_limit)[used] + (channels[1] - channels[0] - 1) * (y1 - y0) * (x1 - x0)
        bits += _index_bits(int(indices.max()), cost)
        _, first = np.unique(keys, axis=1, return_index=True)
        each = synapse.weight.shape[1] * sum(per_group)
        words = sum(_chunked_words(int(length[i]) * each, bits, cost) for i in first)
        return axons, words, _chunked_words(int(length.max()) * max(per_group), bits, cost)


def _cheaper_lists(nonzero: NDArray[np.bool_], size: int, bits: int, chip: Chip, cost: Loihi1Cost) -> tuple[int, int]:
    """Words in all and of the longest list: every weight without an index, or the non-zero ones with one."""
    full = _chunked_words(size, bits, cost)
    rows = np.flatnonzero(nonzero.any(axis=1))
    wide = bits + _index_bits(int(rows[-1]) if rows.size else 0, cost)
    sparse = [_chunked_words(int(n), wide, cost) for n in nonzero.sum(axis=0)]
    offers = {"dense": (len(sparse) * full, full), "sparse": (sum(sparse), max(sparse))}
    rule = str(chip.rule("dense_lists"))
    return min(offers.values(), key=lambda offer: offer[0]) if rule == "cheapest" else offers[rule]


def _outputs(conv: Conv, axis: int, reach: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Along an axis: the first and the last output that each input reaches (any number where it reaches none)."""
    i, k = np.indices(reach.shape)
    o = (i + conv.padding[axis] - k * conv.dilation[axis]) // conv.stride[axis]
    far = 1 << 40
    return np.where(reach, o, far).min(axis=1), np.where(reach, o, -far).max(axis=1)


def _block(piece: Slice) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in piece.ranges)


def _incidence(conv: Conv, axis: int, size: int, outputs: tuple[int, int]) -> NDArray[np.bool_]:
    """bool[size, kernel]: whether input i takes part with kernel position k in one of the outputs."""
    i = np.arange(size)[:, None]
    k = np.arange(conv.weight.shape[2 + axis])[None, :]
    offset = i + conv.padding[axis] - k * conv.dilation[axis]
    o = offset // conv.stride[axis]
    reaches: NDArray[np.bool_] = (offset % conv.stride[axis] == 0) & (o >= outputs[0]) & (o < outputs[1])
    return reaches


def _slots_by_formula(network: Network, mapping: Mapping) -> dict[tuple[str, int], dict[int, NDArray[np.int64]]]:
    """(source, number of the projection) -> chip -> out-axon slots that each source neuron takes on a core of that chip."""
    assert isinstance(mapping.chip.cost, Loihi1Cost)
    far = mapping.chip.cost.cross_chip_slots
    chips = sorted({core.chip for core in mapping.cores})
    slots = {}
    for number, projection in enumerate(network.projections):
        shape = network[projection.source].shape
        everywhere = np.zeros(shape, dtype=np.int64)  # cores that a neuron sends to, on any chip
        at_home = {chip: np.zeros(shape, dtype=np.int64) for chip in chips}
        for core in mapping.cores:
            blocks = [_touched(projection, piece, shape) for piece in core.slices if piece.population == projection.target]
            if len(blocks) == 1:
                everywhere[blocks[0]] += 1
                at_home[core.chip][blocks[0]] += 1
            elif blocks:  # once, however many slices of the target are on the core
                touched = np.zeros(shape, dtype=bool)
                for block in blocks:
                    touched[block] = True
                everywhere += touched
                at_home[core.chip] += touched
        slots[projection.source, number] = {chip: far * (everywhere - at_home[chip]) + at_home[chip] for chip in chips}
    return slots


def _touched(projection: Projection, piece: Slice, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], ...]:
    """Index of the source neurons that have synapses to the slice."""
    conv = projection.synapse
    if not isinstance(conv, Conv):
        return np.ix_(*(np.arange(n) for n in shape))
    each = conv.weight.shape[0] // conv.groups
    groups = np.unique(np.arange(*piece.ranges[0]) // each)
    channels = np.flatnonzero(np.isin(np.arange(shape[0]) // conv.weight.shape[1], groups))
    rows, columns = (
        np.flatnonzero(_incidence(conv, axis, shape[1 + axis], piece.ranges[1 + axis]).any(axis=1)) for axis in (0, 1)
    )
    return np.ix_(channels, rows, columns)


@dataclass(frozen=True)
class _Synapse:
    """One logical connection; ``kernel`` is (ky, kx) of a convolution, () of a dense projection."""

    pre: tuple[int, ...]
    post: int
    kernel: tuple[int, ...]


class _EnumeratedCount:
    """Counts a slice by going through all synapses, one by one."""

    def __init__(self, network: Network, mapping: Mapping) -> None:
        self.network, self.chip = network, mapping.chip
        self.bits = {id(p): stored_bits(p.synapse.weight) for p in network.projections}
        self.home: dict[tuple[str, int], Core] = {}
        for core in mapping.cores:
            for piece in core.slices:
                for neuron in _members(network, piece):
                    self.home[piece.population, neuron] = core
        self.arriving: dict[tuple[int, str, int, int], list[_Synapse]] = defaultdict(list)
        self.destinations: dict[tuple[int, str, int], set[tuple[int, int]]] = defaultdict(set)
        for number, projection in enumerate(network.projections):
            source = network[projection.source]
            for synapse in _enumerate(network, projection):
                if (projection.target, synapse.post) not in self.home:
                    continue
                core = self.home[projection.target, synapse.post]
                self.arriving[number, projection.target, core.chip, core.core].append(synapse)
                flat = int(np.ravel_multi_index(synapse.pre, source.shape)) if len(synapse.pre) == 3 else synapse.pre[0]
                self.destinations[number, projection.source, flat].add((core.chip, core.core))

    def slice(self, core: Core, piece: Slice) -> dict[str, int]:
        members = set(_members(self.network, piece))
        used = {"neurons": len(members), "neuron_groups": 1, "axon_in": 0, "synapse_words": 0}
        cost = self.chip.cost
        incoming = [(i, p) for i, p in enumerate(self.network.projections) if p.target == piece.population]
        longest = 0
        for number, projection in incoming:
            here = [s for s in self.arriving[number, piece.population, core.chip, core.core] if s.post in members]
            if isinstance(cost, Loihi1Cost):
                axons, words, longest_here = self._loihi1(projection, here, piece, members, cost)
                longest = max(longest, longest_here)
            else:
                axons, words = self._loihi2(projection, here, members, cost)
            used["axon_in"] += axons
            used["synapse_words"] += words
        if isinstance(cost, Loihi1Cost):
            used["list_words"] = longest
            used["axon_out"] = sum(
                1 if chip == core.chip else cost.cross_chip_slots
                for (_, source, neuron), cores in self.destinations.items()
                if source == piece.population and neuron in members
                for chip, _ in cores
            )
            return used
        used["axon_in"] += not incoming
        used["axon_map"] = _map_entries(self.network, piece, cost)
        used["pool"] = used["neurons"] + used["axon_in"] + used["synapse_words"] + used["axon_map"]
        return used

    def _loihi2(self, projection: Projection, here: list[_Synapse], members: set[int], cost: Loihi2Cost) -> tuple[int, int]:
        synapse, bits = projection.synapse, self.bits[id(projection)]
        if not isinstance(synapse, Conv):
            lists: dict[tuple[int, ...], int] = defaultdict(int)
            sparse = self.chip.rule("dense_lists") != "dense"
            for s in here:
                if sparse and not synapse.weight[s.post, s.pre[0]]:
                    continue
                lists[s.pre] += bits + cost.dense_index_bits
            words = sum(int(np.ceil((n + cost.header_bits) / cost.word_bits)) for n in lists.values())
            return len({s.pre for s in here}), words
        # Every weight of a channel on the core is in a list of its own input channel and kernel position, used or not.
        _, height, width = self.network[projection.target].shape
        out_channels, per_group, kernel_y, kernel_x = synapse.weight.shape
        served: dict[tuple[int, int, int], int] = defaultdict(int)
        for o in {post // (height * width) for post in members}:
            first = o // (out_channels // synapse.groups) * per_group
            for i in range(first, first + per_group):
                for position in range(kernel_y * kernel_x):
                    served[i, position // kernel_x, position % kernel_x] += 1
        axons = 2 if any(len(_parts(n)) > 1 for n in served.values()) else 1
        return axons, sum(_list_words(n, bits, cost) for n in served.values())

    def _loihi1(
        self, projection: Projection, here: list[_Synapse], piece: Slice, members: set[int], cost: Loihi1Cost
    ) -> tuple[int, int, int]:
        bits = self.bits[id(projection)]
        place = {post: number for number, post in enumerate(sorted(members))}  # channel, row, column
        lengths: dict[tuple[int, ...], int] = defaultdict(int)
        for s in here:
            lengths[s.pre] += 1
        if not isinstance(projection.synapse, Conv):
            bits += _delay_bits(projection)
            stored = [s for s in here if projection.synapse.weight[s.post, s.pre[0]]]
            wide = bits + _index_bits(max((place[s.post] for s in stored), default=0), cost)
            kept = dict.fromkeys(lengths, 0)
            for s in stored:
                kept[s.pre] += 1
            dense = [_chunked_words(n, bits, cost) for n in lengths.values()]
            sparse = [_chunked_words(n, wide, cost) for n in kept.values()]
            rule = self.chip.rule("dense_lists")
            words = sparse if rule == "sparse" or (rule == "cheapest" and sum(sparse) < sum(dense)) else dense
            return len(words), sum(words), max(words, default=0)
        pixels = len(place) // (piece.ranges[0][1] - piece.ranges[0][0])
        reached: dict[tuple[int, ...], list[int]] = defaultdict(list)  # pixel -> places of the neurons it reaches, from 0
        kernels: dict[tuple[int, ...], set[tuple[int, ...]]] = defaultdict(set)
        for s in here:
            reached[s.pre[1:]].append(place[s.post])
            kernels[s.pre[1:]].add(s.kernel)
        shared: dict[tuple[frozenset[tuple[int, ...]], int], tuple[int, ...]] = {}
        largest = 0
        for pixel, places in reached.items():
            base = min(p % pixels for p in places)
            block = base // cost.base_limit
            shared[frozenset(kernels[pixel]), block] = pixel
            top = (piece.ranges[0][1] - piece.ranges[0][0] - 1) * pixels + max(p % pixels for p in places)
            largest = max(largest, top - base + block * cost.base_limit)
        bits += _index_bits(largest, cost)
        words_of = [_chunked_words(len(reached[pixel]), bits, cost) for pixel in shared.values()]
        return len(reached), sum(words_of), max((_chunked_words(n, bits, cost) for n in lengths.values()), default=0)


def _members(network: Network, piece: Slice) -> list[int]:
    """Flat numbers (C, H, W order) of the neurons of a slice."""
    population = network[piece.population]
    cut_as = population.shape if len(piece.ranges) == 3 else (population.size,)
    numbers = np.arange(population.size).reshape(cut_as)
    return [int(n) for n in numbers[_block(piece)].ravel()]


def _enumerate(network: Network, projection: Projection) -> Iterator[_Synapse]:
    synapse = projection.synapse
    if not isinstance(synapse, Conv):
        post, pre = synapse.weight.shape
        for j in range(post):
            for i in range(pre):
                yield _Synapse((i,), j, ())
        return
    _, source_h, source_w = network[projection.source].shape
    channels, height, width = network[projection.target].shape
    per_group = synapse.weight.shape[1]
    for (o, i, ky, kx), y, x in (
        (index, y, x) for index in np.ndindex(*synapse.weight.shape) for y in range(height) for x in range(width)
    ):
        row = y * synapse.stride[0] + ky * synapse.dilation[0] - synapse.padding[0]
        column = x * synapse.stride[1] + kx * synapse.dilation[1] - synapse.padding[1]
        if 0 <= row < source_h and 0 <= column < source_w:
            group = o * synapse.groups // channels
            yield _Synapse((group * per_group + i, row, column), (o * height + y) * width + x, (ky, kx))
