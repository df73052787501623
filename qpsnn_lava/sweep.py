"""A sweep: trials of one experiment with other values, run by any number of workers that share one journal file.

A trial trains, prunes, freezes and maps, and is judged on the validation set; the test set is not read.  The journal (Optuna's) is
a list of lines to which workers append; its order is the same for all, and everything here is decided by it:

- Trial n is done in attempts, each a trial of Optuna's study that names (n, attempt).  Of two with the same pair the first line
  counts, and the other is dropped unrun: it is written when two workers notice the same thing at the same time.
- A waiting attempt goes to one worker: Optuna lets only the first that asks have it.
- A running attempt whose worker is gone (its process is, on this machine; or its beat has stood still for ``patience``
  seconds of the watcher's own clock) is failed, and the next one queued with the same values.  A worker that was only held up
  notices at its next step that the attempt is no longer its own, and drops it.
- A trial that fails by its values (they contradict each other, do not fit the chip, ...) is a result, and is not repeated.

Where workers share the run folders, too, the next attempt goes on from the last snapshot of the one before.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from netx_export import hdf5
from netx_export.atomic import write_text
from netx_export.errors import (
    CapacityError,
    ConfigError,
    FormatError,
    FreezeError,
    MissingError,
    NetworkError,
    QpsnnError,
    RunError,
)
from qpsnn_lava import checkpoint, pipeline, plots, report
from qpsnn_lava.config import Experiment, toml_value
from qpsnn_lava.pipeline import Event, RunFolder, Say
from qpsnn_lava.sizes import deployed_mb
from qpsnn_lava.space import (
    OBJECTIVES,
    Axis,
    Range,
    Space,
    Value,
    experiment_of,
    fingerprint,
    grid_points,
    total_trials,
)
from qpsnn_lava.statistics import Accuracy

try:
    import optuna
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState
except ModuleNotFoundError as error:
    raise MissingError(
        f"{error.name} is not installed, and a sweep needs Optuna: pip install 'qpsnn-lava[sweep]' (or pip install optuna)."
    ) from None

SCHEMA = 1
MAX_JOURNAL_BYTES = 1 << 30
MAX_LOSSES = 5  # so often a trial's worker may be lost; then the trial counts as failed
LONGEST_BEAT = 15.0  # seconds between two signs of life
BY_VALUES = (ConfigError, CapacityError, FreezeError, NetworkError)  # faults of a trial's values, not of the machine
DONE, FAILED, RUNNING, WAITING = "done", "failed", "running", "waiting"


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    Args:
        accuracy: of the integer network, on the validation set.
        size_mb: deployed, :func:`qpsnn_lava.sizes.deployed_mb`.
        cores: of the chip of [map].
        synaptic_ops: per sample of the validation set.
        fits: whether these cores fit the chip.
        seconds: of all attempts, training and evaluation.
    """

    accuracy: Accuracy
    size_mb: float
    cores: int
    synaptic_ops: float
    fits: bool
    seconds: float

    def objective(self, name: str) -> float:
        """One of the objectives of :data:`qpsnn_lava.space.OBJECTIVES`, as a number."""
        return self.accuracy.value if name == "accuracy" else float(getattr(self, name))

    @classmethod
    def from_dict(cls, data: object, where: str) -> Outcome:
        """From :func:`dataclasses.asdict`.

        Raises:
            FormatError: where something is missing or of another type.
        """
        try:
            assert isinstance(data, dict)
            accuracy = Accuracy.of(round(data["accuracy"]["value"] * data["accuracy"]["n"]), data["accuracy"]["n"])
            numbers = [float(data[name]) for name in ("size_mb", "synaptic_ops", "seconds")]
            assert all(np.isfinite(numbers))
            return cls(accuracy, numbers[0], int(data["cores"]), numbers[1], bool(data["fits"]), numbers[2])
        except (AssertionError, KeyError, TypeError, ValueError, OverflowError, ConfigError):
            raise FormatError(f"{where} does not hold the outcome of a trial; remove it and run again.") from None


@dataclass(frozen=True)
class Trial:
    """A trial of a sweep.

    Args:
        number: from 0; names its folder, ``trial-0007``.
        state: "done", "failed", "running" or "waiting".
        values: by key; those that are drawn already.
        outcome: of a trial that is done.
        retries: attempts beyond the first.
        note: why it failed; "" otherwise.
    """

    number: int
    state: str
    values: Mapping[str, Value]
    outcome: Outcome | None
    retries: int
    note: str


