"""Recipes: the same after TOML and JSON, and one clear line for each thing that is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from resight.errors import ResightError
from resight.recipe.catalog import RECIPES
from resight.recipe.nets import NETS
from resight.recipe.recipe import Recipe
from resight.recipe.settings import (
    IMAGES,
    Adam,
    Augment,
    Constant,
    Cosine,
    Cyclic,
    Data,
    Evaluate,
    ExpRange,
    Linear,
    Loss,
    Model,
    Muon,
    OneCycle,
    Plateau,
    Sgd,
    Step,
    Train,
)

SHAPES = (
    "one-cycle",
    "triangular",
    "triangular2",
    "exp-range",
    "cosine",
    "linear",
    "step",
    "constant",
    "plateau",
)


def message_of(values: dict[str, Any]) -> str:
    with pytest.raises(ResightError) as caught:
        Recipe.parse(values)
    message = str(caught.value)
    assert "\n" not in message
    return message


def share(**bounds: Any) -> st.SearchStrategy[float]:
    return st.floats(0, 1, exclude_max=True, **bounds)


@st.composite
def schedules(draw: st.DrawFn) -> Any:
    epochs = draw(st.integers(1, 300))
    lr_max = draw(st.just("find") | st.floats(1e-9, 50))
    highest = lr_max if isinstance(lr_max, float) else 1.0
    low = st.just("find") | st.floats(0, highest)
    common = {"epochs": epochs, "lr_max": lr_max}
    durations = st.floats(1e-3, 500)
    shape = draw(st.sampled_from(SHAPES))
    if shape == "one-cycle":
        return OneCycle(
            **common,
            peak_epoch=draw(st.floats(1e-3, epochs * 0.999)),
            anneal=draw(st.sampled_from(["linear", "cosine"])),
            lr_min=draw(low),
            lr_end=draw(st.just("lr_min") | st.floats(0, highest)),
        )
    if shape in ("triangular", "triangular2"):
        return Cyclic(**common, shape=shape, cycle_epochs=draw(durations), lr_min=draw(low))
    if shape == "exp-range":
        gamma = draw(st.floats(0.1, 1))
        return ExpRange(
            **common, shape=shape, cycle_epochs=draw(durations), lr_min=draw(low), gamma=gamma
        )
    if shape == "cosine":
        return Cosine(**common, shape=shape, lr_end=draw(st.floats(0, highest)))
    if shape == "linear":
        return Linear(**common, shape=shape, lr_end=draw(st.floats(0, highest)))
    if shape == "step":
        gamma = draw(st.floats(0.01, 1))
        return Step(**common, shape=shape, step_epochs=draw(durations), gamma=gamma)
    if shape == "constant":
        return Constant(**common, shape=shape)
    return Plateau(
        **common,
        shape=shape,
        factor=draw(st.floats(0.01, 0.99)),
        patience=draw(st.integers(0, 20)),
        threshold=draw(st.floats(0, 0.5)),
        lr_end=draw(st.floats(0, highest)),
    )


@st.composite
def optimizers(draw: st.DrawFn, *, cycling: bool) -> Any:
    common = {
        "weight_decay": draw(st.floats(0, 1)),
        "decay": draw(st.sampled_from(["all", "weights"])),
        "clip_grad_norm": draw(st.floats(0, 10)),
        "cycle_momentum": cycling and draw(st.booleans()),
    }
    name = draw(st.sampled_from(["sgd", "adam", "adamw", "muon"]))
    scales = st.floats(1e-3, 1e4)
    if name == "sgd":
        momentum = draw(share())
        nesterov = momentum > 0 and draw(st.booleans())
        return Sgd(**common, momentum=momentum, nesterov=nesterov, bias_lr_scale=draw(scales))
    if name == "muon":
        return Muon(
            **{**common, "cycle_momentum": False},
            name=name,
            momentum=draw(share()),
            newton_schulz_steps=draw(st.integers(1, 10)),
            sgd_momentum=draw(share()),
            bias_lr_scale=draw(scales),
            head_lr_scale=draw(scales),
        )
    beta1, beta2, eps = draw(share()), draw(share()), draw(st.floats(1e-12, 1))
    return Adam(**common, name=name, beta1=beta1, beta2=beta2, eps=eps)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    size = draw(st.integers(1, 64))
    net = draw(st.sampled_from(list(NETS)))
    own = net == "custom-resnet"
    schedule = draw(schedules())
    least = NETS[net].smallest_px
    if not own and least < size and draw(st.booleans()):
        small = {"small_px": draw(st.integers(least, size - 1)), "small_epochs": 0.5}
        schedule = schedule.model_copy(update=small)
        if small["small_px"] < size - 1 and draw(st.booleans()):
            medium = {"medium_px": size - 1, "medium_epochs": 0.25}
            schedule = schedule.model_copy(update=medium)
    if net.startswith("fastnet"):
        stem = draw(st.floats(0, schedule.epochs))
        schedule = schedule.model_copy(update={"stem_epochs": stem})
    pieces = draw(st.integers(0, 64)) if net != "resnet18-gn" else 0
    watched = isinstance(schedule, Plateau)
    ema = draw(share())
    return Recipe(
        name=draw(st.text()),
        model=Model(
            net=net,
            width=draw(st.integers(1, 512)),
            norm=draw(st.sampled_from(["batch", "layer"])) if own else "batch",
            conv_bias=own and draw(st.booleans()),
            logit_scale=draw(st.floats(1e-3, 10)),
        ),
        data=Data(
            source=draw(st.text()),
            image_size=size,
            val_fraction=draw(st.floats(0, 0.5)),
            split_seed=draw(st.integers(0, 2**70)),
            group=draw(st.sampled_from(["", r"/(\w+)-\d", '"[(]|é'])),
        ),
        augment=Augment(
            crop_pad_px=draw(st.integers(0, size - 1)),
            crop_fill=draw(st.sampled_from(["zero", "reflect"])),
            flip=draw(st.sampled_from(["none", "random", "alternating"])),
            **draw(
                st.sampled_from(
                    [
                        {},
                        {"trivialaugment": True},
                        {"randaugment": 2, "randaugment_magnitude": 9},
                    ]
                )
            ),
            hue_deg=draw(st.floats(0, 180)),
            grey=draw(st.floats(0, 1)),
            **draw(st.sampled_from([{}, {"blur": 0.5, "blur_px": 0.3}])),
            cutout_px=draw(st.integers(0, size)),
            **draw(st.sampled_from([{}, {"erase": 1.0, "erase_area": 0.01}])),
            mixup=draw(st.floats(0, 10)),
            cutmix=draw(st.floats(0, 10)),
        ),
        optimizer=draw(optimizers(cycling=isinstance(schedule, OneCycle))),
        schedule=schedule,
        loss=Loss(label_smoothing=draw(share())),
        train=Train(
            batch_size=draw(st.integers(1, 64)) * max(pieces, 1),
            last_batch=draw(st.sampled_from(["keep", "drop"])),
            sampling=draw(st.sampled_from(["uniform", "balanced"])),
            seed=draw(st.integers(0, 2**63 - 1)),
            ema=ema,
            lookahead=0 if ema else draw(st.integers(0, 10)),
            norm_batch=pieces,
        ),
        evaluate=Evaluate(
            tta=draw(st.sampled_from(["none", "flip", "flip-shift"])),
            when="each-epoch" if watched else draw(st.sampled_from(["each-epoch", "end"])),
        ),
    )


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_named_recipe_is_the_same_after_a_file(name: str, suffix: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]()
    file = tmp_path / f"recipe{suffix}"
    text = recipe.to_toml() if suffix == ".toml" else json.dumps(recipe.to_dict())
    file.write_text(text, encoding="utf-8")

    assert Recipe.load(file) == recipe


@settings(max_examples=150)
@given(recipe=recipes())
def test_any_recipe_is_the_same_after_toml_and_json(
    recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "any.toml").write_text(recipe.to_toml(), encoding="utf-8")
    (folder / "any.json").write_text(json.dumps(recipe.to_dict()), encoding="utf-8")

    assert Recipe.load(folder / "any.toml") == recipe
    assert Recipe.load(folder / "any.json") == recipe


def test_toml_keeps_any_text(tmp_path: Path) -> None:
    text = 'quote " back \\ tab \t line \n return \r delete \x7f unit \x1f é 🐈 \u2028'
    file = tmp_path / "odd.toml"
    file.write_text(Recipe(name=text).to_toml(), encoding="utf-8")

    assert Recipe.load(file).name == text


def test_toml_names_the_kind_first() -> None:
    lines = Recipe(schedule=Step(shape="step"), optimizer=Sgd()).to_toml().splitlines()

    assert lines[0] == 'name = "custom-resnet"'
    assert lines[lines.index("[schedule]") + 1] == 'shape = "step"'
    assert lines[lines.index("[optimizer]") + 1] == 'name = "sgd"'


def test_a_short_file_gets_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "short.toml"
    file.write_text('[train]\nbatch_size = 128\n[schedule]\nshape = "constant"\n')

    expected = Recipe(train=Train(batch_size=128), schedule=Constant(shape="constant"))
    assert Recipe.load(file) == expected


def test_no_settings_is_the_custom_resnet() -> None:
    assert Recipe.parse({}) == Recipe()
    assert Recipe().to_dict() == {
        "name": "custom-resnet",
        "model": {
            "net": "custom-resnet",
            "width": 64,
            "norm": "batch",
            "conv_bias": False,
            "logit_scale": 1.0,
        },
        "data": {
            "source": "cifar10",
            "image_size": 32,
            "fit": "crop",
            "val_fraction": 0.0,
            "split_seed": 0,
            "group": "",
        },
        "augment": {
            "crop_pad_px": 4,
            "crop_fill": "zero",
            "flip": "random",
            "rotate_deg": 0.0,
            "scale": 0.0,
            "randaugment": 0,
            "randaugment_magnitude": 0,
            "trivialaugment": False,
            "brightness": 0.0,
            "contrast": 0.0,
            "saturation": 0.0,
            "hue_deg": 0.0,
            "grey": 0.0,
            "blur": 0.0,
            "blur_px": 0.0,
            "cutout_px": 8,
            "erase": 0.0,
            "erase_area": 0.0,
            "mixup": 0.0,
            "cutmix": 0.0,
        },
        "optimizer": {
            "weight_decay": 1e-4,
            "decay": "all",
            "clip_grad_norm": 0.0,
            "cycle_momentum": False,
            "name": "adam",
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-8,
        },
        "schedule": {
            "epochs": 24,
            "lr_max": "find",
            "stem_epochs": 0.0,
            "small_epochs": 0.0,
            "small_px": 0,
            "medium_epochs": 0.0,
            "medium_px": 0,
            "shape": "one-cycle",
            "peak_epoch": 5.0,
            "anneal": "linear",
            "lr_min": "find",
            "lr_end": "lr_min",
        },
        "loss": {"label_smoothing": 0.0, "class_weights": "none"},
        "train": {
            "batch_size": 512,
            "last_batch": "keep",
            "sampling": "uniform",
            "seed": 0,
            "ema": 0.0,
            "lookahead": 0,
            "norm_batch": 0,
            "early_stop": 0,
        },
        "evaluate": {"tta": "none", "when": "each-epoch", "norm": "running"},
    }


@pytest.mark.parametrize(
    ("values", "wrong", "right"),
    [
        ({"modle": {}}, "modle", "model"),
        ({"model": {"widht": 32}}, "model.widht", "model.width"),
        ({"train": {"batchsize": 32}}, "train.batchsize", "train.batch_size"),
        ({"optimizer": {"name": "adam", "beta_1": 0.9}}, "optimizer.beta_1", "optimizer.beta1"),
        (
            {"schedule": {"shape": "step", "step_epoch": 1}},
            "schedule.step_epoch",
            "schedule.step_epochs",
        ),
        ({"schedule": {"shape": "onecycle"}}, "schedule.shape = 'onecycle'", "one-cycle"),
        ({"schedule": {"shape": "Cosine"}}, "schedule.shape = 'Cosine'", "cosine"),
        ({"optimizer": {"name": "sdg"}}, "optimizer.name = 'sdg'", "sgd"),
        ({"optimizer": {"name": "Adam W"}}, "optimizer.name = 'Adam W'", "adamw"),
        ({"model": {"net": "resnet-18"}}, "model.net = 'resnet-18'", "resnet18"),
        ({"model": {"net": "custom_resnet"}}, "model.net = 'custom_resnet'", "custom-resnet"),
    ],
)
def test_an_unknown_name_gets_the_nearest_right_one(
    values: dict[str, Any], wrong: str, right: str
) -> None:
    message = message_of(values)

    assert wrong in message
    assert message.endswith(f"did you mean '{right}'?")


def test_an_unknown_name_far_from_all_gets_the_list() -> None:
    message = message_of({"schedule": {"shape": "zzz"}})

    assert message.endswith("known: " + ", ".join(SHAPES))


def test_a_kind_that_is_missing_is_asked_for_with_the_known_ones() -> None:
    assert message_of({"schedule": {"epochs": 3}}) == (
        "recipe: schedule.shape is missing; known: " + ", ".join(SHAPES)
    )
    assert message_of({"optimizer": {"weight_decay": 0.1}}) == (
        "recipe: optimizer.name is missing; known: sgd, adam, adamw, muon"
    )


@pytest.mark.parametrize("kind", [*SHAPES, "sgd", "adam", "adamw"])
def test_a_field_or_section_named_like_a_kind_is_named_whole(kind: str) -> None:
    assert f"unknown field '{kind}'" in message_of({kind: {}})
    assert f"unknown field 'train.{kind}'" in message_of({"train": {kind: 1}})
    of_optimizer = message_of({"optimizer": {"name": "sgd", kind: 1}})
    assert f"unknown field 'optimizer.{kind}'" in of_optimizer


@pytest.mark.parametrize(
    "values",
    [
        {"a\nb": 1},
        {"model": {"a\nb": 1}},
        {"schedule": {"shape": "a\nb"}},
        {"optimizer": {"name": "a\nb"}},
        {"model": {"net": "a\nb"}},
        {"augment": {"flip": "a\nb"}},
        {"schedule": {"shape": "cosine", "lr_max": "a\nb"}},
    ],
)
def test_a_line_break_in_a_recipe_leaves_the_message_one_line(values: dict[str, Any]) -> None:
    message_of(values)


@pytest.mark.parametrize(
    ("section", "settings_", "expected"),
    [
        ("train", {"batch_size": 0}, "train.batch_size = 0 must be ≥ "),
        ("train", {"batch_size": 1.5}, "train.batch_size = 1.5 must be an integer"),
        ("train", {"batch_size": "x"}, "train.batch_size = 'x' must be an integer"),
        ("train", {"seed": -1}, "train.seed = -1 must be ≥ 0"),
        ("train", {"seed": 2**63}, f"train.seed = {2**63} must be < {2**63}"),
        ("train", {"ema": 1}, "train.ema = 1 must be < 1"),
        (
            "train",
            {"sampling": "equal"},
            "train.sampling = 'equal' must be 'uniform' or ",
        ),
        ("train", {"last_batch": "pad"}, "train.last_batch = 'pad' must be 'keep' or "),
        ("model", {"width": None}, "model.width = None must be an integer"),
        ("model", {"norm": "group"}, "model.norm = 'group' must be 'batch' or 'layer'"),
        ("data", {"val_fraction": 0.6}, "data.val_fraction = 0.6 must be ≤ "),
        ("data", {"image_size": 0}, "data.image_size = 0 must be ≥ "),
        ("data", {"source": 3}, "data.source = 3 must be text"),
        (
            "augment",
            {"flip": "yes"},
            "augment.flip = 'yes' must be 'none', 'random' or 'alternating'",
        ),
        ("augment", {"crop_pad_px": -1}, "augment.crop_pad_px = -1 must be ≥"),
        ("loss", {"label_smoothing": 1}, "loss.label_smoothing = 1 must be < 1"),
        (
            "evaluate",
            {"tta": "crop"},
            "evaluate.tta = 'crop' must be 'none', 'flip', 'flip-shift' or 'flip-shift-unsure'",
        ),
        (
            "optimizer",
            {"name": "sgd", "momentum": 1},
            "optimizer.momentum = 1 must be < 1",
        ),
        (
            "optimizer",
            {"name": "adam", "eps": 0},
            "optimizer.eps = 0 must be > 0",
        ),
        (
            "optimizer",
            {"name": "adam", "weight_decay": -0.1},
            "optimizer.weight_decay = -0.1 must be ≥ 0",
        ),
        (
            "schedule",
            {"shape": "cosine", "epochs": 0},
            "schedule.epochs = 0 must be ≥ 1",
        ),
        (
            "schedule",
            {"shape": "cosine", "lr_max": 0},
            "schedule.lr_max = 0 must be a number > 0 or 'find'",
        ),
        (
            "schedule",
            {"shape": "cosine", "lr_max": True},
            "schedule.lr_max = True must be a number > 0 or 'find'",
        ),
        (
            "schedule",
            {"shape": "cosine", "lr_max": "fast"},
            "schedule.lr_max = 'fast' must be a number > 0 or 'find'",
        ),
        (
            "schedule",
            {"shape": "one-cycle", "lr_min": -0.1},
            "schedule.lr_min = -0.1 must be a number >= 0 or 'find'",
        ),
        (
            "schedule",
            {"shape": "one-cycle", "lr_end": "find"},
            "schedule.lr_end = 'find' must be a number >= 0 or 'lr_min'",
        ),
        (
            "schedule",
            {"shape": "step", "gamma": 1.1},
            "schedule.gamma = 1.1 must be ≤ 1",
        ),
        (
            "schedule",
            {"shape": "plateau", "factor": 1},
            "schedule.factor = 1 must be < 1",
        ),
        (
            "schedule",
            {"shape": "triangular", "cycle_epochs": 0},
            "schedule.cycle_epochs = 0 must be > 0",
        ),
    ],
)
def test_a_value_not_allowed_is_named_with_its_field_and_what_is_allowed(
    section: str, settings_: dict[str, Any], expected: str
) -> None:
    assert message_of({section: settings_}).startswith(f"recipe: {expected}")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("section", "kind", "field"),
    [
        ("data", {}, "val_fraction"),
        ("loss", {}, "label_smoothing"),
        ("train", {}, "ema"),
        ("optimizer", {"name": "adam"}, "eps"),
        ("optimizer", {"name": "sgd"}, "clip_grad_norm"),
        ("schedule", {"shape": "one-cycle"}, "lr_max"),
        ("schedule", {"shape": "one-cycle"}, "lr_min"),
        ("schedule", {"shape": "one-cycle"}, "lr_end"),
        ("schedule", {"shape": "one-cycle"}, "peak_epoch"),
        ("schedule", {"shape": "cosine"}, "lr_end"),
        ("schedule", {"shape": "plateau"}, "threshold"),
    ],
)
def test_nan_and_infinity_are_refused(
    section: str, kind: dict[str, str], field: str, value: float
) -> None:
    assert message_of({section: {**kind, field: value}}).startswith(
        f"recipe: {section}.{field} = {value!r}"
    )


def test_of_several_errors_the_first_is_told_and_the_others_counted() -> None:
    message = message_of({"train": {"batch_size": 0, "ema": 2, "seed": -1}})

    assert message.startswith("recipe: train.batch_size = 0")
    assert message.endswith("(and 2 more wrong)")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (
            {"schedule": {"shape": "one-cycle", "epochs": 5, "peak_epoch": 5}},
            ["schedule.peak_epoch = 5", "less than schedule.epochs = 5", "--epochs 5"],
        ),
        (
            {"data": {"image_size": 8}, "augment": {"crop_pad_px": 1, "cutout_px": 9}},
            ["augment.cutout_px = 9", "at most data.image_size = 8"],
        ),
        (
            {"data": {"image_size": 8}, "augment": {"crop_pad_px": 8, "cutout_px": 0}},
            ["augment.crop_pad_px = 8", "less than data.image_size = 8"],
        ),
        (
            {"augment": {"blur": 0.5}},
            ["augment.blur = 0.5", "augment.blur_px = 0 go together", "both to 0"],
        ),
        (
            {"augment": {"randaugment": 2}},
            ["augment.randaugment = 2", "augment.randaugment_magnitude = 0 go together"],
        ),
        (
            {"augment": {"randaugment": 2, "randaugment_magnitude": 9, "trivialaugment": True}},
            ["augment.randaugment = 2 and augment.trivialaugment = true exclude each other"],
        ),
        (
            {"augment": {"erase_area": 0.25}},
            ["augment.erase = 0 ", "augment.erase_area = 0.25 go together"],
        ),
        (
            {"optimizer": {"name": "sgd", "momentum": 0, "nesterov": True}},
            ["optimizer.nesterov = true", "optimizer.momentum > 0"],
        ),
        (
            {
                "optimizer": {"name": "sgd", "cycle_momentum": True},
                "schedule": {"shape": "cosine"},
            },
            ["optimizer.cycle_momentum = true", "schedule.shape = 'one-cycle'", "'cosine'"],
        ),
        (
            {"schedule": {"shape": "one-cycle", "lr_max": 0.1, "lr_min": 0.2}},
            ["schedule.lr_min = 0.2", "at most schedule.lr_max = 0.1"],
        ),
        (
            {"schedule": {"shape": "triangular", "lr_max": 0.1, "lr_min": 0.2}},
            ["schedule.lr_min = 0.2", "at most schedule.lr_max = 0.1"],
        ),
        (
            {"schedule": {"shape": "plateau", "lr_max": 0.1, "lr_end": 0.2}},
            ["schedule.lr_end = 0.2", "at most schedule.lr_max = 0.1"],
        ),
        (
            {"model": {"net": "resnet18", "norm": "layer"}},
            ["model.norm", "custom-resnet", "not of resnet18", "resnet18-gn"],
        ),
        (
            {"model": {"net": "resnet18-gn", "conv_bias": True}},
            ["model.conv_bias", "custom-resnet", "not of resnet18-gn"],
        ),
    ],
)
def test_settings_that_contradict_each_other_are_both_named(
    values: dict[str, Any], named: list[str]
) -> None:
    message = message_of(values)

    assert [part for part in named if part not in message] == []


def test_the_borders_of_the_cross_field_rules_are_allowed() -> None:
    Recipe.parse({"schedule": {"shape": "one-cycle", "epochs": 5, "peak_epoch": 4.99}})
    Recipe.parse({"data": {"image_size": 8}, "augment": {"crop_pad_px": 7, "cutout_px": 8}})
    Recipe.parse({"optimizer": {"name": "sgd", "momentum": 0.1, "nesterov": True}})
    Recipe.parse({"optimizer": {"name": "adam", "cycle_momentum": True}})
    Recipe.parse({"schedule": {"shape": "one-cycle", "lr_max": 0.1, "lr_min": 0.1, "lr_end": 0.1}})


def test_a_recipe_is_frozen_in_each_of_its_parts() -> None:
    recipe = Recipe()
    for part, field in ((recipe, "name"), (recipe.model, "width"), (recipe.schedule, "epochs")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, field, getattr(part, field))


def test_fewer_epochs_scale_the_peak() -> None:
    schedule = Recipe().with_epochs(3).schedule

    assert isinstance(schedule, OneCycle)
    assert (schedule.epochs, schedule.peak_epoch) == (3, 0.625)


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        (Step(shape="step", epochs=24, step_epochs=8), "step_epochs"),
        (Cyclic(shape="triangular", epochs=24, cycle_epochs=8), "cycle_epochs"),
        (Cyclic(shape="triangular2", epochs=24, cycle_epochs=8), "cycle_epochs"),
        (ExpRange(shape="exp-range", epochs=24, cycle_epochs=8), "cycle_epochs"),
    ],
)
def test_more_epochs_scale_steps_and_cycles(schedule: Any, field: str) -> None:
    recipe = Recipe(schedule=schedule)
    longer = recipe.with_epochs(36)

    assert longer.schedule.epochs == 36
    assert getattr(longer.schedule, field) == 12.0
    assert set(longer.differences(recipe)) == {
        f"schedule.{field}: 12.0 → 8.0",
        "schedule.epochs: 36 → 24",
    }


@settings(max_examples=60)
@given(recipe=recipes(), epochs=st.integers(1, 500))
def test_other_epochs_change_durations_in_proportion_and_nothing_else(
    recipe: Recipe, epochs: int
) -> None:
    scaled = recipe.with_epochs(epochs)
    before, after = recipe.to_dict(), scaled.to_dict()
    for key in ("peak_epoch", "cycle_epochs", "step_epochs", *IMAGES):
        if key in before["schedule"]:
            whole = before["schedule"].pop(key) / recipe.schedule.epochs
            assert after["schedule"].pop(key) / epochs == pytest.approx(whole, rel=1e-12)
    assert after["schedule"].pop("epochs") == epochs
    del before["schedule"]["epochs"]
    assert after == before


@pytest.mark.parametrize("epochs", [0, -1, 2.5, True, "3", None])
def test_epochs_must_be_a_whole_number(epochs: Any) -> None:
    with pytest.raises(ResightError, match="must be an integer ≥ 1") as caught:
        Recipe().with_epochs(epochs)
    assert repr(epochs) in str(caught.value)


def test_changed_fields_leave_the_original_alone() -> None:
    recipe = Recipe()
    changed = recipe.with_changes({"optimizer.weight_decay": 0, "name": "mine"})

    assert changed == Recipe(name="mine", optimizer=Adam(weight_decay=0.0))
    assert recipe == Recipe()


def test_another_shape_keeps_what_both_have_and_drops_the_rest() -> None:
    recipe = Recipe(schedule=OneCycle(epochs=12, lr_max=0.3, lr_min=0.02, lr_end=0.001))

    cyclic = recipe.with_changes({"schedule.shape": "triangular"}).schedule
    assert cyclic == Cyclic(shape="triangular", epochs=12, lr_max=0.3, lr_min=0.02)
    cosine = recipe.with_changes({"schedule.shape": "cosine"}).schedule
    assert cosine == Cosine(shape="cosine", epochs=12, lr_max=0.3, lr_end=0.001)
    constant = recipe.with_changes({"schedule.shape": "constant", "schedule.epochs": 7}).schedule
    assert constant == Constant(shape="constant", epochs=7, lr_max=0.3)


def test_an_end_at_lr_min_is_dropped_where_there_is_no_lr_min() -> None:
    cosine = Recipe().with_changes({"schedule.shape": "cosine"}).schedule

    assert cosine == Cosine(shape="cosine", epochs=24, lr_end=0.0)


def test_gamma_is_not_carried_between_shapes_that_mean_something_else_by_it() -> None:
    recipe = Recipe(schedule=Step(shape="step", gamma=0.2))

    changed = recipe.with_changes({"schedule.shape": "exp-range"}).schedule
    assert changed == ExpRange(shape="exp-range", gamma=0.9995)


def test_another_optimizer_keeps_what_both_have_and_drops_the_rest() -> None:
    recipe = Recipe(optimizer=Adam(weight_decay=0.3, decay="weights", beta1=0.7, eps=1e-6))

    sgd = recipe.with_changes({"optimizer.name": "sgd", "optimizer.momentum": 0.8}).optimizer
    assert sgd == Sgd(weight_decay=0.3, decay="weights", momentum=0.8)
    adamw = recipe.with_changes({"optimizer.name": "adamw"}).optimizer
    assert adamw == Adam(name="adamw", weight_decay=0.3, decay="weights", beta1=0.7, eps=1e-6)


@settings(max_examples=60)
@given(recipe=recipes(), shape=st.sampled_from(SHAPES))
def test_any_recipe_takes_any_shape(recipe: Recipe, shape: str) -> None:
    changes: dict[str, Any] = {"schedule.shape": shape, "optimizer.cycle_momentum": False}
    if shape == "one-cycle" and recipe.schedule.shape != "one-cycle":
        changes["schedule.peak_epoch"] = recipe.schedule.epochs / 4
    if shape == "plateau":
        changes["evaluate.when"] = "each-epoch"  # which it watches
    changed = recipe.with_changes(changes)

    assert changed.schedule.shape == shape
    assert changed.schedule.epochs == recipe.schedule.epochs
    assert changed.schedule.lr_max == recipe.schedule.lr_max


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"modle.width": 3}, ["'modle.width'", "did you mean 'model'?"]),
        ({"model.widht": 3}, ["'model.widht'", "did you mean 'model.width'?"]),
        ({"model.width.x": 3}, ["'model.width.x'"]),
        ({"width": 3}, ["'width'", "no section 'width'"]),
        ({"model": 3}, ["'model' is a section", "model.net", "model.width"]),
        ({"name.x": 3}, ["'name.x'", "no section 'name'"]),
        ({"": 3}, ["setting ''"]),
        ({"schedule.shape": "cosin"}, ["schedule.shape = 'cosin'", "did you mean 'cosine'?"]),
        ({"optimizer.name": "addam"}, ["optimizer.name = 'addam'", "did you mean 'adam'?"]),
        ({"schedule.gamma": 0.5}, ["'schedule.gamma'"]),
        ({"optimizer.momentum": 0.5}, ["'optimizer.momentum'"]),
        (
            {"optimizer.name": "sgd", "optimizer.beta1": 0.5},
            ["'optimizer.beta1'"],
        ),
        ({"train.batch_size": 0}, ["train.batch_size = 0", "must be ≥ 1"]),
    ],
)
def test_a_change_that_is_not_allowed_is_named(changes: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ResightError) as caught:
        Recipe().with_changes(changes)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in named if part not in message] == []


def test_differences_name_fields_and_both_values() -> None:
    mine = Recipe(train=Train(seed=1), schedule=OneCycle(lr_max=0.5))
    theirs = Recipe(optimizer=Sgd(weight_decay=1e-4))

    assert mine.differences(theirs) == [
        "optimizer.beta1: 0.9 → unset",
        "optimizer.beta2: 0.999 → unset",
        "optimizer.bias_lr_scale: unset → 1.0",
        "optimizer.eps: 1e-08 → unset",
        "optimizer.momentum: unset → 0.9",
        "optimizer.name: adam → sgd",
        "optimizer.nesterov: unset → False",
        "schedule.lr_max: 0.5 → find",
        "train.seed: 1 → 0",
    ]


def test_differences_ignore_name_and_source() -> None:
    other = Recipe(name="other", data=Data(source="/elsewhere"))

    assert Recipe().differences(other) == []
    assert Recipe().differences(Recipe()) == []


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("broken.toml", b"[model\nwidth = 3", "not valid TOML"),
        ("broken.json", b'{"model": ', "not valid JSON"),
        ("list.json", b"[1, 2]", "a recipe must be a table of sections"),
        ("number.json", b"3", "a recipe must be a table of sections"),
        ("empty.json", b"", "not valid JSON"),
        ("binary.toml", b"\xff\xfe\x00", "can't be read as a recipe"),
        ("wrong.toml", b"[train]\nbatch_size = 0", "train.batch_size = 0"),
        ("wrong.json", b'{"model": {"widht": 3}}', "did you mean 'model.width'?"),
    ],
)
def test_a_file_that_is_no_recipe_is_named_with_the_reason(
    name: str, content: bytes, named: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content)

    with pytest.raises(ResightError) as caught:
        Recipe.load(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert named in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "said"),
    [("missing.toml", "no such file"), ("missing.json", "no such file"), ("", "can't be read as")],
)
def test_a_file_that_is_not_there_is_named(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ResightError, match=said) as caught:
        Recipe.load(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("model.width", True), ("model.width", "64"), ("model.conv_bias", "yes"), ("train.seed", 1.0)],
)
def test_a_value_of_another_type_is_refused_and_not_read_as_one(field: str, value: object) -> None:
    with pytest.raises(ResightError, match=field.replace(".", r"\.")):
        Recipe().with_changes({field: value})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"optimizer.name": "muon", "optimizer.cycle_momentum": True},
            "optimizer.cycle_momentum = true works with sgd, adam and adamw, not with muon",
        ),
        (
            {"model.net": "fastnet", "schedule.small_px": 24},
            "schedule.small_px = 24 and schedule.small_epochs = 0 go together: set both",
        ),
        (
            {"model.net": "fastnet", "schedule.small_px": 24, "schedule.small_epochs": 25},
            "schedule.small_epochs = 25 must be at most schedule.epochs = 24",
        ),
        (
            {"schedule.small_px": 24, "schedule.small_epochs": 2},
            "schedule.small_px = 24: custom-resnet takes images of one size only",
        ),
        (
            {"model.net": "fastnet", "schedule.small_px": 8, "schedule.small_epochs": 2},
            "schedule.small_px = 8 must be at least 9 for fastnet and less than data.image_size",
        ),
        (
            {"model.net": "resnet18", "schedule.small_px": 32, "schedule.small_epochs": 2},
            "schedule.small_px = 32 must be at least 1 for resnet18 and less than data.image_size",
        ),
        (
            {"model.net": "fastnet", "schedule.medium_px": 24, "schedule.medium_epochs": 25},
            "schedule.small_epochs + schedule.medium_epochs = 25 must be at most schedule.epochs",
        ),
        (
            {
                "model.net": "fastnet",
                "schedule.small_px": 24,
                "schedule.small_epochs": 2,
                "schedule.medium_px": 24,
                "schedule.medium_epochs": 2,
            },
            "schedule.medium_px = 24 must be more than schedule.small_px = 24, which it follows",
        ),
        (
            {"model.net": "fastnet", "schedule.medium_px": 24},
            "schedule.medium_px = 24 and schedule.medium_epochs = 0 go together: set both",
        ),
        (
            {"model.net": "resnet18", "schedule.stem_epochs": 2},
            "schedule.stem_epochs = 2 needs a net with a whitening stem (fastnet and",
        ),
        (
            {"model.net": "fastnet", "schedule.stem_epochs": 25},
            "schedule.stem_epochs = 25 must be at most schedule.epochs = 24",
        ),
        (
            {"model.net": "resnet18-gn", "train.norm_batch": 256},
            "train.norm_batch = 256 is for batch norm, which resnet18-gn does not have",
        ),
        (
            {"model.net": "resnet18-gn", "evaluate.norm": "anew"},
            "evaluate.norm = 'anew' is for batch norm, which resnet18-gn does not have",
        ),
        (
            {"train.early_stop": 5, "evaluate.when": "end"},
            "train.early_stop = 5 watches the validation accuracy of each epoch: set evaluate.when",
        ),
        (
            {"schedule.shape": "plateau", "evaluate.when": "end", "data.val_fraction": 0.1},
            "schedule.shape = 'plateau' watches the validation loss of each epoch",
        ),
        (
            {"train.norm_batch": 100},
            "train.norm_batch = 100 must divide train.batch_size = 512",
        ),
        (
            {"train.ema": 0.9, "train.lookahead": 5},
            "train.ema and train.lookahead both average weights: set one to 0",
        ),
        ({"model.logit_scale": 0}, "model.logit_scale = 0 must be > 0"),
        (
            {"optimizer.name": "sgd", "optimizer.bias_lr_scale": 0},
            "optimizer.bias_lr_scale = 0 must be > 0",
        ),
    ],
)
def test_settings_that_make_it_fast_say_what_they_need(
    changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ResightError) as caught:
        Recipe().with_changes(changes)
    assert str(caught.value).startswith(f"setting: {expected}")


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_what_is_muons_own_does_not_go_over_to_another_optimizer(name: str) -> None:
    """Its LR is of another kind, so decay, momentum and scales mean other things."""
    changed = RECIPES["fast"]().with_changes({"optimizer.name": name})
    assert changed.optimizer == (Sgd() if name == "sgd" else Adam())
    assert Recipe(optimizer=Sgd(momentum=0.5, bias_lr_scale=64.0)).with_changes(
        {"optimizer.name": "muon"}
    ).optimizer == Muon(name="muon")


@pytest.mark.parametrize(("before", "after"), [(7, 29), (11, 25), (13, 27)])
def test_small_images_to_the_end_stay_so_at_any_number_of_epochs(before: int, after: int) -> None:
    schedule = Linear(shape="linear", epochs=before, small_px=24, small_epochs=before)
    recipe = Recipe(model=Model(net="fastnet"), schedule=schedule)
    assert recipe.with_epochs(after).schedule.small_epochs == after


def test_classes_are_balanced_in_one_way_only() -> None:
    for section, key in (("train", "sampling"), ("loss", "class_weights")):
        assert Recipe().with_changes({f"{section}.{key}": "balanced"}).balances_classes
    assert not Recipe().balances_classes
    message = message_of({"train": {"sampling": "balanced"}, "loss": {"class_weights": "balanced"}})
    assert message == (
        "recipe: train.sampling = 'balanced' and loss.class_weights = 'balanced' both make up for "
        "unequal classes: set one of them to 'uniform' or 'none'"
    )
