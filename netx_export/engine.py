"""The exact simulation, fast: the integers of :func:`netx_export.simulate.simulate`, bit for bit, for chains.

How.  In aligned time a chain can be run layer by layer: all frames of a layer depend only on frames of the layer before.
So a few samples at a time pass through all layers, over all steps, before the next samples begin; nothing of the size of
the batch is kept, unless it was asked for.  Spikes travel as lists of events (:mod:`netx_export.kernels`), a layer's sums
are formed for one row of neurons at a time, in registers, and its neurons follow at once while the sums lie in the cache.

Exactness.  Every layer gets the narrowest integers in which no sum can overflow, proved from
``B = max over outputs of sum |w| * largest input``:

==================  ==================================================  =========================================
weights, sums       condition                                           neurons
==================  ==================================================  =========================================
int16, int16        B < 2**15                                           int32
int16, int32        max |w| * input * 64 < 2**15 (pieces of >= 64       int32
                    events in int16, added in int32)
int32, int32        B < 2**31                                           int32 or int64
int64, int64        all others                                          int64
==================  ==================================================  =========================================

Neurons are int32 where B <= 2**18 and |bias| + |drive| <= 2**22: then |u| <= 2**23 holds from step to step, since one turn of
wrap24 is enough, and no sum leaves 32 bits; else they are int64, operation by operation the reference.

The second way to form sums, im2col and a matrix product (:func:`products`), is in float32 where B < 2**24, in float64 where
B < 2**53, else in int64: integers of that size are exact in any order of addition.  It is all that there is without numba.
With numba it never pays, measured at densities of 2 to 100 % (16 x 16 convolution 64 -> 64, dense 2000 -> 500): a sum of rows in
int16 adds 16 weights an instruction, as many as a float32 product has multiplications in two, and needs no im2col.

Memory.  A worker holds ``block`` samples; a sample costs what :func:`_sample_bytes` says, and there are never more workers or
larger blocks than ``max_memory`` allows.  The input and the arrays that are handed back come on top.

Graphs that are not chains (several projections into one population, recurrent ones) and sigma-delta networks go to the
reference, in blocks.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from netx_export.errors import ConfigError
from netx_export.integers import SHIFT, decay, sat24, wrap24, wrap_signed
from netx_export.network import Conv, Dense, Integrator, Lif, Network, Population, Projection
from netx_export.simulate import (
    WINDOW,
    Reset,
    Run,
    check_names,
    checked,
    fan_out,
    input_range,
    read_out,
    simulate,
    synaptic_operations,
)

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Frames: TypeAlias = NDArray[np.integer[Any]]
Chunks: TypeAlias = Frames | Iterable[Frames] | Callable[[], Iterable[Frames]]
Path: TypeAlias = Literal["events", "product"]

MAX_MEMORY = 2 << 30
BLOCK_BYTES = 2 << 20  # of a worker: more samples than fit here do not make a block faster
CHANNELS = 8  # the channels of a population with neurons are padded to this in its events
COLUMNS = 16  # the output channels of weights are padded to this (kernels.BLOCK)


# --- what is handed back -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """A run reduced to what read-outs and energy estimates need.

    Args:
        samples: number of samples.
        steps: length T of each.
        spikes: per population, spikes of all samples and steps (a graded spike counts once).
        operations: per projection, ``"source -> target"``, as :func:`netx_export.simulate.synaptic_operations`.
        voltage: int32 (samples, N), v of the output population after the last step, N in C, H, W order.
        counts: int64 (samples, N), spikes of each output neuron.
    """

    samples: int
    steps: int
    spikes: Mapping[str, int]
    operations: Mapping[str, int]
    voltage: Int32
    counts: Int64


def scores(network: Network, summary: Summary) -> Int64:
    """int64 (samples, classes): what the host's read-out takes the maximum of, as :func:`netx_export.simulate.scores`.

    Raises:
        ConfigError: when the network does not say how it is read.
    """
    return read_out(network, voltage=summary.voltage, counts=summary.counts)


# --- the two public functions ------------------------------------------------------------------------------------------


def simulate_fast(
    network: Network,
    spikes: Frames,
    *,
    reset: Reset | None = WINDOW,
    record: Collection[str] | None = None,
    states: Collection[str] | None = None,
    threads: int | None = None,
    max_memory: int = MAX_MEMORY,
) -> Run:
    """The result of :func:`netx_export.simulate.simulate`, fast.

    Args:
        network, spikes, reset, record, states: as there.
        threads: number of threads; None for all cores.
        max_memory: bytes that the run may use beside its input and what it hands back.

    Returns:
        The same :class:`netx_export.simulate.Run`.

    Raises:
        ConfigError: as there, and where one sample does not fit ``max_memory``.
    """
    return _simulate(network, spikes, reset, record, states, threads, max_memory, "events")


def summarise(
    network: Network,
    spikes: Chunks,
    *,
    reset: Reset | None = WINDOW,
    threads: int | None = None,
    max_memory: int = MAX_MEMORY,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Runs ``network`` and keeps only counts and the output's last voltages, for any number of samples.

    Args:
        network: any network.
        spikes: (batch, *input shape, time) as for ``simulate``; or chunks of it, as an iterable or a function without arguments
            that returns one.  The next chunk is fetched while one is computed, so that two are in memory.
        reset, threads, max_memory: as :func:`simulate_fast`.
        progress: called with the number of samples done, after each chunk.

    Returns:
        A :class:`Summary`.

    Raises:
        ConfigError: as :func:`simulate_fast`; for no chunk at all, or chunks of different lengths in time.
    """
    return _summarise(network, spikes, reset, threads, max_memory, progress, "events")