@dataclass(frozen=True)
class Sweep:
    """All trials of a sweep, and which of them no other beats.

    Args:
        name, base, sampler, seed, objectives: as in the file.
        trials: in order.
        front: numbers of the trials that are done and that no other equals or beats in all objectives and beats in one.
    """

    name: str
    base: str
    sampler: str
    seed: int
    objectives: tuple[str, ...]
    trials: tuple[Trial, ...]
    front: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as sweep.json holds it."""
        rows = [
            {
                "trial": trial.number,
                "state": trial.state,
                "front": trial.number in self.front,
                "values": dict(trial.values),
                **(_flat_outcome(trial.outcome)),
                "retries": trial.retries,
                "note": trial.note,
            }
            for trial in self.trials
        ]
        head = {"name": self.name, "base": self.base, "sampler": self.sampler, "seed": self.seed}
        return {"schema": SCHEMA, **head, "objectives": list(self.objectives), "split": "validation", "trials": rows}


Work: TypeAlias = Callable[[Experiment, RunFolder, Say], Outcome]


def run_trial(experiment: Experiment, files: RunFolder, say: Say) -> Outcome:
    """Trains, prunes, fine-tunes, freezes, runs the integers on the validation set, maps; keeps trial.json.

    What the run folder holds is not done again.  The test set is not read: accuracy and operations are those of the validation set.

    Raises:
        FreezeError, CapacityError: for a network that has no exact integers or no place on the chip.
    """
    kept = files.path / "trial.json"
    if kept.exists():
        return Outcome.from_dict(checkpoint.load_json(kept), str(kept))
    training = pipeline.fit(experiment, files, say)
    pipeline.export(experiment, files, say)
    start = time.perf_counter()
    pipeline.set_threads(experiment)
    dataset, network = pipeline.data_of(experiment), hdf5.read(files.network)
    part = dataset.validation

    def progress(done: int) -> None:
        say(Event("simulate", "validation set, exact simulation", done, len(part)))

    seen = pipeline.simulated(experiment, network, dataset, part, progress)
    used = pipeline.utilisation(experiment, network)
    outcome = Outcome(
        accuracy=seen.accuracy,
        size_mb=deployed_mb(network),
        cores=used.cores,
        synaptic_ops=seen.synaptic_ops,
        fits=used.fits,
        seconds=sum(training[name]["seconds"] for name in ("float", "quantised", "prune", "fine-tune"))
        + time.perf_counter()
        - start,
    )
    checkpoint.save_json(kept, asdict(outcome))
    return outcome


def sweep(space: Space, storage: Path, folder: Path, *, trials: int | None = None, say: Say, work: Work = run_trial) -> Sweep:
    """Works on a sweep until all of its trials are done or failed, by this worker or by others; keeps the results in ``folder``.

    Args:
        space: what to do; equal for all workers.
        storage: the journal; made where it is missing.
        folder: of the run folders and the results.
        trials: how many, instead of the file's; more than before goes on with a sweep that was finished.
        say: told what happens.
        work: what a trial does; another one in tests.

    Raises:
        ConfigError: when the journal holds another sweep of that name, or a run folder another experiment.
        FormatError: when the journal is none.
        RunError: when journal or folder cannot be written.
    """
    total = total_trials(space, trials)
    study = _open(space, storage)
    worker, seen = _this_worker(), _Watch()
    while True:
        current = _mend(study, space.patience, worker, seen)
        claimed = _claim(study, space, total, worker)
        if claimed is not None:
            _attempt(claimed, study, space, folder, say, work)
            write_tables(results(study, space), folder)
        elif len(current) >= total and all(attempt.final for attempt in current.values()):
            break
        else:
            time.sleep(min(1.0, space.patience / 8))
    found = results(study, space)
    write_tables(found, folder)
    plots.save_sweep(found.to_dict(), folder)
    return found


# --- attempts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Worker:
    """A process: where it runs, and since when (a number of the kernel's, so that a process with the same pid is another).

    ``machine`` is equal for two processes only where one can look the other up by its pid.
    """

    host: str
    machine: str
    pid: int
    started: int

    def gone(self, here: _Worker) -> bool:
        """Whether it has ended; False where that cannot be seen from ``here``."""
        return bool(here.machine) and self.machine == here.machine and _started(self.pid) != self.started


def _this_worker() -> _Worker:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        machine = f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        machine = ""
    return _Worker(platform.node(), machine, os.getpid(), _started(os.getpid()) or 0)


def _started(pid: int) -> int | None:
    """When a process started, in ticks of the kernel (/proc/PID/stat, field 22); None where it has ended (also as a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


@dataclass(frozen=True)
class _Attempt:
    """A trial of Optuna's study as one of ours: attempt ``attempt`` at trial ``trial``, ``losses`` of those before were lost."""

    trial: int
    attempt: int
    losses: int
    of: optuna.trial.FrozenTrial

    @property
    def error(self) -> str | None:
        """Why the trial is a failure, and not only the attempt."""
        if self.of.state == TrialState.FAIL:
            if isinstance(self.of.user_attrs.get("error"), str):
                return str(self.of.user_attrs["error"])
            if self.losses_after >= MAX_LOSSES:
                return f"its worker was lost {self.losses_after} times"
        return None

    @property
    def losses_after(self) -> int:
        """``losses`` of the next attempt."""
        return self.losses + (not self.of.user_attrs.get("stopped"))

    @property
    def final(self) -> bool:
        """Whether the trial is done or failed."""
        return self.of.state == TrialState.COMPLETE or self.error is not None

    @property
    def worker(self) -> _Worker | None:
        """Whose it is, where that is written."""
        try:
            found = _Worker(**self.of.user_attrs["worker"])
        except (KeyError, TypeError):
            return None
        return found if isinstance(found.pid, int) and isinstance(found.host, str) else None


def _attempts(study: optuna.Study) -> dict[int, _Attempt]:
    """The last attempt at each trial; of several with the same numbers the first."""
    found: dict[int, _Attempt] = {}
    for of in study.get_trials(deepcopy=False):
        numbers = [of.user_attrs.get(name) for name in ("trial", "attempt", "losses")]
        trial, attempt, losses = (number if isinstance(number, int) else -1 for number in numbers)
        if min(trial, attempt, losses) >= 0:
            one = _Attempt(trial, attempt, losses, of)
            if one.trial not in found or one.attempt > found[one.trial].attempt:
                found[one.trial] = one
    return dict(sorted(found.items()))


class _Watch:
    """When the beat of a running attempt was last seen to change, by this worker's own clock: clocks of machines differ."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[str, float]] = {}

    def silent(self, attempt: _Attempt) -> float:
        """Seconds since then; 0 the first time."""
        beat, now = str(attempt.of.user_attrs.get("beat")), time.monotonic()
        known, since = self._seen.get(attempt.of.number, (None, now))
        if known != beat:
            self._seen[attempt.of.number] = beat, now
            return 0.0
        return now - since


def _mend(study: optuna.Study, patience: float, worker: _Worker, seen: _Watch) -> dict[int, _Attempt]:
    """Fails the attempts whose worker is gone, queues the next ones; returns all as they are then."""
    for attempt in _attempts(study).values():
        if attempt.of.state == TrialState.RUNNING:
            theirs = attempt.worker
            if seen.silent(attempt) > patience or (theirs is not None and theirs.gone(worker)):
                _finish(study, attempt.of.number, TrialState.FAIL)
    for attempt in _attempts(study).values():
        if attempt.of.state == TrialState.FAIL and attempt.error is None:
            numbers = {"trial": attempt.trial, "attempt": attempt.attempt + 1, "losses": attempt.losses_after}
            _queue(study, numbers, attempt.of.params, attempt.of.distributions)
    return _attempts(study)


def _queue(
    study: optuna.Study,
    numbers: Mapping[str, int],
    params: dict[str, Any],
    distributions: Mapping[str, optuna.distributions.BaseDistribution],
) -> None:
    waiting = optuna.trial.create_trial(
        state=TrialState.WAITING, params=params, distributions=dict(distributions), user_attrs=dict(numbers)
    )
    study.add_trial(waiting)


def _finish(study: optuna.Study, number: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
    """Ends an attempt; False where another worker has ended it already."""
    try:
        study.tell(number, values, state)
    except UpdateFinishedTrialError:
        return False
    except ValueError:  # what tell makes of a trial that is finished
        if study.get_trials(deepcopy=False)[number].state.is_finished():
            return False
        raise
    return True


def _claim(study: optuna.Study, space: Space, total: int, worker: _Worker) -> tuple[optuna.Trial, _Attempt] | None:
    """An attempt that is ours alone, with our name on it; None where there is nothing to begin."""
    while True:
        if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            begun = len(_attempts(study))
            if begun >= total:
                return None
            point = next(islice(grid_points(space), begun, None)) if space.sampler == "grid" else {}
            params = {key: _internal(space.space[key], value) for key, value in point.items()}
            distributions = {key: _distribution(space.space[key]) for key in params}
            _queue(study, {"trial": begun, "attempt": 0, "losses": 0}, params, distributions)
        asked = study.ask()  # the first that waits, or, where another worker was faster, a new one, which belongs to no trial
        mine = next((one for one in _attempts(study).values() if one.of.number == asked.number), None)
        if mine is None:
            _finish(study, asked.number, TrialState.FAIL)
            continue
        try:
            asked.set_user_attr("worker", asdict(worker))
        except UpdateFinishedTrialError:
            continue
        return asked, mine


class _TakenOverError(Exception):
    """The attempt is no longer this worker's."""


def _attempt(
    claimed: tuple[optuna.Trial, _Attempt], study: optuna.Study, space: Space, folder: Path, say: Say, work: Work
) -> None:
    """Works on an attempt and writes down what came of it."""
    asked, attempt = claimed
    number = attempt.trial

    def tell(text: str) -> None:
        say(Event("sweep", f"trial {number}: {text}", final=True))

    def fail(error: QpsnnError) -> None:
        asked.set_user_attr("error", str(error))
        if _finish(study, asked.number, TrialState.FAIL):
            tell(f"failed: {error}")

    try:
        with _beating(asked, min(LONGEST_BEAT, space.patience / 8)) as still_mine:

            def said(event: Event) -> None:
                if not still_mine():
                    raise _TakenOverError
                say(replace(event, text=f"trial {number}: {event.text}"))

            values = _draw(asked, study, space, number)
            tell(", ".join(f"{key}={toml_value(value)}" for key, value in values.items()))
            try:
                experiment = experiment_of(space, values, number)
            except ConfigError as error:
                fail(error)
                return
            files = pipeline.open_folder(experiment, folder / f"trial-{number:04d}")
            try:
                outcome = work(experiment, files, said)
            except BY_VALUES as error:
                fail(error)
                return
        asked.set_user_attr("outcome", asdict(outcome))
        if not _finish(study, asked.number, TrialState.COMPLETE, [outcome.objective(name) for name in space.objectives]):
            raise _TakenOverError
        tell(f"{outcome.accuracy}, {outcome.size_mb:.3g} MB, {outcome.cores} cores, {outcome.synaptic_ops:,.0f} synaptic ops")
    except (_TakenOverError, UpdateFinishedTrialError):
        tell("another worker has taken it over, since this one was silent for too long")
    except BaseException as error:  # this worker stops, and the trial goes back
        if isinstance(error, QpsnnError | KeyboardInterrupt):
            asked.set_user_attr("stopped", True)
        _finish(study, asked.number, TrialState.FAIL)
        _mend(study, space.patience, _this_worker(), _Watch())
        raise


@contextmanager
def _beating(asked: optuna.Trial, interval: float) -> Iterator[Callable[[], bool]]:
    """Signs of life in the journal, one every ``interval`` seconds; yields whether the attempt is still ours."""
    stop, lost = threading.Event(), threading.Event()

    def beat() -> None:
        while not stop.wait(interval):
            try:
                asked.set_user_attr("beat", datetime.now(timezone.utc).isoformat(timespec="seconds"))
            except UpdateFinishedTrialError:
                lost.set()
                return
            except OSError:  # of the file system: others will see no beat if it lasts
                continue

    thread = threading.Thread(target=beat, name="sweep beat", daemon=True)
    thread.start()
    try:
        yield lambda: not lost.is_set()
    finally:
        stop.set()
        thread.join()


# --- values --------------------------------------------------------------------------------------------------------------


def _draw(asked: optuna.Trial, study: optuna.Study, space: Space, number: int) -> dict[str, Value]:
    """The values of a trial: those that are fixed already (grid, an attempt before), else the sampler's.

    Each key of each trial has a seed of its own, so that random values depend neither on the number of workers nor on who draws.
    """
    values: dict[str, Value] = {}
    for i, (key, axis) in enumerate(space.space.items()):
        seed = int(np.random.SeedSequence([space.seed, number, i]).generate_state(1)[0])
        study.sampler = (
            optuna.samplers.TPESampler(seed=seed) if space.sampler == "tpe" else optuna.samplers.RandomSampler(seed=seed)
        )
        drawn = _distribution(axis)
        if isinstance(drawn, optuna.distributions.CategoricalDistribution):
            raw: Any = asked.suggest_categorical(key, drawn.choices)
        elif isinstance(drawn, optuna.distributions.IntDistribution):
            raw = asked.suggest_int(key, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
        else:
            raw = asked.suggest_float(key, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
        values[key] = _external(axis, raw)
    return values


def _distribution(
    axis: Axis,
) -> (
    optuna.distributions.CategoricalDistribution
    | optuna.distributions.IntDistribution
    | optuna.distributions.FloatDistribution
):
    """An axis in Optuna's words; a choice is its TOML text."""
    if not isinstance(axis, Range):
        return optuna.distributions.CategoricalDistribution([toml_value(value) for value in axis])
    count = axis.count()
    high = axis.high if count is None else axis.value(count - 1)
    if axis.whole:
        return optuna.distributions.IntDistribution(int(axis.low), int(high), axis.log, int(axis.step or 1))
    return optuna.distributions.FloatDistribution(float(axis.low), float(high), axis.log, axis.step)


def _internal(axis: Axis, value: Value) -> Any:
    return value if isinstance(axis, Range) else toml_value(value)


def _external(axis: Axis, raw: Any) -> Value:
    """A value as the experiment takes it, from Optuna's."""
    if not isinstance(axis, Range):
        return {toml_value(value): value for value in axis}[raw]
    if axis.step is None:
        return int(raw) if axis.whole else float(raw)
    return axis.value(round((raw - axis.low) / axis.step))


# --- the journal ---------------------------------------------------------------------------------------------------------


def _open(space: Space, storage: Path) -> optuna.Study:
    """The sweep's study in the journal, made where it is missing."""
    path = storage.absolute()  # the journal's lock is a link to it, which dangles where the path is relative
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    asked = fingerprint(space)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_journal(path)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))),
            study_name=space.name,
            directions=[OBJECTIVES[name] for name in space.objectives],
            sampler=optuna.samplers.RandomSampler(seed=0),
            load_if_exists=True,
        )
        if "sweep" not in study.user_attrs:
            study.set_user_attr("sweep", asked)
        found = study.user_attrs["sweep"]
    except OSError as error:
        raise RunError(f"{storage} cannot be used as the journal of a sweep: {error.strerror or error}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{storage} is not the journal of a sweep ({error}); choose another --storage.") from None
    different = [name for name in asked if not isinstance(found, dict) or found.get(name) != asked[name]]
    if different:
        raise ConfigError(
            f"{storage} holds a sweep {space.name!r} with another {', '.join(different)}; give this one another name, "
            "or another --storage."
        )
    return study


