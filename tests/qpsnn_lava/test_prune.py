from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from netx_export.errors import ConfigError
from netx_export.network import Voltage
from qpsnn_lava import prune
from qpsnn_lava.blocks import Conv, Dense, Flatten, Integrate, NeuronOptions, SumPool, slayer
from qpsnn_lava.coding import Coding
from qpsnn_lava.data import Dataset, Split
from qpsnn_lava.model import SpikingNetwork
from qpsnn_lava.prune import Scores, choose, cut, keep_counts, prunable, score, svs
from qpsnn_lava.quantise import Quantiser, ReScaW

torch.set_num_threads(1)

Kept = Mapping[int, NDArray[np.int64]]
STEPS = 5


# --- scores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 3, 6, 4), (4, 2, 2, 2), (3, 5, 1, 7), (3, 5, 6, 1), (3, 5, 1, 1), (6, 5)])
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), steps=st.integers(1, 8))
def test_svs_is_a_loop_over_numpys_rank(shape: tuple[int, ...], seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, steps + 1, shape) * (rng.random(shape) < 0.5)
    if len(shape) == 4 and min(shape[2:]) > 1:
        counts[0, 0] = counts[0, 0, :1]  # all rows alike: rank 1
        counts[1, 1] = 0
    rates = (counts / steps).astype(np.float32)
    rank, nuclear = svs(torch.from_numpy(rates), 1e-6)
    maps = rates.reshape(*shape[:2], *(shape[2:] or (1, 1)))
    for c in range(shape[1]):
        ranks = [np.linalg.matrix_rank(maps[n, c].astype(np.float64), tol=1e-6) for n in range(shape[0])]
        sums = [np.linalg.svd(maps[n, c].astype(np.float64), compute_uv=False).sum() for n in range(shape[0])]
        assert float(rank[c]) == pytest.approx(np.mean(ranks))
        assert float(nuclear[c]) == pytest.approx(np.mean(sums))


def test_eps_is_absolute() -> None:
    maps = torch.diag(torch.tensor([0.5, 0.05, 0.005])).view(1, 1, 3, 3)
    assert [float(svs(maps, eps)[0]) for eps in (1e-6, 0.01, 0.1, 0.6)] == [3, 2, 1, 0]


def _dataset(seed: int = 0, count: int = 40) -> Dataset:
    rng = np.random.default_rng(seed)
    splits = [
        Split(rng.integers(0, 16, (n, 2, 6, 6)).astype(np.uint8), rng.permutation(np.arange(n) % 4)) for n in (count, 8, 8)
    ]
    return Dataset("made", *splits, max_value=15, classes=4)


def _model(seed: int = 0, input_max: int = 15) -> SpikingNetwork:
    """Conv, strided conv, sum-pool, flatten, dense, read-out: with dyadic weights and norms, so that float sums are exact."""
    torch.manual_seed(seed)
    options = NeuronOptions(current_decay=3000, voltage_decay=1000, threshold=0.75)
    pool = NeuronOptions(current_decay=4096, voltage_decay=4096, threshold=0.5)
    made: list[torch.nn.Module] = [
        Conv(options, Quantiser(4, gamma="max"), 2, 6, padding=1, input_max=input_max + 1),
        Conv(options, Quantiser(4, gamma="max"), 6, 8, stride=2, padding=1, dilation=1),
        SumPool(pool, 8, (1, 3)),
        Flatten(),
        Dense(options, Quantiser(4, gamma="max"), 8 * 3 * 1, 10),
        Integrate(Quantiser(8, gamma="max"), 10, 4),
    ]
    for block in made:
        if hasattr(block, "quantiser"):
            with torch.no_grad():
                block.synapse.weight.copy_(torch.round(torch.randn_like(block.synapse.weight) * 16) / 32)
                if hasattr(block.norm, "gain"):
                    block.norm.eps = 0.0
                    block.norm.gain.copy_(2.0 ** torch.randint(-1, 2, block.norm.gain.shape))
                    block.norm.running_var.copy_(4.0 ** torch.randint(0, 2, block.norm.running_var.shape))
                    block.norm.running_mean.copy_(torch.randint(-4, 5, block.norm.running_mean.shape) / 32)
                block.norm.shift.copy_(torch.randint(-4, 9, block.norm.shift.shape) / 32)
    return SpikingNetwork(made, ["a", "b", "pool", "c", "output"], Voltage())


