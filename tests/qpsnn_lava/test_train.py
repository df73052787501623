from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from netx_export.errors import ConfigError
from netx_export.network import Rate, Voltage
from qpsnn_lava.blocks import Conv, Dense, Flatten, Integrate, NeuronOptions, slayer
from qpsnn_lava.coding import Coding, encode
from qpsnn_lava.model import SpikingNetwork, logits, set_quantised
from qpsnn_lava.quantise import Quantiser, ReScaW
from qpsnn_lava.train import (
    Progress,
    Schedule,
    calibrate,
    evaluate,
    first_maximum,
    readout_of,
    to_input,
    train,
)

torch.set_num_threads(1)

CODING = Coding("direct", 4, 4)


@dataclass
class Part:
    """A split as a user may write it: nothing of ours."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.indices = np.arange(len(self.labels), dtype=np.int64)


@dataclass
class Corners:
    """One of the four corners of a 6x6 image is bright."""

    train: Part
    validation: Part
    test: Part
    name: str = "corners"
    max_value: int = 15
    classes: int = 4


def _part(rng: np.random.Generator, count: int) -> Part:
    labels = rng.integers(0, 4, count)
    images = rng.integers(0, 6, (count, 1, 6, 6))
    for image, label in zip(images[:, 0], labels, strict=True):
        y, x = 3 * (label // 2), 3 * (label % 2)
        image[y : y + 3, x : x + 3] += 6
    return Part(images.astype(np.uint8), labels.astype(np.int64))


@pytest.fixture
def corners() -> Corners:
    rng = np.random.default_rng(0)
    return Corners(_part(rng, 160), _part(rng, 60), _part(rng, 60))


def _ours(norm: Any = "full") -> SpikingNetwork:
    torch.manual_seed(0)
    return SpikingNetwork(
        [
            Conv(NeuronOptions(), Quantiser(4), 1, 6, padding=1, stride=2, norm=norm, input_max=15),
            Flatten(),
            Integrate(Quantiser(8), 54, 4),
        ],
        ["conv", "output"],
        Voltage(),
    )


class Stock(torch.nn.Module):
    """A user's model of SLAYER's own blocks, with two output neurons a class."""

    def __init__(self) -> None:
        super().__init__()
        params = {"threshold": 1.0, "current_decay": 1.0, "voltage_decay": 0.5, "tau_grad": 0.01, "scale_grad": 10}
        block = slayer.block.cuba
        self.blocks = torch.nn.ModuleList(
            [
                block.Conv(params, 1, 6, 3, padding=1, stride=2, weight_scale=0.5, delay_shift=False),
                block.Flatten(),
                block.Dense(params, 54, 8, weight_scale=4, delay_shift=False),
            ]
        )
        for one in (self.blocks[0], self.blocks[2]):
            one.synapse.pre_hook_fx = ReScaW(bits=4, gamma="max")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for one in self.blocks:
            x = one(x)
        return x


def _stock() -> Stock:
    torch.manual_seed(0)
    return Stock()


@pytest.mark.parametrize(("make", "quantised"), [(_ours, False), (_ours, True), (_stock, True)])
def test_learns(corners: Corners, make: Callable[[], torch.nn.Module], quantised: bool) -> None:
    model = make()
    set_quantised(model, quantised)
    before = evaluate(model, corners.test, corners, CODING).value
    trained = train(model, corners, CODING, Schedule(8, batch=16, learning_rate=0.01))
    after = evaluate(model, corners.test, corners, CODING)
    assert before < 0.6 and after.value > 0.9 and after.n == 60
    assert trained.validation.value > 0.9 and 1 <= trained.epoch <= 8 and trained.seconds > 0
    assert not model.training


@pytest.mark.parametrize("coding", [CODING, Coding("rate", 6)])
@pytest.mark.parametrize("augment", ["none", "flip-shift"])
def test_the_same_seed_gives_the_same_weights(corners: Corners, coding: Coding, augment: Any) -> None:
    states = []
    for seed in (5, 5, 6):
        model = _ours()
        model.blocks[0].input_max = coding.input_max
        train(model, corners, coding, Schedule(1, batch=32, learning_rate=0.01, augment=augment, seed=seed))
        states.append({k: v.clone() for k, v in model.state_dict().items()})
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert not torch.equal(states[0]["blocks.0.synapse.weight"], states[2]["blocks.0.synapse.weight"])


def _validations(model: torch.nn.Module, data: Corners, schedule: Schedule) -> tuple[list[float], list[dict[str, Any]], Any]:
    """The validation accuracy and the weights after each epoch, and what train returns."""
    values: list[float] = []
    states: list[dict[str, Any]] = []

    def note(p: Progress) -> None:
        if p.validation is not None:
            values.append(p.validation.value)
            states.append(copy.deepcopy(model.state_dict()))

    return values, states, train(model, data, CODING, schedule, progress=note)


def test_the_best_epoch_is_kept(corners: Corners) -> None:
    """A learning rate so large that the accuracy goes up and down."""
    model = _ours()
    values, states, trained = _validations(model, corners, Schedule(6, batch=32, optimiser="sgd", learning_rate=2.0))
    best = max(i for i, v in enumerate(values) if v == max(values))  # the last of several
    assert len(values) == 6 and len(set(values)) > 2
    assert trained.epoch == best + 1 and trained.validation.value == values[best] and trained.epochs == 6
    assert all(torch.equal(v, states[best][k]) for k, v in model.state_dict().items())


def test_only_frozen_epochs_count_where_there_are_some(corners: Corners, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _ours()
    frozen: list[bool] = []
    from qpsnn_lava import train as module
    from qpsnn_lava.statistics import Accuracy

    falling = iter([10, 60, 50, 40, 30, 41])  # before, then five epochs, the last three frozen

    def pretend(*_: Any, **__: Any) -> Accuracy:
        frozen.append(model.blocks[0].norm.frozen)
        return Accuracy.of(next(falling), 60)

    monkeypatch.setattr(module, "evaluate", pretend)
    trained = train(model, corners, CODING, Schedule(5, frozen_epochs=3, batch=80))
    assert frozen == [False, False, False, True, True, True]
    assert trained.epoch == 5 and trained.validation.value == 41 / 60  # not the 60 of an epoch with batch statistics
    assert not model.blocks[0].norm.frozen


def test_frozen_epochs_leave_the_statistics(corners: Corners) -> None:
    model = _ours()
    train(model, corners, CODING, Schedule(1, frozen_epochs=1, batch=32, learning_rate=0.01))
    assert not model.blocks[0].norm.running_mean.any() and torch.all(model.blocks[0].norm.running_var == 1)
    assert model.blocks[0].norm.shift.any()


def test_no_epochs_leave_the_model(corners: Corners) -> None:
    model = _ours()
    before = copy.deepcopy(model.state_dict())
    trained = train(model, corners, CODING, Schedule(0))
    assert trained.epoch == 0 and trained.validation == evaluate(model, corners.validation, corners, CODING)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_progress(corners: Corners) -> None:
    seen: list[Progress] = []
    train(_ours(), corners, CODING, Schedule(2, batch=50, learning_rate=0.01), progress=seen.append)
    assert [(p.epoch, p.batch, p.batches, p.validation is not None) for p in seen] == [
        (e, b, 4, v) for e in (1, 2) for b, v in ((1, False), (2, False), (3, False), (4, False), (4, True))
    ]
    assert all(p.epochs == 2 and math.isfinite(p.loss) for p in seen)
    assert [p.seconds for p in seen] == sorted(p.seconds for p in seen)


def test_the_cosine_takes_the_learning_rate_to_zero(corners: Corners, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        assert self.param_groups[0]["momentum"] == 0.9 and self.param_groups[0]["weight_decay"] == 0.125
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    train(_ours(), corners, CODING, Schedule(2, batch=80, optimiser="sgd", learning_rate=0.5, weight_decay=0.125))
    assert rates == pytest.approx([0.5, 0.25 * (1 + math.sqrt(0.5)), 0.25, 0.25 * (1 - math.sqrt(0.5))])


def test_label_smoothing_spreads_a_share_of_each_label(corners: Corners) -> None:
    """The loss of one step against targets written out."""
    losses: list[float] = []
    model = _ours()
    before = copy.deepcopy(model).train()
    schedule = Schedule(1, batch=len(corners.train.labels), learning_rate=1e-9, label_smoothing=0.25)
    train(model, corners, CODING, schedule, progress=lambda p: losses.append(p.loss))
    spikes = to_input(corners.train.images, CODING, corners.max_value, 0, corners.train.indices)
    scores = logits(before(spikes), readout_of(model, corners.classes, None)).detach()
    targets = torch.full_like(scores, 0.25 / corners.classes)
    targets[torch.arange(len(scores)), torch.from_numpy(corners.train.labels)] += 0.75
    by_hand = -(targets * scores.log_softmax(1)).sum(1).mean()
    assert losses[0] == pytest.approx(float(by_hand), rel=1e-6)
    hard = torch.nn.functional.cross_entropy(scores, torch.from_numpy(corners.train.labels))
    assert abs(losses[0] - float(hard)) > 1e-3


@pytest.mark.parametrize("quantised", [False, True])
def test_a_loss_that_is_no_number(corners: Corners, quantised: bool) -> None:
    model = _ours()
    set_quantised(model, quantised)
    with torch.no_grad():
        model.blocks[2].synapse.weight[0] = math.nan
    message = "not numbers: the training has diverged" if quantised else "the loss is nan in epoch 1"
    with pytest.raises(ConfigError, match=f"{message}; take a smaller learning rate"):
        train(model, corners, CODING, Schedule(1))


# --- evaluation --------------------------------------------------------------------------------------------------------


class Says(torch.nn.Module):
    """Puts out the numbers that it is given, sample by sample, as voltages."""

    readout = Voltage()

    def __init__(self, scores: list[list[float]]) -> None:
        super().__init__()
        self.scores = torch.tensor(scores)
        self.at = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        part = self.scores[self.at : self.at + len(x)]
        self.at += len(x)
        return part[..., None].expand(-1, -1, x.shape[-1])


@pytest.mark.parametrize("batch", [1, 2, 256])
def test_ties_go_to_the_lowest_class(batch: int) -> None:
    scores = [[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [3.0, 3.0, 3.0], [0.0, 1.0, 2.0], [-1.0, -2.0, -1.0]]
    part = Part(np.zeros((5, 1, 2, 2), np.uint8), np.array([0, 2, 0, 2, 0]))
    data = Corners(part, part, part, classes=3)
    assert evaluate(Says(scores), part, data, CODING, batch=batch).value == 4 / 5
    assert first_maximum(torch.tensor(scores)).tolist() == [0, 1, 0, 2, 0]


def test_the_readout() -> None:
    assert readout_of(_stock(), 4, None) == Rate(4)
    assert readout_of(_stock(), 4, Voltage()) == Voltage()
    assert readout_of(_ours(), 4, None) == Voltage()
    assert readout_of(Says([[0.0]]), 4, None) == Voltage()
    other = Says([[0.0]])
    other.readout = "voltage"  # type: ignore[assignment]
    assert readout_of(other, 4, None) == Rate(4)


def test_evaluation_does_not_train(corners: Corners) -> None:
    model = _ours().train()
    before = copy.deepcopy(model.state_dict())
    evaluate(model, corners.test, corners, CODING)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# --- statistics --------------------------------------------------------------------------------------------------------


def test_calibrate_is_the_mean_over_the_images(corners: Corners) -> None:
    """One batch of all images, against batches of which the last is smaller: the mean does not see them."""
    found = []
    for batch in (160, 48):
        model = _ours()
        with torch.no_grad():
            model.blocks[0].norm.running_mean.fill_(7.0)
        calibrate(model, corners, CODING, samples=10_000, batch=batch, seed=0)
        found.append(model.blocks[0].norm.running_mean.clone())
        assert model.blocks[0].norm.momentum == 0.1 and not model.training
    assert torch.allclose(found[0], found[1], atol=1e-4)
    current = torch.nn.functional.conv2d(
        torch.from_numpy(corners.train.images).float() / 15, _ours().blocks[0].synapse.weight[..., 0].detach(), None, 2, 1
    )
    assert torch.allclose(found[0], current.mean((0, 2, 3)), atol=1e-3)


def test_calibrate_takes_some_images_and_no_step(corners: Corners) -> None:
    model = _ours()
    weight = model.blocks[0].synapse.weight.clone()
    seen: list[int] = []
    model.register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    calibrate(model, corners, CODING, samples=40, batch=16, seed=0)
    assert seen == [16, 16, 8] and torch.equal(model.blocks[0].synapse.weight, weight)


# --- the input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", [Coding("direct", 5, 4), Coding("direct", 5, 2), Coding("rate", 5)])
def test_to_input_is_the_coding(corners: Corners, coding: Coding) -> None:
    part = corners.train
    found = to_input(part.images[:7], coding, 15, 3, part.indices[:7])
    expected = encode(part.images[:7], coding, max_value=15, seed=3, indices=part.indices[:7])
    assert found.dtype == torch.float32 and np.array_equal(found.numpy(), expected) and expected.any()
    assert (found.stride(-1) == 0) == (coding.kind == "direct")


# --- sizes that come up ------------------------------------------------------------------------------------------------


def test_a_last_batch_of_one(corners: Corners) -> None:
    data = replace(corners, train=Part(corners.train.images[:9], corners.train.labels[:9]))
    model = SpikingNetwork([Flatten(), Dense(NeuronOptions(), Quantiser(4), 36, 4, "full", 15)], ["output"], Rate(4))
    train(model, data, Coding("direct", 1, 4), Schedule(1, batch=8, learning_rate=0.01))
    assert all(bool(torch.isfinite(v).all()) for v in model.state_dict().values())
