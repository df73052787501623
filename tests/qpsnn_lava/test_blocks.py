from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netx_export.errors import ConfigError
from netx_export.integers import decay as chip_decay
from netx_export.integers import stored_bits
from qpsnn_lava import blocks, dynamics
from qpsnn_lava.blocks import (
    Conv,
    CurrentNorm,
    Dense,
    Flatten,
    Folded,
    Integrate,
    NeuronOptions,
    SumPool,
    blocks_of,
    largest_exponent,
    slayer,
)
from qpsnn_lava.quantise import Quantiser, integers

torch.set_num_threads(1)

KINDS: tuple[blocks.NormKind, ...] = ("full", "shared", "mean", "bias")


def _randomise(block: Any, seed: int) -> None:
    """Statistics, gains and shifts as after some training."""
    norm = block.norm
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        norm.shift.copy_(torch.randn(norm.shift.shape, generator=rng) * 0.2 + 0.3)
        if hasattr(norm, "running_mean"):
            norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=rng) * 0.2)
        if hasattr(norm, "running_var"):
            norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=rng) * 0.1 + 0.02)
            norm.gain.copy_(torch.rand(norm.gain.shape, generator=rng) * 0.8 + 0.4)


def _conv(norm: blocks.NormKind = "full", seed: int = 0, **options: Any) -> Conv:
    torch.manual_seed(seed)
    neuron = options.pop("options", NeuronOptions(current_decay=3000, voltage_decay=1000))
    block = Conv(neuron, options.pop("quantiser", Quantiser(4)), 2, 4, norm=norm, **{"padding": 1, **options})
    _randomise(block, seed)
    return block


def _spikes(shape: tuple[int, ...], seed: int, top: int = 1) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return ((torch.rand(shape, generator=rng) < 0.4) * torch.randint(1, top + 1, shape, generator=rng)).float()


def _alive(spikes: torch.Tensor) -> bool:
    return 0.02 < float(spikes.detach().mean()) < 0.9


# --- fused and stock ---------------------------------------------------------------------------------------------------

needs_numba = pytest.mark.skipif(not dynamics.AVAILABLE, reason="numba is an extra")

MADE: dict[str, Callable[[blocks.NormKind], tuple[Any, torch.Tensor]]] = {
    "conv": lambda norm: (_conv(norm), _spikes((3, 2, 6, 5, 7), 1)),
    "graded": lambda norm: (_conv(norm, input_max=15, stride=2, kernel=(3, 2)), _spikes((3, 2, 6, 5, 4), 2, top=15)),
    "grouped": lambda norm: (_conv(norm, groups=2, dilation=2, padding=2), _spikes((2, 2, 6, 5, 5), 3)),
    "no memory": lambda norm: (_conv(norm, options=NeuronOptions()), _spikes((2, 2, 6, 5, 6), 4)),
    "dense": lambda norm: (_dense(norm), _spikes((4, 12, 9), 5)),
}


def _dense(norm: blocks.NormKind) -> Dense:
    torch.manual_seed(1)
    block = Dense(NeuronOptions(current_decay=2000, voltage_decay=300), Quantiser(3, gamma="max"), 12, 7, norm)
    _randomise(block, 1)
    return block


@needs_numba
@pytest.mark.parametrize("quantised", [True, False])
@pytest.mark.parametrize("norm", KINDS)
@pytest.mark.parametrize("which", MADE)
def test_the_fused_path_gives_the_stock_paths_spikes(which: str, norm: blocks.NormKind, quantised: bool) -> None:
    block, x = MADE[which](norm)
    block.quantised = quantised
    block.eval()
    with torch.no_grad():
        fused = block(x)
        block.fused = False
        stock = block(x)
    assert _alive(fused) and torch.equal(fused, stock)


