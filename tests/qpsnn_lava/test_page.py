from __future__ import annotations

import copy
import functools
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import HOSTILE, NUMBERS, Reader, compare, embedded, expected, says, section

import mapping
from mapping import STATEMENT, load_chip
from mapping.bench import pilotnet, ten_layers
from netx_export import hdf5
from netx_export.errors import CapacityError, FormatError
from netx_export.network import MAX_THRESHOLD, Conv, Dense, Integrator, Lif, Network, Population, Projection
from netx_export.simulate import simulate
from qpsnn_lava import plots, report, report_file
from qpsnn_lava.page import MAX_CORES, of_mapping, page
from qpsnn_lava.shell import text_of
from qpsnn_lava.statistics import Accuracy

ROOT = Path(__file__).resolve().parents[2]
LIF = Lif(4096, 1024, 25)


# --- reports to draw


def network(names: tuple[str, str, str] = ("conv1", "conv2", "output"), channels: int = 8) -> Network:
    rng = np.random.default_rng(channels)
    first, second, last = names
    return Network(
        (
            Population("input", (1, 12, 12)),
            Population(first, (channels, 12, 12), LIF),
            Population(second, (6, 6, 6), LIF),
            Population(last, (10,), Integrator()),
        ),
        (
            Projection("input", first, Conv(rng.integers(-7, 8, (channels, 1, 3, 3)), padding=(1, 1))),
            Projection(first, second, Conv(8 * rng.integers(-3, 4, (6, channels, 3, 3)), (2, 2), (1, 1))),
            Projection(second, last, Dense(rng.integers(-127, 128, (10, 216)))),
        ),
    )


def whole(names: tuple[str, str, str] = ("conv1", "conv2", "output"), chip: str = "loihi2") -> dict[str, Any]:
    """All that a run's report can have, of a small network."""
    return json.loads(_whole(names, chip))  # type: ignore[no-any-return]


@functools.cache
def _whole(names: tuple[str, str, str], chip: str) -> str:
    small, large = network(names), network(names, 12)
    found = load_chip(chip, {"neurons": 200})
    placed = mapping.place(small, mapping.map_network(small, found)).mapping
    used = mapping.utilisation(small, placed).to_dict()
    before = mapping.plan_layers(large)
    frames = np.random.default_rng(0).integers(0, 2, (1, 1, 12, 12, 6), dtype=np.int32)
    rates = (0.171, 0.003, 0.0)
    layers = [
        {
            "name": name,
            "type": row["type"],
            "shape": list(row["shape"]),
            "channels_before": large[name].shape[0],
            "channels_after": row["shape"][0],
            "bits": 4,
            "stored_bits": 4,
            "threshold": MAX_THRESHOLD if name == names[2] else 25,
            "firing_rate": rate,
            "cores": row["cores"],
            "synapse_words": row["synapse_words_total"],
            "utilisation": row["binding_percent"],
        }
        for name, row, rate in zip(names, used["layers"][1:], rates, strict=True)
    ]
    counted = {"footprint": 1234, "connection_sparsity": 0.25, "activation_sparsity": 0.9}
    counted["synaptic_operations"] = {"Effective_ACs": 100.5, "Effective_MACs": 7.0, "Dense": 1000}
    widths = mapping.choose_widths(before, found, {names[0]: 7})
    made = {
        "schema": 1,
        "name": "digits",
        "command": "qpsnn run digits --set prune.keep=0.5",
        "versions": {"torch": "2.13.0", "numba": None},
        "seed": 11,
        "dataset": {
            **{"name": "digits", "n_train": 1080, "n_validation": 267, "n_test": 450, "licence": "CC BY 4.0"},
            **{"source": "E. Alpaydin and C. Kaynak 1998", "coding": "direct", "steps": 4, "input_bits": 4},
        },
        "accuracy": {
            stage: Accuracy.of(right, 450).to_dict()
            for stage, right in (("float", 443), ("quantised", 441), ("pruned", 302), ("integer", 439))
        }
        | {"lava": Accuracy.of(63, 64).to_dict()},
        "ties": 3,
        "agreement": {
            **{"samples": 450, "lava_samples": 64, "spikes_compared": 1_234_567, "spike_mismatches": 0},
            **{"voltages_compared": 4500, "voltage_mismatches": 0},
        },
        "size_mb": {"float": 0.0591, "deployed": 0.00388, "paper": 1.25},
        "synaptic_ops": 23456.75,
        "metrics": {"network": counted, "unpruned": {**counted, "footprint": 4321}},
        "layers": layers,
        "mapping": {
            **{key: used[key] for key in ("chip", "profile", "cores", "chips", "fits", "verdict", "lower_bound", "evidence")},
            "layers": used["layers"],
            **mapping.describe(small, placed, dict(zip(names, rates, strict=True)), large),
            "pareto": mapping.front_rows(mapping.front(small, found)),
            "compared": [
                _plain(row) for row in mapping.compare({"before": before, "after": mapping.plan_layers(small)}, found)
            ],
            "warnings": ["conv9 is 300 pixels wide"],
            "widths": [_plain(row) for row in widths],
        },
        "unpruned": {
            **{"cores": 17, "synapse_words": 65431, "size_mb": 0.01432, "synaptic_ops": 98765.4},
            "layers": [{"name": name, "cores": 5, "synapse_words": 3662} for name in names],
        },
        "seconds": {"float": 41.26, "a/b ~ %": 0.5},
        "config": 'name = "digits" # <script>\n',
        "weights": plots.weight_rows(small),
        "scores": {
            "criterion": "svs",
            "layers": [{"name": names[0], "rank": [3.5, 1.25, 2.0], "nuclear": [1.0, 2.0, 3.0], "kept": [0, 2]}],
            "scoring": {"samples": 512, "seconds": 1.375, "criterion_seconds": 0.5, "share": 0.0329, "stability": -0.25},
        },
        "raster": {"sample": 17, **plots.raster_rows(small, frames)},
    }
    return json.dumps(made)


