"""Runs side by side, and the figures that a file has the data for."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mapping
from netx_export import hdf5
from netx_export.errors import ConfigError, FormatError
from netx_export.integers import stored_bits
from qpsnn_lava import cli, plots, report_file
from qpsnn_lava.compare import compared, flat, labels, load_runs, markdown
from qpsnn_lava.notebook import Shown
from qpsnn_lava.sizes import deployed_mb

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "results" / "digits"
EVIL = "<script>alert(1)</script>|[x](y)"


@pytest.fixture
def qpsnn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit code, stdout and stderr of ``qpsnn ...`` on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qpsnn", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        assert out.startswith(("{", "/")) or all(len(line) <= 80 for line in out.splitlines()), out
        assert isinstance(left.value.code, int)
        return left.value.code, out, err

    return call


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """The digits run, and one like it with other settings, another accuracy and a layer more."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        for name in ("config.toml", "network.net", "report.json"):
            shutil.copy(DIGITS / name, folder)
    config = (second / "config.toml").read_text(encoding="utf-8")
    assert config.count("seed = 0") == 1 and config.count("channels = 48") == 1
    (second / "config.toml").write_text(
        config.replace("seed = 0", "seed = 5").replace("channels = 48", "channels = 40"), encoding="utf-8"
    )
    made = json.loads((second / "report.json").read_text(encoding="utf-8"))
    made["accuracy"]["integer"] = {"value": 0.5, "n": 450, "interval": [0.45, 0.55]}
    made["accuracy"]["float"]["interval"] = [made["accuracy"]["float"]["interval"][1], 1.0]  # the ends meet
    del made["accuracy"]["lava"]
    made["layers"].insert(1, {**made["layers"][0], "name": EVIL, "cores": 3})
    made["mapping"]["cores"] *= 2
    (second / "report.json").write_text(json.dumps(made), encoding="utf-8")
    return first, second


def of(*paths: Path) -> dict[str, Any]:
    return compared(load_runs(paths, mapping.load_chip("loihi2")))


# --- data ---------------------------------------------------------------------------------------------------------------


def test_two_runs(runs: tuple[Path, Path]) -> None:
    made = of(*runs)
    assert [run["label"] for run in made["runs"]] == ["first", "second"] and made["runs"][0]["kind"] == "run"
    settings = {row["key"]: row["values"] for row in made["settings"]}
    assert settings == {"seed": [0, 5], "network.1.channels": [48, 40]}
    accuracy = {row["stage"]: row for row in made["accuracy"]}
    assert list(accuracy) == ["float", "quantised", "pruned", "integer", "lava"]
    assert {stage: row["overlaps"] for stage, row in accuracy.items()} == {
        "float": [None, True],
        "quantised": [None, True],
        "pruned": [None, True],
        "integer": [None, False],
        "lava": [None, None],
    }
    written = json.loads((runs[0] / "report.json").read_text(encoding="utf-8"))
    network = hdf5.read(runs[0] / "network.net")
    numbers = {row["key"]: row for row in made["numbers"]}
    assert numbers["cores"]["values"] == [written["mapping"]["cores"], 2 * written["mapping"]["cores"]]
    assert numbers["cores"]["changes"] == [None, 1.0] and numbers["size_mb"]["changes"] == [None, 0.0]
    assert numbers["synaptic_ops"]["values"][0] == written["synaptic_ops"]
    assert numbers["seconds"]["values"][0] == sum(written["seconds"].values())
    sizes = [p.synapse.weight.size for p in network.projections]
    biases = [p.bias.size for p in network.populations if p.bias is not None]
    assert numbers["parameters"]["values"] == [sum(sizes) + sum(biases)] * 2
    mean = np.average([stored_bits(p.synapse.weight) for p in network.projections], weights=sizes)
    assert numbers["bits"]["values"][1] == pytest.approx(mean)
    layers = {row["name"]: row for row in made["layers"]}
    assert list(layers) == ["conv1", EVIL, "conv2", "conv3", "output"]  # in the order of both
    assert layers[EVIL]["cores"] == [None, 3] and layers["conv1"]["channels"] == [16, 16]
    assert layers["output"]["bits"] == [8, 8]
    json.dumps(made, allow_nan=False)


