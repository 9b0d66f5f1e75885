"""The command as a person or a script meets it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

import resight
from helpers import folder
from resight.cli.app import app
from resight.cli.output import print_classes, print_findings
from resight.findings import Diagnosis, Finding
from resight.recipe.catalog import find_recipe
from resight.recipe.recipe import Recipe
from resight.runs.predictions import Predictions
from resight.runs.run import load_run
from run_folders import make_run

runner = CliRunner()
SMALL = ["--recipe", "digits", "--set", "model.width=4", "--batch-size", "128", "--lr", "0.02"]


def run_command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "resight", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def imported(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines())


def test_import_and_help_do_not_load_torch() -> None:
    heavy = {"torch", "numpy", "PIL", "sklearn", "matplotlib", "pydantic"}
    assert not heavy & imported("import resight")
    help_code = (
        "from typer.testing import CliRunner\nfrom resight.cli.app import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "assert CliRunner().invoke(app, ['train', '--help']).exit_code == 0"
    )
    assert not {"torch", "sklearn", "matplotlib"} & imported(help_code)


def test_recipes_does_not_load_torch() -> None:
    code = (
        "from typer.testing import CliRunner\nfrom resight.cli.app import app\n"
        "assert 'digits' in CliRunner().invoke(app, ['recipes']).output"
    )
    assert "torch" not in imported(code)


def test_the_public_names_are_all_there() -> None:
    for name in resight.__all__:
        assert getattr(resight, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        resight.trane  # noqa: B018


def test_version() -> None:
    result = runner.invoke(app, ["--version"])
    assert result.output == f"resight {resight.__version__}\n"


def test_help_names_every_verb() -> None:
    output = runner.invoke(app, ["--help"]).output
    for verb in (
        "train",
        "find-lr",
        "evaluate",
        "diagnose",
        "report",
        "compare",
        "summary",
        "recipes",
        "data",
    ):
        assert re.search(rf"^[│\s]+{verb}\s", output, re.MULTILINE), verb


def test_train_prints_a_line_an_epoch_and_the_next_command(tmp_path: Path) -> None:
    result = run_command("train", *SMALL, "--epochs", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 2
    assert any(line.startswith("report  runs/digits-1/report/index.html") for line in lines)
    assert lines[-2].startswith("next    resight predict runs/digits-1 IMAGES")
    assert max(map(len, lines[-5:])) <= 80
    assert "\x1b" not in result.stdout
    again = run_command("train", *SMALL, "--epochs", "1", "--no-report", cwd=tmp_path)
    assert "runs/digits-2" in again.stdout
    assert again.stdout.splitlines()[-1] == "next    resight report runs/digits-2"
    assert not (tmp_path / "runs" / "digits-2" / "report").exists()


def test_json_has_the_result_on_stdout_and_all_else_on_stderr(tmp_path: Path) -> None:
    result = run_command("train", *SMALL, "--epochs", "1", "--no-report", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["recipe"] == "digits"
    assert 0 <= facts["test_accuracy"] <= 1
    assert facts["wall_seconds"] > facts["train_seconds"]
    assert "epoch 1/1" in result.stderr
    evaluated = run_command("evaluate", facts["run"], "--json", cwd=tmp_path)
    assert json.loads(evaluated.stdout)["accuracy"] == facts["test_accuracy"]


def test_ctrl_c_exits_130_says_how_to_go_on_and_resumes(tmp_path: Path) -> None:
    words = ["train", *SMALL, "--epochs", "500", "--no-report"]
    command = [sys.executable, "-u", "-m", "resight", *words]
    with subprocess.Popen(
        [*command, "--out", "cut"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("epoch "):
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
        error = process.stderr.read()
    assert process.returncode == 130
    assert error.startswith("stopping; press Ctrl-C again")
    assert error.endswith("stopped (saved); resume with: resight train --resume cut --no-report\n")
    saved = load_run(tmp_path / "cut").checkpoint()
    assert saved is not None
    assert saved["step"] > 0


def test_evaluate_prints_the_interval_and_each_class(tmp_path: Path) -> None:
    result = run_command(
        "train", *SMALL, "--epochs", "3", "--no-report", "--out", "run", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    shown = run_command("evaluate", "run", cwd=tmp_path)
    assert re.search(r"test accuracy \d+\.\d+% \(95% CI: \d+\.\d+% to \d+\.\d+%", shown.stdout)
    rows = re.findall(r"^  (\d) +(\d+)/(\d+)", shown.stdout, re.MULTILINE)
    assert [name for name, _, _ in rows] == [str(i) for i in range(10)]
    run = load_run(tmp_path / "run")
    assert sum(int(right) for _, right, _ in rows) == run.predictions.correct
    assert sum(int(all_) for _, _, all_ in rows) == 359

    run.predictions.to_csv(tmp_path / "rows.csv")
    for name in ("-", "/dev/stdout"):
        piped = run_command("evaluate", "run", "--csv", name, cwd=tmp_path)
        assert piped.stdout == (tmp_path / "rows.csv").read_text()
        assert piped.stderr == shown.stdout
    both = run_command("evaluate", "run", "--csv", "-", "--json", cwd=tmp_path)
    assert (both.returncode, both.stdout) == (2, "")
    assert (
        both.stderr == "error: --json and --csv both want stdout: leave one out, or name a file\n"
    )


def test_a_printed_recipe_trains_when_passed_back(tmp_path: Path) -> None:
    printed = runner.invoke(app, ["recipes", "custom-resnet-d"]).stdout
    (tmp_path / "mine.toml").write_text(printed)
    from resight.recipe.catalog import find_recipe

    assert Recipe.load(tmp_path / "mine.toml") == find_recipe("custom-resnet-d")


def test_recipes_lists_each_with_its_command() -> None:
    output = runner.invoke(app, ["recipes"]).stdout
    for name in ("custom-resnet", "custom-resnet-ln", "resnet18-gn", "plateau", "digits"):
        assert f"\n{name}\n" in "\n" + output
        assert f"resight train --recipe {name}" in output


@pytest.mark.parametrize(
    ("arguments", "totals"),
    [
        (["custom-resnet"], ["6,573,130", "6.44", "25.07", "31.53"]),
        (["custom-resnet", "--blocks"], ["6,573,130", "6.75", "25.07", "31.84"]),
        (["custom-resnet-a"], ["6,574,090"]),
        (["resnet18", "--blocks"], ["11,173,962", "11.75", "42.63", "54.39"]),
        (["resnet18-gn", "--blocks"], ["11,173,962", "13.50", "42.63", "56.14"]),
    ],
)
def test_summary_ends_in_the_write_ups_totals(arguments: list[str], totals: list[str]) -> None:
    output = runner.invoke(app, ["summary", *arguments]).stdout
    for total in totals:
        assert total in output


def test_summary_of_a_run_knows_its_channels_and_classes(tmp_path: Path) -> None:
    run_command("train", *SMALL, "--epochs", "1", "--no-report", "--out", "run", cwd=tmp_path)
    output = runner.invoke(app, ["summary", str(tmp_path / "run"), "--json"]).stdout
    assert json.loads(output)["input_shape"] == [1, 8, 8]


def test_find_lr_suggests_and_draws(tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    result = run_command(
        "find-lr", "--recipe", "digits", "--set", "model.width=8", "--plot", str(picture)
    )
    assert result.returncode == 0, result.stderr
    assert "LR test: up to 50 steps of 57 images" in result.stdout
    for method in ("valley", "steepest", "minimum/10"):
        assert re.search(rf"^  {method} +[\d.e-]+$", result.stdout, re.MULTILINE)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_find_lr_says_to_keep_a_recipes_own_lr(tmp_path: Path) -> None:
    """Of so few images the curve shows nothing; that is no reason to set another LR."""
    images = folder(tmp_path / "mine", each=20)
    small = ["--set", "model.width=4", "--set", "data.image_size=12", "--data", str(images)]
    done = runner.invoke(app, ["find-lr", "--recipe", "fast", *small])
    assert done.exit_code == 0, done.output
    own = "the built-in recipe's own LR max is 0.17: use it"
    assert own in done.stdout
    assert done.stdout.splitlines()[-1].startswith("next: resight train --recipe fast --data ")
    other = ["--set", "schedule.lr_max=8.0"]
    mine = runner.invoke(app, ["find-lr", "--recipe", "fast", *small, *other]).stdout
    assert own in mine
    assert mine.splitlines()[-1].startswith("next: resight train --lr 0.17 --recipe fast --data ")
    assert "lr_max" not in mine
    file = tmp_path / "mine.json"
    file.write_text(
        json.dumps(find_recipe("fast").with_changes({"schedule.lr_max": 8.0}).to_dict())
    )
    told = runner.invoke(app, ["find-lr", "--recipe", str(file), *small]).stdout
    assert told.splitlines()[-1].startswith(f"next: resight train --lr 0.17 --recipe {file} ")
    to_find = ["--set", "schedule.lr_max=find"]
    found = runner.invoke(app, ["find-lr", "--recipe", "fast", *small, *to_find]).stdout
    assert own not in found


def test_find_lr_names_the_usual_lr_where_the_curve_shows_none(tmp_path: Path) -> None:
    images = folder(tmp_path / "mine", each=20)
    small = ["--set", "model.width=4", "--set", "data.image_size=12", "--data", str(images)]
    words = ["find-lr", "--recipe", "custom-resnet", *small, "--set", "schedule.lr_max=8.0"]
    done = runner.invoke(app, words)
    assert done.exit_code == 0, done.output
    *_, refused, said, following = done.stdout.splitlines()
    assert refused.startswith("the LR test")
    assert said == "use LR max 0.003, usual for this optimizer"
    assert following.startswith("next: resight train --lr 0.003 --recipe custom-resnet --data ")
    assert "schedule.lr_max" not in following


def test_data_says_what_it_understood() -> None:
    output = runner.invoke(app, ["data", "digits"]).stdout
    assert "1,797 images of 10 classes, seen by the net as 8×8 px grey" in output
    assert re.search("^all 10 classes +1,438 +359$", output, re.MULTILINE)
    assert "next: resight train --data digits --recipe digits" in output


def test_data_as_json_is_all_that_stdout_has(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", each=4)
    (photos / "train" / "cat" / "bad.png").write_bytes(b"no image")
    words = ["data", str(photos), "--json", "--page", str(tmp_path / "page.html")]
    result = runner.invoke(app, words)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["counts"] == {"train": [4, 4], "test": [4, 4]}
    assert values["findings"][0]["cases"][0]["images"] == ["train/cat/bad.png"]
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_data_says_where_a_page_can_t_be_before_it_looks(tmp_path: Path) -> None:
    result = runner.invoke(app, ["data", "nowhere", "--page", str(tmp_path / "no" / "page.html")])
    assert result.exit_code == 2
    assert "there is no folder" in result.output


def test_data_does_not_load_torch(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos")
    code = (
        "from typer.testing import CliRunner\nfrom resight.cli.app import app\n"
        f"assert CliRunner().invoke(app, ['data', {str(photos)!r}]).exit_code == 0"
    )
    assert "torch" not in imported(code)


def test_a_pipe_that_closes_early_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m resight recipes | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "custom-resnet\n"
    assert done.stderr == ""


def test_a_listener_that_leaves_does_not_end_the_training(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "resight", "train", "--recipe", "digits"]
    command += ["--epochs", "2", "--lr", "0.02", "--out", "run", "--set", "model.width=4"]
    command += ["--no-report"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 0, error
    assert error == b""
    assert load_run(tmp_path / "run").finished


def test_a_bar_that_the_encoding_lacks_is_no_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resight", "data", "digits"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert b"8?8 px" in done.stdout


def test_what_data_found_is_trained_by_the_command_that_it_prints(tmp_path: Path) -> None:
    photos = folder(tmp_path / "my photos", each=8)
    (photos / "train" / "cat" / "bad.png").write_bytes(b"no image")
    shown = runner.invoke(app, ["data", str(photos), "--image-size", "16", "--skip-bad"])
    assert shown.exit_code == 0, shown.output
    printed = shown.stdout.splitlines()[-1].removeprefix("next: resight ")
    small = ["--set", "model.width=2", "--epochs", "1", "--lr", "0.01", "--no-report"]
    narrow = ["--set", "augment.crop_pad_px=1", "--set", "augment.cutout_px=2"]
    out = ["--out", str(tmp_path / "run"), "--precision", "fp32"]
    trained = runner.invoke(app, [*shlex.split(printed), *small, *narrow, *out])
    assert trained.exit_code == 0, trained.output
    assert load_run(tmp_path / "run").recipe.data.image_size == 16


def test_an_error_is_folded_on_a_terminal_and_one_line_elsewhere(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    words = ["train", "--resume", str(tmp_path / ("a long name " * 9))]
    piped = run_command(*words)
    assert piped.stderr.count("\n") == 1
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-m", "resight", *words]
    subprocess.run(command, stderr=theirs, env=environment, check=False)
    os.close(theirs)
    lines = os.read(ours, 10_000).decode().splitlines()
    os.close(ours)
    assert len(lines) > 1
    assert " ".join(line.strip() for line in lines).split() == piped.stderr.split()
    assert max(map(len, lines)) <= 80 or str(tmp_path) in max(lines, key=len)


def test_names_of_double_width_keep_the_classes_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("日本語", "cat 🐈", "plain")
    logits = np.eye(3, dtype=np.float32)
    ids = np.array(["a", "b", "c"])
    print_classes(Predictions(logits, np.arange(3), ids, names))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("1/1")[0].split()[0] for line in lines] == ["日本語", "cat", "plain"]
    assert len({cell_len(line.split("1/1")[0]) for line in lines}) == 1


def test_a_command_that_several_findings_advise_is_printed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (
        Finding(name, "note", name, "seen", "1", "balance the classes", "resight train --set a=b")
        for name in ("first", "second")
    )
    path = make_run(tmp_path / "run", "cccd").path
    (path / "diagnosis.json").write_text(json.dumps(Diagnosis.of([one, other], []).to_dict()))
    print_findings(load_run(path))
    said = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in said if "balance" in line or "resight" in line] == [
        "balance the classes:",
        "resight train --set a=b",
        "balance the classes",
    ]
