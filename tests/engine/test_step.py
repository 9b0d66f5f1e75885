"""One step: what it computes, in one go, in pieces and in less precision, against plain loops."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from helpers import make_data
from resight.data.augment import shrink
from resight.engine.fitting import piece_size
from resight.engine.job import Job, build_job, with_recipe
from resight.engine.rates import epoch_rates
from resight.engine.runtime import LOSS_SCALE_FP16, Runtime
from resight.engine.step import Eager, learn
from resight.errors import ResightError
from resight.recipe.catalog import find_recipe
from resight.recipe.recipe import Recipe
from resight.recipe.schedule import lr_at, momentum_at
from resight.recipe.settings import (
    Adam,
    Augment,
    Constant,
    Data,
    Evaluate,
    Loss,
    Model,
    Muon,
    OneCycle,
    Sgd,
    Train,
)
from resight.training import costs
from trainings import images_for

PLAIN = Sgd(momentum=0.0)  # a step of LR 1 is the gradient


def recipe_of(**sections: Any) -> Recipe:
    return Recipe(
        **{
            "model": Model(width=8),
            "data": Data(image_size=8),
            "augment": Augment(crop_pad_px=1, cutout_px=3),
            "schedule": Constant(shape="constant", epochs=3, lr_max=1.0),
            "optimizer": PLAIN,
            "train": Train(batch_size=32),
            **sections,
        }
    )


def runtime(precision: str = "fp32", **changes: Any) -> Runtime:
    return dataclasses.replace(Runtime.choose("cpu", precision, threads=1), **changes)


def job_of(recipe: Recipe, chosen: Runtime | None = None, *, n: int = 70) -> Job:
    return build_job(recipe, images_for(recipe, n=n), chosen or runtime())


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters() if p.requires_grad]


def step_of(
    recipe: Recipe, chosen: Runtime | None = None, *, lr: float = 1.0, images: int = 32
) -> tuple[float, int, list[Tensor], Job]:
    """Loss, hits and what a step at `lr` takes from each weight; the job after it."""
    job = job_of(recipe)
    if chosen:
        job.executor = Eager(dataclasses.replace(job.context, runtime=chosen))
    for group in job.state.optimizer.param_groups:
        group["lr"] = lr
    before, plan = weights(job.state.model), job.plan(0)
    loss, correct = job.executor.train_on(plan.order[:images], plan)
    pairs = zip(before, weights(job.state.model), strict=True)
    return float(loss), int(correct), [old - new for old, new in pairs], job


def gradients(job: Job, pieces: list[slice], scale: float = 1.0) -> tuple[float, int, list[Tensor]]:
    """A plain loop over pieces of the first batch: loss, hits and gradients, means over images."""
    model, plan = copy.deepcopy(job.state.model).train(), job.plan(0)
    loss, correct, total = 0.0, 0, sum(piece.stop - piece.start for piece in pieces)
    sums = [torch.zeros_like(p) for p in model.parameters() if p.requires_grad]
    for piece in pieces:
        index = plan.order[piece]
        images, labels = job.train.augmented(index, plan, job.recipe.augment)
        logits = model(images)
        smoothing = job.recipe.loss.label_smoothing
        one = cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        found = torch.autograd.grad(one, [p for p in model.parameters() if p.requires_grad])
        for all_of, part in zip(sums, found, strict=True):
            all_of += part / total
        loss += float(one.detach()) / total
        correct += int((logits.argmax(1) == labels).sum())
    return loss, correct, sums


def slices(*sizes: int) -> list[slice]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def largest_difference(one: list[Tensor], other: list[Tensor]) -> float:
    """Over the largest gradient of each tensor."""
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-3))
        for a, b in zip(one, other, strict=True)
    )


def test_a_step_is_the_gradient_of_the_mean_loss() -> None:
    recipe = recipe_of(loss=Loss(label_smoothing=0.2))
    loss, correct, moved, _ = step_of(recipe)
    expected = gradients(job_of(recipe), slices(32))
    assert loss == pytest.approx(expected[0], rel=1e-5)
    assert correct == expected[1]
    assert largest_difference(moved, expected[2]) < 1e-3  # weights of 1 less small gradients
    assert max(float(g.abs().max()) for g in expected[2]) > 0.1


GROUP_NORMED = {"model": Model(net="resnet18-gn", width=8), "data": Data(image_size=16)}


@pytest.mark.parametrize(
    ("piece", "images"), [(16, 32), (8, 32), (24, 32), (9, 32), (8, 6), (8, 25), (1, 3)]
)
def test_with_group_norm_pieces_give_the_whole_batchs_gradient(piece: int, images: int) -> None:
    """The last piece may be smaller: it then weighs less."""
    recipe = recipe_of(**GROUP_NORMED)
    whole = step_of(recipe, images=images)
    cut = step_of(recipe, runtime(micro_batch=piece), images=images)
    assert cut[0] == pytest.approx(whole[0], rel=1e-5)
    assert cut[1] == whole[1]
    assert largest_difference(cut[2], whole[2]) < 1e-4


@pytest.mark.parametrize(
    ("piece", "images", "sizes"),
    [(16, 32, (16, 16)), (8, 32, (8,) * 4), (24, 32, (24, 8)), (8, 6, (6,))],
)
def test_with_batch_norm_pieces_are_a_plain_loop(
    piece: int, images: int, sizes: tuple[int, ...]
) -> None:
    recipe = recipe_of(loss=Loss(label_smoothing=0.1))
    loss, correct, moved, job = step_of(recipe, runtime(micro_batch=piece), images=images)
    expected = gradients(job_of(recipe), slices(*sizes))
    assert loss == pytest.approx(expected[0], rel=1e-5)
    assert correct == expected[1]
    assert largest_difference(moved, expected[2]) < 1e-3
    norm = next(m for m in job.state.model.modules() if isinstance(m, nn.BatchNorm2d))
    assert int(norm.num_batches_tracked) == len(sizes)
    if len(sizes) > 1:
        whole = gradients(job_of(recipe), slices(images))
        assert largest_difference(moved, whole[2]) > 0.02  # the statistics are a piece's


def test_the_recipes_pieces_go_before_the_runtimes() -> None:
    of_sixteen = recipe_of(train=Train(batch_size=32, norm_batch=16))
    assert piece_size(of_sixteen, runtime(micro_batch=8)) == 16
    assert piece_size(of_sixteen, runtime()) == 16
    assert piece_size(recipe_of(), runtime(micro_batch=8)) == 8
    assert piece_size(recipe_of(), runtime()) == 0
    by_recipe = step_of(of_sixteen)
    by_runtime = step_of(recipe_of(), runtime(micro_batch=16))
    assert by_recipe[:2] == by_runtime[:2]
    assert all(torch.equal(a, b) for a, b in zip(by_recipe[2], by_runtime[2], strict=True))


@pytest.mark.parametrize("micro_batch", [0, 8])
def test_the_whole_batchs_gradient_is_clipped_once(micro_batch: int) -> None:
    recipe = recipe_of(optimizer=Sgd(momentum=0.0, clip_grad_norm=0.01))
    _, _, moved, _ = step_of(recipe, runtime(micro_batch=micro_batch))
    assert sum(float(m.double().square().sum()) for m in moved) ** 0.5 == pytest.approx(
        0.01, rel=1e-3
    )


@pytest.mark.parametrize("micro_batch", [0, 8])
@pytest.mark.parametrize("optimizer", [PLAIN, Sgd(momentum=0.0, clip_grad_norm=0.5)], ids=str)
def test_fp16_is_fp32_but_for_rounding(micro_batch: int, optimizer: Any) -> None:
    """So the gradients that the optimizer and the clipping see are scaled back."""
    recipe = recipe_of(optimizer=optimizer)
    half = step_of(recipe, runtime("fp16", micro_batch=micro_batch))
    full = step_of(recipe, runtime(micro_batch=micro_batch))
    assert half[0] == pytest.approx(full[0], rel=0.01)
    assert half[0] != full[0]
    norms = [sum(float(m.square().sum()) for m in moved) ** 0.5 for moved in (half[2], full[2])]
    assert norms[0] == pytest.approx(norms[1], rel=0.02)
    differs = sum(float((a - b).square().sum()) for a, b in zip(half[2], full[2], strict=True))
    assert differs**0.5 < 0.1 * norms[1]


def test_the_backward_pass_alone_sees_the_loss_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp16 gradients of 1e-6 are still told apart, since they are scaled meanwhile."""
    job, seen = job_of(recipe_of()), []
    backward = torch.Tensor.backward

    def recorded(self: Tensor, *args: Any, **kwargs: Any) -> None:
        seen.append(float(self.detach()))
        backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", recorded)
    plan = job.plan(0)
    for precision, scale in (("fp16", 1024.0), ("bf16", 1.0), ("fp32", 1.0)):
        chosen = runtime(precision)
        assert chosen.loss_scale == scale
        before = job.state.snapshot()
        context = dataclasses.replace(job.context, runtime=chosen)
        loss, _ = learn(context, plan.order[:32], plan, small=False)
        job.state.restore(before)
        assert seen.pop() == pytest.approx(float(loss) * scale)
    assert LOSS_SCALE_FP16 == 1024.0


