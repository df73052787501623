from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qpsnn_lava import ranks as module
from qpsnn_lava.ranks import ranks, singular_values

torch.set_num_threads(1)


def _loop(maps: torch.Tensor, eps: float, relative: bool) -> list[int]:
    """numpy's rank, one matrix after another."""
    found = []
    for one in maps.flatten(0, -3).numpy():
        top = np.linalg.norm(one, 2)
        found.append(int(np.linalg.matrix_rank(one, tol=eps * top * max(one.shape) if relative else eps)))
    return found


def _maps(seed: int, shape: tuple[int, int], kind: str, many: int = 40) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    height, width = shape
    if kind == "rates":  # of 4 steps, from silent to busy
        maps = rng.binomial(4, rng.uniform(0, 0.3, (many, 1, 1)), (many, height, width)) / 4
    elif kind == "low rank":
        rank = int(rng.integers(0, min(shape) + 1))
        maps = (
            np.einsum("nir,nrj->nij", rng.integers(-2, 3, (many, height, rank)), rng.integers(-2, 3, (many, rank, width))) / 4
        )
    else:  # singular values around eps, on both sides
        q = np.linalg.qr(rng.normal(size=(many, height, height)))[0]
        p = np.linalg.qr(rng.normal(size=(many, width, width)))[0]
        k = min(shape)
        sigma = 10.0 ** rng.uniform(-9, 1, (many, k))
        maps = np.einsum("nik,nk,njk->nij", q[:, :, :k], sigma, p[:, :, :k])
    return torch.from_numpy(np.ascontiguousarray(maps, np.float64))


@pytest.mark.parametrize("kind", ["rates", "low rank", "around eps"])
@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(2, 12), st.integers(2, 12)),
    case=st.sampled_from([(1e-6, False), (1e-3, False), (0.3, False), (2.0**-23, True), (1e-3, True)]),
)
def test_ranks_are_those_of_a_loop(kind: str, seed: int, shape: tuple[int, int], case: tuple[float, bool]) -> None:
    maps = _maps(seed, shape, kind)
    assert ranks(maps, *case).tolist() == _loop(maps, *case)


