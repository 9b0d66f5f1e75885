"""A run in a notebook: its figures, and HTML that never raises whatever state the run is in."""

from __future__ import annotations

import base64
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

import resight
from helpers import make_data
from resight.data.types import ImageData
from resight.errors import ResightError
from resight.recipe.recipe import Recipe
from resight.render import charts, tiles
from resight.render import html as notebook
from resight.runs.lr_test import LrTest
from resight.runs.predictions import Predictions
from resight.runs.run import Run, load_run
from trainings import fit, tiny

NASTY = '<script>alert("1")</script>&\udcff'
KINDS = ("curves", "schedule", "lr_test", "confusion", "per_class", "reliability", "mistakes")


@pytest.fixture(scope="module")
def data() -> ImageData:
    return make_data(n_test=40)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: ImageData) -> Run:
    """One epoch, so that there are mistakes."""
    out = tmp_path_factory.mktemp("runs") / "run"
    run = fit(tiny("digits").with_epochs(1), data, out, report=False)
    run.write("lr_test.json", lr_test().to_dict())
    return run


@pytest.fixture
def begun(tmp_path: Path) -> Run:
    run = Run(tmp_path)
    run.write("recipe.json", tiny("digits", **{"schedule.lr_max": "find"}).to_dict())
    return run


def lr_test(**changes: Any) -> LrTest:
    lrs = np.logspace(-4, 0, 50)
    losses = 2.3 - 1.5 / (1 + (lrs / 1e-2) ** -1) + 5 * lrs**2
    return LrTest(lrs, losses, changes.pop("stop", "at the end"), **changes)


def predictions(classes: int = 3, name: str = "class") -> Predictions:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 50)
    logits = rng.standard_normal((50, classes)).astype(np.float32)
    ids = np.array([f"{i}" for i in range(50)])
    return Predictions(logits, labels, ids, tuple(f"{name} {i}" for i in range(classes)))


