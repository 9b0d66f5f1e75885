"""The report's figures: what they say, that any name can be in them, and the same bytes again."""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support

from helpers import noise
from reading import drawn, words
from resight.intervals import wilson_interval
from resight.render import charts, tiles
from resight.render.drawing import WIDTH_PX, png
from resight.runs.predictions import Predictions

ODD = ["$x^2", "a\nb\tc", "🐱", "\udcff", "W" * 200, "", "_*`|", "猫" * 50, "$\\frac{$", "<b>"]


def measured(k: int = 3, n: int = 200, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.standard_normal((n, k)).astype(np.float32)
    logits[np.arange(n), labels] += 1.5
    ids = np.array([f"test/{i:05d}.png" for i in range(n)])
    return Predictions(logits, labels, ids, tuple(f"class {i}" for i in range(k)))


def epochs(count: int, split: str = "test") -> list[dict[str, Any]]:
    return [
        {
            "epoch": e,
            "lr": 0.1,
            "train_loss": 2 / e,
            "train_accuracy": 1 - 0.9 / e,
            f"{split}_loss": 2.1 / e,
            f"{split}_accuracy": 1 - 0.95 / e,
        }
        for e in range(1, count + 1)
    ]


def bins(count: int = 4) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {"low": i / count, "high": (i + 1) / count, "count": 0, "correct": 0} for i in range(count)
    ]
    rows[0] |= {"confidence": None, "accuracy": None}
    for i in range(1, count):
        rows[i] |= {"count": 10 * i, "correct": 5 * i, "accuracy": 0.5, "confidence": i / count}
    return {"bins": rows, "ece": 0.125, "temperature": None}


def lr_values(**changes: Any) -> dict[str, Any]:
    lrs = np.logspace(-5, 0, 60)
    losses = 2.3 - 1.5 / (1 + (lrs / 1e-2) ** -1) + 500 * lrs**3
    values = {"lrs": lrs, "losses": losses, "smoothed": losses, "suggestions": {"valley": 0.004}}
    return {**values, "refused": None, "method": "valley", "used": None, **changes}


def every_figure(names: list[str]) -> list[Figure]:
    """One of each kind, with `names` wherever a name can be."""
    k = len(names)
    predictions = measured(k)
    rows = [{**row, "class": n} for row, n in zip(predictions.per_class(), names, strict=True)]
    maps = noise(k)[..., 0]
    return [
        charts.curves(epochs(3)),
        charts.lr_schedule({"epoch": [0.0, 1.0, 2.0], "lr": [0.1, 1.0, 0.0], "shape": names[0]}),
        charts.lr_test(lr_values()),
        charts.per_class(rows),
        charts.confusion(predictions.confusion.tolist(), names),
        charts.reliability(bins()),
        tiles.samples(noise(k), names),
        tiles.mistakes(noise(k), names, names, [1.0] * k, names, maps, maps),
    ]


def test_curves_hold_each_epoch_of_train_and_of_what_was_measured() -> None:
    for split in ("test", "val"):
        figure = charts.curves(epochs(4, split))
        loss, accuracy = figure.axes
        for axes, key, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
            for line, name in zip(axes.lines, ("train", split), strict=True):
                values = [scale * row[f"{name}_{key}"] for row in epochs(4, split)]
                assert np.allclose(line.get_xydata(), np.c_[range(1, 5), values])
        labels = [line.get_label() for line in accuracy.lines]
        assert labels == ["train 77.50%", f"{split} 76.25%"]
        assert len({line.get_linestyle() for line in loss.lines}) == 2  # told apart without colour
        assert len({line.get_marker() for line in loss.lines}) == 2


def test_a_curve_leaves_out_what_was_not_measured() -> None:
    rows = epochs(3)
    rows[1]["test_loss"] = None
    del rows[2]["test_accuracy"]
    loss, accuracy = charts.curves(rows).axes
    assert loss.lines[1].get_xdata().tolist() == [1, 3]
    assert accuracy.lines[1].get_xdata().tolist() == [1, 2]


def test_one_epoch_can_be_seen() -> None:
    dark = (drawn(charts.curves(epochs(1))) == (0, 114, 178)).all(2)
    assert dark[:230, 60:340].sum() > 10  # the marker; one point makes no line


def test_the_schedule_names_its_highest_point() -> None:
    schedule = {"epoch": [0.0, 0.5, 1.0], "lr": [0.01, 0.0352, 0.0], "shape": "one-cycle"}
    said = words(charts.lr_schedule(schedule))
    assert "0.0352 at epoch 0.5" in said
    assert "one-cycle" in said


def test_the_lr_test_shows_the_fall_not_the_rise_at_the_end() -> None:
    values = lr_values()
    axes = charts.lr_test(values).axes[0]
    low, high = axes.get_ylim()
    assert low < values["losses"].min()
    assert values["losses"][0] < high < 5 < values["losses"].max()


def test_the_lr_test_marks_a_suggestion_on_the_curve_and_the_lr_that_was_used() -> None:
    axes = charts.lr_test(lr_values(used=0.05)).axes[0]
    _, _, valley, used = axes.lines
    (place,) = valley.get_markevery()
    lr, height = valley.get_xydata()[place]
    assert lr == 0.004
    assert height == pytest.approx(2.3 - 1.5 / (1 + 2.5), abs=0.01)
    assert valley.get_label() == "valley: 0.004 (--lr find)"
    assert used.get_xdata()[0] == 0.05
    assert len(charts.lr_test(lr_values(used=0.004)).axes[0].lines) == 3  # it is a suggestion


