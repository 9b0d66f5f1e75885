"""`diagnose`: a run, finished or not, checked for failures that raise no error."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from resight.data.duplicates import find_duplicates
from resight.data.types import ImageData
from resight.diagnosis import image_checks, net_checks, prediction_checks, record_checks
from resight.diagnosis.evidence import Evidence, trains_on_plain_images
from resight.diagnosis.watch import judged_from
from resight.engine.runtime import kept_threads
from resight.errors import ResightError, ResightWarning
from resight.findings import Diagnosis, Finding
from resight.look.open_run import OpenRun, open_run
from resight.progress import Reporter
from resight.runs.commands import resume_command
from resight.runs.run import MODEL, PREDICTIONS, Run

CHECKS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    record_checks.not_learning,
    record_checks.diverged,
    record_checks.gap,
    record_checks.fell_when_images_grew,
    record_checks.improving,
    record_checks.lr_against_curve,
    record_checks.lr_against_recipe,
    record_checks.stopped_at_a_high_lr,
    record_checks.imbalance,
    prediction_checks.barely_above_guessing,
    prediction_checks.never_predicted,
    prediction_checks.loss_above_chance,
    prediction_checks.suspicious_labels,
    prediction_checks.overconfident,
)
# what a net that knows nothing says with confidence is nothing to look at
_EMPTY = ("suspicious-labels", "overconfident", "loss-above-chance")
FOLLOWING = {  # problem → findings that merely follow from it
    "not-learning": ("barely-above-guessing", "never-predicted", *_EMPTY),
    "diverged": ("barely-above-guessing", "never-predicted", "still-improving", *_EMPTY),
    "lr-too-high": (
        "barely-above-guessing",
        "never-predicted",
        "still-improving",
        "train-test-gap",
        *_EMPTY,
    ),
    "lr-too-low": ("barely-above-guessing", "never-predicted"),
    "barely-above-guessing": _EMPTY,
    "train-test-gap": ("suspicious-labels",),  # most are mistakes of its own
    "loss-above-chance": ("overconfident",),
}


@kept_threads()
def diagnose(
    run: str | Path | Run,
    data: str | Path | ImageData | None = None,
    *,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Diagnosis:
    """Look for silent failures in a run; the result is kept in its `diagnosis.json`.

    data: its images, if they have moved. Raises `ResightError` if there is no run.
    """
    return examine(open_run(run, data, device=device, reporter=reporter))


def examine(opened: OpenRun) -> Diagnosis:
    """Run every check that `opened` allows; the result is written into the run folder."""
    skipped: list[str] = []
    findings = check(evidence_of(opened))
    if opened.data is None:
        skipped.append(f"the images: {opened.missing}")
    else:
        findings += image_checks.split_statistics(opened.data)
        findings += image_checks.leakage(opened.duplicates, len(opened.data.test))
        if (val := opened.data.val) is not None:
            images, device = opened.data.train.images, opened.runtime.device
            twice = find_duplicates(images, val.images, device=device)
            findings += image_checks.leakage(twice, len(val), "val")
        if opened.model is None:
            skipped.append(f"the net: {_why_missing(opened.run, MODEL)}")
        else:
            findings += _probe(opened)
    if opened.predictions is None:
        skipped.append(f"predictions: {_why_missing(opened.run, PREDICTIONS)}")
    diagnosis = Diagnosis.of(findings, skipped)
    try:
        opened.run.write("diagnosis.json", diagnosis.to_dict())
    except ResightError as error:  # the findings are valid anyway
        warnings.warn(str(error), ResightWarning, stacklevel=2)
    return diagnosis


def _why_missing(run: Run, name: str) -> str:
    """Why a run lacks what it has at its end."""
    if not run.finished:
        return "the run has not finished"
    return f"{name} of the finished run is missing; `{resume_command(run.path)}` writes it again"


def check(evidence: Evidence) -> list[Finding]:
    """All findings of all checks, without those that merely follow from others."""
    found = [finding for each in CHECKS for finding in each(evidence)]
    problems = {finding.name for finding in found if finding.severity == "problem"}
    needless = {name for problem in problems for name in FOLLOWING.get(problem, ())}
    return [finding for finding in found if finding.name not in needless]


def evidence_of(opened: OpenRun) -> Evidence:
    """The evidence in the run's files."""
    run = opened.run
    resolved = run.resolved
    return Evidence(
        recipe=run.recipe,
        classes=tuple(resolved["data"]["classes"]),
        class_counts=opened.class_counts,
        metrics=run.metrics,
        find_lr=run.find_lr_command(),
        watched_images=resolved["data"]["val"] or resolved["data"]["test"],
        judged_from=_judged_from(run),
        lr_max=resolved.get("schedule", {}).get("lr_max"),
        lr_test=run.lr_test,
        predictions=opened.predictions,
        plain_accuracy=_plain_accuracy(opened),
        balanced=run.balanced_command(),
        failure=run.failure or None,
        finished=run.finished,
    )


def _judged_from(run: Run) -> int:
    return judged_from(run.recipe.schedule, run.resolved["steps_per_epoch"])


def _plain_accuracy(opened: OpenRun) -> float | None:
    """On training images, of a net that was trained on mixed or repeated ones; None if it is not
    needed or the run lacks images or net."""
    needed = not trains_on_plain_images(opened.run.recipe)
    if not needed or opened.data is None or opened.model is None:
        return None
    with torch.no_grad(), opened.runtime.autocast():
        return net_checks.accuracy(opened.model, *_training_images(opened, repeated=False))


def _probe(opened: OpenRun) -> list[Finding]:
    assert opened.model is not None
    images, labels, at_once = _training_images(opened, repeated=True)
    lr_end = getattr(opened.run.recipe.schedule, "lr_end", None)  # not every shape has one
    with torch.no_grad(), opened.runtime.autocast():
        return [
            *net_checks.batch_norm(opened.model, images, labels, at_once, lr_end=lr_end),
            *net_checks.dead_channels(opened.model, images, at_once),
        ]


def _training_images(opened: OpenRun, *, repeated: bool) -> tuple[Tensor, Tensor, int | None]:
    """Some of them, augmented but not mixed, their labels, and as many at a time as a step had
    memory for. repeated: as balanced sampling does, if the recipe has it."""
    count = net_checks.probe_images(opened.run.recipe.data.image_size)
    images, labels = opened.augmented(count, mixed=False, repeated=repeated)
    return images, labels, opened.runtime.micro_batch or None