def _simulate(
    network: Network,
    spikes: Frames,
    reset: Reset | None,
    record: Collection[str] | None,
    states: Collection[str] | None,
    threads: int | None,
    max_memory: int,
    path: Path,
) -> Run:
    frames = checked(network, spikes)
    kept = check_names(network, record, default=[p.name for p in network.populations])
    probed = check_names(network, states, default=[network.output.name])
    batch, steps = frames.shape[0], frames.shape[-1]
    shape = {p.name: (batch, *p.shape, steps) for p in network.populations}
    sinks = _Sinks(
        {n: np.zeros(shape[n], np.int32) for n in kept},
        {n: np.zeros(shape[n], np.int32) for n in probed},
        {n: np.zeros(shape[n], np.int32) for n in probed},
        None,
    )
    with _Engine(network, steps, reset, threads, max_memory, path, probed) as engine:
        for future in engine.start(frames, sinks):
            future.result()
    return Run(sinks.spikes, sinks.voltage, sinks.current)


def _summarise(
    network: Network,
    spikes: Chunks,
    reset: Reset | None,
    threads: int | None,
    max_memory: int,
    progress: Callable[[int], None] | None,
    path: Path,
) -> Summary:
    done = 0
    steps: int | None = None
    totals: list[_Totals] = []
    running: tuple[list[Future[None]], int] | None = None
    engine: _Engine | None = None

    def finish() -> None:
        nonlocal done
        if running is not None:
            for future in running[0]:
                future.result()
            done += running[1]
            if progress is not None:
                progress(done)

    try:
        for chunk in _chunks(spikes):
            frames = checked(network, chunk)
            if engine is None or steps is None:
                steps = frames.shape[-1]
                engine = _Engine(network, steps, reset, threads, max_memory, path, ())
            if frames.shape[-1] != steps:
                raise ConfigError(f"a chunk of {frames.shape[-1]} steps follows one of {steps}; all must be equally long.")
            total = _Totals.zeros(network, frames.shape[0])
            totals.append(total)
            started = (engine.start(frames, _Sinks({}, {}, {}, total)), frames.shape[0])
            finish()
            running = started
        finish()
    finally:
        if engine is not None:
            engine.close()
    if steps is None:
        raise ConfigError("there is no chunk of input; at least one sample is needed.")
    return Summary(
        samples=done,
        steps=steps,
        spikes={p.name: sum(int(t.spikes[:, i].sum()) for t in totals) for i, p in enumerate(network.populations)},
        operations={
            f"{p.source} -> {p.target}": sum(int(t.operations[:, i].sum()) for t in totals)
            for i, p in enumerate(network.projections)
        },
        voltage=np.concatenate([t.voltage for t in totals]),
        counts=np.concatenate([t.counts for t in totals]),
    )


def _chunks(spikes: Chunks) -> Iterator[Frames]:
    if isinstance(spikes, np.ndarray):
        yield spikes
    elif callable(spikes):
        yield from spikes()
    else:
        yield from spikes


def _is_compiled(network: Network) -> bool:
    """Whether the loops of this module know the network: a chain of LIF neurons and integrators; all others go to the reference."""
    return network.is_chain and all(p.neuron is None or isinstance(p.neuron, Lif | Integrator) for p in network.populations)


# --- the plan: everything that is decided before the first spike --------------------------------------------------------

T = TypeVar("T")
_KEPT: dict[tuple[Any, ...], tuple[weakref.ref[Network], Any]] = {}


def kept(make: Callable[..., T]) -> Callable[..., T]:
    """``make(network, ...)`` whose result is kept as long as the network, which cannot change, is there: the next call is free."""

    def get(network: Network, *arguments: Any) -> T:
        place = (make.__name__, id(network), *arguments)
        found = _KEPT.get(place)
        if found is not None and found[0]() is network:
            return cast(T, found[1])
        made = make(network, *arguments)
        _KEPT[place] = (weakref.ref(network, lambda _: _KEPT.pop(place, None)), made)
        return made

    return get


@dataclass(frozen=True)
class _Grid:
    """A population as events see it: rows of pixels of ``stride`` channels, the last of which may be padding."""

    rows: int
    pixels: int
    channels: int
    stride: int

    @property
    def row(self) -> int:
        return self.pixels * self.stride

    @property
    def room(self) -> int:
        """Numbers kept for the events of one row: writers store eight at a time, or one too many."""
        return self.pixels * self.channels + CHANNELS


@dataclass(frozen=True)
class _Layer:
    """One population of a chain, with the projection into it.

    ``lead``: frames before the first aligned one that have to be run (biases act from machine step 1, depth steps earlier).
    ``wide``: neurons in int64.  ``fused``: sums and neurons in one pass; else sums first (delays; a dense layer whose target has
    three dimensions).  ``numbers``: what the kernels read, in the order of :mod:`netx_export.kernels`.
    """

    population: Population
    projection: Projection | None
    source: Population | None
    grid: _Grid
    lead: int
    frames: int
    bound: int
    largest_input: int
    wide: bool
    fused: bool
    weight_type: np.dtype[Any]
    sum_type: np.dtype[Any]
    piece: int

    @property
    def state_type(self) -> np.dtype[Any]:
        return np.dtype(np.int64 if self.wide else np.int32)


