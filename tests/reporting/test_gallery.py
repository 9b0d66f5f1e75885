"""Which images of a run are shown: its mistakes by loss, and a sample of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from resight.reporting.gallery import select
from resight.runs.predictions import Predictions


def predictions(n: int, k: int, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    ids = np.array([f"{i}.png" for i in range(n)])
    logits = rng.normal(size=(n, k)).astype(np.float32)
    labels = np.where(rng.random(n) < 0.5, logits.argmax(1), rng.integers(0, k, n))
    return Predictions(logits, labels.astype(np.int64), ids, tuple(f"c{i}" for i in range(k)))


@pytest.mark.parametrize(("n", "k"), [(50, 3), (6000, 10), (3000, 700), (5, 2)])
def test_the_gallery_takes_mistakes_by_loss_and_a_sample_of_the_rest(n: int, k: int) -> None:
    made = predictions(n, k)
    rows, mistakes = select(made)
    wrong = made.predicted != made.labels
    assert mistakes == min(2000, wrong.sum())
    assert wrong[rows[:mistakes]].all()
    assert not wrong[rows[mistakes:]].any()
    losses = made.losses[rows[:mistakes]]
    assert (np.diff(losses) <= 0).all()
    assert losses[-1] >= np.sort(made.losses[wrong])[::-1][mistakes - 1]
    assert len(rows) - mistakes <= 400
    assert len(np.unique(rows)) == len(rows)
    right = np.unique(made.labels[~wrong])
    assert len(np.unique(made.labels[rows[mistakes:]])) == min(len(right), 400)
