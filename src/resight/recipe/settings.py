"""The sections of a recipe.

Each schedule shape and each optimizer has exactly the settings it uses, so none is ever silently
ignored; a section rejects unknown keys.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from resight.errors import did_you_mean, listed
from resight.recipe.nets import NETS, Net, nets_with


def _number_or(word: str, *, above_zero: bool) -> BeforeValidator:
    def check(value: object) -> object:
        if value == word:
            return value
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        low_enough = number > 0 if above_zero else number >= 0
        if isinstance(value, bool) or not math.isfinite(number) or not low_enough:
            bound = "> 0" if above_zero else ">= 0"
            raise ValueError(f"must be a number {bound} or '{word}'")
        return number

    return BeforeValidator(check)


Found = Annotated[float | Literal["find"], _number_or("find", above_zero=True)]
FoundOrZero = Annotated[float | Literal["find"], _number_or("find", above_zero=False)]
End = Annotated[float | Literal["lr_min"], _number_or("lr_min", above_zero=False)]
MAX_WIDTH = 1024  # a custom-resnet of it has 1.7 billion weights
MAX_IMAGE_SIZE = 4096  # px
MAX_BATCH = 1_000_000
MAX_COUNT = 1_000_000  # epochs, steps, operations

Epochs = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Duration = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Part = Annotated[float, Field(ge=0, le=1)]
Scale = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """A section of a recipe: frozen, no unknown keys, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Model(Settings):
    """The net. `norm` and `conv_bias` are for custom-resnet only. The logits are the head's output
    times `logit_scale`."""

    net: str = "custom-resnet"
    width: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 64  # channels of the first layer
    norm: Literal["batch", "layer"] = "batch"
    conv_bias: bool = False
    logit_scale: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.net not in NETS:
            raise ValueError(f"model.net = '{self.net}': unknown net{did_you_mean(self.net, NETS)}")
        if not NETS[self.net].variants and (self.norm != "batch" or self.conv_bias):
            raise ValueError(
                f"model.norm and model.conv_bias are settings of {nets_with('variants')}, not of "
                f"{self.net} ({nets_with('group_norm')} has group norm)"
            )
        return self

    @property
    def facts(self) -> Net:
        """What is known about the net."""
        return NETS[self.net]


Fit = Literal["crop", "pad", "squash"]


class Data(Settings):
    """Where the images come from without `--data`, their size, and how they are split.

    fit: how an image that is not square becomes so: its central square ("crop"), the whole image
    between grey borders ("pad"), or the whole image with its sides scaled differently ("squash").
    group: a regular expression; images in whose paths its first capturing group is the same stay on
    one side of every split.
    """

    source: str = "cifar10"
    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)] = 32
    fit: Fit = "crop"
    val_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # of train; 0 for none
    split_seed: Annotated[int, Field(ge=0, lt=2**128)] = 0  # all seeds share one split
    group: str = ""

    @field_validator("group")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"must be a regular expression: {error}") from None
        return pattern


MAX_MAGNITUDE = 30  # of RandAugment's operations
MAX_OPERATIONS = 100  # of them per image


