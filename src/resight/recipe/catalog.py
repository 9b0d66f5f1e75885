"""The named recipes: one function each, whose docstring states what was measured.

`docs/recipes.md` has the measurements with their commands; a docstring claims no more than that.
"""

from __future__ import annotations

import inspect
import math
import shlex
from collections.abc import Callable
from pathlib import Path

from resight.errors import ResightError, did_you_mean
from resight.recipe.recipe import Recipe
from resight.recipe.settings import (
    Adam,
    Augment,
    Data,
    Evaluate,
    Linear,
    Loss,
    Model,
    Muon,
    OneCycle,
    Plateau,
    Sgd,
    Train,
)

AUTO = "auto"  # the recipe that is chosen for the images: see `auto.py`
AUTO_LR = 0.25  # its LR max with Muon, whatever the batch


def custom_resnet() -> Recipe:
    """Custom ResNet (6.57 M parameters), Adam, linear one-cycle, LR from an LR test, 24 epochs.

    data      CIFAR-10
    accuracy  24 epochs: not measured yet; --epochs 3, JPEG copy of CIFAR-10: 80.65 % (n=1)
    time      --epochs 3: 16 min wall-clock on a CPU with 2 cores (n=1)
    command   resight train --recipe custom-resnet --data cifar10
    """
    return Recipe()


def custom_resnet_ln() -> Recipe:
    """custom-resnet-a with GroupNorm(1) ("layer norm") in its residual blocks, LR from an LR test.

    data      CIFAR-10
    accuracy  not measured yet
    command   resight train --recipe custom-resnet-ln --data cifar10
    """
    recipe = custom_resnet_a()
    return recipe.model_copy(
        update={
            "name": "custom-resnet-ln",
            "model": Model(norm="layer", conv_bias=True),
            "schedule": OneCycle(anneal="cosine", lr_end=0.0),
        }
    )


def custom_resnet_a() -> Recipe:
    """Custom ResNet with biases (6.57 M), batch 128, Adam, cosine one-cycle up to 0.0492.

    data      CIFAR-10
    accuracy  not measured yet
    command   resight train --recipe custom-resnet-a --data cifar10
    """
    return Recipe(
        name="custom-resnet-a",
        model=Model(conv_bias=True),
        optimizer=Adam(),
        schedule=OneCycle(anneal="cosine", lr_max=0.0492, lr_min=0.0492 / 8, lr_end=0.0),
        train=Train(batch_size=128),
    )


def custom_resnet_d() -> Recipe:
    """Custom ResNet, SGD with momentum, linear one-cycle from 0.0204 up to 0.1 and down to 0.

    data      CIFAR-10
    accuracy  not measured yet
    command   resight train --recipe custom-resnet-d --data cifar10
    """
    return Recipe(
        name="custom-resnet-d",
        optimizer=Sgd(),
        schedule=OneCycle(lr_max=0.1, lr_min=0.0204, lr_end=0.0),
    )


def fast() -> Recipe:
    """fastnet (1.97 M parameters), Muon, 9 epochs, five of them at 24 px: tuned for speed.

    data      CIFAR-10
    accuracy  JPEG copy of CIFAR-10: 90.69 % ± 0.10 (n=3)
    time      7 min 30 s wall-clock on a CPU with 2 cores (n=3)
    command   resight train --recipe fast --data cifar10
    """
    return Recipe(
        name="fast",
        model=Model(net="fastnet", logit_scale=1 / 256),
        augment=Augment(crop_pad_px=2, crop_fill="reflect", flip="alternating", cutout_px=0),
        # airbench94_muon's LRs are for a loss summed over the batch, here it is a mean over 1,000
        # images; decay takes 0.4 % off biases and head in the first step, next to none in the last
        optimizer=Muon(
            name="muon",
            weight_decay=0.004 / 0.17,
            bias_lr_scale=0.053 * 1000 / 0.17,
            head_lr_scale=0.67 * 1000 / 0.17,
        ),
        schedule=Linear(
            shape="linear", epochs=9, lr_max=0.17, stem_epochs=3.0, small_epochs=5.0, small_px=24
        ),
        loss=Loss(label_smoothing=0.2),
        # batch norm over 250 images, on a CPU and a GPU alike: it is the same net on both
        train=Train(batch_size=1000, last_batch="drop", norm_batch=250),
        evaluate=Evaluate(tta="flip-shift-unsure", when="end"),
    )


