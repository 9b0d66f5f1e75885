"""`reproduce`: train a finished run again from what it holds, and say whether it is the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resight.data.types import ImageData
from resight.errors import ResightError
from resight.progress import Reporter, default_reporter
from resight.records import CLOCKS
from resight.runs.folders import begin_run, new_folder
from resight.runs.own_images import check_own, own_images
from resight.runs.run import Run, load_run
from resight.runs.weights import Weights
from resight.training.train import train

# of environment.json, by the words for them: what may change a training's bits
CAUSES = {
    "Resight": ("resight",),
    "commit": ("commit",),
    "Python": ("python",),
    "platform": ("platform",),
    "torch": ("runtime", "torch"),
    "NumPy": ("packages", "numpy"),
    "Pillow": ("packages", "pillow"),
    "device": ("runtime", "device_name"),
    "CPU kernels": ("cpu_kernels",),
    "threads": ("runtime", "threads"),
    "precision": ("runtime", "precision"),
    "executor": ("runtime", "executor"),
    "images at a time": ("runtime", "micro_batch"),
    "deterministic": ("runtime", "deterministic"),
}


@dataclass(frozen=True)
class Reproduction:
    """A run and the same training again. accuracies and intervals: of the test split, of both.

    first_epoch: the first whose row differs, times aside; None if none does. weights, logits: the
    largest absolute difference; other_predictions: images of `images` that are predicted as
    another class. causes: what differs between the two machines or versions.
    """

    run: str
    again: str
    accuracies: tuple[float, float]
    intervals: tuple[tuple[float, float], tuple[float, float]]
    first_epoch: int | None
    weights: float
    logits: float
    other_predictions: int
    images: int
    causes: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Bit for bit: every row, weight and logit."""
        return self.first_epoch is None and not self.weights and not self.logits

    def to_dict(self) -> dict[str, Any]:
        return {"identical": self.identical, **asdict(self)}

    def __str__(self) -> str:
        if self.identical:
            same = "rows, weights and predictions"
            lines = [f"{self.again} is identical to {self.run}, bit for bit: {same}"]
        else:
            since = "" if self.first_epoch is None else f", from epoch {self.first_epoch} on"
            lines = [
                f"{self.again} differs from {self.run}{since}",
                f"  weights      by {self.weights:.3g} at most",
                f"  logits       by {self.logits:.3g} at most",
                f"  predictions  {self.other_predictions:,} of {self.images:,} images are "
                "predicted as another class",
            ]
            for name, accuracy, (low, high) in zip(
                ("before", "again"), self.accuracies, self.intervals, strict=True
            ):
                lines.append(f"  {name:<11}  {accuracy:.2%} (95% CI: {low:.2%} to {high:.2%})")
        word = "made no difference" if self.identical else "may be why"
        lines += [f"{word}: {cause}" for cause in self.causes]
        if not self.identical and not self.causes:
            lines.append(
                "nothing known differs; on a GPU, sums in another order do without --deterministic"
            )
        return "\n".join(lines)


def reproduce(
    run: str | Path | Run,
    data: str | Path | ImageData | None = None,
    *,
    out: str | Path | None = None,
    report: bool = False,
    reporter: Reporter | None = None,
) -> Reproduction:
    """Train a finished run again, into a new folder: its recipe with its LR test, its images, and
    its device, precision and threads where they are there.

    data: its images, if they have moved. out, report: as in `train`. Raises `ResightError` for a
    run that has not finished, and for images that are not its own.
    """
    run = run if isinstance(run, Run) else load_run(run)
    if not run.finished:
        raise ResightError(f"{run.path}: not finished, so there is nothing to reproduce")
    environment = run.environment
    if not environment:
        raise ResightError(
            f"{run.path / 'environment.json'} is missing, so it is not known how the run was "
            "trained: restore it"
        )
    _ = run.metrics, run.predictions, run.model()  # before hours of training
    known = {key: run.resolved[key] for key in ("data", "steps_per_epoch")}
    images = data if isinstance(data, ImageData) else _images(run, data, reporter)
    check_own(known["data"], images, run=run.path, advice="give the folder that holds them")
    begun = Run(new_folder(out, run.recipe.name))
    with begun.lock():
        begin_run(begun, run.recipe, resolved=known, runtime=environment["runtime"])
    again = train(resume=begun.path, data=images, report=report, reporter=reporter)
    return compared(run, again)


def _images(run: Run, at: str | Path | None, reporter: Reporter | None) -> ImageData:
    facts = run.resolved["data"]
    return own_images(facts, run.recipe.data, at=at, reporter=reporter or default_reporter())


def compared(run: Run, again: Run) -> Reproduction:
    """What is the same in two runs of one recipe on the same images."""
    before, after = run.predictions, again.predictions
    return Reproduction(
        run=str(run.path),
        again=str(again.path),
        accuracies=(before.accuracy, after.accuracy),
        intervals=(before.accuracy_interval, after.accuracy_interval),
        first_epoch=_first_other(run.metrics, again.metrics),
        weights=max(_weight_differences(run, again), default=0.0),
        logits=float(np.abs(before.logits - after.logits).max()),
        other_predictions=int((before.predicted != after.predicted).sum()),
        images=len(before),
        causes=(*_causes(run.environment, again.environment), *_other_lrs(run, again)),
    )


def _first_other(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> int | None:
    """The first epoch whose rows differ, times aside."""
    for number in range(max(len(rows), len(others))):
        pair = [_untimed(side[number]) if number < len(side) else None for side in (rows, others)]
        if pair[0] != pair[1]:
            return number + 1
    return None


def _untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in CLOCKS}


def _weight_differences(run: Run, again: Run) -> Iterator[float]:
    sides = [Weights.read(side.path / "model.safetensors").tensors for side in (run, again)]
    for name, tensor in sides[0].items():
        if tensor.numel():
            yield float((tensor.double() - sides[1][name].double()).abs().max())


def _causes(environment: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for words, keys in CAUSES.items():
        before, after = (_at(side, keys) for side in (environment, other))
        if before != after and (before, after).count(None) != 1:  # older runs recorded less
            yield f"{words} {before} → {after}"


def _other_lrs(run: Run, again: Run) -> Iterator[str]:
    """Of LRs that were found anew."""
    before, after = (side.resolved["schedule"] for side in (run, again))
    for name in ("lr_max", "lr_min"):
        if before.get(name) != after.get(name):
            yield f"{name} found {before[name]:.6g} → {after[name]:.6g}"


def _at(values: dict[str, Any], keys: tuple[str, ...]) -> Any:
    for key in keys:
        values = values.get(key, {})
    return values if values != {} else None
