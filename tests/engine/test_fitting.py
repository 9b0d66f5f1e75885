"""What fits: pieces of a batch, and what is refused before the first step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers import make_data
from jobs import job_of, recipe_of, runtime
from resight.engine import fitting
from resight.engine.fitting import Room, in_pieces, piece_size, threaded
from resight.engine.job import build_job, with_batch, with_recipe
from resight.engine.needs import StepNeeds, step_needs
from resight.engine.runtime import TORCHS_DEFAULT, Runtime
from resight.errors import ResightError, ResightWarning
from resight.recipe.catalog import find_recipe
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Data, Model, Train
from resight.training import announcement, costs
from trainings import fit, tiny


def test_a_last_batch_of_one_image_is_fine_on_a_map_that_is_larger(tmp_path: Path) -> None:
    recipe = tiny("digits", **{"data.image_size": 16})
    assert fit(recipe, make_data(65, size=16), tmp_path / "run").finished


def fitted(recipe: Recipe, **changes: Any) -> Runtime:
    n = 2 * recipe.train.batch_size
    data = make_data(n, size=recipe.data.image_size, n_test=4)
    return build_job(recipe, data, runtime(**changes)).runtime


def sized(name: str, **changes: Any) -> Recipe:
    """A named recipe on small images and of few channels: only its batch matters here."""
    size = 8 if find_recipe(name).model.net == "custom-resnet" else 16
    small = {"model.width": 8, "data.image_size": size, "augment.crop_pad_px": 1}
    if find_recipe(name).schedule.small_px:
        small["schedule.small_px"] = 12
    return find_recipe(name).with_changes({**small, "augment.cutout_px": 3, **changes})


@pytest.mark.parametrize(
    ("name", "changes", "piece"),
    [
        ("custom-resnet", {}, 0),  # 512 with batch norm
        ("custom-resnet", {"train.batch_size": 513}, 171),
        ("custom-resnet", {"train.batch_size": 1025}, 205),
        ("fast", {}, 0),  # 1,000, in the recipe's own pieces
        ("fast", {"train.norm_batch": 0}, 250),
        ("best", {}, 256),  # 1,024
        ("resnet18-gn", {}, 256),  # 512
        ("resnet18-gn", {"train.batch_size": 256}, 0),
        ("resnet18-gn", {"train.batch_size": 257}, 129),
        ("custom-resnet-ln", {}, 0),  # 128
        ("custom-resnet-ln", {"train.batch_size": 512}, 0),  # has batch norms too
        ("fast", {"train.norm_batch": 500}, 0),
    ],
)
def test_on_a_cpu_a_large_batch_goes_through_in_equal_pieces(
    name: str, changes: dict[str, Any], piece: int
) -> None:
    recipe = sized(name, **changes)
    chosen = fitted(recipe)
    assert chosen.micro_batch == piece
    assert ("micro_batch" in chosen.reasons) == bool(piece)
    if piece:
        why = chosen.reasons["micro_batch"]
        assert f"a batch of {recipe.train.batch_size} is processed in pieces of {piece}" in why
        assert ("batch norm's statistics are per piece" in why) == (name != "resnet18-gn")


def test_that_the_batch_is_cut_is_said_before_the_start() -> None:
    whole = sized("fast", **{"train.norm_batch": 0})
    job = build_job(whole, make_data(2000, size=16), runtime())
    lines = announcement.lines(job, costs.Cost(0.0, {0: 1e-3, 12: 1e-3, 14: 1e-3}, 1e-3), None)
    assert job.runtime.reasons["micro_batch"] in lines
    uncut = announcement.lines(
        job_of(recipe_of()), costs.Cost(0.0, {0: 1e-3, 12: 1e-3, 14: 1e-3}, 1e-3), None
    )
    assert not any("pieces" in line for line in uncut)


MB = 1_000_000


@pytest.mark.parametrize(
    ("name", "changes", "n", "image_mb", "free_gb", "piece"),
    [
        ("custom-resnet", {}, 5000, 200, 1000, 0),
        ("custom-resnet", {}, 5000, 200, 171, 0),  # 513 images in 60 % of it
        ("custom-resnet", {}, 5000, 200, 170, 256),  # 510
        ("custom-resnet", {}, 5000, 200, 20, 57),  # 60, so nine pieces
        ("custom-resnet", {}, 160, 200, 20, 54),  # never more than there are
        ("custom-resnet", {}, 50, 200, 20, 0),
        ("custom-resnet", {}, 5000, 200, 0.4, 1),
        ("best", {}, 5000, 1, 1000, 256),  # 1,024: the caches cut more
        ("best", {}, 5000, 200, 20, 57),  # 60, so 18 pieces
        ("best", {}, 100, 200, 40, 256),  # at most 100 at a time anyway
        ("resnet18-gn", {}, 5000, 200, 20, 57),
        ("fast", {}, 5000, 80, 20, 0),  # its own 250 fit exactly
    ],
)
def test_a_batch_goes_through_in_the_fewest_equal_pieces_that_memory_holds(
    name: str, changes: dict[str, Any], n: int, image_mb: int, free_gb: float, piece: int
) -> None:
    recipe = sized(name, **changes)
    room = Room(n, image_mb * MB, round(free_gb * 1000 * MB))
    chosen = in_pieces(recipe, runtime(), room)
    assert chosen.micro_batch == piece
    assert ("micro_batch" in chosen.reasons) == bool(piece)
    assert piece_size(recipe, chosen) == piece or recipe.train.norm_batch
    gpu = dataclasses.replace(runtime(), device=torch.device("cuda"))
    on_gpu = in_pieces(recipe, gpu, room).micro_batch
    assert on_gpu == (piece if "memory" in chosen.reasons.get("micro_batch", "") else 0)


def test_why_memory_cuts_is_said() -> None:
    room = Room(5000, 208 * MB, 20_000 * MB)
    assert in_pieces(sized("custom-resnet"), runtime(), room).reasons["micro_batch"] == (
        "a batch of 512 is processed in pieces of 57, for which 60% of the free memory (20 GB) is "
        "enough; batch norm's statistics are per piece"
    )


def test_what_no_memory_holds_is_refused_with_what_it_would() -> None:
    with pytest.raises(ResightError, match=r"needs about 0\.2 GB of memory, and 0\.3 GB are free"):
        in_pieces(sized("custom-resnet"), runtime(), Room(5000, 200 * MB, 300 * MB))
    fast = sized("fast")
    with pytest.raises(
        ResightError,
        match=r"train\.norm_batch = 250 at 16 px needs about 20 GB of memory, and 20 GB are free; "
        r"use --set train\.norm_batch=125, or a smaller --image-size",
    ):
        in_pieces(fast, runtime(), Room(5000, 80 * MB, 19_999 * MB))
    with pytest.raises(ResightError, match=r"about 14 GB .* use --set train\.norm_batch=20, or"):
        in_pieces(fast, runtime(), Room(170, 80 * MB, 2700 * MB))  # one piece of 170; 20 fit
    with pytest.raises(ResightError, match=r"are free; use a smaller --image-size"):
        in_pieces(fast, runtime(), Room(5000, 80 * MB, 2600 * MB))  # 19, so 10 of 1,000
    in_pieces(fast, runtime(), Room(240, 80 * MB, 19_999 * MB))  # one piece of 240


@pytest.mark.parametrize("recorded", [0, 30])
def test_recorded_pieces_are_kept_while_there_is_memory(recorded: int) -> None:
    """However much there is."""
    recipe, before = sized("custom-resnet"), runtime().with_pieces(recorded, "as it was")
    at_once = recorded or 512
    assert in_pieces(recipe, before, Room(5000, 10 * MB, at_once * 10 * MB)) == before
    with pytest.warns(ResightWarning, match=f"{at_once} images .* not be bit-identical"):
        now = in_pieces(recipe, before, Room(5000, 10 * MB, at_once * 10 * MB - 1))
    assert now.micro_batch == (256 if recorded == 0 else 17)


def test_a_jobs_pieces_follow_from_what_its_images_need(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, data = recipe_of(train=Train(batch_size=512)), make_data(160, size=8)
    needed = step_needs(recipe, classes=len(data.classes), channels=3, half=False).nbytes
    monkeypatch.setattr("resight.engine.job.free_memory", lambda device: 70 * needed)
    job = build_job(recipe, data, runtime())
    assert job.runtime.micro_batch == 40  # of 160, in pieces of at most 42
    norm = next(m for m in job.state.model.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.momentum == pytest.approx(1 - 0.9 ** (1 / 4))
    for batch, piece in ((160, 40), (100, 34), (40, 40), (16, 16)):  # of an LR test
        assert with_batch(job, batch).runtime.micro_batch == piece


@pytest.mark.parametrize(
    ("mflop", "changes", "images", "threads"),
    [
        (1, {"batch_size": 512}, 5000, 1),
        (3, {"batch_size": 512}, 5000, 1),
        (4, {"batch_size": 512}, 5000, 2),  # 2.05 GFLOP
        (4, {"batch_size": 512}, 499, 1),  # all in one batch
        (4, {"batch_size": 1000, "norm_batch": 250}, 5000, 1),  # at a time
        (4, {"batch_size": 1000, "norm_batch": 500}, 5000, 2),
        (40, {"batch_size": 512}, 5000, 8),  # there are no more
    ],
)
def test_a_small_step_takes_a_thread_for_each_gflop(
    mflop: int, changes: dict[str, int], images: int, threads: int
) -> None:
    recipe = recipe_of(train=Train(**changes))
    eight = runtime().with_threads(8, TORCHS_DEFAULT)
    chosen = threaded(recipe, eight, StepNeeds(1, mflop * 10**6), images)
    assert chosen.threads == threads
    assert (chosen.reasons["threads"] == TORCHS_DEFAULT) == (threads == 8)
    gpu = dataclasses.replace(eight, device=torch.device("cuda"))
    assert threaded(recipe, gpu, StepNeeds(1, mflop * 10**6), images) == gpu


def test_a_runs_own_threads_stay_and_why_there_are_fewer_is_said() -> None:
    recipe, needs = recipe_of(train=Train(batch_size=100)), StepNeeds(1, 4 * 10**6)
    stored = Runtime.choose("cpu", threads=8)
    assert threaded(recipe, stored, needs, 5000) == stored
    chosen = threaded(recipe, runtime().with_threads(8, TORCHS_DEFAULT), needs, 5000)
    assert (
        chosen.reasons["threads"] == "1 of 8 threads: more would gain little in steps of 0.4 GFLOP"
    )


def test_a_job_of_small_steps_runs_on_one_thread_and_the_next_on_all() -> None:
    """What one has set does not reach the next, nor what a user sets afterwards."""
    recipe, cost = recipe_of(), costs.Cost(0.0, {0: 0.01}, 0.001)
    try:
        torch.set_num_threads(3)
        job = job_of(recipe, Runtime.choose("cpu"))
        assert (job.runtime.threads, torch.get_num_threads()) == (1, 1)
        assert any(
            line.startswith("1 of 3 threads: ") for line in announcement.lines(job, cost, None)
        )
        assert Runtime.choose("cpu").threads == 3
        Runtime.choose("cpu", threads=1).apply()
        assert Runtime.choose("cpu").threads == 3
        torch.set_num_threads(2)
        assert Runtime.choose("cpu").threads == 2
    finally:
        torch.set_num_threads(1)
    assert not any("threads: " in line for line in announcement.lines(job_of(recipe), cost, None))


@pytest.mark.parametrize(
    ("net", "size", "n", "changes", "refused"),
    [
        ("custom-resnet", 8, 33, {}, True),
        ("custom-resnet", 8, 33, {"train.last_batch": "drop"}, False),
        ("custom-resnet", 16, 33, {}, False),
        ("custom-resnet", 8, 49, {"train.norm_batch": 16}, True),  # 32, then 16 and 1
        ("custom-resnet", 8, 50, {"train.norm_batch": 16}, False),
        ("custom-resnet", 8, 64, {"train.norm_batch": 1}, True),
        ("custom-resnet", 8, 33, {"model.norm": "layer"}, True),  # has batch norms too
        ("fastnet", 16, 33, {}, True),
        ("fastnet", 17, 33, {}, False),
        ("fastnet", 32, 33, {"schedule.small_px": 16, "schedule.small_epochs": 1.0}, True),
        ("resnet18-gn", 8, 33, {}, False),
    ],
)
def test_a_piece_of_one_image_is_refused_just_where_batch_norm_would_fail(
    net: str, size: int, n: int, changes: dict[str, Any], refused: bool
) -> None:
    recipe = recipe_of(model=Model(net=net, width=8), data=Data(image_size=size))
    recipe = recipe.with_changes(changes)
    if refused:
        with pytest.raises(
            ResightError, match=rf"one image \({n} training images\): .* train\.last_batch=drop"
        ):
            job_of(recipe, n=n)
        return
    job = job_of(recipe, n=n)
    assert len(list(job.steps_at([0.001] * job.steps_per_epoch))) == job.steps_per_epoch


@pytest.mark.parametrize("n", [33, 49])
def test_what_is_refused_would_have_failed_in_torch(
    monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    monkeypatch.setattr("resight.engine.job.check_batches", lambda *_: None)
    train = Train(batch_size=32, norm_batch=16 if n == 49 else 0)
    job = job_of(recipe_of(train=train), n=n)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        list(job.steps_at([0.001] * job.steps_per_epoch))


def test_an_average_that_no_step_comes_to_is_refused() -> None:
    recipe = recipe_of(train=Train(batch_size=32, lookahead=9))
    job = job_of(recipe)  # nine steps
    with pytest.raises(ResightError, match=r"train\.lookahead = 9 must be at most .* 6 steps"):
        with_recipe(job, recipe.with_epochs(2))
    with pytest.raises(ResightError, match=r"train\.lookahead = 10 must be at most .* 9 steps"):
        job_of(recipe.with_changes({"train.lookahead": 10}))


def test_a_last_batch_of_one_image_is_refused_in_words() -> None:
    with pytest.raises(
        ResightError, match=r"one image \(65 training images\): .* train\.last_batch=drop"
    ):
        build_job(tiny("digits"), make_data(65), runtime())
    job = build_job(tiny("digits", **{"train.last_batch": "drop"}), make_data(65), runtime())
    assert job.steps_per_epoch == 2


@pytest.mark.parametrize(
    ("asked", "steps", "expected"), [(None, 7499, 0), (None, 7500, 4), (10, 3, 10), (0, 9999, 0)]
)
def test_cudnn_searches_only_where_it_pays(asked: int | None, steps: int, expected: int) -> None:
    job = job_of(recipe_of())
    gpu = dataclasses.replace(runtime(), device=torch.device("cuda"), search=asked)
    chosen = fitting.fitted(job.recipe, gpu, job.train, steps)
    assert chosen.search == expected
    assert ("search" in chosen.reasons) == (asked is None)
    if asked is None:
        assert chosen.reasons["search"].startswith(f"{steps:,} steps ")


@pytest.mark.parametrize(("search", "deterministic"), [(None, False), (0, False), (4, True)])
def test_cudnns_search_is_off_unless_chosen(search: int | None, deterministic: bool) -> None:
    dataclasses.replace(runtime(), search=6).apply_search()
    assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark_limit == 6
    dataclasses.replace(runtime(), search=search, deterministic=deterministic).apply_search()
    assert not torch.backends.cudnn.benchmark
