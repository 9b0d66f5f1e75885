"""An epoch's rates are the schedule's, step by step; the table is they, group by group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import make_data
from resight.engine.averages import Ema, Lookahead
from resight.engine.job import Job, build_job
from resight.engine.optim import make_optimizer, set_rates
from resight.engine.rates import Rates, epoch_rates, given_rates
from resight.engine.runtime import Runtime
from resight.recipe.recipe import Recipe
from resight.recipe.schedule import lr_at, momentum_at, plateau_lr, stem_lr_at
from resight.recipe.settings import (
    Adam,
    Constant,
    Cosine,
    Cyclic,
    Data,
    ExpRange,
    Linear,
    Model,
    Muon,
    OneCycle,
    Plateau,
    Sgd,
    Step,
    Train,
)

SHAPES: tuple[Any, ...] = (
    OneCycle(lr_min=0.001, lr_end=0.0, lr_max=0.3),
    OneCycle(lr_min=0.001, lr_max=0.3, anneal="cosine"),
    Cyclic(shape="triangular", lr_min=0.001, lr_max=0.3),
    Cyclic(shape="triangular2", lr_min=0.0, lr_max=0.3),
    ExpRange(shape="exp-range", lr_min=0.001, lr_max=0.3),
    Cosine(shape="cosine", lr_max=0.3),
    Linear(shape="linear", lr_max=0.3, lr_end=0.01),
    Step(shape="step", lr_max=0.3),
    Constant(shape="constant", lr_max=0.3),
)


class Stemmed(nn.Module):
    """A parameter of each kind that a group is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 8, 2)
        self.whiten.weight.requires_grad_(False)
        self.conv = nn.Conv2d(8, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)


def job_of(schedule: Any, **sections: Any) -> Job:
    recipe = Recipe(
        **{
            "model": Model(width=8),
            "data": Data(image_size=8),
            "schedule": schedule,
            "train": Train(batch_size=32),
            **sections,
        }
    )
    augment = {"augment.crop_pad_px": 1, "augment.cutout_px": 3}
    return build_job(
        recipe.with_changes(augment), make_data(), Runtime.choose("cpu", "fp32", threads=1)
    )


def rates_of(job: Job, epoch: int, **options: Any) -> Rates:
    steps = job.steps_per_epoch
    return epoch_rates(
        job.state, job.recipe, job.recipe.schedule, epoch=epoch, steps=steps, **options
    )


@pytest.fixture(scope="module")
def job() -> Job:
    return job_of(SHAPES[0])


@settings(max_examples=150)
@given(
    shape=st.sampled_from(SHAPES),
    epochs=st.integers(6, 30),
    epoch=st.integers(0, 29),
    steps=st.integers(1, 40),
    lr_max=st.floats(0.01, 10.0),
    stem_epochs=st.sampled_from([0.0, 1.0, 3.7]),
)
def test_the_rates_are_the_schedules_at_each_step_of_the_epoch(
    job: Job, shape: Any, epochs: int, epoch: int, steps: int, lr_max: float, stem_epochs: float
) -> None:
    epoch %= epochs
    changes = {"epochs": epochs, "lr_max": lr_max, "stem_epochs": stem_epochs}
    schedule = shape.model_copy(update=changes)
    rates = epoch_rates(job.state, job.recipe, schedule, epoch=epoch, steps=steps)
    table = rates.table(make_optimizer(Stemmed(), Sgd()))

    places = range(epoch * steps, (epoch + 1) * steps)
    lrs = [lr_at(schedule, step, steps) for step in places]
    stems = [stem_lr_at(schedule, step, steps, lr) for step, lr in zip(places, lrs, strict=True)]
    assert (rates.lr, rates.stem) == (tuple(lrs), tuple(stems))
    assert table.dtype == torch.float32
    assert table.tolist() == torch.tensor([lrs, stems, [0.0] * steps]).T.tolist()


@pytest.mark.parametrize(
    ("optimizer", "rows"),
    [
        (Sgd(), [[0.12, 0.08, 0.0], [0.09, 0.04, 0.0]]),
        (Sgd(bias_lr_scale=64.0), [[0.12, 7.68, 0.08, 0.0], [0.09, 5.76, 0.04, 0.0]]),
        (
            Muon(name="muon"),  # airbench's: the head at 5583, biases and stem at 442 times the LR
            [[0.12, 669.96, 53.04, 35.36, 0.0], [0.09, 502.47, 39.78, 17.68, 0.0]],
        ),
    ],
    ids=["sgd", "sgd, norms' biases apart", "muon"],
)
def test_two_rows_by_hand(job: Job, optimizer: Any, rows: list[list[float]]) -> None:
    """Steps 4 and 5 of 8: 1/2 and 3/8 of the LR, and of a stem of 6 steps 1/3 and 1/6 of it.

    Rounded to float32 once, at the end.
    """
    schedule = Linear(shape="linear", epochs=2, lr_max=0.24, stem_epochs=1.5)
    rates = epoch_rates(job.state, job.recipe, schedule, epoch=1, steps=4)
    table = rates.table(make_optimizer(Stemmed(), optimizer))
    assert table[:2].tolist() == torch.tensor(rows).tolist()


