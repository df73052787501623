"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from netx_export.errors import RunError


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; renames it to ``path`` when the block ends well, removes it when not.

    Raises:
        RunError: when the folder or the disk does not take the file; the file that was there before stays as it was.
    """
    final = Path(path)
    if os.path.exists(final) and not (final.is_file() or final.is_dir()):  # a device or a pipe would be gone
        raise RunError(f"cannot write {final}: it is not a regular file, and would be replaced by one; name another file.")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.", suffix=".tmp", dir=final.parent)
        os.close(handle)
    except OSError as error:
        reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror or error  # a parent is a file
        raise RunError(f"cannot write {final}: {reason}; choose another folder or make room.") from None
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, final)
    except OSError as error:
        raise RunError(f"cannot write {final}: {error.strerror or error}; nothing was changed.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path: Path | str, text: str) -> None:
    """Writes ``text`` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path | str, data: bytes) -> None:
    """Writes ``data``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