class Augment(Settings):
    """Drawn per image and epoch, applied in this order: crop (which shifts by up to `crop_pad_px`),
    flip, rotation and scale, RandAugment or TrivialAugment, colour, grey, blur, cutout, erasing,
    Mixup or CutMix.

    Rotation is by up to `rotate_deg` either way; sides are scaled by a factor between 1 - `scale`
    and its inverse; brightness, contrast and saturation by one between 1 minus and 1 plus their
    setting; hues are turned by up to `hue_deg` either way. `grey`, `blur` and `erase` are
    probabilities. `mixup` and `cutmix` are the α of Beta(α, α), from which an image's own share is
    drawn; with both each image takes one of them, with equal probability. 0 switches each off.
    """

    crop_pad_px: Count = 4
    crop_fill: Literal["zero", "reflect"] = "zero"  # zero: black, before normalisation
    flip: Literal["none", "random", "alternating"] = "random"
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Share = 0.0
    randaugment: Annotated[int, Field(ge=0, le=MAX_OPERATIONS)] = 0  # operations per image
    randaugment_magnitude: Annotated[int, Field(ge=0, le=MAX_MAGNITUDE)] = 0
    trivialaugment: bool = False  # one operation of any strength per image
    brightness: Part = 0.0
    contrast: Part = 0.0
    saturation: Part = 0.0
    hue_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    grey: Part = 0.0
    blur: Part = 0.0
    blur_px: NotNegative = 0.0  # the Gaussian's largest σ
    cutout_px: Count = 8  # side of a square inside the image; 0 for none
    erase: Part = 0.0
    erase_area: Part = 0.0  # the largest share of the image that is erased at random
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for one, other in (
            ("randaugment", "randaugment_magnitude"),
            ("blur", "blur_px"),
            ("erase", "erase_area"),
        ):
            first, second = getattr(self, one), getattr(self, other)
            if bool(first) != bool(second):
                raise ValueError(
                    f"augment.{one} = {first:g} and augment.{other} = {second:g} go together: set "
                    "both, or both to 0"
                )
        if self.randaugment and self.trivialaugment:
            raise ValueError(
                f"augment.randaugment = {self.randaugment} and augment.trivialaugment = true "
                "exclude each other: set the first to 0 or the second to false"
            )
        return self

    @property
    def mixes(self) -> bool:
        """Whether an image is trained on together with another one, and with both labels."""
        return self.mixup > 0 or self.cutmix > 0


class _Optimizer(Settings):
    """can_cycle_momentum: whether it has one momentum (or beta1) for `cycle_momentum`. own_meaning:
    settings that mean something else in other optimizers, so that a change of optimizer drops
    them. lr_batch_power: the LR of a batch k times as large is k to this power times as large."""

    _usual_lr: ClassVar[tuple[float, float]]  # for a batch of 512, and a power like lr_batch_power
    lr_batch_power: ClassVar[float] = 0.5
    can_cycle_momentum: ClassVar[bool] = True
    own_meaning: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def usual_lr(cls, batch: int) -> float:
        """`lr_max` where none can be found, for steps of `batch` images (`docs/log.md`)."""
        lr, power = cls._usual_lr
        return float(f"{lr * (batch / 512) ** power:.3g}")

    weight_decay: NotNegative = 0.0
    decay: Literal["all", "weights"] = "all"  # weights: neither biases nor norms
    clip_grad_norm: NotNegative = 0.0  # 0 for none
    cycle_momentum: bool = False  # one-cycle only: 0.95 → 0.85 → 0.95 (Adam: beta1)


class Sgd(_Optimizer):
    """The norms' biases learn at `bias_lr_scale` times the LR, with decay divided by it."""

    _usual_lr: ClassVar[tuple[float, float]] = (0.05, 1.0)
    lr_batch_power: ClassVar[float] = 1.0

    name: Literal["sgd"] = "sgd"
    momentum: Share = 0.9
    nesterov: bool = False
    bias_lr_scale: Scale = 1.0

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.nesterov = true needs optimizer.momentum > 0")
        return self


class Adam(_Optimizer):
    """`adam` adds the decay to the gradient, `adamw` subtracts it from the weights."""

    _usual_lr: ClassVar[tuple[float, float]] = (0.003, 0.0)  # it is good from 32 images to 512

    name: Literal["adam", "adamw"] = "adam"
    beta1: Share = 0.9
    beta2: Share = 0.999
    eps: Annotated[float, Field(gt=0)] = 1e-8


class Muon(_Optimizer):
    """Muon for the convolutions, SGD with Nesterov momentum for everything else.

    The LR is Muon's; biases and the head learn by SGD at `bias_lr_scale` and `head_lr_scale` times
    it. Only they have weight decay: a step shrinks them by LR · `weight_decay`, whatever their
    scale. A convolution's norm is set to √(its outputs) before each step instead.
    """

    _usual_lr: ClassVar[tuple[float, float]] = (0.17 * (512 / 1000) ** 0.5, 0.5)
    can_cycle_momentum: ClassVar[bool] = False  # it has two momenta
    # its LR is not comparable to SGD's and Adam's
    own_meaning: ClassVar[frozenset[str]] = frozenset({"weight_decay", "momentum", "bias_lr_scale"})

    name: Literal["muon"]
    momentum: Share = 0.6  # Nesterov's
    newton_schulz_steps: Annotated[int, Field(ge=1, le=10)] = 3
    sgd_momentum: Share = 0.85
    bias_lr_scale: Scale = 442.0
    head_lr_scale: Scale = 5583.0


