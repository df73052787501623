"""What is installed, and whether its files are what was published: sizes, counts, checksums."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from netx_export.errors import FormatError, MissingError
from qpsnn_lava.data import cifar, events, grey, tiny_imagenet
from qpsnn_lava.data.built_in import load
from qpsnn_lava.data.catalogue import SETS, Known, folder_of, known

Verdict = Literal["equal", "differs", "no published checksum known"]
_BLOCK = 1 << 20

FASHION_SHA256 = {  # of the unpacked files, in Debian's package dataset-fashion-mnist 0.0~git20200523.55506a9
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataclass(frozen=True)
class Listed:
    """A line of ``qpsnn data list``: a data set, where it was looked for, and what is missing ("" where it is installed)."""

    known: Known
    folder: Path
    missing: str

    @property
    def installed(self) -> bool:
        return not self.missing


@dataclass(frozen=True)
class FileCheck:
    """One file: its size in bytes, its checksum ("algorithm:hex"), and how that stands to a published one."""

    path: Path
    size: int
    checksum: str
    verdict: Verdict


@dataclass(frozen=True)
class SetCheck:
    """What :func:`check` found.

    Args:
        name: of the set.
        folder: where it was looked for.
        files: those that have been hashed; of sets of very many files, none.
        samples: {"train", "validation", "test"}: how many were read.
        classes: number of classes.
        complete: whether the numbers of samples and classes are the published ones.
    """

    name: str
    folder: Path
    files: tuple[FileCheck, ...]
    samples: dict[str, int]
    classes: int
    complete: bool

    @property
    def ok(self) -> bool:
        """Complete, and no checksum differs from a published one."""
        return self.complete and all(file.verdict != "differs" for file in self.files)


def listing(folder: Path | None = None) -> tuple[Listed, ...]:
    """All built-in sets; ``folder``: look for all of them there instead of in their usual places."""
    return tuple(_listed(entry, folder) for entry in SETS)


def check(name: str, folder: Path | None = None, *, seed: int = 0) -> SetCheck:
    """Reads a whole data set (sizes, labels, ranges are checked by its loader) and holds counts and checksums against the published.

    Raises:
        ConfigError, MissingError, FormatError: as :func:`qpsnn_lava.data.load`.
    """
    entry, place = known(name), folder_of(name, folder)
    data = load(name, folder=folder, seed=seed, steps=1)
    samples = {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}
    if entry.test:
        complete = (samples["train"] + samples["validation"], samples["test"]) == (entry.train, entry.test)
    else:
        complete = sum(samples.values()) == entry.train
    files = tuple(_hashed(path, *_published(name, path)) for path in _files(name, place))
    return SetCheck(name, place, files, samples, data.classes, complete and data.classes == entry.classes)


def _listed(entry: Known, folder: Path | None) -> Listed:
    place = folder_of(entry.name, folder)
    try:
        if entry.name == "digits":
            grey.digits_module()
        elif entry.name in events.RECORDINGS:
            events.event_folder(entry.name, place)
        elif entry.name == "tiny-imagenet":
            tiny_imagenet.tiny_imagenet_folder(place)
        else:
            _files(entry.name, place)
    except MissingError as error:
        return Listed(entry, place, str(error))
    return Listed(entry, place, "")


def _files(name: str, folder: Path) -> list[Path]:
    """The files that a checksum is taken of."""
    if name.startswith("fashion-mnist"):
        return grey.fashion_files(folder)
    return cifar.cifar_files(name, folder) if name in cifar.LAYOUTS else []


def _published(name: str, path: Path) -> tuple[str, str | None]:
    """Algorithm, and the published checksum if one is known."""
    if name.startswith("fashion-mnist"):
        return "sha256", FASHION_SHA256[path.name.removesuffix(".gz")]
    layout = cifar.LAYOUTS[name]
    return ("md5", layout.md5) if path.name == layout.archive else ("md5", None)


def _hashed(path: Path, algorithm: str, published: str | None) -> FileCheck:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with grey.unpacked(path) if algorithm == "sha256" else path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
        size = path.stat().st_size
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error}); get the file again.") from error
    found = digest.hexdigest()
    verdict: Verdict = "no published checksum known" if published is None else "equal" if found == published else "differs"
    return FileCheck(path, size, f"{algorithm}:{found}", verdict)
