"""The engine equals the reference in every spike, u, v and count: events and matrix products, with numba and without.

The reference (netx_export.simulate) steps through time with dense sums in int64; the engine goes layer by layer over lists of
events with the narrowest integers that are exact.  They share no code but wrap24, decay, sat24 of the path without numba.
"""

from __future__ import annotations

import dataclasses
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netx_files import wheel
from numpy.typing import NDArray
from strategies import Case, cases, graphs, inputs, networks

from netx_export import engine
from netx_export.engine import Summary, products, simulate_fast, summarise
from netx_export.errors import ConfigError
from netx_export.hdf5 import read
from netx_export.network import Conv, Dense, Integrator, Lif, Network, Neuron, Population, Projection, Rate, Voltage
from netx_export.simulate import WINDOW, Reset, Run, project, simulate, synaptic_operations
from netx_export.simulate import scores as reference_scores

Array = NDArray[Any]

RESETS = [WINDOW, None, Reset(1), Reset(3), Reset(4, 1), Reset(3, 2), Reset(5, -1), Reset(1 << 30, 2)]
PATHS = ["events", "product", "numpy"]


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each way to form sums: both with compiled neurons, and numpy alone."""
    yield request.param


def fast(path: str, network: Network, frames: Array, reset: Reset | None = WINDOW, threads: int = 1, **names: Any) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        if path == "numpy":
            patch.setattr(engine, "_kernels", lambda: None)
            return engine._simulate(
                network, frames, reset, names.get("record"), names.get("states"), threads, 1 << 31, "product"
            )
        return engine._simulate(
            network,
            frames,
            reset,
            names.get("record"),
            names.get("states"),
            threads,
            1 << 31,
            path,  # type: ignore[arg-type]
        )


def fast_summary(path: str, network: Network, frames: Any, reset: Reset | None = WINDOW, threads: int = 1) -> Summary:
    with pytest.MonkeyPatch.context() as patch:
        if path == "numpy":
            patch.setattr(engine, "_kernels", lambda: None)
        return engine._summarise(network, frames, reset, threads, 1 << 31, None, "product" if path == "numpy" else path)  # type: ignore[arg-type]


def everything(network: Network) -> list[str]:
    return [p.name for p in network.populations]


def assert_equal(found: Run, expected: Run) -> None:
    for kind in ("spikes", "voltage", "current"):
        ours, theirs = getattr(found, kind), getattr(expected, kind)
        assert list(ours) == list(theirs)
        for name in theirs:
            assert ours[name].dtype == np.int32 and ours[name].shape == theirs[name].shape
            differs = np.argwhere(ours[name] != theirs[name])
            assert not len(differs), f"{kind} of {name}: {len(differs)} differ, the first at {differs[0]}"


def assert_same_summary(found: Summary, network: Network, run: Run) -> None:
    output = network.output.name
    batch = run.spikes[output].shape[0]
    assert found.samples == batch and found.steps == run.spikes[output].shape[-1]
    assert found.spikes == {p.name: int(np.count_nonzero(run.spikes[p.name])) for p in network.populations}
    assert found.operations == synaptic_operations(network, run)
    assert np.array_equal(found.voltage, run.voltage[output][..., -1].reshape(batch, -1))
    assert np.array_equal(found.counts, (run.spikes[output] != 0).sum(axis=-1).reshape(batch, -1))
    assert found.voltage.dtype == np.int32 and found.counts.dtype == np.int64


def check(path: str, network: Network, frames: Array, reset: Reset | None = WINDOW, threads: int = 1) -> Run:
    """Everything that the engine gives, held to the reference."""
    expected = simulate(network, frames, reset=reset, states=everything(network))
    assert_equal(fast(path, network, frames, reset, threads, states=everything(network)), expected)
    assert_same_summary(fast_summary(path, network, frames, reset, threads), network, expected)
    return expected


# --- generated networks


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=60)
@given(case=cases(samples=3), reset=st.sampled_from(RESETS), threads=st.sampled_from([1, 2]))
def test_lively_chains(path: str, case: Case, reset: Reset | None, threads: int) -> None:
    check(path, case.network, case.frames, reset, threads)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=60)
@given(data=st.data(), reset=st.sampled_from(RESETS))
def test_unsafe_chains(path: str, data: st.DataObject, reset: Reset | None) -> None:
    """States that overflow: u wraps, v saturates."""
    network = data.draw(networks(safe=False))
    check(path, network, data.draw(inputs(network)), reset)


@settings(max_examples=20)
@given(data=st.data(), reset=st.sampled_from(RESETS))
def test_graphs_go_to_the_reference(data: st.DataObject, reset: Reset | None) -> None:
    network = data.draw(graphs())
    check("events", network, data.draw(inputs(network, samples=3)), reset, threads=2)


@st.composite
def extremes(draw: st.DrawFn) -> tuple[Network, Array]:
    """One or two layers with weights, biases, thresholds, inputs and drives up to the ends of their ranges.

    The magnitudes are drawn so that every choice of integers of the engine is met: sums around 2**15, 2**18, 2**24 and 2**31.
    """
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    bits = draw(st.sampled_from([0, 0, 1, 4, 8, 16, 24]))
    image = draw(st.booleans())
    shape: tuple[int, ...] = (draw(st.sampled_from([1, 2, 3, 8, 9])), 5, 4) if image else (draw(st.integers(1, 20)),)
    time = draw(st.integers(1, 7))

    def neuron() -> Neuron:
        decays = st.sampled_from([0, 1, 7, 2048, 4095, 4096]) | st.integers(0, 4096)
        if draw(st.integers(0, 4)) == 0:
            return Integrator(draw(decays), draw(decays))
        return Lif(draw(decays), draw(decays), draw(st.sampled_from([0, 1, 64, 4000, 131072, 1 << 17, 1 << 24])))

    def values(size: Any, exponents: tuple[int, int]) -> Array:
        limit = (1 << draw(st.integers(*exponents))) - draw(st.integers(0, 1))
        kind = draw(st.sampled_from(["any", "ends", "positive"]))
        if kind == "any":
            return rng.integers(-limit, limit + 1, size)
        return rng.choice([limit] if kind == "positive" else [-limit, limit], size)

    def bias(size: int) -> Array | None:
        return values(size, (0, 30)) if draw(st.integers(0, 2)) == 0 else None

    driven = draw(st.integers(0, 3)) == 0
    populations = [Population("in", shape, neuron(), bias(shape[0])) if driven else Population("in", shape)]
    projections = []
    for i in range(draw(st.integers(1, 2))):
        source = populations[-1].shape
        synapse: Conv | Dense
        if len(source) == 3 and draw(st.booleans()):
            groups = draw(st.sampled_from([1, source[0]]))
            out = groups * draw(st.sampled_from([1, 2, 17] if groups == 1 else [1, 2]))
            weight = values((out, source[0] // groups, 3, 2), (0, 30))
            synapse = Conv(
                weight, draw(st.sampled_from([(1, 1), (2, 1)])), (1, 1), draw(st.sampled_from([(1, 1), (1, 2)])), groups
            )
            target: tuple[int, ...] = synapse.output_shape(source)
        else:
            target = draw(st.sampled_from([(1,), (3,), (17,), (70,), (2, 3, 2)]))
            synapse = Dense(values((int(np.prod(target)), populations[-1].size), (0, 30)))
        populations.append(Population(f"p{i}", target, neuron(), bias(target[0])))
        projections.append(Projection(populations[-2].name, f"p{i}", synapse))
    network = Network(tuple(populations), tuple(projections), input_bits=0 if driven else bits)
    if driven:
        frames = values((2, *shape, time), (0, draw(st.sampled_from([8, 23, 40]))))
    else:
        frames = np.where(rng.random((2, *shape, time)) < draw(st.sampled_from([0.2, 1.0])), (1 << max(bits, 1)) - 1, 0)
        frames = np.minimum(frames, rng.integers(0, 1 << max(bits, 1), frames.shape)) if draw(st.booleans()) else frames
    return network, frames


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=150)
@given(case=extremes(), reset=st.sampled_from(RESETS))
def test_extreme_integers(path: str, case: tuple[Network, Array], reset: Reset | None) -> None:
    check(path, *case, reset)


# --- the choice of integers


def layer_of(weight: Array, bits: int = 0, neuron: Neuron = Lif(4096, 0, 1 << 24), bias: Array | None = None) -> Network:  # noqa: B008
    weight = np.asarray(weight)
    return Network(
        (Population("in", (weight.shape[1],)), Population("out", (weight.shape[0],), neuron, bias)),
        (Projection("in", "out", Dense(weight)),),
        input_bits=bits,
    )


def chosen(network: Network) -> tuple[str, str, bool]:
    layer = engine._layers(network, 1, WINDOW, False)[-1]
    return layer.weight_type.name, layer.sum_type.name, layer.wide


@pytest.mark.parametrize(
    ("weights", "bits", "expected"),
    [
        ([[16384, 16383]], 0, ("int16", "int16", False)),  # sum 2**15 - 1: the last that int16 holds
        ([[16384, 16384]], 0, ("int32", "int32", False)),
        ([[511] * 65], 0, ("int16", "int32", False)),  # added in pieces of 64
        ([[512] * 65], 0, ("int32", "int32", False)),
        ([[1 << 17, 1 << 17]], 0, ("int32", "int32", False)),  # sum 2**18: one turn of wrap24 is just enough
        ([[1 << 17, (1 << 17) + 1]], 0, ("int32", "int32", True)),
        ([[(1 << 31) - 1]], 0, ("int32", "int32", True)),
        ([[(1 << 31) - 1, 1]], 0, ("int64", "int64", True)),
        ([[127, -128]], 8, ("int32", "int32", False)),
    ],
)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_narrowest_integers(
    path: str, sign: int, weights: list[list[int]], bits: int, expected: tuple[str, str, bool]
) -> None:
    network = layer_of(sign * np.array(weights), bits, Lif(0, 0, 1 << 24))
    assert chosen(network) == expected
    frames = np.full((1, network.input.size, 6), (1 << max(bits, 1)) - 1)
    frames[0, 0, 3] = 0  # (a sum of 2**18 alone is a whole turn)
    run = check(path, network, frames, None)
    assert run.current["out"].any()


def test_a_bias_decides_too() -> None:
    assert not chosen(layer_of([[1]], bias=np.array([1 << 22])))[2]
    assert chosen(layer_of([[1]], bias=np.array([(1 << 22) + 1])))[2]
    check("events", layer_of([[1]], bias=np.array([(1 << 31) - 1])), np.ones((1, 1, 4), int), None)


def test_float32_would_be_wrong() -> None:
    """2**24 + 1 is no float32: products() must see it in the bound, and the result shows that it matters."""
    dense = Dense(np.array([[1 << 24, 1, -1]]))
    spikes = np.array([[1, 1, 0], [1, 1, 1]])
    assert products(dense, spikes, (1 << 24) + 2).tolist() == [[(1 << 24) + 1], [1 << 24]]
    assert products(dense, spikes, 1).tolist() != [[(1 << 24) + 1], [1 << 24]]  # float32, chosen by a wrong bound
    wide = Dense(np.full((1, 4), (1 << 31) - 1))
    graded = np.full((1, 4), (1 << 24) - 1)
    exact = 4 * ((1 << 31) - 1) * ((1 << 24) - 1)
    assert products(wide, graded, exact).tolist() == [[exact]] and products(wide, graded, (1 << 53) - 1).tolist() != [[exact]]


@pytest.mark.parametrize("path", PATHS)
def test_threshold_at_equality(path: str) -> None:
    """v = threshold does not fire, v = threshold + 1/64 does (through the decay of u), on all paths."""
    network = layer_of([[10], [11], [10]], neuron=Lif(4096, 4096, 10), bias=np.array([0, 0, 1]))
    run = check(path, network, np.ones((1, 1, 3), int))
    assert run.spikes["out"][0, :, 0].tolist() == [0, 1, 1]


@pytest.mark.parametrize("path", PATHS)
def test_current_wraps_and_voltage_saturates(path: str) -> None:
    network = layer_of([[1 << 17], [-(1 << 17)], [(1 << 17) - 1], [100000]], neuron=Lif(0, 0, 1 << 24))
    run = check(path, network, np.ones((1, 1, 5), int))
    assert run.current["out"][0, 0].tolist() == [1 << 23, 0, 1 << 23, 0, 1 << 23]  # +2**23 stays, -2**23 turns
    assert run.current["out"][0, 1, 0] == 1 << 23
    assert abs(run.voltage["out"]).max() == (1 << 23) - 1


@pytest.mark.parametrize("path", PATHS)
def test_a_conv_wraps_its_sums_and_a_dense_does_not(path: str) -> None:
    weight = np.full((1, 3, 1, 1), 1 << 22)
    conv = Network(
        (Population("in", (3, 1, 1)), Population("out", (1, 1, 1), Lif(4096, 4096, 5))),
        (Projection("in", "out", Conv(weight)),),
    )
    dense = dataclasses.replace(conv, projections=(Projection("in", "out", Dense(weight.reshape(1, 3))),))
    frames = np.ones((1, 3, 1, 1, 2), int)
    assert not np.array_equal(check(path, conv, frames).current["out"], check(path, dense, frames).current["out"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weight", [(1 << 17) - 1, 1 << 17, (1 << 17) + 1])
@pytest.mark.parametrize("voltage_decay", [0, 100, 1024])
def test_a_current_without_memory_wraps_too(path: str, weight: int, voltage_decay: int) -> None:
    """Around |a| = 2**17, where the short step of the kernels ends: +2**23 stays, -2**23 and all beyond turn."""
    network = layer_of([[weight], [-weight]], neuron=Lif(4096, voltage_decay, 1 << 24))
    run = check(path, network, np.ones((1, 1, 4), int))
    assert (run.current["out"][0, 0] < 0).all() == (weight > 1 << 17)
    assert (run.current["out"][0, 1] > 0).all() == (weight >= 1 << 17)


# --- bias before data, delays


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("delay", [None, [[0], [3]], [[2, 0, 1]]])
def test_bias_before_data(path: str, reset: Reset | None, delay: list[list[int]] | None) -> None:
    """Biases act depth steps early; what fires then arrives before frame 0, or after it through a delay."""
    rng = np.random.default_rng(3)
    projection = Projection("b", "c", Dense(rng.integers(-5, 20, (2, 3))), None if delay is None else np.array(delay))
    network = Network(
        (
            Population("in", (2,)),
            Population("a", (4,), Lif(1024, 512, 20), np.array([30, 9, 0, 4])),
            Population("b", (3,), Lif(100, 512, 3), np.array([3, 0, 2])),
            Population("c", (2,), Lif(300, 100, 4)),
        ),
        (
            Projection("in", "a", Dense(rng.integers(-9, 9, (4, 2)))),
            Projection("a", "b", Dense(rng.integers(-3, 9, (3, 4)))),
            projection,
        ),
    )
    run = check(path, network, (rng.random((2, 2, 9)) < 0.4).astype(int), reset)
    assert all(run.spikes[n].any() for n in "abc")


def test_idle_leads_are_not_run() -> None:
    """Steps before the data are only run where they can matter."""
    chain = layer_of([[1, 2]], bias=np.array([5]))
    assert engine._leads(chain, None) == [0, 1] and engine._leads(chain, WINDOW) == [0, 0]
    assert engine._leads(chain, Reset(3, 1)) == [0, 1]
    assert engine._leads(layer_of([[1, 2]]), None) == [0, 0]


# --- convolutions against the reference's own sums


@settings(max_examples=50)
@given(case=extremes())
def test_products(case: tuple[Network, Array]) -> None:
    network, frames = case
    projection = network.projections[0]
    spikes = np.abs(frames[..., 0]).astype(np.int64) & 0xFFFFFF
    weight = np.abs(projection.synapse.weight.astype(np.int64))
    bound = int(weight.reshape(weight.shape[0], -1).sum(axis=1).max()) * int(spikes.max())
    assert np.array_equal(products(projection.synapse, spikes, bound), project(projection.synapse, spikes))


# --- recorded vectors


@pytest.mark.parametrize("path", PATHS)
def test_recorded_pilotnet(path: str) -> None:
    """The first window of Intel's recording: spikes, u and v of every layer (v reads 128 where the board's neuron fired)."""
    network = read(wheel("gts/pilotnet_lif/network.net"))
    image = np.load(wheel("gts/pilotnet_lif/image.npy")).transpose(2, 1, 0)
    frames = np.repeat(image[None, ..., None].astype(np.int64), 16, axis=-1)
    run = fast(path, network, frames, Reset(16), 2, states=everything(network))
    layers = ["input", *(f"conv-{i}" for i in range(5)), *(f"fc-{i}" for i in range(3))]
    for depth, (population, layer) in enumerate(zip(network.populations, layers, strict=False)):
        steps = min(16, 24 - depth)

        def recorded(suffix: str, layer: str = layer, depth: int = depth, steps: int = steps) -> Array:
            values = np.load(wheel(f"gts/pilotnet_lif/{layer}{suffix}.npy")).astype(np.int64)
            values = np.moveaxis(values, [0, 1, 2], [2, 1, 0]) if values.ndim == 4 else values
            return values[..., depth : depth + steps]

        spikes = run.spikes[population.name][0][..., :steps]
        assert np.array_equal(spikes, recorded("")), layer
        assert spikes.any()
        if depth:
            assert np.array_equal(run.current[population.name][0][..., :steps], recorded("-u")), layer
            silent = spikes == 0
            assert np.array_equal(run.voltage[population.name][0][..., :steps][silent], recorded("-v")[silent]), layer


@pytest.mark.parametrize("path", PATHS)
def test_recorded_ntidigits(path: str) -> None:
    """3000 steps through axonal delays, never reset: all 22,572 spikes."""
    network = read(wheel("gts/ntidigits/ntidigits.net"))
    frames = np.load(wheel("gts/ntidigits/input.npy")).astype(np.int8).reshape(1, *network.input.shape, 3000)
    expected = np.load(wheel("gts/ntidigits/output.npy")).astype(np.int32)
    run = fast(path, network, frames, None, record=[network.output.name], states=[])
    assert expected.sum() == 22572
    assert np.array_equal(run.spikes[network.output.name][0][:, :2996], expected[:, 4:])


# --- summaries, chunks, threads, memory


@pytest.fixture(scope="module")
def classifier() -> Network:
    rng = np.random.default_rng(5)
    return Network(
        (
            Population("in", (2, 9, 8)),
            Population("conv", (12, 4, 4), Lif(4096, 512, 12), rng.integers(-3, 4, 12)),
            Population("pool", (12, 2, 2), Lif(4096, 4096, 60)),
            Population("out", (6,), Lif(4096, 0, 40)),
        ),
        (
            Projection("in", "conv", Conv(rng.integers(-6, 9, (12, 2, 3, 3)), (2, 2), (0, 1))),
            Projection("conv", "pool", Conv(np.full((12, 1, 2, 2), 64), (2, 2), groups=12)),
            Projection("pool", "out", Dense(rng.integers(-20, 30, (6, 48)))),
        ),
        Rate(3),
    )


@pytest.fixture(scope="module")
def images() -> Array:
    return (np.random.default_rng(6).random((23, 2, 9, 8, 5)) < 0.3).astype(np.uint8)


@pytest.mark.parametrize("threads", [1, 2, 3, 40])
@pytest.mark.parametrize("batch", [1, 2, 23])
def test_threads_change_nothing(classifier: Network, images: Array, threads: int, batch: int) -> None:
    check("events", classifier, images[:batch], threads=threads)


@pytest.mark.parametrize("block", [1, 1 << 12, 1 << 16, 1 << 30])
def test_blocks_change_nothing(classifier: Network, images: Array, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BLOCK_BYTES", block)
    for path in PATHS:
        check(path, classifier, images)


def test_chunks(classifier: Network, images: Array) -> None:
    whole = summarise(classifier, images, threads=1)
    done: list[int] = []
    for spikes in (
        [images[:10], images[10:11], images[11:]],
        iter([images[:10], images[10:]]),
        lambda: (images[i : i + 5] for i in range(0, 23, 5)),
    ):
        done.clear()
        parts = summarise(classifier, spikes, threads=2, progress=done.append)
        assert parts.samples == whole.samples == 23
        assert parts.spikes == whole.spikes and parts.operations == whole.operations
        assert np.array_equal(parts.voltage, whole.voltage) and np.array_equal(parts.counts, whole.counts)
        assert done[-1] == 23 and sorted(set(done)) == done


@pytest.mark.parametrize("readout", [Rate(3), Rate(6), Voltage()])
def test_scores(classifier: Network, images: Array, readout: Rate | Voltage) -> None:
    network = dataclasses.replace(classifier, readout=readout)
    found = engine.scores(network, summarise(network, images))
    assert np.array_equal(found, reference_scores(network, simulate(network, images)))
    assert len(np.unique(found)) > 3


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_any_whole_type_and_any_strides(classifier: Network, images: Array, kind: Any) -> None:
    frames = images.astype(kind)
    expected = simulate(classifier, frames)
    assert_equal(simulate_fast(classifier, frames), expected)
    assert_equal(simulate_fast(classifier, np.asfortranarray(frames)), expected)
    turned = np.ascontiguousarray(np.moveaxis(frames, -1, 1))
    assert_equal(simulate_fast(classifier, np.moveaxis(turned, 1, -1)), expected)
    graded = dataclasses.replace(classifier, input_bits=9)
    assert_equal(simulate_fast(graded, images.astype(np.int64) * 300), simulate(graded, images.astype(np.int64) * 300))


def test_record_and_states(classifier: Network, images: Array) -> None:
    names = {"record": ["pool"], "states": ["conv", "in"]}
    expected = simulate(classifier, images, **names)  # type: ignore[arg-type]
    for path in PATHS:
        assert_equal(fast(path, classifier, images, **names), expected)
    assert_equal(simulate_fast(classifier, images, record=[], states=[]), Run({}, {}, {}))


@pytest.mark.parametrize("path", PATHS)
def test_an_input_alone(path: str) -> None:
    host = Network((Population("in", (2, 3, 1)),), ())
    frames = np.random.default_rng(0).integers(0, 2, (3, 2, 3, 1, 4))
    check(path, host, frames)
    driven = Network((Population("in", (2, 3, 1), Lif(4096, 100, 9)),), ())
    run = check(path, driven, frames * 7)
    assert run.spikes["in"].any()


def test_more_memory_than_allowed(classifier: Network, images: Array) -> None:
    with pytest.raises(
        ConfigError, match=r"one sample of 5 steps needs \d+ MiB, more than max_memory, 0 MiB; allow more memory"
    ):
        simulate_fast(classifier, images, max_memory=1000)


MEASURE = """
import sys
import numpy as np
from netx_export import engine
from netx_export.network import Conv, Dense, Lif, Network, Population, Projection

