"""The page of a comparison: what it is told, and what its reader sees in Chromium."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from browsing import Opener
from resight.characters import printable
from resight.comparison.compare import compare
from resight.comparison.page import page_facts, write_page
from resight.comparison.result import Comparison
from resight.data.types import ImageData, Split
from resight.errors import ResightError
from resight.render.sprites import cells
from resight.runs.run import Run
from run_folders import CLASSES, HOSTILE, make_run

if TYPE_CHECKING:
    from playwright.sync_api import Page

# the true class is "c" everywhere; only a correct: 4, only b: 18, both wrong, differently: 3
A = "c" * 30 + "c" * 4 + "d" * 18 + "d" * 8
B = "c" * 30 + "d" * 4 + "c" * 18 + "d" * 5 + "o" * 3


def images_of(run: Run, *, side: int = 8, seed: int = 0) -> ImageData:
    """Noise under the ids of the run's test images, the same for each image of a seed."""
    said = run.predictions
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (len(said), side, side, 3)).astype(np.uint8)
    split = Split(pixels, said.labels, said.ids)
    facts = run.resolved["data"]
    mean = np.full(3, 0.5)
    return ImageData("pets", "memory", CLASSES, split, split, mean, mean, facts["fingerprint"])


@pytest.fixture
def pair(tmp_path: Path) -> Comparison:
    changes = {"train.seed": 1, "name": HOSTILE}
    return compare([make_run(tmp_path / "a", A), make_run(tmp_path / "b", B, changes=changes)])


def test_the_images_of_each_kind_of_disagreement_are_told(pair: Comparison) -> None:
    (group,) = page_facts(pair, images_of)["disagreements"]
    (told,) = group["pairs"]
    only_a, only_b, neither = ([group["id"][i] for i in kind] for kind in told["shown"])

    assert (told["a"], told["b"], told["totals"]) == (0, 1, [4, 18, 3])
    assert sorted(only_a) == [f"test/{i}.png" for i in range(30, 34)]
    assert sorted(only_b) == [f"test/{i}.png" for i in range(34, 52)]
    assert sorted(neither) == [f"test/{i}.png" for i in range(57, 60)]
    assert group["true"] == [0] * 25
    assert group["classes"] == list(CLASSES)


def test_the_most_different_losses_come_first(pair: Comparison) -> None:
    (group,) = page_facts(pair, images_of)["disagreements"]
    losses = [said["loss"] for said in group["said"]]

    for kind in group["pairs"][0]["shown"]:
        apart = [abs(losses[0][i] - losses[1][i]) for i in kind]
        assert apart == sorted(apart, reverse=True)
    assert group["id"][group["pairs"][0]["shown"][1][0]] == "test/51.png"  # where both are surest


def test_what_each_run_said_of_an_image_is_told(pair: Comparison) -> None:
    (group,) = page_facts(pair, images_of)["disagreements"]
    i = group["id"].index("test/57.png")
    a, b = group["said"]
    said = pair.runs[0].predictions

    assert (a["run"], b["run"]) == (0, 1)
    assert (a["predicted"][i], b["predicted"][i]) == (1, 2)
    assert a["confidence"][i] == pytest.approx(said.confidence[57], abs=1e-4)
    assert a["loss"][i] == pytest.approx(said.losses[57], abs=1e-4)


def test_the_pictures_are_those_of_the_images_named(pair: Comparison) -> None:
    data = images_of(pair.runs[0])
    (group,) = page_facts(pair, lambda run: data)["disagreements"]
    rows = [int(name.removeprefix("test/").removesuffix(".png")) for name in group["id"]]

    assert group["reason"] is None
    np.testing.assert_array_equal(cells(group["sheet"]), data.test.images[rows])