def best() -> Recipe:
    """fastnet-deep (9.92 M parameters), SGD with lookahead, 37 epochs: tuned for accuracy.

    data      CIFAR-10
    accuracy  not measured yet
    command   resight train --recipe best --data cifar10
    """
    lr_max = 9.0 * 1024 / 7850.67  # airbench96's is for a loss summed over 1,024 images
    return Recipe(
        name="best",
        model=Model(net="fastnet-deep", width=128, logit_scale=1 / 9),
        augment=Augment(crop_pad_px=4, crop_fill="reflect", flip="alternating", cutout_px=12),
        optimizer=Sgd(momentum=0.85, nesterov=True, weight_decay=1.3653 / 1024, bias_lr_scale=64.0),
        schedule=OneCycle(
            epochs=37, peak_epoch=3.7, lr_max=lr_max, lr_min=0.2 * lr_max, lr_end=0.0
        ),
        loss=Loss(label_smoothing=0.2),
        train=Train(batch_size=1024, last_batch="drop", lookahead=5),
        evaluate=Evaluate(tta="flip-shift", when="end"),
    )


def custom_resnet_fast() -> Recipe:
    """Custom ResNet, SGD, LR up to 0.4 as in DavidNet, label smoothing, logits × 0.125, 24 epochs.

    data      CIFAR-10
    accuracy  not measured yet
    command   resight train --recipe custom-resnet-fast --data cifar10
    """
    return Recipe(
        name="custom-resnet-fast",
        model=Model(logit_scale=0.125),
        augment=Augment(crop_fill="reflect", flip="alternating"),
        optimizer=Sgd(momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=OneCycle(lr_max=0.4, lr_min=0.0, lr_end=0.0),
        loss=Loss(label_smoothing=0.2),
        train=Train(last_batch="drop"),
        evaluate=Evaluate(tta="flip"),
    )


def resnet18() -> Recipe:
    """ResNet-18 with a CIFAR stem (11.17 M parameters), SGD, linear one-cycle up to 0.1.

    data      CIFAR-10
    accuracy  not measured yet
    command   resight train --recipe resnet18 --data cifar10
    """
    return Recipe(
        name="resnet18",
        model=Model(net="resnet18"),
        optimizer=Sgd(),
        schedule=OneCycle(lr_max=0.1, lr_min=0.0204, lr_end=0.0),
    )


def resnet18_gn() -> Recipe:
    """ResNet-18 with GroupNorm(1), last stage at 8×8, SGD, linear one-cycle up to 0.1, 20 epochs.

    data      CIFAR-10
    accuracy  not measured yet
    command   resight train --recipe resnet18-gn --data cifar10
    """
    return Recipe(
        name="resnet18-gn",
        model=Model(net="resnet18-gn"),
        optimizer=Sgd(),
        schedule=OneCycle(epochs=20, peak_epoch=6, lr_max=0.1, lr_min=0.04, lr_end=0.0),
    )


def plateau() -> Recipe:
    """Custom ResNet, SGD, LR from an LR test, divided by 10 on a plateau of the loss, 40 epochs.

    data      CIFAR-10; watches the validation loss with --val, else the training loss
    accuracy  not measured yet
    command   resight train --recipe plateau --data cifar10 --val 0.1
    """
    return Recipe(
        name="plateau",
        optimizer=Sgd(),
        schedule=Plateau(shape="plateau", epochs=40),
    )


def digits() -> Recipe:
    """A narrow custom ResNet (width 16) on scikit-learn's 8×8 scans of digits, no flip.

    data      digits: 1,438 training and 359 test images, bundled with scikit-learn
    accuracy  99.00 % ± 0.51 (n=5)
    time      8 s wall-clock on a CPU with 2 cores (n=3)
    command   resight train --recipe digits
    """
    return Recipe(
        name="digits",
        model=Model(width=16),
        data=Data(source="digits", image_size=8),
        augment=Augment(crop_pad_px=1, flip="none", cutout_px=0),
        schedule=OneCycle(epochs=20, peak_epoch=5),
        train=Train(batch_size=64),
    )


_FUNCTIONS: tuple[Callable[[], Recipe], ...] = (
    custom_resnet,
    custom_resnet_ln,
    custom_resnet_a,
    custom_resnet_d,
    fast,
    best,
    custom_resnet_fast,
    resnet18,
    resnet18_gn,
    plateau,
    digits,
)
RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__.replace("_", "-"): function for function in _FUNCTIONS
}


