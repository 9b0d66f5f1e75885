"""`Recipe`: what is trained, whole. Frozen, validated, and the same after TOML or JSON.

Every section refuses a key it does not know and names the nearest one. A shape of schedule and an
optimizer have exactly the settings that they use, so no setting is ever silently ignored.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from resight.errors import ResightError, did_you_mean
from resight.models.names import NETS


def _number_or(word: str, *, above_zero: bool) -> BeforeValidator:
    def check(value: object) -> object:
        if value == word:
            return value
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
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
Epochs = Annotated[int, Field(ge=1)]
Duration = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Part(BaseModel):
    """A section of a recipe: frozen, no unknown keys, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Model(Part):
    """The net. `norm` and `conv_bias` belong to custom-resnet."""

    net: str = "custom-resnet"
    width: Annotated[int, Field(ge=1)] = 64  # channels of the first layer; the others follow
    norm: Literal["batch", "layer"] = "batch"
    conv_bias: bool = False

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.net not in NETS:
            raise ValueError(f"model.net = '{self.net}' is no net{did_you_mean(self.net, NETS)}")
        if self.net != "custom-resnet" and (self.norm != "batch" or self.conv_bias):
            raise ValueError(
                f"model.norm and model.conv_bias belong to custom-resnet, not to {self.net} "
                "(resnet18-gn is the one with group norm)"
            )
        return self


class Data(Part):
    """Where images come from when `--data` does not say, and how they are cut."""

    source: str = "cifar10"
    image_size: Annotated[int, Field(ge=1)] = 32
    val_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # of train; 0 for none
    split_seed: Annotated[int, Field(ge=0)] = 0  # apart from train.seed: seeds share their splits


class Augment(Part):
    """Drawn anew per image and epoch, applied in this order."""

    crop_pad_px: Annotated[int, Field(ge=0)] = 4
    crop_fill: Literal["zero", "reflect"] = "zero"  # zero: black, before normalisation
    flip: Literal["none", "random", "alternating"] = "random"
    cutout_px: Annotated[int, Field(ge=0)] = 8  # side of a square wholly inside; 0 for none


class _Optimizer(Part):
    weight_decay: NotNegative = 0.0
    decay: Literal["all", "weights"] = "all"  # weights: neither biases nor norms
    clip_grad_norm: NotNegative = 0.0  # 0 for none
    cycle_momentum: bool = False  # one-cycle only: 0.95 → 0.85 → 0.95 (Adam: beta1)


class Sgd(_Optimizer):
    name: Literal["sgd"] = "sgd"
    momentum: Share = 0.9
    nesterov: bool = False


class Adam(_Optimizer):
    """`adam` adds the decay to the gradient, `adamw` takes it from the weights."""

    name: Literal["adam", "adamw"] = "adam"
    beta1: Share = 0.9
    beta2: Share = 0.999
    eps: Annotated[float, Field(gt=0)] = 1e-8


Optimizer = Annotated[Sgd | Adam, Field(discriminator="name")]


class _Schedule(Part):
    epochs: Epochs = 24
    lr_max: Found = "find"

    def scaled(self, epochs: int) -> dict[str, float | int]:
        """The settings that change when the whole is stretched to `epochs`."""
        factor = epochs / self.epochs
        durations: dict[str, float | int] = {
            key: getattr(self, key) * factor
            for key in ("peak_epoch", "cycle_epochs", "step_epochs")
            if key in type(self).model_fields
        }
        return {"epochs": epochs, **durations}


class OneCycle(_Schedule):
    """Up to `lr_max` at `peak_epoch`, down to `lr_end` at the last step (torch's OneCycleLR)."""

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
                f"{self.epochs}; `--epochs {self.epochs}` moves the peak along"
            )
        return self


class Cyclic(_Schedule):
    """Between `lr_min` and `lr_max`, halved a cycle by triangular2 (torch's CyclicLR)."""

    shape: Literal["triangular", "triangular2"]
    cycle_epochs: Duration = 8.0  # up and down
    lr_min: FoundOrZero = "find"


class ExpRange(_Schedule):
    """triangular, its height times `gamma` a step (torch's CyclicLR, exp_range)."""

    shape: Literal["exp-range"]
    cycle_epochs: Duration = 8.0
    lr_min: FoundOrZero = "find"
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.9995


class Cosine(_Schedule):
    """From `lr_max` to `lr_end` on half a cosine (torch's CosineAnnealingLR)."""

    shape: Literal["cosine"]
    lr_end: NotNegative = 0.0