def _plain(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def mapped(net: Network, chip: Any, name: str = "network.net") -> dict[str, Any]:
    placed = mapping.map_network(net, chip)
    chips = len({core.chip for core in placed.cores})
    used = mapping.utilisation(net, placed, chips=chips).to_dict()
    return of_mapping(name, f"qpsnn map {name}", used, mapping.describe(net, placed), plots.weight_rows(net), {"numpy": "2"})


@functools.lru_cache(maxsize=1)
def many() -> dict[str, Any]:
    """Some 600 cores on several chips."""
    return mapped(ten_layers(64), load_chip("loihi2", {"neurons": 210}))


@functools.lru_cache(maxsize=1)
def page_of_many() -> str:
    return page(many())


# --- the page as text


@pytest.mark.parametrize("chip", ["loihi2", "loihi1"])
def test_every_number_of_a_run_equals_its_report(chip: str) -> None:
    made = whole(chip=chip)
    report_file.check(made)
    text = page(made)
    assert compare(text, made) > 300
    assert embedded(text, "data") == made


def test_every_number_of_a_mapping_equals_its_data() -> None:
    made = mapped(network(), load_chip("loihi2"))
    text = page(made)
    assert compare(text, made) > 100
    assert all(section(text, name) is None for name in ("accuracy", "pruning", "activity"))
    assert "qpsnn map network.net" in text and STATEMENT in text


RUNS = [path for path in sorted((ROOT / "results").glob("*/report.json")) if not path.parent.name.startswith("ablation-")]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.parent.name)
def test_committed_reports_make_pages(path: Path) -> None:
    made = json.loads(path.read_text(encoding="utf-8"))
    assert compare(page(made), made) > 50


def test_a_wrong_number_would_be_seen() -> None:
    made = whole()
    text = page(made)
    made["layers"][0]["threshold"] += 1
    with pytest.raises(AssertionError):
        compare(text, made)


def test_sections() -> None:
    made = whole()
    text = page(made)
    names = ("accuracy", "layers", "chip", "synapses", "weights", "pruning", "activity", "traffic", "what-if", "evidence")
    assert [name for name in (*names, "provenance") if section(text, name) is None] == []
    order = [text.index(f'id="{name}"') for name in names]
    assert order == sorted(order) and text.index("The limit that binds") < order[0]
    for link in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{link}"' in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_what_is_not_there_has_no_section() -> None:
    made = whole()
    for key in ("agreement", "weights", "scores", "raster", "config", "metrics", "unpruned", "ties"):
        del made[key]
    for key in ("layers", "core_use", "mesh", "synapses", "traffic", "energy", "what_if", "pareto", "compared", "widths"):
        made["mapping"].pop(key, None)
    report_file.check(made)
    text = page(made)
    assert compare(text, made) > 30
    assert all(section(text, name) is None for name in ("chip", "synapses", "weights", "pruning", "traffic", "what-if"))
    assert "not checked" in text and "✓ exact" not in text


