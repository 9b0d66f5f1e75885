"""Named sets of augmentations, which scale with the side of the images: `augment.policy`.

A policy is a word for many settings: it is replaced by them when a recipe is made, which keeps them
whole. `auto` is another matter: it is chosen for the images of a training (`auto.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resight.errors import did_you_mean
from resight.recipe.settings import Augment

AUTO = "auto"
OFF = Augment(crop_pad_px=0, flip="none", cutout_px=0)


def crop_px(side_px: int, part: int) -> int:
    """The padding for cropping: the side's `part`-th, but at least 1 where that is possible."""
    return min(max(1, side_px // part), side_px - 1)


def light(side_px: int) -> Augment:
    return OFF.model_copy(
        update={
            "crop_pad_px": crop_px(side_px, 16),
            "crop_fill": "reflect",
            "flip": "alternating",
        }
    )


def standard(side_px: int) -> Augment:
    return light(side_px).model_copy(
        update={
            "crop_pad_px": crop_px(side_px, 8),
            "rotate_deg": 15.0,
            "scale": 0.25,
            "brightness": 0.2,
            "contrast": 0.2,
            "saturation": 0.2,
        }
    )


def strong(side_px: int) -> Augment:
    return light(side_px).model_copy(
        update={
            "crop_pad_px": crop_px(side_px, 8),
            "trivialaugment": True,
            "erase": 0.25,
            "erase_area": 0.25,
            "mixup": 0.2,
            "cutmix": 1.0,
        }
    )


POLICIES: dict[str, Callable[[int], Augment]] = {
    "none": lambda side_px: OFF,
    "light": light,
    "standard": standard,
    "strong": strong,
}


def expanded(settings: Mapping[str, Any], side_px: int) -> dict[str, Any]:
    """The section `augment`, its `policy` replaced by what it sets for images of `side_px`; other
    `settings` win over those.

    Raises `ValueError` for an unknown policy and for one that sets nothing.
    """
    given = dict(settings)
    name = given.pop("policy")
    if name == AUTO:
        raise ValueError(
            "augment.policy = 'auto' is chosen for the images of a training: ask for it with "
            "`resight train --data DIR`, by --set augment.policy=auto or in the file of --recipe"
        )
    if name not in POLICIES:
        known = [*POLICIES, AUTO]
        raise ValueError(
            f"augment.policy = {name!r}: unknown policy{did_you_mean(str(name), known)}"
        )
    chosen = POLICIES[name](side_px).model_dump()
    if chosen.keys() <= given.keys():
        raise ValueError(
            f"augment.policy = '{name}' has no effect, as all settings are given beside it: leave "
            "out those that it is to choose"
        )
    return chosen | given
