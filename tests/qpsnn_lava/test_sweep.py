"""Sweeps: the file, the bookkeeping of many workers on one journal, the work of a trial, the results."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netx_export import hdf5
from netx_export.errors import CapacityError, ConfigError, FormatError, MissingError, RunError
from netx_export.simulate import decide, simulate, synaptic_operations
from qpsnn_lava import checkpoint, cli, pipeline, plots, sweep
from qpsnn_lava.coding import encode
from qpsnn_lava.config import Experiment, load_experiment
from qpsnn_lava.data import Dataset, Split, load
from qpsnn_lava.pipeline import Event, RunFolder, Say, inputs
from qpsnn_lava.space import Range, Space, grid_points, grid_size, load_space
from qpsnn_lava.statistics import Accuracy
from qpsnn_lava.sweep import Outcome, Sweep, Trial

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]
HEAD = 'name = "widths"\nbase = "digits"\n'
SPACE = HEAD + (
    'trials = 6\nsampler = "random"\nobjectives = ["accuracy", "cores"]\npatience = 60\n[set]\ntrain.epochs = 2\n[space]\n'
    "prune.keep = { low = 0.3, high = 0.8 }\nnetwork.1.channels = [16, 24]\n"
)
SILENT: Say = lambda event: None  # noqa: E731


optuna.logging.set_verbosity(optuna.logging.WARNING)


def space_of(folder: Path, text: str = SPACE) -> Space:
    path = folder / "space.toml"
    path.write_text(text, encoding="utf-8")
    return load_space(path)


def outcome_of(experiment: Experiment) -> Outcome:
    """A made-up outcome that depends on the values."""
    keep = experiment.prune.keep
    assert isinstance(keep, float)
    return Outcome(Accuracy.of(int(1000 * keep), 1000), keep, int(10 * keep), 100 * keep, True, 1.0)


class Worked:
    """A stand-in for a trial's work that notes what it was given."""

    def __init__(self, **raised: BaseException) -> None:
        self.raised = {int(number.strip("t")): error for number, error in raised.items()}
        self.done: list[tuple[str, float, str]] = []

    def __call__(self, experiment: Experiment, files: RunFolder, say: Say) -> Outcome:
        number = int(experiment.name.rpartition("-")[2])
        assert files.path.name == f"trial-{number:04d}" and load_experiment(files.config) == experiment
        if number in self.raised:
            raise self.raised.pop(number)
        self.done.append((experiment.name, experiment.prune.keep, ""))  # type: ignore[arg-type]
        return outcome_of(experiment)


# --- the file ------------------------------------------------------------------------------------------------------------


def test_a_space_is_parsed_and_gives_experiments(tmp_path: Path) -> None:
    space = space_of(tmp_path)
    assert space.space == {"prune.keep": Range(low=0.3, high=0.8), "network.1.channels": (16, 24)}
    assert (space.set, space.seed, space.patience) == ({"train.epochs": 2}, 0, 60.0)
    made = sweep.experiment_of(space, {"prune.keep": 0.4, "network.1.channels": 24}, 7)
    asked = ["train.epochs=2", "prune.keep=0.4", "network.1.channels=24", 'name="widths-0007"']
    assert made == load_experiment("digits", asked)


