"""The loops for CUDA against those for the CPU: the same bits, not close ones.

Plain torch runs anywhere.  The Triton kernels run on the GPU where there is one, else in Triton's interpreter where Triton is
installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netx_export.errors import ConfigError, MissingError
from qpsnn_lava import bench_training, blocks, dynamics, dynamics_cuda
from qpsnn_lava.blocks import NeuronOptions
from qpsnn_lava.fused import FusedNeuron, can_fuse, fuse
from qpsnn_lava.quantise import Quantiser

CUDA = torch.cuda.is_available()
TRITON = importlib.util.find_spec("triton") is not None
NO_GPU = "torch sees no CUDA device"
pytestmark = pytest.mark.skipif(not dynamics.AVAILABLE, reason="numba is an extra: there is nothing to compare with")
needs_gpu = pytest.mark.skipif(not CUDA, reason=NO_GPU)
needs_triton = pytest.mark.skipif(not TRITON, reason="Triton is not installed: builds of torch for CUDA bring it")
BACKENDS = ["plain", pytest.param("triton", marks=needs_triton)]
EDGE = 2.0**23 / 64  # the largest current and voltage of the chip, in SLAYER's units


def _interpreted() -> dynamics.Loops:
    """The kernels as Triton's interpreter runs them, on tensors of the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec = importlib.util.spec_from_file_location("interpreted", dynamics_cuda.__file__)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    module.TILE = 128  # type: ignore[attr-defined]  # the interpreter adds up a tile value by value
    loops: dynamics.Loops = module.LOOPS
    return loops


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> tuple[dynamics.Loops, str, bool]:
    """The loops, the device of their tensors, and whether their gradients have the same bits too."""
    if request.param == "plain":
        return dynamics_cuda.PLAIN, "cuda" if CUDA else "cpu", False
    return (dynamics_cuda.LOOPS, "cuda", True) if CUDA else (_interpreted(), "cpu", True)


@pytest.fixture
def elsewhere(backend: tuple[dynamics.Loops, str, bool]) -> Iterator[str]:
    """The functions of :mod:`qpsnn_lava.dynamics` run on these loops; gives the device."""
    loops, device, _ = backend
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamics, "_loops", lambda x: loops)
        yield device


decays = st.one_of(st.integers(0, 4096), st.sampled_from([0, 1, 2048, 4095, 4096]))
sizes = st.sampled_from([(1, 1), (3, 5), (2, 70), (65, 2), (257, 2)])  # pixels, channels: beyond a block of either, too
shapes = st.tuples(st.integers(1, 2), st.integers(1, 9), sizes)
layouts = st.sampled_from(["plain", "time first", "gaps"])


def _laid(x: torch.Tensor, layout: str, device: str) -> torch.Tensor:
    """The same values (N, T, M) with other strides."""
    if layout == "time first":
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    elif layout == "gaps":
        x = torch.stack([x, -x], 2)[:, :, 0]
    return x.to(device)


