from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from netx_export.errors import ConfigError
from qpsnn_lava.coding import Coding, encode, graded_levels, reset_interval
from qpsnn_lava.data import saccade_events


def _images(n: int = 6, top: int = 255, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, top + 1, (n, 2, 3, 5)).astype(np.uint8)


@pytest.mark.parametrize("max_value", [1, 2, 15, 16, 100, 255])
@pytest.mark.parametrize("bits", range(1, 9))
def test_graded_levels_round_halves_up(bits: int, max_value: int) -> None:
    levels = graded_levels(bits, max_value)
    assert levels.shape == (max_value + 1,)
    for x, q in enumerate(levels.tolist()):
        error = Fraction(x * (2**bits - 1), max_value) - q
        assert Fraction(-1, 2) <= error < Fraction(1, 2)
    assert levels[0] == 0
    assert levels[-1] == 2**bits - 1


def test_digits_and_bytes_at_the_halves() -> None:
    assert graded_levels(4, 16).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 13, 14, 15]
    assert np.array_equal(graded_levels(8, 255), np.arange(256))
    assert np.flatnonzero(np.diff(graded_levels(4, 255))).tolist() == [8 + 17 * k for k in range(15)]


def test_direct_repeats_the_image_in_every_step() -> None:
    images = _images()
    spikes = encode(images, Coding("direct", 5, 4), max_value=255, seed=0, indices=np.arange(6))
    assert spikes.shape == (6, 2, 3, 5, 5)
    assert spikes.dtype == np.uint8
    for t in range(5):
        assert np.array_equal(spikes[..., t], (images.astype(int) + 8) // 17)


def test_rate_fires_with_the_pixel_as_probability() -> None:
    images = np.arange(17, dtype=np.uint8).reshape(17, 1, 1, 1)
    spikes = encode(images.repeat(8, 2).repeat(8, 3), Coding("rate", 256), max_value=16, seed=3, indices=np.arange(17))
    assert set(np.unique(spikes)) == {0, 1}
    p = np.arange(17) / 16
    n = 8 * 8 * 256
    assert np.all(np.abs(spikes.mean((1, 2, 3, 4)) - p) <= 5 * np.sqrt(p * (1 - p) / n))
    assert not spikes[0].any()
    assert spikes[16].all()


def test_rate_is_independent_between_steps_and_pixels() -> None:
    images = np.full((1, 1, 64, 64), 8, np.uint8)
    spikes = encode(images, Coding("rate", 16), max_value=16, seed=3, indices=np.arange(1))[0, 0] * 2.0 - 1
    bound = 5 / np.sqrt(64 * 64 * 15)
    for other in (spikes[:, :, 1:] * spikes[:, :, :-1], spikes[1:] * spikes[:-1], spikes[:, 1:] * spikes[:, :-1]):
        assert abs(other.mean()) < bound


def test_rate_depends_on_seed_and_index_only() -> None:
    images, indices = _images(), np.array([5, 900, 2, 60_000, 7, 8])
    coding = Coding("rate", 8)
    spikes = encode(images, coding, max_value=255, seed=7, indices=indices)
    order = np.array([3, 0, 5])
    assert np.array_equal(encode(images[order], coding, max_value=255, seed=7, indices=indices[order]), spikes[order])
    assert np.array_equal(encode(images, Coding("rate", 5), max_value=255, seed=7, indices=indices), spikes[..., :5])
    assert not np.array_equal(encode(images, coding, max_value=255, seed=8, indices=indices), spikes)
    same = encode(np.repeat(images[:1], 2, 0), coding, max_value=255, seed=7, indices=np.array([1, 2]))
    assert not np.array_equal(same[0], same[1])


def test_rate_golden() -> None:
    """Philox' bits are promised to stay; a changed draw would change published runs."""
    spikes = encode(np.full((1, 1, 1, 4), 8, np.uint8), Coding("rate", 4), max_value=16, seed=1, indices=np.array([2]))
    raw = np.random.Generator(np.random.Philox(key=np.array([1, 2], np.uint64))).bytes(8 * 16)
    halves = np.frombuffer(raw, "<u4")[1::2].reshape(4, 4)  # the upper half of each 64-bit word, step by step
    assert np.array_equal(spikes[0, 0, 0], (halves < 2**31).T)
    assert spikes[0, 0, 0].tolist() == GOLDEN


GOLDEN = [[1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 0], [0, 0, 1, 0]]


def test_input_max() -> None:
    assert Coding("direct", 4, 4).input_max == 15
    assert Coding("direct", 4, 8).input_max == 255
    assert Coding("rate", 4, 8).input_max == 1
    assert [Coding("events", 4, bits).input_max for bits in (1, 3)] == [1, 7]
    assert [Coding(kind, 4, 1).graded_bits for kind in ("direct", "rate", "events")] == [1, 0, 0]  # type: ignore[arg-type]
    assert [Coding(kind, 4, 3).graded_bits for kind in ("direct", "rate", "events")] == [3, 0, 3]  # type: ignore[arg-type]


def test_input_shape() -> None:
    assert Coding("direct", 4).input_shape((3, 32, 32)) == (3, 32, 32)
    assert Coding("rate", 4).input_shape((1, 8, 8)) == (1, 8, 8)
    assert Coding("events", 4).input_shape((2, 34, 30, 4)) == (2, 34, 30)
    assert Coding("events", 4).input_shape((1, 28, 20)) == (2, 34, 26)  # simulated saccades need room
    with pytest.raises(ConfigError, match="the events come in 5 frames, but coding has 4 steps; load them anew"):
        Coding("events", 4).input_shape((2, 34, 34, 5))
    with pytest.raises(ConfigError, match=r"samples have shape \(2, 3, 3, 4\); coding 'direct' takes images \(C, H, W\)"):
        Coding("direct", 4).input_shape((2, 3, 3, 4))


def test_events_are_clipped_to_the_bits() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 5, 6)).astype(np.uint8)
    frames[0, 0, 0, 0] = range(6)
    for bits in (1, 2, 8):
        spikes = encode(frames, Coding("events", 6, bits), max_value=255, seed=0, indices=np.arange(3))
        assert spikes.dtype == np.uint8 and np.array_equal(spikes, np.clip(frames.astype(int), 0, 2**bits - 1))
    with pytest.raises(ConfigError, match="the events come in 6 frames, but coding has 5 steps"):
        encode(frames, Coding("events", 5), max_value=255, seed=0, indices=np.arange(3))
    with pytest.raises(ConfigError, match=r"expected uint8 \(N, C, H, W\) or \(N, C, H, W, T\)"):
        encode(frames.astype(float), Coding("events", 6), max_value=255, seed=0, indices=np.arange(3))  # type: ignore[arg-type]


