"""Contract points 1 and 6: SLAYER's forward pass = the exact simulation = Lava, spike for spike, on networks that are alive."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from netx_export import hdf5
from netx_export.engine import simulate_fast
from netx_export.errors import FreezeError
from netx_export.integers import stored_bits
from netx_export.lava_compat import import_slayer
from netx_export.lava_run import run_lava
from netx_export.network import Conv, Dense, Integrator, Network, Rate, Readout, Voltage
from netx_export.simulate import Reset, Run, simulate
from qpsnn_lava import blocks, dynamics
from qpsnn_lava.blocks import NeuronOptions
from qpsnn_lava.freeze import freeze
from qpsnn_lava.fused import fuse
from qpsnn_lava.model import SpikingNetwork, own_blocks
from qpsnn_lava.quantise import Quantiser, ReScaW

SAMPLES = 3
NETS = 24  # contract: at least 20


@dataclass(frozen=True)
class Case:
    """A generated network with the input that it is alive on."""

    model: SpikingNetwork
    network: Network
    spikes: NDArray[np.int64]  # (samples, C, H, W, T)

    @property
    def weighted(self) -> list[torch.nn.Module]:
        return [b for b in self.model.blocks if hasattr(b, "synapse")]


def generate(seed: int, samples: int = SAMPLES, quantiser: Quantiser | None = None) -> Case:
    """A network of two to five layers; the seed goes through all features in turn (``quantiser``: of all layers, given)."""
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    steps = int([5, 3, 2, 7, 4, 6, 8, 1 + 2][seed % 8])
    bits_in = [0, 4, 0, 2][seed % 4]
    top = (1 << bits_in) - 1 if bits_in else 1
    shape = (int(random.integers(1, 4)), int(random.integers(5, 8)), int(random.integers(5, 8)))
    options = NeuronOptions(
        current_decay=[4096, 4096, 1500, 100][seed % 4],
        voltage_decay=[2048, 0, 300, 4096][seed // 4 % 4],  # LIF, IF, slow LIF, no memory
    )
    grid = "mid_rise" if seed % 5 == 4 else "mid_tread"
    norm = ("full", "shared", "mean")[seed % 3]
    made: list[torch.nn.Module] = []
    channels, height, width = shape
    conv = seed % 6 != 5
    if conv:
        for i in range(1 + seed % 2):
            groups = 2 if i == 1 and seed % 4 == 1 else 1
            out = 2 * int(random.integers(2, 5))
            stride, padding, dilation = (int(random.integers(low, high)) for low, high in ((1, 3), (0, 2), (1, 3)))
            kernel = (2, 3) if seed % 3 == 1 else (3, 2)
            if min(height + 2 * padding - dilation * (kernel[0] - 1), width + 2 * padding - dilation * (kernel[1] - 1)) < 1:
                stride, padding, dilation = 1, 1, 1
            bits = int(random.integers(2, 8 if grid == "mid_rise" else 9))
            made.append(
                blocks.Conv(
                    options, Quantiser(bits, grid), channels, out, kernel, stride, padding, dilation, groups, norm, top
                )
            )
            channels, height, width = _shape_after(made, shape)
            top = 1
        if seed % 3 == 0 and min(height, width) >= 2:
            pool = NeuronOptions(current_decay=4096, voltage_decay=4096, threshold=0.5)
            made.append(blocks.SumPool(pool, channels))
            channels, height, width = _shape_after(made, shape)
    made.append(blocks.Flatten())
    size = channels * height * width
    if not conv or seed % 2:
        made.append(blocks.Dense(options, Quantiser(4, grid), size, 12, norm, top))
        size, top = 12, 1
    readout: Readout
    if seed % 4 == 3:
        readout = Rate(3)
        made.append(blocks.Dense(options, Quantiser(6), size, 6, norm, top))
    else:
        readout = Voltage()
        made.append(blocks.Integrate(Quantiser(8), size, 3, top))
    names = [f"layer{i}" for i, b in enumerate(b for b in made if hasattr(b, "synapse"))]
    model = SpikingNetwork(made, names, readout)
    spikes = random.integers(0, ((1 << bits_in) - 1 if bits_in else 1) + 1, (samples, *shape, steps))
    for block in own_blocks(model):
        block.quantised = True
        block.quantiser = quantiser or block.quantiser
        with torch.no_grad():
            if block.quantiser.gamma == "none":  # which takes the weights as they are: -1..1
                block.synapse.weight.div_(block.scaled_weight().abs().max())
            for value in (block.norm.shift,):
                value.uniform_(-0.3, 0.3)
    _enliven(model, torch.from_numpy(spikes).float())
    return Case(model, freeze(model, shape, steps, input_bits=bits_in), spikes)


def _shape_after(made: list[torch.nn.Module], shape: tuple[int, int, int]) -> tuple[int, int, int]:
    x = torch.zeros(1, *shape, 1)
    with torch.no_grad():
        for block in made:
            x = block.eval()(x)
            block.neuron.shape = None
    return (x.shape[1], x.shape[2], x.shape[3])


def _enliven(model: SpikingNetwork, x: torch.Tensor) -> None:
    """Scales each block's threshold until it fires at 5..70 %, not only in the last step."""
    model.eval()
    with torch.no_grad():
        for block in model.blocks:
            if isinstance(block, blocks.Conv | blocks.Dense | blocks.SumPool):
                low, high = 1e-4, 1e4
                for _ in range(40):
                    middle = (low * high) ** 0.5
                    block.options = replace(block.options, threshold=middle)
                    fired = block(x)
                    rate = float(fired.mean())
                    if 0.05 < rate < 0.7 and fired[..., :-1].any():
                        break
                    low, high = (middle, high) if rate >= 0.7 else (low, middle)
            x = block(x)


