"""Model states on disk: safetensors and JSON, never pickle; whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from netx_export.atomic import write_bytes, write_text
from netx_export.errors import FormatError

MAX_BYTES = 4 << 30


def save_model(model: torch.nn.Module, path: Path) -> None:
    """Writes all parameters and buffers of ``model``."""
    write_bytes(path, save_tensors({k: v.detach().contiguous() for k, v in model.state_dict().items()}))


def load_model(model: torch.nn.Module, path: Path) -> None:
    """Fills ``model`` from a file of :func:`save_model`.

    Raises:
        FormatError: for a file that is damaged, too large, or of another model.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FormatError(f"{path} has {path.stat().st_size} bytes; a checkpoint has at most {MAX_BYTES}.")
        state = load_tensors(path.read_bytes())
    except FileNotFoundError:
        raise FormatError(f"{path}: there is no such checkpoint; train first.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{path} is not a whole checkpoint ({error}); remove it and train again.") from None
    wanted = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    if wanted != found:
        odd = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise FormatError(
            f"{path} is a checkpoint of another model: {odd} has {found.get(odd)} there, {wanted.get(odd)} here."
        )
    model.load_state_dict(state)


def save_json(path: Path, value: Any) -> None:
    """Writes ``value`` as readable JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def load_json(path: Path) -> Any:
    """Reads a JSON file that we wrote.

    Raises:
        FormatError: for a file that is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FormatError(f"{path}: there is no such file.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON ({error}); remove it and run again.") from None
