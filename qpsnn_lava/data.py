"""Image data sets: split once by seed, checked on the way in, immutable afterwards.

The validation split chooses the checkpoint; the test split is read once, at the end.

A data set of your own needs no base class: training takes any object with the fields of :class:`TrainingData`, whose splits
have the fields of :class:`Samples`.  The shortest way is to build a :class:`Dataset` from three :class:`Split` objects.
"""

from __future__ import annotations

import difflib
import gzip
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from netx_export.errors import ConfigError, FormatError, MissingError

NAMES = ("digits", "fashion-mnist")

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
FASHION_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
FASHION_TRAIN = 60_000
FASHION_TEST = 10_000
FASHION_CLASSES = 10
_SEED_LIMIT = 1 << 63
_TEST_STREAM, _VALIDATION_STREAM, _SUBSET_STREAM = range(3)


class Samples(Protocol):
    """What training reads of one split; :class:`Split` is our own."""

    @property
    def images(self) -> NDArray[np.uint8]:
        """uint8 (N, C, H, W), 0..max_value of the data set."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 (N,), 0..classes - 1."""
        ...

    @property
    def indices(self) -> NDArray[np.int64]:
        """int64 (N,), what each sample is called: rate coding draws its spikes from (seed, index)."""
        ...


class TrainingData(Protocol):
    """What training needs of a data set: three splits of equal image shape; :class:`Dataset` is our own."""

    @property
    def name(self) -> str:
        """For reports."""
        ...

    @property
    def train(self) -> Samples:
        """Weights, BatchNorm statistics and pruning scores come from these."""
        ...

    @property
    def validation(self) -> Samples:
        """Chooses the checkpoint."""
        ...

    @property
    def test(self) -> Samples:
        """Read once, at the end."""
        ...

    @property
    def max_value(self) -> int:
        """The largest value that a pixel can have, 1..255."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels, read-only.

    Args:
        images: uint8 (N, C, H, W), at least one; kept as a read-only view, not copied.
        labels: whole numbers (N,), not negative; held as int64.
        indices: int64 (N,), position of each sample in its source, unique and not negative; default (empty):
            0..N - 1.

    Raises:
        ConfigError: where a shape or dtype differs, or a label is negative.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        images = np.asarray(self.images)
        if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
            raise ConfigError(
                f"images are {images.dtype} of shape {images.shape}; expected uint8 (N, C, H, W), at least one image: "
                "rescale them to 0..255 and add the channel axis."
            )
        labels = _whole_numbers("labels", self.labels, len(images))
        indices = _whole_numbers("indices", self.indices, len(images)) if len(self.indices) else np.arange(len(images))
        if len(np.unique(indices)) != len(indices):
            raise ConfigError("indices name a sample twice; each sample of a split needs an index of its own.")
        for name, array in (("images", images), ("labels", labels), ("indices", indices)):
            view = array.view()
            view.setflags(write=False)
            object.__setattr__(self, name, view)

    def __len__(self) -> int:
        return len(self.labels)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Split):
            return NotImplemented
        return (
            np.array_equal(self.images, other.images)
            and np.array_equal(self.labels, other.labels)
            and np.array_equal(self.indices, other.indices)
        )

    __hash__ = None  # type: ignore[assignment]

    def subset(self, n: int, seed: int) -> Split:
        """``n`` of the samples, every class in its proportion, in their order; all of them where there are no more.

        Args:
            n: at least 1.
            seed: 0..2**63 - 1; the same seed gives the same samples.

        Raises:
            ConfigError: where ``n`` is below 1.
        """
        if n < 1:
            raise ConfigError(f"a subset of {n} samples; at least 1 is needed.")
        if n >= len(self):
            return self
        return self._take(stratified_choice(self.labels, n, seed, _SUBSET_STREAM))

    def _take(self, positions: NDArray[np.int64]) -> Split:
        return Split(self.images[positions], self.labels[positions], self.indices[positions])


@dataclass(frozen=True)
class Dataset:
    """A data set, split for good.

    Args:
        name: as in the experiment file.
        train, validation, test: disjoint splits with images of one shape.
        max_value: the largest value that a pixel can have, 1..255 (digits 16, Fashion-MNIST 255).
        classes: number of classes; labels are below it.
        licence: one line.
        source: one line, where the data come from.

    Raises:
        ConfigError: where shapes differ between the splits, or a pixel or label is out of range.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    max_value: int
    classes: int
    licence: str = "not stated"
    source: str = "not stated"

    def __post_init__(self) -> None:
        if not 1 <= self.max_value <= 255:
            raise ConfigError(f"{self.name}: max_value is {self.max_value}; it must be in 1..255, the range of uint8 pixels.")
        if self.classes < 2:
            raise ConfigError(f"{self.name}: {self.classes} classes; at least 2 are needed.")
        for part, split in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            if split.images.shape[1:] != self.train.images.shape[1:]:
                raise ConfigError(
                    f"{self.name}: {part} images have shape {split.images.shape[1:]}, train images "
                    f"{self.train.images.shape[1:]}; all splits need one shape."
                )
            if (pixel := int(split.images.max())) > self.max_value:
                raise ConfigError(f"{self.name}: a {part} image holds {pixel}; max_value says at most {self.max_value}.")
            if (label := int(split.labels.max())) >= self.classes:
                raise ConfigError(
                    f"{self.name}: a {part} label is {label}; with {self.classes} classes it is at most {self.classes - 1}."
                )


