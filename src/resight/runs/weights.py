"""`model.safetensors`: a net's weights and everything needed to use it, without code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from resight.data.types import ImageData
from resight.engine.state import misfit
from resight.errors import ResightError, first_line, listed
from resight.formats import with_format
from resight.models.build import build_net
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Model
from resight.runs.commands import resume_command
from resight.runs.manifest import read_file
from resight.runs.schemas import About, parsed
from resight.validation import fault


def model_bytes(model: nn.Module, recipe: Recipe, data: ImageData) -> bytes:
    """The weights (contiguous, fp32), with net, classes and statistics as metadata."""
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
    metadata = {"resight": json.dumps(with_format(about), ensure_ascii=False)}
    content: bytes = safetensors.torch.save(tensors, metadata=metadata)
    return content


@dataclass(frozen=True)
class Weights:
    """A model's file: about, what is known of the net, and its tensors by name."""

    path: Path
    about: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> Weights:
        """Raises `ResightError` for anything that `model_bytes` did not write."""
        try:
            content = read_file(path)
        except FileNotFoundError:
            raise _missing(path) from None
        try:
            tensors = safetensors.torch.load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            about = parsed(About, header["__metadata__"]["resight"], path)
        except ResightError:
            raise
        except Exception as error:  # other files raise a dozen different types
            raise not_a_model(path, first_line(error)) from None
        return cls(path, about, tensors)

    def check_of(self, recipe: Recipe, classes: tuple[str, ...]) -> None:
        """Raise `ResightError` unless it is a net of this recipe for these classes."""
        ours = (recipe.model, recipe.data.image_size, classes)
        theirs = (self.settings, self.about["image_size"], tuple(self.about["classes"]))
        names = ("architecture", "image size", "classes")
        if differ := [n for n, a, b in zip(names, ours, theirs, strict=True) if a != b]:
            raise ResightError(
                f"{self.path}: not the net of this run (different {listed(differ)}): restore the "
                "run's own"
            )

    @property
    def settings(self) -> Model:
        """What the net is built from. Raises `ResightError` for what is none of our nets."""
        try:
            return Model.model_validate(self.about["model"])
        except ValidationError as error:
            raise not_a_model(self.path, fault(error.errors(include_url=False)[0])) from None


def _missing(path: Path) -> ResightError:
    if not (path.parent / "recipe.json").is_file():
        return ResightError(
            f"{path} is missing: give a run's folder, or what `resight export` wrote"
        )
    done = (path.parent / "result.json").is_file()
    why = (
        "write it again"
        if done
        else "the run has not finished: wait for it or, if it has stopped, resume it"
    )
    return ResightError(f"{path} is missing: {why} with `{resume_command(path.parent)}`")


def not_a_model(path: Path, why: str) -> ResightError:
    return ResightError(
        f"{path}: not a Resight model, or damaged ({why}): restore an intact copy or start a new "
        "run"
    )


def load_model(path: Path | Weights) -> nn.Module:
    """The net in eval mode on the CPU, channels-last. Raises `ResightError`."""
    weights = path if isinstance(path, Weights) else Weights.read(path)
    about, tensors = weights.about, weights.tensors
    settings = weights.settings
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, then overwritten
        model = build_net(
            settings,
            classes=len(about["classes"]),
            channels=about["channels"],
            image_size=about["image_size"],
        )
    state = model.state_dict()
    if why := misfit(state, tensors):
        raise not_a_model(weights.path, why)
    with torch.no_grad():
        for key, value in state.items():
            value.copy_(tensors[key])
    return model.to(memory_format=torch.channels_last).eval()  # type: ignore[no-any-return, call-overload]