def test_what_only_fits_pruned() -> None:
    made = whole()
    made["unpruned"] = {"size_mb": 0.01432, "synaptic_ops": 98765.4, "error": f"{HOSTILE}: one neuron needs 25090 pool"}
    report_file.check(made)
    text = page(made)
    compare(text, made)
    words = " ".join(Reader(text).root.text.split())
    assert "unpruned it does not fit" in words and "✓ exact" in words
    pruning = section(text, "accuracy")
    assert pruning is not None and "does not fit" in pruning.text and "98,765" in pruning.text


def test_verdict_names_the_one_limit_that_binds() -> None:
    made = whole()
    rows = made["mapping"]["layers"]
    fullest = max(rows, key=lambda row: row["binding_percent"] or 0)
    text = " ".join(Reader(page(made)).root.text.split())
    assert f"The limit that binds {text_of('percent', fullest['binding_percent'])}" in text
    assert "✓ Fits" in text and "✕" not in text
    made["mapping"].update(fits=False, verdict="does not fit: 9 cores need 2 chips")
    most = max(rows, key=lambda row: row["cores"])["name"]
    text = " ".join(Reader(page(made)).root.text.split())
    assert "✕ Does not fit 9 cores need 2 chips." in text and f"cores of the board; most of them hold {most}" in text


def unmapped(net: Network, chip: Any) -> dict[str, Any]:
    """What the page of a network with a layer that fits no core is drawn from."""
    with pytest.raises(CapacityError) as caught:
        mapping.map_network(net, chip)
    assert caught.value.partial is not None
    known = {**caught.value.partial, "seconds": 0.5}
    return of_mapping("network.net", "qpsnn map network.net", known, {}, plots.weight_rows(net), {"numpy": "2"})


@pytest.mark.parametrize(
    ("chip", "limits"), [("loihi2", {"axon_in": 100}), ("loihi2", {"synapse_words": 20}), ("loihi1", {"axon_in": 50})]
)
def test_a_layer_that_fits_no_core(chip: str, limits: dict[str, int]) -> None:
    made = unmapped(network(("conv1", HOSTILE, "output")), load_chip(chip, limits))
    text = page(made)
    compare(text, made)
    words = " ".join(Reader(text).root.text.split())
    stuck = [row for row in made["mapping"]["layers"] if row["error"]]
    first = stuck[0]["excess"][0]
    assert "✕ Does not fit" in words and "✓" not in words and "Way out: " in words
    assert f"What one neuron needs, and a core has {first['need']:,} of {first['limit']:,}" in words
    assert all(f"{e['need']:,} of {e['limit']:,}" in words for row in stuck for e in row["excess"])
    found = section(text, "layers")
    assert found is not None and found.text.count("▲ no place") == len(stuck)
    planned = [row for row in made["mapping"]["layers"] if row["cores"]]
    assert planned and all(f"{row['neurons']:,}" in found.text for row in planned)
    assert section(text, "chip") is None and section(text, "evidence") is not None and section(text, "weights") is not None
    assert embedded(text, "data") == made


def test_out_axons_that_never_fit() -> None:
    net = Network(
        (Population("a", (64,), LIF), Population("b", (64,), LIF)),
        (Projection("a", "b", Dense(np.ones((64, 64)))), Projection("b", "b", Dense(np.ones((64, 64))))),
    )
    made = unmapped(net, load_chip("loihi1", {"neurons": 16, "axon_out": 40}))
    text = page(made)
    compare(text, made)
    words = " ".join(Reader(text).root.text.split())
    assert "more of 40 axons out, in" in words and "its out-axons need more cores each time" in words


