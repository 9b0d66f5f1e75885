"""The options that several verbs share, with their help, and what they change of a recipe."""

from __future__ import annotations

from typing import Annotated, Any

import typer

RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="A name (see `resight recipes`) or a TOML file.")
]
DataOption = Annotated[
    str | None,
    typer.Option("--data", help="cifar10, cifar100, digits, or a folder of images, one a class."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any field of the recipe, e.g. optimizer.weight_decay=0. Repeats."),
]
LrOption = Annotated[str | None, typer.Option("--lr", help="find, or the highest LR.")]
BatchOption = Annotated[int | None, typer.Option("--batch-size", help="Images a step.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Of weights, order, augmentation.")]
ValOption = Annotated[
    float | None, typer.Option("--val", help="Fraction of train held out for validation.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")]
ExecutorOption = Annotated[
    str, typer.Option("--executor", help="auto, eager, or captured: CUDA graphs, auto on a GPU.")
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out files that can't be read as images.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="The result on stdout as JSON, all else on stderr.")
]


def changes_of(pairs: list[str] | None, **words: Any) -> dict[str, Any]:
    """`--set` and the options of their own, as the public functions take them."""
    from resight.recipe.overrides import parse_setting

    return dict(parse_setting(pair) for pair in pairs or []) | words
