"""What a diagnosis looks into, made without a training."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from resight.diagnosis.evidence import Evidence
from resight.recipe.recipe import Recipe
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


def recipe(**changes: Any) -> Recipe:
    return Recipe().with_changes({**SMALL, **changes})


def names(findings: Any) -> set[str]:
    return {finding.name for finding in findings}


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
