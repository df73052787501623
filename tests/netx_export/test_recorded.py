"""Spikes that others recorded: the golden vectors that Intel ships inside the lava-dl wheel, reproduced spike for spike.

Everything lies in the wheel's ``tests/lava/lib/dl/netx`` and was trained and recorded by Intel (lava-dl 0.6.0, BSD-3-Clause).
Recordings are counted from 0; "shift s": the aligned index t of ``simulate`` is the recording's index t + s.

| files                  | what                                             | shift | reset                             |
|------------------------|--------------------------------------------------|-------|-----------------------------------|
| gts/ntidigits          | 64-256-256-242, axonal delays, 3000 steps        | 4     | never                             |
| gts/pilotnet_lif       | PilotNet, 9 spiking layers and an integrator,    | depth | every 16 steps, the second one    |
|                        | 24 steps; u, v, spikes as Loihi 2's board gave   |       | came one step late                |
| tiny.net, gts/tinynet  | driven 3x16x16, two convolutions, 16 steps       | 1     | every 17 steps                    |
| gts/dense              | one dense layer 200-256, 2000 steps              | 1     | never                             |
| gts/pilotnet_sdnn      | PilotNet of sigma-delta neurons and one cut to   | depth | never                             |
|                        | 33 x 33 pixels; input, sums of 5 layers, output  |       |                                   |
| gts/tinynet_sdnn       | a Delta, a convolution and a Sigma, each by      | 0, 1  | never                             |
|                        | itself, 15 and 16 steps                          |       |                                   |

The wheel does not say what recorded the others; that pilotnet_lif comes from a board shows in its v (see REFRACTORY).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from netx_files import wheel
from numpy.typing import NDArray

from netx_export.hdf5 import read
from netx_export.network import (
    Delta,
    Dense,
    Drive,
    Integrator,
    Lif,
    Network,
    Population,
    Projection,
    Rate,
    Sigma,
    SigmaDelta,
)
from netx_export.simulate import Reset, Run, decide, simulate

Array = NDArray[Any]


def recorded(name: str) -> Array:
    """A recorded array as (C, H, W, time), (N, time) or (C, H, W): the wheel has W, H, C."""
    values = np.load(wheel(name))
    return np.moveaxis(values, [0, 1, 2], [2, 1, 0]) if values.ndim > 2 else values


# --- ntidigits


def test_ntidigits_all_22572_output_spikes() -> None:
    network = read(wheel("gts/ntidigits/ntidigits.net"))
    frames = np.load(wheel("gts/ntidigits/input.npy")).astype(np.int8).reshape(1, 1, 1, 64, 3000)
    expected = np.load(wheel("gts/ntidigits/output.npy")).astype(np.int32)
    assert expected.sum() == 22572
    run = simulate(network, frames, reset=None, record=[network.output.name], states=[])
    found = run.spikes[network.output.name][0]
    assert np.array_equal(found[:, :2996], expected[:, 4:])
    assert found[:, :2996].sum() == 22572  # nothing was recorded before the first spikes came through
    assert network.readout == Rate(11)  # the file's last layer, an average
    classes, tied = decide(network, run)
    scores = expected.reshape(11, 22, -1).sum(axis=(1, 2))
    assert classes.tolist() == [int(scores.argmax())] and tied.tolist() == [1]


# --- pilotnet_lif

LAYERS = {  # spikes in the steps compared, 16 or as many as were recorded
    "input": 565197,
    "conv-0": 101310,
    "conv-1": 44841,
    "conv-2": 16128,
    "conv-3": 9582,
    "conv-4": 4122,
    "fc-0": 110,
    "fc-1": 28,
    "fc-2": 3,
}
RECORDED = 24  # steps
REFRACTORY = 128  # what the board's v reads in the step of a spike: its refractory counter, not a voltage


@pytest.fixture(scope="module")
def pilotnet() -> Network:
    return read(wheel("gts/pilotnet_lif/network.net"))


def pilotnet_recording(layer: str) -> Array:
    return recorded(f"gts/pilotnet_lif/{layer}.npy").astype(np.int64)


@pytest.fixture(scope="module")
def pilotnet_run(pilotnet: Network) -> Run:
    image = pilotnet_recording("image")  # already the bias mantissas that drive the input
    frames = np.repeat(image[None, ..., None], 16, axis=-1)
    return simulate(pilotnet, frames, reset=Reset(16), states=[p.name for p in pilotnet.populations])


def test_pilotnet_is_what_was_recorded(pilotnet: Network) -> None:
    assert [p.shape for p in pilotnet.populations] == [
        *((3, 66, 200), (24, 32, 99), (36, 15, 49), (48, 7, 24), (64, 4, 22), (64, 2, 20)),
        *((100,), (50,), (10,), (1,)),
    ]
    assert {p.neuron for p in pilotnet.populations[:-1]} == {Lif(4096, 1024, 25)}
    assert pilotnet.output.neuron == Integrator(4096, 0)
    assert pilotnet.input.drive == Drive(40, 36)


@pytest.mark.parametrize(("depth", "layer"), list(enumerate(LAYERS)))
def test_pilotnet_first_window(pilotnet: Network, pilotnet_run: Run, depth: int, layer: str) -> None:
    """16 steps after the reset, of each layer as many as were recorded: spikes, and u and v as the board read them."""
    name = pilotnet.populations[depth].name
    steps = min(16, RECORDED - depth)
    spikes = pilotnet_run.spikes[name][0][..., :steps]
    expected = pilotnet_recording(layer)[..., depth : depth + steps]
    assert np.array_equal(spikes, expected)
    assert spikes.sum() == LAYERS[layer]
    if depth:  # the input's states were not recorded
        u = pilotnet_recording(f"{layer}-u")[..., depth : depth + steps]
        v = pilotnet_recording(f"{layer}-v")[..., depth : depth + steps]
        assert np.array_equal(pilotnet_run.current[name][0][..., :steps], u)
        fired = spikes > 0
        assert np.array_equal(pilotnet_run.voltage[name][0][..., :steps][~fired], v[~fired])
        assert fired.any() and np.all(v[fired] == REFRACTORY)
        assert np.all(pilotnet_run.voltage[name][0][..., :steps][fired] == 0)


def test_pilotnet_second_window(pilotnet: Network) -> None:
    """The second reset reached the layers one step late, so they are fed the recorded input spikes from index 17 on."""
    host = Population(pilotnet.input.name, pilotnet.input.shape)
    network = dataclasses.replace(pilotnet, populations=(host, *pilotnet.populations[1:]))
    frames = pilotnet_recording("input")[None, ..., 17:RECORDED]
    run = simulate(network, frames, reset=Reset(16), states=[])
    compared = 0
    for depth, layer in enumerate(LAYERS):
        steps = RECORDED - 17 - depth
        if depth and steps > 0:
            found = run.spikes[network.populations[depth].name][0][..., :steps]
            assert np.array_equal(found, pilotnet_recording(layer)[..., 17 + depth :]), layer
            compared += int(found.sum())
    assert compared > 1000
    on_time = simulate(network, pilotnet_recording("input")[None, ..., 16:RECORDED], reset=Reset(16), states=[])
    first = on_time.spikes[network.populations[1].name][0][..., :7]
    assert not np.array_equal(first, pilotnet_recording("conv-0")[..., 17:])  # one step earlier does not fit


def test_pilotnet_last_recording_is_of_another_run(pilotnet: Network) -> None:
    """fc-3 does not follow from the recorded spikes of fc-2, at any shift: nobody need wonder why it is not compared above."""
    weight = pilotnet.projections[-1].synapse.weight.astype(np.int64)
    assert pilotnet.output.bias is None and pilotnet.output.neuron == Integrator(
        4096, 0
    )  # so u = 64 * W s, whatever came before
    caused = 64 * weight @ pilotnet_recording("fc-2")
    found = pilotnet_recording("fc-3-u")
    assert caused.any() and found.any()
    for shift in range(RECORDED - 8):
        assert not np.array_equal(found[:, shift:], caused[:, : RECORDED - shift])
    assert not set(found[found != 0].tolist()) <= set(caused.reshape(-1).tolist())


# --- tinynet


def test_tinynet() -> None:
    """All three layers in the one alignment: recorded index t + 1 answers to frame t of its own layer; index 0 is empty."""
    network = read(wheel("tiny.net"))
    image = recorded("gts/tinynet/input_bias.npy").astype(np.int64)
    frames = np.repeat(image[None, ..., None], 15, axis=-1)
    run = simulate(network, frames, reset=Reset(17), states=[p.name for p in network.populations])
    for population, layer in zip(network.populations, ("input", "layer1", "output"), strict=True):
        expected = np.load(wheel(f"gts/tinynet/{layer}.npy"))[0].astype(np.int64)
        assert not expected[..., 0].any()
        assert np.array_equal(run.spikes[population.name][0], expected[..., 1:])
        assert expected[..., 1:].mean() > 0.02
    current = np.load(wheel("gts/tinynet/current.npy"))[0].astype(np.int64)
    assert np.array_equal(run.current["conv1"][0], 64 * current[..., 1:])


# --- dense


def test_dense() -> None:
    """A bare dense layer: recorded index t + 1 answers to input t; its u is recorded in units of 2**6."""
    weight = np.load(wheel("gts/dense/weight.npy"))
    network = Network(
        (Population("in", (200,)), Population("out", (256,), Lif(4096, 415, 6))),
        (Projection("in", "out", Dense(weight)),),
    )
    frames = np.load(wheel("gts/dense/in.npy")).astype(np.int8)[None]
    run = simulate(network, frames, reset=None)
    expected = np.load(wheel("gts/dense/out.npy")).astype(np.int64)
    current = np.load(wheel("gts/dense/current.npy")).astype(np.int64)
    assert expected.sum() == 1826
    assert np.array_equal(run.spikes["out"][0][:, :-1], expected[:, 1:])
    assert np.array_equal(run.current["out"][0][:, :-1], 64 * current[:, 1:])


# --- the files


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("mnist.net", [(784,), (512,), (512,), (10,)]),
        ("tiny.net", [(3, 16, 16), (24, 6, 6), (36, 1, 1)]),
        ("gts/ntidigits/ntidigits.net", [(1, 1, 64), (256,), (256,), (242,)]),
    ],
)
def test_shapes_of_the_files(name: str, shapes: list[tuple[int, ...]]) -> None:
    assert [p.shape for p in read(wheel(name)).populations] == shapes


# --- pilotnet_sdnn


def whole(name: str) -> Array:
    return recorded(f"gts/pilotnet_sdnn/{name}.npy").astype(np.int64)


def test_pilotnet_sdnn() -> None:
    """One image, shown in every step: the input's messages, the sums of two convolutions, the one output that sees the image."""
    network = read(wheel("gts/pilotnet_sdnn/network.net"))
    assert [p.neuron for p in network.populations] == [Delta(0), *map(SigmaDelta, (13, 0, 0, 0, 23, 1, 6)), Sigma()]
    frames = np.repeat(whole("input")[None], 19, axis=-1)
    front = Network(network.populations[:3], network.projections[:2])
    run = simulate(front, frames, states=["conv1", "conv2"])
    assert np.array_equal(run.spikes["input"][0], whole("act0")[..., :19])
    assert np.count_nonzero(run.spikes["input"]) == 9656
    for depth, name in enumerate(("sigma1", "sigma2"), start=1):
        expected = whole(name)[..., depth:]
        assert np.array_equal(run.current[f"conv{depth}"][0][..., : 20 - depth], expected)
        assert np.count_nonzero(expected) > expected.size / 2
    output = simulate(network, frames[..., :1]).voltage["dense9"]
    assert output.reshape(-1).tolist() == whole("output")[0, 8:].tolist() == [-31026]


