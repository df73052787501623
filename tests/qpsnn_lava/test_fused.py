"""``fuse``: stock SLAYER networks with our parts in place: the same spikes, gradients, export and state."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch

from netx_export.errors import MissingError
from qpsnn_lava import bench_training, dynamics
from qpsnn_lava.blocks import slayer
from qpsnn_lava.fused import FusedConvBlock, FusedNeuron, can_fuse, fuse

pytestmark = pytest.mark.skipif(not dynamics.AVAILABLE, reason="numba is an extra")
torch.set_num_threads(1)

NEURON: dict[str, Any] = {"threshold": 0.8, "current_decay": 0.25, "voltage_decay": 0.1, "tau_grad": 0.5, "scale_grad": 2.0}


def _on_grid(weight: torch.Tensor, descale: bool = False) -> torch.Tensor:
    """Whole 64ths: sums do not depend on the order."""
    exact = torch.round(weight * 64) / (1 if descale else 64)
    return weight + (exact - weight).detach() if not descale else exact


class Stock(torch.nn.Module):
    def __init__(self, delay_shift: bool = True, **neuron: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        block, options = slayer.block.cuba, {**NEURON, **neuron}
        shared: dict[str, Any] = {"pre_hook_fx": _on_grid, "delay_shift": delay_shift}
        self.blocks = torch.nn.ModuleList(
            [
                block.Conv(options, 2, 6, 3, 1, 1, weight_scale=3, **shared),
                block.Conv(options, 6, 8, 3, 2, 0, 1, 2, weight_scale=4, **shared),
                block.Flatten(),
                block.Dense(options, 72, 20, weight_scale=4, delay=True, **shared),
                block.Dense(options, 20, 5, weight_scale=4, **shared),
            ]
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        out = []
        for block in self.blocks:
            x = block(x)
            out.append(x)
        return out


def _input(density: float = 0.3) -> torch.Tensor:
    return (torch.rand(3, 2, 7, 7, 12, generator=torch.Generator().manual_seed(1)) < density).float()


@pytest.mark.parametrize(
    ("options", "neurons"),
    [
        ({}, 4),
        ({"delay_shift": False}, 4),
        ({"current_decay": 1.0}, 4),
        ({"dropout": torch.nn.Identity()}, 4),
        ({"norm": slayer.neuron.norm.MeanOnlyBatchNorm}, 4),
    ],
    ids=["default", "no delay", "no current", "dropout", "norm"],
)
def test_spikes_and_gradients_are_the_stock_networks(options: dict[str, Any], neurons: int) -> None:
    stock = Stock(**options)
    stock(_input())  # SLAYER draws its delays in the first call
    ours = copy.deepcopy(stock)
    assert fuse(ours) >= neurons and fuse(ours) == 0
    assert ours.state_dict().keys() == stock.state_dict().keys()
    theirs, mine = stock(_input()), ours(_input())
    for i, (a, b) in enumerate(zip(theirs, mine, strict=True)):
        assert torch.equal(a, b), i
        assert 0.01 < float(a.detach().mean()) < 0.9, i
    for spikes in (theirs, mine):
        weights = torch.randn(spikes[-1].shape, generator=torch.Generator().manual_seed(2))
        (spikes[-1] * weights).sum().backward()
    for (name, a), (_, b) in zip(stock.named_parameters(), ours.named_parameters(), strict=True):
        if a.grad is not None:
            assert b.grad is not None
            assert float((a.grad - b.grad).abs().max()) <= 2e-5 * float(a.grad.abs().max()), name


@pytest.mark.parametrize(
    "options",
    [{"requires_grad": True}, {"persistent_state": True}, {"graded_spike": True}],
    ids=lambda options: next(iter(options)),
)
def test_what_the_fused_pass_leaves_out_runs_on_slayers_code(options: dict[str, Any]) -> None:
    stock = Stock(**options)
    with torch.no_grad():
        stock(_input())
        ours = copy.deepcopy(stock)
        fuse(ours)
        assert not any(can_fuse(m) for m in ours.modules() if isinstance(m, FusedNeuron))
        for a, b in zip(stock(_input()), ours(_input()), strict=True):
            assert torch.equal(a, b)


def test_decays_of_their_own_are_not_fused() -> None:
    assert not can_fuse(slayer.neuron.cuba.Neuron(**NEURON, shared_param=False))
    assert can_fuse(slayer.neuron.cuba.Neuron(**NEURON))


def test_a_fused_network_can_be_copied_saved_and_asked(tmp_path: Any) -> None:
    stock, ours = Stock(), Stock()
    fuse(ours)
    x = _input()
    expected = stock(x)
    ours(x)  # SLAYER draws its delays in the first call
    ours.load_state_dict(stock.state_dict(), strict=False)
    again = copy.deepcopy(ours)
    assert isinstance(again.blocks[0], FusedConvBlock) and isinstance(again.blocks[0], slayer.block.cuba.Conv)
    assert torch.equal(again(x)[1], expected[1])
    for a, b in zip(stock.blocks, again.blocks, strict=True):
        assert a.shape == b.shape
        if hasattr(a, "neuron"):
            assert a.neuron.device_params == b.neuron.device_params


def test_bench_compares_and_measures() -> None:
    said: list[str] = []
    found = bench_training.bench(batch=2, steps=8, rounds=2, threads=1, say=said.append)
    assert found.spikes_equal and 0 < found.max_gradient_error < 1e-4
    assert found.parts.keys() == found.peak_bytes.keys() == {"slayer", "fused"}
    assert all(len(values) == 2 for rows in found.samples.values() for values in rows.values())
    assert all(bytes_ > 0 for bytes_ in found.peak_bytes.values())
    assert found.speedup == pytest.approx(found.parts["slayer"]["step"] / found.parts["fused"]["step"])
    assert all(0.005 < rate < 0.6 for rate in found.density.values()) and len(found.density) == 5
    assert json.loads(json.dumps(found.to_dict()))["speedup"] == found.speedup


def test_bench_catches_other_spikes(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_late(block: Any, x: torch.Tensor) -> Any:
        return block.neuron(block.synapse(x))

    monkeypatch.setattr(FusedConvBlock, "forward", one_late)
    monkeypatch.setattr(bench_training, "_peak", lambda *_: 1)
    found = bench_training.bench(batch=2, steps=8, rounds=1, threads=1, say=lambda text: None)
    assert not found.spikes_equal and found.max_gradient_error > 1e-2


def test_bench_needs_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamics, "AVAILABLE", False)
    with pytest.raises(MissingError, match="numba is not installed, and the fused dynamics need it"):
        bench_training.bench(threads=1, say=lambda text: None)
