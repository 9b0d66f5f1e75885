"""Locks on files."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from resight.errors import ResightError
from resight.files import exclusive, write_atomically


def test_an_error_inside_the_lock_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mine") as caught, exclusive(tmp_path / ".lock"):
        raise OSError(errno.EIO, "mine")
    assert not isinstance(caught.value, ResightError)


def test_one_process_holds_a_lock_even_where_another_had_opened_its_file(tmp_path: Path) -> None:
    """A file that was removed on release would be locked by the one, a new one by the other."""
    fcntl = pytest.importorskip("fcntl", reason="needs file locks of POSIX")
    with exclusive(tmp_path / ".lock"):
        opened = os.open(tmp_path / ".lock", os.O_RDWR)  # by a process that is about to lock it
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(ResightError, match="by another process"), exclusive(tmp_path / ".lock"):
            pass
    finally:
        os.close(opened)
    with exclusive(tmp_path / ".lock"):  # once it is free again
        pass


def test_a_lock_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ResightError, match="can't write") as caught,
        exclusive(tmp_path / "file" / ".lock"),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_lock_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ResightError, match="can't write"), exclusive(tmp_path / "no" / ".lock"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "there" / "rows.csv")
    write_atomically(link, b"1")
    assert link.is_symlink()
    assert (tmp_path / "there" / "rows.csv").read_bytes() == b"1"


def test_a_pipe_a_device_or_a_folder_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, what in {"pipe": "a pipe or a device", "folder": "a folder"}.items():
        with pytest.raises(ResightError, match=f"{name}: it is {what}; move it away or choose"):
            write_atomically(tmp_path / name, b"1")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd here")
def test_an_open_pipe_is_named_as_it_was_given() -> None:
    ends = os.pipe()  # whose real path is no file's
    try:
        path = Path(f"/dev/fd/{ends[1]}")
        with pytest.raises(ResightError, match=f"write {path}: it is a pipe or a device; move"):
            write_atomically(path, b"1")
    finally:
        for end in ends:
            os.close(end)
