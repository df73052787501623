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
from qpsnn_lava.quantise import Gamma, Quantiser, ReScaW, grid_use, inside, integers, rescale, straight_through

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
    assert float(rescale(weight, kind)) == pytest.approx(gamma, rel=1e-12)
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


@pytest.mark.parametrize("grid", ["mid_tread", "mid_rise"])
@pytest.mark.parametrize("bits", BITS)
def test_stored_bits(grid: Any, bits: int) -> None:
    """Of the integers that weights become, and as the quantiser says them: 2..8, with the paper's odd integers one more."""
    expected = {7: 8}.get(bits, bits) if grid == "mid_tread" else {6: 8}.get(bits, bits + 1)
    if expected > 8:  # no chip's; below
        return
    quantiser = Quantiser(bits, grid, "max")
    q, _ = integers(torch.linspace(-1, 1, 4001), quantiser)
    whole = q.numpy().astype(np.int64)
    assert stored_bits(whole) == quantiser.stored_bits == expected
    for k in range(1, 8):
        if np.abs(whole).max() << k <= 254:
            assert stored_bits(whole << k) == expected


def test_the_papers_grid_stores_3_5_9_bits_and_the_one_with_a_zero_2_4_8() -> None:
    assert [Quantiser(bits, "mid_rise").stored_bits for bits in (2, 4, 8)] == [3, 5, 9]
    assert [Quantiser(bits, "mid_tread").stored_bits for bits in (2, 4, 8)] == [2, 4, 8]


@pytest.mark.parametrize("bits", [2, 4, 8])
@settings(max_examples=10)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.02, 0.5, 4.0]))
def test_without_gamma_it_is_the_papers_baseline(bits: int, seed: int, scale: float) -> None:
    """Equations 1-2: s = 2^b - 1, W_int = round(s/2 (clamp(W, -1, 1) + 1)), W_hat = 2 W_int / s - 1."""
    weight = _weights(seed, 80, scale)
    exact = weight.double().numpy()
    q, step = integers(weight, Quantiser(bits, "mid_rise", "none"))
    clear = _away_from_ties((2**bits - 1) / 2 * (np.clip(exact, -1, 1) + 1))
    np.testing.assert_allclose((step * q.double().numpy())[clear], _paper(exact, bits, 1.0)[clear], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", GAMMAS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_n2uqs_factor(bits: int, kind: Gamma) -> None:
    weight = _weights(5, 300, 0.1)
    factor = (2**bits - 1) / 2 ** (bits - 1)
    gamma = factor * _gamma(weight.double().numpy(), kind)
    for grid in ("mid_tread", "mid_rise"):
        quantiser = Quantiser(bits, grid, kind, n2uq=True)  # type: ignore[arg-type]
        assert integers(weight, quantiser)[1] == pytest.approx(gamma / quantiser.top)
    q, step = integers(weight, Quantiser(bits, "mid_rise", kind, n2uq=True))
    exact = weight.double().numpy()
    clear = _away_from_ties((2**bits - 1) / 2 * (np.clip(exact / gamma, -1, 1) + 1))
    np.testing.assert_allclose((step * q.double().numpy())[clear], _paper(exact, bits, gamma)[clear], rtol=1e-9, atol=1e-12)


def test_the_share_of_weights_that_gamma_clips() -> None:
    """Of Gaussian weights: 42.5 % with the mean; with the factor 23.1, 13.5 and 11.2 % at 2, 4 and 8 bits."""
    weight = torch.from_numpy(np.random.default_rng(0).normal(0, 0.3, 400_000).astype(np.float32))
    shares = [float((~inside(weight, Quantiser(bits, n2uq=bits > 0))).float().mean()) for bits in (2, 4, 8)]
    assert shares == pytest.approx([0.231, 0.135, 0.112], abs=0.002)
    assert float((~inside(weight, Quantiser(4))).float().mean()) == pytest.approx(0.425, abs=0.002)
    assert inside(weight, Quantiser(4, gamma="max")).all()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 100), count=st.integers(1, 230), percent=st.sampled_from([51, 75, 90, 97, 99, 100]), rows=st.booleans()
)
def test_any_percentile(seed: int, count: int, percent: int, rows: bool) -> None:
    weight = _weights(seed, 3 * count, 1.0).view(3, count)
    found = rescale(weight, "percentile", percent / 100, per_channel=rows)
    parts = weight.double().numpy() if rows else weight.double().numpy().reshape(1, -1)
    expected = [max(abs(_percentile(part, percent)), abs(_percentile(part, max(1, 100 - percent)))) for part in parts]
    if percent == 100:  # P_0: the smallest of all
        expected = [np.abs(part).max() for part in parts]
    assert found.flatten().tolist() == expected