def test_quoted_keys_lists_and_a_base_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text((ROOT / "qpsnn_lava/experiments/digits.toml").read_text(encoding="utf-8"))
    text = (
        'name = "a"\nbase = "mine.toml"\ntrials = 1\n[set]\n"train.epochs" = 3\n'
        '[space]\n"prune.keep" = [0.5, [0.5, 0.4, 0.3]]\ndata.coding = ["direct", "rate"]\n'
    )
    space = space_of(tmp_path, text)
    assert space.space == {"prune.keep": (0.5, (0.5, 0.4, 0.3)), "data.coding": ("direct", "rate")}
    assert sweep.experiment_of(space, {"prune.keep": (0.5, 0.4, 0.3)}).prune.keep == (0.5, 0.4, 0.3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tirals = 3", r"tirals is unknown; a sweep has name, base, trials, .*; did you mean 'trials'\?"),
        ("trials = 0", r"trials is 0; it must be a whole number in 1..100000\."),
        ("seed = true", r"seed is true; it must be a whole number in 0\.\."),
        ("patience = 0.5", r"patience is 0.5; it must be a number of seconds from 1 to 86400"),
        ('sampler = "gird"', r"sampler is \"gird\"; it must be one of \"tpe\", \"random\", \"grid\"; did you mean 'grid'"),
        (
            'objectives = ["core"]',
            r"objectives is \['core'\]; it must be a list of some of accuracy, .*; did you mean 'cores'",
        ),
        ('objectives = ["cores", "cores"]', r"objectives lists one twice: cores, cores"),
        ("objectives = []", r"objectives is \[\]; it must be"),
        ("space = 3", r"space is 3; it must be a section of at least one key, such as prune.keep = \[0.4, 0.5\]"),
        ("space = {}", r"space is empty; it must be a section of at least one key"),
        ("set = 3", r"set is 3; it must be a section of values by key"),
        (
            'set.train.epochs = ["a"]',
            r"set.train.epochs is \['a'\]; it must be a number, a text, true, false or a list of numb",
        ),
        ("set.seed = 1", r"seed stands in both \[set\] and \[space\]; leave it out of one"),
        ('set.name = "a"', r"name cannot be set or varied: each trial is named after the sweep"),
        ("set.train.epoch = 1", r"--set 'train.epoch=1': train.epoch is unknown; .* did you mean 'epochs'"),
        ("space.prune.keep = 0.4", r"space.prune.keep is 0.4; it must be a list of choices .* or { low, high, log, step }"),
        ("space.prune.keep = []", r"space.prune.keep is \[\]; it must be a list of choices"),
        ("space.prune.keep = [0.5, 0.5]", r"space.prune.keep lists 0.5 twice"),
        (
            "space.prune.keep = [0.5, 1.5]",
            r"--set 'prune.keep=1.5': prune.keep is 1.5; it must be a number above 0 and at most 1",
        ),
        ("space.prune.keep = { lo = 0.1, high = 1.0 }", r"space.prune.keep.lo is unknown; a range has .*; did you mean 'low'"),
        ("space.prune.keep = { low = 0.1 }", r"space.prune.keep.high is missing; it must be a number"),
        ('space.prune.keep = { low = "a", high = 1 }', r"space.prune.keep.low is \"a\"; it must be a number"),
        (
            "space.prune.keep = { low = 0.5, high = 0.1 }",
            r"space.prune.keep: low is 0.5 and high is 0.1; low must be below high",
        ),
        ("space.prune.keep = { low = 0, high = 1, log = true }", r"low is 0, and log = true needs one above 0"),
        (
            "space.prune.keep = { low = 0.1, high = 1, log = true, step = 0.1 }",
            r"both log and step are set; leave one of them",
        ),
        ("space.prune.keep = { low = 0.1, high = 1, step = 2 }", r"step is 2; it must be above 0 and at most high - low"),
        (
            "space.train.batch = { low = 1, high = 9, step = 0.5 }",
            r"step is 0.5 between whole numbers; it must be a whole num",
        ),
        ("space.train.batch = { low = 1, high = 9007199254740993 }", r"whole numbers beyond 2\*\*53 have no place in a range"),
        (f"space.seed = {list(range(1001))}", r"\[space\] lists 1001 choices; at most 1000 fit, so take a range"),
        (
            'sampler = "grid"\nspace.prune.keep = { low = 0.1, high = 1.0 }',
            r"space.prune.keep is a range without a step, which",
        ),
        (
            'sampler = "grid"\nspace.seed = { low = 0, high = 100000 }',
            r"the grid has 100001 points; at most 100000 fit, so take",
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, line: str, message: str) -> None:
    defaults = {"trials": "trials = 3", "space": "space.seed = [1, 2]"}
    kept = [text for key, text in defaults.items() if not any(part.startswith((key, "t" + key)) for part in line.split("\n"))]
    with pytest.raises(ConfigError, match=message):
        space_of(tmp_path, HEAD + "\n".join([*kept, line]))


def test_trials_are_needed_but_for_a_grid(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"space.toml: trials is missing; it must be a whole number in 1..100000\."):
        space_of(tmp_path, HEAD + "space.seed = [1, 2]")
    grid = space_of(
        tmp_path, HEAD + 'sampler = "grid"\nspace.seed = [1, 2]\nspace.prune.keep = {low = 0.4, high = 0.6, step = 0.1}'
    )
    points = [{"seed": seed, "prune.keep": keep} for seed in (1, 2) for keep in (0.4, 0.5, 0.6)]
    assert list(grid_points(grid)) == points and grid_size(grid) == 6 == sweep.total_trials(grid)
    assert sweep.total_trials(grid, 4) == 4 and sweep.total_trials(grid, 40) == 6
    with pytest.raises(ConfigError, match=r"--trials is 0; it must be a whole number in 1..100000"):
        sweep.total_trials(grid, 0)


def test_files_that_are_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no.toml' cannot be read as a sweep \(No such file or directory\)"):
        load_space(tmp_path / "no.toml")
    for content, message in (
        (b"a = ", "is not TOML"),
        (b"\xff", "is not TOML"),
        (b"#" * (1 << 20) + b"##", "is larger than 1048576"),
    ):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(FormatError, match=message):
            load_space(tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match=r"there is no experiment 'digit': .* did you mean 'digits'"):
        space_of(tmp_path, 'name = "a"\nbase = "digit"\ntrials = 1\nspace.seed = [1]')


@settings(max_examples=40)
@given(st.integers(-50, 50), st.integers(1, 400), st.integers(1, 30), st.integers(0, 3))
def test_the_values_of_a_range_are_the_decimals_and_what_the_sampler_draws(
    low: int, width: int, step: int, digits: int
) -> None:
    scale = 10**digits
    low, high, step = (number if digits else int(number) for number in (low, low + width, min(step, width)))
    axis = Range(low=low / scale, high=high / scale, step=step / scale) if digits else Range(low=low, high=high, step=step)
    listed = [axis.value(i) for i in range(axis.count() or 0)]
    assert listed == [value / scale if digits else value for value in range(low, high + 1, step)]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=width))
    trial = study.ask({"x": sweep._distribution(axis)})
    assert sweep._external(axis, trial.params["x"]) in listed


