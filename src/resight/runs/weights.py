"""`model.safetensors`: a net's weights and everything needed to use it, without code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from resight.data.types import ImageData
from resight.errors import ResightError
from resight.files import write_atomically
from resight.models.build import build_net
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Model
from resight.runs.commands import resume_command


def save_model(path: Path, model: nn.Module, recipe: Recipe, data: ImageData) -> None:
    """Write the weights (contiguous, fp32), with net, classes and statistics as metadata."""
    about = {
        "model": recipe.model.model_dump(mode="json"),
        "classes": list(data.classes),
        "channels": data.channels,
        "image_size": data.image_size,
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
        "tta": recipe.evaluate.tta,
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata = {"resight": json.dumps(about, ensure_ascii=False)}
    write_atomically(path, safetensors.torch.save(tensors, metadata=metadata))


def read_about(path: Path) -> dict[str, Any]:
    """The metadata that `save_model` wrote. Raises `ResightError` for any other file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["resight"])
    except FileNotFoundError:
        raise ResightError(
            f"{path} is missing: the run has not finished; resume it with "
            f"`{resume_command(path.parent)}`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise ResightError(f"{path}: not a Resight model: {error}") from None
    assert isinstance(about, dict)
    return about


def load_model(path: Path) -> nn.Module:
    """The net in eval mode on the CPU, channels-last. Raises `ResightError`."""
    about = read_about(path)
    settings = Model.model_validate(about["model"])
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, then overwritten
        model = build_net(
            settings,
            classes=len(about["classes"]),
            channels=about["channels"],
            image_size=about["image_size"],
        )
    tensors = safetensors.torch.load_file(path)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            value.copy_(tensors[key])
    return model.to(memory_format=torch.channels_last).eval()  # type: ignore[no-any-return, call-overload]
