"""Recorded events through a stand-in for tonic that has its documented interface."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netx_export.errors import ConfigError, FormatError, MissingError
from qpsnn_lava.coding import Coding, encode
from qpsnn_lava.data import Split, listing, load
from qpsnn_lava.data.events import bin_events

TONIC = '''
"""tonic's documented interface: a class for each set, (events, target) by index, structured arrays of events."""
import pathlib

import numpy as np

STATE = {"reverse": False, "label": None, "fail": False, "extra": 0}


class _Set:
    fields = ("x", "y", "t", "p")
    sensor_size = (34, 34, 2)
    sizes = {True: 40, False: 20}
    classes = 10

    def __init__(self, save_to, train=True, transform=None):
        if STATE["fail"]:
            raise OSError("no route to host")
        assert isinstance(save_to, str) and transform is None
        pathlib.Path(save_to, type(self).__name__).mkdir(parents=True, exist_ok=True)
        self.train = train

    def __len__(self):
        return self.sizes[self.train] + STATE["extra"]

    def __getitem__(self, index):
        n = len(self) - 1 - index if STATE["reverse"] else index  # another file system, another order
        random = np.random.default_rng([n, self.train])
        count = 300
        columns = {
            "x": random.integers(0, self.sensor_size[0], count),
            "y": random.integers(0, self.sensor_size[1], count),
            "t": np.sort(random.integers(0, 300_000, count)),
            "p": random.integers(0, self.sensor_size[2], count) if self.sensor_size[2] > 1 else np.ones(count, int),
        }
        events = np.empty(count, [(field, int) for field in self.fields])
        for field in self.fields:
            events[field] = columns[field]
        label = n % self.classes if STATE["label"] is None else STATE["label"]
        return events, np.int64(label)


class NMNIST(_Set):
    pass


class DVSGesture(_Set):
    fields = ("x", "y", "p", "t")
    sensor_size = (128, 128, 2)
    classes = 11
    sizes = {True: 44, False: 22}


class SHD(_Set):
    fields = ("t", "x", "p")
    sensor_size = (700, 1, 1)
    classes = 20


class CIFAR10DVS(_Set):
    fields = ("t", "x", "y", "p")
    sensor_size = (128, 128, 2)

    def __init__(self, save_to):
        super().__init__(save_to)
