"""The words and tables of a report's README, from its facts. What is None there is left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from resight.progress import duration
from resight.records import watched_split, weakest_first
from resight.render.markdown import code, escaped, picture, table

MOST_EPOCHS = 50
MOST_CLASSES = 100
MOST_PAIRS = 10
MOST_DUPLICATES = 20
# images in a picture
MOST_AUGMENTED = 20
MOST_MISTAKES = 20
MOST_MAPS = 10

METHODS = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++", "hirescam": "HiResCAM"}

Facts = dict[str, Any]


def readme(facts: Facts) -> str:
    """The whole text. What is None in `facts` is left out."""
    parts = [f"# {escaped(facts['title'])}", *_headline(facts["headline"], len(facts["metrics"]))]
    for title, section in (
        ("What was found", _findings),
        ("Result", _result),
        ("Training log", _log),
        ("Augmented samples", _augmented),
        ("Learning rate", _learning_rate),
        ("Curves", _curves),
        ("Classes", _classes),
        ("Confusion", _confusion),
        ("Mistakes", _mistaken),
        ("Calibration", _calibration),
        ("Model", _model),
        ("Notes", _notes),
        ("Duplicates", _duplicates),
    ):
        lines = list(section(facts))
        if lines:
            parts += [f"## {title}", *lines]
    made = f"Made by Resight {escaped(facts['resight'])}."
    page = "`index.html` beside this file is the same report to look around in, offline."
    return "\n\n".join([*parts, f"{made} {page}"]) + "\n"


def _headline(headline: Facts, epochs_done: int) -> Iterator[str]:
    if headline["accuracy"] is None:
        yield f"Not finished: {epochs_done} of {headline['epochs']} epochs are done."
    else:
        interval = f"95 %: {headline['low']:.2%} to {headline['high']:.2%}"
        measured = f"{escaped(_upper(headline['split']))} accuracy {headline['accuracy']:.2%}"
        yield (
            f"**{measured}** ({interval}, {headline['images']:,} images) · "
            f"loss {headline['loss']:.4f} · "
            f"weights of the {escaped(headline['weights'])}"
        )
    if headline["command"]:
        yield code(headline["command"], "sh")


def _findings(facts: Facts) -> Iterator[str]:
    if facts["diagnosed"] and not facts["findings"]:
        yield "No problem, and nothing to note."
    for severity in ("problem", "note"):
        for finding in facts["findings"]:
            if finding["severity"] != severity:
                continue
            what = f"**{_upper(severity)}: {escaped(finding['title'])}.**"
            seen = f"{escaped(_upper(finding['evidence']))} (threshold: "
            advice = escaped(_upper(finding["advice"]))
            yield f"{what} {seen}{escaped(finding['threshold'])}). {advice}."
            if finding["command"]:
                yield code(finding["command"], "sh")


def _result(facts: Facts) -> Iterator[str]:
    shown: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
        ("accuracy", f"{facts['headline']['split']} accuracy", "{:.2%}".format),
        ("loss", f"{facts['headline']['split']} loss", "{:.4f}".format),
        ("train_accuracy", "train accuracy", "{:.2%}".format),
        ("recipe", "recipe", str),
        ("data", "data", str),
        ("epochs", "epochs", str),
        ("seed", "seed", str),
        ("parameters", "parameters", "{:,}".format),
        ("train_seconds", "training time", duration),
        ("wall_seconds", "time from the command", duration),
        ("images_per_second", "images a second", "{:,.0f}".format),
        ("device", "device", str),
        ("precision", "precision", str),
    )
    headline = facts["headline"]
    rows = [(name, show(headline[key])) for key, name, show in shown if headline[key] is not None]
    head, *rest = [*rows, ("run", facts["run"])]
    yield table(head, rest, numbers_from=2)


def _log(facts: Facts) -> Iterator[str]:
    metrics = facts["metrics"]
    if not metrics:
        return
    every = math.ceil(len(metrics) / MOST_EPOCHS)
    rows = [row for row in metrics if row["epoch"] % every == 0 or row is metrics[-1]]
    if every > 1:
        yield f"Every {_ordinal(every)} epoch and the last."
    split = watched_split(metrics[-1])
    yield table(
        ("epoch", "LR", "train loss", "accuracy", f"{split} loss", "accuracy", "s", "images/s"),
        [
            (
                row["epoch"],
                _number(row, "lr", ".3g"),
                _number(row, "train_loss", ".4f"),
                _number(row, "train_accuracy", ".2%"),
                _number(row, f"{split}_loss", ".4f"),
                _number(row, f"{split}_accuracy", ".2%"),
                _number(row, "train_seconds", ".1f"),
                _number(row, "images_per_second", ",.0f"),
            )
            for row in rows
        ],
        numbers_from=0,
    )


def _augmented(facts: Facts) -> Iterator[str]:
    if facts["augmented"]:
        count = min(MOST_AUGMENTED, facts["augmented"]["sheet"]["count"])
        yield f"{count} training images as the net saw them in the first epoch."
        yield picture("augmented", f"{count} augmented training images with their classes")


def _learning_rate(facts: Facts) -> Iterator[str]:
    test, schedule = facts["lr_test"], facts["schedule"]
    if test:
        names = ", ".join(f"{name} {lr:.3g}" for name, lr in test["suggestions"].items())
        steps = f"LR test of {len(test['lrs'])} steps, {test['stop']}"
        told = f"It suggests {names}." if names else f"{_upper(test['refused'])}."
        told += f" The run trained with {test['used']:.3g}." if test["used"] is not None else ""
        yield f"{escaped(steps)}. {escaped(told)}"
        yield picture("lr-test", f"Loss against learning rate, on a log scale. {told}")
    if schedule:
        most = max(schedule["lr"])
        alt = f"Learning rate over the epochs, {schedule['shape']}, at most {most:.3g}"
        yield picture("schedule", alt)


def _curves(facts: Facts) -> Iterator[str]:
    if facts["metrics"]:
        last = facts["metrics"][-1]
        split = watched_split(last)
        ends = [f"{s} {_number(last, f'{s}_accuracy', '.2%')}" for s in ("train", split)]
        alt = f"Loss and accuracy over {len(facts['metrics'])} epochs, at the end "
        yield picture("curves", f"{alt}{' and '.join(ends)}")


def _classes(facts: Facts) -> Iterator[str]:
    rows = facts["per_class"]
    if not rows:
        return
    some = [row for row in rows if row["accuracy"] is not None]
    weak = weakest_first(some)[0] if some else None
    ends = f", lowest {weak['class']} with {weak['accuracy']:.1%}" if weak else ""
    yield picture("per-class", f"Bars of the accuracy of each class{ends}")
    if len(rows) > MOST_CLASSES:
        rows = weakest_first(some)[:MOST_CLASSES]
        yield f"The {len(rows)} weakest of {len(facts['per_class'])} classes."
    yield table(
        ("class", "precision", "recall", "F1", "images"),
        [
            (
                row["class"],
                _number(row, "precision", ".1%"),
                _number(row, "recall", ".1%"),
                _number(row, "f1", ".1%"),
                _number(row, "support", ",d"),
            )
            for row in rows
        ],
        numbers_from=1,
    )


def _confusion(facts: Facts) -> Iterator[str]:
    classes, pairs = facts["classes"], facts["most_confused"][:MOST_PAIRS]
    if facts["confusion"]:
        alt = f"Confusion matrix of {len(classes)} classes, rows true, columns predicted"
        yield picture("confusion", alt)
    if pairs:
        yield table(
            ("true", "predicted", "images", "share of the true class"),
            [
                (
                    classes[p["true"]],
                    classes[p["predicted"]],
                    f"{p['count']:,}",
                    f"{p['share']:.1%}",
                )
                for p in pairs
            ],
            numbers_from=2,
        )


def _mistaken(facts: Facts) -> Iterator[str]:
    gallery = facts["gallery"]
    if not gallery or not gallery["shown_mistakes"]:
        return
    count = min(MOST_MISTAKES, gallery["shown_mistakes"])
    yield (
        f"The {count} of {gallery['total_mistakes']:,} mistakes with the highest loss: ✓ the true "
        "class, ✗ the predicted one with its confidence."
    )
    yield picture("mistakes", f"{count} misclassified images, true and predicted class below each")
    if facts["suspects_total"]:
        yield (
            f"Suspect labels: {facts['suspects_total']:,} images are confidently taken for another "
            "class than their label says."
        )
    if gallery["maps"]:
        method, layer = gallery["maps"]["method"], gallery["maps"]["layer"]
        count = min(MOST_MAPS, count)
        method = METHODS.get(method, method)
        told = f"{method} at {layer}: bright where the evidence for a class lies"
        yield f"{escaped(told)}, above for the predicted (✗), below for the true class (✓)."
        yield picture("grad-cam", f"{count} misclassified images under their {method} maps")


def _calibration(facts: Facts) -> Iterator[str]:
    calibration = facts["calibration"]
    if not calibration:
        return
    temperature, told = calibration["temperature"], f"ECE {calibration['ece']:.4f}"
    if temperature:
        told += (
            f"; {temperature['ece_after']:.4f} at temperature {temperature['value']:.3g}, fitted "
            f"on {temperature['split']}"
        )
    elif calibration["temperature_reason"]:
        told += f"; no temperature: {calibration['temperature_reason']}"
    yield f"{escaped(told)}."
    yield picture("reliability", f"Share of right predictions by confidence. {told}")


def _model(facts: Facts) -> Iterator[str]:
    if facts["summary"]:
        from resight.models.summary import ModelSummary, Row

        values = facts["summary"]
        rows = [{k: v for k, v in row.items() if k != "label"} for row in values["rows"]]
        summary = ModelSummary(
            tuple(values["input_shape"]),
            tuple(Row(**{**row, "output_shape": tuple(row["output_shape"])}) for row in rows),
            values["total_params"],
            values["trainable_params"],
        )
        yield code(summary)


def _notes(facts: Facts) -> Iterator[str]:
    if facts["notes"]:
        yield "\n".join(f"- {escaped(note)}" for note in facts["notes"])


def _duplicates(facts: Facts) -> Iterator[str]:
    total, rows = facts["duplicates_total"], facts["duplicates"][:MOST_DUPLICATES]
    if not total or not (total["exact"] or total["near"]):
        return
    yield (
        f"Test images with a twin in train: {total['exact']:,} the same pixel for pixel, "
        f"{total['near']:,} nearly."
    )
    if len(rows) < total["exact"] + total["near"]:
        yield f"The first {len(rows)}:"
    classes = facts["classes"]
    yield table(
        ("test", "train", "kind", "test label", "train label"),
        [
            (r["test"], r["train"], r["kind"], classes[r["test_label"]], classes[r["train_label"]])
            for r in rows
        ],
        numbers_from=5,
    )


def _number(row: Facts, key: str, form: str) -> str:
    value = row.get(key)
    return "–" if value is None else format(value, form)


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _ordinal(number: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(number, f"{number}th")
