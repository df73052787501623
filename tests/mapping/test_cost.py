from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapping.chip import Loihi1Cost, Loihi2Cost, load_chip
from mapping.cost import (
    ConvInput,
    DenseInput,
    Usage,
    binding,
    channels_by_group,
    conv_axon_in,
    conv_list_words,
    conv_words,
    dense_words,
    excess,
    fan_out,
    index_bits,
    kernel_masks,
    least_usage,
    list_words,
    map_entries,
    plan_layers,
    power_of_two_parts,
    slice_usage,
)
from netx_export.network import Conv, Dense, Integrator, Lif, Network, Population, Projection

LOIHI2 = Loihi2Cost(64, 8, 12, 4, 2)
LOIHI2_P2 = Loihi2Cost(64, 2, 12, 4, 2)
LOIHI1 = Loihi1Cost(64, 64, 10, 6, 12, 2, 256)
LIF = Lif(4096, 1024, 25)


def conv(out: int, per_group: int = 1, groups: int = 1, kernel: tuple[int, int] = (3, 3), bits: int = 4) -> ConvInput:
    return ConvInput("source", (9, 9), out, per_group, groups, kernel, (1, 1), (0, 0), (1, 1), bits)


# Words per (input channel, ky, kx) at p = 2 (loihi-mapping notes, section 2).
WIDTHS = (128, 127, 120, 112, 96, 80, 72, 64, 63, 60, 56, 48, 44, 40, 36, 33, 32, 24, 16)
WORDS = {
    2: (5, 10, 7, 6, 5, 4, 4, 3, 7, 5, 4, 3, 4, 3, 3, 3, 2, 2, 1),
    4: (9, 14, 11, 10, 8, 7, 6, 5, 9, 7, 6, 5, 5, 4, 4, 4, 3, 3, 2),
    8: (17, 22, 19, 17, 14, 12, 11, 9, 13, 11, 10, 8, 8, 7, 6, 6, 5, 5, 3),
}


@pytest.mark.parametrize("bits", WORDS)
def test_conv_lists_are_the_published_ones(bits: int) -> None:
    assert tuple(conv_list_words(n, bits, LOIHI2_P2) for n in WIDTHS) == WORDS[bits]


def test_the_power_of_two_effect() -> None:
    """64 -> 63 channels at 4 bit cost 80 % more words, 64 -> 40 20 % less, 64 -> 32 40 % less."""
    words = {n: conv_list_words(n, 4, LOIHI2_P2) for n in (64, 63, 40, 32)}
    assert [words[n] / words[64] for n in (63, 40, 32)] == [1.8, 0.8, 0.6]


# PilotNet's layers as the compiler printed them: (inputs x kernel, channels, stored bits) -> words.
@pytest.mark.parametrize(
    ("per_group", "out", "bits", "words"),
    [(3, 24, 5, 81), (24, 36, 4, 864), (36, 48, 4, 1620), (48, 64, 4, 2160), (64, 64, 4, 2880)],
)
def test_conv_words_of_pilotnet(per_group: int, out: int, bits: int, words: int) -> None:
    assert conv_words(conv(out, per_group, bits=bits), (0, out), LOIHI2) == words


@pytest.mark.parametrize(
    ("pre", "neurons", "bits", "words"),
    [(2560, 9, 3, 7680), (2560, 1, 3, 2560), (100, 50, 4, 1300), (50, 10, 5, 150), (10, 1, 6, 10)],
)
def test_dense_words_of_pilotnet(pre: int, neurons: int, bits: int, words: int) -> None:
    assert dense_words(pre, neurons, bits, LOIHI2) == words


@given(st.integers(0, 5000))
def test_parts_are_distinct_powers_of_two_and_add_up(number: int) -> None:
    parts = power_of_two_parts(number)
    assert sum(parts) == number and list(parts) == sorted(set(parts), reverse=True)
    assert all(part & (part - 1) == 0 for part in parts)


@pytest.mark.parametrize(
    ("channels", "entries"), [(1, 1), (2, 1), (3, 1), (4, 1), (7, 1), (12, 2), (24, 2), (36, 2), (48, 2), (63, 4), (64, 1)]
)
def test_map_entries(channels: int, entries: int) -> None:
    assert map_entries(10, channels, LOIHI2) == 10 * entries


