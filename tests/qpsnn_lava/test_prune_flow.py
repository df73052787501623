"""Orders, rounds and budgets in the flow: what each phase leaves, and that an interrupted run ends with the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mapping
from netx_export import hdf5
from netx_export.errors import ConfigError
from qpsnn_lava import checkpoint, pipeline
from qpsnn_lava.config import Experiment, load_experiment
from qpsnn_lava.data import Dataset, load
from qpsnn_lava.model import own_blocks
from qpsnn_lava.pipeline import inputs, training

torch.set_num_threads(1)
TINY = [
    "data.steps=2",
    "network.0.channels=8",
    "network.1.channels=6",
    "network.2.channels=10",
    "train.epochs=1",
    "train.quantised_epochs=1",
    "train.finetune_epochs=3",
    "train.frozen_epochs=1",
    "train.threads=1",
    "prune.samples=32",
]
CHANNELS = (8, 6, 10)


@pytest.fixture(autouse=True)
def few_digits(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    whole = load("digits")

    def some(part: Any, n: int) -> Any:
        return replace(part, images=part.images[:n], labels=part.labels[:n], indices=part.indices[:n])

    few = replace(whole, train=some(whole.train, 96), validation=some(whole.validation, 30), test=some(whole.test, 30))
    monkeypatch.setattr(inputs, "load", lambda *_, **__: few)
    return few


def _experiment(*overrides: str) -> Experiment:
    return load_experiment("digits", [*TINY, *overrides])


def _fit(experiment: Experiment, folder: Path) -> dict[str, Any]:
    files = pipeline.open_folder(experiment, folder)
    pipeline.fit(experiment, files, lambda event: None)
    return dict(checkpoint.load_json(files.training))


class KilledError(Exception):
    """Stands for the end of the process."""


def _killed_in(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first training of that name dies when its first epoch is over, and has left a snapshot."""
    train: Callable[..., Any] = training.train

    def dying(*args: Any, **options: Any) -> Any:
        if options["snapshots"].name.startswith(f"{phase}."):
            tell = options["progress"]

            def progress(p: Any) -> None:
                tell(p)
                if p.epoch == 2 or (p.epochs == 1 and p.batch == 1):
                    raise KilledError

            options["progress"] = progress
        return train(*args, **options)

    monkeypatch.setattr(training, "train", dying)


