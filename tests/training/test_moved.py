"""A run's folder that is moved, or replaced by another, while it trains."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import resight
from resight.errors import ResightError
from resight.progress import Quiet, StepInfo
from resight.runs.run import load_run
from trainings import images_for, tiny


class At(Quiet):
    """Does something at a step."""

    def __init__(self, step: int, do: Callable[[], object]) -> None:
        self._step, self._do = step, do

    def step(self, info: StepInfo) -> None:
        if (info.epoch - 1) * info.total + info.done == self._step:
            self._do()


@pytest.mark.parametrize("replaced", [True, False])
def test_a_folder_that_is_no_longer_the_runs_is_not_written_to(
    tmp_path: Path, *, replaced: bool
) -> None:
    recipe = tiny("custom-resnet")
    data = images_for(recipe)
    options = {"precision": "fp32", "report": False}
    out, moved, other = (tmp_path / name for name in ("run", "moved", "other"))
    resight.train(recipe, data, out=other, reporter=Quiet(), **options)  # type: ignore[arg-type]
    before = {path.name: path.read_bytes() for path in other.iterdir()}

    def swap() -> None:
        out.rename(moved)
        if replaced:
            shutil.copytree(other, out)

    with pytest.raises(
        ResightError, match="the run's folder was moved, replaced or deleted"
    ) as caught:
        resight.train(recipe, data, out=out, reporter=At(4, swap), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    if replaced:
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    else:
        assert not out.exists()
    resumed = resight.train(resume=moved, data=data, reporter=Quiet(), report=False)
    assert load_run(moved).finished
    assert resumed.result["test_loss"] == load_run(other).result["test_loss"]
