from __future__ import annotations

import copy
import csv
import io
import json
import math
import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

import mapping
from mapping import STATEMENT, load_chip
from netx_export.errors import FormatError
from netx_export.network import MAX_THRESHOLD, Conv, Dense, Lif, Network, Population, Projection
from qpsnn_lava.report import (
    NONE,
    compared_markdown,
    compared_table,
    csv_table,
    escape,
    markdown,
    plain,
    summary,
)
from qpsnn_lava.report_file import check
from qpsnn_lava.statistics import Accuracy


def layer(name: str, kind: str, shape: list[int], channels: tuple[int, int], **rest: Any) -> dict[str, Any]:
    row = {
        "name": name,
        "type": kind,
        "shape": shape,
        "channels_before": channels[0],
        "channels_after": channels[1],
        "bits": 4,
        "stored_bits": 4,
        "threshold": 96,
        "firing_rate": 0.171,
        "cores": 1,
        "synapse_words": 144,
        "utilisation": 12.4,
    }
    return {**row, **rest}


HOST = dict.fromkeys(("bits", "stored_bits", "threshold", "firing_rate", "utilisation")) | {"cores": 0, "synapse_words": 0}
READOUT = {
    **{"bits": 8, "stored_bits": 8, "threshold": MAX_THRESHOLD},
    **{"firing_rate": 0.0, "synapse_words": 1280, "utilisation": 31.6},
}


def sample() -> dict[str, Any]:
    """As the pipeline writes it for the digits; the numbers are chosen to be told apart."""
    report = {
        "schema": 1,
        "name": "digits",
        "command": "qpsnn run digits --set prune.keep=0.5",
        "versions": {"qpsnn-lava": "0.1.0", "torch": "2.13.0", "lava-dl": "0.6.0", "numba": None},
        "seed": 11,
        "dataset": {
            "name": "digits",
            "n_train": 1080,
            "n_validation": 267,
            "n_test": 450,
            "licence": "CC BY 4.0 (UCI Machine Learning Repository)",
            "source": "E. Alpaydin and C. Kaynak 1998",
            "coding": "direct",
            "steps": 4,
            "input_bits": 4,
        },
        "accuracy": {
            "float": Accuracy.of(443, 450).to_dict(),
            "quantised": Accuracy.of(441, 450).to_dict(),
            "pruned": Accuracy.of(302, 450).to_dict(),
            "integer": Accuracy.of(439, 450).to_dict(),
            "lava": Accuracy.of(63, 64).to_dict(),
        },
        "ties": 3,
        "agreement": {
            "samples": 450,
            "simulated_samples": 450,
            "lava_samples": 64,
            "spikes_compared": 1_234_567,
            "spike_mismatches": 0,
            "voltages_compared": 4500,
            "voltage_mismatches": 0,
        },
        "size_mb": {"float": 0.0591, "deployed": 0.00388},
        "synaptic_ops": 23456.7,
        "layers": [
            layer("input", "host", [1, 8, 8], (1, 1), **HOST),
            layer("conv1", "conv", [8, 8, 8], (16, 8)),
            layer("conv2", "conv", [16, 4, 4], (32, 16), synapse_words=720, threshold=211, firing_rate=0.093, cores=2),
            layer("dense", "dense", [10], (10, 10), **READOUT),
        ],
        "mapping": {
            "chip": "loihi2",
            "cores": 4,
            "chips": 1,
            "fits": True,
            "verdict": "fits: 4 cores on 1 chip of loihi2 with 120 cores each; dense fills synapse_words to 32 %",
            "lower_bound": 3,
            "evidence": list(load_chip("loihi2").evidence),
        },
        "unpruned": {
            "cores": 7,
            "synapse_words": 6543,
            "size_mb": 0.01432,
            "synaptic_ops": 98765.4,
            "layers": [
                {"name": "conv1", "cores": 1, "synapse_words": 321},
                {"name": "conv2", "cores": 5, "synapse_words": 3662},
                {"name": "dense", "cores": 1, "synapse_words": 2560},
            ],
        },
        "seconds": {"float training": 41.26, "quantised training": 30.4, "lava": 12.0},
    }
    return copy.deepcopy(report)


