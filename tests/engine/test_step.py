"""One step: what it computes, in one go, in pieces and in less precision, against plain loops."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from jobs import PLAIN, job_of, recipe_of, runtime
from resight.data.augment import shrink
from resight.data.types import ImageData, Split
from resight.engine.fitting import piece_size
from resight.engine.job import Job, build_job
from resight.engine.optim import group_rates, set_rates
from resight.engine.rates import epoch_rates
from resight.engine.runtime import LOSS_SCALE_FP16, Runtime
from resight.engine.step import Eager, StepKind, learn
from resight.recipe.recipe import Recipe
from resight.recipe.schedule import lr_at, momentum_at
from resight.recipe.settings import (
    Adam,
    Augment,
    Constant,
    Data,
    Loss,
    Model,
    Muon,
    OneCycle,
    Sgd,
    Train,
)
from states import changes_between
from trainings import tiny


def weights_of(model: nn.Module) -> list[Tensor]:
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
    before, plan = weights_of(job.state.model), job.plan(0)
    loss, correct = job.executor.train_on(plan.order[:images], plan)
    pairs = zip(before, weights_of(job.state.model), strict=True)
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
        loss, _ = learn(context, plan.order[:32], plan, StepKind())
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


@pytest.mark.parametrize("optimizer", [Sgd(), Muon(name="muon")], ids=lambda o: o.name)
def test_a_frozen_stem_changes_nothing_but_what_is_computed(optimizer: Any) -> None:
    """Everything else learns the same, bit for bit, and the stem's bias has no gradient."""
    schedule = Constant(shape="constant", epochs=3, lr_max=2.0**-7, stem_epochs=1.0)
    model = Model(net="fastnet", width=8)
    recipe = recipe_of(
        model=model, data=Data(image_size=12), schedule=schedule, optimizer=optimizer
    )
    states = []
    for frozen in (False, True):
        job = job_of(recipe)
        rates = epoch_rates(job.state, recipe, schedule, epoch=1, steps=3)
        assert set(rates.stem) == {0.0}
        seen = []
        conv = job.state.model.whiten
        conv.bias.register_hook(seen.append)
        lrs = group_rates(job.state.optimizer, rates.lr[0], rates.stem[0])
        set_rates(job.state.optimizer, lrs, None)
        plan = job.plan(1)
        for start in (0, 32):
            learn(job.context, plan.order[start : start + 32], plan, StepKind(0, frozen))
        assert len(seen) == (0 if frozen else 2)
        states.append(job.state.snapshot()["model"])
    assert changes_between(*states) == []


def test_clipping_bounds_the_gradient(data: ImageData) -> None:
    recipe = tiny(
        "custom-resnet-d", **{"optimizer.clip_grad_norm": 1e-3, "optimizer.momentum": 0.0}
    )
    job = build_job(recipe, data, runtime())
    before = [p.detach().clone() for p in job.state.model.parameters()]
    next(iter(job.steps_at([1.0])))
    moved = sum(
        float((p.detach() - q).square().sum())
        for p, q in zip(job.state.model.parameters(), before, strict=True)
    )
    assert moved**0.5 == pytest.approx(1e-3, rel=1e-3)


def test_label_smoothing_reaches_the_loss(data: ImageData) -> None:
    recipe = tiny("digits", **{"loss.label_smoothing": 0.2})
    job = build_job(recipe, data, runtime())
    plan = job.plan(0)
    index = plan.order[:32]
    images, labels = job.train.augmented(index, plan, recipe.augment)
    with torch.no_grad():
        logits = job.state.model.train()(images)
    expected = cross_entropy(logits, labels, label_smoothing=0.2)
    loss, _ = job.executor.train_on(index, plan)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("weights", "sampling"), [("none", "uniform"), ("balanced", "uniform"), ("none", "balanced")]
)
@pytest.mark.parametrize("mixed", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 1, "cutmix": 1}])
@pytest.mark.parametrize("pieces", [0, 8])
def test_of_a_mixed_image_both_labels_count_by_their_shares(
    mixed: dict[str, float], weights: Any, sampling: Any, pieces: int
) -> None:
    """Loss, hits and gradient, by a loop over images with targets that are probabilities."""
    recipe = recipe_of(
        loss=Loss(class_weights=weights, label_smoothing=0.1),
        augment=Augment(crop_pad_px=1, cutout_px=3, **mixed),
        train=Train(batch_size=32, norm_batch=pieces, sampling=sampling),
    )
    job = job_of(recipe)
    reference, before = copy.deepcopy(job.state.model).train(), weights_of(job.state.model)
    plan, split = job.plan(0), job.train
    assert plan.partners is not None
    assert plan.shares is not None
    of = torch.arange(len(split)) if plan.images is None else plan.images
    labels, weighs = split.labels[of], split.weights[of]
    loss, hits = torch.zeros(()), 0
    for piece in torch.split(plan.order[:32], pieces or 32):
        images, _ = split.augmented(piece, plan, recipe.augment)
        for logits, own in zip(reference(images), piece.tolist(), strict=True):
            share, other = float(plan.shares[own]), int(plan.partners[own])
            for part, image in ((share, own), (1 - share, other)):
                target = torch.full((3,), 0.1 / 3)
                target[labels[image]] += 0.9
                weight = float(weighs[image]) if weights == "balanced" else 1.0
                loss = loss - part * weight * (target * logits.log_softmax(0)).sum() / 32
            larger = own if share >= 0.5 else other
            hits += int(logits.argmax()) == int(labels[larger])
    parameters = [p for p in reference.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters)

    for group in job.state.optimizer.param_groups:
        group["lr"] = 1.0
    got, correct = job.executor.train_on(plan.order[:32], plan)
    assert float(got) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert int(correct) == hits
    moved = zip(before, weights_of(job.state.model), gradients, strict=True)
    for old, new, gradient in moved:
        torch.testing.assert_close(old - new, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_balanced_classes_weigh_the_same(smoothing: float) -> None:
    """Of a batch of all images the gradient is that of the mean over classes of their means."""
    loss = Loss(class_weights="balanced", label_smoothing=smoothing)
    recipe = recipe_of(loss=loss, augment=Augment(crop_pad_px=0, flip="none", cutout_px=0))
    job = job_of(recipe)
    data = job.data
    kept = np.flatnonzero((data.train.labels > 0) | (np.arange(len(data.train)) % 5 == 0))
    rare = dataclasses.replace(
        data,
        train=Split(data.train.images[kept], data.train.labels[kept], data.train.ids[kept]),
    )
    job = build_job(recipe, rare, job.runtime)
    reference = copy.deepcopy(job.state.model).train()
    images, labels = job.train.plain(0, len(kept)), job.train.labels
    each = cross_entropy(reference(images), labels, reduction="none", label_smoothing=smoothing)
    expected = torch.stack([each[labels == c].mean() for c in range(3)]).mean()

    plan = job.plan(0)
    got, _ = job.executor.train_on(torch.arange(len(kept)), plan)
    assert float(got) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(job.train.weights.mean()) == pytest.approx(1.0)