def test_scores_are_those_of_the_recorded_spikes() -> None:
    dataset, coding, model = _dataset(), Coding("direct", STEPS, 4), _model()
    found = score(model, dataset, coding, samples=1000, eps=1e-6, seed=0, batch=16)  # 40 images: 16, 16, 8
    assert sorted(found) == prunable(model) == [0, 1, 4]
    x = torch.from_numpy(dataset.train.images.astype(np.float32))[..., None].repeat(1, 1, 1, 1, STEPS)
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            x = block(x)
            if i not in found:
                continue
            rates = x.mean(-1).double()
            assert 0.02 < float(x.mean()) < 0.8 and found[i].samples == 40
            np.testing.assert_allclose(found[i].rate, rates.transpose(0, 1).flatten(1).mean(1), atol=1e-7)
            if i == 4:  # dense: the share of samples in which a unit fires at all
                np.testing.assert_allclose(found[i].value, (x.amax(-1) > 0).double().mean(0))
                np.testing.assert_allclose(found[i].nuclear, rates.mean(0), atol=1e-7)
            else:
                expected = [
                    np.mean([np.linalg.matrix_rank(m, tol=1e-6) for m in rates[:, c].numpy()]) for c in range(x.shape[1])
                ]
                np.testing.assert_allclose(found[i].value, expected)
    assert not any(block._forward_hooks for block in model.blocks)


def test_scoring_takes_a_choice_of_the_training_images() -> None:
    dataset, coding, model = _dataset(), Coding("direct", STEPS, 4), _model()
    some = score(model, dataset, coding, samples=12, eps=1e-6, seed=3)
    again = score(model, dataset, coding, samples=12, eps=1e-6, seed=3, batch=5)
    other = score(model, dataset, coding, samples=12, eps=1e-6, seed=4)
    assert some[0].samples == 12
    np.testing.assert_allclose(some[0].nuclear, again[0].nuclear)
    assert not np.allclose(some[0].nuclear, other[0].nuclear)


def test_hooks_are_taken_off_when_scoring_fails() -> None:
    model = _model()
    with pytest.raises(RuntimeError):
        score(torch.nn.Sequential(*list(model.blocks)[1:]), _dataset(), Coding("direct", 2), samples=4, eps=1e-6, seed=0)
    assert not any(block._forward_hooks for block in model.blocks)


# --- the choice --------------------------------------------------------------------------------------------------------


def _scores(rank: list[float], nuclear: list[float] | None = None, rate: list[float] | None = None) -> Scores:
    return Scores(np.array(rank), np.array(nuclear or [0.0] * len(rank)), np.array(rate or [0.0] * len(rank)), 1)


@given(channels=st.integers(1, 40), keep=st.floats(0.01, 1.0), seed=st.integers(0, 100))
def test_a_layer_keeps_the_best_of_its_channels(channels: int, keep: float, seed: int) -> None:
    rank = np.random.default_rng(seed).integers(0, 4, channels).astype(float)
    count = math.floor(keep * channels + 0.5)
    if count == 0:
        with pytest.raises(ConfigError, match=f"layer 3 would lose all of its {channels} channels; keep at least 1"):
            choose({3: _scores(list(rank))}, keep)
        return
    (kept,) = choose({3: _scores(list(rank))}, keep).values()
    assert len(kept) == count and list(kept) == sorted(set(kept.tolist()))
    gone = np.setdiff1d(np.arange(channels), kept)
    assert not gone.size or rank[kept].min() >= rank[gone].max()


def test_ties_go_as_asked() -> None:
    scores = {0: _scores([2, 2, 2, 3], [0.1, 0.3, 0.3, 0.0], [0.9, 0.1, 0.2, 0.0])}
    assert choose(scores, 0.5, tie_break="nuclear")[0].tolist() == [1, 3]  # 1 and 2 tie in both: the lower
    assert choose(scores, 0.5, tie_break="rate")[0].tolist() == [0, 3]
    assert choose(scores, 0.5, tie_break="none")[0].tolist() == [0, 3]
    assert choose(scores, 0.75, tie_break="rate")[0].tolist() == [0, 2, 3]