class Step(_Schedule):
    """Times `gamma` every `step_epochs` (torch's StepLR)."""

    shape: Literal["step"]
    step_epochs: Duration = 8.0
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1


class Constant(_Schedule):
    shape: Literal["constant"]


class Plateau(_Schedule):
    """Times `factor` after `patience` epochs without a lower loss: of validation where there is a
    validation split, else of training (torch's ReduceLROnPlateau)."""

    shape: Literal["plateau"]
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=0)] = 3  # epochs
    threshold: NotNegative = 1e-4  # relative
    lr_end: NotNegative = 0.0  # never below


Schedule = Annotated[
    OneCycle | Cyclic | ExpRange | Cosine | Step | Constant | Plateau,
    Field(discriminator="shape"),
]


class Loss(Part):
    """Cross-entropy, the mean over images."""

    label_smoothing: Share = 0.0


class Train(Part):
    batch_size: Annotated[int, Field(ge=1)] = 512
    last_batch: Literal["keep", "drop"] = "keep"  # the smaller one at an epoch's end
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    ema: Share = 0.0  # decay a step of the averaged weights that are evaluated; 0 for none


class Evaluate(Part):
    tta: Literal["none", "flip"] = "none"  # flip: mean of the logits of an image and its mirror


class Recipe(Part):
    """What is trained. `Recipe()` is custom-resnet; every field has a place in the TOML."""

    name: str = "custom-resnet"
    model: Model = Model()
    data: Data = Data()
    augment: Augment = Augment()
    optimizer: Optimizer = Adam(weight_decay=1e-4)
    schedule: Schedule = OneCycle()
    loss: Loss = Loss()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        size, augment, optimizer = self.data.image_size, self.augment, self.optimizer
        if augment.cutout_px > size:
            raise ValueError(
                f"augment.cutout_px = {augment.cutout_px} must be at most data.image_size = {size}"
            )
        if augment.crop_pad_px >= size:
            raise ValueError(
                f"augment.crop_pad_px = {augment.crop_pad_px} must be less than "
                f"data.image_size = {size}"
            )
        if isinstance(optimizer, Sgd) and optimizer.nesterov and optimizer.momentum == 0:
            raise ValueError("optimizer.nesterov = true needs optimizer.momentum > 0")
        if optimizer.cycle_momentum and not isinstance(self.schedule, OneCycle):
            raise ValueError(
                f"optimizer.cycle_momentum = true needs schedule.shape = 'one-cycle', not "
                f"'{self.schedule.shape}'"
            )
        lr_max = self.schedule.lr_max
        for key in ("lr_min", "lr_end"):
            low = getattr(self.schedule, key, None)
            if isinstance(low, float) and isinstance(lr_max, float) and low > lr_max:
                raise ValueError(
                    f"schedule.{key} = {low:g} must be at most schedule.lr_max = {lr_max:g}"
                )
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
        """A recipe from nested `values`, or a `ResightError` that begins with `where`."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ResightError(_one_line(error, where)) from None

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a TOML or JSON file. Raises `ResightError` with file and field."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
            kind = "JSON" if path.suffix == ".json" else "TOML"
            raise ResightError(f"{path}: not valid {kind}: {error}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ResightError(f"{path}: can't be read as a recipe: {error}") from None
        if not isinstance(values, dict):
            raise ResightError(f"{path}: a recipe is a table of sections, not a {type(values)}")
        return cls.parse(values, where=str(path))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for JSON."""
        return self.model_dump(mode="json")

    def to_toml(self) -> str:
        """TOML that `Recipe.load` reads back as an equal recipe."""
        values = self.to_dict()
        lines = [f"name = {_toml(values.pop('name'))}"]
        for section, settings in values.items():
            lines += ["", f"[{section}]"]
            first = {"optimizer": "name", "schedule": "shape"}.get(section)
            for key in sorted(settings, key=lambda k: k != first):
                lines.append(f"{key} = {_toml(settings[key])}")
        return "\n".join(lines) + "\n"

    def with_changes(self, changes: Mapping[str, Any]) -> Recipe:
        """A copy with dotted fields changed, e.g. `{"optimizer.weight_decay": 0}`.

        Another `schedule.shape` or `optimizer.name` keeps the settings that both kinds have.
        Raises `ResightError` for an unknown field or a value that is not allowed.
        """
        values = self.to_dict()
        for section, key in (("schedule", "shape"), ("optimizer", "name")):
            kind = changes.get(f"{section}.{key}")
            if kind is not None and kind != values[section][key]:
                values[section] = _shared_settings(section, key, values[section], kind)
        for dotted, value in changes.items():
            section, _, key = dotted.partition(".")
            if dotted == "name":
                values["name"] = value
            elif section not in values or section == "name":
                sections = [s for s in values if s != "name"]
                raise ResightError(
                    f"setting '{dotted}': no section '{section}'{did_you_mean(section, sections)}"
                )
            elif not key:
                raise ResightError(
                    f"setting '{dotted}' is a section; name one of its fields: "
                    + ", ".join(f"{section}.{k}" for k in values[section])
                )
            else:
                values[section][key] = value
        return Recipe.parse(values, where="setting")

    def with_epochs(self, epochs: int) -> Recipe:
        """A copy with `epochs`, every other duration in epochs scaled alike."""
        if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
            raise ResightError(f"epochs = {epochs!r} must be a whole number of at least 1")
        scaled = self.schedule.scaled(epochs)
        return self.with_changes({f"schedule.{key}": value for key, value in scaled.items()})

    def differences(self, other: Recipe) -> list[str]:
        """`section.field: mine → theirs` for each field that differs; name and source apart."""
        mine, theirs = _flat(self.to_dict()), _flat(other.to_dict())
        return [
            f"{key}: {mine.get(key, 'unset')} → {theirs.get(key, 'unset')}"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key) and key not in ("name", "data.source")
        ]