@needs_numba
@pytest.mark.parametrize("norm", KINDS)
def test_training_the_fused_path_is_training_the_stock_path(norm: blocks.NormKind) -> None:
    """Also with batch statistics, where sums are taken in another order: gradients and statistics agree closely."""
    found = []
    for fused in (True, False):
        block, x = MADE["conv"](norm)
        block.quantised = True
        block.train()
        block.fused = fused
        out = block(x)
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        statistics = {k: v.clone() for k, v in block.norm.named_buffers()}
        found.append((out.detach(), {k: p.grad for k, p in block.named_parameters() if p.grad is not None}, statistics))
    (a, a_grads, a_statistics), (b, b_grads, b_statistics) = found
    assert float((a != b).float().mean()) < 1e-3 and _alive(a)
    assert (
        set(a_grads)
        == set(b_grads)
        == {"synapse.weight", "neuron.norm.shift"} | ({"neuron.norm.gain"} if norm in ("full", "shared") else set())
    )
    assert all(torch.allclose(a_statistics[k], b_statistics[k], rtol=1e-5, atol=1e-6) for k in a_statistics)
    if torch.equal(a, b):
        for k in a_grads:
            assert torch.allclose(a_grads[k], b_grads[k], rtol=1e-3, atol=1e-4 * float(a_grads[k].abs().max())), k


def test_without_numba_the_blocks_are_slayers(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernels, x = MADE["conv"]("full")
    monkeypatch.setattr(dynamics, "AVAILABLE", False)
    without, _ = MADE["conv"]("full")
    assert not without.fused
    for quantised in (True, False):
        with_kernels.quantised = without.quantised = quantised
        assert torch.equal(with_kernels.eval()(x), without.eval()(x))
    torch.manual_seed(0)
    readout = Integrate(Quantiser(8), 5, 3)
    assert not readout.fused
    readout.quantised = True
    spikes = _spikes((2, 5, 6), 0)
    slow = readout(spikes)
    readout.fused = True
    monkeypatch.undo()
    if dynamics.AVAILABLE:
        assert torch.equal(readout(spikes), slow) and slow.any()


def test_readout_is_a_running_sum() -> None:
    torch.manual_seed(0)
    block = Integrate(Quantiser(8, gamma="max"), 6, 3)
    with torch.no_grad():
        block.norm.shift.copy_(torch.tensor([0.1, -0.2, 0.0]))
    x = _spikes((2, 6, 5), 0)
    block.quantised = True
    block.eval()
    v = block(x)
    folded = block.fold(5)
    assert folded.bias is not None and folded.threshold is None
    sums = torch.einsum("oi,nit->not", folded.weight.flatten(1), x) + folded.bias.view(1, -1, 1)
    assert torch.equal(v, sums.cumsum(-1))
    real = torch.einsum("oi,nit->not", block.synapse.weight.flatten(1), x) + block.norm.shift.view(1, -1, 1)
    assert torch.allclose(
        v / folded.unit, real.cumsum(-1), atol=5 * 6 * 0.5 * folded.weight.abs().max().item() / 127 / folded.unit
    )  # half a level a weight
    block.quantised = False
    assert torch.allclose(block(x), real.cumsum(-1), atol=2 * 5 * 2 / 4096)


# --- the norm ----------------------------------------------------------------------------------------------------------


def _normalise(norm: CurrentNorm, u: torch.Tensor, axis: int, unit: float) -> torch.Tensor:
    """The norm on a real current u (N, T, C, ...) or (N, C, ..., T): scaled in as a block would, scaled out."""
    norm.folded = Folded(torch.zeros(1), None, None, unit, True)
    shape = [1] * u.dim()
    shape[axis] = -1
    return norm(u * (unit * norm.scale()).view(shape), axis=axis) / unit


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("unit", [1.0, 13.7, 0.02])
@pytest.mark.parametrize("dead", [False, True])
def test_full_norm_in_training_is_torchs_batch_norm(axis: int, unit: float, dead: bool) -> None:
    """Values, gradients and running statistics over several batches; with a negative gain, and with a channel that gets nothing."""
    torch.manual_seed(0)
    norm, reference = CurrentNorm(3, "full"), torch.nn.BatchNorm3d(3)
    with torch.no_grad():
        for n in (norm.gain, reference.weight):
            n.copy_(torch.tensor([0.7, -1.3, 2.0]))
        for n in (norm.shift, reference.bias):
            n.copy_(torch.tensor([0.1, 0.0, -0.4]))
        for n in (norm.running_var, reference.running_var):
            n.copy_(torch.tensor([0.3, 2.0, 0.0 if dead else 5.0]))
    spread = torch.tensor([0.5, 3.0, 0.0 if dead else 1.0])
    for i in range(3):
        values = torch.randn(4, 5, 3, 2, 3) * spread.view(-1, 1, 1) + torch.tensor([1.0, -2.0, 0.0]).view(-1, 1, 1)
        mine, theirs = (values.movedim(2, axis).contiguous().clone().requires_grad_() for _ in range(2))
        out = _normalise(norm, mine, axis, unit)
        expected = reference(theirs.movedim(axis, 1)).movedim(1, axis)
        assert torch.allclose(out, expected, rtol=1e-4, atol=2e-5), i
        weights = torch.randn(out.shape)
        for n in (norm, reference):
            n.zero_grad()
        (out * weights).sum().backward()
        (expected * weights).sum().backward()
        assert mine.grad is not None and theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-3, atol=1e-4 * float(theirs.grad.abs().max()))
        assert torch.allclose(norm.gain.grad, reference.weight.grad, rtol=1e-3, atol=1e-3)
        assert torch.allclose(norm.shift.grad, reference.bias.grad, rtol=1e-4, atol=1e-4)
        assert torch.allclose(norm.running_mean, reference.running_mean, rtol=1e-4, atol=1e-5)
        assert torch.allclose(norm.running_var, reference.running_var, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("kind", ["shared", "mean", "bias"])
def test_the_other_norms_in_training(kind: blocks.NormKind, axis: int) -> None:
    """Against the formulas, written with numpy on a current of channels last."""
    rng = np.random.default_rng(0)
    norm = CurrentNorm(3, kind, momentum=0.25)
    shift = np.array([0.1, 0.0, -0.4])
    with torch.no_grad():
        norm.shift.copy_(torch.from_numpy(shift))
        if kind == "shared":
            norm.gain.fill_(-1.5)
            norm.running_var.fill_(3.0)
    u = rng.normal([1.0, -2.0, 0.0], [0.5, 3.0, 1.0], (40, 3)).astype(np.float32)
    mean, var = u.mean(0), u.var(0).mean()
    expected = {
        "shared": -1.5 * (u - mean) / math.sqrt(var + 1e-5) + shift,
        "mean": u - mean + shift,
        "bias": u + shift,
    }[kind]
    given_ = torch.from_numpy(u).view(4, 10, 3)
    given_ = given_ if axis == 2 else given_.movedim(2, 1).contiguous()
    if kind == "bias":  # it has no statistics: the block hands it a bias in every mode
        norm.folded = Folded(torch.zeros(1), 5.0 * norm.shift, None, 5.0, True)
        out = norm(given_ * 5.0, axis=axis) / 5.0
    else:
        out = _normalise(norm, given_, axis, 5.0)
    out = (out if axis == 2 else out.movedim(1, 2)).reshape(40, 3)
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-4, atol=1e-4)
    if kind != "bias":
        np.testing.assert_allclose(norm.running_mean.numpy(), 0.25 * mean, rtol=1e-4, atol=1e-5)
    if kind == "shared":
        unbiased = var * 40 / 39
        np.testing.assert_allclose(norm.running_var.numpy(), [0.75 * 3.0 + 0.25 * unbiased], rtol=1e-4)


