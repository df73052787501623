from __future__ import annotations

import copy
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from netx_export.errors import ConfigError
from netx_export.integers import stored_bits
from qpsnn_lava.blocks import slayer
from qpsnn_lava.quantise import Gamma, Quantiser, ReScaW, integers, rescale, straight_through

BITS = range(2, 9)
GAMMAS: tuple[Gamma, ...] = ("mean_abs", "max", "percentile")


def _weights(seed: int, count: int, scale: float) -> torch.Tensor:
    """Gaussian weights, a tenth of them outliers."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, scale, count) * np.where(rng.random(count) < 0.1, 8.0, 1.0)
    return torch.from_numpy(values.astype(np.float32))


def _percentile(weights: NDArray[np.float64], percent: int) -> float:
    """The smallest weight that at least ``percent`` of the weights do not exceed, by counting."""
    counts = (weights[None, :] <= weights[:, None]).sum(1)
    return float(weights[[Fraction(int(n), len(weights)) >= Fraction(percent, 100) for n in counts]].min())


def _gamma(weights: NDArray[np.float64], kind: Gamma) -> float:
    """Equations 9-11 of the paper."""
    if kind == "mean_abs":
        return math.fsum(abs(w) for w in weights) / len(weights)
    if kind == "max":
        return float(np.abs(weights).max())
    return max(abs(_percentile(weights, 1)), abs(_percentile(weights, 99)))


def _paper(weights: NDArray[np.float64], bits: int, gamma: float) -> NDArray[np.float64]:
    """ReScaW as the paper prints it: gamma * [(2/s) round(s/2 (clamp(W/gamma, -1, 1) + 1)) - 1], s = 2^b - 1."""
    s = 2**bits - 1
    whole = np.round(s / 2 * (np.clip(weights / gamma, -1, 1) + 1))
    assert np.all((whole >= 0) & (whole <= s))
    quantised: NDArray[np.float64] = gamma * (2 / s * whole - 1)
    return quantised


def _away_from_ties(unit: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where float32 and float64 must round alike."""
    clear: NDArray[np.bool_] = np.abs(unit - np.floor(unit) - 0.5) > 1e-4
    return clear


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", GAMMAS)
@settings(max_examples=8)
@given(seed=st.integers(0, 1000), count=st.integers(1, 250), scale=st.sampled_from([1e-3, 0.1, 1.0, 40.0]))
def test_mid_rise_is_the_papers_equation(bits: int, kind: Gamma, seed: int, count: int, scale: float) -> None:
    weight = _weights(seed, count, scale)
    exact = weight.double().numpy()
    gamma = _gamma(exact, kind)
    q, step = integers(weight, Quantiser(bits, "mid_rise", kind))
    assert rescale(weight, kind) == pytest.approx(gamma, rel=1e-12)
    assert step == pytest.approx(gamma / (2**bits - 1), rel=1e-12)
    assert torch.all(q % 2 == 1) and q.abs().max() <= 2**bits - 1  # (in torch -3 % 2 is 1)
    clear = _away_from_ties((2**bits - 1) / 2 * (np.clip(exact / gamma, -1, 1) + 1))
    np.testing.assert_allclose(
        (step * q.double().numpy())[clear], _paper(exact, bits, gamma)[clear], rtol=1e-9, atol=1e-12 * gamma
    )


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", GAMMAS)
@settings(max_examples=8)
@given(seed=st.integers(0, 1000), count=st.integers(1, 250), scale=st.sampled_from([1e-3, 0.1, 1.0, 40.0]))
def test_mid_tread_takes_the_nearest_level(bits: int, kind: Gamma, seed: int, count: int, scale: float) -> None:
    weight = _weights(seed, count, scale)
    exact = weight.double().numpy()
    top = 2 ** (bits - 1) - 1
    q, step = integers(weight, Quantiser(bits, "mid_tread", kind))
    levels = step * np.arange(-top, top + 1)
    distance = np.abs(exact[:, None] - levels[None, :])
    chosen = np.abs(exact - step * q.numpy().astype(np.float64))
    assert torch.equal(q, q.round()) and q.abs().max() <= top
    assert np.all(chosen <= distance.min(1) + 1e-5 * step)  # no level is nearer: rounding and clipping in one
    assert step * top == pytest.approx(_gamma(exact, kind), rel=1e-12)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("grid", ["mid_tread", "mid_rise"])
def test_every_level_of_the_grid_is_used_and_no_other(bits: int, grid: Any) -> None:
    top = 2 ** (bits - 1) - 1 if grid == "mid_tread" else 2**bits - 1
    every = 1 if grid == "mid_tread" else 2
    q, _ = integers(torch.linspace(-1, 1, 20 * top + 1), Quantiser(bits, grid, "max"))
    assert q.unique().tolist() == list(range(-top, top + 1, every))
    assert Quantiser(bits, grid).top == top


@pytest.mark.parametrize(
    ("grid", "bits", "stored"),
    [("mid_tread", b, 8 if b == 7 else b) for b in BITS] + [("mid_rise", 2, 3), ("mid_rise", 4, 5)],
)
def test_stored_bits(grid: Any, bits: int, stored: int) -> None:
    q, _ = integers(torch.linspace(-1, 1, 4001), Quantiser(bits, grid, "max"))
    for k in range(8):
        whole = q.numpy().astype(np.int64) << k
        if k and np.abs(whole).max() > 254:
            break
        assert stored_bits(whole) == stored


