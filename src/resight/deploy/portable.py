"""`model.safetensors` on its own: weights with all that it takes to show images to the net."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch

from resight.engine.runtime import RuntimeOptions
from resight.errors import ResightError
from resight.recipe.settings import Fit
from resight.runs.predictor import Predictor
from resight.runs.run import MODEL, Run
from resight.runs.weights import Weights


def portable_bytes(weights: Weights, fit: Fit, temperature: float | None) -> bytes:
    """The same tensors, bit for bit; the metadata also says how photos become squares, and the
    temperature, where the run has one."""
    about = {**weights.about, "fit": fit}
    if temperature is not None:
        about["temperature"] = temperature
    content: bytes = safetensors.torch.save(
        weights.tensors, metadata={"resight": json.dumps(about)}
    )
    return content


def load_predictor(path: str | Path, *, device: str = "auto", precision: str = "auto") -> Predictor:
    """The net that `export` wrote, with all that it takes to show images to it.

    path: a Hub folder, an exported `model.safetensors`, or a run's folder. "auto" is what is best
    here; for a run, what it was trained with. Raises `ResightError`.
    """
    path = Path(path)
    if Run(path).begun:
        return Run(path).predictor(device=device, precision=precision)
    weights = Weights.read(path / MODEL if path.is_dir() else path)
    if "fit" not in weights.about:
        raise ResightError(
            f"{weights.path} does not say how photos become squares: give the run's folder, or "
            "what `resight export RUN --to safetensors` writes"
        )
    runtime = RuntimeOptions(device, precision).choose()
    about = weights.about
    return Predictor.of(weights, about["fit"], runtime, about.get("temperature"))
