"""`Captured` gives what `Eager` gives: shown without a GPU by graphs of torch's operations."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from replaying import CUDA, Replay
from resight.engine import captured, forward, runtime
from resight.engine.captured import Captured
from resight.engine.graphs import CudaGraphs
from resight.engine.job import Job, build_job, with_recipe
from resight.engine.rates import epoch_rates
from resight.engine.runtime import Runtime
from resight.engine.step import Eager
from resight.errors import ResightWarning
from resight.recipe.recipe import Recipe
from resight.recipe.settings import (
    Adam,
    Augment,
    Constant,
    Data,
    Linear,
    Loss,
    Model,
    Muon,
    OneCycle,
    Sgd,
    Train,
)
from resight.training import costs
from resight.training.find_lr import run_range_test
from resight.training.interrupt import Interrupted
from resight.training.lr_test_plan import LrTestPlan
from states import assert_same, changes_between, pointers
from trainings import StopAt, fit, images_for, interrupt, resume, tiny


def recipe_of(**sections: Any) -> Recipe:
    """custom-resnet 8 wide on 8 px, batches of 32 at an LR that float32 holds exactly."""
    return Recipe(
        **{
            "model": Model(width=8),
            "data": Data(image_size=8),
            "augment": Augment(crop_pad_px=1, cutout_px=3),
            "schedule": Constant(shape="constant", epochs=3, lr_max=2.0**-6),
            "optimizer": Sgd(momentum=0.9),
            "train": Train(batch_size=32),
            **sections,
        }
    )


def job_of(recipe: Recipe, graphs: Any = None, *, n: int = 70) -> Job:
    """A job of 70 images in 3 steps, the last of 6; `graphs`: captured by them."""
    job = build_job(recipe, images_for(recipe, n=n), Runtime.choose("cpu", "fp32", threads=1))
    return job if graphs is None else with_graphs(job, graphs)


def with_graphs(job: Job, graphs: Any) -> Job:
    return dataclasses.replace(job, executor=Captured(job.context, graphs))


def run(job: Job, steps: int) -> list[tuple[float, int]]:
    """Go on for `steps` steps, epoch after epoch; loss and hits of each."""
    told, state = [], job.state
    for _ in range(steps):
        epoch, position = divmod(state.step, job.steps_per_epoch)
        if not told or position == 0:
            rates = epoch_rates(
                state, job.recipe, job.recipe.schedule, epoch=epoch, steps=job.steps_per_epoch
            )
            job.executor.begin(job.plan(epoch), rates, position)
        job.executor.step(position)
        trace = state.trace
        told.append((float(trace.losses[position]), int(trace.correct[position])))
    return told


def changed_tensors(one: Any, other: Any, tolerance: float) -> list[str]:
    """The parts of two states that differ by more."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(item) for key, item in value.items()}
        return value.double() if isinstance(value, Tensor) else value

    def walk(a: Any, b: Any, name: str) -> Iterator[str]:
        if isinstance(a, dict):
            assert a.keys() == b.keys(), name
            for key in a:
                yield from walk(a[key], b[key], f"{name}.{key}")
        elif isinstance(a, Tensor):
            if not torch.allclose(a, b, rtol=tolerance, atol=tolerance):
                yield f"{name} by {float((a - b).abs().max()):.1e}"
        elif a != b:
            yield name

    return list(walk(rounded(one), rounded(other), ""))


