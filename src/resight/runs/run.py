"""The run folder: what a training produces, written so that no file is lost or incomplete."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resight.data.types import ImageData
from resight.errors import ResightError, ResightWarning
from resight.files import (
    append_line,
    exclusive,
    identity,
    in_one_line,
    leftovers,
    write_atomically,
)
from resight.findings import Diagnosis
from resight.formats import KEY
from resight.progress import Reporter, duration
from resight.recipe.recipe import Recipe
from resight.recipe.schedule import lr_points
from resight.recipe.settings import Schedule
from resight.records import accuracy_words
from resight.render import charts, html, tiles
from resight.runs import commands
from resight.runs.answers import Answers
from resight.runs.calibration import calibration, fit_temperature
from resight.runs.checkpoints import LAST, not_a_checkpoint, read_checkpoint, serialized
from resight.runs.lr_test import LrTest
from resight.runs.manifest import (
    MANIFEST,
    forget_file,
    not_a_file,
    read_file,
    read_manifest,
    write_files,
)
from resight.runs.own_images import reload_data
from resight.runs.predictions import Predictions
from resight.runs.schemas import FILES, parsed, parsed_recipe, parsed_rows, values_in, written

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from resight.runs.predictor import Picture, Predictor
    from resight.runs.weights import Weights

MAX_FINDINGS_SHOWN = 20  # in a notebook
BEGUN = ("recipe.json", "resolved.json")
MODEL, PREDICTIONS = "model.safetensors", "predictions.npz"
RESULT_FILES = (MODEL, PREDICTIONS, "metrics.jsonl")
SEEDS = "seeds.json"  # in a folder that holds the runs of several seeds

_places: dict[Path, tuple[int, int]] = {}  # of the runs that this process trains: `identity`
_told: set[Path] = set()  # of a missing manifest: once is enough


@dataclass(frozen=True)
class Run:
    """A run folder, read on demand, so that a run can be inspected while it trains."""

    path: Path

    @property
    def begun(self) -> bool:
        """Whether it is a run: a training that is killed earlier leaves less, and nothing of
        use."""
        return all((self.path / name).is_file() for name in BEGUN)

    @property
    def manifest_removed(self) -> bool:
        """Whether its recipe was written with a manifest and no manifest lists it: somebody has
        removed it, which is the way to edit a run."""
        path = self.path / "recipe.json"
        if path.name in read_manifest(self.path).files:
            return False
        return KEY in values_in(read_file(path), path)

    @cached_property
    def recipe(self) -> Recipe:
        """As requested: an LR to be found is "find" here; `resolved` has the number."""
        path = self.path / "recipe.json"
        try:
            return parsed_recipe(read_file(path), path)
        except FileNotFoundError:
            raise ResightError(f"{path} is missing, so {self.path} is not a run") from None

    @property
    def resolved(self) -> dict[str, Any]:
        """data, steps_per_epoch; once the LR is known, found and schedule (numbers); {} before."""
        return self._json("resolved.json")

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, machine and runtime of the latest start or resume."""
        return self._json("environment.json")

    @property
    def result(self) -> dict[str, Any]:
        """The headline numbers; {} until the run has finished."""
        return self._json("result.json")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One row per epoch; a last line that a crash cut off is left out. Raises `ResightError`
        for other rows than the training wrote."""
        path = self.path / "metrics.jsonl"
        try:
            rows = parsed_rows(read_file(path), path)
        except FileNotFoundError:
            rows = []
        if result := self.result:
            trained = result.get("epochs_trained", result["epochs"])
            if not path.exists() and (self.path / LAST).is_file():
                command = commands.resume_command(self.path)
                raise ResightError(f"{path} is missing: restore it, or write it with `{command}`")
            if len(rows) != trained:
                raise ResightError(
                    f"{path}: {len(rows)} of {trained} epochs: restore it or start a new run"
                )
        return rows

    @property
    def lr_test(self) -> LrTest | None:
        """The LR test that the LR was read off; None if none was run."""
        values = self._json("lr_test.json")
        return LrTest.from_dict(values) if values else None

    @property
    def failure(self) -> dict[str, Any]:
        """Why the training stopped by itself (`message`); {} if it did not."""
        return self._json("failure.json")

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What the last `diagnose` found; None if the run has not been diagnosed."""
        values = self._json("diagnosis.json")
        return Diagnosis.from_dict(values) if values else None

    @property
    def schedule(self) -> Schedule | None:
        """The schedule with the LRs that were found; None before they are found."""
        numbers = self.resolved.get("schedule")
        if numbers is None:
            return None
        changes = {f"schedule.{key}": value for key, value in numbers.items()}
        return self.recipe.with_changes(changes).schedule

    def schedule_points(self) -> dict[str, Any] | None:
        """`schedule.lr_points` of the run; None before its LRs are known."""
        schedule = self.schedule
        if schedule is None:
            return None
        if schedule.needs_lr_test:
            raise ResightError(
                f"{self.path / 'resolved.json'}: not all LRs of its schedule are numbers: restore "
                "it or start a new run"
            )
        return lr_points(schedule, self.resolved["steps_per_epoch"], self.metrics)

    @property
    def predictions(self) -> Predictions:
        """Of the test split. Raises `ResightError` if the run has not finished."""
        return self.predictions_in("predictions.npz")

    def predictions_in(self, name: str) -> Predictions:
        """Those in one of its files. Raises `ResightError`, also if they are not of its classes."""
        predictions = Predictions.load(self.path / name)
        if list(predictions.classes) != self.resolved["data"]["classes"]:
            raise ResightError(
                f"{self.path / name}: its classes are not those of the run: restore it, or write "
                f"it again with `{commands.rewrite_command(self.path / name)}`"
            )
        return predictions

    @property
    def temperature(self) -> float | None:
        """Fitted on the predictions for the validation split; None for a run without them. Raises
        `ResightError` if they are lost or damaged."""
        path = self.path / "predictions-val.npz"
        if not path.is_file():
            if path.name in read_manifest(self.path).files:
                command = commands.evaluate_command(self.path, "--split", "val")
                raise ResightError(f"{path} is missing: restore it, or write it with `{command}`")
            return None
        predictions = self.predictions_in(path.name)
        return fit_temperature(predictions) if predictions.split == "val" else None

    @property
    def finished(self) -> bool:
        return bool(self.result)

    def done(self, *, report: bool) -> bool:
        """Whether it has finished and was diagnosed, and, if wanted, its report written: a training
        may be killed between these."""
        looked_at = self.complete and self.diagnosis is not None
        return looked_at and (self.report_page is not None or not report)

    @property
    def report_page(self) -> Path | None:
        """The report's page; None if there is none, or it is older than the last epoch."""
        page, metrics = self.path / "report" / "index.html", self.path / "metrics.jsonl"
        if not page.is_file():
            return None
        stale = metrics.is_file() and page.stat().st_mtime_ns < metrics.stat().st_mtime_ns
        return None if stale else page

    @property
    def complete(self) -> bool:
        """Whether it has finished and the files that its result is of are there."""
        return self.finished and all((self.path / name).is_file() for name in RESULT_FILES)

    def model(self) -> nn.Module:
        """The trained net in eval mode, on the CPU: float32 (N, C, H, W), normalised with the
        statistics in `resolved["data"]`, to logits (N, K). `predict` takes images as they are.
        Raises `ResightError` if not finished."""
        from resight.runs.weights import load_model

        return load_model(self.weights())

    def weights(self) -> Weights:
        """What `model.safetensors` holds. Raises `ResightError` if the run has not finished, and
        for the net of another one."""
        from resight.runs.weights import Weights

        weights, facts = Weights.read(self.path / MODEL), self.resolved
        if facts:
            weights.check_of(self.recipe, tuple(facts["data"]["classes"]))
        return weights

    def predictor(
        self, *, device: str = "auto", precision: str = "auto", calibrated: bool = True
    ) -> Predictor:
        """The net and all that it takes to show images to it. "auto" is what the run was trained
        with, if available. calibrated: with the run's temperature, where it has one. Raises
        `ResightError` if not finished."""
        from resight.engine.runtime import Runtime, RuntimeOptions, kept_threads
        from resight.runs.predictor import Predictor

        weights = self.weights()
        options = RuntimeOptions(device, precision)
        runtime = Runtime.like(self.environment.get("runtime"), options, run=self.path)
        with kept_threads():  # the predictor sets them itself where it needs them
            runtime.apply()
        return Predictor.of(
            weights, self.recipe.data.fit, runtime, self.temperature if calibrated else None
        )

    def predict(
        self, images: Picture | Iterable[Picture], *, device: str = "auto", precision: str = "auto"
    ) -> Answers:
        """The classes of one or several images, with their probabilities.

        images: paths, PIL images, arrays (H, W, C) or (N, H, W, C), tensors (C, H, W) or (N, C, H,
        W), uint8 or floating-point in [0, 1]: see `Predictor.pixels`. Decoded, resized and
        normalised as the test images were. Raises `ResightError` for one that can't be read.
        """
        from resight.runs.predictor import pictures_of

        return self.predictor(device=device, precision=precision).answers(pictures_of(images))

    def images(
        self,
        data: str | Path | ImageData | None = None,
        *,
        skip_bad: bool = False,
        reporter: Reporter | None = None,
    ) -> ImageData:
        """The images that it is trained on, finished or not, with its validation split.

        data: where they are now, or the images themselves, if they have moved. Raises
        `ResightError`, also if the images are different ones (by their fingerprint).
        """
        return reload_data(
            self.resolved.get("data"),
            self.recipe.data,
            run=self.path,
            data=data,
            skip_bad=skip_bad,
            reporter=reporter,
        )

    def repeat_command(self) -> str | None:
        """The shell command that repeats the training: see `commands.repeat_command`."""
        facts, runtime = self.resolved.get("data", {}), self.environment.get("runtime", {})
        deterministic = bool(runtime.get("deterministic"))
        return commands.repeat_command(self.path, self.recipe, facts, deterministic=deterministic)

    def find_lr_command(self) -> str | None:
        """The shell command that repeats its LR test: see `commands.find_lr_command`."""
        return commands.find_lr_command(self.path, self.recipe, self.resolved.get("data", {}))

    def balanced_command(self) -> str | None:
        """The shell command that balances classes: see `commands.balanced_command`."""
        return commands.balanced_command(self.path, self.recipe, self.resolved.get("data", {}))

    def plot_curves(self) -> Figure:
        """Loss and accuracy by epoch. Raises `ResightError` before the first epoch is done."""
        metrics = self.metrics
        if not metrics:
            raise ResightError(
                f"{self.path}: no epoch is done yet, so there are no curves; {self._wait_or_resume}"
            )
        return charts.curves(metrics)

    def plot_schedule(self) -> Figure:
        """The learning rate by epoch. Raises `ResightError` before it is known."""
        points = self.schedule_points()
        if points is None:  # not found yet, or "plateau", which depends on losses still to come
            raise ResightError(
                f"{self.path}: its learning rates are not known yet; {self._wait_or_resume}"
            )
        return charts.lr_schedule(points)

    def plot_lr_test(self) -> Figure:
        """The LR test that the LR was read off. Raises `ResightError` if none was run."""
        test = self.lr_test
        if test is None:
            command = self.find_lr_command()
            hint = f"; `{command}` runs one" if command else ""
            raise ResightError(f"{self.path}: no LR test was run, because its LR was given{hint}")
        return test.plot()

    def plot_confusion(self) -> Figure:
        """Confusion matrix, test split. Raises `ResightError` if the run has not finished."""
        predictions = self._measured()
        return charts.confusion(predictions.confusion.tolist(), predictions.classes)

    def plot_per_class(self) -> Figure:
        """Accuracy per class, test split. Raises `ResightError` if the run has not finished."""
        return charts.per_class(self._measured().per_class())

    def plot_reliability(self) -> Figure:
        """Accuracy by confidence, test split. Raises `ResightError` if not finished."""
        measured = calibration(self._measured())
        return charts.reliability({"bins": measured.rows, "ece": measured.ece})

    def plot_mistakes(
        self, limit: int = 20, *, data: str | Path | ImageData | None = None
    ) -> Figure:
        """The misclassified test images with the highest losses. data: the run's images, if they
        have moved. Raises `ResightError` if the run has not finished or has no images."""
        if not isinstance(limit, int) or limit < 1:
            raise ResightError(f"limit = {limit!r} must be an integer ≥ 1")
        predictions = self._measured()
        rows = predictions.mistakes(limit)
        if not len(rows):
            raise ResightError(
                f"{self.path}: no test image is misclassified, so there are none to show"
            )
        images, classes = self.images(data).test.images, predictions.classes
        return tiles.mistakes(
            images[rows],
            [classes[label] for label in predictions.labels[rows]],
            [classes[label] for label in predictions.predicted[rows]],
            predictions.confidence[rows].tolist(),
            predictions.ids[rows].tolist(),
        )

    def _repr_html_(self) -> str:
        """Headline, numbers, findings and curves, as far as they exist."""
        return html.joined(
            lambda: html.line(f"{self.recipe.name} · {self.path}", "b"),
            lambda: html.line(self.state),
            lambda: self._numbers_html(),
            lambda: self._findings_html(),
            lambda: (
                html.image(self.plot_curves(), "loss and accuracy by epoch") if self.metrics else ""
            ),
        )

    @property
    def state(self) -> str:
        """The result's headline, or the training's progress, in one line."""
        result, epochs = self.result, self.recipe.schedule.epochs
        if not result:
            return f"not finished: {len(self.metrics)} of {epochs} epochs are done"
        return accuracy_words(
            "test", result["test_accuracy"], result["test_accuracy_95"], result["test_images"]
        )

    def _numbers_html(self) -> str:
        result = self.result
        if not result:
            return ""
        return html.table(
            (),
            [
                ("data", result["data"]),
                ("epochs", result.get("epochs_trained", result["epochs"])),
                ("weights", result["weights"]),
                ("test loss", f"{result['test_loss']:.4f}"),
                ("train accuracy", f"{result['train_accuracy']:.2%}"),
                ("lr_max", f"{result['lr_max']:.3g}"),
                ("seed", result["seed"]),
                ("parameters", f"{result['parameters']:,}"),
                ("training", f"{duration(result['train_seconds'])} on {result['device']}"),
            ],
        )

    def _findings_html(self) -> str:
        if self.diagnosis is None:
            return ""
        found = self.diagnosis.findings
        lines = [f"{finding.severity}: {finding.title}: {finding.evidence}" for finding in found]
        lines = lines[:MAX_FINDINGS_SHOWN] or [self.diagnosis.verdict or ""]
        return "".join(map(html.line, lines))

    def _measured(self) -> Predictions:
        if not self.finished:
            raise ResightError(
                f"{self.path}: not finished, so it has no test results yet; {self._wait_or_resume}"
            )
        return self.predictions

    @property
    def _wait_or_resume(self) -> str:
        command = commands.resume_command(self.path)
        return f"wait for it or, if it has stopped, resume it with `{command}`"

    def forget_failure(self) -> None:
        path = self.path / "failure.json"
        with in_one_line(path):
            path.unlink(missing_ok=True)

    def write(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file."""
        self.write_files({name: written(values)})

    def write_files(self, contents: Mapping[str, bytes]) -> None:
        """Write files that are checked when they are read: see `manifest.write_files`."""
        with self._in_place():
            write_files(self.path, contents, self._check_place)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add an epoch's row for others to read. It need not be on the disk at once: `last.pt`
        holds it too, and all are written again at the end."""
        with self._in_place():
            append_line(self.path / "metrics.jsonl", json.dumps(row, allow_nan=False))

    def begin_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write the rows so far, to which others will be added."""
        with self._in_place():
            forget_file(self.path / "metrics.jsonl", self._check_place)
            self._check_place()
            write_atomically(self.path / "metrics.jsonl", metrics_bytes(rows))

    @property
    def leftovers(self) -> list[Path]:
        """What a process left that was killed while writing."""
        return leftovers(self.path)

    def sweep(self) -> None:
        """Remove `leftovers`."""
        for path in self.leftovers:
            with in_one_line(path):
                path.unlink(missing_ok=True)

    def checkpoint(self) -> dict[str, Any] | None:
        """The contents of `last.pt`, None if there is none yet. Loading it runs no code."""
        return read_checkpoint(self.path / LAST)

    def write_best(self, model: nn.Module, epoch: int) -> None:
        """Keep the weights of the epoch with the best validation accuracy."""
        self.write_files({"best.pt": serialized({"model": model.state_dict(), "epoch": epoch})})

    def load_best(self, model: nn.Module) -> int:
        """Load what `write_best` kept into `model`, in place; returns its epoch."""
        from resight.engine.state import misfit

        path = self.path / "best.pt"
        saved = read_checkpoint(path)
        if saved is None:
            raise ResightError(
                f"{path} is missing, although the training wrote it: restore it or start a new run"
            )
        live = {"model": model.state_dict(), "epoch": 0}
        if why := misfit(live, saved):
            raise not_a_checkpoint(path, why)
        model.load_state_dict(saved["model"])
        return int(saved["epoch"])

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training this run at the same time, and this one from writing
        into a folder that takes the place of the run's."""
        with exclusive(self.path / ".lock"):
            _places[self.path] = identity(self.path)
            try:
                yield
            finally:
                del _places[self.path]

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        """Around writes to the run: before them, and where one fails, `_check_place`."""
        self._check_place()
        try:
            yield
        except ResightError:
            self._check_place()
            raise

    def _check_place(self) -> None:
        """Raise `ResightError` if the folder of a run that this process trains is gone, or another
        has taken its place: a training must not write into somebody else's run."""
        held = _places.get(self.path)
        if held is None:
            return
        with contextlib.suppress(OSError):
            if identity(self.path) == held:
                return
        raise ResightError(
            f"{self.path}: the run's folder was moved, replaced or deleted while it trained; if it "
            "is somewhere else now, resume it there: resight train --resume FOLDER"
        )

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            content = read_file(path)
        except FileNotFoundError:
            return {}
        return parsed(FILES[name], content, path)


def metrics_bytes(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """metrics.jsonl: a line per epoch."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()


def load_run(path: str | Path) -> Run:
    """Open a run folder, finished or not. Raises `ResightError` if there is none."""
    path = Path(path)
    if holds_seeds(path):
        raise ResightError(
            f"{path} holds the runs of several seeds and is not itself a run: give one of them, "
            f"{path / 'seed-N'}"
        )
    run = Run(path)
    if not run.begun:
        lacking = [name for name in BEGUN if not (path / name).is_file()]
        if (path / MODEL).exists() and (path / "config.json").exists():
            raise ResightError(
                f"{path} is a folder that `resight export` wrote, not a run: "
                "resight.load_predictor(FOLDER) loads it"
            )
        if (path / MODEL).exists() or (path / LAST).exists():
            if (path / lacking[0]).exists():
                raise not_a_file(path / lacking[0])
            raise ResightError(f"{path / lacking[0]} is missing: restore it or start a new run")
        what = f"has no {lacking[0]}" if path.is_dir() else "is not a folder"
        raise ResightError(f"{path} {what}, so it is not a run; `resight train` creates one")
    _ = run.recipe  # a broken one is reported here, not later
    if path not in _told and run.manifest_removed:
        _told.add(path)
        warnings.warn(
            f"{path}: its {MANIFEST} was removed, so files that it listed are used as they are, "
            "unchecked",
            ResightWarning,
            stacklevel=2,
        )
    return run


def holds_seeds(path: str | Path) -> bool:
    """Whether `train_seeds` created the folder: it has one run folder per seed."""
    return (Path(path) / SEEDS).is_file()
