"""Checks of a run's records: metrics, the LR test, the class counts.

Each check takes `Evidence` and yields findings; it is pure, and silent if its facts are missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from resight.diagnosis.evidence import BALANCE, Evidence
from resight.diagnosis.thresholds import THRESHOLDS
from resight.errors import ResightError
from resight.findings import Finding
from resight.intervals import standard_error
from resight.recipe.catalog import is_own_lr, lower_lr, own_lr
from resight.records import stopped_words, watched_split


def not_learning(evidence: Evidence) -> Iterator[Finding]:
    """The training loss of the last epoch is at chance level, and never was much lower."""
    chance = evidence.chance_loss
    if not evidence.metrics or evidence.failure or evidence.step < THRESHOLDS.watch_steps:
        return
    last = evidence.metrics[-1]
    lowest = min(row["train_loss"] for row in evidence.metrics)
    known = evidence.chance_accuracy(float(evidence.class_counts.sum()))
    accuracies = (last["train_accuracy"], evidence.plain_accuracy or 0.0)
    if (
        last["train_loss"] >= THRESHOLDS.chance_loss_share * chance
        and max(accuracies) <= known
        and lowest >= THRESHOLDS.learnt_loss_share * chance
    ):
        yield at_chance(
            evidence,
            f"in epoch {len(evidence.metrics)} the training loss is {last['train_loss']:.3f} and "
            f"the accuracy {last['train_accuracy']:.1%}",
        )


def at_chance(evidence: Evidence, seen: str) -> Finding:
    """The finding "not-learning", with the evidence `seen`."""
    k, chance = len(evidence.classes), evidence.chance_loss
    even = math.isclose(chance, math.log(k))
    level = f"ln {k} = {chance:.3f}" if even else f"{chance:.3f}, from the class frequencies"
    lr = "" if evidence.lr_max is None else f" at LR max {evidence.lr_max:.3g}"
    kept = is_own_lr(evidence.recipe, evidence.lr_max)
    advice = "find a suitable LR with an LR test"
    if kept:  # an LR test would say to keep it
        advice = "train longer, and check that the labels are right"
        if not evidence.finished:
            advice = f"wait: much is often learned only as the LR falls; if it isn't, {advice}"
    return Finding(
        name="not-learning",
        severity="note" if kept and not evidence.finished else "problem",
        title="the model is not learning",
        evidence=f"{seen}{lr}; a model that has learned nothing (chance level) has a loss "
        f"of {level}",
        threshold=f"a loss of at least {THRESHOLDS.chance_loss_share:g} × that",
        advice=advice,
        command=None if kept else evidence.find_lr,
    )


def diverged(evidence: Evidence) -> Iterator[Finding]:
    """The loss became non-finite, or ended far above its lowest value or above chance level."""
    advice = "train again with a lower LR"
    if evidence.lr_max is not None:
        advice += f", such as --lr {lower_lr(evidence.recipe, evidence.lr_max):g}"
    # an LR test that chose this LR would choose it again
    command = None if evidence.recipe.schedule.lr_max == "find" else evidence.find_lr
    if command:
        advice += ", or one found by an LR test"
    if evidence.failure:
        yield Finding(
            name="diverged",
            severity="problem",
            title="the training diverged",
            evidence=str(evidence.failure["message"]).split(":")[0],
            threshold="any loss or weight that is not finite",
            advice=advice,
            command=command,
        )
        return
    if not evidence.metrics:
        return
    chance = evidence.chance_loss
    losses = [row["train_loss"] for row in evidence.metrics]
    lowest, last = min(losses), losses[-1]
    even = math.log(len(evidence.classes))
    enough = evidence.settled and evidence.step >= THRESHOLDS.few_steps
    if enough and last > THRESHOLDS.worse_than_chance * even:
        yield Finding(
            name="diverged",
            severity="problem",
            title="the training diverged",
            evidence=f"the training loss is {last:.3f} after epoch {len(losses)}; a model that has "
            f"learned nothing has ln {len(evidence.classes)} = {even:.3f}",
            threshold=f"a loss above {THRESHOLDS.worse_than_chance:g} × that",
            advice=advice,
            command=command,
        )
        return
    rise, learnt = THRESHOLDS.diverged_rise, lowest < THRESHOLDS.learnt_loss_share * chance
    lost = (last - lowest) / (chance - lowest) if learnt else 0.0
    if last > rise * lowest and lost > THRESHOLDS.diverged_loss:
        yield Finding(
            name="diverged",
            severity="problem",
            title="the training diverged",
            evidence=f"the training loss was {lowest:.3f} after epoch {losses.index(lowest) + 1} "
            f"and is {last:.3f} after epoch {len(losses)}",
            threshold=f"more than {rise:g} × the lowest loss, and {THRESHOLDS.diverged_loss:.0%} "
            "of what it was below the chance-level loss",
            advice=advice,
            command=command,
        )


def gap(evidence: Evidence) -> Iterator[Finding]:
    """Train accuracy far above the accuracy on the split measured each epoch."""
    if not evidence.metrics or not evidence.settled:
        return
    last = evidence.metrics[-1]
    split = watched_split(last)
    if f"{split}_accuracy" not in last:  # measured only at the end
        return
    train, other = evidence.train_accuracy, last[f"{split}_accuracy"]
    if train is None:
        return
    error = standard_error(other, evidence.watched_images)
    difference = train - other
    if difference <= max(THRESHOLDS.gap_note, THRESHOLDS.gap_standard_errors * error):
        return
    gross = difference > THRESHOLDS.gap_problem
    yield Finding(
        name="train-test-gap",
        severity="problem" if gross else "note",
        title=f"large gap between train and {split} accuracy",
        evidence=f"train {train:.1%}, {split} {other:.1%}: {100 * difference:.0f} points",
        threshold=f"{100 * THRESHOLDS.gap_note:.0f} points; a problem above "
        f"{100 * THRESHOLDS.gap_problem:.0f}",
        advice=f"check that the {split} images and labels are of the same kind as those in train; "
        f"otherwise use more augmentation{_randaugment(evidence)}, more weight decay or more "
        "images",
    )


def _randaugment(evidence: Evidence) -> str:
    """What more augmentation may be, where it was seen to help: `docs/log.md`."""
    augment, counts = evidence.recipe.augment, evidence.class_counts
    enough = counts.sum() >= THRESHOLDS.randaugment_images * len(counts)
    if augment.randaugment or augment.trivialaugment or not enough:
        return ""
    return (
        " (--set augment.randaugment=2 --set augment.randaugment_magnitude=9, unless colour is "
        "what tells the classes apart)"
    )


def fell_when_images_grew(evidence: Evidence) -> Iterator[Finding]:
    """Train accuracy fell where the schedule went over to larger images, and stayed lower."""
    schedule = evidence.recipe.schedule
    small, medium = schedule.small_epochs, schedule.small_epochs + schedule.medium_epochs
    accuracies = [row["train_accuracy"] for row in evidence.metrics]
    sizes = ((small, schedule.small_px), (medium, schedule.medium_px))
    for end, px in sizes:
        before, after = math.floor(end), math.ceil(end)  # whole epochs of one size
        if not px or before < 1 or after >= len(accuracies) or not evidence.finished:
            continue
        fall = accuracies[before - 1] - accuracies[after]
        if fall <= THRESHOLDS.grown_drop or accuracies[-1] >= accuracies[before - 1]:
            continue
        yield Finding(
            name="fell-when-images-grew",
            severity="problem",
            title="accuracy fell when the images grew, and did not recover",
            evidence=f"train accuracy was {accuracies[before - 1]:.1%} after epoch {before}, the "
            f"last with images of {px} px, {accuracies[after]:.1%} after epoch {after + 1}, and is "
            f"{accuracies[-1]:.1%} at the end",
            threshold=f"a fall of {100 * THRESHOLDS.grown_drop:.0f} points",
            advice="train on images of full size from the start: --set schedule.small_epochs=0 "
            "--set schedule.small_px=0"
            + " --set schedule.medium_epochs=0 --set schedule.medium_px=0"
            * bool(schedule.medium_px),
        )
        return


def improving(evidence: Evidence) -> Iterator[Finding]:
    """Accuracy still rose at the end, and train is not far ahead: more epochs would help."""
    if not evidence.metrics or not evidence.finished:
        return
    split = watched_split(evidence.metrics[-1])
    rows = [row for row in evidence.metrics if f"{split}_accuracy" in row]
    if len(rows) < 2:
        return
    late = max(1, round(len(rows) / 10))
    before = max(row[f"{split}_accuracy"] for row in rows[:-late])
    now, train = rows[-1][f"{split}_accuracy"], evidence.train_accuracy
    error = math.hypot(*(standard_error(p, evidence.watched_images) for p in (before, now)))
    gain = max(THRESHOLDS.improving_gain, THRESHOLDS.improving_standard_errors * error)
    if train is None or now - before <= gain or train - now > THRESHOLDS.improving_gap:
        return
    epochs = evidence.recipe.schedule.epochs
    yield Finding(
        name="still-improving",
        severity="note",
        title="accuracy was still improving at the end",
        evidence=f"{split} accuracy rose from {before:.1%} to {now:.1%} in the last "
        f"{'epoch' if late == 1 else f'{late} epochs'}, and train accuracy is {train:.1%}",
        threshold=f"a rise of {100 * gain:.1f} points, with train accuracy at most "
        f"{100 * THRESHOLDS.improving_gap:.0f} points ahead",
        advice=f"train longer: --epochs {2 * epochs}",
    )


def lr_against_curve(evidence: Evidence) -> Iterator[Finding]:
    """The LR max that was used, judged by the curve of the run's own LR test."""
    test, lr = evidence.lr_test, evidence.lr_max
    if test is None or lr is None:
        return
    if test.stop.startswith("diverged") and lr >= float(test.lrs[-1]):
        yield Finding(
            name="lr-too-high",
            severity="problem",
            title="the LR is too high according to the run's LR test",
            evidence=f"LR max is {lr:.3g}, and the LR test {test.stop}",
            threshold="the LR at which the test diverged",
            advice="use the LR that the curve suggests",
            command=evidence.find_lr,
        )
        return
    try:
        lowest, start = 2 * test.suggest("minimum/2"), test.suggest_lr_min(math.inf)
    except ResightError:  # the curve allows no judgement; find-lr reports that
        return
    if lr > lowest or lr < start:
        high = lr > lowest
        yield Finding(
            name="lr-too-high" if high else "lr-too-low",
            severity="note" if high else "problem",
            title=f"the LR is too {'high' if high else 'low'} according to the run's LR test",
            evidence=f"LR max is {lr:.3g}; the test's loss starts to fall at {start:.3g} and is "
            f"lowest at {lowest:.3g}",
            threshold="the LR of the lowest loss"
            if high
            else "the LR where the loss starts to fall",
            advice="use the LR that the curve suggests",
            command=evidence.find_lr,
        )