def _require_journal(path: Path) -> None:
    """Refuses a file that is no journal before anything is appended to it."""
    if not path.exists():
        return
    size = path.stat().st_size
    if size > MAX_JOURNAL_BYTES:
        raise FormatError(f"{path} has {size} bytes; a journal has at most {MAX_JOURNAL_BYTES}. Choose another --storage.")
    if size == 0:
        return
    with path.open("rb") as file:
        head = file.readline(1 << 16)
    try:
        line = json.loads(head)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict) or "op_code" not in line:
        raise FormatError(f"{path} is not the journal of a sweep; choose another --storage.")
    for _ in range(100):  # another worker may be writing
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) == b"\n":
                return
        time.sleep(0.02)
    raise FormatError(f"the last line of {path} is not whole, as after a crash of a machine; remove that line.")


# --- results -------------------------------------------------------------------------------------------------------------


def results(study: optuna.Study, space: Space) -> Sweep:
    """The trials as the journal holds them."""
    listed = []
    for number, attempt in _attempts(study).items():
        of, error = attempt.of, attempt.error
        values = {key: _external(axis, of.params[key]) for key, axis in space.space.items() if key in of.params}
        done = of.state == TrialState.COMPLETE
        outcome = Outcome.from_dict(of.user_attrs.get("outcome"), f"trial {number} in the journal") if done else None
        states = {TrialState.COMPLETE: DONE, TrialState.RUNNING: RUNNING}
        state = FAILED if error is not None else states.get(of.state, WAITING)
        listed.append(Trial(number, state, values, outcome, attempt.attempt, error or ""))
    finished = [(trial.number, trial.outcome) for trial in listed if trial.outcome is not None]
    signs = [-1 if OBJECTIVES[name] == "maximize" else 1 for name in space.objectives]
    costs = [
        [sign * outcome.objective(name) for sign, name in zip(signs, space.objectives, strict=True)] for _, outcome in finished
    ]
    best = tuple(number for (number, _), one in zip(finished, costs, strict=True) if not any(beats(o, one) for o in costs))
    base = Path(space.base).name
    return Sweep(space.name, base, space.sampler, space.seed, space.objectives, tuple(listed), best)


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether ``one`` is at most ``other`` in all costs and below it in one."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def write_tables(found: Sweep, folder: Path) -> None:
    """sweep.json, sweep.csv and sweep.md, each whole or not at all."""
    made = found.to_dict()
    checkpoint.save_json(folder / "sweep.json", made)
    rows = [
        {**{k: v for k, v in row.items() if k != "values"}, **{key: _cell(value) for key, value in row["values"].items()}}
        for row in made["trials"]
    ]
    write_text(folder / "sweep.csv", report.csv_table(rows))
    write_text(folder / "sweep.md", markdown(found))


