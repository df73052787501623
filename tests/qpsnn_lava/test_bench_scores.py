from __future__ import annotations

import numpy as np
import pytest
import torch

from qpsnn_lava import bench_scores
from qpsnn_lava.bench_scores import bench


def test_both_ways_on_the_same_maps() -> None:
    told: list[str] = []
    found = bench(channels=6, size=8, samples=70, loop_samples=2, density=0.1, rounds=2, threads=1, say=told.append)
    assert found.equal and found.speedup == pytest.approx(found.loop_seconds / found.batched_seconds)
    assert (found.channels, found.size, found.samples, found.loop_samples, found.rounds) == (6, 8, 70, 4, 2)
    maps = bench_scores._rates(0, 70, 6, 8, 4, 0.1, 0)
    assert found.mean_rank == pytest.approx(np.mean([np.linalg.matrix_rank(m, tol=1e-6) for m in maps.flatten(0, 1).double()]))
    assert 1 < found.mean_rank < 8 and len(told) == 2
    assert torch.equal(bench_scores._rates(64, 6, 6, 8, 4, 0.1, 0), maps[64:])  # whatever the batches
    assert set(found.to_dict()) >= {"speedup", "equal", "nuclear_seconds", "versions"}


def test_a_wrong_rank_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_scores, "_loop", lambda rates, eps: torch.ones(rates.shape[:2], dtype=torch.float64))
    assert not bench(channels=6, size=8, samples=4, rounds=1, threads=1, density=0.2, say=lambda text: None).equal
