"""Where Resight keeps its own files: what a variable of the environment says, or the platform."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from resight.errors import ResightError


def own_folder(variable: str, platforms: Callable[..., str]) -> Path:
    """The folder that `variable` names, or what `platforms`, a function of platformdirs, gives.
    Raises `ResightError` for a user without a home folder."""
    try:
        given = os.environ.get(variable)
        return Path(given or platforms("resight", appauthor=False)).expanduser()
    except RuntimeError:
        raise ResightError(
            f"no home folder is known: set HOME, or {variable} to a folder that you may write to"
        ) from None