def test_images_that_cannot_be_loaded_are_named_with_the_reason(pair: Comparison) -> None:
    def gone(run: Run) -> ImageData:
        raise ResightError("the disk is gone")

    others = replace(images_of(pair.runs[0]), fingerprint="other")
    # unless given, the runs' own: those were never made
    for images, reason in [
        (gone, "disk is gone"),
        (None, "/data/pets"),
        (others, "not the ones it was trained on"),
    ]:
        (group,) = page_facts(pair, images)["disagreements"]
        assert group["sheet"] is None
        assert reason in group["reason"]
        assert len(group["id"]) == 25


def test_an_image_that_the_data_lacks_is_named(pair: Comparison) -> None:
    data = images_of(pair.runs[0])
    few = Split(data.test.images[:57], data.test.labels[:57], data.test.ids[:57])
    (group,) = page_facts(pair, lambda run: replace(data, test=few))["disagreements"]

    assert group["sheet"] is None
    assert "has no image 'test/57.png'" in group["reason"]


def test_each_set_of_images_is_a_group_of_its_own(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, said) for name, said in [("a", "cd"), ("b", "dc")]]
    runs += [
        make_run(tmp_path / name, said, fingerprint="other")
        for name, said in [("c", "d"), ("d", "c")]
    ]
    groups = page_facts(compare(runs), images_of)["disagreements"]

    assert [[(p["a"], p["b"]) for p in group["pairs"]] for group in groups] == [[(0, 1)], [(2, 3)]]
    assert [len(group["id"]) for group in groups] == [2, 1]
    assert [group["sheet"]["count"] for group in groups] == [2, 1]


def test_an_image_that_one_of_three_runs_had_not_is_left_open(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", "cd", ids=["1", "2"]),
        make_run(tmp_path / "b", "dc", ids=["1", "2"]),
        make_run(tmp_path / "c", "c", ids=["2"]),
    ]
    (group,) = page_facts(compare(runs), lambda run: images_of(runs[0]))["disagreements"]

    assert group["id"] == ["1", "2"]
    assert group["said"][2]["predicted"] == [None, 0]


def test_a_page_of_many_noisy_images_stays_below_5_mb(tmp_path: Path) -> None:
    n = 1500
    ids = [f"{i:04d}{'x' * 200}" for i in range(n)]
    third = n // 3
    said = ["c" * third + "d" * 2 * third, "d" * third + "c" * third + "o" * third, "o" * n]
    runs = [make_run(tmp_path / str(i), text, ids=ids) for i, text in enumerate(said)]
    comparison = compare(runs)
    data = images_of(runs[0], side=32)
    (group,) = page_facts(comparison, lambda run: data)["disagreements"]
    page = write_page(comparison, tmp_path / "page.html", images=lambda run: data)

    assert group["pairs"][0]["totals"] == [third, third, third]
    assert [len(kind) for kind in group["pairs"][0]["shown"]] == [133, 133, 133]
    assert len(group["id"]) == group["sheet"]["count"] <= 1200
    assert page.stat().st_size < 5_000_000


def test_a_page_that_cannot_be_written_is_refused(pair: Comparison, tmp_path: Path) -> None:
    with pytest.raises(ResightError, match="no folder"):
        write_page(pair, tmp_path / "not" / "there.html")
    with pytest.raises(ResightError, match="can't write"):
        write_page(pair, tmp_path, images=images_of)


@pytest.fixture
def opened(opened: Opener, tmp_path: Path) -> Opener:
    """Opens the page of a comparison."""

    def open_(comparison: Comparison, images: Any = images_of, **context: Any) -> Page:
        file = write_page(comparison, tmp_path / "compare.html", images=images)
        return opened(file, **context)

    return open_


def cards(page: Page) -> list[str]:
    """The text of each image's card."""
    return [" ".join(text.split()) for text in page.locator("#thumbs > li").all_inner_texts()]