def test_a_network_alone_is_mapped_as_the_run_was(runs: tuple[Path, Path]) -> None:
    made = of(runs[0], runs[0] / "network.net", runs[0] / "report.json")
    assert [run["label"] for run in made["runs"]] == ["first", "first/network.net", "first/report.json"]
    assert [run["kind"] for run in made["runs"]] == ["run", "network", "report"]
    numbers = {row["key"]: row["values"] for row in made["numbers"]}
    for key in ("cores", "chips", "lower_bound", "synapse_words"):
        assert numbers[key][0] == numbers[key][1] == numbers[key][2], key
    assert numbers["size_mb"][1] == deployed_mb(hdf5.read(runs[0] / "network.net"))
    assert numbers["seconds"][1] is None and numbers["parameters"][2] is None
    assert made["layers"][0]["synapse_words"][0] == made["layers"][0]["synapse_words"][1] != 0
    assert made["settings"] == []  # a network says less, and nothing else


def test_a_report_brings_its_settings_and_weights_where_it_has_them(runs: tuple[Path, Path], tmp_path: Path) -> None:
    made = json.loads((runs[1] / "report.json").read_text(encoding="utf-8"))
    made["config"] = (runs[1] / "config.toml").read_text(encoding="utf-8")
    made["weights"] = plots.weight_rows(hdf5.read(runs[1] / "network.net"))
    (tmp_path / "moved.json").write_text(json.dumps(made), encoding="utf-8")
    found = of(*runs, tmp_path / "moved.json")
    assert {row["key"]: row["values"] for row in found["settings"]}["seed"] == [0, 5, 5]
    bits = next(row["values"] for row in found["numbers"] if row["key"] == "bits")
    assert bits[2] == pytest.approx(bits[0])
    made["config"] = "seed = 'x'"
    (tmp_path / "moved.json").write_text(json.dumps(made), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"the config in .*moved\.json"):
        of(*runs, tmp_path / "moved.json")


def test_a_network_that_does_not_fit_says_so(tmp_path: Path) -> None:
    chip = mapping.load_chip("loihi2", limits={"synapse_words": 1})
    made = compared(load_runs([DIGITS, DIGITS / "network.net"], chip))
    assert made["runs"][0]["error"] is None and "synapse" in made["runs"][1]["error"]
    numbers = {row["key"]: row["values"] for row in made["numbers"]}
    assert numbers["cores"][1] is None and numbers["parameters"][1] is not None
    assert "does not fit" in markdown(made)


def test_flat() -> None:
    tree = {"a": 1, "b": {"c": [1, 2], "d": {}}, "e": [{"f": None}, {"f": [3]}]}
    assert flat(tree) == {"a": 1, "b.c": [1, 2], "e.0.f": None, "e.1.f": [3]}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a/x", "a/y"], ["x", "y"]),
        (["a/x", "b/x"], ["a/x", "b/x"]),
        (["c/a/x", "c/b/x", "d/b/x"], ["c/a/x", "c/b/x", "d/b/x"]),
        (["a/report.json", "b"], ["a/report.json", "b"]),
        (["a/network.net", "a/report.json"], ["a/network.net", "a/report.json"]),
    ],
)
def test_labels(paths: list[str], expected: list[str], tmp_path: Path) -> None:
    assert labels([tmp_path / path for path in paths]) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), r"compare takes 2\.\.64 run folders, report\.json files or netx files; 1 given"),
        (("first",), "a file is named twice; give each once"),
        ((".",), r"has no report\.json; finish the run first: qpsnn run EXPERIMENT --out"),
        (("gone.json",), r"gone\.json: there is no such file"),
        (("gone.net",), r"gone\.net: there is no such file"),
        (("text.json",), r"text\.json is not JSON \(.*\); a report\.json or a netx file is expected"),
        (("bytes.json",), r"bytes\.json is not JSON"),
        (("list.json",), r"list\.json: report\.json: the top level is \[\]; expected a table"),
    ],
)
def test_what_cannot_be_compared(
    runs: tuple[Path, Path], tmp_path: Path, words: tuple[str, ...], message: str, qpsnn: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "text.json").write_text("{", encoding="utf-8")
    (tmp_path / "bytes.json").write_bytes(b"\xff\x00")
    (tmp_path / "list.json").write_text("[]", encoding="utf-8")
    code, out, err = qpsnn("compare", runs[0], *(tmp_path / word for word in words))
    assert (code, out) == (1, "") and re.match("error: .*" + message, err) and err.count("\n") == 1


