"""The error family of all three packages.

Every error is one sentence that names the object, the value, the limit and a way out.  ``exit_code`` is what the command
line returns for it (design: 1 usage or internal, 2 does not fit the chip, 3 a verification mismatch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class QpsnnError(Exception):
    """Base of every error that this project raises on purpose."""

    exit_code = 1


class NetworkError(QpsnnError, ValueError):
    """A network that cannot exist: shapes that do not chain, values outside their integer range."""


class FormatError(QpsnnError, ValueError):
    """A file (netx, TOML, checkpoint, data set) that cannot be read as what it claims to be."""


class FreezeError(QpsnnError, ValueError):
    """A trained model that has no exact integer form, or no place on the chip (contract point 5)."""


class ConfigError(QpsnnError, ValueError):
    """A request that contradicts itself or names something unknown."""


class MissingError(QpsnnError, RuntimeError):
    """Something optional is not installed or not on this machine; the message says how to get it."""


class RunError(QpsnnError, RuntimeError):
    """A child process (Lava) failed or ran out of time."""


class CapacityError(QpsnnError):
    """The network does not fit the chip.

    Args:
        message: one sentence: what, need, limit, way out.
        partial: what is known all the same, as plain data for JSON (the keys of :class:`mapping.utilisation.Utilisation`).
        layer: that has no place on any core, where it is one.
        excess: (resource, need, limit) of each resource of which one neuron of that layer needs more than a core has; the need is
            None where it is not one number.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        partial: Mapping[str, Any] | None = None,
        *,
        layer: str | None = None,
        excess: Sequence[tuple[str, int | None, int]] = (),
    ) -> None:
        super().__init__(message)
        self.partial = partial
        self.layer = layer
        self.excess = tuple(excess)


class MismatchError(QpsnnError):
    """Two computations that must agree bit for bit do not."""

    exit_code = 3
