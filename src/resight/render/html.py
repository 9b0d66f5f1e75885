"""What a notebook shows of a run, an LR test, predictions and a recipe: HTML that never raises."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from resight.errors import ResightError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from resight.recipe.recipe import Recipe
    from resight.runs.lr_test import LrTest
    from resight.runs.predictions import Predictions
    from resight.runs.run import Run

MOST_CHARACTERS = 300  # of a text
MOST_CLASSES = 100
MOST_FINDINGS = 20


def run_html(run: Run) -> str:
    """Headline, numbers, findings and curves, as far as they are there."""
    return _joined(
        lambda: _line(f"{run.recipe.name} · {run.path}", "b"),
        lambda: _state(run),
        lambda: _numbers(run),
        lambda: _findings(run),
        lambda: _image(run.plot_curves(), "loss and accuracy by epoch") if run.metrics else "",
    )


def lr_test_html(test: LrTest) -> str:
    """The plot, which says why where nothing can be read off it, and the suggestions."""
    return _joined(
        lambda: _image(test.plot(), "loss against learning rate"), lambda: _suggestions(test)
    )


def predictions_html(predictions: Predictions) -> str:
    """Accuracy with its interval, and each class."""
    return _joined(lambda: _accuracy(predictions), lambda: _classes(predictions))


def recipe_html(recipe: Recipe) -> str:
    """A row a section."""
    values = recipe.to_dict()
    name = values.pop("name")
    rows = []
    for section, settings in values.items():
        kind_first = sorted(settings, key=lambda key: key not in ("name", "shape"))
        rows.append((section, ", ".join(f"{key} = {settings[key]}" for key in kind_first)))
    return _joined(lambda: _line(name, "b"), lambda: _table((), rows))


def _state(run: Run) -> str:
    result, epochs = run.result, run.recipe.schedule.epochs
    if not result:
        return _line(f"not finished: {len(run.metrics)} of {epochs} epochs are done")
    low, high = result["test_accuracy_95"]
    return _line(
        f"test accuracy {result['test_accuracy']:.2%} (95 %: {low:.2%} to {high:.2%}, "
        f"{result['test_images']:,} images)"
    )


def _numbers(run: Run) -> str:
    from resight.progress import duration

    result = run.result
    if not result:
        return ""
    return _table(
        (),
        [
            ("data", result["data"]),
            ("epochs", result["epochs"]),
            ("weights", result["weights"]),
            ("test loss", f"{result['test_loss']:.4f}"),
            ("train accuracy", f"{result['train_accuracy']:.2%}"),
            ("lr_max", f"{result['lr_max']:.3g}"),
            ("seed", result["seed"]),
            ("parameters", f"{result['parameters']:,}"),
            ("training", f"{duration(result['train_seconds'])} on {result['device']}"),
        ],
    )


def _findings(run: Run) -> str:
    if run.diagnosis is None:
        return ""
    found = run.diagnosis.findings
    lines = [f"{finding.severity}: {finding.title}: {finding.evidence}" for finding in found]
    return "".join(map(_line, lines[:MOST_FINDINGS])) or _line("no problem found")


def _suggestions(test: LrTest) -> str:
    try:
        suggestions = test.suggestions()
    except ResightError:
        return ""  # the plot's title says why
    return _table(
        ("method", "LR"),
        [
            (f"{method} (the recipe's)" if method == test.method else method, f"{lr:.3g}")
            for method, lr in suggestions.items()
        ],
    )


def _accuracy(predictions: Predictions) -> str:
    low, high = predictions.accuracy_interval
    return _line(
        f"{predictions.split} accuracy {predictions.accuracy:.2%} (95 %: {low:.2%} to {high:.2%}, "
        f"{len(predictions):,} images) · loss {predictions.loss:.4f}",
        "b",
    )


def _classes(predictions: Predictions) -> str:
    rows = predictions.per_class()
    note = ""
    if len(rows) > MOST_CLASSES:
        note = _line(f"the {MOST_CLASSES} weakest of {len(rows)} classes")
        rows.sort(key=lambda row: 2.0 if row["accuracy"] is None else row["accuracy"])
    shares = ("precision", "recall", "f1")
    return note + _table(
        ("class", "images", *shares),
        [
            (
                row["class"],
                f"{row['support']:,}",
                *("–" if row[share] is None else f"{row[share]:.1%}" for share in shares),
            )
            for row in rows[:MOST_CLASSES]
        ],
    )


def _joined(*parts: Callable[[], str]) -> str:
    """The parts one below the other; of one that fails, the reason: a repr must not raise."""
    made = []
    for part in parts:
        try:
            made.append(part())
        except Exception as error:
            kind = "" if isinstance(error, ResightError) else f"{type(error).__name__}: "
            made.append(_line(f"{kind}{error}"))
    return f"<div>{''.join(made)}</div>"


def _line(text: object, tag: str = "span") -> str:
    return f"<div><{tag}>{_escaped(text)}</{tag}></div>"


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{_escaped(cell)}</th>' for cell in head)}</tr>"] if head else []
    for row in rows:
        cells = "".join(f'<td style="text-align:left">{_escaped(cell)}</td>' for cell in row)
        lines.append(f"<tr>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _image(figure: Figure, alt: str) -> str:
    from resight.render.drawing import WIDTH_PX, png

    content = base64.b64encode(png(figure)).decode("ascii")
    return f'<img src="data:image/png;base64,{content}" width="{WIDTH_PX}" alt="{_escaped(alt)}">'


def _escaped(text: object) -> str:
    """Cut; lone surrogates, which can't be sent to a browser, replaced."""
    line = str(text)
    line = line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}…"
    return html.escape(line.encode("utf-8", "replace").decode())
