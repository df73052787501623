"""The documents say what is so: examples run, commands parse, links lead somewhere, figures have a source."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
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
WITHOUT_TORCH = "import sys\nassert not {'torch', 'lava'} & set(sys.modules)\n"


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
    second.write_text(map_it + "\n" + WITHOUT_TORCH, encoding="utf-8")
    accuracy = re.search(r"test accuracy as integers: ([\d.]+)", run_python(first, tmp_path, 240))
    assert accuracy is not None and float(accuracy[1]) > 0.7  # chance: 0.1
    rows = run_python(second, tmp_path, 60).splitlines()
    assert [row.split()[0] for row in rows] == ["input", "conv1", "conv2", "conv3", "output"]
    assert rows[1].startswith("conv1 (8, 8, 8) 1 cores,")


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("how-to-chip", r"half 8000 assumed"),
        ("how-to-data", r"test accuracy: (?:0\.[89]\d*|1\.0)$"),
        ("how-to-network", r"\('dense2', \(10,\)\)\]\nfits: 2 cores"),
    ],
)
def test_the_python_examples_of_a_how_to_run(page: str, says: str, tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("\n".join(blocks(ROOT / "docs" / f"{page}.md", "python")), encoding="utf-8")
    assert re.search(says, run_python(code, tmp_path, 100), re.MULTILINE)


def test_what_the_tutorial_does_with_a_finished_run_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its commands that look at the run and map it again, on the committed run of the same name."""
    shutil.copytree(ROOT / "results" / "digits", tmp_path / "runs" / "digits")
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks(ROOT / "docs" / "tutorial.md", "sh") for line in block.splitlines()]
    mine = [line for line in lines if line.split()[1] in ("inspect", "plot", "map", "chips")]
    assert len(mine) == 6
    for line in mine:
        app(shlex.split(line)[1:], standalone_mode=False)
    out = capsys.readouterr().out
    assert "conv1" in out and "loihi2-2022" in out and "fits" in out
    assert (tmp_path / "figures" / "weights.png").exists()


