"""Checks against Lava and recordings: what differs is found where it is, and parts of a check add up to the whole."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from netx_export import hdf5, verify
from netx_export.errors import ConfigError, FormatError, RunError
from netx_export.lava_run import LavaRun
from netx_export.network import Delta, Dense, Drive, Integrator, Lif, Network, Population, Projection, Sigma, SigmaDelta
from netx_export.simulate import simulate
from netx_export.verify import Verification, merge, random_input, verify_lava, verify_recorded

LIMIT = 60.0
RNG = np.random.default_rng(0)

NETWORK = Network(
    (
        Population("in", (12,)),
        Population("first", (9,), Lif(1000, 300, 60)),
        Population("second", (7,), Lif(4096, 100, 60)),
        Population("out", (4,), Integrator()),
    ),
    (
        Projection("in", "first", Dense(RNG.integers(-20, 30, (9, 12)))),
        Projection("first", "second", Dense(RNG.integers(-20, 40, (7, 9)))),
        Projection("second", "out", Dense(RNG.integers(-9, 10, (4, 7)))),
    ),
    steps=6,
)


def changed(network: Network, number: int, post: int, pre: int) -> Network:
    """One weight of one projection is larger by 15."""
    projection = network.projections[number]
    weight = projection.synapse.weight.copy()
    weight[post, pre] += 15
    other = dataclasses.replace(projection, synapse=Dense(weight))
    return dataclasses.replace(network, projections=(*network.projections[:number], other, *network.projections[number + 1 :]))


def frames(samples: int = 10) -> NDArray[np.int32]:
    return random_input(NETWORK, samples, 0.4, 1)


def first_difference(a: Network, b: Network, x: NDArray[Any]) -> tuple[str, int, tuple[int, ...], int] | None:
    """(layer, sample, neuron, step), by loops."""
    runs = [simulate(n, x) for n in (a, b)]
    for population in a.populations:
        one, two = (run.spikes[population.name] for run in runs)
        for sample in range(x.shape[0]):
            for step in range(x.shape[-1]):
                for neuron in np.ndindex(*population.shape):
                    if one[(sample, *neuron, step)] != two[(sample, *neuron, step)]:
                        return population.name, sample, neuron, step
    return None


class Lava:
    """Stands in for run_lava: simulates the file, and fails after some runs where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, runs: int = 1000) -> None:
        self.calls: list[int] = []
        self.runs = runs
        monkeypatch.setattr(verify, "run_lava", self)

    def __call__(self, path: Path, x: NDArray[Any], *, voltage: bool, record: list[str], **options: Any) -> LavaRun:
        if len(self.calls) == self.runs:
            raise RunError("killed")
        self.calls.append(len(x))
        network = hdf5.read(path)
        run = simulate(network, x)
        output = network.output.name
        v = run.voltage[output][..., -1] if voltage else None
        return LavaRun(run.spikes[output], v, 1.0, 1, {}, {name: run.spikes[name].astype(np.int8) for name in record})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    hdf5.write(NETWORK, tmp_path / "a.net")
    return tmp_path / "a.net"