def test_pilotnet_sdnn_square() -> None:
    """The recorded messages of the input, cut to 33 x 33, into all four convolutions."""
    network = read(wheel("gts/pilotnet_sdnn/square_network.net"))
    host = Population("input", (3, 33, 33))
    network = dataclasses.replace(network, populations=(host, *network.populations[1:]), input_bits=16)
    run = simulate(network, whole("act0")[None, ..., :33, :], states=[p.name for p in network.populations])
    for depth in range(1, 5):
        expected = whole(f"sigma{depth}_square")[..., depth:]
        assert np.array_equal(run.current[f"conv{depth}"][0][..., : 20 - depth], expected)


# --- tinynet_sdnn


def test_tinynet_sdnn() -> None:
    """The Delta alone, and the dense layer alone: recorded with messages cut to 0 or 1, as stock Lava cuts those of 0 bits.

    The convolution was recorded for one step only, in which nothing but its biases acts.
    """
    folder = "gts/tinynet_sdnn"
    image = recorded(f"{folder}/input_bias.npy")[..., None]
    values = (image * np.sin(2 * np.pi * np.arange(15) / 15)).astype(int)
    delta = Network((Population("in", (3, 16, 16), Delta(20)),), ())
    messages = recorded(f"{folder}/input.npy").astype(np.int64)
    assert np.array_equal(simulate(delta, values[None]).spikes["in"][0], messages)
    assert 0.02 < np.mean(messages != 0) < 0.8
    dense = Network(
        (Population("in", (864,)), Population("out", (100,), Sigma())),
        (Projection("in", "out", Dense(np.load(wheel(f"{folder}/layer2_weight.npy")))),),
        input_bits=2,
    )
    flat = np.load(wheel(f"{folder}/layer1.npy")).reshape(1, 864, 16)  # W, H, C order here
    sums = np.load(wheel(f"{folder}/layer2.npy")).astype(np.int64)
    assert np.array_equal(simulate(dense, (flat != 0).astype(int)).spikes["out"][0][:, :15], sums[:, 1:])