def test_events_of_images_are_the_simulated_ones() -> None:
    images, indices = _images()[:, :1], np.arange(6) + 3
    events = saccade_events(images, 4, max_value=255, seed=5, indices=indices)
    assert events.max() > 3
    spikes = encode(images, Coding("events", 4, 2), max_value=255, seed=5, indices=indices)
    assert np.array_equal(spikes, np.minimum(events, 3))


def test_reset_interval_is_the_smallest_power_of_two() -> None:
    powers = [1 << k for k in range(12)]
    for steps in range(1, 1025):
        assert reset_interval(steps) == min(p for p in powers if p >= steps)
    with pytest.raises(ConfigError, match="a window of 0 steps; at least 1"):
        reset_interval(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("spread", 4, 4), "coding is 'spread'; it must be 'direct', 'rate' or 'events'"),
        (("rate", 0, 4), r"coding over 0 steps; it must be 1\.\.1024"),
        (("rate", 1025, 4), "over 1025 steps"),
        (("direct", 4, 9), r"input_bits is 9; it must be 1\.\.8"),
        (("direct", 4, 0), "input_bits is 0"),
    ],
)
def test_coding_refused(arguments: tuple[str, int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Coding(*arguments)  # type: ignore[arg-type]


def test_encode_refused() -> None:
    coding, indices = Coding("rate", 2), np.arange(6)
    with pytest.raises(ConfigError, match=r"images are float64 of shape .*expected uint8 \(N, C, H, W\)"):
        encode(np.zeros((6, 1, 2, 2)), coding, max_value=16, seed=0, indices=indices)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"a pixel is 2\d\d; max_value says at most 16"):
        encode(_images(), coding, max_value=16, seed=0, indices=indices)
    with pytest.raises(ConfigError, match=r"max_value is 0; it must be in 1\.\.255"):
        encode(_images(), coding, max_value=0, seed=0, indices=indices)
    with pytest.raises(ConfigError, match="5 indices for 6 images"):
        encode(_images(), coding, max_value=255, seed=0, indices=indices[:5])
    with pytest.raises(ConfigError, match="the seed is -1"):
        encode(_images(), coding, max_value=255, seed=-1, indices=indices)
    with pytest.raises(ConfigError, match=r"the sample index is -3; it must be in 0\.\."):
        encode(_images(1), coding, max_value=255, seed=0, indices=np.array([-3]))
