"""How fast a training step is: stock SLAYER, and the same network, batch and data on the fused dynamics.

The two take turns, so that what disturbs the machine disturbs both.  One step of each before the first round is not counted (it
compiles).

Spikes and gradients of the first step are held against those of stock SLAYER on the CPU, also where the bench runs on CUDA: SLAYER's
own CUDA kernel resets a neuron that stands exactly at its threshold.  It needs a CUDA compiler; without one stock SLAYER is left out.
TF32 is off on CUDA, and for that comparison cuDNN is, too, whose fastest convolutions are not exact.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netx_export.errors import ConfigError, MissingError, RunError
from qpsnn_lava import dynamics
from qpsnn_lava.blocks import slayer
from qpsnn_lava.fused import fuse

CHANNELS = (32, 32, 64, 64)
SIZE = 28
CLASSES = 10
DENSITY = 0.1
GAINS = (4.0, 6.0, 6.0, 6.0, 6.0)  # of the initial weights: every layer fires
PARTS = ("forward", "backward", "optimiser")


@dataclass(frozen=True)
class Bench:
    """What :func:`bench` measured.

    Args:
        parts: per contender (``slayer``, ``fused``) and part (forward, backward, optimiser, step): median seconds.
        samples: the same, every round.
        speedup: stock's whole step over ours; None where stock is left out.
        peak_bytes: memory that a process which makes some steps needs beyond the one that only has the network, per contender; on
            CUDA, what torch allocates there in a step beyond what was there before.
        spikes_equal: of all layers, in the first step.
        max_gradient_error: over all parameters, largest difference of a gradient over that gradient's largest value.
        density: spikes per neuron and step, per layer.
        batch, steps, threads, rounds, seed, versions: how it was measured.
        device: ``cpu``, or the name of the CUDA device.
        left_out: who was not measured, and why.
    """

    parts: dict[str, dict[str, float]]
    samples: dict[str, dict[str, list[float]]]
    speedup: float | None
    peak_bytes: dict[str, int]
    spikes_equal: bool
    max_gradient_error: float
    density: dict[str, float]
    batch: int
    steps: int
    threads: int
    rounds: int
    seed: int
    versions: dict[str, str]
    device: str
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


class Net(torch.nn.Module):
    """Four 3x3 convolutions (strides 1, 2, 1, 2), flatten and a dense layer: stock SLAYER blocks, as a user writes them.

    The weights are whole 64ths, so that the sums do not depend on the order in which they are added.
    """

    def __init__(self) -> None:
        super().__init__()
        neuron = {"threshold": 1.0, "current_decay": 1.0, "voltage_decay": 0.5, "tau_grad": 0.5, "scale_grad": 1.0}
        block = slayer.block.cuba
        layers: list[torch.nn.Module] = []
        channels, size = 1, SIZE
        for number, out in enumerate(CHANNELS):
            stride = 1 + number % 2
            layers.append(block.Conv(neuron, channels, out, 3, stride, 1, weight_scale=GAINS[number], pre_hook_fx=_whole))
            channels, size = out, size // stride
        layers.append(block.Flatten())
        layers.append(block.Dense(neuron, channels * size * size, CLASSES, weight_scale=GAINS[-1], pre_hook_fx=_whole))
        self.blocks = torch.nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(N, 1, 28, 28, T) spikes -> the spikes of every layer."""
        spikes = []
        for block in self.blocks:
            x = block(x)
            spikes.append(x)
        return spikes


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor) -> torch.Tensor:
        return torch.round(weight * 64) / 64

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


def _whole(weight: torch.Tensor, descale: bool = False) -> torch.Tensor:
    result: torch.Tensor = _Round.apply(weight * 64 if descale else weight)  # type: ignore[no-untyped-call]
    return result