def test_norm_refuses_an_unknown_kind() -> None:
    with pytest.raises(ConfigError, match="norm 'batch': known are full, shared, mean and bias"):
        CurrentNorm(3, "batch")  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", KINDS)
def test_frozen_training_computes_as_evaluation_and_leaves_the_statistics(norm: blocks.NormKind) -> None:
    block, x = MADE["conv"](norm)
    block.quantised = True
    block.eval()
    evaluated = block(x)
    block.train()
    block.norm.frozen = True
    before = copy.deepcopy(block.state_dict())
    assert torch.equal(block(x), evaluated) and _alive(evaluated)
    assert all(torch.equal(before[k], v) for k, v in block.state_dict().items())
    folded = block.fold(x.shape[-1])
    for values in (64 * folded.weight, 64 * folded.bias, torch.tensor(64 * folded.threshold)):
        assert torch.equal(values, values.round()) and values.abs().max() > 0
    real = block.norm.offset() * folded.unit * 64  # the bias in real units, as device units
    assert (64 * folded.bias - real).abs().max() <= 0.5


# --- folding -----------------------------------------------------------------------------------------------------------


def _leaky(current: torch.Tensor, options: NeuronOptions) -> torch.Tensor:
    """Spikes of an ideal LIF on (N, T, ...), in float64, step by step; the decay of the current comes before the norm."""
    v = torch.zeros_like(current[:, 0])
    out = []
    for t in range(current.shape[1]):
        v = v * (1 - options.voltage_decay / 4096) + current[:, t]
        fired = v > options.threshold
        out.append(fired)
        v = torch.where(fired, 0.0, v)
    return torch.stack(out, 1).double()


