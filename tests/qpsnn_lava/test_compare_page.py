"""``compare.html``: its numbers, where they are drawn, what hostile labels can do to it."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import HOSTILE, NUMBERS, Reader, compare, embedded, expected, says, section

import mapping
from qpsnn_lava.compare import compared, load_runs
from qpsnn_lava.compare_page import compare_page

RESULTS = Path(__file__).resolve().parents[2] / "results"
DIGITS, FASHION = RESULTS / "digits", RESULTS / "fashion-mnist"
Command = Callable[..., tuple[int, str, str]]


@functools.lru_cache(maxsize=1)
def _made() -> str:
    paths = [DIGITS, FASHION / "report.json", DIGITS / "network.net"]
    return json.dumps(compared(load_runs(paths, mapping.load_chip("loihi2"))))


def made() -> dict[str, Any]:
    """Two runs on different data, and the first one's network alone."""
    return json.loads(_made())  # type: ignore[no-any-return]


def hostile() -> dict[str, Any]:
    found = made()
    found["runs"][0] |= {"label": HOSTILE, "path": HOSTILE, "error": HOSTILE}
    found["layers"][0]["name"] = "\u202e" + HOSTILE
    found["settings"] += [{"key": HOSTILE, "values": [HOSTILE, "\u202ea", None]}]
    found["seconds"][0]["stage"] = found["numbers"][0]["title"] = HOSTILE
    return found


# --- as text


def test_every_number_equals_the_data() -> None:
    found = made()
    text = compare_page(found)
    assert compare(text, found) > 150
    assert embedded(text, "data") == found
    for link in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{link}"' in text


def test_a_wrong_number_would_be_seen() -> None:
    found = made()
    text = compare_page(found)
    found["accuracy"][0]["values"][1]["interval"][0] -= 0.001
    with pytest.raises(AssertionError):
        compare(text, found)


def test_all_of_compare_json_is_on_the_page() -> None:
    found = made()
    text = compare_page(found)
    places = {node.attributes["data-at"] for node in Reader(text).root.all(lambda node: "data-at" in node.attributes)}

    def leaves(value: Any, at: str) -> set[str]:
        if isinstance(value, dict):
            return set().union(*(leaves(entry, f"{at}/{key}") for key, entry in value.items() if key != "overlaps"))
        if isinstance(value, list):
            return set().union(*(leaves(entry, f"{at}/{i}") for i, entry in enumerate(value)))
        return {at} if isinstance(value, int | float) and value != 0 else set()

    expected_places = leaves({key: found[key] for key in ("accuracy", "numbers", "layers", "seconds")}, "")
    assert expected_places <= places and len(expected_places) > 100
    for row in found["settings"]:
        assert row["key"] in text


def test_intervals_are_drawn_on_one_axis_with_their_overlap() -> None:
    found = made()
    table = section(compare_page(found), "accuracy")
    assert table is not None
    low = min(v["interval"][0] for row in found["accuracy"] for v in row["values"] if v)
    start = int(10 * low) / 10
    drawn = [
        [re.findall(r"[\d.]+(?=%)", part.attributes["style"]) for part in track.inside[0].inside]
        for track in table.all(lambda node: node.attributes.get("class") == "track")
    ]
    exact = [(row["values"][0], value) for row in found["accuracy"] for value in row["values"] if value]
    assert len(drawn) == len(exact) == 10

    def at(share: float) -> float:
        return 100 * (share - start) / (1 - start)

    for (band, bar, dot), (first, value) in zip(drawn, exact, strict=True):
        for (left, right), (a, b) in ((band, first["interval"]), (bar, value["interval"])):
            assert float(left) == pytest.approx(at(a), abs=0.006) and 100 - float(right) == pytest.approx(at(b), abs=0.006)
        assert float(dot[0]) == pytest.approx(at(value["value"]), abs=0.006)
    marks = [cell.text for cell in table.all(lambda node: "apart" in node.attributes.get("class", ""))]
    told = [row["overlaps"][i] for row in found["accuracy"] for i, value in enumerate(row["values"]) if value]
    assert marks == [{None: "–", True: "≈ overlaps", False: "≠ apart"}[overlap] for overlap in told]  # noqa: RUF001
    assert {True, False, None} == set(told)