def slayer_record(case: Case) -> dict[str, NDArray[np.float32]]:
    """Every block's output in eval mode, by population."""
    seen = {}
    x = torch.from_numpy(case.spikes).float()
    names = iter(case.network.populations[1:])
    with torch.no_grad():
        for block in case.model.eval().blocks:
            x = block(x)
            if hasattr(block, "synapse"):
                seen[next(names).name] = x.numpy()
    return seen


def mismatches(case: Case, run: Run, seen: dict[str, NDArray[np.float32]]) -> int:
    """How many spikes and voltages differ between SLAYER's record and a simulation, over all layers."""
    wrong = 0
    for population in case.network.populations[1:]:
        ours = seen[population.name]
        if isinstance(population.neuron, Integrator):
            wrong += int((ours * 4096 != run.voltage[population.name]).sum()) + int(run.spikes[population.name].sum())
        else:
            wrong += int((ours != run.spikes[population.name]).sum())
    return wrong


def assert_alive(case: Case, run: Run) -> None:
    """Contract point 6: every spiking layer fires at 2..80 %, and some spike resets a neuron that goes on."""
    for population in case.network.populations[1:]:
        if isinstance(population.neuron, Integrator):
            continue
        spikes = run.spikes[population.name]
        assert 0.02 <= spikes.mean() <= 0.80, f"{population.name} fires at {spikes.mean():.3f}"
        assert spikes.shape[-1] == 1 or spikes[..., :-1].any()


def everything(case: Case) -> list[str]:
    return [p.name for p in case.network.populations[1:]]


@pytest.mark.parametrize("seed", range(NETS))
def test_slayer_equals_simulation_equals_lava(seed: int, tmp_path: Path) -> None:
    case = generate(seed)
    run = simulate(case.network, case.spikes, states=everything(case))
    assert_alive(case, run)
    assert mismatches(case, run, slayer_record(case)) == 0
    fast = simulate_fast(case.network, case.spikes, states=everything(case))
    for name, spikes in run.spikes.items():
        np.testing.assert_array_equal(spikes, fast.spikes[name])

    path = tmp_path / "network.net"
    hdf5.write(case.network, path)
    output = case.network.output
    lava = run_lava(path, case.spikes, voltage=isinstance(output.neuron, Integrator), timeout=100)
    np.testing.assert_array_equal(lava.spikes, run.spikes[output.name])
    if lava.voltage is not None:
        np.testing.assert_array_equal(lava.voltage, run.voltage[output.name][..., -1])


