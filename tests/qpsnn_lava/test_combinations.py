"""Every criterion with every quantiser: a network that is scored, cut and frozen is exact, or refused by the layer's name."""

from __future__ import annotations

import re
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netx_export.errors import FreezeError
from netx_export.network import Integrator, Voltage
from netx_export.simulate import simulate
from qpsnn_lava.blocks import Conv, Dense, Flatten, Integrate, NeuronOptions
from qpsnn_lava.coding import Coding
from qpsnn_lava.config import CriterionName
from qpsnn_lava.data import Dataset, Split
from qpsnn_lava.freeze import freeze
from qpsnn_lava.model import SpikingNetwork, set_quantised
from qpsnn_lava.prune import TieBreak, choose, cut, keep_counts, score
from qpsnn_lava.quantise import Gamma, Grid, Per, Quantiser
from qpsnn_lava.train import to_input

torch.set_num_threads(1)
CODING = Coding("direct", 4, 4)
SHAPE = (2, 6, 6)


def _dataset() -> Dataset:
    random = np.random.default_rng(0)
    splits = [Split(random.integers(0, 16, (n, *SHAPE)).astype(np.uint8), np.arange(n) % 4) for n in (24, 8, 8)]
    return Dataset("made", *splits, max_value=15, classes=4)


def _model(seed: int, quantiser: Quantiser) -> SpikingNetwork:
    torch.manual_seed(seed)
    options = NeuronOptions(voltage_decay=1000, threshold=0.5)
    layers = [
        Conv(options, quantiser, 2, 6, padding=1, input_max=15),
        Conv(options, quantiser, 6, 8, stride=2, padding=1),
        Flatten(),
        Dense(options, quantiser, 8 * 9, 10),
        Integrate(Quantiser(8), 10, 4),
    ]
    model = SpikingNetwork(layers, ["a", "b", "c", "output"], Voltage())
    model.train()
    with torch.no_grad():  # the norms see the data, so that the layers fire
        for _ in range(10):
            model(to_input(_dataset().train.images, CODING, 15, seed, np.arange(24)))
    set_quantised(model, True)
    return model.eval()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 100),
    criterion=st.sampled_from(get_args(CriterionName)),
    tie_break=st.sampled_from(get_args(TieBreak)),
    keep=st.sampled_from([0.25, 0.5, 0.9]),
    bits=st.integers(2, 8),
    grid=st.sampled_from(get_args(Grid)),
    gamma=st.sampled_from(get_args(Gamma)),
    n2uq=st.booleans(),
    per=st.sampled_from(get_args(Per)),
    segments=st.integers(1, 4),
    masked=st.booleans(),
)
def test_scored_cut_frozen_exact(
    seed: int, criterion: CriterionName, tie_break: TieBreak, keep: float, gamma: Gamma, n2uq: bool, per: Per, **options: Any
) -> None:
    if gamma == "none":
        n2uq, per = False, "layer"
    model = _model(seed, Quantiser(gamma=gamma, n2uq=n2uq, per=per, **options))
    scores = score(model, _dataset(), CODING, samples=24, eps=1e-6, seed=seed, criterion=criterion)
    kept = choose(scores, keep_counts(scores, keep, "layer", tie_break), tie_break=tie_break)
    small = cut(model, kept, SHAPE)
    assert isinstance(small, SpikingNetwork)
    if per == "channel":
        with pytest.raises(FreezeError, match=r"a: it was trained with a scale for each of its channels"):
            freeze(small, SHAPE, CODING.steps, input_bits=4)
        return
    try:
        network = freeze(small, SHAPE, CODING.steps, input_bits=4)
    except FreezeError as error:  # on a grid that reaches from -1 to 1 small weights may all be zero
        assert gamma == "none" and re.match(r"[abc]: all weights are zero", str(error))
        return
    assert [network[name].shape[0] for name in "abc"] == [len(kept[i]) for i in (0, 1, 3)]
    frames = to_input(_dataset().test.images, CODING, 15, seed, np.arange(8))
    run = simulate(network, frames.numpy().astype(np.int64), states=["output"])
    with torch.no_grad():
        for block, name in zip(small.blocks, ("a", "b", None, "c", "output"), strict=True):
            frames = block(frames)
            if name is not None and isinstance(network[name].neuron, Integrator):
                np.testing.assert_array_equal(frames.numpy() * 4096, run.voltage[name])
            elif name is not None:
                np.testing.assert_array_equal(frames.numpy(), run.spikes[name])
    assert gamma == "none" or run.spikes["a"].any()
