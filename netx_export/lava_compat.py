"""Lava and lava-dl on today's Python: the one module through which everything else imports them.

lava-nc 0.10.0 and lava-dl 0.6.0 are the last releases, and their repositories are archived, so their quirks are worked around
here, each in one place, and all but the last only while the import runs:

- ``lava.magma.compiler.var_model`` uses dataclass instances as field defaults, which Python 3.11 refuses unless they can be
  hashed: its dataclasses get ``unsafe_hash=True``.
- ``lava.magma.runtime`` calls ``multiprocessing.set_start_method('fork')`` and raises where a method was set before (a
  DataLoader with workers, joblib, a notebook): during the import that call does nothing.  :func:`use_fork` makes the choice
  where processes are started.
- ``lava.lib.dl.slayer`` imports torchvision, OpenCV and a notice printer through its ``object_detection`` subpackage only: an
  empty module stands in for it.
- ``lava.proc.conv.models`` keeps kernel size, stride, padding, dilation and groups in 8 bits, which numpy 2 no longer widens in
  arithmetic: inputs of more than 127 pixels a side (padding included) or 127 channels would fail.  The five get 32 bits, for good.

Nothing here imports Lava before it is called.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.abc
import importlib.util
import multiprocessing
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from netx_export.errors import MissingError

LAVA_NC = "0.10.0"
LAVA_DL = "0.6.0"

# Their metadata refuses Python 3.11 and later and names caps and packages that they do not need; see pyproject.toml's `stack`.
WHEELS_COMMAND = f"pip install --no-deps --ignore-requires-python lava-nc=={LAVA_NC} lava-dl=={LAVA_DL}"
INSTALL_COMMAND = f"pip install 'qpsnn-lava[stack]' && {WHEELS_COMMAND}"

_OBJECT_DETECTION = "lava.lib.dl.slayer.object_detection"
_HASHABLE_DATACLASSES = "lava.magma.compiler.var_model"


def check_installed() -> None:
    """Looks for lava-nc and lava-dl without importing them.

    Raises:
        MissingError: when one of them is not installed.
    """
    for package, module in (("lava-nc", "magma"), ("lava-dl", "lib")):
        lava = importlib.util.find_spec("lava")  # a namespace: several packages share it
        folders = [] if lava is None else list(lava.submodule_search_locations or [])
        if not any((Path(folder) / module).is_dir() for folder in folders):
            raise MissingError(f"{package} is not installed; get it with: {INSTALL_COMMAND}")


def import_lava() -> types.ModuleType:
    """Imports the core of lava-nc (processes, compiler, runtime); after it plain imports of ``lava...`` work.

    Returns:
        the package ``lava``.

    Raises:
        MissingError: when lava-nc, or something that it needs, is not installed.
    """
    _import("lava.magma.runtime.message_infrastructure.multiprocessing")
    _import("lava.magma.compiler.compiler")
    model = _import("lava.proc.conv.models").AbstractPyConvModel
    kind = _import("lava.magma.core.model.py.type").LavaPyType
    for name in ("kernel_size", "stride", "padding", "dilation", "groups"):
        setattr(model, name, kind(np.ndarray, np.int32))
    return sys.modules["lava"]


def import_slayer() -> Any:
    """Imports SLAYER, without torchvision and OpenCV, without a word on the terminal.

    Returns:
        the package ``lava.lib.dl.slayer``; its ``obd`` (object detection) is an empty module.

    Raises:
        MissingError: when lava-dl, lava-nc or something that they need is not installed.
    """
    import_lava()
    return _import("lava.lib.dl.slayer")


def import_netx() -> Any:
    """Imports lava-dl's netx reader (it imports SLAYER, and with it torch).

    Returns:
        the module ``lava.lib.dl.netx.hdf5`` with its ``Network``.

    Raises:
        MissingError: when lava-dl, lava-nc or something that they need is not installed.
    """
    import_slayer()
    return _import("lava.lib.dl.netx.hdf5")


def import_netx_alone() -> Any:
    """Imports the netx reader without SLAYER and torch, seconds faster; only for a process that does nothing else.

    The reader needs one function of SLAYER, for resonate-and-fire neurons (which this project's reader refuses), and torch
    for modules of its package that it does not use.  Stand-ins for both stay in ``sys.modules``: Lava imports all modules
    beside a process when it looks for the process's models.

    Returns:
        the module ``lava.lib.dl.netx.hdf5``.

    Raises:
        MissingError: when lava-dl, lava-nc or something that they need is not installed.
    """
    import_lava()

    def no_resonators(_: object) -> None:
        raise NotImplementedError("resonate-and-fire neurons are not supported")

    for name in ("lava.lib.dl.slayer", "lava.lib.dl.slayer.neuron", "lava.lib.dl.slayer.neuron.rf"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["lava.lib.dl.slayer.neuron.rf"].__dict__.setdefault("neuron_params", no_resonators)
    sequential = types.ModuleType("lava.lib.dl.netx.sequential_modules")
    sequential.__file__ = __file__  # Lava asks for the folder of every module that it searches
    sys.modules.setdefault(sequential.__name__, sequential)
    sys.meta_path.insert(0, _WithoutTorch())
    return _import("lava.lib.dl.netx.hdf5")


class _WithoutTorch(importlib.abc.MetaPathFinder):
    """Finds no torch (a None in ``sys.modules`` would do the same, but SciPy looks there)."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "torch":
            raise ModuleNotFoundError("torch is left out of this process", name=name)


def use_fork() -> None:
    """Lets ``multiprocessing`` fork, as Lava's process models need it, where no start method was chosen yet."""
    if multiprocessing.get_start_method(allow_none=True) is None:
        multiprocessing.set_start_method("fork")


def _import(name: str) -> Any:
    """Imports one module of Lava under the workarounds; says what is missing where that fails."""
    if name in sys.modules:
        return sys.modules[name]
    try:
        with _workarounds():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if missing.split(".")[0] == "lava":
            package = "lava-dl" if missing.startswith("lava.lib") else "lava-nc"
            raise MissingError(f"{package} is not installed; get it with: {INSTALL_COMMAND}") from None
        raise MissingError(
            f"Lava needs the package {missing!r}, which is not installed; get it with: {INSTALL_COMMAND}"
        ) from None


@contextlib.contextmanager
def _workarounds() -> Iterator[None]:
    """The first three workarounds of the module docstring, and no warnings about Lava's sources; all undone at the end."""
    dataclass = dataclasses.dataclass
    set_start_method = multiprocessing.set_start_method
    stand_in = None if _OBJECT_DETECTION in sys.modules else types.ModuleType(_OBJECT_DETECTION)
    if stand_in is not None:
        sys.modules[_OBJECT_DETECTION] = stand_in
    dataclasses.dataclass = _hashable(dataclass)
    multiprocessing.set_start_method = lambda *_, **__: None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=SyntaxWarning)  # escapes like '\d' (DeprecationWarning before 3.12)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        dataclasses.dataclass = dataclass
        multiprocessing.set_start_method = set_start_method
        if stand_in is not None and sys.modules.get(_OBJECT_DETECTION) is stand_in:
            del sys.modules[_OBJECT_DETECTION]


def _hashable(dataclass: Callable[..., Any]) -> Callable[..., Any]:
    """``dataclass`` that makes the classes of one Lava module hashable and all others as ever."""

    def decorate(cls: type | None = None, /, **options: Any) -> Any:
        if cls is None:
            return lambda decorated: decorate(decorated, **options)
        if cls.__module__ == _HASHABLE_DATACLASSES:
            options.setdefault("unsafe_hash", True)
        return dataclass(cls, **options)

    return decorate
