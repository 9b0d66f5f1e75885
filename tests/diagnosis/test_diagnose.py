"""Broken trainings are named for what broke them, and a healthy one is not."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import resight
from helpers import ROOT, make_data, make_net
from resight.data.types import ImageData, Split
from resight.diagnosis import image_checks, net_checks, prediction_checks, record_checks
from resight.diagnosis.diagnose import check
from resight.diagnosis.evidence import Evidence, chance_loss
from resight.diagnosis.watch import Watch, judged_from
from resight.errors import ResightError
from resight.findings import Diagnosis, Finding
from resight.intervals import standard_error
from resight.progress import Quiet
from resight.recipe.recipe import Recipe
from resight.recipe.settings import OneCycle, Plateau
from resight.runs.lr_test import LrTest
from resight.runs.predictions import Predictions

SMALL = {
    "model.width": 8,
    "data.image_size": 8,
    "augment.crop_pad_px": 1,
    "augment.cutout_px": 0,
    "augment.flip": "none",
    "train.batch_size": 16,
    "schedule.epochs": 10,
    "schedule.peak_epoch": 2.0,
    "schedule.lr_max": 0.02,
    "schedule.lr_min": 0.002,
    "schedule.lr_end": 0.0,
}


class Words(Quiet):
    """Keeps the findings that are said while it trains."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def finding(self, finding: Finding) -> None:
        self.findings.append(finding)


def recipe(**changes: Any) -> Recipe:
    return Recipe().with_changes({**SMALL, **changes})


def images(n: int = 240, **settings: Any) -> ImageData:
    return make_data(n, n_test=120, **settings)


def trained(data: ImageData, out: Path, **changes: Any) -> tuple[resight.Run, Words]:
    words = Words()
    run = resight.train(
        recipe(**changes), data, out=out, reporter=words, precision="fp32", report=False
    )
    return run, words


def names(findings: Any) -> set[str]:
    return {finding.name for finding in findings}


def found(run: resight.Run) -> Diagnosis:
    diagnosis = run.diagnosis
    assert diagnosis is not None
    return diagnosis


def evidence(**changes: Any) -> Evidence:
    base = Evidence(
        recipe=recipe(),
        classes=("a", "b", "c"),
        class_counts=np.array([80, 80, 80]),
        metrics=[],
        find_lr="resight find-lr --recipe r.json --data d",
        watched_images=1000,
    )
    return dataclasses.replace(base, **changes)


def rows(*pairs: tuple[float, float, float]) -> list[dict[str, Any]]:
    """(train loss, train accuracy, test accuracy) by epoch of 120 steps."""
    return [
        {
            "epoch": i + 1,
            "step": 120 * (i + 1),
            "train_loss": a,
            "train_accuracy": b,
            "test_loss": 1.0,
            "test_accuracy": c,
        }
        for i, (a, b, c) in enumerate(pairs)
    ]


def predictions(logits: Any, labels: Any) -> Predictions:
    values = np.array(logits, dtype=np.float32)
    ids = np.array([f"{i}.png" for i in range(len(values))])
    classes = tuple("abcdefgh"[: values.shape[1]])
    return Predictions(values, np.array(labels, dtype=np.int64), ids, classes)


# whole trainings


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
    assert findings[0].title == "the train images are not normalised as they should be"
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
    with pytest.raises(ResightError, match="has not begun"):
        resight.diagnose(out)


# each check by itself


def test_chance_is_ln_k_for_equal_classes_and_the_entropy_for_others() -> None:
    assert chance_loss(np.array([5, 5, 5, 5]), 0.0) == pytest.approx(math.log(4))
    assert chance_loss(np.array([9, 1]), 0.0) == pytest.approx(0.325083, abs=1e-6)
    assert chance_loss(np.array([7, 7]), 0.3) == pytest.approx(math.log(2))
    assert chance_loss(np.array([3, 0]), 0.0) == 0.0


def test_a_loss_at_chance_is_not_learning_and_one_below_is() -> None:
    assert names(record_checks.not_learning(evidence(metrics=rows((1.1, 0.34, 0.33))))) == {
        "not-learning"
    }
    assert not list(record_checks.not_learning(evidence(metrics=rows((1.0, 0.45, 0.4)))))
    # it had learnt before: that is another finding
    lost = evidence(metrics=rows((0.5, 0.8, 0.8), (1.11, 0.33, 0.33)))
    assert not list(record_checks.not_learning(lost))
    assert names(record_checks.diverged(lost)) == {"diverged"}


