"""The options that several verbs share, with their help, and how they change a recipe."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from resight.cli.complete import recipe_names, words

SOURCES = words("cifar10", "cifar100", "digits")

RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="A name (see `resight recipes`), `auto` (chosen for the images), or a TOML file.",
        autocompletion=recipe_names,
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="cifar10, cifar100, digits, or a folder with one sub-folder per class.",
        autocompletion=SOURCES,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Set any field of the recipe, e.g. optimizer.weight_decay=0. Repeatable."
    ),
]
LrOption = Annotated[
    str | None, typer.Option("--lr", help="Maximum learning rate, or `find` to run an LR test.")
]
BatchOption = Annotated[int | None, typer.Option("--batch-size", help="Images per step.")]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Seed of the weights, data order and augmentation.")
]
ValOption = Annotated[
    float | None,
    typer.Option("--val", help="Fraction of the training images held out for validation."),
]
GroupOption = Annotated[
    str | None,
    typer.Option(
        "--group",
        help="Regular expression, searched in the images' paths; images in which its (…) is the "
        "same, such as one person's, stay on one side of every split.",
        metavar="REGEX",
    ),
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option(
        "--image-size", help="Side in px to which images are scaled.", metavar="PX", min=1
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device", help="auto, cpu or cuda.", autocompletion=words("auto", "cpu", "cuda")
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        help="auto, fp32, bf16 or fp16.",
        autocompletion=words("auto", "fp32", "bf16", "fp16"),
    ),
]
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        help="eager, captured (as CUDA graphs) or auto (captured on a GPU).",
        autocompletion=words("auto", "eager", "captured"),
    ),
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Skip files that can't be read as images.")
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON; everything else goes to stderr."),
]


def changes_of(pairs: list[str] | None, **words: Any) -> dict[str, Any]:
    """`--set` and the dedicated options (`words`), as the public functions take them."""
    from resight.recipe.overrides import parse_setting

    return dict(parse_setting(pair) for pair in pairs or []) | words
