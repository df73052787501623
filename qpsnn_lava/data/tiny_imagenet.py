"""Tiny ImageNet from its unpacked folder: 64x64 JPEG files, decoded once into memory."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netx_export.errors import FormatError, MissingError
from qpsnn_lava.data.catalogue import known
from qpsnn_lava.data.split import VALIDATION_STREAM, Dataset, Split, check_seed, stratified_choice

SIDE = 64
MOST_CLASSES = 200
MOST_FILE = 1 << 20  # bytes of a JPEG file, and of wnids.txt and val_annotations.txt
ARCHIVE_FOLDER = "tiny-imagenet-200"
_GET = (
    "get http://cs231n.stanford.edu/tiny-imagenet-200.zip and unpack it there, or say --data FOLDER, where FOLDER holds "
    "wnids.txt, train and val"
)


def load_tiny_imagenet(folder: Path, seed: int) -> Dataset:
    """Tiny ImageNet: a tenth of the training images (10,000) is the validation, the published ``val`` folder the test.

    The labels of its ``test`` folder were never published.  Grey images become three equal channels.  In memory the whole set
    takes 110,000 * 3 * 64 * 64 bytes = 1.35 GB; reading it decodes every file, which takes minutes.

    Args:
        folder: holds wnids.txt, train/ and val/, or tiny-imagenet-200/ with them.
        seed: 0..2**63 - 1, of the validation split.

    Raises:
        MissingError: where the folder or Pillow is not there.
        FormatError: where a list or an image is not what it should be, naming it.
    """
    check_seed(seed)
    root = tiny_imagenet_folder(folder)
    names = _lines(root / "wnids.txt")
    if not 2 <= len(names) <= MOST_CLASSES or len(set(names)) < len(names) or not all(n.isalnum() for n in names):
        raise FormatError(f"{root / 'wnids.txt'}: holds {len(names)} names; expected 2..{MOST_CLASSES} different WordNet ids.")
    entry = known("tiny-imagenet")
    paths, labels = _training_files(root, names, entry.train)
    tested, tested_labels = _test_files(root, names, entry.test)
    count = len(labels) // 10
    if not count:
        raise FormatError(f"{root / 'train'}: holds {len(labels)} images; at least 10 leave some for the validation.")
    chosen = stratified_choice(labels, count, seed, VALIDATION_STREAM)
    rest = np.setdiff1d(np.arange(len(labels)), chosen, assume_unique=True)

    def split(positions: NDArray[np.int64]) -> Split:
        return Split(_decoded([paths[i] for i in positions]), labels[positions], positions)

    test = Split(_decoded(tested), tested_labels, len(labels) + np.arange(len(tested)))
    return Dataset("tiny-imagenet", split(rest), split(chosen), test, 255, len(names), entry.licence, entry.source)


def tiny_imagenet_folder(folder: Path) -> Path:
    """The folder that holds wnids.txt, train and val.

    Raises:
        MissingError: where there is none.
    """
    for root in (folder, folder / ARCHIVE_FOLDER):
        if (root / "wnids.txt").is_file() and (root / "train").is_dir() and (root / "val").is_dir():
            return root
    raise MissingError(f"tiny-imagenet is not in {folder}; {_GET}.")


def _lines(path: Path) -> list[str]:
    """The lines of a small text file that are not empty."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_FILE + 1)
        text = data.decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read ({error}); get the data set again.") from error
    if len(data) > MOST_FILE:
        raise FormatError(f"{path}: is larger than {MOST_FILE} bytes; get the data set again.")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _training_files(root: Path, names: list[str], most: int) -> tuple[list[Path], NDArray[np.int64]]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted((root / "train" / name / "images").glob("*.JPEG"))
        if not found:
            raise FormatError(f"{root / 'train' / name / 'images'}: holds no .JPEG file; get the data set again.")
        paths += found
        labels += [label] * len(found)
        if len(paths) > most:
            raise FormatError(f"{root / 'train'}: holds more than {most} images; get the data set again.")
    return paths, np.array(labels, np.int64)


def _test_files(root: Path, names: list[str], most: int) -> tuple[list[Path], NDArray[np.int64]]:
    """The images of ``val`` in the order of val_annotations.txt (file, WordNet id, box; separated by tabs)."""
    path = root / "val" / "val_annotations.txt"
    label_of = {name: label for label, name in enumerate(names)}
    lines = _lines(path)
    if not 1 <= len(lines) <= most:
        raise FormatError(f"{path}: lists {len(lines)} images; expected 1..{most}.")
    paths, labels = [], []
    for number, line in enumerate(lines, 1):
        file, _, rest = line.partition("\t")
        name = rest.partition("\t")[0]
        if name not in label_of:
            raise FormatError(f"{path}: line {number} names the class {name!r}, which is not in wnids.txt.")
        if Path(file).name != file or not file.endswith(".JPEG"):
            raise FormatError(f"{path}: line {number} names the file {file!r}; expected a name that ends in .JPEG.")
        paths.append(root / "val" / "images" / file)
        labels.append(label_of[name])
    return paths, np.array(labels, np.int64)


def _decoded(paths: list[Path]) -> NDArray[np.uint8]:
    """uint8 (N, 3, 64, 64)."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingError(
            "tiny-imagenet needs Pillow to read JPEG files, which is not installed: pip install pillow."
        ) from error
    images = np.empty((len(paths), 3, SIDE, SIDE), np.uint8)
    for i, path in enumerate(paths):
        try:
            with path.open("rb") as file:
                data = file.read(MOST_FILE + 1)
            if len(data) > MOST_FILE:
                raise FormatError(f"{path}: is larger than {MOST_FILE} bytes; get the data set again.")
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                    if image.size != (SIDE, SIDE):  # known from the header, before anything is decoded
                        raise FormatError(f"{path}: is {image.size[0]}x{image.size[1]}; expected {SIDE}x{SIDE}.")
                    images[i] = np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{path}: cannot be read as a JPEG image ({error}); get the data set again.") from error
    return images