def lr_against_recipe(evidence: Evidence) -> Iterator[Finding]:
    """An LR far from the one that a named recipe sets itself, or far above what is usual where it
    sets none, in a training that learned little."""
    own, lr = own_lr(evidence.recipe), evidence.lr_max
    if lr is None or not evidence.metrics or not evidence.finished:
        return
    if own is None:
        yield from _lr_against_usual(evidence, lr)
        return
    ratio, train = lr / own, evidence.train_accuracy
    if max(ratio, 1 / ratio) < THRESHOLDS.own_lr_ratio:
        return
    if train is None or train >= THRESHOLDS.own_lr_learnt:
        return
    high = ratio > 1
    yield Finding(
        name="lr-too-high" if high else "lr-too-low",
        severity="problem",
        title=f"the LR is far {'above' if high else 'below'} the recipe's own",
        evidence=f"LR max is {lr:.3g}, where {evidence.recipe.name} sets {own:.3g} (for this batch "
        f"size), and train accuracy is only {train:.1%}",
        threshold=f"{THRESHOLDS.own_lr_ratio:g} times the recipe's LR, with train accuracy below "
        f"{THRESHOLDS.own_lr_learnt:.0%}",
        advice=f"use the recipe's own LR, which was chosen by whole trainings: --lr {own:.3g}",
    )


