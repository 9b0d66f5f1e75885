"""`Recipe`: everything that defines a training. Frozen, validated; TOML and JSON round-trip.

Its sections are in `settings.py`. An error is one line, with the closest valid name.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from resight.errors import ResightError, did_you_mean
from resight.formats import without_format
from resight.recipe import policies
from resight.recipe.nets import nets_with
from resight.recipe.settings import (
    KIND_KEYS,
    KINDS,
    Adam,
    Augment,
    Data,
    Evaluate,
    Loss,
    Model,
    OneCycle,
    Optimizer,
    Schedule,
    Settings,
    Train,
    kinds_with,
)
from resight.render import html
from resight.validation import quoted, wanted

MAX_FILE_BYTES = 1_000_000  # of a recipe; one with every field has 2,000


class Recipe(Settings):
    """Everything that defines a training. `Recipe()` is custom-resnet; its TOML has every field."""

    name: str = "custom-resnet"
    model: Model = Model()
    data: Data = Data()
    augment: Augment = Augment()
    optimizer: Optimizer = Adam(weight_decay=1e-4)
    schedule: Schedule = OneCycle()
    loss: Loss = Loss()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="before")
    @classmethod
    def _without_policy(cls, values: Any) -> Any:
        """`values` with the settings that `augment.policy` stands for."""
        settings = values.get("augment") if isinstance(values, Mapping) else None
        if not isinstance(settings, Mapping) or "policy" not in settings:
            return values
        data = values.get("data", {})
        side = data.get("image_size") if isinstance(data, Mapping) else data.image_size
        if side is None:
            side = Data().image_size
        if not isinstance(side, int) or side < 1:  # which has a line of its own
            return {key: value for key, value in values.items() if key != "augment"}
        return {**values, "augment": policies.expanded(settings, side)}

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
        if optimizer.cycle_momentum and not self.schedule.can_cycle_momentum:
            raise ValueError(
                "optimizer.cycle_momentum = true needs schedule.shape = "
                f"'{kinds_with('schedule', 'can_cycle_momentum')}', not '{self.schedule.shape}'"
            )
        if optimizer.cycle_momentum and not optimizer.can_cycle_momentum:
            raise ValueError(
                "optimizer.cycle_momentum = true works with "
                f"{kinds_with('optimizer', 'can_cycle_momentum')}, not with {optimizer.name}: set "
                "it to false"
            )
        self._small_images_agree()
        if self.schedule.stem_epochs and not self.model.facts.whitening_stem:
            raise ValueError(
                f"schedule.stem_epochs = {self.schedule.stem_epochs:g} needs a net with a "
                f"whitening stem ({nets_with('whitening_stem')}), which {self.model.net} does not "
                "have: set it to 0"
            )
        if self.schedule.stem_epochs > self.schedule.epochs:
            raise ValueError(
                f"schedule.stem_epochs = {self.schedule.stem_epochs:g} must be at most "
                f"schedule.epochs = {self.schedule.epochs}"
            )
        if self.train.sampling == self.loss.class_weights == "balanced":
            raise ValueError(
                "train.sampling = 'balanced' and loss.class_weights = 'balanced' both make up for "
                "unequal classes: set one of them to 'uniform' or 'none'"
            )
        if self.train.norm_batch and not self.model.facts.batch_norm:
            raise ValueError(
                f"train.norm_batch = {self.train.norm_batch} is for batch norm, which "
                f"{self.model.net} does not have: set it to 0"
            )
        if self.evaluate.norm == "anew" and not self.model.facts.batch_norm:
            raise ValueError(
                f"evaluate.norm = 'anew' is for batch norm, which {self.model.net} does not have: "
                "set it to 'running'"
            )
        at_end = self.evaluate.when == "end"
        if at_end and self.train.early_stop:
            raise ValueError(
                f"train.early_stop = {self.train.early_stop} watches the validation accuracy of "
                "each epoch: set evaluate.when = 'each-epoch', or train.early_stop = 0"
            )
        if at_end and self.data.val_fraction and self.schedule.follows_losses:
            raise ValueError(
                f"schedule.shape = '{self.schedule.shape}' watches the validation loss of each "
                "epoch: set "
                "evaluate.when = 'each-epoch', or data.val_fraction = 0"
            )
        lr_max = self.schedule.lr_max
        for key in ("lr_min", "lr_end"):
            low = getattr(self.schedule, key, None)
            if isinstance(low, float) and isinstance(lr_max, float) and low > lr_max:
                raise ValueError(
                    f"schedule.{key} = {low:g} must be at most schedule.lr_max = {lr_max:g}"
                )
        return self

    def _small_images_agree(self) -> None:
        """Raise `ValueError` if the schedule, the data or the net rules out smaller images."""
        schedule, net, full = self.schedule, self.model.net, self.data.image_size
        sizes = {"small": 0, "medium": 0}
        for name in sizes:
            epochs, size = getattr(schedule, f"{name}_epochs"), getattr(schedule, f"{name}_px")
            sizes[name] = size
            if bool(epochs) != bool(size):
                raise ValueError(
                    f"schedule.{name}_px = {size} and schedule.{name}_epochs = {epochs:g} go "
                    "together: set both, or both to 0"
                )
            if size and not self.model.facts.any_size:
                raise ValueError(
                    f"schedule.{name}_px = {size}: {net} takes images of one size only; starting "
                    f"with smaller ones works with {nets_with('any_size')}"
                )
            least = self.model.facts.smallest_px
            if size and not least <= size < full:
                raise ValueError(
                    f"schedule.{name}_px = {size} must be at least {least} for {net} and less than "
                    f"data.image_size = {full}; 0, with schedule.{name}_epochs = 0, switches it off"
                )
        together = schedule.small_epochs + schedule.medium_epochs
        if together > schedule.epochs * (1 + 1e-9):  # a sum of scaled durations is rounded
            which = "schedule.small_epochs"
            which += " + schedule.medium_epochs" if schedule.medium_epochs else ""
            raise ValueError(
                f"{which} = {together:g} must be at most schedule.epochs = {schedule.epochs}"
            )
        if sizes["medium"] and sizes["small"] >= sizes["medium"]:
            raise ValueError(
                f"schedule.medium_px = {sizes['medium']} must be more than schedule.small_px = "
                f"{sizes['small']}, which it follows"
            )

    @property
    def balances_classes(self) -> bool:
        """Whether each class counts as much as any other, however many images it has."""
        return "balanced" in (self.train.sampling, self.loss.class_weights)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
        """A recipe from nested `values`, or a `ResightError` that begins with `where`."""
        if (wrong := _no_text(values)) is not None:
            raise ResightError(f"{where}: {wrong!r} has characters that are not valid Unicode text")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ResightError(_one_line(error, where)) from None

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a TOML or JSON file. Raises `ResightError` with file and field."""
        return cls.parse(cls.read(path), where=str(path))

    @classmethod
    def read(cls, path: str | Path) -> dict[str, Any]:
        """The values in a TOML or JSON file, as they are there. Raises `ResightError`."""
        path = Path(path)
        try:
            if path.exists() and not path.is_file():  # reading a pipe would wait for ever
                raise ResightError(f"{path}: can't be read as a recipe: it is not a file")
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise ResightError(
                    f"{path} has more than {MAX_FILE_BYTES:,} bytes, so it is not a recipe"
                )
            text = content.decode("utf-8")
            values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
            kind = "JSON" if path.suffix == ".json" else "TOML"
            raise ResightError(f"{path}: not valid {kind}: {error}") from None
        except FileNotFoundError:
            raise ResightError(
                f"recipe '{path}': no such file; `resight recipes NAME > FILE.toml` writes one to "
                "edit"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ResightError(f"{path}: can't be read as a recipe: {error}") from None
        except RecursionError:
            raise ResightError(f"{path}: not a recipe: too many [ or {{ in each other") from None
        except ResightError:
            raise
        except ValueError:  # Python's, for an integer of more than 4,300 digits
            raise ResightError(f"{path}: not a recipe: a number has too many digits") from None
        if not isinstance(values, dict):
            kind = type(values).__name__
            raise ResightError(f"{path}: a recipe must be a table of sections, not {kind}")
        return without_format(values, path)  # a run's own says it

    def _repr_html_(self) -> str:
        """One row per section."""
        values = self.to_dict()
        name = values.pop("name")
        rows = []
        for section, settings in values.items():
            kind_first = sorted(settings, key=lambda key: key not in KIND_KEYS.values())
            rows.append((section, ", ".join(f"{key} = {settings[key]}" for key in kind_first)))
        return html.joined(lambda: html.line(name, "b"), lambda: html.table((), rows))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for JSON."""
        return self.model_dump(mode="json")

    def flat(self) -> dict[str, Any]:
        """`section.field` → its value, and the name."""
        flat: dict[str, Any] = {}
        for section, settings in self.to_dict().items():
            if isinstance(settings, dict):
                flat |= {f"{section}.{key}": value for key, value in settings.items()}
            else:
                flat[section] = settings
        return flat

    def to_toml(self) -> str:
        """TOML that `Recipe.load` reads back as an equal recipe."""
        values = self.to_dict()
        lines = [f"name = {_toml(values.pop('name'))}"]
        for section, settings in values.items():
            lines += ["", f"[{section}]"]
            first = KIND_KEYS.get(section)
            for key in sorted(settings, key=lambda k: k != first):
                lines.append(f"{key} = {_toml(settings[key])}")
        return "\n".join(lines) + "\n"

    def with_changes(self, changes: Mapping[str, Any]) -> Recipe:
        """A copy with dotted fields changed, e.g. `{"optimizer.weight_decay": 0}`.

        A new `schedule.shape` or `optimizer.name` keeps the settings that both kinds have, an
        `augment.policy` none but those that are changed with it.
        Raises `ResightError` for an unknown field or a value that is not allowed.
        """
        values = self.to_dict()
        for section, key in KIND_KEYS.items():
            kind = changes.get(f"{section}.{key}")
            if kind is not None and kind != values[section][key]:
                values[section] = _shared_settings(section, key, values[section], kind)
        if "augment.policy" in changes:
            values["augment"] = {}
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
        """A copy with `epochs`; every other duration in epochs is scaled by the same factor."""
        return self.with_changes(self.scaled(epochs))

    def scaled(self, epochs: int) -> dict[str, float | int]:
        """The changes, as dotted fields, that stretch the schedule to `epochs`."""
        if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
            raise ResightError(f"epochs = {epochs!r} must be an integer ≥ 1")
        scaled = self.schedule.scaled(epochs)
        return {f"schedule.{key}": value for key, value in scaled.items()}

    def differences(self, other: Recipe) -> list[str]:
        """`section.field: mine → theirs` for each field that differs, except name and source."""
        mine, theirs = self.flat(), other.flat()
        return [
            f"{key}: {mine.get(key, 'unset')} → {theirs.get(key, 'unset')}"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key) and key not in ("name", "data.source")
        ]


def _toml(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML forbids DEL
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _shared_settings(
    section: str, key: str, settings: dict[str, Any], kind: object
) -> dict[str, Any]:
    """`settings` without those that `kind` lacks or that mean something else in it."""
    known = KINDS[section].get(str(kind))
    if known is None:
        hint = did_you_mean(str(kind), KINDS[section])
        raise ResightError(f"{section}.{key} = '{kind}': unknown {key}{hint}")
    kept = {k: v for k, v in settings.items() if k in known.model_fields}
    for setting in known.own_meaning | KINDS[section][settings[key]].own_meaning:
        kept.pop(setting, None)
    if kept.get("lr_end") == "lr_min" and "lr_min" not in known.model_fields:
        del kept["lr_end"]
    return {**kept, key: kind}


def _one_line(error: ValidationError, where: str) -> str:
    """The first of pydantic's errors as one line, and how many more there are."""
    errors = error.errors(include_url=False)
    first = errors[0]
    path = [str(p) for p in first["loc"]]
    if len(path) > 1 and path[1] in KINDS.get(path[0], {}):
        del path[1]  # pydantic inserts the kind that it chose for the section
    field, kind = ".".join(path), first["type"]
    shown = quoted(first["input"])
    if kind == "extra_forbidden":
        known = _fields_at(first["loc"])
        within = "".join(f"{part}." for part in path[:-1])
        text = f"unknown field '{field}'{did_you_mean(path[-1], known, within)}"
    elif kind == "union_tag_invalid":
        context = first["ctx"]
        allowed = [word.strip(" '") for word in str(context["expected_tags"]).split(",")]
        name = str(context["discriminator"]).strip("'")
        tag = str(context["tag"])
        text = f"{field}.{name} = '{tag}': unknown {name}{did_you_mean(tag, allowed)}"
    elif kind == "union_tag_not_found":
        name = str(first["ctx"]["discriminator"]).strip("'")
        text = f"{field}.{name} is missing; known: {', '.join(KINDS[field])}"
    elif (message := wanted(first)).startswith("is "):
        text = f"{field} {message}"
    else:
        text = f"{field} = {shown} {message}" if message.startswith("must") else message
    more = f" (and {len(errors) - 1} more wrong)" if len(errors) > 1 else ""
    return f"{where}: {text}{more}"


def _no_text(value: object) -> str | None:
    """The first text in nested values that can't be written as UTF-8."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value
        return None
    inside: list[object] = []
    if isinstance(value, Mapping):
        inside = [*value, *value.values()]
    return next((text for item in inside if (text := _no_text(item)) is not None), None)


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    if len(location) == 1:
        return list(Recipe.model_fields)
    section = str(location[0])
    if section in KINDS:
        return list(KINDS[section][str(location[1])].model_fields)
    kind = Recipe.model_fields[section].annotation
    assert isinstance(kind, type)
    assert issubclass(kind, Settings)
    return [*kind.model_fields, *(["policy"] if kind is Augment else [])]