@pytest.mark.parametrize("input_max", [1, 15])
def test_a_float_block_is_conv_batch_norm_and_lif(input_max: int) -> None:
    """With plain torch modules in float64; SLAYER's states are 4096ths, so a few spikes at the edge may differ."""
    options = NeuronOptions(current_decay=3000, voltage_decay=1000, threshold=0.75)
    block = _conv("full", options=options, stride=2, input_max=input_max)
    block.eval()
    x = _spikes((8, 2, 9, 8, 6), 0, top=input_max)
    conv, norm = torch.nn.Conv2d(2, 4, 3, 2, 1, bias=False).double(), torch.nn.BatchNorm2d(4).double().eval()
    with torch.no_grad():
        conv.weight.copy_(block.synapse.weight[..., 0])
        for mine, theirs in (("gain", "weight"), ("shift", "bias"), ("running_mean",) * 2, ("running_var",) * 2):
            getattr(norm, theirs).copy_(getattr(block.norm, mine))
        frames = (x.double() / input_max).movedim(-1, 1)
        u = torch.zeros(())
        current = []
        for t in range(frames.shape[1]):
            u = u * (1 - options.current_decay / 4096) + conv(frames[:, t])
            current.append(norm(u))
        expected = _leaky(torch.stack(current, 1), options).movedim(1, -1)
        found = block(x)
    assert _alive(found)
    assert float((found != expected).double().mean()) < 2e-3


def test_eight_bits_come_near_the_float_block() -> None:
    """Quantised and float forward pass of one block: the scale of weights, bias and threshold is right."""
    block = _conv("full", quantiser=Quantiser(8, gamma="max"))
    block.eval()
    x = _spikes((8, 2, 9, 8, 6), 0)
    plain = block(x)
    block.quantised = True
    assert float((block(x) != plain).float().mean()) < 0.02 and _alive(plain)


def test_the_threshold_is_at_least_one() -> None:
    block = _conv("bias", options=NeuronOptions(threshold=1e-9))
    block.quantised = True
    assert block.fold(4).threshold == 1 / 64


# --- the exponent ------------------------------------------------------------------------------------------------------


def _worst(
    q: np.ndarray[Any, Any], bias: np.ndarray[Any, Any], options: NeuronOptions, x_max: int, steps: int
) -> tuple[int, int]:
    """The chip's own recursion, driven as hard as it can be: every spike at its largest, with the sign of its weight, and a bias
    that pushes the same way; the other target neurons get what they get."""
    best_u = best_v = 0
    for row, b in zip(q.reshape(len(q), -1), np.abs(bias), strict=True):
        arriving = int(np.abs(row).sum()) * x_max
        u = v = np.zeros(1, np.int64)
        for _ in range(steps):
            u = chip_decay(u, options.current_decay) + (arriving << 6)
            v = chip_decay(v, options.voltage_decay) + u + (int(b) << 6)
        best_u, best_v = max(best_u, int(u[0])), max(best_v, int(v[0]))
    return best_u, best_v


