"""The integer network: what can be built, what cannot and why, and when two are equal."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import graphs, networks

from netx_export.errors import NetworkError, QpsnnError
from netx_export.network import (
    Conv,
    Dense,
    Drive,
    Integrator,
    Lif,
    Network,
    Population,
    Projection,
    Rate,
    Voltage,
    neuron_of,
)

LIF = Lif(4096, 1024, 25)
ONES = np.ones((2, 3), np.int32)
KERNEL = np.ones((4, 2, 3, 3), np.int32)


def small(**changes: Any) -> Network:
    """in (3) -> out (2), with what is to be changed."""
    parts: dict[str, Any] = {
        "populations": (Population("in", (3,)), Population("out", (2,), LIF)),
        "projections": (Projection("in", "out", Dense(ONES)),),
    }
    return Network(**{**parts, **changes})


# --- neurons


@pytest.mark.parametrize("kind", [Lif, Integrator])
@pytest.mark.parametrize("value", [-1, 4097, 0.5, True, "1", None])
def test_decays_are_whole_4096ths(kind: type, value: object) -> None:
    for name in ("current_decay", "voltage_decay"):
        arguments: dict[str, Any] = {"current_decay": 1, "voltage_decay": 1, **({"threshold": 1} if kind is Lif else {})}
        with pytest.raises(NetworkError, match=rf"{name} is .*; it must be a whole number in 0\.\.4096\."):
            kind(**{**arguments, name: value})


@pytest.mark.parametrize("value", [-1, (1 << 24) + 1, 2.0])
def test_threshold_range(value: object) -> None:
    with pytest.raises(NetworkError, match=r"threshold is .*; it must be a whole number in 0\.\.16777216\."):
        Lif(0, 0, value)  # type: ignore[arg-type]


def test_the_largest_threshold_of_the_chip_is_an_integrator() -> None:
    with pytest.raises(
        NetworkError, match=r"a Lif with the chip's largest threshold, 131071, is an Integrator: use that type"
    ):
        Lif(4096, 0, 131071)
    assert neuron_of(4096, 0, 131071) == Integrator() == Integrator(4096, 0)
    assert neuron_of(4096, 0, 131072) == Lif(4096, 0, 131072)
    assert Integrator().threshold == 131071


def test_numpy_integers_become_plain() -> None:
    assert type(Lif(np.int64(1), np.int32(2), np.uint8(3)).threshold) is int  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("weight", 1.5), ("bias", 1 << 31), ("bias", None)])
def test_drive_is_whole(name: str, value: object) -> None:
    with pytest.raises(NetworkError, match=rf"drive {name} is .*; it must be a whole number in"):
        Drive(**{name: value})  # type: ignore[arg-type]


# --- populations


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, r"a population needs a name, found ''"),
        ({"name": 3}, r"a population needs a name, found 3"),
        ({"shape": (2, 3)}, r"p: shape \(2, 3\) must be \(C, H, W\) or \(N,\) of positive sizes"),
        ({"shape": ()}, r"p: shape \(\) must be"),
        ({"shape": (2, 0, 3)}, r"p: shape \(2, 0, 3\) must be"),
        ({"shape": (-4,)}, r"p: shape \(-4,\) must be"),
        ({"shape": (2.5,)}, r"p: shape is \(2\.5,\); whole numbers are expected"),
        ({"shape": 7}, r"p: shape is 7; whole numbers are expected"),
        ({"shape": (1 << 28,)}, r"p: 268435456 neurons; at most 134217728 are allowed in a population"),
        ({"shape": (1 << 20, 1 << 20, 1 << 20)}, r"at most 134217728 are allowed"),
        ({"bias": [1, 2], "neuron": None}, r"p: a bias needs neurons, but this population is the host's input"),
        ({"drive": Drive(), "neuron": None}, r"p: a drive needs neurons, but this population is the host's input"),
        ({"bias": [1, 2, 3]}, r"p: bias of shape \(3,\); expected \(2,\), one value per channel"),
        ({"bias": [[1, 2]]}, r"p: bias of shape \(1, 2\); expected \(2,\)"),
        ({"bias": [1, 0.5]}, r"p: bias: 1 of 2 values are not whole numbers, the first is 0\.5; the chip holds integers only"),
        ({"bias": [1, float("nan")]}, r"p: bias: expected integers, found values that are not finite"),
        ({"bias": [float("inf"), 1]}, r"p: bias: expected integers, found values that are not finite"),
        ({"bias": ["1", "2"]}, r"p: bias: expected integers, found <U1"),
        ({"bias": [1, 1j]}, r"p: bias: expected integers, found complex128"),
        ({"bias": [1, 1 << 31]}, r"p: bias: values 1\.\.2147483648 do not fit 32 bits"),
        ({"bias": [-3e9, 1]}, r"p: bias: values .* do not fit 32 bits"),
    ],
)
def test_population_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message) as caught:
        Population(**{"name": "p", "shape": (2, 5, 5), "neuron": LIF, **arguments})
    assert isinstance(caught.value, QpsnnError) and isinstance(caught.value, ValueError)
    assert caught.value.exit_code == 1


def test_a_bias_of_zeros_is_none() -> None:
    assert Population("p", (2,), LIF, np.zeros(2)).bias is None
    assert Population("p", (2,), LIF, np.zeros(2)) == Population("p", (2,), LIF)
    assert Population("p", (2,), LIF, [1.0, -1.0]).bias.tolist() == [1, -1]  # type: ignore[arg-type, union-attr]


# --- synapses


@pytest.mark.parametrize("weight", [np.ones(3), np.ones((1, 2, 3)), np.ones((0, 4)), np.ones((4, 0))])
def test_dense_shape(weight: np.ndarray) -> None:
    with pytest.raises(NetworkError, match=r"dense weight of shape .*; expected \(post, pre\)"):
        Dense(weight)


def test_dense_values() -> None:
    with pytest.raises(NetworkError, match=r"dense weight: 2 of 6 values are not whole numbers, the first is 0\.25"):
        Dense([[1, 0.25, 0.5], [1, 1, 1]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": np.ones((4, 2, 3))}, r"conv weight of shape \(4, 2, 3\); expected \(out, in/groups, ky, kx\)"),
        ({"weight": np.ones((4, 0, 3, 3))}, r"conv weight of shape \(4, 0, 3, 3\); expected"),
        ({"weight": KERNEL * 0.5}, r"conv weight: 72 of 72 values are not whole numbers"),
        ({"stride": (0, 1)}, r"conv stride is \(0, 1\); expected two numbers \(y, x\), each in 1\.\.65535"),
        ({"stride": (1, 1 << 16)}, r"conv stride is \(1, 65536\); expected two numbers"),
        ({"stride": (1,)}, r"conv stride is \(1,\); expected two numbers"),
        ({"stride": (1.5, 1)}, r"conv stride is \(1\.5, 1\); whole numbers are expected"),
        ({"stride": 2}, r"conv stride is 2; whole numbers are expected"),
        ({"padding": (-1, 0)}, r"conv padding is \(-1, 0\); expected two numbers \(y, x\), each in 0\.\.65535"),
        ({"dilation": (1, 0)}, r"conv dilation is \(1, 0\); expected two numbers"),
        ({"groups": 0}, r"conv groups 0 must divide its 4 output channels"),
        ({"groups": 3}, r"conv groups 3 must divide its 4 output channels"),
        ({"groups": 1.0}, r"conv groups is \(1\.0,\); whole numbers are expected"),
    ],
)
def test_conv_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        Conv(**{"weight": KERNEL, **arguments})


@pytest.mark.parametrize("source", [(1, 5, 5), (18,)])
def test_conv_takes_its_own_channels(source: tuple[int, ...]) -> None:
    with pytest.raises(NetworkError, match=r"conv of 2 input channels does not take a source of shape"):
        Conv(KERNEL).output_shape(source)


def test_conv_larger_than_its_input() -> None:
    with pytest.raises(NetworkError, match=r"conv kernel reaches 5 pixels over a padded input of 4"):
        Conv(KERNEL, dilation=(1, 2)).output_shape((2, 4, 4))
    assert Conv(KERNEL, dilation=(1, 2), padding=(0, 1)).output_shape((2, 4, 4)) == (4, 2, 2)


@given(networks(denses=0, steps=(2, 2)))
@settings(max_examples=40)
def test_output_shape_counts_the_places_of_the_kernel(network: Network) -> None:
    for projection in network.projections:
        conv, source = projection.synapse, network[projection.source].shape
        assert isinstance(conv, Conv)
        assert conv.in_channels == source[0]
        for axis in (0, 1):
            last = source[1 + axis] + conv.padding[axis] - 1
            reach = (conv.weight.shape[2 + axis] - 1) * conv.dilation[axis]
            starts = [y for y in range(-conv.padding[axis], last + 1, conv.stride[axis]) if y + reach <= last]
            assert conv.output_shape(source)[1 + axis] == len(starts)


def test_values_are_read_only_copies() -> None:
    weight = np.ones((2, 3), np.int32)
    dense = Dense(weight)
    weight[0, 0] = 7
    assert dense.weight[0, 0] == 1 and dense.weight.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        dense.weight[0, 0] = 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        dense.weight = weight  # type: ignore[misc]


# --- projections


@pytest.mark.parametrize(
    ("delay", "message"),
    [
        ([[1]], r"a -> b: delay of shape \(1, 1\); expected \(2, 1\) or \(1, 3\)"),
        ([1, 2], r"a -> b: delay of shape \(2,\); expected \(2, 1\) or \(1, 3\)"),
        ([[1, 2]], r"a -> b: delay of shape \(1, 2\); expected"),
        ([[1], [63]], r"a -> b: delays 1\.\.63 steps; the limit is 0\.\.62"),
        ([[-1], [1]], r"a -> b: delays -1\.\.1 steps; the limit is 0\.\.62"),
        ([[0.5], [1]], r"a -> b: delay: 1 of 2 values are not whole numbers"),
    ],
)
def test_delay_errors(delay: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        Projection("a", "b", Dense(ONES), delay)


def test_conv_has_no_delay() -> None:
    with pytest.raises(NetworkError, match=r"a -> b: only dense synapses can have delays \(Lava ignores a conv's\)"):
        Projection("a", "b", Conv(KERNEL), [[1]])  # type: ignore[arg-type]


def test_delays_have_one_form() -> None:
    assert Projection("a", "b", Dense(ONES), np.zeros((2, 1))).delay is None
    column = np.ones((4, 1), np.int32)
    lone = Projection("a", "b", Dense(column), np.array([[3]]))  # one source: its delay is that of all targets
    assert lone == Projection("a", "b", Dense(column), np.full((4, 1), 3))


# --- networks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"populations": ()}, r"a network needs at least one population"),
        (
            {"populations": (Population("in", (3,)), Population("in", (2,), LIF))},
            r"population 'in' is there twice; names must be unique",
        ),
        ({"projections": ()}, r"out: no projection reaches this population"),
        (
            {"populations": (Population("in", (3,)), Population("out", (2,)))},
            r"in -> out: the target has no neurons",
        ),
        (
            {"populations": (Population("in", (3,)), Population("out", (2,), LIF, drive=Drive()))},
            r"out: only the first population can be driven by the host",
        ),
        ({"projections": (Projection("in", "gone", Dense(ONES)),)}, r"in -> gone: there is no population 'gone'"),
        ({"projections": (Projection("gone", "out", Dense(ONES)),)}, r"gone -> out: there is no population 'gone'"),
        (
            {"projections": (Projection("in", "out", Dense(ONES.T)),)},
            r"in -> out: dense weight of shape \(3, 2\) does not connect 3 to 2 neurons",
        ),
        (
            {"projections": (Projection("in", "out", Conv(KERNEL)),)},
            r"in -> out: conv of 2 input channels does not take a source of shape \(3,\)",
        ),
        (
            {
                "populations": (Population("in", (2, 5, 5)), Population("out", (4, 3, 2), LIF)),
                "projections": (Projection("in", "out", Conv(KERNEL)),),
            },
            r"in -> out: the convolution makes \(4, 3, 3\), the target's shape is \(4, 3, 2\)",
        ),
        ({"input_bits": 25}, r"input_bits is 25; it must be a whole number in 0\.\.24"),
        ({"input_bits": -1}, r"input_bits is -1"),
        ({"steps": 0}, r"steps is 0; it must be a whole number in 1\.\.1048576"),
        ({"steps": 2.0}, r"steps is 2\.0"),
        ({"readout": Rate(3)}, r"out: 2 neurons cannot be shared evenly by 3 classes"),
    ],
)
def test_network_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        small(**changes)


def test_rate_needs_classes() -> None:
    with pytest.raises(NetworkError, match=r"classes is 0; it must be a whole number in 1\.\."):
        Rate(0)


def test_a_second_population_that_nothing_reaches() -> None:
    with pytest.raises(NetworkError, match=r"b: no projection reaches this population"):
        small(populations=(Population("in", (3,)), Population("out", (2,), LIF), Population("b", (1,))))


def test_depth_is_the_longest_path() -> None:
    populations = tuple(Population(n, (1,), LIF) for n in "abcd")
    one = Dense(np.array([[1]]))
    edges = [("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("a", "d"), ("d", "b"), ("d", "d")]
    network = Network(populations, tuple(Projection(x, y, one) for x, y in edges))
    assert network.depth == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert not network.is_chain
    assert [p.source for p in network.into("d")] == ["c", "a", "d"]


def test_depth_of_a_population_listed_before_its_source() -> None:
    populations = tuple(Population(n, (1,), LIF) for n in "abc")
    one = Dense(np.array([[1]]))
    network = Network(populations, (Projection("a", "c", one), Projection("c", "b", one)))
    with pytest.raises(NetworkError, match=r"b: list its source before it; only recurrent projections may go back"):
        _ = network.depth


def test_chain() -> None:
    network = small()
    assert network.is_chain and network.input.name == "in" and network.output.name == "out"
    assert network["in"].size == 3
    assert not dataclasses.replace(network, projections=network.projections * 2).is_chain


def test_readouts_have_names() -> None:
    assert (str(Voltage()), str(Rate(2))) == ("integrator", "rate")


@given(graphs())
@settings(max_examples=30)
def test_equal_by_value_and_only_then(network: Network) -> None:
    assert copy.deepcopy(network) == network
    assert pickle.loads(pickle.dumps(network)) == network
    assert network != small() and network != "network"
    for i, projection in enumerate(network.projections):
        weight = projection.synapse.weight.copy()
        weight.flat[-1] += 1
        changed = dataclasses.replace(projection, synapse=dataclasses.replace(projection.synapse, weight=weight))
        projections = (*network.projections[:i], changed, *network.projections[i + 1 :])
        assert dataclasses.replace(network, projections=projections) != network
    for i, population in enumerate(network.populations):
        renamed = dataclasses.replace(population, name="other")
        assert renamed != population
        if population.neuron is not None:
            faster = dataclasses.replace(population.neuron, voltage_decay=(population.neuron.voltage_decay + 1) % 4097)
            changed_population = dataclasses.replace(population, neuron=faster)
            populations = (*network.populations[:i], changed_population, *network.populations[i + 1 :])
            assert dataclasses.replace(network, populations=populations) != network


def test_nothing_that_holds_arrays_is_hashable() -> None:
    for value in (small().input, small().projections[0], Dense(ONES), Conv(KERNEL)):
        with pytest.raises(TypeError, match="unhashable"):
            hash(value)
