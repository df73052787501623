"""How fast channels are scored by the rank of their maps: all maps at once, and one map after another.

The maps are spike rates of ``steps`` Bernoulli steps, each channel with a density of its own, uniform in 0..2 ``density``.  The two take
turns, batch by batch, so that a machine that is slow for a while is so for both.  The loop calls ``torch.linalg.matrix_rank`` for every
map of some samples of each batch, and its time is scaled to all samples; all maps at once are measured on all of them, without the time
to make the maps.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from qpsnn_lava import dynamics
from qpsnn_lava.criteria import Settings, map_ranks

BATCH = 64  # samples at a time


@dataclass(frozen=True)
class Bench:
    """What :func:`bench` measured.

    Args:
        speedup: the loop's time over that of all maps at once.
        equal: whether both gave the same scores of the samples that the loop took.
        loop_seconds, batched_seconds: for all samples, medians over the rounds; the first is scaled from ``loop_samples``.
        nuclear_seconds: ranks and nuclear norms of all maps at once by singular values (what breaks ties), scaled likewise.
        loop_samples: of ``samples``, how many the loop took.
        mean_rank: of all maps.
        channels, size, samples, steps, density, eps, rounds, threads, seed, versions: how it was measured.
    """

    speedup: float
    equal: bool
    loop_seconds: float
    batched_seconds: float
    nuclear_seconds: float
    loop_samples: int
    mean_rank: float
    channels: int
    size: int
    samples: int
    steps: int
    density: float
    eps: float
    rounds: int
    threads: int
    seed: int
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def bench(
    *,
    channels: int = 512,
    size: int = 32,
    samples: int = 640,
    loop_samples: int = 4,
    steps: int = 4,
    density: float = 0.05,
    eps: float = 1e-6,
    rounds: int = 5,
    threads: int,
    seed: int = 0,
    say: Callable[[str], None],
) -> Bench:
    """Measures both ways.

    Args:
        channels, size, samples: ``samples`` times ``channels`` maps of ``size x size``.
        loop_samples: that the loop takes of each batch.
        steps, density: of the spikes: spikes per neuron and step on average.
        eps: singular values above it count.
        rounds: measurements of each, in turn.
        threads: of torch and of the kernels.
        seed: of the maps.
        say: told what happens.
    """
    torch.set_num_threads(threads)
    dynamics.set_threads(threads)
    loop_samples = min(loop_samples, BATCH, samples)
    lows = range(0, samples, BATCH)
    settings = Settings(eps, nuclear=False)
    map_ranks(_rates(0, 1, channels, size, steps, density, seed), settings)  # compiles
    loop, batched, nuclear = [], [], []
    equal, total, taken = True, 0.0, 0
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}: {len(lows)} batches; one map after another for {loop_samples} samples of each")
        slow = fast = norms = total = 0.0
        taken = 0
        for low in lows:
            maps = _rates(low, min(BATCH, samples - low), channels, size, steps, density, seed)
            some = maps[:loop_samples]
            taken += len(some)
            start = time.perf_counter()
            one_by_one = _loop(some, eps)
            slow += time.perf_counter() - start
            start = time.perf_counter()
            ranks = map_ranks(maps, settings)[0]
            score = ranks.sum(0)
            fast += time.perf_counter() - start
            start = time.perf_counter()
            map_ranks(some, Settings(eps))
            norms += time.perf_counter() - start
            total += float(score.sum())
            equal = equal and torch.equal(ranks[: len(some)], one_by_one)
        loop.append(slow * samples / taken)
        batched.append(fast)
        nuclear.append(norms * samples / taken)
    slow, fast = statistics.median(loop), statistics.median(batched)
    return Bench(
        slow / fast,
        equal,
        slow,
        fast,
        statistics.median(nuclear),
        taken,
        total / (samples * channels),
        channels,
        size,
        samples,
        steps,
        density,
        eps,
        rounds,
        threads,
        seed,
        {
            "torch": torch.__version__,
            "numba": dynamics.numba.__version__ if dynamics.AVAILABLE else "none",
            "python": sys.version.split()[0],
        },
    )


def _rates(first: int, count: int, channels: int, size: int, steps: int, density: float, seed: int) -> torch.Tensor:
    """float32 (count, channels, size, size): every sample from the seed and its own number."""
    chances = np.random.default_rng([seed, 0]).uniform(0, 2 * density, (channels, 1, 1))
    drawn = [
        np.random.default_rng([seed, 1, n]).binomial(steps, chances, (channels, size, size))
        for n in range(first, first + count)
    ]
    return torch.from_numpy((np.stack(drawn) / steps).astype(np.float32))


def _loop(rates: torch.Tensor, eps: float) -> torch.Tensor:
    """float64 (N, C) ranks, a call for each map."""
    ranks = torch.zeros(rates.shape[:2], dtype=torch.float64)
    for n in range(rates.shape[0]):
        for c in range(rates.shape[1]):
            ranks[n, c] = torch.linalg.matrix_rank(rates[n, c].double(), atol=eps, rtol=0.0)
    return ranks