NARROW = {
    "model": Model(net="fastnet", width=8, logit_scale=1 / 256),
    "data": Data(image_size=12),
}
MUON = Muon(name="muon", weight_decay=0.01, bias_lr_scale=4.0, head_lr_scale=16.0)
OPTIMIZERS = pytest.mark.parametrize("optimizer", [Sgd(), Adam(), MUON], ids=lambda o: o.name)
PLAN = LrTestPlan(50, 32)
FLIPPED = Augment(crop_pad_px=1, crop_fill="reflect", flip="alternating", cutout_px=4)
EXACT: dict[str, tuple[dict[str, Any], int]] = {  # sections, and the graphs they need
    "sgd": ({}, 2),
    "sgd without momentum": ({"optimizer": Sgd(momentum=0.0)}, 2),
    "nesterov, clipped, biases apart": (
        {
            "optimizer": Sgd(
                nesterov=True,
                weight_decay=0.01,
                decay="weights",
                clip_grad_norm=0.5,
                bias_lr_scale=64.0,
            ),
            "loss": Loss(label_smoothing=0.2),
        },
        2,
    ),
    "adam": ({"optimizer": Adam(weight_decay=0.01)}, 2),
    "adamw, clipped": (
        {"optimizer": Adam(name="adamw", weight_decay=0.01, clip_grad_norm=1.0)},
        2,
    ),
    "muon, alternating flips": (
        {**NARROW, "augment": FLIPPED, "optimizer": Muon(name="muon", weight_decay=0.25)},
        2,
    ),
    "in pieces of 16, whole batches only": (
        {"train": Train(batch_size=32, norm_batch=16, last_batch="drop")},
        1,
    ),
    "small images up to the middle of an epoch": (
        {
            **NARROW,
            "schedule": Constant(
                shape="constant", epochs=3, lr_max=2.0**-6, small_epochs=1.4, small_px=9
            ),
        },
        4,  # the last batch is small in the first epoch and of full size in the second
    ),
    "turned, tinted, classes balanced": (
        {
            "augment": Augment(crop_pad_px=1, rotate_deg=15, scale=0.2, contrast=0.3, cutout_px=3),
            "loss": Loss(class_weights="balanced"),
        },
        2,
    ),
    "turned, then RandAugment": (
        {"augment": Augment(rotate_deg=15, randaugment=2, randaugment_magnitude=15)},
        2,
    ),
    "TrivialAugment, mixed": (
        {"augment": Augment(crop_pad_px=0, trivialaugment=True, mixup=0.4, cutmix=1.0)},
        2,
    ),
    "hue, grey, blur, erasing": (
        {"augment": Augment(hue_deg=20, grey=0.4, blur=0.5, blur_px=1, erase=0.5, erase_area=0.3)},
        2,
    ),
    "mixed, classes balanced": (
        {
            "augment": Augment(crop_pad_px=1, cutout_px=3, mixup=0.4, cutmix=1.0),
            "loss": Loss(class_weights="balanced", label_smoothing=0.1),
        },
        2,
    ),
    "balanced sampling, mixed": (
        {
            "augment": Augment(crop_pad_px=1, flip="alternating", cutout_px=3, mixup=0.4),
            "train": Train(batch_size=32, sampling="balanced"),
        },
        2,
    ),
    "no augmentation": ({"augment": Augment(crop_pad_px=0, flip="none", cutout_px=0)}, 2),
}
# where the table's float32 rates, or the average's arithmetic, round otherwise than Python's
ROUNDED: dict[str, tuple[dict[str, Any], int]] = {
    "one-cycle": ({"schedule": OneCycle(epochs=3, peak_epoch=1, lr_max=0.02, lr_min=0.001)}, 2),
    "ema": ({"train": Train(batch_size=32, ema=0.9)}, 2),
    "lookahead": ({"train": Train(batch_size=32, lookahead=2), "optimizer": Sgd()}, 4),
    "the stem at its own rate": (
        {
            **NARROW,
            "augment": FLIPPED,
            "schedule": Linear(shape="linear", epochs=3, lr_max=0.03, stem_epochs=1.5),
            "optimizer": MUON,
            "train": Train(batch_size=32, lookahead=3),
        },
        4,  # averages move after the last batch of each epoch; the stem is frozen in the second
    ),
}


def params(cases: dict[str, tuple[dict[str, Any], int]]) -> list[Any]:
    return [pytest.param(sections, n, id=name) for name, (sections, n) in cases.items()]