def mapped(chip: str = "loihi2") -> dict[str, Any]:
    """A report whose mapping has all the details, from a real network: 8 channels instead of 12, then 10 neurons."""

    def network(channels: int) -> Network:
        rng = np.random.default_rng(channels)
        conv = Conv(rng.integers(-7, 8, (channels, 1, 3, 3)), padding=(1, 1))
        dense = Dense(rng.integers(-7, 8, (10, 64 * channels)))
        lif = Lif(4096, 1024, 25)
        return Network(
            (Population("input", (1, 8, 8)), Population("conv1", (channels, 8, 8), lif), Population("dense", (10,), lif)),
            (Projection("input", "conv1", conv), Projection("conv1", "dense", dense)),
        )

    small, large, found = network(8), network(12), load_chip(chip)
    placed = mapping.place(small, mapping.map_network(small, found)).mapping
    layers = mapping.plan_layers(large)
    details = {
        **mapping.describe(small, placed, {"conv1": 0.25}, large),
        "layers": mapping.utilisation(small, placed).to_dict()["layers"],
        "pareto": mapping.front_rows(mapping.front(small, found)),
        "compared": [asdict(row) for row in mapping.compare({"before": layers, "after": mapping.plan_layers(small)}, found)],
        "widths": [asdict(row) for row in mapping.choose_widths(layers, found, {"conv1": 7})],
    }
    report = sample()
    report["mapping"].update(json.loads(json.dumps(details)))
    return report


def section(text: str, title: str) -> str:
    return text[text.index(f"### {title}\n") :].split("\n### ")[0]