def test_the_tables_curves_and_the_verdict_are_shown(opened: Opener, pair: Comparison) -> None:
    page = opened(pair)
    text = page.locator("main").inner_text()

    assert page.title() == "a · b · Resight"
    verdict = "b is better than a by 23.33 points (95% CI: 8.15 to 37.01), p = 0.00434"
    assert page.locator("#verdict").inner_text() == verdict
    assert page.locator("#accuracy tbody tr").all_inner_texts()[0].split() == [
        "a",
        *["56.67", "(44.10", "to", "68.43)"],
        "50.00",
        "75.00",
        "(2)",
        "87.50",
    ]
    assert "best test: the epoch is chosen on the test images themselves" in text
    charts = page.locator("#curves .chart-column")
    titles = ["Test accuracy", "Test loss", "Training accuracy", "Training loss"]
    assert charts.locator("h3").all_inner_texts() == titles
    for i in range(4):
        lines = charts.nth(i).locator("svg.chart path.chart-line")
        looks = [
            (line.evaluate("one => one.style.stroke"), line.get_attribute("stroke-dasharray"))
            for line in lines.all()
        ]
        assert looks == [("var(--series-1)", ""), ("var(--series-2)", "7 4")]
        assert charts.nth(i).locator(".legend li").all_inner_texts() == ["a", "b"]
    links = page.locator("#contents a").all_inner_texts()
    assert links[0] == "Accuracy in %"
    assert links[-1] == "Where two runs disagree"


def test_validation_and_test_curves_say_which_they_are(opened: Opener, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", "c"), make_run(tmp_path / "v", "c", split="val")]
    page = opened(compare(runs))
    chart = page.locator("#curves .chart-column").first

    assert chart.locator("h3").inner_text() == "Validation or test accuracy"
    assert chart.locator(".legend li").all_inner_texts() == ["a (test)", "v (validation)"]


def test_the_disagreements_can_be_filtered(opened: Opener, pair: Comparison) -> None:
    page = opened(pair)
    kinds = page.locator("#kind option").all_inner_texts()
    last = page.locator("#kind option").last.get_attribute("value")

    assert kinds == [
        "all (25)",
        "correct only in A (4)",
        "correct only in B (18)",
        "wrong in both, with different answers (3)",
    ]
    assert len(cards(page)) == 25
    assert page.locator("#disagreements-count").inner_text() == "Showing 25 of 25 images."
    page.select_option("#kind", last)
    assert cards(page)[0] == "cat ✗ wrong: A dog 100 % ✗ wrong: B owl 100 % test/57.png"
    assert len(cards(page)) == 3
    page.select_option("#kind", "0")
    assert all("✓ correct: A cat" in card and "✗ wrong: B dog" in card for card in cards(page))


def test_the_picture_shown_is_the_one_of_the_id(opened: Opener, pair: Comparison) -> None:
    data = images_of(pair.runs[0])
    page = opened(pair, lambda run: data)
    canvas = page.locator("#thumbs > li", has_text="test/40.png").locator("canvas")
    empty = "document.createElement('canvas'), {width: 8, height: 8}"
    blank = page.evaluate(f"Object.assign({empty}).toDataURL()")
    drawn = canvas.evaluate(
        """async (canvas, blank) => {
          while (canvas.toDataURL() === blank) await new Promise(requestAnimationFrame);
          return canvas.toDataURL();
        }""",
        blank,
    )
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn.partition(",")[2]))))

    np.testing.assert_array_equal(pixels[..., :3], data.test.images[40])


def test_another_pair_of_runs_can_be_chosen(opened: Opener, tmp_path: Path) -> None:
    said = {"one": "ccdd", "two": "cdcd", "three": "cddo"}
    page = opened(compare([make_run(tmp_path / name, text) for name, text in said.items()]))

    assert page.locator("#pair option").all_inner_texts() == [
        "A one, B two",
        "A one, B three",
        "A two, B three",
    ]
    assert page.locator("#verdict").inner_text() == ""
    assert len(cards(page)) == 2
    page.select_option("#pair", "1")
    assert [card.split()[-1] for card in cards(page)] == ["test/1.png", "test/3.png"]
    assert "A is one, B is three" in page.locator("#disagreements-about").inner_text()


