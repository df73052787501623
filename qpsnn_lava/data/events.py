"""Recorded events: N-MNIST, DVS128 Gesture, CIFAR10-DVS and SHD, read by tonic where the user has it, binned into frames.

tonic is under the GPL: it is neither required nor shipped, and imported only inside the function that needs it.  What is used of it
is its documented interface: ``tonic.datasets.NMNIST(save_to=..., train=...)`` (DVSGesture and SHD alike; CIFAR10DVS has no
``train``) downloads what is missing into a folder of its own name, has a length, and gives ``(events, target)`` for an index;
events are a structured array with the fields x, y (SHD: none), t in microseconds and p, pixels within ``sensor_size``.
Source: https://tonic.readthedocs.io, datasets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netx_export.errors import ConfigError, FormatError, MissingError
from qpsnn_lava.data.catalogue import known
from qpsnn_lava.data.split import TEST_STREAM, Dataset, Split, cut, official

MAX_BYTES = 8 << 30


@dataclass(frozen=True)
class Recording:
    """How a set is called in tonic, and its sensor: (width, height, polarities)."""

    class_name: str
    sensor: tuple[int, int, int]


RECORDINGS = {
    "n-mnist": Recording("NMNIST", (34, 34, 2)),
    "dvs-gesture": Recording("DVSGesture", (128, 128, 2)),
    "cifar10-dvs": Recording("CIFAR10DVS", (128, 128, 2)),
    "shd": Recording("SHD", (700, 1, 1)),
}


def load_events(name: str, folder: Path, seed: int, steps: int) -> Dataset:
    """An event set as frames of counts, uint8 (N, C, H, W, T); a tenth of the training samples is the validation.

    The samples are put into an order of their own, by label and then by a digest of their events: tonic's is the file system's.
    CIFAR10-DVS has no published test set: a tenth, drawn by class and seed, is taken.  In memory a set takes
    N * C * H * W * T bytes (N-MNIST with T = 10: 1.6 GB), and twice that while it is split.

    Args:
        name: one of :data:`RECORDINGS`.
        folder: tonic's ``save_to``.
        seed: 0..2**63 - 1, of the drawn splits.
        steps: T, at least 1.

    Raises:
        ConfigError: where the frames would take more than 8 GiB.
        MissingError: where tonic is not installed or cannot provide the set.
        FormatError: where events are not what tonic promises.
    """
    entry = known(name)
    size = (entry.train + entry.test) * int(np.prod(entry.shape)) * steps
    if size > MAX_BYTES:
        most = MAX_BYTES * steps // size
        raise ConfigError(
            f"{name} in {steps} steps would take {size / 1e9:.0f} GB of memory; at most {most} steps stay within "
            f"{MAX_BYTES >> 30} GiB."
        )
    datasets = _tonic(name)
    if entry.test:
        train = _frames(name, _open(datasets, name, folder, train=True), steps, entry.train)
        test = _frames(name, _open(datasets, name, folder, train=False), steps, entry.test)
    else:
        images, labels = _frames(name, _open(datasets, name, folder), steps, entry.train)
        tested, rest = cut(Split(images, labels), len(labels) // 10, seed, TEST_STREAM)
        train, test = (rest.images, rest.labels), (tested.images, tested.labels)
    return official(
        name,
        train,
        test,
        classes=entry.classes,
        part=10,
        seed=seed,
        licence=entry.licence,
        source=entry.source,
    )


def event_folder(name: str, folder: Path) -> Path:
    """The folder that tonic keeps the set in.

    Raises:
        MissingError: where tonic is not installed or the folder is not there.
    """
    _tonic(name)
    place = folder / RECORDINGS[name].class_name
    if not place.is_dir():
        raise MissingError(
            f"{name} is not in {folder}: tonic keeps it in {place}, which is not there; it downloads the set when "
            f"it is first read: qpsnn data check {name} --data {folder}."
        )
    return place


def bin_events(events: Any, sensor: tuple[int, int, int], shape: tuple[int, int, int], steps: int) -> NDArray[np.uint8]:
    """Counts of events in T windows of equal length over the recording's own duration.

    With times t from t_0 to t_1 and a sensor of w x h pixels, an event is counted at ``(p, y H // h, x W // w)`` in the frame
    ``(t - t_0) T // (t_1 - t_0 + 1)``.  Where there is no y (SHD), x is the channel: ``(x, 0, 0)``, whatever p.

    Args:
        events: structured array with whole-number (or bool) fields x, t, p, and y if the sensor has a height.
        sensor: (w, h, polarities).
        shape: (C, H, W) of a frame.
        steps: T, at least 1.

    Returns:
        uint8 (C, H, W, T), 255 where there are more.

    Raises:
        FormatError: where a field is missing, no whole number or out of range.
    """
    names = getattr(getattr(events, "dtype", None), "names", None) or ()
    flat = sensor[1] == 1
    fields = {"x": sensor[0], "t": 1 << 62} | ({} if flat else {"y": sensor[1], "p": sensor[2]})
    values: dict[str, NDArray[np.int64]] = {}
    for field, limit in fields.items():
        if field not in names or events[field].dtype.kind not in "iub":
            raise FormatError(
                f"events have the fields {', '.join(names) or 'none'}; expected whole numbers {', '.join(fields)}."
            )
        values[field] = events[field].astype(np.int64)
        if events.size and not (values[field].min() >= 0 and values[field].max() < limit):
            raise FormatError(
                f"events have {field} from {values[field].min()} to {values[field].max()}; expected 0..{limit - 1}."
            )
    channels, height, width = shape
    x, t = values["x"], values["t"]
    if flat:
        pixel = x
    else:
        pixel = (values["p"] * height + values["y"] * height // sensor[1]) * width + x * width // sensor[0]
    start, end = (int(t.min()), int(t.max())) if t.size else (0, 0)
    frame = (t - start) * steps // (end - start + 1)
    counts = np.bincount(pixel * steps + frame, minlength=channels * height * width * steps)
    return np.minimum(counts, 255).astype(np.uint8).reshape(*shape, steps)


def _tonic(name: str) -> Any:
    try:
        from tonic import datasets  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingError(
            f"{name} is read by tonic, which is not installed (it is under the GPL, so it is left to you): pip install tonic."
        ) from error
    return datasets


def _open(datasets: Any, name: str, folder: Path, **options: bool) -> Any:
    try:
        return getattr(datasets, RECORDINGS[name].class_name)(save_to=str(folder), **options)
    except Exception as error:  # of tonic, of a download, of a damaged archive
        raise MissingError(f"tonic cannot provide {name} in {folder} ({type(error).__name__}: {error}).") from error


def _frames(name: str, recordings: Any, steps: int, most: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Frames and labels, in the set's own order."""
    entry, recording = known(name), RECORDINGS[name]
    count = len(recordings)
    if not 1 <= count <= most:
        raise FormatError(f"{name}: tonic gives {count} samples; expected 1..{most}.")
    frames = np.empty((count, *entry.shape, steps), np.uint8)
    labels = np.empty(count, np.int64)
    digests = []
    for i in range(count):
        events, target = recordings[i]
        try:
            frames[i] = bin_events(events, recording.sensor, entry.shape, steps)
        except FormatError as error:
            raise FormatError(f"{name}, sample {i}: {error}") from None
        labels[i] = int(target)
        if not 0 <= labels[i] < entry.classes:
            raise FormatError(f"{name}, sample {i}: its label is {labels[i]}; labels are 0..{entry.classes - 1}.")
        fields = sorted(events.dtype.names)
        digests.append(hashlib.sha256(b"".join(events[f].astype("<i8").tobytes() for f in fields)).digest())
    order = np.array(sorted(range(count), key=lambda i: (labels[i], digests[i])), np.int64)
    return frames[order], labels[order]
