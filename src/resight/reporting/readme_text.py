"""The text and tables of a report's README, from its facts; without sections that have none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from resight.progress import duration
from resight.records import Row, watched_split, weakest_first
from resight.render.markdown import code, escaped, picture, table

if TYPE_CHECKING:
    from resight.reporting.facts import Facts, Headline

# rows of a table
MAX_EPOCHS_LISTED = 50
MAX_CLASSES_LISTED = 100
MAX_PAIRS_LISTED = 10
MAX_DUPLICATES_LISTED = 20
# images in a picture
MAX_AUGMENTED_SHOWN = 20
MAX_MISTAKES_SHOWN = 20
MAX_MAPS_SHOWN = 10

METHODS = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++", "hirescam": "HiResCAM"}


def readme(facts: Facts) -> str:
    """The whole text."""
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
    page = "`index.html`, next to this file, is the same report as an interactive offline page."
    return "\n\n".join([*parts, f"{made} {page}"]) + "\n"


def _headline(headline: Headline, epochs_done: int) -> Iterator[str]:
    if headline["accuracy"] is None:
        yield f"Not finished: {epochs_done} of {headline['epochs']} epochs are done."
    else:
        interval = f"95% CI: {headline['low']:.2%} to {headline['high']:.2%}"
        measured = f"{escaped(_upper(headline['split']))} accuracy {headline['accuracy']:.2%}"
        yield (
            f"**{measured}** ({interval}, {headline['images']:,} images) · "
            f"loss {headline['loss']:.4f} · "
            f"weights of the {escaped(headline['weights'])}"
            + (f" · {headline['beside']}" if headline["beside"] else "")
        )
    if headline["command"]:
        yield code(headline["command"], "sh")


def _findings(facts: Facts) -> Iterator[str]:
    if facts["diagnosed"] and not facts["findings"]:
        yield "No problems and nothing to note."
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
    headline = facts["headline"]
    shown: tuple[tuple[str, Any, Callable[[Any], str]], ...] = (
        (f"{headline['split']} accuracy", headline["accuracy"], "{:.2%}".format),
        (f"{headline['split']} loss", headline["loss"], "{:.4f}".format),
        ("train accuracy", headline["train_accuracy"], "{:.2%}".format),
        ("recipe", headline["recipe"], str),
        ("data", headline["data"], str),
        ("epochs", headline["epochs"], str),
        ("seed", headline["seed"], str),
        ("parameters", headline["parameters"], "{:,}".format),
        ("training time", headline["train_seconds"], duration),
        (
            "time since it was resumed" if headline["resumed"] else "total time",
            headline["wall_seconds"],
            duration,
        ),
        ("images per second", headline["images_per_second"], "{:,.0f}".format),
        ("device", headline["device"], str),
        ("precision", headline["precision"], str),
    )
    rows = [(name, show(value)) for name, value, show in shown if value is not None]
    head, *rest = [*rows, ("run", facts["run"])]
    yield table(head, rest, numbers_from=2)


def _log(facts: Facts) -> Iterator[str]:
    metrics = facts["metrics"]
    if not metrics:
        return
    every = math.ceil(len(metrics) / MAX_EPOCHS_LISTED)
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
        count = min(MAX_AUGMENTED_SHOWN, facts["augmented"]["sheet"]["count"])
        yield f"{count} training images as the net saw them in the first epoch."
        yield picture("augmented", f"{count} augmented training images with their classes")


def _learning_rate(facts: Facts) -> Iterator[str]:
    test, schedule = facts["lr_test"], facts["schedule"]
    if test:
        names = ", ".join(f"{name} {lr:.3g}" for name, lr in test["suggestions"].items())
        steps = f"LR test of {len(test['lrs'])} steps, {test['stop']}"
        told = f"It suggests {names}." if names else f"{_upper(test['refused'] or '')}."
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
        alt = f"Loss and accuracy over {len(facts['metrics'])} epochs; final accuracy: "
        yield picture("curves", f"{alt}{', '.join(ends)}")


def _classes(facts: Facts) -> Iterator[str]:
    rows = facts["per_class"]
    if not rows:
        return
    some = [row for row in rows if row["accuracy"] is not None]
    weak = weakest_first(some)[0] if some else None
    ends = f", lowest {weak['class']} with {weak['accuracy']:.1%}" if weak else ""
    yield picture("per-class", f"Bar chart of the accuracy per class{ends}")
    listed: Sequence[Row] = rows
    if len(rows) > MAX_CLASSES_LISTED:
        listed = weakest_first(some)[:MAX_CLASSES_LISTED]
        yield f"The {len(listed)} weakest of {len(rows)} classes."
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
            for row in listed
        ],
        numbers_from=1,
    )


def _confusion(facts: Facts) -> Iterator[str]:
    classes, pairs = facts["classes"], facts["most_confused"][:MAX_PAIRS_LISTED]
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
    count = min(MAX_MISTAKES_SHOWN, gallery["shown_mistakes"])
    yield (
        f"The {count} of {gallery['total_mistakes']:,} mistakes with the highest loss: ✓ the true "
        "class, ✗ the predicted one with its confidence."
    )
    yield picture("mistakes", f"{count} misclassified images, true and predicted class below each")
    if facts["suspects_total"]:
        yield (
            f"Suspect labels: {facts['suspects_total']:,} images are confidently predicted as "
            "a class different from their label."
        )
    if gallery["maps"]:
        method, layer = gallery["maps"]["method"], gallery["maps"]["layer"]
        count = min(MAX_MAPS_SHOWN, count)
        method = METHODS.get(method, method)
        told = f"{method} at {layer}: bright where there is evidence for a class"
        yield f"{escaped(told)}; upper map: predicted class (✗), lower map: true class (✓)."
        yield picture("grad-cam", f"{count} misclassified images with their {method} maps")


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
    yield picture("reliability", f"Share of correct predictions by confidence. {told}")


def _model(facts: Facts) -> Iterator[str]:
    if facts["summary"]:
        yield code(facts["summary"]["text"])


def _notes(facts: Facts) -> Iterator[str]:
    if facts["notes"]:
        yield "\n".join(f"- {escaped(note)}" for note in facts["notes"])


def _duplicates(facts: Facts) -> Iterator[str]:
    total, rows = facts["duplicates_total"], facts["duplicates"][:MAX_DUPLICATES_LISTED]
    if not total or not (total["exact"] or total["near"]):
        return
    yield (
        f"Test images with a duplicate in train: {total['exact']:,} exact, {total['near']:,} near."
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


def _number(row: Row, key: str, form: str) -> str:
    value = row.get(key)
    return "–" if value is None else format(value, form)


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _ordinal(number: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(number, f"{number}th")
