"""Ablations: the plan, what runs share, who does what, intervals, the report, processes that are stopped."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import statistics as exact
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netx_export import hdf5
from netx_export.errors import ConfigError, FormatError, RunError
from netx_export.simulate import decide, simulate, synaptic_operations
from qpsnn_lava import ablate, ablation, ablation_plots, ablation_report, checkpoint, pipeline
from qpsnn_lava.ablate import Board, Record
from qpsnn_lava.ablation import Job, Plan, Study, float_phase, jobs_of, load_plan, quantised_phase, runs_of
from qpsnn_lava.coding import encode
from qpsnn_lava.config import Experiment, load_experiment, to_toml
from qpsnn_lava.data import load
from qpsnn_lava.pipeline import Event, RunFolder, Say
from qpsnn_lava.statistics import Difference, paired_difference

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]
SILENT: Say = lambda event: None  # noqa: E731
HEAD = 'name = "scales"\nbase = "digits"\nseeds = [0, 1]\n'
AXES = (
    "[studies.grid.axes]\nscale.vanilla = { quantise.gamma = 'none' }\nscale.rescaw = {}\n"
    "bits.2 = { quantise.bits = 2 }\nbits.4 = { quantise.bits = 4 }\n"
)
GRID = HEAD + "[set]\ntrain.epochs = 2\n[studies.grid]\nbaseline = { scale = 'vanilla' }\n" + AXES
TINY = [
    "data.train_images=96",
    "network.0.channels=4",
    "network.1.channels=4",
    "network.2.channels=6",
    "train.epochs=1",
    "train.quantised_epochs=1",
    "train.finetune_epochs=1",
    "train.frozen_epochs=1",
    "prune.samples=32",
]


def plan_of(folder: Path, text: str = GRID) -> Plan:
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return load_plan(path)


# --- the plan ------------------------------------------------------------------------------------------------------------


def test_a_plan_is_parsed_and_gives_experiments(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    (study,) = plan.studies
    assert plan.fixed == {"train.epochs": 2} and study.axes["scale"] == {"vanilla": {"quantise.gamma": "none"}, "rescaw": {}}
    assert (study.question, study.baseline, study.seeds) == ("grid", {"scale": "vanilla"}, (0, 1))
    runs = runs_of(plan)
    points = [dict(zip(("scale", "bits"), point, strict=True)) for point in itertools.product(("vanilla", "rescaw"), "24")]
    assert [(run.seed, run.settings) for run in runs] == [(seed, point) for seed in (0, 1) for point in points]
    asked = ["train.threads=1", "train.epochs=2", "quantise.gamma=none", "quantise.bits=4", "seed=1", 'name="scales"']
    assert runs[5].experiment == load_experiment("digits", asked)


def test_a_base_beside_the_plan_and_values_of_a_study(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text((ROOT / "qpsnn_lava/experiments/digits.toml").read_text(encoding="utf-8"))
    text = GRID.replace('"digits"', '"mine.toml"').replace(
        "baseline =", "set = { prune.keep = [0.5, 0.4, 1.0], train.threads = 2 }\nseeds = [7]\nbaseline ="
    )
    experiments = [run.experiment for run in runs_of(plan_of(tmp_path, text))]
    assert {(e.prune.keep, e.train.threads, e.seed) for e in experiments} == {((0.5, 0.4, 1.0), 2, 7)}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds", "seed", r"plan.toml: seed is unknown; a plan has name, base, seeds, set, studies; did you mean 'seeds'\?$"),
        ("seeds = [0, 1]\n", "", r"seeds is missing; it must be a list of 1..1000 different whole numbers in 0\.\."),
        ("[0, 1]", "[0, 0]", r"seeds is \[0, 0\]; it must be a list of 1..1000 different whole numbers"),
        ("[0, 1]", "[true]", r"seeds is \[True\]; it must be a list"),
        ('"scales"', '"a/b"', r"name is \"a/b\"; it must be 1..58 letters, digits"),
        ('"digits"', '"digit"', r"there is no experiment 'digit': .* did you mean 'digits'\?$"),
        ('"digits"', "3", r"base is 3; it must be the name or path of an experiment\.$"),
        ("train.epochs = 2", "train.epoch = 2", r"--set 'train.epoch=2': train.epoch is unknown; .* did you mean 'epochs'\?$"),
        ("train.epochs = 2", "seed = 2", r"set.seed cannot be set: list seeds in the plan\.$"),
        ("train.epochs = 2", "name = 'a'", r"set.name cannot be set: each run is named after the plan\.$"),
        ("train.epochs = 2", "train.epochs = ['a']", r"set.train.epochs is \['a'\]; it must be a number, a text, true, false or"),
        ("baseline", "base_line", r"studies.grid.base_line is unknown; a study has question, .*; did you mean 'baseline'\?$"),
        ("baseline = { scale = 'vanilla' }", "", r"studies.grid.baseline is missing; it must be a section with a setting for"),
        ("{ scale = 'vanilla' }", "{}", r"studies.grid.baseline is empty; it must be"),
        ("{ scale =", "{ scales =", r"studies.grid.baseline.scales: the axes are scale, bits; did you mean 'scale'\?$"),
        ("= 'vanilla'", "= 'vanila'", r"baseline.scale is \"vanila\"; it must be one of the texts \"vanilla\", .*'vanilla'\?$"),
        ("= 'vanilla'", "= 2", r"baseline.scale is 2; it must be one of the texts \"vanilla\", \"rescaw\"\.$"),
        ("baseline =", "question = ''\nbaseline =", r"studies.grid.question is \"\"; it must be one line of text\.$"),
        ("scale.rescaw = {}\n", "", r"studies.grid.axes.scale is a section; it must be two settings or more, each a section of"),
        ("scale.rescaw = {}", "scale.rescaw = 2", r"axes.scale.rescaw is 2; it must be a section of values by key, such as"),
        ("scale.rescaw", 'scale."re|scaw"', r"axes.scale: \"re\|scaw\" cannot name an axis or a setting; a name has 1..30"),
        ("[studies.grid.axes]", '[studies."a b"]\n[studies.grid.axes]', r'"a b" cannot name a study; a name has 1..58 letters'),
        ("[studies.grid.axes]", "[studies]\nb = 2\n[studies.grid.axes]", r"studies.b is 2; it must be a section with axes and"),
        ("scale.rescaw = {}", "scale.rescaw = { quantise.bits = 4 }", r"both axes scale and bits set quantise.bits; a key bel"),
        ("bits.4 = { quantise.bits = 4 }", "bits.4 = { quantise.bits = 2 }", r"scale vanilla, bits 2 and scale vanilla, bits 4 a"),
        ("quantise.bits = 4", "quantise.bits = 9", r"studies.grid \(scale vanilla, bits 4\): --set 'quantise.bits=9': quantise"),
        ("[0, 1]", f"{list(range(1000))}\n[studies.b]\nseeds = [2]", r"studies.b.axes is missing; it must be a section of axes"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_plan_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert GRID.count(old)
    with pytest.raises(ConfigError, match=message):
        plan_of(tmp_path, GRID.replace(old, new))


def test_plans_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FormatError, match=r"no.toml' cannot be read as a plan \(No such file or directory\)"):
        load_plan(tmp_path / "no.toml")
    with pytest.raises(FormatError, match=r"plan.toml is not TOML"):
        plan_of(tmp_path, "a = ")
    monkeypatch.setattr(ablation, "MAX_RUNS", 7)
    with pytest.raises(ConfigError, match="the plan has 8 runs; at most 7 fit, so take fewer settings or seeds"):
        plan_of(tmp_path)


def test_the_plans_that_are_shown_can_be_run(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "ablation.md").read_text(encoding="utf-8")
    plan = plan_of(tmp_path, text.split("```toml\n")[1].split("```")[0])
    assert [len(study.seeds) for study in plan.studies] == [3, 5] and len(runs_of(plan)) == 3 * 4 + 5 * 2
    whole = load_plan(ROOT / "results" / "ablation-fashion-mnist" / "plan.toml")
    grid = whole.studies[0]
    assert [len(settings) for settings in grid.axes.values()] == [2, 4, 3, 2] and len(grid.seeds) >= 3
    per_seed = Counter((job.stage, job.epochs) for job in jobs_of(runs_of(whole)) if job.experiment.seed == 0)
    assert per_seed == {("float", 12): 1, ("quantised", 2): 14, ("quantised", 0): 2, ("run", 3): 61, ("run", 5): 4}


# --- what runs share -----------------------------------------------------------------------------------------------------

LATER = [  # what the float phase does not depend on: all other keys of an experiment are taken to decide it
    "quantise.bits=2", "quantise.first_bits=3", "quantise.last_bits=3", "quantise.grid=mid_rise", "quantise.gamma=max",
    "quantise.percentile=0.9", "quantise.n2uq=true", "quantise.per=channel", "quantise.shift_bits=2", "quantise.segments=2",
    "quantise.masked=true", "network.1.bits=2", "train.quantised_epochs=2", "train.finetune_epochs=2", "train.frozen_epochs=0",
    "train.finetune_learning_rate=1e-2", "prune.keep=0.25", "prune.order=pq", "prune.criterion=l1", "lava.samples=3",
    "map.chip=loihi1", "name=other",
]  # fmt: skip
DECIDES = ["seed=1", "data.train_images=90", "data.steps=3", "network.1.channels=5", "neuron.threshold=0.9", "quantise.norm=mean",
           "readout.kind=rate", "train.epochs=2", "train.batch=16", "train.learning_rate=1e-3", "train.augment=none",
           "train.weight_decay=0.1", "train.threads=2", "train.dynamics=slayer"]  # fmt: skip


def _float_weights(folder: Path, *overrides: str) -> dict[str, torch.Tensor]:
    experiment = load_experiment("digits", [*TINY, *overrides])
    files = pipeline.open_folder(experiment, folder)
    pipeline.fit(experiment, files, SILENT, until="float")
    model = pipeline.unpruned_model(experiment, files, pipeline.data_of(experiment), "float")
    return dict(model.state_dict())


def test_the_float_phase_is_shared_by_what_does_not_decide_it(tmp_path: Path) -> None:
    plain = load_experiment("digits", TINY)
    for override in LATER:
        assert float_phase(load_experiment("digits", [*TINY, override])) == float_phase(plain), override
    for override in DECIDES:
        assert float_phase(load_experiment("digits", [*TINY, override])) != float_phase(plain), override
    known = set(type(plain).model_fields["quantise"].annotation.model_fields)  # type: ignore[union-attr]
    named = {override.split("=")[0].partition(".")[2] for override in LATER + DECIDES if override.startswith("quantise")}
    assert known - named == {"budget_mb", "budget_words", "budget_cores"}  # a new key needs a place in one of the lists
    everything = [o for o in LATER if o not in ("quantise.n2uq=true", "quantise.per=channel")]
    one, other = _float_weights(tmp_path / "one"), _float_weights(tmp_path / "other", *everything)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    for override in ("seed=1", "quantise.norm=mean"):
        changed = _float_weights(tmp_path / override.replace("=", "-"), override)
        assert one.keys() != changed.keys() or any(not torch.equal(one[key], changed[key]) for key in one), override


def test_the_quantised_phase_is_shared_by_runs_that_differ_after_it() -> None:
    def of(*overrides: str) -> Experiment:
        return quantised_phase(load_experiment("digits", [*TINY, *overrides]))

    for later in ("prune.keep=0.25", "prune.criterion=random", "train.finetune_epochs=3", "train.finetune_learning_rate=1e-2"):
        assert of(later) == of()
    for decides in ("quantise.bits=2", "quantise.gamma=max", "train.quantised_epochs=2", "seed=3", "train.frozen_epochs=0"):
        assert of(decides) != of()
    assert of("prune.order=pq") == of("prune.order=together", "train.quantised_epochs=4") != of()
    assert of("prune.order=pq").train.quantised_epochs == 0
    whole = load_experiment("digits", TINY)
    for phase in (float_phase(whole), quantised_phase(whole)):
        assert phase.prune.keep == 1.0 and phase.train.finetune_epochs == 0


def test_every_phase_is_there_once_and_before_what_goes_on_from_it(tmp_path: Path) -> None:
    text = GRID + (
        "[studies.again]\nbaseline = { keep = 'half' }\nset = { quantise.bits = 4 }\n[studies.again.axes]\n"
        "keep.half = { prune.keep = 0.5 }\nkeep.third = { prune.keep = 0.33 }\n"
    )
    runs = runs_of(plan_of(tmp_path, text))
    jobs = jobs_of(runs)
    assert Counter(job.stage for job in jobs) == {"float": 2, "quantised": 8, "run": 10}  # half is rescaw, 4 of the grid
    assert len({run.key for run in runs}) == 10 and len(runs) == 12
    keys = [job.key for job in jobs]
    assert len(set(keys)) == len(keys)
    assert all(job.after is None or keys.index(job.after) < i for i, job in enumerate(jobs))
    assert {run.key for run in runs} == {job.key for job in jobs if job.stage == "run"}
    epochs = {job.stage: job.epochs for job in jobs}
    train = load_experiment("digits").train
    assert epochs == {"float": 2, "quantised": train.quantised_epochs, "run": train.finetune_epochs}


@pytest.mark.parametrize("order", ["qp", "together"])
def test_a_run_of_shared_phases_is_the_run_trained_at_once(tmp_path: Path, order: str) -> None:
    experiment = load_experiment("digits", [*TINY, f"prune.order={order}"])
    run = ablation.Run("s", {}, 0, experiment)
    jobs = jobs_of((run,))
    records = [ablate.do_job(job, tmp_path / "shared", SILENT) for job in jobs]
    whole = pipeline.open_folder(experiment, tmp_path / "whole")
    trained = pipeline.fit(experiment, whole, SILENT)
    pipeline.export(experiment, whole, SILENT)
    shared = RunFolder(ablate.place_of(tmp_path / "shared", run.key))
    assert shared.model.read_bytes() == whole.model.read_bytes()
    assert shared.network.read_bytes() == whole.network.read_bytes()
    assert checkpoint.load_json(shared.training)["prune"]["kept"] == trained["prune"]["kept"]
    record, network = records[-1], hdf5.read(shared.network)
    if order != "qp":
        return
    test, coding = load("digits").test, pipeline.coding_of(experiment)
    seen = simulate(network, encode(test.images, coding, max_value=16, seed=0, indices=test.indices), states=["output"])
    assert (
        record["accuracy"]["value"] == float((decide(network, seen)[0] == test.labels).mean())
        and record["accuracy"]["n"] == 450
    )
    assert record["synaptic_ops"] == sum(synaptic_operations(network, seen).values()) / 450
    assert record["compared"]["samples"] == ablate.COMPARED and record["compared"]["spikes_compared"] > 0
    weights = sum(p.synapse.weight.size for p in network.projections)
    assert weights < record["parameters"] < weights + sum(p.size for p in network.populations) and record["cores"] > 0
    assert json.loads((shared.path / "record.json").read_text()) == record
    assert ablate.do_job(jobs[-1], tmp_path / "shared", SILENT)["accuracy"] == record["accuracy"]


# --- who does what -------------------------------------------------------------------------------------------------------


DIGITS = load_experiment("digits", TINY)


def _jobs(chains: list[tuple[int, int]]) -> tuple[Job, ...]:
    """Runs that share phases by number: (float, quantised) of each."""
    found: dict[str, Job] = {}
    for i, (first, second) in enumerate(chains):
        float_key, quantised_key = f"float-{first}", f"quantised-{first}-{second}"
        for job in (
            Job(float_key, "float", DIGITS),
            Job(quantised_key, "quantised", DIGITS, float_key),
            Job(f"run-{i}", "run", DIGITS, quantised_key),
        ):
            found.setdefault(job.key, job)
    return tuple(found.values())


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12),
    st.integers(1, 4),
    st.data(),
)
def test_every_job_is_given_out_once_and_nobody_waits_for_work_that_is_there(
    chains: list[tuple[int, int]], workers: int, data: st.DataObject
) -> None:
    jobs = {job.key: job for job in _jobs(chains)}
    known = data.draw(st.sets(st.sampled_from([key for key, job in jobs.items() if job.after is None])))
    bad = data.draw(st.sets(st.sampled_from(sorted(jobs)))) - known
    clock = [0.0]
    board = Board(tuple(jobs.values()), {key: {"accuracy": {}} for key in known}, workers, clock=lambda: clock[0])
    taken, finished, doing = [], set(known), []
    while not board.over:
        while len(doing) < workers and (job := board.take()) is not None:
            assert job.after is None or job.after in finished - bad
            taken.append(job.key)
            doing.append(job.key)
        assert doing
        if len(doing) < workers:  # somebody waits: there is nothing that can begin
            rest = set(jobs) - set(taken) - finished
            assert not [key for key in rest if jobs[key].after is None or jobs[key].after in finished - bad]
        clock[0] += 60.0
        key = doing.pop(data.draw(st.integers(0, len(doing) - 1)))
        finished.add(key)
        board.finish(key, {"error": "no"} if key in bad else {"accuracy": {}})
        assert 0 <= board.counts[0] <= board.counts[1] == len(jobs)
    assert len(taken) == len(set(taken)) and not known & set(taken)
    dropped = {key for key, job in jobs.items() if job.after in bad or (job.after and jobs[job.after].after in bad)}
    assert set(taken) | known | dropped == set(jobs) and not set(taken) & dropped
    assert board.counts == (len(jobs), len(jobs))


def test_the_time_left() -> None:
    jobs, clock = _jobs([(0, 0), (0, 1), (1, 0)]), [0.0]  # 2 + 3 + 3 jobs of two epochs' work each
    board = Board(jobs, {}, 2, clock=lambda: clock[0])
    assert board.progress() == "0 of 8 jobs"
    job = board.take()
    assert job is not None and board.progress() == "0 of 8 jobs"
    clock[0] = 3600.0
    board.finish(job.key, {"accuracy": {}})
    assert board.progress() == "1 of 8 jobs, about 3 h 30 min left"  # 7 hours by 2
    finished = {job.key: {"accuracy": {}} for job in jobs}
    assert Board(jobs, finished, 2).progress() == "8 of 8 jobs" and Board(jobs, finished, 2).over


# --- a whole ablation, with a stand-in for the work ----------------------------------------------------------------------


class Worked:
    """Notes what it was given, and makes up what came of it."""

    def __init__(self, raised: dict[int, BaseException] | None = None) -> None:
        self.raised, self.done = raised or {}, [""][:0]

    def __call__(self, job: Job, folder: Path, say: Say) -> Record:
        if len(self.done) in self.raised:
            raise self.raised.pop(len(self.done))
        assert job.after is None or (ablate.place_of(folder, job.after) / "record.json").exists()
        say(Event(job.stage, "at work"))
        record = _made_up(job)
        checkpoint.save_json(ablate.place_of(folder, job.key) / "record.json", record)
        self.done.append(job.key)
        return record


def _made_up(job: Job) -> Record:
    quantise, seed = job.experiment.quantise, job.experiment.seed
    if job.stage == "run" and quantise.bits == 8:
        return {"error": "conv1 | has no integers"}
    value = {"float": 0.9, "quantised": 0.89, "run": 0.7 + 0.02 * int(quantise.bits)}[job.stage]
    value += 0.03 * (quantise.gamma == "none") * (seed + 1) - 0.001 * seed**2
    numbers = {
        "size_mb": 0.1,
        "parameters": 10,
        "cores": 3,
        "synapse_words": 30,
        "synaptic_ops": 1e3,
        "activation_sparsity": 0.8,
    }
    return {
        "accuracy": {"value": value, "n": 1000, "interval": [0.0, 1.0]},
        **numbers,
        "scoring": {"stability": 0.9, "seconds": 0.1},
        "seconds": {"train": 2.0, "evaluate": 1.0},
    }


THREE = GRID.replace("seeds = [0, 1]", "seeds = [0, 1, 3]") + "bits.8 = { quantise.bits = 8 }\n"


def test_an_ablation_and_its_numbers(tmp_path: Path) -> None:
    plan, work = plan_of(tmp_path, THREE), Worked()
    told: list[Event] = []
    made = ablate.ablate(plan, tmp_path / "out", say=told.append, work=work, command="qpsnn ablate plan.toml")
    assert made == json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert (made["runs"], made["done"], made["n_test"], made["command"]) == (18, 12, 1000, "qpsnn ablate plan.toml")
    (study,) = made["studies"]
    cell = next(cell for cell in study["cells"] if cell["settings"] == {"scale": "vanilla", "bits": "4"})
    values = [100 * (0.78 + 0.03 * (seed + 1) - 0.001 * seed**2) for seed in (0, 1, 3)]
    assert list(cell["integer"]["values"].values()) == pytest.approx(values) and cell["n"] == 3
    assert cell["integer"]["mean"] == pytest.approx(exact.mean(values))
    assert cell["integer"]["deviation"] == pytest.approx(exact.stdev(values)) and cell["float"]["mean"] > 80
    whole, *rest = study["differences"]
    assert whole["at"] == {} and whole["n"] == 0 and whole["interval"] is None  # no seed has all: 8 bit failed
    assert [(row["at"], row["n"]) for row in rest] == [({"bits": "2"}, 3), ({"bits": "4"}, 3), ({"bits": "8"}, 0)]
    test = scipy.stats.ttest_rel([-3.0, -6.0, -12.0], [0.0, 0.0, 0.0]).confidence_interval(0.95)
    for row in rest[:2]:
        assert row["value"] == pytest.approx(-7.0) and row["interval"] == pytest.approx([test.low, test.high])
        assert row["verdict"] == "open" and row["over"] == 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["state"] for line in lines].count("failed") == 6 and len(lines) == 18
    assert lines[0]["accuracy"].keys() == {"float", "unpruned", "integer"} and lines[0]["seconds"]["shared"] == 6.0
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "12 of 18 runs of `digits` done" in text and "n = 1,000 test images" in text
    assert "| rescaw - vanilla | bits 4 | -7.00 [-18.38, +4.38] | 3 | not told apart |" in text
    assert "- vanilla, 8, seed 3 failed: conv1 \\| has no integers" in text
    for name in ("accuracy-grid.png", "difference-grid.png"):
        assert f"]({name})" in text and (tmp_path / "out" / name).stat().st_size > 5_000
    assert told[0].text == "0 of 39 jobs" and told[-1].stage == "report" and told[-2].done == told[-2].total == 39
    again = Worked()
    assert ablate.ablate(plan, tmp_path / "out", say=SILENT, work=again, command=made["command"]) == made and not again.done


def test_the_plot_of_four_axes_and_means_over_the_others(tmp_path: Path) -> None:
    axes: dict[str, dict[str, Any]] = {
        "q": {"a": {}, "b": {}},
        "c": {"x": {}, "y": {}, "z": {}},
        "k": {"1": {}, "2": {}},
        "m": {"0": {}, "9": {}},
    }
    study = Study("four", "Q?", {}, axes, {"q": "a", "c": "x"}, (0, 1))
    rng = np.random.default_rng(0)
    rows = []
    for seed, point in itertools.product((0, 1), study.points()):
        record = _made_up(Job("k", "float", load_experiment("digits")))
        value = {"value": float(rng.random()), "n": 100}
        row = {"study": "four", "settings": point, "seed": seed, "key": "k", "state": "done", **record}
        rows.append(
            {
                **row,
                "seconds": {"train": 1.0, "shared": 1.0},
                "accuracy": dict.fromkeys(("float", "unpruned", "integer"), value),
            }
        )
    made = ablation_report.summary(Plan("p", "digits", {}, (study,)), rows)
    (found,) = made["studies"]
    values = {(*row["settings"].values(), row["seed"]): row["accuracy"]["integer"]["value"] for row in rows}  # type: ignore[attr-defined, index]
    row = next(r for r in found["differences"] if (r["setting"], r["at"]) == ("y", {"k": "2"}))
    by_seed = [
        [100 * exact.mean(values[q, c, "2", m, seed] for q in "ab" for m in "09") for seed in (0, 1)] for c in ("y", "x")
    ]
    assert row["over"] == 4 and row["value"] == pytest.approx(exact.mean(by_seed[0]) - exact.mean(by_seed[1]))
    assert [len(r["at"]) for r in found["differences"]].count(0) == 3
    assert len(found["differences"]) == (1 + 7 + 12) + 2 * (1 + 6 + 8)
    figure = ablation_plots.accuracy_figure(found, 100)
    assert figure is not None and len(figure.axes) == 4
    assert [panel.get_title("left") for panel in figure.axes] == ["k 1, m 0", "k 1, m 9", "k 2, m 0", "k 2, m 9"]
    second = ablation_plots.difference_figure(found)
    assert second is not None and len(second.axes[0].get_yticklabels()) == (1 + 7) + 2 * (1 + 6)
    assert ablation_plots.accuracy_figure({**found, "cells": []}, None) is None
    assert ablation_plots.difference_figure({**found, "differences": []}) is None


def test_an_interrupted_ablation_goes_on_and_a_changed_plan_keeps_what_both_have(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    whole = ablate.ablate(plan, tmp_path / "whole", say=SILENT, work=Worked())
    work = Worked({2: KeyboardInterrupt(), 9: RunError("the disk is full")})
    for kind in (KeyboardInterrupt, RunError):
        with pytest.raises(kind):
            ablate.ablate(plan, tmp_path / "parts", say=SILENT, work=work)
    part = json.loads((tmp_path / "parts" / "report.json").read_text(encoding="utf-8"))
    assert 0 < part["done"] < 8 and {row["interval"] is None for row in part["studies"][0]["differences"]} == {True}
    assert "(no interval)" in (tmp_path / "parts" / "report.md").read_text(encoding="utf-8")
    assert ablate.ablate(plan, tmp_path / "parts", say=SILENT, work=work) == whole
    assert len(work.done) == len(set(work.done)) == 18
    more = plan_of(tmp_path, GRID.replace("[0, 1]", "[0, 1, 2]") + "bits.3 = { quantise.bits = 3 }\n")
    ablate.ablate(more, tmp_path / "parts", say=SILENT, work=work)
    assert len(work.done) == len(set(work.done)) == 3 + 2 * 3 * 6


def test_a_phase_that_fails_takes_its_runs_with_it(tmp_path: Path) -> None:
    def work(job: Job, folder: Path, say: Say) -> Record:
        failed = job.stage == "quantised" and job.experiment.quantise.gamma == "none"
        return {"error": "the loss is nan"} if failed else _made_up(job)

    made = ablate.ablate(plan_of(tmp_path), tmp_path / "out", say=SILENT, work=work)
    (study,) = made["studies"]
    assert made["done"] == 4 and [failure["error"] for failure in study["failures"]] == ["the loss is nan"] * 4


def test_settings_that_have_no_integers_are_a_result(tmp_path: Path) -> None:
    experiment = load_experiment("digits", [*TINY, "quantise.per=channel", "train.quantised_epochs=0"])
    (*_, phase, _) = jobs_of((ablation.Run("s", {}, 0, experiment),))
    first = jobs_of((ablation.Run("s", {}, 0, experiment),))[0]
    ablate.do_job(first, tmp_path, SILENT)
    record = ablate.do_job(phase, tmp_path, SILENT)
    assert "channel" in record["error"] and "versions" in record
    assert ablate._kept(tmp_path, phase) == record


def test_what_stands_in_the_way(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    with pytest.raises(ConfigError, match=r"--workers is 0; at least 1 is needed\."):
        ablate.ablate(plan, tmp_path / "out", workers=0, say=SILENT)
    with (
        ablate._alone(tmp_path / "out"),
        pytest.raises(ConfigError, match=r"another process works in .*out; wait for it, or choose another --out\."),
    ):
        ablate.ablate(plan, tmp_path / "out", say=SILENT, work=Worked())
    with pytest.raises(RunError, match=r"cannot write in .*plan.toml: (File exists|Not a directory); choose another --out"):
        ablate.ablate(plan, tmp_path / "plan.toml", say=SILENT, work=Worked())
    key = runs_of(plan)[0].key
    record = ablate.place_of(tmp_path / "out", key) / "record.json"
    checkpoint.save_json(record, {"accuracy": 3})
    with pytest.raises(FormatError, match=r"record.json does not hold the record of a job; remove it and run again"):
        ablate.ablate(plan, tmp_path / "out", say=SILENT, work=Worked())
    job = jobs_of(runs_of(plan))[0]
    other = dataclasses.replace(job, experiment=load_experiment("digits", TINY))
    pipeline.open_folder(job.experiment, ablate.place_of(tmp_path / "third", job.key))
    with pytest.raises(ConfigError, match="holds another experiment"):
        ablate.do_job(other, tmp_path / "third", SILENT)


# --- statistics ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=2, max_size=12))
def test_the_interval_of_a_paired_difference_is_scipys(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    found = paired_difference(ours, theirs)
    each = np.array(ours) - np.array(theirs)
    low, high = scipy.stats.t.interval(0.95, len(each) - 1, each.mean(), max(each.std(ddof=1) / len(each) ** 0.5, 1e-300))
    assert found.n == len(pairs) and found.value == pytest.approx(each.mean(), abs=1e-9)
    assert found.interval == pytest.approx((low, high), rel=1e-6, abs=1e-6)


def test_verdicts_and_pairs_that_are_none() -> None:
    assert [Difference(1.0, 3, interval).verdict for interval in ((0.1, 2.0), (-2.0, -0.1), (-1.0, 1.0), None)] == [
        "higher", "lower", "open", "open",
    ]  # fmt: skip
    assert paired_difference([2.0], [1.5]) == Difference(0.5, 1, None)
    for ours, theirs in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(
            ConfigError, match=rf"{len(ours)} numbers against {len(theirs)}; a paired difference needs equally"
        ):
            paired_difference(ours, theirs)


# --- fewer training images -----------------------------------------------------------------------------------------------


def test_fewer_training_images_by_class_and_seed() -> None:
    whole, some = load("digits", seed=3), load("digits", seed=3, train_images=200)
    assert (some.validation, some.test) == (whole.validation, whole.test) and len(some.train) == 200
    places = np.searchsorted(np.sort(whole.train.indices), np.sort(some.train.indices))
    assert np.array_equal(np.sort(whole.train.indices)[places], np.sort(some.train.indices))
    image = dict(zip(whole.train.indices.tolist(), whole.train.images, strict=True))
    assert all(np.array_equal(image[i], one) for i, one in zip(some.train.indices.tolist(), some.train.images, strict=True))
    shares = np.bincount(some.train.labels) - 200 * np.bincount(whole.train.labels) / len(whole.train)
    assert np.abs(shares).max() < 1
    assert load("digits", seed=3, train_images=200).train == some.train != load("digits", seed=4, train_images=200).train
    assert load("digits", train_images=len(load("digits").train)).train == load("digits").train
    for count in (0, 10_000):
        message = (
            rf"data.train_images is {count}; the training split of digits has 1\.\.{len(whole.train)} to give: leave it out"
        )
        with pytest.raises(ConfigError, match=message):
            load("digits", train_images=count)


def test_train_images_of_an_experiment() -> None:
    experiment = load_experiment("digits", ["data.train_images=96"])
    assert len(pipeline.data_of(experiment).train) == 96 and "train_images = 96" in to_toml(experiment)
    assert "train_images" not in to_toml(load_experiment("digits"))
    with pytest.raises(ConfigError, match=r"data.train_images is 0; it must be a whole number in 1..10000000"):
        load_experiment("digits", ["data.train_images=0"])


# --- processes -----------------------------------------------------------------------------------------------------------

FIXED = "\n".join(override for override in TINY if not override.startswith("train.epochs="))
REAL = HEAD.replace("[0, 1]", "[0]") + (
    f"[set]\n{FIXED}\ntrain.epochs = 60\n[studies.s]\nbaseline = {{ scale = 'vanilla' }}\n[studies.s.axes]\n"
    "scale.vanilla = { quantise.gamma = 'none' }\nscale.rescaw = { quantise.gamma = 'mean_abs' }\n"
)


@pytest.mark.timeout(600)
def test_two_processes_are_stopped_in_order_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(REAL, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "qpsnn_lava",
        "ablate",
        str(path),
        "--workers",
        "2",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a suite in the background of a shell inherits that it is ignored
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        deadline = time.monotonic() + 300
        while not list((tmp_path / "out").glob("runs/float-*/checkpoints/float.state.safetensors")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        children = _children(process.pid)
        assert len(children) >= 2
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        _, errors = process.communicate(timeout=200)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130 and "the same command goes on" in errors and "Traceback" not in errors, errors
    deadline = time.monotonic() + 100  # Python's own helper process ends a little after
    while any(map(_lives, children)):
        assert time.monotonic() < deadline, children
        time.sleep(0.05)
    snapshot = next((tmp_path / "out").glob("runs/float-*/checkpoints/float.state.safetensors"))
    found = checkpoint.load_snapshot(snapshot, pytest.fail)
    assert found is not None and 0 < found.facts["epoch"] < 60
    made = ablate.ablate(load_plan(path), tmp_path / "out", say=SILENT)
    assert made["done"] == 2 and made["studies"][0]["differences"][0]["n"] == 1
    assert not list((tmp_path / "out").glob("runs/*/checkpoints/*.state.safetensors"))


def _stat(pid: int) -> list[bytes]:
    """State, parent and more of a process; [] where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def _lives(pid: int) -> bool:
    return _stat(pid)[:1] not in ([], [b"Z"], [b"X"])


def _children(pid: int) -> list[int]:
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [number for number in numbers if _stat(number)[1:2] == [str(pid).encode()]]


def test_a_fault_in_a_process_ends_all_with_its_sentence(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, REAL)
    job = jobs_of(runs_of(plan))[0]
    pipeline.open_folder(load_experiment("digits", TINY), ablate.place_of(tmp_path / "out", job.key))
    with pytest.raises(ConfigError, match="holds another experiment"):
        ablate.ablate(plan, tmp_path / "out", workers=2, say=SILENT)
