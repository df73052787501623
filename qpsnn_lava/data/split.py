"""What training reads: images or frames of events with labels, split once by seed, checked on the way in, immutable afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from netx_export.errors import ConfigError, FormatError

_SEED_LIMIT = 1 << 63
TEST_STREAM, VALIDATION_STREAM, SUBSET_STREAM = range(3)


class Samples(Protocol):
    """What training reads of one split; :class:`Split` is our own."""

    @property
    def images(self) -> NDArray[np.uint8]:
        """uint8 (N, C, H, W) images, 0..max_value of the data set, or (N, C, H, W, T) frames of events."""
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
        images: uint8, images (N, C, H, W) or frames of events (N, C, H, W, T), at least one; kept as a read-only view, not
            copied.
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
        if images.dtype != np.uint8 or images.ndim not in (4, 5) or not images.size:
            raise ConfigError(
                f"images are {images.dtype} of shape {images.shape}; expected uint8 (N, C, H, W), or frames of events "
                "(N, C, H, W, T), at least one: rescale them to 0..255 and add the channel axis."
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
        return self.take(stratified_choice(self.labels, n, seed, SUBSET_STREAM))

    def take(self, positions: NDArray[np.int64]) -> Split:
        """The samples at these positions, in this order, copied."""
        return Split(self.images[positions], self.labels[positions], self.indices[positions])


@dataclass(frozen=True)
class Dataset:
    """A data set, split for good.

    Args:
        name: as in the experiment file.
        train, validation, test: disjoint splits with images of one shape.
        max_value: the largest value that a pixel or a count of events can have, 1..255 (digits 16, the others 255).
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


def official(
    name: str,
    train: tuple[NDArray[np.uint8], NDArray[np.int64]],
    test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    *,
    classes: int,
    part: int,
    seed: int,
    licence: str,
    source: str,
) -> Dataset:
    """A data set with a published test set: one ``part``-th of the training samples, drawn by class, is the validation.

    Args:
        name, classes, licence, source: see :class:`Dataset`.
        train, test: images and labels as published; the indices count through both.
        part: the validation has ``len(train) // part`` samples.
        seed: 0..2**63 - 1.

    Raises:
        FormatError: where fewer than ``part`` training samples leave none for the validation.
    """
    count = len(train[1])
    if count < part:
        raise FormatError(f"{name}: {count} training samples; at least {part} leave some for the validation.")
    validation, rest = cut(Split(*train), count // part, seed, VALIDATION_STREAM)
    tested = Split(*test, count + np.arange(len(test[1])))
    return Dataset(name, rest, validation, tested, 255, classes, licence, source)


def with_train_images(dataset: Dataset, count: int, seed: int) -> Dataset:
    """The data set with ``count`` of its training samples (:meth:`Split.subset`); validation and test stay as they are.

    Args:
        dataset: split already.
        count: 1 to as many as the training split has.
        seed: 0..2**63 - 1.

    Raises:
        ConfigError: where ``count`` is out of its range.
    """
    most = len(dataset.train)
    if not 1 <= count <= most:
        raise ConfigError(
            f"data.train_images is {count}; the training split of {dataset.name} has 1..{most} to give: leave it out to take all."
        )
    return replace(dataset, train=dataset.train.subset(count, seed))


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


def cut(whole: Split, count: int, seed: int, stream: int) -> tuple[Split, Split]:
    """``count`` samples drawn by class (:func:`stratified_choice`), and the rest."""
    chosen = stratified_choice(whole.labels, count, seed, stream)
    rest = np.setdiff1d(np.arange(len(whole)), chosen, assume_unique=True)
    return whole.take(chosen), whole.take(rest)


def _whole_numbers(name: str, values: ArrayLike, count: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.shape != (count,):
        expected = f"whole numbers, one for each of {count} images"
        raise ConfigError(f"{name} are {array.dtype} of shape {array.shape}; expected {expected}.")
    if int(array.min()) < 0 or int(array.max()) >= _SEED_LIMIT:
        raise ConfigError(f"{name} span {array.min()}..{array.max()}; they must not be negative nor exceed 2**63 - 1.")
    return array.astype(np.int64)
