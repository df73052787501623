"""Holding what others answered, Lava or a recording, against the exact simulation, layer by layer and spike by spike.

A large check can be split: ``shard=(i, n)`` takes the i-th of n parts of the samples, ``results=FILE.json`` keeps what is done
after every batch, so that a check that was stopped goes on where it was, and :func:`merge` adds the parts up.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netx_export.atomic import write_text
from netx_export.engine import simulate_fast
from netx_export.errors import ConfigError, FormatError
from netx_export.lava_run import run_lava
from netx_export.network import Delta, Integrator, Network
from netx_export.simulate import Run, checked, input_range

BATCH = 16  # samples of one Lava run: its start costs as much as thousands of steps of a small network
FORMAT = "qpsnn verify 1"
MAX_RESULTS = 1 << 22  # bytes of a results file


@dataclass(frozen=True)
class LayerCheck:
    """One population's part of a check.

    Args:
        name: of the population.
        compared: values: one for each sample, neuron and step, and for voltages one for each sample and neuron.
        mismatches: how many of them differ.
        spikes: values other than 0 that the simulation has (a layer that never spikes proves nothing).
    """

    name: str
    compared: int
    mismatches: int
    spikes: int


@dataclass(frozen=True)
class Verification:
    """How many values differ.

    Args:
        samples: that ran.
        spikes_compared, spike_mismatches: of all layers that could be compared, over all steps.
        spikes: that the output fired in all (0 for an integrator).
        voltages_compared, voltage_mismatches: v at the end of each window, where the output is an integrator.
        where: the first difference in words, "" where there is none: of the first layer that differs the first sample, of that
            the first step, of that the first neuron.
        against: what the simulation was held against.
        layers: one entry for each population that was compared, in the network's order, spikes only.
        first_layer: index of the layer of ``where`` (of the voltages: one beyond the last), and its sample; None for none.
    """

    samples: int
    spikes_compared: int
    spike_mismatches: int
    spikes: int
    voltages_compared: int
    voltage_mismatches: int
    where: str
    against: str = "Lava"
    layers: tuple[LayerCheck, ...] = ()
    first_layer: tuple[int, int] | None = None

    @property
    def mismatches(self) -> int:
        """All differences."""
        return self.spike_mismatches + self.voltage_mismatches

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "mismatches": self.mismatches}

    def __str__(self) -> str:
        verdict = "equal" if not self.mismatches else f"NOT EQUAL: {self.where}"
        layers = f" of {len(self.layers)} layers" if self.layers else ""
        return (
            f"{self.samples} samples: {self.spike_mismatches} of {self.spikes_compared} spikes{layers} and "
            f"{self.voltage_mismatches} of {self.voltages_compared} voltages differ between simulation and {self.against}: {verdict}"
        )

    def __add__(self, other: Verification) -> Verification:
        """Both checks as one; the samples of ``other`` come after."""
        if not self.samples:
            return other
        if [layer.name for layer in self.layers] != [layer.name for layer in other.layers] or self.against != other.against:
            raise ConfigError(f"a check against {self.against} and one against {other.against} do not add up.")
        found = [v for v in (self, other) if v.first_layer is not None]
        first = min(found, key=lambda v: v.first_layer or (0, 0), default=self)
        return Verification(
            self.samples + other.samples,
            self.spikes_compared + other.spikes_compared,
            self.spike_mismatches + other.spike_mismatches,
            self.spikes + other.spikes,
            self.voltages_compared + other.voltages_compared,
            self.voltage_mismatches + other.voltage_mismatches,
            first.where,
            self.against,
            tuple(
                LayerCheck(a.name, a.compared + b.compared, a.mismatches + b.mismatches, a.spikes + b.spikes)
                for a, b in zip(self.layers, other.layers, strict=True)
            ),
            first.first_layer,
        )


NOTHING = Verification(0, 0, 0, 0, 0, 0, "")


@dataclass(frozen=True)
class Answers:
    """What the other side answered to a batch.

    Args:
        spikes: by population, (samples, *shape, time).
        voltage: (samples, *output shape) at the end of each window, or with one more axis in every step; None for none.
    """

    spikes: Mapping[str, NDArray[Any]]
    voltage: NDArray[Any] | None = None


def verify_lava(
    path: Path,
    network: Network,
    frames: NDArray[np.integer[Any]],
    *,
    backend: str = "cpu",
    models: str = "stock",
    timeout: float = 600.0,
    shard: tuple[int, int] = (1, 1),
    results: Path | None = None,
    batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Runs ``path`` on Lava and in the simulation and compares every population, step by step.

    Args:
        path: the netx file.
        network: what it holds.
        frames: whole numbers (samples, *input shape, time).
        backend, models, timeout: as in :func:`netx_export.lava_run.run_lava`; the time is for all samples together.
        shard: (i, n): only the i-th of n parts of the samples, i in 1..n.
        results: a JSON file that keeps what is done, read where it is there already.
        batch: samples of one Lava run, and between two writes of ``results``.
        progress: called with (samples done, samples).

    Raises:
        ConfigError: a shard that does not exist, or a results file of another check.
        and what ``run_lava`` raises.
    """
    voltage = isinstance(network.output.neuron, Integrator)
    names = [p.name for p in network.populations if p.neuron is not None]
    deadline = time.monotonic() + timeout
    hidden = [n for n in names if n != network.output.name and backend == "cpu"]

    def ask(begin: int, end: int) -> Answers:
        run = run_lava(
            path,
            frames[begin:end],
            voltage=voltage,
            timeout=max(deadline - time.monotonic(), 0.01),
            backend=backend,
            models=models,
            record=hidden,
        )
        return Answers({**run.hidden, network.output.name: run.spikes}, run.voltage)

    against = "Lava" if models == "stock" else f"Lava with {models} models"
    key = {"file": _digest(path.read_bytes()), "models": models, "backend": backend}
    return _check(network, frames, ask, against, key, shard, results, batch, progress)