def test_the_table_is_what_eager_sets() -> None:
    model = Stemmed()
    optimizer = make_optimizer(model, Muon(name="muon"))
    schedule = Linear(shape="linear", epochs=2, lr_max=0.24, stem_epochs=1.5)
    state = job_of(SHAPES[0]).state
    rates = epoch_rates(state, Recipe(), schedule, epoch=1, steps=4)
    for row, lr, stem in zip(rates.table(optimizer).tolist(), rates.lr, rates.stem, strict=True):
        set_rates(optimizer, [lr, lr * 5583.0, lr * 442.0, stem * 442.0], None)
        set_to = [group["lr"] for group in optimizer.param_groups]
        assert row[:-1] == [float(np.float32(value)) for value in set_to]
    assert [stem > 0 for stem in rates.stem] == [True, True, False, False]


@pytest.mark.parametrize(
    ("train", "kind"),
    [({"ema": 0.6}, Ema), ({"lookahead": 2}, Lookahead), ({"lookahead": 5}, Lookahead)],
    ids=str,
)
def test_the_last_column_is_the_averages_weight(train: dict[str, Any], kind: Any) -> None:
    """Counted over the whole training, of 3 epochs of 3 steps here."""
    job = job_of(
        Constant(shape="constant", epochs=3, lr_max=0.1), train=Train(batch_size=32, **train)
    )
    average = job.state.average
    assert isinstance(average, kind)
    for epoch in range(3):
        rates = rates_of(job, epoch)
        expected = [average.weight(step, 9) for step in range(3 * epoch, 3 * epoch + 3)]
        assert list(rates.average) == expected
        column = rates.table(job.state.optimizer)[:, -1].tolist()
        assert column == [float(np.float32(value)) for value in expected]


def test_without_an_average_its_column_is_zero(job: Job) -> None:
    rates = rates_of(job, 0)
    assert rates.average == (0.0,) * 3
    assert rates.table(job.state.optimizer)[:, -1].tolist() == [0.0] * 3


@pytest.mark.parametrize("optimizer", [Sgd(cycle_momentum=True), Adam(cycle_momentum=True)])
def test_momentum_is_cycled_where_the_recipe_says_so(optimizer: Any) -> None:
    schedule = OneCycle(epochs=3, peak_epoch=1, lr_min=0.001, lr_max=0.3)
    job = job_of(schedule, optimizer=optimizer)
    found = [rates_of(job, epoch).momenta for epoch in range(3)]
    assert found == [
        tuple(momentum_at(schedule, step, 3) for step in range(3 * epoch, 3 * epoch + 3))
        for epoch in range(3)
    ]
    assert rates_of(job_of(schedule), 0).momenta is None


def test_plateaus_epoch_has_one_lr_and_the_stem_its_own() -> None:
    schedule = Plateau(shape="plateau", epochs=4, lr_max=0.2, stem_epochs=2.0)
    net = Model(net="fastnet", width=8)
    job = job_of(schedule, model=net, data=Data(image_size=9), optimizer=Sgd())
    lr = plateau_lr(schedule, [1.0])
    rates = rates_of(job, 1, flat=lr)
    assert rates.lr == (0.2,) * 3
    assert rates.stem == pytest.approx((0.1, 0.2 * 2 / 6, 0.2 / 6))


def test_the_rates_of_an_lr_test_are_those_given(job: Job) -> None:
    """The stem's too, whatever the schedule has for it; the average counts from `state.step`."""
    stemmed = job_of(
        Linear(shape="linear", epochs=3, lr_max=0.1, stem_epochs=1.0),
        model=Model(net="fastnet", width=8),
        data=Data(image_size=9),
        optimizer=Sgd(),
        train=Train(batch_size=32, ema=0.9),
    )
    stemmed.state.step = 4
    rates = given_rates(stemmed.state, [0.1, 0.2], 9)
    average = stemmed.state.average
    assert average is not None
    assert rates == Rates(
        (0.1, 0.2), (0.1, 0.2), (average.weight(4, 9), average.weight(5, 9)), None
    )
    assert given_rates(job.state, [0.1], 9) == Rates((0.1,), (0.1,), (0.0,), None)
