from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netx_export.errors import FormatError
from netx_export.network import Conv, Dense, Integrator, Lif, Network, Population, Projection, Rate, Voltage
from qpsnn_lava import report_file
from qpsnn_lava.sizes import deployed_mb, paper_mb


def small(integrator: bool) -> Network:
    """2x4x4 -> conv 3 -> sum-pooling -> dense 5 -> read-out of 2 classes (4 neurons where it counts spikes)."""
    random = np.random.default_rng(0)

    def weights(*shape: int) -> Any:
        return random.integers(-7, 8, shape).astype(np.int32)

    lif, units = Lif(4096, 2048, 100), 2 if integrator else 4
    populations = (
        Population("input", (2, 4, 4)),
        Population("conv", (3, 4, 4), lif, np.ones(3, np.int32)),
        Population("pool", (3, 2, 2), Lif(4096, 4096, 32)),
        Population("dense", (5,), lif, np.ones(5, np.int32)),
        Population("output", (units,), Integrator(4096, 0) if integrator else lif, np.ones(units, np.int32)),
    )
    projections = (
        Projection("input", "conv", Conv(weights(3, 2, 3, 3), padding=(1, 1))),
        Projection("conv", "pool", Conv(np.full((3, 1, 2, 2), 64, np.int32), stride=(2, 2), groups=3)),
        Projection("pool", "dense", Dense(weights(5, 12))),
        Projection("dense", "output", Dense(weights(units, 5))),
    )
    return Network(populations, projections, Voltage() if integrator else Rate(2), 0, 4)


@pytest.mark.parametrize("integrator", [True, False])
def test_the_papers_count_by_hand(integrator: bool) -> None:
    network = small(integrator)
    units = 2 if integrator else 4
    norms = 2 * 3 + 2 * 5 + (units if integrator else 2 * units)  # gain and shift; an integrator has a bias
    for bits in (2, 4, 32):
        asked = {"conv": 8, "dense": bits, "output": 8}
        expected = (32 * 3 * 2 * 9 + bits * 5 * 12 + 32 * units * 5 + 32 * norms) / 8e6
        assert paper_mb(network, asked) == pytest.approx(expected, rel=1e-12)


def test_the_deployed_count_by_hand() -> None:
    network = small(True)
    weights = 4 * 54 + 1 * 12 + 4 * 60 + 4 * 10  # -7..7 in 4 bits; 64 for all is a shift of a single bit
    assert deployed_mb(network) == (weights + 13 * (3 + 5 + 2)) / 8e6


def test_a_report_may_hold_the_papers_size() -> None:
    with pytest.raises(FormatError, match=r"size_mb\.paper is .0\.4.; expected a number of at least 0"):
        report_file.check({"schema": 1, "name": "x", "command": "", "versions": {}, "seed": 0, **_FRONT, "size_mb": _WRONG})


_WRONG = {"float": 1.0, "deployed": 0.5, "paper": "0.4"}
_DATA = {"name": "d", "licence": "", "source": "", "coding": "direct"} | dict.fromkeys(
    ("n_train", "n_validation", "n_test", "steps", "input_bits"), 4
)
_FRONT: dict[str, Any] = {"dataset": _DATA, "accuracy": {}}
