"""The facts of a report as plain JSON values: what `page.py` and `readme.py` show.

While a run trains most of them are None, and the page leaves their sections out.
"""

from __future__ import annotations

import base64
import shlex
from typing import Any

import numpy as np
import numpy.typing as npt

from resight.diagnosis.prediction_checks import suspects
from resight.errors import ResightError
from resight.findings import Diagnosis
from resight.look.open_run import OpenRun
from resight.recipe.recipe import Recipe
from resight.render.sprites import sheet
from resight.reporting.gallery import Gallery
from resight.runs.calibration import calibration, with_temperature
from resight.runs.lr_test import LrTest
from resight.runs.predictions import Predictions
from resight.runs.run import Run
from resight.version import __version__

SHEET_BYTES = 2_500_000  # of the gallery's images: with the maps and words a page of 5 MB at most
MOST_CLASSES = 100  # of a confusion matrix that a person can read
MOST_DUPLICATES = 100
TOP = 5  # classes shown of each image
AUGMENTED = 40


def run_facts(opened: OpenRun, diagnosis: Diagnosis, gallery: Gallery | None) -> dict[str, Any]:
    """Of a run as it is now. All values are plain, none is NaN."""
    facts = base_facts(opened.run)
    predictions = opened.predictions
    facts["findings"] = diagnosis.to_dict()["findings"]
    facts["diagnosed"] = True
    facts["notes"] += [f"not looked at: {reason}" for reason in diagnosis.skipped]
    if predictions is not None:
        facts |= _prediction_facts(predictions)
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
            for d in opened.duplicates[:MOST_DUPLICATES]
        ]
    if gallery is not None:
        facts["gallery"] = _gallery(gallery)
        if gallery.no_maps:
            facts["notes"].append(f"no Grad-CAM: {gallery.no_maps}")
    return facts


def base_facts(run: Run) -> dict[str, Any]:
    """What a run's small files say: enough for a run that still trains, and cheap."""
    recipe, resolved = run.recipe, run.resolved
    data = resolved.get("data", {})
    metrics = run.metrics
    return {
        "version": 1,
        "title": f"{recipe.name} on {data.get('name', recipe.data.source)}",
        "run": str(run.path),
        "resight": __version__,
        "live": None,
        "headline": _headline(run, recipe, data),
        "findings": [],
        "diagnosed": False,
        "notes": list(data.get("notes", [])),
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
    """The model's table; it builds the net, so once a report."""
    from resight.look.summary import summary

    return summary(run.path).to_dict()


def _headline(run: Run, recipe: Recipe, data: dict[str, Any]) -> dict[str, Any]:
    result = run.result
    runtime = run.environment.get("runtime", {})
    low, high = result.get("test_accuracy_95", (None, None))
    return {
        "accuracy": result.get("test_accuracy"),
        "low": low,
        "high": high,
        "loss": result.get("test_loss"),
        "images": result.get("test_images"),
        "split": "test",
        "weights": result.get("weights"),
        "train_accuracy": result.get("train_accuracy"),
        "epochs": recipe.schedule.epochs,
        "seed": recipe.train.seed,
        "parameters": result.get("parameters"),
        "recipe": recipe.name,
        "data": data.get("name"),
        "train_seconds": result.get("train_seconds"),
        "wall_seconds": result.get("wall_seconds"),
        "images_per_second": result.get("images_per_second"),
        "device": runtime.get("device_name"),
        "precision": runtime.get("precision"),
        "command": run.repeat_command(),
    }


def _prediction_facts(predictions: Predictions) -> dict[str, Any]:
    few = len(predictions.classes) <= MOST_CLASSES
    return {
        "confusion": predictions.confusion.tolist() if few else None,
        "per_class": predictions.per_class(),
        "most_confused": [
            {key: row[key] for key in ("true", "predicted", "count", "share")}
            for row in predictions.most_confused(20)
        ],
        "suspects_total": len(suspects(predictions)),
    }


def _calibration(opened: OpenRun, predictions: Predictions) -> dict[str, Any]:
    plain = calibration(predictions)
    temperature, reason = opened.temperature, None
    fitted = None
    if temperature is None:
        reason = "no validation split to fit it on: train with --val 0.1"
        if opened.run.resolved["data"]["val"]:
            path = shlex.quote(str(opened.run.path))
            reason = f"no predictions of validation: `resight evaluate {path} --split val`"
    else:
        after = calibration(with_temperature(predictions, temperature)).ece
        fitted = {"value": temperature, "split": "val", "ece_after": after}
    return {
        "bins": plain.rows,
        "ece": plain.ece,
        "temperature": fitted,
        "temperature_reason": reason,
    }


def _lr_test(test: LrTest | None, resolved: dict[str, Any]) -> dict[str, Any] | None:
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


def _augmented(opened: OpenRun) -> dict[str, Any]:
    """Training images as the net saw them, turned back into pixels."""
    images, labels = opened.augmented(AUGMENTED)
    facts = opened.run.resolved["data"]
    mean, std = np.array(facts["mean"]), np.array(facts["std"])
    pixels = images.cpu().permute(0, 2, 3, 1).double().numpy() * std + mean
    return {
        "sheet": sheet((pixels * 255).round().clip(0, 255).astype(np.uint8)),
        "label": labels.tolist(),
    }


def _gallery(gallery: Gallery) -> dict[str, Any]:
    predictions, rows = gallery.predictions, gallery.rows
    suspect = np.isin(rows, suspects(predictions))
    maps = gallery.maps
    return {
        "sheet": sheet(gallery.images, max_bytes=SHEET_BYTES),
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
    """The most probable classes, and the true one."""
    p = predictions.probabilities[row]
    order = np.argsort(-p, kind="stable")[:TOP].tolist()
    true = int(predictions.labels[row])
    order += [] if true in order else [true]
    return [[label, round(float(p[label]), 4)] for label in order]


def _cells(maps: npt.NDArray[np.float32]) -> str:
    """Maps in [0, 1], (n, h, w), as bytes in base64."""
    return base64.b64encode((maps * 255).round().astype(np.uint8).tobytes()).decode("ascii")
