"""The list of data sets, the checks of what is installed, and a colour set through the whole flow."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from netx_export import engine, hdf5
from netx_export.errors import ConfigError, FormatError, MissingError
from qpsnn_lava import cli, pipeline
from qpsnn_lava.coding import Coding
from qpsnn_lava.config import Data, Experiment, load_experiment
from qpsnn_lava.data import (
    EVENT_NAMES,
    NAMES,
    SETS,
    allowed_augments,
    check,
    checksums,
    cifar,
    folder_of,
    known,
    listing,
    load,
)


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["qpsnn", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def cifar10(folder: Path, per_file: int = 20) -> Path:
    """A CIFAR-10 whose classes are colours and places, unpacked."""
    rng = np.random.default_rng(0)
    for file in cifar.LAYOUTS["cifar-10"].files:
        labels = rng.permutation(np.arange(per_file) % 10)
        images = rng.integers(0, 60, (per_file, 3, 32, 32))
        for image, label in zip(images, labels, strict=True):
            image[label % 3, 3 * label : 3 * label + 5] += 180
        (folder / file).write_bytes(
            np.concatenate([labels[:, None], images.reshape(per_file, -1)], 1).astype(np.uint8).tobytes()
        )
    return folder


def fashion(folder: Path, count: int = 240) -> Path:
    rng = np.random.default_rng(0)
    for prefix, n in (("train", count), ("t10k", 40)):
        images = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
        content = struct.pack(">BBBB3I", 0, 0, 8, 3, n, 28, 28) + images.tobytes()
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(content, 1))
        content = struct.pack(">BBBBI", 0, 0, 8, 1, n) + (np.arange(n) % 10).astype(np.uint8).tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(content)
    return folder


# --- the catalogue ------------------------------------------------------------------------------------------------------


def test_every_set_is_complete_and_known_everywhere() -> None:
    assert len(set(NAMES)) == len(SETS) == 10
    assert get_args(Data.model_fields["name"].annotation) == NAMES
    for entry in SETS:
        assert entry.licence and entry.source and entry.train > 0 and entry.classes >= 10
        assert known(entry.name) is entry and allowed_augments(entry.name)
    saccade = known("fashion-mnist-saccade")
    assert "simulated, not recorded" in saccade.licence and "simulated" in saccade.source
    assert Coding("events", 4).input_shape(known("fashion-mnist").shape) == saccade.shape
    assert EVENT_NAMES == ("fashion-mnist-saccade", "n-mnist", "dvs-gesture", "cifar10-dvs", "shd")


def test_where_sets_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QPSNN_DATA", raising=False)
    assert folder_of("cifar-10") == Path("data/cifar-10")
    assert folder_of("fashion-mnist") == folder_of("fashion-mnist-saccade") == Path("/usr/share/datasets/fashion-mnist")
    monkeypatch.setenv("QPSNN_DATA", "/sets")
    assert folder_of("shd") == Path("/sets/shd")
    assert folder_of("shd", Path("here")) == Path("here")


def test_simulated_events_say_so(tmp_path: Path) -> None:
    dataset = load("fashion-mnist-saccade", folder=fashion(tmp_path), seed=1)
    plain = load("fashion-mnist", folder=tmp_path, seed=1)
    assert dataset.train == plain.train and dataset.test == plain.test
    assert dataset.name.endswith("saccade") and "simulated" in dataset.licence and "simulated" in dataset.source


def test_data_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tonic", None)
    cifar10(tmp_path)
    assert run_cli(monkeypatch, "data", "list", "--data", str(tmp_path), "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert tuple(rows) == NAMES
    assert [name for name in NAMES if rows[name]["installed"]] == ["digits", "cifar-10"]
    assert rows["cifar-10"]["folder"] == str(tmp_path) and rows["cifar-10"]["missing"] == ""
    assert "wnids.txt" in rows["tiny-imagenet"]["missing"] and rows["cifar-100"]["megabytes"] == 169
    monkeypatch.setenv("COLUMNS", "80")
    assert run_cli(monkeypatch, "data", "list", "--data", str(tmp_path)) == 0
    shown = capsys.readouterr()
    for entry in SETS:
        assert re.search(rf"^{entry.name} +{entry.train + entry.test:,} +{entry.classes} ", shown.out, re.MULTILINE)
        assert f"; {entry.licence}\n" in shown.out
    assert re.search(r"^cifar-10 .* yes *$", shown.out, re.MULTILINE) and "qpsnn data check NAME" in shown.err


# --- checks -------------------------------------------------------------------------------------------------------------


def test_check_counts_and_hashes(tmp_path: Path) -> None:
    found = check("cifar-10", cifar10(tmp_path))
    assert found.samples == {"train": 90, "validation": 10, "test": 20} and found.classes == 10
    assert not found.complete and not found.ok
    assert [file.path.name for file in found.files] == list(cifar.LAYOUTS["cifar-10"].files)
    for file in found.files:
        data = file.path.read_bytes()
        assert (file.size, file.checksum) == (len(data), f"md5:{hashlib.md5(data).hexdigest()}")
        assert file.verdict == "no published checksum known"
    assert check("digits").ok and check("digits").files == ()


def test_check_of_a_published_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tarfile

    (tmp_path / "in").mkdir()
    cifar10(tmp_path / "in")
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tmp_path / "in", "cifar-10-batches-bin")
    (file,) = check("cifar-10", tmp_path).files
    assert file.verdict == "differs"
    layout = replace(cifar.LAYOUTS["cifar-10"], md5=hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setitem(cifar.LAYOUTS, "cifar-10", layout)
    (file,) = check("cifar-10", tmp_path).files
    assert file.verdict == "equal"


def test_check_of_fashion_mnist_hashes_what_is_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fashion(tmp_path)
    inside = gzip.decompress((tmp_path / "train-images-idx3-ubyte.gz").read_bytes())
    monkeypatch.setitem(checksums.FASHION_SHA256, "train-images-idx3-ubyte", hashlib.sha256(inside).hexdigest())
    found = check("fashion-mnist", tmp_path)
    assert [file.verdict for file in found.files] == ["equal", "differs", "differs", "differs"] and not found.ok


def test_data_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "tonic", None)
    cifar10(tmp_path)
    assert run_cli(monkeypatch, "data", "check", "--data", str(tmp_path), "--json") == 1
    shown = capsys.readouterr()
    digits, colour = json.loads(shown.out)
    assert (digits["name"], digits["ok"], colour["name"], colour["ok"]) == ("digits", True, "cifar-10", False)
    assert colour["samples"]["train"] == 90 and colour["files"][0]["verdict"] == "no published checksum known"
    assert "error: not as published: cifar-10; get the files again" in shown.err
    assert run_cli(monkeypatch, "data", "check", "digits") == 0
    assert capsys.readouterr().out.splitlines()[0] == "digits  train 1,168, validation 179, test 450, 10 classes: as published"
    assert run_cli(monkeypatch, "data", "check", "cifar-10", "--data", str(tmp_path)) == 1
    shown = capsys.readouterr()
    assert "cifar-10  train 90, validation 10, test 20, 10 classes: not the published numbers" in shown.out
    for arguments, message in (
        (("cifra-10",), "there is no data set 'cifra-10'; built in are .*did you mean 'cifar-10'"),
        (("cifar-100", "--data", str(tmp_path)), "cifar-100 is not in .*, or say --data FOLDER"),
        (("shd",), "shd is read by tonic, which is not installed"),
    ):
        assert run_cli(monkeypatch, "data", "check", *arguments) == 1
        assert re.search(f"error: {message}", " ".join(capsys.readouterr().err.split()))


def test_a_file_that_goes_away(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="gone: cannot be read"):
        checksums._hashed(tmp_path / "gone", "md5", None)
    with pytest.raises(MissingError, match="cifar-10 is not in"):
        check("cifar-10", tmp_path)
    assert "cifar-10" in {row.known.name for row in listing(tmp_path) if not row.installed}


# --- experiments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data.name=fashion-mnist-saccade"],
            'data.coding is "direct", but fashion-mnist-saccade is a set of events; it takes "e',
        ),
        (["data.coding=events"], 'data.coding is "events", but digits is a set of images; it takes "direct" or "rate"'),
        (["train.augment=crop-flip"], 'train.augment is "crop-flip"; digits takes none, shift, flip-shift'),
        (["data.name=dvs-gesture", "data.coding=events"], 'train.augment is "shift"; dvs-gesture takes none, event-shift'),
        (["data.name=cifar10"], 'data.name is "cifar10"; it must be one of .*"cifar-10", .*; did you mean'),
        (["train.augment=autoagment"], "train.augment is \"autoagment\"; .*did you mean 'autoaugment'"),
    ],
)
def test_experiments_that_contradict_themselves(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment("digits", overrides)


def experiment(folder: Path, name: str, **data: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "tiny",
            "data": {"name": name, "folder": str(folder), **data},
            "network": [{"type": "conv", "channels": 4, "stride": 4}, {"type": "conv", "channels": 6, "stride": 2}],
            "train": {
                "epochs": 1,
                "quantised_epochs": 1,
                "finetune_epochs": 1,
                "batch": 30,
                "threads": 1,
                "augment": "crop-flip-cutout",
            },
            "prune": {"samples": 16},
        }
    )


@pytest.mark.parametrize(
    ("name", "data", "shape"),
    [
        ("cifar-10", {"steps": 3}, (3, 32, 32)),
        ("fashion-mnist-saccade", {"coding": "events", "steps": 3, "input_bits": 2}, (2, 34, 34)),
        ("fashion-mnist-saccade", {"coding": "events", "steps": 3, "input_bits": 1}, (2, 34, 34)),
    ],
)
def test_trained_frozen_and_exact(tmp_path: Path, name: str, data: dict[str, Any], shape: tuple[int, ...]) -> None:
    (tmp_path / "data").mkdir()
    (cifar10 if name == "cifar-10" else lambda folder: fashion(folder, 120))(tmp_path / "data")
    plan = experiment(tmp_path / "data", name, **data)
    files = pipeline.open_folder(plan, tmp_path / "run")
    pipeline.fit(plan, files, lambda event: None)
    pipeline.export(plan, files, lambda event: None)
    network = hdf5.read(files.network)
    coding, dataset = pipeline.coding_of(plan), pipeline.data_of(plan)
    assert network.input.shape == shape and network.input_bits == coding.graded_bits
    seen = pipeline.compare_slayer(
        pipeline.models(plan, files)["final"], network, dataset, coding, plan.seed, lambda event: None
    )
    assert seen["spikes_compared"] > 0 and seen["spike_mismatches"] == seen["voltage_mismatches"] == 0
    summary = engine.summarise(network, pipeline.encoded(dataset.test, dataset, coding, plan.seed))
    assert all(summary.spikes[p.name] > 0 for p in network.populations[:-1])  # alive