def test_different_data_and_what_does_not_fit_are_said_at_the_top() -> None:
    chip = mapping.load_chip("loihi2", limits={"synapse_words": 1})
    found = json.loads(json.dumps(compared(load_runs([DIGITS, DIGITS / "network.net"], chip))))
    text = compare_page(found)
    compare(text, found)
    words = " ".join(Reader(text).root.text.split())
    assert f"digits/network.net does not fit: {found['runs'][1]['error']}" in words and "different data" not in words
    assert "The runs saw different data" in compare_page(made())


def test_networks_alone() -> None:
    paths = [DIGITS / "network.net", FASHION / "network.net"]
    found = json.loads(json.dumps(compared(load_runs(paths, mapping.load_chip("loihi2")))))
    text = compare_page(found)
    assert compare(text, found) > 30
    assert section(text, "accuracy") is None and section(text, "seconds") is None


def test_a_layer_that_differs_is_marked() -> None:
    found = made()
    layers = section(compare_page(found), "layers")
    assert layers is not None
    marked = [node.text for node in layers.all(lambda node: node.tag == "mark")]
    differ = [
        value
        for row in found["layers"]
        for i in range(1, len(found["runs"]))
        for value, first in ((row[key][i], row[key][0]) for key in ("channels", "bits", "cores", "synapse_words"))
        if None not in (value, first) and value != first
    ]
    assert marked == [f"{value:,}" for value in differ] and marked


def test_hostile_labels_are_shown_and_do_nothing() -> None:
    found = hostile()
    text = compare_page(found)
    compare(text, found)
    assert len(re.findall(r"<script", text)) == 3 and "<img" not in text and "\u202e" not in text and "\x1b" not in text
    assert embedded(text, "data") == found and "&lt;/script&gt;&lt;img src=x" in text
    named = [(name, value) for node in Reader(text).root.all(lambda _: True) for name, value in node.attributes.items()]
    assert all(not name.startswith("on") for name, _ in named)
    assert all(value.startswith("#") or value == "data:," for name, value in named if name in ("src", "href", "action"))
    assert "default-src 'none'" in text and "url(" not in text


def test_too_many_settings_are_cut_and_said() -> None:
    found = made()
    found["settings"] = [{"key": f"k{i}", "values": [i, 1e-7 * i, True]} for i in range(600)]
    found["layers"] = 600 * [found["layers"][0]]
    text = compare_page(found)
    compare(text, found)
    assert "The first 500 of 600." in text and "k499" in text and ">k500<" not in text


# --- the command


def test_the_command_leaves_the_page_beside_the_data(command: Command, tmp_path: Path) -> None:
    code, _, err = command("compare", DIGITS, FASHION, "--out", tmp_path)
    assert (code, err) == (0, "")
    text = (tmp_path / "compare.html").read_text(encoding="utf-8")
    found = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    assert embedded(text, "data") == found and compare(text, found) > 150
    (tmp_path / "file").write_text("x", encoding="utf-8")
    code, out, err = command("compare", DIGITS, FASHION, "--out", tmp_path / "file")
    assert (code, out) == (1, "") and err.startswith("error: cannot write") and err.count("\n") == 1


# --- in a browser


@pytest.mark.parametrize("width", [400, 1600])
def test_in_a_browser(opened: Callable[..., Any], width: int) -> None:
    for found in (made(), hostile()):
        driver = opened(compare_page(found), width)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert driver.execute_script("return window.broken === undefined && document.querySelectorAll('img').length === 0")
    driver = opened(compare_page(made()), width)
    for at, value, text in driver.execute_script(NUMBERS):
        exact = expected(made(), at)
        assert json.loads(value) == exact
        assert isinstance(exact, str | bool | list) or text == str(exact) or says(text, exact), (at, value, text)
    tracks = """return [...document.querySelectorAll("#accuracy .track div")].map((track) => {
        const box = track.getBoundingClientRect();
        return [box.left, box.width, box.height];
    })"""
    places = driver.execute_script(tracks)
    assert len({(left, wide) for left, wide, _ in places}) == 1 and places[0][1] > 100  # one axis, at every width


def test_in_a_browser_layers_sort_by_a_run_s_column(opened: Callable[..., Any]) -> None:
    found = copy.deepcopy(made())
    driver = opened(compare_page(found))
    column = """const table = document.querySelector("#layers table"), head = table.tHead.rows[1].cells[arguments[0]];
        head.querySelector("button").click();
        return [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim())"""
    words = {row["name"]: row["synapse_words"][1] for row in found["layers"]}
    assert driver.execute_script(column, 8) == sorted(words, key=lambda name: -words[name])
    assert driver.execute_script(column, 0) == sorted(words)
