"""Every kind of bad input gets one clear line on stderr and exit status 2: what, where, what to do.

The commands run in a process of their own only where the process is the subject; elsewhere the
command's app is called in this one, which is the same code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers import folder, picture
from resight.cli.app import app
from resight.recipe.catalog import find_recipe
from resight.runs.run import Run
from run_folders import resolved

runner = CliRunner()


def no_such_recipe(root: Path) -> list[str]:
    return ["train", "--recipe", "custom-resnt"]


def no_such_data(root: Path) -> list[str]:
    return ["train", "--recipe", "digits", "--data", "digts"]


def unknown_field(root: Path) -> list[str]:
    return ["train", "--recipe", "digits", "--set", "optimizer.weigth_decay=0"]


def unknown_section(root: Path) -> list[str]:
    return ["train", "--recipe", "digits", "--set", "optimiser.weight_decay=0"]


def setting_without_value(root: Path) -> list[str]:
    return ["train", "--recipe", "digits", "--set", "train.seed"]


def negative_batch(root: Path) -> list[str]:
    return ["train", "--recipe", "digits", "--batch-size", "-4"]


def no_epochs(root: Path) -> list[str]:
    return ["train", "--recipe", "digits", "--epochs", "0"]


def lr_of_words(root: Path) -> list[str]:
    return ["train", "--recipe", "digits", "--lr", "fast"]


def negative_lr(root: Path) -> list[str]:
    return ["train", "--recipe", "digits", "--lr", "-0.1"]


def wrong_device(root: Path) -> list[str]:
    return ["train", "--recipe", "digits", "--device", "gpu"]


def wrong_precision(root: Path) -> list[str]:
    return ["train", "--recipe", "digits", "--precision", "fp8"]


def whole_train_for_validation(root: Path) -> list[str]:
    return ["train", "--recipe", "digits", "--val", "1.0"]


def broken_toml(root: Path) -> list[str]:
    (root / "mine.toml").write_text("[train\nbatch_size = 3")
    return ["train", "--recipe", str(root / "mine.toml")]


def wrong_type_in_toml(root: Path) -> list[str]:
    (root / "mine.toml").write_text('[train]\nbatch_size = "many"')
    return ["train", "--recipe", str(root / "mine.toml")]


def unknown_shape(root: Path) -> list[str]:
    return ["train", "--recipe", "digits", "--set", "schedule.shape=onecycle"]


def too_small_for_the_net(root: Path) -> list[str]:
    plain = ["--set", "augment.crop_pad_px=0", "--set", "augment.cutout_px=0"]
    return ["train", "--data", str(folder(root)), "--set", "data.image_size=4", *plain]


def cutout_larger_than_the_image(root: Path) -> list[str]:
    return ["train", "--recipe", "digits", "--set", "augment.cutout_px=9"]


def downloaded_data_not_there(root: Path) -> list[str]:
    return ["train", "--data", "cifar10"]


def an_empty_folder(root: Path) -> list[str]:
    return ["train", "--data", str(root)]


def one_class(root: Path) -> list[str]:
    return ["train", "--data", str(folder(root, ("cat",)))]


def an_empty_class(root: Path) -> list[str]:
    (folder(root) / "train" / "cow").mkdir()
    return ["train", "--data", str(root)]


def a_class_only_in_test(root: Path) -> list[str]:
    folder(root)
    picture(root / "test" / "cow" / "1.png", 5000)
    return ["train", "--data", str(root)]


def an_unreadable_image(root: Path) -> list[str]:
    (folder(root) / "train" / "cat" / "3.png").write_bytes(b"not an image")
    return ["train", "--data", str(root)]


def an_output_that_is_not_empty(root: Path) -> list[str]:
    (root / "notes.txt").write_text("mine")
    return ["train", "--recipe", "digits", "--out", str(root)]


def resuming_no_run(root: Path) -> list[str]:
    return ["train", "--resume", str(root)]


def evaluating_no_run(root: Path) -> list[str]:
    return ["evaluate", str(root / "nothing")]


def begun(root: Path) -> None:
    run = Run(root)
    run.write("resolved.json", resolved(source="digits"))
    run.write("recipe.json", find_recipe("digits").to_dict())


def evaluating_an_unfinished_run(root: Path) -> list[str]:
    begun(root)
    return ["evaluate", str(root)]


def a_damaged_run(root: Path) -> list[str]:
    begun(root)
    (root / "recipe.json").write_text("{")
    return ["evaluate", str(root)]


def a_damaged_checkpoint(root: Path) -> list[str]:
    begun(root)
    (root / "last.pt").write_bytes(b"PK\x03\x04 cut off")
    return ["train", "--resume", str(root)]


def no_such_net(root: Path) -> list[str]:
    return ["summary", "resnet-18"]


def too_narrow_a_net(root: Path) -> list[str]:
    small = ["--set", "model.net=resnet18", "--set", "model.width=4", "--device", "cpu"]
    return ["train", "--recipe", "digits", *small]


def a_report_of_no_run(root: Path) -> list[str]:
    return ["report", str(root / "nothing")]


def diagnosing_no_run(root: Path) -> list[str]:
    return ["diagnose", str(root)]


def comparing_one_run(root: Path) -> list[str]:
    begun(root)
    return ["compare", str(root)]


def an_unknown_split(root: Path) -> list[str]:
    begun(root)
    return ["evaluate", str(root), "--split", "tets"]


def a_table_into_no_folder(root: Path) -> list[str]:
    return ["evaluate", str(root), "--csv", str(root / "none" / "rows.csv")]


def too_few_minutes(root: Path) -> list[str]:
    return ["train", "--recipe", "digits", "--minutes", "0.0001"]


CASES: list[tuple[Callable[[Path], list[str]], list[str]]] = [
    (no_such_recipe, ["custom-resnt", "did you mean 'custom-resnet'"]),
    (no_such_data, ["digts", "did you mean 'digits'"]),
    (unknown_field, ["optimizer.weigth_decay", "did you mean 'optimizer.weight_decay'"]),
    (unknown_section, ["optimiser", "did you mean 'optimizer'"]),
    (setting_without_value, ["--set 'train.seed'", "section.field=value"]),
    (negative_batch, ["train.batch_size = -4", "must be ≥ 1"]),
    (no_epochs, ["epochs = 0", "integer ≥ 1"]),
    (lr_of_words, ["lr = 'fast'", "a number > 0 or 'find'"]),
    (negative_lr, ["lr_max = -0.1", "a number > 0 or 'find'"]),
    (wrong_device, ["device = 'gpu'", "auto, cpu or cuda"]),
    (wrong_precision, ["precision = 'fp8'", "auto, fp32, bf16 or fp16"]),
    (whole_train_for_validation, ["data.val_fraction = 1.0", "0.5"]),
    (broken_toml, ["mine.toml", "not valid TOML", "line 1"]),
    (wrong_type_in_toml, ["mine.toml", "train.batch_size = 'many'", "integer"]),
    (unknown_shape, ["schedule.shape = 'onecycle'", "did you mean 'one-cycle'"]),
    (too_small_for_the_net, ["image_size = 4", "8"]),
    (cutout_larger_than_the_image, ["augment.cutout_px = 9", "data.image_size = 8"]),
    (downloaded_data_not_there, ["resight data cifar10", "cifar-10-python.tar.gz", "digits"]),
    (an_empty_folder, ["train/", "test/"]),
    (one_class, ["cat", "one class"]),
    (an_empty_class, ["cow"]),
    (a_class_only_in_test, ["cow"]),
    (an_unreadable_image, ["train/cat/3.png", "--skip-bad"]),
    (an_output_that_is_not_empty, ["not empty", "--out"]),
    (resuming_no_run, ["not a run", "resight train"]),
    (evaluating_no_run, ["nothing", "not a run"]),
    (evaluating_an_unfinished_run, ["has not finished", "--resume"]),
    (a_damaged_run, ["recipe.json is not what the run wrote", "restore it"]),
    (a_damaged_checkpoint, ["last.pt", "damaged"]),
    (no_such_net, ["resnet-18", "did you mean 'resnet18'"]),
    (too_few_minutes, ["minutes = 0.0001", "--minutes"]),
    (too_narrow_a_net, ["model.width = 4", "at least 8", "custom-resnet"]),
    (a_report_of_no_run, ["nothing", "not a run", "resight train"]),
    (diagnosing_no_run, ["not a run", "resight train"]),
    (comparing_one_run, ["two"]),
    (an_unknown_split, ["split 'tets'", "did you mean 'test'"]),
    (a_table_into_no_folder, ["csv", "none"]),
]


@pytest.mark.parametrize(("make", "said"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_bad_input_is_one_clear_line_and_exit_2(
    make: Callable[[Path], list[str]],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    root = tmp_path / "given"
    root.mkdir()
    arguments = make(root)
    before = sorted(path.relative_to(root) for path in root.rglob("*"))
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert not re.match(r"error: (out|csv|compare): ", result.stderr)  # what option, in a sentence
    for words in said:
        assert words in result.stderr, result.stderr
    left = [path for path in root.rglob("*") if path.name != ".lock"]  # it stays: `files.exclusive`
    after = sorted(path.relative_to(root) for path in left)
    assert before == after, "bad input left something behind"
    assert not list(elsewhere.rglob("recipe.json")), "a refused training left a run folder"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "epochs=3"], "their own options"),
        (["--minutes", "nan"], "must be a number above 0"),
        (["--minutes", "-1"], "must be a number above 0"),
        (["--batch-size", "1", "--lr", "0.1"], "a batch of one image"),
    ],
)
def test_slips_of_the_command_line_are_one_line(arguments: list[str], said: str) -> None:
    result = runner.invoke(app, ["train", "--recipe", "digits", *arguments])
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
