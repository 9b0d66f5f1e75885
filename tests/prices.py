"""Costs that are round, and the recipe of a net whose images may be smaller at first."""

from __future__ import annotations

from typing import Any

from jobs import recipe_of
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Constant, Data, Model
from resight.training.costs import Cost

COST = Cost(update=0.5, image={0: 0.1, 9: 0.04, 12: 0.06}, test_image=0.01)
ROUND = Cost(update=0.0, image={0: 0.1, 24: 0.1, 28: 0.1}, test_image=0.01)


def fastnet_of(**changes: Any) -> Recipe:
    schedule = {"epochs": 3, "lr_max": 1.0} | changes.pop("schedule", {})
    own = {"model": Model(net="fastnet", width=2), "data": Data(image_size=16)}
    return recipe_of(schedule=Constant(shape="constant", **schedule), **(own | changes))