def test_one_ratio_for_each_layer() -> None:
    scores = {0: _scores([1, 2, 3, 4]), 2: _scores([4, 3, 2, 1])}
    kept = choose(scores, [0.25, 0.75])
    assert kept[0].tolist() == [3] and kept[2].tolist() == [0, 1, 2]


@settings(max_examples=50)
@given(seed=st.integers(0, 1000), keep=st.floats(0.2, 1.0))
def test_global_scope_is_one_threshold(seed: int, keep: float) -> None:
    rng = np.random.default_rng(seed)
    scores = {i: _scores([float(top), *rng.integers(0, top + 1, n)]) for i, (n, top) in enumerate([(5, 4), (9, 2), (3, 7)])}
    kept = choose(scores, keep, "global")  # each layer has a channel at its top: none is lost
    assert sum(map(len, kept.values())) == math.floor(keep * 20 + 0.5)
    relative = {i: s.value / s.value.max() for i, s in scores.items()}
    worst = min(relative[i][k].min() for i, k in kept.items())
    for i, k in kept.items():
        gone = np.setdiff1d(np.arange(len(relative[i])), k)
        assert not gone.size or relative[i][gone].max() <= worst


def test_global_scope_refuses_to_take_a_whole_layer() -> None:
    scores = {0: _scores([4, 4, 4, 4]), 5: _scores([0, 0])}
    with pytest.raises(ConfigError, match=r"layer 5 would lose all of its 2 channels; .*a larger keep, or scope per layer"):
        choose(scores, 0.5, "global")