@pytest.mark.parametrize(("sections", "graphs"), params(EXACT))
def test_losses_hits_and_state_are_eagers_bit_for_bit(sections: Any, graphs: int) -> None:
    recipe, replay = recipe_of(**sections), Replay()
    eager, job = job_of(recipe), job_of(recipe, replay)
    steps = 2 * job.steps_per_epoch + 1  # the third epoch's plan too

    assert run(job, steps) == run(eager, steps)
    assert changes_between(job.state.snapshot(), eager.state.snapshot()) == []
    assert (replay.recorded, replay.replayed) == (graphs, steps)


def test_pieces_that_memory_cut_are_recorded_in_one_graph() -> None:
    data = images_for(recipe_of(), n=70)
    cut = dataclasses.replace(Runtime.choose("cpu", "fp32", threads=1), micro_batch=11)
    replay = Replay()
    eager, job = (build_job(recipe_of(), data, cut) for _ in range(2))
    job = with_graphs(job, replay)
    assert run(job, 7) == run(eager, 7)
    assert changes_between(job.state.snapshot(), eager.state.snapshot()) == []
    assert (replay.recorded, replay.replayed) == (2, 7)


@pytest.mark.parametrize(("sections", "graphs"), params(ROUNDED))
def test_losses_hits_and_state_are_eagers_but_for_rounding(sections: Any, graphs: int) -> None:
    recipe, replay = recipe_of(**sections), Replay()
    eager, job = job_of(recipe), job_of(recipe, replay)
    steps = 3 * job.steps_per_epoch
    mine, theirs = run(job, steps), run(eager, steps)

    assert [loss for loss, _ in mine] == pytest.approx([loss for loss, _ in theirs], rel=2e-5)
    assert [hits for _, hits in mine] == [hits for _, hits in theirs]
    # Muon's steps are of bf16, in which a last bit of float32 can become 0.4 % of a step
    tolerance = 2e-3 if recipe.optimizer.name == "muon" else 1e-4
    assert changed_tensors(job.state.snapshot(), eager.state.snapshot(), tolerance) == []
    assert (replay.recorded, replay.replayed) == (graphs, steps)


class InPlace(Replay):
    """Checks at each recording and replay that every tensor is where it was."""

    job: Job

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, int] = {}

    def look(self) -> None:
        state, executor = self.job.state, vars(self.job.executor)
        tensors = {
            "state": pointers(state.state_dict()),
            "rates": pointers([group["lr"] for group in state.optimizer.param_groups]),
            "plan": pointers(list(vars(executor["_plan"]).values())),
            "executor": pointers(list(executor.values())),
        }
        places = {f"{key} {i}": place for key, ps in tensors.items() for i, place in enumerate(ps)}
        assert len(tensors["executor"]) == 2  # the table of rates and the counter
        assert self.places in ({}, places)
        self.places = places
        assert all(p.grad is None for p in state.model.parameters())

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        self.look()
        replay = super().record(body)
        self.look()

        def looked_at() -> None:
            self.look()
            replay()
            self.look()

        return looked_at


@OPTIMIZERS
def test_after_the_recording_no_tensor_is_replaced(optimizer: Any) -> None:
    graphs = InPlace()
    train = Train(batch_size=32, lookahead=2)
    job = job_of(recipe_of(optimizer=optimizer, train=train), graphs)
    graphs.job = job
    run(job, 3)
    middle = job.state.snapshot()
    run(job, 2)
    job.state.restore(middle)
    run(job, 2)
    assert graphs.replayed == 7
    assert len(graphs.places) > 100


