"""How fast one network runs: on stock Lava, on Lava with our models, in the reference, in the engine, and as floats in torch.

All contenders get the same input and take turns: a round is one measurement of each, so that whatever disturbs the machine
disturbs all of them.  One measurement of each before the first round is not counted; what Lava and the reference answer in theirs is
held against the engine, every population and every step.  A rate is the median over the rounds of sample-steps (time steps of a
sample) per second:

- engine, reference, torch: ``batch * steps`` sample-steps a call, called again until a measurement has lasted ``MIN_SECONDS``.  The
  engine starts from bytes and makes its tables of weights anew in every call; what it hands back is the output's spikes, as do Lava
  and the reference.
- Lava: all steps that it ran in the seconds without the start of its processes, also those in which its pipeline fills and empties,
  which answer nothing; that counts in its favour.  It gets as many samples as it runs in about ``LAVA_SECONDS``, one at least.
- torch: float32, layer by layer over all steps at once (:func:`float_network`), from tensors of weights and input that are already
  there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from netx_export import hdf5
from netx_export.engine import Summary, cores, simulate_fast, summarise
from netx_export.errors import ConfigError, MissingError, NetworkError
from netx_export.lava_run import run_lava
from netx_export.network import Conv, Integrator, Lif, Network, Population
from netx_export.simulate import checked, simulate
from netx_export.verify import NOTHING, Answers, Verification, compare, random_input
from qpsnn_lava.doctor import installed_version

if TYPE_CHECKING:
    from torch import Tensor

Frames: TypeAlias = NDArray[np.integer[Any]]
Measure: TypeAlias = Callable[[], tuple[int, float]]  # one measurement: sample-steps, seconds

CONTENDERS = {
    "lava": "stock Lava",
    "fast_lava": "Lava with fast models",
    "reference": "the reference",
    "engine": "the engine",
    "torch": "torch, float32",
}
LAVA = {"lava": "stock", "fast_lava": "fast"}  # contender -> models
STEPS = 16
DENSITY = 0.1
MIN_SECONDS = 0.2
LAVA_SECONDS = 2.0
MAX_VALUES = 1 << 27  # of a random input: samples * neurons * steps
TORCH_VALUES = 1 << 26  # of one layer's currents in torch: more samples go in groups


@dataclass(frozen=True)
class Series:
    """The measurements of one contender.

    Args:
        contender: a key of ``CONTENDERS``.
        batch: samples at a time (1 for Lava, which runs them one after another).
        sample_steps: per round, the sample-steps of its measurement.
        seconds: per round, how long they took.
    """

    contender: str
    batch: int
    sample_steps: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def steps_per_second(self) -> float:
        """Median over the rounds of sample-steps per second."""
        return statistics.median(n / s for n, s in zip(self.sample_steps, self.seconds, strict=True))


@dataclass(frozen=True)
class Bench:
    """What a comparison found.

    Args:
        series: one per contender and batch, in the order in which they took turns.
        left_out: contender -> why it was not measured.
        checks: contender -> its answers held against the engine's; "engine": the engine at the largest batch against itself at one.
        density: population -> spikes per neuron and step, over the whole input.
        skipped: populations whose neurons were left out at the beginning.
        input_shape, batch, steps, seed, rounds, threads: what was run; seed is None for an input of the caller's own.
        versions: of Python and of the packages that count; only those that are installed.
    """

    series: tuple[Series, ...]
    left_out: Mapping[str, str]
    checks: Mapping[str, Verification]
    density: Mapping[str, float]
    skipped: int
    input_shape: tuple[int, ...]
    batch: int
    steps: int
    seed: int | None
    rounds: int
    threads: int
    versions: Mapping[str, str]

    @property
    def mismatches(self) -> int:
        """Values in which another contender and the engine differ."""
        return sum(check.mismatches for check in self.checks.values())

    @property
    def where(self) -> str:
        """The first difference of the first check that has one; "" where there is none."""
        return next((check.where for check in self.checks.values() if check.mismatches), "")

    def rates(self, contender: str) -> dict[str, float]:
        """Batch -> sample-steps per second; empty where it was left out."""
        return {str(s.batch): s.steps_per_second for s in self.series if s.contender == contender}

    def speedup_over(self, contender: str) -> dict[str, float] | None:
        """Batch -> how many times as fast the engine is at that batch: as torch at the same, as the others at one sample."""
        theirs = self.rates(contender)
        if not theirs:
            return None
        return {batch: rate / theirs.get(batch, theirs["1"]) for batch, rate in self.rates("engine").items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "steps_per_second": {name: self.rates(name) for name in CONTENDERS if self.rates(name)},
            **{f"speedup_over_{name}": self.speedup_over(name) for name in CONTENDERS if name != "engine"},
            "mismatches": self.mismatches,
            "checks": {name: check.to_dict() for name, check in self.checks.items()},
            "density": dict(self.density),
            "left_out": dict(self.left_out),
            "skipped_layers": self.skipped,
            "input_shape": list(self.input_shape),
            "batch": self.batch,
            "steps": self.steps,
            "seed": self.seed,
            "rounds": self.rounds,
            "threads": self.threads,
            "versions": dict(self.versions),
            "measurements": [
                {"contender": s.contender, "batch": s.batch, "sample_steps": list(s.sample_steps), "seconds": list(s.seconds)}
                for s in self.series
            ],
        }


def bench(
    path: Path,
    *,
    frames: Frames | None = None,
    batch: int = 32,
    steps: int | None = None,
    density: float | None = None,
    seed: int = 0,
    skip: int | None = None,
    rounds: int = 5,
    threads: int | None = None,
    without: Collection[str] = (),
    timeout: float = 600.0,
    say: Callable[[str], None] = lambda text: None,
) -> Bench:
    """Measures the contenders against each other on one netx file, as the module says.

    Args:
        path: the netx file.
        frames: (samples, *input shape, time); repeated, or cut, to ``batch`` samples.  None: a random input
            (:func:`netx_export.verify.random_input`).
        batch: the engine and torch run one sample, and that many at once.
        steps, density: of the random input; None: 16 steps, 0.1 spikes per neuron and step.
        seed: of the random input.
        skip: leave out the neurons of the first so many populations (:func:`skip_layers`); None: 1 where the host drives spiking neurons
            through their bias, so that what is measured begins with spikes, else 0.
        rounds: measurements of each.
        threads: of engine and torch; None for all cores.  Lava has its two processes a layer.
        without: contenders to leave out.
        timeout: seconds of one Lava run.
        say: called with a word about what happens next.

    Raises:
        ConfigError: an unknown contender, numbers out of range, an input that does not fit the network.
        FormatError, RunError: as :func:`netx_export.hdf5.read` and :func:`netx_export.lava_run.run_lava` do.
    """
    threads = cores() if threads is None else threads
    for what, number in (("batch", batch), ("rounds", rounds), ("threads", threads), ("steps", 1 if steps is None else steps)):
        if number < 1:
            raise ConfigError(f"{what} is {number}; it must be at least 1.")
    for name in without:
        if name not in CONTENDERS or name == "engine":
            others = ", ".join(n for n in CONTENDERS if n != "engine")
            raise ConfigError(f"{name!r} cannot be left out; it must be one of {others}.")
    network = hdf5.read(path)
    if skip is None:
        skip = int(isinstance(network.input.neuron, Lif | Integrator))
    network = skip_layers(network, skip)
    own = frames is not None
    frames = _input(network, frames, batch, steps, density, seed)
    with _torch_threads(threads, "torch" not in without), tempfile.TemporaryDirectory(prefix="qpsnn-bench-") as folder:
        if skip:
            path = Path(folder) / path.name
            hdf5.write(network, path)
        turns: list[tuple[str, int, Measure]] = []
        checks: dict[str, Verification] = {}
        left_out = dict.fromkeys(without, "not asked for")
        for name, title in CONTENDERS.items():
            if name in left_out:
                continue
            say(f"warm-up: {title}")
            try:
                measures, check = _prepared(name, path, network, frames, threads, timeout)
            except (MissingError, NetworkError) as error:
                left_out[name] = str(error)
                continue
            turns += [(name, size, measure) for size, measure in measures.items()]
            if check is not NOTHING:
                checks[name] = check
        found: list[list[tuple[int, float]]] = [[] for _ in turns]
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for (_, _, measure), results in zip(turns, found, strict=True):
                results.append(measure())
    summary = summarise(network, frames, threads=threads)
    return Bench(
        tuple(
            Series(name, size, tuple(n for n, _ in results), tuple(s for _, s in results))
            for (name, size, _), results in zip(turns, found, strict=True)
        ),
        left_out,
        checks,
        _density(network, summary),
        skip,
        network.input.shape,
        batch,
        frames.shape[-1],
        None if own else seed,
        rounds,
        threads,
        _versions(),
    )


def skip_layers(network: Network, count: int) -> Network:
    """The network without the neurons of its first ``count`` populations: the host's spikes take the place of the last of them.

    With ``count`` = 1 that is a network whose input neurons the host drives, fed with spikes instead; lava-dl's reader calls it
    ``skip_layers=1``.

    Args:
        network: a chain, populations of which may project to themselves.
        count: 0 (the network as it is) up to the number of its projections.

    Raises:
        ConfigError: a count out of range, or another graph.
    """
    if not count:
        return network
    most = len(network.populations) - 1
    if not 0 < count <= most or not network.without_loops.is_chain:
        raise ConfigError(f"skip is {count}; it must be in 0..{most}, and the network a chain.")
    first = network.populations[count - 1]
    later = network.populations[count:]
    names = {p.name for p in later}
    bits = network.input_bits if first.neuron is None else 0
    return replace(
        network,
        populations=(Population(first.name, first.shape), *later),
        projections=tuple(p for p in network.projections if p.target in names),
        input_bits=hdf5.MESSAGE_BITS if first.neuron is not None and network.has_sigma_delta else bits,
    )


def _input(network: Network, frames: Frames | None, batch: int, steps: int | None, density: float | None, seed: int) -> Frames:
    """(batch, *input shape, time) in the narrowest integers, as it would lie in a file."""
    if frames is not None:
        if steps is not None or density is not None:
            raise ConfigError("steps and density are those of a random input; drop them, or the input.")
        checked(network, frames)
        frames = frames[np.arange(batch) % frames.shape[0]]
    else:
        length = STEPS if steps is None else steps
        values = batch * network.input.size * length
        if values > MAX_VALUES:
            raise ConfigError(
                f"a random input of {batch} samples, {network.input.size} neurons and {length} steps has {values} values; "
                f"at most {MAX_VALUES} are allowed. Use a smaller batch, or fewer steps."
            )
        frames = random_input(replace(network, steps=length), batch, DENSITY if density is None else density, seed)
    kind = np.promote_types(np.min_scalar_type(frames.min()), np.min_scalar_type(frames.max()))
    return np.ascontiguousarray(frames, dtype=kind)


def _prepared(
    name: str, path: Path, network: Network, frames: Frames, threads: int, timeout: float
) -> tuple[dict[int, Measure], Verification]:
    """A contender's measurements by batch after one that does not count, and what that one's answers say of the engine."""
    output, one, steps = network.output.name, frames[:1], frames.shape[-1]

    def engine(part: Frames) -> Measure:
        return _timed(lambda: simulate_fast(network, part, record=[output], states=[], threads=threads), part.shape[0] * steps)

    check = NOTHING
    if name in LAVA:
        models = LAVA[name]
        hidden = [p.name for p in network.populations[:-1] if p.neuron is not None]
        warm = run_lava(path, one, voltage=True, timeout=timeout, models=models, record=hidden)
        check = compare(network, one, Answers({**warm.hidden, output: warm.spikes}, warm.voltage), CONTENDERS[name])
        samples = min(max(1, round(LAVA_SECONDS * warm.steps / warm.seconds / steps)), frames.shape[0])

        def measure() -> tuple[int, float]:
            run = run_lava(path, frames[:samples], timeout=timeout, models=models)
            return run.steps, run.seconds

        return {1: measure}, check  # one after another
    if name == "reference":
        plain = simulate(network, one)
        spikes = {p.name: plain.spikes[p.name] for p in network.populations if p.neuron is not None}
        check = compare(network, one, Answers(spikes, plain.voltage[output]), CONTENDERS[name])
        measures = {1: _timed(lambda: simulate(network, one, record=[output], states=[]), steps)}
    elif name == "engine":
        measures = {size: engine(frames[:size]) for size in sorted({1, frames.shape[0]})}
        check = _alone_and_together(network, frames, threads)
    else:
        measures = {size: _float_measure(network, frames[:size]) for size in sorted({1, frames.shape[0]})}
    for measure in measures.values():
        measure()
    return measures, check


def _timed(run: Callable[[], object], sample_steps: int) -> Measure:
    def measure() -> tuple[int, float]:
        done, elapsed, start = 0, 0.0, time.perf_counter()
        while not done or elapsed < MIN_SECONDS:
            run()
            done += sample_steps
            elapsed = time.perf_counter() - start
        return done, elapsed

    return measure


def _alone_and_together(network: Network, frames: Frames, threads: int) -> Verification:
    """The output of the whole batch at once against that of its samples one by one."""
    output = [network.output.name]
    whole = simulate_fast(network, frames, record=output, states=output, threads=threads)
    total = NOTHING
    for i in range(frames.shape[0]):
        answers = Answers(
            {name: values[i : i + 1] for name, values in whole.spikes.items()}, whole.voltage[output[0]][i : i + 1]
        )
        total = total + compare(network, frames[i : i + 1], answers, f"the engine at batch {frames.shape[0]}", i)
    return total


def _density(network: Network, summary: Summary) -> dict[str, float]:
    cells = summary.samples * summary.steps
    return {p.name: summary.spikes[p.name] / (p.size * cells) for p in network.populations}


def _versions() -> dict[str, str]:
    names = ("qpsnn-lava", "numpy", "numba", "torch", "lava-nc", "lava-dl")
    found = {name: installed_version(name) for name in names}
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version is not None}}


# --- the same network in floating point -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _torch_threads(threads: int, wanted: bool) -> Iterator[None]:
    """So many threads for torch, where it is wanted and there; as many as before afterwards."""
    if not wanted or importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _float_measure(network: Network, frames: Frames) -> Measure:
    forward = float_network(network)
    import torch

    shown = torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, 0), dtype=np.float32))
    largest = frames.shape[-1] * max(p.size for p in network.populations)
    parts = shown.split(max(1, TORCH_VALUES // largest), dim=1)
    return _timed(lambda: [forward(part) for part in parts], frames.shape[0] * frames.shape[-1])


def float_network(network: Network) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The forward pass of a network as it is written in plain torch: one conv2d or matmul a layer, over all samples and steps at
    once, then the neurons step by step, in float32::

        u := (1 - current_decay / 4096) * u + a
        v := (1 - voltage_decay / 4096) * v + u + bias
        s := v > threshold;  v := 0 where s

    which is the integers' step in units of 2**6, without their rounding, wrap and saturation.

    Args:
        network: a chain of LIF and integrator populations without delays.

    Returns:
        a function of the input as float32 (time, samples, *input shape), that returns the output's spikes (time, samples, *shape) and its
        last v (samples, *shape).

    Raises:
        MissingError: torch is not installed.
        NetworkError: another network.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingError("torch is not installed; 'qpsnn doctor' says how to install it.")
    if not network.is_chain or any(p.delay is not None for p in network.projections) or network.has_sigma_delta:
        raise NetworkError("plain layers of torch have no delays, recurrent projections or sigma-delta neurons.")
    import torch
    from torch.nn import functional

    def to_float(values: NDArray[np.int32]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32))

    biases = {p.name: None if p.bias is None else to_float(p.bias) for p in network.populations}
    layers = [(p, network[p.target], to_float(p.synapse.weight)) for p in network.projections]

    def neurons(population: Population, current: Tensor, bias: Tensor | None) -> Tensor:
        """Puts the spikes in the place of the currents, and returns the last v."""
        neuron = population.neuron
        assert isinstance(neuron, Lif | Integrator)
        keep_u, keep_v = 1 - neuron.current_decay / 4096, 1 - neuron.voltage_decay / 4096
        u, v = torch.zeros_like(current[0]), torch.zeros_like(current[0])
        for a in current:
            if keep_u and population is not network.input:
                u.mul_(keep_u).add_(a)
            else:
                u = a
            v.mul_(keep_v).add_(u)
            if bias is not None:
                v.add_(bias.reshape(-1, *(1,) * (len(population.shape) - 1)))
            fired = v > neuron.threshold
            a.copy_(fired)
            v.masked_fill_(fired, 0)
        return v

    def forward(shown: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            steps, samples = shown.shape[:2]
            spikes, v = shown, shown[-1]
            if network.input.neuron is not None:
                spikes = shown.clone()
                v = neurons(network.input, spikes, biases[network.input.name])
            for projection, target, weight in layers:
                synapse, bias = projection.synapse, biases[target.name]
                flat = spikes.reshape(steps * samples, *network[projection.source].shape)
                memoryless = isinstance(target.neuron, Lif | Integrator) and target.neuron.current_decay == 4096
                early = bias if memoryless and isinstance(synapse, Conv) else None  # the product may as well add it
                if isinstance(synapse, Conv):
                    sums = functional.conv2d(
                        flat, weight, early, synapse.stride, synapse.padding, synapse.dilation, synapse.groups
                    )
                else:
                    sums = functional.linear(flat.flatten(1), weight)
                spikes = sums.reshape(steps, samples, *target.shape)
                v = neurons(target, spikes, None if early is not None else bias)
            return spikes, v

    return forward