def test_the_command_leaves_a_page_where_a_layer_fits_no_core(command: Callable[..., Any], tmp_path: Path) -> None:
    hdf5.write(network(), tmp_path / "network.net")
    words = ("map", tmp_path / "network.net", "--limit", "synapse_words=20", "--out", tmp_path / "out")
    assert command("map", tmp_path / "network.net", "--out", tmp_path / "out")[0] == 0  # a mapping that stands here before
    (tmp_path / "out" / "mine.png").touch()
    code, out, err = command(*words, "--json")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mapping.json", "mine.png", "report.html"]
    assert code == 2 and json.loads(out)["verdict"] in err and err.count("\n") == 1
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    made = embedded(text, "data")
    assert compare(text, made) > 30 and "✕" in text
    told = json.loads(out)
    assert {**made["mapping"], "seconds": 0} == {**told, "seconds": 0}
    kept = json.loads((tmp_path / "out" / "mapping.json").read_text(encoding="utf-8"))
    assert kept == {"utilisation": told, "details": None, "mapping": None}
    again = command(*words)
    assert again[:2] == (2, "") and "one neuron needs" in again[2]
    (tmp_path / "file").write_text("x", encoding="utf-8")
    code, out, err = command(*words[:-1], tmp_path / "file")
    assert (code, out) == (1, "") and "cannot write" in err and err.count("\n") == 1


def test_mismatches_are_loud() -> None:
    made = whole()
    made["agreement"]["spike_mismatches"] = 3
    text = page(made)
    assert "✕ NOT EXACT" in text and "NOT in this run:" in text and "✓ exact" not in text


def test_evidence_lists_every_constant_with_unit_source_and_tag() -> None:
    found = section(page(whole()), "evidence")
    assert found is not None and STATEMENT in found.text
    rows = [[cell.text.strip() for cell in row.inside] for row in found.all(lambda n: n.tag == "tr")][1:]
    chip = load_chip("loihi2", {"neurons": 200})
    assert rows == [
        [n.name, str(n.value), n.unit, n.tag, " ".join(n.source.split())] for n in (*chip.limits, *chip.parameters)
    ]