SAYS = {  # what a notebook prints, by its number
    "01": r"integer test accuracy: (?:8[1-9]|9\d)\.\d %",
    "02": r"integer test accuracy: (?:8[1-9]|9\d)\.\d %",
    "03": r"0 of \d[\d,]+ spikes differ(?s:.*)as the compiler: 74 cores(?s:.*)shared cores: 41 cores, at least 39",
    "04": r"mid_tread, 4 bit: integers -7..7 need 4 bits\n(?s:.*)rescaw  - vanilla(?s:.*) runs, n = 10,000; made by: qpsnn ablate",
    "05": r"integer test accuracy: (?:8[1-9]|9\d)\.\d %(?s:.*)0 of \d[\d,]+ spikes differ",
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    number, code, folder = path.stem[:2], tmp_path / "code.py", tmp_path / "folder"
    folder.mkdir()
    needs = "" if number != "03" else WITHOUT_TORCH
    code.write_text(path.with_suffix(".py").read_text(encoding="utf-8") + needs, encoding="utf-8")
    assert re.search(SAYS[number], run_python(code, folder, 280))
    assert list(folder.iterdir()) == []  # it leaves nothing behind


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
    made = set(figures.TABLES)
    for path in (ROOT / "results").glob("*/report.json"):
        name, report = path.parent.name, json.loads(path.read_text(encoding="utf-8"))
        made |= {f"{name}/{study['name']}" for study in report["studies"]} if "studies" in report else {name}
    assert shown == made
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


# --- the site -----------------------------------------------------------------------------------------------------------


def names_in_the_code(module: str) -> set[str]:
    """Public functions and classes that a module defines and describes, read from its text."""
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and node.name[0] != "_" and ast.get_docstring(node)}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Sphinx and what belongs to it need Python 3.11")
@pytest.mark.timeout(400)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """As `make docs` does, all links and references resolved; the notebooks are not run."""
    site = tmp_path / "site"
    options = ["-W", "--keep-going", "-n", "-q", "-c", "docs", "-d", str(tmp_path / "trees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ".", str(site)],
        cwd=ROOT,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert 'url=docs/index.html"' in (site / "index.html").read_text(encoding="utf-8")
    sources = {
        *(ROOT / "docs").glob("*.md"),
        *NOTEBOOKS,
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    }
    pages = {path.relative_to(ROOT).with_suffix(".html") for path in sources}
    assert all((site / page).exists() for page in pages)
    menu = (site / "docs" / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{os.path.relpath(page, "docs")}"' in menu for page in pages - {Path("docs/index.html")})
    for page, module in (
        ("api-netx-export", "netx_export.hdf5"),
        ("api-mapping", "mapping.cost"),
        ("api-qpsnn-lava", "qpsnn_lava.prune"),
    ):
        text = (site / "docs" / f"{page}.html").read_text(encoding="utf-8")
        assert all(f'id="{module}.{name}"' in text for name in names_in_the_code(module))
    assert "(samples, *input shape, time)" in (site / "docs" / "api-netx-export.html").read_text(encoding="utf-8")


def test_the_api_pages_have_every_module() -> None:
    """All but the command line, and modules that are parts of others."""
    shown = {
        name
        for path in (ROOT / "docs").glob("api-*.md")
        for name in re.findall(r"automodule:: (\S+)", path.read_text(encoding="utf-8"))
    }
    parts = {"netx_export.atomic", "netx_export.text", "netx_export.lava_compat", "qpsnn_lava.doctor"}
    parts |= {"qpsnn_lava.ablation_plots", "qpsnn_lava.ablation_report"}
    parts |= {f"{package}.notebook" for package in ("netx_export", "mapping", "qpsnn_lava")}
    modules = {
        f"{package}.{path.stem}"
        for package in ("netx_export", "mapping", "qpsnn_lava", "qpsnn_lava.pipeline")
        for path in (ROOT / package.replace(".", "/")).glob("*.py")
        if path.stem[0] != "_" and "bench" not in path.stem
    }
    assert modules - shown == parts
    assert shown - modules == {"qpsnn_lava.data", "qpsnn_lava.data.saccade", "qpsnn_lava.pipeline"}


def test_the_index_lists_every_document_once() -> None:
    conf = script("conf")
    listed = re.findall(r"^/(.+)$", conf.menu((ROOT / "docs" / "index.md").read_text(encoding="utf-8")), re.MULTILINE)
    paths = {path.relative_to(ROOT).as_posix() for path in [*DOCUMENTS, *NOTEBOOKS]} - {"docs/index.md"}
    assert sorted(listed) == sorted(paths)


def test_the_menu_of_an_index() -> None:
    first = "## A\n\n| | |\n|---|---|\n| [x](x.md) | and [y](y.md) |\n\n"
    text = f"# Top\n\n{first}## B b\n\n| [z](../z/z.md#there) | z |\n| [w](../w.md) | |\n"
    assert script("conf").menu(text) == (
        "\n```{toctree}\n:hidden:\n:caption: A\n\n/docs/x.md\n```\n\n```{toctree}\n:hidden:\n:caption: B b\n\n/w.md\n```\n"
    )


def test_docstrings_are_read_plainly() -> None:
    lines = [
        "(N, *shape, T) of |w|, ``*shape``, 2 * 3",
        "",
        "Example::",
        "",
        "    |x| * *y",
        "",
        "done |v|; uint8 (N, *``shape``, T)",
    ]
    assert script("conf").plain(lines) == [
        *(r"(N, \*shape, T) of \|w\|, ``*shape``, 2 * 3", "", "Example::", "", "    |x| * *y", ""),
        r"done \|v\|; uint8 (N, \*``shape``, T)",
    ]


@pytest.mark.parametrize("name", ["cli", "chips"])
def test_a_generated_page_is_current(name: str) -> None:
    assert (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") == script(name).page(), f"run: python docs/{name}.py"


def test_the_command_line_page_has_every_command_and_option() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (qpsnn .+)\n(?s:(.*?))(?=^## |\Z)", text, re.MULTILINE))
    found = {}
    for verb, command in verbs().items():
        for leaf, one in getattr(command, "commands", {"": command}).items():
            found[f"qpsnn {verb} {leaf}".strip()] = {name for p in one.params for name in p.opts if name.startswith("-")}
    assert sections.keys() == found.keys()
    for words, options in found.items():
        cells = " ".join(re.findall(r"^\| `(-[^`]+)`", sections[words], re.MULTILINE))
        assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", cells)) == options - {"--help"}, words


def test_the_chips_page_has_every_number_of_the_files() -> None:
    text = (ROOT / "docs" / "chips.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\S+)\n(?s:(.*?))(?=^## |\Z)", text, re.MULTILINE))
    files = [tomli.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "mapping" / "chips").glob("*.toml"))]
    assert sections.keys() == {*(file["name"] for file in files), "Boards"}
    for file in files:
        rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \| (\w+) \| (.*) \|$", sections[file["name"]], re.MULTILINE)
        shown = {name: (value.replace(",", ""), unit, tag, source) for name, value, unit, tag, source in rows}
        entries = {**file["limits"], **file["parameters"]}
        assert shown == {
            name: (str(entry["value"]), entry["unit"], entry["tag"], entry["source"]) for name, entry in entries.items()
        }


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
