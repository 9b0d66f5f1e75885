"""Images and their maps, enlarged pixel by pixel and laid out beside their names."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from helpers import noise
from reading import drawn, words
from resight.render import overlays, tiles


def test_images_are_enlarged_pixel_by_pixel_and_land_so_in_the_picture() -> None:
    given_images = noise(7, px=32)
    picture = drawn(tiles.samples(given_images, ["a"] * 7))
    big = given_images.repeat(4, 1).repeat(4, 2)
    assert np.array_equal(tiles.enlarged(given_images), big)
    below = picture.shape[0] // 2  # two rows of five and two
    for i, image in enumerate(big):
        top, left = i // 5 * below, i % 5 * 134
        assert np.array_equal(picture[top : top + 128, left : left + 128], image), i


def test_a_mixed_image_has_both_names_with_their_shares() -> None:
    figure = tiles.samples(noise(2), ["cat", "dog"], [(0.7, "owl"), (1.0, "cat")])
    assert {"cat 70%\nowl 30%", "dog 100%\ncat 0%"} <= set(words(figure))


def test_enlarged_once_more_on_a_fine_screen_they_stay_sharp() -> None:
    given_images = noise(1, px=32)
    buffer = io.BytesIO()
    tiles.samples(given_images, ["a"]).savefig(buffer, format="png", dpi=200)
    picture = np.asarray(Image.open(buffer).convert("RGB"))
    assert np.array_equal(picture[:256, :256], given_images[0].repeat(8, 0).repeat(8, 1))


@pytest.mark.parametrize(("px", "wanted"), [(8, 112), (28, 112), (32, 128), (64, 128), (100, 100)])
def test_small_images_grow_by_whole_factors(px: int, wanted: int) -> None:
    assert tiles.enlarged(noise(1, px)).shape == (1, wanted, wanted, 3)


def test_large_images_are_reduced_and_grey_ones_get_three_channels() -> None:
    assert tiles.enlarged(noise(2, 300)).shape == (2, 112, 112, 3)
    grey = tiles.enlarged(noise(2, 8, 1))
    assert grey.shape == (2, 112, 112, 3)
    assert (grey == grey[..., :1]).all()
    assert tiles.enlarged(noise(2, 300, 1)).shape == (2, 112, 112, 3)


def test_a_map_is_blended_over_its_image() -> None:
    big = tiles.enlarged(noise(3))
    levels = np.array([0, 100, 255], dtype=np.uint8)
    maps = np.broadcast_to(levels[:, None, None], (3, 4, 4))
    over = overlays.overlaid(big, np.ascontiguousarray(maps))
    for i, level in enumerate(levels.tolist()):
        color = 255 * np.array(colormaps["inferno"](level)[:3])
        assert np.allclose(
            over[i], (1 - overlays.OPACITY) * big[i] + overlays.OPACITY * color, atol=0.51
        )


def test_a_map_is_smooth_between_its_cells() -> None:
    step = np.zeros((1, 1, 2), dtype=np.uint8)
    step[..., 1] = 255
    over = overlays.overlaid(np.zeros((1, 120, 120, 3), dtype=np.uint8), step)
    brightness = over[0, 60].astype(int).sum(1)
    assert (np.diff(brightness) >= 0).all()
    assert len(set(brightness.tolist())) > 40


def test_a_mistake_shows_image_and_both_maps_and_says_where_there_is_no_evidence() -> None:
    some = noise(2, px=32)
    maps = np.full((2, 4, 4), 200, dtype=np.uint8)
    empty = maps.copy()
    empty[1] = 0
    figure = tiles.mistakes(some, ["cat"] * 2, ["dog"] * 2, [0.98, 0.5], ["x.png"] * 2, maps, empty)
    said = words(figure)
    assert said.count("no evidence") == 1
    assert {"image", "for ✗", "for ✓"} <= set(said)
    assert "✓ cat\n✗ dog 98%\nx.png" in said
    picture, big = drawn(figure), tiles.enlarged(some)
    for row, layer in enumerate((big, overlays.overlaid(big, maps), overlays.overlaid(big, empty))):
        y = row * 130
        assert np.array_equal(picture[y : y + 128, 22 : 22 + 128], layer[0]), row


def test_without_maps_a_mistake_is_one_image() -> None:
    figure = tiles.mistakes(noise(1), ["cat"], ["dog"], [0.98], ["x.png"])
    assert words(figure) == ["✓ cat\n✗ dog 98%\nx.png"]


def test_a_font_without_the_marks_gets_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "can_draw", lambda characters: False)
    figure = tiles.mistakes(noise(1), ["cat"], ["dog"], [0.98], ["x.png"])
    assert words(figure) == ["is cat\nnot dog 98%\nx.png"]