def promise(name: str) -> str:
    """The dedented docstring of a named recipe: what it is in one line, then what was measured."""
    return inspect.getdoc(RECIPES[name]) or ""


def own_lr(recipe: Recipe) -> float | None:
    """The LR max that the named recipe of `recipe`'s name sets itself, for `recipe`'s batch.

    None if there is none, or if another net or optimizer makes it meaningless. `auto` is such a
    name, for nets that learn with Muon.
    """
    if recipe.name == AUTO and isinstance(recipe.optimizer, Muon):
        return AUTO_LR
    named = RECIPES[recipe.name]() if recipe.name in RECIPES else None
    if named is None or not isinstance(named.schedule.lr_max, float):
        return None
    if (named.model.net, named.optimizer.name) != (recipe.model.net, recipe.optimizer.name):
        return None
    batches = recipe.train.batch_size / named.train.batch_size
    return named.schedule.lr_max * float(batches**named.optimizer.lr_batch_power)


def is_own_lr(recipe: Recipe, lr: float | str | None) -> bool:
    """Whether `lr` is the LR max that the named recipe sets itself: see `own_lr`."""
    own = own_lr(recipe)
    return own is not None and isinstance(lr, float) and math.isclose(own, lr)


def lower_lr(recipe: Recipe, lr_max: float) -> float:
    """What to try where `lr_max` was too high: the recipe's own LR, else a tenth of `lr_max` or the
    optimizer's usual LR, the lower of them."""
    own, usual = own_lr(recipe), recipe.optimizer.usual_lr(recipe.train.batch_size)
    if own is None or own >= lr_max:
        own = min(lr_max / 10, usual)
    return float(f"{own:.2g}")


def is_file(recipe: str | Path) -> bool:
    """Whether a recipe is asked for by its file, which may be missing, and not by its name."""
    name = str(recipe)
    if name in RECIPES or name == AUTO:
        return False
    return name.endswith((".toml", ".json")) or Path(name).is_file()


def find_recipe(recipe: str | Path | Recipe) -> Recipe:
    """The recipe of that name or in that TOML or JSON file; a `Recipe` is returned as it is.

    Raises `ResightError` with the nearest known name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    name = str(recipe)
    if name in RECIPES:
        return RECIPES[name]()
    if name == AUTO:
        raise ResightError(
            "recipe 'auto' is chosen for the images of a training: `resight train --recipe auto "
            "--data DIR`, whose run folder then has it as recipe.json"
        )
    if is_file(name):
        return Recipe.load(name)
    hint = did_you_mean(name, [*RECIPES, AUTO])
    if Path(name).is_dir():
        hint = f"; it is a folder: did you mean --data {shlex.quote(name)}?"
    raise ResightError(f"recipe '{name}' is neither a known name nor a file{hint}")
