"""Headers say what decoding finds, without decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from helpers import pictures
from resight.data.decode import decode_file
from resight.data.headers import Header, read_header, read_headers

RGB = Image.fromarray(pictures(1, size=24)[0]).resize((24, 16))


def saved(path: Path, image: Image.Image = RGB, **options: Any) -> Header | None:
    image.save(path, **options)
    return read_header(str(path))


def exif(orientation: int) -> Image.Exif:
    values = Image.Exif()
    values[0x112] = orientation
    return values


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.jpg", "JPEG"), ("a.png", "PNG"), ("a.webp", "WEBP"), ("a.bmp", "BMP"), ("a.tif", "TIFF")],
)
def test_size_and_format(tmp_path: Path, name: str, kind: str) -> None:
    assert saved(tmp_path / name) == Header(24, 16, kind, "RGB", turned=False, frames=False)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_by_exif_as_decoding_turns_it(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    path = tmp_path / f"turned.{suffix}"
    header = saved(path, exif=exif(orientation))
    assert header is not None
    assert header.turned == (orientation > 1)
    assert (header.width, header.height) == ((16, 24) if orientation >= 5 else (24, 16))
    # the same as what decoding makes of it: in a padded square, the rows that are no border
    square = decode_file(str(path), 24, 3, "pad")
    across = (square != 128).any((0, 2)).sum()
    down = (square != 128).any((1, 2)).sum()
    assert (across, down) == (header.width, header.height)


@pytest.mark.parametrize(
    ("image", "suffix", "mode"),
    [
        (RGB.convert("L"), "png", "grey"),
        (RGB.convert("LA"), "png", "grey with transparency"),
        (RGB.convert("RGBA"), "png", "RGB with transparency"),
        (RGB.convert("P"), "png", "palette"),
        (RGB.convert("1"), "png", "black and white"),
        (RGB.convert("CMYK"), "jpg", "CMYK"),
        (Image.fromarray(np.arange(384, dtype=np.uint16).reshape(16, 24)), "png", "grey, 16 bit"),
        (Image.fromarray(np.arange(384, dtype=np.uint16).reshape(16, 24)), "tif", "grey, 16 bit"),
        (Image.fromarray(np.zeros((16, 24), np.float32)), "tif", "floating point"),
    ],
)
def test_modes_in_words(tmp_path: Path, image: Image.Image, suffix: str, mode: str) -> None:
    header = saved(tmp_path / f"a.{suffix}", image)
    assert header is not None
    assert header.mode == mode


def test_a_palette_with_a_transparent_colour_is_transparent(tmp_path: Path) -> None:
    header = saved(tmp_path / "a.png", RGB.convert("P"), transparency=0)
    assert header is not None
    assert header.mode == "palette with transparency"


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_several_frames(tmp_path: Path, suffix: str) -> None:
    more = {"save_all": True, "append_images": [RGB.rotate(180)]}
    header = saved(tmp_path / f"several.{suffix}", **more)
    assert header is not None
    assert header.frames
    one = saved(tmp_path / f"one.{suffix}")
    assert one is not None
    assert not one.frames


def test_a_phone_s_jpeg_with_a_second_picture_is_a_jpeg(tmp_path: Path) -> None:
    more = {"format": "MPO", "save_all": True, "append_images": [RGB]}
    header = saved(tmp_path / "phone.jpg", **more)
    assert header == Header(24, 16, "JPEG", "RGB", turned=False, frames=False)


def test_what_is_no_image_has_no_header(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    RGB.save(tmp_path / "fine.png")
    paths = [str(tmp_path / name) for name in ("empty.jpg", "fine.png", "text.png", "gone.png")]
    first, fine, *others = read_headers(paths)
    assert (first, others) == (None, [None, None])
    assert fine is not None


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif"])
def test_no_pixel_is_decoded(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    RGB.save(tmp_path / f"a.{suffix}")

    decoded: list[object] = []
    for kind in (ImageFile.ImageFile, PngImagePlugin.PngImageFile):
        monkeypatch.setattr(kind, "load", lambda image: decoded.append(image))
    assert read_header(str(tmp_path / f"a.{suffix}")) is not None
    assert decoded == []
