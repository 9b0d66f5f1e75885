"""Folders of seeds beside one another: means, and the differences seed by seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.cells import cell_len
from scipy.stats import ttest_rel

from resight.comparison.compare import compare
from resight.comparison.seeds import SeedsComparison
from resight.errors import ResightError
from resight.recipe.recipe import Recipe
from resight.runs.seeds import SeedsPlan, SeedsResult, write_summary
from run_folders import make_run

A = {0: 12, 1: 14, 2: 13, 3: 16}  # seed → right answers of 20
B = {0: 14, 1: 15, 2: 16, 3: 18}


def seeds(path: Path, right: dict[int, int], *, planned: int = 0, **options: object) -> Path:
    """A folder of seeds whose runs have these numbers of right answers, of 20."""
    for seed, count in right.items():
        changes = {"train.seed": seed, **options}
        run = make_run(path / f"seed-{seed}", "c" * count + "d" * (20 - count), changes=changes)
        run.write("result.json", run.result | {"lr_max": 0.01})
    asked = tuple(right) + tuple(range(len(right), planned))
    plan = SeedsPlan(Recipe(), asked, {}, skip_bad=False, report=False)
    write_summary(path, plan, SeedsResult.of(path, asked, {}))
    return path


def test_two_folders_are_paired_by_seed(tmp_path: Path) -> None:
    folders = [seeds(tmp_path / "a", A), seeds(tmp_path / "b", B, **{"train.batch_size": 64})]
    comparison = compare(folders)

    assert isinstance(comparison, SeedsComparison)
    (test,) = comparison.tests
    first, second = ([count / 20 for count in right.values()] for right in (A, B))
    expected = ttest_rel(first, second)
    assert test.seeds == (0, 1, 2, 3)
    assert test.difference == pytest.approx(-0.1)
    assert test.p == test.p_holm == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert test.interval == pytest.approx((low, high))
    assert test.better == "b"
    assert "b is better than a by 10.00 points (95% CI: " in str(comparison)
    assert "over 4 seeds, paired, p = 0.016" in " ".join(str(comparison).split())
    assert comparison.differences == {"train.batch_size": (512, 64)}
    told = json.loads(json.dumps(comparison.to_dict()))
    assert told["folders"][1]["test_accuracy"]["mean"] == pytest.approx(0.7875)


def test_what_is_shown_has_each_seed(tmp_path: Path) -> None:
    folders = [seeds(tmp_path / "a", A), seeds(tmp_path / "b", {1: 15, 0: 14})]
    comparison = compare(folders)
    rows = [" ".join(line.split()) for line in str(comparison).splitlines()]

    assert "0 60.00 70.00" in rows
    assert "3 80.00 –" in rows
    assert any(row.startswith("a 4 68.75 8.54 ") for row in rows)
    assert max(map(cell_len, str(comparison).splitlines())) <= 80
    assert "| 0 | 60.00 | 70.00 |" in comparison.to_markdown()
    assert comparison._repr_html_().startswith("<div>")


def test_a_small_difference_is_not_called_one(tmp_path: Path) -> None:
    folders = [seeds(tmp_path / "a", A), seeds(tmp_path / "b", {0: 13, 1: 13, 2: 14, 3: 15})]
    comparison = compare(folders)
    assert isinstance(comparison, SeedsComparison)
    assert comparison.tests[0].better is None
    assert "no significant difference between a and b: +0.00 points" in str(comparison)


def test_several_pairs_are_corrected(tmp_path: Path) -> None:
    folders = [seeds(tmp_path / name, right) for name, right in (("a", A), ("b", B), ("c", A))]
    comparison = compare(folders)
    assert isinstance(comparison, SeedsComparison)
    ab, ac, bc = comparison.tests
    assert ab.p_holm == pytest.approx(3 * ab.p)
    assert (ac.p, bc.p_holm) == (1.0, pytest.approx(3 * ab.p))  # the p-values of ties are equal
    assert "neither" in str(comparison)


def test_what_can_not_be_paired_is_said(tmp_path: Path) -> None:
    a, b = seeds(tmp_path / "a", A, planned=5), seeds(tmp_path / "b", {3: 15, 9: 14})
    comparison = compare([a, b])
    assert comparison.tests == ()
    assert comparison.notes == (
        "a: 4 of 5 seeds have finished",
        "a and b are not tested: 1 of their finished seeds is in both, and at least 2 are needed",
    )


def test_other_test_images_are_not_paired(tmp_path: Path) -> None:
    a, b = seeds(tmp_path / "a", A), tmp_path / "b"
    for seed in A:
        run = make_run(b / f"seed-{seed}", "cd" * 10, fingerprint="other")
        run.write("recipe.json", Recipe().with_changes({"train.seed": seed}).to_dict())
        run.write("result.json", run.result | {"lr_max": 0.01})
    plan = SeedsPlan(Recipe(), tuple(A), {}, skip_bad=False, report=False)
    write_summary(b, plan, SeedsResult.of(b, tuple(A), {}))
    comparison = compare([a, b])
    assert comparison.tests == ()
    assert comparison.notes[-1].endswith("their test images are not the same")


def test_folders_and_runs_are_not_mixed(tmp_path: Path) -> None:
    a, run = seeds(tmp_path / "a", A), make_run(tmp_path / "run", "cd")
    with pytest.raises(ResightError, match="holds the runs of several seeds, and others given"):
        compare([a, run])
    with pytest.raises(
        ResightError, match=r"only .* is given to compare: name two or more folders of seeds"
    ):
        compare([a])
    with pytest.raises(ResightError, match="is given twice"):
        compare([a, tmp_path / "." / "a"])
