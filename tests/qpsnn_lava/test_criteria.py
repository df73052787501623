"""All criteria pass the same tests; what differs is said in the tables below."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from netx_export.network import Voltage
from qpsnn_lava.blocks import Conv, Dense, Flatten, Integrate, NeuronOptions, SumPool, slayer
from qpsnn_lava.coding import Coding
from qpsnn_lava.config import CriterionName
from qpsnn_lava.criteria import CRITERIA, WITHOUT_IMAGES, Seen, Settings, membrane
from qpsnn_lava.data import Dataset, Split, stratified_choice
from qpsnn_lava.model import SpikingNetwork, set_quantised
from qpsnn_lava.prune import Scores, choose, groups, prunable, score
from qpsnn_lava.quantise import Quantiser

torch.set_num_threads(1)
STEPS = 5
CODING = Coding("direct", STEPS, 4)
NAMES: tuple[CriterionName, ...] = get_args(CriterionName)


def _dataset() -> Dataset:
    rng = np.random.default_rng(0)
    splits = [Split(rng.integers(0, 16, (n, 2, 6, 6)).astype(np.uint8), np.arange(n) % 4) for n in (40, 8, 8)]
    return Dataset("made", *splits, max_value=15, classes=4)


def _model() -> SpikingNetwork:
    """Conv, strided conv, sum-pool, flatten, dense, read-out, with dyadic weights and norms that differ by channel."""
    torch.manual_seed(0)
    options, bits = NeuronOptions(current_decay=3000, voltage_decay=1000, threshold=0.75), Quantiser(4, gamma="max")
    layers = [
        Conv(options, bits, 2, 6, padding=1, input_max=16),
        Conv(options, bits, 6, 8, stride=2, padding=1),
        SumPool(NeuronOptions(voltage_decay=4096, threshold=0.5), 8, (1, 3)),
        Flatten(),
        Dense(options, bits, 8 * 3, 10),
        Integrate(Quantiser(8), 10, 4),
    ]
    for block in (layers[0], layers[1], layers[4]):
        with torch.no_grad():
            block.synapse.weight.copy_(torch.round(torch.randn_like(block.synapse.weight) * 16) / 32)
            block.norm.gain.copy_(2.0 ** torch.randint(-1, 2, block.norm.gain.shape))
            block.norm.running_mean.copy_(torch.randint(-4, 5, block.norm.shift.shape) / 32)
            block.norm.shift.copy_(torch.randint(-4, 9, block.norm.shift.shape) / 32)
    return SpikingNetwork(layers, ["a", "b", "pool", "c", "output"], Voltage())


def _scores(
    model: torch.nn.Module, criterion: CriterionName, seed: int = 0, batch: int = 16, **how: object
) -> dict[int, Scores]:
    return score(model, _dataset(), CODING, samples=24, eps=1e-6, seed=seed, batch=batch, criterion=criterion, **how)  # type: ignore[arg-type]


def test_names() -> None:
    assert tuple(CRITERIA) == ("svs", "sca", "l1", "rate", "random", "hrank") and set(NAMES) == set(CRITERIA)


@pytest.mark.parametrize("criterion", NAMES)
def test_shape_seed_and_batches(criterion: CriterionName) -> None:
    model = _model()
    found = _scores(model, criterion)
    assert list(found) == prunable(model)
    for i, s in found.items():
        channels = model.blocks[i].synapse.weight.shape[0]
        assert s.value.shape == s.nuclear.shape == s.rate.shape == (channels,) and s.value.dtype == np.float64
        assert np.isfinite(s.value).all() and (s.value >= 0).all() and s.value.any()
        assert -1 <= s.stability <= 1 and s.seconds >= 0
        assert s.samples == (0 if criterion in WITHOUT_IMAGES else 24)
    for batch in (5, 24):
        for i, s in _scores(model, criterion, batch=batch).items():
            np.testing.assert_allclose(s.value, found[i].value, rtol=1e-12)
            assert s.stability == pytest.approx(found[i].stability)
    other = _scores(model, criterion, seed=1)
    changed = [not np.array_equal(other[i].value + other[i].nuclear, found[i].value + found[i].nuclear) for i in found]
    assert any(changed) == (criterion != "l1")
    assert not any(block._forward_hooks for block in model.blocks)


@pytest.mark.parametrize("criterion", [name for name in NAMES if name != "random"])  # which does not look at the channels
def test_permuted_channels_have_permuted_scores(criterion: CriterionName) -> None:
    model, order = _model(), torch.tensor([3, 0, 5, 1, 4, 2])
    before = _scores(model, criterion)
    with torch.no_grad():
        model.blocks[0].synapse.weight.copy_(model.blocks[0].synapse.weight[order])
        for name in ("gain", "shift", "running_mean", "running_var"):
            values = getattr(model.blocks[0].norm, name)
            values.copy_(values[order].clone())
        model.blocks[1].synapse.weight.copy_(model.blocks[1].synapse.weight[:, order])
    after = _scores(model, criterion)
    np.testing.assert_allclose(after[0].value, before[0].value[order], rtol=1e-12)
    np.testing.assert_allclose(after[1].value, before[1].value, rtol=1e-6)  # the layer behind sees the same


@pytest.mark.parametrize("criterion", [name for name in NAMES if name != "random"])
def test_a_channel_twice_has_the_same_score_twice(criterion: CriterionName) -> None:
    model = _model()
    with torch.no_grad():
        model.blocks[0].synapse.weight[4] = model.blocks[0].synapse.weight[1]
        for name in ("gain", "shift", "running_mean", "running_var"):
            getattr(model.blocks[0].norm, name)[4] = getattr(model.blocks[0].norm, name)[1]
    found = _scores(model, criterion)[0]
    assert found.value[4] == found.value[1] and found.nuclear[4] == found.nuclear[1]
    assert len(set(found.value + found.nuclear)) > 1  # real-valued maps all have full rank: hrank lives on its tie-break


def test_random_does_not_look() -> None:
    model = _model()
    before = _scores(model, "random")
    with torch.no_grad():
        model.blocks[0].synapse.weight.zero_()
    after = _scores(model, "random")
    assert all(np.array_equal(before[i].value, after[i].value) for i in before)
    assert (before[0].value < 1).all() and len(set(before[1].value)) == 8


# --- by hand -----------------------------------------------------------------------------------------------------------


def _seen(spikes: torch.Tensor, voltage: torch.Tensor, weight: torch.Tensor | None = None) -> Seen:
    return Seen(3, torch.ones(spikes.shape[1], 2) if weight is None else weight, spikes, lambda: voltage)


def test_each_criterion_by_hand() -> None:
    """Two samples, three channels, maps of 2 x 2, two steps."""
    rng = np.random.default_rng(0)
    spikes = torch.from_numpy(rng.integers(0, 2, (2, 3, 2, 2, 2)).astype(np.float32))
    voltage = torch.from_numpy(rng.normal(size=(2, 3, 2, 2, 2)).astype(np.float32))
    weight = torch.tensor([[1.0, -2.0], [0.5, 0.0], [-3.0, 3.0]])
    seen = _seen(spikes, voltage, weight)
    for n in range(2):
        for c in range(3):
            rates, mean = spikes[n, c].numpy().mean(-1), voltage[n, c].numpy().mean(-1)
            expected = {
                "svs": np.linalg.matrix_rank(rates, tol=1e-6),
                "hrank": np.linalg.matrix_rank(mean, tol=1e-6),
                "rate": rates.mean(),
                "sca": np.mean([np.abs(voltage[n, c, ..., t].numpy()).sum() for t in range(2)]),
                "l1": [3.0, 0.5, 6.0][c],
            }
            for name, value in expected.items():
                assert float(CRITERIA[name](seen, Settings())[0][n, c]) == pytest.approx(value, rel=1e-6), name  # type: ignore[index]
    assert CRITERIA["svs"](seen, Settings(eps=0.9))[0].max() < 2 and CRITERIA["hrank"](seen, Settings(eps=0.9))[0].max() <= 2


def test_eps_relative_to_the_largest_singular_value() -> None:
    """sigma_1 max(H, W) eps: of diag(1, 0.01, 0.0001) by 3 eps = 0.003 one goes, of a tenth of it the same one."""
    maps = torch.diag(torch.tensor([1.0, 0.01, 0.0001])).view(1, 1, 3, 3, 1)
    spikes = torch.cat([maps, maps / 10], 1)
    for nuclear in (True, False):
        absolute = CRITERIA["svs"](_seen(spikes, spikes), Settings(0.003, False, nuclear))[0]
        relative = CRITERIA["svs"](_seen(spikes, spikes), Settings(0.001, True, nuclear))[0]
        assert absolute.tolist() == [[2, 1]] and relative.tolist() == [[2, 2]]


def test_the_rank_alone_is_the_rank_beside_the_nuclear_norm() -> None:
    for name in ("svs", "hrank"):
        with_norm, alone = _scores(_model(), name), _scores(_model(), name, nuclear=False)  # type: ignore[arg-type]
        for i in with_norm:
            assert np.array_equal(with_norm[i].value, alone[i].value)
            assert with_norm[i].nuclear.any() and not alone[i].nuclear.any()


@pytest.mark.parametrize("quantised", [False, True])
def test_the_membrane_is_what_the_spikes_come_from(quantised: bool) -> None:
    """Before the reset: above the threshold exactly where there is a spike, and a step of the equation by hand."""
    model = _model()
    set_quantised(model, quantised)
    x = torch.randint(0, 16, (3, 2, 6, 6, STEPS), generator=torch.Generator().manual_seed(1)).float()
    model.eval()
    with torch.no_grad():
        for block in model.blocks:
            spikes = block(x)
            if isinstance(block, Conv | Dense):
                before = block.neuron.shape, block.neuron.voltage_state.shape
                v = membrane(block, x)
                assert v.shape == spikes.shape and 0.02 < float(spikes.mean()) < 0.9
                exact = v.double() * block.neuron.threshold
                assert torch.equal(exact > block.neuron.threshold + 0.5 / 4096, spikes.bool())
                assert (block.neuron.shape, block.neuron.voltage_state.shape) == before
                decays = block.options.current_decay / 4096, block.options.voltage_decay / 4096
                u, state = torch.zeros_like(exact[..., 0]), torch.zeros_like(exact[..., 0])
                folded = block.norm.folded
                bias = folded.bias.view(-1, *[1] * (v.dim() - 3)).double()
                for t in range(STEPS):
                    if isinstance(block, Conv):
                        step = torch.nn.functional.conv2d(
                            x[..., t], folded.weight[..., 0], None, block.synapse.stride[:2], block.synapse.padding[:2]
                        )
                    else:
                        step = x[..., t] @ folded.weight.flatten(1).T
                    u = u * (1 - decays[0]) + step.double()
                    state = state * (1 - decays[1]) + u + bias
                    torch.testing.assert_close(exact[..., t], state, atol=0.01, rtol=1e-3)
                    state = torch.where(spikes[..., t] > 0, 0.0, exact[..., t])
                x_next = spikes
            else:
                x_next = spikes
            x = x_next


def test_the_membrane_of_a_stock_block() -> None:
    torch.manual_seed(0)
    params = {"threshold": 1.0, "current_decay": 0.75, "voltage_decay": 0.25}
    block = slayer.block.cuba.Conv(params, 2, 4, 3, weight_scale=4, delay_shift=False)
    x = (torch.rand(3, 2, 6, 6, STEPS) < 0.4).float()
    with torch.no_grad():
        spikes = block(x)
        assert torch.equal(membrane(block, x) > 1, spikes.bool()) and 0.02 < float(spikes.mean()) < 0.9


# --- groups, stability -------------------------------------------------------------------------------------------------


def _depthwise() -> SpikingNetwork:
    torch.manual_seed(0)
    options = NeuronOptions(threshold=0.25)
    layers = [
        Conv(options, Quantiser(4), 2, 6, padding=1, input_max=15),
        Conv(options, Quantiser(4), 6, 6, padding=1, groups=6),
        Conv(options, Quantiser(4), 6, 5, 1),
        Flatten(),
        Integrate(Quantiser(8), 5 * 36, 4),
    ]
    return SpikingNetwork(layers, ["a", "depthwise", "b", "output"], Voltage())


def test_a_group_is_a_layer_and_the_depthwise_ones_behind_it() -> None:
    model = _depthwise()
    assert groups(model) == {0: (0, 1), 2: (2,)} and prunable(model) == [0, 2]
    assert groups(_model()) == {0: (0,), 1: (1,), 4: (4,)}  # pooling is not scored
    found = _scores(model, "rate")
    x = torch.from_numpy(_dataset().train.images.astype(np.float32))[..., None].repeat(1, 1, 1, 1, STEPS)
    whole = score(model, _dataset(), CODING, samples=40, eps=1e-6, seed=0, criterion="rate")
    with torch.no_grad():
        first = model.blocks[0](x)
        second = model.blocks[1](first)
    rates = [out.double().transpose(0, 1).flatten(1).mean(1).numpy() for out in (first, second)]
    np.testing.assert_allclose(whole[0].value, np.mean(rates, axis=0), atol=1e-7)
    assert set(found) == {0, 2} and choose(found, 0.5)[0].shape == (3,)


def test_stability_is_the_rank_correlation_of_the_halves() -> None:
    found = _scores(_model(), "rate")
    dataset, model = _dataset(), _model()
    chosen = stratified_choice(dataset.train.labels, 24, 0, 7)
    x = torch.from_numpy(dataset.train.images[chosen].astype(np.float32))[..., None].repeat(1, 1, 1, 1, STEPS)
    with torch.no_grad():
        rates = model.eval().blocks[0](x).double().mean((2, 3, 4)).numpy()
    assert found[0].stability == pytest.approx(spearmanr(rates[::2].mean(0), rates[1::2].mean(0)).statistic)
    assert _scores(_model(), "l1")[0].stability == 1.0