# --- one worker ----------------------------------------------------------------------------------------------------------


def test_a_sweep_and_what_it_leaves(tmp_path: Path) -> None:
    space, work = (
        space_of(tmp_path),
        Worked(t2=CapacityError("it needs 300 cores | of 128"), t4=ConfigError("the loss is nan")),
    )
    told: list[Event] = []
    found = sweep.sweep(space, tmp_path / "a" / "journal", tmp_path / "out", say=told.append, work=work)
    assert [trial.number for trial in found.trials] == list(range(6))
    assert [trial.state for trial in found.trials] == ["done", "done", "failed", "done", "failed", "done"]
    assert found.trials[2].note == "it needs 300 cores | of 128" and not any(trial.retries for trial in found.trials)
    for trial in found.trials:
        made = load_experiment(tmp_path / "out" / f"trial-{trial.number:04d}" / "config.toml")
        assert {"prune.keep": made.prune.keep, "network.1.channels": made.network[1].channels} == trial.values  # type: ignore[union-attr]
        assert trial.outcome == (None if trial.note else outcome_of(made))
    assert found.front == _front([trial for trial in found.trials if trial.outcome], found.objectives)
    made = json.loads((tmp_path / "out" / "sweep.json").read_text(encoding="utf-8"))
    assert made == found.to_dict() and made["split"] == "validation" and made["trials"][0]["n"] == 1000
    lines = (tmp_path / "out" / "sweep.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(
        "trial,state,front,accuracy,n,low,high,size_mb,cores,synaptic_ops,fits,seconds,retries,note,prune.k"
    )
    assert len(lines) == 7 and lines[3].startswith("2,failed,False,,,")
    text = (tmp_path / "out" / "sweep.md").read_text(encoding="utf-8")
    assert "4 of 6 trials of `digits` done" in text and "| failed: it needs 300 cores \\| of 128 |" in text
    assert all(f"| **{n}** |" in text for n in found.front) and "the test set was not read" in text.replace("\n", " ")
    assert (tmp_path / "out" / "pareto.png").stat().st_size > 10_000
    assert any(event.text == "trial 4: failed: the loss is nan" for event in told)
    again = Worked()
    assert sweep.sweep(space, tmp_path / "a" / "journal", tmp_path / "out", say=SILENT, work=again) == found and not again.done
    more = sweep.sweep(space, tmp_path / "a" / "journal", tmp_path / "out", trials=8, say=SILENT, work=again)
    assert more.trials[:6] == found.trials and [name for name, *_ in again.done] == ["widths-0006", "widths-0007"]


