"""`summary`: the layers of a net, given as a net, a recipe or a run."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from resight.engine.state import init_net
from resight.errors import ResightError, did_you_mean
from resight.models.summary import ModelSummary, summarize
from resight.recipe.catalog import RECIPES, find_recipe
from resight.recipe.nets import NETS
from resight.recipe.recipe import Recipe
from resight.runs.run import load_run


def summary(
    target: str | Path | Recipe | nn.Module = "custom-resnet",
    *,
    blocks: bool = False,
    classes: int = 10,
    channels: int = 3,
    image_size: int | None = None,
) -> ModelSummary:
    """The layers of a net: a recipe's or net's name, a recipe, a TOML file, a run, or any module.

    `blocks` adds a row for each residual block. `classes`, `channels` and `image_size` describe the
    images for a net (32 px by default) or a recipe, which has its own image size; a run knows all
    three. Raises `ResightError`.
    """
    if isinstance(target, nn.Module):
        size = image_size or 32
        return summarize(target, (channels, size, size), blocks=blocks)
    if isinstance(target, str | Path) and (Path(target) / "recipe.json").is_file():
        run = load_run(target)
        recipe, facts = run.recipe, run.resolved.get("data", {})
        classes = len(facts.get("classes", range(classes)))
        channels = facts.get("channels", channels)
    elif isinstance(target, str) and target in NETS:
        fields: dict[str, object] = {"augment.crop_pad_px": 0, "augment.cutout_px": 0}
        size = 32 if image_size is None else image_size
        recipe = Recipe().with_changes({**fields, "model.net": target, "data.image_size": size})
    else:
        recipe = _recipe(target)
        channels = 1 if recipe.data.source == "digits" else channels
    size = recipe.data.image_size
    if image_size not in (None, size):
        raise ResightError(
            f"image_size = {image_size}: {target} is for {size} px; give a net to use another size"
        )
    model = init_net(recipe, classes=classes, channels=channels)
    return summarize(model, (channels, size, size), blocks=blocks)


def _recipe(target: str | Path | Recipe) -> Recipe:
    try:
        return find_recipe(target)
    except ResightError as error:
        if str(target).endswith((".toml", ".json")) or Path(str(target)).is_file():
            raise
        names = sorted({*NETS, *RECIPES})
        hint = did_you_mean(str(target), names)
        raise ResightError(
            f"'{target}' is not a net, a recipe, a recipe file or a run{hint}"
        ) from error