def _values(rng: np.random.Generator, shape: tuple[int, ...], threshold: float, kind: str) -> torch.Tensor:
    """Currents: of any value, whole 64ths with some exactly at the threshold, or at the edges of 24 bits."""
    values = rng.normal(0.1, 0.6, shape) * threshold
    if kind != "any":
        values = np.round(values * 64) / 64
        values = np.where(rng.random(shape) < 0.3, threshold, values)
    if kind == "edges":
        values = np.where(rng.random(shape) < 0.5, rng.choice([-EDGE, EDGE, EDGE - 1 / 64, 1 / 64 - EDGE], shape), values)
    return torch.from_numpy(values.astype(np.float32))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=shapes,
    current_decay=decays,
    voltage_decay=decays,
    mantissa=st.one_of(st.integers(1, 500), st.integers(1, 131071)),
    kind=st.sampled_from(["any", "grid", "edges"]),
    affine=st.booleans(),
    late=st.integers(0, 1),
    layout=layouts,
    seed=st.integers(0, 2**32 - 1),
)
def test_fire(
    backend: tuple[dynamics.Loops, str, bool],
    shape: tuple[int, int, tuple[int, int]],
    current_decay: int,
    voltage_decay: int,
    mantissa: int,
    kind: str,
    affine: bool,
    late: int,
    layout: str,
    seed: int,
) -> None:
    """Spikes and voltages of a current, and the gradient, with and without sums per channel."""
    loops, device, exact = backend
    rng = np.random.default_rng(seed)
    n, steps, (pixels, channels) = shape
    size = pixels * channels
    threshold = mantissa / 64
    x = _values(rng, (n, steps, size), threshold, kind)
    scale, offset = torch.ones(1), torch.zeros(1)
    if affine:
        scale, offset = (torch.from_numpy(rng.normal(at, 0.2, channels).astype(np.float32)) for at in (1.0, 0.0))
    how = dynamics.Firing(voltage_decay, threshold + 1 / 4096, 0.3 * threshold, 2.0, current_decay, late)
    g = torch.from_numpy(rng.normal(0, 1, x.shape).astype(np.float32))
    found = []
    for run, laid, place in ((dynamics.COMPILED, "plain", "cpu"), (loops, layout, device)):
        mine, weights = _laid(x, laid, place), _laid(g, laid, place)
        spikes, voltage, out, again = (torch.full_like(mine, torch.nan) for _ in range(4))
        run.fire(mine, how, scale.to(place), offset.to(place), spikes, voltage)
        run.fire_backward(weights, voltage, how, out)
        of_current = run.fire_backward_sums(weights, voltage, mine, how, again, channels)
        (of_bias,) = run.fire_backward_sums(weights, voltage, None, how, again, channels)
        found.append([y.cpu() for y in (spikes, voltage, out, again, of_current, of_bias)])
    (spikes, voltage, *gradients), (spikes_, voltage_, *gradients_) = found
    assert torch.equal(spikes, spikes_) and torch.equal(voltage, voltage_)
    if exact:
        assert all(torch.equal(a, b) for a, b in zip(gradients[:2], gradients_[:2], strict=True))
    for a, b in zip(gradients, gradients_, strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= 2e-6 * max(float(a.abs().max()), 1e-30 if exact else 1e-6 * how.surrogate[2])


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=shapes,
    decay=decays,
    kind=st.sampled_from(["any", "grid", "edges"]),
    layout=layouts,
    seed=st.integers(0, 2**32 - 1),
)
def test_the_other_loops(
    backend: tuple[dynamics.Loops, str, bool],
    shape: tuple[int, int, tuple[int, int]],
    decay: int,
    kind: str,
    layout: str,
    seed: int,
) -> None:
    """The current and its gradient, the statistics' sums, the last step of batch normalisation's gradient."""
    loops, device, _ = backend
    rng = np.random.default_rng(seed)
    n, steps, (pixels, channels) = shape
    x = _values(rng, (n, steps, pixels * channels), 1.0, kind)
    a, b, c = (torch.from_numpy(rng.normal(0, 1, channels).astype(np.float32)) for _ in range(3))
    found = []
    for run, laid, place in ((dynamics.COMPILED, "plain", "cpu"), (loops, layout, device)):
        mine = _laid(x, laid, place)
        u, g, changed = torch.full_like(mine, torch.nan), torch.full_like(mine, torch.nan), mine.clone()
        run.integrate(mine, 1 - decay / 4096, u)
        run.integrate_backward(mine, 1 - decay / 4096, g)
        run.integrate_backward(changed, 1 - decay / 4096, changed)  # in place
        assert torch.equal(changed, g)
        run.affine(changed, mine, a.to(place), b.to(place), c.to(place))
        found.append([y.cpu() for y in (u, g, changed, run.moments(mine, channels))])
    (*theirs, sums), (*ours, sums_) = found
    assert all(torch.equal(p, q) for p, q in zip(theirs, ours, strict=True))
    assert torch.equal(sums[0], sums_[0])  # whole numbers over 4096: exact in any order
    assert torch.allclose(sums[1], sums_[1], rtol=1e-12, atol=0)


def test_sums_of_many_pixels(backend: tuple[dynamics.Loops, str, bool]) -> None:
    """More than one program takes of a step."""
    loops, device, _ = backend
    x = _values(np.random.default_rng(0), (1, 2, 3 * 1100), 1.0, "grid")
    assert torch.equal(loops.moments(x.to(device), 3).cpu(), dynamics.COMPILED.moments(x, 3))