def _front(trials: list[Trial], objectives: tuple[str, ...]) -> tuple[int, ...]:
    """Optuna's own Pareto front."""
    directions = ["maximize" if name == "accuracy" else "minimize" for name in objectives]
    study = optuna.create_study(directions=directions)  # type: ignore[arg-type]
    for trial in trials:
        assert trial.outcome is not None
        values = [trial.outcome.objective(name) for name in objectives]
        study.add_trial(optuna.trial.create_trial(values=values, user_attrs={"n": trial.number}))
    return tuple(sorted(trial.user_attrs["n"] for trial in study.best_trials))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=9))
def test_the_front_is_optunas(points: list[tuple[int, int]]) -> None:
    trials = [
        Trial(i, "done", {}, Outcome(Accuracy.of(hits, 3), 1.0, cores, 1.0, True, 1.0), 0, "")
        for i, (hits, cores) in enumerate(points)
    ]
    costs = [(-hits, cores) for hits, cores in points]
    ours = tuple(i for i, cost in enumerate(costs) if not any(sweep.beats(other, cost) for other in costs))
    assert ours == _front(trials, ("accuracy", "cores"))
    line = plots._front(np.array([c for _, c in costs], float), np.array([a for a, _ in costs], float))
    assert {costs[i] for i in line} == {costs[i] for i in ours}


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
def test_an_interrupted_sweep_gives_the_same_values(tmp_path: Path, sampler: str) -> None:
    text = SPACE.replace('"random"', f'"{sampler}"').replace("high = 0.8", "high = 0.8, step = 0.05").replace("= 6", "= 5")
    space = space_of(tmp_path, text)
    whole = sweep.sweep(space, tmp_path / "one", tmp_path / "whole", say=SILENT, work=Worked())
    assert len({json.dumps(dict(trial.values)) for trial in whole.trials}) > 1
    if sampler == "grid":
        assert [dict(trial.values) for trial in whole.trials] == list(itertools.islice(grid_points(space), 5))
    work = Worked(t1=KeyboardInterrupt(), t3=RunError("the disk is full"))
    for kind in (KeyboardInterrupt, RunError):
        with pytest.raises(kind):
            sweep.sweep(space, tmp_path / "two", tmp_path / "parts", say=SILENT, work=work)
    parts = sweep.sweep(space, tmp_path / "two", tmp_path / "parts", say=SILENT, work=work)
    assert [trial.values for trial in parts.trials] == [trial.values for trial in whole.trials]
    assert [trial.retries for trial in parts.trials] == [0, 1, 0, 1, 0]
    assert [name for name, *_ in work.done] == [f"widths-{n:04d}" for n in range(5)]


def test_a_trial_that_ends_its_worker_each_time_fails_in_the_end(tmp_path: Path) -> None:
    space = space_of(tmp_path)
    for _ in range(sweep.MAX_LOSSES):
        with pytest.raises(ZeroDivisionError):
            sweep.sweep(space, tmp_path / "j", tmp_path / "out", trials=2, say=SILENT, work=Worked(t0=ZeroDivisionError()))
    found = sweep.sweep(space, tmp_path / "j", tmp_path / "out", trials=2, say=SILENT, work=Worked())
    assert [(trial.state, trial.note) for trial in found.trials] == [("failed", "its worker was lost 5 times"), ("done", "")]


def test_another_experiment_in_the_trials_folder_stops_the_worker(tmp_path: Path) -> None:
    pipeline.open_folder(load_experiment("digits"), tmp_path / "out" / "trial-0000")
    with pytest.raises(ConfigError, match="trial-0000 holds another experiment"):
        sweep.sweep(space_of(tmp_path), tmp_path / "j", tmp_path / "out", say=SILENT, work=Worked())


# --- the journal ---------------------------------------------------------------------------------------------------------


