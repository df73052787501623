"""What chosen neurons do in chosen steps of chosen samples, as plain arrays (for an .npz file, or a plot)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netx_export.engine import simulate_fast
from netx_export.errors import ConfigError
from netx_export.integers import SHIFT
from netx_export.network import Delta, Network, Population, Sigma, SigmaDelta
from netx_export.simulate import FRACTION, WINDOW, Reset, check_names, checked

MAX_BYTES = 2 << 30  # of all arrays together


def probe(
    network: Network,
    frames: NDArray[np.integer[Any]],
    populations: Collection[str],
    *,
    samples: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    reset: Reset | None = WINDOW,
    threads: int | None = None,
    max_memory: int = MAX_BYTES,
) -> dict[str, NDArray[Any]]:
    """Spikes, u, v and bias current of the populations asked for.

    Args:
        network: any network.
        frames: (batch, *input shape, time), as :func:`netx_export.simulate.simulate` takes them.
        populations: names.
        samples, steps: indices into the batch and into time, in any order; None for all.
        reset: as there.
        threads: number of threads; None for all cores.
        max_memory: bytes that the answer may take.

    Returns:
        ``samples`` and ``steps``, the indices, and for each population ``NAME.spikes``, ``NAME.u`` and ``NAME.v``: int32 (samples,
        *shape, steps), as ``simulate`` defines them (the host's input has spikes only); ``NAME.bias``, int64: what the bias adds in
        a step, 64 * bias (sigma-delta: 4096 * bias): (*shape), or (samples, *shape, steps) where the host drives it.

    Raises:
        ConfigError: an unknown name, an index that does not exist, an answer of more than ``max_memory`` bytes, and what
            ``simulate`` raises.
    """
    names = check_names(network, populations, [])
    if frames.ndim != len(network.input.shape) + 2 or not frames.size:
        checked(network, frames)  # says what is wrong
    chosen = _indices("sample", samples, frames.shape[0])
    times = _indices("step", steps, frames.shape[-1])
    cells = len(chosen) * len(times)
    needed = sum(_bytes(network[name], cells, name == network.input.name) for name in names)
    longest = max(times, default=0) + 1
    at_once = 4 * 3 * longest * sum(network[name].size for name in names)
    if needed + at_once > max_memory:
        raise ConfigError(
            f"probing {', '.join(names)} takes {needed + at_once} bytes; the limit is {max_memory}. "
            "Ask for fewer populations, samples or steps."
        )
    answer: dict[str, NDArray[Any]] = {"samples": np.array(chosen, np.int64), "steps": np.array(times, np.int64)}
    for name in names:
        shape = (len(chosen), *network[name].shape, len(times))
        for kind in ("spikes", "u", "v") if network[name].neuron is not None else ("spikes",):
            answer[f"{name}.{kind}"] = np.zeros(shape, np.int32)
    for i, sample in enumerate(chosen if times else ()):
        shown = frames[sample : sample + 1, ..., :longest]
        run = simulate_fast(network, shown, reset=reset, record=names, states=names, threads=threads)
        for name in names:
            answer[f"{name}.spikes"][i] = run.spikes[name][0][..., times]
            if network[name].neuron is not None:
                answer[f"{name}.u"][i] = run.current[name][0][..., times]
                answer[f"{name}.v"][i] = run.voltage[name][0][..., times]
    for name in names:
        if network[name].neuron is not None:
            bias = _bias_current(network[name])
            if name == network.input.name:
                shown = frames[chosen][..., times].astype(np.int64)
                bias = bias[None, ..., None] + (shown << _shift(network[name]))
            answer[f"{name}.bias"] = bias
    return answer


def _bytes(population: Population, cells: int, driven: bool) -> int:
    """Of what :func:`probe` returns for one population."""
    if population.neuron is None:
        return 4 * cells * population.size
    return population.size * (12 * cells + 8 * (cells if driven else 1))


def _shift(population: Population) -> int:
    return FRACTION if isinstance(population.neuron, Delta | SigmaDelta | Sigma) else SHIFT


def _bias_current(population: Population) -> NDArray[np.int64]:
    if population.bias is None:
        return np.zeros(population.shape, np.int64)
    channels = (-1,) + (1,) * (len(population.shape) - 1)
    current = population.bias.astype(np.int64).reshape(channels) << _shift(population)
    return np.broadcast_to(current, population.shape).copy()


def _indices(what: str, chosen: Sequence[int] | None, count: int) -> list[int]:
    found = list(range(count)) if chosen is None else [int(n) for n in chosen]
    for n in found:
        if not 0 <= n < count:
            raise ConfigError(f"{what} {n} does not exist; the input has {what}s 0..{count - 1}.")
    return found