def test_cores_lie_where_the_mapping_says() -> None:
    made, text = many(), page_of_many()
    tree = Reader(text)
    rows = made["mapping"]["core_use"]
    seen = {}
    for chip in tree.root.all(
        lambda node: node.tag == "figure" and "mesh" in (n.attributes.get("class") for n in node.inside)
    ):
        number = int(chip.text.split("chip ")[1].split(":")[0])
        mesh = next(node for node in chip.inside if node.attributes.get("class") == "mesh")
        for t, tile in enumerate(mesh.inside):
            for k, cell in enumerate(tile.inside):
                if cell.tag == "button":
                    seen[int(cell.attributes["id"][1:])] = (number, t % 8, t // 8, k)
    assert seen == {i: (row["chip"], row["x"], row["y"], row["core"] % 4) for i, row in enumerate(rows)}
    shades = embedded(text, "shades")
    for i, row in enumerate(rows):
        share = row["percent_neurons"]
        bounds = (0, 5, 10, 25, 50, 75, 90, math.inf)
        assert bounds[shades["percent_neurons"]["shade"][i]] <= share < bounds[shades["percent_neurons"]["shade"][i] + 1]
        assert says(shades["operations"]["text"][i], row["operations"])


def test_600_cores_stay_below_three_megabytes() -> None:
    made, text = many(), page_of_many()
    assert 550 <= made["mapping"]["cores"] <= 700 and made["mapping"]["chips"] > 3
    assert len(text.encode()) < 3e6
    assert compare(text, made) > 10_000
    assert embedded(text, "data") == made
    assert embedded(text, "files")["cores.csv"] == report.csv_table(made["mapping"]["core_use"])


def test_more_cores_than_a_page_holds() -> None:
    made = copy.deepcopy(many())
    row = made["mapping"]["core_use"][0]
    made["mapping"]["core_use"] = [{**row, "chip": i // 120, "core": i % 120} for i in range(6000)]
    text = page(made)
    assert f"The first {MAX_CORES} of 6000 cores; all are in cores.csv." in " ".join(text.split())
    assert text.count('<tr id="c') == MAX_CORES and embedded(text, "data") is None
    assert "too large for its data" in text and len(text) < 8e6


@pytest.mark.parametrize("mesh", [{"cores_per_chip": 1 << 50, "cores_per_tile": 4, "width": 8}, None])
def test_a_mesh_that_cannot_be_drawn_leaves_its_table(mesh: dict[str, int] | None) -> None:
    made = whole()
    made["mapping"]["mesh"] = mesh
    text = page(made)
    assert "No picture of the mesh" in text and '<tr id="c0"' in text


def test_hostile_names_are_shown_and_do_nothing() -> None:
    made = whole((HOSTILE, "a[0:1]; b", "=1+1"))
    made["name"] = made["command"] = made["dataset"]["source"] = made["mapping"]["verdict"] = HOSTILE
    text = page(made)
    compare(text, made)
    assert len(re.findall(r"<script", text)) == 4 and "<img" not in text and "\u202e" not in text and "\x1b" not in text
    assert embedded(text, "data") == made and "49" not in section(text, "layers").text  # type: ignore[union-attr]
    assert "&lt;/script&gt;&lt;img src=x" in text
    assert embedded(text, "files")["layers.csv"].count("'=1+1") == 1
    assert all(not name.startswith("on") for node in Reader(text).root.all(lambda _: True) for name in node.attributes)


def test_nothing_is_fetched_and_no_other_script_may_run() -> None:
    text = page(whole())
    assert "default-src 'none'" in text and "'unsafe-eval'" not in text
    named = [(name, value) for node in Reader(text).root.all(lambda _: True) for name, value in node.attributes.items()]
    assert all(value.startswith("#") or value == "data:," for name, value in named if name in ("src", "href", "action"))
    assert "url(" not in text and "@import" not in text
    assert "eval(" not in text and "innerHTML" not in text and "http" not in re.sub(r"http-equiv", "", text)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("count", 1234567, "1,234,567"),
        ("count", 23456.75, "23,457"),
        ("percent", 87.52, "87.5 %"),
        ("percent", 100.0, "100 %"),
        ("percent", 0.00625, "0.0063 %"),
        ("percent", 0, "0 %"),
        ("share", 0.9164, "91.64 %"),
        ("rate", 0.171, "17.1 %"),
        ("rate", 0.003, "0.3 %"),
        ("three", 0.01234, "0.0123"),
        ("size", 0.04788225, "47.9 kB"),
        ("seconds", 838.93, "839 s"),
        ("times", 16.09, "16.1×"),  # noqa: RUF001
        ("change", 0.31, "-69 %"),
        ("points", -0.0036, "-0.36 points"),
        ("shape", [3, 32, 16], "3×32×16"),  # noqa: RUF001
        ("tile", [16, 32, 3], "3×32×16"),  # noqa: RUF001
        ("plain", 4095, "4095"),
        ("count", None, "–"),  # noqa: RUF001
    ],
)
def test_numbers_as_they_are_read(kind: str, value: Any, text: str) -> None:
    assert text_of(kind, value) == text


@settings(max_examples=200)
@given(st.floats(0, 1e12, allow_subnormal=False).filter(lambda x: x == 0 or x > 1e-9))
def test_a_text_is_its_number_rounded(value: float) -> None:
    assert says(text_of("count", value), value)
    assert says(text_of("three", value), value)
    shown = text_of("percent", value)
    assert math.isclose(float(shown[:-2].replace(",", "")), value, rel_tol=0.06, abs_tol=1e-12)


def test_importing_the_page_brings_no_torch_and_no_pictures() -> None:
    code = "import sys, qpsnn_lava.page; print(sorted({'torch', 'lava', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


# --- the data of the pictures


def test_weight_rows_count_every_weight() -> None:
    net = network()
    for row, projection in zip(plots.weight_rows(net), net.projections, strict=True):
        weight = projection.synapse.weight
        values = [(row["first"] + i * row["step"]) << row["exponent"] for i in range(len(row["counts"]))]
        assert {v: n for v, n in zip(values, row["counts"], strict=True) if n} == {
            int(v): int((weight == v).sum()) for v in np.unique(weight)
        }
        assert row["weights"] == weight.size and row["zeros"] == int((weight == 0).sum())
        assert (row["name"], row["source"]) == (projection.target, projection.source)


def test_raster_rows_are_the_simulator_s_spikes() -> None:
    net = network()
    frames = np.random.default_rng(1).integers(0, 2, (1, 1, 12, 12, 9), dtype=np.int32)
    found = plots.raster_rows(net, frames)
    run = simulate(net, frames, record=[p.name for p in net.populations])
    assert found["steps"] == 9 and [row["name"] for row in found["layers"]] == [p.name for p in net.populations]
    for row in found["layers"]:
        spikes = run.spikes[row["name"]][0].reshape(-1, 9)
        assert row["neurons"] == len(spikes) and len(row["shown"]) == min(64, len(spikes))
        assert row["shown"] == sorted(set(row["shown"])) and row["shown"][0] == 0
        assert [[t for t in range(9) if spikes[n, t]] for n in row["shown"]] == row["spikes"]
    assert any(times for row in found["layers"][1:] for times in row["spikes"])
    long = np.zeros((1, 1, 12, 12, 300), np.int32)
    assert plots.raster_rows(net, long)["steps"] == 256


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("raster", "steps"), 257, r"raster\.steps is 257; expected at most 256"),
        (
            ("raster", "layers", 1, "shown", 0),
            1152,
            r"raster\.layers\[1\]\.shown\[0\] is 1152; expected a whole number in 0\.\.1151",
        ),
        (("raster", "layers", 1, "spikes", 0), [6], r"spikes\[0\]\[0\] is 6; expected a whole number in 0\.\.5"),
        (("raster", "layers", 1, "spikes"), [], r"spikes has 0 entries; expected 64"),
        (("scores", "layers", 0, "kept"), [3], r"kept\[0\] is 3; expected a whole number in 0\.\.2"),
        (("scores", "layers", 0, "nuclear"), [1.0], r"nuclear has 1 entries; expected 3"),
        (("scores", "scoring", "stability"), 1.5, r"scores\.scoring\.stability is 1\.5; expected a number in -1\.\.1"),
        (("scores", "scoring", "share"), -0.1, r"scores\.scoring\.share is -0\.1; expected a number in 0\.\.1"),
        (("weights", 0, "counts"), [], r"weights\[0\]\.counts has 0 entries; expected 1\.\.512"),
        (("weights", 0, "exponent"), 64, r"weights\[0\]\.exponent is 64; expected a whole number in 0\.\.31"),
        (("config",), 3, r"config is 3; expected a text"),
    ],
)
def test_what_is_drawn_is_checked(where: tuple[str | int, ...], value: Any, message: str) -> None:
    made = whole()
    *path, last = where
    target: Any = made
    for key in path:
        target = target[key]
    target[last] = value
    with pytest.raises(FormatError, match=message):
        report_file.check(made)