def test_a_bump_in_the_middle_is_no_divergence() -> None:
    bump = rows((0.9, 0.6, 0.6), (0.5, 0.8, 0.8), (0.9, 0.6, 0.6), (0.4, 0.9, 0.9))
    assert not list(record_checks.diverged(evidence(metrics=bump)))


@pytest.mark.parametrize(
    ("train", "test", "severity"), [(0.9, 0.8, None), (0.9, 0.7, "note"), (0.92, 0.5, "problem")]
)
def test_a_gap_is_a_note_and_a_large_one_a_problem(
    train: float, test: float, severity: str | None
) -> None:
    findings = list(record_checks.gap(evidence(metrics=rows((0.3, train, test)))))
    assert [f.severity for f in findings] == ([severity] if severity else [])


def test_a_gap_within_the_luck_of_a_few_test_images_is_none() -> None:
    few = evidence(metrics=rows((0.3, 0.9, 0.6)), watched_images=5)
    assert not list(record_checks.gap(few))
    assert list(record_checks.gap(dataclasses.replace(few, watched_images=100)))


def test_a_gap_before_the_training_has_warmed_up_is_none() -> None:
    early = evidence(metrics=rows((0.3, 0.9, 0.1)), finished=False, judged_from=121)
    assert not list(record_checks.gap(early))
    assert list(record_checks.gap(dataclasses.replace(early, judged_from=120)))
    assert list(record_checks.gap(dataclasses.replace(early, finished=True)))


def test_too_few_steps_are_not_called_not_learning() -> None:
    short = rows((1.1, 0.34, 0.33))
    short[0]["step"] = 99
    assert not list(record_checks.not_learning(evidence(metrics=short)))


def test_the_luck_of_an_accuracy_does_not_vanish_at_1() -> None:
    assert standard_error(0.5, 96) == pytest.approx(0.05, abs=1e-3)
    assert standard_error(1.0, 160) == pytest.approx(0.0086, abs=1e-4)


def test_accuracy_that_rises_to_the_end_is_a_note_unless_train_is_ahead() -> None:
    rising = rows((1.0, 0.5, 0.5), (0.8, 0.6, 0.6), (0.6, 0.7, 0.7))
    assert names(record_checks.improving(evidence(metrics=rising))) == {"still-improving"}
    ahead = rows((1.0, 0.5, 0.5), (0.8, 0.6, 0.6), (0.6, 0.8, 0.7))
    assert not list(record_checks.improving(evidence(metrics=ahead)))
    flat = rows((1.0, 0.7, 0.7), (0.8, 0.7, 0.7), (0.6, 0.7, 0.701))
    assert not list(record_checks.improving(evidence(metrics=flat)))
    perfect = evidence(metrics=rows((0.1, 0.98, 0.988), (0.05, 0.99, 1.0)), watched_images=160)
    assert not list(record_checks.improving(perfect))


def curve() -> LrTest:
    """Falls from 1e-4 to 1e-1, then rises and diverges at 3."""
    lrs = np.geomspace(1e-6, 3, 120)
    x = np.log10(lrs)
    losses = 2.0 - 1.5 * np.clip((x + 4) / 3, 0, 1) + 3.0 * np.clip(x + 0.5, 0, None)
    return LrTest(lrs, losses, "diverged at 3", chance=2.3, method="minimum/2")


@pytest.mark.parametrize(
    ("lr", "name", "severity"),
    [
        (5.0, "lr-too-high", "problem"),
        (1.5, "lr-too-high", "note"),
        (0.05, None, None),
        (1e-5, "lr-too-low", "problem"),
    ],
)
def test_the_lr_is_judged_by_the_runs_own_test(
    lr: float, name: str | None, severity: str | None
) -> None:
    findings = list(record_checks.lr_against_curve(evidence(lr_max=lr, lr_test=curve())))
    assert [(f.name, f.severity) for f in findings] == ([(name, severity)] if name else [])
    assert all(f.command and f.command.startswith("resight find-lr") for f in findings)


