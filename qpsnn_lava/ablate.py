"""Does what a plan asks for: every training phase once, every run once, by any number of processes.

A run is a chain of three jobs, and runs share the jobs that their settings make equal (:func:`qpsnn_lava.ablation.jobs_of`):

    float phase -> quantised phase -> cut, fine-tuned, frozen, read on the test set

Each job has a run folder of its own and takes over from the one before what that has trained, so all of it is the pipeline's work.
A job leaves ``record.json`` when it is finished; what has one is not done again, and what was under way goes on from its snapshot.
One process gives out the jobs and starts none before the one that it goes on from is finished; the others only ask for the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeAlias

from netx_export import hdf5
from netx_export.atomic import write_text
from netx_export.errors import (
    CapacityError,
    ConfigError,
    FormatError,
    FreezeError,
    MismatchError,
    NetworkError,
    QpsnnError,
    RunError,
)
from netx_export.integers import stored_bits
from netx_export.network import Network
from qpsnn_lava import ablation_plots, ablation_report, checkpoint, pipeline
from qpsnn_lava.ablation import Job, Plan, Run, Stage, jobs_of, runs_of
from qpsnn_lava.config import Experiment
from qpsnn_lava.data import Dataset
from qpsnn_lava.metrics import metrics
from qpsnn_lava.pipeline import Event, RunFolder, Say
from qpsnn_lava.sizes import deployed_mb
from qpsnn_lava.train import StoppedError, evaluate

COMPARED = 32  # test samples on which SLAYER and the simulation are held equal in every run
GRACE = 60.0  # seconds that a process has to keep its state when it is told to stop
BY_VALUES = (ConfigError, CapacityError, FreezeError, NetworkError)  # faults of a run's values, not of the machine

ACCURACIES: Mapping[str, Stage] = {"float": "float", "unpruned": "quantised", "integer": "run"}  # of a row, by stage

Record: TypeAlias = dict[str, Any]
Work: TypeAlias = Callable[[Job, Path, Say], Record]


def ablate(plan: Plan, folder: Path, *, workers: int = 1, say: Say, work: Work | None = None, command: str = "") -> Record:
    """Does all runs of a plan, or what is left of them, and returns the report.

    Args:
        plan: what to do; a plan that was changed keeps the runs that both have.
        folder: of the results; made where it is missing.
        workers: processes that work at the same time, at least 1 (with 1, this one).
        say: told what happens.
        work: what a job does (:func:`do_job`); another one in tests, where it must be a function of a module.
        command: the command line, for the report.

    Raises:
        ConfigError: another process works in the folder, or a job's folder holds another experiment.
        MismatchError: SLAYER and the simulation differ.
        RunError: a process has ended, or the folder cannot be written.
        StoppedError: after SIGTERM.
    """
    if workers < 1:
        raise ConfigError(f"--workers is {workers}; at least 1 is needed.")
    runs = runs_of(plan)
    jobs = {job.key: job for job in jobs_of(runs)}
    names = {run.key: f"{run.study}: {', '.join(run.settings.values())}; seed {run.seed}" for run in runs}
    with _alone(folder):
        known = {key: record for key, job in jobs.items() if (record := _kept(folder, job)) is not None}
        board = Board(tuple(jobs.values()), known, workers)

        def tables(plots: Sequence[Path] = ()) -> Record:
            rows = [_row(run, board.records, jobs) for run in runs]
            write_text(folder / "runs.jsonl", "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in rows))
            made = ablation_report.summary(plan, rows, command)
            checkpoint.save_json(folder / "report.json", made)
            write_text(folder / "report.md", ablation_report.markdown(made, [path.name for path in plots]))
            return made

        def finished(job: Job, record: Record) -> None:
            board.finish(job.key, record)
            what = names.get(job.key, f"{job.stage} phase, seed {job.experiment.seed}")
            say(Event("ablate", f"{board.progress()}  {what}: {_line(record)}", *board.counts, final=True))
            if job.stage == "run":
                tables()

        say(Event("ablate", board.progress(), *board.counts, final=True))
        drive = _here if workers == 1 else _in_processes
        with _terminable(board, folder):
            drive(board, folder, workers, say, work or do_job, finished)
        made = tables(ablation_plots.save_ablation(tables(), folder))
        say(Event("report", str(folder / "report.md"), final=True))
        return made


# --- one job -------------------------------------------------------------------------------------------------------------


def do_job(job: Job, folder: Path, say: Say) -> Record:
    """Trains up to the job's stage in its run folder and measures what came of it on the whole test set; keeps record.json.

    Faults of the settings (no exact integers, no place on the chip, a loss that is no number) are a result: ``{"error": ...}``.

    Raises:
        MismatchError: SLAYER and the simulation differ.
    """
    files = pipeline.open_folder(job.experiment, place_of(folder, job.key))
    if job.after is not None:
        pipeline.take_over(RunFolder(place_of(folder, job.after)), files)
    try:
        record = _STAGES[job.stage](job.experiment, files, say)
    except BY_VALUES as error:
        record = {"error": str(error)}
    record = {**record, "versions": pipeline.versions()}
    checkpoint.save_json(files.path / "record.json", record)
    return record


def place_of(folder: Path, key: str) -> Path:
    """The run folder of a job."""
    return folder / "runs" / key


def _float(experiment: Experiment, files: RunFolder, say: Say) -> Record:
    training = pipeline.fit(experiment, files, say, until="float")
    start = time.perf_counter()
    pipeline.set_threads(experiment)
    dataset, coding = pipeline.data_of(experiment), pipeline.coding_of(experiment)
    model = pipeline.unpruned_model(experiment, files, dataset, "float")
    accuracy = evaluate(model, dataset.test, dataset, coding, seed=experiment.seed)
    seconds = {"train": training["float"]["seconds"], "evaluate": time.perf_counter() - start}
    return {"accuracy": accuracy.to_dict(), "seconds": seconds}


def _quantised(experiment: Experiment, files: RunFolder, say: Say) -> Record:
    training = pipeline.fit(experiment, files, say, until="quantised")
    start = time.perf_counter()
    pipeline.set_threads(experiment)
    dataset = pipeline.data_of(experiment)
    network = pipeline.frozen(experiment, pipeline.unpruned_model(experiment, files, dataset), dataset)
    found = measure(experiment, network, dataset)
    return {**found, "seconds": {"train": training["quantised"]["seconds"], "evaluate": time.perf_counter() - start}}


def _run(experiment: Experiment, files: RunFolder, say: Say) -> Record:
    training = pipeline.fit(experiment, files, say)
    pipeline.export(experiment, files, say)
    start = time.perf_counter()
    pipeline.set_threads(experiment)
    dataset, coding = pipeline.data_of(experiment), pipeline.coding_of(experiment)
    network = hdf5.read(files.network)
    found = measure(experiment, network, dataset)
    some = replace(dataset, test=pipeline.first(dataset.test, COMPARED))
    model = pipeline.models(experiment, files)["final"]
    agreement = pipeline.compare_slayer(model, network, some, coding, experiment.seed, lambda event: None)
    wrong = agreement["spike_mismatches"] + agreement["voltage_mismatches"]
    if wrong:
        raise MismatchError(f"{wrong} values differ between SLAYER and simulation in {files.path}; please report it.")
    own = [name for name in training if name not in ("float", "quantised", "bits")]
    scoring = training["prune"]["scoring"]
    return {
        **found,
        "compared": {name: agreement[name] for name in ("samples", "spikes_compared", "voltages_compared")},
        "scoring": {
            "stability": min(scoring["stability"].values(), default=None),
            "seconds": sum(scoring["criterion_seconds"].values()),
        },
        "seconds": {"train": sum(training[name]["seconds"] for name in own), "evaluate": time.perf_counter() - start},
    }


_STAGES: Mapping[str, Callable[[Experiment, RunFolder, Say], Record]] = {
    "float": _float, "quantised": _quantised, "run": _run
}  # fmt: skip


def measure(experiment: Experiment, network: Network, dataset: Dataset) -> Record:
    """The integer network on the whole test set, and what it takes on the chip of [map].

    Raises:
        CapacityError: it has no place on the chip.
    """
    seen, used = pipeline.simulated(experiment, network, dataset, dataset.test), pipeline.utilisation(experiment, network)
    numbers = metrics(network, seen.summary)
    biases = sum(population.bias.size for population in network.populations if population.bias is not None)
    return {
        "accuracy": seen.accuracy.to_dict(),
        "size_mb": deployed_mb(network),
        "parameters": sum(p.synapse.weight.size for p in network.projections) + biases,
        "stored_bits": {p.target: stored_bits(p.synapse.weight) for p in network.projections},
        "synaptic_ops": seen.synaptic_ops,
        "synapse_words": used.synapse_words,
        "cores": used.cores,
        "activation_sparsity": numbers.activation_sparsity,
        "connection_sparsity": numbers.connection_sparsity,
    }


# --- who does what -------------------------------------------------------------------------------------------------------


class Board:
    """The jobs: which are finished, which can begin.

    Args:
        jobs: each after the one that it goes on from; those in front are given out first.
        records: of the jobs that are finished, by key.
        workers: for the time left.
        clock: seconds.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        records: Mapping[str, Record],
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.records = dict(records)
        self._waiting = [job for job in jobs if job.key not in self.records]
        self._total, self._workers, self._clock = len(jobs), workers, clock
        self._begun: dict[str, tuple[Job, float]] = {}
        self._epochs = self._seconds = 0.0
        self._drop()

    def take(self) -> Job | None:
        """The first job that can begin, from now on the caller's; None where none can at present."""
        job = next((job for job in self._waiting if job.after is None or job.after in self.records), None)
        if job is not None:
            self._waiting.remove(job)
            self._begun[job.key] = job, self._clock()
        return job

    def finish(self, key: str, record: Record) -> None:
        """What was taken is finished; what goes on from it can begin, or never will where it failed."""
        job, start = self._begun.pop(key)
        self._epochs, self._seconds = self._epochs + _work_in(job), self._seconds + self._clock() - start
        self.records[key] = record
        self._drop()

    @property
    def over(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self._waiting and not self._begun

    @property
    def counts(self) -> tuple[int, int]:
        """Jobs that are finished, or that never will be; and all."""
        return self._total - len(self._waiting) - len(self._begun), self._total

    def progress(self) -> str:
        """ "3 of 40 jobs, about 1 h 20 min left"."""
        done, total = self.counts
        text = f"{done} of {total} jobs"
        if self.over or not self._epochs:
            return text
        rest = sum(map(_work_in, self._waiting)) + sum(_work_in(job) for job, _ in self._begun.values())
        minutes = math.ceil(rest * self._seconds / self._epochs / self._workers / 60)
        return f"{text}, about {f'{minutes // 60} h ' if minutes >= 60 else ''}{minutes % 60} min left"

    def _drop(self) -> None:
        """Forgets the jobs whose phase before failed."""
        failed = {key for key, record in self.records.items() if "error" in record}
        for job in list(self._waiting):
            if job.after in failed:
                self._waiting.remove(job)
                failed.add(job.key)


def _work_in(job: Job) -> float:
    """How long a job takes, in epochs; one for all but training."""
    return job.epochs + 1.0


_Finished: TypeAlias = Callable[[Job, Record], None]


def _here(board: Board, folder: Path, workers: int, say: Say, work: Work, finished: _Finished) -> None:
    """All jobs in this process."""
    while (job := board.take()) is not None:
        finished(job, work(job, folder, lambda event: say(_told(board, event))))


def _in_processes(board: Board, folder: Path, workers: int, say: Say, work: Work, finished: _Finished) -> None:
    """Jobs in other processes, each of which asks for the next one over its pipe."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[Connection, SpawnProcess] = {}
    doing: dict[Connection, Job] = {}
    idle: list[Connection] = []
    try:
        for _ in range(min(workers, board.counts[1] - board.counts[0])):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work_for, args=(theirs, folder, work), daemon=True)
            with _deaf():
                process.start()
            theirs.close()
            pipes[ours] = process
            idle.append(ours)
        while not board.over:
            while idle and (job := board.take()) is not None:
                pipe = idle.pop(0)
                doing[pipe] = job
                pipe.send(job)
            for ready in wait(list(pipes)):
                assert isinstance(ready, Connection)
                try:
                    kind, content = ready.recv()
                except (EOFError, OSError):
                    pipes[ready].join(GRACE)
                    where = f"in {doing[ready].key}" if ready in doing else "without work"
                    raise RunError(
                        f"a process has ended {where} (exit code {pipes[ready].exitcode}), maybe for want of memory; "
                        "the same command goes on from what was finished, with fewer --workers if need be."
                    ) from None
                if kind == "event":
                    say(_told(board, content))
                elif kind == "error":
                    raise content
                else:
                    idle.append(ready)
                    finished(doing.pop(ready), content)
    finally:
        for process in pipes.values():
            process.terminate()
        for process in pipes.values():
            process.join(GRACE)
            if process.is_alive():
                process.kill()
                process.join()


def _work_for(pipe: Connection, folder: Path, work: Work) -> None:
    """What a process does until the other end of its pipe is closed or tells it to stop."""
    os.setpgrp()  # Ctrl-C on the terminal reaches only the process that gives out the jobs, which then stops the others in order
    signal.signal(signal.SIGTERM, _leave)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError, StoppedError):
        while True:
            job = pipe.recv()
            try:
                record = work(job, folder, lambda event: pipe.send(("event", event)))
            except StoppedError:
                raise
            except QpsnnError as error:
                pipe.send(("error", error))
                return
            pipe.send(("record", record))


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _told(board: Board, event: Event) -> Event:
    """What a job says, as a passing line of ours."""
    return Event("ablate", f"{board.progress()}  {event.stage}: {event.text}", *board.counts)


@contextlib.contextmanager
def _terminable(board: Board, folder: Path) -> Iterator[None]:
    """SIGTERM stops the other processes, too, and says how to go on, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        done, total = board.counts
        raise StoppedError(number, f"after {done} of {total} jobs; {folder} keeps them, the same command goes on from there")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second process out of the folder as long as this one lives."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / ".lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process works in {folder}; wait for it, or choose another --out.") from None
        except OSError as error:
            raise RunError(f"cannot write in {folder}: {error.strerror or error}; choose another --out.") from None
        yield


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started inside do not hear Ctrl-C, which would tear them out of their imports."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --- records -------------------------------------------------------------------------------------------------------------


def _kept(folder: Path, job: Job) -> Record | None:
    """The record of a job that was finished before."""
    path = place_of(folder, job.key) / "record.json"
    if not path.exists():
        return None
    record = checkpoint.load_json(path)
    if not isinstance(record, dict) or not (isinstance(record.get("accuracy"), dict) or isinstance(record.get("error"), str)):
        raise FormatError(f"{path} does not hold the record of a job; remove it and run again.")
    return record


def _row(run: Run, records: Mapping[str, Record], jobs: Mapping[str, Job]) -> Record:
    """A run with what it and the phases before it came to: state "done", "failed" or "open"."""
    row: Record = {"study": run.study, "settings": dict(run.settings), "seed": run.seed, "key": run.key}
    chain = [run.key]
    while (before := jobs[chain[-1]].after) is not None:
        chain.append(before)
    found = {jobs[key].stage: records[key] for key in chain if key in records}
    error = next((record["error"] for record in found.values() if "error" in record), None)
    if error is not None:
        return {**row, "state": "failed", "error": error}
    if "run" not in found:
        return {**row, "state": "open"}
    accuracy = {name: found[stage]["accuracy"] for name, stage in ACCURACIES.items()}
    shared = sum(sum(found[stage]["seconds"].values()) for stage in ("float", "quantised"))
    unpruned = {name: found["quantised"][name] for name in ("size_mb", "cores", "synaptic_ops", "activation_sparsity")}
    seconds = {**found["run"]["seconds"], "shared": shared}
    return {**row, "state": "done", **found["run"], "accuracy": accuracy, "unpruned": unpruned, "seconds": seconds}


def _line(record: Record) -> str:
    if "error" in record:
        return f"failed: {record['error']}"
    accuracy = record["accuracy"]
    cores = f", {record['cores']} cores" if "cores" in record else ""
    return f"{100 * accuracy['value']:.2f} % (n = {accuracy['n']}){cores}"