def verify_recorded(
    path: Path,
    network: Network,
    frames: NDArray[np.integer[Any]],
    recorded: Path,
    *,
    shard: tuple[int, int] = (1, 1),
    results: Path | None = None,
    batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Compares the simulation's output with a recording, from a board for example.

    Args:
        path, network, frames, shard, results, batch, progress: as in :func:`verify_lava`.
        recorded: a .npy of whole numbers (samples, *output shape, time), aligned (index t answers to frame t): the output's spikes,
            or an integrator's v in every step; or (samples, *output shape): v (of sigma-delta neurons: sigma, or the
            activation) at the end of each window.

    Raises:
        FormatError: when the recording is no such file.
        ConfigError: as :func:`verify_lava`.
    """
    values = _recording(recorded)
    if frames.ndim != len(network.input.shape) + 2:
        checked(network, frames)  # says what is wrong
    output, samples = network.output, frames.shape[0]
    in_steps = (samples, *output.shape, frames.shape[-1])
    if values.shape not in (in_steps, in_steps[:-1]):
        raise FormatError(
            f"{recorded} has the shape {values.shape}; expected {in_steps} (spikes) or {in_steps[:-1]} (v at the end) "
            f"for the output {output.name}."
        )
    of_spikes = values.shape == in_steps and not isinstance(output.neuron, Integrator)

    def ask(begin: int, end: int) -> Answers:
        part = np.asarray(values[begin:end])
        return Answers({output.name: part}) if of_spikes else Answers({}, part)

    key = {"file": _digest(path.read_bytes()), "recorded": _digest(recorded.read_bytes())}
    return _check(network, frames, ask, recorded.name, key, shard, results, batch, progress)


def merge(files: Sequence[Path]) -> Verification:
    """The sum of the shards of one check.

    Args:
        files: the results files of all its shards, in any order.

    Raises:
        FormatError: a file that is not one of ours.
        ConfigError: shards of different checks, one that is missing or there twice, or not done yet.
    """
    if not files:
        raise ConfigError("there is nothing to merge; give the results file of every shard.")
    parts = [(path, _Progress.read(path)) for path in files]
    first = parts[0][1]
    for path, part in parts:
        if part.key != first.key or part.shard[1] != first.shard[1]:
            raise ConfigError(f"{path} is of another check than {files[0]}; merge the shards of one.")
        if part.done < part.total:
            raise ConfigError(f"{path}: {part.done} of {part.total} samples are done; run that shard again, it goes on there.")
    numbers = sorted(part.shard[0] for _, part in parts)
    count = first.shard[1]
    if numbers != list(range(1, count + 1)):
        wrong = next((n for n in range(1, count + 1) if numbers.count(n) != 1), count)
        raise ConfigError(f"shard {wrong}/{count} is there {numbers.count(wrong)} times; each is needed once.")
    total = NOTHING
    for _, part in sorted(parts, key=lambda found: found[1].shard[0]):
        total = total + part.result if part.total else total
    return total


@dataclass(frozen=True)
class _Progress:
    """What a results file holds."""

    key: Mapping[str, Any]
    shard: tuple[int, int]
    total: int
    done: int
    result: Verification

    def write(self, path: Path) -> None:
        data = {"format": FORMAT, **asdict(self)}
        write_text(path, json.dumps(data, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> _Progress:
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_RESULTS + 1)
        except OSError as error:
            raise FormatError(f"{path} cannot be read: {error.strerror or error}.") from None
        try:
            if len(raw) > MAX_RESULTS:
                raise ValueError("too large")
            data = json.loads(raw)
            if data.pop("format") != FORMAT:
                raise ValueError("another format")
            result = data.pop("result")
            layers = tuple(LayerCheck(**layer) for layer in result.pop("layers"))
            first = result.pop("first_layer")
            verification = Verification(**result, layers=layers, first_layer=None if first is None else tuple(first))
            shard = tuple(int(n) for n in data.pop("shard"))
            found = cls(**data, shard=(shard[0], shard[1]), result=verification)
            if not all(isinstance(n, int) for n in _numbers(found)) or not 0 <= found.done <= found.total:
                raise ValueError("numbers out of order")
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            raise FormatError(f"{path} is not a results file of this version; delete it, or name another.") from None
        return found


def _numbers(progress: _Progress) -> list[Any]:
    """Everything in it that is counted or summed up."""
    found = progress.result
    counts = [found.samples, found.spikes_compared, found.spike_mismatches, found.spikes, found.voltages_compared]
    layers = [n for layer in found.layers for n in (layer.compared, layer.mismatches, layer.spikes)]
    return [*counts, found.voltage_mismatches, *layers, *(found.first_layer or ()), progress.done, progress.total]


def _check(
    network: Network,
    frames: NDArray[np.integer[Any]],
    ask: Callable[[int, int], Answers],
    against: str,
    key: Mapping[str, Any],
    shard: tuple[int, int],
    results: Path | None,
    batch: int,
    progress: Callable[[int, int], None] | None,
) -> Verification:
    """All batches of one shard that are not done yet."""
    number, count = shard
    if not 1 <= number <= count:
        raise ConfigError(f"shard {number}/{count} does not exist; the first number is in 1..{count}.")
    if batch < 1:
        raise ConfigError(f"batch is {batch}; it must be at least 1 sample.")
    if frames.ndim != len(network.input.shape) + 2:
        checked(network, frames)  # says what is wrong
    samples = frames.shape[0]
    begin, end = samples * (number - 1) // count, samples * number // count
    key = {
        **key,
        "against": against,
        "samples": samples,
        "input": _digest(np.ascontiguousarray(frames).tobytes(), frames.shape),
    }
    state = _Progress(key, shard, end - begin, 0, NOTHING)
    if results is not None and results.exists():
        found = _Progress.read(results)
        if (found.key, found.shard, found.total) != (state.key, state.shard, state.total):
            raise ConfigError(
                f"{results} is of another check (file, input, options or shard differ); delete it, or name another."
            )
        state = found
    for low in range(begin + state.done, end, batch):
        high = min(low + batch, end)
        more = compare(network, frames[low:high], ask(low, high), against, low)
        state = _Progress(key, shard, end - begin, high - begin, state.result + more)
        if results is not None:
            state.write(results)
        if progress is not None:
            progress(state.done, state.total)
    if results is not None and not state.done:
        state.write(results)  # a shard without samples
    return state.result


def compare(
    network: Network, frames: NDArray[np.integer[Any]], answers: Answers, against: str, offset: int = 0
) -> Verification:
    """Holds answers to a batch against the engine's.

    Args:
        network: that was run.
        frames: (samples, *input shape, time).
        answers: of any of its populations; v of its output.
        against: whose answers they are, for the messages.
        offset: number of the batch's first sample, for the messages.
    """
    output = network.output.name
    names = [p.name for p in network.populations if p.name in answers.spikes]
    exact = simulate_fast(network, frames, record=[*names, output], states=[output])
    layers = []
    first: tuple[int, int] | None = None
    where = ""
    for i, name in enumerate(names):
        ours, theirs = exact.spikes[name], answers.spikes[name]
        wrong = ours != theirs
        layers.append(LayerCheck(name, int(ours.size), int(wrong.sum()), int(np.count_nonzero(ours))))
        if wrong.any() and first is None:
            at = _first(wrong)
            sample, place, step = at[0], at[1:-1], at[-1]
            first = (i, sample + offset)
            where = (
                f"sample {sample + offset}, layer {name}, neuron {_place(place)}, step {step}: "
                f"simulation {ours[at]}, {against} {theirs[at]}."
            )
    voltages = voltage_wrong = 0
    if answers.voltage is not None:
        every_step = answers.voltage.ndim == 2 + len(network.output.shape)
        ours = exact.voltage[output] if every_step else exact.voltage[output][..., -1]
        wrong = ours != answers.voltage
        voltages, voltage_wrong = int(ours.size), int(wrong.sum())
        if wrong.any() and first is None:
            at = _first(wrong) if every_step else tuple(int(n) for n in np.argwhere(wrong)[0])
            place, when = (at[1:-1], f"v in step {at[-1]}") if every_step else (at[1:], "v at the end")
            first = (len(names), at[0] + offset)
            where = (
                f"sample {at[0] + offset}, layer {output}, neuron {_place(place)}, {when}: "
                f"simulation {ours[at]}, {against} {answers.voltage[at]}."
            )
    return Verification(
        frames.shape[0],
        sum(layer.compared for layer in layers),
        sum(layer.mismatches for layer in layers),
        _fired(network, exact),
        voltages,
        voltage_wrong,
        where,
        against,
        tuple(layers),
        first,
    )


def _fired(network: Network, exact: Run) -> int:
    return int(np.count_nonzero(exact.spikes[network.output.name]))


def _first(wrong: NDArray[np.bool_]) -> tuple[int, ...]:
    """(sample, *neuron, step) of the first sample's first step's first neuron that differs."""
    sample, step, *place = np.argwhere(np.moveaxis(wrong, -1, 1))[0]
    return (int(sample), *(int(n) for n in place), int(step))


def _place(place: Sequence[int]) -> str:
    return f"({', '.join(map(str, place))})" if len(place) > 1 else str(place[0])


def _recording(path: Path) -> NDArray[Any]:
    try:
        values: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise FormatError(f"{path} cannot be read as a .npy file of numbers.") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iubf":
        raise FormatError(f"{path} cannot be read as a .npy file of numbers.")
    return values


def _digest(data: bytes, shape: tuple[int, ...] = ()) -> str:
    return hashlib.sha256(repr(shape).encode() + data).hexdigest()[:32]


def random_input(network: Network, samples: int, density: float, seed: int) -> NDArray[np.int32]:
    """Bernoulli spikes of that density (graded ones uniform in their range); bias mantissas for a driven input, or for Delta
    neurons values that move with that density.

    Args:
        network: its input's shape and window count; without a window, 16 steps.
        samples, density, seed: of the draw.

    Returns:
        int32 (samples, *input shape, time).
    """
    if not 0.0 <= density <= 1.0:
        raise ConfigError(f"density {density}: it must be in 0..1.")
    random = np.random.default_rng(seed)
    shape = (samples, *network.input.shape, network.steps or 16)
    if isinstance(network.input.neuron, Delta):  # values that move by up to 8 a step
        moves = np.where(random.random(shape) < density, random.integers(-8, 9, shape), 0)
        return np.cumsum(moves, axis=-1).astype(np.int32)
    if network.input.neuron is not None:
        drive = network.input.drive
        low, high = (drive.bias, drive.bias + drive.weight) if drive else (0, 64)
        image = random.integers(min(low, high), max(low, high) + 1, shape[:-1])
        return np.repeat(image[..., None], shape[-1], axis=-1).astype(np.int32)
    low, high = input_range(network)
    spikes = random.random(shape) < density
    values = random.integers(low, high, shape, endpoint=True) if low < 0 else random.integers(1, high, shape, endpoint=True)
    return np.where(spikes, values, 0).astype(np.int32)
