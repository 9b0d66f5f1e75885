"""The comparison page: its tables, overlaid curves, and the images on which runs disagree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resight.comparison.pairs import Answers, Pair
from resight.comparison.result import Comparison
from resight.comparison.tables import NOTES
from resight.data.types import ImageData
from resight.errors import ResightError
from resight.files import write_atomically
from resight.render.page import render_page
from resight.render.sprites import sheet
from resight.runs.run import Run
from resight.version import __version__

Images = ImageData | Callable[[Run], ImageData] | None

SCRIPTS = ("images.js", "compare.js")
MAX_IMAGES_PER_PAIR = 400  # on which a pair disagrees
MAX_IMAGES = 2400  # of all pairs together
SHEET_BYTES = 2_700_000  # of all sheets; a third more as base64: a page of 5 MB at most
CURVES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy")


def write_page(comparison: Comparison, path: str | Path, *, images: Images = None) -> Path:
    """Write one self-contained HTML file: tables, overlaid curves, and the images on which two runs
    disagree. Returns its path.

    images: the data of the runs, or a function that loads a run's data; by default each run's own.
    If they can't be loaded, the page names the images without showing them, and says why. Raises
    `ResightError` if `path` can't be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ResightError(f"there is no folder {path.parent} for the page: create it first")
    page = render_page("compare.html", page_facts(comparison, images), SCRIPTS)
    write_atomically(path, page.encode())
    return path


def page_facts(comparison: Comparison, images: Images) -> dict[str, Any]:
    """Plain JSON values without NaN."""
    names = comparison.names
    return {
        "title": " · ".join(names) if len(names) <= 3 else f"{len(names)} runs compared",
        "resight": __version__,
        "about": comparison.first_line,
        "names": list(names),
        "verdict": [str(test) for test in comparison.tests] if len(comparison.tests) == 1 else [],
        "notes": list(comparison.notes),
        "sections": [
            asdict(section)
            for section in comparison.sections()
            if section.heading != NOTES  # they are shown above everything else
        ],
        "curves": [_curves(run) for run in comparison.runs],
        "disagreements": _disagreements(comparison, images),
    }


def _curves(run: Run) -> dict[str, list[float | None]]:
    rows = run.metrics
    return {key: [row.get(key) for row in rows] for key in ("epoch", *CURVES)}


def _disagreements(comparison: Comparison, images: Images) -> list[dict[str, Any]]:
    """One entry per set of images: the runs that were tested on it, in pairs."""
    place = {name: i for i, name in enumerate(comparison.names)}
    groups: dict[str, list[tuple[int, int]]] = {}
    for test in comparison.tests:
        a, b = place[test.a], place[test.b]
        answers = comparison.answers[a]
        assert answers is not None
        groups.setdefault(answers.fingerprint, []).append((a, b))
    share = min(MAX_IMAGES_PER_PAIR, MAX_IMAGES // max(1, len(comparison.tests)))
    budget = SHEET_BYTES // max(1, len(groups))
    return [_group(comparison, pairs, images, share, budget) for pairs in groups.values()]


def _group(
    comparison: Comparison, places: list[tuple[int, int]], images: Images, share: int, budget: int
) -> dict[str, Any]:
    """The images of one set on which any of the pairs disagrees, and each run's predictions.

    `share`: the maximum number of images per pair, a third for each kind of disagreement.
    """
    members = sorted({i for pair in places for i in pair})
    answers = {i: _there(comparison.answers[i]) for i in members}
    number: dict[str, int] = {}  # of each image shown, by its id
    label: list[int] = []
    pairs = []
    for a, b in places:
        pair = Pair.match(answers[a], answers[b])
        kinds = pair.disagreements()
        shown = []
        for kind in kinds:
            rows = pair.rows_a[kind[: max(1, share // 3)]].tolist()
            shown.append([_numbered(answers[a], row, number, label) for row in rows])
        pairs.append({"a": a, "b": b, "totals": [len(kind) for kind in kinds], "shown": shown})
    shown_sheet, reason = _sheet(comparison.runs[members[0]], list(number), images, budget)
    return {
        "classes": list(answers[members[0]].classes),
        "sheet": shown_sheet,
        "reason": reason,
        "id": list(number),
        "true": label,
        "said": [{"run": i, **_said(answers[i], list(number))} for i in members],
        "pairs": pairs,
    }


def _there(answers: Answers | None) -> Answers:
    assert answers is not None  # a run that was tested has predictions
    return answers


def _numbered(answers: Answers, row: int, number: dict[str, int], label: list[int]) -> int:
    """The number of an image among those shown; a new image gets the next number."""
    name = str(answers.ids[row])
    if name not in number:
        number[name] = len(label)
        label.append(int(answers.labels[row]))
    return number[name]


def _said(answers: Answers, ids: list[str]) -> dict[str, list[Any]]:
    """Predicted class, confidence and loss for each of `ids`; None for an image it did not have."""
    place = {name: i for i, name in enumerate(answers.ids.tolist())}
    rows = [place.get(name) for name in ids]

    def taken(values: npt.NDArray[Any]) -> list[Any]:
        return [None if row is None else values[row].item() for row in rows]

    return {
        "predicted": taken(answers.predicted),
        "confidence": taken(answers.confidence.round(4)),
        "loss": taken(answers.losses.round(4)),
    }


def _sheet(
    run: Run, ids: list[str], images: Images, budget: int
) -> tuple[dict[str, Any] | None, str | None]:
    """The images as a sprite sheet, or why there is none."""
    if not ids:
        return None, None
    try:
        data = images(run) if callable(images) else run.images(images)
        pixels = _pixels(data, ids)
    except ResightError as error:
        return None, str(error)
    return sheet(pixels, max_bytes=budget), None


def _pixels(data: ImageData, ids: list[str]) -> npt.NDArray[np.uint8]:
    """uint8 (n, H, W, C) of these test images. Raises `ResightError` if one is missing."""
    place = {name: i for i, name in enumerate(data.test.ids.tolist())}
    missing = [name for name in ids if name not in place]
    if missing:
        raise ResightError(f"{data.source}: its test split has no image '{missing[0]}'")
    return np.ascontiguousarray(data.test.images[[place[name] for name in ids]])
