"""Augmentation of training samples: drawn anew in each epoch, the same for a sample whatever batch it stands in.

All numbers for a sample come from Philox with the key (seed, index) and the epoch in the counter; so resuming a run, another order
and other batches give the same images.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from netx_export.errors import ConfigError, MissingError
from qpsnn_lava.data.catalogue import known

Augment = Literal[
    "none",
    "flip",
    "shift",
    "flip-shift",
    "crop-flip",
    "crop-flip-cutout",
    "autoaugment",
    "event-shift",
    "event-flip-shift",
]
AUGMENTS: tuple[Augment, ...] = (
    "none",
    "flip",
    "shift",
    "flip-shift",
    "crop-flip",
    "crop-flip-cutout",
    "autoaugment",
    "event-shift",
    "event-flip-shift",
)
CROP = 4  # pixels
CUTOUT = 16  # pixels, the side of the square
_MIRRORED = ("flip", "flip-shift", "crop-flip", "crop-flip-cutout", "autoaugment", "event-flip-shift")
_CROPPED = ("crop-flip", "crop-flip-cutout", "autoaugment")
_CUT_OUT = ("crop-flip-cutout", "autoaugment")
_FLIP, _Y, _X, _CUT_Y, _CUT_X, _POLICY, _DRAWS = range(7)


def allowed_augments(name: str) -> tuple[Augment, ...]:
    """What makes sense of a built-in data set's samples.

    SHD has no axes to move along; mirrored gestures are other gestures (left and right arm); AutoAugment's colours need colours.
    """
    entry = known(name)
    if name == "shd":
        return ("none",)
    if name == "dvs-gesture":
        return ("none", "event-shift")
    if entry.events and name != "fashion-mnist-saccade":
        return ("none", "event-shift", "event-flip-shift")
    if name == "digits":
        return ("none", "shift", "flip-shift")
    return AUGMENTS[:7] if entry.shape[0] == 3 else AUGMENTS[:6]


def augmented(
    images: NDArray[np.uint8], augment: Augment, *, seed: int, epoch: int, indices: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Augmented copies; with "none" the array itself.

    - ``flip``: mirrored left to right half of the time.
    - ``shift``: by up to 1 pixel in 12 (at least 1), either way, along both axes; zeros come in.
    - ``flip-shift``: mirrored left to right half of the time, then shifted.
    - ``crop-flip``: mirrored half of the time, then shifted by up to 4 pixels (that is: padded by 4 and cropped again).
    - ``crop-flip-cutout``: the same, then Cutout: zeros in a square of 16 pixels around a uniformly drawn pixel, cut at the border.
    - ``autoaugment``: crop-flip, then torchvision's AutoAugment with its CIFAR-10 policy, then Cutout.
    - ``event-shift``, ``event-flip-shift``: as shift and flip-shift, of frames of events, all T frames of a sample alike.

    Args:
        images: uint8, (N, C, H, W) for the first seven, (N, C, H, W, T) for the last two.
        augment: which.
        seed: 0..2**63 - 1.
        epoch: 0..2**63 - 1.
        indices: int64 (N,), each sample's own number (``Split.indices``).

    Raises:
        ConfigError: where the shape does not fit ``augment``.
        MissingError: where AutoAugment is asked for and torchvision cannot be imported.

    Sources: AutoAugment, E. Cubuk et al. 2018, arXiv 1805.09501; Cutout, T. DeVries and G. Taylor 2017, arXiv 1708.04552.
    """
    if augment == "none":
        return images
    events = augment.startswith("event-")
    if images.ndim != (5 if events else 4):
        kind, need = ("frames of events", "(N, C, H, W, T)") if events else ("images", "(N, C, H, W)")
        raise ConfigError(f"augment {augment!r} is for {kind} {need}; the samples have shape {images.shape}.")
    draws = _draws(seed, epoch, indices)
    if augment in _MIRRORED:
        mirrored = _below(draws[:, _FLIP], 2) == 1
        images = np.where(mirrored.reshape(-1, *[1] * (images.ndim - 1)), images[:, :, :, ::-1], images)
    if augment == "flip":
        return np.ascontiguousarray(images)
    height, width = images.shape[2:4]
    reach = (CROP, CROP) if augment in _CROPPED else (max(1, round(height / 12)), max(1, round(width / 12)))
    images = _shifted(images, reach, draws)
    if augment == "autoaugment":
        images = _autoaugmented(images, draws[:, _POLICY])
    if augment in _CUT_OUT:
        images = _cut_out(images, draws)
    return images


def _draws(seed: int, epoch: int, indices: NDArray[np.int64]) -> NDArray[np.uint64]:
    """uint64 (N, 6), uniform.  The counter's third word keeps them apart from the draws of coding and saccades."""
    drawn = np.empty((len(indices), _DRAWS), np.uint64)
    for n, index in enumerate(indices):
        drawn[n] = np.random.Philox(key=seed | int(index) << 64, counter=(epoch + 1) << 128).random_raw(_DRAWS)
    return drawn


def _below(drawn: NDArray[np.uint64], limit: int) -> NDArray[np.int64]:
    """Whole numbers 0..limit - 1 of the upper half of each 64 bits."""
    return ((drawn >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32)).astype(np.int64)


def _shifted(images: NDArray[np.uint8], reach: tuple[int, int], draws: NDArray[np.uint64]) -> NDArray[np.uint8]:
    n, _, height, width = images.shape[:4]
    padding = ((0, 0), (0, 0), (reach[0], reach[0]), (reach[1], reach[1]), (0, 0))
    padded = np.pad(images, padding[: images.ndim])
    rows = _below(draws[:, _Y], 2 * reach[0] + 1)[:, None] + np.arange(height)
    columns = _below(draws[:, _X], 2 * reach[1] + 1)[:, None] + np.arange(width)
    taken = padded[np.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (N, H, W, C) or (N, H, W, C, T)
    return np.ascontiguousarray(np.moveaxis(taken, 3, 1))


def _cut_out(images: NDArray[np.uint8], draws: NDArray[np.uint64]) -> NDArray[np.uint8]:
    height, width = images.shape[2:]
    top = _below(draws[:, _CUT_Y], height)[:, None] - CUTOUT // 2
    left = _below(draws[:, _CUT_X], width)[:, None] - CUTOUT // 2
    rows = (np.arange(height) >= top) & (np.arange(height) < top + CUTOUT)
    columns = (np.arange(width) >= left) & (np.arange(width) < left + CUTOUT)
    hole = rows[:, None, :, None] & columns[:, None, None, :]
    return np.where(hole, np.uint8(0), images)


def _autoaugmented(images: NDArray[np.uint8], drawn: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """torchvision draws from torch's global generator, which is seeded for each sample and then put back."""
    import torch

    policy = _policy()
    out = np.empty_like(images)
    with torch.random.fork_rng(devices=[]):
        for n, image in enumerate(images):
            torch.default_generator.manual_seed(int(drawn[n] >> np.uint64(1)))
            out[n] = policy(torch.from_numpy(image)).numpy()
    return out


def _policy() -> Any:
    try:
        from torchvision import transforms  # type: ignore[import-not-found, unused-ignore]
    except (ImportError, RuntimeError) as error:  # RuntimeError: beside a torch that it was not built for
        raise MissingError(
            f"augment 'autoaugment' is torchvision's, which cannot be imported here ({error}); install the torchvision that "
            "fits this torch (pip install torchvision), or take 'crop-flip-cutout'."
        ) from error
    return transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10)