def test_a_report_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_file, "MAX_BYTES", 100)
    with pytest.raises(FormatError, match=r"report\.json is larger than 100 bytes, too large for a report\.json"):
        report_file.read_report(DIGITS / "report.json")


# --- text ---------------------------------------------------------------------------------------------------------------


def test_the_page_has_every_number_and_no_markup_of_others(runs: tuple[Path, Path]) -> None:
    made = of(*runs)
    page = markdown(made)
    assert "<script" not in page and not re.search(r"(?<!\\)\]\(y", page)
    lines = {line.split(" | ")[0].strip("| "): line for line in page.splitlines()}
    assert lines["seed"] == "| seed | 0 | 5 |" and lines["network.1.channels"] == "| network.1.channels | 48 | 40 |"
    assert "50.00 % (45.0..55.0), apart" in lines["accuracy, integer"] and lines["accuracy, lava"].endswith(" | – |")  # noqa: RUF001
    assert ", overlaps" in lines["accuracy, float"] and lines["cores"].endswith(" (+100 %) |")
    assert lines["conv1"].count(" / ") == 6
    same = markdown(of(runs[0], runs[0] / "report.json"))
    assert "## Settings that differ\n\nNone." in same


def test_the_command(runs: tuple[Path, Path], tmp_path: Path, qpsnn: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = qpsnn("compare", *runs, "--out", tmp_path / "made")
    assert (code, err) == (0, "")
    made = of(*runs)
    assert json.loads((tmp_path / "made" / "compare.json").read_text(encoding="utf-8")) == json.loads(json.dumps(made))
    assert (tmp_path / "made" / "compare.md").read_text(encoding="utf-8") == markdown(made)
    rows = {line.split("  ")[0]: line for line in out.splitlines()}
    assert rows["cores"].split()[1:] == ["4", "8", "(+100", "%)"] and rows["seed"].split() == ["seed", "0", "5"]
    assert "50.00 % (45.0..55.0), apart" in rows["accuracy, integer"]
    code, out, err = qpsnn("compare", *runs, "--json")
    assert (code, err) == (0, "") and json.loads(out) == json.loads(json.dumps(made))
    code, out, err = qpsnn("compare", *runs, *(run / "network.net" for run in runs), runs[0] / "report.json")
    assert (code, err) == (0, "")  # five of them in 80 columns


# --- figures ------------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_run(tmp_path: Path, qpsnn: Callable[..., tuple[int, str, str]]) -> None:
    made = json.loads((ROOT / "results" / "fashion-mnist" / "report.json").read_text(encoding="utf-8"))
    scores = {"name": "conv1", "rank": [1.0, 3.0], "nuclear": [1.0, 2.0], "kept": [1]}
    made["scores"] = {"criterion": "svs", "layers": [scores]}
    spikes = [[0, 2], [], [3]]
    made["raster"] = {
        "sample": 7,
        "steps": 4,
        "layers": [{"name": "conv1", "neurons": 9, "shown": [0, 3, 6], "spikes": spikes}],
    }
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(ROOT / "results" / "fashion-mnist" / "network.net", run)
    (run / "report.json").write_text(json.dumps(made), encoding="utf-8")
    code, out, err = qpsnn("plot", run, "--format", "svg", "--json")
    assert (code, err) == (0, "")
    written = [Path(path) for path in json.loads(out)["written"]]
    assert {path.name for path in written} >= {
        "weights.svg",
        "firing.svg",
        "cores.svg",
        "scores.svg",
        "raster.svg",
        "mesh.svg",
    }
    assert json.loads(out)["skipped"] == {} and all(path.parent == run for path in written)
    again = plots.save({"firing": plots.firing_figure(made)}, tmp_path, "svg")
    assert again[0].read_bytes() == (run / "firing.svg").read_bytes()  # no date, no random names
    assert b"<svg" in again[0].read_bytes()
    raster = plots.raster_figure(made)
    assert raster is not None
    points = np.asarray(raster.axes[0].collections[0].get_offsets())
    assert points.tolist() == [[t, i] for i, times in enumerate(spikes) for t in times]
    assert plots.raster_figure({**made, "raster": None}) is None


def test_what_a_file_has_no_data_for_is_named(tmp_path: Path, qpsnn: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = qpsnn("plot", DIGITS / "network.net", "--out", tmp_path, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "") and found["written"] == [str(tmp_path / "weights.png")]
    assert (tmp_path / "weights.png").read_bytes().startswith(b"\x89PNG")
    assert set(found["skipped"]) == {"firing", "cores", "scores", "raster", "mesh", "use", "traffic", "pareto"}
    assert f"qpsnn map {DIGITS / 'network.net'} --out DIR" in found["skipped"]["mesh"]
    made = json.loads((DIGITS / "report.json").read_text(encoding="utf-8"))
    assert made.pop("scores")  # as of a run in which nothing was pruned
    (tmp_path / "report.json").write_text(json.dumps(made), encoding="utf-8")
    drawn = plots.figures_in(tmp_path / "report.json")
    assert "netx file" in drawn.skipped["weights"] and "nothing was pruned" in drawn.skipped["scores"]
    assert set(drawn.figures) >= {"firing", "cores"} and not set(drawn.figures) & set(drawn.skipped)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((".",), r"has neither report\.json nor network\.net; give a run folder, a report\.json or a netx file"),
        (("gone.net",), r"gone\.net: there is no such file"),
        (("gone.json",), r"gone\.json: there is no such file"),
    ],
)
def test_what_cannot_be_drawn(
    tmp_path: Path, words: tuple[str, ...], message: str, qpsnn: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = qpsnn("plot", *(tmp_path / word for word in words))
    assert (code, out) == (1, "") and re.match("error: .*" + message, err)


def test_another_format(tmp_path: Path, qpsnn: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = qpsnn("plot", DIGITS / "network.net", "--out", tmp_path, "--format", "pdf")
    assert (code, out, err) == (1, "", "error: --format 'pdf' is not known; take png or svg.\n")


# --- notebooks ----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_mapping_and_a_report_in_a_notebook(runs: tuple[Path, Path]) -> None:
    network = hdf5.read(DIGITS / "network.net")
    placed = mapping.map_network(network, mapping.load_chip("loihi2"))
    page = Page(placed._repr_html_())
    at = page.texts.index("conv1")
    assert page.texts[at : at + 4] == ["conv1", "1", "1", f"{network['conv1'].size:,}"]
    assert page.texts[0] == f"Mapping: {len(placed.cores)} cores on 1 chip of loihi2" and mapping.STATEMENT in page.texts
    made = json.loads((runs[1] / "report.json").read_text(encoding="utf-8"))
    page = Page(Shown(made)._repr_html_())
    assert "script" not in page.tags and EVIL in page.texts and "digits" in page.texts
    at = page.texts.index("conv1")
    assert page.texts[at : at + 4] == ["conv1", "conv", "32 → 16", "4"]
