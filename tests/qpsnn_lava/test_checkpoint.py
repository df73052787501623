from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from netx_export.errors import FormatError
from qpsnn_lava import checkpoint
from qpsnn_lava.blocks import Conv, NeuronOptions
from qpsnn_lava.checkpoint import load_json, load_model, save_json, save_model
from qpsnn_lava.quantise import Quantiser


def _model(channels: int = 4, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(Conv(NeuronOptions(), Quantiser(4), 2, channels))
    with torch.no_grad():
        model[0].norm.running_mean.normal_()
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_model(_model(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_round_trip(path: Path) -> None:
    model = _model(seed=1)
    assert not torch.equal(model[0].synapse.weight, _model()[0].synapse.weight)
    load_model(model, path)
    wanted = _model().state_dict()
    assert all(torch.equal(v, wanted[k]) for k, v in model.state_dict().items())
    assert "0.neuron.norm.running_mean" in wanted and os.listdir(path.parent) == ["model.safetensors"]


def test_a_view_of_another_layout_is_saved(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 5)
    model.weight.data = torch.arange(15.0).view(3, 5).T
    save_model(model, tmp_path / "m")
    other = torch.nn.Linear(3, 5)
    load_model(other, tmp_path / "m")
    assert torch.equal(other.weight, model.weight)


def test_another_model(path: Path) -> None:
    message = r"model\.safetensors is a checkpoint of another model: .* has \(4,\) there, \(5,\) here\."
    with pytest.raises(FormatError, match=message):
        load_model(_model(channels=5), path)
    with pytest.raises(FormatError, match=r"another model: 0\.neuron\.\w+ has \(1,\) there, None here"):
        load_model(torch.nn.Linear(2, 2), path)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_a_damaged_file(path: Path, keep: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(FormatError, match=r"model\.safetensors is not a whole checkpoint \(.+\); remove it and train again"):
        load_model(_model(), path)


def test_a_file_of_something_else(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 a pickle in a zip, as torch.save writes it" * 10)
    with pytest.raises(FormatError, match="is not a whole checkpoint"):
        load_model(_model(), path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"gone: there is no such checkpoint; train first\."):
        load_model(_model(), tmp_path / "gone")
    with pytest.raises(FormatError, match="is not a whole checkpoint"):
        load_model(_model(), tmp_path)  # a folder


def test_an_absurd_size_is_refused_before_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 100)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read"))
    with pytest.raises(FormatError, match=r"has \d+ bytes; a checkpoint has at most 100"):
        load_model(_model(), path)


def test_an_old_model_is_not_half_loaded(path: Path) -> None:
    model = _model(channels=5, seed=2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(FormatError):
        load_model(model, path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_tensors_that_are_missing_or_too_many(path: Path) -> None:
    state = {k: v.contiguous() for k, v in _model().state_dict().items()}
    path.write_bytes(save({**state, "extra": torch.zeros(2)}))
    with pytest.raises(FormatError, match=r"extra has \(2,\) there, None here"):
        load_model(_model(), path)


def test_json(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None], "b": {"ü": "é"}}
    save_json(tmp_path / "x.json", value)
    assert load_json(tmp_path / "x.json") == value
    assert (tmp_path / "x.json").read_text("utf-8").endswith("}\n")
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe", b"[" * 100_000])
def test_json_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"x\.json is not JSON \(.+\); remove it and run again"):
        load_json(tmp_path / "x.json")


def test_json_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"x\.json: there is no such file"):
        load_json(tmp_path / "x.json")


def test_json_refuses_what_is_no_number(tmp_path: Path) -> None:
    save_json(tmp_path / "x.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_json(tmp_path / "x.json", {"loss": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == 1