def test_a_journal_holds_one_space_for_a_name(tmp_path: Path) -> None:
    sweep.sweep(space_of(tmp_path), tmp_path / "j", tmp_path / "out", trials=1, say=SILENT, work=Worked())
    for change, named in (
        (("high = 0.8", "high = 0.9"), "space"),
        (("epochs = 2", "epochs = 3"), "experiment"),
        ((', "cores"', ""), "objectives"),
        (("random", "tpe"), "sampler"),
    ):
        with pytest.raises(ConfigError, match=rf"j holds a sweep 'widths' with another {named}; give this one another name"):
            sweep.sweep(space_of(tmp_path, SPACE.replace(*change)), tmp_path / "j", tmp_path / "o", say=SILENT, work=Worked())
    other = space_of(tmp_path, SPACE.replace('"widths"', '"other"').replace("high = 0.8", "high = 0.9"))
    assert len(sweep.sweep(other, tmp_path / "j", tmp_path / "o", trials=2, say=SILENT, work=Worked()).trials) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'name = "digits"\n', r"file is not the journal of a sweep; choose another --storage"),
        (b'{"a": 1}\n', r"file is not the journal of a sweep; choose another --storage"),
        (b'{"op_code": 0}\n', r"file is not the journal of a sweep \('worker_id'|file is not the journal of a sweep \("),
        (b'{"op_code": 0, "study', r"the last line of .*file is not whole|file is not the journal"),
        (b'{"op_code": 10}\n{"op_code"', r"the last line of .*file is not whole, as after a crash of a machine; remove that"),
        (b'{"op_code": 10}\nno\n{"op_code": 10}\n', r"file is not the journal of a sweep \("),
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        sweep.sweep(space_of(tmp_path), path, tmp_path / "out", say=SILENT, work=Worked())
    assert path.read_bytes() == content


def test_a_journal_that_is_too_large_or_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = space_of(tmp_path)
    with pytest.raises(
        RunError, match=r"space.toml/j cannot be used as the journal of a sweep: (Not a directory|File exists)"
    ):
        sweep.sweep(space, tmp_path / "space.toml" / "j", tmp_path / "out", say=SILENT, work=Worked())
    monkeypatch.setattr(sweep, "MAX_JOURNAL_BYTES", 3)
    (tmp_path / "j").write_bytes(b"1234")
    with pytest.raises(FormatError, match=r"j has 4 bytes; a journal has at most 3\. Choose another --storage"):
        sweep.sweep(space, tmp_path / "j", tmp_path / "out", say=SILENT, work=Worked())


def test_an_outcome_that_is_none() -> None:
    whole = asdict(Outcome(Accuracy.of(1, 2), 0.5, 3, 4.0, True, 5.0))
    assert asdict(Outcome.from_dict(json.loads(json.dumps(whole)), "it")) == whole
    for wrong in (
        None,
        {},
        {**whole, "cores": "x"},
        {**whole, "size_mb": float("nan")},
        {**whole, "accuracy": {"value": 2, "n": 1}},
    ):
        with pytest.raises(FormatError, match="it does not hold the outcome of a trial; remove it and run again"):
            Outcome.from_dict(wrong, "it")


# --- many workers --------------------------------------------------------------------------------------------------------


def _elsewhere() -> sweep._Worker:
    """A worker on another machine."""
    return sweep._Worker("elsewhere", "another machine", 1, 1)


def test_a_silent_worker_loses_its_trial_to_one_other(tmp_path: Path) -> None:
    space = space_of(tmp_path, SPACE.replace("patience = 60", "patience = 1"))
    theirs = sweep._open(space, tmp_path / "j")
    claimed = sweep._claim(theirs, space, 3, _elsewhere())
    assert claimed is not None
    drawn = sweep._draw(claimed[0], theirs, space, 0)
    assert not next(iter(sweep._attempts(theirs).values())).worker.gone(sweep._this_worker())  # type: ignore[union-attr]
    work, start = Worked(), time.monotonic()
    found = sweep.sweep(space, tmp_path / "j", tmp_path / "out", trials=3, say=SILENT, work=work)
    assert time.monotonic() - start > 1
    assert [name for name, *_ in work.done] == ["widths-0001", "widths-0002", "widths-0000"]  # what waits goes first
    assert found.trials[0].values == drawn and [trial.retries for trial in found.trials] == [1, 0, 0]
    told: list[Event] = []
    late = Worked()
    sweep._attempt(claimed, theirs, space, tmp_path / "late", told.append, late)  # it was only held up, and comes back
    assert told[-1].text == "trial 0: another worker has taken it over, since this one was silent for too long"
    assert sweep.results(theirs, space) == found


