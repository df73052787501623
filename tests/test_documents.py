"""The documents say what is so: examples run, commands parse, links lead somewhere, figures have a source."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jupytext
import nbformat
import pytest
import tomli
import typer
from matplotlib.image import imread

from netx_export.errors import CapacityError, MismatchError, QpsnnError
from qpsnn_lava.cli import app

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = {"build", "dist", "runs", "__pycache__", "node_modules"}  # besides hidden folders
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def tree(folder: Path = ROOT) -> Iterator[Path]:
    """The project's own files."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name == ".ci" or not (
                path.name in SKIPPED or path.name.startswith(".") or path.name.endswith(".egg-info")
            ):
                yield from tree(path)
        else:
            yield path


DOCUMENTS = [path for path in tree() if path.suffix == ".md" and path.relative_to(ROOT).parts[0] != "results"]
IDS = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced code blocks of a document."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def prose(path: Path) -> str:
    """A document without its code blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def script(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_python(code: Path, folder: Path, timeout: float) -> str:
    """What a Python file prints, in a process of its own where warnings are errors."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process :DeprecationWarning", str(code)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


# --- what can be run ----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_the_python_examples_of_the_readme_run(tmp_path: Path) -> None:
    train, map_it = blocks(ROOT / "README.md", "python")
    assert sum(bool(line.strip()) for line in train.splitlines()) <= 15
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text(train, encoding="utf-8")
    second.write_text(map_it + "\nimport sys\nassert not {'torch', 'lava'} & set(sys.modules)\n", encoding="utf-8")
    accuracy = re.search(r"test accuracy as integers: ([\d.]+)", run_python(first, tmp_path, 240))
    assert accuracy is not None and float(accuracy[1]) > 0.7  # chance: 0.1
    rows = run_python(second, tmp_path, 60).splitlines()
    assert [row.split()[0] for row in rows] == ["input", "conv1", "conv2", "conv3", "output"]
    assert rows[1].startswith("conv1 (8, 8, 8) 1 cores,")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    printed = run_python(path.with_suffix(".py"), tmp_path, 280)
    accuracy = re.search(r"integer test accuracy: ([\d.]+) %", printed)
    assert accuracy is not None and float(accuracy[1]) > 80
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind


def cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_and_its_pair_are_in_sync_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    pair = jupytext.read(path.with_suffix(".py"))
    assert cells(notebook) == cells(pair), f"run: jupytext --sync notebooks/{path.name}"
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    assert notebook.metadata.jupytext.formats == pair.metadata.jupytext.formats == "ipynb,py:percent"
    assert set(notebook.metadata) == {"jupytext", "kernelspec"}  # no name of a machine's environment


def test_every_notebook_is_a_pair() -> None:
    assert NOTEBOOKS
    assert [path.stem for path in sorted((ROOT / "notebooks").glob("*.py"))] == [path.stem for path in NOTEBOOKS]


# --- commands -----------------------------------------------------------------------------------------------------------


def shell_lines() -> list[tuple[str, str]]:
    return [
        (path.relative_to(ROOT).as_posix(), line.split("  #")[0].strip())
        for path in DOCUMENTS
        for block in blocks(path, "sh")
        for line in block.splitlines()
        if line.strip() and not line.startswith("#")
    ]