def markdown(found: Sweep) -> str:
    """The results as a Markdown document."""
    keys = list(dict.fromkeys(key for trial in found.trials for key in trial.values))
    head = ["trial", *keys, "accuracy", "MB", "cores", "synaptic ops", "seconds", "state"]
    rows = []
    for trial in found.trials:
        values = [report.escape(value_text(trial.values[key])) if key in trial.values else "" for key in keys]
        mark = f"**{trial.number}**" if trial.number in found.front else str(trial.number)
        state = report.escape(": ".join(filter(None, (trial.state, trial.note)))) + _retried(trial)
        rows.append([mark, *values, *cells(trial), state])
    done = sum(trial.state == DONE for trial in found.trials)
    best = "no other trial beats it in " + " and ".join(name.replace("_", " ") for name in found.objectives)
    return "\n".join(
        [
            f"# Sweep {report.escape(found.name)}",
            "",
            f"{done} of {len(found.trials)} trials of `{found.base}` done, sampler {found.sampler}, seed {found.seed}. "
            "Accuracy (integer, 95 % Wilson interval) and synaptic operations are those of the validation set; the test set was "
            f"not read. Bold: {best}.",
            "",
            report.markdown_table([report.escape(title) for title in head], rows, "r" + "l" * len(keys) + "rrrrrl"),
            "",
            *(["![Accuracy against what it costs](pareto.png)", ""] if done else []),
        ]
    )


