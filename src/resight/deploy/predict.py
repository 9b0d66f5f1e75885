"""`predict`: a run's net, shown images that it has never seen."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from resight.characters import printable
from resight.data.decode import FORMATS, check_pixels, plain, square_of, upright
from resight.data.table import decoding_threads
from resight.data.workers import decode_rows
from resight.deploy.paths import image_files
from resight.engine.forward import images_at_once
from resight.errors import ResightError, shortened
from resight.files import in_one_line, make_folder, write_atomically
from resight.look.cam import grad_cam
from resight.progress import Quiet, Reporter
from resight.render.overlays import overlaid_photo
from resight.runs.answers import Answers
from resight.runs.calibration import with_temperature
from resight.runs.predictor import Predictor
from resight.runs.run import Run, load_run

PASSES_PER_CHUNK = 8  # images decoded at a time, in forward passes; bounds the memory
ROWS_PER_TASK = 8
JPEG_QUALITY = 90
MAX_OVERLAY_PX = 1024  # longer side of a photo under its map


def predict(
    run: str | Path | Run,
    paths: str | Path | Iterable[str | Path],
    *,
    min_confidence: float = 0.0,
    cam: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    listed: bytes | None = None,
    reporter: Reporter | None = None,
) -> Answers:
    """What a finished run's net says of image files. `Run.predict` takes images that are no files.

    paths: files, folders, patterns; "-" for the names in `listed` (`image_files`).
    min_confidence: below this probability the answer is none of the classes. cam: a new folder for
    Grad-CAM maps of the predicted classes over the photos at their own size, up to 1,024 px. What
    can't be read is left out and is in `Answers.unreadable`. Raises `ResightError`, also if nothing
    could be read.
    """
    reporter = reporter or Quiet()
    run = run if isinstance(run, Run) else load_run(run)
    predictor = run.predictor(device=device, precision=precision)
    given = [paths] if isinstance(paths, str | Path) else [*paths]
    files = image_files(map(str, given), listed)
    if not files:
        where = f" in {shortened([*map(str, given)], 3)}" if given else ""
        raise ResightError(
            f"no image{where}: give files, folders of images, or patterns such as '*.jpg'"
        )
    show = reporter.counting("predicting")
    drawn = _Overlays(Path(cam), predictor) if cam is not None else None
    logits: list[npt.NDArray[np.float32]] = []
    ids: list[str] = []
    unreadable: dict[str, str] = {}
    chunk = PASSES_PER_CHUNK * images_at_once(predictor.image_size, predictor.runtime)
    for start in range(0, len(files), chunk):
        part = files[start : start + chunk]
        images, bad = _decoded(part, predictor)
        kept = [i for i in range(len(part)) if i not in bad]
        unreadable |= {part[i]: why for i, why in sorted(bad.items())}
        if kept:
            logits.append(predictor.logits(images[kept]))
            ids += [part[i] for i in kept]
            if drawn is not None:
                drawn.write([part[i] for i in kept], images[kept], logits[-1].argmax(1))
        show(start + len(part), len(files))
    if not ids:
        name, why = next(iter(unreadable.items()))
        raise ResightError(f"none of {len(files):,} files could be read; the first: {name}: {why}")
    return Answers(
        np.concatenate(logits),
        tuple(ids),
        predictor.classes,
        predictor.temperature,
        min_confidence,
        unreadable,
    )


def _decoded(
    files: Sequence[str], predictor: Predictor
) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    """uint8 (N, H, W, C), and for those that can't be read the reason; their rows are zero."""
    side = predictor.image_size
    images = np.zeros((len(files), side, side, predictor.channels), dtype=np.uint8)
    special = {i: _not_a_file(path) for i, path in enumerate(files)}
    bad = {i: why for i, why in special.items() if why}

    def read(start: int) -> dict[int, str]:
        rows = [i for i in range(start, min(start + ROWS_PER_TASK, len(files))) if i not in bad]
        found: dict[int, str] = {}
        for row in rows:
            found |= decode_rows([files[row]], row, images[row : row + 1], predictor.fit)
        return found

    with decoding_threads() as pool:
        for found in list(pool.map(read, range(0, len(files), ROWS_PER_TASK))):
            bad |= found
    return images, bad


def _not_a_file(path: str) -> str:
    """Why a path must not be opened: pipes may never end; empty if it may."""
    try:
        if Path(path).is_dir():
            return "a folder that can't be read"
        return "" if Path(path).is_file() or not Path(path).exists() else "not a regular file"
    except (OSError, ValueError) as error:
        return str(error)


class _Overlays:
    """Writes the maps of the predicted classes, one file per photo, into a folder."""

    def __init__(self, folder: Path, predictor: Predictor) -> None:
        with in_one_line(folder):
            if folder.is_dir() and any(folder.iterdir()):
                raise ResightError(
                    f"--cam {folder} is not empty, and nothing in it is replaced: give a new folder"
                )
        make_folder(folder)
        self._folder, self._predictor = folder, predictor
        self._taken: dict[str, int] = {}

    def write(
        self,
        files: Sequence[str],
        images: npt.NDArray[np.uint8],
        predicted: npt.NDArray[np.int64],
    ) -> None:
        with self._predictor.runtime.autocast():
            normalized = self._predictor.normalized(images)
            maps = grad_cam(self._predictor.model, normalized, torch.from_numpy(predicted)).maps
        for file, cells in zip(files, maps.numpy(), strict=True):
            photo = _photo(file)
            square = square_of(photo.shape[1], photo.shape[0], self._predictor.fit)
            content = io.BytesIO()
            Image.fromarray(overlaid_photo(photo, cells, square)).save(
                content, "JPEG", quality=JPEG_QUALITY
            )
            write_atomically(self._folder / self._name(file), content.getvalue())

    def _name(self, file: str) -> str:
        """The photo's own name; of several with the same, the second ends in -2."""
        stem = printable(Path(file).stem)
        self._taken[stem] = self._taken.get(stem, 0) + 1
        number = self._taken[stem]
        return f"{stem}{f'-{number}' if number > 1 else ''}.jpg"


def _photo(path: str) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3): upright, its longer side at most `MAX_OVERLAY_PX`."""
    with Image.open(path, formats=FORMATS) as image:
        check_pixels(image)
        image.draft(None, (MAX_OVERLAY_PX, MAX_OVERLAY_PX))
        photo = plain(upright(image), 3)
        photo.thumbnail((MAX_OVERLAY_PX, MAX_OVERLAY_PX))
        return np.asarray(photo)


def price_of(run: Run, min_confidence: float) -> str:
    """What `min_confidence` costs, in one line: how many of the validation images would still get
    an answer, and how many of the answers would be right."""
    path = run.path / "predictions-val.npz"
    if not path.is_file():
        return (
            "what it costs is not known: the run has no validation split; `resight train --val "
            "0.1` holds one out"
        )
    predictions = run.predictions_in(path.name)
    calibrated = with_temperature(predictions, run.temperature or 1.0)
    sure = calibrated.confidence >= min_confidence
    right = predictions.predicted == predictions.labels
    answered = int(sure.sum())
    share = f"{answered / len(sure):.1%} of the {len(sure):,} validation images get an answer"
    if not answered:
        return f"{share}: choose a lower one"
    return (
        f"{share}, {right[sure].mean():.1%} of these answers are right; with no "
        f"minimum, {right.mean():.1%} of all are right"
    )