@pytest.mark.parametrize(("channels", "axons"), [(1, 1), (3, 2), (24, 2), (48, 2), (63, 2), (64, 1)])
def test_conv_axon_in(channels: int, axons: int) -> None:
    assert conv_axon_in(conv(64), (0, channels)) == axons


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_channels_by_group(groups: int, each: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, groups * each - 1))
    last = data.draw(st.integers(first + 1, groups * each))
    members = [channel // each for channel in range(first, last)]
    expected = [members.count(group) for group in range(groups) if group in members]
    assert list(channels_by_group(groups * each, groups, (first, last))) == expected


def test_depthwise_lists_hold_one_channel_each() -> None:
    pool = conv(48, per_group=1, groups=48, kernel=(2, 2))
    assert conv_words(pool, (0, 48), LOIHI2) == 48 * 4
    assert conv_words(pool, (5, 11), LOIHI2) == 6 * 4
    assert conv_axon_in(pool, (5, 11)) == 1


def test_two_groups_are_two_convolutions_side_by_side() -> None:
    both, half = conv(24, per_group=3, groups=2), conv(12, per_group=3)
    assert conv_words(both, (0, 24), LOIHI2) == 2 * conv_words(half, (0, 12), LOIHI2)
    assert conv_words(both, (9, 14), LOIHI2) == conv_words(half, (0, 3), LOIHI2) + conv_words(half, (0, 2), LOIHI2)


def packed(chunk: list[int]) -> int:
    """Words of a row of bit fields laid one after another."""
    return len(range(0, sum(chunk), 64))


@given(st.integers(0, 400), st.integers(1, 20))
def test_loihi1_lists_by_laying_bits_out(synapses: int, bits: int) -> None:
    fields = [bits] * synapses
    chunks = [fields[i : i + 64] for i in range(0, synapses, 64)]
    assert list_words(synapses, bits, LOIHI1) == sum(packed([4, 6, *chunk]) for chunk in chunks)


@pytest.mark.parametrize(("neurons", "bits"), [(1, 0), (2, 6), (64, 6), (65, 7), (128, 7), (129, 8), (1024, 10), (5000, 12)])
def test_index_bits(neurons: int, bits: int) -> None:
    assert index_bits(neurons, LOIHI1) == bits


def test_kernel_masks_by_hand() -> None:
    def of(*arguments: object) -> dict[tuple[int, ...], tuple[tuple[int, ...], int]]:
        return {mask: (bases, extent) for mask, bases, extent in kernel_masks(*arguments)}  # type: ignore[arg-type]

    # Kernel positions -> the first output of each input that uses them, and how far the last output is from it.
    assert of(4, 3, 1, 0, 1, (0, 2)) == {(0,): ((0,), 0), (0, 1): ((0,), 1), (1, 2): ((0,), 1), (2,): ((1,), 0)}
    assert of(5, 3, 1, 1, 1, (0, 5)) == {(0, 1): ((0,), 1), (0, 1, 2): ((0, 1, 2), 2), (1, 2): ((3,), 1)}
    assert of(8, 2, 2, 0, 1, (0, 4)) == {(0,): ((0, 1, 2, 3), 0), (1,): ((0, 1, 2, 3), 0)}
    assert of(1, 3, 1, 1, 1, (0, 1)) == {(1,): ((0,), 0)}  # only the middle of the kernel is ever used


def test_usages_add_and_the_longest_list_stays() -> None:
    total = sum([Usage(1, 1, 2, 3, 4, 5, 6, 7), Usage(10, 1, 20, 30, 40, 50, 60, 5)], Usage())
    assert total == Usage(11, 2, 22, 33, 44, 55, 66, 7)
    assert total.pool == 22 + 11 + 66 + 44  # AxonMem is an estimate and stays out


def test_excess_and_binding() -> None:
    limits = {"neurons": 10, "axon_in": 4, "neuron_groups": 1}
    use = Usage(neurons=11, axon_in=8, neuron_groups=1)
    assert excess(use, limits) == (("axon_in", 8, 4), ("neurons", 11, 10))
    assert binding(use, limits) == ("axon_in", 2.0)
    assert excess(Usage(neurons=10, axon_in=4, neuron_groups=1), limits) == ()
    assert binding(Usage(neurons=1, neuron_groups=1), limits) == ("neurons", 0.1)  # groups only count slices


def branching() -> Network:
    """host -> a (conv), a -> b (conv, depthwise) and a -> out (dense), b -> out, out -> out; out is read by the host."""
    ones = np.ones
    return Network(
        (
            Population("host", (2, 6, 6)),
            Population("a", (3, 4, 4), LIF),
            Population("b", (3, 2, 2), LIF),
            Population("out", (5,), Integrator()),
        ),
        (
            Projection("host", "a", Conv(ones((3, 2, 3, 3), int))),
            Projection("a", "b", Conv(ones((3, 1, 2, 2), int), stride=(2, 2), groups=3)),
            Projection("a", "out", Dense(ones((5, 48), int))),
            Projection("b", "out", Dense(-3 * ones((5, 12), int)), delay=np.full((5, 1), 5)),
            Projection("out", "out", Dense(np.eye(5, dtype=int))),
        ),
    )


def test_layers_are_shapes_and_bits() -> None:
    a, b, out = plan_layers(branching())
    assert (a.name, a.kind, a.shape, a.conv_targets, a.neuron_targets) == ("a", "conv", (3, 4, 4), 1, 1)
    assert (b.kind, b.shape, b.conv_targets, b.neuron_targets) == ("conv", (3, 2, 2), 0, 1)
    assert (out.kind, out.shape, out.conv_targets, out.neuron_targets) == ("dense", (5,), 0, 2)
    assert out.inputs == (DenseInput("a", 48, 1), DenseInput("b", 12, 2, 3), DenseInput("out", 5, 1))
    assert b.inputs[0] == ConvInput("a", (4, 4), 3, 1, 3, (2, 2), (2, 2), (0, 0), (1, 1), 1)


def test_a_slice_adds_up_its_projections() -> None:
    a, b, out = plan_layers(branching())
    chip = load_chip("loihi2")
    assert slice_usage(out, ((0, 5),), chip) == Usage(
        neurons=5, neuron_groups=1, axon_in=48 + 12 + 5, axon_map=2 * 5, synapse_words=48 * 2 + 12 * 2 + 5 * 2
    )
    # 2 channels of 3 x 4 pixels: feeding a convolution 12 entries, feeding a dense layer 24.
    assert slice_usage(a, ((0, 2), (0, 3), (0, 4)), chip) == Usage(
        neurons=24, neuron_groups=1, axon_in=1, axon_map=12 + 24, synapse_words=2 * 9
    )
    # loihi1: 12 in-axons with a delay of 3 bits: 5 * (2 + 3) + 10 = 35 bits; 48 and 5 with 5 * 1 + 10 = 15.
    assert slice_usage(out, ((0, 5),), load_chip("loihi1")) == Usage(
        neurons=5, neuron_groups=1, axon_in=65, synapse_words=65, list_words=1
    )
    # depthwise 2x2, stride 2: every pixel has its own mask of one kernel position; the lists of the 3 channels follow another.
    assert slice_usage(b, ((0, 3), (0, 2), (0, 2)), load_chip("loihi1")) == Usage(
        neurons=12, neuron_groups=1, axon_in=16, synapse_words=4, list_words=1
    )


def test_an_input_with_neurons_has_one_axon_and_no_synapses() -> None:
    network = Network(
        (Population("in", (3, 8, 8), LIF), Population("c", (4, 6, 6), LIF)),
        (Projection("in", "c", Conv(np.ones((4, 3, 3, 3), int))),),
    )
    layer = plan_layers(network)[0]
    assert layer.kind == "input" and layer.shape == (3, 8, 8)
    assert slice_usage(layer, ((0, 3), (0, 8), (0, 4)), load_chip("loihi2")) == Usage(
        neurons=96, neuron_groups=1, axon_in=1, axon_map=32
    )


@given(st.integers(1, 200), st.integers(1, 8), st.data())
def test_cutting_channels_never_saves_words(channels: int, bits: int, data: st.DataObject) -> None:
    """What makes the count of the whole layer a lower bound."""
    cut = data.draw(st.integers(0, channels))
    whole = conv_list_words(channels, bits, LOIHI2)
    assert whole <= conv_list_words(cut, bits, LOIHI2) + conv_list_words(channels - cut, bits, LOIHI2)


def test_the_least_usage_of_loihi1_counts_weights_in_use_only() -> None:
    network = Network(
        (Population("in", (1, 1, 1)), Population("c", (16, 1, 1), LIF)),
        (Projection("in", "c", Conv(np.ones((16, 1, 3, 3), int), padding=(1, 1))),),
    )
    least = least_usage(plan_layers(network)[0], load_chip("loihi1"))
    assert least == Usage(neurons=16, neuron_groups=1, axon_in=1, synapse_words=1)  # 16 weights of 1 bit


@pytest.mark.parametrize("groups", [1, 2])
def test_fan_out_by_going_through_the_synapses(groups: int) -> None:
    """Stride 2, dilation 2 and padding, channels and pixels cut: the cores of each source neuron, one synapse at a time."""
    synapses = ConvInput("source", (7, 9), 4, 3, groups, (2, 3), (2, 2), (1, 0), (1, 2), 4)
    out_h, out_w = 4, 3
    targets = [((c, c + 1), (y, min(y + 3, out_h)), (x, x + 1)) for c in range(4) for y in (0, 3) for x in range(out_w)]
    reached: dict[tuple[int, int, int], set[int]] = {}
    for core, (channels, rows, columns) in enumerate(targets):
        for o, y, x, i, ky, kx in np.ndindex(4, out_h, out_w, 3, 2, 3):
            if all(a <= n < b for n, (a, b) in zip((o, y, x), (channels, rows, columns), strict=True)):
                pre = (o // (4 // groups) * 3 + i, 2 * y + ky - 1, 2 * x + 2 * kx)
                if 0 <= pre[1] < 7 and 0 <= pre[2] < 9:
                    reached.setdefault(pre, set()).add(core)
    fan = fan_out((3 * groups, 7, 9), synapses, targets)
    assert fan.convolution
    expected = [len(reached.get(pre, ())) for pre in np.ndindex(3 * groups, 7, 9)]
    assert fan.cores.ravel().tolist() == expected and min(expected) == 0


def test_fan_out_of_a_dense_projection() -> None:
    fan = fan_out((2, 3, 3), DenseInput("source", 18, 4), [((0, 4),), ((4, 8),), ((8, 9),)])
    assert not fan.convolution and fan.cores.tolist() == np.full((2, 3, 3), 3).tolist()
