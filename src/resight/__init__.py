"""Resight trains small-image classifiers in seconds and shows what they see.

The names below load what they need on first use: `import resight` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resight.cam import grad_cam
    from resight.catalog import find_recipe
    from resight.data.types import ImageData, Split
    from resight.diagnosis.diagnose import diagnose
    from resight.diagnosis.findings import Diagnosis, Finding
    from resight.errors import ResightError, ResightWarning
    from resight.evaluation import evaluate
    from resight.interrupt import Interrupted
    from resight.lr_curve import LrTest
    from resight.predictions import Predictions
    from resight.range_test import find_lr
    from resight.recipe import Recipe
    from resight.reporting.build import report
    from resight.reporting.comparison import compare
    from resight.run import Run, load_run
    from resight.seeds import train_seeds
    from resight.seeds_result import SeedsResult
    from resight.targets import summary
    from resight.training import train

__version__ = "0.1.0"

_HOME = {
    "Diagnosis": "diagnosis.findings",
    "Finding": "diagnosis.findings",
    "Interrupted": "interrupt",
    "ImageData": "data.types",
    "LrTest": "lr_curve",
    "Predictions": "predictions",
    "Recipe": "recipe",
    "ResightError": "errors",
    "ResightWarning": "errors",
    "Run": "run",
    "SeedsResult": "seeds_result",
    "Split": "data.types",
    "compare": "reporting.comparison",
    "diagnose": "diagnosis.diagnose",
    "evaluate": "evaluation",
    "find_lr": "range_test",
    "find_recipe": "catalog",
    "grad_cam": "cam",
    "load_run": "run",
    "report": "reporting.build",
    "summary": "targets",
    "train": "training",
    "train_seeds": "seeds",
}

__all__ = [
    "Diagnosis",
    "Finding",
    "ImageData",
    "Interrupted",
    "LrTest",
    "Predictions",
    "Recipe",
    "ResightError",
    "ResightWarning",
    "Run",
    "SeedsResult",
    "Split",
    "__version__",
    "compare",
    "diagnose",
    "evaluate",
    "find_lr",
    "find_recipe",
    "grad_cam",
    "load_run",
    "report",
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
