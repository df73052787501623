from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from netx_export.errors import ConfigError, FormatError, MissingError
from qpsnn_lava import data
from qpsnn_lava.data import Dataset, Split, TrainingData, catalogue, load, read_idx, stratified_choice

TRAIN, TEST = 240, 40
IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = data.FASHION_FILES


def _idx(values: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def _content() -> dict[str, NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    content: dict[str, NDArray[np.uint8]] = {}
    for prefix, count in (("train", TRAIN), ("t10k", TEST)):
        content[f"{prefix}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        content[f"{prefix}-labels-idx1-ubyte"] = rng.permutation(np.arange(count) % 10).astype(np.uint8)
    return content


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Fashion-MNIST; one file packed, three not."""
    for name, values in _content().items():
        if name == IMAGES:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(_idx(values), 1))
        else:
            (tmp_path / name).write_bytes(_idx(values))
    return tmp_path


def _needs(dataset: TrainingData) -> tuple[int, ...]:
    """What mypy holds Dataset against: the protocol that training asks for."""
    return dataset.train.images.shape


def test_digits() -> None:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    dataset = load("digits", seed=3)
    assert _needs(dataset) == (1168, 1, 8, 8)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [1168, 179, 450]
    assert len(dataset.test) * 4 >= 1797
    assert (dataset.max_value, dataset.classes) == (16, 10)
    assert dataset.licence and dataset.source
    together = np.concatenate([dataset.train.indices, dataset.validation.indices, dataset.test.indices])
    assert np.array_equal(np.sort(together), np.arange(1797))
    raw = load_digits()
    for split in (dataset.train, dataset.validation, dataset.test):
        assert np.array_equal(split.images[:, 0], raw.images[split.indices])
        assert np.array_equal(split.labels, raw.target[split.indices])
        share = np.bincount(split.labels) / np.bincount(raw.target) * 1797 / len(split)
        assert np.all(np.abs(share - 1) < 0.06)
    assert load("digits", seed=3) == dataset
    assert load("digits", seed=4) != dataset


def test_digits_split_is_the_same_on_every_machine() -> None:
    assert load("digits", seed=0).test.indices[:8].tolist() == GOLDEN_TEST


GOLDEN_TEST = [0, 1, 2, 9, 11, 13, 16, 20]


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingError, match="scikit-learn, which is not installed: pip install scikit-learn"):
        load("digits")


def test_fashion_mnist_from_a_folder(folder: Path) -> None:
    dataset = load("fashion-mnist", folder=folder, seed=1)
    content = _content()
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [220, 20, 40]
    assert np.bincount(dataset.validation.labels).tolist() == [2] * 10
    assert np.array_equal(dataset.test.images[:, 0], content[TEST_IMAGES])
    assert np.array_equal(dataset.test.labels, content[TEST_LABELS])
    assert dataset.test.indices.tolist() == list(range(TRAIN, TRAIN + TEST))
    for split in (dataset.train, dataset.validation):
        assert np.array_equal(split.images[:, 0], content[IMAGES][split.indices])
        assert np.array_equal(split.labels, content[LABELS][split.indices])
    assert np.array_equal(np.sort(np.concatenate([dataset.train.indices, dataset.validation.indices])), np.arange(TRAIN))
    assert load("fashion-mnist", folder=folder, seed=1) == dataset
    assert load("fashion-mnist", folder=folder, seed=2).validation != dataset.validation


def test_fashion_mnist_from_debians_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "DEBIAN_FOLDER", folder)
    assert load("fashion-mnist") == load("fashion-mnist", folder=folder)


def test_fashion_mnist_absent_says_both_ways(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(MissingError) as raised:
        load("fashion-mnist", folder=tmp_path / "nowhere")
    for part in ("nowhere", "apt install dataset-fashion-mnist", "--data", *data.FASHION_FILES):
        assert part in str(raised.value)
    (folder / LABELS).unlink()
    with pytest.raises(MissingError, match=r"\(missing: train-labels-idx1-ubyte\)"):
        load("fashion-mnist", folder=folder)


_LABEL_BYTES = _idx(_content()[LABELS])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x00\x00\x08\x03" + _LABEL_BYTES[4:], "begins with 00000803, but an IDX file of 1 dimensions with 00000801"),
        (_LABEL_BYTES[:6], "truncated, its header has 6 of 8 bytes"),
        (_LABEL_BYTES[:-1], f"truncated, {TRAIN - 1} of {TRAIN} bytes of data"),
        (_LABEL_BYTES + b"\x00", f"holds more than the {TRAIN} bytes"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 2**32 - 1), r"says that it holds 4294967295 items; expected 1\.\.60000"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 0), "says that it holds 0 items"),
        (
            _idx(np.arange(TRAIN).astype(np.uint8) % 10 + (np.arange(TRAIN) == 77).astype(np.uint8) * 9),
            r"label 77 is 16; labels are 0\.\.9",
        ),
        (_idx(np.zeros(TRAIN - 1, np.uint8)), f"holds {TRAIN - 1} labels, but train-images-idx3-ubyte.gz {TRAIN} images"),
    ],
)
def test_bad_label_files(folder: Path, content: bytes, message: str, packed: bool) -> None:
    (folder / LABELS).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(FormatError, match=message) as raised:
        load("fashion-mnist", folder=folder)
    assert str(folder / LABELS) in str(raised.value)


def test_images_of_another_size(folder: Path) -> None:
    (folder / TEST_IMAGES).write_bytes(_idx(np.zeros((TEST, 8, 8), np.uint8)))
    with pytest.raises(FormatError, match=r"t10k-images-idx3-ubyte: its items have sizes \(8, 8\); expected \(28, 28\)"):
        load("fashion-mnist", folder=folder)


def test_too_few_images_for_a_validation(folder: Path) -> None:
    (folder / f"{IMAGES}.gz").write_bytes(gzip.compress(_idx(np.zeros((11, 28, 28), np.uint8))))
    (folder / LABELS).write_bytes(_idx(np.zeros(11, np.uint8)))
    with pytest.raises(FormatError, match="fashion-mnist: 11 training samples; at least 12 leave some for the validation"):
        load("fashion-mnist", folder=folder)


def test_damaged_gzip(folder: Path) -> None:
    path = folder / f"{IMAGES}.gz"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    for content in (whole[: len(whole) // 2], whole[:5], bytes(damaged)):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"train-images-idx3-ubyte\.gz: cannot be read"):
            load("fashion-mnist", folder=folder)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(gzip.compress(_idx(np.zeros(4, np.uint8)) + bytes(50_000_000), 1))
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(FormatError, match="holds more than the 4 bytes"):
        read_idx(path, (), 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_unknown_name() -> None:
    with pytest.raises(
        ConfigError,
        match=r"no data set 'fashion-mnits'; built in are digits, fashion-mnist, .*, shd; did you mean 'fashion-mnist'",
    ):
        load("fashion-mnits")


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80).flatmap(lambda x: st.tuples(st.just(x), st.integers(0, len(x)))))
def test_stratified_choice(case: tuple[list[int], int]) -> None:
    labels, count = np.array(case[0]), case[1]
    chosen = stratified_choice(labels, count, 5)
    assert len(chosen) == count
    assert np.all(np.diff(chosen) > 0)
    for c in np.unique(labels):
        exact = count * np.sum(labels == c) / len(labels)
        assert abs(np.sum(labels[chosen] == c) - exact) < 1


def test_stratified_choice_draws_every_sample_alike() -> None:
    labels = np.arange(40) % 4
    drawn = np.sum([np.bincount(stratified_choice(labels, 10, seed), minlength=40) for seed in range(400)], axis=0)
    assert np.all(np.abs(drawn - 100) < 5 * np.sqrt(400 * 0.25 * 0.75))


def test_streams_and_limits_of_a_choice() -> None:
    labels = np.zeros(100, np.int64)
    assert not np.array_equal(stratified_choice(labels, 50, 1, 0), stratified_choice(labels, 50, 1, 1))
    with pytest.raises(ConfigError, match=r"101 of 100 samples; a choice takes 0\.\.100"):
        stratified_choice(labels, 101, 1)
    with pytest.raises(ConfigError, match=r"the seed is -1; it must be in 0\.\."):
        stratified_choice(labels, 1, -1)


def test_subset() -> None:
    test = load("digits").test
    small = test.subset(60, 0)
    assert len(small) == 60
    assert np.all(np.abs(np.bincount(small.labels) - 6) <= 1)
    where = np.searchsorted(test.indices, small.indices)
    assert np.array_equal(test.images[where], small.images)
    assert test.subset(60, 0) == small
    assert test.subset(60, 1) != small
    assert test.subset(450, 0) is test
    assert test.subset(10**6, 0) is test
    with pytest.raises(ConfigError, match="a subset of 0 samples; at least 1"):
        test.subset(0, 0)


def _split(n: int = 3, top: int = 9, shape: tuple[int, int, int] = (1, 2, 2)) -> Split:
    return Split(np.full((n, *shape), top, np.uint8), np.arange(n))


def test_split_is_read_only_and_leaves_the_callers_array_alone() -> None:
    images = np.zeros((3, 1, 2, 2), np.uint8)
    split = Split(images, np.array([0, 1, 2], np.uint8))
    assert split.labels.dtype == np.int64
    assert split.indices.tolist() == [0, 1, 2]
    for array in (split.images, split.labels, split.indices):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    images[0] = 1
    assert split != _split()
    assert split != "split"


def test_split_refuses() -> None:
    images = np.zeros((3, 1, 2, 2), np.uint8)
    with pytest.raises(ConfigError, match=r"images are float64 of shape \(3, 1, 2, 2\); expected uint8"):
        Split(images.astype(float), np.arange(3))
    assert Split(images[..., None], np.arange(3)).images.shape == (3, 1, 2, 2, 1)  # frames of events
    with pytest.raises(ConfigError, match=r"images are uint8 of shape \(3, 2, 2\)"):
        Split(images[:, 0], np.arange(3))
    with pytest.raises(ConfigError, match=r"images are uint8 of shape \(0, 1, 2, 2\)"):
        Split(images[:0], np.arange(0))
    with pytest.raises(
        ConfigError, match=r"labels are int64 of shape \(2,\); expected whole numbers, one for each of 3 images"
    ):
        Split(images, np.arange(2))
    with pytest.raises(ConfigError, match="labels are float64"):
        Split(images, np.arange(3.0))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"labels span -1\.\.1; they must not be negative"):
        Split(images, np.arange(3) - 1)
    with pytest.raises(ConfigError, match="indices name a sample twice"):
        Split(images, np.arange(3), np.array([1, 2, 1]))


def test_dataset_refuses() -> None:
    good = _split()
    with pytest.raises(ConfigError, match=r"mine: test images have shape \(1, 2, 3\), train images \(1, 2, 2\)"):
        Dataset("mine", good, good, _split(shape=(1, 2, 3)), 9, 3)
    with pytest.raises(ConfigError, match="mine: a validation image holds 10; max_value says at most 9"):
        Dataset("mine", good, _split(top=10), good, 9, 3)
    with pytest.raises(ConfigError, match="mine: a train label is 2; with 2 classes it is at most 1"):
        Dataset("mine", good, good, good, 9, 2)
    with pytest.raises(ConfigError, match=r"mine: max_value is 256; it must be in 1\.\.255"):
        Dataset("mine", good, good, good, 256, 3)
    with pytest.raises(ConfigError, match="mine: 1 classes; at least 2"):
        Dataset("mine", good, good, good, 9, 1)
    assert Dataset("mine", good, good, good, 9, 3).licence == "not stated"


@pytest.mark.skipif(not catalogue.DEBIAN_FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist() -> None:
    dataset = load("fashion-mnist", seed=0)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [55_000, 5_000, 10_000]
    assert np.bincount(dataset.validation.labels).tolist() == [500] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    mean = (dataset.train.images.sum() + dataset.validation.images.sum()) / (60_000 * 784 * 255)
    assert mean == pytest.approx(0.2860, abs=5e-5)  # the mean that most code normalises with