@settings(max_examples=150)
@given(
    bits=st.integers(2, 8),
    fan_in=st.sampled_from([1, 9, 200, 3000]),
    steps=st.sampled_from([1, 2, 4, 16, 100]),
    x_max=st.sampled_from([1, 15, 255]),
    options=st.builds(
        NeuronOptions,
        current_decay=st.sampled_from([4096, 2048, 100, 1, 0]),
        voltage_decay=st.sampled_from([4096, 2048, 50, 0]),
        threshold=st.sampled_from([0.01, 1.0, 100.0]),
    ),
    offset=st.sampled_from([0.0, 0.5, 30.0]),
    spikes=st.booleans(),
    seed=st.integers(0, 100),
)
def test_the_largest_exponent_is_the_largest(
    bits: int, fan_in: int, steps: int, x_max: int, options: NeuronOptions, offset: float, spikes: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.normal(0, 0.2, (3, fan_in)).astype(np.float32))
    q, step = integers(weight, Quantiser(bits))
    shift = torch.from_numpy((rng.uniform(-1, 1, 3) * offset).astype(np.float32))
    k = largest_exponent(q, step, shift, options, x_max, steps, spikes)
    whole = q.numpy().astype(np.int64)

    def breaks(exponent: int, slack: float) -> bool:
        scaled = whole * 2**exponent
        bias = np.rint(shift.numpy().astype(np.float64) / step * 2.0**exponent).astype(np.int64)
        u, v = _worst(scaled, bias, options, x_max, steps)
        top = (1 << 23) - 1 if spikes else 131071 << 6
        return bool(
            np.abs(scaled).max() > 254
            or (exponent == 0 and np.abs(scaled).max() > 127)
            or u > ((1 << 23) - 1) * (1 - slack)
            or v > top * (1 - slack)
            or np.abs(bias).max() > 4095 * (1 - slack)
            or (spikes and round(options.threshold / step * 2.0**exponent) > 131071 * (1 - slack))
        )

    if k >= 0:
        assert not breaks(k, 0.0)
        assert breaks(k + 1, 0.01)  # what the bound holds back for roundings is below a hundredth here
    else:
        assert breaks(0, 0.01)


def test_a_layer_that_cannot_fit_is_widened_until_it_does() -> None:
    torch.manual_seed(0)
    block = Dense(NeuronOptions(), Quantiser(8), 4000, 2, "bias", input_max=15)
    block.quantised = True
    q, step = integers(block.synapse.weight / 15, block.quantiser)
    assert largest_exponent(q, step, torch.zeros(2), block.options, 15, 4, True) < 0
    folded = block.fold(4)
    device = 64 * folded.weight.detach()
    assert torch.equal(device, device.round()) and 0 < device.abs().max() < 127
    worst = float(device.abs().flatten(1).sum(1).max()) * 64 * 15 * (2 - 0.5**3)
    assert 2**21 < worst < 2**23  # not more than needed
    assert torch.allclose(folded.weight / folded.unit, block.synapse.weight / 15, atol=1.0 / folded.unit / 64)


@given(
    seed=st.integers(0, 1000),
    bits=st.integers(2, 8),
    inputs=st.sampled_from([50, 700, 4000]),
    input_max=st.sampled_from([1, 15, 255]),
    segments=st.integers(1, 2),
    grid=st.sampled_from(["mid_tread", "mid_rise"]),
    steps=st.sampled_from([1, 4, 30]),
)
@settings(max_examples=40, deadline=None)
def test_gamma_is_doubled_as_seldom_as_keeps_the_bounds(
    seed: int, bits: int, inputs: int, input_max: int, segments: int, grid: Any, steps: int
) -> None:
    torch.manual_seed(seed)
    options = NeuronOptions(current_decay=4096, voltage_decay=0, threshold=100)
    block = Dense(options, Quantiser(bits, grid, segments=segments), inputs, 3, "bias", input_max)
    weight, offset = block.scaled_weight().detach(), torch.randn(3)
    threads = torch.get_num_threads()

    def exponent(widen: int) -> int:
        return largest_exponent(*integers(weight, block.quantiser, widen), offset, options, input_max, steps, True)

    q, step, k, widen = block._widened(weight, offset, steps)
    assert widen == next((w for w in range(blocks.MAX_WIDEN) if exponent(w) >= 0), blocks.MAX_WIDEN)
    assert k == exponent(widen)
    again = integers(weight, block.quantiser, widen)
    assert torch.equal(q, again[0]) and step == again[1] and torch.get_num_threads() == threads


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("segments", [1, 2])
def test_clipped_weights_get_no_gradient_where_they_are_masked(masked: bool, segments: int) -> None:
    block = _conv("full", quantiser=Quantiser(4, masked=masked, segments=segments))
    block.quantised = True
    block.norm.frozen = True
    folded = block.fold(4)
    scaled = block.scaled_weight().detach()
    end = float(scaled.abs().mean()) * 2 ** (segments - 1)
    clipped = scaled.abs() > end
    assert 0.02 < float(clipped.float().mean()) < 0.6
    (gradient,) = torch.autograd.grad(folded.weight.sum(), block.synapse.weight)
    assert torch.equal(gradient == 0, clipped & masked)
    plain = _conv("full", quantiser=Quantiser(4, segments=segments))
    plain.quantised = True
    assert torch.equal(plain.fold(4).weight, folded.weight)  # the same forward pass