def test_widen_doubles_the_step() -> None:
    weight = _weights(3, 400, 1.0)
    for widen in range(4):
        q, step = integers(weight, Quantiser(4), widen)
        assert step == pytest.approx(2**widen * float(weight.abs().double().mean()) / 7)
        assert torch.equal(q, torch.round((weight / (7 * step)).clamp(-1, 1) * 7))


def test_all_zero_weights() -> None:
    q, step = integers(torch.zeros(3, 4), Quantiser(4))
    assert step == 1.0 and not q.any() and q.shape == (3, 4)
    q, step = integers(torch.zeros(3, 4), Quantiser(4, "mid_rise"))
    assert step == 1.0 and torch.all(q == 1)  # this grid has no zero


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_numbers(bad: float) -> None:
    with pytest.raises(ConfigError, match="not numbers: the training has diverged; take a smaller learning rate"):
        integers(torch.tensor([0.5, bad]), Quantiser(4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 1}, r"bits 1: weights are quantised to 2\.\.8 bits"),
        ({"bits": 9}, r"bits 9: weights are quantised to 2\.\.8 bits"),
        ({"bits": 4, "grid": "mid"}, "grid 'mid': known are mid_tread and mid_rise"),
        ({"bits": 4, "gamma": "mean"}, "gamma 'mean': known are mean_abs, max and percentile"),
    ],
)
def test_quantiser_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Quantiser(**arguments)
    with pytest.raises(ConfigError, match=message):
        ReScaW(**arguments)


def test_rescaw_refuses_the_grid_that_no_chip_holds() -> None:
    with pytest.raises(ConfigError, match=r"8-bit mid_rise grid needs odd weights up to 255; the chip's end at 254"):
        ReScaW(8, "mid_rise")


def test_straight_through_keeps_every_bit_and_passes_the_gradient() -> None:
    exact = torch.tensor([0.1, 1e-30, -3e7, 1 / 3])
    smooth = torch.tensor([0.7, 1e9, 1e-9, -5.0], requires_grad=True)
    result = straight_through(exact, smooth)
    assert torch.equal(result.detach(), exact)
    assert not torch.equal((smooth + (exact - smooth)).detach(), exact)  # the usual formula would not
    result.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert smooth.grad is not None and smooth.grad.tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("grid", ["mid_tread", "mid_rise"])
@settings(max_examples=40)
@given(seed=st.integers(0, 1000), bits=st.integers(2, 8), scale=st.sampled_from([1e-4, 0.02, 0.3, 2.0, 50.0]))
def test_rescaw_hook_gives_device_integers(grid: Any, seed: int, bits: int, scale: float) -> None:
    bits = min(bits, 7) if grid == "mid_rise" else bits
    weight = _weights(seed, 60, scale).requires_grad_()
    hook = ReScaW(bits, grid)
    plain, device = hook(weight), hook(weight, descale=True).detach()
    assert torch.equal(plain * 64, device) and torch.equal(device, device.round()) and device.abs().max() <= 254
    q, step = integers(weight, Quantiser(bits, grid))
    factor = device[q != 0] / q[q != 0]
    k = math.log2(float(factor[0]))
    assert torch.all(factor == factor[0]) and k == round(k) >= 0
    possible = [e for e in range(8) if Quantiser(bits, grid).top * 2**e <= 254]
    assert k == min(possible, key=lambda e: (abs(e - math.log2(64 * step)), e))  # the nearest power of two that fits
    (gradient,) = torch.autograd.grad(plain.sum(), weight)
    assert torch.all(gradient == 1)


def test_rescaw_on_a_stock_synapse() -> None:
    torch.manual_seed(0)
    params = {"threshold": 1.0, "current_decay": 1.0, "voltage_decay": 0.5}
    block = slayer.block.cuba.Dense(params, 12, 5, weight_scale=4, delay_shift=False)
    block.synapse.pre_hook_fx = ReScaW(bits=4)
    x = (torch.rand(3, 12, 6) < 0.3).float()
    sums = block.synapse(x)
    whole = block.synapse.pre_hook_fx(block.synapse.weight, descale=True).detach().numpy().reshape(5, 12).astype(np.int64)
    by_hand = np.einsum("oi,nit->not", whole, x.numpy().astype(np.int64))
    assert np.array_equal(sums.detach().numpy() * 64, by_hand) and by_hand.any()
    assert stored_bits(whole) == 4
    sums.backward(torch.ones_like(sums))
    expected = x.sum((0, 2)).expand(5, 12)
    assert torch.equal(block.synapse.weight.grad.reshape(5, 12), expected)
    assert torch.equal(copy.deepcopy(block).synapse(x), sums)


def test_no_chip_stores_an_8_bit_mid_rise_grid() -> None:
    q, _ = integers(torch.linspace(-1, 1, 4001), Quantiser(8, "mid_rise", "max"))
    assert stored_bits(q.numpy().astype(np.int64)) > 8