# --- the page in a browser


@pytest.fixture
def shown(opened: Callable[..., Any]) -> Callable[..., Any]:
    """Opens a report's page."""

    def go(made: dict[str, Any], width: int = 1400) -> Any:
        return opened(page_of_many() if made is many() else page(made), width)

    return go


def test_in_a_browser_every_number_equals_the_report(shown: Callable[..., Any]) -> None:
    made = whole()
    driver = shown(made)
    numbers = driver.execute_script(NUMBERS)
    assert len(numbers) > 300
    for at, value, text in numbers:
        exact = expected(made, at)
        assert json.loads(value) == exact and (isinstance(exact, list) or says(text, exact)), (at, value, text)


def test_colours_follow_the_resource_that_is_chosen(shown: Callable[..., Any]) -> None:
    made = whole()
    driver = shown(made)
    rows = made["mapping"]["core_use"]
    for key in ("percent_synapse_words", "operations", "percent_neurons"):
        found = driver.execute_script(
            """const select = document.getElementById("resource");
            select.value = arguments[0];
            select.dispatchEvent(new Event("change"));
            return [...document.querySelectorAll("#mesh button")].map(
                (cell) => [Number(cell.id.slice(1)), cell.dataset.at, cell.dataset.value, cell.textContent, cell.className]);""",
            key,
        )
        most = max(row[key] for row in rows) or 1
        for i, at, value, text, name in found:
            assert json.loads(value) == rows[i][key] == expected(made, at) and says(text, rows[i][key])
            share = rows[i][key] if key.startswith("percent") else 100 * rows[i][key] / most
            assert name == f"s{sum(share >= start for start in (0, 5, 10, 25, 50, 75, 90)) - 1}"