@pytest.mark.parametrize("grid", ["mid_tread", "mid_rise"])
@pytest.mark.parametrize("kind", GAMMAS)
@pytest.mark.parametrize("n2uq", [False, True])
def test_a_scale_for_each_channel_is_each_channel_by_itself(kind: Gamma, grid: Any, n2uq: bool) -> None:
    weight = _weights(2, 6 * 40, 0.1).view(6, 4, 5, 2) * torch.logspace(-2, 2, 6).view(-1, 1, 1, 1)
    q, step = integers(weight, Quantiser(4, grid, kind, per="channel", n2uq=n2uq))
    for c in range(6):
        alone, own = integers(weight[c], Quantiser(4, grid, kind, n2uq=n2uq))
        assert torch.allclose(step * q[c], own * alone, rtol=1e-5)
    assert kind != "max" or n2uq or q.abs().max() == Quantiser(4, grid).top


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    bits=st.integers(2, 8),
    shift_bits=st.integers(1, 6),
    grid=st.sampled_from(["mid_tread", "mid_rise"]),
    kind=st.sampled_from(GAMMAS),
    spread=st.sampled_from([0.0, 1.0, 5.0]),
)
def test_a_power_of_two_for_each_channel(seed: int, bits: int, shift_bits: int, grid: Any, kind: Gamma, spread: float) -> None:
    """Written out for one channel after another, in double precision."""
    rng = np.random.default_rng(seed)
    weight = _weights(seed, 5 * 30, 0.1).view(5, 30) * torch.from_numpy(2.0 ** rng.uniform(-spread, spread, (5, 1))).float()
    quantiser = Quantiser(bits, grid, kind, per="channel_shift", shift_bits=shift_bits)
    q, step = integers(weight, quantiser)
    assert torch.equal(q, q.round()) and q.abs().max() <= max(127, quantiser.top)
    layer = _gamma(weight.double().numpy().ravel(), kind)
    asked = [round(math.log2(_gamma(row.double().numpy(), kind) / layer)) for row in weight]
    room = quantiser.shifts
    assert room == min(shift_bits, max(e for e in range(8) if e == 0 or quantiser.top * 2**e <= 127))
    windows = [[min(max(e, low), low + room) for e in asked] for low in range(-room, 1)]
    taken = min(windows, key=lambda window: sum((a - b) ** 2 for a, b in zip(asked, window, strict=True)))
    lowest = windows.index(taken) - room
    assert step == pytest.approx(layer * 2.0**lowest / quantiser.top)
    for c, e in enumerate(taken):
        gamma = layer * 2.0**e
        unit = weight[c].double().numpy() / gamma
        near = np.clip(unit, -1, 1) * quantiser.top if grid == "mid_tread" else quantiser.top / 2 * (np.clip(unit, -1, 1) + 1)
        whole = np.round(near) if grid == "mid_tread" else 2 * np.round(near) - quantiser.top
        clear = _away_from_ties(near)
        assert np.array_equal(q[c].numpy()[clear], (whole * 2.0 ** (e - lowest))[clear])
    assert stored_bits(q.numpy().astype(np.int64)) <= quantiser.stored_bits


def test_channels_that_do_not_differ_keep_the_layers_scale() -> None:
    row = _weights(7, 50, 1.0)
    weight = torch.stack([row, -row, row.flip(0)])
    for per in ("layer", "channel", "channel_shift"):
        q, step = integers(weight, Quantiser(5, per=per, shift_bits=2))  # type: ignore[arg-type]
        plain, own = integers(weight, Quantiser(5))
        assert torch.allclose(step * q, own * plain, rtol=1e-6)


@pytest.mark.parametrize("per", ["channel", "channel_shift"])
@pytest.mark.parametrize("grid", ["mid_tread", "mid_rise"])
def test_a_channel_of_zeros(per: Any, grid: Any) -> None:
    weight = torch.cat([_weights(0, 20, 1.0).view(2, 10), torch.zeros(1, 10)])
    q, step = integers(weight, Quantiser(3, grid, per=per))
    assert torch.isfinite(q).all() and step > 0
    assert not q[2].any() if grid == "mid_tread" else len(q[2].unique()) == 1
    q, step = integers(torch.zeros(3, 4), Quantiser(3, grid, per=per))
    assert step == 1.0


