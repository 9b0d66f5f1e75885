"""What a server answers from: a run's net, and what of the run and its images there is to show."""

from __future__ import annotations

import contextlib
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from resight.data.table import MAX_THREADS, cores
from resight.errors import ResightError
from resight.progress import Reporter
from resight.runs.predictor import Predictor
from resight.runs.run import Run
from resight.serving.batcher import Batcher
from resight.serving.examples import Example, examples_of
from resight.serving.neighbours import Neighbours
from resight.version import __version__

THUMB_PX = 96  # of the examples and the nearest images, as the page shows them


@dataclass(frozen=True)
class Served:
    """examples, neighbours: [] and None without the run's images; missing: why they are not there;
    shows_report: whether its report may be shown; decoders: threads that decode images; one_large:
    held while a large one is decoded."""

    run: Run
    predictor: Predictor
    batcher: Batcher
    decoders: ThreadPoolExecutor
    examples: Sequence[Example] = ()
    neighbours: Neighbours | None = None
    missing: str | None = None
    shows_report: bool = False
    one_large: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def model(self) -> dict[str, Any]:
        """What is known of the net, as plain JSON values; nothing of where the run is."""
        predictor, result = self.predictor, self.run.result
        return {
            "recipe": self.run.recipe.name,
            "data": result.get("data", self.run.resolved["data"]["name"]),
            "classes": list(predictor.classes),
            "image_size": predictor.image_size,
            "channels": predictor.channels,
            "fit": predictor.fit,
            "test_accuracy": result.get("test_accuracy"),
            "test_accuracy_95": result.get("test_accuracy_95"),
            "test_images": result.get("test_images"),
            "temperature": self.run.temperature,
            "resight": __version__,
        }


@contextlib.contextmanager
def opened(
    run: Run, data: str | Path | None, *, device: str, report: bool, reporter: Reporter
) -> Iterator[Served]:
    """A run with its net at work. data: its images, if they have moved. report: whether its report
    may be shown. Raises `ResightError` if it has not finished, and for `data` that are not its
    images."""
    predictor = run.predictor(device=device)
    try:
        images, missing = run.images(data, reporter=reporter), None
    except ResightError as error:
        if data is not None:
            raise
        images, missing = None, str(error)
    Image.init()  # not thread-safe
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(max(2, cores(MAX_THREADS)), "decode") as decoders,
        Batcher(predictor.logits, begin=predictor.runtime.apply) as batcher,
    ):
        warnings.simplefilter("ignore")  # Pillow's, about files
        neighbours = Neighbours(predictor, images) if images else None
        if neighbours is not None:
            neighbours.learn(batcher)
        yield Served(
            run,
            predictor,
            batcher,
            decoders,
            examples_of(images, predictor.fit) if images else [],
            neighbours,
            missing,
            report,
        )


def report_of(served: Served) -> Path | None:
    """The run's own report page; None if it may not be shown, if there is none, or if what is there
    leads elsewhere."""
    folder = served.run.path / "report"
    page = folder / "index.html"
    try:
        info = page.lstat()
    except OSError:
        return None
    own = stat.S_ISREG(info.st_mode) and not folder.is_symlink()
    return page if own and served.shows_report else None
