"""CIFAR-10 and CIFAR-100 from their binary archives (no pickle), read out of the archive or from its unpacked folder.

A file is a sequence of records: the label byte (CIFAR-100: the coarse label, then the fine one, which counts here), then
3 * 32 * 32 pixel bytes, red, green and blue, each row by row.

Source: https://www.cs.toronto.edu/~kriz/cifar.html, "binary version".
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netx_export.errors import FormatError, MissingError
from qpsnn_lava.data.catalogue import known
from qpsnn_lava.data.split import Dataset, official

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_HEADERS = 8_000_000  # bytes of an unpacked archive beside the records: tar headers, names of the classes


@dataclass(frozen=True)
class Layout:
    """How one of the two is packed.

    Args:
        archive: its published name; ``md5`` is that of the published file.
        folder: inside the archive.
        train, test: names of the files in it, each with at most ``records`` records.
        records: of each file.
        labels: label bytes of a record; the last one counts, the ones before are below ``coarse``.
        coarse: number of superclasses, 0 without them.
    """

    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    records: tuple[int, ...]
    labels: int
    coarse: int

    @property
    def files(self) -> tuple[str, ...]:
        """All data files, the test file last."""
        return (*self.train, self.test)


LAYOUTS = {
    "cifar-10": Layout(
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-batches-bin",
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test_batch.bin",
        (10_000,) * 6,
        1,
        0,
    ),
    "cifar-100": Layout(
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-binary",
        ("train.bin",),
        "test.bin",
        (50_000, 10_000),
        2,
        20,
    ),
}


def load_cifar(name: str, folder: Path, seed: int) -> Dataset:
    """CIFAR-10 or CIFAR-100; a tenth of the training images (5,000) is the validation.  Needs about 0.4 GB while it reads.

    Args:
        name: ``cifar-10`` or ``cifar-100``.
        folder: holds the archive, or the folder in it, or that folder's files (looked for in the other order).
        seed: of the validation split.

    Raises:
        MissingError: where they are not there.
        FormatError: where a file is truncated, too large, no such archive, or holds a label that does not exist.
    """
    layout, entry = LAYOUTS[name], known(name)
    found = cifar_files(name, folder)
    content = _from_archive(found[0], layout) if len(found) == 1 else _from_files(found, layout)
    parts = [_records(*item, layout, entry.classes, most) for item, most in zip(content, layout.records, strict=True)]
    images = np.concatenate([part[0] for part in parts[:-1]])
    labels = np.concatenate([part[1] for part in parts[:-1]])
    return official(
        name,
        (images, labels),
        parts[-1],
        classes=entry.classes,
        part=10,
        seed=seed,
        licence=entry.licence,
        source=entry.source,
    )


def cifar_files(name: str, folder: Path) -> list[Path]:
    """The data files, or the archive alone.

    Raises:
        MissingError: naming what is missing and the ways to get it.
    """
    layout = LAYOUTS[name]
    for place in (folder, folder / layout.folder):
        paths = [place / file for file in layout.files]
        if all(path.is_file() for path in paths):
            return paths
    archive = folder / layout.archive
    if archive.is_file():
        return [archive]
    raise MissingError(
        f"{name} is not in {folder}: neither {layout.archive} (get it from https://www.cs.toronto.edu/~kriz/{layout.archive}) "
        f"nor, unpacked, {', '.join(layout.files)}; put either there, or say --data FOLDER."
    )


def _from_files(paths: list[Path], layout: Layout) -> list[tuple[str, bytes]]:
    content = []
    for path, records in zip(paths, layout.records, strict=True):
        try:
            with path.open("rb") as file:
                content.append((str(path), file.read(records * (layout.labels + _PIXELS) + 1)))
        except OSError as error:
            raise FormatError(f"{path}: cannot be read ({error}); get the file again.") from error
    return content


class _Limited:
    """A stream that refuses to unpack more than ``left`` bytes."""

    def __init__(self, path: Path, stream: gzip.GzipFile, left: int) -> None:
        self.path, self.stream, self.left = path, stream, left

    def read(self, size: int) -> bytes:
        data = self.stream.read(min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise FormatError(f"{self.path}: unpacks to more than the published archive does; get the file again.")
        return data


def _from_archive(path: Path, layout: Layout) -> list[tuple[str, bytes]]:
    """The data files of an archive, by name, read in memory; nothing is written to disk."""
    record = layout.labels + _PIXELS
    largest = {f"{layout.folder}/{name}": n * record for name, n in zip(layout.files, layout.records, strict=True)}
    content: dict[str, bytes] = {}
    try:
        with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as unpacked:
            limited = _Limited(path, unpacked, sum(largest.values()) + _HEADERS)
            with tarfile.open(fileobj=limited, mode="r|") as archive:  # type: ignore[call-overload]
                for member in archive:
                    name = member.name.removeprefix("./")
                    if name not in largest or name in content:
                        continue
                    if not member.isreg() or member.size > largest[name]:
                        raise FormatError(
                            f"{path}: {name} is no file of at most {largest[name]} bytes; get the archive again."
                        )
                    file = archive.extractfile(member)
                    assert file is not None
                    content[name] = file.read(member.size)
            while limited.read(1 << 20):  # to the end, where gzip keeps its checksum
                pass
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise FormatError(f"{path}: cannot be read as a .tar.gz archive ({error}); get the file again.") from error
    missing = [name for name in largest if name not in content]
    if missing:
        raise FormatError(f"{path}: does not hold {', '.join(missing)}; is it the binary version?")
    return [(f"{path}: {name}", content[name]) for name in largest]


def _records(where: str, data: bytes, layout: Layout, classes: int, most: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images and labels of one file."""
    record = layout.labels + _PIXELS
    count, rest = divmod(len(data), record)
    if rest or not 1 <= count <= most:
        size = f"more than {most * record}" if len(data) > most * record else str(len(data))
        raise FormatError(f"{where}: holds {size} bytes; expected 1..{most} records of {record} bytes; get the file again.")
    table = np.frombuffer(data, np.uint8).reshape(count, record)
    limits = (layout.coarse, classes) if layout.coarse else (classes,)
    for column, limit in enumerate(limits):
        wrong = np.flatnonzero(table[:, column] >= limit)
        if wrong.size:
            kind = "coarse label" if column < layout.labels - 1 else "label"
            raise FormatError(f"{where}: {kind} {wrong[0]} is {table[wrong[0], column]}; labels are 0..{limit - 1}.")
    images = table[:, layout.labels :].reshape(count, *_SHAPE)
    return images, table[:, layout.labels - 1].astype(np.int64)
