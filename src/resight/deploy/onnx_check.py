"""An ONNX file beside the net that it was made of: the same answers, image by image, or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from resight.data.types import Split
from resight.deploy.onnx_session import Images, Logits
from resight.engine.forward import images_at_once
from resight.errors import ResightError
from resight.findings import folded
from resight.progress import Reporter
from resight.records import accuracy_words
from resight.runs.predictions import Predictions
from resight.runs.predictor import Predictor

MAX_DIFFERENCE = 1e-4  # of a logit
RANDOM_IMAGES = 64  # in place of a run's images that are missing


@dataclass(frozen=True, eq=False)
class Check:
    """Over `images` images: the largest difference of a logit. predictions: the file's for the test
    split; None if `missing` says why the images were random."""

    images: int
    difference: float
    predictions: Predictions | None
    missing: str = ""

    def lines(self, recorded: Predictions, precision: str) -> list[str]:
        """What is to be said. recorded: what the run measured, in `precision`."""
        same = f"the fp32 net's class, logits within {self.difference:.2g}"
        if self.predictions is None:
            return folded(
                f"{self.images} random images only: {same}; not the run's test images: "
                f"{self.missing}",
                "checked  ",
            )
        said = self.predictions
        words = accuracy_words("test", said.accuracy, said.accuracy_interval, self.images)
        lines = [f"checked  all {self.images:,} test images: {same}", f"         {words}"]
        if len(recorded) == self.images:
            others = int((recorded.predicted != said.predicted).sum())
            lines.append(
                f"         the run recorded {recorded.accuracy:.2%}, in {precision}: another class "
                f"for {others:,} of {self.images:,} images"
            )
        return lines


def checked(
    session: Callable[[Images], Logits],
    predictor: Predictor,
    test: Split | None,
    missing: str,
    reporter: Reporter,
) -> Check:
    """The file, loaded as `session`, beside the net on the CPU in fp32, on all of `test`, or, where
    that is missing, on random images. Raises `ResightError` if any image gets another class, or a
    logit differs by more than `MAX_DIFFERENCE`."""
    images = test.images if test is not None else _noise(predictor)
    at_once = images_at_once(predictor.image_size, predictor.runtime)
    show = reporter.counting("checking the ONNX file")
    said, others, difference = [], 0, 0.0
    for start in range(0, len(images), at_once):
        batch = np.ascontiguousarray(images[start : start + at_once])
        ours, theirs = predictor.logits(batch), session(batch)
        others += int((ours.argmax(1) != theirs.argmax(1)).sum())
        # unlike max(), it passes a NaN on
        difference = float(np.maximum(difference, np.abs(ours - theirs).max()))
        said.append(theirs)
        show(start + len(batch), len(images))
    if others or not difference <= MAX_DIFFERENCE:  # also where one is NaN
        raise ResightError(
            f"the ONNX file is not what the net is, so it was not kept: another class for "
            f"{others:,} of {len(images):,} images, logits up to {difference:.2g} apart (allowed: "
            f"{MAX_DIFFERENCE:g}); install the versions in constraints.txt"
        )
    predictions = None
    if test is not None:
        predictions = Predictions(np.concatenate(said), test.labels, test.ids, predictor.classes)
    return Check(len(images), difference, predictions, missing)


def _noise(predictor: Predictor) -> Images:
    shape = (RANDOM_IMAGES, predictor.image_size, predictor.image_size, predictor.channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