def test_a_click_on_a_head_sorts(shown: Callable[..., Any]) -> None:
    made = mapped(ten_layers(32), load_chip("loihi2"))
    driver = shown(made)
    column = """const table = document.querySelector("#synapses table"), head = table.tHead.rows[0].cells[arguments[0]];
        head.querySelector("button").click();
        return [head.ariaSort, [...table.tBodies[0].rows].map((row) => row.cells[arguments[0]].textContent.trim()),
            table.tFoot.rows[0].cells[0].textContent, table.querySelectorAll('[aria-sort$="ending"]').length]"""
    rows = made["mapping"]["synapses"]
    words = sorted((row["words"] for row in rows), reverse=True)
    assert driver.execute_script(column, 4) == ["descending", [f"{n:,}" for n in words], "total", 1]
    assert driver.execute_script(column, 4) == ["ascending", [f"{n:,}" for n in reversed(words)], "total", 1]
    assert driver.execute_script(column, 0) == ["ascending", sorted(row["name"] for row in rows), "total", 1]


PANEL = """return document.getElementById("panel").innerText"""


def test_a_click_on_a_core_shows_it_and_its_layer(shown: Callable[..., Any]) -> None:
    made = whole()
    driver = shown(made)
    rows = made["mapping"]["core_use"]
    for i, row in enumerate(rows):
        driver.execute_script("document.getElementById(arguments[0]).click()", f"m{i}")
        text = " ".join(driver.execute_script(PANEL).split())
        assert text.startswith(f"Core {row['core']} of chip {row['chip']}, tile ({row['x']}, {row['y']})")
        assert (
            row["slices"].split("[")[0] in text and f"{row['used_pool']:,} {text_of('percent', row['percent_pool'])}" in text
        )
        pressed = driver.execute_script('return [...document.querySelectorAll("#mesh [aria-pressed=true]")].map((c) => c.id)')
        assert pressed == [f"m{i}"]
        name = driver.execute_script('return document.querySelector("#layers tr.has th").textContent.trim()')
        assert name == row["slices"].split("[")[0]


def test_a_layer_shows_its_cores_and_again_none(shown: Callable[..., Any]) -> None:
    made = whole()
    driver = shown(made)
    lit = """document.querySelector(`#layers button.layer[data-l="${arguments[0]}"]`).click();
        return [[...document.querySelectorAll("#mesh button.lit")].map((c) => Number(c.id.slice(1))).sort((a, b) => a - b),
            document.querySelectorAll("#synapses tr.lit").length, document.querySelectorAll("button.layer[aria-pressed=true]").length]"""
    for number, row in enumerate(made["mapping"]["layers"][1:], 1):
        cores = [i for i, core in enumerate(made["mapping"]["core_use"]) if core["slices"].startswith(f"{row['name']}[")]
        found, rows, pressed = driver.execute_script(lit, number)
        assert found == cores and rows == 1 and pressed > 3
    assert driver.execute_script(lit, len(made["mapping"]["layers"]) - 1) == [[], 0, 0]


