"""The facts of a report as plain JSON values: what the page and the README show.

While a run trains, most of them are None, and the page leaves their sections out.
"""

from __future__ import annotations

import base64
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from resight.diagnosis.prediction_checks import suspects
from resight.errors import ResightError
from resight.findings import Diagnosis
from resight.look.open_run import OpenRun
from resight.look.summary import summary
from resight.recipe.recipe import Recipe
from resight.records import beside_words, stopped_words
from resight.render.sprites import sheet
from resight.reporting.gallery import Gallery
from resight.runs.calibration import calibration, with_temperature
from resight.runs.commands import evaluate_command
from resight.runs.lr_test import LrTest
from resight.runs.predictions import Predictions
from resight.runs.run import Run
from resight.version import __version__

SHEET_BYTES = 2_500_000  # of the gallery's images: with maps and text, 5 MB at most, and photos
MAX_CONFUSION_CLASSES = 100  # more than that nobody can read
MAX_CONFUSED_PAIRS = 20
MAX_DUPLICATES = 100
TOP = 5  # classes shown per image
AUGMENTED = 40
MIXED = (
    "train loss and train accuracy are of images mixed with others (Mixup, CutMix), which no net "
    "gets all right: they are not comparable to those of other splits"
)
REPEATED = (
    "train loss and train accuracy are of equally many images of each class, those of rare classes "
    "repeatedly (train.sampling): they are not comparable to those of other splits"
)


class Headline(TypedDict):
    """Accuracies in [0, 1], of `split`; low, high: their 95 % interval; beside: what to compare it
    with, in words; resumed: whether wall_seconds is since the run was resumed. None until known."""

    accuracy: float | None
    low: float | None
    high: float | None
    beside: str | None
    loss: float | None
    images: int | None
    split: str
    weights: str | None
    train_accuracy: float | None
    epochs: int
    seed: int
    parameters: int | None
    recipe: str
    data: str | None
    train_seconds: float | None
    wall_seconds: float | None
    resumed: bool
    images_per_second: float | None
    device: str | None
    precision: str | None
    command: str | None


class Confused(TypedDict):
    """Images of one class predicted as another; true, predicted: class indices."""

    true: int
    predicted: int
    count: int
    share: float


class LrTestFacts(TypedDict):
    """The curve, what it suggests or why it suggests nothing, and the LR that was used."""

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestions: dict[str, float]
    refused: str | None
    method: str
    used: float | None
    stop: str


class Temperature(TypedDict):
    value: float
    split: str
    ece_after: float


class CalibrationFacts(TypedDict):
    """bins: `Calibration.rows`; temperature_reason: why there is no temperature."""

    bins: tuple[dict[str, Any], ...]
    ece: float
    temperature: Temperature | None
    temperature_reason: str | None


class Mixture(TypedDict):
    """share: of an image's own label; other: class index of what it is mixed with."""

    share: float
    other: int


class Augmented(TypedDict):
    """sheet: a sprite sheet of training images; label: class index of each; mixed: by Mixup and
    CutMix, None without them."""

    sheet: dict[str, Any]
    label: list[int]
    mixed: list[Mixture] | None


class Maps(TypedDict):
    """Grad-CAM maps for the predicted and the true class: bytes in base64, one per cell."""

    method: str
    layer: str
    height: int
    width: int
    predicted: str
    true: str
    predicted_empty: list[bool]
    true_empty: list[bool]


class GalleryFacts(TypedDict):
    """Test images, one entry per image in each list; mistakes first. top: [class index,
    probability] of the most probable classes. folder: the URI of the one that the ids are paths in,
    if they are; photos: data URIs of the first images at a larger size, where there are such."""

    sheet: dict[str, Any] | None
    folder: str | None
    photos: list[str | None]
    total_mistakes: int
    shown_mistakes: int
    id: list[str]
    true: list[int]
    predicted: list[int]
    loss: list[float]
    confidence: list[float]
    top: list[list[list[float]]]
    suspect: list[bool]
    maps: Maps | None


class DuplicateFacts(TypedDict):
    """test, train: ids of the images; kind: "exact" or "near"."""

    test: str
    train: str
    kind: str
    distance: float
    test_label: int
    train_label: int


class DuplicateCounts(TypedDict):
    exact: int
    near: int


class Facts(TypedDict):
    """All facts of a report. live: the training's progress, for the live page; findings: as in
    `diagnosis.json`; metrics: `Run.metrics`; schedule: `Run.schedule_points`; per_class:
    `Predictions.per_class`; summary: `ModelSummary.to_dict` with its table as `text`."""

    version: int
    title: str
    run: str
    resight: str
    live: dict[str, Any] | None
    headline: Headline
    findings: list[dict[str, Any]]
    diagnosed: bool
    notes: list[str]
    classes: list[str]
    confusion: list[list[int]] | None
    most_confused: list[Confused]
    per_class: list[dict[str, Any]] | None
    metrics: list[dict[str, Any]]
    schedule: dict[str, Any] | None
    lr_test: LrTestFacts | None
    calibration: CalibrationFacts | None
    summary: dict[str, Any] | None
    augmented: Augmented | None
    gallery: GalleryFacts | None
    duplicates: list[DuplicateFacts]
    duplicates_total: DuplicateCounts | None
    suspects_total: int | None


