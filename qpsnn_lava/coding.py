"""How an image becomes the network's input, in integers: the same numbers in training, in the simulator and in Lava."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from netx_export.errors import ConfigError
from qpsnn_lava.data import check_seed

MAX_STEPS = 1024


@dataclass(frozen=True)
class Coding:
    """How pixels are spread over time.

    - ``direct``: a pixel x in 0..max becomes the graded spike ``q = floor((2 x (2^b - 1) + max) / (2 max))``, which is
      ``x (2^b - 1) / max`` rounded to the nearest whole number, halves up; the same q in each of the T steps.
    - ``rate``: in each step a binary spike with probability x / max.

    Args:
        kind: "direct" or "rate".
        steps: T, 1..1024.
        input_bits: b, 1..8, for direct coding; rate coding is binary whatever it says.

    Raises:
        ConfigError: where a value is out of range.
    """

    kind: Literal["direct", "rate"]
    steps: int
    input_bits: int = 4

    def __post_init__(self) -> None:
        if self.kind not in ("direct", "rate"):
            raise ConfigError(f"coding is {self.kind!r}; it must be 'direct' or 'rate'.")
        if not 1 <= self.steps <= MAX_STEPS:
            raise ConfigError(f"coding over {self.steps} steps; it must be 1..{MAX_STEPS}.")
        if not 1 <= self.input_bits <= 8:
            raise ConfigError(f"input_bits is {self.input_bits}; it must be 1..8.")

    @property
    def input_max(self) -> int:
        """The largest input value: 2^b - 1 for direct coding, 1 for rate coding (x_max of the overflow bound)."""
        return (1 << self.input_bits) - 1 if self.kind == "direct" else 1


def reset_interval(steps: int) -> int:
    """The smallest power of two that is at least ``steps``: the network is reset every so many steps.

    Raises:
        ConfigError: where ``steps`` is below 1.
    """
    if steps < 1:
        raise ConfigError(f"a window of {steps} steps; at least 1 is needed.")
    return 1 << (steps - 1).bit_length()


def encode(
    images: NDArray[np.uint8], coding: Coding, *, max_value: int, seed: int, indices: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """The network's input for a batch of images.

    Rate coding draws, for the sample of index i, the numbers ``r[t, c, h, w]`` of 32 bits from Philox with the key
    (seed, i) and lets a spike pass where ``r * max < x * 2^32``: x = 0 never, x = max always fires, and a sample's spikes
    depend neither on the batch that it stands in nor on T (a longer window continues a shorter one).

    Args:
        images: uint8 (N, C, H, W), 0..max_value.
        coding: see :class:`Coding`.
        max_value: the pixel value that means full, 1..255.
        seed: 0..2**63 - 1; direct coding does not use it.
        indices: int64 (N,), each sample's own number (``Split.indices``); direct coding does not use it.

    Returns:
        uint8 (N, C, H, W, T), 0..``coding.input_max``.

    Raises:
        ConfigError: where a shape, dtype or range does not fit.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ConfigError(f"images are {images.dtype} of shape {images.shape}; expected uint8 (N, C, H, W).")
    if not 1 <= max_value <= 255:
        raise ConfigError(f"max_value is {max_value}; it must be in 1..255.")
    if images.size and (pixel := int(images.max())) > max_value:
        raise ConfigError(f"a pixel is {pixel}; max_value says at most {max_value}.")
    if indices.shape != images.shape[:1]:
        raise ConfigError(f"{indices.size} indices for {len(images)} images; each image needs one.")
    if coding.kind == "direct":
        return np.repeat(graded_levels(coding.input_bits, max_value)[images][..., None], coding.steps, axis=-1)
    check_seed(seed)
    spikes = np.empty((*images.shape, coding.steps), np.uint8)
    full = images.astype(np.uint64) << np.uint64(32)
    draws = (coding.steps, *images.shape[1:])
    for n, index in enumerate(indices):
        check_seed(int(index), "sample index")
        raw = np.random.Philox(key=seed | int(index) << 64).random_raw(int(np.prod(draws))) >> np.uint64(32)
        spikes[n] = np.moveaxis(raw.reshape(draws) * np.uint64(max_value) < full[n], 0, -1)
    return spikes


def graded_levels(input_bits: int, max_value: int) -> NDArray[np.uint8]:
    """uint8 (max_value + 1,): the graded spike of each pixel value, ``floor((2 x (2^b - 1) + max) / (2 max))``."""
    x = np.arange(max_value + 1, dtype=np.int64)
    top = (1 << input_bits) - 1
    return ((2 * x * top + max_value) // (2 * max_value)).astype(np.uint8)
