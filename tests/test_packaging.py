"""Metadata, pins, set-up and walls: what a fresh machine depends on."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from netx_export import lava_compat
from qpsnn_lava import doctor

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(python: str) -> dict[str, str]:
    """name -> version that constraints.txt gives that Python; fails on anything but exact pins, at most one per name."""
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line)
        assert re.fullmatch(r"==[0-9a-z.]+", str(requirement.specifier)), f"not an exact pin without a local version: {line}"
        assert requirement.url is None and not requirement.extras, line
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            name = requirement.name.lower().replace("_", "-")
            assert name not in found, f"{name} is pinned twice for Python {python}"
            found[name] = str(requirement.specifier)[2:]
    return found


def requirements(project: dict[str, Any], python: str, *extras: str) -> list[Requirement]:
    """The base and these extras, with self-references resolved."""
    todo = list(project["project"]["dependencies"])
    for extra in extras:
        todo += project["project"]["optional-dependencies"][extra]
    out = []
    while todo:
        requirement = Requirement(todo.pop())
        if requirement.name == "qpsnn-lava":
            for extra in requirement.extras:
                todo += project["project"]["optional-dependencies"][extra]
        elif requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            out.append(requirement)
    return out


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_a_pin_that_fits(project: dict[str, Any], python: str) -> None:
    pinned = pins(python)
    for requirement in requirements(project, python, "all"):
        assert requirement.name in pinned, f"{requirement.name} is not pinned for Python {python}"
        assert pinned[requirement.name] in requirement.specifier, requirement
    assert pinned["torch"] == "2.13.0"
    assert (pinned["lava-nc"], pinned["lava-dl"]) == (lava_compat.LAVA_NC, lava_compat.LAVA_DL)


def test_the_pins_are_what_runs_here() -> None:
    pinned = pins(f"{sys.version_info[0]}.{sys.version_info[1]}")
    found = {name: doctor.installed_version(name) for name in pinned}
    different = {name: (here, pinned[name]) for name, here in found.items() if here and here.split("+")[0] != pinned[name]}
    assert not different, "run make setup"
    assert sum(here is not None for here in found.values()) > 80


def test_lava_dls_caps_on_python_310_contradict_nothing(project: dict[str, Any]) -> None:
    """What lava-nc 0.10.0 and lava-dl 0.6.0 declare must leave room: pip resolves qpsnn-lava[all] there by metadata alone."""
    ours = requirements(project, "3.10", "all")
    assert {"lava-nc", "lava-dl"} <= {r.name for r in ours}
    assert not {"lava-nc", "lava-dl"} & {r.name for r in requirements(project, "3.11", "all")}
    theirs = [
        Requirement(line) for name in ("lava-nc", "lava-dl") for line in importlib.metadata.distribution(name).requires or ()
    ]
    versions = {
        "torch": "2.3.1",
        "numpy": "1.26.4",
        "pytest": "7.4.4",
        "scipy": "1.15.3",
        "networkx": "2.8.7",
        "h5py": "3.11.0",
    }
    versions |= {"asteval": "0.9.33", "matplotlib": "3.9.0", "ninja": "1.11.1", "scikit-learn": "1.7.2"}
    for requirement in [*ours, *theirs]:
        if requirement.name in versions:
            assert versions[requirement.name] in requirement.specifier, requirement
    assert {r.name for r in theirs} >= {"torch", "numpy", "pytest", "networkx"}


def test_metadata_names_packages_entry_point_and_licence(project: dict[str, Any]) -> None:
    table = project["project"]
    assert table["name"] == "qpsnn-lava" and table["license"] == "BSD-3-Clause"
    assert SpecifierSet(table["requires-python"]) == SpecifierSet(">=3.10,<3.13")
    assert table["scripts"] == {"qpsnn": "qpsnn_lava.cli:main"}
    packages = ["qpsnn_lava", "qpsnn_lava.cli", "qpsnn_lava.data", "qpsnn_lava.pipeline", "mapping", "netx_export"]
    assert project["tool"]["setuptools"]["packages"] == packages
    assert "Copyright (c) 2026 the qpsnn-lava developers" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    base = {r.name for r in requirements(project, "3.11")}
    assert not base & {"torch", "lava-nc", "lava-dl", "numba", "scipy"}


def test_every_package_folder_with_code_is_packaged(project: dict[str, Any]) -> None:
    """Subfolders of code or data must be named in pyproject.toml, or they are missing from an installed copy."""
    settings = project["tool"]["setuptools"]
    packages = {ROOT / name.replace(".", "/") for name in settings["packages"]}
    for package in (name for name in settings["packages"] if "." not in name):
        for folder in sorted(p for p in (ROOT / package).rglob("*") if p.is_dir() and p.name != "__pycache__"):
            if folder in packages:
                continue
            inside = folder.relative_to(ROOT / package).as_posix()
            files = [p.name for p in folder.iterdir() if p.is_file()]
            patterns = settings["package-data"].get(package, [])
            for name in files:
                assert any(Path(inside, name).match(pattern) for pattern in patterns), f"{package}/{inside}/{name}"


# --- walls --------------------------------------------------------------------------------------------------------------


def test_a_base_install_imports_everything_but_the_compiled_kernels() -> None:
    """With all extras made unfindable; only the module of numba kernels, which its caller imports where it can, may fail."""
    names = [f"{folder}.{p.stem}" for folder in ("netx_export", "mapping") for p in (ROOT / folder).glob("*.py")]
    names = [*sorted(n for n in names if not n.endswith("__init__")), "qpsnn_lava.doctor"]
    code = f"""