'''


@pytest.fixture
def tonic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in's state."""
    (tmp_path / "module" / "tonic").mkdir(parents=True)
    (tmp_path / "module" / "tonic" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "module" / "tonic" / "datasets.py").write_text(TONIC, encoding="utf-8")
    for name in ("tonic", "tonic.datasets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "module")
    from tonic import datasets  # type: ignore[import-not-found, unused-ignore]

    yield datasets.STATE
    for name in ("tonic", "tonic.datasets"):
        sys.modules.pop(name, None)


SHAPES = {"n-mnist": (2, 34, 34), "dvs-gesture": (2, 64, 64), "cifar10-dvs": (2, 48, 48), "shd": (700, 1, 1)}
COUNTS = {"n-mnist": (36, 4, 20), "dvs-gesture": (40, 4, 22), "cifar10-dvs": (33, 3, 4), "shd": (36, 4, 20)}


@pytest.mark.parametrize("name", SHAPES)
def test_event_sets(tonic: Any, tmp_path: Path, name: str) -> None:
    dataset = load(name, folder=tmp_path, seed=1, steps=5)
    splits = (dataset.train, dataset.validation, dataset.test)
    assert tuple(len(split) for split in splits) == COUNTS[name]
    for split in splits:
        assert split.images.shape[1:] == (*SHAPES[name], 5)
        assert (split.images.sum((1, 2, 3, 4)) == 300).all()  # no event is lost, none counted twice
    assert dataset.classes == {"dvs-gesture": 11, "shd": 20}.get(name, 10) and dataset.max_value == 255
    assert "tonic" in dataset.source and "CC BY" in dataset.licence
    coding = Coding("events", 5, 1)
    assert coding.input_shape(dataset.train.images.shape[1:]) == SHAPES[name]
    spikes = encode(dataset.test.images, coding, max_value=255, seed=0, indices=dataset.test.indices)
    assert np.array_equal(spikes, dataset.test.images > 0)
    tonic["reverse"] = True
    assert load(name, folder=tmp_path, seed=1, steps=5) == dataset  # whatever order the file system has
    assert load(name, folder=tmp_path, seed=2, steps=5).validation != dataset.validation


def test_events_of_one_sample_are_binned_where_and_when_they_were(tonic: Any, tmp_path: Path) -> None:
    from tonic import datasets

    dataset = load("dvs-gesture", folder=tmp_path, seed=0, steps=4)
    events, label = datasets.DVSGesture(str(tmp_path), train=False)[7]
    expected = np.zeros((2, 64, 64, 4), np.uint8)
    start, end = int(events["t"][0]), int(events["t"][-1])
    for event in events.tolist():
        x, y, p, t = event
        expected[p, y // 2, x // 2, int((t - start) / (end - start + 1) * 4)] += 1
    where = [i for i, frames in enumerate(dataset.test.images) if np.array_equal(frames, expected)]
    assert len(where) == 1 and dataset.test.labels[where[0]] == label


def _events(**columns: Any) -> Any:
    made = np.empty(len(columns["t"]), [(name, np.asarray(values).dtype) for name, values in columns.items()])
    for name, values in columns.items():
        made[name] = values
    return made


def test_bin_events_at_the_edges() -> None:
    events = _events(x=[0, 127, 3], y=[0, 127, 3], t=[10, 29, 19], p=np.array([False, True, True]))
    frames = bin_events(events, (128, 128, 2), (2, 48, 48), 2)
    assert sorted(zip(*(a.tolist() for a in np.nonzero(frames)), strict=True)) == [(0, 0, 0, 0), (1, 1, 1, 0), (1, 47, 47, 1)]
    many = _events(x=[1] * 300, y=[0] * 300, t=[5] * 300, p=[0] * 300)
    assert bin_events(many, (2, 2, 2), (2, 2, 2), 3)[0, 0, 1].tolist() == [255, 0, 0]
    assert not bin_events(events[:0], (128, 128, 2), (2, 48, 48), 2).any()
    cochlea = _events(t=[0, 99], x=[699, 0], p=[1, 1])
    frames = bin_events(cochlea, (700, 1, 1), (700, 1, 1), 2)
    assert frames[699, 0, 0].tolist() == [1, 0] and frames[0, 0, 0].tolist() == [0, 1] and frames.sum() == 2


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (_events(x=[0], t=[0], p=[0]), "events have the fields x, t, p; expected whole numbers x, t, y, p"),
        (np.zeros((4, 4)), "events have the fields none; expected"),
        (_events(x=[0.5], y=[0], t=[0], p=[0]), "expected whole numbers"),
        (_events(x=[34], y=[0], t=[0], p=[0]), r"events have x from 34 to 34; expected 0\.\.33"),
        (_events(x=[0], y=[-1], t=[0], p=[0]), "events have y from -1 to -1"),
        (_events(x=[0], y=[0], t=[0], p=[2]), r"events have p from 2 to 2; expected 0\.\.1"),
    ],
)
def test_events_that_are_none(events: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        bin_events(events, (34, 34, 2), (2, 34, 34), 2)


def test_without_tonic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tonic", None)
    for name in SHAPES:
        with pytest.raises(MissingError, match=f"{name} is read by tonic, which is not installed .*GPL.*: pip install tonic"):
            load(name, folder=tmp_path, steps=4)
    missing = {row.known.name: row.missing for row in listing(tmp_path)}
    assert all("pip install tonic" in missing[name] for name in SHAPES)


def test_installed_is_what_tonic_has_kept(tonic: Any, tmp_path: Path) -> None:
    found = {row.known.name: row for row in listing(tmp_path)}
    assert not found["n-mnist"].installed and "qpsnn data check n-mnist --data" in found["n-mnist"].missing
    (tmp_path / "NMNIST").mkdir()
    assert {row.known.name: row.installed for row in listing(tmp_path)}["n-mnist"]


def test_refused(tonic: Any, tmp_path: Path) -> None:
    for steps in (None, 0):
        with pytest.raises(ConfigError, match=f"n-mnist is binned into frames .* steps is {steps}, at least 1"):
            load("n-mnist", folder=tmp_path, steps=steps)
    with pytest.raises(
        ConfigError, match=r"n-mnist in 1024 steps would take 166 GB of memory; at most 53 steps stay within 8 G"
    ):
        load("n-mnist", folder=tmp_path, steps=1024)
    tonic["label"] = 10
    with pytest.raises(FormatError, match=r"n-mnist, sample 0: its label is 10; labels are 0\.\.9"):
        load("n-mnist", folder=tmp_path, steps=2)
    tonic.update(label=None, extra=100_000)
    with pytest.raises(FormatError, match=r"n-mnist: tonic gives 100040 samples; expected 1\.\.60000"):
        load("n-mnist", folder=tmp_path, steps=2)
    tonic["fail"] = True
    with pytest.raises(MissingError, match=r"tonic cannot provide n-mnist in .* \(OSError: no route to host\)"):
        load("n-mnist", folder=tmp_path, steps=2)


def test_a_bad_recording_is_named(tonic: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tonic import datasets

    monkeypatch.setattr(datasets.NMNIST, "sensor_size", (35, 35, 2))
    with pytest.raises(FormatError, match=r"n-mnist, sample \d+: events have [xy] from 0 to 34; expected 0\.\.33"):
        load("n-mnist", folder=tmp_path, steps=2)


def test_a_split_of_frames_keeps_them() -> None:
    frames = np.arange(2 * 2 * 3 * 3 * 4).reshape(2, 2, 3, 3, 4).astype(np.uint8)
    split = Split(frames, np.array([0, 1]))
    assert split.subset(1, 0).images.shape == (1, 2, 3, 3, 4)
