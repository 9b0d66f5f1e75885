"""Grids of images as matplotlib figures: augmented samples, and mistakes with their maps.

A grid is one array on one axes, enlarged by an integer factor without blur: one axes per image
would take a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from resight.render.drawing import NAME, WIDTH_PX, can_draw, new_figure, place_axes, text
from resight.render.overlays import overlaid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL_PX = 112  # about the side of an image that is shown
GAP_PX = 6
LINE_PX = 15
SIDE_PX = 22  # of the column that names the rows
LETTER_PX = 6.2  # a small letter's mean width at 8 points

LANCZOS = Image.Resampling.LANCZOS

Images = npt.NDArray[np.uint8]


def samples(
    images: Images, labels: Sequence[str], mixed: Sequence[tuple[float, str]] | None = None
) -> Figure:
    """A grid of uint8 (n, H, W, C) images, n ≥ 1, each with its label.

    mixed: the share of each label, and the label of the rest.
    """
    if mixed is None:
        return _grid([enlarged(images)], [[("", label, "")] for label in labels])
    lines = [
        [("", label, f" {share:.0%}"), ("", other, f" {1 - share:.0%}")]
        for label, (share, other) in zip(labels, mixed, strict=True)
    ]
    return _grid([enlarged(images)], lines)


def mistakes(
    images: Images,
    true: Sequence[str],
    predicted: Sequence[str],
    confidence: Sequence[float],
    ids: Sequence[str],
    maps_predicted: Images | None = None,
    maps_true: Images | None = None,
) -> Figure:
    """A grid of uint8 (n, H, W, C) images, n ≥ 1, each with its true (✓) and predicted (✗) class.

    maps: uint8 (n, h, w), the evidence for the predicted and for the true class: shown over copies
    of the image below it. A map of zeros is labelled "no evidence".
    """
    big = enlarged(images)
    right, wrong = ("✓", "✗") if can_draw("✓✗") else ("is", "not")
    layers, names = [big], ["image"]
    empty: list[npt.NDArray[np.bool_]] = [np.zeros(len(big), dtype=np.bool_)]
    for maps, name in ((maps_predicted, f"for {wrong}"), (maps_true, f"for {right}")):
        if maps is not None:
            layers.append(overlaid(big, maps))
            names.append(name)
            empty.append(np.asarray(maps.reshape(len(maps), -1).max(1) == 0))
    lines = [
        [
            (f"{right} ", true[i], ""),
            (f"{wrong} ", predicted[i], f" {confidence[i]:.0%}"),
            ("", ids[i], ""),
        ]
        for i in range(len(big))
    ]
    return _grid(layers, lines, names, empty)


def enlarged(images: Images) -> Images:
    """uint8 (n, px, px, 3): each pixel of (n, H, W, C) as a square, px the nearest to 112.

    Larger images are reduced. Grey ones (C = 1) get three equal channels.
    """
    size = images.shape[1]
    if images.shape[3] == 1:
        images = images.repeat(3, axis=3)
    if size < 1.5 * CELL_PX:
        factor = max(1, round(CELL_PX / size))
        return images.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.stack([resized(image, CELL_PX) for image in images])


def resized(image: Images, side: int) -> Images:
    """uint8 (side, side, 3) of a square image (H, W, C)."""
    rgb = image.repeat(3, axis=2) if image.shape[2] == 1 else image
    return np.asarray(Image.fromarray(rgb).resize((side, side), LANCZOS))


def _grid(
    layers: Sequence[Images],
    lines: Sequence[Sequence[tuple[str, str, str]]],
    names: Sequence[str] = ("",),
    empty: Sequence[npt.NDArray[np.bool_]] = (),
) -> Figure:
    """Image i of every layer one below the other, under them its lines (before, name, after: only
    the name is shortened)."""
    n, px = len(layers[0]), layers[0].shape[1]
    left = SIDE_PX if len(layers) > 1 else 0
    columns = max(1, (WIDTH_PX - left + GAP_PX) // (px + GAP_PX))
    block = len(layers) * (px + 2) + len(lines[0]) * LINE_PX + GAP_PX + 4
    height = -(-n // columns) * block
    canvas = np.full((height, WIDTH_PX, 3), 255, dtype=np.uint8)
    figure = new_figure(height)
    axes = place_axes(figure, 0, 0, WIDTH_PX, height)
    for i in range(n):
        top, x = i // columns * block, left + i % columns * (px + GAP_PX)
        for row, layer in enumerate(layers):
            y = top + row * (px + 2)
            canvas[y : y + px, x : x + px] = layer[i]
            if left and i % columns == 0:
                axes.text(
                    left / 2 - 2, y + px / 2, names[row], fontsize=9, rotation=90, ha="center",
                    va="center", color="black",
                )  # fmt: skip
            if empty and empty[row][i]:
                axes.text(
                    x + px / 2, y + px / 2, "no evidence", fontsize=9, ha="center", va="center",
                    color="white",
                )  # fmt: skip
        label = []
        for before, name, after in lines[i]:
            room = int(px / LETTER_PX) - len(before + after) - bool(after)
            label.append(before + text(name, room) + after)
        axes.text(
            x, top + len(layers) * (px + 2) + 2, "\n".join(label), fontsize=8, va="top",
            color="black", linespacing=1.25, **NAME,
        )  # fmt: skip
    axes.imshow(canvas, interpolation="nearest", extent=(0, WIDTH_PX, height, 0), aspect="auto")
    axes.set_axis_off()
    return figure
