"""Early stopping: by the validation split, never by test, and the same after an interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import resight
from helpers import folder, make_data
from resight.comparison.compare import compare
from resight.data.auto import recipe_for
from resight.errors import ResightError
from resight.recipe.catalog import find_recipe
from resight.recipe.recipe import Recipe
from resight.records import best_epoch
from resight.reporting.facts import base_facts
from resight.runs.run import load_run
from trainings import Listener, StopAt, assert_same_run, fit, images_for, interrupt, resume, tiny

EPOCHS, PATIENCE = 9, 2


def stopping(**changes: object) -> Recipe:
    """A training that early stopping ends."""
    return (
        tiny("digits").with_epochs(EPOCHS).with_changes({"train.early_stop": PATIENCE, **changes})
    )


def test_it_ends_the_training_with_the_best_epochs_weights(tmp_path: Path) -> None:
    recipe, heard = stopping(), Listener()
    run = fit(recipe, images_for(recipe, val=12), tmp_path / "run", reporter=heard)
    best = best_epoch(run.metrics, "val_accuracy")
    assert best is not None
    last = best["epoch"] + PATIENCE
    assert [row["epoch"] for row in run.metrics] == list(range(1, last + 1))
    assert last < EPOCHS
    assert run.result["epochs_trained"] == last
    assert run.result["weights"] == "best validation epoch"
    said = (
        f"stopped after epoch {last} of {EPOCHS}, at LR {run.metrics[-1]['lr']:.3g}: no better "
        f"validation accuracy since epoch {best['epoch']}"
    )
    assert said in heard.lines
    facts = base_facts(run)
    assert said in facts["notes"]
    assert facts["headline"]["epochs"] == last
    fit(recipe.with_changes({"train.early_stop": 0}), images_for(recipe, val=12), tmp_path / "all")
    assert len(load_run(tmp_path / "all").metrics) == EPOCHS
    assert f"{last} of {EPOCHS}" in str(compare([tmp_path / "run", tmp_path / "all"]))


def test_the_result_is_that_of_the_best_epoch(tmp_path: Path) -> None:
    recipe = stopping(**{"schedule.shape": "constant", "schedule.lr_max": 0.02})
    data = images_for(recipe, val=12)
    run = fit(recipe, data, tmp_path / "run")
    best = best_epoch(run.metrics, "val_accuracy")
    assert best is not None
    until = fit(recipe.with_changes({"schedule.epochs": best["epoch"]}), data, tmp_path / "short")
    assert np.array_equal(run.predictions.logits, until.predictions.logits)


@pytest.mark.parametrize("before_the_end", range(4))
def test_a_stop_around_it_loses_nothing(before_the_end: int, tmp_path: Path) -> None:
    recipe = stopping()
    data = images_for(recipe, val=12)
    whole = fit(recipe, data, tmp_path / "whole")
    steps = whole.metrics[-1]["step"]
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(steps - before_the_end, interrupt))
    resumed = resume(tmp_path / "cut", data)
    assert_same_run(whole.path, resumed.path)
    assert resumed.result["test_accuracy"] == whole.result["test_accuracy"]


def test_a_run_that_stopped_is_finished(tmp_path: Path) -> None:
    recipe = stopping()
    data, heard = images_for(recipe, val=12), Listener()
    run = fit(recipe, data, tmp_path / "run")
    assert run.finished
    resume(run.path, data, reporter=heard)
    assert "already finished" in heard.lines[0]


def test_it_is_announced_and_a_resume_after_it_says_that_nothing_is_left(tmp_path: Path) -> None:
    recipe = stopping()
    data, heard = images_for(recipe, val=12), Listener()
    run = fit(recipe, data, tmp_path / "run", reporter=heard)
    assert (
        f"early stopping: after {PATIENCE} epochs without a better accuracy on 12 validation "
        "images (one is 8.3%)"
    ) in heard.lines
    (run.path / "result.json").unlink()  # killed before it was written
    again = Listener()
    resume(run.path, data, reporter=again)
    assert again.lines[2] == "no epoch is left to train"
    with pytest.raises(resight.Interrupted):
        fit(recipe, data, tmp_path / "cut", reporter=StopAt(3, interrupt))
    left = Listener()
    resume(tmp_path / "cut", data, reporter=left)
    assert left.lines[2].startswith("at most ")


def test_a_validation_split_is_held_out_for_it(tmp_path: Path) -> None:
    given = {"early_stop": 3}
    data, own = make_data(), make_data(val=9)
    for name in ("custom-resnet", "fast", "auto"):
        recipe = recipe_for(name, data, given).recipe
        assert recipe.data.val_fraction == 0.1
        assert recipe.train.early_stop == 3
        assert recipe.evaluate.when == "each-epoch"  # of fast and auto only the end
        assert recipe_for(name, own, given).recipe.data.val_fraction == 0
        assert recipe_for(name, data, given | {"val": 0.3}).recipe.data.val_fraction == 0.3
    assert recipe_for("fast", data, {}).recipe.data.val_fraction == 0
    assert "chosen for 63 training images" in recipe_for("auto", data, given).why[1]
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nearly_stop = 3\n")
    assert recipe_for(file, data, {}).recipe.data.val_fraction == 0.1
    photos = folder(tmp_path / "photos")
    assert recipe_for(None, photos, given).recipe.data.val_fraction == 0.1
    (photos / "test").rename(photos / "val")  # which is then the test split
    assert recipe_for(None, photos, given).recipe.data.val_fraction == 0.1
    folder(photos)
    assert recipe_for(None, photos, given).recipe.data.val_fraction == 0


def test_without_anything_to_watch_it_is_refused(tmp_path: Path) -> None:
    recipe = stopping()
    with pytest.raises(ResightError, match="needs a validation split: hold one out with --val"):
        fit(recipe, images_for(recipe), tmp_path / "run", val=0.0)
    with pytest.raises(ResightError, match=r"early_stop = 3 watches the validation accuracy"):
        find_recipe("fast").with_changes({"train.early_stop": 3})
    assert not (tmp_path / "run").exists()
