"""`auto`: a recipe chosen for the images at hand, by how many there are, how large, and what of.

The numbers were chosen by trials (`docs/log.md`) and are measured in `docs/small-sets.md`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resight.errors import listed
from resight.recipe.catalog import AUTO, AUTO_LR, digits, fast
from resight.recipe.nets import NETS
from resight.recipe.policies import crop_px
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Augment, Muon

SMALLEST_PX = 16  # that is worth a word
LARGE_PX = 64  # the largest side that is chosen of many classes
FEW_CLASSES = 4  # up to which a net of half the width on larger images is as good in half the time
NARROW_PX, NARROW_WIDTH = 96, 32
NARROW_LONGER = 1.6  # times the epochs of others: such photos gain most from more of them,
NARROW_SMALL = 3 / 4  # and lose nothing where more of them are of smaller images
FEW_IMAGES = 20_000  # up to which images are that large
MANY_IMAGES_PX = 32  # beyond
FAST_IMAGES, FAST_EPOCHS = 50_000, 9  # what `fast` is for
EPOCHS_POWER = 0.4  # fewer images are seen more often, but not as many times in all
MAX_EPOCHS = 60
STEPS_PER_EPOCH = 9  # about, of small data: batches as large as that allows
BATCHES = (16, 32, 64, 125, 250, 500, 1000)
PHOTO_PX = 48  # images whose shorter side is as long are photos rather than icons
ROTATE_DEG, SCALE = 15.0, 0.25
LETTER_WORDS = {"letter", "digit", "number", "char", "character"}  # beside it in a class's name
LETTER_WORDS |= {"lower", "upper", "lowercase", "uppercase", "small", "capital", "big"}
SIDES = (  # words of which a mirror image shows the other
    ("left", "right"),
    ("l", "r"),
    ("east", "west"),
    ("clockwise", "counterclockwise"),
    ("clockwise", "anticlockwise"),
)
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Images:
    """What is known of images before they are decoded. train: how many there are to train on;
    side_px: the median of their shorter sides."""

    train: int
    classes: tuple[str, ...]
    side_px: int


@dataclass(frozen=True)
class Choice:
    """A recipe. why: what was chosen and for what, a line each; () if it was given. others: what
    would be chosen for images of other sizes. most_minutes: what its training may take at most, if
    it may be shortened to that."""

    recipe: Recipe
    why: tuple[str, ...] = ()
    others: tuple[Recipe, ...] = ()
    most_minutes: float | None = None


def choose(
    images: Images,
    *,
    image_size: int | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    policy: str = AUTO,
) -> Recipe:
    """The recipe for `images`. image_size, batch_size, epochs, policy: given instead of chosen."""
    side = image_size or _side(images)
    narrow = _is_narrow(images, side)
    batch = batch_size or _batch(images.train)
    epochs = epochs or _epochs(images.train, narrow=narrow)
    base = _base(side)
    base, piece = base.with_epochs(epochs), base.train.norm_batch
    augment = augmentation(images, side).model_dump() if policy == AUTO else {"policy": policy}
    augment |= {} if may_be_mirrored(images.classes) else {"flip": "none"}
    changes = {
        "name": AUTO,
        "data.source": Recipe().data.source,
        "data.image_size": side,
        "train.batch_size": batch,
        "train.last_batch": "keep" if batch >= images.train else "drop",
        "evaluate.norm": "anew",  # the last steps saw few images
        **{f"augment.{key}": value for key, value in augment.items()},
    }
    if isinstance(base.optimizer, Muon):
        small_px = round(side * (1 / 2 if narrow else 3 / 4))
        small_epochs = NARROW_SMALL * epochs if narrow else base.schedule.small_epochs
        if small_px < NETS[base.model.net].smallest_px:
            small_px, small_epochs = 0, 0.0
        changes |= {
            "model.width": NARROW_WIDTH if narrow else base.model.width,
            "schedule.lr_max": AUTO_LR,
            "schedule.small_px": small_px,
            "schedule.small_epochs": small_epochs,
            # of larger images a machine may have to cut smaller pieces
            "train.norm_batch": 0 if batch == piece or batch % piece or side > LARGE_PX else piece,
        }
    return base.with_changes(changes)


def other_sizes(images: Images, side_px: int) -> tuple[int, ...]:
    """Sides in px that images might have instead of `side_px`."""
    return tuple(px for px in (side_px // 2, side_px * 2) if SMALLEST_PX <= px <= images.side_px)


def reasons(recipe: Recipe, images: Images) -> tuple[str, ...]:
    """What `recipe` is, which was chosen for `images` and may have been changed since, and what it
    was chosen for: two lines."""
    side, epochs, net = recipe.data.image_size, recipe.schedule.epochs, recipe.model.net
    usual = _base(side).model
    if net == usual.net and recipe.model.width != usual.width:
        net += f" of width {recipe.model.width}"
    what = f"about {images.side_px} px large"
    if recipe.augment.flip == "none":
        if of_symbols(images.classes):
            what = "letters or digits, so never mirrored"
        elif sides := left_and_right(images.classes):
            what = "among them '{}' and '{}', so never mirrored".format(*sides)
    return (
        f"auto: {net} at {side} px, batches of {recipe.train.batch_size}, {epochs} "
        f"epoch{'s' * (epochs > 1)}; images {augmented_words(recipe.augment)}",
        f"chosen for {images.train:,} training images of {len(images.classes)} classes, {what}",
    )


def augmented_words(augment: Augment) -> str:
    """What is done to images, in words."""
    colours = (augment.brightness, augment.contrast, augment.saturation, augment.hue_deg)
    done = {
        "cropped": augment.crop_pad_px,
        "mirrored": augment.flip != "none",
        f"turned by up to {augment.rotate_deg:g}°": augment.rotate_deg,
        "scaled": augment.scale,
        f"changed by {augment.randaugment} operations of RandAugment": augment.randaugment,
        "changed by TrivialAugment": augment.trivialaugment,
        "recoloured": any(colours) or augment.grey,
        "blurred": augment.blur,
        "covered in part": augment.cutout_px or augment.erase,
        "mixed": augment.mixes,
    }
    return listed([word for word, is_done in done.items() if is_done] or ["not augmented"])


def augmentation(images: Images, side_px: int) -> Augment:
    """The augmentation for `images`, scaled to `side_px`: what `auto` stands for as a policy."""
    photos, base = images.side_px >= PHOTO_PX, _base(side_px).augment
    changes: dict[str, Any] = {"crop_pad_px": crop_px(side_px, 8 if photos else 16)}
    if not may_be_mirrored(images.classes):
        changes |= {"flip": "none"}
    if photos:  # that were scaled down: what they show has any size and is seldom level
        changes |= {"rotate_deg": ROTATE_DEG, "scale": SCALE}
    return base.model_copy(update=changes)


def _base(side_px: int) -> Recipe:
    """The recipe that is changed to fit."""
    return fast() if side_px >= NETS["fastnet"].smallest_px else digits()


def may_be_mirrored(classes: Sequence[str]) -> bool:
    """Whether a mirror image of one of `classes` belongs to it, too."""
    return not of_symbols(classes) and left_and_right(classes) is None


def of_symbols(classes: Sequence[str]) -> bool:
    """Whether the classes are letters or digits, of which a mirror image is another one or none."""
    return bool(classes) and all(_is_symbol(name) for name in classes)


def left_and_right(classes: Sequence[str]) -> tuple[str, str] | None:
    """Two classes of which, by their names, a mirror image of one shows the other."""
    names = {tuple(_words(name)): name for name in classes}
    for words, name in names.items():
        for one, other in SIDES:
            swapped = tuple(other if word == one else word for word in words)
            if swapped != words and swapped in names:
                return name, names[swapped]
    return None


def _is_symbol(name: str) -> bool:
    """Whether a class is a letter or a digit."""
    rest = [word for word in _words(name) if word not in LETTER_WORDS] or [name.strip()]
    return len(rest) == 1 and (len(rest[0]) == 1 or rest[0] in NUMBER_WORDS)


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name.casefold())


def _side(images: Images) -> int:
    if images.train > FEW_IMAGES:
        return min(images.side_px, MANY_IMAGES_PX)
    if _is_narrow(images, images.side_px):
        return NARROW_PX
    return min(images.side_px, LARGE_PX)


def _is_narrow(images: Images, side_px: int) -> bool:
    """Whether a narrower net is enough for images of this side: there are few classes, and detail
    tells more than width."""
    return len(images.classes) <= FEW_CLASSES and side_px >= NARROW_PX


def _epochs(train: int, *, narrow: bool) -> int:
    more: float = (FAST_IMAGES / max(train, 1)) ** EPOCHS_POWER
    epochs = max(FAST_EPOCHS, min(MAX_EPOCHS, FAST_EPOCHS * more))
    return round(epochs * NARROW_LONGER if narrow else epochs)


def _batch(train: int) -> int:
    """The largest of `BATCHES` that leaves an epoch its steps."""
    return max((size for size in BATCHES if size * STEPS_PER_EPOCH <= train), default=BATCHES[0])