@pytest.mark.skipif(not module.AVAILABLE, reason="numba is not installed: svdvals decides everything")
def test_most_maps_need_no_singular_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the bounds prove is not asked of svdvals, and what they do not prove is."""
    asked: list[int] = []
    whole = torch.linalg.svdvals

    def counting(maps: torch.Tensor) -> Any:
        asked.append(len(maps))
        return whole(maps)

    monkeypatch.setattr(torch.linalg, "svdvals", counting)
    maps = _maps(1, (16, 16), "rates", 400)
    found = ranks(maps, 1e-6)
    assert sum(asked) < 20 and 3 < float(found.double().mean()) < 16
    near = torch.diag_embed(torch.tensor([[1.0, 2e-6, 5e-7]], dtype=torch.float64))
    asked.clear()
    assert ranks(near, 1e-6).tolist() == [2] and asked == [1]


@pytest.mark.parametrize("kind", ["rates", "low rank", "around eps"])
@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    case=st.sampled_from([(1e-6, False), (0.3, False), (2.0**-23, True)]),
    scale=st.sampled_from([2.0**-300, 2.0**-20, 1.0, 2.0**20, 2.0**40, 2.0**300]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_other_sizes_scales_and_types(
    kind: str, seed: int, shape: tuple[int, int], case: tuple[float, bool], scale: float, dtype: torch.dtype
) -> None:
    """As by singular values alone, however large the roundings; a silent map has rank 0."""
    maps = (_maps(seed, shape, kind, 12) * scale).to(dtype)
    if not bool(maps.isfinite().all()):
        maps = maps.clamp(-(2.0**100), 2.0**100)
    maps[seed % 12] = 0.0
    found = ranks(maps, *case)
    assert found[seed % 12] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AVAILABLE", False)
        assert torch.equal(found, ranks(maps, *case))


@pytest.mark.skipif(not module.AVAILABLE, reason="numba is not installed: svdvals decides everything")
@pytest.mark.parametrize(
    "shape, eps",
    [(shape, 1e-6) for shape in ((2, 3), (5, 37), (32, 32), (33, 16), (27, 18), (48, 49))]
    + [((100, 33), 1e-5), ((64, 70), 1e-5)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["rates", "low rank"])
def test_bounds_prove_most_ranks(shape: tuple[int, int], eps: float, dtype: torch.dtype, kind: str) -> None:
    """Of one block, of two, and of more; in the largest ones roundings allow for less."""
    maps = _maps(2, shape, kind, 200).to(dtype)
    counts, sure = module.certify(maps.numpy(), eps, False)
    assert sure.mean() > 0.95
    expected = torch.linalg.matrix_rank(maps.double(), atol=eps, rtol=0.0).numpy()
    assert counts[sure].tolist() == expected[sure].tolist()


@pytest.mark.skipif(not module.AVAILABLE, reason="numba is not installed: svdvals decides everything")
@pytest.mark.parametrize("size, least", [(16, 2e-6), (24, 3e-6), (32, 1.6e-5), (40, 3e-6)])
def test_bounds_are_tight(size: int, least: float) -> None:
    """A smallest singular value near eps, which norms of blocks alone do not prove to be above it; and one of eps, which nothing does."""
    rng = np.random.default_rng(size)
    q, p = (np.linalg.qr(rng.normal(size=(40, size, size)))[0] for _ in range(2))
    sigma = np.linspace(1.0, 0.5, size)
    sigma[-1] = least
    counts, sure = module.certify(np.ascontiguousarray(q * sigma @ p), 1e-6, False)
    assert sure.all() and (counts == size).all()
    sigma[-1] = 1e-6
    assert not module.certify(np.ascontiguousarray(q * sigma @ p), 1e-6, False)[1].any()


@pytest.mark.skipif(not module.AVAILABLE, reason="numba is not installed: svdvals decides everything")
def test_nothing_is_proved_below_the_roundings() -> None:
    """A remainder of nearly nothing is as uncertain as what it came from: here its bound is larger than eps, and it is not."""
    maps = _maps(2, (32, 32), "low rank", 40).numpy()
    norm = np.linalg.norm(maps[0])
    assert module.certify(maps, 1e-6, False)[1].all()
    assert not module.certify(maps, norm * 2.0**-37, False)[1].any()


@pytest.mark.skipif(not module.AVAILABLE, reason="numba is not installed: svdvals decides everything")
def test_each_of_eight_for_itself() -> None:
    """Silent, full, and low-rank maps side by side, and fewer than eight of them."""
    maps = np.concatenate(
        [_maps(8, (32, 32), kind, 3).numpy() for kind in ("rates", "low rank")] + [np.zeros((5, 32, 32)), np.eye(32)[None]]
    )
    for seed in range(20):
        some = np.random.default_rng(seed).permutation(len(maps))[: seed + 1]
        counts, sure = module.certify(maps[some], 1e-6, False)
        assert sure.mean() > 0.9
        assert counts[sure].tolist() == [int(np.linalg.matrix_rank(one, tol=1e-6)) for one in maps[some][sure]]


@pytest.mark.skipif(not module.AVAILABLE, reason="numba is not installed: svdvals decides everything")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308])
def test_numbers_without_bounds_are_not_proved(value: float) -> None:
    """Also where they meet a map's zeros; the next map of the same thread does not suffer."""
    maps = _maps(5, (6, 9), "rates", 80).numpy()
    maps[::2, 3, 4] = value
    for relative in (False, True):
        _, sure = module.certify(maps, 1e-6, relative)
        assert not sure[::2].any() and sure[1::2].mean() > 0.9


def test_any_type_of_number() -> None:
    maps = _maps(6, (4, 5), "rates", 10)
    for dtype in (torch.float16, torch.bfloat16):  # both hold quarters
        assert torch.equal(ranks(maps.to(dtype), 1e-6), ranks(maps, 1e-6))
    assert torch.equal(ranks((maps * 4).to(torch.int64), 1e-6), ranks(maps * 4, 1e-6))


def test_shapes() -> None:
    maps = _maps(3, (5, 7), "rates", 12).view(3, 4, 5, 7)
    assert ranks(maps, 1e-6).shape == (3, 4)
    assert torch.equal(ranks(maps.mT.contiguous(), 1e-6), ranks(maps, 1e-6))
    vector = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]], dtype=torch.float64)
    assert singular_values(vector).tolist() == [[5.0], [0.0]] and ranks(vector, 1e-6).tolist() == [1, 0]
    assert ranks(torch.zeros(0, 4, 4, dtype=torch.float64), 1e-6).shape == (0,)
    assert ranks(torch.zeros(2, 4, 4, dtype=torch.float64), 1e-6, True).tolist() == [0, 0]


def test_without_numba_the_answer_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = _maps(4, (8, 6), "rates")
    before = ranks(maps, 1e-6)
    monkeypatch.setattr(module, "AVAILABLE", False)
    assert torch.equal(ranks(maps, 1e-6), before)
