"""Sheets of images, decoded again: the same pixels where they should be."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from helpers import noise
from resight.render import sprites
from resight.render.sprites import WEBP_SIDE_PX, cells, sheet

Images = npt.NDArray[np.uint8]


def file_of(made: dict[str, Any] | None) -> tuple[bytes, str]:
    assert made is not None
    head, _, content = made["src"].partition(",")
    return base64.b64decode(content), head


@given(
    n=st.integers(1, 30),
    px=st.integers(1, 12),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0),
)
def test_images_come_back_as_they_were(n: int, px: int, channels: int, seed: int) -> None:
    images = noise(n, px, channels, seed % 2**32)
    made = sheet(images)
    assert made is not None
    assert made | {"src": ""} == {
        "src": "",
        "cell_px": px,
        "columns": math.ceil(math.sqrt(n)),
        "count": n,
    }
    assert np.array_equal(cells(made), np.broadcast_to(images, (n, px, px, 3)))


def test_an_image_lies_where_the_page_looks_for_it() -> None:
    images = noise(7, 5)
    content, head = file_of(sheet(images))
    assert head == "data:image/webp;base64"
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    assert pixels.shape == (15, 15, 3)
    for i in range(7):
        row, column = i // 3, i % 3
        cell = pixels[5 * row : 5 * row + 5, 5 * column : 5 * column + 5]
        assert np.array_equal(cell, images[i])
    assert not pixels[10:, 5:].any()  # what is left of the last row


def test_no_images_give_no_sheet() -> None:
    assert sheet(noise(0, 8)) is None


def test_large_images_are_reduced_as_pillow_reduces_them() -> None:
    images = noise(2, 100)
    made = sheet(images)
    assert made is not None
    assert made["cell_px"] == 64
    side = (64, 64)
    wanted = [Image.fromarray(i).resize(side, Image.Resampling.LANCZOS) for i in images]
    assert np.array_equal(cells(made), np.stack([np.asarray(i) for i in wanted]))
    grey = sheet(images[..., :1], cell_px_limit=10)
    assert grey is not None
    assert cells(grey).shape == (2, 10, 10, 3)


@pytest.mark.parametrize("count", [256 * 255, 300_000])
def test_a_sheet_keeps_within_webps_side(count: int) -> None:
    images = np.broadcast_to(np.uint8(0), (count, 64, 64, 1))
    columns = math.ceil(math.sqrt(count))
    seen = {}

    def laid_out(cells: Images, columns: int) -> Image.Image:
        seen.update(px=cells.shape[1], columns=columns)
        return Image.new("L", (1, 1))

    def reduced(images: Images, px: int) -> Images:
        return images[:, :px, :px]

    with pytest.MonkeyPatch.context() as patch:  # the sheet itself would take a gigabyte
        patch.setattr(sprites, "_laid_out", laid_out)
        patch.setattr(sprites, "_reduced", reduced)
        made = sheet(images)
    assert made is not None
    assert made["cell_px"] == seen["px"]
    assert made["columns"] == seen["columns"] == columns
    assert seen["px"] * columns <= WEBP_SIDE_PX < (seen["px"] + 1) * columns


def test_the_quality_falls_until_the_file_fits() -> None:
    images = noise(16, 32)
    lossless, _ = file_of(sheet(images))
    sizes = [len(lossless)]
    for quality in sprites.QUALITIES:
        made = sheet(images, max_bytes=sizes[-1] - 1)
        content, head = file_of(made)
        assert head == "data:image/webp;base64"
        assert len(content) < sizes[-1], quality
        sizes.append(len(content))
    exact, _ = file_of(sheet(images, max_bytes=len(lossless)))
    assert exact == lossless
    smallest, _ = file_of(sheet(images, max_bytes=1))  # cannot be: the lowest quality there is
    assert len(smallest) == sizes[-1]


@pytest.mark.parametrize("channels", [1, 3])
def test_without_webp_there_are_png_and_jpeg(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    images = noise(5, 9, channels)
    made = sheet(images)
    content, head = file_of(made)
    assert head == "data:image/png;base64"
    assert made is not None
    assert np.array_equal(cells(made), np.broadcast_to(images, (5, 9, 9, 3)))
    small, head = file_of(sheet(images, max_bytes=len(content) - 1))
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(small)).size == (27, 18)