Optimizer = Annotated[Sgd | Adam | Muon, Field(discriminator="name")]


IMAGES = ("stem_epochs", "small_epochs", "medium_epochs")  # durations of every schedule


class _Schedule(Settings):
    """What changes from epoch to epoch: the LR and, for nets that allow it, stem and image size.

    stem_epochs: how long the bias of fastnet's whitening stem learns, at an LR that falls linearly
    from its maximum to 0; 0: as long as everything else. small_epochs: how long images are scaled
    down to `small_px`; medium_epochs: how long to `medium_px` after that.

    warms_up: whether the LR rises to `lr_max` from below. can_cycle_momentum: whether the momentum
    can follow it. follows_losses: whether the LR depends on the losses so far. durations: the
    settings in epochs that scale with `epochs`. own_meaning: settings that mean something else in
    other shapes, so that a change of shape drops them.
    """

    warms_up: ClassVar[bool] = False
    can_cycle_momentum: ClassVar[bool] = False
    follows_losses: ClassVar[bool] = False
    durations: ClassVar[tuple[str, ...]] = IMAGES
    own_meaning: ClassVar[frozenset[str]] = frozenset()

    epochs: Epochs = 24
    lr_max: Found = "find"
    stem_epochs: NotNegative = 0.0
    small_epochs: NotNegative = 0.0
    small_px: Count = 0  # side of the smaller images; 0 for none
    medium_epochs: NotNegative = 0.0
    medium_px: Count = 0

    def scaled(self, epochs: int) -> dict[str, float | int]:
        """The settings that change when the schedule is stretched to `epochs`."""
        stretched = {key: getattr(self, key) * epochs / self.epochs for key in self.durations}
        return {"epochs": epochs, **stretched}

    @property
    def needs_lr_test(self) -> bool:
        """Whether an LR has to be found by an LR test."""
        return "find" in (self.lr_max, getattr(self, "lr_min", None))

    @property
    def peak(self) -> float:
        """The epoch at which a single warm-up ends; 0 without one."""
        return 0.0


class OneCycle(_Schedule):
    """Up to `lr_max` at `peak_epoch`, down to `lr_end` at the last step (torch's OneCycleLR)."""

    warms_up: ClassVar[bool] = True
    can_cycle_momentum: ClassVar[bool] = True
    durations: ClassVar[tuple[str, ...]] = ("peak_epoch", *IMAGES)

    shape: Literal["one-cycle"] = "one-cycle"
    peak_epoch: Duration = 5.0
    anneal: Literal["linear", "cosine"] = "linear"
    lr_min: FoundOrZero = "find"
    lr_end: End = "lr_min"

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if self.peak_epoch >= self.epochs:
            raise ValueError(
                f"schedule.peak_epoch = {self.peak_epoch:g} must be less than schedule.epochs = "
                f"{self.epochs}; `--epochs {self.epochs}` scales the peak as well"
            )
        return self

    @property
    def peak(self) -> float:
        return self.peak_epoch


class Cyclic(_Schedule):
    """Between `lr_min` and `lr_max`; triangular2 halves the height per cycle (torch's CyclicLR)."""

    warms_up: ClassVar[bool] = True
    durations: ClassVar[tuple[str, ...]] = ("cycle_epochs", *IMAGES)

    shape: Literal["triangular", "triangular2"]
    cycle_epochs: Duration = 8.0  # up and down
    lr_min: FoundOrZero = "find"


class ExpRange(_Schedule):
    """Like triangular, the height times `gamma` per step (torch's CyclicLR, exp_range)."""

    warms_up: ClassVar[bool] = True
    durations: ClassVar[tuple[str, ...]] = ("cycle_epochs", *IMAGES)
    own_meaning: ClassVar[frozenset[str]] = frozenset({"gamma"})  # per step

    shape: Literal["exp-range"]
    cycle_epochs: Duration = 8.0
    lr_min: FoundOrZero = "find"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.9995


