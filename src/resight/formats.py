"""The format of a run's files: one number for all that a run holds, said by each file itself.

0: without a manifest. 1: with one. 2: each file says its format. A file that does not is of 0 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resight.errors import ResightError

FORMAT = 2  # what this version writes; it reads every one up to it
KEY = "format"


class NewerFormat(ResightError):
    """Written by a Resight that this one does not know."""


def with_format(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a file holds, and its format."""
    return {KEY: FORMAT, **values}


def without_format(values: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """What a file at `where` holds besides its format. Raises `ResightError` for a newer one."""
    if KEY in values:
        check_format(values[KEY], where)
    return {key: value for key, value in values.items() if key != KEY}


def check_format(found: object, where: str | Path) -> None:
    """Raise `ResightError` for a format that this version does not read."""
    if type(found) is not int or found < 0:
        raise ResightError(f"{where}: its format is no whole number ≥ 0: restore it")
    if found > FORMAT:
        raise NewerFormat(
            f"{where}: written by a newer Resight (format {found}, this one reads up to {FORMAT}): "
            "update Resight"
        )