def test_a_scale_for_each_channel_in_the_folded_domain() -> None:
    """Weight times unit, quantised channel by channel; thresholds and spikes follow."""
    torch.manual_seed(0)
    block = _conv("full", quantiser=Quantiser(8, gamma="max", per="channel"))
    block.eval()
    x = _spikes((4, 2, 9, 8, 6), 0)
    plain = block(x)
    block.quantised = True
    folded = block.fold(6)
    for c in range(4):
        q, step = integers(block.scaled_weight()[c].detach(), Quantiser(8, gamma="max"))
        assert torch.allclose(folded.weight[c] / folded.unit, step * q, rtol=1e-5)
    assert float((block(x) != plain).float().mean()) < 0.02 and _alive(plain)


def test_an_8_bit_mid_rise_grid_keeps_to_the_odd_integers_of_the_chip() -> None:
    """Weights up to 1.5 times their mean: with gamma doubled once they would still reach 191, which has no place."""
    block = _conv("bias", quantiser=Quantiser(8, "mid_rise"))
    with torch.no_grad():
        size = torch.linspace(0.5, 1.5, block.synapse.weight.numel()).view_as(block.synapse.weight)
        block.synapse.weight.copy_(block.synapse.weight.sign() * size)
    block.quantised = True
    device = 64 * block.fold(4).weight.detach()
    odd = device / 2 if torch.all(device % 2 == 0) else device
    assert torch.all(odd % 2 == 1) and 64 <= odd.abs().max() <= 127
    assert stored_bits(device.numpy().astype(np.int64)) == 8


@pytest.mark.parametrize("what", ["weight", "shift"])
def test_a_diverged_block_says_so(what: str) -> None:
    block = _conv("full")
    block.quantised = True
    with torch.no_grad():
        (block.synapse.weight if what == "weight" else block.norm.shift).view(-1)[0] = math.nan
    with pytest.raises(ConfigError, match="not numbers: the training has diverged"):
        block(_spikes((1, 2, 6, 5, 2), 0))


def test_gradients_do_not_depend_on_the_exponent(monkeypatch: pytest.MonkeyPatch) -> None:
    """max|W| = 7/8 at 4 bits: step = 1/8, so that threshold and weights are the same numbers for every k."""
    found = {}
    for k in range(6):
        torch.manual_seed(0)
        block = Conv(NeuronOptions(), Quantiser(4, gamma="max"), 2, 4, padding=1, norm="bias")
        with torch.no_grad():
            block.synapse.weight.mul_(2).clamp_(-0.5, 0.5)[0, 0, 0, 0, 0] = 7 / 8
        block.quantised = True
        monkeypatch.setattr(blocks, "largest_exponent", lambda *_, k=k, **__: k)
        folded = block.fold(5)
        assert folded.unit == 2**k / 8 and folded.threshold == 2**k * 8 / 64
        out = block(_spikes((3, 2, 6, 5, 5), 0))
        out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape))
        found[k] = (out.detach(), block.synapse.weight.grad, block.norm.shift.grad)
    for k in range(1, 6):
        assert torch.equal(found[k][0], found[0][0]) and _alive(found[0][0])
        for mine, first in zip(found[k][1:], found[0][1:], strict=True):
            assert torch.allclose(mine, first, rtol=5e-3, atol=5e-3 * float(first.abs().max()))  # SLAYER's eps is not scaled


# --- shapes and paths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantised", [True, False])
def test_a_static_input_is_convolved_once(quantised: bool) -> None:
    block = _conv("full", input_max=15)
    block.quantised = quantised
    block.eval()
    image = _spikes((3, 2, 6, 5, 1), 0, top=15)
    static = block(image.expand(-1, -1, -1, -1, 6))
    assert torch.equal(static, block(image.repeat(1, 1, 1, 1, 6))) and _alive(static)
    assert torch.equal(block(image), static[..., :1])


