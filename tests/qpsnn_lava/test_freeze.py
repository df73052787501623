"""Freezing: the refusals of contract point 5, and the bounds they rest on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from netx_export.bounds import largest_states
from netx_export.errors import FreezeError, QpsnnError
from netx_export.integers import STATE_LIMIT
from netx_export.lava_compat import import_slayer
from netx_export.network import Conv, Dense, Integrator, Lif, Population, Projection, Rate, Voltage
from netx_export.simulate import simulate
from qpsnn_lava import blocks
from qpsnn_lava.blocks import NeuronOptions
from qpsnn_lava.freeze import check, freeze
from qpsnn_lava.model import SpikingNetwork, set_quantised
from qpsnn_lava.quantise import Quantiser, ReScaW

LIF = Lif(4096, 2048, 100)


def layer(weight: np.ndarray, neuron: object = LIF, bias: list[int] | None = None) -> tuple[Projection, Population]:
    return Projection("input", "hidden", Dense(weight)), Population("hidden", (weight.shape[0],), neuron, bias)


def refuse(
    match: str, weight: list[list[int]], neuron: object = LIF, bias: list[int] | None = None, steps: int = 4, x_max: int = 1
) -> None:
    with pytest.raises(FreezeError, match=match):
        check(*layer(np.array(weight), neuron, bias), steps, x_max)


def accept(
    weight: list[list[int]], neuron: object = LIF, bias: list[int] | None = None, steps: int = 4, x_max: int = 1
) -> None:
    check(*layer(np.array(weight), neuron, bias), steps, x_max)


def test_weights_outside_the_chips_range() -> None:
    accept([[254, -256]])
    refuse(r"hidden: weights -258..2; the chip holds -256..254", [[2, -258]])
    refuse(r"hidden: weights 1..256; the chip holds", [[1, 256]])


def test_odd_weights_beyond_127() -> None:
    accept([[127, -127, -128]])
    accept([[128, -2]])
    refuse("hidden: weights -2..129, some of them odd; beyond 127 only even ones", [[129, -2]])
    refuse("some of them odd", [[1, -130]])


def test_thresholds() -> None:
    model = small_model()
    model.blocks[0].options = replace(model.blocks[0].options, threshold=1e9)
    with pytest.raises(FreezeError, match=r"layer0: threshold mantissa .*; the chip holds whole numbers in 1..131071"):
        freeze(model, (4,), 3)


def test_biases() -> None:
    accept([[8, -1]], bias=[4095])
    accept([[8, -1]], bias=[-4096])
    refuse(r"hidden: bias mantissas 4096..4096; the chip holds -4096..4095", [[8, -1]], bias=[4096])
    refuse(r"hidden: bias mantissas -4097..-4097", [[8, -1]], bias=[-4097])


def test_a_current_that_can_overflow() -> None:
    slow = Lif(0, 4096, 100)
    weight = [[254, -254] * 258]  # 64 * 131064 * 1 step is 64 below 2**23
    accept(weight, slow, steps=1)
    refuse(
        r"hidden: its current can reach 16776192 within 2 steps; it must stay below 2\*\*23 = 8388608", weight, slow, steps=2
    )
    refuse(r"its current can reach", weight, Lif(4096, 4096, 100), steps=1, x_max=2)


def test_a_voltage_that_can_overflow() -> None:
    weight = [[254, -254] * 200]
    accept(weight, Lif(4096, 4096, 100), steps=50)
    refuse(r"hidden: its voltage can reach \d+ within 2 steps; it must stay below 8388608", weight, Lif(4096, 0, 100), steps=2)
    accept([[100, -2]], Lif(4096, 0, 100), bias=[2000], steps=60)
    refuse("its voltage can reach", [[100, -2]], Lif(4096, 0, 100), bias=[2000], steps=70)
    top = Integrator()
    accept([[254, 254]], top, steps=250)  # 250 * 508 * 64 = 8128000
    refuse(r"it must stay below 8388545", [[254, 254]], top, steps=259)


def test_the_slow_current_of_the_notes_is_refused() -> None:
    """|a| at most 56,045 with a current decay of 100/4096 broke the equality of SLAYER and Lava once."""
    weight = np.full((1, 221), 254)
    assert weight.sum() > 56_045
    refuse("its current can reach", weight.tolist(), Lif(100, 2048, 100), steps=16)


def test_an_all_zero_layer() -> None:
    refuse("hidden: all weights are zero", [[0, 0]])
    with pytest.raises(FreezeError, match="all weights are zero"):
        conv = Conv(np.zeros((2, 1, 3, 3), int))
        check(Projection("input", "c", conv), Population("c", (2, 2, 2), LIF), 4, 1)


def test_a_dense_matrix_that_lava_cuts() -> None:
    refuse("hidden: no weight is positive and the least is -8, a power of two", [[0, -8]])
    accept([[1, -8]])
    accept([[-3, -9]])


@given(
    weight=st.lists(st.lists(st.integers(-256, 254), min_size=3, max_size=3), min_size=2, max_size=2),
    bias=st.lists(st.integers(-4096, 4095), min_size=2, max_size=2),
    decays=st.tuples(st.integers(0, 4096), st.integers(0, 4096)),
    steps=st.integers(1, 12),
    x_max=st.sampled_from([1, 15]),
    seed=st.integers(0, 1 << 30),
)
def test_no_input_exceeds_the_bound(
    weight: list[list[int]], bias: list[int], decays: tuple[int, int], steps: int, x_max: int, seed: int
) -> None:
    """The bound holds for the worst inputs there are: all sources of one sign, always."""
    matrix = np.array(weight)
    u_max, v_max = largest_states(matrix, np.array(bias), *decays, steps, x_max)
    network_layers = layer(matrix, Lif(*decays, 1 << 24), bias)
    from netx_export.network import Network

    network = Network(
        (Population("input", (3,)), network_layers[1]), (network_layers[0],), input_bits=x_max.bit_length() if x_max > 1 else 0
    )
    random = np.random.default_rng(seed).integers(0, x_max + 1, (1, 3, steps))
    rows = [np.repeat((row > 0) * x_max, steps).reshape(1, 3, steps) for row in (*matrix, *-matrix)]
    run = simulate(network, np.concatenate([random, *rows]), states=["hidden"])
    if max(u_max, v_max) < STATE_LIMIT:  # no wrap: the states are the real sums
        assert np.abs(run.current["hidden"]).max() <= u_max
        assert np.abs(run.voltage["hidden"]).max() <= v_max


def test_the_bound_is_reached() -> None:
    matrix = np.array([[3, 5]])
    assert largest_states(matrix, np.array([7]), 4096, 0, 3, 2) == (64 * 16, 3 * (64 * 16 + 64 * 7))
    assert largest_states(matrix, np.array([0]), 0, 4096, 3, 1) == (3 * 64 * 8, 3 * 64 * 8)


# --- models ------------------------------------------------------------------------------------------------------------


def small_model(quantised: bool = True) -> SpikingNetwork:
    torch.manual_seed(0)
    made = [blocks.Dense(NeuronOptions(), Quantiser(4), 4, 5), blocks.Integrate(Quantiser(8), 5, 2)]
    model = SpikingNetwork(made, ["layer0", "output"], Voltage())
    set_quantised(model, quantised)
    return model


def stock_dense(**neuron: float) -> torch.nn.Module:
    torch.manual_seed(1)
    cuba = import_slayer().block.cuba
    block = cuba.Dense(
        {"threshold": 1.0, "current_decay": 1.0, "voltage_decay": 0.5, **neuron}, 4, 3, weight_scale=4, delay_shift=False
    )
    block.synapse.pre_hook_fx = ReScaW(bits=4)
    return block


def test_a_model_that_is_still_real() -> None:
    with pytest.raises(FreezeError, match=r"layer0: its weights are still real numbers; call set_quantised"):
        freeze(small_model(quantised=False), (4,), 3)


def test_inputs_of_another_range() -> None:
    with pytest.raises(FreezeError, match="layer0: it was trained for inputs up to 1, but is frozen for inputs up to 15"):
        freeze(small_model(), (4,), 3, input_bits=4)


def test_fractional_weights() -> None:
    block = stock_dense()
    block.synapse.pre_hook_fx = None
    with pytest.raises(
        FreezeError, match=r"dense0: 12 of 12 weight values are not whole numbers of the device unit, the first is"
    ):
        freeze(torch.nn.Sequential(block), (4,), 3)


def test_weights_that_are_not_numbers() -> None:
    model = small_model()
    with torch.no_grad():
        model.blocks[0].norm.shift[0] = float("nan")
    with pytest.raises((FreezeError, ValueError), match=r"not numbers|NaN|nan"):
        freeze(model, (4,), 3)


def test_a_threshold_where_slayers_eps_vanishes() -> None:
    with pytest.raises(
        FreezeError, match=r"dense0: at threshold 8192 SLAYER's threshold_eps of .* vanishes and it spikes at equality"
    ):
        freeze(torch.nn.Sequential(stock_dense(threshold=128.0)), (4,), 3)
    fixed = stock_dense(threshold=128.0)
    fixed.neuron.threshold_eps = 1 / fixed.neuron.s_scale
    assert freeze(torch.nn.Sequential(fixed), (4,), 3).output.neuron == Lif(4096, 2048, 8192)


def test_delay_shift() -> None:
    block = stock_dense()
    block.delay_shift = True
    with pytest.raises(FreezeError, match="dense0: it was made with delay_shift=True"):
        freeze(torch.nn.Sequential(block), (4,), 3)


def test_a_norm_without_an_integer_form() -> None:
    block = stock_dense()
    block.neuron.norm = import_slayer().neuron.norm.WgtScaleBatchNorm(num_features=3)
    with pytest.raises(FreezeError, match="dense0: WgtScaleBatchNorm has no integer form"):
        freeze(torch.nn.Sequential(block), (4,), 3)


def test_individual_decays() -> None:
    block = stock_dense()
    block.neuron.voltage_decay = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]), requires_grad=False)
    with pytest.raises(FreezeError, match="dense0: 3 different values of voltage_decay"):
        freeze(torch.nn.Sequential(block), (4,), 3)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(FreezeError, match="dense0: it takes 4 inputs, but the layer before it has 6 neurons"):
        freeze(torch.nn.Sequential(stock_dense()), (6,), 3)


def test_an_unknown_block() -> None:
    with pytest.raises(FreezeError, match=r"block 1 \(Softmax\) has no netx form"):
        freeze(torch.nn.Sequential(stock_dense(), torch.nn.Softmax()), (4,), 3)
    with pytest.raises(FreezeError, match="no blocks with a synapse"):
        freeze(torch.nn.Sequential(), (4,), 3)


def test_blocks_that_have_no_place_in_a_network() -> None:
    """What docs/exactness.md says of SLAYER's other blocks."""
    cuba = import_slayer().block.cuba
    options = {"threshold": 1.0, "current_decay": 1.0, "voltage_decay": 0.5}
    late = cuba.Dense(options, 4, 3, delay=True, delay_shift=False)
    graded = cuba.Dense({**options, "graded_spike": True}, 4, 3, delay_shift=False)
    encoder = import_slayer().block.sigma_delta.Dense({"threshold": 1.0, "activation": torch.relu}, 4, 3, delay_shift=False)
    for block, message in (
        (late, "dense0: learnt axonal delays cannot be frozen yet; make the block with delay=False"),
        (graded, "dense0: graded spikes between layers are ignored by Lava's LIF; use graded_spike=False"),
        (encoder, "dense0: only blocks of slayer.block.cuba have an integer form here"),
    ):
        with pytest.raises(FreezeError, match=message):
            freeze(torch.nn.Sequential(block), (4,), 3)


def test_readout_and_window_go_with_the_network() -> None:
    network = freeze(small_model(), (4,), 7)
    assert (network.readout, network.steps, network.input_bits) == (Voltage(), 7, 0)
    assert freeze(torch.nn.Sequential(stock_dense()), (4,), 3, readout=Rate(3)).readout == Rate(3)


def test_freezing_changes_nothing() -> None:
    model = small_model().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert freeze(model, (4,), 3) == freeze(model, (4,), 3)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_every_refusal_is_one_of_ours() -> None:
    assert issubclass(FreezeError, QpsnnError) and FreezeError("x").exit_code == 1