def cells(trial: Trial) -> list[str]:
    """Accuracy, MB, cores, synaptic operations and seconds of a trial as text; empty where it is not done."""
    outcome = trial.outcome
    if outcome is None:
        return [""] * 5
    cores = f"{outcome.cores:,}" + ("" if outcome.fits else " (does not fit)")
    return [str(outcome.accuracy), f"{outcome.size_mb:.3g}", cores, f"{outcome.synaptic_ops:,.0f}", f"{outcome.seconds:,.0f}"]


def _flat_outcome(outcome: Outcome | None) -> dict[str, Any]:
    if outcome is None:
        return dict.fromkeys(("accuracy", "n", "low", "high", "size_mb", "cores", "synaptic_ops", "fits", "seconds"))
    low, high = outcome.accuracy.interval
    return {
        "accuracy": outcome.accuracy.value,
        "n": outcome.accuracy.n,
        "low": low,
        "high": high,
        **{name: getattr(outcome, name) for name in ("size_mb", "cores", "synaptic_ops", "fits", "seconds")},
    }


def _cell(value: Value) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def value_text(value: Value) -> str:
    """A value in a table."""
    return f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else toml_value(value)


def _retried(trial: Trial) -> str:
    return f" (begun {trial.retries + 1} times)" if trial.retries else ""
