"""Runs a netx file on Lava: the stock lava-dl reader and fixed-point models, in a child process with a time limit.

The recipe that is exact (each equality is a test): with L = number of projections from the input to the output, T = steps of a
window and R = the next power of two >= T (Loihi 2 knows no other interval), sample s is shown in steps [s*R, s*R + T), silence
follows up to (s + 1)*R, every layer clears its state when the next sample's first step reaches it, and the output's answer to
sample s leaves in steps [s*R + L, s*R + L + T).  All samples go through one run, one after another.

The child is ``python -m netx_export.lava_run FOLDER``: an exception in a Lava process model can hang the whole program, and
Lava wants to fork from a process that has not touched multiprocessing or torch.  In the child the input and the output are
processes of our own that work on memory-mapped files, so nothing large passes through Lava's variables (``Var.get`` takes
25-30 us per element).

Lava's convolution is a scipy.signal.convolve2d for every pair of channels; ``models="fast"`` puts a model of our own in its
place, a matrix product that computes the same integers, and takes LIF neurons in fewer passes over memory.

What a reset does not clear makes each sample a run of its own: sigma-delta neurons, which know no reset, and sums that are
under way when it comes, in recurrent projections and those with delays.

Lava's axes are (W, H, C); only this module turns them.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from netx_export import hdf5, lava_compat
from netx_export.engine import products
from netx_export.errors import ConfigError, MissingError, NetworkError, RunError
from netx_export.integers import DECAY_ONE, SHIFT, STATE_LIMIT, IntArray, weight_format, wrap24
from netx_export.network import Conv, Delta, Dense, Integrator, Lif, Network, Projection, Sigma, SigmaDelta
from netx_export.simulate import check_input, check_names

MAX_GROUPS = 127  # beyond it Lava's convolution sums into 8-bit indices and answers wrongly, in silence
MAX_BIAS = 32767  # a bias mantissa has 16 bits in Lava's models
BACKENDS = ("cpu", "loihi2")
MODELS = ("stock", "fast")
STATES = {"Sigma": "sigma", "SigmaDelta": "act"}  # Lava's neuron -> the variable that is its voltage here; v of all others
POLL_SECONDS = 0.02
GRACE_SECONDS = 1.0
ERROR_LINES = 6


@dataclass(frozen=True)
class LavaRun:
    """What Lava answered.

    Args:
        spikes: int32 (samples, *output shape, T), aligned: index t answers to index t of the input.
        voltage: int32 (samples, *output shape), the output population's v after step T - 1 of each sample; None where it
            was not asked for.
        seconds: wall time of the steps, without the start of Lava's processes.
        steps: number of time steps that ran.
        versions: of lava-nc, lava-dl and numpy.
        hidden: spikes of the other populations that were asked for, (samples, *shape, T), aligned: int8, or int32 where they
            are messages of sigma-delta neurons.
    """

    spikes: NDArray[np.int32]
    voltage: NDArray[np.int32] | None
    seconds: float
    steps: int
    versions: Mapping[str, str]
    hidden: Mapping[str, NDArray[np.signedinteger[Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """What the child is to do; written to job.json."""

    path: str
    samples: int
    steps: int
    reset_interval: int
    reset_phase: int
    input_bits: int
    voltage: bool
    num_layers: int | None
    skip_layers: int
    backend: str
    models: str
    driven: bool
    encoded: bool
    hidden: dict[str, int]  # population -> its depth
    wide: list[str]  # those of them whose spikes need 32 bits


def run_lava(
    path: Path | str,
    spikes: NDArray[np.integer[Any]],
    *,
    reset_phase: int = 0,
    input_bits: int | None = None,
    voltage: bool = False,
    num_layers: int | None = None,
    skip_layers: int = 0,
    timeout: float = 600.0,
    backend: str = "cpu",
    models: str = "stock",
    record: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> LavaRun:
    """Runs a netx file on Lava, many samples one after another, and returns what its output population answered.

    Args:
        path: the netx file; a trailing ``average`` is left to the host.
        spikes: integers (samples, *input shape in C, H, W order, T): 0/1, or graded below 2**input_bits; for an input
            population that has neurons: their bias mantissas.  The same array as :func:`netx_export.simulate.simulate` takes.
        reset_phase: aligned step of each window before which the states are cleared; anything but 0 lets samples leak into
            each other.
        input_bits: bits of a graded input spike (0: spikes are 0 or 1); None: what the file says.
        voltage: also read the output population's v at the end of each window (of sigma-delta neurons: sigma, or the activation).
        num_layers: use only the first so many layers of the file (input and flatten layers count).
        skip_layers: leave out the first so many of them; the input is then that of the first one that is left.
        timeout: seconds, start included.
        backend: "cpu" (Lava's simulation) or "loihi2" (needs Intel's extension; never run by this project's authors).
        models: "stock", or "fast": our own models of convolutions (which also take more than 127 groups) and of LIF neurons.
        record: other populations whose spikes are wanted too, all in the same run.
        progress: called with (samples done, samples) while it runs.

    Raises:
        MissingError: when Lava, or the extension for the backend, is not installed.
        ConfigError: for an input of the wrong shape, type or range, or an unknown backend.
        FormatError: when the file is not a netx file.
        NetworkError: for layers that stock Lava computes wrongly (see :func:`check_stock_lava`).
        RunError: when Lava fails or takes longer than ``timeout``; all its processes are then gone.
    """
    path = Path(path).resolve()
    check_backend(backend)
    if models not in MODELS:
        raise ConfigError(f"models {models!r} are unknown; choose one of {', '.join(MODELS)}.")
    network = hdf5.read(path, as_lava=True)
    check_stock_lava(network, models=models)
    if backend != "cpu" and (models != "stock" or network.has_sigma_delta):
        raise ConfigError(f"backend {backend!r} runs stock models and no sigma-delta neurons here; use backend 'cpu'.")
    if input_bits is not None:
        network = replace(network, input_bits=input_bits)
    frames = check_input(network, spikes) if skip_layers == 0 else np.asarray(spikes)
    if frames.ndim < 3 or not frames.size or frames.dtype.kind not in "iub":
        raise ConfigError(f"the input has the shape {frames.shape} of {frames.dtype}; expected whole (samples, *shape, time).")
    if skip_layers < 0 or (num_layers is not None and num_layers <= skip_layers):
        raise ConfigError(
            f"num_layers {num_layers} and skip_layers {skip_layers} leave no layer; num_layers must be the larger."
        )
    if not timeout > 0:
        raise ConfigError(f"timeout is {timeout} s; it must be above 0.")
    samples, steps = frames.shape[0], frames.shape[-1]
    lasting = network.has_sigma_delta or any(p.delay is not None or p.source == p.target for p in network.projections)
    if lasting and samples > 1:
        return _sample_by_sample(
            lambda sample, seconds: run_lava(
                path,
                sample,
                reset_phase=reset_phase,
                input_bits=input_bits,
                voltage=voltage,
                num_layers=num_layers,
                skip_layers=skip_layers,
                timeout=seconds,
                backend=backend,
                models=models,
                record=record,
            ),
            frames,
            timeout,
            progress,
        )
    if record and (num_layers is not None or skip_layers):
        raise ConfigError("other populations are recorded in a run of the whole file only; drop num_layers and skip_layers.")
    check_names(network, record, [])
    depth = network.depth
    driven = network.input.neuron is not None and skip_layers == 0
    job = _Job(
        str(path),
        samples,
        steps,
        reset_interval=1 << (steps - 1).bit_length(),
        reset_phase=reset_phase,
        input_bits=network.input_bits,
        voltage=voltage,
        num_layers=num_layers,
        skip_layers=skip_layers,
        backend=backend,
        models=models,
        driven=driven,
        encoded=driven and isinstance(network.input.neuron, Delta),
        hidden={name: depth[name] for name in record if network[name].neuron is not None and name != network.output.name},
        wide=[name for name in record if isinstance(network[name].neuron, Delta | SigmaDelta | Sigma)],
    )
    if job.driven and not job.encoded and (frames.min() < -MAX_BIAS - 1 or frames.max() > MAX_BIAS):
        raise ConfigError(
            f"input biases {frames.min()}..{frames.max()}; Lava holds {-MAX_BIAS - 1}..{MAX_BIAS}, the chip 13 bits."
        )
    with tempfile.TemporaryDirectory(prefix="qpsnn-lava-") as name:
        folder = Path(name)
        needed = sum(samples * steps * network[n].size * (4 if n in job.wide else 1) for n in job.hidden)
        if needed > (free := shutil.disk_usage(folder).free):
            raise ConfigError(
                f"recording {', '.join(record)} takes {needed} bytes, {folder.parent} has {free}; use fewer samples."
            )
        try:
            np.save(folder / "frames.npy", _compact(np.moveaxis(frames, -1, 1)))
            (folder / "job.json").write_text(json.dumps(asdict(job)), encoding="utf-8")
        except OSError as error:
            raise RunError(f"cannot write the job of a Lava run to {folder}: {error.strerror or error}; make room.") from None
        supervise(
            [sys.executable, "-m", "netx_export.lava_run", str(folder)],
            folder,
            timeout=timeout,
            what=f"Lava on {path.name}",
            on_poll=_reporter(folder, samples, progress),
        )
        answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        out = np.load(folder / "spikes.npy")
        v = np.load(folder / "voltage.npy") if voltage else None
        hidden = {n: _from_lava(np.load(folder / f"hidden-{i}.npy")) for i, n in enumerate(job.hidden)}
    return LavaRun(
        spikes=_from_lava(out),
        voltage=None if v is None else _from_lava(v),
        seconds=float(answer["seconds"]),
        steps=int(answer["steps"]),
        versions=answer["versions"],
        hidden=hidden | {n: frames if n == network.input.name else _from_lava(out) for n in record if n not in hidden},
    )


def _from_lava(values: NDArray[Any]) -> NDArray[Any]:
    """(samples, [T,] W, H, C) or (samples, [T,] N) as (samples, C, H, W[, T])."""
    return np.ascontiguousarray(values.transpose(0, *range(values.ndim - 1, 0, -1)))


def _sample_by_sample(
    run: Callable[[NDArray[Any], float], LavaRun],
    frames: NDArray[Any],
    timeout: float,
    progress: Callable[[int, int], None] | None,
) -> LavaRun:
    """One run for each sample, all of them within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    runs = []
    for i in range(frames.shape[0]):
        runs.append(run(frames[i : i + 1], max(deadline - time.monotonic(), 0.01)))
        if progress is not None:
            progress(i + 1, frames.shape[0])
    voltages = [r.voltage for r in runs if r.voltage is not None]
    return LavaRun(
        spikes=np.concatenate([r.spikes for r in runs]),
        voltage=np.concatenate(voltages) if voltages else None,
        seconds=sum(r.seconds for r in runs),
        steps=sum(r.steps for r in runs),
        versions=runs[0].versions,
        hidden={name: np.concatenate([r.hidden[name] for r in runs]) for name in runs[0].hidden},
    )


def lava_network(
    path: Path | str,
    *,
    reset_interval: int | None = None,
    reset_offset: int = 1,
    input_bits: int | None = None,
    num_layers: int | None = None,
    skip_layers: int = 0,
    sparse_fc_layer: bool = False,
) -> Any:
    """The stock lava-dl ``Network`` process of a netx file, to connect and run in an application of your own.

    Run it with ``Loihi2SimCfg(select_tag="fixed_pt")``: without that tag Lava picks floating-point models, whose answers are
    meaningless here.  ``inp`` and ``out`` are in Lava's axes, (W, H, C).  The file stays open while the process lives.

    Args:
        path: the netx file; a trailing ``average`` is left out.
        reset_interval: steps between two resets of all layers; None: never.  A power of two on Loihi 2.
        reset_offset: 1 for an input of spikes (samples then start at multiples of the interval), 0 for an input population
            that is driven through its bias; lava-dl's own default, 0, mixes consecutive samples of the former.
        input_bits: bits of a graded input spike (0: spikes are 0 or 1); None: what the file says.
        num_layers, skip_layers: as in :func:`run_lava`.
        sparse_fc_layer: store dense layers as sparse ones.

    Returns:
        ``lava.lib.dl.netx.hdf5.Network``.

    Raises:
        MissingError, FormatError, NetworkError: as in :func:`run_lava`.
    """
    path = Path(path).resolve()
    network = hdf5.read(path, as_lava=True)
    check_stock_lava(network)
    netx = lava_compat.import_netx()
    lava_compat.use_fork()
    return _stock_network(
        netx,
        str(path),
        num_layers=num_layers,
        skip_layers=skip_layers,
        input_message_bits=network.input_bits if input_bits is None else input_bits,
        reset_interval=reset_interval,
        reset_offset=reset_offset,
        sparse_fc_layer=sparse_fc_layer,
    )


def check_stock_lava(network: Network, *, models: str = "stock") -> None:
    """Refuses what Lava would compute wrongly, in silence or with a crash.

    Args:
        network: a chain, as netx files hold it.
        models: "stock", or "fast", which takes any number of groups.

    Raises:
        NetworkError: more than 127 groups of a convolution, a dense matrix that is not stored exactly, or a bias beyond 16 bits.
    """
    for wrong in wrong_on_lava(network, models=models):
        raise NetworkError(f"{wrong.where}: {wrong.what}. {wrong.way}")


@dataclass(frozen=True)
class WrongOnLava:
    """Something that Lava computes wrongly, in silence or with a crash.

    Args:
        layer: the population.
        where: it, or the projection into it.
        key: "bias", "groups" or "weight".
        what, way: what is wrong, and what to do.
    """

    layer: str
    where: str
    key: str
    what: str
    way: str


def wrong_on_lava(network: Network, *, models: str = "stock") -> Iterator[WrongOnLava]:
    """All that :func:`check_stock_lava` refuses, one by one."""
    for population in network.populations:
        if population.bias is not None and isinstance(population.neuron, Lif | Integrator):
            least, most = int(population.bias.min()), int(population.bias.max())
            if least < -MAX_BIAS - 1 or most > MAX_BIAS:
                what = f"bias mantissas {least}..{most}; Lava cuts them to 16 bits ({-MAX_BIAS - 1}..{MAX_BIAS}), in silence"
                way = "Rescale the layer, or simulate the network instead."
                yield WrongOnLava(population.name, population.name, "bias", what, way)
    for projection in network.projections:
        where, synapse = f"{projection.source} -> {projection.target}", projection.synapse
        if isinstance(synapse, Conv) and synapse.groups > MAX_GROUPS and models == "stock":
            what = f"{synapse.groups} groups; stock Lava computes convolutions of more than {MAX_GROUPS} wrongly"
            way = "Use the fast models, simulate the network instead, or use fewer channels there."
            yield WrongOnLava(projection.target, where, "groups", what, way)
        if isinstance(synapse, Dense) and not dense_is_exact(*(p.synapse.weight for p in _stored_with(network, projection))):
            what = (
                f"stock Lava does not store dense weights {synapse.weight.min()}..{synapse.weight.max()} exactly "
                "(all zero, beyond -256..254, or none positive and the least a power of two; a recurrent layer's two matrices "
                "share one format)"
            )
            way = "Change one weight, or simulate the network instead."
            yield WrongOnLava(projection.target, where, "weight", what, way)


def _stored_with(network: Network, projection: Projection) -> list[Projection]:
    """The dense projections that share a weight format with this one: a recurrent layer's two."""
    into = network.into(projection.target)
    recurrent = any(p.source == p.target for p in into)
    return [p for p in into if isinstance(p.synapse, Dense)] if recurrent else [projection]


def dense_is_exact(*weights: IntArray) -> bool:
    """Whether the stock reader and the stock Dense model compute with exactly these integers.

    netx shifts the weights to 8 bits and calls a matrix inhibitory where max < 0; Dense shifts back what it kept of them and
    calls it inhibitory where max <= 0, with mantissas -255..0.  So the least weight -2**k, shifted to -256, is cut to -255
    and then truncated: [[-8, -8]] runs as zeros, [[0, -8]] as [[0, -4]].  The sign, not the size, makes the difference:
    one positive weight in the matrix and all is exact.

    Args:
        weights: integers, any shape; one array, or a recurrent layer's two, which netx shifts together and Dense takes apart.

    Returns:
        False, for a single array, for: all zero (the reader overflows); values outside -256..254 (0..255 where none is
        negative); max <= 0 and min = -2**k; max = 0 and 9 stored bits (an odd weight below -128).

    Source: lava-dl 0.6 ``netx/utils.py`` and lava-nc 0.10 ``utils/weightutils.py``; held equal to both by a test.
    """
    whole = np.concatenate([weight.reshape(-1) for weight in weights])
    high, low = int(whole.max()), int(whole.min())
    if high == low == 0 or low < -256 or high > (255 if low >= 0 else 254):
        return False
    stored = weight_format(whole)
    return all(_is_kept(weight.astype(np.int64) << -stored.exponent, stored.bits) for weight in weights)


def _is_kept(mantissas: NDArray[np.int64], bits: int) -> bool:
    """Whether Dense, which judges the sign by these mantissas alone, neither clips them nor cuts bits off."""
    high, low = int(mantissas.max()), int(mantissas.min())
    mixed = low < 0 < high
    cut = 8 - bits + mixed
    clipped = low < (-256 if mixed else -255) or high > 255
    return cut >= 0 and not clipped and not (mantissas & ((1 << cut) - 1)).any()


def check_backend(backend: str) -> None:
    """Refuses an unknown backend, and one whose software is not installed.

    Raises:
        ConfigError, MissingError.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend {backend!r} is unknown; choose one of {', '.join(BACKENDS)}.")
    lava_compat.check_installed()
    if backend == "loihi2" and importlib.util.find_spec("lava.utils.loihi2_profiler") is None:
        raise MissingError(
            "backend 'loihi2' needs Intel's Lava extension for Loihi, which is not installed; members of the Intel "
            "Neuromorphic Research Community get it from Intel. Backend 'cpu' runs the same network bit for bit."
        )


def supervise(
    command: Sequence[str],
    folder: Path,
    *,
    timeout: float,
    what: str,
    on_poll: Callable[[], None] = lambda: None,
) -> None:
    """Runs ``command`` as the leader of a process group of its own and leaves none of that group behind, whatever happens.

    Args:
        command: program and arguments; it runs in ``folder``.
        folder: takes the child's stderr, as stderr.txt; an error.txt that it leaves there explains a failure.
        timeout: seconds.
        what: subject of the error messages.
        on_poll: called a few times a second while it runs.

    Raises:
        RunError: when it does not end within ``timeout`` or ends with an exit code other than 0.
    """
    package_root = str(Path(__file__).resolve().parents[1])
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONWARNINGS", "PYTHONSTARTUP")}
    environment["PYTHONPATH"] = os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[variable] = "1"  # Lava has two processes per layer already
    with (folder / "stderr.txt").open("wb") as errors:
        child = subprocess.Popen(
            list(command),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        deadline = time.monotonic() + timeout
        try:
            while child.poll() is None:
                if time.monotonic() > deadline:
                    raise RunError(
                        f"{what} did not end within {timeout:g} s and was stopped; give it more time or fewer samples. "
                        f"Its last lines were: {_last_lines(folder)}"
                    )
                on_poll()
                time.sleep(POLL_SECONDS)
            on_poll()
        finally:
            _end_group(child)
    if child.returncode != 0:
        raise RunError(f"{what} failed with exit code {child.returncode}. Its last lines were: {_last_lines(folder)}")


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Ends all that is left of the child's process group: after a failure asks first (Python's resource tracker, which does
    not listen, frees Lava's shared memory when all others are gone), then kills."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if child.poll() != 0:
            os.killpg(child.pid, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
            while time.monotonic() < deadline:
                child.poll()  # reaps the leader; init reaps the others, or leaves them in the group as zombies
                os.killpg(child.pid, 0)
                time.sleep(POLL_SECONDS)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _last_lines(folder: Path) -> str:
    """The child's last words, on one line."""
    for name in ("error.txt", "stderr.txt"):
        with contextlib.suppress(OSError):
            text = (folder / name).read_bytes()[-20_000:].decode("utf-8", errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if lines:
                return " | ".join(lines[-ERROR_LINES:])
    return "(none)"


def _compact(values: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """The same values in the smallest type that is enough (frames are kept on disk)."""
    return values.astype(np.promote_types(np.min_scalar_type(values.min()), np.min_scalar_type(values.max())))


def _reporter(folder: Path, samples: int, progress: Callable[[int, int], None] | None) -> Callable[[], None]:
    """Calls ``progress`` where the child's count of finished samples has changed."""
    last = -1

    def report() -> None:
        nonlocal last
        done = 0
        with contextlib.suppress(OSError, ValueError, EOFError):  # not there yet, or only begun
            done = int(np.load(folder / "done.npy")[0])
        if progress is not None and done != last:
            progress(done, samples)
            last = done

    return report


# --- in the child ------------------------------------------------------------------------------------------------------


def _stock_network(netx: Any, path: str, *, num_layers: int | None, **options: Any) -> Any:
    """The stock Network, without a trailing ``average`` and without a word on the terminal."""
    from lava.lib.dl.netx.utils import NetDict

    layers = NetDict(path)["layer"]
    count = len(layers) - (layers[len(layers) - 1]["type"] == "average")
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.filterwarnings("ignore", "Conversion of an array with ndim > 0", DeprecationWarning)  # its int(weight)
        return netx.Network(path, num_layers=count if num_layers is None else min(count, num_layers), **options)


def _work(folder: Path) -> None:
    """One Lava run as job.json says; writes spikes.npy, voltage.npy and answer.json."""
    job = _Job(**json.loads((folder / "job.json").read_text(encoding="utf-8")))
    netx = lava_compat.import_netx_alone()
    lava_compat.use_fork()
    processes = _declare_processes(folder)
    from lava.magma.core.run_conditions import RunSteps

    network = _stock_network(
        netx,
        job.path,
        num_layers=job.num_layers,
        skip_layers=job.skip_layers,
        input_message_bits=job.input_bits,
        reset_interval=job.reset_interval,
        reset_offset=job.reset_phase + (0 if job.driven else 1),
    )
    depth = len(network.layers) - job.driven
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    shape = tuple(int(n) for n in network.inp.shape)
    if math.prod(frames.shape[2:]) != math.prod(shape) or (len(shape) == 3 and frames.shape[:1:-1] != shape):
        raise ConfigError(f"the input has the shape {frames.shape[2:]}; expected {shape[::-1]}.")
    timing = {"samples": job.samples, "steps": job.steps, "interval": job.reset_interval}
    files = {name: str(folder / f"{name}.npy") for name in ("frames", "spikes", "voltage", "done")}
    output = tuple(int(n) for n in network.out.shape)
    open_memmap(files["spikes"], "w+", np.int32, (job.samples, job.steps, *output))
    open_memmap(files["done"], "w+", np.int64, (1,))
    sink = processes.Sink(shape=output, spikes=files["spikes"], done=files["done"], lag=depth, **timing)
    for i, (name, lag) in enumerate(job.hidden.items()):
        layer, file = network.layers[lag - (not job.driven)], str(folder / f"hidden-{i}.npy")
        size = tuple(int(n) for n in layer.out.shape)
        open_memmap(file, "w+", np.int32 if name in job.wide else np.int8, (job.samples, job.steps, *size))
        layer.out.connect(processes.Sink(shape=size, spikes=file, done=None, lag=lag, **timing).inp)
    if job.encoded:
        host = processes.Source(shape=shape, frames=files["frames"], **timing)
        host.out.connect(network.layers[0].neuron.a_in)
    elif job.driven:
        bias = network.layers[0].neuron.bias_mant
        bias.init = _turned(frames[0, 0], shape).astype(np.int32)
        host = processes.Driver(var=bias, frames=files["frames"], **timing)
    else:
        host = processes.Source(shape=shape, frames=files["frames"], **timing)
    if job.backend == "loihi2":
        _connect_through_adapters(network, None if job.driven else host, sink, job.input_bits)
    else:
        if not job.driven:
            host.out.connect(network.inp)
        network.out.connect(sink.inp)
    if job.voltage:
        open_memmap(files["voltage"], "w+", np.int32, (job.samples, *output))
        neuron = network.out_layer.neuron
        var = getattr(neuron, STATES.get(type(neuron).__name__, "v"))
        processes.Probe(var=var, voltage=files["voltage"], lag=depth, **timing)
    steps = (job.samples - 1) * job.reset_interval + depth + job.steps
    # Lava finds the probe and the driver by their references to the network's variables.
    started = _run(sink, RunSteps(num_steps=steps), _run_config(job, processes), folder)
    answer = {"seconds": time.monotonic() - started, "steps": steps, "versions": versions()}
    sink.stop()
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def _run(process: Any, condition: Any, config: Any, folder: Path) -> float:
    """Compiles, starts and runs; ends this process with an error.txt as soon as a process model raises or dies.

    Returns:
        the time (monotonic) at which the steps began.
    """
    process.create_runtime(run_cfg=config)
    running = threading.Event()
    running.set()

    def watch() -> None:
        while running.is_set():
            for actor in process._runtime._messaging_infrastructure.actors:
                failure = actor.exception
                if running.is_set() and (failure or actor.exitcode):
                    text = failure[1] if failure else f"a process of Lava ended with exit code {actor.exitcode}"
                    (folder / "error.txt").write_text(text, encoding="utf-8")
                    os._exit(1)
            time.sleep(0.1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.monotonic()
    process.run(condition=condition, run_cfg=config)
    running.clear()
    watcher.join()
    return started


def _run_config(job: _Job, processes: Any) -> Any:
    from lava.magma.core import run_configs
    from lava.proc.conv.process import Conv as ConvProcess
    from lava.proc.lif.process import LIFReset

    if job.backend == "loihi2":
        return run_configs.Loihi2HwCfg(select_tag="fixed_pt")
    ours = {ConvProcess: processes.ConvModel, LIFReset: processes.LifModel} if job.models == "fast" else None
    # Without the tag: floating point.
    return run_configs.Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map=ours)


def _connect_through_adapters(network: Any, source: Any | None, sink: Any, input_bits: int) -> None:
    """Spikes between the host's Python processes and the chip, by the adapters of Intel's extension (never run by us)."""
    from lava.proc import embedded_io

    if source is not None:
        into = embedded_io.spike.PyToNxAdapter(shape=network.inp.shape, num_message_bits=input_bits)
        source.out.connect(into.inp)
        into.out.connect(network.inp)
    out_of = embedded_io.spike.NxToPyAdapter(shape=network.out.shape, num_message_bits=network.output_message_bits)
    network.out.connect(out_of.inp)
    out_of.out.connect(sink.inp)


def _turned(frame: NDArray[np.integer[Any]], shape: tuple[int, ...]) -> NDArray[np.integer[Any]]:
    """(C, H, W) as Lava's (W, H, C), or flat in C, H, W order where Lava's input is flat."""
    return frame.reshape(-1) if len(shape) == 1 else frame.transpose()


def versions() -> dict[str, str]:
    """Versions of the packages that a Lava run depends on."""
    return {name: importlib.metadata.version(name) for name in ("lava-nc", "lava-dl", "numpy")}


def _windows(samples: int, steps: int, interval: int) -> Callable[[int], tuple[int, int] | None]:
    """Step number, from 0 -> (sample, step of its window), or None outside all windows."""

    def window(step: int) -> tuple[int, int] | None:
        sample, t = divmod(step, interval)
        return (sample, t) if 0 <= sample < samples and t < steps else None

    return window


def _declare_processes(folder: Path) -> Any:
    """Our own Lava processes with their models; declared here because their base classes are Lava's.

    Source shows frames and silence, Driver writes frames into the bias of an input population, Sink keeps the spikes of all
    windows, sample by sample, Probe keeps v at the end of each window.  All of them work on memory-mapped .npy files.  ConvModel and
    LifModel are faster models of Lava's own Conv and LIFReset.

    Returns:
        a module that holds them.
    """
    from lava.magma.core.decorator import implements, requires, tag
    from lava.magma.core.model.py.model import PyLoihiProcessModel
    from lava.magma.core.model.py.ports import PyInPort, PyOutPort, PyRefPort
    from lava.magma.core.model.py.type import LavaPyType
    from lava.magma.core.process.ports.ports import InPort, OutPort, RefPort
    from lava.magma.core.process.process import AbstractProcess
    from lava.magma.core.resources import CPU
    from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
    from lava.proc.conv.process import Conv as ConvProcess
    from lava.proc.lif.models import PyLifResetModelBitAcc

    class Source(AbstractProcess):
        def __init__(self, *, shape: tuple[int, ...], frames: str, samples: int, steps: int, interval: int) -> None:
            super().__init__(shape=shape, frames=frames, window=_windows(samples, steps, interval))
            self.out = OutPort(shape=shape)

    @implements(proc=Source, protocol=LoihiProtocol)
    @requires(CPU)
    @tag("fixed_pt")
    class SourceModel(PyLoihiProcessModel):
        out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

        def __init__(self, parameters: dict[str, Any]) -> None:
            super().__init__(parameters)
            self.frames = np.load(parameters["frames"], mmap_mode="r")
            self.silence = np.zeros(parameters["shape"], np.int32)

        def run_spk(self) -> None:
            at = self.proc_params["window"](self.time_step - 1)
            frame = self.silence if at is None else _turned(self.frames[at], self.silence.shape).astype(np.int32)
            self.out.send(frame)

    class Driver(AbstractProcess):
        def __init__(self, *, var: Any, frames: str, samples: int, steps: int, interval: int) -> None:
            super().__init__(shape=var.shape, frames=frames, window=_windows(samples, steps, interval))
            self.bias = RefPort(var.shape)
            self.bias.connect_var(var)

    @implements(proc=Driver, protocol=LoihiProtocol)
    @requires(CPU)
    @tag("fixed_pt")
    class DriverModel(PyLoihiProcessModel):
        bias: Any = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

        def __init__(self, parameters: dict[str, Any]) -> None:
            super().__init__(parameters)
            self.frames = np.load(parameters["frames"], mmap_mode="r")
            self.shown = self.frames[0, 0]

        def post_guard(self) -> bool:
            """True in the last phase of a step after which another frame is due."""
            at = self.proc_params["window"](self.time_step)
            return at is not None and not np.array_equal(self.frames[at], self.shown)

        def run_post_mgmt(self) -> None:
            self.shown = self.frames[self.proc_params["window"](self.time_step)]
            self.bias.write(_turned(self.shown, self.proc_params["shape"]).astype(np.int32))
            self.bias.wait()

    class Sink(AbstractProcess):
        def __init__(
            self, *, shape: tuple[int, ...], spikes: str, done: str | None, lag: int, samples: int, steps: int, interval: int
        ) -> None:
            super().__init__(spikes=spikes, done=done, lag=lag, last=steps - 1, window=_windows(samples, steps, interval))
            self.inp = InPort(shape=shape)

    @implements(proc=Sink, protocol=LoihiProtocol)
    @requires(CPU)
    @tag("fixed_pt")
    class SinkModel(PyLoihiProcessModel):
        inp: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)

        def __init__(self, parameters: dict[str, Any]) -> None:
            super().__init__(parameters)
            self.spikes = np.load(parameters["spikes"], mmap_mode="r+")
            self.done = np.zeros(1, np.int64) if parameters["done"] is None else np.load(parameters["done"], mmap_mode="r+")
            self.sample = np.zeros(self.spikes.shape[1:], self.spikes.dtype)

        def run_spk(self) -> None:
            spikes = self.inp.recv()
            at = self.proc_params["window"](self.time_step - 1 - self.proc_params["lag"])
            if at is not None:
                self.sample[at[1]] = spikes
                if at[1] == self.proc_params["last"]:
                    self.spikes[at[0]] = self.sample
                    self.done[0] = at[0] + 1

    class Probe(AbstractProcess):
        def __init__(self, *, var: Any, voltage: str, lag: int, samples: int, steps: int, interval: int) -> None:
            super().__init__(voltage=voltage, lag=lag, last=steps - 1, window=_windows(samples, steps, interval))
            self.v = RefPort(var.shape)
            self.v.connect_var(var)

    @implements(proc=Probe, protocol=LoihiProtocol)
    @requires(CPU)
    @tag("fixed_pt")
    class ProbeModel(PyLoihiProcessModel):
        v: Any = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

        def __init__(self, parameters: dict[str, Any]) -> None:
            super().__init__(parameters)
            self.voltage = np.load(parameters["voltage"], mmap_mode="r+")

        def ended(self) -> int | None:
            """The sample whose window ends in this step."""
            at = self.proc_params["window"](self.time_step - 1 - self.proc_params["lag"])
            return at[0] if at is not None and at[1] == self.proc_params["last"] else None

        def post_guard(self) -> bool:
            return self.ended() is not None

        def run_post_mgmt(self) -> None:
            self.voltage[self.ended()] = self.v.read()

    @implements(proc=ConvProcess, protocol=LoihiProtocol)
    @requires(CPU)
    @tag("fixed_pt")
    class ConvModel(PyLoihiProcessModel):
        """What Lava's PyConvModelFixed computes, by a matrix product in floating point that rounds nothing; groups in 32 bits."""

        s_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
        a_out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
        a_buf: Any = LavaPyType(np.ndarray, np.int32, precision=24)
        weight: Any = LavaPyType(np.ndarray, np.int32, precision=8)
        kernel_size: Any = LavaPyType(np.ndarray, np.int32)
        stride: Any = LavaPyType(np.ndarray, np.int32)
        padding: Any = LavaPyType(np.ndarray, np.int32)
        dilation: Any = LavaPyType(np.ndarray, np.int32)
        groups: Any = LavaPyType(np.ndarray, np.int32)
        num_message_bits: Any = LavaPyType(np.ndarray, np.int32)
        weight_exp: Any = LavaPyType(np.ndarray, np.int32)
        num_weight_bits: Any = LavaPyType(np.ndarray, np.int32)

        def __init__(self, parameters: dict[str, Any]) -> None:
            super().__init__(parameters)
            self.conv: Conv | None = None
            self.reach = 0

        def run_spk(self) -> None:
            if self.conv is None:  # Lava sets the variables after __init__
                weight = self.weight.transpose(0, 3, 2, 1)[:, :, ::-1, ::-1]
                stride, padding, dilation = ((int(x[1]), int(x[0])) for x in (self.stride, self.padding, self.dilation))
                self.conv = Conv(weight, stride, padding, dilation, int(self.groups[0]))
                self.reach = int(np.abs(weight.astype(np.int64)).reshape(weight.shape[0], -1).sum(axis=1).max())
            self.a_out.send(self.a_buf)
            spikes = self.s_in.recv()
            if not self.num_message_bits.item():
                spikes = spikes.astype(bool)
            largest = max(int(spikes.max()), -int(spikes.min()))
            if largest:
                sums = products(self.conv, spikes.transpose()[None], self.reach * largest)
                self.a_buf = np.ascontiguousarray(sums[0].transpose()).astype(np.int32)
            else:
                self.a_buf = np.zeros_like(self.a_buf)

    class LifModel(PyLifResetModelBitAcc):
        """Lava's own model of LIFReset with its arithmetic in fewer passes; its decay is exact in float64, whose 53 bits hold
        the product of 24 and 12 bits, and a division by 4096 changes no digit."""

        def scale_bias(self) -> None:  # in every step: the host may write the mantissa
            self.effective_bias = np.left_shift(self.bias_mant, self.bias_exp, dtype=np.int32)  # netx's exponent is 6

        def subthr_dynamics(self, activation_in: NDArray[np.int32]) -> None:
            kept_u = DECAY_ONE - np.asarray(self.du + self.ds_offset).item()
            kept_v = DECAY_ONE - np.asarray(self.dv + self.dm_offset).item()
            u = np.left_shift(activation_in, SHIFT)
            if kept_u:
                u += np.trunc(self.u * (kept_u / DECAY_ONE)).astype(np.int32)
            if u.max() > STATE_LIMIT or u.min() <= -STATE_LIMIT:
                u = wrap24(u)
            self.u[:] = u
            v = self.v if kept_v == DECAY_ONE else np.trunc(self.v * (kept_v / DECAY_ONE)).astype(np.int32)
            v = v + self.effective_bias
            v += self.u
            np.clip(v, -STATE_LIMIT + 1, STATE_LIMIT - 1, out=self.v)

    # Lava looks for a process's models in its module, and runs every other file of that module's folder: give it a module of
    # its own in a folder without files.
    module = types.ModuleType("qpsnn_lava_processes")
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    module.__file__ = str(folder / "processes.py")
    for cls in (Source, SourceModel, Driver, DriverModel, Sink, SinkModel, Probe, ProbeModel, ConvModel, LifModel):
        cls.__module__ = module.__name__
        setattr(module, cls.__name__, cls)
    sys.modules[module.__name__] = module
    return module


@contextlib.contextmanager
def _error_file(folder: Path) -> Iterator[None]:
    """Leaves a sentence (an error of ours) or a traceback in error.txt and ends with exit code 1."""
    try:
        yield
    except BaseException as error:
        text = str(error) if isinstance(error, (ConfigError, MissingError, NetworkError)) else traceback.format_exc()
        with contextlib.suppress(OSError):
            (folder / "error.txt").write_text(text, encoding="utf-8")
        os._exit(1)  # not by way of Lava's exit handlers, which may wait for ever


if __name__ == "__main__":
    with _error_file(Path(sys.argv[1])):
        _work(Path(sys.argv[1]))
