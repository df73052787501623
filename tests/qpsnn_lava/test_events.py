"""Convolutions by events against torch's: equal where sums are exact, and their gradients close to float64's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from qpsnn_lava import dynamics, events
from qpsnn_lava.events import Events, Window, convolve

pytestmark = pytest.mark.skipif(not dynamics.AVAILABLE, reason="numba is an extra")


def _spikes(shape: tuple[int, ...], density: float, seed: int) -> torch.Tensor:
    made = (np.random.default_rng(seed).random(shape) < density).astype(np.float32)
    return torch.from_numpy(made).contiguous(memory_format=torch.channels_last)


def _kernel(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Whole 64ths: sums do not depend on their order."""
    return torch.from_numpy(np.random.default_rng(seed).integers(-127, 128, shape).astype(np.float32) / 64)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=60)
@given(
    frames=st.integers(1, 20),
    channels=st.sampled_from([32, 40, 64]),
    out=st.sampled_from([32, 48, 80, 128]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=pairs,
    density=st.sampled_from([0.0, 0.02, 0.15, 0.29]),
    seed=st.integers(0, 2**32 - 1),
)
def test_sums_are_equal_and_gradients_close(
    frames: int,
    channels: int,
    out: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    density: float,
    seed: int,
) -> None:
    window = Window(kernel, stride, padding, dilation)
    if min(window.out(size)) < 1:
        return
    x = _spikes((frames, channels, *size), density, seed).requires_grad_()
    w = _kernel((out, channels, *kernel), seed).requires_grad_()
    made = convolve(x, w, window)
    few = float(x.detach().mean()) <= events.DENSEST
    assert (type(made.grad_fn).__name__ == "_ConvolveBackward") == few
    expected = F.conv2d(x, w, None, stride, padding, dilation)
    assert torch.equal(made, expected) and made.shape[2:] == window.out(size)
    g = torch.randn(made.shape, generator=torch.Generator().manual_seed(seed))
    made.backward(g)
    exact_x, exact_w = (v.detach().double().requires_grad_() for v in (x, w))
    F.conv2d(exact_x, exact_w, None, stride, padding, dilation).backward(g.double())
    for mine, exact in ((x, exact_x), (w, exact_w)):
        assert mine.grad is not None and exact.grad is not None
        assert float((mine.grad - exact.grad).abs().max()) <= 1e-5 * float(exact.grad.abs().max().clamp_min(1e-30))


def test_events_are_listed_by_row_and_pixel() -> None:
    x = torch.zeros(2, 32, 2, 3)
    for place in ((0, 5, 0, 0), (0, 31, 0, 2), (0, 0, 0, 2), (1, 7, 1, 1), (1, 8, 1, 1)):
        x[place] = 1.0
    found = Events.of(x.contiguous(memory_format=torch.channels_last))
    assert found is not None
    assert found.places.tolist() == [5, 64, 95, 39, 40]
    assert found.ends.tolist() == [[0, 1, 1, 3], [3, 3, 3, 3], [3, 3, 3, 3], [3, 3, 5, 5]]


@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, float("nan"), 1e-30])
def test_what_is_no_spike_goes_to_torch(value: float) -> None:
    x = _spikes((3, 32, 4, 4), 0.1, 0)
    x[2, 31, 3, 3] = value
    assert Events.of(x) is None
    w = _kernel((32, 32, 3, 3), 0).requires_grad_()
    assert type(convolve(x, w, Window((3, 3), (1, 1), (1, 1), (1, 1))).grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.parametrize(
    "change",
    [
        {"x": lambda x: x.contiguous()},
        {"x": lambda x: x.double(), "w": lambda w: w.double()},
        {"x": lambda x: x[:0]},
        {"w": lambda w: w[:24]},
        {"x": lambda x: x[:, :16].contiguous(memory_format=torch.channels_last), "w": lambda w: w[:, :16]},
    ],
    ids=["channels first", "float64", "no frames", "few outputs", "few inputs"],
)
def test_others_go_to_torch_too(change: dict[str, Any]) -> None:
    x, w = _spikes((3, 32, 5, 5), 0.1, 0), _kernel((32, 32, 3, 3), 0)
    x, w = change.get("x", lambda x: x)(x), change.get("w", lambda w: w)(w).requires_grad_()
    window = Window((3, 3), (2, 1), (1, 1), (1, 1))
    made = convolve(x, w, window)
    assert "_Convolve" not in type(made.grad_fn).__name__
    assert torch.equal(made, F.conv2d(x, w, None, (2, 1), (1, 1)))


def test_the_same_for_any_number_of_threads() -> None:
    x, w = _spikes((40, 32, 6, 6), 0.1, 0), _kernel((32, 32, 3, 3), 0)
    g = torch.randn(40, 32, 6, 6, generator=torch.Generator().manual_seed(0))
    found = []
    before = dynamics.threads()
    try:
        for threads in (1, 2):
            dynamics.set_threads(threads)
            weight = w.clone().requires_grad_()
            convolve(x, weight, Window((3, 3), (1, 1), (1, 1), (1, 1))).backward(g)
            found.append(weight.grad)
    finally:
        dynamics.set_threads(before)
    assert found[0] is not None and found[1] is not None and torch.equal(found[0], found[1])