@pytest.mark.parametrize("seed", range(60))
def test_slayer_equals_simulation_on_many(seed: int) -> None:
    case = generate(1000 + seed)
    run = simulate(case.network, case.spikes, states=everything(case))
    assert_alive(case, run)
    assert mismatches(case, run, slayer_record(case)) == 0


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10_000),
    bits=st.integers(2, 8),
    grid=st.sampled_from(["mid_tread", "mid_rise"]),
    gamma=st.sampled_from(["mean_abs", "max", "percentile", "none"]),
    percentile=st.sampled_from([0.6, 0.99, 1.0]),
    n2uq=st.booleans(),
    per=st.sampled_from(["layer", "channel_shift"]),
    shift_bits=st.integers(1, 6),
    segments=st.integers(1, 4),
    masked=st.booleans(),
)
def test_slayer_equals_simulation_with_every_quantiser(seed: int, **options: Any) -> None:
    """And the weights need no more bits than the quantiser says."""
    if options["gamma"] == "none":
        options.update(n2uq=False, per="layer")
    case = generate(seed, quantiser=Quantiser(**options))
    run = simulate(case.network, case.spikes, states=everything(case))
    assert_alive(case, run)
    assert mismatches(case, run, slayer_record(case)) == 0
    for block, projection in zip(case.weighted, case.network.projections, strict=True):
        if isinstance(block, blocks.Block) and not isinstance(block, blocks.SumPool):
            assert stored_bits(projection.synapse.weight) <= min(8, block.quantiser.stored_bits)


def test_a_scale_for_each_channel_runs_but_cannot_be_frozen() -> None:
    with pytest.raises(
        FreezeError, match="layer0: it was trained with a scale for each of its channels, and so with a threshold"
    ):
        generate(0, quantiser=Quantiser(4, per="channel"))  # its blocks compute, with numbers, before it is frozen


def test_stock_dynamics_equal_the_fused_ones() -> None:
    for seed in range(12):
        case = generate(seed)
        before = slayer_record(case)
        for block in case.weighted:
            block.fused = False
            block.neuron.shape = None
        for name, values in slayer_record(case).items():
            np.testing.assert_array_equal(values, before[name])


def test_the_generated_networks_cover_the_features() -> None:
    cases = [generate(seed) for seed in range(NETS)]
    synapses = [p.synapse for c in cases for p in c.network.projections]
    convs = [s for s in synapses if isinstance(s, Conv)]
    neurons = [p.neuron for c in cases for p in c.network.populations[1:]]
    assert any(s.groups == 2 for s in convs)
    assert any(s.groups == s.weight.shape[0] > 2 for s in convs), "sum pooling"
    assert (
        any(s.stride == (2, 2) for s in convs)
        and any(s.padding == (1, 1) for s in convs)
        and any(s.dilation == (2, 2) for s in convs)
    )
    assert any(isinstance(c.network.projections[0].synapse, Dense) for c in cases)
    assert {0, 2048, 4096} <= {n.voltage_decay for n in neurons if n is not None}
    assert any(p.bias is not None for c in cases for p in c.network.populations)
    assert {0, 2, 4} == {c.network.input_bits for c in cases}
    assert any(c.network.steps not in (1, 2, 4, 8) for c in cases), "T that is no power of two"
    assert any(c.network.steps < len(c.network.projections) for c in cases), "T below the depth"
    assert {"integrator", "rate"} == {str(c.network.readout) for c in cases}


@pytest.mark.parametrize("seed", range(12))
def test_one_weight_more_is_caught(seed: int) -> None:
    """Some single weight + 1 shows in the comparison; in an integrator read-out the busiest one does."""
    case = generate(seed, samples=60)
    seen = slayer_record(case)
    record = simulate(case.network, case.spikes).spikes
    for index, projection in reversed(list(enumerate(case.network.projections))):
        for position in _by_activity(projection.synapse, record[projection.source]):
            weight = projection.synapse.weight.copy()
            weight[position] += 1
            mutated = replace(projection, synapse=replace(projection.synapse, weight=weight))
            projections = tuple(mutated if i == index else p for i, p in enumerate(case.network.projections))
            network = replace(case.network, projections=projections, _index={})
            if mismatches(case, simulate_fast(network, case.spikes, states=everything(case)), seen):
                return
            assert not isinstance(case.network[projection.target].neuron, Integrator), "it shows at once in a voltage"
    pytest.fail("no weight + 1 shows anywhere")