def run_facts(opened: OpenRun, diagnosis: Diagnosis, gallery: Gallery | None) -> Facts:
    """The facts of a run as it is now, without the model's table. None of them is NaN."""
    facts = base_facts(opened.run)
    predictions = opened.predictions
    facts["findings"] = diagnosis.to_dict()["findings"]
    facts["diagnosed"] = True
    facts["notes"] += [f"not checked: {reason}" for reason in diagnosis.skipped]
    if predictions is not None:
        _add_predictions(facts, predictions)
        facts["calibration"] = _calibration(opened, predictions)
    if opened.data is not None:
        facts["augmented"] = _augmented(opened)
        names = (opened.data.test, opened.data.train)
        kinds = [duplicate.kind for duplicate in opened.duplicates]
        facts["duplicates_total"] = {"exact": kinds.count("exact"), "near": kinds.count("near")}
        facts["duplicates"] = [
            {
                "test": str(names[0].ids[d.test]),
                "train": str(names[1].ids[d.train]),
                "kind": d.kind,
                "distance": round(float(d.distance), 2),
                "test_label": int(names[0].labels[d.test]),
                "train_label": int(names[1].labels[d.train]),
            }
            for d in opened.duplicates[:MAX_DUPLICATES]
        ]
    if gallery is not None:
        facts["gallery"] = _gallery(gallery)
        if gallery.no_maps:
            facts["notes"].append(f"no Grad-CAM: {gallery.no_maps}")
    return facts


def base_facts(run: Run) -> Facts:
    """What a run's small files say: cheap, and enough for a run that is still training."""
    recipe, resolved = run.recipe, run.resolved
    data = resolved.get("data", {})
    metrics = run.metrics
    stopped = stopped_words(metrics, recipe.schedule.epochs, recipe.train.early_stop)
    return {
        "version": 1,
        "title": f"{recipe.name} on {data.get('name', recipe.data.source)}",
        "run": str(run.path),
        "resight": __version__,
        "live": None,
        "headline": _headline(run, recipe, data),
        "findings": [],
        "diagnosed": False,
        "notes": [
            *data.get("notes", []),
            *([MIXED] if recipe.augment.mixes else []),
            *([stopped] if stopped else []),
            *([REPEATED] if recipe.train.sampling == "balanced" else []),
        ],
        "classes": list(data.get("classes", [])),
        "confusion": None,
        "most_confused": [],
        "per_class": None,
        "metrics": metrics,
        "schedule": run.schedule_points(),
        "lr_test": _lr_test(run.lr_test, resolved),
        "calibration": None,
        "summary": None,
        "augmented": None,
        "gallery": None,
        "duplicates": [],
        "duplicates_total": None,
        "suspects_total": None,
    }


def summary_facts(run: Run) -> dict[str, Any]:
    """The model's table, as values and as `text`. Builds the net, so call it once per report."""
    made = summary(run.path)
    return {**made.to_dict(), "text": str(made)}


def _headline(run: Run, recipe: Recipe, data: dict[str, Any]) -> Headline:
    result = run.result
    runtime = run.environment.get("runtime", {})
    low, high = result.get("test_accuracy_95", (None, None))
    return {
        "accuracy": result.get("test_accuracy"),
        "low": low,
        "high": high,
        "beside": _beside(result),
        "loss": result.get("test_loss"),
        "images": result.get("test_images"),
        "split": "test",
        "weights": result.get("weights"),
        "train_accuracy": result.get("train_accuracy"),
        "epochs": result.get("epochs_trained", recipe.schedule.epochs),
        "seed": recipe.train.seed,
        "parameters": result.get("parameters"),
        "recipe": recipe.name,
        "data": data.get("name"),
        "train_seconds": result.get("train_seconds"),
        "wall_seconds": result.get("wall_seconds"),
        "resumed": result.get("resumed_from_step") is not None,
        "images_per_second": result.get("images_per_second"),
        "device": runtime.get("device_name"),
        "precision": runtime.get("precision"),
        "command": run.repeat_command(),
    }


def _beside(result: dict[str, Any]) -> str | None:
    if "guess_accuracy" not in result:  # not finished, or a run of an older version
        return None
    return beside_words(
        result["guess_accuracy"], result["balanced_accuracy"], result["test_classes"]
    )


