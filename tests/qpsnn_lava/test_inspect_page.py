"""The page of ``qpsnn inspect --html``: its numbers, its verdict, what a hostile file can do to it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from netx_files import WHEEL, put
from pages import HOSTILE, NUMBERS, Reader, compare, embedded, expected, says, section

from netx_export import hdf5
from netx_export.inspect import inspect_file, surveyed
from netx_export.network import (
    Conv,
    Delta,
    Dense,
    Integrator,
    Lif,
    Network,
    Population,
    Projection,
    Rate,
    SigmaDelta,
)
from qpsnn_lava.inspect_page import inspect_page, of_file
from qpsnn_lava.plots import weight_rows

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[..., tuple[int, str, str]]


def network(names: tuple[str, str, str] = ("image", "conv", "classes"), steps: int | None = 7, weight: int = 9) -> Network:
    rng = np.random.default_rng(0)
    first, second, last = names
    return Network(
        (
            Population(first, (2, 8, 8)),
            Population(second, (4, 4, 4), Lif(1000, 0, 6), np.array([1, -2, 3, 0])),
            Population(last, (6,), Integrator()),
        ),
        (
            Projection(first, second, Conv(rng.integers(-weight, weight + 1, (4, 1, 3, 3)), (2, 2), (1, 1), groups=2)),
            Projection(second, last, Dense(rng.integers(-127, 128, (6, 64)))),
        ),
        Rate(2),
        input_bits=4,
        steps=steps,
    )


def data(path: Path, steps: int | None = None) -> dict[str, Any]:
    """What the page of a file is drawn from."""
    found_network, found = surveyed(path, steps=steps)
    return of_file(path.name, f"qpsnn inspect {path.name}", found, weight_rows(found_network), {"numpy": "2"})


def written(folder: Path, net: Network, *changes: Callable[[h5py.File], None]) -> Path:
    path = folder / "network.net"
    hdf5.write(net, path)
    with h5py.File(path, "a") as file:
        for change in changes:
            change(file)
    return path


def fraction(file: h5py.File) -> None:
    file["layer/1/weight"][0, 0, 0, 0] = 2.5


REF = put("layer/1/neuron/refDelay", 2)


# --- as text


def test_every_number_equals_what_inspect_finds(tmp_path: Path) -> None:
    path = written(tmp_path, network())
    made = data(path)
    text = inspect_page(made)
    assert compare(text, made) > 50
    assert embedded(text, "data") == made
    found = json.loads(json.dumps(inspect_file(path)))
    assert {key: made[key] for key in found} == found
    for name in ("layers", "states", "weights", "provenance"):
        assert section(text, name) is not None
    assert section(text, "warnings") is None
    for link in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{link}"' in text


def test_every_layer_is_there_with_its_integers(tmp_path: Path) -> None:
    made = data(written(tmp_path, network()))
    layers = section(inspect_page(made), "layers")
    assert layers is not None
    head, *rows = [[cell.text.strip() for cell in row.inside] for row in layers.all(lambda node: node.tag == "tr")]
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert list(table) == ["image", "conv", "classes"]
    weight = network().projections[0].synapse.weight
    assert table["conv"]["range"] == f"{weight.min()} to {weight.max()}" and table["conv"]["bias"] == "-2 to 3"
    assert table["conv"]["not 0"] == str(np.count_nonzero(weight)) and table["conv"]["threshold"] == "6"
    assert (table["conv"]["kernel"], table["conv"]["stride"], table["conv"]["groups"]) == ("3×3", "2×2", "2")  # noqa: RUF001
    assert table["classes"]["bits"] == "8" and table["classes"]["neuron"] == "integrator"


def test_a_wrong_number_would_be_seen(tmp_path: Path) -> None:
    made = data(written(tmp_path, network()))
    text = inspect_page(made)
    made["layers"][1]["threshold"] += 1
    with pytest.raises(AssertionError):
        compare(text, made)


@pytest.mark.parametrize("path", WHEEL, ids=[f"{file.parent.name}/{file.name}" for file in WHEEL])
def test_the_files_of_the_wheel(path: Path) -> None:
    made = data(path)
    text = inspect_page(made)
    assert compare(text, made) > 20 and "✓" in text and "Lava ignores nothing in it" in text


@pytest.mark.parametrize(
    ("changes", "mark", "sentence"),
    [
        ((), "✓ Taken as it is", "Every command reads this file, and Lava ignores nothing in it."),
        (
            (put("layer/3/foo", 1),),
            "✓ Taken as it is",
            "Every command reads this file, and what Lava makes of it without saying so stands below.",
        ),
        (
            (REF, put("layer/3/foo", 1)),
            "▲ Taken with --as-lava",
            "simulate and verify take this file with --as-lava and ignore what Lava ignores; without it every command refuses it: "
            "layer 1 (conv), neuron/refDelay has refDelay 2, which Lava ignores (it runs as 1).",
        ),
        (
            (
                REF,
                fraction,
                put("layer/3/delay", np.array([70.0, 1, 2, 3, 0, 0])),
                put("layer/4/type", np.array([b"novelty"])),
            ),
            "✕ Refused",
            "No command runs this file as it is: layer 1 (conv), weight holds 1 values that are not whole numbers, the first is 2.5; "
            "Lava cuts the fractions off; layer 3 (dense), delay has delays of up to 70 steps, which Lava clamps at 62; and more, "
            "below. Way out: export integers; write delays of at most 62 steps; write the layer as one that is known, or leave it out.",
        ),
    ],
    ids=["taken", "taken, with strangers", "as lava", "refused"],
)
def test_verdict(tmp_path: Path, changes: Any, mark: str, sentence: str) -> None:
    made = data(written(tmp_path, network(), *changes))
    text = inspect_page(made)
    words = " ".join(Reader(text).root.text.split())
    assert f"{mark} {sentence}" in words
    compare(text, made)
    found = section(text, "warnings")
    assert (found is None) == (not made["warnings"])
    if found is not None:
        assert all(warning["what"] in found.text and warning["way"] in found.text for warning in made["warnings"])
        assert len(list(found.all(lambda node: node.tag == "tr"))) == 1 + len(made["warnings"])


def test_states_that_can_overflow_are_marked(tmp_path: Path) -> None:
    loud = network(weight=127)
    made = data(written(tmp_path, loud), steps=5000)
    text = inspect_page(made)
    compare(text, made)
    conv = made["layers"][1]["reach"]
    assert conv["voltage"] >= conv["voltage_limit"] and conv["safe_steps"] < 5000
    states = section(text, "states")
    assert states is not None
    over = [cell for cell in states.all(lambda node: "over" in node.attributes.get("class", ""))]
    far = [row["reach"] for row in made["layers"] if row["reach"]]
    assert len(over) == sum(r[key] >= r[f"{key}_limit"] for r in far for key in ("current", "voltage")) > 0
    assert all(cell.text.startswith("▲") for cell in over)
    words = " ".join(Reader(text).root.text.split())
    least = min((row for row in made["layers"] if row["reach"]), key=lambda row: row["reach"]["safe_steps"])
    assert f"{least['reach']['safe_steps']:,} steps whatever the input; the layer that ends it is {least['name']}" in words
    assert "The window of 5,000 steps is longer" in words


def test_without_a_window_and_without_states(tmp_path: Path) -> None:
    made = data(written(tmp_path, network(steps=None)))
    text = inspect_page(made)
    compare(text, made)
    assert "qpsnn inspect --steps N bounds u and v" in text and "u at most" not in text
    delta = Network(
        (Population("in", (3,), Delta(5)), Population("out", (2,), SigmaDelta(7))),
        (Projection("in", "out", Dense([[1, 2, 3], [4, 5, 6]])),),
    )
    made = data(written(tmp_path, delta))
    text = inspect_page(made)
    compare(text, made)
    assert section(text, "states") is None and "No state" not in text and "longest window" not in text


@functools.lru_cache(maxsize=1)
def hostile() -> Network:
    return network((HOSTILE[:200], "\u202edesrever\u202c", "=1+1"))


def test_hostile_names_are_shown_and_do_nothing(tmp_path: Path) -> None:
    made = data(written(tmp_path, hostile(), REF, put("layer/3/x<script>", 1)))
    made["name"] = made["command"] = made["readout"] = HOSTILE
    text = inspect_page(made)
    compare(text, made)
    assert len(re.findall(r"<script", text)) == 3 and "<img" not in text
    assert "\u202e" not in text and "\u202c" not in text and "\x1b" not in text
    assert "&lt;/script&gt;&lt;img src=x" in text and "x&lt;script&gt;" in text and "\N{REPLACEMENT CHARACTER}desrever" in text
    assert all(not name.startswith("on") for node in Reader(text).root.all(lambda _: True) for name in node.attributes)
    assert embedded(text, "data") == made


def test_nothing_is_fetched_and_no_other_script_may_run(tmp_path: Path) -> None:
    text = inspect_page(data(written(tmp_path, network(), REF)))
    assert "default-src 'none'" in text and "'unsafe-eval'" not in text
    named = [(name, value) for node in Reader(text).root.all(lambda _: True) for name, value in node.attributes.items()]
    assert all(value.startswith("#") or value == "data:," for name, value in named if name in ("src", "href", "action"))
    assert "url(" not in text and "@import" not in text and "http" not in text.replace("http-equiv", "")


def test_what_is_too_much_is_cut_and_said(tmp_path: Path) -> None:
    count = 520
    populations = (Population("in", (1,)), *(Population(f"n{i}", (1,), Lif(4096, 4096, 1)) for i in range(count)))
    projections = tuple(Projection(a.name, b.name, Dense([[1]])) for a, b in itertools.pairwise(populations))
    made = data(written(tmp_path, Network(populations, projections)))
    made["warnings"] = 600 * [{"layer": "a", "key": "b", "what": "c", "way": "d", "read": "taken"}]
    text = " ".join(inspect_page(made).split())
    assert "The first 500 of 521 layers." in text and "The first 500 of 600." in text and text.count("<figure") == 60
    made["histograms"][0]["name"] = "x" * (2 << 20)
    text = inspect_page(made)
    assert embedded(text, "data") is None and "too large for its data" in text


# --- the command


def test_the_command_writes_the_page_and_says_where(command: Command, tmp_path: Path) -> None:
    path = written(tmp_path, network(), REF)
    out = tmp_path / "new" / "page.html"
    code, printed, err = command("inspect", path, "--html", out)
    assert (code, err) == (0, "") and printed.splitlines()[-1] == str(out)
    text = out.read_text(encoding="utf-8")
    made = embedded(text, "data")
    assert compare(text, made) > 50 and made["command"] == f"qpsnn inspect {path} --html {out}"
    code, printed, err = command("inspect", path, "--html", out, "--json")
    assert json.loads(printed) == json.loads(json.dumps(inspect_file(path)))
    code, printed, err = command("inspect", path, "--html", out, "--as-lava", "--steps", 3, "--json")
    made = embedded(out.read_text(encoding="utf-8"), "data")
    assert made["warnings"] == [] and made["read"] == "as_lava" and made["steps"] == 3
    assert "without it every command refuses it." in out.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    path = written(tmp_path, network())
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for where, message in (
        (tmp_path / "folder", r"cannot write .*folder: Is a directory; nothing was changed\."),
        (tmp_path / "file" / "page.html", r"cannot write .*page\.html: Not a directory; choose another folder or make room\."),
        (tmp_path / "pipe", r"cannot write .*pipe: it is not a regular file"),
        (path, r"--html .*network\.net is the netx file itself; name another file for the page\."),
    ):
        before = sorted(os.listdir(tmp_path))
        code, printed, err = command("inspect", path, "--html", where)
        assert (code, printed) == (1, "") and re.match(f"error: {message}", err) and err.count("\n") == 1
        assert sorted(os.listdir(tmp_path)) == before
    assert hdf5.read(path) == network()


def test_a_damaged_file_leaves_no_page(command: Command, tmp_path: Path) -> None:
    path = written(tmp_path, network())
    whole = path.read_bytes()
    page = tmp_path / "page.html"
    page.write_text("before", encoding="utf-8")
    nan = written(tmp_path, network(), lambda file: file["layer/1/weight"].write_direct(np.full((4, 1, 3, 3), np.nan)))
    damaged = [
        nan.read_bytes(),
        whole[: len(whole) // 2],
        b"",
        b"<script>",
        os.urandom(4096),
        whole[:512] + bytes(len(whole) - 512),
    ]
    for content in damaged:
        path.write_bytes(content)
        code, printed, err = command("inspect", path, "--html", page)
        assert (code, printed) == (1, "") and err.startswith("error: ") and err.count("\n") == 1, err
        assert "internal error" not in err and "Traceback" not in err
        assert page.read_text(encoding="utf-8") == "before" and sorted(os.listdir(tmp_path)) == ["network.net", "page.html"]
    code, printed, err = command("inspect", tmp_path / "gone.net", "--html", tmp_path / "gone.html")
    assert code == 1 and "there is no such file" in err and not (tmp_path / "gone.html").exists()


def test_without_html_nothing_of_the_page_is_imported(tmp_path: Path) -> None:
    path = written(tmp_path, network())
    code = (
        "import sys; from qpsnn_lava import cli; sys.argv = ['qpsnn', 'inspect', {!r}, '--json']\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print(sorted({{'jinja2', 'matplotlib', 'torch', 'lava', 'qpsnn_lava.shell'}} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code.format(str(path))], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.strip() == "[]"
    with_page = code.replace("'--json'", "'--html', {!r}").format(str(path), str(tmp_path / "page.html"))
    done = subprocess.run([sys.executable, "-c", with_page], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "torch" not in done.stderr and "lava" not in done.stderr.replace("qpsnn_lava", "") and "jinja2" in done.stderr


# --- in a browser


@pytest.mark.parametrize("width", [400, 1600])
def test_in_a_browser(opened: Callable[..., Any], tmp_path: Path, width: int) -> None:
    made = data(written(tmp_path, dataclasses.replace(hostile(), steps=300), REF, fraction))
    driver = opened(inspect_page(made), width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.execute_script("return window.broken === undefined && document.querySelectorAll('img').length === 0")
    numbers = driver.execute_script(NUMBERS)
    assert len(numbers) > 50
    for at, value, text in numbers:
        exact = expected(made, at)
        assert json.loads(value) == exact and (isinstance(exact, list) or says(text, exact)), (at, value, text)
    hidden = """return [...document.querySelectorAll("button, a, select, summary, .scroll")].filter(
        (element) => element.tabIndex < 0).length"""
    assert driver.execute_script(hidden) == 0


def test_in_a_browser_tables_sort_and_layers_light_up(opened: Callable[..., Any]) -> None:
    made = data(ROOT / "results" / "digits" / "network.net")
    driver = opened(inspect_page(made))
    column = """const table = document.querySelector("#layers table"), head = table.tHead.rows[0].cells[arguments[0]];
        head.querySelector("button").click();
        return [head.ariaSort, [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim())]"""
    rows = sorted(made["layers"][1:], key=lambda row: -row["weights"])
    sort, names = driver.execute_script(column, 4)
    assert sort == "descending" and [name for name in names if name != "input"] == [row["name"] for row in rows]
    sort, names = driver.execute_script(column, 4)
    assert sort == "ascending" and names == [*(row["name"] for row in reversed(rows)), "input"]
    lit = """document.querySelector('#layers button.layer[data-l="1"]').click();
        return [...document.querySelectorAll("tr.lit, figure.lit")].map((element) => element.closest("section").id).sort()"""
    assert driver.execute_script(lit) == ["layers", "states", "weights"]
    assert driver.execute_script(lit) == []