import importlib, sys

class NoExtras:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "safetensors", "lava", "sklearn", "scipy", "numba", "networkx"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoExtras())
for name in {names}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        print(name, error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("", "netx_export.kernels numba\nnetx_export.vectors numba\n")


def test_the_import_contracts_catch_a_broken_wall(tmp_path: Path, project: dict[str, Any]) -> None:
    for package in project["tool"]["importlinter"]["root_packages"]:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def lint() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)

    whole = lint()
    assert whole.returncode == 0, whole.stdout
    for package, line, contract in (
        ("mapping", "import torch", "torch only in qpsnn_lava"),
        ("netx_export", "import mapping", "none back"),
        ("qpsnn_lava", "import lava.lib.dl.slayer", "Lava (and SLAYER) only in"),
        ("mapping", "import h5py", "h5py only in"),
        ("netx_export", "import pydantic", "pydantic and TOML only"),
        ("mapping", "import rich", "typer and rich only"),
    ):
        (tmp_path / package / "breach.py").write_text(f"{line}\n", encoding="utf-8")
        broken = lint()
        (tmp_path / package / "breach.py").unlink()
        assert broken.returncode == 1 and re.search(re.escape(contract) + ".*BROKEN", broken.stdout), (line, broken.stdout)


# --- make ---------------------------------------------------------------------------------------------------------------


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("make")
    assert tool is not None
    return subprocess.run(
        [tool, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A folder with the Makefile and a bin with nothing but what the recipe calls, and a python3 that does not run."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "rm", "touch", "mkdir"):
        (tools / name).symlink_to(shutil.which(name) or name)
    shim(tools / "python3", "echo 'command not found: python3' >&2; exit 127")
    return tmp_path


def shim(path: Path, body: str) -> None:
    path.write_text(f"#!{shutil.which('bash')}\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


FAKE_PYTHON = """
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python; exit 0;;
  *version_info\\[:2\\]\\)*) echo "(3, 11)";;
  --version) echo "Python 3.11.0";;
esac
exit 0
"""


def test_set_up_takes_the_first_python_that_runs_and_is_skipped_when_nothing_changed(bench: Path) -> None:
    (bench / "bin" / "cp").symlink_to(shutil.which("cp") or "cp")
    (bench / "bin" / "basename").symlink_to(shutil.which("basename") or "basename")
    shim(bench / "bin" / "python3.11", FAKE_PYTHON)
    shim(bench / "bin" / "python3.10", FAKE_PYTHON)
    environment = {"PATH": str(bench / "bin"), "LOG": str(bench / "log"), "VIRTUAL_ENV": "/elsewhere"}
    first = make(bench, "setup", **environment)
    assert first.returncode == 0, first.stderr
    log = (bench / "log").read_text(encoding="utf-8")
    assert "python3.11 -m venv --clear .venv" in log and "python3.10" not in log
    assert "-m pip install --quiet -c constraints.txt -e .[stack,fast,dev]" in log
    assert "--no-deps --ignore-requires-python -c constraints.txt lava-nc lava-dl" in log
    second = make(bench, "setup", **environment)
    assert "Nothing to be done" in second.stdout and (bench / "log").read_text(encoding="utf-8") == log
    os.utime(bench / "constraints.txt", (4e9, 4e9))
    assert make(bench, "setup", **environment).returncode == 0
    later = (bench / "log").read_text(encoding="utf-8")
    assert later.count("pip install") == 4 and later.count("-m venv") == 1  # installs again, keeps the environment


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (),
            "make: no usable Python found: Python 3.10, 3.11 or 3.12 with its venv module is needed (Debian, Ubuntu: ",
        ),
        (("PYTHON=/no/such/python",), "make: no usable Python found at /no/such/python: Python 3.10, 3.11 or 3.12"),
    ],
)
def test_one_line_says_that_no_python_fits(bench: Path, arguments: tuple[str, ...], message: str) -> None:
    done = make(bench, "--no-print-directory", "setup", *arguments, PATH=str(bench / "bin"))
    assert done.returncode == 2
    assert done.stderr.startswith(message) and done.stdout == ""
    assert not (bench / ".venv").exists()


