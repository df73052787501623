from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netx_export.errors import ConfigError, NetworkError
from netx_export.network import Rate, Voltage
from qpsnn_lava import blocks
from qpsnn_lava.config import Experiment, load_experiment
from qpsnn_lava.model import SpikingNetwork, build, logits, own_blocks, parameters_of, set_frozen, set_quantised

torch.set_num_threads(1)

TOML = """
name = "made"
[data]
name = "digits"
steps = 3
[[network]]
type = "conv"
channels = 6
stride = 2
[[network]]
type = "conv"
channels = 4
groups = 2
kernel = 3
padding = 0
bits = 2
[[network]]
type = "pool"
[[network]]
type = "dense"
units = 10
[[network]]
type = "dense"
units = 7
[prune]
keep = 1
[neuron]
voltage_decay = 1000
threshold = 0.5
[quantise]
bits = 3
first_bits = 5
last_bits = 6
norm = "shared"
gamma = "max"
"""


@pytest.fixture
def made(tmp_path: Path) -> Experiment:
    (tmp_path / "made.toml").write_text(TOML)
    return load_experiment(tmp_path / "made.toml")


def test_build_follows_the_experiment(made: Experiment) -> None:
    torch.manual_seed(0)
    model = build(made, (3, 14, 12), 4, 15)
    assert [type(b).__name__ for b in model.blocks] == ["Conv", "Conv", "SumPool", "Flatten", "Dense", "Dense", "Integrate"]
    assert model.names == ("conv1", "conv2", "pool3", "dense4", "dense5", "output")
    own = list(own_blocks(model))
    assert [b.quantiser.bits for b in own] == [5, 2, 3, 3, 6]
    assert {b.quantiser.gamma for b in own} == {"max"} and {b.quantiser.grid for b in own} == {"mid_tread"}
    assert [b.input_max for b in own] == [15, 1, 1, 1, 1]  # only the first sees graded input
    assert [b.norm.kind for b in own] == ["shared"] * 4 + ["bias"]
    assert [b.options.voltage_decay for b in own] == [1000] * 4 + [0] and own[0].options.threshold == 0.5
    shapes = []
    x = torch.randint(0, 16, (2, 3, 14, 12, 3)).float()
    for block in model.blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:-1]))
    assert shapes == [(6, 7, 6), (4, 5, 4), (4, 2, 2), (16,), (10,), (7,), (4,)]
    weights = 6 * 3 * 9 + 4 * 3 * 9 + 16 * 10 + 10 * 7 + 7 * 4
    norms = (1 + 6) + (1 + 4) + (1 + 10) + (1 + 7) + 4
    assert parameters_of(model) == weights + norms


def test_the_readout_is_the_voltage_in_real_units(made: Experiment) -> None:
    torch.manual_seed(0)
    model = build(made, (3, 14, 12), 4, 15).eval()
    x = torch.randint(0, 16, (2, 3, 14, 12, 3)).float()
    assert model.readout == Voltage()
    for quantised in (False, True):
        set_quantised(model, quantised)
        out = model(x)
        unit = model.blocks[-1].norm.folded.unit
        inner = x
        for block in model.blocks:
            inner = block(inner)
        assert out.shape == (2, 4, 3) and torch.equal(out * unit, inner) and (unit != 1) == quantised


def test_the_rate_readout(made: Experiment) -> None:
    rate = made.model_copy(update={"readout": made.readout.model_copy(update={"kind": "rate", "neurons_per_class": 3})})
    model = build(rate, (3, 14, 12), 4, 15)
    assert model.readout == Rate(4) and model(torch.ones(2, 3, 14, 12, 3)).shape == (2, 12, 3)
    assert isinstance(model.blocks[-1], blocks.Dense) and model.names[-1] == "output"


def test_without_a_dense_layer_the_readout_flattens(made: Experiment) -> None:
    convs = made.model_copy(update={"network": made.network[:1]})
    model = build(convs, (3, 14, 12), 4, 15)
    assert [type(b).__name__ for b in model.blocks] == ["Conv", "Flatten", "Integrate"]
    assert model.blocks[-1].synapse.weight.shape[1] == 6 * 7 * 6


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 4, 4), r"network\[1\]: its kernel of 3 does not fit on a map of 2x2; use fewer or smaller strides"),
        ((3, 6, 12), r"network\[2\]: its kernel of 2 does not fit on a map of 1x4; use fewer"),
    ],
)
def test_a_layer_that_does_not_fit(made: Experiment, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        build(made, shape, 4, 15)


def test_groups_that_do_not_divide_the_input(made: Experiment) -> None:
    odd = made.model_copy(update={"network": made.network[1:]})
    with pytest.raises(NetworkError, match=r"network\[0\]\.groups is 2, which does not divide its 3 input channels"):
        build(odd, (3, 14, 12), 4, 15)


def test_the_same_seed_draws_the_same_weights(made: Experiment) -> None:
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(build(made, (3, 14, 12), 4, 15).state_dict())
    assert all(torch.equal(v, models[1][k]) for k, v in models[0].items())
    assert not torch.equal(models[0]["blocks.0.synapse.weight"], models[2]["blocks.0.synapse.weight"])


def test_switches_reach_every_block_of_ours(made: Experiment) -> None:
    model = torch.nn.Sequential(torch.nn.Identity(), build(made, (3, 14, 12), 4, 15))  # also inside another module
    for on in (True, False):
        set_quantised(model, on)
        set_frozen(model, on)
        own = list(own_blocks(model))
        assert len(own) == 5 and all(b.quantised == b.norm.frozen == on for b in own)
    assert model[1].blocks[2].quantised  # pooling has nothing to quantise


def test_logits() -> None:
    out = torch.tensor(np.random.default_rng(0).integers(0, 2, (2, 6, 5)).astype(np.float32))
    np.testing.assert_allclose(logits(out, Voltage()), out[..., 4] / 5)
    by_class = [[out[n, 2 * c : 2 * c + 2].sum() / 10 * 8 for c in range(3)] for n in range(2)]
    np.testing.assert_allclose(logits(out, Rate(3)), by_class, rtol=1e-6)
    with pytest.raises(ConfigError, match="6 output units cannot be shared evenly by 4 classes"):
        logits(out, Rate(4))


def test_a_network_of_stock_blocks() -> None:
    params: dict[str, Any] = {"threshold": 1.0, "current_decay": 1.0, "voltage_decay": 0.5}
    block = blocks.slayer.block.cuba.Dense(params, 5, 3, weight_scale=4, delay_shift=False)
    model = SpikingNetwork([block], ["only"], Rate(3))
    x = (torch.rand(2, 5, 4) < 0.5).float()
    assert torch.equal(model(x), block(x)) and not list(own_blocks(model))
