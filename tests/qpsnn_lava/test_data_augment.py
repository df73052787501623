"""Augmentation: what is drawn, that it depends on seed, epoch and sample alone, and who may use what."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from netx_export.errors import ConfigError, MissingError
from qpsnn_lava.data import AUGMENTS, NAMES, Augment, allowed_augments, augmented

IMAGES = ("flip", "shift", "flip-shift", "crop-flip", "crop-flip-cutout", "autoaugment")
EVENTS = ("event-shift", "event-flip-shift")

TORCHVISION = '''
"""A stand-in with the interface of torchvision.transforms: draws from torch's global generator."""
import torch


class AutoAugmentPolicy:
    CIFAR10 = "cifar10"


class AutoAugment:
    def __init__(self, policy):
        assert policy == "cifar10"

    def __call__(self, image):
        assert image.dtype == torch.uint8 and image.ndim == 3
        return 255 - image if torch.rand(()) < 0.5 else image
'''


@pytest.fixture
def torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "torchvision" / "transforms.py").write_text(TORCHVISION, encoding="utf-8")
    for name in ("torchvision", "torchvision.transforms"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)


def _samples(augment: str, n: int = 60, shape: tuple[int, ...] = (3, 24, 12)) -> NDArray[np.uint8]:
    whole = (n, *shape, 5) if augment in EVENTS else (n, *shape)
    return np.random.default_rng(0).integers(1, 256, whole).astype(np.uint8)


def _shifted(image: NDArray[np.uint8], dy: int, dx: int) -> NDArray[np.uint8]:
    out = np.zeros_like(image)
    height, width = image.shape[1:3]
    for y in range(height):
        for x in range(width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                out[:, y, x] = image[:, y + dy, x + dx]
    return out


@pytest.mark.parametrize(
    ("augment", "shape", "reach"),
    [
        ("flip", (3, 5, 7), (0, 0)),
        ("shift", (3, 5, 7), (1, 1)),
        ("flip-shift", (2, 24, 12), (2, 1)),
        ("crop-flip", (3, 6, 7), (4, 4)),
        ("event-shift", (2, 12, 24), (1, 2)),
        ("event-flip-shift", (2, 6, 6), (1, 1)),
    ],
)
def test_shifted_and_mirrored(augment: Augment, shape: tuple[int, ...], reach: tuple[int, int]) -> None:
    images = _samples(augment, 100, shape)
    out = augmented(images, augment, seed=1, epoch=0, indices=np.arange(100))
    assert out.shape == images.shape and out.dtype == np.uint8
    mirrors = (False, True) if "flip" in augment else (False,)
    used = []
    for image, made in zip(images, out, strict=True):
        found = [
            (mirrored, dy, dx)
            for mirrored in mirrors
            for dy in range(-reach[0], reach[0] + 1)
            for dx in range(-reach[1], reach[1] + 1)
            if np.array_equal(made, _shifted(image[:, :, ::-1] if mirrored else image, dy, dx))
        ]
        assert len(found) == 1
        used.append(found[0])
    assert {u[1] for u in used} == set(range(-reach[0], reach[0] + 1))
    assert {u[2] for u in used} == set(range(-reach[1], reach[1] + 1))
    if len(mirrors) == 2:
        assert abs(sum(u[0] for u in used) - 50) < 5 * np.sqrt(25)


def test_cutout_is_a_square_of_zeros() -> None:
    images = np.full((80, 3, 32, 32), 9, np.uint8)
    plain = augmented(images, "crop-flip", seed=3, epoch=2, indices=np.arange(80))
    out = augmented(images, "crop-flip-cutout", seed=3, epoch=2, indices=np.arange(80))
    centres = set()
    for before, after in zip(plain, out, strict=True):
        changed = (before != after).any(0)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert 1 <= len(rows) <= 16 and 1 <= len(columns) <= 16
        box = after[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert not box.any()
        outside = changed.copy()
        outside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = False
        assert not outside.any()
        centres.add((int(rows[0]), int(columns[0])))
    assert len(centres) > 40
    sides = [int((o == 0).all(0).sum()) for o in out]
    assert max(sides) >= 256 - 1  # a square inside is 16 x 16


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("augment", [*IMAGES, *EVENTS])
def test_depends_on_seed_epoch_and_sample_alone(augment: Augment) -> None:
    images, indices = _samples(augment), np.arange(60) * 7
    state = torch.random.get_rng_state()
    out = augmented(images, augment, seed=5, epoch=3, indices=indices)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert out.shape == images.shape and out.dtype == np.uint8 and out.flags.c_contiguous
    assert sum(not np.array_equal(a, b) for a, b in zip(images, out, strict=True)) > 15
    order = np.random.default_rng(1).permutation(60)[:25]
    torch.rand(3)
    again = augmented(images[order], augment, seed=5, epoch=3, indices=indices[order])
    assert np.array_equal(again, out[order])
    for seed, epoch, other in ((6, 3, indices), (5, 4, indices), (5, 3, indices + 1)):
        assert not np.array_equal(augmented(images, augment, seed=seed, epoch=epoch, indices=other), out)


def test_nothing_to_do() -> None:
    images = _samples("none")
    assert augmented(images, "none", seed=0, epoch=0, indices=np.arange(60)) is images


def test_autoaugment_comes_between_crop_and_cutout(torchvision: None) -> None:
    images = np.full((40, 3, 32, 32), 200, np.uint8)
    cropped = augmented(images, "crop-flip", seed=2, epoch=0, indices=np.arange(40))
    cut = augmented(images, "crop-flip-cutout", seed=2, epoch=0, indices=np.arange(40))
    out = augmented(images, "autoaugment", seed=2, epoch=0, indices=np.arange(40))
    inverted = 0
    for a, b, c in zip(cropped, cut, out, strict=True):
        kept = np.array_equal(c, b)
        hole = (b == 0) & (a != 0)
        inverted += not kept
        assert kept or (not c[hole].any() and np.array_equal(c[b != 0], 255 - b[b != 0]))
    assert 10 < inverted < 30


def test_autoaugment_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        MissingError, match=r"'autoaugment' is torchvision's, .*pip install torchvision\), or take 'crop-flip-c"
    ):
        augmented(_samples("shift"), "autoaugment", seed=0, epoch=0, indices=np.arange(60))


def test_images_and_events_are_not_taken_for_each_other() -> None:
    with pytest.raises(
        ConfigError, match=r"'event-shift' is for frames of events \(N, C, H, W, T\); the samples have shape \(60"
    ):
        augmented(_samples("shift"), "event-shift", seed=0, epoch=0, indices=np.arange(60))
    with pytest.raises(ConfigError, match=r"augment 'flip-shift' is for images \(N, C, H, W\)"):
        augmented(_samples("event-shift"), "flip-shift", seed=0, epoch=0, indices=np.arange(60))


def test_who_may_use_what() -> None:
    assert get_args(Augment) == AUGMENTS
    allowed: dict[str, Any] = {name: allowed_augments(name) for name in NAMES}
    assert all(options[0] == "none" and set(options) <= set(AUGMENTS) for options in allowed.values())
    assert allowed["cifar-10"] == allowed["cifar-100"] == allowed["tiny-imagenet"] == ("none", *IMAGES)
    assert "flip-shift" in allowed["fashion-mnist-saccade"] and "event-shift" not in allowed["fashion-mnist-saccade"]
    assert allowed["dvs-gesture"] == ("none", "event-shift")  # a mirrored left arm is a right arm
    assert allowed["shd"] == ("none",)
    assert [name for name in NAMES if "autoaugment" in allowed[name]] == ["cifar-10", "cifar-100", "tiny-imagenet"]