def load(name: str, *, folder: Path | None = None, seed: int = 0) -> Dataset:
    """A built-in data set, split by seed.

    - ``digits``: the 1,797 8x8 images (0..16) that ship with scikit-learn; 450 (a quarter, rounded up) for the test, 179 for
      the validation, 1,168 for training.
    - ``fashion-mnist``: four IDX files; the official 10,000 test images; 5,000 (a twelfth) of the 60,000 are the validation.

    Every split that is drawn holds each class in its proportion.

    Args:
        name: ``digits`` or ``fashion-mnist``.
        folder: where the IDX files are (gzip or not; where both stand, the unpacked one is read); None: where Debian's package
            dataset-fashion-mnist puts them.  digits needs none.
        seed: 0..2**63 - 1, fixes the drawn splits on every machine (Philox bits, sorted).

    Raises:
        ConfigError: for an unknown name.
        MissingError: where the files, or scikit-learn for the digits, are not there; it says how to get them.
        FormatError: where a file is not what it claims to be.
    """
    if name == "digits":
        return _digits(seed)
    if name == "fashion-mnist":
        return _fashion_mnist(DEBIAN_FOLDER if folder is None else Path(folder), seed)
    near = difflib.get_close_matches(name, NAMES, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ConfigError(f"there is no data set {name!r}; built in are {', '.join(NAMES)}{hint}")


def stratified_choice(labels: NDArray[np.int64], count: int, seed: int, stream: int = 0) -> NDArray[np.int64]:
    """Sorted positions of ``count`` samples, each class in its proportion.

    Class c with n_c of N samples gives ``floor(count * n_c / N)``; what is then missing comes one each from the classes with
    the largest remainders, ties to the lowest class.  Within a class the samples with the smallest random numbers are taken.

    Args:
        labels: int64 (N,).
        count: 0..N.
        seed: 0..2**63 - 1.
        stream: small whole number; keeps draws for different purposes apart.

    Raises:
        ConfigError: where ``count`` or ``seed`` is out of range.
    """
    if not 0 <= count <= len(labels):
        raise ConfigError(f"{count} of {len(labels)} samples; a choice takes 0..{len(labels)}.")
    check_seed(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    exact = count * sizes.astype(np.int64)
    share = exact // max(len(labels), 1)
    first = np.argsort(-(exact - share * len(labels)), kind="stable")[: count - int(share.sum())]
    share[first] += 1
    drawn = np.random.Philox(key=seed | stream << 64).random_raw(len(labels))
    order = np.argsort(drawn, kind="stable")
    chosen = [order[labels[order] == c][:n] for c, n in zip(classes, share, strict=True)]
    return np.sort(np.concatenate([*chosen, np.empty(0, np.int64)]))


def check_seed(seed: int, name: str = "seed") -> None:
    """Raise ConfigError unless the seed (or what ``name`` says) is in 0..2**63 - 1, as half of Philox' key."""
    if not 0 <= seed < _SEED_LIMIT:
        raise ConfigError(f"the {name} is {seed}; it must be in 0..{_SEED_LIMIT - 1}.")


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
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                return _idx_items(path, raw, item_shape, most)
            with gzip.GzipFile(fileobj=raw) as stream:
                return _idx_items(path, stream, item_shape, most)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"{path}: cannot be read ({error}); get the file again.") from error


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


def _whole_numbers(name: str, values: ArrayLike, count: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.shape != (count,):
        expected = f"whole numbers, one for each of {count} images"
        raise ConfigError(f"{name} are {array.dtype} of shape {array.shape}; expected {expected}.")
    if int(array.min()) < 0 or int(array.max()) >= _SEED_LIMIT:
        raise ConfigError(f"{name} span {array.min()}..{array.max()}; they must not be negative nor exceed 2**63 - 1.")
    return array.astype(np.int64)


def _digits(seed: int) -> Dataset:
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingError("the digits come with scikit-learn, which is not installed: pip install scikit-learn.") from error
    images, labels = load_digits(return_X_y=True)
    whole = Split(images.astype(np.uint8).reshape(-1, 1, 8, 8), labels.astype(np.int64))
    test, rest = _cut(whole, -(-len(whole) // 4), seed, _TEST_STREAM)
    validation, train = _cut(rest, len(whole) // 10, seed, _VALIDATION_STREAM)
    return Dataset(
        "digits",
        train,
        validation,
        test,
        max_value=16,
        classes=10,
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
        source="Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak 1998, the 1,797 images in scikit-learn",
    )


def _fashion_mnist(folder: Path, seed: int) -> Dataset:
    paths = _fashion_files(folder)
    train_images, train_labels = _labelled_images(paths[0], paths[1], FASHION_TRAIN)
    test_images, test_labels = _labelled_images(paths[2], paths[3], FASHION_TEST)
    if len(train_images) < 12:
        raise FormatError(f"{paths[0]}: holds {len(train_images)} images; at least 12 leave some for the validation.")
    official = Split(train_images, train_labels)
    validation, train = _cut(official, len(official) // 12, seed, _VALIDATION_STREAM)
    return Dataset(
        "fashion-mnist",
        train,
        validation,
        Split(test_images, test_labels, len(official) + np.arange(len(test_images))),
        max_value=255,
        classes=FASHION_CLASSES,
        licence="MIT (Zalando SE)",
        source="Fashion-MNIST, H. Xiao, K. Rasul, R. Vollgraf 2017, arXiv 1708.07747",
    )


def _fashion_files(folder: Path) -> list[Path]:
    """The four files, unpacked or .gz; MissingError naming those that are not there."""
    found = [next((p for p in (folder / n, folder / f"{n}.gz") if p.is_file()), None) for n in FASHION_FILES]
    missing = [name for name, path in zip(FASHION_FILES, found, strict=True) if path is None]
    if missing:
        raise MissingError(
            f"fashion-mnist is not in {folder} (missing: {', '.join(missing)}); either install Debian's package "
            f"(apt install dataset-fashion-mnist), which puts it into {DEBIAN_FOLDER}, or put the four files "
            f"{', '.join(FASHION_FILES)} (each as it is or as .gz) into a folder and say --data FOLDER."
        )
    return [path for path in found if path is not None]


def _labelled_images(images_path: Path, labels_path: Path, most: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = read_idx(images_path, (28, 28), most)
    labels = read_idx(labels_path, (), most)
    if len(images) != len(labels):
        raise FormatError(f"{labels_path}: holds {len(labels)} labels, but {images_path.name} {len(images)} images.")
    wrong = np.flatnonzero(labels >= FASHION_CLASSES)
    if wrong.size:
        raise FormatError(f"{labels_path}: label {wrong[0]} is {labels[wrong[0]]}; labels are 0..{FASHION_CLASSES - 1}.")
    return images[:, None], labels.astype(np.int64)


def _cut(whole: Split, count: int, seed: int, stream: int) -> tuple[Split, Split]:
    """``count`` samples drawn by class, and the rest."""
    chosen = stratified_choice(whole.labels, count, seed, stream)
    rest = np.setdiff1d(np.arange(len(whole)), chosen, assume_unique=True)
    return whole._take(chosen), whole._take(rest)