def test_a_rare_class_is_a_note() -> None:
    findings = list(record_checks.imbalance(evidence(class_counts=np.array([100, 100, 20]))))
    assert names(findings) == {"class-imbalance"}
    assert "100 images of 'a' and 20 of 'c'" in findings[0].evidence
    assert not list(record_checks.imbalance(evidence(class_counts=np.array([100, 100, 21]))))


def test_a_class_that_is_never_predicted_is_a_problem_from_five_images_on() -> None:
    logits = np.eye(3)[[0, 1] * 5 + [0] * 5]
    long = rows((0.5, 0.7, 0.7))
    five = predictions(logits, [0, 1] * 5 + [2] * 5)
    findings = list(prediction_checks.never_predicted(evidence(predictions=five, metrics=long)))
    assert [(f.name, f.severity) for f in findings] == [("never-predicted", "note")]
    assert "'c' (5)" in findings[0].evidence
    many = predictions(np.tile(logits, (4, 1)), ([0, 1] * 5 + [2] * 5) * 4)  # 20 a class
    findings = list(prediction_checks.never_predicted(evidence(predictions=many, metrics=long)))
    assert [f.severity for f in findings] == ["problem"]
    four = predictions(logits[:-1], [0, 1] * 5 + [2] * 4)
    assert not list(prediction_checks.never_predicted(evidence(predictions=four, metrics=long)))


def test_a_label_that_a_sure_net_denies_is_suspicious() -> None:
    logits = 12.0 * np.eye(3)[[0, 1, 2] * 10]
    labels = np.array([0, 1, 2] * 10)
    assert not list(
        prediction_checks.suspicious_labels(evidence(predictions=predictions(logits, labels)))
    )
    labels[4] = 0  # the net is sure that it is 1
    findings = list(
        prediction_checks.suspicious_labels(evidence(predictions=predictions(logits, labels)))
    )
    assert names(findings) == {"suspicious-labels"}
    assert "1 of 30" in findings[0].evidence
    assert "4.png, is labelled 'a' and taken for 'b'" in findings[0].evidence


def test_confidence_far_above_accuracy_is_named() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    seen = np.where(rng.random(300) < 0.6, labels, (labels + 1) % 3)
    sure = predictions(10.0 * np.eye(3)[seen], labels)
    assert [f.severity for f in prediction_checks.overconfident(evidence(predictions=sure))] == [
        "problem"
    ]
    modest = predictions(1.0 * np.eye(3)[seen], labels)
    assert not list(prediction_checks.overconfident(evidence(predictions=modest)))


def test_what_follows_from_not_learning_is_not_said_again() -> None:
    constant = predictions(np.tile([3.0, 0, 0], (30, 1)), [0, 1, 2] * 10)
    found = check(evidence(metrics=rows((1.1, 0.33, 0.33)), predictions=constant))
    assert "not-learning" in names(found)
    assert "never-predicted" not in names(found)


# the net


def small_net(image_size: int = 8) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_net("custom-resnet", classes=3, image_size=image_size, width=8).eval()


def test_running_statistics_that_do_not_fit_are_named() -> None:
    net = small_net()
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    net.train()
    with torch.no_grad():
        for _ in range(100):
            net(images)
        labels = net(images).argmax(1)  # right by the batch's statistics
    net.eval()
    assert not list(net_checks.batch_norm(net, images, labels))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.layer1.norm.running_mean += 3.0
    findings = list(net_checks.batch_norm(net, images, labels))
    assert names(findings) == {"batch-norm-statistics"}
    net.layer1.norm.running_mean.copy_(before["layer1.norm.running_mean"])
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_dead_channels_are_counted_in_the_layer_where_they_are() -> None:
    net = small_net(32)
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert not list(net_checks.dead_channels(net, images))
    with torch.no_grad():
        net.layer2.norm.bias[:28] = -100.0  # of 32
    assert not list(net_checks.dead_channels(net, images))
    with torch.no_grad():
        net.layer2.norm.bias[28:30] = -100.0
    findings = list(net_checks.dead_channels(net, images))
    assert [(f.name, f.severity) for f in findings] == [("dead-channels", "note")]
    assert "94% of the channels after the ReLU in layer2.relu" in findings[0].evidence
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    with torch.no_grad():
        for layer in (net.prep, net.layer1, net.layer2, net.layer3):
            layer.norm.bias.fill_(-100.0)
        net.res2.norm1.bias.fill_(-100.0)
    assert [f.severity for f in net_checks.dead_channels(net, images)] == ["problem"]


