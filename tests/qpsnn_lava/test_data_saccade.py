"""Simulated saccades: against a loop in Python's numbers, and against what a sensor has to do."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from netx_export.errors import ConfigError
from qpsnn_lava.data import saccade_events
from qpsnn_lava.data.saccade import BLACK, THRESHOLD, UNIT, offsets, references

ON, OFF = 0, 1


def _events(images: NDArray[np.uint8], steps: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return saccade_events(images, steps, max_value=255, seed=seed, indices=np.arange(len(images)))


@pytest.mark.parametrize(("steps", "length"), [(1, 36), (3, 36), (4, 36), (8, 48), (10, 60), (36, 36), (100, 300)])
def test_the_path_is_a_triangle_in_equal_times(steps: int, length: int) -> None:
    path = offsets(steps)
    assert path.shape == (length + 1, 2) and length % steps == 0 and length % 3 == 0
    third = length // 3
    assert [path[k].tolist() for k in (0, third, 2 * third, length)] == [[0, 0], [48, 96], [96, 0], [0, 0]]
    for k, (x, y) in enumerate(path.tolist()):
        leg, part = divmod(min(k, length - 1), third)
        part += k - min(k, length - 1)
        (x0, y0), (x1, y1) = [((0, 0), (3, 6)), ((3, 6), (6, 0)), ((6, 0), (0, 0))][leg]
        for value, a, b in ((x, x0, x1), (y, y0, y1)):
            exact = 16 * (a + Fraction(part, third) * (b - a))
            assert abs(exact - value) <= Fraction(1, 2)


def _by_hand(image: NDArray[np.uint8], steps: int, max_value: int, first: NDArray[np.int16]) -> NDArray[np.int64]:
    """One sample, pixel by pixel and event by event."""
    height, width = image.shape
    path = offsets(steps).tolist()
    per_frame = (len(path) - 1) // steps
    out = np.zeros((2, height + 6, width + 6, steps), np.int64)

    def level(py: int, px: int, ox: int, oy: int) -> int:
        y, x = Fraction(py) - Fraction(oy, 16), Fraction(px) - Fraction(ox, 16)
        total = Fraction(0)
        for qy in range(height):
            for qx in range(width):
                weight = max(Fraction(0), 1 - abs(y - qy)) * max(Fraction(0), 1 - abs(x - qx))
                total += weight * int(image[qy, qx])
        return round(UNIT / THRESHOLD * math.log(float(total / max_value) + BLACK))

    for py in range(height + 6):
        for px in range(width + 6):
            reference = level(py, px, *path[0]) + int(first[py, px])
            for k, (ox, oy) in enumerate(path[1:]):
                now = level(py, px, ox, oy)
                while now - reference >= UNIT:
                    reference += UNIT
                    out[ON, py, px, k // per_frame] += 1
                while reference - now >= UNIT:
                    reference -= UNIT
                    out[OFF, py, px, k // per_frame] += 1
    return out


@pytest.mark.parametrize(("steps", "max_value"), [(4, 255), (1, 16)])
def test_equals_the_loop(steps: int, max_value: int) -> None:
    image = np.random.default_rng(4).integers(0, max_value + 1, (1, 1, 2, 3)).astype(np.uint8)
    indices = np.array([7])
    made = saccade_events(image, steps, max_value=max_value, seed=9, indices=indices)
    first = references(9, indices, (8, 9))[0]
    assert np.array_equal(made[0], _by_hand(image[0, 0], steps, max_value, first))
    assert made.sum() > 40


def test_a_still_image_gives_no_events() -> None:
    assert not _events(np.zeros((2, 1, 9, 9), np.uint8)).any()  # nothing on the screen
    flat = np.full((1, 1, 28, 28), 200, np.uint8)
    assert not _events(flat)[..., 7:-7, 7:-7, :].any()  # moves, but no pixel inside sees a change
    assert _events(flat).any()
    stripes = np.repeat(np.random.default_rng(1).integers(0, 256, (1, 1, 28, 1)), 28, 3).astype(np.uint8)
    third = _events(stripes)[..., 7:-7, 2]  # the last saccade runs along the stripes
    assert not third.any()
    assert _events(stripes)[..., 7:-7, 0].any()


def test_a_moving_edge_is_on_at_one_side_and_off_at_the_other() -> None:
    bar = np.zeros((1, 1, 24, 24), np.uint8)
    bar[..., 10:14] = 250
    third = _events(bar)[0, ..., 2].astype(int)  # from (6, 0) back to (0, 0): to the left
    rows = third[:, 3:20]
    ahead, behind = rows[..., 10:14], rows[..., 18:20]  # the bar goes from columns 16..19 to 10..13
    assert (ahead[ON] > 4).all() and not ahead[OFF].any()
    assert (behind[OFF] > 4).all() and not behind[ON].any()
    swing = math.log((250 / 255 + BLACK) / BLACK) / THRESHOLD
    assert np.abs(ahead[ON] - swing).max() < 2  # as many thresholds as fit in it; the dead zone is two of them wide


def test_what_comes_back_to_where_it_was_sends_as_many_on_as_off() -> None:
    images = np.random.default_rng(2).integers(0, 256, (5, 1, 12, 12)).astype(np.uint8)
    events = _events(images, 6).astype(int).sum(-1)
    assert np.abs(events[:, ON] - events[:, OFF]).max() <= 1
    assert events.sum() > 1000


def test_frames_add_up() -> None:
    images = np.random.default_rng(3).integers(0, 256, (2, 1, 8, 8)).astype(np.uint8)
    fine = _events(images, 36).astype(int)
    for steps in (1, 4, 12):
        assert np.array_equal(_events(images, steps), fine.reshape(*fine.shape[:-1], steps, -1).sum(-1))


def test_the_same_for_a_sample_in_any_batch() -> None:
    images = np.random.default_rng(5).integers(0, 256, (40, 1, 6, 6)).astype(np.uint8)
    indices = np.arange(40) + 900
    whole = saccade_events(images, 4, max_value=255, seed=7, indices=indices)
    order = np.array([33, 2, 17])
    assert np.array_equal(saccade_events(images[order], 4, max_value=255, seed=7, indices=indices[order]), whole[order])
    assert not np.array_equal(saccade_events(images, 4, max_value=255, seed=8, indices=indices), whole)
    same = saccade_events(np.repeat(images[:1], 2, 0), 4, max_value=255, seed=7, indices=np.array([1, 2]))
    assert not np.array_equal(same[0], same[1])
    assert saccade_events(images[:0], 4, max_value=255, seed=7, indices=indices[:0]).shape == (0, 2, 12, 12, 4)


def test_references_fill_the_dead_zone() -> None:
    drawn = references(1, np.arange(30), (20, 20))
    assert drawn.min() >= 1 - UNIT and drawn.max() <= UNIT - 1
    assert abs(drawn.mean()) < 5 * UNIT / math.sqrt(3 * drawn.size)
    assert drawn.min() < -0.99 * UNIT and drawn.max() > 0.99 * UNIT


def test_golden() -> None:
    """Published runs depend on these events."""
    image = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4) * 17
    events = saccade_events(image, 3, max_value=255, seed=1, indices=np.array([2]))
    assert events.sum((0, 2, 3)).tolist() == GOLDEN


GOLDEN = [[223, 200, 126], [204, 192, 125]]


def test_refused() -> None:
    with pytest.raises(ConfigError, match="images have 3 channels; saccades are simulated of grey images"):
        _events(np.zeros((1, 3, 8, 8), np.uint8))
    with pytest.raises(ConfigError, match="the seed is -1"):
        _events(np.zeros((1, 1, 8, 8), np.uint8), seed=-1)
    with pytest.raises(ConfigError, match="the sample index is -1"):
        saccade_events(np.zeros((1, 1, 8, 8), np.uint8), 1, max_value=255, seed=0, indices=np.array([-1]))