def cells(text: str, first: str) -> list[str]:
    """The cells of the table row that begins with ``first``."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


# --- markdown


def test_verdict_comes_first_and_holds_the_numbers() -> None:
    text = markdown(sample())
    verdict = text[: text.index("## Accuracy")]
    assert "float 98.44 % → 97.56 % as integers (-0.89 points, n = 450, 95 % interval 95.7..98.6)" in verdict
    assert "**exact:** 0 of 1,234,567 compared spikes differ, 0 of 4,500 output voltages differ" in verdict
    assert "simulator on 450 samples, against Lava on 64" in verdict
    assert "59.1 kB float → 14.3 kB as unpruned integers → 3.88 kB deployed, 15.2× smaller" in verdict  # noqa: RUF001
    assert "98,765 → 23,457" in verdict
    assert "**Cores:** 7 → 4 on loihi2 (1 chip), **fits**" in verdict
    assert "NOT EXACT" not in text


def test_layer_table() -> None:
    text = markdown(sample())
    assert cells(text, "conv2")[:5] == ["conv2", "conv", "16×4×4", "32 → 16", "4 / 4"]  # noqa: RUF001
    assert cells(text, "conv2")[5:] == ["211", "9.3 %", "5 → 2", "3,662 → 720", "12 %"]
    assert cells(text, "dense")[5:8] == ["reads v", "–", "1"]  # noqa: RUF001
    assert cells(text, "input")[4:7] == ["– / –", "–", "–"]  # noqa: RUF001
    assert cells(text, "**total**")[7:9] == ["**7 → 4**", "**6,543 → 2,144**"]


def test_every_table_has_the_same_number_of_cells_in_all_its_rows() -> None:
    for block in re.findall(r"(?:^\|.*\n)+", markdown(sample()), re.MULTILINE):
        rows = block.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, rows
        assert set(rows[1]) <= set("|-: ")


def test_mapping_carries_the_statement_and_every_constant_with_its_tag() -> None:
    text = markdown(sample())
    section = text[text.index("## Mapping") : text.index("## What is exact")]
    assert STATEMENT in section
    assert "3 cores, however the layers are cut" in section
    chip = load_chip("loihi2")
    for entry in (*chip.limits, *chip.parameters):
        row = cells(section, escape(entry.name))
        assert row[1:3] == [escape(f"{entry.value} {entry.unit}"), entry.tag]
        assert row[3] == escape(entry.source)


@pytest.mark.parametrize("chip", ["loihi2", "loihi1"])
def test_details_of_the_mapping(chip: str) -> None:
    report = mapped(chip)
    check(report)
    text = markdown(report)
    details = report["mapping"]
    before, after = details["compared"]
    beside = cells(section(text, "Side by side"), "after")
    change = f"{100 * (after['synapse_words'] / before['synapse_words'] - 1):+.0f} %"
    assert beside == [
        "after",
        *(f"{after[k]:,}" for k in ("cores", "chips", "lower_bound", "neurons", "synapse_words")),
        change,
    ]
    (conv, dense) = details["synapses"]
    row = cells(section(text, "Synapses"), "conv1")
    assert row[1:5] == [f"{conv[key]:,}" for key in ("logical", "nonzero", "unique", "words")]
    assert row[7:] == [f"{conv['saved_by_pruning']:,}", f"{conv['saved_by_quantisation']:,}"]
    total = cells(section(text, "Synapses"), "**total**")
    assert total[1] == f"**{conv['logical'] + dense['logical']:,}**" and total[7].strip("*").replace(",", "").isdigit()
    assert cells(section(text, "What if"), "dense")[:2] == ["dense", "4"]
    choice = details["widths"][0]
    rounded = cells(section(text, "Pruned to good widths"), "conv1")
    assert rounded[1:4] == ["12", "7", str(choice["taken"])] and rounded[6] == choice["why"]
    assert cells(section(text, "Pruned to good widths"), "dense")[6] == "not pruned"
    said = cells(text, "energy of a step")[1]
    assert (
        said.startswith("not given") if chip == "loihi2" else re.match(r"[\d.,]+ to [\d.,]+ nJ \(Davies\) or [\d.,]+ to", said)
    )
    assert "cores.csv" in text and "hops" in cells(text, "on the mesh, a step")[1]
    assert "synaptic operations a step" in cells(text, "busiest core")[1]


def test_a_report_without_details_has_none_of_their_tables() -> None:
    text = markdown(sample())
    assert not any(f"### {title}" in text for title in ("Side by side", "Synapses", "What if", "Pruned to good widths"))
    assert "cores.csv" not in text and "energy of a step" not in text


def test_pictures_of_the_mapping_stand_behind_its_tables() -> None:
    text = markdown(mapped(), ["weights.png", "mesh.png"])
    assert text.index("(<weights.png>)") < text.index("## Mapping") < text.index("### What if") < text.index("(<mesh.png>)")
    assert text.index("(<mesh.png>)") < text.index("### Evidence")


def test_cores_at_other_bits_are_told_in_runs() -> None:
    report = mapped()
    row = report["mapping"]["what_if"][0]
    row.update(cores_by_bits={"1": 1, "2": 1, "3": 2, "4": 2, "5": 1, "6": 4, "8": None}, good_widths=[1, 2, 3, 4, 5, 6, 7, 8])
    row.update(next_width_words=7, next_width_cores=None)
    check(report)
    table = cells(section(markdown(report), "What if"), "conv1")
    assert table[2:] == ["1 up to 2 bits, 2 up to 4, 1 up to 5, 4 up to 6, none up to 8", "8", "7", NONE, "7, 6, 5, 4, 3"]


def test_a_network_that_does_not_fit_beside_others() -> None:
    rows = mapped()["mapping"]["compared"]
    rows[1].update(cores=None, chips=None, synapse_words=None, layers=[], error="dense: one neuron needs 512 axon_in")
    table = compared_table(rows)
    assert cells(table, "after") == [
        "after",
        "does not fit",
        NONE,
        *(f"{rows[1][k]:,}" for k in ("lower_bound", "neurons")),
        NONE,
        NONE,
    ]
    page = compared_markdown(
        {"profile": "loihi2 with *", "networks": rows, "evidence": ["tile = free [assumed] assumed legal"]}
    )
    assert page.startswith("# Cores and synapse words on loihi2 with \\*\n") and STATEMENT in page and "- tile = free" in page
    conv = rows[0]["layers"][0]
    assert cells(page, "conv1") == ["conv1", f"{conv[1]} / {conv[2]} / {conv[3]:,}", NONE]


def test_csv_is_flat_and_runs_no_formula() -> None:
    rows = mapped()["mapping"]
    layers = list(csv.DictReader(io.StringIO(csv_table(rows["layers"]))))
    assert [row["name"] for row in layers] == ["input", "conv1", "dense"] and layers[1]["tile"] == "8x8x8"
    mean, least, most = rows["layers"][1]["percent"]["neurons"]
    assert [float(layers[1][f"percent_neurons_{end}"]) for end in ("mean", "min", "max")] == pytest.approx(
        [mean, least, most], rel=1e-5
    )
    assert layers[0]["percent_neurons_mean"] == ""  # the host's input takes no core
    cores = list(csv.DictReader(io.StringIO(csv_table(rows["core_use"]))))
    assert sum(int(row["used_synapse_words"]) for row in cores) == sum(row["words"] for row in rows["synapses"])
    (row,) = csv.DictReader(io.StringIO(csv_table([{"name": "=1+1", "n": -3, "x": -0.5}])))
    assert row == {"name": "'=1+1", "n": "-3", "x": "-0.5"}


def test_evidence_that_cannot_be_parsed_is_still_shown() -> None:
    report = sample()
    report["mapping"]["evidence"] = [STATEMENT, "a rule of thumb"]
    assert "| a rule of thumb |" in markdown(report)


def test_accuracy_seconds_and_provenance() -> None:
    text = markdown(sample())
    assert cells(text, "final integers, Lava fixed-point run")[1:] == ["98.44 %", "91.7..99.7", "64"]
    assert cells(text, "quantised and cut, before fine-tuning")[1] == "67.11 %"
    assert "3 samples of the integer run decided by the tie rule" in text
    assert cells(text, "**total**") and "| **total** | **83.7** |" in text
    for part in ("    qpsnn run digits --set prune.keep=0.5", "torch 2.13.0", "numba missing", "| seed | 11 |", "CC BY 4.0"):
        assert part in text
    assert "1,080 training, 267 validation, 450 test" in text


def test_what_scoring_took() -> None:
    report = sample()
    assert "Scoring" not in markdown(report)
    report["scores"] = {"criterion": "svs", "layers": [], "scoring": {"samples": 512, "seconds": 1.375, "share": 0.01642}}
    assert "Scoring (svs) on 512 training images: 1.4 s, 1.64 % of the run.\n" in markdown(report)
    report["scores"]["scoring"] |= {"samples": 0, "stability": -0.25}
    assert "Scoring (svs): 1.4 s, 1.64 % of the run; rank correlation of the scores" in markdown(report)
    assert "in the least stable layer: -0.25.\n" in markdown(report)


@pytest.mark.parametrize("key", ["spike_mismatches", "voltage_mismatches"])
def test_a_mismatch_is_loud(key: str) -> None:
    report = sample()
    report["agreement"][key] = 3
    text = markdown(report)
    assert re.search(r"Exactness:\*\* \*\*NOT EXACT:\*\* .*3 of (1,234,567|4,500)", text)
    assert "NOT in this run" in text
    assert "exact:** 0 of" not in text
    assert dict(summary(report))["exactness"].startswith("NOT EXACT")


@pytest.mark.parametrize("agreement", [None, {"samples": 0, "spikes_compared": 0, "spike_mismatches": 0}])
def test_nothing_compared_is_not_exact(agreement: dict[str, int] | None) -> None:
    report = sample()
    report["agreement"] = agreement
    check(report)
    text = markdown(report)
    assert "**not checked**" in text and "not checked in this run" in text
    assert "exact:** 0" not in text
    assert dict(summary(report))["exactness"] == "not checked"


def test_a_run_without_lava_says_so() -> None:
    report = sample()
    del report["accuracy"]["lava"], report["agreement"]["lava_samples"]
    check(report)
    text = markdown(report)
    assert "**Lava was not run**" in text and "exact simulator (Lava was not run)" in text
    assert cells(text, "final integers, Lava fixed-point run")[1] == "not run"
    assert "Lava was not run" in dict(summary(report))["compared"]


@pytest.mark.parametrize(("rate", "weak"), [(0.0, True), (0.019, True), (0.02, False), (0.8, False), (0.81, True)])
def test_silent_layers_are_weak_evidence(rate: float, weak: bool) -> None:
    report = sample()
    report["layers"][1]["firing_rate"] = rate
    text = markdown(report)
    assert ("Weak evidence" in text) is weak
    if weak:
        assert f"conv1 ({100 * rate:.2g} %)" in text


def test_missing_stages() -> None:
    report = sample()
    report.update(accuracy={}, unpruned=None, seconds={}, ties=None)
    check(report)
    text = markdown(report)
    assert "**Accuracy:** not measured" in text
    assert "before and after pruning" not in text
    assert cells(text, "conv2")[7:9] == ["2", "720"]
    assert "Not measured." in text
    assert dict(summary(report))["accuracy"] == "not measured"
    report["accuracy"] = {"float": Accuracy.of(9, 10).to_dict()}
    assert "float 90.00 %; nothing later was measured" in markdown(report)
    report["accuracy"] = {"float": Accuracy.of(9, 10).to_dict(), "integer": Accuracy.of(7, 8).to_dict()}
    assert "points" not in markdown(report)  # other samples: no difference


def test_what_does_not_fit_is_loud() -> None:
    report = sample()
    report["mapping"].update(fits=False, chips=3, verdict="does not fit: 300 cores need 3 chips")
    assert "(3 chips), **DOES NOT FIT**" in markdown(report)
    assert dict(summary(report))["cores"].endswith("3 chips of loihi2: DOES NOT FIT")


def test_what_only_fits_pruned() -> None:
    report = sample()
    report["unpruned"] = {"size_mb": 0.0143, "synaptic_ops": 98765.4, "error": "dense: one neuron needs 25090 pool"}
    check(report)
    assert "**Cores:** does not fit → 4 on loihi2" in markdown(report)
    assert dict(summary(report))["cores"].startswith("does not fit -> 4 (at least 3), 1 chip of loihi2: fits")
    del report["unpruned"]["synaptic_ops"]
    with pytest.raises(FormatError, match=r"the key unpruned\.synaptic_ops is missing"):
        check(report)


def test_plots_are_shown_with_their_meaning() -> None:
    text = markdown(sample(), ["plots/weights.png", "plots/a>b [x](y).png"])
    assert "![Integer weights of each layer on their grid](<plots/weights.png>)" in text
    assert "(<plots/a%3Eb [x](y).png>)" in text


HOSTILE = "<img src=x onerror=alert(1)> | **b** `c` [l](http://e.vil) $x$ ~~s~~ &amp; \\ \x1b[31m\n# h\u202e www.evil.org"


def test_hostile_names_stay_text() -> None:
    report = sample()
    report["layers"][1]["name"] = HOSTILE
    report["unpruned"]["layers"][0]["name"] = HOSTILE
    report["layers"][1]["firing_rate"] = 0.0  # so that the name is in the verdict, too
    report["name"] = report["mapping"]["chip"] = report["mapping"]["verdict"] = report["dataset"]["source"] = HOSTILE
    report["seconds"][HOSTILE] = 1.0
    report["versions"][HOSTILE] = HOSTILE
    report["mapping"]["evidence"].append(f"{HOSTILE} = {HOSTILE} 1 [assumed] {HOSTILE}")
    report["command"] = "qpsnn\n# not a heading\n```"
    check(report)
    text = markdown(report)
    assert "<img" not in text and "\x1b" not in text and "\u202e" not in text and "$" not in text
    assert "http://" not in text and "www." not in text
    assert re.findall(r"(?m)^#+ .*not a heading|^# h", text) == []
    assert "**b**" not in text and "~~s~~" not in text and not re.search(r"(?<!\\)\[l(?<!\\)\]", text)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}) == 1
    assert text.count("\n") == markdown(sample()).count("\n") + 2  # a stage and a constant more


def test_hostile_names_in_the_details_stay_text() -> None:
    report = mapped()
    found = report["mapping"]
    for row in (found["synapses"][0], found["what_if"][0], found["compared"][0], found["widths"][0]):
        row["name"] = HOSTILE
    found["widths"][0]["why"] = HOSTILE
    check(report)
    page = compared_markdown({"profile": HOSTILE, "networks": found["compared"], "evidence": [f"{HOSTILE} assumed legal"]})
    for text in (markdown(report), page):
        assert "<img" not in text and "\x1b" not in text and "$" not in text and "http://" not in text and "**b**" not in text
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}) == 1


def test_escape_keeps_ordinary_names_readable() -> None:
    for name in ("conv1", "block 2.conv", "dense (10)", "a-b+c"):
        assert escape(name) == name
    assert escape("conv_1") == "conv\\_1"


def test_plain_is_one_short_line() -> None:
    assert plain("a\tb\r\n\u200bc\ud800") == "a�b��\ufffdc�"
    assert len(plain("x" * 1000)) == 60
    assert plain("x" * 30 + "y" * 1000 + "z" * 30) == "x" * 30 + "…" + "z" * 29


# --- summary


def test_summary_fits_a_terminal_of_80_columns() -> None:
    report = sample()
    rows = summary(report)
    values = dict(rows)
    assert values["accuracy"] == "float 98.44 % -> integer 97.56 % (n = 450, 95 % 95.7..98.6)"
    assert values["exactness"] == "exact: 0 of 1,234,567 spikes differ"
    assert values["compared"] == "SLAYER with the simulator on 450 samples, with Lava on 64"
    assert values["size"] == "59.1 kB float -> 3.88 kB deployed, 15.2 times smaller"
    assert values["syn. ops"] == "98,765 -> 23,457 per inference"
    assert values["cores"] == "7 -> 4 (at least 3), 1 chip of loihi2: fits"
    assert values["ties"].startswith("3 samples")
    assert values["time"] == "83.7 s"
    assert ("", STATEMENT) in rows  # the sentence stands whole, under the cores
    report["mapping"].update(chip="\x1b[31m" + "x" * 500, cores=10**15, lower_bound=10**15, chips=10**12)
    report["unpruned"]["cores"] = 10**15 + 1
    counts = ("spikes_compared", "spike_mismatches", "voltages_compared", "voltage_mismatches")
    report["agreement"].update(dict.fromkeys(counts, 2**53))
    check(report)
    for label, value in (*rows, *summary(report)):
        assert len(label) <= 9 and len(value) <= 69
        assert value.isascii() and value.isprintable()
    assert len(summary(report)) <= 10


# --- check


def test_a_report_read_from_json_passes() -> None:
    report = json.loads(json.dumps(sample()))
    report["future key"] = {"a": 1}
    check(report)


def test_the_least_report_passes_and_can_be_rendered() -> None:
    report = sample()
    for key in ("ties", "agreement", "unpruned"):
        del report[key]
    report["accuracy"], report["versions"], report["seconds"] = {}, {}, {}
    check(report)
    assert "not checked" in markdown(report)
    assert summary(report)


NEEDED = (
    *("schema", "name", "command", "versions", "seed", "dataset", "accuracy", "size_mb", "synaptic_ops", "layers", "mapping"),
    *("seconds", "dataset.licence", "dataset.n_test", "size_mb.deployed", "accuracy.float.n", "accuracy.integer.interval"),
    *("layers[2].cores", "layers[0].bits", "layers[1].shape", "mapping.evidence", "mapping.fits", "mapping.lower_bound"),
    *("agreement.spike_mismatches", "unpruned.synapse_words", "unpruned.layers[1].name"),
)


def place(report: Any, path: str) -> tuple[Any, str]:
    """The table that holds the last key of ``path``, and that key."""
    *way, last = re.findall(r"[^.\[\]]+", path)
    for step in way:
        report = report[int(step)] if step.isdigit() else report[step]
    return report, last


@pytest.mark.parametrize("path", NEEDED)
def test_a_missing_key_is_named(path: str) -> None:
    report = sample()
    table, key = place(report, path)
    del table[key]
    with pytest.raises(FormatError, match=rf"^report\.json: the key {re.escape(path)} is missing\. Make the report again"):
        check(report)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("schema", 2, "1, the one that this version reads"),
        ("schema", True, "1, the one"),
        ("name", 5, "a text"),
        ("seed", 1.5, "a whole number"),
        ("synaptic_ops", "many", "a number of at least 0"),
        ("synaptic_ops", math.nan, "a number of at least 0"),
        ("size_mb.float", math.inf, "a number of at least 0"),
        ("size_mb", 3, "a table with float, deployed"),
        ("accuracy", [], "a table"),
        ("accuracy.float.value", 97.3, r"a number in 0\.\.1"),
        ("accuracy.float.n", 0, "a whole number of at least 1"),
        ("accuracy.lava", "98 %", "a table with value, n, interval"),
        ("versions", [], "a table"),
        ("versions.torch", 2.13, "a text"),
        ("layers", {}, "a list"),
        ("layers[2]", None, "a table with name, type, shape"),
        ("layers[1].name", None, "a text"),
        ("layers[1].channels_after", 8.0, "a whole number of at least 0"),
        ("layers[1].cores", True, "a whole number of at least 0"),
        ("layers[1].cores", 1 << 80, "a whole number of at least 0"),
        ("layers[1].shape", "8x8", "a list"),
        ("layers[1].firing_rate", 17.1, r"a number in 0\.\.1"),
        ("mapping.fits", "yes", "true or false"),
        ("mapping.evidence", "trust me", "a list"),
        ("seconds.lava", -1, "a number of at least 0"),
        ("ties", -1, "a whole number of at least 0"),
        ("agreement.lava_samples", "64", "a whole number of at least 0"),
        ("unpruned.layers[0].cores", "1", "a whole number of at least 0"),
    ],
)
def test_a_wrong_value_is_named(path: str, value: object, expected: str) -> None:
    report = sample()
    table, key = place(report, path)
    table[int(key) if key.isdigit() else key] = value
    with pytest.raises(FormatError, match=rf"^report\.json: {re.escape(path)} is .*; expected {expected}"):
        check(report)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("mapping.layers[1].percent.neurons", [1, 2], None),
        ("mapping.core_use[0].x", -1, "a whole number of at least 0"),
        ("mapping.core_use[0].percent_neurons", "12", "a number of at least 0"),
        ("mapping.core_use[0]", 7, "a table with chip, core, x, y, neurons"),
        ("mapping.mesh.width", 0, "a whole number of at least 1"),
        ("mapping.synapses[0].saved_by_pruning", 0.5, r"a whole number \(at most"),
        ("mapping.traffic.hops", math.nan, "a number of at least 0"),
        ("mapping.traffic.messages", [[1.0]], None),
        ("mapping.energy", 5, "a table with davies, sana_fe"),
        ("mapping.what_if[0].cores_by_bits", [1], "a table"),
        ("mapping.pareto[0].cores", None, "a whole number"),
        ("mapping.compared[0].cores", "6", "a whole number"),
        ("mapping.widths[0].why", None, "a text"),
    ],
)
def test_wrong_details_of_the_mapping_are_named(path: str, value: object, expected: str | None) -> None:
    report = mapped()
    table, key = place(report, path)
    table[int(key) if key.isdigit() else key] = value
    found = "has .* entries; expected" if expected is None else f"is .*; expected {expected}"
    with pytest.raises(FormatError, match=rf"^report\.json: {re.escape(path)} {found}"):
        check(report)


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("layers", [], r"layers has 0 entries; expected 1\.\.4096"),
        ("accuracy.float.interval", [0.5], "interval has 1 entries; expected 2"),
        ("layers[1].shape", [1, 2, 3, 4, 5], r"shape has 5 entries; expected 1\.\.4"),
    ],
)
def test_lists_of_a_wrong_length(path: str, value: object, found: str) -> None:
    report = sample()
    table, key = place(report, path)
    table[key] = value
    with pytest.raises(FormatError, match=found):
        check(report)


@pytest.mark.parametrize("other", [None, [], "report", 3])
def test_what_is_no_table_at_all(other: object) -> None:
    with pytest.raises(FormatError, match=r"report\.json: the top level is .*; expected a table with schema, name"):
        check(other)


def test_a_long_or_hostile_value_does_not_flood_the_message() -> None:
    report = sample()
    report["seed"] = "\x1b[31m" + "x" * 10_000
    with pytest.raises(FormatError) as caught:
        check(report)
    assert len(str(caught.value)) < 200
    assert "\x1b" not in str(caught.value)


SIZES = [(0.0, "0 kB"), (0.00388, "3.88 kB"), (0.9994, "999 kB"), (1.0, "1.00 MB"), (4321.9, "4,322 MB")]


@pytest.mark.parametrize(("mb", "text"), SIZES)
def test_sizes_have_three_digits_and_a_unit(mb: float, text: str) -> None:
    report = sample()
    report["size_mb"]["float"] = mb
    assert f"**Size:** {text} float" in markdown(report)
