"""What the watch says while a training runs, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from diagnosing import evidence, names, rows
from resight.diagnosis.watch import Watch, judged_from
from resight.findings import Finding
from resight.recipe.settings import OneCycle, Plateau


def watch(**changes: Any) -> Watch:
    """Of a training that warms up for 100 steps, so judged from 200 on."""
    return Watch(evidence(judged_from=200, finished=False, **changes))


def feed(watch: Watch, first: int, loss: float, right: float, n: int) -> list[Finding]:
    batches = (torch.full((n,), value) for value in (loss, right, 10.0))
    return list(watch.steps(first, *batches))


def test_a_training_is_judged_from_100_steps_past_its_warm_up() -> None:
    assert judged_from(OneCycle(epochs=10, peak_epoch=4), 50) == 300
    assert judged_from(OneCycle(epochs=10, peak_epoch=1), 50) == 200  # fresh weights warm up too
    assert judged_from(Plateau(shape="plateau"), 50) == 200
    seen = watch()
    assert feed(seen, 0, 1.1, 3.3, 199) == []
    assert names(feed(seen, 0, 1.1, 3.3, 200)) == {"not-learning"}


def test_the_watch_says_each_thing_once() -> None:
    seen = watch()
    assert len(feed(seen, 0, 1.1, 3.3, 250)) == 1
    assert feed(seen, 250, 1.1, 3.3, 50) == []


def test_the_watch_takes_a_step_that_it_is_shown_twice_once() -> None:
    seen = watch()
    feed(seen, 0, 0.2, 9.0, 150)
    assert feed(seen, 0, 1.1, 3.3, 150) == []  # seen already
    assert feed(seen, 150, 1.1, 3.3, 95) == []  # five good steps are among the last 100
    assert names(feed(seen, 245, 1.1, 3.3, 5)) == {"not-learning"}


def test_a_small_last_batch_counts_as_its_images_do() -> None:
    seen = watch()
    losses = torch.tensor([1.0, 1.3] * 150, dtype=torch.float64)
    right, images = torch.tensor([700.0, 0.0] * 150), torch.tensor([1400.0, 38.0] * 150)
    assert list(seen.steps(0, losses, right, images)) == []  # 49 % right, loss 1.008


def test_a_loss_far_above_chance_has_diverged() -> None:
    assert names(feed(watch(), 0, 5.0, 3.3, 200)) == {"diverged"}


def test_rare_classes_make_no_divergence_of_a_loss_that_falls() -> None:
    seen = watch(class_counts=np.array([990, 5, 5]))  # knowing the frequencies alone has 0.063
    losses = torch.linspace(1.2, 0.07, 300)
    assert list(seen.steps(0, losses, torch.full((300,), 9.7), torch.full((300,), 10.0))) == []


def test_a_net_that_learns_is_left_alone() -> None:
    assert feed(watch(), 0, 0.9, 6.0, 300) == []


def test_an_epochs_gross_gap_is_said_while_it_trains() -> None:
    seen = watch()
    feed(seen, 0, 0.2, 9.0, 250)
    late = rows((0.2, 0.95, 0.4), (0.2, 0.95, 0.4))
    assert names(seen.epoch(late)) == {"train-test-gap"}
    assert not list(seen.epoch(late))


def test_what_is_gone_at_the_end_is_withdrawn() -> None:
    seen = watch()
    feed(seen, 0, 0.2, 9.0, 250)
    (gap,) = seen.epoch(rows((0.2, 0.95, 0.4), (0.2, 0.95, 0.4)))
    assert seen.withdrawn([]) == [gap]
    assert seen.withdrawn([gap]) == []
