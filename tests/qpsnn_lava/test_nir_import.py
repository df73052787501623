"""NIR files of other frameworks as integer networks, and ``qpsnn export --nir`` and ``qpsnn import``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from netx_export import hdf5
from netx_export.errors import ConfigError, FormatError, FreezeError
from netx_export.network import Conv, Dense, Integrator, Lif, Network, Population, Projection, Rate
from netx_export.nir_file import RealLayer, RealNetwork, write_nir
from netx_export.simulate import simulate
from qpsnn_lava import cli
from qpsnn_lava.nir_import import import_nir, quantise
from qpsnn_lava.quantise import Quantiser, integers

# paper/01_lif of github.com/neuromorphs/NIR: the parameters of lif_norse.nir, the input of lif_norse.ipynb at dt = 1e-4, and the steps in
# which its exact solution (lif_exact.csv) and Norse, Sinabs, snnTorch and others (lif_*.csv) spike
LIF = {"tau": 0.0025, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.1}
BURSTS = (6, 22, 27, 31, 32, 35, 37, 40, 41, *range(43, 54), *range(67, 79), 84, 85)
SPIKES = [460, 510, 710, 760]


def written(path: Path, *nodes: Any) -> Path:
    names = [f"n{i}" for i in range(len(nodes))]
    edges = list(pairwise(names))
    nir.write(path, nir.NIRGraph(dict(zip(names, nodes, strict=True)), edges, type_check=False))
    return path


def paper_lif(path: Path, bias: float = 0.0) -> Path:
    neurons = nir.LIF(**{key: np.full(1, value, np.float32) for key, value in LIF.items()})
    affine = nir.Affine(np.ones((1, 1), np.float32), np.full(1, bias, np.float32))
    return written(path, nir.Input(np.array([1])), affine, neurons, nir.Output(np.array([1])))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_spikes_of_the_nir_paper(tmp_path: Path, bits: int) -> None:
    made = import_nir(paper_lif(tmp_path / "lif.nir"), dt=1e-4, bits=bits)
    frames = np.zeros((1, 1, 1000), np.int64)
    frames[0, 0, [10 * burst for burst in BURSTS]] = 1
    assert np.flatnonzero(simulate(made.network, frames).spikes["n2"]).tolist() == SPIKES
    (row,) = made.roundings
    assert not made.exact and (row.voltage_decay, row.current_decay) == (164, 4096) and row.bits == bits
    assert row.voltage_decay_error == pytest.approx(0.16, abs=1e-4) and row.weight_error == 0 and row.clipped == 0


def layer(weight: NDArray[Any], **other: Any) -> RealLayer:
    weight = np.asarray(weight, np.float64)
    values = {"bias": np.zeros(len(weight)), "current_decay": 1.0, "voltage_decay": 0.25} | other
    return RealLayer("fc", (len(weight),), weight, **values)


def network(*layers: RealLayer) -> RealNetwork:
    return RealNetwork("in", (layers[0].weight.shape[1],), layers, 1.0)


def test_the_integers_are_those_of_rescaw() -> None:
    """Threshold, weights and bias keep their ratios: ``weight / threshold`` is W but for what the rounding says."""
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 0.2, (6, 40))
    bias = rng.normal(0, 0.1, 6)
    for bits in (2, 3, 4, 6, 8):
        made, (row,) = quantise(network(layer(weight, bias=bias)), bits=bits, gamma="mean_abs")
        q, step = integers(torch.from_numpy(weight), Quantiser(bits))
        neuron, device = made.output.neuron, made.projections[0].synapse.weight
        assert isinstance(neuron, Lif)
        ratio = device[q.numpy() != 0] / q.numpy()[q.numpy() != 0]
        k = np.unique(ratio)
        assert len(k) == 1 and np.log2(k[0]) % 1 == 0 and np.abs(device).max() <= 254
        assert neuron.threshold == row.threshold == round(float(k[0]) / step)
        assert (
            row.threshold_error == pytest.approx(abs(neuron.threshold * step / k[0] - 1))
            and row.threshold_error < 0.5 / neuron.threshold
        )
        error = np.sqrt(np.mean((device / k[0] * step - weight) ** 2)) / np.sqrt(np.mean(weight**2))
        assert row.weight_error == pytest.approx(error) and row.clipped == pytest.approx(
            np.mean(np.abs(weight) > np.abs(weight).mean())
        )
        assert made.output.bias is not None
        assert np.abs(made.output.bias / neuron.threshold - bias).max() <= 1 / neuron.threshold + row.threshold_error
        assert (neuron.current_decay, neuron.voltage_decay) == (4096, 1024)


def test_a_quantised_network_fires_as_the_real_one() -> None:
    """8 bits against float64, the published CubaLIF values (tau_syn 2.2222e-4, tau_mem 1e-3, dt 1e-4): nearly all spikes."""
    rng = np.random.default_rng(2)
    real = layer(rng.normal(0.05, 0.25, (30, 20)), current_decay=0.45, voltage_decay=0.1, bias=rng.normal(0, 0.02, 30))
    made, _ = quantise(network(real))
    frames = (rng.random((4, 20, 80)) < 0.2).astype(np.int64)
    spikes = simulate(made, frames).spikes["fc"]
    u = v = np.zeros((4, 30))
    expected = np.zeros(spikes.shape)
    for t in range(80):
        u = 0.55 * u + frames[..., t] @ real.weight.T
        v = 0.9 * v + u + real.bias
        expected[..., t] = v > 1
        v = np.where(v > 1, 0, v)
    assert 0.05 < expected.mean() < 0.5
    assert np.mean(spikes != expected) < 0.03 and abs(spikes.mean() - expected.mean()) < 0.003


def test_small_weights_get_a_coarser_step() -> None:
    """A threshold of a million weights: gamma is doubled until it fits 17 bits."""
    made, (row,) = quantise(network(layer([[1e-6, 5e-6, 2e-5]])), bits=8)
    assert 65536 <= row.threshold <= 131070 and made.projections[0].synapse.weight.tolist() == [[0, 0, 2]]


def test_read_outs_and_convolutions() -> None:
    conv = RealLayer("c", (2, 2, 2), np.full((2, 1, 2, 2), 0.25), np.zeros(2), 1.0, 0.0, True, (2, 2), (0, 0), (1, 1), 2)
    out = replace(layer(np.ones((3, 8)), bias=np.array([0.5, 0, 0]), spikes=False), name="out")
    made, rows = quantise(RealNetwork("in", (2, 4, 4), (conv, out), 1.0), bits={"": 3, "out": 5}, gamma={"out": "mean_abs"})
    assert made.output.neuron == Integrator(4096, 1024) and [(row.bits, row.gamma) for row in rows] == [
        (3, "max"),
        (5, "mean_abs"),
    ]
    synapse = made.projections[0].synapse
    assert isinstance(synapse, Conv) and synapse.stride == (2, 2) and synapse.groups == 2
    dense = made.projections[1].synapse
    assert isinstance(dense, Dense) and made.output.bias is not None and made.output.bias[0] == dense.weight[0, 0] / 2


@pytest.mark.parametrize(
    ("real", "choice", "message"),
    [
        (
            layer([[1e-9]]),
            {},
            r"fc: its largest weight is 1e-09 thresholds, nothing in 8 bits where the largest threshold is 131071",
        ),
        (layer([[0.0]]), {}, r"fc: its largest weight is 0 thresholds, nothing in 8 bits"),
        (
            layer([[1000.0]]),
            {},
            r"fc: its largest weight is 1e\+03 thresholds, beyond what 8 bits can say beside a threshold of at least 1",
        ),
        (
            layer([[1e-4]], bias=np.array([1e9])),
            {},
            r"where the largest bias is 4095, and its own is 1e\+09 thresholds; rescale",
        ),
        (layer([[1.0]]), {"bits": {"fd": 3}}, r"bits of 'fd': there is no such layer; the file has fc\."),
        (layer([[1.0]]), {"gamma": {"x": "max"}}, r"gamma of 'x': there is no such layer"),
        (layer([[1.0]]), {"bits": 9}, r"bits 9: weights are quantised to 2\.\.8 bits"),
        (layer([[1.0]]), {"gamma": "min"}, r"gamma 'min': known are mean_abs, max, percentile and none"),
    ],
)
def test_what_cannot_be_quantised(real: RealLayer, choice: dict[str, Any], message: str) -> None:
    with pytest.raises((FreezeError, ConfigError), match=message):
        quantise(network(real), **choice)


def ours() -> Network:
    rng = np.random.default_rng(4)
    populations = (Population("in", (3,)), Population("out", (4,), Lif(1000, 200, 70), np.array([1, 0, -1, 2])))
    return Network(populations, (Projection("in", "out", Dense(rng.integers(-30, 60, (4, 3)))),), Rate(2), 0, 9)


def test_our_own_file_is_exact_or_quantised_anew(tmp_path: Path) -> None:
    write_nir(ours(), tmp_path / "x.nir", 1e-3)
    made = import_nir(tmp_path / "x.nir")
    assert made.exact and made.network == ours() and made.dt == 1e-3
    anew = import_nir(tmp_path / "x.nir", anew=True)
    neuron = anew.network.output.neuron
    assert not anew.exact and isinstance(neuron, Lif) and (neuron.current_decay, neuron.voltage_decay) == (1000, 200)
    before = simulate(ours(), frames := (np.random.default_rng(0).random((4, 3, 30)) < 0.4).astype(np.int64)).spikes["out"]
    assert before.any() and np.mean(before != simulate(anew.network, frames).spikes["out"]) < 0.03
    with h5py.File(tmp_path / "x.nir", "r+") as file:
        file["node/nodes/out/v_threshold"][...] = 71
    with pytest.raises(FormatError, match=r"x\.nir: v_threshold of node 'out' is not what the integers in its metadata say"):
        import_nir(tmp_path / "x.nir")
    assert not import_nir(tmp_path / "x.nir", anew=True).exact


# --- the command line


@pytest.fixture
def qpsnn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("QPSNN_DEBUG", raising=False)

    def call(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qpsnn", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return call


def test_export_and_import(qpsnn: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    file = tmp_path / "a.net"
    hdf5.write(ours(), file)
    assert qpsnn("export", "--nir", file, "-o", tmp_path / "b.nir") == (0, f"{tmp_path / 'b.nir'}\n", "")
    assert qpsnn("import", tmp_path / "b.nir", "-o", tmp_path / "c.net") == (0, f"{tmp_path / 'c.net'}\n", "")
    assert hdf5.read(tmp_path / "c.net") == ours()
    code, out, _ = qpsnn("export", "--nir", file, "--dt", "0.001", "--json")
    assert code == 0 and json.loads(out) == {"nir": str(tmp_path / "a.nir"), "dt": 0.001}
    code, out, _ = qpsnn("import", tmp_path / "a.nir", "--json")
    assert json.loads(out) == {"network": str(file), "exact": True, "dt": 0.001, "roundings": []}


def test_a_foreign_file_says_what_was_rounded(qpsnn: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    file = paper_lif(tmp_path / "lif.nir", bias=0.01)
    code, out, err = qpsnn("import", file, "--dt", "1e-4", "--bits", "4")
    lines = out.splitlines()
    assert (
        code == 0 and not err and lines[0].split() == re.split(" ", "layer bits gamma weights off by clipped threshold off by")
    )
    assert lines[1].split()[:5] == ["n2", "4", "max", "0.00", "%"]
    assert lines[4].split()[:5] == ["n2", "4096", "0.00", "164", "0.16"]
    assert lines[-1] == f"Quantised, dt = 0.0001 s: {tmp_path / 'lif.net'}"
    code, out, _ = qpsnn("import", file, "--dt", "1e-4", "--bits", "n2=3", "--gamma", "n2=mean_abs", "--json")
    made = json.loads(out)
    assert not made["exact"] and made["roundings"][0]["bits"] == 3 and made["roundings"][0]["gamma"] == "mean_abs"
    assert made["roundings"][0]["voltage_decay_error"] == pytest.approx(0.16, abs=1e-3)
    assert hdf5.read(tmp_path / "lif.net").output.name == "n2"


def test_notes_are_printed(qpsnn: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    values = {"tau_syn": 3e-4, "tau_mem": 1e-3, "r": 10.0, "v_leak": 0.0, "v_threshold": 1.0, "w_in": 3.0}
    neurons = nir.CubaLIF(**{key: np.full(1, value) for key, value in values.items()})
    affine = nir.Affine(np.ones((1, 1), np.float32), np.full(1, 0.1, np.float32))
    file = written(tmp_path / "c.nir", nir.Input(np.array([1])), affine, neurons, nir.Output(np.array([1])))
    _, out, _ = qpsnn("import", file, "--dt", "1e-4")
    assert "n2: the bias acts at once with what it settles at; in NIR it comes through the synaptic current." in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export"], r"export takes either a RUN, or --nir FILE\.net with --out X\.nir and --dt SECONDS\."),
        (["export", "runs/x", "--nir", "a.net"], r"export takes either a RUN, or --nir"),
        (["export", "runs/x", "--out", "a.nir"], r"export takes either a RUN, or --nir"),
        (["export", "--nir", "gone.net"], r"gone\.net: there is no such file"),
        (["import", "gone.nir"], r"gone\.nir: there is no such file"),
        (["import", "lif.nir"], r"lif\.nir|node 'n2' has a time constant in seconds, .*--dt"),
        (
            ["import", "lif.nir", "--bits", "many"],
            r"--bits 'many' is not a number of bits such as 4, or of a layer such as conv1=4",
        ),
        (["import", "lif.nir", "--dt", "1e-4", "--bits", "12"], r"bits 12: weights are quantised to 2\.\.8 bits"),
        (["import", "lif.nir", "--dt", "1e-4", "--gamma", "x=max"], r"gamma of 'x': there is no such layer; the file has n2"),
        (["import", "lif.nir", "--dt", "1"], r"node 'n2': tau is 0\.0025 s, below dt = 1 s; give a dt of at most 0\.0025"),
    ],
)
def test_errors(
    qpsnn: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    paper_lif(tmp_path / "lif.nir")
    code, out, err = qpsnn(*words)
    assert code == 1 and not out and err.startswith("error: ") and err.count("\n") == 1 and "internal" not in err
    assert re.search(message, err), err
    assert not (tmp_path / "lif.net").exists()