@pytest.mark.parametrize("mantissa", [1, 63, 64, 65, 1000, 65537, 131071])
def test_a_neuron_exactly_at_the_threshold(elsewhere: str, mantissa: int) -> None:
    """It neither fires nor is reset, where SLAYER's own kernel for CUDA resets it; by hand."""
    current = torch.tensor([[mantissa, 0, 1, 0, mantissa + 1, mantissa]]).view(1, 6, 1) / 64
    how = dynamics.Firing(0, mantissa / 64 + 1 / 4096, 1.0, 1.0)
    assert dynamics.fire(current.to(elsewhere), how).flatten().tolist() == [0, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("shape", [(0, 4, 6), (2, 3, 1), (1, 1, 1)])
def test_small_shapes(elsewhere: str, shape: tuple[int, ...]) -> None:
    x = torch.full(shape, 1.5, device=elsewhere, requires_grad=True)
    how = dynamics.Firing(2048, 1.0, 0.5, 1.0, 1000)
    spikes = dynamics.fire(dynamics.integrate(x, 100), how, torch.zeros(shape[2], device=elsewhere))
    spikes.sum().backward()
    assert spikes.shape == shape and bool((spikes == 1).all())
    assert x.grad is not None and x.grad.shape == shape and bool((x.grad > 0).all())


@pytest.mark.parametrize("norm", ["full", "shared", "mean", "bias"])
@pytest.mark.parametrize("current_decay", [4096, 1500])
def test_blocks(elsewhere: str, backend: tuple[dynamics.Loops, str, bool], norm: Any, current_decay: int) -> None:
    """A training step of a convolution and of a read-out: spikes, statistics and gradients."""
    torch.manual_seed(0)
    options = NeuronOptions(current_decay=current_decay, voltage_decay=1024, threshold=0.9)
    net = torch.nn.Sequential(
        blocks.Conv(options, Quantiser(4), 3, 6, padding=1, norm=norm),
        blocks.Flatten(),
        blocks.Integrate(Quantiser(8), 150, 4),
    )
    for block in (net[0], net[2]):
        block.quantised = True
    torch.nn.init.normal_(net[0].synapse.weight, 0.15, 0.4)
    spikes = (torch.rand(3, 3, 5, 5, 6) < 0.4).float()
    found = []
    for loops, device in ((dynamics.COMPILED, "cpu"), (backend[0], elsewhere)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dynamics, "_loops", lambda x, loops=loops: loops)
            copy = type(net)(*net).to(device).train()
            hidden = copy[0](spikes.to(device))
            voltage = copy[2](copy[1](hidden))
            voltage[..., -1].square().sum().backward()
        gradients = {k: p.grad.cpu() for k, p in copy.named_parameters() if p.grad is not None}
        found.append((hidden.detach().cpu(), gradients))
        net.zero_grad(set_to_none=True)
        for module in net.modules():
            if isinstance(module, blocks.CurrentNorm):  # the second pass begins with the same statistics
                for name, value in module.named_buffers():
                    value.fill_(0.0 if name == "running_mean" else 1.0)
        net.to("cpu")
    (theirs, expected), (ours, gradients) = found
    assert torch.equal(theirs, ours) and 0.02 < float(ours.mean()) < 0.8
    assert expected.keys() == gradients.keys() and len(gradients) >= 3
    for key, value in expected.items():
        assert torch.allclose(gradients[key], value, rtol=1e-5, atol=2e-6 * float(value.abs().max())), key


def test_where_the_loops_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numba a block and a SLAYER neuron still run on ours on CUDA, on stock SLAYER on the CPU."""
    monkeypatch.setattr(dynamics, "AVAILABLE", False)
    assert dynamics.runs_on(torch.device("cuda", 1)) and not dynamics.runs_on(torch.device("cpu"))
    neuron = blocks.slayer_cuba.Neuron(1.0, 1.0, 0.5)
    assert not can_fuse(neuron)
    monkeypatch.setattr(type(neuron), "device", torch.device("cuda"))
    assert can_fuse(neuron)


def test_sums_off_the_grid_are_put_back() -> None:
    """What an inexact convolution of a GPU leaves of whole 64ths; the gradient passes through."""
    exact = torch.arange(-70000, 70000, 7).float() / 64
    noisy = (exact * (1 + 2e-6 * torch.linspace(-1, 1, len(exact)))).requires_grad_()
    back = blocks.whole(noisy)
    assert torch.equal(back, exact) and not torch.equal(noisy, exact)
    back.backward(weight := torch.linspace(1, 2, len(exact)))
    assert torch.equal(noisy.grad, weight)


# --- what only Triton can say ------------------------------------------------------------------------------------------

COMPILE = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from qpsnn_lava import dynamics_cuda as module

kinds = {"steps": "i32", "size": "i32", "period": "i32", "channels": "i32", "chunks": "i32"}
floats = {"keep_u", "keep", "threshold", "inverse_tau", "height"}
found = {}
for name, constants in (
    ("_integrate_kernel", {}),
    ("_integrate_backward_kernel", {}),
    ("_fire_kernel", {"LEAKY": 1, "LATE": 1}),
    ("_fire_backward_kernel", {"LEAKY": 1, "LATE": 1}),
    ("_sums_kernel", {"PRODUCTS": 1, "ROWS": 1024, "HIGH": 32, "WIDE": 32}),
    ("_affine_kernel", {}),
):
    kernel = getattr(module, name)
    if name != "_sums_kernel":
        constants["BLOCK"] = module.BLOCK
    signature = {
        p: "constexpr" if p in constants else "fp32" if p in floats else kinds.get(p, "i64" if p[-2:] in ("_n", "_t") else "*fp32")
        for p in kernel.arg_names
    }
    if name == "_sums_kernel":
        signature["parts"] = "*fp64"
    source = ASTSource(fn=kernel, signature=signature, constexprs={(kernel.arg_names.index(k),): v for k, v in constants.items()})
    for fused in (False, True):
        done = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"enable_fp_fusion": fused})
        text = done.asm["ptx"]
        found.setdefault(name, []).append([text.count(" fma.") + text.count("\\tfma."), text.count("mul.rn.f")])
print(json.dumps(found))
"""


@needs_triton
def test_no_product_is_fused_with_a_sum(tmp_path: Path) -> None:
    """The code for a GPU (compiled without one) has no fused multiply-add; without our option it has."""
    root = str(Path(dynamics.__file__).parents[1])
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) == 6 and all(without[0] == 0 for without, _ in found.values())
    assert all(found[name][1][0] > 0 for name in ("_fire_kernel", "_fire_backward_kernel", "_affine_kernel"))