def test_the_keyboard_alone(shown: Callable[..., Any]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    driver = shown(many())
    active = "return document.activeElement.id"
    assert driver.execute_script("return document.querySelectorAll(\"#mesh button[tabindex='0']\").length") == 1
    driver.execute_script('document.getElementById("m0").focus()')

    def press(key: str) -> str:
        ActionChains(driver).send_keys(key).perform()
        return str(driver.execute_script(active))

    assert press(Keys.HOME) == driver.execute_script('return document.querySelector("#mesh button").id')
    first = made_at(many(), 0)
    right = press(Keys.ARROW_RIGHT)
    assert right != "m0" and made_at(many(), int(right[1:]))[:3] == first[:3]
    assert press(Keys.ARROW_LEFT) == "m0"
    assert press(Keys.ARROW_DOWN) not in ("m0", right)
    assert driver.execute_script("return document.querySelectorAll(\"#mesh button[tabindex='0']\").length") == 1
    here = int(driver.execute_script(active)[1:])
    assert f"Core {many()['mapping']['core_use'][here]['core']} of chip" in driver.execute_script(PANEL)
    press(Keys.ENTER)
    assert driver.execute_script('return document.querySelector("#mesh [aria-pressed=true]").id') == f"m{here}"
    hidden = """return [...document.querySelectorAll("button, a, select, summary, .scroll")].filter((element) =>
        element.tabIndex < 0 && !element.closest("#mesh")).length"""
    assert driver.execute_script(hidden) == 0


def made_at(made: dict[str, Any], i: int) -> tuple[int, int, int, int]:
    row = made["mapping"]["core_use"][i]
    return row["chip"], row["x"], row["y"], row["core"] % 4


def test_600_cores_answer_a_click(shown: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    driver = shown(many())
    slowest = driver.execute_script(
        """const clicks = [["core", (i) => document.getElementById(`m${(37 * i) % 500}`)],
            ["layer", (i) => document.querySelectorAll("#layers tbody button.layer")[i % 10]]];
        const times = {};
        for (const [what, target] of clicks) {
            times[what] = 0;
            for (let i = 0; i < 12; i += 1) {
                const start = performance.now();
                target(i).click();
                document.body.getBoundingClientRect();
                document.getElementById("panel").offsetHeight;
                times[what] = Math.max(times[what], performance.now() - start);
            }
        }
        const start = performance.now();
        const select = document.getElementById("resource");
        select.value = "operations";
        select.dispatchEvent(new Event("change"));
        document.body.getBoundingClientRect();
        times.colour = performance.now() - start;
        return times"""
    )
    with capsys.disabled():
        sys.stderr.write(f"\nslowest answer of {many()['mapping']['cores']} cores, ms: {slowest}\n")
    assert max(slowest.values()) < 1000


def test_downloads_hold_the_data(shown: Callable[..., Any], tmp_path: Path) -> None:
    made = whole((HOSTILE, "conv2", "output"))
    driver = shown(made)
    folder = tmp_path / "downloads"
    folder.mkdir()
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    for name in ("report.json", "layers.csv", "cores.csv"):
        driver.execute_script("document.querySelector(arguments[0]).click()", f'[data-file="{name}"]')
        end = time.monotonic() + 20
        while not (folder / name).exists() and time.monotonic() < end:
            time.sleep(0.05)
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == made
    assert (folder / "layers.csv").read_text(encoding="utf-8") == report.csv_table(made["mapping"]["layers"])
    assert (folder / "cores.csv").read_text(encoding="utf-8") == report.csv_table(made["mapping"]["core_use"])


@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_runs_over_the_edge(shown: Callable[..., Any], width: int) -> None:
    for made in (whole((HOSTILE, "a" * 10_000, "output")), many()):
        driver = shown(made, width)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert driver.execute_script("return window.broken === undefined && document.querySelectorAll('img').length === 0")


@pytest.mark.parametrize("width", [400, 1600])
def test_a_layer_that_fits_no_core_in_a_browser(shown: Callable[..., Any], width: int) -> None:
    made = unmapped(network(("conv1", HOSTILE, "output")), load_chip("loihi2", {"axon_in": 100}))
    driver = shown(made, width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    for at, value, text in driver.execute_script(NUMBERS):
        exact = expected(made, at)
        assert json.loads(value) == exact and (isinstance(exact, list) or says(text, exact)), (at, value, text)


def test_theme_is_chosen(shown: Callable[..., Any]) -> None:
    driver = shown(whole())
    click = """document.getElementById("theme").click();
        return [document.getElementById("theme").textContent, getComputedStyle(document.body).backgroundColor]"""
    (light, white), (dark, black), (system, _) = (driver.execute_script(click) for _ in range(3))
    assert (light, dark, system) == ("Theme: light", "Theme: dark", "Theme: system")
    brightness = [sum(map(float, re.findall(r"\d+", colour)[:3])) for colour in (white, black)]
    assert brightness[0] > 600 and brightness[1] < 150


def test_pilotnet_in_a_browser(shown: Callable[..., Any]) -> None:
    net = pilotnet()
    if net is None:
        pytest.skip("no lava-dl here, whose wheel has PilotNet's file")
    made = mapped(net, load_chip("loihi2"), "pilotnet.net")
    driver = shown(made)
    assert len(driver.execute_script('return [...document.querySelectorAll("#mesh button")]')) == made["mapping"]["cores"]
    for at, value, text in driver.execute_script(NUMBERS):
        exact = expected(made, at)
        assert json.loads(value) == exact and (isinstance(exact, list) or says(text, exact)), (at, value, text)
