"""Generators of small networks and of chips so small that they need many cores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from mapping.chip import Chip, allow, chip_names, load_chip
from netx_export.network import Conv, Dense, Integrator, Lif, Network, Population, Projection, Synapse

LIF = Lif(4096, 1024, 25)


def weights(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> np.ndarray:
    weight = rng.integers(-(1 << bits - 1), 1 << bits - 1, shape)
    weight[rng.random(shape) < rng.choice([0.0, 0.5, 0.9])] = 0
    weight.flat[0] = 1  # never all zero
    return weight


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A chain of 1..3 convolutions (grouped, strided, padded, dilated) and 0..2 dense layers, perhaps a skip and a loop."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    size = st.integers(1, 7)
    populations = [Population("in", (draw(st.integers(1, 4)), draw(size), draw(size)), draw(st.sampled_from([None, LIF])))]
    projections = []

    def connect(synapse: Synapse, shape: tuple[int, ...]) -> None:
        source, name = populations[-1].name, f"p{len(populations)}"
        longest = draw(st.sampled_from([0, 3])) if isinstance(synapse, Dense) else 0
        delay = rng.integers(0, longest + 1, (shape[0], 1)) if longest else None
        populations.append(Population(name, shape, LIF))
        projections.append(Projection(source, name, synapse, delay))

    for _ in range(draw(st.integers(0, 3))):
        channels, height, width = populations[-1].shape
        groups = draw(st.sampled_from([g for g in (1, 2, 3, 4) if channels % g == 0]))
        kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
        pairs = st.tuples(st.integers(0, 1), st.integers(0, 1))
        padding, dilation, stride = (
            draw(pairs),
            (1, draw(st.integers(1, 2))),
            (draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        )
        if any(n + 2 * p < d * (k - 1) + 1 for n, p, d, k in zip((height, width), padding, dilation, kernel, strict=True)):
            continue
        out = groups * draw(st.integers(1, 5))
        weight = weights(rng, (out, channels // groups, *kernel), draw(st.integers(2, 8)))
        conv = Conv(weight, stride, padding, dilation, groups)
        connect(conv, conv.output_shape(populations[-1].shape))
    for _ in range(draw(st.integers(len(projections) == 0, 2))):
        post = draw(st.integers(1, 40))
        connect(Dense(weights(rng, (post, populations[-1].size), draw(st.integers(2, 8)))), (post,))
    if draw(st.booleans()) and len(populations) > 2:
        first, last = populations[0], populations[-1]
        projections.append(Projection(first.name, last.name, Dense(weights(rng, (last.size, first.size), 4))))
    if draw(st.booleans()):
        last = populations[-1]
        projections.append(Projection(last.name, last.name, Dense(weights(rng, (last.size, last.size), 3))))
    populations[-1] = Population(populations[-1].name, populations[-1].shape, Integrator())
    return Network(tuple(populations), tuple(projections))


@st.composite
def chips(draw: st.DrawFn) -> Chip:
    """A profile, as it is or with limits so small that small networks need many cores and several chips."""
    name = draw(st.sampled_from(chip_names()))
    if draw(st.booleans()):
        return load_chip(name)
    limits = {"neurons": draw(st.integers(3, 40)), "synapse_words": draw(st.integers(60, 700))}
    limits["cores_per_chip"] = draw(st.sampled_from([3, 10, 128]))
    limits["axon_out" if name == "loihi1" else "pool"] = draw(st.integers(200, 900))
    chip = load_chip(name, limits)
    if name == "loihi1" and draw(st.booleans()):  # small networks have no bases beyond 256
        chip = replace(chip, parameters=tuple(replace(p, value=5) if p.name == "base_limit" else p for p in chip.parameters))
    return allow(chip, sparse=draw(st.booleans()))
