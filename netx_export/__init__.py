"""The integer network, its netx file, its exact meaning, and Lava runs.

The public names below are loaded on first use, so that importing a part of the package costs only that part.  The reference
simulation is ``netx_export.simulate.simulate``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netx_export.engine import simulate_fast, summarise
    from netx_export.hdf5 import read, write
    from netx_export.lava_run import lava_network, run_lava
    from netx_export.network import (
        Conv,
        Delta,
        Dense,
        Drive,
        Integrator,
        Lif,
        Network,
        Population,
        Projection,
        Rate,
        Sigma,
        SigmaDelta,
        Voltage,
    )

_HOME = {
    "engine": ("simulate_fast", "summarise"),
    "hdf5": ("read", "write"),
    "lava_run": ("lava_network", "run_lava"),
    "network": (
        "Conv",
        "Delta",
        "Dense",
        "Drive",
        "Integrator",
        "Lif",
        "Network",
        "Population",
        "Projection",
        "Rate",
        "Sigma",
        "SigmaDelta",
        "Voltage",
    ),
}

__all__ = [
    "Conv",
    "Delta",
    "Dense",
    "Drive",
    "Integrator",
    "Lif",
    "Network",
    "Population",
    "Projection",
    "Rate",
    "Sigma",
    "SigmaDelta",
    "Voltage",
    "lava_network",
    "read",
    "run_lava",
    "simulate_fast",
    "summarise",
    "write",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"netx_export.{module}"), name)
    raise AttributeError(f"module 'netx_export' has no attribute {name!r}")