@pytest.mark.parametrize("grid", ["mid_tread", "mid_rise"])
@pytest.mark.parametrize("segments", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", BITS)
def test_the_levels_of_a_piecewise_grid(bits: int, segments: int, grid: Any) -> None:
    """Each part of |W| twice as long as all before it together, with steps twice as large; b stored bits where that is possible."""
    quantiser = Quantiser(bits, grid, "max", segments=segments)
    inner = max(2, bits - segments + 1)
    end = 2 ** (inner - 1) - 1 if grid == "mid_tread" else 2**inner - 1
    every = range(end + 1) if grid == "mid_tread" else range(1, end + 1, 2)
    expected = {size for size in every}
    for s in range(1, segments):
        expected |= {size * 2**s for size in every if end * 2 ** (s - 1) < size * 2**s <= end * 2**s}
    assert quantiser.levels == tuple(sorted(expected | {-size for size in expected}))
    q, step = integers(torch.linspace(-1, 1, 6001), quantiser)  # gamma, the largest weight, ends the first part
    assert step == pytest.approx(1 / end)
    assert q.unique().tolist() == [level for level in quantiser.levels if abs(level) <= end]
    weight = torch.cat([torch.linspace(-1, 1, 6001), torch.full((20_000,), 0.004)])
    q, step = integers(weight, Quantiser(bits, grid, "mean_abs", segments=segments))  # a small gamma: all parts
    assert q.unique().tolist() == [level for level in quantiser.levels if abs(level) > 0 or grid == "mid_tread"]
    plain = Quantiser(bits, grid)
    if bits - segments + 1 >= 2:
        assert quantiser.stored_bits == plain.stored_bits and set(quantiser.levels) <= set(range(-plain.top, plain.top + 1))
    else:
        assert quantiser.stored_bits > plain.stored_bits or bits == 2 == inner == segments


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    bits=st.integers(2, 8),
    segments=st.integers(2, 4),
    grid=st.sampled_from(["mid_tread", "mid_rise"]),
)
def test_a_piecewise_grid_takes_the_nearest_level(seed: int, bits: int, segments: int, grid: Any) -> None:
    weight = _weights(seed, 200, 0.3)
    quantiser = Quantiser(bits, grid, segments=segments)
    q, step = integers(weight, quantiser)
    distance = np.abs(weight.double().numpy()[:, None] - step * np.array(quantiser.levels)[None, :])
    chosen = np.abs(weight.double().numpy() - step * q.double().numpy())
    assert np.all(chosen <= distance.min(1) + 1e-5 * step)
    assert set(q.unique().tolist()) <= set(quantiser.levels)
    assert torch.equal(inside(weight, quantiser), weight.abs() / np.float32(step * quantiser.part) <= 2 ** (segments - 1))


@pytest.mark.parametrize("grid", ["mid_tread", "mid_rise"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_use_of_the_grid_is_equation_8(bits: int, grid: Any) -> None:
    weight = _weights(1, 1500, 0.02)
    exact = weight.double().numpy()
    s = 2**bits - 1 if grid == "mid_rise" else 2**bits - 2
    reach = max(abs(_percentile(exact, 1)), abs(_percentile(exact, 99)))
    assert 0.05 < reach < 0.5
    for kind in GAMMAS:
        before, after = grid_use(weight, Quantiser(bits, grid, kind))
        assert before == pytest.approx((reach * s + 1) / (s + 1), rel=1e-6)
        assert after == pytest.approx((min(1, reach / _gamma(exact, kind)) * s + 1) / (s + 1), rel=1e-5) and after > before
    assert grid_use(weight, Quantiser(bits, grid, "none")) == (pytest.approx(before), pytest.approx(before))
    assert grid_use(torch.zeros(3, 3), Quantiser(4)) == (1 / 15, 1 / 15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per": "row"}, "per 'row': known are layer, channel and channel_shift"),
        ({"percentile": 0.5}, r"percentile 0\.5: it must be above 0\.5 and at most 1"),
        ({"percentile": 1.1}, r"percentile 1\.1: it must be above 0\.5 and at most 1"),
        ({"segments": 5}, r"segments 5: a grid has 1\.\.4"),
        ({"segments": 0}, r"segments 0: a grid has 1\.\.4"),
        ({"shift_bits": 7}, r"shift_bits 7: it must be in 1\.\.6"),
        ({"gamma": "none", "n2uq": True}, "gamma none does not rescale, so it has no n2uq; take mean_abs, max or percentile"),
        ({"gamma": "none", "per": "channel"}, "gamma none does not rescale, so it has no per channel"),
    ],
)
def test_options_that_the_quantiser_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Quantiser(4, **arguments)


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
        ({"bits": 4, "gamma": "mean"}, "gamma 'mean': known are mean_abs, max, percentile and none"),
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
