"""What is said while something runs."""

from __future__ import annotations

import os

from resight.progress import Lines


def test_lines_fall_silent_when_nobody_listens() -> None:
    read, write = os.pipe()
    os.close(read)
    lines = Lines(os.fdopen(write, "w", buffering=1))
    lines.say("a")
    lines.say("b")
