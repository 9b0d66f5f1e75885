"""Run folders as a training leaves them, without a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from resight.recipe.recipe import Recipe
from resight.runs.predictions import Predictions
from resight.runs.run import Run

CLASSES = ("cat", "dog", "owl")
HOSTILE = "</script><img src=x onerror=alert(1)>|`*_[x](y)\x1b[31m\n# 🦊"


def environment(device: str = "a processor") -> dict[str, Any]:
    """environment.json of a run on the CPU."""
    runtime = {
        "device": "cpu",
        "device_name": device,
        "precision": "bf16",
        "threads": 1,
        "deterministic": False,
        "executor": "eager",
        "torch": "2.13.0",
    }
    return {
        "resight": "0.1.0",
        "python": "3.11.7",
        "platform": "Linux x86_64",
        "runtime": runtime,
        "command": None,
        "started": "2026-11-21T17:23:30Z",
    }


def resolved(classes: tuple[str, ...] = CLASSES, **data: Any) -> dict[str, Any]:
    """resolved.json of a run whose LRs are not known yet; data: what is said of its images."""
    facts = {
        "name": "pets",
        "source": "/data/pets",
        "fingerprint": "same",
        "classes": list(classes),
        "channels": 3,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "train": 10 * len(classes),
        "class_counts": [10] * len(classes),
        "val": 0,
        "test": 1,
        "notes": [],
        "bad": [],
    }
    return {"data": facts | data, "steps_per_epoch": 40}


def make_run(
    path: Path,
    said: str = "",
    *,
    changes: dict[str, Any] | None = None,
    accuracies: tuple[float, ...] = (0.25, 0.75, 0.5),
    split: str = "test",
    finished: bool = True,
    fingerprint: str = "same",
    classes: tuple[str, ...] = CLASSES,
    truth: str | None = None,
    ids: list[str] | None = None,
    found: bool = True,
    device: str = "a processor",
) -> Run:
    """A run folder as a training of three epochs leaves it, without a training.

    said: a letter an image, the first of its predicted class's name; truth: the same of its true
    class, all "c" unless given.
    """
    path.mkdir(parents=True)
    run, recipe = Run(path), Recipe().with_epochs(3).with_changes(changes or {})
    letters = [name[0] for name in classes]
    labels = np.array([letters.index(c) for c in truth or "c" * len(said)], dtype=np.int64)
    logits = np.zeros((len(said), len(classes)), dtype=np.float32)
    for i, letter in enumerate(said):
        logits[i, letters.index(letter)] = 1 + i  # the later, the surer
    names = np.array(ids or [f"test/{i}.png" for i in range(len(said))], dtype=np.str_)
    predictions = Predictions(logits, labels, names, classes)
    run.write("recipe.json", recipe.to_dict())
    facts = resolved(
        classes,
        source="/data/pets" if fingerprint == "same" else f"/data/{fingerprint}",
        fingerprint=fingerprint,
        test=len(said) or 1,
    )
    run.write(
        "resolved.json",
        {
            **facts,
            "found": {"lr_max": 0.0125} if found else {},
            "schedule": {"lr_max": 0.0125},
        },
    )
    run.write("environment.json", environment(device))
    for epoch, accuracy in enumerate(accuracies, 1):
        measured = {f"{split}_loss": 2.5 - epoch / 2, f"{split}_accuracy": accuracy}
        train = {"train_loss": 2.0, "train_accuracy": 0.875, "train_seconds": 1.5}
        train |= {"step": 40 * epoch, "lr": 0.01, "images_per_second": 20.0}
        run.append_metrics({"epoch": epoch, **train, **measured})
    if finished:
        run.write_files({"predictions.npz": predictions.to_bytes()})
        result = {
            "run": str(path),
            "recipe": recipe.name,
            "data": "pets",
            "seed": recipe.train.seed,
            "epochs": 3,
            "epochs_trained": len(accuracies),
            "lr_max": 0.0125,
            "test_loss": predictions.loss,
            "train_accuracy": 0.875,
            "timings": {},
            "resumed_from_step": None,
            "images_per_second": 20.0,
            "weights": "last epoch",
            "test_accuracy": predictions.accuracy,
            "test_accuracy_95": list(predictions.accuracy_interval),
            "test_images": len(said),
            "parameters": 6573130,
            "train_seconds": 4.5,
            "wall_seconds": 1234.5,
            "device": device,
            "precision": "bf16",
        }
        run.write("result.json", result)
    return run