def test_a_worker_that_was_held_up_stops_at_its_next_step(tmp_path: Path) -> None:
    space = space_of(tmp_path, SPACE.replace("patience = 60", "patience = 1"))
    ours, theirs = sweep._open(space, tmp_path / "j"), sweep._open(space, tmp_path / "j")
    claimed = sweep._claim(ours, space, 1, _elsewhere())
    assert claimed is not None
    steps = 0

    def work(experiment: Experiment, files: RunFolder, say: Say) -> Outcome:
        nonlocal steps
        sweep._finish(theirs, claimed[0].number, optuna.trial.TrialState.FAIL)
        while steps < 2000:
            steps += 1
            time.sleep(0.01)
            say(Event("float", "a step"))
        pytest.fail("was never stopped")

    told: list[Event] = []
    sweep._attempt(claimed, ours, space, tmp_path / "out", told.append, work)
    assert "another worker has taken it over" in told[-1].text and 0 < steps < 2000
    assert next(iter(sweep._attempts(ours).values())).of.state == optuna.trial.TrialState.FAIL


def test_what_two_workers_write_at_once_counts_once(tmp_path: Path) -> None:
    """Both begin the same trial, and both queue a lost one again: the first line counts."""
    space = space_of(tmp_path)
    one, two = sweep._open(space, tmp_path / "j"), sweep._open(space, tmp_path / "j")
    for study in (one, two):
        sweep._queue(study, {"trial": 0, "attempt": 0, "losses": 0}, {}, {})
    claimed = sweep._claim(one, space, 4, _elsewhere())
    assert claimed is not None and claimed[1].trial == 0
    sweep._draw(claimed[0], one, space, 0)
    assert sweep._finish(one, claimed[0].number, optuna.trial.TrialState.FAIL)
    assert not sweep._finish(two, claimed[0].number, optuna.trial.TrialState.FAIL)
    for study in (one, two):
        lost = sweep._attempts(study)[0].of
        sweep._queue(study, {"trial": 0, "attempt": 1, "losses": 1}, lost.params, lost.distributions)
    work = Worked()
    found = sweep.sweep(space, tmp_path / "j", tmp_path / "out", trials=4, say=SILENT, work=work)
    assert sorted(name for name, *_ in work.done) == [f"widths-{n:04d}" for n in range(4)]
    assert [(trial.state, trial.retries) for trial in found.trials] == [("done", 1), *[("done", 0)] * 3]
    states = [trial.state.name for trial in one.get_trials()]
    assert states.count("COMPLETE") == 4 and states.count("FAIL") == 3 and len(states) == 7


def test_whether_a_process_has_ended() -> None:
    here = sweep._this_worker()
    assert here.machine and not here.gone(here)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        theirs = replace(here, pid=child.pid, started=sweep._started(child.pid) or 0)
        assert theirs.started and not theirs.gone(here)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet waited for
        assert theirs.gone(here)
    assert theirs.gone(here) and not theirs.gone(replace(here, machine=""))
    assert replace(here, started=here.started - 1).gone(here)  # another process has its number now


WORKER = """
import sys, time
from pathlib import Path
from qpsnn_lava import sweep
from qpsnn_lava.space import load_space
from qpsnn_lava.statistics import Accuracy

folder = Path(sys.argv[1])
begun = []

def work(experiment, files, say):
    begun.append(experiment.name)
    with open(folder / "log", "a") as log:
        log.write(f"begin {experiment.name} {experiment.prune.keep} {sys.argv[2]}\\n")
    for _ in range(5000 if sys.argv[2] == "killed" and len(begun) == 2 else 10):
        time.sleep(0.02)
        say(sweep.Event("float", "a step"))
    with open(folder / "log", "a") as log:
        log.write(f"end {experiment.name} {experiment.prune.keep} {sys.argv[2]}\\n")
    return sweep.Outcome(Accuracy.of(1, 2), 0.5, 3, 4.0, True, 5.0)

(folder / sys.argv[2]).touch()
while not (folder / "go").exists():
    time.sleep(0.01)
sweep.sweep(load_space(folder / "space.toml"), folder / "journal", folder / "out", say=lambda event: None, work=work)
"""