class Cosine(_Schedule):
    """From `lr_max` to `lr_end` along half a cosine (torch's CosineAnnealingLR)."""

    shape: Literal["cosine"]
    lr_end: NotNegative = 0.0


class Linear(_Schedule):
    """Linear, from `lr_max` at the first step to `lr_end` after the last (torch's LinearLR)."""

    shape: Literal["linear"]
    lr_end: NotNegative = 0.0


class Step(_Schedule):
    """Multiplied by `gamma` every `step_epochs` (torch's StepLR)."""

    durations: ClassVar[tuple[str, ...]] = ("step_epochs", *IMAGES)
    own_meaning: ClassVar[frozenset[str]] = frozenset({"gamma"})  # per `step_epochs`

    shape: Literal["step"]
    step_epochs: Duration = 8.0
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1


class Constant(_Schedule):
    shape: Literal["constant"]


class Plateau(_Schedule):
    """Multiplied by `factor` after `patience` epochs without a lower loss: the validation loss if
    there is a validation split, else the training loss (torch's ReduceLROnPlateau)."""

    follows_losses: ClassVar[bool] = True

    shape: Literal["plateau"]
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Count = 3  # epochs
    threshold: NotNegative = 1e-4  # relative
    lr_end: NotNegative = 0.0  # never below


Schedule = Annotated[
    OneCycle | Cyclic | ExpRange | Cosine | Linear | Step | Constant | Plateau,
    Field(discriminator="shape"),
]


class Loss(Settings):
    """Cross-entropy, the mean over images.

    class_weights: "balanced" multiplies an image's loss by the number of training images per class
    on average over that of its class, so that each class counts as much as any other.
    """

    label_smoothing: Share = 0.0
    class_weights: Literal["none", "balanced"] = "none"


class Train(Settings):
    """sampling: "uniform" trains on each image once per epoch; "balanced" on as many images per
    epoch, equally many of each class, those of rare classes repeatedly."""

    batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 512
    last_batch: Literal["keep", "drop"] = "keep"  # the smaller one at an epoch's end
    sampling: Literal["uniform", "balanced"] = "uniform"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    ema: Share = 0.0  # decay per step of the averaged weights, which are evaluated; 0 for none
    lookahead: Count = 0  # steps between averages; 0 for none
    norm_batch: Count = 0  # images that batch norm averages over; 0: all
    early_stop: Count = 0  # epochs without a better validation accuracy

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.ema and self.lookahead:
            raise ValueError("train.ema and train.lookahead both average weights: set one to 0")
        if self.norm_batch and self.batch_size % self.norm_batch:
            raise ValueError(
                f"train.norm_batch = {self.norm_batch} must divide train.batch_size = "
                f"{self.batch_size}; 0 is for the whole batch"
            )
        return self


class Evaluate(Settings):
    """`flip`: the mean logits of an image and its mirror image; `flip-shift`: half of that, plus a
    quarter each of the same for the image shifted by one pixel up-left and down-right;
    `flip-shift-unsure`: that, where one view leaves the most probable class below 0.6.

    norm: batch norm's statistics are the `running` ones of the last steps, or taken `anew` before
    each evaluation, from up to 5,000 training images without augmentation.
    """

    tta: Literal["none", "flip", "flip-shift", "flip-shift-unsure"] = "none"
    when: Literal["each-epoch", "end"] = "each-epoch"
    norm: Literal["running", "anew"] = "running"


def _kinds(union: Any, key: str) -> dict[str, type[Any]]:
    """The classes of a union by the values of their discriminator field."""
    classes = get_args(get_args(union)[0])
    return {name: kind for kind in classes for name in get_args(kind.model_fields[key].annotation)}


KIND_KEYS = {"schedule": "shape", "optimizer": "name"}
KINDS: dict[str, dict[str, type[Any]]] = {
    "schedule": _kinds(Schedule, KIND_KEYS["schedule"]),
    "optimizer": _kinds(Optimizer, KIND_KEYS["optimizer"]),
}


def kinds_with(section: str, fact: str) -> str:
    """The names of the kinds for which `fact` (of their class) is true: `a, b and c`."""
    return listed(name for name, kind in KINDS[section].items() if getattr(kind, fact))
