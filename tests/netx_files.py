"""The netx files of the installed lava-dl wheel, and how a test changes one."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

_FOLDER = "tests/lava/lib/dl/netx/"
_FILES = {
    file.as_posix().removeprefix(_FOLDER): Path(str(file.locate()))
    for file in importlib.metadata.files("lava-dl") or []
    if file.as_posix().startswith(_FOLDER)
}
WHEEL = sorted(path for name, path in _FILES.items() if name.endswith(".net"))


def wheel(name: str) -> Path:
    """A file of the wheel, without importing anything of it."""
    return _FILES[name]


def put(where: str, value: object, **options: Any) -> Callable[[h5py.File], None]:
    """Replaces one dataset."""

    def change(file: h5py.File) -> None:
        if where in file:
            del file[where]
        file.create_dataset(where, data=value, **options)

    return change