@pytest.mark.parametrize(
    "optimizer",
    [Sgd(), Adam(), Muon(name="muon", head_lr_scale=1.0, bias_lr_scale=1.0)],
    ids=lambda optimizer: optimizer.name,
)
def test_fp16_learns(optimizer: Any) -> None:
    job = job_of(recipe_of(optimizer=optimizer), runtime("fp16"))
    losses = [float(loss) for loss in job.steps_at([2.0**-8] * 18)]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert all(p.dtype == torch.float32 for p in job.state.model.parameters())


def test_eager_has_each_steps_rates_and_momentum() -> None:
    schedule = OneCycle(epochs=3, peak_epoch=1, lr_min=0.001, lr_max=0.3)
    job = job_of(recipe_of(schedule=schedule, optimizer=Sgd(cycle_momentum=True)))
    seen = []
    for epoch in range(2):
        rates = epoch_rates(job.state, job.recipe, schedule, epoch=epoch, steps=3)
        job.executor.begin(job.plan(epoch), rates)
        for position in range(3):
            job.executor.step(position)
            group = job.state.optimizer.param_groups[0]
            seen.append((group["lr"], group["momentum"]))
    assert seen == [(lr_at(schedule, i, 3), momentum_at(schedule, i, 3)) for i in range(6)]
    assert job.state.step == 6