# --- on a GPU ----------------------------------------------------------------------------------------------------------


@needs_gpu
def test_a_network_on_the_gpu() -> None:
    """The bench's network: the spikes of stock SLAYER on the CPU in all layers, where the convolutions are exact."""
    net = bench_training.made(0)
    spikes, labels = bench_training.inputs(4, 8, 0)
    stock, ours = net["slayer"], net["fused"].cuda()
    with torch.backends.cudnn.flags(enabled=False):
        layers = ours(spikes.cuda())
        torch.nn.functional.cross_entropy(8 * layers[-1].mean(-1), labels.cuda()).backward()
    expected = stock(spikes)
    torch.nn.functional.cross_entropy(8 * expected[-1].mean(-1), labels).backward()
    assert all(torch.equal(a.cpu(), b) for a, b in zip(layers, expected, strict=True))
    for (name, a), b in zip(ours.named_parameters(), stock.parameters(), strict=True):
        if b.grad is not None:
            assert float((a.grad.cpu() - b.grad).abs().max()) <= 1e-4 * float(b.grad.abs().max()), name


@needs_gpu
def test_the_bench_on_the_gpu() -> None:
    found = bench_training.bench(batch=2, steps=8, rounds=5, threads=1, device="cuda", say=lambda text: None)
    assert found.device.startswith("cuda") and found.spikes_equal and found.parts["fused"]["step"] > 0
    assert (found.speedup is None) == ("slayer" in found.left_out)


def test_the_bench_knows_two_devices() -> None:
    with pytest.raises(ConfigError, match=r"device is 'gpu'; it must be cpu or cuda\."):
        bench_training.bench(threads=1, device="gpu", say=lambda text: None)


@pytest.mark.skipif(CUDA, reason="there is a CUDA device")
def test_the_bench_without_a_gpu() -> None:
    with pytest.raises(MissingError, match=r"torch sees no CUDA device .*; leave out --device, or install"):
        bench_training.bench(threads=1, device="cuda", say=lambda text: None)


def test_a_fused_neuron_asks_for_float32() -> None:
    """Anything else goes to SLAYER's own code, on any device."""
    neuron = blocks.slayer_cuba.Neuron(1.0, 1.0, 0.5)
    holder = torch.nn.Sequential(neuron)
    assert fuse(holder) == 1 and isinstance(holder[0], FusedNeuron)
    x = torch.rand(2, 3, 5, dtype=torch.float64)
    assert holder[0](x).dtype == torch.float64
