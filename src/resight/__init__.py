"""Resight trains small-image classifiers in seconds and shows what they see.

The names below load what they need on first use: `import resight` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resight.comparison.compare import compare
    from resight.data.types import ImageData, Split
    from resight.deploy.export import export
    from resight.deploy.portable import load_predictor
    from resight.deploy.predict import predict
    from resight.diagnosis.diagnose import diagnose
    from resight.errors import ResightError, ResightWarning
    from resight.findings import Diagnosis, Finding
    from resight.inspection.inspect import inspect_data
    from resight.inspection.result import Inspection
    from resight.look.cam import grad_cam
    from resight.look.evaluate import evaluate
    from resight.look.summary import summary
    from resight.machine.doctor import Checkup, doctor
    from resight.recipe.catalog import find_recipe
    from resight.recipe.recipe import Recipe
    from resight.reporting.report import report
    from resight.runs.answers import Answers
    from resight.runs.lr_test import LrTest
    from resight.runs.predictions import Predictions
    from resight.runs.run import Run, load_run
    from resight.runs.seeds import SeedsResult
    from resight.serving.serve import serve
    from resight.training.find_lr import find_lr
    from resight.training.interrupt import Interrupted
    from resight.training.reproduce import Reproduction, reproduce
    from resight.training.seeds import train_seeds
    from resight.training.train import train

from resight.version import __version__

_HOME = {
    "Answers": "runs.answers",
    "Checkup": "machine.doctor",
    "Diagnosis": "findings",
    "Finding": "findings",
    "Inspection": "inspection.result",
    "Interrupted": "training.interrupt",
    "ImageData": "data.types",
    "LrTest": "runs.lr_test",
    "Predictions": "runs.predictions",
    "Recipe": "recipe.recipe",
    "Reproduction": "training.reproduce",
    "ResightError": "errors",
    "ResightWarning": "errors",
    "Run": "runs.run",
    "SeedsResult": "runs.seeds",
    "Split": "data.types",
    "compare": "comparison.compare",
    "diagnose": "diagnosis.diagnose",
    "doctor": "machine.doctor",
    "evaluate": "look.evaluate",
    "export": "deploy.export",
    "find_lr": "training.find_lr",
    "find_recipe": "recipe.catalog",
    "grad_cam": "look.cam",
    "inspect_data": "inspection.inspect",
    "load_predictor": "deploy.portable",
    "load_run": "runs.run",
    "predict": "deploy.predict",
    "report": "reporting.report",
    "reproduce": "training.reproduce",
    "serve": "serving.serve",
    "summary": "look.summary",
    "train": "training.train",
    "train_seeds": "training.seeds",
}

__all__ = [
    "Answers",
    "Checkup",
    "Diagnosis",
    "Finding",
    "ImageData",
    "Inspection",
    "Interrupted",
    "LrTest",
    "Predictions",
    "Recipe",
    "Reproduction",
    "ResightError",
    "ResightWarning",
    "Run",
    "SeedsResult",
    "Split",
    "__version__",
    "compare",
    "diagnose",
    "doctor",
    "evaluate",
    "export",
    "find_lr",
    "find_recipe",
    "grad_cam",
    "inspect_data",
    "load_predictor",
    "load_run",
    "predict",
    "report",
    "reproduce",
    "serve",
    "summary",
    "train",
    "train_seeds",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'resight' has no attribute '{name}'")
    return getattr(importlib.import_module(f"resight.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
