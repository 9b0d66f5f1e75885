"""`EpochPlan`: every random number of an epoch, drawn on the CPU for all N images.

Each number is keyed by (seed, epoch, purpose) and belongs to a sample, not to a place in a batch:
so the device, the batch size, the number of processes or an interruption cannot change what is
drawn, and switching one augmentation off leaves the others unchanged. A sample is an image, but
where classes are balanced: there the samples of an image that is repeated differ in their numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from resight.data.operations import OPERATIONS
from resight.data.types import ImageData
from resight.recipe.recipe import Recipe
from resight.recipe.settings import MAX_MAGNITUDE, Augment

MIN_ERASED = 0.02  # of the image's area, as in the paper on random erasing
MAX_ERASED_ASPECT = 1 / 0.3  # height over width, and its inverse


def generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """A CPU generator keyed by seed, epoch and purpose."""
    key = hashlib.blake2b(f"resight|{seed}|{epoch}|{purpose}".encode(), digest_size=8).digest()
    # torch takes [-2**63, 2**64); the half below 2**63 is plenty
    return torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)


@dataclass(frozen=True)
class EpochPlan:
    """order: int64 (N,), the samples in the order they are trained on. images: int64 (N,), the
    image of each sample; None if sample i is image i. Per sample: shifts int64
    (N, 2) in [0, 2·pad] (rows, columns), flips bool (N,), turns float32 (N, 2) in [-1, 1], of
    rotation and scale, tints float32 (N, 3) in [-1, 1], of brightness, contrast and saturation,
    operations int64 (N, n), of RandAugment or TrivialAugment, as places in `OPERATIONS`, strengths
    float32 (N, n) in [-1, 1], hues float32 (N,) in [-1, 1], greys bool (N,), blurs float32 (N,), σ
    in px, boxes int64 (N, 2), the cutout's upper left corner, erased int64 (N, 4), upper left
    corner, height and width of the erased rectangle, 0 without one.

    Of Mixup and CutMix: partners int64 (N,), the sample with which each is mixed, shares float32
    (N,) in [0, 1], of its own label, patches int64 (N, 3), upper left corner and side of the square
    that the partner covers, 0 where the image takes Mixup. What the recipe does not use is None.
    """

    order: Tensor
    images: Tensor | None
    shifts: Tensor | None
    flips: Tensor | None
    turns: Tensor | None
    tints: Tensor | None
    operations: Tensor | None
    strengths: Tensor | None
    hues: Tensor | None
    greys: Tensor | None
    blurs: Tensor | None
    boxes: Tensor | None
    erased: Tensor | None
    partners: Tensor | None
    shares: Tensor | None
    patches: Tensor | None

    @classmethod
    def of(cls, recipe: Recipe, data: ImageData, epoch: int) -> EpochPlan:
        """The numbers of `epoch` (from 0) of a training with `recipe` on `data.train`."""
        train, seed = data.train, recipe.train.seed
        images = None
        if recipe.train.sampling == "balanced":
            images = balanced(torch.from_numpy(train.labels), seed=seed, epoch=epoch)
        return cls.draw(
            len(train), data.image_size, recipe.augment, seed=seed, epoch=epoch, images=images
        )

    @classmethod
    def draw(
        cls,
        n: int,
        image_size: int,
        augment: Augment,
        *,
        seed: int,
        epoch: int,
        images: Tensor | None = None,
    ) -> EpochPlan:
        """The numbers of `epoch` (from 0) for `n` samples of `image_size` px; images: as in a
        plan."""

        def integers(purpose: str, high: int) -> Tensor:
            return torch.randint(high, (n, 2), generator=generator(seed, epoch, purpose))

        def uniform(purpose: str, columns: int) -> Tensor:
            return torch.rand((n, columns), generator=generator(seed, epoch, purpose))

        def signed(purpose: str, columns: int) -> Tensor:
            return 2 * uniform(purpose, columns) - 1

        pad, cutout = augment.crop_pad_px, augment.cutout_px
        turned = augment.rotate_deg or augment.scale
        tinted = augment.brightness or augment.contrast or augment.saturation
        order = torch.randperm(n, generator=generator(seed, epoch, "order"))
        partners = shares = patches = None
        if augment.mixes:
            # of the images that the epoch trains on, as often as it does
            chosen = torch.randint(len(order), (n,), generator=generator(seed, epoch, "partner"))
            partners = order[chosen]
            shares, patches = _mixtures(n, image_size, augment, seed=seed, epoch=epoch)
        operations = strengths = None
        if count := 1 if augment.trivialaugment else augment.randaugment:
            drawn = generator(seed, epoch, "operation")
            operations = torch.randint(len(OPERATIONS), (n, count), generator=drawn)
            strengths = signed("strength", count)
            if augment.randaugment:  # all as strong, in either direction
                magnitude = augment.randaugment_magnitude / MAX_MAGNITUDE
                strengths = magnitude * (1 - 2 * (strengths < 0).float())
        return cls(
            order=order,
            images=images,
            shifts=integers("crop", 2 * pad + 1) if pad else None,
            flips=_flips(n, augment, images, seed=seed, epoch=epoch),
            turns=signed("turn", 2) if turned else None,
            tints=signed("tint", 3) if tinted else None,
            operations=operations,
            strengths=strengths,
            hues=signed("hue", 1)[:, 0] if augment.hue_deg else None,
            greys=uniform("grey", 1)[:, 0] < augment.grey if augment.grey else None,
            blurs=_blurs(uniform("blur", 2), augment) if augment.blur else None,
            boxes=integers("cutout", image_size - cutout + 1) if cutout else None,
            erased=_erased(uniform("erase", 5), image_size, augment) if augment.erase else None,
            partners=partners,
            shares=shares,
            patches=patches,
        )

    @property
    def changes_values(self) -> bool:
        """Whether pixels get other values than those of the image."""
        parts = (self.turns, self.operations, self.tints, self.hues, self.greys, self.blurs)
        return any(part is not None for part in parts)

    def images_of(self, samples: Tensor) -> Tensor:
        """The images of `samples`, int64 (B,)."""
        return samples if self.images is None else self.images[samples]

    def batch(self, position: int, size: int) -> Tensor:
        """The samples of batch number `position` (from 0): int64 (B,), B = `size` or fewer."""
        return self.order[position * size : (position + 1) * size]

    def unmixed(self) -> EpochPlan:
        """The same without Mixup and CutMix."""
        return replace(self, partners=None, shares=None, patches=None)

    def to(self, device: torch.device) -> EpochPlan:
        return self.each(lambda part: part.to(device, non_blocking=True))

    def each(self, change: Callable[[Tensor], Tensor]) -> EpochPlan:
        """A plan whose tensors are changed by `change`."""
        parts = {name: part for name, part in vars(self).items() if part is not None}
        return replace(self, **{name: change(part) for name, part in parts.items()})


def _flips(
    n: int, augment: Augment, images: Tensor | None, *, seed: int, epoch: int
) -> Tensor | None:
    if augment.flip == "none":
        return None
    if augment.flip == "random":
        return torch.rand(n, generator=generator(seed, epoch, "flip")) < 0.5
    # alternating: half of the images start mirrored, then all are flipped each epoch
    # (airbench's derandomised flip: every image is seen both ways in any two epochs)
    first = torch.rand(n, generator=generator(seed, 0, "flip")) < 0.5
    if images is None:
        return first ^ bool(epoch % 2)
    return first[images] ^ ((epoch + _repeats(images)) % 2 == 1)


def _repeats(images: Tensor) -> Tensor:
    """How many samples of its image come before each sample: int64 (N,), for `images` of a plan."""
    order = images.argsort(stable=True)
    first = torch.searchsorted(images[order], images)
    return order.argsort() - first


def balanced(labels: Tensor, *, seed: int, epoch: int) -> Tensor:
    """Images of an epoch in which the classes are equally frequent: int64 (N,), for `labels` int64
    (N,).

    Each class has N / K of them, give or take one, and each image of a class as many as any other,
    give or take one: none twice before all were there once. Which ones have one more is drawn.
    """
    n, drawn = len(labels), generator(seed, epoch, "balanced")
    shuffled = torch.randperm(n, generator=drawn)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = torch.bincount(labels)
    there = counts.nonzero()[:, 0]
    each, rest = divmod(n, len(there))
    wanted = each * (counts > 0)
    wanted[there[torch.randperm(len(there), generator=drawn)[:rest]]] += 1
    classes = torch.repeat_interleave(wanted)  # of each sample
    places = torch.arange(n) - (wanted.cumsum(0) - wanted)[classes]  # within its class
    starts = counts.cumsum(0) - counts
    return by_class[starts[classes] + places % counts[classes]]


def _blurs(uniform: Tensor, augment: Augment) -> Tensor:
    """`blurs` of a plan from float32 (N, 2) in [0, 1)."""
    return uniform[:, 0] * augment.blur_px * (uniform[:, 1] < augment.blur)


def _erased(uniform: Tensor, image_size: int, augment: Augment) -> Tensor:
    """`erased` of a plan from float32 (N, 5) in [0, 1): area uniform, ratio of the sides
    log-uniform, place uniform. A rectangle longer than the image is made as long, and wider."""
    take, area, aspect, *corner = uniform.double().unbind(1)
    least = min(MIN_ERASED, augment.erase_area)
    pixels = (least + (augment.erase_area - least) * area) * image_size**2
    longer = MAX_ERASED_ASPECT ** (2 * aspect - 1)
    heights = (pixels * longer).sqrt().round().clamp(1, image_size)
    sides = torch.stack([heights, (pixels / heights).round().clamp(1, image_size)], dim=1)
    corners = (torch.stack(corner, dim=1) * (image_size - sides + 1)).floor()
    return torch.cat([corners, sides * (take < augment.erase)[:, None]], dim=1).long()


def _mixtures(
    n: int, image_size: int, augment: Augment, *, seed: int, epoch: int
) -> tuple[Tensor, Tensor | None]:
    """`shares` and `patches` of a plan. A patch is whole and of whole pixels, and the share of the
    image's own label is what it leaves of the image."""

    def uniform(purpose: str, columns: int) -> Tensor:
        drawn = generator(seed, epoch, purpose)
        return torch.rand((n, columns), generator=drawn, dtype=torch.float64)

    if not augment.cutmix:
        return beta(uniform("mixup", 2), augment.mixup).float(), None
    sides = (image_size * (1 - beta(uniform("cutmix", 2), augment.cutmix)).sqrt()).round()
    shares = 1 - (sides / image_size).square()
    if augment.mixup:
        blended = uniform("mixup or cutmix", 1)[:, 0] < 0.5
        shares = torch.where(blended, beta(uniform("mixup", 2), augment.mixup), shares)
        sides *= ~blended
    corners = (uniform("patch", 2) * (image_size - sides + 1)[:, None]).floor()
    return shares.float(), torch.cat([corners, sides[:, None]], dim=1).long()


def beta(uniform: Tensor, alpha: float) -> Tensor:
    """Numbers of Beta(α, α) from `uniform`, float64 (n, 2) in [0, 1): a fixed number of draws each.

    w is the square of a Student's t of 2α degrees of freedom over 2α, by Bailey's polar method
    (L. Devroye, "Random variate generation in one line of code", 1996).
    """
    angles = (2 * torch.pi * uniform[:, 1]).cos()
    w = (uniform[:, 0] ** (-1 / alpha) - 1) * angles.square()
    return (1 + angles.sign() / (1 + 1 / w).sqrt()) / 2
