"""Everything that reads a finished run, to be tried on damaged ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import resight
from resight.data.types import ImageData
from resight.errors import ResightError
from resight.look.open_run import open_run
from resight.runs.run import load_run
from trainings import resume


def uses(path: Path, whole: Path, data: ImageData) -> Iterator[Callable[[], Any]]:
    """Everything that reads a finished run."""
    yield lambda: load_run(path).recipe
    yield lambda: load_run(path).diagnosis
    yield lambda: load_run(path).metrics
    yield lambda: load_run(path).lr_test
    yield lambda: open_run(path, data).temperature
    yield lambda: load_run(path).predictions
    yield lambda: load_run(path).model()
    yield lambda: resight.export(path, "safetensors")
    yield lambda: resight.evaluate(path, data)
    yield lambda: resight.diagnose(path, data)
    yield lambda: resight.compare([path, whole])
    yield lambda: resume(path, data)
    yield lambda: load_run(path).repeat_command()


def refusals(path: Path, whole: Path, data: ImageData) -> list[str]:
    """The errors of all uses, one of them beside the run `whole`. Any other exception fails the
    test."""
    said = []
    for use in uses(path, whole, data):
        try:
            use()
        except ResightError as error:
            said.append(str(error))
    return said
