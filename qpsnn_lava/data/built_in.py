"""One function for all built-in data sets."""

from __future__ import annotations

from pathlib import Path

from netx_export.errors import ConfigError
from qpsnn_lava.data.catalogue import folder_of, known
from qpsnn_lava.data.cifar import LAYOUTS, load_cifar
from qpsnn_lava.data.events import load_events
from qpsnn_lava.data.grey import load_digits, load_fashion
from qpsnn_lava.data.split import Dataset, with_train_images
from qpsnn_lava.data.tiny_imagenet import load_tiny_imagenet


def load(
    name: str, *, folder: Path | None = None, seed: int = 0, steps: int | None = None, train_images: int | None = None
) -> Dataset:
    """A built-in data set, split by seed; every split that is drawn holds each class in its proportion.

    docs/data.md lists the sets; the loader of each says how it is split and what it takes in memory.

    Args:
        name: one of :data:`qpsnn_lava.data.NAMES`.
        folder: where its files are; None: its usual place (:func:`qpsnn_lava.data.folder_of`).  digits needs none.
        seed: 0..2**63 - 1, fixes the drawn splits on every machine (Philox bits, sorted).
        steps: T, of recorded events, which are binned when they are read; other sets do not use it.
        train_images: so many of the training samples, drawn by class and seed; None: all.

    Raises:
        ConfigError: for an unknown name, events without ``steps``, or more training samples than there are.
        MissingError: where the files, or the package that reads them, are not there; it says how to get them.
        FormatError: where a file is not what it claims to be.
    """
    whole = _whole(name, folder_of(known(name).name, folder), seed, steps)
    return whole if train_images is None else with_train_images(whole, train_images, seed)


def _whole(name: str, place: Path, seed: int, steps: int | None) -> Dataset:
    if name == "digits":
        return load_digits(seed)
    if name.startswith("fashion-mnist"):
        return load_fashion(name, place, seed)
    if name in LAYOUTS:
        return load_cifar(name, place, seed)
    if name == "tiny-imagenet":
        return load_tiny_imagenet(place, seed)
    if steps is None or steps < 1:
        raise ConfigError(f"{name} is binned into frames when it is read; say into how many: steps is {steps}, at least 1.")
    return load_events(name, place, seed, steps)
