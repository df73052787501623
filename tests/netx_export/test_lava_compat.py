"""The import shims, each in a fresh interpreter: an import can be tested only once."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from netx_export import lava_compat
from netx_export.errors import MissingError

ROOT = Path(__file__).resolve().parents[2]


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


def test_slayer_imports_in_silence_without_vision_packages_after_workers_and_leaves_no_trace() -> None:
    done = run(
        """
import dataclasses, multiprocessing, sys, warnings
import torch
from torch.utils.data import DataLoader

if __name__ == "__main__":
    assert [int(x) for x in DataLoader(range(3), num_workers=1, batch_size=None)] == [0, 1, 2]
    assert multiprocessing.get_start_method(allow_none=True) is not None   # what Lava stumbles over
    before = dataclasses.dataclass, multiprocessing.set_start_method, list(warnings.filters)
    from netx_export import lava_compat
    slayer = lava_compat.import_slayer()
    assert callable(slayer.block.cuba.Conv)
    assert lava_compat.import_slayer() is slayer
    assert (dataclasses.dataclass, multiprocessing.set_start_method, list(warnings.filters)) == before
    assert lava_compat._OBJECT_DETECTION not in sys.modules
    loaded = [name for name in ("torchvision", "cv2") if name in sys.modules]
    assert not loaded, loaded
    assert hasattr(lava_compat.import_netx(), "Network")
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_lava_leaves_the_start_method_to_the_program_and_use_fork_chooses_only_where_nothing_was_chosen() -> None:
    done = run(
        """
import multiprocessing, sys
from netx_export import lava_compat
assert "torch" not in sys.modules and "lava" not in sys.modules
lava_compat.import_lava()
assert multiprocessing.get_start_method(allow_none=True) is None
from lava.proc.lif.process import LIF
LIF(shape=(2,))
multiprocessing.set_start_method("spawn")
lava_compat.use_fork()
assert multiprocessing.get_start_method() == "spawn"
multiprocessing.set_start_method(None, force=True)
lava_compat.use_fork()
assert multiprocessing.get_start_method() == "fork"
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_reader_alone_needs_no_torch() -> None:
    done = run(
        """
import sys
from netx_export import lava_compat
netx = lava_compat.import_netx_alone()
assert netx.Network.__name__ == "Network"
assert "torch" not in sys.modules
import lava.lib.dl.slayer.neuron.rf as rf
try:
    rf.neuron_params({})
except NotImplementedError as error:
    assert "resonate-and-fire" in str(error)
else:
    raise AssertionError
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_lavas_own_dataclasses_become_hashable() -> None:
    import dataclasses

    with lava_compat._workarounds():

        @dataclasses.dataclass
        class Ours:
            x: int = 0

        @dataclasses.dataclass(order=True)
        class Ordered:
            x: int = 0

        lavas = dataclasses.dataclass(type("Lavas", (), {"__module__": lava_compat._HASHABLE_DATACLASSES}))
    assert Ours.__hash__ is None
    assert Ordered(1) < Ordered(2)
    assert hash(lavas()) == hash(lavas())


def test_missing_lava_is_said_with_the_command_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"lava-nc is not installed; get it with: pip install 'qpsnn-lava\[stack\]' && pip"):
        lava_compat.check_installed()


@pytest.mark.parametrize(
    ("blocked", "message"),
    [
        ("lava.magma", "lava-nc is not installed; get it with"),
        ("lava.lib", "lava-dl is not installed; get it with"),
        ("networkx", "Lava needs the package 'networkx', which is not installed; get it with"),
    ],
)
def test_a_missing_package_is_named(blocked: str, message: str) -> None:
    done = run(
        f"""
import sys
from netx_export import lava_compat, errors
sys.modules[{blocked!r}] = None
try:
    lava_compat.import_netx_alone()
except errors.MissingError as error:
    assert {message!r} in str(error), error
else:
    raise AssertionError("no error")
"""
    )
    assert done.returncode == 0, done.stderr
