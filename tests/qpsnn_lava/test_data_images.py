"""CIFAR and Tiny ImageNet from small files of the same format, whole and damaged."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from netx_export.errors import FormatError, MissingError
from qpsnn_lava.data import load
from qpsnn_lava.data.cifar import LAYOUTS

PER_FILE = 20


def cifar_files(name: str, seed: int = 0) -> dict[str, bytes]:
    """Small files of the binary version: every class as often as any other."""
    layout, rng = LAYOUTS[name], np.random.default_rng(seed)
    classes = 10 if name == "cifar-10" else 100
    count = PER_FILE if name == "cifar-10" else 200
    made = {}
    for file in layout.files:
        labels = rng.permutation(np.arange(count) % classes)
        columns = [labels % 20, labels] if layout.coarse else [labels]
        table = np.concatenate([np.stack(columns, 1), rng.integers(0, 256, (count, 3072))], 1)
        made[file] = table.astype(np.uint8).tobytes()
    return made


def pack(path: Path, files: dict[str, bytes], folder: str) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("name", ["cifar-10", "cifar-100"])
@pytest.mark.parametrize("place", ["archive", "folder", "files"])
def test_cifar(tmp_path: Path, name: str, place: str) -> None:
    layout, files = LAYOUTS[name], cifar_files(name)
    if place == "archive":
        pack(tmp_path / layout.archive, {"batches.meta.txt": b"names", **files}, layout.folder)
    else:
        folder = tmp_path / layout.folder if place == "folder" else tmp_path
        folder.mkdir(exist_ok=True)
        for file, content in files.items():
            (folder / file).write_bytes(content)
    dataset = load(name, folder=tmp_path, seed=2)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    size = len(LAYOUTS[name].files) - 1
    total = size * (PER_FILE if name == "cifar-10" else 200)
    assert (len(dataset.validation), len(dataset.train)) == (total // 10, total - total // 10)
    assert (dataset.max_value, dataset.classes) == (255, 10 if name == "cifar-10" else 100)
    assert "none stated" in dataset.licence and "Krizhevsky" in dataset.source
    record = layout.labels + 3072
    published = b"".join(files[file] for file in layout.files)
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.images.shape[1:] == (3, 32, 32)
        for image, label, index in zip(split.images, split.labels, split.indices, strict=True):
            raw = published[index * record : (index + 1) * record]
            assert label == raw[layout.labels - 1]
            assert image[0, 0, :32].tobytes() == raw[layout.labels : layout.labels + 32]  # red, the first row
            assert image[2, 31].tobytes() == raw[-32:]  # blue, the last row
    assert load(name, folder=tmp_path, seed=2) == dataset
    assert load(name, folder=tmp_path, seed=3).validation != dataset.validation
    assert sorted(path.name for path in tmp_path.rglob("*")) == before  # nothing is unpacked to disk


def test_cifar_absent_says_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError) as raised:
        load("cifar-10")
    for part in ("data/cifar-10", "cifar-10-binary.tar.gz", "https://www.cs.toronto.edu/", "test_batch.bin", "--data"):
        assert part in str(raised.value)
    monkeypatch.setenv("QPSNN_DATA", str(tmp_path / "sets"))
    with pytest.raises(MissingError, match=r"cifar-100 is not in .*/sets/cifar-100: neither"):
        load("cifar-100")


def _damaged(files: dict[str, bytes], name: str, content: bytes) -> dict[str, bytes]:
    return {**files, name: content}


RECORD = bytes(3073)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (RECORD[:-1], r"holds 3072 bytes; expected 1\.\.10000 records of 3073 bytes"),
        (b"", r"holds 0 bytes; expected 1\.\.10000 records"),
        (RECORD + b"\x0a" + bytes(3072), r"label 1 is 10; labels are 0\.\.9"),
    ],
)
def test_bad_cifar_files(tmp_path: Path, content: bytes, message: str, packed: bool) -> None:
    files = _damaged(cifar_files("cifar-10"), "data_batch_3.bin", content)
    if packed:
        pack(tmp_path / "cifar-10-binary.tar.gz", files, "cifar-10-batches-bin")
    else:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
    with pytest.raises(FormatError, match=message) as raised:
        load("cifar-10", folder=tmp_path)
    assert "data_batch_3.bin" in str(raised.value)


def test_cifar_files_that_are_too_large(tmp_path: Path) -> None:
    files = cifar_files("cifar-10")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "test_batch.bin").write_bytes(bytes(10_001 * 3073))
    with pytest.raises(FormatError, match=r"test_batch\.bin: holds more than 30730000 bytes; expected 1\.\.10000 records"):
        load("cifar-10", folder=tmp_path)
    (tmp_path / "test_batch.bin").unlink()
    pack(tmp_path / "cifar-10-binary.tar.gz", {**files, "test_batch.bin": bytes(10_001 * 3073)}, "cifar-10-batches-bin")
    with pytest.raises(FormatError, match=r"test_batch\.bin is no file of at most 30730000 bytes"):
        load("cifar-10", folder=tmp_path)


def test_coarse_labels_are_checked_too(tmp_path: Path) -> None:
    files = cifar_files("cifar-100")
    pack(tmp_path / "cifar-100-binary.tar.gz", _damaged(files, "test.bin", b"\x14\x00" + bytes(3072)), "cifar-100-binary")
    with pytest.raises(FormatError, match=r"test\.bin: coarse label 0 is 20; labels are 0\.\.19"):
        load("cifar-100", folder=tmp_path)


def test_bad_archives(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    files = cifar_files("cifar-10")
    pack(path, files, "cifar-10-batches-bin")
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    for content in (whole[: len(whole) // 2], whole[:5], bytes(damaged), b"", gzip.compress(b"no tar")):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"cifar-10-binary\.tar\.gz: (cannot be read as a \.tar\.gz|does not hold)"):
            load("cifar-10", folder=tmp_path)
    files.pop("data_batch_5.bin")
    pack(path, files, "cifar-10-batches-bin")
    with pytest.raises(FormatError, match=r"does not hold cifar-10-batches-bin/data_batch_5\.bin; is it the binary version"):
        load("cifar-10", folder=tmp_path)
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(member)
    with pytest.raises(FormatError, match=r"data_batch_1\.bin is no file of at most"):
        load("cifar-10", folder=tmp_path)


def test_an_archive_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qpsnn_lava.data import cifar

    monkeypatch.setattr(cifar, "_HEADERS", 1_000_000 - 60_000 * 3073)  # a limit of 1 MB, so that the bomb can be small
    path = tmp_path / "cifar-10-binary.tar.gz"
    pack(path, {"readme.html": bytes(3_000_000), **cifar_files("cifar-10")}, "cifar-10-batches-bin")
    with pytest.raises(FormatError, match="unpacks to more than the published archive does"):
        load("cifar-10", folder=tmp_path)


def test_too_few_images_for_a_validation(tmp_path: Path) -> None:
    for file in LAYOUTS["cifar-10"].files:
        (tmp_path / file).write_bytes(RECORD)
    with pytest.raises(FormatError, match="cifar-10: 5 training samples; at least 10 leave some for the validation"):
        load("cifar-10", folder=tmp_path)


# --- Tiny ImageNet ------------------------------------------------------------------------------------------------------

IDS = ("n01443537", "n01629819", "n01641577")


def jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def tiny(folder: Path) -> Path:
    """Ten images a class; class c has the mean grey 60 c + 40; one of them is a grey JPEG."""
    folder.mkdir(parents=True)
    (folder / "wnids.txt").write_text("".join(f"{name}\n" for name in IDS), encoding="ascii")
    lines = []
    for c, name in enumerate(IDS):
        (folder / "train" / name / "images").mkdir(parents=True)
        for i in range(10):
            shape = (64, 64) if i == 3 else (64, 64, 3)
            value = np.full(shape, 60 * c + 40 + i, np.uint8)
            (folder / "train" / name / "images" / f"{name}_{i}.JPEG").write_bytes(jpeg(value))
        lines.append(f"val_{c}.JPEG\t{name}\t0\t0\t63\t63\n")
    (folder / "val" / "images").mkdir(parents=True)
    for c in range(3):
        image = np.zeros((64, 64, 3), np.uint8)
        image[:32, :, c] = 200  # the upper half red, green or blue
        (folder / "val" / "images" / f"val_{c}.JPEG").write_bytes(jpeg(image))
    (folder / "val" / "val_annotations.txt").write_text("".join(lines), encoding="ascii")
    return folder


def test_tiny_imagenet(tmp_path: Path) -> None:
    tiny(tmp_path / "tiny-imagenet-200")
    dataset = load("tiny-imagenet", folder=tmp_path, seed=1)
    assert load("tiny-imagenet", folder=tmp_path / "tiny-imagenet-200", seed=1) == dataset
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [27, 3, 3]
    assert dataset.classes == 3 and dataset.train.images.shape[1:] == (3, 64, 64)
    assert sorted(dataset.validation.labels.tolist()) == [0, 1, 2]
    for split in (dataset.train, dataset.validation):
        grey = 60 * split.labels + 40 + split.indices % 10
        assert np.abs(split.images.mean((1, 2, 3)) - grey).max() <= 1.0
    assert dataset.test.labels.tolist() == [0, 1, 2] and dataset.test.indices.tolist() == [30, 31, 32]
    for c, image in enumerate(dataset.test.images):
        assert int(image[:, :28].mean((1, 2)).argmax()) == c and image[:, 36:].max() < 20


def test_tiny_imagenet_absent(tmp_path: Path) -> None:
    with pytest.raises(
        MissingError, match=r"tiny-imagenet is not in .*; get http://cs231n.*zip and unpack it there, or say --data"
    ):
        load("tiny-imagenet", folder=tmp_path)


def test_tiny_imagenet_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(tmp_path / "t")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingError, match=r"needs Pillow .* not installed: pip install pillow"):
        load("tiny-imagenet", folder=tmp_path / "t")


TRAIN_IMAGE = "train/n01443537/images/n01443537_0.JPEG"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("wnids.txt", b"n01443537\n", r"holds 1 names; expected 2\.\.200 different"),
        ("wnids.txt", b"n01443537\nn01443537\n", "expected 2..200 different WordNet ids"),
        ("wnids.txt", b"n01443537\n../../etc\n", "different WordNet ids"),
        ("wnids.txt", b"n01443537\nn99999999\n", "n99999999/images: holds no .JPEG file"),
        ("wnids.txt", b"\xff\n", "wnids.txt: cannot be read"),
        ("wnids.txt", b"n" * (1 << 20) + b"nn", "wnids.txt: is larger than 1048576 bytes"),
        ("val/val_annotations.txt", b"", r"lists 0 images; expected 1\.\.10000"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn00000000\n", "line 1 names the class 'n00000000', which is not in wnids"),
        (
            "val/val_annotations.txt",
            b"../val_0.JPEG\tn01443537\n",
            "names the file '../val_0.JPEG'; expected a name that ends",
        ),
        ("val/val_annotations.txt", b"none.JPEG\tn01443537\n", "none.JPEG: cannot be read as a JPEG image"),
        (TRAIN_IMAGE, b"", "n01443537_0.JPEG: cannot be read as a JPEG image"),
        (TRAIN_IMAGE, jpeg(np.zeros((64, 65, 3), np.uint8)), "is 65x64; expected 64x64"),
        (TRAIN_IMAGE, jpeg(np.zeros((64, 64, 3), np.uint8))[:-300], "cannot be read as a JPEG image"),
        (TRAIN_IMAGE, bytes((1 << 20) + 1), "n01443537_0.JPEG: is larger than 1048576 bytes"),
    ],
)
def test_bad_tiny_imagenet(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    folder = tiny(tmp_path / "t")
    (folder / file).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        load("tiny-imagenet", folder=folder)