@OPTIMIZERS
def test_recording_leaves_no_trace(optimizer: Any) -> None:
    """Though it has trained three steps of each kind to warm up."""
    recipe = recipe_of(optimizer=optimizer, train=Train(batch_size=32, ema=0.5))
    eager = job_of(recipe)
    run(eager, 4)
    state = eager.state
    state.trace.losses.fill_(1.5)
    state.trace.correct.fill_(3)
    state.history.append({"epoch": 1, "loss": 2.0})
    state.epoch_seconds = 4.5
    before = copy.deepcopy(state.state_dict())

    graphs = Replay()
    job = with_graphs(eager, graphs)
    rates = epoch_rates(state, recipe, recipe.schedule, epoch=1, steps=3)
    job.executor.begin(job.plan(1), rates, 1)
    assert (graphs.recorded, graphs.replayed) == (2, 0)
    assert changes_between(before, state.state_dict()) == []
    assert all(p.grad is None for p in state.model.parameters())


@pytest.mark.parametrize("first", [0, 1, 2])
def test_an_epoch_begins_anywhere(first: int) -> None:
    recipe, graphs = recipe_of(), Replay()
    eager = job_of(recipe)
    run(eager, 3 + first)
    job = job_of(recipe, graphs)
    job.state.restore(eager.state.snapshot())

    assert run(job, 5) == run(eager, 5)
    assert changes_between(job.state.snapshot(), eager.state.snapshot()) == []
    assert graphs.replayed == 5


def test_steps_out_of_order_are_refused() -> None:
    job = job_of(recipe_of(), Replay())
    run(job, 1)
    with pytest.raises(AssertionError):
        job.executor.step(2)


@OPTIMIZERS
@pytest.mark.parametrize("captured_first", [False, True])
def test_one_executor_goes_on_with_the_others_checkpoint(
    optimizer: Any, captured_first: bool
) -> None:
    """From the middle of an epoch, at the same rates: bit for bit as if nothing had happened."""
    recipe = recipe_of(optimizer=optimizer)
    whole = job_of(recipe)
    losses = run(whole, 8)
    one, other = job_of(recipe), job_of(recipe, Replay())
    first, second = (other, one) if captured_first else (one, other)

    before = run(first, 4)
    second.state.restore(first.state.snapshot())
    assert before + run(second, 4) == losses
    assert changes_between(second.state.snapshot(), whole.state.snapshot()) == []


def test_a_snapshot_taken_between_replays_is_gone_back_to() -> None:
    job = job_of(recipe_of(optimizer=Adam()), Replay())
    run(job, 4)
    middle = job.state.snapshot()
    once = run(job, 4)
    job.state.restore(middle)
    assert run(job, 4) == once


@pytest.mark.parametrize("place", ["warm_up", "record"])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "at the second kind of step"])
def test_where_no_recording_succeeds_eager_takes_over_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch, place: str, late: bool
) -> None:
    recipe, graphs = recipe_of(optimizer=Sgd(clip_grad_norm=1.0)), Replay()
    eager, job = job_of(recipe), job_of(recipe, graphs)
    right, calls = getattr(graphs, place), []

    def refuse(body: Callable[[], None]) -> Any:
        calls.append(place)
        if late and len(calls) == 1:
            return right(body)
        if place == "record":  # after the backward pass: gradients are left behind
            return Replay(refused="_fused_sgd_").record(body)
        body()
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 3 GiB")

    monkeypatch.setattr(graphs, place, refuse)
    with pytest.warns(ResightWarning, match="could not be captured as a CUDA graph") as said:
        mine = run(job, 7)
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    assert mine == run(eager, 7)
    assert changes_between(job.state.snapshot(), eager.state.snapshot()) == []
    assert graphs.replayed == 0


@pytest.mark.parametrize("what", ["a value is read", "a mask chooses"])
def test_the_stand_in_refuses_what_cuda_refuses(what: str) -> None:
    values = torch.arange(4.0)

    def body() -> None:
        if what == "a value is read":
            float(values.sum())
        else:
            values[values > 1]

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        Replay().record(body)


