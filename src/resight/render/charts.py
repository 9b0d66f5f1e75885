"""The report's charts as matplotlib figures, from plain values as in the report's facts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resight.intervals import wilson_interval
from resight.records import weakest_first
from resight.render.drawing import (
    BLUE,
    GREEN,
    GREY,
    NAME,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH_PX,
    legend_above,
    new_figure,
    place_axes,
    quiet,
    text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BARS = 40
MAX_COUNTS = 20  # classes of a confusion matrix whose cells show their count
MAX_TICKS = 25  # class names per side of a confusion matrix
MAX_MARKERS = 30  # points of a curve with a marker each


def curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and accuracy of each epoch, on train and on the evaluated split (test or val)."""
    figure = new_figure(280)
    for key, left in (("loss", 58), ("accuracy", 58 + WIDTH_PX // 2)):
        axes = place_axes(figure, left, 48, 276, 202)
        for split in ("train", "val", "test"):
            _curve(axes, metrics, split, key)
        axes.set(xlabel="epoch", ylabel="accuracy, %" if key == "accuracy" else key)
        axes.locator_params(axis="x", integer=True, nbins=6)
        legend_above(axes)
        quiet(axes)
    return figure


def lr_schedule(schedule: Mapping[str, Any]) -> Figure:
    """The learning rate over the epochs, with its highest point labelled."""
    figure = new_figure(250)
    axes = place_axes(figure, 72, 48, 600, 176)
    epochs, lrs = schedule["epoch"], schedule["lr"]
    axes.plot(epochs, lrs, color=BLUE, linewidth=1.8)
    if lrs:
        peak = int(np.argmax(lrs))
        late = epochs[peak] > (epochs[0] + epochs[-1]) / 2
        axes.plot([epochs[peak]], [lrs[peak]], "o", color=VERMILION, markersize=6)
        axes.annotate(
            f"{lrs[peak]:.3g} at epoch {epochs[peak]:.3g}",
            (epochs[peak], lrs[peak]),
            xytext=(-6 if late else 6, 5),
            textcoords="offset points",
            ha="right" if late else "left",
            va="bottom",
            fontsize=9,
        )
        axes.set_ylim(0, max(lrs) * 1.2 or 1)
    axes.set(xlabel="epoch", ylabel="learning rate")
    axes.set_title(text(schedule["shape"], 60), loc="left", fontsize=10, **NAME)
    quiet(axes)
    return figure


def lr_test(test: Mapping[str, Any]) -> Figure:
    """The loss at each LR, raw and smoothed, and the suggested LRs or why there are none."""
    refused = text(test["refused"] or "", 400)
    figure = new_figure(420 if refused else 380)
    axes = place_axes(figure, 62, 48, 618, 286)
    lrs, losses, smoothed = (np.asarray(test[key]) for key in ("lrs", "losses", "smoothed"))
    axes.plot(lrs, losses, color=GREY, linewidth=0.9, alpha=0.6, label="loss per step")
    axes.plot(lrs, smoothed, color=BLUE, linewidth=2, label="smoothed")
    bottom, top = _fall(smoothed) if len(smoothed) else (0.0, 1.0)
    styles = ((VERMILION, "o", "--"), (GREEN, "s", "-."), (PURPLE, "^", ":"), (ORANGE, "D", "-"))
    suggestions: Mapping[str, float] = test["suggestions"]
    for (method, lr), (color, marker, dash) in zip(suggestions.items(), styles, strict=False):
        axes.plot(
            [lr, lr, lr],
            [bottom, float(np.interp(math.log(lr), np.log(lrs), smoothed)), top],
            color=color,
            marker=marker,
            markevery=[1],  # on the curve
            markersize=7,
            linestyle=dash,
            linewidth=1.2,
            label=f"{method}: {lr:.3g}" + (" (--lr find)" if method == test["method"] else ""),
        )
    for name, key in (("used", "used"), ("set in the recipe", "recipe_lr")):
        own = test.get(key)
        if own is not None and not any(math.isclose(own, lr) for lr in suggestions.values()):
            axes.axvline(own, color=GREY, linewidth=3, alpha=0.5, label=f"{name}: {own:.3g}")
    axes.set(xscale="log", ylim=(bottom, top))
    axes.set(xlabel="learning rate (log scale)", ylabel="training loss")
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda lr, _: f"{lr:g}")  # 10⁻³ as mathtext takes 0.1 s
    axes.set_title(refused, y=1.09, fontsize=9, wrap=True, **NAME)
    legend_above(axes, columns=3)
    quiet(axes)
    return figure


def per_class(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """One bar per class: its accuracy, the weakest class on top.

    With Wilson's 95 % interval as a line. Of more than 40 classes only the 40 weakest.
    """
    ranked = weakest_first(rows)
    shown = ranked[:MAX_BARS]
    height = 22 * len(shown)
    cut = len(shown) < len(rows)
    figure = new_figure(height + (80 if cut else 56))
    axes = place_axes(figure, 170, 48, 340, height)
    places = range(len(shown))
    axes.barh(places, [100 * (row["accuracy"] or 0) for row in shown], height=0.72, color=SKY)
    some = [place for place in places if shown[place]["support"]]
    bounds = [wilson_interval(shown[i]["correct"], shown[i]["support"]) for i in some]
    lows, highs = ([100 * bound[side] for bound in bounds] for side in (0, 1))
    axes.hlines(some, lows, highs, color="black", linewidth=1.2)
    for place, row in enumerate(shown):
        note = "no images"
        if row["support"]:
            note = f"{row['accuracy']:6.1%}  {row['correct']:,} of {row['support']:,}"
        beside = axes.get_yaxis_transform()
        axes.text(1.02, place, note, transform=beside, va="center", fontsize=9, family="monospace")
    axes.set_yticks(places, [text(row["class"], 22) for row in shown], **NAME)
    axes.set(ylim=(len(shown) - 0.5, -0.5), xlim=(0, 100))
    axes.set_xlabel("accuracy on the class's images, % (line: 95 % interval)")
    if cut:
        axes.set_title(f"the {len(shown)} weakest of {len(rows)} classes", loc="left", fontsize=10)
    quiet(axes, vertical_grid=True)
    axes.tick_params(axis="y", length=0)
    return figure


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """K×K counts, rows true, columns predicted; with the numbers for up to 20 classes.

    Correct ones (diagonal, blue) are shaded by their share of the row, mistakes (red) by theirs
    relative to the largest such share: compared with the diagonal they would all look white.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    k = len(classes)
    side = min(520, max(52 * k, 156))
    figure = new_figure(side + 145)
    axes = place_axes(figure, 160, 130, side, side)
    axes.imshow(_confusion_colors(counts), interpolation="nearest", aspect="auto")
    step = math.ceil(k / MAX_TICKS)
    names = [text(name, 18) for name in classes[::step]]
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_yticks(range(0, k, step), names, fontsize=9, **NAME)
    axes.set_xticks(range(0, k, step), names, fontsize=9, **slanted, **NAME)
    if k <= MAX_COUNTS:
        dark = np.eye(k, dtype=bool) & (counts > 0.9 * counts.sum(1, keepdims=True))
        for row, column in np.argwhere(counts):
            axes.text(
                column,
                row,
                f"{counts[row, column]}",
                ha="center",
                va="center",
                fontsize=9 if k <= 10 else 7,
                color="white" if dark[row, column] else "black",
            )
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0 if step == 1 else 3)
    axes.spines[:].set_color("#d9d9d9")
    return figure


def reliability(calibration: Mapping[str, Any]) -> Figure:
    """How often predictions are correct at each confidence, and how many there are."""
    figure = new_figure(470)
    upper = place_axes(figure, 72, 192, 600, 246)
    lower = place_axes(figure, 72, 48, 600, 120)
    bins = [b for b in calibration["bins"] if b["count"]]
    centre = [50 * (b["low"] + b["high"]) for b in bins]
    width = [94 * (b["high"] - b["low"]) for b in bins]
    right = [100 * b["accuracy"] for b in bins]
    gap = [100 * (b["confidence"] - b["accuracy"]) for b in bins]
    correct = [b["correct"] for b in bins]
    wrong = [b["count"] - b["correct"] for b in bins]
    hatched: dict[str, Any] = {
        "width": width,
        "edgecolor": VERMILION,
        "hatch": "////",
        "linewidth": 1,
    }
    upper.bar(centre, right, width=width, color=SKY, label="correct")
    upper.bar(centre, gap, bottom=right, fill=False, label="gap to the mean confidence", **hatched)
    upper.plot([0, 100], [0, 100], "--", color="black", linewidth=1, label="calibrated")
    upper.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy, %")
    error, temperature = f"ECE {calibration['ece']:.4f}", calibration.get("temperature")
    if temperature:
        error += f", {temperature['ece_after']:.4f} at temperature {temperature['value']:.3g}"
    upper.text(1, 1.04, error, transform=upper.transAxes, ha="right", fontsize=9)
    upper.tick_params(labelbottom=False)
    lower.bar(centre, correct, width=width, color=SKY, label="correct")
    lower.bar(centre, wrong, bottom=correct, color="white", label="wrong", **hatched)
    lower.set(xlim=(0, 100), xlabel="confidence of the predicted class, %", ylabel="images")
    legend_above(upper)
    lower.legend(loc="upper left", fontsize=9, frameon=False)
    for axes in (upper, lower):
        quiet(axes)
    return figure


def _fall(smoothed: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Limits that show the fall: the rise at the end can be a hundred times larger."""
    low, start = float(smoothed.min()), float(smoothed[0])
    high = min(float(smoothed.max()), start + max(start - low, 0.1 * abs(start)))
    margin = 0.1 * (high - low) + 1e-9
    return low - margin, high + margin


def _curve(axes: Axes, metrics: Sequence[Mapping[str, Any]], split: str, key: str) -> None:
    """One split's values, if there are any, with the last one in the legend."""
    rows = [row for row in metrics if row.get(f"{split}_{key}") is not None]
    if not rows:
        return
    values = [row[f"{split}_{key}"] for row in rows]
    in_percent = key == "accuracy"
    train = split == "train"
    axes.plot(
        [row["epoch"] for row in rows],
        [100 * value for value in values] if in_percent else values,
        label=f"{split} {values[-1]:.2%}" if in_percent else f"{split} {values[-1]:.4f}",
        color=BLUE if train else VERMILION,
        marker="o" if train else "s",
        linestyle="-" if train else "--",
        markersize=4 if len(rows) <= MAX_MARKERS else 0,
        linewidth=1.6,
    )


def _confusion_colors(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """float64 (K, K, 3) in [0, 1]."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    diagonal = np.eye(len(counts), dtype=bool)
    worst = max(float(shares[~diagonal].max(initial=0.0)), 1e-9)
    blue, red = np.array([0.0, 0.447, 0.698]), np.array([0.91, 0.45, 0.1])
    ink = np.where(diagonal[..., None], 1 - blue, 1 - red)
    strength = np.where(diagonal, shares, shares / worst)
    colors: npt.NDArray[np.float64] = 1 - ink * strength[..., None]
    return colors
