"""Corrupted mappings, and what the checker says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mapping.check import check, recount, require
from mapping.chip import allow, load_chip
from mapping.mapper import map_network
from mapping.mapping import Core, Mapping, Slice
from netx_export.errors import CapacityError
from netx_export.network import Conv, Dense, Lif, Network, Population, Projection

LIF = Lif(4096, 1024, 25)
LIMITS = {"neurons": 40, "synapse_words": 400, "axon_map": 100, "pool": 600}


def network() -> Network:
    rng = np.random.default_rng(1)
    return Network(
        (
            Population("in", (2, 8, 8), LIF),
            Population("conv", (6, 6, 6), LIF),
            Population("pool", (6, 3, 3), LIF),
            Population("dense", (90,), LIF),
        ),
        (
            Projection("in", "conv", Conv(rng.integers(-8, 8, (6, 2, 3, 3)))),
            Projection("conv", "pool", Conv(np.ones((6, 1, 2, 2), dtype=int), stride=(2, 2), groups=6)),
            Projection("pool", "dense", Dense(rng.integers(-8, 8, (90, 54)))),
        ),
    )


@pytest.fixture(scope="module")
def mapping() -> Mapping:
    return map_network(network(), load_chip("loihi2", LIMITS))


def change(mapping: Mapping, number: int, **fields: object) -> Mapping:
    cores = list(mapping.cores)
    cores[number] = replace(cores[number], **fields)  # type: ignore[arg-type]
    return replace(mapping, cores=tuple(cores))


def first(mapping: Mapping, population: str) -> int:
    return next(i for i, core in enumerate(mapping.cores) if core.slices[0].population == population)


def reshape(mapping: Mapping, population: str, ranges: Callable[[Slice], tuple[tuple[int, int], ...]]) -> Mapping:
    number = first(mapping, population)
    piece = mapping.cores[number].slices[0]
    return change(mapping, number, slices=(Slice(population, ranges(piece)),))


def one_core(mapping: Mapping, population: str, ranges: tuple[tuple[int, int], ...]) -> Mapping:
    kept = [core for core in mapping.cores if core.slices[0].population != population]
    return replace(mapping, cores=(*kept, Core(0, 119, (Slice(population, ranges),))))


def test_the_mapper_passes(mapping: Mapping) -> None:
    assert check(network(), mapping) == ()
    require(network(), mapping)
    assert len(mapping.slices("conv")) > 1 and len(mapping.slices("dense")) > 1


CORRUPTIONS: dict[str, tuple[Callable[[Mapping], Mapping], str]] = {
    "a core is dropped": (lambda m: replace(m, cores=m.cores[1:]), "in: 32 of 128 neurons are on no core"),
    "a core is there twice": (
        lambda m: replace(m, cores=(*m.cores, replace(m.cores[0], core=119))),
        "in: 32 of 128 neurons are on more than one core",
    ),
    "a slice overlaps the next": (
        lambda m: reshape(m, "dense", lambda s: ((s.ranges[0][0], s.ranges[0][1] + 1),)),
        "dense: 1 of 90 neurons are on more than one core",
    ),
    "a slice leaves its population": (
        lambda m: reshape(m, "conv", lambda s: (s.ranges[0], s.ranges[1], (4, 9))),
        "conv has the range 4..9 where its extent is 6",
    ),
    "a slice is empty": (
        lambda m: reshape(m, "conv", lambda s: (s.ranges[0], s.ranges[1], (4, 4))),
        "conv has the range 4..4 where its extent is 6",
    ),
    "a convolution is cut by neurons": (
        lambda m: reshape(m, "conv", lambda s: ((0, 30),)),
        r"conv has 1 ranges, its shape is \(6, 6, 6\)",
    ),
    "an unknown population": (
        lambda m: change(m, 0, slices=(Slice("ghost", ((0, 1),)),)),
        "holds 'ghost', which is no population with neurons",
    ),
    "a core that does not exist": (
        lambda m: change(m, 0, core=120),
        r"core 120 of chip 0 does not exist: loihi2 has cores 0\.\.119",
    ),
    "two entries for one core": (lambda m: change(m, 1, core=0), "core 0 of chip 0 is listed twice"),
    "a core without slices": (lambda m: change(m, 0, slices=()), "core 0 of chip 0 is listed without a slice"),
    "two layers on a core": (
        lambda m: replace(m, cores=(*m.cores[1:-1], replace(m.cores[-1], slices=(*m.cores[0].slices, *m.cores[-1].slices)))),
        "holds 2 slices, the profile allows 1",
    ),
    "too many neurons": (
        lambda m: one_core(m, "dense", ((0, 90),)),
        r"core 119 of chip 0 \(dense\): 90 neurons, the limit is 40",
    ),
    "too many words": (
        lambda m: one_core(m, "dense", ((0, 90),)),
        r"core 119 of chip 0 \(dense\): 1242 synapse_words, the limit is 400",  # 54 inputs, 90 * 16 + 8 bits: 23 words
    ),
    "too much of the pool": (
        lambda m: one_core(m, "dense", ((0, 90),)),
        r"\(dense\): 1476 pool, the limit is 600",  # + 54 axons + 90 neurons + 90 AxonMap entries
    ),
    "too many AxonMap entries": (
        lambda m: replace(one_core(m, "dense", ((0, 90),)), chip=load_chip("loihi2", {"axon_map": 80})),
        r"\(dense\): 90 axon_map, the limit is 80",
    ),
    "too many in-axons": (
        lambda m: replace(m, chip=load_chip("loihi2", {**LIMITS, "axon_in": 53})),
        r"\(dense\): 54 axon_in, the limit is 53",
    ),
    "a tile that is no power of two wide": (
        lambda m: one_core(m, "pool", ((0, 6), (0, 3), (0, 3))),
        "pool: tiles 3 wide, the profile allows powers of two",
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_are_caught(mapping: Mapping, name: str) -> None:
    corrupt, message = CORRUPTIONS[name]
    with pytest.raises(CapacityError, match=message):
        require(network(), corrupt(mapping))


def test_require_lists_the_first_only(mapping: Mapping) -> None:
    crowded = replace(mapping, chip=load_chip("loihi2", {"neurons": 1, "axon_map": 1, "synapse_words": 1}))
    with pytest.raises(CapacityError, match=r"breaks the rules \d+ times: .* and \d+ more\. Map the network again") as caught:
        require(network(), crowded)
    assert caught.value.exit_code == 2 and str(caught.value).count("the limit is") == 20


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"list_words": 2}, "list_words, the limit is 2"),
        ({"axon_out": 100}, "axon_out, the limit is 100"),
        ({"axon_in": 30}, "axon_in, the limit is 30"),
        ({"synapse_words": 60}, "synapse_words, the limit is 60"),
    ],
)
def test_limits_of_loihi1(limits: dict[str, int], sentence: str) -> None:
    legal = map_network(network(), load_chip("loihi1"))
    assert check(network(), legal) == ()
    broken = check(network(), replace(legal, chip=load_chip("loihi1", limits)))
    assert broken and any(sentence in line for line in broken)


def test_loihi1_counts_by_hand() -> None:
    """3x3 kernel on 4x4 pixels, 2 channels of 2x2 outputs, weights of 1 bit, index of 6 bits, on one core.

    Row masks {0}, {0,1}, {1,2}, {2} and the same columns: 16 in-axons, each with its own list of |my| * |mx| * 2 synapses of 7
    bits: 2, 4 or 8 synapses: 24, 38 or 66 bits: 1, 1 or 2 words; four of the sixteen pixels have 8.
    """
    net = Network(
        (Population("in", (1, 4, 4), LIF), Population("c", (2, 2, 2), LIF)),
        (Projection("in", "c", Conv(np.ones((2, 1, 3, 3), dtype=int))),),
    )
    mapping = map_network(net, load_chip("loihi1"))
    expected = {"neurons": 8, "neuron_groups": 1, "axon_in": 16, "axon_out": 0, "synapse_words": 20, "list_words": 2}
    for by_synapse in (True, False):
        used = recount(net, mapping, by_synapse)
        assert used[1] == expected
        assert used[0]["axon_out"] == 16 and used[0]["synapse_words"] == 0


# --- relaxed rules ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def relaxed() -> Mapping:
    return map_network(network(), load_chip("loihi2", LIMITS), free_tiles=True, share_cores=True)


def test_the_mapper_passes_with_relaxed_rules(relaxed: Mapping) -> None:
    assert check(network(), relaxed) == ()
    assert max(len(core.slices) for core in relaxed.cores) > 1
    assert len(relaxed.cores) < len(map_network(network(), load_chip("loihi2", LIMITS)).cores)


def shared(mapping: Mapping) -> int:
    return next(i for i, core in enumerate(mapping.cores) if len(core.slices) > 1)


def merged(mapping: Mapping) -> Mapping:
    """The first two cores on one."""
    first, second, *rest = mapping.cores
    return replace(mapping, cores=(replace(first, slices=(*first.slices, *second.slices)), *rest))


CORRUPTED_RELAXED: dict[str, tuple[Callable[[Mapping], Mapping], str]] = {
    "the rules were not relaxed": (lambda m: replace(m, chip=load_chip("loihi2", LIMITS)), r"slices, the profile allows 1"),
    "one of two slices on a core is dropped": (
        lambda m: change(m, shared(m), slices=m.cores[shared(m)].slices[1:]),
        r"neurons are on no core",
    ),
    "a slice is on two cores": (
        lambda m: change(m, 0, slices=(*m.cores[0].slices, m.cores[-1].slices[0])),
        r"neurons are on more than one core",
    ),
    "two full cores on one": (merged, r"neurons, the limit is 40"),
    "the slices of a core together, not each, break a limit": (
        lambda m: replace(m, chip=allow(load_chip("loihi2", {**LIMITS, "neurons": 39}), free_tiles=True, share_cores=True)),
        r"40 neurons, the limit is 39",
    ),
    "more slices than neuron groups": (
        lambda m: replace(
            m, chip=allow(load_chip("loihi2", {**LIMITS, "neuron_groups": 1}), free_tiles=True, share_cores=True)
        ),
        r"slices, the profile allows 1",
    ),
}


@pytest.mark.parametrize("name", CORRUPTED_RELAXED)
def test_corruptions_of_relaxed_mappings_are_caught(relaxed: Mapping, name: str) -> None:
    corrupt, message = CORRUPTED_RELAXED[name]
    with pytest.raises(CapacityError, match=message):
        require(network(), corrupt(relaxed))


def test_sparse_lists_are_counted_from_the_weights() -> None:
    """54 inputs of 90 outputs: a single non-zero weight each is one word, 16 + 8 bits."""
    weight = np.zeros((90, 54), dtype=int)
    weight[np.arange(54), np.arange(54)] = 7
    weight[0, 0] = -8
    net = Network((Population("in", (54,)), Population("d", (90,), LIF)), (Projection("in", "d", Dense(weight)),))
    chip = load_chip("loihi2", {"synapse_words": 54})
    sparse, dense = map_network(net, chip, sparse=True), map_network(net, chip)
    assert (len(sparse.cores), len(dense.cores)) == (1, 30)
    for by_synapse in (True, False):
        assert recount(net, sparse, by_synapse)[0]["synapse_words"] == 54
    assert check(net, sparse) == ()
    assert any("1242 synapse_words, the limit is 54" in line for line in check(net, replace(sparse, chip=chip)))