def test_the_stand_in_freezes_what_python_says_and_follows_what_tensors_hold() -> None:
    total, given, factor = torch.zeros(3), torch.ones(3), 2.0

    def body() -> None:
        total.view(-1)[1:].add_((given * factor).relu()[1:])

    replay = Replay().record(body)
    assert total.tolist() == [0, 0, 0]
    factor = 5.0
    replay()
    given.fill_(3.0)
    replay()
    assert total.tolist() == [0, 8, 8]


@pytest.mark.parametrize("interval", [1, 8])
def test_the_lr_test_gives_eagers_curve_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, interval: int
) -> None:
    """Also where it looks at the losses of several steps at once, as it does on a GPU."""
    monkeypatch.setattr(Job, "log_interval", interval)
    recipe = recipe_of(optimizer=Adam(), schedule=Constant(shape="constant", epochs=3))
    eager, job = job_of(recipe, n=256), job_of(recipe, n=256)
    graphs = Replay()
    job = with_graphs(job, graphs)
    before = copy.deepcopy(job.state.state_dict())
    mine, theirs = run_range_test(job, PLAN), run_range_test(eager, PLAN)

    assert graphs.replayed >= len(mine.lrs) > 20
    assert mine.stop == theirs.stop
    assert mine.losses[:20].tolist() == pytest.approx(theirs.losses[:20].tolist(), rel=1e-5)
    assert mine.losses.tolist() == pytest.approx(theirs.losses.tolist(), rel=0.02)
    assert changes_between(before, job.state.state_dict()) == []


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Replay]:
    """Every runtime chosen is captured; the stand-ins for its graphs, as they are made."""
    made: list[Replay] = []

    def stand_in(device: torch.device) -> Replay:
        made.append(Replay())
        return made[-1]

    monkeypatch.setattr(captured, "CudaGraphs", stand_in)
    monkeypatch.setattr(forward, "CudaGraphs", stand_in)
    monkeypatch.setattr(runtime, "_executor", lambda name, device: ("captured", "for this test"))
    return made


@pytest.mark.parametrize("small", [{}, {"small_epochs": 1.4, "small_px": 9}], ids=["", "small"])
def test_the_costs_are_measured_without_a_trace(
    monkeypatch: pytest.MonkeyPatch, small: dict[str, Any]
) -> None:
    schedule = Constant(shape="constant", epochs=3, lr_max=2.0**-6, **small)
    recipe = recipe_of(**NARROW, schedule=schedule, train=Train(batch_size=32, ema=0.9))
    eager, job = job_of(recipe), job_of(recipe, Replay())
    run(job, 2)
    before = copy.deepcopy(job.state.state_dict())
    cost = costs.measure(job)
    assert min(cost.image[0], cost.test_image) > 0
    assert changes_between(before, job.state.state_dict()) == []
    mine, theirs = run(job, 3), run(eager, 5)[2:]
    assert [loss for loss, _ in mine] == pytest.approx([loss for loss, _ in theirs], rel=2e-5)


def test_at_another_schedule_a_job_is_captured_anew(captures: list[Replay]) -> None:
    recipe = recipe_of()
    job = job_of(recipe)
    assert isinstance(job.executor, Captured)
    run(job, 2)
    shorter = with_recipe(job, recipe.with_changes({"schedule.lr_max": 2.0**-8}))
    eager = job_of(shorter.recipe)
    eager = dataclasses.replace(eager, executor=Eager(eager.context))
    eager.state.restore(job.state.snapshot())
    assert run(shorter, 3) == run(eager, 3)
    assert [graphs.replayed for graphs in captures] == [2, 0, 3, 0, 0]  # Captured, Forwards, …


RATE = 2.0**-6
CONSTANT = {"schedule.lr_min": RATE, "schedule.lr_max": RATE, "schedule.lr_end": "lr_min"}