def test_gradients_of_a_static_input() -> None:
    grads = []
    for repeat in (False, True):
        block = _conv("full", input_max=15)
        block.quantised = True
        block.train()
        image = _spikes((3, 2, 6, 5, 1), 0, top=15)
        out = block(image.repeat(1, 1, 1, 1, 6) if repeat else image.expand(-1, -1, -1, -1, 6))
        out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape))
        grads.append(block.synapse.weight.grad)
    assert torch.allclose(grads[0], grads[1], rtol=1e-4, atol=1e-5 * float(grads[1].abs().max()))


def test_sum_pool_is_a_logical_or() -> None:
    pool = SumPool(NeuronOptions(current_decay=4096, voltage_decay=4096, threshold=0.5), 3, (2, 3))
    assert not [p for p in pool.parameters() if p.requires_grad]
    x = _spikes((2, 3, 5, 7, 6), 0)
    for fused in {dynamics.AVAILABLE, False}:
        pool.fused = fused
        out = pool(x)
        assert out.shape == (2, 3, 2, 2, 6)
        for y in range(2):
            for z in range(2):
                window = x[:, :, 2 * y : 2 * y + 2, 3 * z : 3 * z + 3]
                assert torch.equal(out[:, :, y, z], window.amax((2, 3)))
    most = SumPool(NeuronOptions(current_decay=4096, voltage_decay=4096, threshold=2.0), 3, 2)
    counts = torch.nn.functional.avg_pool3d(x, (2, 2, 1)) * 4
    assert torch.equal(most(x), (counts > 2).float())  # three of four at least: the threshold itself is not enough


def test_flatten_is_c_h_w() -> None:
    x = torch.arange(2 * 3 * 4 * 5 * 6).float().view(2, 3, 4, 5, 6)
    assert torch.equal(Flatten()(x), x.reshape(2, 60, 6))
    channels_last = x.movedim(1, -2).contiguous().movedim(-2, 1)
    assert torch.equal(Flatten()(channels_last), x.reshape(2, 60, 6))


@settings(max_examples=40)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 1)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2]),
    time_first=st.booleans(),
)
def test_convolve_is_slayers_synapse(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    time_first: bool,
) -> None:
    torch.manual_seed(0)
    synapse = slayer.synapse.Conv(4, 6, kernel, stride, padding, dilation, groups)
    with torch.no_grad():
        synapse.weight.copy_(torch.randint(-9, 10, synapse.weight.shape))
    x = _spikes((2, 4, 7, 6, 3), 0)
    if time_first:
        x = x.movedim(-1, 1).contiguous().movedim(1, -1)
    assert torch.equal(blocks.convolve(x, synapse.weight, synapse).movedim(1, -1), synapse(x))


def test_surrogate_is_the_documented_one() -> None:
    """d s / d v = scale / (2 width) exp(-|v - theta| / width), v in thresholds: read off a block of one weight and one step."""
    width, scale, theta = 0.5, 1.7, 2.0
    options = NeuronOptions(threshold=theta, surrogate_width=width, surrogate_scale=scale)
    for weight in (0.25, 1.5, 3.0):
        block = Dense(options, Quantiser(8, gamma="max"), 1, 1, "bias")
        with torch.no_grad():
            block.synapse.weight.fill_(weight)
        for quantised in (False, True):
            block.quantised = quantised
            block.zero_grad()
            block(torch.ones(1, 1, 1)).sum().backward()
            distance = abs(weight / theta - 1) / width
            expected = scale / (2 * width) * math.exp(-distance) / theta
            assert float(block.synapse.weight.grad) == pytest.approx(expected, rel=0.02)


def test_blocks_of() -> None:
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU())
    assert [type(b).__name__ for b in blocks_of(model)] == ["Identity", "ReLU"]
    slayers = torch.nn.Module()
    slayers.blocks = torch.nn.ModuleList([torch.nn.ReLU()])
    slayers.other = torch.nn.Identity()
    assert [type(b).__name__ for b in blocks_of(slayers)] == ["ReLU"]