rng = np.random.default_rng(0)
network = Network(
    (Population("in", (4, 32, 32)), Population("a", (32, 30, 30), Lif(4096, 512, 20)), Population("out", (10,), Lif(4096, 0, 90))),
    (Projection("in", "a", Conv(rng.integers(-9, 9, (32, 4, 3, 3)))), Projection("a", "out", Dense(rng.integers(-9, 9, (10, 28800))))),
)
def chunks(samples):
    for _ in range(samples // 20):
        yield (rng.random((20, 4, 32, 32, 16)) < 0.2).astype(np.uint8)

def peak():  # of this process alone: getrusage would begin with that of the process it was forked from
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

limit = int(sys.argv[1])
engine.summarise(network, chunks(20), threads=2, max_memory=limit)
before = peak()
assert engine.summarise(network, chunks(1000), threads=2, max_memory=limit).samples == 1000
print(before, peak())
"""


def test_memory_stays_bounded() -> None:
    """1000 samples through 33,000 neurons in 16 steps: as a whole they would take 530 MB of spikes, in bytes.

    Measured in a process of its own, the second one (numba's compiler, which runs in the first, needs more than the
    engine): fifty times the samples may add 25 MB of noise to the peak of the first 20, and those stay below max_memory
    beside an interpreter with numpy and numba (300 MB).
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is read from /proc")
    limit = 64 << 20
    for _ in range(2):
        child = subprocess.run([sys.executable, "-c", MEASURE, str(limit)], capture_output=True, text=True, timeout=100)
        assert child.returncode == 0, child.stderr
    before, after = (int(n) << 10 for n in child.stdout.split())
    assert after - before < 25 << 20
    assert before < limit + (300 << 20)


# --- errors


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((1, 2, 3)), "the input is of type float64; whole numbers are expected"),
        (np.zeros((1, 3, 3), int), r"the input has the shape \(1, 3, 3\); expected \(batch, 2, time\)"),
        (np.zeros((1, 2, 0), int), r"the input has the shape \(1, 2, 0\), which is empty"),
        (np.full((1, 2, 3), 2), r"input spikes 2..2; this network takes 0..1 \(input_bits 0\)"),
        (np.full((1, 2, 3), -1), r"input spikes -1..-1; this network takes 0..1"),
    ],
)
def test_bad_input(frames: Array, message: str) -> None:
    network = layer_of([[1, 2]])
    with pytest.raises(ConfigError, match=message):
        simulate_fast(network, frames)
    with pytest.raises(ConfigError, match=message):
        summarise(network, [frames])


