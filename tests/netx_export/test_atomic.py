"""Files that are either whole or not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from netx_export.atomic import replacing, write_bytes, write_text
from netx_export.errors import QpsnnError, RunError


def test_written_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Größe\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "Größe\r\n".encode()
    write_bytes(str(tmp_path / "a.txt"), b"\0\xff")
    assert (tmp_path / "a.txt").read_bytes() == b"\0\xff"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_nothing_is_there_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename within one file system
        temporary.write_text("whole")
    assert path.read_text() == "whole"


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_of_the_disk_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def fail() -> None:
        with replacing(path):
            raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"^cannot write .*a\.txt: No space left on device; nothing was changed\.$") as caught:
        fail()
    assert isinstance(caught.value, QpsnnError)
    assert caught.value.__suppress_context__ and os.listdir(tmp_path) == []


def test_a_temporary_file_that_is_gone(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.unlink()

    with pytest.raises(RunError, match=r"cannot write .*a\.txt: No such file or directory; nothing was changed"):
        fail()


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(RunError, match=r"cannot write .*a\.txt: Is a directory; nothing was changed"):
        write_text(tmp_path / "a.txt", "x")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_pipe_in_its_place_stays_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(RunError, match=r"cannot write .*a\.txt: it is not a regular file.*name another file"):
        write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").is_fifo() and os.listdir(tmp_path) == ["a.txt"]


def test_a_file_in_its_folder_s_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    for path in (tmp_path / "a" / "b.txt", tmp_path / "a" / "b" / "c.txt"):
        with pytest.raises(RunError, match=r"cannot write .*: Not a directory; choose another folder or make room"):
            write_text(path, "x")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_mode_follows_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        assert os.umask(before) == umask  # as it was
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode
