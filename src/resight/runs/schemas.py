"""What each JSON file of a run folder holds, and the one place where it is written and read.

Fields with a default are those that an older version did not write; they are left out where the
file lacks them. What a newer version adds is kept as it is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from resight.errors import ResightError, first_line
from resight.files import json_bytes
from resight.formats import with_format, without_format
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Fit
from resight.runs.lr_test import Method
from resight.validation import fault


def _text(value: object) -> object:
    """A `str` that may hold bytes of a file's name that are no text (surrogates), which pydantic's
    own refuses."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def _constant(name: str) -> object:
    raise ValueError(f"{name} is not a finite number")


Text = Annotated[Any, AfterValidator(_text)]
Count = Annotated[int, Field(ge=0)]
Some = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
TestedLr = Annotated[float, Field(ge=1e-100, le=1e100)]  # their ratio is finite
Amount = Annotated[float, Field(ge=0)]  # seconds, or anything else that can't be negative


class File(BaseModel):
    """A JSON object with finite numbers and no conversion between types."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Images(File):
    """`data_facts` of `data/types.py`."""

    name: Text
    source: Text
    fingerprint: str
    classes: list[Text] = Field(min_length=1)
    channels: Literal[1, 3]
    mean: list[float]
    std: list[Positive]
    train: Some
    class_counts: list[Count]
    val: Count
    test: Some
    notes: list[Text]
    bad: list[Text]

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same name")
        if len(self.class_counts) != len(self.classes):
            raise ValueError("class_counts are not of these classes")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError("mean and std are not of these channels")
        return self


class Resolved(File):
    """resolved.json: the images, and the schedule in numbers once it is known."""

    data: Images
    steps_per_epoch: Some
    found: dict[str, Positive] = {}
    usual: bool = False
    schedule: dict[str, Any] = {}

    @model_validator(mode="after")
    def _together(self) -> Self:
        if ("found" in self.model_fields_set) != ("schedule" in self.model_fields_set):
            raise ValueError("found and schedule belong together")
        return self


class RuntimeFacts(File):
    """`Runtime.to_dict`."""

    device: str
    device_name: str
    precision: str
    threads: Some | None
    deterministic: bool
    executor: Literal["eager", "captured"]
    micro_batch: Count = 0
    fused: bool = False
    search: int | None = None
    reasons: dict[str, str] = {}
    torch: str


class Environment(File):
    """environment.json: versions, machine and runtime of the latest start or resume."""

    resight: str
    commit: str | None = None
    python: str
    packages: dict[str, str | None] = {}
    platform: str
    cpu_kernels: str | None = None
    runtime: RuntimeFacts
    fingerprint: str = ""
    command: list[Text] | None
    started: str


class Result(File):
    """result.json: the headline numbers of a run that has finished."""

    run: Text
    recipe: str
    data: Text
    seed: int
    epochs: Some
    epochs_trained: Some = 1
    lr_max: Positive
    weights: str
    weights_epoch: Some = 1
    test_accuracy: Share
    test_accuracy_95: list[Share] = Field(min_length=2, max_length=2)
    guess_accuracy: Share = 0.0
    balanced_accuracy: Share = 0.0
    test_classes: Some = 1
    test_loss: Amount
    test_images: Some
    train_accuracy: Share
    parameters: Count
    train_seconds: Amount
    wall_seconds: Amount
    timings: dict[str, float]
    resumed_from_step: Count | None
    images_per_second: Amount
    device: str
    precision: str
    executor: str = "eager"
    fallback: str | None = None


class Row(File):
    """An epoch's line in metrics.jsonl."""

    __pydantic_extra__: dict[str, float]
    epoch: Some
    step: Some
    lr: Amount
    train_loss: float
    train_accuracy: Share
    train_seconds: Amount
    images_per_second: Amount
    val_loss: float = 0.0
    val_accuracy: Share = 0.0
    test_loss: float = 0.0
    test_accuracy: Share = 0.0
    evaluate_seconds: Amount = 0.0


class Failure(File):
    """failure.json: why the training stopped by itself."""

    message: Text


class FindingFile(File):
    """`Finding` of `findings.py`, which has these fields only."""

    model_config = ConfigDict(extra="ignore")
    name: str
    severity: Literal["problem", "note"]
    title: Text
    evidence: Text
    threshold: Text
    advice: Text
    command: Text | None = None


class DiagnosisFile(File):
    """diagnosis.json: what the last `diagnose` found."""

    findings: list[FindingFile]
    skipped: list[Text]


class LrTestFile(File):
    """lr_test.json: the LR test that the LR was read off."""

    lrs: list[TestedLr] = Field(min_length=1)
    losses: list[float]
    stop: str
    chance: float | None
    method: Method
    batch: Count = 0
    lr_scale: Positive = 1.0
    recipe_lr: float | None = None
    usual_lr: float | None = None

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if len(self.losses) != len(self.lrs):
            raise ValueError("lrs and losses differ in length")
        if any(after <= before for before, after in itertools.pairwise(self.lrs)):
            raise ValueError("lrs must rise from step to step")
        return self


class PlanFile(File):
    """What the seeds of a folder were started with."""

    recipe: dict[str, Any]
    seeds: list[Count] = Field(min_length=1)
    how: dict[str, Any]
    skip_bad: bool
    report: bool
    images: dict[str, Text] = {}


class FailedSeed(File):
    seed: Count
    message: Text


class SeedsFile(File):
    """seeds.json: several seeds in one folder."""

    plan: PlanFile
    n: Count
    failed: list[FailedSeed]
    wall_seconds: Amount
    timings: dict[str, float]
    resumed: bool


class About(File):
    """The metadata of model.safetensors."""

    model: dict[str, Any]
    classes: list[Text] = Field(min_length=1)
    channels: Literal[1, 3]
    image_size: Some
    mean: list[float]
    std: list[Positive]
    tta: str
    fit: Fit = "crop"  # these two only where it was exported
    temperature: Positive = 1.0


FILES: dict[str, type[File]] = {
    "resolved.json": Resolved,
    "environment.json": Environment,
    "result.json": Result,
    "failure.json": Failure,
    "diagnosis.json": DiagnosisFile,
    "lr_test.json": LrTestFile,
}


def written(values: Mapping[str, Any]) -> bytes:
    """A JSON file of a run, which says its format."""
    return json_bytes(with_format(values))


def parsed(schema: type[File], content: str | bytes, where: str | Path) -> dict[str, Any]:
    """The values of a JSON text as plain ones, without its format. Raises `ResightError`, naming
    the first field that is not as it was written."""
    values = values_in(content, where)
    if isinstance(values, dict):
        values = without_format(values, where)
    try:
        return schema.model_validate(values).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise _not_as_written(where, fault(error.errors(include_url=False)[0])) from None


def parsed_recipe(content: bytes, where: Path) -> Recipe:
    """The recipe of a run. Raises `ResightError` also where a section is missing: it would get the
    default."""
    values = values_in(content, where)
    if not isinstance(values, dict):
        raise _not_as_written(where, "it must be a table of sections")
    values = without_format(values, where)
    if missing := [section for section in Recipe.model_fields if section not in values]:
        raise _not_as_written(where, f"{missing[0]} is missing")
    return Recipe.parse(values, where=str(where))


def values_in(content: bytes | str, where: str | Path) -> Any:
    """What a JSON text says. Raises `ResightError`."""
    try:
        return json.loads(content, parse_constant=_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _not_as_written(
            where, f"it is not JSON from {place} on" if content else "it is empty"
        ) from None
    except UnicodeDecodeError:
        raise _not_as_written(where, "it is not UTF-8 text") from None
    except RecursionError:
        raise _not_as_written(where, "its brackets are too deep inside each other") from None
    except ValueError as error:  # of `_constant`, or Python's of a number of 5,000 digits
        raise _not_as_written(where, first_line(error)) from None


def _not_as_written(where: str | Path, why: str) -> ResightError:
    return ResightError(
        f"{where} is not as Resight writes it: {why}; restore it or start a new run"
    )


def parsed_rows(content: bytes, where: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl. A last line without its end was cut off by a crash, and is left
    out. Raises `ResightError` for anything else that is no row of its epoch."""
    lines = content.split(b"\n")[:-1]
    rows = [parsed(Row, line, f"{where}: line {n}") for n, line in enumerate(lines, 1)]
    _check_order(rows, where)
    return rows


def check_rows(rows: list[dict[str, Any]], where: Path) -> None:
    """Raise `ResightError` if the rows in a checkpoint are no rows of epochs."""
    for n, row in enumerate(rows, 1):
        try:
            Row.model_validate(row)
        except ValidationError as error:
            said = fault(error.errors(include_url=False)[0])
            raise _not_as_written(f"{where}: epoch {n}", said) from None
    _check_order(rows, where)


def _check_order(rows: list[dict[str, Any]], where: Path) -> None:
    for n, row in enumerate(rows, 1):
        if row["epoch"] != n:
            raise ResightError(
                f"{where}: row {n} is of epoch {row['epoch']}: restore it or start a new run"
            )