@pytest.mark.parametrize(
    ("order", "rounds", "phases", "killed"),
    [
        ("qp", 1, ["float", "quantised", "prune", "fine-tune"], "fine-tune"),
        ("qp", 2, ["float", "quantised", "prune-1", "fine-tune-1", "prune", "fine-tune"], "fine-tune"),
        (
            "pq",
            2,
            ["float", "quantised", "prune-1", "fine-tune-1", "prune", "fine-tune", "pruned-quantised"],
            "pruned-quantised",
        ),
        ("together", 1, ["float", "quantised", "prune", "fine-tune"], "fine-tune"),
    ],
)
def test_orders_and_rounds(
    order: str, rounds: int, phases: list[str], killed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = _experiment(f"prune.order={order}", f"prune.rounds={rounds}", "prune.keep=0.4", "prune.criterion=rate")
    done = _fit(experiment, tmp_path / "one")
    assert list(done) == phases
    trained = {name: done[name]["epochs"] for name in phases if "epochs" in done[name]}
    quantised, tuned = (1, 3) if order == "qp" else (0, 4 if order == "together" else 3)
    assert trained["quantised"] == quantised and sum(trained[n] for n in trained if n.startswith("fine-tune")) == tuned
    assert rounds == 1 or trained["fine-tune-1"] == 1
    _check_rounds(done, 0.4, rounds)

    files = pipeline.RunFolder(tmp_path / "one")
    made = pipeline.models(experiment, files)
    assert [b.synapse.weight.shape[0] for b in own_blocks(made["final"])][:3] == [math.floor(0.4 * c + 0.5) for c in CHANNELS]
    assert all(block.quantised for block in own_blocks(made["final"]))
    pipeline.export(experiment, files, lambda event: None)
    before = made["quantised"].state_dict()
    after = checkpoint_of(files, "float")
    assert all(torch.equal(before[k], after[k]) for k in before) == (order != "qp")

    with monkeypatch.context() as patched:
        _killed_in(killed, patched)
        with pytest.raises(KilledError):
            _fit(experiment, tmp_path / "two")
    _fit(experiment, tmp_path / "two")
    assert (tmp_path / "two/model.safetensors").read_bytes() == (tmp_path / "one/model.safetensors").read_bytes()
    assert not list((tmp_path / "two").rglob("*.state*"))


def checkpoint_of(files: pipeline.RunFolder, name: str) -> dict[str, torch.Tensor]:
    return load_file(files.phase(name))


def _check_rounds(done: dict[str, Any], keep: float, rounds: int) -> None:
    """Shares fall geometrically, later rounds keep some of what earlier ones kept, and the scores say which."""
    before = {str(i): list(range(c)) for i, c in enumerate(CHANNELS)}
    for number in range(1, rounds + 1):
        entry = done["prune" if number == rounds else f"prune-{number}"]
        for (key, kept), channels in zip(entry["kept"].items(), CHANNELS, strict=True):
            assert len(kept) == math.floor(keep ** (number / rounds) * channels + 0.5)
            assert kept == sorted(kept) and set(kept) <= set(before[key])
            scores = np.array(entry["scores"][key]["rank"])
            assert scores.shape == (channels,)
            gone = [c for c in before[key] if c not in kept]
            assert not gone or scores[kept].min() >= scores[gone].max()
        assert entry["scoring"]["criterion"] == "rate" and entry["scoring"]["samples"] == 32
        assert set(entry["scoring"]["stability"]) == set(entry["scoring"]["criterion_seconds"]) == set(before)
        before = entry["kept"]


def test_a_stage_before_its_time_says_what_is_missing(tmp_path: Path) -> None:
    experiment = _experiment()
    files = pipeline.open_folder(experiment, tmp_path / "run")
    for until, missing in (("float", "model.safetensors"), ("quantised", "model.safetensors"), ("fine-tune", "")):
        pipeline.fit(experiment, files, lambda event: None, until=until)  # type: ignore[arg-type]
        if missing:
            with pytest.raises(
                ConfigError, match=rf"run has no {missing}: its run is not that far\. .*qpsnn run .*config\.toml"
            ):
                pipeline.export(experiment, files, lambda event: None)
    with pytest.raises(ConfigError, match=r"run has no network\.net: its run is not that far"):
        pipeline.write_report(experiment, files, lambda event: None)
    pipeline.export(experiment, files, lambda event: None)
    with pytest.raises(ConfigError, match=r"run has no checks\.json: its run is not that far"):
        pipeline.write_report(experiment, files, lambda event: None)


@pytest.mark.parametrize(
    ("overrides", "unit"),
    [
        (["prune.budget_words=160", "prune.rounds=2"], "words"),
        (["prune.budget_parameters=900", "prune.order=pq", "prune.criterion=l1"], "parameters"),
        (["prune.budget_ops=2000", "prune.tie_break=rate"], "ops"),
    ],
)
def test_budgets(overrides: list[str], unit: str, tmp_path: Path) -> None:
    experiment = _experiment(*overrides, "train.finetune_epochs=2")
    done = _fit(experiment, tmp_path / "run")
    plan = done["prune"]["plan"]
    assert plan["unit"] == unit and plan["cost"] <= plan["budget"] < plan["before"]
    files = pipeline.RunFolder(tmp_path / "run")
    pipeline.export(experiment, files, lambda event: None)
    network = hdf5.read(files.network)
    assert {p.name: p.shape[0] for p in network.populations[1:-1]} == plan["widths"]
    if unit == "words":
        row = mapping.compare({"": mapping.plan_layers(network)}, mapping.load_chip("loihi2"))[0]
        assert row.synapse_words == plan["cost"]  # as long as the stored bits stay
        first = done["prune-1"]["plan"]
        assert plan["cost"] < first["cost"] <= math.sqrt(plan["budget"] * first["before"])
    if unit == "parameters":
        biases = sum(p.bias.size for p in network.populations if p.bias is not None)
        assert sum(p.synapse.weight.size for p in network.projections) + biases == plan["cost"]


def test_a_budget_that_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prune\.budget_words is 3, but the network takes \d+ with the fewest channels"):
        _fit(_experiment("prune.budget_words=3"), tmp_path / "run")