def test_eager_trains_on_the_plans_images_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    job, seen = job_of(recipe_of()), []
    train_on = type(job.executor).train_on

    def recorded(self: Any, index: Tensor, plan: Any, **options: Any) -> Any:
        seen.append(index.tolist())
        return train_on(self, index, plan, **options)

    monkeypatch.setattr(type(job.executor), "train_on", recorded)
    list(job.steps_at([0.01] * 5))
    first, second = job.plan(0).order.tolist(), job.plan(1).order.tolist()
    assert seen == [first[:32], first[32:64], first[64:], second[:32], second[32:64]]


def test_images_are_small_until_their_epoch() -> None:
    schedule = Constant(shape="constant", epochs=3, lr_max=0.01, small_epochs=1.4, small_px=9)
    model = Model(net="fastnet", width=8)
    job = job_of(recipe_of(model=model, data=Data(image_size=12), schedule=schedule))
    sizes = []
    job.state.model.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[2:]))
    losses = [float(loss) for loss in job.steps_at([0.0] * 6)]
    assert sizes == [(9, 9)] * 5 + [(12, 12)]  # 1.4 epochs of 3 steps: 4.2

    plan = job.plan(0)
    images, labels = job.train.augmented(plan.order[:32], plan, job.recipe.augment)
    small = interpolate(images, size=(9, 9), mode="bilinear", antialias=True)
    assert torch.equal(shrink(images, 9), small)
    with torch.no_grad():
        expected = cross_entropy(job.state.model(small), labels)
    assert losses[0] == pytest.approx(float(expected), rel=1e-5)


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
        ("fast", {}, 250),  # 1,000
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
        assert f"a batch of {recipe.train.batch_size} goes through in pieces of {piece}" in why
        assert ("batch norm's statistics are of a piece" in why) == (name != "resnet18-gn")


def test_that_the_batch_is_cut_is_said_before_the_start() -> None:
    job = build_job(sized("fast"), make_data(2000, size=16), runtime())
    lines = costs.announcement(job, costs.Cost(1e-3, 1e-3), None)
    assert job.runtime.reasons["micro_batch"] in lines
    whole = costs.announcement(job_of(recipe_of()), costs.Cost(1e-3, 1e-3), None)
    assert not any("pieces" in line for line in whole)


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
        with pytest.raises(ResightError, match=rf"one image of {n}, .* train\.last_batch=drop"):
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


def test_an_evaluation_at_the_end_costs_once() -> None:
    each = job_of(recipe_of())
    end = job_of(recipe_of(evaluate=Evaluate(when="end")))
    cost = costs.Cost(train_image=0.1, test_image=0.01)
    assert (cost.epoch(each), cost.once(each)) == pytest.approx((7.3, 0.0))
    assert (cost.epoch(end), cost.once(end)) == pytest.approx((7.0, 0.3))