def test_the_bars_are_the_classes_accuracies_the_weakest_on_top() -> None:
    predictions = measured(4)
    truth, predicted = predictions.labels, predictions.predicted
    recall = precision_recall_fscore_support(truth, predicted, zero_division=0)[1]
    figure = charts.per_class(predictions.per_class())
    axes = figure.axes[0]
    order = np.argsort(recall, kind="stable")
    assert np.allclose([bar.get_width() for bar in axes.patches], 100 * recall[order])
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [f"class {i}" for i in order]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first is on top
    weakest = predictions.per_class()[order[0]]
    note = f"{weakest['accuracy']:6.1%}  {weakest['correct']} of {weakest['support']}"
    assert note in words(figure)
    segments = axes.collections[0].get_segments()
    interval = wilson_interval(weakest["correct"], weakest["support"])
    assert np.allclose(segments[0][:, 0], 100 * np.array(interval))


def test_a_class_without_images_has_no_bar_and_says_so() -> None:
    rows = measured(2).per_class()
    rows.append({"class": "empty", "support": 0, "correct": 0, "accuracy": None})
    figure = charts.per_class(rows)
    assert figure.axes[0].patches[2].get_width() == 0
    assert "no images" in words(figure)


def test_of_many_classes_the_weakest_are_drawn() -> None:
    rows = [
        {"class": f"c{i}", "support": 10, "correct": i % 10, "accuracy": i % 10 / 10}
        for i in range(1000)
    ]
    figure = charts.per_class(rows)
    assert len(figure.axes[0].patches) == 40
    assert max(bar.get_width() for bar in figure.axes[0].patches) == 0
    assert "the 40 weakest of 1000 classes" in words(figure)


def test_the_confusion_matrix_holds_its_counts_in_their_cells() -> None:
    counts = [[90, 0, 10], [5, 60, 35], [1, 2, 97]]
    axes = charts.confusion(counts, ["a", "b", "c"]).axes[0]
    written = {
        (int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in axes.texts
    }
    wanted = {(r, c): str(n) for r, row in enumerate(counts) for c, n in enumerate(row) if n}
    assert written == wanted
    colors = np.asarray(axes.images[0].get_array())
    assert (colors[[0, 1, 2], [0, 1, 2]] @ (-1, 0, 1) > 0.1).all()  # right: blue
    assert colors[1, 2] @ (1, 0, -1) > 0.5  # the worst mistake: red
    assert np.array_equal(colors[0, 1], [1, 1, 1])  # never: white


@pytest.mark.parametrize("k", [2, 20, 21, 100, 1000])
def test_a_confusion_matrix_of_any_size_is_drawn(k: int) -> None:
    predictions = measured(k, 300)
    figure = charts.confusion(predictions.confusion.tolist(), predictions.classes)
    numbers = [int(t.get_text()) for t in figure.axes[0].texts]
    assert sum(numbers) == (300 if k <= 20 else 0)
    assert len(figure.axes[0].get_xticklabels()) <= 25
    assert drawn(figure).shape[1] == WIDTH_PX


def test_bars_of_reliability_and_their_gap_and_the_histogram_below() -> None:
    figure = charts.reliability(bins())
    upper, lower = figure.axes
    bars = [(b.get_y(), b.get_height()) for b in upper.patches]
    assert np.allclose(bars[:3], [(0, 50)] * 3)  # the empty bin has none
    assert np.allclose(bars[3:], [(50, -25), (50, 0), (50, 25)])
    assert [b.get_height() for b in lower.patches] == [5, 10, 15, 5, 10, 15]
    assert "ECE 0.1250" in words(figure)
    fitted = {**bins(), "temperature": {"value": 1.3, "split": "val", "ece_after": 0.012}}
    assert "ECE 0.1250, 0.0120 at temperature 1.3" in words(charts.reliability(fitted))


def test_figures_are_the_same_bytes_each_time_and_say_nothing_of_when_or_where() -> None:
    for first, second in zip(every_figure(["a", "b"]), every_figure(["a", "b"]), strict=True):
        content = png(first)
        assert content == png(second)
        assert Image.open(io.BytesIO(content)).info.keys() <= {"dpi"}


def test_figures_touch_no_global_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # its import would raise
    settings = [key for key in matplotlib.rcParams if key != "backend"]  # to read it loads pyplot
    before = [matplotlib.rcParams[key] for key in settings]
    for figure in every_figure(["a", "b"]):
        assert drawn(figure).shape[1] == WIDTH_PX
    assert [matplotlib.rcParams[key] for key in settings] == before


def test_odd_names_are_drawn_without_a_warning_and_stay_inside() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i, figure in enumerate(every_figure(ODD)):
            FigureCanvasAgg(figure)
            box = figure.get_tightbbox()
            width, height = figure.get_size_inches()
            assert box.x0 > -0.02, i
            assert box.y0 > -0.02, i
            assert box.x1 < width + 0.02, i
            assert box.y1 < height + 0.02, i
