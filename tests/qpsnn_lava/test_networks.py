from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mapping
from netx_export import engine
from netx_export.errors import ConfigError, MissingError
from netx_export.network import Conv, Network
from qpsnn_lava import pipeline, plots, prune
from qpsnn_lava.config import ConvLayer, DenseLayer, Experiment, PoolLayer, load_experiment, weighted_layers
from qpsnn_lava.data import Dataset, Split
from qpsnn_lava.data.catalogue import known
from qpsnn_lava.freeze import freeze
from qpsnn_lava.model import SpikingNetwork, asked_bits, build, parameters_of, set_quantised
from qpsnn_lava.networks import PLANS, STAGES, ConvName, PlanName, conv_layers, mlp_layers, plan_shares
from qpsnn_lava.pipeline import checking, pruning
from qpsnn_lava.prune import Scores, keep_counts
from qpsnn_lava.sizes import deployed_mb, paper_mb
from qpsnn_lava.train import Schedule, calibrate, train

torch.set_num_threads(1)

VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]  # as the paper lists them
VGGSNN = [64, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]


@pytest.mark.parametrize(("name", "listed"), [("vgg16", VGG16), ("vggsnn", VGGSNN)])
def test_the_papers_layers(name: ConvName, listed: list[int | str]) -> None:
    with_sums = ["M" if layer["type"] == "pool" else layer["channels"] for layer in conv_layers(name, pool="sum")]
    assert with_sums == listed
    strides = conv_layers(name)
    assert [layer["channels"] for layer in strides] == [c for c in listed if c != "M"]
    halved = [after == "M" for c, after in zip(listed, [*listed[1:], ""], strict=True) if c != "M"]
    assert [layer.get("stride", 1) == 2 for layer in strides] == halved


@pytest.mark.parametrize(
    ("experiment", "overrides", "last"),
    [
        ("cifar10-vgg16", [], (512, 1, 1)),
        ("cifar10-dvs-vggsnn", [], (512, 3, 3)),
        ("fashion-mnist", ['network={name="conv28-small"}'], (64, 7, 7)),
        ("fashion-mnist", ['network={name="conv28-medium"}'], (64, 7, 7)),
        ("fashion-mnist", ['network={name="conv28-large", width=0.5}'], None),
    ],
)
def test_both_kinds_of_pooling_end_with_the_same_map(
    experiment: str, overrides: list[str], last: tuple[int, int, int] | None
) -> None:
    network = load_experiment(experiment, overrides).network
    size = known(load_experiment(experiment).data.name).shape[1]
    sides = {"stride": size, "sum": size}
    for pool in ("stride", "sum"):
        made = load_experiment(experiment, [*overrides, f"network.pool={pool}"] if overrides else [f"network.pool={pool}"])
        for layer in made.network:
            if isinstance(layer, ConvLayer):
                sides[pool] = (sides[pool] + 2 * layer.padding - layer.kernel) // layer.stride + 1
            elif isinstance(layer, PoolLayer):
                sides[pool] //= layer.kernel
    channels = weighted_layers(load_experiment(experiment, overrides))[-1]
    assert isinstance(channels, ConvLayer)
    if last is None:  # 28, 14, 7 and then 4 by stride, 3 by pooling
        assert (sides, channels.channels, len(network)) == ({"stride": 4, "sum": 3}, 128, 6)
    else:
        assert (channels.channels, sides["stride"], sides["sum"]) == last


@given(st.sampled_from(sorted(STAGES)), st.floats(1 / 64, 8), st.sampled_from(["stride", "sum"]))
def test_width_multiplies_all_channels(name: ConvName, width: float, pool: Any) -> None:
    wide = [layer["channels"] for layer in conv_layers(name, width, pool) if layer["type"] == "conv"]
    full = [layer["channels"] for layer in conv_layers(name) if layer["type"] == "conv"]
    assert all(abs(w - width * c) <= 0.5 and w >= 1 for w, c in zip(wide, full, strict=True))
    assert conv_layers(name, 1e-9, pool)[0]["channels"] == 1


