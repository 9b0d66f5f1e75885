"""`RunNumbers`: what a run folder holds so far, as a row to compare with other runs' rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resight.records import best_epoch, is_uneven
from resight.runs.run import Run


@dataclass(frozen=True)
class RunNumbers:
    """A run in numbers, None for those not (yet) known. Accuracies in [0, 1].

    lr_found: whether an LR test found `lr_max`; lr_usual: whether it is the optimizer's usual one,
    since no test could. *_last and *_best: of the measurements after each
    epoch, the best as `records.best_epoch` has it. test_accuracy: of the weights that were kept.
    """

    name: str
    path: str
    recipe: str
    data: str | None
    seed: int
    finished: bool
    epochs: int
    epochs_done: int
    lr_max: float | None
    lr_found: bool
    lr_usual: bool
    weights: str | None
    test_accuracy: float | None
    test_accuracy_95: tuple[float, float] | None
    guess_accuracy: float | None
    balanced_accuracy: float | None
    test_classes: int | None
    test_images: int | None
    test_last: float | None
    test_best: float | None
    test_best_epoch: int | None
    val_last: float | None
    val_best: float | None
    val_best_epoch: int | None
    train_accuracy: float | None
    train_seconds: float | None
    wall_seconds: float | None
    resumed: bool
    parameters: int | None
    device: str | None
    precision: str | None

    @property
    def unequal(self) -> bool:
        """Whether the classes in test are so unequal that accuracy alone misleads."""
        guess, classes = self.guess_accuracy, self.test_classes
        return guess is not None and classes is not None and is_uneven(guess, classes)

    @classmethod
    def of(cls, run: Run, name: str) -> RunNumbers:
        """`run` as it is now; if it has not finished, train_seconds are those so far."""
        recipe, resolved, result, metrics = run.recipe, run.resolved, run.result, run.metrics
        lr_max = resolved.get("schedule", {}).get("lr_max", recipe.schedule.lr_max)
        last = metrics[-1] if metrics else {}
        interval = result.get("test_accuracy_95")
        runtime = run.environment.get("runtime", {})
        so_far = math.fsum(row["train_seconds"] for row in metrics) if metrics else None
        best_test = best_epoch(metrics, "test_accuracy") or {}
        best_val = best_epoch(metrics, "val_accuracy") or {}
        return cls(
            name=name,
            path=str(run.path),
            recipe=recipe.name,
            data=resolved.get("data", {}).get("name"),
            seed=recipe.train.seed,
            finished=run.finished,
            epochs=recipe.schedule.epochs,
            epochs_done=int(last.get("epoch", 0)),
            lr_max=None if lr_max == "find" else lr_max,
            lr_found=recipe.schedule.lr_max == "find" and not resolved.get("usual", False),
            lr_usual=recipe.schedule.lr_max == "find" and resolved.get("usual", False),
            weights=result.get("weights"),
            test_accuracy=result.get("test_accuracy"),
            test_accuracy_95=(interval[0], interval[1]) if interval else None,
            guess_accuracy=result.get("guess_accuracy"),
            balanced_accuracy=result.get("balanced_accuracy"),
            test_classes=result.get("test_classes"),
            test_images=result.get("test_images"),
            test_last=last.get("test_accuracy"),
            test_best=best_test.get("test_accuracy"),
            test_best_epoch=best_test.get("epoch"),
            val_last=last.get("val_accuracy"),
            val_best=best_val.get("val_accuracy"),
            val_best_epoch=best_val.get("epoch"),
            train_accuracy=last.get("train_accuracy"),
            train_seconds=result.get("train_seconds", so_far),
            wall_seconds=result.get("wall_seconds"),
            resumed=result.get("resumed_from_step") is not None,
            parameters=result.get("parameters"),
            device=result.get("device", runtime.get("device_name")),
            precision=result.get("precision", runtime.get("precision")),
        )


def recipe_differences(runs: Sequence[Run]) -> dict[str, tuple[Any, ...]]:
    """`section.field` → its value in each run's recipe (None if it has none), for the fields that
    differ, including the name. data.source is where the images actually were."""
    recipes = [_flat(run) for run in runs]
    sections = list(runs[0].recipe.to_dict())
    fields = dict.fromkeys(itertools.chain.from_iterable(recipes))
    ordered = sorted(fields, key=lambda field: sections.index(field.partition(".")[0]))
    values = {field: tuple(recipe.get(field) for recipe in recipes) for field in ordered}
    return {field: row for field, row in values.items() if any(v != row[0] for v in row)}


def _flat(run: Run) -> dict[str, Any]:
    source = run.resolved.get("data", {}).get("source")
    flat = run.recipe.flat()
    return flat if source is None else {**flat, "data.source": source}


def short_names(places: Sequence[Path]) -> list[str]:
    """The last parts of each path, as few as distinguish it from the others; no two are equal."""
    names = []
    for place in places:
        others = [other.parts for other in places if other != place]
        most = len(place.parts)
        fewest = next(
            (n for n in range(1, most) if all(o[-n:] != place.parts[-n:] for o in others)), most
        )
        names.append(str(Path(*place.parts[-fewest:])))
    return names
