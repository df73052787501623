"""NIR files: our own come back as they were, NIR's equations give the chip's states, and foreign files are read or refused."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netx_files import put
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from strategies import Case, cases, networks

from netx_export import nir_file
from netx_export.errors import ConfigError, FormatError, MissingError, NetworkError, QpsnnError
from netx_export.network import (
    Conv,
    Delta,
    Dense,
    Drive,
    Integrator,
    Lif,
    Network,
    Population,
    Projection,
    Rate,
    Sigma,
    SigmaDelta,
    Voltage,
)
from netx_export.nir_file import DT, RealLayer, RealNetwork, chain_of, layers_of, network_of, read_nir, write_nir
from netx_export.simulate import simulate

# --- NIR's equations, as its own package reads a file


def correlate(s: NDArray[Any], weight: NDArray[Any], stride: Any, padding: Any, dilation: Any, groups: int) -> NDArray[Any]:
    """Torch's conv2d: s (batch, C, H, W), weight (out, in/groups, ky, kx)."""
    (py, px), (sy, sx), (dy, dx) = (tuple(int(n) for n in pair) for pair in (padding, stride, dilation))
    padded = np.pad(s, ((0, 0), (0, 0), (py, py), (px, px)))
    out, per_group, ky, kx = weight.shape
    windows = sliding_window_view(padded, (dy * (ky - 1) + 1, dx * (kx - 1) + 1), (2, 3))[:, :, ::sy, ::sx, ::dy, ::dx]
    windows = windows.reshape(len(s), groups, per_group, *windows.shape[2:])
    kernels = weight.reshape(groups, out // groups, per_group, ky, kx)
    made = np.einsum("bgiyxkl,goikl->bgoyx", windows, kernels)
    return made.reshape(len(s), out, *made.shape[3:])


def linear(node: Any, s: NDArray[Any]) -> NDArray[Any]:
    """What a node without neurons makes of one step (batch, *shape)."""
    kind = type(node).__name__
    if kind in ("Linear", "Affine"):
        return s @ np.asarray(node.weight, np.float64).T + (node.bias if kind == "Affine" else 0)
    if kind == "Conv2d":
        made = correlate(s, np.asarray(node.weight, np.float64), node.stride, node.padding, node.dilation, int(node.groups))
        return made + np.asarray(node.bias, np.float64)[:, None, None]
    if kind == "SumPool2d":
        ones = np.ones((s.shape[1], 1, *node.kernel_size))
        return correlate(s, ones, node.stride, node.padding, (1, 1), s.shape[1])
    if kind == "Flatten":
        return s.reshape(len(s), -1)
    assert kind == "Scale"
    return s * node.scale


def follow(
    graph: Any, frames: NDArray[Any], dt: float, forced: dict[str, NDArray[Any]] | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Euler's method on a chain as nir reads it: spikes, and voltages before the reset, (batch, *shape, time) of each neuron node.

    ``forced``: the spikes (and with them resets) of the neurons, taken in place of their own.
    """
    after = dict(graph.edges)
    order = [next(name for name in graph.nodes if name not in after.values())]
    while order[-1] in after:
        order.append(after[order[-1]])
    current, voltage = {}, {}
    queue: dict[str, list[NDArray[Any]]] = {}
    spikes: dict[str, list[NDArray[Any]]] = {}
    voltages: dict[str, list[NDArray[Any]]] = {}
    for t in range(frames.shape[-1]):
        s = frames[..., t].astype(np.float64)
        for name in order:
            node = graph.nodes[name]
            kind = type(node).__name__
            if kind in ("Input", "Output"):
                continue
            if kind == "Delay":
                steps = np.rint(np.asarray(node.delay, np.float64) / dt).astype(int)
                queue.setdefault(name, []).append(s)
                past = queue[name]
                s = np.stack([past[t - d][:, i] if d <= t else 0 * s[:, i] for i, d in enumerate(steps)], 1)
                continue
            if not hasattr(node, "v_threshold"):
                s = linear(node, s)
                continue
            real = {k: np.asarray(v, np.float64) for k, v in vars(node).items() if k.startswith(("tau", "r", "v_", "w_"))}
            v = voltage.get(name, 0.0)
            if kind == "IF":
                v = v + dt * real["r"] * s
            else:
                tau = real["tau" if kind == "LIF" else "tau_mem"]
                i = s
                if kind == "CubaLIF":
                    i = current.get(name, 0.0)
                    i = i + dt / real["tau_syn"] * (real["w_in"] * s - i)
                    current[name] = i
                v = v + dt / tau * (real["v_leak"] - v + real["r"] * i)
            voltages.setdefault(name, []).append(v)
            s = (v > real["v_threshold"]).astype(np.float64) if forced is None else forced[name][..., t].astype(np.float64)
            voltage[name] = np.where(s > 0, real["v_reset"], v)
            spikes.setdefault(name, []).append(s)
    return {k: np.stack(v, -1) for k, v in spikes.items()}, {k: np.stack(v, -1) for k, v in voltages.items()}


def run_real(real: RealNetwork, frames: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The equations of :class:`RealLayer`, with torch's convolution as above."""
    spikes: dict[str, NDArray[Any]] = {}
    s = frames.astype(np.float64)
    for layer in real.layers:
        u = v = 0.0
        out = []
        for t in range(s.shape[-1]):
            now = s[..., t]
            if layer.weight.ndim == 2:
                a = now.reshape(len(now), -1) @ layer.weight.T
            else:
                a = correlate(now, layer.weight, layer.stride, layer.padding, layer.dilation, layer.groups)
            u = (1 - layer.current_decay) * u + a
            v = (1 - layer.voltage_decay) * v + u + layer.bias.reshape(-1, *[1] * (len(layer.shape) - 1))
            z = v > 1
            v = np.where(z, 0, v)
            out.append(z)
        s = np.stack(out, -1).astype(np.float64)
        spikes[layer.name] = s
    return spikes


# --- our own files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nir")


@settings(max_examples=25)
@given(network=networks(safe=False), dt=st.sampled_from([1e-4, 1e-3, 0.0037, 1.0]))
def test_what_is_written_comes_back(folder: Path, network: Network, dt: float) -> None:
    write_nir(network, folder / "x.nir", dt)
    chain = read_nir(folder / "x.nir")
    assert network_of(chain) == network
    graph = nir.read(folder / "x.nir", type_check=False)
    assert {name: type(node).__name__ for name, node in graph.nodes.items()} == {n.name: n.kind for n in chain.nodes}
    assert graph.edges == [(a.name, b.name) for a, b in zip(chain.nodes, chain.nodes[1:], strict=False)]


@settings(max_examples=25)
@given(case=cases())
def test_nir_s_equations_give_the_chip_s_states(folder: Path, case: Case) -> None:
    """With the chip's spikes as given, NIR's voltages are the chip's but for what its decays cut off in each step."""
    network, frames = case.network, case.frames
    write_nir(network, folder / "e.nir")
    graph = nir.read(folder / "e.nir", type_check=False)
    names = [p.name for p in network.populations if p.neuron is not None]
    run = simulate(network, frames, states=names)
    nodes = dict(zip(names, [n.name for n in read_nir(folder / "e.nir").nodes if n.kind in nir_file.NEURONS], strict=True))
    if network.input.drive is not None:  # the test's frames are bias mantissas; NIR's input is what the drive makes them of
        graph.nodes[next(k for k, n in graph.nodes.items() if type(n).__name__ == "Scale")].scale[:] = 1
        graph.nodes[nodes[network.input.name]].v_leak = np.zeros(network.input.shape)
    elif network.input.neuron is not None:
        frames = frames / 64
    _, voltages = follow(graph, frames, DT, {nodes[name]: run.spikes[name] for name in names})
    steps = frames.shape[-1]
    cut = (steps * (steps + 1) / 2 + steps) / 64  # one 64th of a mantissa a step, of u and of v, added up
    for name in names:
        v, s = voltages[nodes[name]], run.spikes[name] > 0
        threshold = network[name].neuron.threshold  # type: ignore[union-attr]
        room = cut + 1e-5 * np.abs(v).max()  # tau is a float32
        assert np.all(np.abs(np.where(s, 0, v) - run.voltage[name] / 64) <= room)
        assert np.all(v[s] > threshold - room) and np.all(v[~s] < threshold + room)


def small() -> Network:
    """Every kind of node that is written: IF, LIF and CubaLIF, with a bias in each place."""
    rng = np.random.default_rng(3)
    populations = (
        Population("in", (2, 6, 6)),
        Population("if", (3, 6, 6), Lif(4096, 0, 40), np.array([3, 0, -2])),
        Population("pool", (3, 3, 3), Lif(4096, 512, 1)),
        Population("cuba", (5,), Lif(1000, 300, 90), np.array([1, -2, 3, 0, 9])),
        Population("lif", (4,), Lif(4096, 100, 60), np.array([5, 0, 0, 1])),
        Population("a/b", (4,), Integrator(2048, 0)),
    )
    weights = [rng.integers(-20, 30, shape) for shape in ((3, 2, 3, 3), (5, 27), (4, 5), (4, 4))]
    synapses = (
        Conv(weights[0], padding=(1, 1)),
        Conv(np.ones((3, 1, 2, 2), np.int64), (2, 2), groups=3),
        Dense(weights[1]),
        Dense(weights[2]),
        Dense(weights[3]),
    )
    delays = (None, None, None, np.array([[0, 1, 2, 0, 3]]), np.array([[1], [0], [2], [0]]))
    names = [p.name for p in populations]
    projections = tuple(map(Projection, names, names[1:], synapses, delays))
    return Network(populations, projections, Rate(2), 3, 12)


def test_each_node_has_its_kind(tmp_path: Path) -> None:
    write_nir(small(), tmp_path / "x.nir")
    chain = read_nir(tmp_path / "x.nir")
    kinds = "Input Conv2d IF SumPool2d LIF Flatten Linear CubaLIF Delay Affine LIF Linear Delay CubaLIF Output"
    assert [node.kind for node in chain.nodes] == kinds.split()
    assert network_of(chain) == small()
    node = chain.nodes[7]
    assert np.allclose(node.values["tau_syn"], 4096 / 1000 * DT) and np.allclose(node.values["tau_mem"], 4096 / 300 * DT)
    assert np.allclose(node.values["v_leak"], np.array([1, -2, 3, 0, 9]) * 4096 / 300)
    assert "/" not in chain.nodes[-2].name and chain.nodes[-2].integers["name"] == "a/b"
    assert chain.nodes[2].values["r"][0, 0, 0] == np.float32(1 / DT)
    nir.read(tmp_path / "x.nir", type_check=False)


def test_nir_s_own_type_check_takes_square_kernels(tmp_path: Path) -> None:
    network = small()
    plain = dataclasses.replace(
        network, populations=network.populations[:5], projections=network.projections[:4], readout=None
    )
    plain = dataclasses.replace(
        plain, projections=(*plain.projections[:3], dataclasses.replace(plain.projections[3], delay=None))
    )
    write_nir(plain, tmp_path / "x.nir")
    assert len(nir.read(tmp_path / "x.nir").nodes) == 11


def test_large_integers_come_back(tmp_path: Path) -> None:
    weight = np.array([[(1 << 24) + 1, -(1 << 30) - 1]])
    populations = (Population("x", (2,)), Population("y", (1,), Lif(0, 0, 1 << 24), np.array([(1 << 27) + 1])))
    network = Network(populations, (Projection("x", "y", Dense(weight)),), Voltage())
    write_nir(network, tmp_path / "x.nir")
    assert network_of(read_nir(tmp_path / "x.nir")) == network


def test_a_driven_input_with_a_bias_of_its_own(tmp_path: Path) -> None:
    drives: dict[str, Drive | None] = {"LIF": None, "IF": Drive(3, 0)}
    for kind, drive in drives.items():
        network = Network((Population("x", (2,), Lif(7, 0, 50), np.array([1, 2]) if kind == "LIF" else None, drive),), ())
        write_nir(network, tmp_path / "x.nir")
        chain = read_nir(tmp_path / "x.nir")
        assert network_of(chain) == network
        assert [node.kind for node in chain.nodes] == ["Input", "Scale", kind, "Output"]  # what drives it has no memory


def chain_with(*neurons: Any) -> Network:
    names = [f"p{i}" for i in range(len(neurons))]
    populations = tuple(Population(name, (2,), neuron) for name, neuron in zip(names, neurons, strict=True))
    return Network(populations, tuple(Projection(a, b, Dense(np.eye(2))) for a, b in pairwise(names)))


@pytest.mark.parametrize(
    ("network", "dt", "message"),
    [
        (chain_with(Delta(1), SigmaDelta(1), Sigma()), DT, r"NIR has no sigma-delta neurons"),
        (chain_with(None, Lif(0, 0, 1)), 0.0, r"dt is 0; it must be a positive number of seconds, such as 0\.0001"),
        (chain_with(None, Lif(0, 0, 1)), float("nan"), r"dt is nan; it must be a positive number"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, network: Network, dt: float, message: str) -> None:
    with pytest.raises((NetworkError, ConfigError), match=message):
        write_nir(network, tmp_path / "x.nir", dt)
    assert not (tmp_path / "x.nir").exists()


def test_only_chains_are_written(tmp_path: Path) -> None:
    network = chain_with(None, Lif(0, 0, 1))
    loop = dataclasses.replace(network, projections=(*network.projections, Projection("p1", "p1", Dense(np.eye(2)))))
    with pytest.raises(NetworkError, match=r"only chains are exported to NIR: .*; leave out skips and recurrent projections"):
        write_nir(loop, tmp_path / "x.nir")


def test_without_the_package_nir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nir(small(), tmp_path / "x.nir")
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    with pytest.raises(MissingError, match=r"the package nir, which is not installed: pip install nir"):
        write_nir(small(), tmp_path / "y.nir")
    assert network_of(read_nir(tmp_path / "x.nir")) == small()  # reading does not need it


def drop(path: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[path]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("node/nodes/cuba_synapses/weight", np.ones((5, 27), np.float32)), None),
        (
            put("node/nodes/lif/v_threshold", np.full(4, 61, np.float32)),
            r"v_threshold of node 'lif' is not what the integers in its metadata say: the file was changed after .*; quantise it anew",
        ),
        (put("node/nodes/lif/metadata/qpsnn/threshold", 61), r"v_threshold of node 'lif' is not what the integers"),
        (
            put("node/nodes/lif/metadata/qpsnn/threshold", -1),
            r"metadata are damaged \(threshold is -1; .*\); export it again",
        ),
        (put("node/nodes/lif/metadata/qpsnn/threshold", [1, 2]), r"the integers in the file's metadata are damaged; export"),
        (drop("node/nodes/lif/metadata/qpsnn/name"), r"the integers in the file's metadata are damaged; export it again"),
        (drop("node/nodes/lif/metadata"), r"the integers in the file's metadata are damaged; export it again"),
        (put("node/nodes/lif/r", np.ones(3)), r"the integers in the file's metadata are damaged"),
        (put("node/metadata/qpsnn/dt", -1.0), r"metadata are damaged \(dt is -1; "),
        (put("node/metadata/qpsnn/format", 2), r"they are of a format that a later qpsnn-lava wrote"),
        (put("node/metadata/qpsnn/classes", 3), r"metadata are damaged \(a/b: 4 neurons cannot be shared"),
        (put("node/nodes/pool_synapses/kernel_size", [60000, 60000]), r"node 'pool_synapses': its pooling makes \d+ weights"),
        (put("node/nodes/if/metadata/qpsnn/name", "no"), r"the integers in the file's metadata belong to other nodes"),
        (drop("node/metadata"), r"the file holds no integers of qpsnn-lava: another framework wrote it; quantise it"),
    ],
)
def test_integers_that_say_something_else(tmp_path: Path, change: Callable[[h5py.File], None], message: str | None) -> None:
    write_nir(small(), tmp_path / "x.nir")
    with h5py.File(tmp_path / "x.nir", "r+") as file:
        change(file)
    chain = read_nir(tmp_path / "x.nir")
    if message is None:  # whole numbers again: these are the integers
        assert np.all(network_of(chain).projections[2].synapse.weight == 1)
        return
    with pytest.raises(FormatError, match=message):
        network_of(chain)


# --- files of others


def graph_of(*nodes: Any, **more: Any) -> Any:
    names = [f"n{i}" for i in range(len(nodes))]
    return nir.NIRGraph(dict(zip(names, nodes, strict=True)), list(pairwise(names)), type_check=False, **more)


def full(shape: Any, value: float) -> NDArray[np.float32]:
    return np.full(shape, value, np.float32)


def if_(*shape: int, threshold: float = 1.0, r: float = 1.0) -> Any:
    return nir.IF(r=full(shape, r), v_threshold=full(shape, threshold))


def lif(n: int, tau: Any = 0.0025, r: float = 1.0, leak: float = 0.0, threshold: float = 0.1, reset: float = 0.0) -> Any:
    return nir.LIF(full(n, 1) * np.float32(tau), full(n, r), full(n, leak), full(n, threshold), full(n, reset))


def cuba(n: int, **other: float) -> Any:
    """The neurons of paper/03_rnn/braille_noDelay_bias_zero.nir of github.com/neuromorphs/NIR (snnTorch, dt = 1e-4)."""
    values = {
        "tau_syn": 2.2222e-4,
        "tau_mem": 1e-3,
        "r": 9.99999762,
        "v_leak": 0.0,
        "v_threshold": 1.0,
        "w_in": 2.22222228,
    } | other
    return nir.CubaLIF(**{key: np.full(n, value) for key, value in values.items()})


def loaded(tmp_path: Path, graph: Any) -> Any:
    nir.write(tmp_path / "f.nir", graph)
    return read_nir(tmp_path / "f.nir")


def test_cuba_neurons_of_a_published_file(tmp_path: Path) -> None:
    """Equal spikes of NIR's equations and of the layers in units of their threshold, on random input; what layers_of says."""
    rng = np.random.default_rng(0)
    graph = graph_of(
        nir.Input(np.array([12])),
        nir.Linear(rng.normal(0, 0.6, (38, 12)).astype(np.float32)),
        cuba(38, v_leak=0.25, v_reset=-0.5),
        nir.Affine(rng.normal(0.1, 0.5, (7, 38)).astype(np.float32), rng.normal(0, 0.1, 7).astype(np.float32)),
        lif(7, r=5.0, threshold=1.0),
        nir.Output(np.array([7])),
    )
    real = layers_of(loaded(tmp_path, graph), 1e-4)
    first, second = real.layers
    assert (round(4096 * first.current_decay), round(4096 * first.voltage_decay)) == (1843, 410)
    assert first.notes == ("v is counted from v_reset, and starts there.",) and second.notes == ()
    frames = (rng.random((3, 12, 60)) < 0.3).astype(np.int64)
    graph.nodes["n2"].v_reset, graph.nodes["n2"].v_leak = np.zeros(38), np.full(38, 0.75)  # the same, shifted by v_reset
    graph.nodes["n2"].v_threshold = np.full(38, 1.5)
    expected, _ = follow(graph, frames, 1e-4)
    spikes = run_real(real, frames)
    for node, layer in (("n2", "n2"), ("n4", "n4")):
        assert 0.02 < expected[node].mean() < 0.8
        assert (
            np.mean(expected[node] != spikes[layer]) < 1e-3
        )  # float32 weights: a voltage on the threshold may fall either way


def cnn(rng: np.random.Generator, padding: Any) -> Any:
    """The chain of paper/02_cnn/cnn_sinabs.nir of github.com/neuromorphs/NIR (IF neurons, r = 1, v_threshold = 1), smaller."""

    def conv(source: tuple[int, int], weight: NDArray[Any], stride: int, pad: Any) -> Any:
        two = np.array([stride, stride])
        pads = pad if isinstance(pad, str) else np.array([pad, pad])
        return nir.Conv2d(np.array(source), weight, two, pads, np.array([1, 1]), 1, np.zeros(len(weight), np.float32))

    def weights(low: int, high: int, *shape: int) -> NDArray[np.float32]:
        return (rng.integers(low, high, shape) / 64).astype(np.float32)

    return graph_of(
        nir.Input(np.array([2, 18, 10])),
        conv((18, 10), weights(-16, 22, 4, 2, 5, 5), 2, 1),
        if_(4, 8, 4),
        pool2(),
        conv((4, 2), weights(-8, 14, 3, 4, 3, 3), 1, padding),
        if_(3, 4, 2),
        pool2(),
        nir.Flatten({"input": np.array([3, 2, 1])}, 0, -1),
        nir.Affine(weights(-12, 24, 6, 6), np.zeros(6, np.float32)),
        if_(6),
        nir.Affine(weights(-20, 30, 4, 6), np.zeros(4, np.float32)),
        if_(4),
        nir.Output(np.array([4])),
    )


@pytest.mark.parametrize("padding", [1, "same"])
def test_pooling_is_multiplied_into_what_follows(tmp_path: Path, padding: Any) -> None:
    """Weights in 64ths and a threshold of 1: both sums are exact, and the spikes equal."""
    rng = np.random.default_rng(5)
    graph = cnn(rng, padding)
    real = layers_of(loaded(tmp_path, graph))
    assert real.dt == 1.0 and [layer.weight.ndim for layer in real.layers] == [4, 4, 2, 2]
    assert real.layers[1].stride == (2, 2) and real.layers[2].weight.shape == (6, 3 * 4 * 2)
    frames = (rng.random((2, 2, 18, 10, 25)) < 0.3).astype(np.int64)
    graph.nodes["n4"].padding = (1, 1)
    expected, _ = follow(graph, frames, 1.0)
    spikes = run_real(real, frames)
    for name, s in expected.items():
        assert 0.02 < s.mean() < 0.9, name
        assert np.array_equal(s, spikes[name]), name


@settings(max_examples=40)
@given(data=st.data())
def test_any_pooling_before_a_convolution(folder: Path, data: st.DataObject) -> None:
    """The product of a pooling and a convolution equals them one after the other, or is refused."""
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    draw = lambda low, high: (data.draw(st.integers(low, high)), data.draw(st.integers(low, high)))  # noqa: E731
    size, kernel, stride = draw(3, 9), draw(1, 3), draw(1, 3)
    taps, conv_stride, conv_padding, dilation = draw(1, 3), draw(1, 2), draw(0, 1), draw(1, 2)
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    pool = nir.SumPool2d(np.array(kernel), np.array(stride), np.array(padding))
    weight = rng.integers(-3, 4, (2, 1, *taps)).astype(np.float32)
    frames = rng.integers(0, 2, (2, 2, *size))
    pooled = linear(pool, frames)
    shape = np.array(pooled.shape[2:])
    pairs = map(np.array, (conv_stride, conv_padding, dilation))
    conv = nir.Conv2d(shape, weight, *pairs, 2, np.zeros(2, np.float32))
    if any(n + 2 * p < d * (k - 1) + 1 for n, p, d, k in zip(pooled.shape[2:], conv_padding, dilation, taps, strict=True)):
        return
    expected = linear(conv, pooled)
    graph = graph_of(
        nir.Input(np.array([2, *size])), pool, conv, if_(*expected.shape[1:]), nir.Output(np.array(expected.shape[1:]))
    )
    nir.write(folder / "p.nir", graph)
    try:
        (layer,) = layers_of(read_nir(folder / "p.nir")).layers
    except FormatError as error:
        assert any(conv_padding) and "are no single convolution" in str(error)
        return
    made = correlate(frames, layer.weight, layer.stride, layer.padding, layer.dilation, layer.groups)
    assert np.array_equal(made, expected) and layer.shape == expected.shape[1:]


def test_read_outs_and_pools_of_their_own(tmp_path: Path) -> None:
    pool = nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    one = full(2, 1)
    for last in (nir.LI(one * 0.01, one, 0 * one), nir.CubaLI(one * 0.01, one * 0.02, one, 0 * one), nir.I(one)):
        flatten = nir.Flatten({"input": np.array([2, 2, 2])}, 0, -1)
        graph = graph_of(nir.Input(np.array([2, 4, 4])), pool, if_(2, 2, 2), flatten, nir.Linear(np.ones((2, 8))), last)
        real = layers_of(loaded(tmp_path, graph), 1e-3)
        assert not real.layers[1].spikes and real.layers[0].weight.tolist() == [[[[0.001] * 2] * 2]] * 2
        assert real.layers[0].groups == 2


def test_gains_per_channel_go_into_the_weights(tmp_path: Path) -> None:
    """A threshold and a resistance for each neuron are the same network with other rows."""
    neurons = lif(2)
    neurons.r, neurons.v_threshold = full(2, 1) * [2, 3], full(2, 1) * [0.5, 0.25]
    graph = graph_of(nir.Input(np.array([1])), nir.Affine(np.ones((2, 1)), np.ones(2)), neurons, nir.Output(np.array([2])))
    (layer,) = layers_of(loaded(tmp_path, graph), 1e-4).layers
    assert np.allclose(layer.weight, [[0.04 * 2 / 0.5], [0.04 * 3 / 0.25]]) and np.allclose(layer.bias, layer.weight[:, 0])


def affine_lif(**changes: Any) -> Any:
    neurons = changes.pop("neurons", lif(2))
    affine = nir.Affine(np.ones((2, 3), np.float32), np.zeros(2, np.float32))
    return graph_of(nir.Input(np.array([3])), affine, neurons, nir.Output(np.array([2])))


def conv_if(shape: Any = (2, 4, 4), neurons: Any = None, **changes: Any) -> Any:
    values = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": np.zeros(3, np.float32)}
    conv = nir.Conv2d(np.array([4, 4]), np.ones((3, 2, 3, 3), np.float32), **(values | {"stride": 2}))
    for key, value in changes.items():  # unchecked
        setattr(conv, key, value)
    if not changes:
        conv.stride = (1, 1)
    return graph_of(nir.Input(np.array(shape)), conv, neurons or if_(3, 2, 2), nir.Output(np.array([3, 2, 2])))


def pool2(stride: int = 2) -> Any:
    return nir.SumPool2d(np.array([2, 2]), np.array([stride, stride]), np.array([0, 0]))


def uneven() -> Any:
    made = if_(3, 2, 2)
    made.v_threshold = made.v_threshold * np.linspace(1, 2, 12).reshape(3, 2, 2)
    return made


IN3, OUT2 = nir.Input(np.array([3])), nir.Output(np.array([2]))
ONES = np.ones((2, 3), np.float32)
MEANINGS: dict[str, tuple[Any, float | None, str]] = {
    "no dt": (
        affine_lif(),
        None,
        r"node 'n2' has a time constant in seconds, and a NIR file does not say how long a step is; .*--dt",
    ),
    "dt": (affine_lif(), -1.0, r"dt is -1; it must be a positive number of seconds"),
    "long dt": (affine_lif(), 0.01, r"node 'n2': tau is 0\.0025 s, below dt = 0\.01 s; give a dt of at most 0\.0025"),
    "negative tau": (affine_lif(neurons=lif(2, -1.0)), 1e-4, r"node 'n2': tau is -1; time constants are positive"),
    "two taus": (
        affine_lif(neurons=lif(2, [0.001, 0.002])),
        1e-4,
        r"node 'n2': tau runs from 0\.001 to 0\.002, which is a decay of 205\.\.410 in 4096ths; a population has one",
    ),
    "threshold": (
        affine_lif(neurons=lif(2, threshold=-0.1)),
        1e-4,
        r"node 'n2': v_threshold is not above v_reset \(by -0\.1\)",
    ),
    "nan": (affine_lif(neurons=lif(2, r=float("nan"))), 1e-4, r"node 'n2': r holds values that are not finite"),
    "large": (affine_lif(neurons=nir.LIF(*[np.full(2, x) for x in (1e-3, 1e308, 0, 1e-9)])), 1e-4, r"n2': .* are not finite"),
    "neurons": (affine_lif(neurons=lif(5)), 1e-4, r"node 'n2': 5 values of r for 2 neurons; one for each, or one for all"),
    "gain": (
        conv_if(neurons=uneven()),
        None,
        r"node 'n2': the gain \(r, w_in, tau over v_threshold\) differs within a channel",
    ),
    "no input": (
        graph_of(nir.Linear(ONES), if_(2)),
        None,
        r"the graph begins with node 'n0'; add an Input node that says the shape",
    ),
    "batch": (
        graph_of(nir.Input(np.array([1, 3])), if_(2)),
        None,
        r"node 'n0': the shape \(1, 3\) is not \(C, H, W\) or \(N,\)",
    ),
    "no weights": (graph_of(IN3, if_(3)), None, r"node 'n1' has no weights before it; put a Linear with ones there"),
    "no neurons": (graph_of(IN3, nir.Linear(ONES), OUT2), None, r"the graph ends without neurons; add an IF, LIF, CubaLIF"),
    "no end": (graph_of(IN3, nir.Linear(ONES)), None, r"the graph ends without neurons"),
    "nothing": (graph_of(IN3, nir.Output(np.array([3]))), None, r"the graph ends without neurons"),
    "two weights": (
        graph_of(IN3, nir.Linear(ONES), nir.Linear(np.ones((2, 2))), if_(2)),
        None,
        r"node 'n2' follows other weights without neurons between; multiply them into one",
    ),
    "after output": (
        graph_of(IN3, nir.Linear(ONES), if_(2), OUT2, OUT2),
        None,
        r"node 'n3' is an Output, but the graph goes on",
    ),
    "li": (
        graph_of(IN3, nir.Linear(ONES), nir.LI(full(2, 1), full(2, 1), full(2, 0)), nir.Linear(np.ones((2, 2))), if_(2)),
        0.1,
        r"node 'n2' \(LI\) does not spike, so it can only be the last; write a LIF",
    ),
    "scale": (
        graph_of(IN3, nir.Scale(np.ones(3)), nir.Linear(ONES), if_(2)),
        None,
        r"node 'n1' is of type Scale, which is not read; mul",
    ),
    "delay": (
        graph_of(IN3, nir.Delay(np.ones(3)), nir.Linear(ONES), if_(2)),
        None,
        r"node 'n1' is of type Delay, .*; leave it out",
    ),
    "linear": (
        graph_of(nir.Input(np.array([4])), nir.Linear(ONES), if_(2)),
        None,
        r"n1': a weight of shape \(2, 3\) does not take .* \(4,\)",
    ),
    "flat": (
        graph_of(nir.Input(np.array([1, 1, 3])), nir.Linear(ONES), if_(2)),
        None,
        r"input of shape \(1, 1, 3\); put a Flatten",
    ),
    "flatten": (
        graph_of(nir.Input(np.array([1, 1, 3])), nir.Flatten({"input": np.array([1, 1, 3])}, 1, -1), nir.Linear(ONES), if_(2)),
        None,
        r"node 'n1' flattens axes 1\.\.-1 of \(1, 1, 3\); only all of them",
    ),
    "bias": (conv_if(bias=np.zeros(2)), None, r"node 'n1': a bias of shape \(2,\); \(3,\) is expected"),
    "conv of a vector": (
        conv_if((32,)),
        None,
        r"node 'n1': a Conv2d of a weight of shape \(3, 2, 3, 3\) does not take .*\(32,\)",
    ),
    "channels": (conv_if((5, 4, 4)), None, r"node 'n1': conv of 2 input channels does not take a source of shape \(5, 4, 4\)"),
    "kernel": (conv_if((2, 2, 2)), None, r"node 'n1': conv kernel reaches 3 pixels over a padded input of 2"),
    "stride": (conv_if(stride=0), None, r"node 'n1': stride must be one or two whole numbers in 1\.\.65535"),
    "groups": (conv_if(groups=7), None, r"node 'n1': groups must be one whole number in 1\.\.3"),
    "same": (conv_if(padding="same", stride=2), None, r"node 'n1': the padding 'same' needs stride 1 and odd kernels"),
    "two pools": (
        graph_of(nir.Input(np.array([1, 4, 4])), pool2(), pool2(), if_(1, 1, 1)),
        None,
        r"node 'n2': a SumPool2d comes right after neurons or the input; put neurons before it",
    ),
    "pool of a vector": (
        graph_of(IN3, pool2(), if_(3)),
        None,
        r"node 'n1': a SumPool2d does not take an input of shape \(3,\)",
    ),
    "small pool": (
        graph_of(nir.Input(np.array([1, 1, 1])), pool2(), if_(1)),
        None,
        r"node 'n1': conv kernel reaches 2 pixels",
    ),
    "flat pool": (
        graph_of(nir.Input(np.array([1, 2, 2])), pool2(), nir.Flatten({"input": np.array([1, 1, 1])}, 0, -1), if_(1)),
        None,
        r"node 'n3' follows a SumPool2d and a Flatten; put the neurons before the Flatten",
    ),
}


@pytest.mark.parametrize("case", MEANINGS)
def test_graphs_without_a_meaning_on_the_chip(tmp_path: Path, case: str) -> None:
    graph, dt, message = MEANINGS[case]
    chain = loaded(tmp_path, graph)
    with pytest.raises((FormatError, ConfigError), match=message) as caught:
        layers_of(chain, dt)
    assert str(caught.value).count(". ") == 0


def test_a_pooling_may_not_multiply_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nir_file, "MAX_WEIGHTS", 7)
    flatten = nir.Flatten({"input": np.array([1, 1, 1])}, 0, -1)
    graph = graph_of(nir.Input(np.array([1, 2, 2])), pool2(), flatten, nir.Linear(np.ones((2, 1))), if_(2))
    with pytest.raises(FormatError, match=r"node 'n1': its pooling makes 8 weights of the layer; at most 7 are read"):
        layers_of(loaded(tmp_path, graph))


# --- hostile files


def edges(*pairs: tuple[str, str]) -> Callable[[h5py.File], None]:
    return put("node/edges", [list(pair) for pair in pairs])


def circle(file: h5py.File) -> None:
    file["node/nodes/n0/again"] = file["node/nodes"]


def external(file: h5py.File) -> None:
    del file["node/nodes/n1/weight"]
    file["node/nodes/n1/weight"] = h5py.ExternalLink("/etc/passwd", "/x")


def bomb(file: h5py.File) -> None:
    del file["node/nodes/n1/weight"]
    file.create_dataset(
        "node/nodes/n1/weight", (1 << 13, 1 << 12), "f4", fillvalue=0, chunks=(1 << 13, 1 << 12), compression="gzip"
    )
    file["node/nodes/n1/weight"][0, 0] = 1


def chunk(file: h5py.File) -> None:
    del file["node/nodes/n1/weight"]
    file.create_dataset("node/nodes/n1/weight", (2, 3), "f4", maxshape=(None, None), chunks=(1 << 13, 1 << 13))


def huge(file: h5py.File) -> None:
    del file["node/nodes/n1/weight"]
    file.create_dataset("node/nodes/n1/weight", (1 << 20, 1 << 20), "f4")


def many(file: h5py.File) -> None:
    file["node/nodes/n1"].create_group("more")
    for i in range(70):
        file[f"node/nodes/n1/more/{i}"] = i


HOSTILE: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "not nir": (drop("node"), r"is an HDF5 file, but not a NIR file: it has no group 'node'"),
    "node is data": (put("node", 3), r"/node is not a group"),
    "top": (put("node/type", "Linear"), r"the node at the top is of type 'Linear'; a NIRGraph is expected"),
    "no nodes": (drop("node/nodes"), r"a graph of 0 nodes; 1\.\.4096 are read"),
    "nodes are data": (put("node/nodes", 3), r"a graph of 0 nodes"),
    "edges": (put("node/edges", [1, 2]), r"edges must be pairs of names, \(n, 2\) texts"),
    "no edges": (drop("node/edges"), r"edges must be pairs of names"),
    "three": (put("node/edges", [["n0", "n1", "n2"]]), r"edges must be pairs of names"),
    "gone": (edges(("n0", "\x1b[31mx")), r"an edge names the node '\N{REPLACEMENT CHARACTER}\[31mx', which is not there"),
    "branch": (
        edges(("n0", "n1"), ("n0", "n2"), ("n1", "n3")),
        r"node 'n0' has two edges out of it; only chains are read, without",
    ),
    "join": (edges(("n0", "n2"), ("n1", "n2"), ("n2", "n3")), r"node 'n2' has two edges into it; only chains are read"),
    "ring": (edges(("n0", "n1"), ("n1", "n2"), ("n2", "n3"), ("n3", "n0")), r"the graph goes round in a circle; only chains"),
    "loop": (edges(("n0", "n1"), ("n2", "n3"), ("n3", "n2")), r"a part of the graph goes round in a circle; only chains"),
    "apart": (edges(("n0", "n1"), ("n2", "n3")), r"the graph has 2 nodes without an edge into them; only chains"),
    "kind": (
        put("node/nodes/n1/type", "Conv1d"),
        r"node 'n1' is of type 'Conv1d', which is not read; write a Conv2d of height 1",
    ),
    "subgraph": (
        put("node/nodes/n1/type", "NIRGraph"),
        r"node 'n1' is of type 'NIRGraph', .*; write its nodes into the outer graph",
    ),
    "unknown": (
        put("node/nodes/n1/type", "[b]\n"),
        r"is of type '\[b\].', which is not read; known are Input, Linear, Affine, Conv2d",
    ),
    "no type": (drop("node/nodes/n1/type"), r"node 'n1' has no type"),
    "type": (put("node/nodes/n1/type", 4), r"node 'n1' has no type"),
    "two types": (put("node/nodes/n1/type", ["a", "b"]), r"node 'n1' has no type"),
    "long type": (put("node/nodes/n1/type", "x" * 300), r"/node/nodes/n1: type must be a text of 1\.\.256 bytes"),
    "long edge": (edges(("n0", "x" * 300)), r"/node: edges must be a text of 1\.\.256 bytes"),
    "hard link": (circle, r"more than 8 groups in one another; a NIR file needs less"),
    "external": (external, r"/node/nodes/n1/weight is a link to elsewhere, which is never followed"),
    "bomb": (bomb, r"/node/nodes/n1: weight claims 134217728 bytes, but the file holds \d+ for it, .* decompression bomb"),
    "chunk": (chunk, r"/node/nodes/n1: weight claims 268435456 bytes, but the file holds 0 for it"),
    "huge": (huge, r"/node/nodes/n1: weight of shape \(1048576, 1048576\) \(float32\) is too large to be read"),
    "objects": (
        put("node/nodes/n1/weight", np.zeros(2, [("a", "f4")])),
        r"/node/nodes/n1: weight is of type .*; numbers are expected",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(tmp_path: Path, case: str) -> None:
    change, message = HOSTILE[case]
    nir.write(tmp_path / "f.nir", affine_lif())
    with h5py.File(tmp_path / "f.nir", "r+") as file:
        change(file)
    with pytest.raises(FormatError, match=message) as caught:
        read_nir(tmp_path / "f.nir")
    assert str(caught.value).isprintable()


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netx_export.hdf5.MAX_MEMBERS", 64)
    nir.write(tmp_path / "f.nir", affine_lif())
    assert len(read_nir(tmp_path / "f.nir").nodes) == 4
    with h5py.File(tmp_path / "f.nir", "r+") as file:
        many(file)
    with pytest.raises(
        FormatError, match=r"more than 64 groups and datasets; a NIR file needs less, and this one is not read any further"
    ):
        read_nir(tmp_path / "f.nir")
    with h5py.File(tmp_path / "f.nir", "r+") as file:
        del file["node/nodes/n1/more"], file["node/edges"]
        file["node/edges"] = [["n0", "n1"]] * 40
    with pytest.raises(FormatError, match=r"edges of shape \(40, 2\) .* is too large to be read; at most 64 texts is allowed"):
        read_nir(tmp_path / "f.nir")


def test_all_datasets_share_one_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nir.write(tmp_path / "f.nir", affine_lif())
    monkeypatch.setattr("netx_export.hdf5.MAX_BYTES", 60)  # 24 and 8 of the weights, 8 for each of five parameters
    with pytest.raises(FormatError, match=r"\(float32\) is too large to be read; at most \d+ bytes is allowed"):
        read_nir(tmp_path / "f.nir")


@pytest.mark.parametrize(("text", "message"), [(None, "there is no such file"), (b"no", r"is not a whole HDF5 file")])
def test_what_is_no_file(tmp_path: Path, text: bytes | None, message: str) -> None:
    if text is not None:
        (tmp_path / "f.nir").write_bytes(text)
    with pytest.raises(FormatError, match=message):
        read_nir(tmp_path / "f.nir")
    with pytest.raises(FormatError, match=re.escape(f"{tmp_path} is a folder; a NIR file is expected")):
        read_nir(tmp_path)


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_files_never_end_in_a_traceback(folder: Path, data: st.DataObject) -> None:
    nir.write(folder / "d.nir", affine_lif())
    raw = bytearray((folder / "d.nir").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "d.nir").write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    try:
        layers_of(read_nir(folder / "d.nir"), 1e-4)
    except QpsnnError as error:
        assert str(error)


def test_chain_of_is_what_is_written(tmp_path: Path) -> None:
    write_nir(small(), tmp_path / "x.nir", 0.01)
    made, found = chain_of(small(), 0.01), read_nir(tmp_path / "x.nir")
    assert [node.name for node in made.nodes] == [node.name for node in found.nodes]
    assert all(
        np.array_equal(a.values[key], b.values[key]) for a, b in zip(made.nodes, found.nodes, strict=True) for key in a.values
    )
    assert isinstance(layers_of(loaded(tmp_path, affine_lif()), 1e-4).layers[0], RealLayer)
