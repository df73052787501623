"""Events simulated from still images by the saccades of N-MNIST.  They are simulated, not recorded, and have to be named so.

N-MNIST was made by moving a sensor in front of a screen: three saccades of 100 ms each along an isosceles triangle.  Here the
image moves over the pixels of an ideal sensor instead.  With the image x (0 outside of it), its value on the sensor at the offset
o(t) by bilinear interpolation x(p - o(t)), and the full value M::

    l(p, t) = ln(x(p - o(t)) / M + B)                            log intensity; B = 0.1: the screen's black beside its white
    an event of polarity s = +-1 at p wherever s (l(p, t) - r(p)) >= theta; then r(p) := r(p) + s theta;  theta = 0.3

The reference r(p) begins at l(p, 0) + theta e(p), e uniform in (-1, 1), the same for a sample whenever it is encoded (Philox
of seed and index).  The offset runs at constant speed from corner to corner::

    (x, y): (0, 0) -> (A/2, A) -> (A, 0) -> (0, 0)      A = 6 pixels: 28 + 6 = 34, the width of N-MNIST's frames

Everything is integers: offsets in 16ths of a pixel, log intensities in 1024ths of theta from one table; so all machines see the
same events.  The window is cut into steps of equal length, at least 12 in each saccade (the image moves by about half a pixel
in each), and a whole number of them in each of the T frames.

Source of the protocol: G. Orchard, A. Jayawant, G. Cohen, N. Thakor, Converting Static Image Datasets to Spiking Neuromorphic
Datasets Using Saccades, Frontiers in Neuroscience 9:437, 2015.  Ours are A in pixels, the constant speed, B, theta and the ideal
sensor (no noise, no refractory time, no mismatch of thresholds).
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from netx_export.errors import ConfigError
from qpsnn_lava.data.split import check_seed

AMPLITUDE = 6  # A, pixels
BLACK = 0.1  # B
THRESHOLD = 0.3  # theta
SACCADE_STEPS = 12  # at least, in each of the three saccades
_PIXEL = 16  # units of an offset in a pixel
_SHIFT = 10
UNIT = 1 << _SHIFT  # of the log intensity, in theta
_CHUNK = 16  # images at a time: their arrays stay in the cache
_CORNERS = ((0, 0), (AMPLITUDE // 2, AMPLITUDE), (AMPLITUDE, 0), (0, 0))  # (x, y), pixels


def saccade_events(
    images: NDArray[np.uint8], steps: int, *, max_value: int, seed: int, indices: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """The events that a sensor would send while the images move past it, counted in ``steps`` frames; see the module.

    Args:
        images: uint8 (N, 1, H, W), 0..max_value.
        steps: T, at least 1; frame t holds the events of t/T..(t + 1)/T of the 300 ms.
        max_value: M, the pixel value that means white, 1..255.
        seed: 0..2**63 - 1, of the references.
        indices: int64 (N,), each sample's own number.

    Returns:
        uint8 (N, 2, H + 6, W + 6, T): counts (255 where there are more), channel 0 brighter (ON), channel 1 darker (OFF).

    Raises:
        ConfigError: for colour images, or a seed or index out of range.
    """
    if images.shape[1] != 1:
        raise ConfigError(f"images have {images.shape[1]} channels; saccades are simulated of grey images, which have 1.")
    check_seed(seed)
    n, _, height, width = images.shape
    events = np.empty((n, 2, height + AMPLITUDE, width + AMPLITUDE, steps), np.uint8)
    table = log_levels(max_value)
    path = offsets(steps)
    for low in range(0, n, _CHUNK):
        part = slice(low, low + _CHUNK)
        _simulate(images[part, 0], path, table, references(seed, indices[part], events.shape[2:4]), events[part])
    return events


@lru_cache(maxsize=16)
def offsets(steps: int) -> NDArray[np.int64]:
    """int64 (K + 1, 2): the offsets (x, y) at the bounds of the K steps, in 16ths of a pixel, halves up.

    K is the smallest multiple of 3 and of ``steps`` that gives each saccade at least 12 steps.
    """
    unit = math.lcm(3, steps)
    length = unit * -(-3 * SACCADE_STEPS // unit) // 3
    corners = np.array(_CORNERS, np.int64) * _PIXEL
    k = np.arange(length)[:, None]
    legs = [(2 * (a * (length - k) + b * k) + length) // (2 * length) for a, b in itertools.pairwise(corners)]
    return np.concatenate([*legs, corners[-1:]])


@lru_cache(maxsize=4)
def log_levels(max_value: int) -> NDArray[np.int16]:
    """int16 (256 * max_value + 1,): ``round(1024 / theta * ln(x / (256 max_value) + B))`` of an intensity x in 256ths of a value."""
    x = np.arange(256 * max_value + 1, dtype=np.float64) / (256 * max_value)
    return np.rint(np.log(x + BLACK) * (UNIT / THRESHOLD)).astype(np.int16)


def references(seed: int, indices: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int16]:
    """int16 (N, H', W') in -1023..1023, 1024ths of theta: where in its dead zone each pixel begins.

    ``floor(2047 r / 2^32) - 1023`` of the upper 32 bits r of Philox' words, with key (seed, index) and the counter's last word 1.
    """
    first = np.empty((len(indices), *shape), np.int16)
    for n, index in enumerate(indices):
        check_seed(int(index), "sample index")
        drawn = np.random.Philox(key=seed | int(index) << 64, counter=1 << 192).random_raw(math.prod(shape))
        place = (drawn >> np.uint64(32)) * np.uint64(2 * UNIT - 1) >> np.uint64(32)
        first[n] = place.astype(np.int16).reshape(shape) - np.int16(UNIT - 1)
    return first


def _simulate(
    images: NDArray[np.uint8],
    path: NDArray[np.int64],
    table: NDArray[np.int16],
    reference: NDArray[np.int16],
    events: NDArray[np.uint8],
) -> None:
    """Fills ``events`` (N, 2, H', W', T); changes ``reference``."""
    reach = AMPLITUDE + 1  # one more zero on each side for the interpolation
    padded = np.pad(images.astype(np.uint16), ((0, 0), (reach, reach), (reach, reach)))
    height, width = reference.shape[1:]
    per_frame = (len(path) - 1) // events.shape[-1]
    counts = np.zeros((2, *reference.shape), np.int16)
    reference += table[_moved(padded, path[0], height, width)]
    for k, offset in enumerate(path[1:]):
        change = table[_moved(padded, offset, height, width)]
        change -= reference
        brighter = np.maximum(change, 0)
        brighter >>= _SHIFT
        darker = np.maximum(np.negative(change, out=change), 0)
        darker >>= _SHIFT
        counts[0] += brighter
        counts[1] += darker
        brighter -= darker
        brighter <<= _SHIFT
        reference += brighter
        if (k + 1) % per_frame == 0:
            events[..., k // per_frame] = np.minimum(counts, 255).swapaxes(0, 1)
            counts[:] = 0


def _moved(padded: NDArray[np.uint16], offset: NDArray[np.int64], height: int, width: int) -> NDArray[np.uint16]:
    """uint16 (N, H', W'): the image moved by ``offset``, in 256ths of a value (255 * 256 at most).

    With offset = 16 w + f, pixel p sees ``(16 - f) x(p - w) + f x(p - w - 1)`` along each axis.
    """
    (wx, fx), (wy, fy) = (divmod(int(o), _PIXEL) for o in offset)
    reach = AMPLITUDE + 1
    y, x = reach - wy, reach - wx
    rows = padded[:, y : y + height] * np.uint16(_PIXEL - fy)
    if fy:
        rows += padded[:, y - 1 : y - 1 + height] * np.uint16(fy)
    moved: NDArray[np.uint16] = rows[..., x : x + width] * np.uint16(_PIXEL - fx)
    if fx:
        moved += rows[..., x - 1 : x - 1 + width] * np.uint16(fx)
    return moved