def test_names_in_an_experiment_become_lists() -> None:
    named = load_experiment("fashion-mnist", ['network={name="conv28-medium", width=0.25}', "prune.keep=[1, 0.5, 0.5, 1]"])
    assert named.network == (
        ConvLayer(channels=8),
        ConvLayer(channels=8, stride=2),
        ConvLayer(channels=16),
        ConvLayer(channels=16, stride=2),
    )
    mlp = load_experiment("digits", ['network={name="mlp", hidden=[30, 20]}'])
    assert mlp.network == (DenseLayer(units=30), DenseLayer(units=20))
    assert mlp_layers([30, 20]) == [{"type": "dense", "units": 30}, {"type": "dense", "units": 20}]


# --- plans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", sorted(PLANS))
def test_a_plan_keeps_the_floor_of_what_its_percents_leave(plan: PlanName) -> None:
    cuts = PLANS[plan].cuts
    name, *percents = plan.split("-")
    assert name in STAGES and sorted({0, *map(int, percents)}) == sorted(set(cuts)) and cuts[-1] == 0
    for size in (1, 2, 3, 7, 50, 64, 100, 128, 255, 256, 512, 1000, 4096):
        nothing = np.zeros(size)
        scores = {i: Scores(nothing, nothing, nothing, 1) for i in range(len(cuts))}
        counts = list(keep_counts(scores, plan_shares(plan, [size] * len(cuts))).values())
        assert counts == [max(1, (100 * size - percent * size) // 100) for percent in cuts]


def test_a_plan_in_an_experiment_becomes_a_list_of_shares() -> None:
    experiment = load_experiment("cifar10-vgg16")
    keep = experiment.prune.keep
    assert isinstance(keep, tuple) and experiment.prune.plan is None
    channels = [layer.channels for layer in weighted_layers(experiment) if isinstance(layer, ConvLayer)]
    kept = [32, 32, 65, 65, 130, 130, 130, 102, 102, 102, 102, 102, 512]
    assert [share * c for share, c in zip(keep, channels, strict=True)] == kept
    half = load_experiment("cifar10-vgg16", ["network.width=0.5", "prune.plan=vgg16-45-51"]).prune.keep
    assert isinstance(half, tuple) and half[0] == 17 / 32 and half[7] == 125 / 256 and half[12] == 1


def test_a_plan_for_another_network() -> None:
    with pytest.raises(ConfigError, match=r'prune\.plan "vggsnn-50-80" has a share for each of 8 conv and dense layers, but'):
        plan_shares("vggsnn-50-80", [64] * 13)


# --- the paper's figures (QP-SNN, Wei et al., ICLR 2025) -----------------------------------------------------------------

# experiment, its overrides, (input shape, classes), million parameters, MB at 8, 4 and 2 bit, as the paper prints them
PAPER: dict[str, tuple[str, tuple[tuple[int, int, int], int], str, float | None, tuple[float, ...]]] = {
    "CIFAR-10, larger": ("cifar10-vgg16", ((3, 32, 32), 10), "vgg16-45-51", 4.25, (4.28, 2.16, 1.10)),
    "CIFAR-10, smaller": ("cifar10-vgg16", ((3, 32, 32), 10), "vgg16-49-80", 1.42, (1.45, 0.74, 0.39)),
    "CIFAR-100, larger": ("cifar10-vgg16", ((3, 32, 32), 100), "vgg16-45-70", 2.31, (2.48, 1.35, 0.79)),
    "CIFAR-100, smaller": ("cifar10-vgg16", ((3, 32, 32), 100), "vgg16-45-78", 1.68, (1.85, 1.04, 0.63)),
    "TinyImageNet, larger": ("cifar10-vgg16", ((3, 64, 64), 200), "vgg16-45-51", None, (5.90, 3.78, 2.72)),
    "DVS-CIFAR10, larger": ("cifar10-dvs-vggsnn", ((2, 48, 48), 10), "vggsnn-50-70", 1.46, (1.61, 0.90, 0.55)),
    "DVS-CIFAR10, middle": ("cifar10-dvs-vggsnn", ((2, 48, 48), 10), "vggsnn-50-80", 0.90, ()),
    "DVS-CIFAR10, smaller": ("cifar10-dvs-vggsnn", ((2, 48, 48), 10), "vggsnn-82-93", 0.25, (0.40, 0.29, 0.24)),
}


def pruned(name: str, plan: str, shape: tuple[int, int, int], classes: int) -> tuple[SpikingNetwork, Network]:
    """A network with the channels that the plan leaves, untrained, and its integers."""
    experiment = load_experiment(name, [f"prune.plan={plan}"] if plan else ["prune={keep=1.0}"])
    keep = experiment.prune.keep
    shares = keep if isinstance(keep, tuple) else (keep,) * len(experiment.network)
    layers = [
        layer.model_copy(update={"channels": round(share * layer.channels)})
        for layer, share in zip(experiment.network, shares, strict=True)
        if isinstance(layer, ConvLayer)
    ]
    experiment = experiment.model_copy(update={"network": tuple(layers)})
    torch.manual_seed(0)
    coding = pipeline.coding_of(experiment)
    model = build(experiment, shape, classes, coding.input_max)
    set_quantised(model, True)
    return model, freeze(model, shape, coding.steps, input_bits=coding.graded_bits)


@pytest.mark.parametrize("case", PAPER)
def test_the_papers_parameters_and_sizes(case: str) -> None:
    name, (shape, classes), plan, millions, megabytes = PAPER[case]
    model, network = pruned(name, plan, shape, classes)
    if millions is not None:
        assert parameters_of(model) / 1e6 == pytest.approx(millions, abs=0.0055)
    for bits, printed in zip((8, 4, 2), megabytes, strict=False):
        ours = paper_mb(network, dict.fromkeys(asked_bits(model), bits))
        assert ours == pytest.approx(printed, abs=0.0055), bits


def test_the_papers_unpruned_vgg16() -> None:
    """58.88 MB at 32 bit, of which 9.61 % of the connections stay: the paper's convolutions and BatchNorm, not its classifier."""
    model, network = pruned("cifar10-vgg16", "", (3, 32, 32), 10)
    _, small = pruned("cifar10-vgg16", "vgg16-49-80", (3, 32, 32), 10)
    whole, left = (
        sum(p.synapse.weight.size + 2 * len(p.synapse.weight) for p in n.projections if isinstance(p.synapse, Conv))
        for n in (network, small)
    )
    assert 4 * whole / 1e6 == pytest.approx(58.88, abs=0.005)
    assert 100 * left / whole == pytest.approx(9.61, abs=0.005)
    with_classifier = paper_mb(network, dict.fromkeys(asked_bits(model), 32))
    assert with_classifier == parameters_of(model) * 4 / 1e6 == 58.896168


# --- at the paper's size ---------------------------------------------------------------------------------------------------


def drawn(shape: tuple[int, ...], top: int) -> Dataset:
    """Random samples: four to train, one to choose, two to test."""
    random = np.random.default_rng(0)
    splits = [
        Split(random.integers(0, top + 1, (n, *shape), np.uint8), random.integers(0, 10, n), first + np.arange(n))
        for n, first in ((4, 0), (1, 4), (2, 5))
    ]
    return Dataset("drawn", *splits, 255, 10)


def one_step_cut_and_frozen(name: str) -> tuple[Experiment, Dataset, SpikingNetwork, Network]:
    """One training step of the quantised network, scoring, the cut, new statistics, freezing."""
    experiment = load_experiment(name)
    coding = pipeline.coding_of(experiment)
    entry = known(experiment.data.name)
    data = drawn((*entry.shape, coding.steps), 3) if entry.events else drawn(entry.shape, 255)
    torch.manual_seed(experiment.seed)
    model = pipeline.untrained(experiment, data)
    set_quantised(model, True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings = experiment.train
    train(model, data, coding, Schedule(1, 0, 4, settings.optimiser, settings.learning_rate, augment=settings.augment))
    after = model.state_dict()
    still = [key for key, value in before.items() if key.endswith("synapse.weight") and torch.equal(value, after[key])]
    assert not still
    scores = prune.score(model, data, coding, samples=4, eps=experiment.prune.eps, seed=experiment.seed)
    whole = {i: len(s.value) for i, s in scores.items()}
    counts, _, _ = pruning.channels_to_keep(experiment, model, data, scores, whole, number=1)
    small = prune.cut(model, prune.choose(scores, counts), pipeline.input_shape(coding, data))
    assert isinstance(small, SpikingNetwork)
    calibrate(small, data, coding, samples=4, batch=4, seed=experiment.seed)
    return experiment, data, small, pipeline.frozen(experiment, small, data)


@pytest.mark.parametrize(
    ("name", "parameters", "megabytes"), [("cifar10-vgg16", 1.42e6, 0.74), ("cifar10-dvs-vggsnn", 0.90e6, None)]
)
def test_the_papers_network_from_a_training_step_to_the_chip(name: str, parameters: float, megabytes: float | None) -> None:
    experiment, data, model, network = one_step_cut_and_frozen(name)
    coding = pipeline.coding_of(experiment)
    assert parameters_of(model) == pytest.approx(parameters, rel=0.01)
    paper, deployed = paper_mb(network, asked_bits(model)), deployed_mb(network)
    if megabytes is not None:
        assert paper == pytest.approx(megabytes, rel=0.02)
    assert 0.5 * paper < deployed < paper  # 8 bits in the outer layers, 13 for a bias, where the paper has 32

    found = pipeline.compare_slayer(model, network, data, coding, experiment.seed, lambda event: None)
    assert found["samples"] == 2 and found["voltages_compared"] == 2 * 10 * coding.steps
    assert found["spikes_compared"] == 2 * coding.steps * sum(p.size for p in network.populations[1:])
    assert found["spike_mismatches"] == found["voltage_mismatches"] == 0
    run = engine.simulate_fast(
        network,
        np.concatenate(list(pipeline.encoded(data.test, data, coding, 0))),
        record=[p.name for p in network.populations],
    )
    for population in network.populations[1:-1]:
        assert 0.02 < run.spikes[population.name].mean() < 0.8, population.name
    deep = network.projections[7]
    weight = deep.synapse.weight.copy()
    weight[:, 0] += 1
    wrong = replace(
        network,
        projections=tuple(
            replace(p, synapse=replace(p.synapse, weight=weight)) if p is deep else p for p in network.projections
        ),
    )
    assert pipeline.compare_slayer(model, wrong, data, coding, 0, lambda event: None)["spike_mismatches"] > 0

    placed = mapping.map_network(network, mapping.load_chip(experiment.map.chip))
    mapping.require(network, placed)
    used = mapping.utilisation(network, placed)
    assert used.fits and used.cores >= used.lower_bound >= 1


# --- a whole run -----------------------------------------------------------------------------------------------------------


def test_a_run_by_name_reports_the_papers_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_lava(*_: Any, **__: Any) -> Any:
        raise MissingError("not here")

    monkeypatch.setattr(checking, "run_lava", no_lava)
    monkeypatch.setattr(plots, "save_all", lambda *_: [])
    experiment = load_experiment(
        "digits",
        ['network={name="conv28-small", width=0.25, pool="sum"}', "prune.samples=8"]
        + [f"train.{phase}=0" for phase in ("epochs", "quantised_epochs", "finetune_epochs")],
    )
    made = pipeline.run(experiment, tmp_path / "run", say=lambda event: None)
    assert load_experiment(tmp_path / "run" / "config.toml") == experiment
    first, second, out, area, classes = 4, 8, 10, 2 * 2, 10  # 8 and 16 channels, half of them
    bits = 32 * (9 * first + 2 * first) + 4 * 9 * first * second + 32 * 2 * second + 32 * (area * second * out + classes)
    written = json.loads((tmp_path / "run" / "report.json").read_text())
    assert written["size_mb"]["paper"] == made["size_mb"]["paper"] == bits / 8e6
    assert "as the QP-SNN paper counts)" in (tmp_path / "run" / "report.md").read_text()