def test_help_names_the_targets() -> None:
    done = make(ROOT)
    assert done.returncode == 0
    assert all(f"make {target} " in done.stdout for target in ("demo", "test", "setup"))


# --- doctor -------------------------------------------------------------------------------------------------------------


def test_doctor_holds_the_same_bounds_as_the_metadata(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    for needs, lines in (
        (doctor.BASE, project["project"]["dependencies"]),
        (doctor.STACK, [*extras["stack"], *(line for line in extras["lava"] if line.startswith("lava"))]),
        (doctor.FAST, extras["fast"]),
        (doctor.SWEEP, extras["sweep"]),
    ):
        declared = {r.name: r.specifier for r in map(Requirement, lines)}
        assert {need.component for need in needs} == set(declared)
        for need in needs:
            for version in (
                "0.4",
                "0.5.9",
                "0.6.0",
                "0.9.31",
                "0.9.33",
                "0.10.0",
                "0.10.1",
                "1.26",
                "2.8.7",
                "2.8.8",
                "2.13.0",
                "84.1",
            ):
                row = doctor._row(need, "base", version)
                assert (row.state == "ok") == (version in declared[need.component]), (need, version)


def test_doctor_finds_this_machine_complete() -> None:
    diagnosis = doctor.diagnose()
    assert diagnosis.complete and diagnosis.command is None
    rows = {row.component: row for row in diagnosis.rows}
    assert rows["lava-dl"].found == "0.6.0" and rows["torch"].state == "ok" and rows["torch"].needed == ">=2.3.1"


@pytest.mark.parametrize(
    ("component", "found", "state", "command"),
    [
        ("lava-dl", None, "missing", lava_compat.INSTALL_COMMAND),
        ("torch", "2.2.0", "too old", lava_compat.INSTALL_COMMAND),
        ("networkx", "3.4", "too new", lava_compat.INSTALL_COMMAND),
        ("h5py", None, "missing", doctor.BASE_COMMAND),
        ("numba", None, "missing", "pip install 'qpsnn-lava[fast]'"),
        ("optuna", None, "missing", "pip install 'qpsnn-lava[sweep]'"),
    ],
)
def test_doctor_names_what_is_wrong_and_one_command(
    monkeypatch: pytest.MonkeyPatch, component: str, found: str | None, state: str, command: str
) -> None:
    installed = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: found if name == component else installed(name))
    diagnosis = doctor.diagnose()
    wrong = [row for row in diagnosis.rows if row.state != "ok"]
    assert [(row.component, row.found, row.state) for row in wrong] == [(component, found, state)]
    assert diagnosis.command == command
    assert diagnosis.complete == (component in ("numba", "optuna"))


def test_doctor_asks_for_another_python_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda name: None)
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.13.0")
    diagnosis = doctor.diagnose()
    assert diagnosis.rows[0].state == "too new" and diagnosis.command == doctor.PYTHON_COMMAND