def test_relus_that_are_functions_are_seen_too() -> None:
    net = make_net("resnet18-gn", classes=3, image_size=16, width=8).eval()
    with torch.no_grad():
        net.stem.norm.bias.fill_(-100.0)
    findings = list(net_checks.dead_channels(net, torch.randn(4, 3, 16, 16)))
    assert "100% of the channels after the ReLU in the net" in findings[0].evidence


# while it trains


def watch(**changes: Any) -> Watch:
    """Of a training that warms up for 100 steps, so judged from 200 on."""
    return Watch(evidence(judged_from=200, finished=False, **changes))


def feed(watch: Watch, first: int, loss: float, right: float, n: int) -> list[Finding]:
    batches = (torch.full((n,), value) for value in (loss, right, 10.0))
    return list(watch.steps(first, *batches))


def test_a_training_is_judged_from_100_steps_past_its_warm_up() -> None:
    assert judged_from(OneCycle(epochs=10, peak_epoch=4), 50) == 300
    assert judged_from(OneCycle(epochs=10, peak_epoch=1), 50) == 200  # fresh weights warm up too
    assert judged_from(Plateau(shape="plateau"), 50) == 200
    seen = watch()
    assert feed(seen, 0, 1.1, 3.3, 199) == []
    assert names(feed(seen, 0, 1.1, 3.3, 200)) == {"not-learning"}


def test_the_watch_says_each_thing_once() -> None:
    seen = watch()
    assert len(feed(seen, 0, 1.1, 3.3, 250)) == 1
    assert feed(seen, 250, 1.1, 3.3, 50) == []


def test_the_watch_takes_a_step_that_it_is_shown_twice_once() -> None:
    seen = watch()
    feed(seen, 0, 0.2, 9.0, 150)
    assert feed(seen, 0, 1.1, 3.3, 150) == []  # seen already
    assert feed(seen, 150, 1.1, 3.3, 95) == []  # five good steps are among the last 100
    assert names(feed(seen, 245, 1.1, 3.3, 5)) == {"not-learning"}


def test_a_small_last_batch_counts_as_its_images_do() -> None:
    seen = watch()
    losses = torch.tensor([1.0, 1.3] * 150, dtype=torch.float64)
    right, images = torch.tensor([700.0, 0.0] * 150), torch.tensor([1400.0, 38.0] * 150)
    assert list(seen.steps(0, losses, right, images)) == []  # 49 % right, loss 1.008


def test_a_loss_far_above_chance_has_diverged() -> None:
    assert names(feed(watch(), 0, 5.0, 3.3, 200)) == {"diverged"}


def test_rare_classes_make_no_divergence_of_a_loss_that_falls() -> None:
    seen = watch(class_counts=np.array([990, 5, 5]))  # knowing the frequencies alone has 0.063
    losses = torch.linspace(1.2, 0.07, 300)
    assert list(seen.steps(0, losses, torch.full((300,), 9.7), torch.full((300,), 10.0))) == []


def test_a_net_that_learns_is_left_alone() -> None:
    assert feed(watch(), 0, 0.9, 6.0, 300) == []


def test_an_epochs_gross_gap_is_said_while_it_trains() -> None:
    seen = watch()
    feed(seen, 0, 0.2, 9.0, 250)
    late = rows((0.2, 0.95, 0.4), (0.2, 0.95, 0.4))
    assert names(seen.epoch(late)) == {"train-test-gap"}
    assert not list(seen.epoch(late))


def test_every_finding_is_in_the_table_of_the_docs() -> None:
    package = Path(resight.__file__).parent
    sources = "".join(path.read_text() for path in (package / "diagnosis").glob("*.py"))
    coded = set(re.findall(r'Finding\(\s*"([a-z-]+)"', sources))
    coded |= set(re.findall(r'"(lr-too-[a-z]+)"', sources))
    table = (ROOT / "docs" / "diagnosis.md").read_text()
    told = {n for row in re.findall(r"^\| ([a-z, -]+) \|", table, re.M) for n in row.split(", ")}
    assert coded == told - {"finding"}
    assert len(coded) == 15
