"""Runs beside one another: their numbers, what differs, and whether one is better."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from scipy.stats import binomtest

from resight.comparison.compare import compare
from resight.comparison.rows import short_names
from resight.errors import ResightError
from resight.intervals import difference_interval
from resight.recipe.recipe import Recipe
from resight.runs.run import Run
from run_folders import HOSTILE, make_run


def answers(right: int, wrong: int, letter: str = "d") -> str:
    return "c" * right + letter * wrong


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Run, Run]:
    """Of 60 images A alone is right on 4, B alone on 18, both on 30; both are wrong on 8, of which
    they take 3 for different classes."""
    a = "c" * 30 + "c" * 4 + "d" * 18 + "d" * 8
    b = "c" * 30 + "d" * 4 + "c" * 18 + "d" * 5 + "o" * 3
    return make_run(tmp_path / "a", a), make_run(tmp_path / "b", b, changes={"train.seed": 1})


def test_a_pair_is_counted_image_by_image(pair: tuple[Run, Run]) -> None:
    (test,) = compare(pair).tests

    assert (test.a, test.b, test.images) == ("a", "b", 60)
    assert (test.only_a, test.only_b, test.both_wrong) == (4, 18, 3)
    assert test.p == test.p_holm == pytest.approx(binomtest(4, 22).pvalue)
    assert test.difference == pytest.approx(-14 / 60)
    assert test.interval == difference_interval(4, 18, 60)
    assert test.better == "b"
    assert str(test) == "b is better than a by 23.33 points (95% CI: 8.15 to 37.01), p = 0.00434"


def test_swapping_two_runs_flips_the_difference_and_not_the_verdict(pair: tuple[Run, Run]) -> None:
    (there,), (back,) = compare(pair).tests, compare(pair[::-1]).tests

    assert (back.only_a, back.only_b, back.both_wrong) == (18, 4, 3)
    assert back.difference == -there.difference
    assert back.p == there.p
    assert str(back) == str(there)


def test_a_small_difference_is_not_called_one(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", answers(13, 7)), make_run(tmp_path / "b", answers(15, 5))]
    (test,) = compare(runs).tests

    assert test.better is None
    assert str(test).startswith(
        "no significant difference between a and b: -10.00 points (95% CI: -"
    )
    assert str(test).endswith("p = 0.5")


def test_test_and_interval_say_the_same(tmp_path: Path) -> None:
    # Bonett and Price's interval alone would be +0.28 to +29.13 here
    runs = [make_run(tmp_path / "a", answers(30, 2)), make_run(tmp_path / "b", answers(25, 7))]
    (test,) = compare(runs).tests

    assert str(test) == (
        "no significant difference between a and b: +15.62 points (95% CI: +0.00 to +29.13), "
        "p = 0.0625"
    )


def test_runs_that_are_right_on_the_same_images_are_said_to_be(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, said) for name, said in {"a": "ccddo", "b": "ccdod"}.items()]
    (test,) = compare(runs).tests

    assert test.p == 1
    assert not test.identical
    assert str(test) == "a and b are right on exactly the same images"


def test_runs_that_predict_the_same_to_the_bit_are_said_to_and_no_test_is_shown(
    tmp_path: Path,
) -> None:
    runs = [make_run(tmp_path / name, "ccddo") for name in "ab"]
    comparison = compare(runs)
    (test,) = comparison.tests

    assert test.identical
    assert comparison.to_dict()["tests"][0]["identical"]
    said = "a and b predict the same for all 5 images, to the last bit"
    assert str(test) == said
    assert str(comparison).endswith(f"Which is better\n- {said}")


def test_several_pairs_are_corrected_and_the_corrected_p_decides(tmp_path: Path) -> None:
    said = {"a": answers(40, 7), "b": answers(47, 0), "c": answers(41, 6)}
    comparison = compare([make_run(tmp_path / name, text) for name, text in said.items()])
    ps = [binomtest(0, n).pvalue if n else 1.0 for n in (7, 1, 6)]

    assert [(test.a, test.b) for test in comparison.tests] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [test.p for test in comparison.tests] == pytest.approx(ps)
    assert [test.p_holm for test in comparison.tests] == pytest.approx([3 * ps[0], 1, 2 * ps[2]])
    assert ps[2] < 0.05  # alone it would be told
    assert [test.better for test in comparison.tests] == ["b", None, None]
    rows = [" ".join(line.split()) for line in str(comparison).splitlines()]
    assert "a b 0 : 7 -14.89 -25.60 to -2.97 0.0156 0.0469 b" in rows
    assert any(row.startswith("b c 6 : 0 +12.77 +") and row.endswith("neither") for row in rows)
    assert "points (95% CI of this pair alone: +1" in str(comparison.tests[2])
    assert str(comparison.tests[2]).endswith(
        "p = 0.0312, corrected for the number of pairs = 0.0625"
    )


def test_images_are_matched_by_their_ids(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", "cdcd", truth="cccd", ids=["1", "2", "3", "4"])
    b = make_run(tmp_path / "b", "dccc", truth="dccc", ids=["4", "3", "1", "2"])
    (test,) = compare([a, b]).tests

    assert (test.images, test.only_a, test.only_b) == (4, 0, 1)


def test_only_the_images_that_both_have_are_tested_and_it_is_said(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", "cdc", ids=["1", "2", "3"])
    b = make_run(tmp_path / "b", "dcdd", ids=["2", "3", "4", "5"])
    comparison = compare([a, b])

    assert [test.images for test in comparison.tests] == [2]
    note = "a and b share 2 of their 3 and 4 test images and are tested on these"
    assert comparison.notes == (note,)


def test_other_labels_for_the_same_images_are_not_tested(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", "cd", truth="cd"), make_run(tmp_path / "b", "cd", truth="cc")
    comparison = compare([a, b])

    assert comparison.tests == ()
    assert comparison.notes == ("a and b are not tested: the same images have different labels",)


def test_runs_on_other_data_are_shown_but_not_tested(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", "cd"), make_run(tmp_path / "b", "ccc", fingerprint="other")
    c = make_run(tmp_path / "c", "dd")
    comparison = compare([a, b, c])

    assert [(test.a, test.b) for test in comparison.tests] == [("a", "c")]
    (note,) = comparison.notes
    assert note.startswith("the accuracies are not all on the same images")
    assert note.endswith("a, c on pets (2 test images); b on pets (3 test images)")
    assert [row.test_images for row in comparison.numbers] == [2, 3, 2]


def test_the_same_photos_at_two_sizes_are_compared(tmp_path: Path) -> None:
    """Their pixels differ, so the fingerprints do; ids and labels say that they are the same."""
    small = make_run(tmp_path / "a", answers(12, 3), fingerprint="at 32 px")
    changes = {"data.image_size": 64}
    large = make_run(tmp_path / "b", answers(15, 0), fingerprint="at 64 px", changes=changes)
    comparison = compare([small, large])

    assert [(test.images, test.only_a, test.only_b) for test in comparison.tests] == [(15, 0, 3)]
    assert comparison.notes == ()


def test_a_folder_that_has_changed_is_compared_by_the_images_that_stayed(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", "cdc", ids=["1", "2", "3"])
    b = make_run(tmp_path / "b", "cc", ids=["2", "4"])
    facts = b.resolved
    facts["data"] |= {"fingerprint": "with new photos"}
    b.write("resolved.json", facts)

    (test,) = compare([a, b]).tests
    assert test.images == 1


def test_other_classes_are_other_data(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", "cd")
    b = make_run(tmp_path / "b", "cd", classes=("cat", "dog", "ostrich"))

    assert compare([a, b]).tests == ()


def test_the_numbers_are_those_of_the_run_folder(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", answers(3, 1))
    b = make_run(tmp_path / "b", "cd", split="val", changes={"schedule.lr_max": 0.02}, found=False)
    one, two = compare([a, b]).to_dict()["runs"]

    assert one["recipe"] == "custom-resnet"
    assert (one["lr_max"], one["lr_found"], two["lr_found"]) == (0.0125, True, False)
    assert one["test_accuracy"] == 0.75
    assert one["test_accuracy_95"] == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert (one["test_last"], one["test_best"], one["test_best_epoch"]) == (0.5, 0.75, 2)
    assert (one["val_last"], one["val_best"], one["val_best_epoch"]) == (None, None, None)
    assert (two["test_last"], two["test_best"], two["test_best_epoch"]) == (None, None, None)
    assert (two["val_last"], two["val_best"], two["val_best_epoch"]) == (0.5, 0.75, 2)
    assert (one["train_accuracy"], one["train_seconds"], one["wall_seconds"]) == (
        0.875,
        4.5,
        1234.5,
    )
    assert (one["parameters"], one["device"], one["seed"]) == (6573130, "a processor", 0)


def test_of_equally_accurate_epochs_that_with_the_lowest_loss_is_the_best(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / n, "c", accuracies=(0.2, 0.6, 0.6)) for n in "ab"]  # losses fall

    assert compare(runs).numbers[0].test_best_epoch == 3


def test_the_terminals_tables_say_it_all(pair: tuple[Run, Run]) -> None:
    text = str(compare(pair))
    rows = [line.split() for line in text.splitlines()]

    first = "2 runs · custom-resnet · pets · 6,573,130 parameters · a processor, bf16"
    assert text.splitlines()[0] == first
    assert ["a", "56.67", "(44.10", "to", "68.43)", "50.00", "75.00", "(2)", "87.50"] in rows
    assert ["b", "80.00", "(68.22", "to", "88.17)", "50.00", "75.00", "(2)", "87.50"] in rows
    assert ["a", "3", "0.0125", "found", "4.5", "1,234", "0"] in rows
    assert ["train.seed", "0", "1"] in rows
    assert "best test: the epoch is chosen on the test images themselves" in text
    assert "of 60 images, 4 are classified correctly only by a and 18 only by b" in text
    assert "not their recipes: another seed gives another accuracy" in " ".join(text.split())


def test_where_classes_are_unequal_balanced_accuracy_stands_beside_accuracy(
    pair: tuple[Run, Run],
) -> None:
    assert "balanced" not in str(compare(pair))
    for run, balanced in zip(pair, (0.3333, 0.7436), strict=True):
        own = {"guess_accuracy": 0.8125, "balanced_accuracy": balanced, "test_classes": 3}
        run.write("result.json", run.result | own)
    text = str(compare([Run(run.path) for run in pair]))
    rows = [line.split() for line in text.splitlines()]
    assert ["a", "56.67", "(44.10", "to", "68.43)", "33.33", "81.25"] in [row[:7] for row in rows]
    assert ["b", "80.00", "(68.22", "to", "88.17)", "74.36", "81.25"] in [row[:7] for row in rows]
    assert "more accuracy may be less use" in " ".join(text.split())
    for run in pair:  # equal ones
        run.write("result.json", run.result | {"guess_accuracy": 0.34})
    assert "guessing" not in str(compare([Run(run.path) for run in pair]))


def test_columns_that_no_run_has_are_left_out(tmp_path: Path, pair: tuple[Run, Run]) -> None:
    assert "best val" not in str(compare(pair))
    watched = make_run(tmp_path / "v", "c" * 60, split="val")
    assert "best val" in str(compare([*pair, watched]))


def test_an_unfinished_run_is_shown_as_far_as_it_is(tmp_path: Path, pair: tuple[Run, Run]) -> None:
    runs = [
        pair[0],
        make_run(tmp_path / "half", accuracies=(0.25,), finished=False),
        make_run(tmp_path / "none", accuracies=(), finished=False),
    ]
    comparison = compare(runs)
    _, half, none = comparison.numbers
    text = str(comparison)

    assert (half.epochs_done, half.test_last, half.train_seconds) == (1, 0.25, 1.5)
    assert (half.test_accuracy, half.wall_seconds, half.parameters) == (None, None, None)
    assert (none.epochs_done, none.test_last, none.train_seconds) == (0, None, None)
    assert comparison.tests == ()
    assert "half is not finished (1 of 3 epochs done), so it has no result yet" in text
    assert "none is not finished (0 of 3 epochs done)" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["half", "–", "25.00", "25.00", "(1)", "87.50"] in rows
    assert ["none", "–", "–", "–", "–"] in rows
    assert "1 of 3" in text


def test_a_training_that_has_not_begun_is_shown(tmp_path: Path, pair: tuple[Run, Run]) -> None:
    new = Run(tmp_path / "new")
    new.path.mkdir()
    new.write("recipe.json", Recipe().to_dict())
    comparison = compare([pair[0], new])

    assert comparison.numbers[1].lr_max is None
    assert comparison.numbers[1].data is None
    assert "new is not finished (0 of 24 epochs done)" in str(comparison)


def test_why_a_training_stopped_by_itself_is_said(tmp_path: Path, pair: tuple[Run, Run]) -> None:
    broken = make_run(tmp_path / "broken", finished=False)
    broken.write("failure.json", {"message": "the loss became nan at step 7"})
    notes = compare([pair[0], broken]).notes

    assert notes == (
        "broken stopped by itself (3 of 3 epochs done): the loss became nan at step 7",
    )


def test_predictions_that_are_torn_are_said_and_the_rest_is_shown(pair: tuple[Run, Run]) -> None:
    (pair[1].path / "predictions.npz").write_bytes(b"PK torn")
    comparison = compare(pair)

    assert comparison.tests == ()
    assert comparison.notes[0].startswith("b is not tested: ")
    assert comparison.numbers[1].test_accuracy == 0.8


def test_seconds_of_other_devices_are_warned_of(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, "c", device=f"device {name}") for name in "ab"]

    assert any("different devices or precisions" in note for note in compare(runs).notes)


def test_what_differs_is_listed_for_each_run(tmp_path: Path) -> None:
    sgd = {"optimizer.name": "sgd", "augment.cutout_px": 0, "schedule.lr_max": 0.1}
    runs = [
        make_run(tmp_path / "a", "c"),
        make_run(tmp_path / "b", "c", changes=sgd),
        make_run(tmp_path / "c", "c", changes={"optimizer.beta1": 0.8}),
    ]
    differences = compare(runs).differences

    assert differences == {
        "augment.cutout_px": (8, 0, 8),
        "optimizer.name": ("adam", "sgd", "adam"),
        "optimizer.beta1": (0.9, None, 0.8),
        "optimizer.beta2": (0.999, None, 0.999),
        "optimizer.eps": (1e-8, None, 1e-8),
        "optimizer.bias_lr_scale": (None, 1.0, None),
        "optimizer.momentum": (None, 0.9, None),
        "optimizer.nesterov": (None, False, None),
        "schedule.lr_max": ("find", 0.1, "find"),
    }
    rows = [line.split() for line in str(compare(runs)).splitlines()]
    assert ["optimizer.momentum", "unset", "0.9", "unset"] in rows
    assert ["optimizer.nesterov", "unset", "false", "unset"] in rows


def test_where_the_images_lay_is_a_difference(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, "c") for name in "ab"]
    resolved = runs[1].resolved
    resolved["data"]["source"] = "/elsewhere/pets"
    runs[1].write("resolved.json", resolved)
    comparison = compare(runs)

    assert comparison.differences == {"data.source": ("/data/pets", "/elsewhere/pets")}
    assert len(comparison.tests) == 1  # the fingerprint says that they are the same images


def test_equal_recipes_are_said_to_be(tmp_path: Path) -> None:
    a, b, seed = (
        make_run(tmp_path / name, "c", changes={"train.seed": s})
        for name, s in [("a", 0), ("b", 0), ("c", 5)]
    )

    assert "- identical, including the seed" in str(compare([a, b]))
    assert "- identical except for the seed" in str(compare([a, seed]))
    assert "- equal" not in str(compare([a, make_run(tmp_path / "d", "c", changes={"name": "d"})]))


def test_more_runs_than_fit_beside_one_another_are_listed_by_value(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"r{i}", "c", changes={"augment.cutout_px": i % 2}) for i in range(7)
    ]

    assert "- augment.cutout_px: 0 in r0, r2, r4, r6 · 1 in r1, r3, r5" in str(compare(runs))


def test_of_more_than_ten_runs_no_pair_is_tested(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"r{i}", "c") for i in range(11)]

    assert len(compare(runs[:10]).tests) == 45
    comparison = compare(runs)
    assert comparison.tests == ()
    assert comparison.notes == ("no pairs are tested: there are more than 10 runs",)


def test_long_names_are_lettered_and_nothing_is_wider_than_a_hundred_columns(
    tmp_path: Path,
) -> None:
    names = [f"{'a-very-long-name-' * 9}{i}" for i in range(3)] + ["猫" * 60]
    runs = [
        make_run(
            tmp_path / name,
            "cd",
            split="val" if i % 2 else "test",
            changes={"name": f"{i} {'long ' * 30}"},
            device=f"{'device' * 20}{i}",
        )
        for i, name in enumerate(names)
    ]
    lines = str(compare(runs)).splitlines()

    assert max(map(cell_len, lines)) <= 80
    assert [line[:3] for line in lines if re.match(r"[A-D]  ", line)][:4] == [
        f"{letter}  " for letter in "ABCD"
    ]
    assert "".join(lines).replace(" ", "").count(names[2]) >= 1


def test_names_are_as_short_as_tells_them_apart() -> None:
    places = [Path("/x/one/run"), Path("/x/two/run"), Path("/x/two/other"), Path("/y/x/two/run")]

    assert short_names(places) == ["one/run", "/x/two/run", "other", "y/x/two/run"]


def test_names_and_classes_of_any_kind_are_shown_as_text(tmp_path: Path) -> None:
    odd = HOSTILE.replace("/", "∕")
    classes = (f"c{HOSTILE}", "d" * 300, "owl")
    changes = {"name": HOSTILE}
    a = make_run(tmp_path / odd, "cdo", classes=classes, changes=changes)
    b = make_run(tmp_path / "no text: \udc80", "ccc", classes=classes)
    comparison = compare([a, b])

    text, markdown, page = str(comparison), comparison.to_markdown(), comparison._repr_html_()
    for said in (text, markdown, page):
        assert "\x1b" not in said
        said.encode()
    assert "<img" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert not re.search(r"(?<!\\)<img", markdown)
    assert not re.search(r"(?<!\\)`", markdown)
    tables = [block.splitlines() for block in markdown.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 3
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1


def test_markdown_has_the_same_tables(pair: tuple[Run, Run]) -> None:
    markdown = compare(pair).to_markdown()

    assert markdown.startswith("2 runs · custom-resnet · pets")
    assert (
        "| run | test (95% CI) | last test | best test (epoch) | train |\n| --- | ---: |"
        in markdown
    )
    assert "\n| a | 56.67 (44.10 to 68.43) | 50.00 | 75.00 (2) | 87.50 |\n" in markdown
    assert "\n| train.seed | 0 | 1 |\n" in markdown
    assert (
        "\n- b is better than a by 23.33 points (95% CI: 8.15 to 37.01), p = 0.00434\n" in markdown
    )


def test_the_values_are_plain_json(tmp_path: Path, pair: tuple[Run, Run]) -> None:
    unfinished = make_run(tmp_path / "c", finished=False)
    values = compare([*pair, unfinished]).to_dict()

    assert json.loads(json.dumps(values, allow_nan=False))["differences"] == {
        "train.seed": [0, 1, 0]
    }
    (test,) = values["tests"]
    assert test["better"] == "b"
    assert test["interval"] == list(difference_interval(4, 18, 60))
    assert test["said"].startswith("b is better than a")


def test_fewer_than_two_runs_or_one_twice_is_refused(pair: tuple[Run, Run]) -> None:
    here = pair[0].path
    with pytest.raises(ResightError, match="name two or more"):
        compare([])
    with pytest.raises(ResightError, match=rf"only {re.escape(str(here))} is given"):
        compare([here])
    with pytest.raises(ResightError, match="name two or more"):
        compare(str(here))
    with pytest.raises(ResightError, match="given twice"):
        compare([here, pair[1], str(here / ".." / here.name)])
    with pytest.raises(ResightError, match="is not a folder"):
        compare([here, here / "not-there"])


def test_the_wall_time_of_a_resumed_run_is_explained(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, "ccddo") for name in "ab"]
    assert "since it was resumed" not in str(compare(runs))
    runs[1].write("result.json", runs[1].result | {"resumed_from_step": 7})
    said = " ".join(str(compare(runs)).split())
    assert "wall: for a resumed run, only the time since it was resumed; training: all" in said


def test_several_identical_runs_are_called_so(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, "ccddo") for name in "abc"]
    rows = [line.split() for line in str(compare(runs)).splitlines()]
    assert ["a", "b", "0", ":", "0", "–", "–", "–", "–", "identical"] in rows
