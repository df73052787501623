"""loihi1 counts as nengo-loihi 1.1.0 does.

Always against the recorded counts beside this file; with ``QPSNN_ORACLES=1`` also against fresh ones, from an environment that
the script beside this file makes (about a minute; it needs a Python 3.10 and the package index).  CI runs it so on demand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mapping.check import recount
from mapping.chip import load_chip
from mapping.cost import ConvInput, DenseInput, Loihi1Cost, NonZero, dense_lists, population_lists
from mapping.mapping import Core, Mapping, Slice
from netx_export.network import Conv, Dense, Lif, Network, Population, Projection

HERE = Path(__file__).parent
RECORDED = json.loads((HERE / "nengo_loihi_counts.json").read_text())
LIF = Lif(4096, 1024, 25)


def cost() -> Loihi1Cost:
    found = load_chip("loihi1").cost
    assert isinstance(found, Loihi1Cost)
    return found


def compare(case: dict[str, Any]) -> None:
    if case["kind"] == "dense":
        weight = np.array([[int(c) for c in row] for row in case["nonzero"]], dtype=np.int32).T
        synapses = DenseInput("in", case["pre"], case["bits"], case["delay_bits"], NonZero(weight))
        dense, sparse, cheapest = (
            dense_lists(synapses, (0, case["post"]), case["post"], rule, cost()) for rule in ("dense", "sparse", "cheapest")
        )
        assert (dense.axon_in, dense.synapse_words) == (case["axons"], case["dense_words"])
        assert sparse.synapse_words == case["sparse_words"]
        assert cheapest.synapse_words == min(case["dense_words"], case["sparse_words"])
        return
    (height, width), kernel, strides = case["size"], tuple(case["kernel"]), tuple(case["strides"])
    out = tuple((n - k) // s + 1 for n, k, s in zip((height, width), kernel, strides, strict=True))
    conv = ConvInput(
        "in", (height, width), case["filters"], case["channels"], 1, kernel, strides, (0, 0), (1, 1), case["bits"]
    )  # fmt: skip
    used = population_lists(conv, ((0, case["filters"]), (0, out[0]), (0, out[1])), cost())
    assert (used.axon_in, used.synapse_words) == (case["axons"], case["words"])


@pytest.mark.parametrize("number", range(len(RECORDED["cases"])))
def test_recorded_counts(number: int) -> None:
    compare(RECORDED["cases"][number])


def test_the_record_says_where_it_comes_from() -> None:
    assert RECORDED["versions"] == {"nengo-loihi": "1.1.0", "nengo": "4.1.0", "numpy": "1.23.5"}
    assert {case["kind"] for case in RECORDED["cases"]} == {"dense", "conv"}
    assert len({case["index_bits"] for case in RECORDED["cases"] if case["kind"] == "conv"}) > 2


def test_the_checker_counts_the_same() -> None:
    """Its formulas and its walk over synapses, on the recorded convolutions and a recorded dense block, each on one core."""
    for case in RECORDED["cases"]:
        source = (case["channels"], *case["size"]) if case["kind"] == "conv" else (case["pre"],)
        synapse: Conv | Dense
        if case["kind"] == "conv":
            weight = weights_of(case["bits"], (case["filters"], case["channels"], *case["kernel"]))
            synapse = Conv(weight, stride=tuple(case["strides"]))
            shape: tuple[int, ...] = synapse.output_shape(source)
        else:
            if case["delay_bits"] or not any("1" in row for row in case["nonzero"]):
                continue
            mask = np.array([[int(c) for c in row] for row in case["nonzero"]]).T
            dense = mask * weights_of(case["bits"], mask.shape)
            flat = np.flatnonzero(mask)
            dense.flat[flat[0]] = weights_of(case["bits"], (1,))[0]
            synapse, shape = Dense(dense), (case["post"],)
        network = Network((Population("in", source), Population("p", shape, LIF)), (Projection("in", "p", synapse),))
        chip = load_chip("loihi1")
        mapping = Mapping(chip, (Core(0, 0, (Slice("p", tuple((0, n) for n in shape)),)),))
        expected = case["words"] if case["kind"] == "conv" else min(case["dense_words"], case["sparse_words"])
        for by_synapse in (True, False):
            assert recount(network, mapping, by_synapse)[0]["synapse_words"] == expected


def weights_of(bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Weights that are stored with so many bits: one of the largest, all others of the smallest magnitude."""
    weight = np.ones(shape, dtype=np.int64)
    weight.flat[0] = (1 << bits) - 1
    return weight


@pytest.mark.timeout(600)
def test_fresh_counts(tmp_path: Path) -> None:
    if os.environ.get("QPSNN_ORACLES") != "1":
        pytest.skip("set QPSNN_ORACLES=1 to make an environment with nengo-loihi and count anew")
    out = tmp_path / "counts.json"
    done = subprocess.run(
        [sys.executable, str(HERE / "nengo_loihi_counts.py"), str(out), "--cases", "100", "--seed", "11"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 3:
        pytest.skip(f"no environment with nengo-loihi: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    for case in json.loads(out.read_text())["cases"]:
        compare(case)
