"""Our kernels against stock SLAYER: equal, not close."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netx_export.integers import decay as chip_decay
from qpsnn_lava import dynamics
from qpsnn_lava.blocks import NeuronOptions, slayer, slayer_cuba

pytestmark = pytest.mark.skipif(not dynamics.AVAILABLE, reason="numba is an extra")


def _stock(options: NeuronOptions, threshold: float) -> Any:
    """SLAYER's own neuron, set as our blocks set theirs."""
    neuron = slayer.neuron.cuba.Neuron(**options.slayer())
    neuron._threshold = threshold
    neuron.threshold_eps = 1 / neuron.s_scale
    neuron.tau_rho = options.surrogate_width / 100 * threshold
    return neuron


def _ours(current: torch.Tensor, options: NeuronOptions, neuron: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """u and spikes (N, T, ...) of a current (N, T, ...)."""
    u = dynamics.integrate(current, options.current_decay)
    tau, scale = neuron.tau_rho * slayer_cuba.TAU_RHO_MULT, neuron.scale_rho * slayer_cuba.SCALE_RHO_MULT
    threshold = neuron.threshold + neuron.threshold_eps
    return u, dynamics.fire(u, dynamics.Firing(options.voltage_decay, threshold, tau, scale))


decays = st.one_of(st.integers(0, 4096), st.sampled_from([0, 1, 2048, 4095, 4096]))
neurons = st.builds(
    NeuronOptions,
    current_decay=decays,
    voltage_decay=decays,
    surrogate_width=st.floats(0.05, 5.0),
    surrogate_scale=st.floats(0.1, 10.0),
)


@settings(max_examples=40)
@given(
    options=neurons,
    mantissa=st.one_of(st.integers(1, 500), st.integers(1, 131071)),
    steps=st.integers(1, 20),
    on_grid=st.booleans(),
    layout=st.sampled_from(["plain", "channels last", "slices", "movedim", "expanded"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_spikes_states_and_gradients_are_slayers(
    options: NeuronOptions, mantissa: int, steps: int, on_grid: bool, layout: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    threshold = mantissa / 64
    values = rng.normal(0.1, 0.6, (2, steps, 3, 4, 5)) * threshold
    if on_grid:
        values = np.round(values * 64) / 64
        values[0] = np.where(rng.random(values[0].shape) < 0.3, threshold, values[0])  # some stand at the threshold exactly
    plain = torch.from_numpy(values.astype(np.float32))
    if layout == "expanded":
        plain = plain[:, :, :1, :, :1].expand(-1, -1, 3, -1, 5).clone()
    neuron = _stock(options, threshold)
    with_time_last = plain.movedim(1, -1).contiguous().requires_grad_()
    stock_u, stock_v = neuron.dynamics(with_time_last)
    stock = neuron.spike(stock_v)

    mine = plain.clone().requires_grad_()
    if layout == "channels last":
        current = mine.movedim(2, -1).contiguous().movedim(-1, 2)
    elif layout == "slices":
        current = torch.stack([mine, mine], 2)[:, :, 1]
    elif layout == "movedim":
        current = mine.movedim(1, -1).contiguous().movedim(-1, 1)
    elif layout == "expanded":
        current = mine[:, :, :1, :, :1].expand(-1, -1, 3, -1, 5)
    else:
        current = mine
    u, spikes = _ours(current, options, neuron)
    assert torch.equal(u.movedim(1, -1), stock_u)
    assert torch.equal(spikes.movedim(1, -1), stock)

    weights = torch.from_numpy(rng.normal(0, 1, (2, 3, 4, 5, steps)).astype(np.float32))
    (stock * weights).sum().backward()
    spikes.movedim(1, -1).backward(weights)  # a gradient with time last: not in the order of our memory
    assert with_time_last.grad is not None and mine.grad is not None
    expected, found = with_time_last.grad.movedim(-1, 1), mine.grad
    if layout == "expanded":  # the gradient is summed where the input was repeated
        expected, found = expected.sum((2, 4)), found[:, :, 0, :, 0]
    largest = float(expected.abs().max())
    assert float((found - expected).abs().max()) <= (1e-6 if layout != "expanded" else 1e-5) * largest


def test_threshold_is_exclusive_and_the_voltage_is_cleared() -> None:
    """At v = threshold nothing happens, a unit above it spikes: for every size of the threshold, by hand."""
    options = NeuronOptions(current_decay=4096, voltage_decay=0)
    for mantissa in (1, 63, 64, 65, 1000, 65537, 131071):
        neuron = _stock(options, mantissa / 64)
        current = torch.tensor([[mantissa, 0, 1, 0, mantissa + 1, mantissa]]).view(1, 6, 1) / 64
        _, spikes = _ours(current, options, neuron)
        assert spikes.flatten().tolist() == [0, 0, 1, 0, 1, 0], mantissa  # v: th, th, th+1 (spike), 0, th+1 (spike), th


@settings(max_examples=30)
@given(rate=decays, steps=st.integers(1, 20), seed=st.integers(0, 1000))
def test_current_is_the_chips(rate: int, steps: int, seed: int) -> None:
    """The decay in float64 against the chip's shift of integers."""
    sums = np.random.default_rng(seed).integers(-4000, 4000, (1, steps, 7))
    u = np.zeros((1, 7), np.int64)
    expected = np.zeros_like(sums)
    for t in range(steps):
        u = chip_decay(u, rate) + (sums[:, t] << 6)
        expected[:, t] = u
    found = dynamics.integrate(torch.from_numpy(sums).float() / 64, rate)
    assert np.array_equal(found.numpy().astype(np.float64) * 4096, expected)


@pytest.mark.parametrize("shape", [(2, 3, 5000), (1, 1, 1), (3, 1, 2, 1, 4), (0, 4, 6)])
def test_shapes(shape: tuple[int, ...]) -> None:
    """Beyond one chunk of neurons, single ones, axes of length one, an empty batch."""
    options = NeuronOptions(current_decay=1000, voltage_decay=500)
    neuron = _stock(options, 1.0)
    current = torch.from_numpy(np.random.default_rng(0).normal(0.3, 0.6, shape).astype(np.float32))
    u, spikes = _ours(current, options, neuron)
    assert spikes.shape == shape and u.shape == shape
    if spikes.numel():
        assert torch.equal(spikes.movedim(1, -1), neuron(current.movedim(1, -1).contiguous()))


def test_gradient_of_an_integrator_by_hand() -> None:
    current = torch.zeros(1, 3, 1, requires_grad=True)
    y = dynamics.integrate(current, 1024)  # keeps 3/4
    y.backward(torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1))
    assert current.grad is not None
    assert current.grad.flatten().tolist() == [1 + 0.75 * (10 + 0.75 * 100), 10 + 0.75 * 100, 100]


def test_set_threads() -> None:
    import numba

    before = numba.get_num_threads()
    dynamics.set_threads(10_000)
    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
    dynamics.set_threads(before)
