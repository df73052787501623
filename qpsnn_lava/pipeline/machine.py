"""What a run has of the machine: threads, memory, versions."""

from __future__ import annotations

import ctypes
import os
import platform
from importlib import metadata

import torch

from qpsnn_lava import dynamics, parallel
from qpsnn_lava.config import Experiment

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def set_threads(experiment: Experiment) -> None:
    """Threads of torch and numba: as asked, else all cores."""
    threads = experiment.train.threads or max(1, (os.cpu_count() or 1) // parallel.size())
    torch.set_num_threads(threads)
    dynamics.set_threads(threads)


def keep_freed_memory() -> None:
    """Has glibc keep what tensors free for the next step: else it goes back to the kernel, and returns page by page, cleared.

    That was a fifth of a training step.  Elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        mallopt(option, 1 << 30)


def versions() -> dict[str, str]:
    """Of Python and of the packages that a figure depends on."""
    found = {"python": platform.python_version()}
    for name in ("qpsnn-lava", "numpy", "torch", "numba", "lava-nc", "lava-dl", "h5py"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