def test_more_images_are_shown_when_asked_for(opened: Opener, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", "c" * 200), make_run(tmp_path / "b", "d" * 200)]
    page = opened(compare(runs))
    more = page.locator("#more")

    assert page.locator("#thumbs > li").count() == 60
    assert more.inner_text() == "Show 60 more of 73"
    said = "Showing 60 of 133 images; of 200 the page keeps those on which the losses differ most."
    assert page.locator("#disagreements-count").inner_text() == said
    more.focus()
    page.keyboard.press("Enter")
    assert page.locator("#thumbs > li").count() == 120
    assert page.evaluate("document.activeElement === document.querySelectorAll('#thumbs > li')[60]")
    more.click()
    assert page.locator("#thumbs > li").count() == 133
    assert more.is_hidden()


def test_without_images_their_names_are_shown_and_why(opened: Opener, pair: Comparison) -> None:
    page = opened(pair, None)

    assert "The images can't be shown: no data '/data/pets'" in page.locator("main").inner_text()
    assert page.locator("#thumbs canvas").count() == 0
    assert len(cards(page)) == 25


def test_runs_that_agree_on_all_images_show_none(opened: Opener, tmp_path: Path) -> None:
    page = opened(compare([make_run(tmp_path / name, "cd") for name in "ab"]))

    assert page.locator("#disagreements-count").inner_text() == "No such images."


def test_without_tests_there_is_no_viewer_and_the_reason_stands_on_top(
    opened: Opener, tmp_path: Path
) -> None:
    runs = [make_run(tmp_path / "a", "cd"), make_run(tmp_path / "b", accuracies=(), finished=False)]
    page = opened(compare(runs))

    assert page.locator("#disagreements").is_hidden()
    assert "b is not finished (0 of 3 epochs done)" in page.locator("#verdict").inner_text()
    assert page.locator("#curves .chart-column").count() == 4


def test_names_of_any_kind_are_shown_as_text(opened: Opener, tmp_path: Path) -> None:
    odd = HOSTILE.replace("/", "∕").replace("\n", " ")
    classes = (f"c{HOSTILE}", "d" * 300, "__proto__o")
    ids = [f"{HOSTILE}\udc80", "constructor", "x" * 300]
    a = make_run(tmp_path / odd, "cdc", classes=("c", "d", "_"), ids=ids)
    runs = [a, make_run(tmp_path / "b", "dcc", classes=("c", "d", "_"), ids=ids)]
    for run in runs:
        said = run.predictions
        named = type(said)(said.logits, said.labels, said.ids, classes)
        run.write_files({"predictions.npz": named.to_bytes()})
        facts = run.resolved
        facts["data"] |= {"classes": list(classes)}
        run.write("resolved.json", facts)
    page = opened(compare(runs), lambda run: images_of(runs[0]))

    assert page.locator("img").count() == 0
    assert page.locator("#accuracy tbody th").first.inner_text().strip() == printable(odd)
    assert "<img src=x onerror=alert(1)>" in page.locator("#thumbs").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") == 1200


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_both_themes(opened: Opener, tmp_path: Path, scheme: Any) -> None:
    names = [f"{'a-very-long-name-' * 12}{i}" for i in range(3)]
    runs = [
        make_run(tmp_path / name, said, changes={"data.source": f"/{'deep/' * 40}{i}"})
        for i, (name, said) in enumerate(zip(names, ["cdcd", "ccdd", "dddd"], strict=True))
    ]
    page = opened(compare(runs), viewport={"width": 360, "height": 740}, color_scheme=scheme)

    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator("html").get_attribute("data-theme") == scheme
    tall = page.locator("#training tbody tr").first.bounding_box()
    assert tall is not None
    assert tall["height"] < 250  # a long name is not broken letter by letter