class Elements(HTMLParser):
    """The tags of a piece of HTML, in order, each one closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.said: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def check(html: str) -> Elements:
    """Small, whole, and without anything that runs."""
    assert len(html.encode()) < 200_000
    elements = Elements(html)
    assert set(elements.tags) <= {"div", "b", "span", "table", "tr", "th", "td", "img"}
    return elements


def words(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(Text))


def test_the_figures_of_a_finished_run_show_its_own_numbers(finished: Run, data: ImageData) -> None:
    (row,) = finished.metrics
    loss, accuracy = finished.plot_curves().axes
    assert [line.get_ydata()[0] for line in loss.lines] == [row["train_loss"], row["test_loss"]]
    assert accuracy.lines[1].get_ydata()[0] == 100 * row["test_accuracy"]
    assert finished.plot_schedule().axes[0].lines[0].get_ydata().max() == pytest.approx(0.02)
    assert finished.plot_lr_test().axes[0].lines[0].get_xdata().tolist() == lr_test().lrs.tolist()
    own = finished.predictions
    counts = [int(t.get_text()) for t in finished.plot_confusion().axes[0].texts]
    assert sum(counts) == len(own)
    bars = [bar.get_width() for bar in finished.plot_per_class().axes[0].patches]
    assert bars == sorted(100 * row["accuracy"] for row in own.per_class())
    histogram = finished.plot_reliability().axes[1].patches
    assert sum(bar.get_height() for bar in histogram) == len(own)


def test_mistakes_are_shown_with_their_own_images_by_falling_loss(
    finished: Run, data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def grid(images: Any, true: Any, predicted: Any, confidence: Any, ids: Any) -> Figure:
        seen.update(images=images, true=true, predicted=predicted, ids=ids)
        return Figure()

    monkeypatch.setattr(tiles, "mistakes", grid)
    finished.plot_mistakes(2, data=data)
    own = finished.predictions
    wrong = np.flatnonzero(own.predicted != own.labels)
    rows = wrong[np.argsort(-own.losses[wrong])][:2]
    assert len(rows) == 2
    assert np.array_equal(seen["images"], data.test.images[rows])
    assert seen["ids"] == own.ids[rows].tolist()
    assert seen["true"] == [f"class {label}" for label in own.labels[rows]]
    assert seen["predicted"] == [f"class {label}" for label in own.predicted[rows]]


def test_mistakes_load_the_runs_images(
    finished: Run, data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def images(run: Run, data: Any) -> Any:
        assert run is finished
        assert data == "elsewhere"
        return SimpleNamespace(test=own)

    own = data.test
    monkeypatch.setattr(Run, "images", images)
    assert "✗" in words(finished.plot_mistakes(data="elsewhere"))


def test_a_run_without_mistakes_says_so(
    finished: Run, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = finished.predictions
    logits = np.eye(3, dtype=np.float32)[own.labels]
    monkeypatch.setattr(
        Run, "predictions", Predictions(logits, own.labels, own.ids, own.classes, "test")
    )
    with pytest.raises(ResightError, match="no test image is misclassified"):
        finished.plot_mistakes(data=data)


@pytest.mark.parametrize("limit", [0, -1, 2.5])
def test_a_limit_that_is_no_number_of_images_is_refused(finished: Run, limit: Any) -> None:
    with pytest.raises(ResightError, match=f"^limit = {limit} must be an integer"):
        finished.plot_mistakes(limit)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_there_yet_is_said_in_one_line_with_what_to_do(begun: Run, kind: str) -> None:
    with pytest.raises(ResightError) as caught:
        getattr(begun, f"plot_{kind}")()
    message = str(caught.value)
    assert message.startswith(f"{begun.path}: ")
    assert "\n" not in message
    command = "resight find-lr --recipe" if kind == "lr_test" else "resight train --resume"
    assert f"`{command} {begun.path}" in message


def test_every_kind_of_plot_of_a_run_is_tested_here() -> None:
    assert {name for name in dir(Run) if name.startswith("plot_")} == {f"plot_{k}" for k in KINDS}


def test_a_finished_run_shows_headline_numbers_findings_and_curves(finished: Run) -> None:
    html = finished._repr_html_()
    elements = check(html)
    assert f"test accuracy {finished.result['test_accuracy']:.2%}" in html
    assert f"{finished.result['parameters']:,}" in html
    for finding in finished.diagnosis.findings if finished.diagnosis else ():
        assert finding.title in " ".join(elements.said)
    assert elements.tags.count("img") == 1
    source = re.search(r'src="data:image/png;base64,([^"]+)"', html)
    assert source
    assert base64.b64decode(source[1]).startswith(b"\x89PNG")


def test_a_run_that_has_just_begun_shows_that(begun: Run) -> None:
    html = begun._repr_html_()
    assert "not finished: 0 of 3 epochs are done" in html
    assert "img" not in check(html).tags
    row = {"epoch": 1, "step": 8, "lr": 0.1, "train_loss": 1.0, "train_accuracy": 0.5}
    begun.append_metrics({**row, "train_seconds": 1.0, "images_per_second": 9.0})
    html = begun._repr_html_()
    assert "not finished: 1 of 3 epochs are done" in html
    assert "img" in check(html).tags


def test_findings_are_shown_as_text(begun: Run) -> None:
    finding = {"name": "x", "severity": "problem", "title": NASTY, "evidence": "e" * 50_000}
    finding |= {"threshold": "t", "advice": "a", "command": None}
    begun.write("diagnosis.json", {"findings": [finding] * 100, "skipped": []})
    html = begun._repr_html_()
    check(html)
    assert "problem: &lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;\\udcff: eee" in html
    begun.write("diagnosis.json", {"findings": [], "skipped": []})
    assert "no problem found" in begun._repr_html_()


@pytest.mark.parametrize(
    "name", ["recipe.json", "resolved.json", "result.json", "metrics.jsonl", "diagnosis.json"]
)
@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"[1]", b"\xff\xfe", b'{"test_accuracy": 1}']
)
def test_a_damaged_run_shows_what_there_is(
    finished: Run, tmp_path: Path, name: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "curves", lambda metrics: Figure())
    shutil.copytree(finished.path, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    check(Run(tmp_path / "run")._repr_html_())
    check(Run(tmp_path / "nothing there")._repr_html_())


def test_an_lr_test_shows_its_plot_and_suggestions() -> None:
    test = lr_test(method="minimum/2")
    html = test._repr_html_()
    assert check(html).tags.count("img") == 1
    for method, lr in test.suggestions().items():
        assert method in html
        assert f"{lr:.3g}" in html
    assert "minimum/2 (--lr find)" in html


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_refused_lr_test_shows_its_plot(steps: int) -> None:
    whole = lr_test()
    html = LrTest(whole.lrs[:steps], whole.losses[:steps], NASTY)._repr_html_()
    assert check(html).tags.count("img") == 1


def test_predictions_show_accuracy_and_classes() -> None:
    own = predictions()
    elements = check(own._repr_html_())
    low, high = own.accuracy_interval
    assert any(
        f"{own.accuracy:.2%} (95% CI: {low:.2%} to {high:.2%}, 50" in s for s in elements.said
    )
    assert elements.tags.count("tr") == 1 + 3
    assert "class 2" in elements.said


def test_predictions_of_many_classes_stay_small() -> None:
    elements = check(predictions(1000, name="n" * 400)._repr_html_())
    assert elements.tags.count("tr") == 1 + 100
    assert "the 100 weakest of 1000 classes" in elements.said


def test_predictions_without_images_show_what_there_is() -> None:
    none = Predictions(
        np.empty((0, 2), np.float32), np.empty(0, np.int64), np.empty(0, np.str_), ("a", NASTY)
    )
    check(none._repr_html_())


def test_a_recipe_shows_its_sections() -> None:
    recipe = Recipe.parse({"name": NASTY.removesuffix("\udcff")})
    html = recipe._repr_html_()
    elements = check(html)
    for section, settings in recipe.to_dict().items():
        if section != "name":
            assert section in elements.said
            assert all(f"{key} = {value}" in html for key, value in settings.items())
    assert "name = adam, " in html
    assert "<script" not in html
    assert elements.tags.count("tr") == len(recipe.to_dict()) - 1


def test_a_part_that_fails_is_one_line_and_the_others_are_there() -> None:
    def broken() -> str:
        raise KeyError(NASTY)

    html = notebook.joined(lambda: "before", broken, lambda: "after")
    check(html)
    assert html.startswith("<div>before")
    assert html.endswith("after</div>")
    assert "KeyError: " in html


def test_public_classes_have_a_repr_for_notebooks(finished: Run) -> None:
    for kind in (resight.Run, resight.LrTest, resight.Predictions, resight.Recipe):
        assert callable(kind._repr_html_)
    assert load_run(finished.path)._repr_html_() == finished._repr_html_()
