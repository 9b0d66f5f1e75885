"""A map over a photo, where the net saw only a part of it."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import colormaps

from helpers import noise
from resight.data.decode import square_of
from resight.render.overlays import OPACITY, WASHED_OUT, overlaid_photo


@pytest.mark.parametrize(
    ("size", "how", "square"),
    [
        ((30, 20), "crop", (5, 0, 25, 20)),
        ((20, 31), "crop", (0, 5, 20, 25)),
        ((30, 20), "pad", (0, -5, 30, 25)),
        ((30, 20), "squash", (0, 0, 30, 20)),
    ],
)
def test_the_square_of_a_photo(size: tuple[int, int], how: str, square: tuple[int, ...]) -> None:
    assert square_of(*size, how) == square  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["crop", "pad", "squash"])
def test_a_map_lies_over_the_square_alone(how: str) -> None:
    photo = noise(1, px=30)[0, :20]
    left, top, right, bottom = square_of(30, 20, how)  # type: ignore[arg-type]
    cells = np.full((4, 4), 100 / 255, dtype=np.float32)
    shown = overlaid_photo(photo, cells, (left, top, right, bottom)).astype(int)
    inside = np.zeros((20, 30), dtype=bool)
    inside[max(top, 0) : bottom, max(left, 0) : right] = True
    color = 255 * np.array(colormaps["inferno"](100 / 255)[:3])
    blended = (1 - OPACITY) * photo + OPACITY * color
    pale = (1 - WASHED_OUT) * photo.mean(2, keepdims=True) + WASHED_OUT * 255
    assert np.abs(shown - blended)[inside].max() <= 0.51
    assert inside.all() or np.abs(shown - pale)[~inside].max() <= 0.51


def test_a_map_is_at_its_place_in_a_cropped_photo() -> None:
    cells = np.zeros((2, 2), dtype=np.float32)
    cells[0, 1] = 1  # top right of the square
    shown = overlaid_photo(np.zeros((20, 40, 3), np.uint8), cells, (10, 0, 30, 20))
    brightest = np.unravel_index(shown[:, 10:30].astype(int).sum(2).argmax(), (20, 20))
    assert brightest[0] < 10 <= brightest[1]