def test_bad_requests() -> None:
    network = layer_of([[1, 2]])
    frames = np.zeros((1, 2, 3), int)
    with pytest.raises(ConfigError, match="there is no population 'x'; the network has in, out"):
        simulate_fast(network, frames, record=["x"])
    with pytest.raises(ConfigError, match="threads is 0; it must be at least 1"):
        simulate_fast(network, frames, threads=0)
    with pytest.raises(ConfigError, match="there is no chunk of input; at least one sample is needed"):
        summarise(network, [])
    with pytest.raises(ConfigError, match="a chunk of 2 steps follows one of 3; all must be equally long"):
        summarise(network, [frames, frames[..., :2]])
    with pytest.raises(ConfigError, match="does not say how its output is read"):
        engine.scores(network, summarise(network, frames))


def test_an_error_of_the_chunks_comes_through() -> None:
    def chunks() -> Iterator[Array]:
        yield np.zeros((1, 2, 3), int)
        raise ValueError("the data set is gone")

    with pytest.raises(ValueError, match="the data set is gone"):
        summarise(layer_of([[1, 2]]), chunks)


def test_what_is_prepared_is_kept_as_long_as_the_network() -> None:
    engine._KEPT.clear()
    network = layer_of(np.array([[3, -2]]), bits=2)
    spikes = np.ones((1, 2, 4), np.uint8)
    first = engine.simulate_fast(network, spikes)
    kept = dict(engine._KEPT)
    again = engine.simulate_fast(network, spikes)
    assert kept and kept.keys() == engine._KEPT.keys()
    assert all(kept[place][1] is engine._KEPT[place][1] for place in kept)
    assert np.array_equal(first.voltage["out"], again.voltage["out"])
    other = layer_of(np.array([[1, 2]]), bits=2)  # another network of the same shape
    assert not np.array_equal(engine.simulate_fast(other, spikes).voltage["out"], first.voltage["out"])
    del network, first, again, kept
    gc.collect()
    assert all(reference() is other for reference, _ in engine._KEPT.values())
    del other
    gc.collect()
    assert not engine._KEPT
