"""`Request`: the arguments of a call of `train` or `train_seeds`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resight.data.auto import recipe_for, settled
from resight.data.types import ImageData
from resight.engine.runtime import RuntimeOptions
from resight.errors import ResightError
from resight.recipe.auto import Choice
from resight.recipe.overrides import requested
from resight.recipe.recipe import Recipe
from resight.training.costs import check_minutes


@dataclass(frozen=True)
class Request:
    """Raises `ResightError` for impossible minutes. recipe: None for the default or, when resuming,
    for the run's own."""

    recipe: str | Path | Recipe | None
    data: str | Path | ImageData | None
    changes: Mapping[str, Any]
    options: RuntimeOptions
    out: str | Path | None = None
    minutes: float | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        check_minutes(self.minutes)

    def new_recipe(self) -> Choice:
        """The recipe of a new training, and why it is that, if it was chosen for the images."""
        return recipe_for(self.recipe, self.data, self.changes)

    def settled(self, choice: Choice, images: ImageData) -> Choice:
        """`choice` when its images are decoded: see `auto.settled`."""
        return settled(choice, self.recipe, self.data, self.changes, images)

    def differences(self, begun: Recipe) -> list[str]:
        """How the request differs from the recipe of the run that it resumes."""
        asked = requested(begun if self.recipe is None else self.recipe, self.changes)
        return begun.differences(asked)

    def check_resumes(self, what: str) -> None:
        """Raise `ResightError` for options that only a new training can have."""
        if self.minutes is not None or self.out is not None or self.skip_bad:
            raise ResightError(
                f"{what} keeps its own --minutes, --out and --skip-bad: leave them out"
            )