def _grid(population: Population, flat: bool) -> _Grid:
    channels, rows, pixels = (population.size, 1, 1) if flat else (*population.shape, 1, 1)[:3]
    return _Grid(rows, pixels, channels, -(-channels // CHANNELS) * CHANNELS)


def _leads(network: Network, reset: Reset | None) -> list[int]:
    """Per population of a chain, the frames before its aligned frame 0 that can matter.

    Before frame 0 nothing but biases acts.  Those steps matter to a population whose state is not cleared at frame 0, and
    to one whose spikes of that time reach such a population, or arrive late, through delays.
    """
    count = len(network.populations)
    into = [network.into(p.name)[0] for p in network.populations[1:]]
    active = [False] * count  # can it have left zero before frame 0?
    for i in range(1, count):
        active[i] = active[i - 1] or network.populations[i].bias is not None
    cleared = reset is not None and reset.phase % reset.interval == 0
    leads = [0] * count
    later = 0
    for i in range(count - 1, 0, -1):
        leads[i] = i if active[i] and (not cleared or later) else 0
        delay = into[i - 1].delay
        later = leads[i] + (0 if delay is None else int(delay.max()))
    return leads


@kept
def _layers(network: Network, steps: int, reset: Reset | None, wide: bool) -> list[_Layer]:
    """The plan of a chain; ``wide``: for any drive of the input's neurons, else for one of at most 2**21."""
    largest_drive = 1 << 40 if wide else 1 << 21
    leads = _leads(network, reset)
    layers: list[_Layer] = []
    for i, population in enumerate(network.populations):
        projection = network.into(population.name)[0] if i else None
        source = network.populations[i - 1] if i else None
        bias = 0 if population.bias is None else int(np.abs(population.bias.astype(np.int64)).max())
        drive = largest_drive if not i and population.neuron is not None else 0
        bound = largest = heaviest = 0
        if projection is not None and source is not None:
            largest = input_range(network)[1] if source.neuron is None else 1
            weight = np.abs(projection.synapse.weight.astype(np.int64))
            bound = int(weight.reshape(weight.shape[0], -1).sum(axis=1).max()) * largest
            heaviest = int(weight.max()) * largest
        wide = bound > 1 << 18 or bias + drive > 1 << 22
        weight_type, sum_type, piece = _integers(bound, heaviest, wide)
        dense = projection is not None and isinstance(projection.synapse, Dense)
        fused = i > 0 and not (dense and (len(population.shape) == 3 or projection is None or projection.delay is not None))
        grid = _grid(population, flat=len(population.shape) == 1)
        layers.append(
            _Layer(
                population,
                projection,
                source,
                grid,
                leads[i],
                steps + leads[i],
                bound,
                largest,
                wide,
                fused,
                np.dtype(weight_type),
                np.dtype(sum_type),
                piece,
            )
        )
    return layers


def _integers(bound: int, heaviest: int, wide: bool) -> tuple[np.dtype[Any], np.dtype[Any], int]:
    """Types of weights and sums, and how many of the heaviest terms the weights' type can add up (the table at the top)."""
    int16, int32, int64 = np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.int64)
    if not wide and bound < 1 << 15:
        return int16, int16, 1 << 62
    if not wide and heaviest * 64 < 1 << 15:
        return int16, int32, ((1 << 15) - 1) // heaviest
    if bound < 1 << 31:
        return int32, int32, 1 << 62
    return int64, int64, 1 << 62


def _sample_bytes(layers: list[_Layer], probed: Collection[str]) -> int:
    """Working memory of one sample: frames in a narrow type; per population its events (4 bytes for each neuron and step, twice
    for a graded input) and row ends, u and v where they are kept; sums that are formed before their neurons run."""
    total = 0
    for layer in layers:
        grid = layer.grid
        cells = layer.frames * grid.rows
        total += cells * 4 * (grid.room + grid.pixels + 1)
        if layer.population.neuron is None:
            total += 5 * layer.population.size * layer.frames + cells * 4 * grid.room
        elif not layer.fused:
            total += 4 * cells * grid.row * layer.sum_type.itemsize
        if layer.population.name in probed:
            total += 3 * cells * grid.row * layer.state_type.itemsize
    return total


def _product_bytes(layers: list[_Layer]) -> int:
    """Working memory of one sample on the path of matrix products, in numpy: spikes, sums, neurons and temporaries in int64."""
    sizes = [layer.frames * layer.population.size for layer in layers]
    pairs = [a + b for a, b in zip([0, *sizes], sizes, strict=False)]
    return 24 * max(pairs) + 2 * COLUMN_BYTES


COLUMN_BYTES = 16 << 20  # of one im2col matrix


# --- the engine: a pool of threads, and blocks of samples for it ---------------------------------------------------------


@dataclass
class _Totals:
    """Where the blocks of one chunk put their counts: one line per sample, so that no two blocks write to one place."""

    spikes: Int64
    operations: Int64
    voltage: Int32
    counts: Int64

    @classmethod
    def zeros(cls, network: Network, batch: int) -> _Totals:
        size = network.output.size
        return cls(
            np.zeros((batch, len(network.populations)), np.int64),
            np.zeros((batch, len(network.projections)), np.int64),
            np.zeros((batch, size), np.int32),
            np.zeros((batch, size), np.int64),
        )


@dataclass(frozen=True)
class _Sinks:
    """Where results go: arrays of the whole batch, by population, and the totals."""

    spikes: dict[str, Int32]
    voltage: dict[str, Int32]
    current: dict[str, Int32]
    totals: _Totals | None


class _Engine:
    """Workers for one network and one length in time."""

    def __init__(
        self,
        network: Network,
        steps: int,
        reset: Reset | None,
        threads: int | None,
        max_memory: int,
        path: Path,
        probed: Collection[str],
    ) -> None:
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}; it must be at least 1.")
        self.network = network
        self.steps = steps
        self.reset = reset
        self.path = path
        self.probed = probed
        self.threads = threads if threads is not None else cores()
        self.compiled = _is_compiled(network)
        self.kernels = None if path == "product" and not self.compiled else _kernels()
        self.plans: dict[bool, _Plan] = {}
        self.idle: dict[bool, SimpleQueue[_Worker]] = {False: SimpleQueue(), True: SimpleQueue()}
        sample = self._bytes_of_one()
        if sample > max_memory:
            raise ConfigError(
                f"one sample of {steps} steps needs {-(-sample >> 20)} MiB, more than max_memory, {max_memory >> 20} MiB; "
                "allow more memory or run fewer steps."
            )
        self.workers = min(self.threads, max_memory // sample)
        self.most = min(max(1, BLOCK_BYTES // sample), max_memory // (sample * self.workers))
        self.pool = ThreadPoolExecutor(self.threads)

    def __enter__(self) -> _Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    def _bytes_of_one(self) -> int:
        """Working memory of one sample, at the widest."""
        network = self.network
        if not self.compiled:  # the reference: frames and recorded spikes in int64, states and sums under way, about
            neurons = sum(p.size for p in network.populations)
            waiting = sum(
                network[p.target].size * (4 if p.delay is None else 4 + int(p.delay.max())) for p in network.projections
            )
            return 8 * (neurons * (self.steps + 16) + waiting)
        layers = _layers(network, self.steps, self.reset, True)
        if self.kernels is None:
            return _product_bytes(layers)
        return _sample_bytes(layers, self.probed)

    def start(self, frames: Frames, sinks: _Sinks) -> list[Future[None]]:
        """Begins the work on a batch; the results are in ``sinks`` when all futures are done."""
        batch = frames.shape[0]
        if not self.compiled:
            return [self.pool.submit(self._reference, frames, sinks, a, b) for a, b in _blocks(batch, self.most)]
        largest = 0
        if self.network.input.neuron is not None:
            largest = max(abs(int(frames.min())), abs(int(frames.max())))
        wide = largest > 1 << 21
        if wide not in self.plans:
            self.plans[wide] = _prepared(self.network, self.steps, self.reset, wide, sinks.totals is not None)
        job = _Job(self.network, self.plans[wide], self.kernels, frames, sinks, self.path)
        if self.kernels is None:
            return [self.pool.submit(_run_products, job, a, b) for a, b in _blocks(batch, self.most)]
        if self.workers > 1 and batch < self.workers:  # too few samples for the threads: share the rows of each layer
            for a in range(batch):
                self._run(job, a, a + 1, self.pool)
            return []
        size = max(1, min(self.most, -(-batch // (4 * self.workers))))
        return [self.pool.submit(self._run, job, a, b, None) for a, b in _blocks(batch, size)]

    def _run(self, job: _Job, begin: int, end: int, pool: ThreadPoolExecutor | None) -> None:
        idle = self.idle[job.plan.wide]
        try:
            worker = idle.get_nowait()
        except Empty:
            worker = _Worker(job.network, job.plan, self.most, self.probed, job.sinks.totals is not None)
        worker.run(job, begin, end, pool, self.threads)
        idle.put(worker)

    def _reference(self, frames: Frames, sinks: _Sinks, begin: int, end: int) -> None:
        network = self.network
        names = [p.name for p in network.populations] if sinks.totals is not None else list(sinks.spikes)
        states = [network.output.name] if sinks.totals is not None else list(sinks.voltage)
        run = simulate(network, frames[begin:end], reset=self.reset, record=names, states=states)
        for name, array in sinks.spikes.items():
            array[begin:end] = run.spikes[name]
        for name in sinks.voltage:
            sinks.voltage[name][begin:end] = run.voltage[name]
            sinks.current[name][begin:end] = run.current[name]
        if sinks.totals is not None:
            _add_run(network, run, sinks.totals, begin, end)


def _add_run(network: Network, run: Run, totals: _Totals, begin: int, end: int) -> None:
    """The totals of a run in which all spikes and the output's voltage were recorded; sums go to the block's first sample."""
    output = network.output.name
    operations = synaptic_operations(network, run)
    totals.spikes[begin] = [int(np.count_nonzero(run.spikes[p.name])) for p in network.populations]
    totals.operations[begin] = [operations[f"{p.source} -> {p.target}"] for p in network.projections]
    totals.voltage[begin:end] = run.voltage[output][..., -1].reshape(end - begin, -1)
    totals.counts[begin:end] = np.count_nonzero(run.spikes[output], axis=-1).reshape(end - begin, -1)


def _blocks(batch: int, size: int) -> list[tuple[int, int]]:
    return [(a, min(a + size, batch)) for a in range(0, batch, size)]


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def _kernels() -> ModuleType | None:
    """The compiled loops, or None without numba."""
    if importlib.util.find_spec("numba") is None:
        return None
    from netx_export import kernels

    return kernels


# --- tables of a layer -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tables:
    """What the kernels read of one layer."""

    layer: _Layer
    numbers: Int64
    weights: NDArray[Any]  # (ky, kx, in, out), flat
    group_start: Int32  # first output channel of each row of weights, where there are groups
    bias: NDArray[Any]  # of one row of neurons, times 2**6
    delay_post: Int64
    delay_pre: Int64
    fan_out: Int64  # of this population's neurons: (rows, row); (0, 0) for the output, and where nobody counts


def _tables(network: Network, layers: list[_Layer], reset: Reset | None, counted: bool) -> list[_Tables]:
    tables = []
    for i, layer in enumerate(layers):
        before = layers[i - 1] if i else None
        grid, population = layer.grid, layer.population
        bias = np.zeros((grid.pixels, grid.stride), layer.state_type)
        if population.bias is not None:
            bias[:, : grid.channels] = population.bias.astype(layer.state_type) << SHIFT
        weights: NDArray[Any] = np.zeros(0, layer.weight_type)
        group_start: Int32 = np.zeros(0, np.int32)
        post = pre = np.zeros(0, np.int64)
        if before is not None and layer.projection is not None:
            synapse = layer.projection.synapse
            if isinstance(synapse, Conv):
                weights, group_start = _conv_rows(synapse, before.grid, layer.weight_type)
            else:
                weights = _dense_rows(synapse, before, layer)
            delay = layer.projection.delay
            if delay is not None and delay.shape[1] == 1:
                post = _on_grid(delay[:, 0].astype(np.int64), grid).reshape(-1)
            elif delay is not None:
                pre = _on_grid(delay[0].astype(np.int64), before.grid).reshape(-1)
        reach: Int64 = np.zeros((0, 0), np.int64)
        if counted and i + 1 < len(layers):
            after = layers[i + 1].projection
            assert after is not None
            spread = _on_grid(fan_out(after.synapse, population.shape).reshape(-1), grid)
            reach = np.ascontiguousarray(spread.reshape(grid.rows, grid.row))
        tables.append(_Tables(layer, _numbers(layer, before, reset), weights, group_start, bias.reshape(-1), post, pre, reach))
    return tables


def _on_grid(values: NDArray[Any], grid: _Grid) -> NDArray[Any]:
    """Values of neurons in C, H, W order (last axis) as (..., rows, pixels, stride), zero in the padding."""
    lead = values.shape[:-1]
    out = np.zeros((*lead, grid.rows, grid.pixels, grid.stride), values.dtype)
    cube = values.reshape(*lead, grid.channels, grid.rows, grid.pixels)
    out[..., : grid.channels] = np.moveaxis(cube, -3, -1)
    return out


def _off_grid(values: NDArray[Any], population: Population, grid: _Grid) -> NDArray[Any]:
    """The way back: (..., rows, row) as (..., *shape)."""
    lead = values.shape[:-2]
    cube = values.reshape(*lead, grid.rows, grid.pixels, grid.stride)[..., : grid.channels]
    return np.moveaxis(cube, -1, -3).reshape(*lead, *population.shape)


def _conv_rows(conv: Conv, source: _Grid, weight_type: np.dtype[Any]) -> tuple[NDArray[Any], Int32]:
    """Weights as rows (ky, kx, in), each of its output channels, padded; with groups, of the channels of its group only."""
    out, inputs, kernel_y, kernel_x = conv.weight.shape
    if conv.groups == 1:
        rows = np.zeros((kernel_y, kernel_x, source.stride, -(-out // COLUMNS) * COLUMNS), weight_type)
        rows[:, :, :inputs, :out] = conv.weight.transpose(2, 3, 1, 0)
        return rows.reshape(-1), np.zeros(0, np.int32)
    per_group = out // conv.groups
    rows = np.zeros((kernel_y, kernel_x, source.stride, per_group), weight_type)
    grouped = conv.weight.reshape(conv.groups, per_group, inputs, kernel_y, kernel_x).transpose(3, 4, 0, 2, 1)
    rows[:, :, : conv.in_channels] = grouped.reshape(kernel_y, kernel_x, conv.in_channels, per_group)
    first = np.zeros((kernel_y, kernel_x, source.stride), np.int32)
    first[:, :, : conv.in_channels] = np.arange(conv.in_channels) // inputs * per_group
    return rows.reshape(-1), first.reshape(-1)


def _dense_rows(dense: Dense, before: _Layer, layer: _Layer) -> NDArray[Any]:
    """Weights as rows (y, x, c) of the source's grid, each of all targets in their grid's order, padded."""
    by_pre = _on_grid(dense.weight, before.grid).reshape(dense.weight.shape[0], -1)
    by_post = _on_grid(np.ascontiguousarray(by_pre.T), layer.grid).reshape(by_pre.shape[1], -1)
    rows = np.zeros((by_post.shape[0], -(-by_post.shape[1] // COLUMNS) * COLUMNS), layer.weight_type)
    rows[:, : by_post.shape[1]] = by_post
    return rows.reshape(-1)


def _numbers(layer: _Layer, before: _Layer | None, reset: Reset | None) -> Int64:
    """The numbers of a layer in the order of netx_export.kernels (FRAMES, LEAD, ...)."""
    neuron, grid = layer.population.neuron, layer.grid
    frame = [layer.frames, layer.lead]
    clear = [0, 0] if reset is None else [reset.interval, reset.phase % reset.interval]
    dynamics = [0] * 6
    if isinstance(neuron, Lif | Integrator):
        keep_u, keep_v = 4096 - neuron.current_decay, 4096 - neuron.voltage_decay
        zeros = min((keep_v & -keep_v).bit_length() - 1, 12) if keep_v else 12
        few = keep_v >> zeros if 0 < keep_v >> zeros < 1 << 8 else 0  # |v| * few < 2**31
        short = int(keep_u == 0 and layer.bound < 1 << 17)
        dynamics = [keep_u, keep_v, neuron.threshold << SHIFT, short, few, 12 - zeros]
    synapse = None if layer.projection is None else layer.projection.synapse
    place = [int(isinstance(synapse, Conv)), grid.rows, grid.pixels, grid.stride, grid.room]
    if before is None or synapse is None:
        return np.array([*frame, *clear, *dynamics, *place, *[0] * 17], np.int64)
    source = before.grid
    come = [before.frames, before.lead, source.rows, source.pixels, source.stride, source.room]
    if isinstance(synapse, Conv):
        kernel_y, kernel_x = synapse.weight.shape[2:]
        width = -(-grid.channels // COLUMNS) * COLUMNS
        per_group = 0 if synapse.groups == 1 else grid.channels // synapse.groups
        shape = [kernel_y, kernel_x, *synapse.stride, *synapse.padding, *synapse.dilation, width, per_group]
    else:  # a kernel as large as its source
        width = -(-grid.rows * grid.row // COLUMNS) * COLUMNS
        shape = [source.rows, source.pixels, 1, 1, 0, 0, 1, 1, width, 0]
    return np.array([*frame, *clear, *dynamics, *place, *come, *shape, layer.piece], np.int64)


# --- a block of samples through all layers, by events ---------------------------------------------------------------------


class _Events:
    """Buffers for the events of one population, for ``size`` samples; and u, v and sums where they are needed."""

    def __init__(self, layer: _Layer, size: int, graded: bool, probed: bool, last: bool) -> None:
        grid = layer.grid
        cells = (size, layer.frames, grid.rows)
        self.events = np.empty(math.prod(cells) * grid.room, np.int32)
        self.values: NDArray[Any] = np.empty(self.events.size, np.int32) if graded else np.empty(0, np.int8)
        self.ends = np.zeros((*cells, grid.pixels + 1), np.int32)
        self.flat_ends = self.ends.reshape(-1)
        state = (*cells, grid.row) if probed else (0, 0, 0, 0)
        self.u = np.empty(state, layer.state_type)
        self.v = np.empty(state, layer.state_type)
        self.last_v = np.empty((size, grid.rows, grid.row) if last else (0, 0, 0), layer.state_type)


@dataclass(frozen=True)
class _Plan:
    """A network made ready for one length in time, one reset and one range of drives."""

    layers: list[_Layer]
    tables: list[_Tables]
    reset: Reset | None
    wide: bool


@kept
def _prepared(network: Network, steps: int, reset: Reset | None, wide: bool, counted: bool) -> _Plan:
    layers = _layers(network, steps, reset, wide)
    return _Plan(layers, _tables(network, layers, reset, counted), reset, wide)


@dataclass(frozen=True)
class _Job:
    """What is the same for all blocks of a batch."""

    network: Network
    plan: _Plan
    kernels: Any
    frames: Frames
    sinks: _Sinks
    path: Path


class _Worker:
    """Buffers for a block, and the run of a block through all layers; ``pool``: to share the rows of a layer, or None."""

    def __init__(self, network: Network, plan: _Plan, size: int, probed: Collection[str], last: bool) -> None:
        self.buffers = []
        for layer in plan.layers:
            population = layer.population
            graded = population.neuron is None and network.input_bits > 1
            kept = population.neuron is not None and population.name in probed
            self.buffers.append(_Events(layer, size, graded, kept, last and layer is plan.layers[-1]))

    def run(self, job: _Job, begin: int, end: int, pool: ThreadPoolExecutor | None = None, shares: int = 1) -> None:
        count = end - begin
        block = job.frames[begin:end]
        for i, table in enumerate(job.plan.tables):
            if i == 0:
                self._input(job, table, block, pool, shares)
            else:
                self._layer(job, i, count, pool, shares)
            self._keep(job, i, block, begin, end)

    def _input(self, job: _Job, table: _Tables, block: Frames, pool: ThreadPoolExecutor | None, shares: int) -> None:
        layer, here, kernels = table.layer, self.buffers[0], job.kernels
        grid, count = layer.grid, block.shape[0]
        cube = block.reshape(count, grid.channels, grid.rows, grid.pixels, block.shape[-1])
        if layer.population.neuron is None:
            cube = np.ascontiguousarray(cube)
            if cube.dtype.itemsize == 1:
                cube = cube.view(np.uint8)
            else:
                cube = cube.astype(np.uint8 if input_range(job.network)[1] < 256 else np.int32)

            def encode(y0: int, y1: int) -> None:
                kernels.encode(cube, grid.stride, grid.room, here.events, here.values, here.flat_ends, 0, count, y0, y1)

            _share(encode, grid.rows, pool, shares)
            return
        drive = np.zeros((count, layer.frames, grid.rows, grid.pixels, grid.stride), layer.state_type)
        drive[..., : grid.channels] = cube.transpose(0, 4, 2, 3, 1)
        none = np.zeros((0, 0, 0, 0), layer.sum_type)
        self._neurons(job, table, here, none, drive.reshape(count, layer.frames, grid.rows, grid.row), count, pool, shares)

    def _layer(self, job: _Job, i: int, count: int, pool: ThreadPoolExecutor | None, shares: int) -> None:
        table, before, here, kernels = job.plan.tables[i], self.buffers[i - 1], self.buffers[i], job.kernels
        layer, source, grid = table.layer, job.plan.layers[i - 1], table.layer.grid
        if job.path == "product":
            spikes = np.zeros((count, source.grid.channels, source.grid.rows, source.grid.pixels, source.frames), np.int32)
            kernels.decode(
                0, source.grid.room, source.grid.stride, before.events, before.values, before.ends, 0, count, spikes
            )
            sums = _arrivals(layer, source, np.moveaxis(spikes, -1, 1)).astype(layer.sum_type)
            sums = _on_grid(sums, grid).reshape(count, layer.frames, grid.rows, grid.row)
        elif layer.fused:

            def fused(y0: int, y1: int) -> None:
                kernels.layer(
                    table.numbers, table.weights, table.group_start, table.bias, before.events, before.values, before.flat_ends,
                    np.zeros(0, layer.sum_type), np.zeros(0, layer.state_type), here.events, here.flat_ends, here.u, here.v, here.last_v,
                    int(here.u.size > 0), 0, count, y0, y1,
                )  # fmt: skip

            _share(fused, grid.rows, pool, shares)
            return
        else:
            sums = np.empty((count, layer.frames, grid.rows * grid.row), layer.sum_type)
            kernels.dense_sums(
                table.numbers,
                table.weights,
                table.delay_post,
                table.delay_pre,
                before.events,
                before.values,
                before.ends,
                sums,
                0,
                count,
            )
            sums = sums.reshape(count, layer.frames, grid.rows, grid.row)
        self._neurons(job, table, here, sums, np.zeros((0, 0, 0, 0), layer.state_type), count, pool, shares)

    @staticmethod
    def _neurons(
        job: _Job, table: _Tables, here: _Events, sums: NDArray[Any], drive: NDArray[Any], count: int,
        pool: ThreadPoolExecutor | None, shares: int,
    ) -> None:  # fmt: skip
        def neurons(y0: int, y1: int) -> None:
            job.kernels.neurons(
                table.numbers, sums, drive, table.bias, np.zeros(0, table.layer.state_type), here.events, here.flat_ends, here.u, here.v,
                here.last_v, int(here.u.size > 0), 0, count, y0, y1,
            )  # fmt: skip

        _share(neurons, table.layer.grid.rows, pool, shares)

    def _keep(self, job: _Job, i: int, block: Frames, begin: int, end: int) -> None:
        """Puts into the sinks what was asked for of population i."""
        layer, here, count = job.plan.layers[i], self.buffers[i], end - begin
        grid, population, sinks, kernels = layer.grid, layer.population, job.sinks, job.kernels
        if population.name in sinks.spikes:
            out = sinks.spikes[population.name][begin:end]
            if population.neuron is None:
                out[...] = block
            else:
                cube = out.reshape(count, grid.channels, grid.rows, grid.pixels, out.shape[-1])
                kernels.decode(layer.lead, grid.room, grid.stride, here.events, here.values, here.ends, 0, count, cube)
        if here.u.size:
            for state, kept in ((here.u, sinks.current), (here.v, sinks.voltage)):
                kept[population.name][begin:end] = np.moveaxis(_off_grid(state[:count, layer.lead :], population, grid), 1, -1)
        if sinks.totals is not None:
            last = i + 1 == len(job.plan.layers)
            counts = np.zeros((count, grid.rows, grid.row) if last else (0, 0, 0), np.int64)
            spikes, operations = kernels.tally(
                layer.lead, grid.room, here.events, here.ends, job.plan.tables[i].fan_out, counts, 0, count
            )
            sinks.totals.spikes[begin, i] = spikes
            if not last:
                sinks.totals.operations[begin, i] = operations
            else:
                sinks.totals.counts[begin:end] = _off_grid(counts, population, grid).reshape(count, -1)
                if population.neuron is not None:
                    sinks.totals.voltage[begin:end] = _off_grid(here.last_v[:count], population, grid).reshape(count, -1)


def _share(run: Callable[[int, int], None], rows: int, pool: ThreadPoolExecutor | None, shares: int) -> None:
    """``run(y0, y1)`` over all rows, in pieces on the pool where there is one."""
    if pool is None or rows < 2 or shares < 2:
        run(0, rows)
        return
    pieces = min(rows, 2 * shares)
    edges = [rows * i // pieces for i in range(pieces + 1)]
    for future in [pool.submit(run, a, b) for a, b in itertools.pairwise(edges)]:
        future.result()


# --- sums by matrix products (numpy) ---------------------------------------------------------------------------------------


def _arrivals(layer: _Layer, source: _Layer, spikes: NDArray[Any]) -> Int64:
    """Sums that arrive in each frame of a layer.

    Args:
        spikes: (samples, source frames, ...) of the source in C, H, W order.

    Returns:
        int64 (samples, frames, N).
    """
    assert layer.projection is not None
    synapse, delay = layer.projection.synapse, layer.projection.delay
    samples, sent = spikes.shape[:2]
    flat = spikes.reshape(samples * sent, *source.population.shape)
    out = np.zeros((samples, layer.frames, layer.population.size), np.int64)

    def add(sums: Int64, steps: int, chosen: slice | NDArray[Any]) -> None:
        shift = layer.lead - source.lead + steps
        first, last = max(0, -shift), min(sent, layer.frames - shift)
        if first < last:
            out[:, first + shift : last + shift, chosen] += sums.reshape(samples, sent, -1)[:, first:last, chosen]

    if delay is None:
        add(products(synapse, flat, layer.bound), 0, slice(None))
    elif delay.shape[1] == 1:
        sums = products(synapse, flat, layer.bound)
        for steps in np.unique(delay):
            add(sums, int(steps), np.flatnonzero(delay[:, 0] == steps))
    else:
        rows = flat.reshape(samples * sent, -1)
        for steps in np.unique(delay):
            add(products(synapse, np.where(delay[0] == steps, rows, 0), layer.bound), int(steps), slice(None))
    return out


def products(synapse: Dense | Conv, spikes: NDArray[Any], bound: int) -> Int64:
    """The sums of :func:`netx_export.simulate.project`, by matrix products in the fastest type that is exact.

    float32 holds all integers up to 2**24, float64 up to 2**53; with ``bound`` below that no sum of any subset of terms, in
    any order, is rounded.

    Args:
        synapse: Dense or Conv.
        spikes: integers (batch, *source shape).
        bound: max over outputs of sum |weight| * largest spike.

    Returns:
        int64 (batch, post) or (batch, C, H, W).
    """
    kind = np.float32 if bound < 1 << 24 else np.float64 if bound < 1 << 53 else np.int64
    batch = spikes.shape[0]
    if isinstance(synapse, Dense):
        found: Int64 = (spikes.reshape(batch, -1).astype(kind) @ synapse.weight.T.astype(kind)).astype(np.int64)
        return found
    channels, height, width = synapse.output_shape(spikes.shape[1:])
    (sy, sx), (py, px), (dy, dx) = synapse.stride, synapse.padding, synapse.dilation
    out, inputs, kernel_y, kernel_x = synapse.weight.shape
    per_group = out // synapse.groups
    sums = np.empty((batch, channels, height, width), np.int64)
    cells = inputs * kernel_y * kernel_x
    step = max(1, COLUMN_BYTES // (height * width * (cells + per_group) * 8))
    for g in range(synapse.groups):
        kernel = (
            synapse.weight[g * per_group : (g + 1) * per_group].transpose(2, 3, 1, 0).reshape(cells, per_group).astype(kind)
        )
        for a in range(0, batch, step):
            part = spikes[a : a + step, g * inputs : (g + 1) * inputs].transpose(0, 2, 3, 1).astype(kind)
            part = np.pad(part, ((0, 0), (py, py), (px, px), (0, 0)))
            n, y, x, c = part.strides
            patches = np.lib.stride_tricks.as_strided(
                part,
                (part.shape[0], height, width, kernel_y, kernel_x, inputs),
                (n, y * sy, x * sx, y * dy, x * dx, c),
                writeable=False,
            )
            result = patches.reshape(-1, cells) @ kernel
            sums[a : a + step, g * per_group : (g + 1) * per_group] = np.moveaxis(
                result.reshape(part.shape[0], height, width, per_group), -1, 1
            )
    return wrap_signed(sums, 24).astype(np.int64)


def _run_products(job: _Job, begin: int, end: int) -> None:
    """A block of samples through all layers with numpy alone."""
    network, sinks, reset = job.network, job.sinks, job.plan.reset
    block = job.frames[begin:end]
    spikes: NDArray[Any] = np.moveaxis(block, -1, 1)
    totals = sinks.totals
    for i, layer in enumerate(job.plan.layers):
        population = layer.population
        if population.neuron is not None:
            if i:
                sums = _arrivals(layer, job.plan.layers[i - 1], spikes).reshape(end - begin, layer.frames, *population.shape)
                drive = None
            else:
                sums, drive = None, spikes
            spikes, last_v = _neurons_numpy(layer, reset, sums, drive, sinks, begin, end)
        shown = np.moveaxis(spikes[:, layer.lead :], 1, -1)
        if population.name in sinks.spikes:
            sinks.spikes[population.name][begin:end] = shown
        if totals is None:
            continue
        neuron_counts = np.count_nonzero(shown, axis=(0, -1)).astype(np.int64)
        totals.spikes[begin, i] = neuron_counts.sum()
        if i + 1 < len(job.plan.layers):
            after = network.into(network.populations[i + 1].name)[0]
            totals.operations[begin, i] = (neuron_counts * fan_out(after.synapse, population.shape)).sum()
        else:
            totals.counts[begin:end] = np.count_nonzero(shown, axis=-1).reshape(end - begin, -1)
            if population.neuron is not None:
                totals.voltage[begin:end] = last_v.reshape(end - begin, -1)


def _neurons_numpy(
    layer: _Layer, reset: Reset | None, sums: Int64 | None, drive: NDArray[Any] | None, sinks: _Sinks, begin: int, end: int
) -> tuple[NDArray[np.uint8], Int64]:
    """Spikes (samples, frames, *shape) of one layer and its last v, in numpy int64: the reference's step, for all samples."""
    population, neuron = layer.population, layer.population.neuron
    assert isinstance(neuron, Lif | Integrator)
    count, name = end - begin, population.name
    u = np.zeros((count, *population.shape), np.int64)
    v = np.zeros_like(u)
    bias: Int64 = np.zeros(1, np.int64)
    if population.bias is not None:
        bias = population.bias.astype(np.int64).reshape(-1, *(1,) * (len(population.shape) - 1)) << SHIFT
    spikes = np.zeros((count, layer.frames, *population.shape), np.uint8)
    for frame in range(layer.frames):
        t = frame - layer.lead
        if reset is not None and (t - reset.phase) % reset.interval == 0:
            u[:] = 0
            v[:] = 0
        arriving = np.zeros_like(u) if sums is None else sums[:, frame] << SHIFT
        pushed = bias if drive is None else bias + (drive[:, frame].astype(np.int64) << SHIFT)
        u = wrap24(decay(u, neuron.current_decay) + arriving).astype(np.int64)
        v = sat24(decay(v, neuron.voltage_decay) + u + pushed).astype(np.int64)
        fired = v > (neuron.threshold << SHIFT)
        v[fired] = 0
        spikes[:, frame] = fired
        if t >= 0 and name in sinks.voltage:
            sinks.voltage[name][begin:end, ..., t] = v
            sinks.current[name][begin:end, ..., t] = u
    return spikes, v
