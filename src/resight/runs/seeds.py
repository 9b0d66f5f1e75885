"""`SeedsResult`: what the runs of several seeds say about a recipe.

`SeedsPlan` is what they were started with. Both are in the folder's `seeds.json`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resight.errors import ResightError
from resight.intervals import standard_deviation, t_interval
from resight.progress import duration
from resight.recipe.recipe import Recipe
from resight.runs.manifest import read_file, write_files
from resight.runs.run import SEEDS, Run, holds_seeds
from resight.runs.schemas import SeedsFile, parsed, written


@dataclass(frozen=True)
class SeedsResult:
    """Runs of one recipe that differ in their seed. Accuracies in [0, 1], of the test split.

    seeds: those requested. runs: those that finished, in that order; `accuracies` and
    `train_seconds` are theirs. failures: seed → why its training stopped by itself. wall_seconds
    and timings: of the process that trained last; resumed: whether it resumed earlier runs.
    """

    path: Path
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    accuracies: tuple[float, ...]
    train_seconds: tuple[float, ...]
    failures: dict[int, str] = field(default_factory=dict)
    wall_seconds: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    resumed: bool = False

    @classmethod
    def of(cls, path: Path, seeds: Sequence[int], failures: dict[int, str]) -> SeedsResult:
        """What a folder with one run per seed holds so far."""
        runs = [Run(seed_folder(path, seed)) for seed in seeds]
        done = [(run, run.result) for run in runs if run.finished]
        return cls(
            path=path,
            seeds=tuple(seeds),
            runs=tuple(run for run, _ in done),
            accuracies=tuple(result["test_accuracy"] for _, result in done),
            train_seconds=tuple(result["train_seconds"] for _, result in done),
            failures=dict(failures),
        )

    @property
    def n(self) -> int:
        """The number of runs that finished; the mean is taken over them."""
        return len(self.runs)

    @property
    def complete(self) -> bool:
        """Whether every seed has finished or failed."""
        return self.n + len(self.failures) == len(self.seeds)

    @property
    def mean(self) -> float | None:
        """Of the accuracies; None if no run finished."""
        return statistics.fmean(self.accuracies) if self.n else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1) of the accuracies; None for fewer than two."""
        return standard_deviation(self.accuracies)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean by Student's t, clipped to [0, 1]; None for fewer than two."""
        found = t_interval(self.accuracies)
        return None if found is None else (max(0.0, found[0]), min(1.0, found[1]))

    @property
    def headline(self) -> str:
        """Mean and spread of the accuracies, and which seeds failed, in one line."""
        if self.interval is not None:
            low, high = self.interval
            text = (
                f"test accuracy {self.mean:.2%} ± {self.std:.2%} "
                f"(n={self.n}; 95% CI of the mean: {low:.2%} to {high:.2%})"
            )
        elif self.n:
            text = f"test accuracy {self.mean:.2%} (n=1: one seed has no spread)"
        else:
            text = "no accuracy: no seed finished"
        if self.failures:
            which = f"seed{'s' * (len(self.failures) > 1)} {', '.join(map(str, self.failures))}"
            text += f"; {len(self.failures)} of {len(self.seeds)} failed: {which}"
        return text

    def __str__(self) -> str:
        """One line per seed, the training time of a run, and the headline."""
        width = max(len("seed"), *(len(str(seed)) for seed in self.seeds))
        rows = {run.recipe.train.seed: run.result for run in self.runs}
        lines = [f"{'seed':>{width}}  test accuracy    LR max     train"]
        for seed in self.seeds:
            if seed in rows:
                row = rows[seed]
                lines.append(
                    f"{seed:>{width}}  {row['test_accuracy']:>13.2%}  {row['lr_max']:>8.3g}  "
                    f"{duration(row['train_seconds']):>8}"
                )
            else:
                lines.append(f"{seed:>{width}}  {self.failures.get(seed, 'not trained yet')}")
        if self.n:
            spread = standard_deviation(self.train_seconds)
            took = f"train seconds {statistics.fmean(self.train_seconds):.2f}"
            lines.append(took + ("" if spread is None else f" ± {spread:.2f}"))
        return "\n".join([*lines, self.headline])

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for JSON."""
        seconds = statistics.fmean(self.train_seconds) if self.n else None
        return {
            "version": 1,
            "path": str(self.path),
            "seeds": list(self.seeds),
            "n": self.n,
            "test_accuracy": {
                "mean": self.mean,
                "std": self.std,
                "mean_95": None if self.interval is None else list(self.interval),
            },
            "train_seconds": {"mean": seconds, "std": standard_deviation(self.train_seconds)},
            "runs": [
                {
                    "seed": run.recipe.train.seed,
                    "run": str(run.path),
                    "test_accuracy": accuracy,
                    "train_seconds": train_seconds,
                    "lr_max": run.result["lr_max"],
                }
                for run, accuracy, train_seconds in zip(
                    self.runs, self.accuracies, self.train_seconds, strict=True
                )
            ],
            "failed": [{"seed": seed, "message": why} for seed, why in self.failures.items()],
            "wall_seconds": self.wall_seconds,
            "timings": self.timings,
            "resumed": self.resumed,
        }


@dataclass(frozen=True)
class SeedsPlan:
    """What is needed to resume: the recipe (of the first seed), the seeds and the options.

    how: device, precision and so on, as requested. images: where they were (`source`), and their
    `fingerprint`.
    """

    recipe: Recipe
    seeds: tuple[int, ...]
    how: dict[str, Any]
    skip_bad: bool
    report: bool
    images: dict[str, str] = field(default_factory=dict)

    def reports(self, run: Run) -> bool:
        """Whether the run of one of the seeds gets a report: that of the first, if wanted."""
        return self.report and run.path.name == seed_folder(run.path, self.seeds[0]).name

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "recipe": self.recipe.to_dict(), "seeds": list(self.seeds)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SeedsPlan:
        recipe = Recipe.parse(values["recipe"])
        return cls(**{**values, "recipe": recipe, "seeds": tuple(values["seeds"])})


def write_summary(path: Path, plan: SeedsPlan, result: SeedsResult) -> None:
    values = {**result.to_dict(), "plan": plan.to_dict()}
    write_files(path, {SEEDS: written(values)})


def read_summary(path: Path) -> tuple[SeedsPlan, SeedsResult, bool]:
    """The plan in a folder's `seeds.json`, the runs that are there, and whether the file lists all
    of them: it does not if the process was killed. Raises `ResightError`."""
    file = path / SEEDS
    if not holds_seeds(path):
        raise ResightError(
            f"{path} has no {SEEDS}, so it does not hold the runs of several seeds; "
            "`resight train --seeds 5` creates them; a single run is resumed without --seeds"
        )
    values = parsed(SeedsFile, read_file(file), file)
    try:
        plan = SeedsPlan.from_dict(values["plan"])
    except TypeError as error:
        raise ResightError(f"{file} is not as Resight writes it: {error}; restore it") from None
    failures = {row["seed"]: row["message"] for row in values["failed"]}
    for seed in plan.seeds:
        if failure := Run(seed_folder(path, seed)).failure:
            failures.setdefault(seed, failure["message"])
    result = replace(
        SeedsResult.of(path, plan.seeds, failures),
        wall_seconds=values["wall_seconds"],
        timings=values["timings"],
        resumed=values["resumed"],
    )
    told = (values["n"], len(values["failed"])) == (result.n, len(result.failures))
    return plan, result, told


def seed_folder(path: Path, seed: int) -> Path:
    """The folder of a seed's run."""
    return path / f"seed-{seed}"