def test_counts_instead_of_shares() -> None:
    scores = {0: _scores([1, 2, 3, 4]), 2: _scores([4, 3, 2, 1], [0.0, 0.0, 0.0, 9.0])}
    kept = choose(scores, {0: 3, 2: 1})
    assert kept[0].tolist() == [1, 2, 3] and kept[2].tolist() == [0]
    for keep, scope in ((0.5, "layer"), ([0.25, 0.75], "layer"), (0.6, "global")):
        counts = keep_counts(scores, keep, scope)  # type: ignore[arg-type]
        by_share, by_count = choose(scores, keep, scope), choose(scores, counts)  # type: ignore[arg-type]
        assert {i: k.tolist() for i, k in by_share.items()} == {i: k.tolist() for i, k in by_count.items()}
        assert counts == {i: len(k) for i, k in by_share.items()}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({0: 2}, r"channels to keep are given for the blocks \[0\]; scored are \[0, 1\]"),
        ({0: 2, 1: 3}, r"layer 1 has 2 channels and cannot keep 3"),
        ({0: 2, 1: -1}, r"layer 1 has 2 channels and cannot keep -1"),
        ({0: 0, 1: 1}, r"layer 0 would lose all of its 2 channels; keep at least 1"),
    ],
)
def test_choose_refuses_counts_that_are_not_there(counts: dict[int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose({0: _scores([1, 2]), 1: _scores([1, 2])}, counts)


@pytest.mark.parametrize(
    ("keep", "scope", "message"),
    [
        ([0.5], "layer", "keep lists 1 ratios for 2 layers that can be pruned"),
        ([0.5, 0.5], "global", "keep lists a share per layer, but the scope is global; give one number"),
        (0.0, "layer", "keep is 0.0; the share of the channels that stays is above 0 and at most 1"),
        ([0.5, 1.5], "layer", "keep is 1.5; the share"),
    ],
)
def test_choose_refuses(keep: Any, scope: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose({0: _scores([1, 2]), 1: _scores([1, 2])}, keep, scope)


# --- the cut -----------------------------------------------------------------------------------------------------------


def _outputs(model: torch.nn.Module, x: torch.Tensor, masks: Kept | None = None) -> dict[int, torch.Tensor]:
    """Every weighted block's output; with ``masks`` the channels that are not kept are silenced."""
    found: dict[int, torch.Tensor] = {}
    model.eval()
    with torch.no_grad():
        for i, block in enumerate(prune.blocks_of(model)):
            x = block(x)
            if masks is not None and i in masks:
                mask = torch.zeros(x.shape[1])
                mask[torch.from_numpy(np.asarray(masks[i]))] = 1
                x = x * mask.view(1, -1, *[1] * (x.dim() - 2))
            found[i] = x
    return found


def _held_equal(model: torch.nn.Module, kept: Kept, x: torch.Tensor) -> torch.nn.Module:
    """Contract point 4; and the old model stays as it was."""
    before = copy.deepcopy(model.state_dict())
    masked = _outputs(model, x, kept)
    small = cut(model, kept, tuple(x.shape[1:-1]))
    pruned = _outputs(small, x)
    for i, out in pruned.items():
        whole = masked[i]
        if i in kept:
            whole = whole[:, kept[i]]
            assert 0.02 < float(out.mean()) < 0.9
        if out.shape == whole.shape:  # behind a pruned block without channels of its own the masked one is wider
            assert torch.equal(out, whole), i
    last = max(pruned)
    assert pruned[last].shape == masked[last].shape and pruned[last].any()
    assert not torch.equal(_outputs(model, x)[last], pruned[last])  # the cut did something
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    return small


def _input(seed: int = 0, channels: int = 2) -> torch.Tensor:
    return torch.randint(0, 16, (6, channels, 6, 6, STEPS), generator=torch.Generator().manual_seed(seed)).float()


SOME: Kept = {0: np.array([0, 2, 5]), 1: np.array([1, 2, 4, 7]), 4: np.array([0, 3, 4, 8, 9])}


@pytest.mark.parametrize("kept", [SOME, {0: SOME[0]}, {1: SOME[1]}, {4: SOME[4]}, {0: np.array([3]), 1: np.array([6])}])
def test_a_pruned_network_is_the_masked_one(kept: Kept) -> None:
    small = _held_equal(_model(), kept, _input())
    first = next(iter(small.blocks))
    assert first.synapse.weight.shape[0] == len(kept.get(0, range(6)))
    assert small.blocks[4].synapse.weight.shape[1] == 3 * len(kept.get(1, range(8)))


def test_a_quantised_network_too_where_gamma_stays() -> None:
    """Gamma is recomputed from what is left: with the largest weights among the kept ones it is the same."""
    model = _model()
    for i, block in enumerate(model.blocks):
        if hasattr(block, "quantiser"):
            block.quantised = True
            first_in = 3 * 1 if i == 4 else 0 if i < 2 else 3  # an input that stays
            with torch.no_grad():
                block.synapse.weight.clamp_(-1.5, 1.5)
                if hasattr(block.norm, "gain"):
                    block.norm.gain.fill_(1.0)
                    block.norm.running_var.fill_(1.0)
                block.synapse.weight[int(SOME[i][0]) if i in SOME else 0, first_in] = 1.75
    small = _held_equal(model, SOME, _input())
    for mine, old in zip(small.blocks, model.blocks, strict=True):
        if hasattr(mine, "quantiser"):
            assert mine.fold(STEPS).unit == old.fold(STEPS).unit


def test_weights_and_statistics_are_carried_over() -> None:
    model = _model()
    small = cut(model, SOME, (2, 6, 6))
    old, new = model.blocks, small.blocks
    assert torch.equal(new[1].synapse.weight, old[1].synapse.weight[SOME[1]][:, SOME[0]])
    for name in ("gain", "shift", "running_mean", "running_var"):
        assert torch.equal(getattr(new[1].norm, name), getattr(old[1].norm, name)[SOME[1]]), name
    columns = torch.arange(24).view(8, 3)[SOME[1]].flatten()  # C, H, W order: 3 x 1 neurons a channel
    assert torch.equal(new[4].synapse.weight, old[4].synapse.weight[SOME[4]][:, columns])
    assert torch.equal(new[5].norm.shift, old[5].norm.shift)
    assert all(p.requires_grad == q.requires_grad for p, q in zip(small.parameters(), model.parameters(), strict=True))
    out = small.train()(_input())
    out.sum().backward()
    assert all(p.grad is not None for p in small.parameters() if p.requires_grad)
    assert new[2].synapse.groups == 4 and small.names == model.names and small.readout == model.readout


def test_shared_and_mean_norms() -> None:
    for norm in ("shared", "mean"):
        model = _model()
        torch.manual_seed(0)
        for i, channels in ((0, 6), (1, 8)):
            fresh = type(model.blocks[0].norm)(channels, norm)
            with torch.no_grad():
                fresh.eps = 0.0
                fresh.running_mean.copy_(torch.randint(-4, 5, (channels,)) / 32)
            model.blocks[i].neuron.norm = fresh
        small = _held_equal(model, SOME, _input())
        if norm == "shared":
            assert small.blocks[0].norm.gain.shape == small.blocks[0].norm.running_var.shape == (1,)


def _stock() -> torch.nn.Sequential:
    """A network of SLAYER's own blocks, with pooling, a mean-only norm and (in one layer) decays of its own for each channel."""
    torch.manual_seed(0)
    params = {"threshold": 1.0, "current_decay": 0.75, "voltage_decay": 0.25}
    block = slayer.block.cuba
    with_norm = {**params, "norm": slayer.neuron.norm.MeanOnlyBatchNorm}
    model = torch.nn.Sequential(
        block.Conv(params, 2, 6, 3, padding=1, weight_scale=0.5, delay_shift=False),
        block.Pool({**params, "threshold": 0.5}, 2, delay_shift=False),
        block.Conv(with_norm, 6, 5, 3, padding=1, weight_scale=8, delay_shift=False),
        block.Flatten(),
        block.Dense({**params, "shared_param": False}, 5 * 9, 7, weight_scale=8, delay_shift=False),
        block.Affine(params, 7, 4, weight_scale=4),
    )
    model[2].synapse.pre_hook_fx = ReScaW(5)
    model.train()
    with torch.no_grad():
        model(_input())  # SLAYER sizes its norms and decays in the first pass
    return model


def test_stock_slayer_blocks() -> None:
    model = _stock()
    assert prunable(model) == [0, 2, 4]
    assert len(model[4].neuron.current_decay) == 7 and model[2].neuron.norm.running_mean.any()
    model[2].synapse.pre_hook_fx = model[0].synapse.pre_hook_fx  # SLAYER's 8 bits: no scale that the cut would change
    small = _held_equal(model, {0: np.array([0, 3, 4, 5]), 2: np.array([1, 2, 4]), 4: np.array([0, 2, 3, 6])}, _input())
    assert small[2].neuron.norm.running_mean.shape == (3,) and small[4].neuron.voltage_decay.shape == (4,)
    assert small[1].synapse.weight.shape[:2] == (1, 1)


def test_an_input_without_height_and_width() -> None:
    torch.manual_seed(0)
    options = NeuronOptions(threshold=0.25)
    model = torch.nn.Sequential(Dense(options, Quantiser(4), 12, 8, "bias"), Dense(options, Quantiser(4), 8, 3, "bias"))
    for block in model:
        with torch.no_grad():
            block.synapse.weight.copy_(torch.round(torch.randn_like(block.synapse.weight) * 16) / 32)
    x = (torch.rand(6, 12, STEPS) < 0.5).float()
    small = _held_equal(model, {0: np.array([1, 2, 4, 7])}, x)
    assert small[1].synapse.weight.shape[:2] == (3, 4)


def test_keeping_everything_changes_nothing() -> None:
    model = _model()
    small = cut(model, {0: np.arange(6), 1: np.arange(8), 4: np.arange(10)}, (2, 6, 6))
    for name, value in small.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert small is not model and small.blocks[0].synapse.weight is not model.blocks[0].synapse.weight


def _grouped() -> torch.nn.Sequential:
    options = NeuronOptions()
    return torch.nn.Sequential(
        Conv(options, Quantiser(4), 2, 4, padding=1),
        Conv(options, Quantiser(4), 4, 6, padding=1, groups=2),
        Conv(options, Quantiser(4), 6, 6, padding=1, groups=6),
        Flatten(),
        Integrate(Quantiser(8), 6 * 36, 4),
    )


def test_a_grouped_layer_can_be_left_whole() -> None:
    small = cut(_grouped(), {0: np.arange(4), 1: np.arange(6)}, (2, 6, 6))
    assert small[1].synapse.weight.shape[:2] == (6, 2) and small[1].synapse.groups == 2


@pytest.mark.parametrize(
    ("model", "kept", "shape", "message"),
    [
        (
            _grouped,
            {1: [0, 1, 2]},
            (2, 6, 6),
            "layer 1 has 2 groups; only depthwise and ungrouped layers, and those before them",
        ),
        (_grouped, {0: [0, 1]}, (2, 6, 6), "layer 1 has 2 groups; only depthwise and ungrouped layers, and those before them"),
        (
            _grouped,
            {2: [0, 1]},
            (2, 6, 6),
            "layer 2 is depthwise: it has the channels of its source and cannot be pruned itself",
        ),
        (_model, {2: [0, 1]}, (2, 6, 6), "layer 2 is depthwise"),
        (_stock, {1: [0, 1]}, (2, 6, 6), "layer 1 is depthwise"),
        (_model, {0: []}, (2, 6, 6), "layer 0 would lose all of its 6 channels; keep at least 1"),
        (_model, {0: [0, 6]}, (2, 6, 6), r"layer 0 has channels 0\.\.5, each once; asked to keep 0, 6\."),
        (_model, {0: [-1, 2]}, (2, 6, 6), r"layer 0 has channels 0\.\.5, each once; asked to keep -1, 2\."),
        (_model, {0: [1, 1]}, (2, 6, 6), r"layer 0 has channels 0\.\.5, each once; asked to keep 1, 1\."),
        (_model, {3: [0]}, (2, 6, 6), r"block 3 has no channels that could be cut; those that have are \[0, 1, 4\]"),
        (_model, {9: [0]}, (2, 6, 6), r"block 9 has no channels"),
        (_model, {0: [0]}, (1, 6, 6), r"layer 0 takes 2 inputs, but 1 arrive from an input of shape \(1, 6, 6\)"),
        (_model, {0: [0]}, (2, 8, 8), r"layer 4 takes 24 inputs, but 32 arrive from an input of shape \(2, 8, 8\)"),
    ],
)
def test_cut_refuses(model: Callable[[], torch.nn.Module], kept: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cut(model(), {i: np.array(k, np.int64) for i, k in kept.items()}, shape)


def test_cut_refuses_what_slayer_adds_to_a_block() -> None:
    params = {"threshold": 1.0, "current_decay": 0.75, "voltage_decay": 0.25}
    delayed = torch.nn.Sequential(slayer.block.cuba.Dense(params, 4, 3, delay=True), slayer.block.cuba.Dense(params, 3, 2))
    with pytest.raises(
        ConfigError, match=r"layer 0 has learnt axonal delays, which cannot be cut; make the block with delay=False"
    ):
        cut(delayed, {0: np.array([0])}, (4,))
    dense = slayer.block.cuba.Dense(params, 4, 3)
    dense.synapse.weight_norm_enabled = True
    with pytest.raises(ConfigError, match=r"layer 0 has SLAYER's weight norm; take it off first: block\.synapse\.disable"):
        cut(torch.nn.Sequential(dense), {0: np.array([0])}, (4,))


def test_a_masked_dense_block_keeps_its_mask() -> None:
    torch.manual_seed(0)
    params = {"threshold": 0.25, "current_decay": 1.0, "voltage_decay": 0.5}
    mask = (torch.rand(6, 12) < 0.6).float()
    block = slayer.block.cuba.Dense
    model = torch.nn.Sequential(block(params, 12, 6, 4, mask=mask), block(params, 6, 3, 4, mask=torch.ones(3, 6)))
    x = (torch.rand(6, 12, STEPS) < 0.5).float()
    model(x)  # SLAYER masks the weights in the forward pass
    small = _held_equal(model, {0: np.array([1, 2, 4])}, x)
    assert torch.equal(small[0].mask.reshape(3, 12), mask[[1, 2, 4]]) and small[1].mask.shape[:2] == (3, 3)
