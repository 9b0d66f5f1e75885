"""The run folder: what a training leaves, written so that nothing is ever lost or half there."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import shlex
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resight.runs.checkpoints import read_checkpoint, serialized
from resight.errors import ResightError
from resight.files import append_line, exclusive, write_atomically, write_json
from resight.runs.predictions import Predictions
from resight.recipe.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from resight.data.types import ImageData
    from resight.findings import Diagnosis
    from resight.runs.lr_test import LrTest

SEEDS = "seeds.json"  # in a folder that holds the runs of several seeds


@dataclass(frozen=True)
class Run:
    """A run folder, read when asked, so that a run which still trains can be looked at."""

    path: Path

    @cached_property
    def recipe(self) -> Recipe:
        """As it was asked for: an LR to be found says "find"; `resolved` has the number."""
        return Recipe.load(self.path / "recipe.json")

    @property
    def resolved(self) -> dict[str, Any]:
        """schedule (numbers), data, steps_per_epoch, lr_test; {} before the LR is found."""
        return self._json("resolved.json")

    @property
    def environment(self) -> dict[str, Any]:
        """versions, machine and runtime of the newest start."""
        return self._json("environment.json")

    @property
    def result(self) -> dict[str, Any]:
        """The headline numbers; {} before the end."""
        return self._json("result.json")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A row an epoch; a line torn by a crash is left out."""
        rows = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    rows.append(json.loads(line))
        return rows

    @property
    def lr_test(self) -> LrTest | None:
        """The curve that the LR was found on; None where none was run."""
        from resight.runs.lr_test import LrTest

        values = self._json("lr_test.json")
        return LrTest.from_dict(values) if values else None

    @property
    def failure(self) -> dict[str, Any]:
        """Why the training stopped by itself (`message`); {} where it did not."""
        return self._json("failure.json")

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What `diagnose` found last; None where nobody has looked yet."""
        from resight.findings import Diagnosis

        values = self._json("diagnosis.json")
        return Diagnosis.from_dict(values) if values else None

    @property
    def predictions(self) -> Predictions:
        """Of the test split. Raises `ResightError` before the end."""
        return Predictions.load(self.path / "predictions.npz")

    @property
    def finished(self) -> bool:
        return bool(self.result)

    def model(self) -> nn.Module:
        """The trained net in eval mode, on the CPU. Raises `ResightError` before the end."""
        from resight.runs.weights import load_model

        return load_model(self.path / "model.safetensors")

    def plot_curves(self) -> Figure:
        """Loss and accuracy by epoch. Raises `ResightError` before the first one is done."""
        from resight.runs import plots

        return plots.curves(self)

    def plot_schedule(self) -> Figure:
        """The learning rate by epoch. Raises `ResightError` before it is found."""
        from resight.runs import plots

        return plots.schedule(self)

    def plot_lr_test(self) -> Figure:
        """The curve that the LR was found on. Raises `ResightError` where none was run."""
        from resight.runs import plots

        return plots.lr_test(self)

    def plot_confusion(self) -> Figure:
        """Predicted against true class, test split. Raises `ResightError` before the end."""
        from resight.runs import plots

        return plots.confusion(self)

    def plot_per_class(self) -> Figure:
        """The accuracy of each class, test split. Raises `ResightError` before the end."""
        from resight.runs import plots

        return plots.per_class(self)

    def plot_reliability(self) -> Figure:
        """Accuracy by confidence, test split. Raises `ResightError` before the end."""
        from resight.runs import plots

        return plots.reliability(self)

    def plot_mistakes(
        self, limit: int = 20, *, data: str | Path | ImageData | None = None
    ) -> Figure:
        """The misclassified test images with the highest losses. data: the run's images, where they
        have moved. Raises `ResightError` before the end, and where the images can't be had."""
        from resight.runs import plots

        return plots.mistakes(self, limit, data)

    def _repr_html_(self) -> str:
        from resight.render.html import run_html

        return run_html(self)

    def forget_failure(self) -> None:
        (self.path / "failure.json").unlink(missing_ok=True)

    def write(self, name: str, value: Any) -> None:
        write_json(self.path / name, value)

    def append_metrics(self, row: dict[str, Any]) -> None:
        append_line(self.path / "metrics.jsonl", json.dumps(row, allow_nan=False))

    def rewrite_metrics(self, rows: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_atomically(self.path / "metrics.jsonl", lines.encode())

    def sweep(self) -> None:
        """Remove what a killed process had half written under temporary names."""
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def checkpoint(self) -> dict[str, Any] | None:
        """What `last.pt` holds, None where there is none yet. No stranger's code runs."""
        return read_checkpoint(self.path / "last.pt")

    def write_best(self, model: nn.Module, epoch: int) -> None:
        """Keep the weights of the epoch with the best validation accuracy."""
        content = serialized({"model": model.state_dict(), "epoch": epoch})
        write_atomically(self.path / "best.pt", content)

    def load_best(self, model: nn.Module) -> int:
        """Put what `write_best` kept into `model`, in place; returns its epoch."""
        saved = read_checkpoint(self.path / "best.pt")
        if saved is None:
            raise ResightError(f"{self.path / 'best.pt'} is not there; it was kept during training")
        model.load_state_dict(saved["model"])
        return int(saved["epoch"])

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from training this run meanwhile."""
        return exclusive(self.path / ".lock")

    def _json(self, name: str) -> dict[str, Any]:
        try:
            values = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ResightError(f"{self.path / name}: can't be read: {error}") from None
        assert isinstance(values, dict)
        return values


def load_run(path: str | Path) -> Run:
    """Open a run folder, finished or not. Raises `ResightError` where there is none."""
    path = Path(path)
    if holds_seeds(path):
        raise ResightError(
            f"{path} holds the runs of several seeds and is none itself: name one of them, "
            f"{path / 'seed-N'}"
        )
    if not (path / "recipe.json").is_file():
        what = "has no recipe.json" if path.is_dir() else "is no folder"
        raise ResightError(f"{path}: {what}, so it is not a run; `resight train` makes one")
    run = Run(path)
    _ = run.recipe  # a broken one is said here, not later
    return run


def holds_seeds(path: str | Path) -> bool:
    """Whether a folder is what `train_seeds` made: one run folder a seed in it."""
    return (Path(path) / SEEDS).is_file()


def check_out(out: str | Path | None) -> None:
    """Raise `ResightError` where a run can't be made at `out`, before anything costly is done."""
    if out is None:
        return
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise ResightError(f"out: {path} is a file; give a folder that is new or empty")
    if (path / "recipe.json").is_file() or holds_seeds(path):
        what = "the runs of several seeds" if holds_seeds(path) else "a run"
        raise ResightError(
            f"out: {path} holds {what} already; go on with `resight train --resume "
            f"{shlex.quote(str(path))}`, or pick another --out"
        )
    if path.is_dir() and any(path.iterdir()):
        raise ResightError(f"out: {path} is not empty; pick another --out")


def create_run(out: str | Path | None, recipe: Recipe) -> Run:
    """A new folder, `runs/NAME-1`, `-2` … or `out`, with the recipe in it.

    Raises `ResightError` where `out` exists and is not empty, or can't be made.
    """
    run = Run(new_folder(out, recipe.name))
    run.write("recipe.json", recipe.to_dict())
    return run


def new_folder(out: str | Path | None, name: str) -> Path:
    """`out`, made and empty, or `runs/NAME-1`, `-2` … Raises `ResightError`."""
    try:
        return _next_folder(name) if out is None else _empty_folder(Path(out))
    except OSError as error:
        raise ResightError(
            f"out: can't write to {error.filename or out}: {error.strerror}; pick another --out"
        ) from None


def describe_environment(runtime: dict[str, Any]) -> dict[str, Any]:
    """Versions, machine and command."""
    from resight.version import __version__

    return {
        "resight": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "runtime": runtime,
        "command": ["resight", *sys.argv[1:]] if Path(sys.argv[0]).name == "resight" else None,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _next_folder(name: str) -> Path:
    base = Path("runs")
    base.mkdir(exist_ok=True)
    name = re.sub(r"[^\w.-]+", "-", name).strip(".-") or "run"  # a recipe's name is any text
    number = 1
    while True:
        path = base / f"{name}-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _empty_folder(path: Path) -> Path:
    check_out(path)
    path.mkdir(parents=True, exist_ok=True)
    return path