def inputs(batch: int, steps: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bernoulli spikes (batch, 1, 28, 28, T) and labels, from the seed."""
    random = np.random.default_rng(seed)
    spikes = (random.random((batch, 1, SIZE, SIZE, steps)) < DENSITY).astype(np.float32)
    return torch.from_numpy(spikes), torch.from_numpy(random.integers(0, CLASSES, batch))


def made(seed: int) -> dict[str, Net]:
    """The two networks, with equal weights."""
    torch.manual_seed(seed)
    stock = Net()
    ours = copy.deepcopy(stock)
    fuse(ours)
    return {"slayer": stock, "fused": ours}


def step(
    net: Net, optimiser: torch.optim.Optimizer, spikes: torch.Tensor, labels: torch.Tensor
) -> tuple[list[torch.Tensor], dict[str, float]]:
    """One training step; returns the spikes of every layer and the seconds of each part."""
    start = _now(spikes)
    layers = net(spikes)
    loss = torch.nn.functional.cross_entropy(8 * layers[-1].mean(-1), labels)
    forward = _now(spikes)
    loss.backward()
    backward = _now(spikes)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    end = _now(spikes)
    return layers, {
        "forward": forward - start,
        "backward": backward - forward,
        "optimiser": end - backward,
        "step": end - start,
    }


def _now(x: torch.Tensor) -> float:
    """Seconds, when all that was asked of x's device is done."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()


def bench(
    *,
    batch: int = 32,
    steps: int = 8,
    rounds: int = 7,
    threads: int,
    seed: int = 0,
    device: str = "cpu",
    say: Callable[[str], None],
) -> Bench:
    """Measures a training step of stock SLAYER and of the same network on the fused dynamics.

    Args:
        batch, steps: of the input.
        rounds: measurements of each, in turn.
        threads: of torch and of the kernels.
        seed: of weights and input.
        device: where both train: cpu or cuda.
        say: told what happens.

    Raises:
        ConfigError: for another device.
        MissingError: without numba, which the fused dynamics need on the CPU; without a CUDA device where one is asked for.
    """
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device is {device!r}; it must be cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingError(
            f"torch sees no CUDA device (torch {torch.__version__}); leave out --device, or install a build of torch for CUDA and "
            "the device's driver."
        )
    if device == "cpu" and not dynamics.AVAILABLE:
        raise MissingError(
            "numba is not installed, and the fused dynamics need it; get it with: pip install 'qpsnn-lava[fast]'."
        )
    torch.set_num_threads(threads)
    dynamics.set_threads(threads)
    nets = made(seed)
    spikes, labels = inputs(batch, steps, seed)
    say("one step of each, compared")
    equal, error, density = _compare(nets, spikes, labels, device)
    left_out: dict[str, str] = {}
    with contextlib.ExitStack() as on_cuda:
        if device == "cuda":
            on_cuda.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
            spikes, labels = spikes.cuda(), labels.cuda()
            nets = {name: net.cuda() for name, net in nets.items()}
            if reason := _without(nets["slayer"], spikes):
                left_out["slayer"] = reason
                del nets["slayer"]
        optimisers = {name: torch.optim.Adam(net.parameters(), 1e-3) for name, net in nets.items()}
        samples: dict[str, dict[str, list[float]]] = {name: {part: [] for part in (*PARTS, "step")} for name in nets}
        for number in range(-1, rounds):
            say(f"round {max(number + 1, 0)} of {rounds}")
            for name, net in nets.items():
                _, seconds = step(net, optimisers[name], spikes, labels)
                if number >= 0:
                    for part, value in seconds.items():
                        samples[name][part].append(value)
        if device == "cuda":
            peaks = {name: _peak_cuda(net, optimisers[name], spikes, labels) for name, net in nets.items()}
        else:
            say("memory, in a process for each")
            peaks = {name: _peak(name, batch, steps, threads, seed) for name in nets}
    parts = {name: {part: statistics.median(values) for part, values in rows.items()} for name, rows in samples.items()}
    loops = "triton" if device == "cuda" else "numba"
    there = importlib.util.find_spec(loops) is not None
    return Bench(
        parts,
        samples,
        parts["slayer"]["step"] / parts["fused"]["step"] if "slayer" in parts else None,
        peaks,
        equal,
        error,
        density,
        batch,
        steps,
        threads,
        rounds,
        seed,
        {
            "torch": torch.__version__,
            loops: importlib.metadata.version(loops) if there else "none",
            "python": sys.version.split()[0],
        },
        torch.cuda.get_device_name() if device == "cuda" else "cpu",
        left_out,
    )


def _without(stock: Net, spikes: torch.Tensor) -> str:
    """Why stock SLAYER does not run on CUDA, or nothing."""
    try:
        with torch.no_grad():
            stock(spikes[:1])
    except Exception as error:  # its compiler's, of any kind
        first = next(iter(str(error).splitlines()), type(error).__name__)
        return f"stock SLAYER does not build its CUDA kernel, which needs nvcc ({first})"
    return ""


def _compare(
    nets: dict[str, Net], spikes: torch.Tensor, labels: torch.Tensor, device: str
) -> tuple[bool, float, dict[str, float]]:
    """Ours on the device against stock SLAYER on the CPU, in one step."""
    layers, gradients = {}, {}
    for name, place in (("slayer", "cpu"), ("fused", device)):
        net = copy.deepcopy(nets[name]).to(place)
        with torch.backends.cudnn.flags(enabled=False):
            spikes_of = net(spikes.to(place))
            torch.nn.functional.cross_entropy(8 * spikes_of[-1].mean(-1), labels.to(place)).backward()
        layers[name] = [x.cpu() for x in spikes_of]
        gradients[name] = {key: p.grad.cpu() for key, p in net.named_parameters() if p.grad is not None}
    equal = all(torch.equal(a, b) for a, b in zip(layers["slayer"], layers["fused"], strict=True))
    errors = [
        float((gradients["fused"][key] - stock).abs().max() / stock.abs().max().clamp_min(1e-30))
        for key, stock in gradients["slayer"].items()
    ]
    density = {f"layer {i}": float(x.detach().mean()) for i, x in enumerate(layers["slayer"]) if i != len(CHANNELS)}
    return equal, max(errors), density


def _peak_cuda(net: Net, optimiser: torch.optim.Optimizer, spikes: torch.Tensor, labels: torch.Tensor) -> int:
    """Bytes that torch allocates on the device in a step beyond what was there."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(net, optimiser, spikes, labels)
    return torch.cuda.max_memory_allocated() - before


def _peak(name: str, batch: int, steps: int, threads: int, seed: int) -> int:
    """Bytes that three steps add to a fresh process that has made network, input and, for the compiler's sake, a tiny step."""
    call = f"from qpsnn_lava.bench_training import peak; print(peak({name!r}, {batch}, {steps}, {threads}, {seed}))"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RunError(f"the process that measures the memory of {name} failed: {done.stderr.strip().splitlines()[-1:]}.")
    return int(done.stdout.split()[-1])


def peak(name: str, batch: int, steps: int, threads: int, seed: int) -> int:
    """For a process of its own: the peak of its memory in three steps, less what it needed before."""
    torch.set_num_threads(threads)
    dynamics.set_threads(threads)
    net = made(seed)[name]
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    step(net, optimiser, *inputs(1, 1, seed))
    data = inputs(batch, steps, seed)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    for _ in range(3):
        step(net, optimiser, *data)
    return _memory("VmHWM") - before


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])
