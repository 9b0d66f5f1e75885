"""Locks on files."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from resight.errors import ResightError
from resight.files import exclusive


def test_an_error_inside_the_lock_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mine") as caught, exclusive(tmp_path / ".lock"):
        raise OSError(errno.EIO, "mine")
    assert not isinstance(caught.value, ResightError)
