"""Holding a netx file's run on Lava against the exact simulation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netx_export.engine import simulate_fast
from netx_export.errors import ConfigError
from netx_export.lava_run import run_lava
from netx_export.network import Integrator, Network


@dataclass(frozen=True)
class Verification:
    """How many values of the output population differ.

    Args:
        samples: that ran.
        spikes_compared, spike_mismatches: of the output, over all steps.
        spikes: that the output fired in all (0 for an integrator).
        voltages_compared, voltage_mismatches: v at the end of each window, for an integrator.
        where: the first difference in words, "" where there is none.
    """

    samples: int
    spikes_compared: int
    spike_mismatches: int
    spikes: int
    voltages_compared: int
    voltage_mismatches: int
    where: str

    @property
    def mismatches(self) -> int:
        """All differences."""
        return self.spike_mismatches + self.voltage_mismatches

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "mismatches": self.mismatches}

    def __str__(self) -> str:
        verdict = "equal" if not self.mismatches else f"NOT EQUAL: {self.where}"
        return (
            f"{self.samples} samples: {self.spike_mismatches} of {self.spikes_compared} output spikes and "
            f"{self.voltage_mismatches} of {self.voltages_compared} voltages differ between simulation and Lava: {verdict}"
        )


def verify_lava(
    path: Path, network: Network, frames: NDArray[np.integer[Any]], *, backend: str = "cpu", timeout: float = 600.0
) -> Verification:
    """Runs ``path`` on Lava and in the simulation and compares the output population, step by step.

    Args:
        path: the netx file.
        network: what it holds.
        frames: whole numbers (samples, *input shape, time).
        backend, timeout: as in :func:`netx_export.lava_run.run_lava`.
    """
    name = network.output.name
    voltage = isinstance(network.output.neuron, Integrator)
    lava = run_lava(path, frames, voltage=voltage, timeout=timeout, backend=backend)
    exact = simulate_fast(network, frames, record=[name], states=[name])
    ours, theirs = exact.spikes[name], lava.spikes
    wrong = ours != theirs
    where = ""
    if wrong.any():
        *place, step = (int(n) for n in np.argwhere(wrong)[0])
        where = (
            f"sample {place[0]}, {name}{place[1:]}, step {step}: simulation {ours[tuple([*place, step])]}, "
            f"Lava {theirs[tuple([*place, step])]}."
        )
    voltage_wrong = 0
    if lava.voltage is not None:
        last = exact.voltage[name][..., -1]
        differ = last != lava.voltage
        voltage_wrong = int(differ.sum())
        if differ.any() and not where:
            first = tuple(int(n) for n in np.argwhere(differ)[0])
            where = f"sample {first[0]}, {name}{list(first[1:])}, v at the end: simulation {last[first]}, Lava {lava.voltage[first]}."
    return Verification(
        frames.shape[0],
        int(ours.size),
        int(wrong.sum()),
        int(ours.sum()),
        0 if lava.voltage is None else int(lava.voltage.size),
        voltage_wrong,
        where,
    )


def random_input(network: Network, samples: int, density: float, seed: int) -> NDArray[np.int32]:
    """Bernoulli spikes of that density (graded ones uniform in 1..2**input_bits - 1); bias mantissas for a driven input.

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
    if network.input.neuron is not None:
        drive = network.input.drive
        low, high = (drive.bias, drive.bias + drive.weight) if drive else (0, 64)
        image = random.integers(min(low, high), max(low, high) + 1, shape[:-1])
        return np.repeat(image[..., None], shape[-1], axis=-1).astype(np.int32)
    top = (1 << network.input_bits) - 1 if network.input_bits else 1
    spikes = random.random(shape) < density
    return np.where(spikes, random.integers(1, top + 1, shape), 0).astype(np.int32)