@pytest.mark.parametrize("name", ["digits", "custom-resnet-fast"])
def test_a_training_is_eagers_from_beginning_to_end(
    name: str, tmp_path: Path, captures: list[Replay], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its evaluations are replayed too. The rates stand still, so that float32 holds them."""
    recipe = tiny(name, **CONSTANT, **{"evaluate.tta": "flip-shift"})
    data = images_for(recipe)
    run_captured = fit(recipe, data, tmp_path / "captured", announce=False)
    steps, passes = captures
    assert (steps.replayed, passes.recorded) == (3 * run_captured.resolved["steps_per_epoch"], 1)
    monkeypatch.undo()
    run_eager = fit(recipe, data, tmp_path / "eager", announce=False)

    assert (run_captured.predictions.logits == run_eager.predictions.logits).all()
    assert_same(run_captured.checkpoint(), run_eager.checkpoint())
    assert run_captured.environment["runtime"]["executor"] == "captured"


@pytest.mark.parametrize("fails", [False, True])
def test_the_executor_that_really_ran_is_recorded(
    fails: bool, tmp_path: Path, captures: list[Replay], monkeypatch: pytest.MonkeyPatch
) -> None:
    if fails:
        monkeypatch.setattr(Replay, "record", Replay(refused="_fused_sgd_").record)
    recipe = tiny("custom-resnet-d")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResightWarning)
        ran = fit(recipe, images_for(recipe), tmp_path / "run", announce=False)
    used = "eager" if fails else "captured"
    recorded = ran.environment["runtime"]
    assert (ran.result["executor"], recorded["executor"]) == (used, used)
    why = ran.result["fallback"]
    if fails:
        assert why.startswith("the step could not be captured: operation not permitted")
        assert recorded["reasons"]["executor"] == why
    else:
        assert why is None


@pytest.mark.parametrize("captured_first", [False, True])
def test_a_run_goes_on_under_the_other_executor_and_says_so(
    tmp_path: Path, captures: list[Replay], monkeypatch: pytest.MonkeyPatch, captured_first: bool
) -> None:
    recipe = tiny("digits", **CONSTANT, **{"train.ema": 0.0})
    data = images_for(recipe)

    def choose(executor: str) -> None:
        monkeypatch.setattr(runtime, "_executor", lambda name, device: (executor, "for this test"))

    choose("eager")
    whole = fit(recipe, data, tmp_path / "whole", announce=False)
    choose("captured" if captured_first else "eager")
    with pytest.raises(Interrupted):
        fit(recipe, data, tmp_path / "cut", announce=False, reporter=StopAt(4, interrupt))
    choose("eager" if captured_first else "captured")
    with pytest.warns(ResightWarning, match=r"executor: \w+ → \w+"):
        again = resume(tmp_path / "cut", data, precision="fp32", announce=False)

    assert_same(again.checkpoint(), whole.checkpoint())
    assert (again.predictions.logits == whole.predictions.logits).all()
    assert captures[0].replayed == (4 if captured_first else 5)


@CUDA
@pytest.mark.parametrize("optimizer", [Sgd(), Adam(), MUON], ids=lambda o: o.name)
def test_on_a_gpu_the_losses_are_eagers(optimizer: Any) -> None:
    recipe = recipe_of(
        optimizer=optimizer,
        schedule=Linear(shape="linear", epochs=7, lr_max=0.002),
        train=Train(batch_size=32, ema=0.9),
    )
    curves = []
    for executor in ("eager", "captured"):
        chosen = Runtime.choose("cuda", "fp32", executor=executor)
        job = build_job(recipe, images_for(recipe), chosen)
        assert isinstance(job.executor, Captured if executor == "captured" else Eager)
        curves.append([loss for loss, _ in run(job, 20)])
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)


@CUDA
def test_on_a_gpu_a_value_that_is_read_can_not_be_recorded() -> None:
    graphs, values = CudaGraphs(torch.device("cuda")), torch.ones(3, device="cuda")
    stream = torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        graphs.record(lambda: float(values.sum()) and None)
    assert torch.cuda.current_stream() == stream
    assert float(values.sum()) == 3
