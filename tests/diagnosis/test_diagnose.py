"""Broken trainings are named for what broke them, and a healthy one is not."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resight
from diagnosing import evidence, names, predictions, recipe, rows
from helpers import ROOT, make_data
from resight.data.types import ImageData, Split
from resight.diagnosis import image_checks
from resight.diagnosis.diagnose import check
from resight.errors import ResightError
from resight.findings import Diagnosis, Finding
from resight.progress import Quiet
from resight.recipe.recipe import Recipe


class Words(Quiet):
    """Keeps the findings that are said while it trains."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def finding(self, finding: Finding) -> None:
        self.findings.append(finding)


def images(n: int = 240, **settings: Any) -> ImageData:
    return make_data(n, n_test=120, **settings)


def trained(data: ImageData, out: Path, **changes: Any) -> tuple[resight.Run, Words]:
    words = Words()
    run = resight.train(
        recipe(**changes), data, out=out, reporter=words, precision="fp32", report=False
    )
    return run, words


def found(run: resight.Run) -> Diagnosis:
    diagnosis = run.diagnosis
    assert diagnosis is not None
    return diagnosis


def test_a_healthy_run_has_no_problem_and_nothing_is_said_while_it_trains(out: Path) -> None:
    run, words = trained(images(), out)
    assert run.result["test_accuracy"] > 0.95
    assert found(run).problems == ()
    assert words.findings == []


def test_group_norm_with_adam_at_lr_1_is_named_while_it_trains(out: Path) -> None:
    run, words = trained(
        images(size=16),
        out,
        **{
            "model.net": "resnet18-gn",
            "data.image_size": 16,
            "schedule.epochs": 15,
            "schedule.lr_max": 1.0,
            "schedule.lr_min": 0.04,
        },
    )
    assert names(words.findings) == {"not-learning"}
    assert len(words.findings) == 1
    said = words.findings[0]
    assert "over the last 100 steps the loss is 1.1" in said.evidence
    assert "ln 3 = 1.099" in said.evidence
    assert "LR max 1" in said.evidence
    assert said.command is None  # images in memory are nowhere for a command to find
    assert "not-learning" in names(found(run).problems)
    assert not names(found(run).problems) & {"never-predicted", "train-test-gap", "diverged"}


def test_a_split_of_another_kind_is_named_before_the_first_step(out: Path) -> None:
    data = images()
    inverted = dataclasses.replace(data.test, images=255 - data.test.images)
    run, words = trained(dataclasses.replace(data, test=inverted), out)
    assert words.findings[0].name == "split-statistics"
    assert "test" in words.findings[0].title
    assert "split-statistics" in names(found(run).problems)


def test_statistics_that_are_not_the_train_splits_are_named(out: Path) -> None:
    data = images()
    wrong = dataclasses.replace(data, mean=data.mean * 0.67)  # a sum that saturated
    findings = list(image_checks.split_statistics(wrong))
    assert findings[0].title == "the train images are not normalised correctly"
    assert not list(image_checks.split_statistics(data))


def test_test_labels_that_are_not_the_images_own_make_a_gap(out: Path) -> None:
    data = images()
    shuffled = dataclasses.replace(data.test, labels=(data.test.labels + 1) % 3)
    run, _ = trained(dataclasses.replace(data, test=shuffled), out)
    assert "train-test-gap" in names(found(run).problems)
    assert "not-learning" not in names(found(run).problems)


def test_a_training_that_blew_up_is_named_afterwards(out: Path) -> None:
    data = images()
    with pytest.raises(ResightError, match="loss became"):
        trained(
            data,
            out,
            **{"optimizer.name": "sgd", "schedule.lr_max": 1e18, "schedule.lr_min": 1e17},
        )
    diagnosis = resight.diagnose(out, data)
    assert names(diagnosis.problems) == {"diverged"}
    assert "loss became" in diagnosis.problems[0].evidence
    kept = resight.load_run(out).diagnosis
    assert kept is not None
    assert names(kept.problems) == {"diverged"}


def test_test_images_that_are_in_train_are_named(out: Path) -> None:
    data = images()
    test = data.test
    leaked = Split(
        np.concatenate([data.train.images[:6], test.images[6:]]),
        np.concatenate([data.train.labels[:6], test.labels[6:]]),
        test.ids,
    )
    run, _ = trained(dataclasses.replace(data, test=leaked), out)
    assert names(found(run).problems) == {"leakage"}
    assert "6 of 120 test images" in found(run).problems[0].evidence


def test_validation_images_that_are_also_in_train_are_named(out: Path) -> None:
    data = images()
    rows = np.arange(30)
    val = Split(data.train.images[rows], data.train.labels[rows], data.train.ids[rows])
    run, _ = trained(dataclasses.replace(data, val=val), out)
    [leak] = [finding for finding in found(run).problems if finding.name == "leakage"]
    assert leak.title == "val images also appear in train"
    assert "30 of 30 val images" in leak.evidence


def test_validation_images_that_are_nearly_in_train_are_named(out: Path) -> None:
    data = images()
    rows = np.arange(30)
    brighter = data.train.images[rows] + np.uint8(6)
    val = Split(brighter, data.train.labels[rows], data.train.ids[rows])
    run, _ = trained(dataclasses.replace(data, val=val), out)
    [near] = [finding for finding in found(run).findings if finding.name == "near-duplicates"]
    assert near.title == "val images have near duplicates in train"
    assert "30 of 30 val images" in near.evidence
    assert near.advice.startswith("`resight data` lists them")


def test_a_diagnosis_without_the_images_says_what_it_did_not_look_at(out: Path) -> None:
    trained(images(), out)
    diagnosis = resight.diagnose(out)  # images in memory are nowhere to be found again
    assert diagnosis.problems == ()
    assert any("the images" in reason for reason in diagnosis.skipped)


def test_a_diagnosis_is_kept_in_the_run_and_read_back(out: Path) -> None:
    run, _ = trained(images(), out)
    kept = json.loads((out / "diagnosis.json").read_text())
    assert Diagnosis.from_dict(kept) == run.diagnosis


def test_a_run_that_has_not_begun_can_not_be_diagnosed(out: Path) -> None:
    out.mkdir()
    (out / "recipe.json").write_text(json.dumps(Recipe().to_dict()))
    with pytest.raises(ResightError, match=r"has no resolved\.json, so it is not a run"):
        resight.diagnose(out)


def test_what_follows_from_not_learning_is_not_said_again() -> None:
    constant = predictions(np.tile([3.0, 0, 0], (30, 1)), [0, 1, 2] * 10)
    found = check(evidence(metrics=rows((1.1, 0.33, 0.33)), predictions=constant))
    assert "not-learning" in names(found)
    assert "never-predicted" not in names(found)


def test_every_finding_is_in_the_table_of_the_docs() -> None:
    package = Path(resight.__file__).parent
    sources = "".join(path.read_text() for path in (package / "diagnosis").glob("*.py"))
    coded = set(re.findall(r'Finding\(\s*name="([a-z-]+)"', sources))
    coded |= set(re.findall(r'"(lr-too-[a-z]+)"', sources))
    table = (ROOT / "docs" / "diagnosis.md").read_text()
    told = {n for row in re.findall(r"^\| ([a-z, -]+) \|", table, re.M) for n in row.split(", ")}
    assert coded == told - {"finding"}
    assert len(coded) == 19