def parse_setting(text: str) -> tuple[str, Any]:
    """`optimizer.weight_decay=0` → `("optimizer.weight_decay", 0)`; a bare word is a string."""
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key:
        raise ResightError(f"--set '{text}': write it as section.field=value")
    try:
        return key, tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key, value


def _toml(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{k}": v for k, v in value.items()})
        else:
            flat[key] = value
    return flat


_KINDS: dict[str, dict[str, type[Part]]] = {
    "schedule": {
        "one-cycle": OneCycle,
        "triangular": Cyclic,
        "triangular2": Cyclic,
        "exp-range": ExpRange,
        "cosine": Cosine,
        "step": Step,
        "constant": Constant,
        "plateau": Plateau,
    },
    "optimizer": {"sgd": Sgd, "adam": Adam, "adamw": Adam},
}


def _shared_settings(
    section: str, key: str, settings: dict[str, Any], kind: object
) -> dict[str, Any]:
    """`settings` without those that `kind` lacks, or whose value only the old kind knows."""
    known = _KINDS[section].get(str(kind))
    if known is None:
        raise ResightError(f"{section}.{key} = '{kind}'{did_you_mean(str(kind), _KINDS[section])}")
    kept = {k: v for k, v in settings.items() if k in known.model_fields}
    kept.pop("gamma", None)  # a step's and an epoch range's: not the same thing
    if kept.get("lr_end") == "lr_min" and "lr_min" not in known.model_fields:
        del kept["lr_end"]
    return {**kept, key: kind}


def _one_line(error: ValidationError, where: str) -> str:
    """The first of pydantic's errors as one line, and how many more there are."""
    errors = error.errors(include_url=False)
    first = errors[0]
    kinds = {kind for section in _KINDS.values() for kind in section}
    path = [str(p) for p in first["loc"] if p not in kinds]
    field, kind = ".".join(path), first["type"]
    if kind == "extra_forbidden":
        known = _fields_at(first["loc"])
        text = f"unknown field '{field}'{did_you_mean(path[-1], known)}"
    elif kind == "union_tag_invalid":
        context = first["ctx"]
        allowed = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
        name = str(context["discriminator"]).strip("'")
        text = f"{field}.{name} = '{context['tag']}'{did_you_mean(str(context['tag']), allowed)}"
    elif kind == "union_tag_not_found":
        name = str(first["ctx"]["discriminator"]).strip("'")
        text = f"{field}.{name} is missing; known: {', '.join(_KINDS[field])}"
    elif kind == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        text = f"{field} = {first['input']!r} {message}" if message.startswith("must") else message
    else:
        message = first["msg"][0].lower() + first["msg"][1:]
        text = f"{field} = {first['input']!r}: {message}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{where}: {text}{more}"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    if len(location) == 1:
        return list(Recipe.model_fields)
    section = str(location[0])
    if section in _KINDS:
        return list(_KINDS[section][str(location[1])].model_fields)
    kind = Recipe.model_fields[section].annotation
    assert isinstance(kind, type)
    assert issubclass(kind, Part)
    return list(kind.model_fields)