def _by_activity(synapse: Dense | Conv, source: NDArray[np.int32]) -> list[tuple[int, ...]]:
    """Positions of up to 400 weights, those of the busiest sources first."""
    if isinstance(synapse, Dense):
        order = np.argsort(-source.reshape(len(source), -1, source.shape[-1]).sum((0, 2)), kind="stable")
        return [(post, int(pre)) for pre in order for post in range(synapse.weight.shape[0])][:400]
    return [tuple(int(n) for n in place) for place in np.ndindex(synapse.weight.shape)][:400]


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_a_wrong_reset_is_caught(seed: int, tmp_path: Path) -> None:
    """Lava's default reset_offset 0 (phase -1) lets samples leak into each other: the comparison must see it."""
    case = generate(seed)
    steps = 1 << (case.network.steps - 1).bit_length()
    spikes = np.concatenate([case.spikes] * 2, axis=-1)[..., :steps]  # a full window, no idle steps that would hide it
    stream = np.concatenate([*spikes, *spikes], axis=-1)[None]
    right = simulate(case.network, stream, reset=Reset(steps))
    wrong = simulate(case.network, stream, reset=Reset(steps, phase=steps - 1))
    name = case.network.populations[1].name
    assert (right.spikes[name] != wrong.spikes[name]).any()
    alone = simulate(case.network, spikes)
    for name in everything(case):
        joined = np.concatenate([*alone.spikes[name], *alone.spikes[name]], axis=-1)[None]
        np.testing.assert_array_equal(right.spikes[name], joined)
    if seed == 3:  # once on Lava itself
        path = tmp_path / "network.net"
        hdf5.write(case.network, path)
        good = run_lava(path, spikes, timeout=100).spikes
        bad = run_lava(path, spikes, reset_phase=steps - 1, timeout=100).spikes
        np.testing.assert_array_equal(good, alone.spikes[case.network.output.name])
        assert (bad != good).any()


# --- a user's own network of stock blocks ------------------------------------------------------------------------------


class Stock(torch.nn.Module):
    """Nothing of ours but the quantiser in SLAYER's own place for it."""

    def __init__(self, eps: bool = True) -> None:
        super().__init__()
        slayer = import_slayer()
        neuron = {"threshold": 1.25, "current_decay": 0.25, "voltage_decay": 0.1}

        def norm() -> object:
            return slayer.neuron.norm.MeanOnlyBatchNorm(
                pre_hook_fx=lambda x, descale=False: torch.round(x * 64) / (1 if descale else 64)
            )

        with_norm = {**neuron, "norm": norm}
        cuba = slayer.block.cuba
        self.blocks = torch.nn.ModuleList(
            [
                cuba.Conv(with_norm, 2, 6, 3, padding=1, weight_scale=3, delay_shift=False),
                cuba.Pool(neuron, 2, weight_scale=0.75, delay_shift=False),
                cuba.Conv(neuron, 6, 8, 3, stride=2, weight_scale=3, delay_shift=False),
                cuba.Flatten(),
                cuba.Dense(neuron, 8 * 1 * 1, 6, weight_scale=3, delay_shift=False),
            ]
        )
        for block in self.blocks:
            if hasattr(block, "synapse"):
                if type(block).__name__ != "Pool":
                    block.synapse.pre_hook_fx = ReScaW(bits=4)
                if eps:
                    block.neuron.threshold_eps = 1 / block.neuron.s_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_a_network_of_stock_blocks_is_exact(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = Stock()
    spikes = np.random.default_rng(3).integers(0, 2, (4, 2, 6, 6, 11))
    x = torch.from_numpy(spikes).float()
    with torch.no_grad():
        model.train()(x)  # the norm takes its mean
        model.eval()
    network = freeze(model, (2, 6, 6), 11)
    if dynamics.AVAILABLE:
        fast = copy.deepcopy(model)
        assert fuse(fast) and freeze(fast, (2, 6, 6), 11) == network
    assert network.populations[1].bias is not None
    run = simulate(network, spikes)
    with torch.no_grad():
        for block, population in zip(
            model.blocks[:3] + model.blocks[3:], [*network.populations[1:4], None, network.populations[4]], strict=True
        ):
            x = block(x)
            if population is not None:
                assert 0.02 <= run.spikes[population.name].mean() <= 0.8, population.name
                np.testing.assert_array_equal(
                    x.numpy().reshape(run.spikes[population.name].shape), run.spikes[population.name]
                )
    path = tmp_path / "stock.net"
    hdf5.write(network, path)
    lava = run_lava(path, spikes, timeout=100)
    np.testing.assert_array_equal(lava.spikes, run.spikes[network.output.name])