def _add_predictions(facts: Facts, predictions: Predictions) -> None:
    few = len(predictions.classes) <= MAX_CONFUSION_CLASSES
    facts["confusion"] = predictions.confusion.tolist() if few else None
    facts["per_class"] = predictions.per_class()
    facts["most_confused"] = [
        {
            "true": row["true"],
            "predicted": row["predicted"],
            "count": row["count"],
            "share": row["share"],
        }
        for row in predictions.most_confused(MAX_CONFUSED_PAIRS)
    ]
    facts["suspects_total"] = len(suspects(predictions))


def _calibration(opened: OpenRun, predictions: Predictions) -> CalibrationFacts:
    plain = calibration(predictions)
    temperature, reason = opened.temperature, None
    fitted: Temperature | None = None
    if temperature is None:
        reason = "no validation split to fit it on: train with --val 0.1"
        if opened.run.resolved["data"]["val"]:
            command = evaluate_command(opened.run.path, "--split", "val")
            reason = f"no predictions for the validation split: `{command}` writes them"
    else:
        after = calibration(with_temperature(predictions, temperature)).ece
        fitted = {"value": temperature, "split": "val", "ece_after": after}
    return {
        "bins": plain.rows,
        "ece": plain.ece,
        "temperature": fitted,
        "temperature_reason": reason,
    }


def _lr_test(test: LrTest | None, resolved: dict[str, Any]) -> LrTestFacts | None:
    if test is None or not len(test.lrs):
        return None
    try:
        suggestions, refused = test.suggestions(), None
    except ResightError as error:
        suggestions, refused = {}, str(error)
    return {
        "lrs": test.lrs.tolist(),
        "losses": test.losses.tolist(),
        "smoothed": test.smoothed.tolist(),
        "suggestions": suggestions,
        "refused": refused,
        "method": test.method,
        "used": resolved.get("schedule", {}).get("lr_max"),
        "stop": test.stop,
    }


def _augmented(opened: OpenRun) -> Augmented:
    """Training images as the net saw them, converted back to pixels."""
    images, labels = opened.augmented(AUGMENTED)
    facts = opened.run.resolved["data"]
    mean, std = np.array(facts["mean"]), np.array(facts["std"])
    pixels = images.cpu().permute(0, 2, 3, 1).double().numpy() * std + mean
    made = sheet((pixels * 255).round().clip(0, 255).astype(np.uint8))
    assert made is not None  # a run has training images
    return {"sheet": made, "label": labels.tolist(), "mixed": _mixed(opened)}


def _mixed(opened: OpenRun) -> list[Mixture] | None:
    mixture = opened.mixture(AUGMENTED)
    if mixture is None:
        return None
    others, shares = (part.tolist() for part in mixture)
    pairs = zip(shares, others, strict=True)
    return [{"share": round(share, 4), "other": other} for share, other in pairs]


def _gallery(gallery: Gallery) -> GalleryFacts:
    predictions, rows = gallery.predictions, gallery.rows
    suspect = np.isin(rows, suspects(predictions))
    images = gallery.images
    if large := [i for i, photo in enumerate(gallery.photos) if photo]:
        images = images.copy()
        images[large] = 0  # black, which takes no bytes: they are shown as photos
    maps = gallery.maps
    return {
        "sheet": sheet(images, max_bytes=SHEET_BYTES),
        "folder": gallery.folder.as_uri() if gallery.folder else None,
        "photos": [photo.uri if photo else None for photo in gallery.photos],
        "total_mistakes": len(predictions) - predictions.correct,
        "shown_mistakes": gallery.mistakes,
        "id": predictions.ids[rows].tolist(),
        "true": gallery.true.tolist(),
        "predicted": gallery.predicted.tolist(),
        "loss": [round(value, 4) for value in predictions.losses[rows].tolist()],
        "confidence": [round(value, 4) for value in predictions.confidence[rows].tolist()],
        "top": [_top(predictions, int(row)) for row in rows],
        "suspect": suspect.tolist(),
        "maps": None
        if maps is None
        else {
            "method": maps.method,
            "layer": maps.layer,
            "height": maps.raw.shape[-2],
            "width": maps.raw.shape[-1],
            "predicted": _cells(maps.maps[:, 0].numpy()),
            "true": _cells(maps.maps[:, 1].numpy()),
            "predicted_empty": maps.empty[:, 0].tolist(),
            "true_empty": maps.empty[:, 1].tolist(),
        },
    }


def _top(predictions: Predictions, row: int) -> list[list[float]]:
    """The most probable classes and the true class, each with its probability."""
    p = predictions.probabilities[row]
    order = np.argsort(-p, kind="stable")[:TOP].tolist()
    true = int(predictions.labels[row])
    order += [] if true in order else [true]
    return [[label, round(float(p[label]), 4)] for label in order]


def _cells(maps: npt.NDArray[np.float32]) -> str:
    """Maps (n, h, w) with values in [0, 1], as bytes in base64."""
    return base64.b64encode((maps * 255).round().astype(np.uint8).tobytes()).decode("ascii")
