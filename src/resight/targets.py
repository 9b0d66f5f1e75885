"""What a user means by NET, RECIPE or RUN where a verb takes any of them."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from resight.catalog import RECIPES, find_recipe
from resight.errors import ResightError, did_you_mean
from resight.models.names import NETS
from resight.models.summary import ModelSummary, summarize
from resight.recipe import Recipe
from resight.run import load_run
from resight.settings import Augment, Data, Model
from resight.state import init_net


def summary(
    target: str | Path | Recipe | nn.Module = "custom-resnet",
    *,
    blocks: bool = False,
    classes: int = 10,
    channels: int = 3,
    image_size: int = 32,
) -> ModelSummary:
    """The layers of a net: a recipe's or net's name, a recipe, a TOML file, a run, or any module.

    `blocks` adds a row for each residual block. `classes`, `channels` and `image_size` describe the
    images for a net or recipe by name (a recipe knows its size, a run knows all three). Raises
    `ResightError`.
    """
    if isinstance(target, nn.Module):
        return summarize(target, (channels, image_size, image_size), blocks=blocks)
    if isinstance(target, str | Path) and (Path(target) / "recipe.json").is_file():
        run = load_run(target)
        recipe, facts = run.recipe, run.resolved.get("data", {})
        classes = len(facts.get("classes", range(classes)))
        channels = facts.get("channels", channels)
    elif isinstance(target, str) and target in NETS:
        recipe = Recipe(
            model=Model(net=target),
            data=Data(image_size=image_size),
            augment=Augment(crop_pad_px=0, cutout_px=0),
        )
    else:
        recipe = _recipe(target)
        channels = 1 if recipe.data.source == "digits" else channels
    size = recipe.data.image_size
    model = init_net(recipe, classes=classes, channels=channels)
    return summarize(model, (channels, size, size), blocks=blocks)


def _recipe(target: str | Path | Recipe) -> Recipe:
    try:
        return find_recipe(target)
    except ResightError as error:
        if str(target).endswith((".toml", ".json")) or Path(str(target)).is_file():
            raise
        names = sorted({*NETS, *RECIPES})
        raise ResightError(
            f"'{target}' is neither a net, a recipe nor a run{did_you_mean(str(target), names)}"
        ) from error