def _lr_against_usual(evidence: Evidence, lr: float) -> Iterator[Finding]:
    optimizer, train = evidence.recipe.optimizer, evidence.train_accuracy
    usual = optimizer.usual_lr(evidence.recipe.train.batch_size)
    if lr / usual < THRESHOLDS.usual_lr_ratio:
        return
    if train is None or train >= THRESHOLDS.own_lr_learnt:
        return
    yield Finding(
        name="lr-too-high",
        severity="problem",
        title="the LR is far above the usual one",
        evidence=f"LR max is {lr:.3g}, where {usual:.3g} is usual for {optimizer.name} (for this "
        f"batch size), and train accuracy is only {train:.1%}",
        threshold=f"{THRESHOLDS.usual_lr_ratio:g} times the usual LR, with train accuracy below "
        f"{THRESHOLDS.own_lr_learnt:.0%}",
        advice=f"use the usual LR: --lr {usual:.3g}",
    )


def stopped_at_a_high_lr(evidence: Evidence) -> Iterator[Finding]:
    """Early stopping ended the training before the LR had fallen."""
    recipe, rows, lr_max = evidence.recipe, evidence.metrics, evidence.lr_max
    epochs, patience = recipe.schedule.epochs, recipe.train.early_stop
    words = stopped_words(rows, epochs, patience)
    if words is None or lr_max is None:
        return
    share = rows[-1]["lr"] / lr_max
    if share <= THRESHOLDS.early_lr_share:
        return
    yield Finding(
        name="stopped-at-a-high-lr",
        severity="problem",
        title="early stopping ended the training before the LR had fallen",
        evidence=f"{words}; that is {share:.0%} of LR max",
        threshold=f"{THRESHOLDS.early_lr_share:.0%} of LR max",
        advice="a schedule that lets the LR fall gains most at its end: leave out --early-stop and "
        f"take fewer --epochs, or wait for more than {patience} epoch{'s' * (patience != 1)}",
    )


def imbalance(evidence: Evidence) -> Iterator[Finding]:
    """The largest class has many times the images of the smallest."""
    counts = evidence.class_counts
    most, fewest = int(counts.argmax()), int(counts.argmin())
    if counts[most] < THRESHOLDS.imbalance_ratio * max(counts[fewest], 1):
        return
    yield Finding(
        name="class-imbalance",
        severity="note",
        title="the classes are imbalanced",
        evidence=f"train has {counts[most]:,} images of '{evidence.classes[most]}' and "
        f"{counts[fewest]:,} of '{evidence.classes[fewest]}'",
        threshold=f"{THRESHOLDS.imbalance_ratio:g} times as many",
        advice="look at recall per class rather than accuracy; add images of the rare classes"
        + f"; or {BALANCE}" * bool(evidence.cure),
        command=evidence.cure,
    )