def verbs() -> dict[str, Any]:
    """The command line's verbs."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return commands


USAGE_ERROR = typer.BadParameter.__mro__[1]  # click's, or that of the click inside typer


def leaves(command: Any) -> list[Any]:
    """The command, or the commands of a group."""
    return list(getattr(command, "commands", {"": command}).values())


def check_command(line: str) -> None:
    """Fails where a shell line names a verb, an option, a target, an extra or a file that does not exist."""
    words = shlex.split(line)
    while "=" in words[0]:
        words.pop(0)
    tool, arguments = Path(words[0]).name, words[1:]
    if tool == "qpsnn":
        command, rest = verbs()[arguments[0]], arguments[1:]
        if hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        with command.make_context(arguments[0], rest):
            pass
    elif tool == "make":
        targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[0].split()
        assert all(word in targets or word.startswith("PYTHON=") for word in arguments), line
    elif tool in ("python", "python3"):
        check_python(arguments, line)
    else:
        assert tool in ("ruff", "mypy", "lint-imports", "jupytext"), f"no way to check this command: {line}"
        assert (Path(sys.executable).parent / tool).exists(), tool
        assert all((ROOT / word).exists() for word in arguments if "/" in word), line


def check_python(arguments: list[str], line: str) -> None:
    if arguments[0] != "-m":
        assert (ROOT / arguments[0]).is_file(), line
        return
    module = arguments[1]  # looked up by name: find_spec("pip") makes setuptools hand out another distutils
    known_modules = {*sys.stdlib_module_names, *(d.name for d in importlib.metadata.distributions()), "qpsnn_lava"}
    assert module in known_modules, line
    for word in arguments[2:]:
        extras = re.fullmatch(r"\.\[([\w,]+)\]", word)
        if extras is not None:
            known = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
            assert set(extras[1].split(",")) <= set(known), line
        elif "/" in word or word.endswith(".txt"):
            assert (ROOT / word).exists(), line


@pytest.mark.parametrize(("document", "line"), shell_lines())
def test_every_command_in_the_documents_exists(document: str, line: str) -> None:
    check_command(line)


@pytest.mark.parametrize(
    "line",
    [
        "qpsnn fly digits",
        "qpsnn run digits --fast",
        "qpsnn bench lunch network.net",
        "qpsnn bench simulate network.net --fast",
        "qpsnn run",
        "make lunch",
        "python docs/nothing.py",
        "python -m pip install -e '.[nothing]'",
        "curl x",
    ],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    with pytest.raises((AssertionError, KeyError, USAGE_ERROR)):
        check_command(line)


def test_the_readme_lists_the_verbs_and_their_exit_codes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|([^|]*)\|$", text, re.MULTILINE)
    assert sorted(verb for verb, _ in rows) == sorted(verbs())
    assert {verb: codes.strip() for verb, codes in rows if codes.strip()} == {
        "run": f"{CapacityError.exit_code}, {MismatchError.exit_code}",
        "verify": f"{MismatchError.exit_code}",
        "map": f"{CapacityError.exit_code}",
        "ablate": f"{MismatchError.exit_code}",
        "bench": f"{MismatchError.exit_code}",
    }
    assert (QpsnnError.exit_code, CapacityError.exit_code, MismatchError.exit_code) == (1, 2, 3)
    assert all("as_json" in {p.name for p in leaf.params} for verb in verbs().values() for leaf in leaves(verb))


# --- links, names, figures ----------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors that a reader's page makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{path.name}: {target}"
        assert ROOT in there.parents, f"{path.name}: {target} leads out of the project"
        assert not anchor or anchor in anchors(there), f"{path.name}: {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_every_file_and_name_of_the_code_that_is_mentioned_exists(path: Path) -> None:
    packages = "qpsnn_lava|mapping|netx_export"
    code = re.findall(r"`([^`\n]+)`", prose(path))
    for name in code:
        if re.fullmatch(rf"(?:{packages}|tests|docs|notebooks)/[\w./-]*", name):
            assert (ROOT / name).exists(), f"{path.name}: {name}"
        dotted = re.match(rf"(?:{packages})(?:\.[A-Za-z_]\w*)+", name)
        if dotted is not None and not name.endswith((".json", ".toml")):
            assert resolves(dotted[0]), f"{path.name}: {name}"


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    head, found = dotted.split("."), None
    for count in range(len(head), 0, -1):
        name = ".".join(head[:count])
        try:
            if importlib.util.find_spec(name) is None:
                continue
        except ModuleNotFoundError:
            continue
        found = importlib.import_module(name)
        for attribute in head[count:]:
            found = getattr(found, attribute, None)
        return found is not None
    return False


def test_a_name_that_is_not_there_is_noticed() -> None:
    assert resolves("netx_export.hdf5.write") and resolves("mapping") and resolves("qpsnn_lava.data.Dataset")
    assert not resolves("netx_export.hdf5.wrote") and not resolves("netx_export.nothing.at_all")


def test_the_figures_of_the_documents_are_those_of_the_results() -> None:
    figures = script("figures")
    shown: set[str] = set()
    for document in figures.DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        shown |= {block["name"] for block in figures.BLOCK.finditer(text)}
        assert figures.updated(text, ROOT / "results") == text, "run: python docs/figures.py"
    assert shown == {*figures.TABLES, *(path.parent.name for path in (ROOT / "results").glob("*/report.json"))}
    assert all((ROOT / "results" / f"{name}.json").exists() for name in figures.TABLES)


def test_percentages_stand_only_in_the_blocks_that_have_a_source() -> None:
    figures = script("figures")
    for document in figures.DOCUMENTS:
        text = figures.BLOCK.sub("", document.read_text(encoding="utf-8"))
        assert set(re.findall(r"[\d.]+ ?%", text)) <= {"95 %"}  # of the interval


def test_figures_are_renewed_from_a_report_and_stay_where_there_is_none(tmp_path: Path) -> None:
    figures = script("figures")
    text = "a\n<!-- figures: x -->\nold\n<!-- end of figures -->\nb\n<!-- figures: y -->\nkept\n<!-- end of figures -->\n"
    (tmp_path / "x").mkdir()
    report = {
        "accuracy": {"float": {"value": 0.5, "n": 10, "interval": [0.2, 0.8]}},
        "size_mb": {"float": 1.0, "deployed": 0.25},
        "synaptic_ops": 7.0,
        "mapping": {"fits": True, "cores": 3, "chips": 1, "chip": "loihi2", "lower_bound": 2},
        "seconds": {"float": 1.0},
        "layers": [],
    }
    (tmp_path / "x" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    new = figures.updated(text, tmp_path)
    assert "old" not in new and "kept" in new and "float 50.00 %" in new and "\ntime" not in new
    assert new.startswith("a\n<!-- figures: x -->\n```text\naccuracy ") and "```\n<!-- end of figures -->\nb\n" in new
    assert figures.updated(new, tmp_path) == new


def test_the_picture_of_the_flow_is_the_one_that_its_script_draws() -> None:
    flow = script("flow")
    assert {name for arrow in flow.ARROWS for name in arrow} <= set(flow.BOXES)
    stream = io.BytesIO()
    flow.draw().savefig(stream, format="png", dpi=110)
    stream.seek(0)
    drawn, kept = imread(stream, format="png"), imread(ROOT / "docs" / "flow.png")
    assert drawn.shape == kept.shape
    assert abs(drawn - kept).mean() < 0.02, "run: python docs/flow.py"  # another version of matplotlib moves a letter


# --- nothing of the machine ---------------------------------------------------------------------------------------------

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|work|mnt|srv)/\w|(?<![\w.])/tmp/\w+/|file:/{2,}\w?")
REGISTRY_HOST = re.compile(
    r"\b(?:pypi|pythonhosted|anaconda|conda|npmjs|crates)\.(?:org|com|io)\b|\bdownload\.pytorch\b", re.IGNORECASE
)


def test_no_path_of_a_machine_and_no_registry_in_any_text_file() -> None:
    found = []
    for path in tree():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture, a netx file
            continue
        found += [f"{path.relative_to(ROOT)}: {m[0]}" for p in (MACHINE_PATH, REGISTRY_HOST) for m in p.finditer(text)]
    assert found == []


def test_such_paths_and_hosts_are_noticed() -> None:
    for text in ("see /" + "home/me/x", "'/" + "tmp/w/x'", "file:/" + "//opt"):
        assert MACHINE_PATH.search(text), text
    for text in ("https://" + "pypi" + ".org/simple", "files.pythonhosted" + ".org", "download." + "pytorch" + ".org/whl/cpu"):
        assert REGISTRY_HOST.search(text), text
    assert not MACHINE_PATH.search("PYTHON=/path/to/python, /usr/share/datasets, a/home/b")
