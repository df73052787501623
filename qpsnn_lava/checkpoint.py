"""Model states on disk: safetensors and JSON, never pickle; whole or not there."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from netx_export.atomic import replacing, write_bytes, write_text
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


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A training under way.

    Args:
        tensors: parameters, buffers, the optimiser's moments.
        facts: everything else, as JSON.
    """

    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]


def previous(path: Path) -> Path:
    """Where :func:`save_snapshot` puts the snapshot before the last."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Writes a snapshot whole, and keeps the one before as :func:`previous`.

    The file is safetensors; its header holds the facts as JSON and a CRC-32 of facts and tensors.
    """
    facts = json.dumps(snapshot.facts, allow_nan=False)
    tensors = {k: v.detach().cpu().contiguous() for k, v in snapshot.tensors.items()}
    content = save_tensors(tensors, {"facts": facts, "crc32": f"{_crc(facts, tensors):08x}"})
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        if path.exists():
            os.replace(path, previous(path))


def load_snapshot(path: Path, notice: Callable[[str], None]) -> Snapshot | None:
    """The last snapshot, or the one before where the last is damaged (``notice`` is told); None where there is none.

    Raises:
        FormatError: where there are snapshots, but none is whole.
    """
    damaged: list[str] = []
    for file in (path, previous(path)):
        if not file.exists():
            continue
        try:
            found = _read_snapshot(file)
        except FormatError as error:
            damaged.append(str(error))
            continue
        for message in damaged:
            notice(f"{message} Going on from the one before, {file.name}.")
        return found
    if damaged:
        raise FormatError(f"{' '.join(damaged)} Remove what is damaged to train from the start.")
    return None


def remove_snapshots(path: Path) -> None:
    """Removes a snapshot and the one before."""
    for file in (path, previous(path)):
        file.unlink(missing_ok=True)


def _read_snapshot(path: Path) -> Snapshot:
    if path.stat().st_size > MAX_BYTES:
        raise FormatError(f"{path} has {path.stat().st_size} bytes; a checkpoint has at most {MAX_BYTES}.")
    try:
        content = path.read_bytes()
        tensors = load_tensors(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        facts = json.loads(header["facts"])
        whole = int(header["crc32"], 16) == _crc(header["facts"], tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"{path} is not a whole snapshot of a training ({error}).") from None
    if not whole:
        raise FormatError(f"{path} is not a whole snapshot of a training (its checksum differs).")
    return Snapshot(tensors, facts)


def _crc(facts: str, tensors: Mapping[str, torch.Tensor]) -> int:
    crc = zlib.crc32(facts.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].numpy().tobytes(), zlib.crc32(name.encode(), crc))
    return crc


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
