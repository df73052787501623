"""The built-in data sets: what each is, under which licence, where its files are looked for and how to get them."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from netx_export.errors import ConfigError

FOLDER_VARIABLE = "QPSNN_DATA"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
_FASHION = "Fashion-MNIST, H. Xiao, K. Rasul, R. Vollgraf 2017, arXiv 1708.07747"
_CIFAR = (
    "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, https://www.cs.toronto.edu/~kriz/cifar.html"
)
_CIFAR_LICENCE = "none stated by its author, who asks to be cited"


@dataclass(frozen=True)
class Known:
    """One built-in data set as it is published.

    Args:
        name: as in the experiment file.
        shape: of one sample: (C, H, W) of an image, or of a frame of events.
        train, test: number of published samples; ``test`` is 0 where no test set is published (a tenth is drawn).
        classes: number of classes.
        megabytes: of the published files, in 1e6 bytes, rounded; None: nothing to get, or left to tonic.
        licence, source: one line each.
        events: frames of events (recorded, or simulated from images) instead of images.
    """

    name: str
    shape: tuple[int, int, int]
    train: int
    test: int
    classes: int
    megabytes: int | None
    licence: str
    source: str
    events: bool = False


SETS = (
    Known(
        "digits",
        (1, 8, 8),
        1_797,
        0,
        10,
        None,
        "CC BY 4.0 (UCI Machine Learning Repository)",
        "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak 1998, the 1,797 images in scikit-learn",
    ),
    Known("fashion-mnist", (1, 28, 28), 60_000, 10_000, 10, 31, "MIT (Zalando SE)", _FASHION),
    Known(
        "fashion-mnist-saccade",
        (2, 34, 34),
        60_000,
        10_000,
        10,
        31,
        "MIT (Zalando SE), of the images; the events are simulated, not recorded",
        f"events simulated from {_FASHION}, by the saccades of G. Orchard et al. 2015, doi 10.3389/fnins.2015.00437",
        events=True,
    ),
    Known("cifar-10", (3, 32, 32), 50_000, 10_000, 10, 170, _CIFAR_LICENCE, f"CIFAR-10, {_CIFAR}"),
    Known("cifar-100", (3, 32, 32), 50_000, 10_000, 100, 169, _CIFAR_LICENCE, f"CIFAR-100 (fine labels), {_CIFAR}"),
    Known(
        "tiny-imagenet",
        (3, 64, 64),
        100_000,
        10_000,
        200,
        248,
        "none of its own; images of ImageNet, whose terms (image-net.org) allow non-commercial research and education",
        "Tiny ImageNet, Stanford CS231n, http://cs231n.stanford.edu/tiny-imagenet-200.zip; its val folder is the test set",
    ),
    Known(
        "n-mnist",
        (2, 34, 34),
        60_000,
        10_000,
        10,
        None,
        "CC BY-SA 4.0",
        "N-MNIST, G. Orchard et al. 2015, doi 10.3389/fnins.2015.00437, read by tonic",
        events=True,
    ),
    Known(
        "dvs-gesture",
        (2, 64, 64),
        1_077,
        264,
        11,
        None,
        "CC BY 4.0",
        "DVS128 Gesture, A. Amir et al., CVPR 2017, read by tonic, 128x128 binned to 64x64",
        events=True,
    ),
    Known(
        "cifar10-dvs",
        (2, 48, 48),
        10_000,
        0,
        10,
        None,
        "CC BY 4.0, see its figshare page",
        "CIFAR10-DVS, H. Li et al. 2017, doi 10.3389/fnins.2017.00309, read by tonic, 128x128 binned to 48x48",
        events=True,
    ),
    Known(
        "shd",
        (700, 1, 1),
        8_156,
        2_264,
        20,
        None,
        "CC BY 4.0",
        "Spiking Heidelberg Digits, B. Cramer et al. 2020, arXiv 1910.07407, read by tonic",
        events=True,
    ),
)
NAMES = tuple(known.name for known in SETS)
EVENT_NAMES = tuple(known.name for known in SETS if known.events)


def known(name: str) -> Known:
    """The entry of a built-in data set.

    Raises:
        ConfigError: for an unknown name.
    """
    for entry in SETS:
        if entry.name == name:
            return entry
    near = difflib.get_close_matches(name, NAMES, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ConfigError(f"there is no data set {name!r}; built in are {', '.join(NAMES)}{hint}")


def folder_of(name: str, folder: Path | None = None) -> Path:
    """Where a data set's files are looked for.

    The folder that is given; else, for Fashion-MNIST, Debian's; else ``NAME`` in the folder that the environment variable
    QPSNN_DATA names, which is ``data`` where it is not set.
    """
    if folder is not None:
        return Path(folder)
    if name.startswith("fashion-mnist"):
        return DEBIAN_FOLDER
    return Path(os.environ.get(FOLDER_VARIABLE) or "data") / name