def test_two_workers_one_killed(tmp_path: Path) -> None:
    """No trial is lost, none is done twice, and the other worker takes over what the killed one had begun."""
    space = space_of(tmp_path, SPACE.replace("trials = 6", "trials = 9"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), name], env=environment, stderr=subprocess.PIPE)

    def begun() -> list[str]:
        """The trials that the worker to be killed has begun."""
        lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines() if (tmp_path / "log").exists() else []
        return [line.split()[1] for line in lines if line.startswith("begin") and line.endswith("killed")]

    with start("killed") as killed, start("other") as other:
        while not ((tmp_path / "killed").exists() and (tmp_path / "other").exists()):
            assert killed.poll() is None and other.poll() is None
            time.sleep(0.01)
        (tmp_path / "go").touch()
        while len(begun()) < 2:  # its second one lasts until it is killed
            assert killed.poll() is None and other.poll() is None
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        _, errors = other.communicate(timeout=60)
    assert other.returncode == 0, errors.decode()
    assert killed.returncode == -signal.SIGKILL
    log = [line.split() for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    ended = [(name, keep) for what, name, keep, _ in log if what == "end"]
    names = [f"widths-{n:04d}" for n in range(9)]
    assert sorted(name for name, _ in ended) == names  # none lost, none twice
    twice = [name for name in names if sum(line[:2] == ["begin", name] for line in log) > 1]
    assert twice == begun()[1:]  # what the killed one had begun, and it was the other that did it, with the same values
    first, second = (line for line in log if line[:2] == ["begin", twice[0]])
    assert (first[3], second[3]) == ("killed", "other") and first[2] == second[2]
    found = json.loads((tmp_path / "out" / "sweep.json").read_text(encoding="utf-8"))
    assert [(row["trial"], row["state"]) for row in found["trials"]] == [(n, "done") for n in range(9)]
    assert [row["retries"] for row in found["trials"]] == [int(name in twice) for name in names]
    alone = sweep.sweep(space, tmp_path / "alone", tmp_path / "alone-out", say=SILENT, work=Worked())
    assert [row["values"] for row in found["trials"]] == [dict(trial.values) for trial in alone.trials]


# --- the work of a trial -------------------------------------------------------------------------------------------------


class _UnreadError(Exception):
    """Somebody read the test set."""


class _Untouched:
    def __getattr__(self, name: str) -> Any:
        raise _UnreadError(name)


TINY = (
    SPACE.replace("patience = 60", "patience = 60\nseed = 1")
    .replace("trials = 6", "trials = 2")
    .replace(
        "train.epochs = 2\n",
        "train.epochs = 1\ntrain.quantised_epochs = 1\ntrain.finetune_epochs = 1\ntrain.threads = 1\ndata.steps = 2\n"
        "prune.samples = 64\nnetwork.0.channels = 4\nnetwork.2.channels = 6\n",
    )
    .replace("[16, 24]", "[4, 6]")
)
"""Two trials of the digits that are trained in a second."""


@pytest.fixture
def without_test_set(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    whole = load("digits")

    def some(part: Split, n: int) -> Split:
        return Split(part.images[:n], part.labels[:n], part.indices[:n])

    few = replace(whole, train=some(whole.train, 256), validation=some(whole.validation, 60))
    object.__setattr__(few, "test", _Untouched())
    monkeypatch.setattr(inputs, "load", lambda *_, **__: few)
    return few


def test_the_work_of_a_trial(tmp_path: Path, without_test_set: Dataset) -> None:
    """Killed after the first epochs, gone on with, and judged by what the plain simulator says of the validation set."""
    space, out = space_of(tmp_path, TINY), tmp_path / "out"
    with pytest.raises(_UnreadError):
        _ = without_test_set.test.images

    def die(event: Event) -> None:
        if event.stage == "quantised":
            raise SystemExit

    with pytest.raises(SystemExit):
        sweep.sweep(space, tmp_path / "j", out, say=die)
    assert (out / "trial-0000/checkpoints/float.safetensors").exists() and not (out / "trial-0000/model.safetensors").exists()
    found = sweep.sweep(space, tmp_path / "j", out, say=SILENT)
    assert [(trial.state, trial.retries) for trial in found.trials] == [("done", 1), ("done", 0)]
    log = [json.loads(line) for line in (out / "trial-0000/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["stage"] for entry in log] == ["float", "quantised", "fine-tune"]  # the float epoch was not trained again
    for trial in found.trials:
        files, experiment = (
            RunFolder(out / f"trial-{trial.number:04d}"),
            sweep.experiment_of(space, trial.values, trial.number),
        )
        assert trial.outcome is not None and load_experiment(files.config) == experiment
        training = checkpoint.load_json(files.training)
        assert asdict(trial.outcome.accuracy) == asdict(Accuracy.of(**_counts(training["fine-tune"]["validation"])))
        network, part = hdf5.read(files.network), without_test_set.validation
        spikes = encode(
            part.images,
            pipeline.coding_of(experiment),
            max_value=without_test_set.max_value,
            seed=experiment.seed,
            indices=part.indices,
        )
        run = simulate(network, spikes)
        assert trial.outcome.accuracy == Accuracy.of(int((decide(network, run)[0] == part.labels).sum()), len(part.labels))
        assert trial.outcome.synaptic_ops == sum(synaptic_operations(network, run).values()) / len(part.labels)
        assert trial.outcome.cores == len(network.projections) and trial.outcome.fits  # small layers: one core each
        assert not files.checks.exists() and not files.report.exists()
    kept = out / "trial-0001" / "trial.json"
    assert Outcome.from_dict(checkpoint.load_json(kept), "") == found.trials[1].outcome


def _counts(accuracy: dict[str, Any]) -> dict[str, int]:
    return {"correct": round(accuracy["value"] * accuracy["n"]), "n": accuracy["n"]}


# --- the command line and the picture ------------------------------------------------------------------------------------


def _qpsnn(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["qpsnn", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    space_of(tmp_path)
    real = sweep.sweep
    monkeypatch.setattr(
        sweep, "sweep", lambda *args, **kept: real(*args, **kept, work=Worked(t1=CapacityError("too [large]")))
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    assert _qpsnn(monkeypatch, "sweep", "space.toml", "--storage", "j", "--trials", "3") == 0
    out, err = capsys.readouterr()
    assert "prune.keep" in out and "trial 1: too [large]" in out and "1,000 samples of the validation set" in out
    assert "Results: runs/widths/sweep.md" in err and "trial 0: prune.keep=" in err
    assert _qpsnn(monkeypatch, "sweep", "space.toml", "--storage", "j", "--trials", "3", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((tmp_path / "runs/widths/sweep.json").read_text(encoding="utf-8")) and not err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert _qpsnn(monkeypatch, "sweep", "space.toml", "--storage", "j") == 1
    assert "sweep is for one process; start it several times instead" in capsys.readouterr().err


def test_without_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    space_of(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "qpsnn_lava.sweep")
    monkeypatch.delattr("qpsnn_lava.sweep")
    assert _qpsnn(monkeypatch, "sweep", tmp_path / "space.toml", "--storage", tmp_path / "j") == 1
    said = capsys.readouterr().err
    assert said == (
        "error: optuna is not installed, and a sweep needs Optuna: pip install 'qpsnn-lava[sweep]' (or pip install optuna).\n"
    )
    with pytest.raises(MissingError, match="a sweep needs Optuna"):
        import qpsnn_lava.sweep  # noqa: F401


def test_the_picture() -> None:
    trials = [
        Trial(i, "done", {}, Outcome(Accuracy.of(50 + i, 100), 1.0 + i % 3, 3 + i % 4, 1e5 * (i + 1), True, 1.0), 0, "")
        for i in range(8)
    ]
    trials.append(Trial(8, "failed", {}, None, 0, "no"))
    made = Sweep("a", "digits", "tpe", 0, ("accuracy",), tuple(trials), (7,)).to_dict()
    figure = plots.sweep_figure(made)
    assert figure is not None and [axes.get_xlabel() for axes in figure.axes] == list(plots.SWEEP_COSTS.values())
    mb = figure.axes[0].lines[0].get_xydata()
    assert np.asarray(mb).round(9).tolist() == [[1.0, 56.0], [2.0, 57.0]]
    assert plots.sweep_figure({**made, "trials": made["trials"][8:]}) is None
