"""What is installed, what is missing, and the one command that mends it; imports nothing that it looks for."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from dataclasses import dataclass

from netx_export.lava_compat import INSTALL_COMMAND, LAVA_DL, LAVA_NC

PACKAGE = "qpsnn-lava"
PYTHON_COMMAND = "make setup PYTHON=/path/to/python  (3.10, 3.11 or 3.12)"
BASE_COMMAND = f"pip install --upgrade {PACKAGE}"
OPTIONAL = {"faster": "fast", "sweeps": "sweep"}  # purpose: extra


@dataclass(frozen=True)
class Need:
    """A package with the versions that fit: ``least <= version < below`` (an empty text: no bound)."""

    component: str
    least: str
    below: str = ""

    def __str__(self) -> str:
        bounds = [f">={self.least}"] * bool(self.least) + [f"<{self.below}"] * bool(self.below)
        return ",".join(bounds) or "any"


# The same bounds as pyproject.toml's, held equal by a test.
BASE = (
    Need("numpy", "1.26"),
    Need("h5py", "3.7"),
    Need("matplotlib", "3.5.2"),
    Need("pydantic", "2"),
    Need("tomli", "2"),
    Need("typer", "0.12"),
    Need("rich", "13"),
    Need("jinja2", "3"),
)
STACK = (
    Need("torch", "2.3.1"),
    Need("safetensors", "0.4"),
    Need("scikit-learn", "1.5"),
    Need("scipy", "1.10.1"),
    Need("asteval", "0.9.31", "0.10"),
    Need("networkx", "", "2.8.8"),
    Need("ninja", "1.10.2.3"),
    Need("setuptools", ""),
    Need("lava-nc", LAVA_NC, "0.10.1"),
    Need("lava-dl", LAVA_DL, "0.6.1"),
)
FAST = (Need("numba", "0.59"),)
SWEEP = (Need("optuna", "5"),)


@dataclass(frozen=True)
class Row:
    """One component.

    Args:
        component: a package, or Python.
        found: its version; None where it is not installed.
        needed: the versions that fit.
        purpose: "base" (everything), "train and Lava", or, optional, "faster" or "sweeps".
        state: "ok", "missing", "too old" or "too new".
    """

    component: str
    found: str | None
    needed: str
    purpose: str
    state: str


@dataclass(frozen=True)
class Diagnosis:
    """The rows, and the one command that mends what is wrong (None where nothing is).

    Args:
        rows: one per component; the optional ones are last.
        command: a shell command.
    """

    rows: tuple[Row, ...]
    command: str | None

    @property
    def complete(self) -> bool:
        """Whether training and Lava runs have all they need (optional packages do not count)."""
        return all(row.state == "ok" for row in self.rows if row.purpose not in OPTIONAL)


def diagnose() -> Diagnosis:
    """Compares what is installed with what this package needs, by metadata alone."""
    rows = [_row(Need("Python", "3.10", "3.13"), "base", platform.python_version())]
    for purpose, needs in (("base", BASE), ("train and Lava", STACK), ("faster", FAST), ("sweeps", SWEEP)):
        rows += [_row(need, purpose, installed_version(need.component)) for need in needs]
    return Diagnosis(tuple(rows), _command(rows))


def installed_version(component: str) -> str | None:
    """Version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(component)
    except importlib.metadata.PackageNotFoundError:
        return None


def _row(need: Need, purpose: str, found: str | None) -> Row:
    if found is None:
        state = "missing"
    elif _numbers(found) < _numbers(need.least):
        state = "too old"
    elif need.below and _numbers(found) >= _numbers(need.below):
        state = "too new"
    else:
        state = "ok"
    return Row(need.component, found, str(need), purpose, state)


def _command(rows: list[Row]) -> str | None:
    """The one command: each in this list mends what the ones after it would mend, too, where it is needed at all."""
    wrong = [row for row in rows if row.state != "ok"]
    if any(row.component == "Python" for row in wrong):
        return PYTHON_COMMAND
    if any(row.purpose == "train and Lava" for row in wrong):
        return INSTALL_COMMAND
    if any(row.purpose == "base" for row in wrong):
        return BASE_COMMAND
    extras = dict.fromkeys(OPTIONAL[row.purpose] for row in wrong)
    return f"pip install '{PACKAGE}[{','.join(extras)}]'" if wrong else None


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version, "2.13.0+cpu" -> (2, 13); trailing zeros do not count."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(n) for n in match.group().split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