def test_lava_agrees_in_every_layer_and_a_changed_weight_is_found_where_it_is(path: Path) -> None:
    x = frames(3)
    good = verify_lava(path, NETWORK, x, timeout=LIMIT)
    assert good.mismatches == 0 and not good.where and good.first_layer is None
    assert [(layer.name, layer.compared) for layer in good.layers] == [("first", 162), ("second", 126), ("out", 72)]
    assert all(0.02 < layer.spikes / layer.compared < 0.8 for layer in good.layers[:2])
    assert (good.spikes_compared, good.voltages_compared) == (360, 12)
    other = changed(NETWORK, 1, 3, 2)
    expected = first_difference(other, NETWORK, x)
    assert expected is not None and expected[0] == "second"
    bad = verify_lava(path, other, x, models="fast", timeout=LIMIT)
    _, sample, (neuron,), step = expected
    assert bad.where.startswith(f"sample {sample}, layer second, neuron {neuron}, step {step}: simulation ")
    assert bad.where.endswith((", Lava with fast models 0.", ", Lava with fast models 1."))
    assert bad.layers[0].mismatches == 0 and bad.layers[1].mismatches > 0 and "NOT EQUAL: sample" in str(bad)
    assert bad.to_dict()["mismatches"] == bad.mismatches == bad.spike_mismatches + bad.voltage_mismatches


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_first_difference_is_the_same_in_batches_of_any_size(
    path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    lava = Lava(monkeypatch)
    x = frames()
    other = changed(changed(NETWORK, 0, 8, 5), 1, 3, 2)
    found = verify_lava(path, other, x, batch=batch)
    expected = first_difference(other, NETWORK, x)
    assert expected is not None
    layer, sample, (neuron,), step = expected
    assert layer == "first" and found.where.startswith(f"sample {sample}, layer first, neuron {neuron}, step {step}: ")
    runs = [simulate(n, x) for n in (other, NETWORK)]
    differ = {n: int((runs[0].spikes[n] != runs[1].spikes[n]).sum()) for n in ("first", "second", "out")}
    assert {entry.name: entry.mismatches for entry in found.layers} == differ
    assert found.voltage_mismatches == (runs[0].voltage["out"][..., -1] != runs[1].voltage["out"][..., -1]).sum() > 0
    assert sum(lava.calls) == 10 and max(lava.calls) == min(batch, 10)


def test_a_difference_in_the_voltages_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Lava(monkeypatch)
    found = verify_lava(path, changed(NETWORK, 2, 1, 0), frames())
    assert found.spike_mismatches == 0 and found.voltage_mismatches > 0
    assert "layer out, neuron 1, v at the end: simulation" in found.where


# --- shards


def test_shards_add_up_to_the_whole_whatever_their_number(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Lava(monkeypatch)
    other = changed(NETWORK, 0, 8, 5)
    whole = verify_lava(path, other, frames())
    for count in (1, 2, 3, 11):  # more shards than samples: some are empty
        files = [tmp_path / f"{count}-{i}.json" for i in range(count)]
        for i in reversed(range(count)):
            verify_lava(path, other, frames(), shard=(i + 1, count), results=files[i], batch=2)
        assert merge(files[::-1]) == whole


def test_a_killed_shard_goes_on_where_it_was(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "r.json"
    other = changed(NETWORK, 0, 8, 5)
    Lava(monkeypatch, runs=2)
    with pytest.raises(RunError, match="killed"):
        verify_lava(path, other, frames(), batch=3, results=results)
    with pytest.raises(ConfigError, match=r"r\.json: 6 of 10 samples are done; run that shard again, it goes on there"):
        merge([results])
    again = Lava(monkeypatch)
    seen: list[tuple[int, int]] = []
    found = verify_lava(path, other, frames(), batch=3, results=results, progress=lambda *n: seen.append(n))
    assert again.calls == [3, 1] and seen == [(9, 10), (10, 10)]
    assert found == verify_lava(path, other, frames()) == merge([results])
    done = Lava(monkeypatch)
    assert verify_lava(path, other, frames(), batch=3, results=results) == found and not done.calls


def test_results_of_another_check_are_refused(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Lava(monkeypatch)
    results = tmp_path / "r.json"
    verify_lava(path, NETWORK, frames(), shard=(1, 2), results=results)
    message = r"r\.json is of another check \(file, input, options or shard differ\); delete it, or name another"
    for options in ({"shard": (2, 2)}, {"shard": (1, 2), "models": "fast"}):
        with pytest.raises(ConfigError, match=message):
            verify_lava(path, NETWORK, frames(), results=results, **options)
    with pytest.raises(ConfigError, match=message):
        verify_lava(path, NETWORK, 1 - frames(), shard=(1, 2), results=results)
    hdf5.write(changed(NETWORK, 0, 0, 0), path)
    with pytest.raises(ConfigError, match=message):
        verify_lava(path, NETWORK, frames(), shard=(1, 2), results=results)


def test_what_does_not_merge(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Lava(monkeypatch)
    files = [tmp_path / f"{i}.json" for i in range(4)]
    for file, number in zip(files, (1, 2, 1), strict=False):
        verify_lava(path, NETWORK, frames(), shard=(number, 2), results=file)
    verify_lava(path, NETWORK, frames(4), shard=(1, 2), results=files[3])
    with pytest.raises(ConfigError, match="shard 1/2 is there 2 times; each is needed once"):
        merge(files[:3])
    with pytest.raises(ConfigError, match="shard 2/2 is there 0 times; each is needed once"):
        merge(files[:1])
    with pytest.raises(ConfigError, match=r"3\.json is of another check than .*1\.json; merge the shards of one"):
        merge([files[1], files[3]])
    with pytest.raises(ConfigError, match="there is nothing to merge"):
        merge([])
    one, two = verify_lava(path, NETWORK, frames(2)), verify_lava(path, NETWORK, frames(2), models="fast")
    with pytest.raises(ConfigError, match="a check against Lava and one against Lava with fast models do not add up"):
        one + two


def test_what_is_no_results_file(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Lava(monkeypatch)
    good = tmp_path / "good.json"
    verify_lava(path, NETWORK, frames(2), results=good)
    data = json.loads(good.read_text())
    wrong = [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, json.dumps(data | {"format": "other"}).encode()]
    wrong += [json.dumps(data | change).encode() for change in ({"done": 3}, {"done": "1"}, {"shard": [1]}, {"more": 1})]
    wrong.append(json.dumps(data | {"result": data["result"] | {"spikes": "many"}}).encode())
    wrong.append(b" " * (1 << 22) + good.read_bytes())
    for raw in wrong:
        (tmp_path / "bad.json").write_bytes(raw)
        with pytest.raises(FormatError, match=r"bad\.json is not a results file of this version; delete it, or name another"):
            merge([tmp_path / "bad.json"])
    with pytest.raises(FormatError, match=r"none\.json cannot be read: No such file or directory"):
        merge([tmp_path / "none.json"])


def test_bad_requests(path: Path) -> None:
    for shard in ((0, 2), (3, 2)):
        with pytest.raises(ConfigError, match=rf"shard {shard[0]}/2 does not exist; the first number is in 1\.\.2"):
            verify_lava(path, NETWORK, frames(), shard=shard)
    with pytest.raises(ConfigError, match="batch is 0; it must be at least 1 sample"):
        verify_lava(path, NETWORK, frames(), batch=0)
    with pytest.raises(ConfigError, match=r"the input has the shape \(12, 6\); expected"):
        verify_lava(path, NETWORK, frames()[0])


# --- recordings


def test_recorded_voltages(path: Path, tmp_path: Path) -> None:
    x = frames()
    v = simulate(NETWORK, x).voltage["out"]
    for name, values in (("steps", v), ("end", v[..., -1])):
        file = tmp_path / f"{name}.npy"
        np.save(file, values.astype(np.float64))
        found = verify_recorded(path, NETWORK, x, file, batch=3)
        assert found.mismatches == 0 and found.voltages_compared == values.size and found.against == f"{name}.npy"
        values = values.copy()
        values[7, 2] += 1
        np.save(file, values)
        bad = verify_recorded(path, NETWORK, x, file, batch=3)
        when = "v in step 0" if name == "steps" else "v at the end"
        assert bad.where.startswith(f"sample 7, layer out, neuron 2, {when}: simulation ") and f"{name}.npy" in bad.where
        assert bad.voltage_mismatches == (6 if name == "steps" else 1)


def test_recorded_spikes_in_shards(tmp_path: Path) -> None:
    network = Network(NETWORK.populations[:3], NETWORK.projections[:2])
    hdf5.write(network, tmp_path / "a.net")
    x = frames()
    spikes = simulate(network, x).spikes["second"].copy()
    spikes[8, 3, 2] ^= 1
    np.save(tmp_path / "out.npy", spikes)
    files = [tmp_path / "1.json", tmp_path / "2.json"]
    for i, file in enumerate(files):
        verify_recorded(tmp_path / "a.net", network, x, tmp_path / "out.npy", shard=(i + 1, 2), results=file)
    found = merge(files)
    assert (found.samples, found.mismatches, found.spikes_compared) == (10, 1, spikes.size)
    assert found.where.startswith("sample 8, layer second, neuron 3, step 2: simulation ")


def test_what_is_no_recording(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.npy"
    for raw in (b"", b"no", b"\x93NUMPY\x01\x00"):
        file.write_bytes(raw)
        with pytest.raises(FormatError, match=r"r\.npy cannot be read as a \.npy file of numbers"):
            verify_recorded(path, NETWORK, frames(), file)
    np.save(file, np.array(["a"]))
    with pytest.raises(FormatError, match=r"r\.npy cannot be read as a \.npy file of numbers"):
        verify_recorded(path, NETWORK, frames(), file)
    np.save(file, np.zeros((10, 4, 5)))
    with pytest.raises(FormatError, match=r"has the shape \(10, 4, 5\); expected \(10, 4, 6\) \(spikes\) or \(10, 4\)"):
        verify_recorded(path, NETWORK, frames(), file)


# --- random input


def test_random_input_fits_what_the_network_takes() -> None:
    graded = dataclasses.replace(NETWORK, input_bits=3)
    assert set(np.unique(random_input(graded, 20, 0.5, 0))) == set(range(8))
    assert abs(np.mean(random_input(NETWORK, 20, 0.3, 0)) - 0.3) < 0.05
    signed = Network(
        (Population("in", (12,)), Population("out", (3,), Sigma())),
        (Projection("in", "out", Dense(np.ones((3, 12), int))),),
        input_bits=3,
        steps=20,
    )
    assert set(np.unique(random_input(signed, 20, 0.5, 0))) == set(range(-4, 4))
    encoded = Network((Population("in", (9,), Delta(0)),), (), steps=20)
    moves = np.diff(random_input(encoded, 20, 0.25, 0), axis=-1)
    assert abs(np.mean(moves != 0) - 0.25 * 16 / 17) < 0.05 and np.abs(moves).max() == 8
    driven = Network((Population("in", (9,), Lif(1, 2, 3), drive=Drive(10, 5)),), ())
    shown = random_input(driven, 5, 0.1, 0)
    assert shown.min() >= 5 and shown.max() <= 15 and (shown == shown[..., :1]).all()
    with pytest.raises(ConfigError, match=r"density 1\.5: it must be in 0\.\.1"):
        random_input(NETWORK, 1, 1.5, 0)


def test_nothing_added_to_something_is_the_same() -> None:
    some = Verification(1, 2, 0, 1, 0, 0, "", "x", (verify.LayerCheck("a", 2, 0, 1),))
    assert verify.NOTHING + some == some


def test_sigma_delta_networks_are_checked_too(tmp_path: Path) -> None:
    network = Network(
        (Population("in", (6,), Delta(2)), Population("hidden", (5,), SigmaDelta(1)), Population("out", (3,), Sigma())),
        (
            Projection("in", "hidden", Dense(RNG.integers(-9, 12, (5, 6)))),
            Projection("hidden", "out", Dense(RNG.integers(-9, 12, (3, 5)))),
        ),
        steps=6,
    )
    hdf5.write(network, tmp_path / "sdnn.net")
    x = random_input(network, 1, 0.5, 2)
    found = verify_lava(tmp_path / "sdnn.net", network, x, timeout=LIMIT)
    assert found.mismatches == 0 and [layer.name for layer in found.layers] == ["in", "hidden", "out"]
    assert all(layer.spikes for layer in found.layers)
    np.save(tmp_path / "end.npy", simulate(network, x).voltage["out"][..., -1])
    assert verify_recorded(tmp_path / "sdnn.net", network, x, tmp_path / "end.npy").mismatches == 0
