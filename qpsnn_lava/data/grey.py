"""The digits of scikit-learn and Fashion-MNIST: small grey images, in IDX files or inside a package."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from netx_export.errors import FormatError, MissingError
from qpsnn_lava.data.catalogue import DEBIAN_FOLDER, known
from qpsnn_lava.data.split import TEST_STREAM, VALIDATION_STREAM, Dataset, Split, cut, official

FASHION_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
FASHION_CLASSES = 10


def load_digits(seed: int) -> Dataset:
    """The 1,797 8x8 images (0..16) that ship with scikit-learn; 450 (a quarter, rounded up) for the test, 179 for the validation.

    Raises:
        MissingError: where scikit-learn is not installed.
    """
    images, labels = digits_module().load_digits(return_X_y=True)
    whole = Split(images.astype(np.uint8).reshape(-1, 1, 8, 8), labels.astype(np.int64))
    test, rest = cut(whole, -(-len(whole) // 4), seed, TEST_STREAM)
    validation, train = cut(rest, len(whole) // 10, seed, VALIDATION_STREAM)
    entry = known("digits")
    return Dataset("digits", train, validation, test, 16, entry.classes, entry.licence, entry.source)


def digits_module() -> Any:
    """scikit-learn's module that has the digits.

    Raises:
        MissingError: where it is not installed.
    """
    try:
        import sklearn.datasets  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingError("the digits come with scikit-learn, which is not installed: pip install scikit-learn.") from error
    return sklearn.datasets


def load_fashion(name: str, folder: Path, seed: int) -> Dataset:
    """Fashion-MNIST from its four IDX files; a twelfth of the training images (5,000) is the validation.

    Args:
        name: ``fashion-mnist``, or ``fashion-mnist-saccade``: the same images, from which :mod:`qpsnn_lava.data.saccade` makes
            events when they are encoded.
        folder: of the files, gzip or not; where both stand, the unpacked one is read.
        seed: of the validation split.

    Raises:
        MissingError, FormatError: naming the file.
    """
    paths = fashion_files(folder)
    entry = known(name)
    return official(
        name,
        _labelled_images(paths[0], paths[1], entry.train),
        _labelled_images(paths[2], paths[3], entry.test),
        classes=FASHION_CLASSES,
        part=12,
        seed=seed,
        licence=entry.licence,
        source=entry.source,
    )


def fashion_files(folder: Path) -> list[Path]:
    """The four files, unpacked or .gz.

    Raises:
        MissingError: naming those that are not there, and the ways to get them.
    """
    found = [next((p for p in (folder / n, folder / f"{n}.gz") if p.is_file()), None) for n in FASHION_FILES]
    missing = [name for name, path in zip(FASHION_FILES, found, strict=True) if path is None]
    if missing:
        raise MissingError(
            f"fashion-mnist is not in {folder} (missing: {', '.join(missing)}); either install Debian's package "
            f"(apt install dataset-fashion-mnist), which puts it into {DEBIAN_FOLDER}, or put the four files "
            f"{', '.join(FASHION_FILES)} (each as it is or as .gz) into a folder and say --data FOLDER."
        )
    return [path for path in found if path is not None]


def read_idx(path: Path, item_shape: tuple[int, ...], most: int) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes (``0x00 0x00 0x08 ndim``, then big-endian int32 sizes, then the bytes), gzip or not.

    Magic, sizes and count are held against what is expected before the bytes are read, and never more bytes are unpacked.

    Args:
        path: the file; gzip is recognised by its first two bytes.
        item_shape: sizes of one item, (28, 28) for images, () for labels.
        most: the largest number of items that the file may hold.

    Returns:
        uint8 (N, *item_shape), read-only.

    Raises:
        FormatError: naming the file, where it is not such a file.

    Source: the IDX format as described on the MNIST page (LeCun, Cortes, Burges).
    """
    try:
        with unpacked(path) as stream:
            return _idx_items(path, stream, item_shape, most)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"{path}: cannot be read ({error}); get the file again.") from error


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """The bytes of a file that is gzip or not."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=raw) as stream:
                yield stream
        else:
            yield raw


def _idx_items(path: Path, stream: BinaryIO | gzip.GzipFile, item_shape: tuple[int, ...], most: int) -> NDArray[np.uint8]:
    ndim = 1 + len(item_shape)
    magic = bytes((0, 0, 8, ndim))
    header = stream.read(4 + 4 * ndim)
    if header[:4] != magic:
        raise FormatError(
            f"{path}: begins with {header[:4].hex() or 'nothing'}, but an IDX file of {ndim} dimensions with {magic.hex()}; "
            "is it another file under this name?"
        )
    if len(header) < 4 + 4 * ndim:
        raise FormatError(f"{path}: truncated, its header has {len(header)} of {4 + 4 * ndim} bytes; get the file again.")
    count, *sizes = (int(n) for n in np.frombuffer(header, ">u4", offset=4))
    if tuple(sizes) != item_shape:
        raise FormatError(f"{path}: its items have sizes {tuple(sizes)}; expected {item_shape}.")
    if not 1 <= count <= most:
        raise FormatError(f"{path}: says that it holds {count} items; expected 1..{most}.")
    expected = count * int(np.prod(item_shape, dtype=np.int64))
    data = stream.read(expected + 1)
    if len(data) < expected:
        raise FormatError(f"{path}: truncated, {len(data)} of {expected} bytes of data are there; get the file again.")
    if len(data) > expected:
        raise FormatError(f"{path}: holds more than the {expected} bytes of data that its header says; get the file again.")
    return np.frombuffer(data, np.uint8).reshape(count, *item_shape)


def _labelled_images(images_path: Path, labels_path: Path, most: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = read_idx(images_path, (28, 28), most)
    labels = read_idx(labels_path, (), most)
    if len(images) != len(labels):
        raise FormatError(f"{labels_path}: holds {len(labels)} labels, but {images_path.name} {len(images)} images.")
    wrong = np.flatnonzero(labels >= FASHION_CLASSES)
    if wrong.size:
        raise FormatError(f"{labels_path}: label {wrong[0]} is {labels[wrong[0]]}; labels are 0..{FASHION_CLASSES - 1}.")
    return images[:, None], labels.astype(np.int64)
