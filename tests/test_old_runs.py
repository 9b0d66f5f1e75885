"""Run folders of each older format load, resume and report as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import resight
from arithmetic import arithmetic_digest
from resight.formats import FORMAT
from resight.progress import Quiet
from resight.recipe.settings import OneCycle
from resight.runs.run import load_run
from resight.runs.weights import Weights

OLD_RUNS = Path(__file__).parent / "old_runs"
ARITHMETIC = "bbc93c6bd98fa7769f37ef8cab67b4ddc3d2115d440127c807ccaf9cd9ab1026"
TIMES = {"train_seconds", "evaluate_seconds", "images_per_second"}


@pytest.fixture(params=range(FORMAT), ids=lambda number: f"format-{number}")
def kept(request: pytest.FixtureRequest) -> Path:
    """The runs of one of the older formats."""
    return OLD_RUNS / f"format-{request.param}"


@pytest.fixture
def finished(kept: Path, tmp_path: Path) -> resight.Run:
    return load_run(shutil.copytree(kept / "finished", tmp_path / "finished"))


@pytest.fixture
def resumed(kept: Path, tmp_path: Path) -> resight.Run:
    shutil.copytree(kept / "stopped", tmp_path / "stopped")
    return resight.train(resume=tmp_path / "stopped", reporter=Quiet(), report=False)


def rows(run: resight.Run) -> list[dict[str, float]]:
    return [{key: row[key] for key in row if key not in TIMES} for row in run.metrics]


def test_an_old_run_is_read(finished: resight.Run) -> None:
    assert finished.finished
    assert finished.recipe.model.width == 2
    assert isinstance(finished.schedule, OneCycle)
    assert finished.schedule.lr_max == pytest.approx(0.5240565670773426)
    assert finished.predictions.accuracy == finished.result["test_accuracy"]
    assert [row["epoch"] for row in finished.metrics] == [1, 2, 3]
    assert finished.lr_test is not None
    assert finished.lr_test.suggest() == pytest.approx(finished.schedule.lr_max)
    assert finished.diagnosis is not None
    assert finished.repeat_command() is not None


def test_an_old_run_is_measured_again_alike(finished: resight.Run) -> None:
    before = finished.predictions
    again = resight.evaluate(finished)
    np.testing.assert_array_equal(again.ids, before.ids)
    np.testing.assert_allclose(again.logits, before.logits, atol=1e-4)


def test_an_old_run_is_diagnosed_reported_and_compared(finished: resight.Run) -> None:
    recorded = json.loads((finished.path / "diagnosis.json").read_text())["findings"]
    found = {finding.name for finding in resight.diagnose(finished).findings}
    newer = {"barely-above-guessing", "never-predicted", "loss-above-chance", "lr-too-high"}
    assert found - newer == {finding["name"] for finding in recorded} - newer - {
        "overconfident",
        "suspicious-labels",
    }
    page = resight.report(finished, reporter=Quiet())
    assert str(finished.result["test_accuracy"]) in page.read_text()
    other = shutil.copytree(finished.path, finished.path.parent / "other")
    assert "2 runs" in str(resight.compare([finished, other]))


def test_an_old_run_is_resumed_where_it_stopped(resumed: resight.Run, kept: Path) -> None:
    stopped = load_run(kept / "stopped")
    assert resumed.finished
    assert resumed.result["resumed_from_step"] == 11 + 11
    assert rows(resumed)[:1] == rows(stopped)
    assert resumed.resolved["found"] == stopped.resolved["found"]


def test_an_old_run_resumed_ends_in_the_same_bits(resumed: resight.Run, kept: Path) -> None:
    if arithmetic_digest() != ARITHMETIC:
        pytest.skip("this processor or torch rounds differently from the one that made the run")
    whole = load_run(kept / "finished")
    weights, before = (Weights.read(run.path / "model.safetensors") for run in (resumed, whole))
    assert weights.about == before.about
    assert weights.tensors.keys() == before.tensors.keys()
    assert all((weights.tensors[key] == before.tensors[key]).all() for key in before.tensors)
    for name in ("lr_test.json", "recipe.json"):  # which a resume does not write again
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    assert rows(resumed) == rows(whole)
    np.testing.assert_array_equal(resumed.predictions.logits, whole.predictions.logits)
