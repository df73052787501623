"""How a sample becomes the network's input, in integers: the same numbers in training, in the simulator and in Lava."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from netx_export.errors import ConfigError
from qpsnn_lava.data.saccade import AMPLITUDE, saccade_events
from qpsnn_lava.data.split import check_seed

MAX_STEPS = 1024


@dataclass(frozen=True)
class Coding:
    """How pixels or events are spread over time.

    - ``direct``: a pixel x in 0..max becomes the graded spike ``q = floor((2 x (2^b - 1) + max) / (2 max))``, which is
      ``x (2^b - 1) / max`` rounded to the nearest whole number, halves up; the same q in each of the T steps.
    - ``rate``: in each step a binary spike with probability x / max.
    - ``events``: the count n of events of a pixel, a polarity and a step becomes the graded spike ``min(n, 2^b - 1)``; with b = 1
      a binary one.  Frames of events are taken as they are; of still images, events are simulated
      (:mod:`qpsnn_lava.data.saccade`).

    Args:
        kind: "direct", "rate" or "events".
        steps: T, 1..1024.
        input_bits: b, 1..8, for direct coding and events; rate coding is binary whatever it says.

    Raises:
        ConfigError: where a value is out of range.
    """

    kind: Literal["direct", "rate", "events"]
    steps: int
    input_bits: int = 4

    def __post_init__(self) -> None:
        if self.kind not in ("direct", "rate", "events"):
            raise ConfigError(f"coding is {self.kind!r}; it must be 'direct', 'rate' or 'events'.")
        if not 1 <= self.steps <= MAX_STEPS:
            raise ConfigError(f"coding over {self.steps} steps; it must be 1..{MAX_STEPS}.")
        if not 1 <= self.input_bits <= 8:
            raise ConfigError(f"input_bits is {self.input_bits}; it must be 1..8.")

    @property
    def input_max(self) -> int:
        """The largest input value: 2^b - 1 for direct coding and events, 1 for rate coding (x_max of the overflow bound)."""
        return 1 if self.kind == "rate" else (1 << self.input_bits) - 1

    @property
    def graded_bits(self) -> int:
        """Bits of a graded input spike, as ``freeze`` wants them; 0 where the input is binary: rates, and events of 1 bit."""
        return 0 if self.kind == "rate" or (self.kind == "events" and self.input_bits == 1) else self.input_bits

    def input_shape(self, sample: tuple[int, ...]) -> tuple[int, int, int]:
        """(C, H, W) of the network's input.

        Args:
            sample: shape of one sample, (C, H, W) of an image or (C, H, W, T) of frames of events.

        Raises:
            ConfigError: where this coding does not take such samples.
        """
        if self.kind == "events" and len(sample) == 4:
            if sample[3] != self.steps:
                raise ConfigError(f"the events come in {sample[3]} frames, but coding has {self.steps} steps; load them anew.")
            return sample[0], sample[1], sample[2]
        if len(sample) != 3:
            raise ConfigError(f"samples have shape {sample}; coding {self.kind!r} takes images (C, H, W).")
        if self.kind == "events":
            return 2, sample[1] + AMPLITUDE, sample[2] + AMPLITUDE
        return sample[0], sample[1], sample[2]


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
    """The network's input for a batch of samples.

    Rate coding draws, for the sample of index i, the numbers ``r[t, c, h, w]`` of 32 bits from Philox with the key
    (seed, i) and lets a spike pass where ``r * max < x * 2^32``: x = 0 never, x = max always fires, and a sample's spikes
    depend neither on the batch that it stands in nor on T (a longer window continues a shorter one).

    Args:
        images: uint8 (N, C, H, W), 0..max_value; frames of recorded events (N, C, H, W, T).
        coding: see :class:`Coding`.
        max_value: the pixel value that means full, 1..255.
        seed: 0..2**63 - 1; direct coding and recorded events do not use it.
        indices: int64 (N,), each sample's own number (``Split.indices``); used where the seed is.

    Returns:
        uint8 (N, *``coding.input_shape``, T), 0..``coding.input_max``.

    Raises:
        ConfigError: where a shape, dtype or range does not fit.
    """
    recorded = coding.kind == "events" and images.ndim == 5
    if images.dtype != np.uint8 or not (images.ndim == 4 or recorded):
        expected = "(N, C, H, W) or (N, C, H, W, T)" if coding.kind == "events" else "(N, C, H, W)"
        raise ConfigError(f"images are {images.dtype} of shape {images.shape}; expected uint8 {expected}.")
    if not 1 <= max_value <= 255:
        raise ConfigError(f"max_value is {max_value}; it must be in 1..255.")
    if images.size and (pixel := int(images.max())) > max_value:
        raise ConfigError(f"a pixel is {pixel}; max_value says at most {max_value}.")
    if indices.shape != images.shape[:1]:
        raise ConfigError(f"{indices.size} indices for {len(images)} images; each image needs one.")
    if coding.kind == "direct":
        return np.repeat(graded_levels(coding.input_bits, max_value)[images][..., None], coding.steps, axis=-1)
    if coding.kind == "events":
        coding.input_shape(images.shape[1:])
        events = images if recorded else saccade_events(images, coding.steps, max_value=max_value, seed=seed, indices=indices)
        return np.minimum(events, np.uint8(coding.input_max))
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
