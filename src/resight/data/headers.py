"""What an image file's header says, read without decoding its pixels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from PIL import Image

from resight.data.decode import FORMATS, ORIENTATION, TURNS
from resight.data.table import Progress

FILES_AT_ONCE = 500  # between two calls of `progress`
KINDS = {
    **{"1": "black and white", "F": "floating point", "RGBA": "RGB", "RGBa": "RGB"},
    **dict.fromkeys(("L", "LA", "La"), "grey"),
    **dict.fromkeys(("P", "PA"), "palette"),
}
PHOTOS_IN_ONE = "MPO"  # JPEGs with a preview or a second view: the first is the photo
QUARTER_TURNS = (5, 6, 7, 8)  # orientations that swap width and height


@dataclass(frozen=True)
class Header:
    """An image file. width, height: upright, in px; mode: in words; turned: by EXIF; frames: it is
    an animation or has several pages, of which the first is used."""

    width: int
    height: int
    format: str
    mode: str
    turned: bool
    frames: bool


def read_headers(paths: Sequence[str], progress: Progress | None = None) -> list[Header | None]:
    """One per file; None for one that is no image, or whose header is damaged."""
    headers: list[Header | None] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about files
        for path in paths:
            headers.append(read_header(path))
            if progress is not None and len(headers) % FILES_AT_ONCE == 0:
                progress(len(headers), len(paths))
    return headers


def read_header(path: str | IO[bytes]) -> Header | None:
    """Of a file, or an open one; None for one that is no image, or whose header is damaged."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            orientation = _orientation(image)
            several = image.format != PHOTOS_IN_ONE and getattr(image, "is_animated", False)
            if orientation in QUARTER_TURNS and image.format != "TIFF":  # Pillow does it there
                width, height = height, width
            return Header(
                width=width,
                height=height,
                format="JPEG" if image.format == PHOTOS_IN_ONE else str(image.format),
                mode=_mode(image),
                turned=orientation in TURNS,
                frames=bool(several),
            )
    except Exception:  # Pillow's readers raise anything on a damaged file; decoding reports it
        return None


def _orientation(image: Image.Image) -> int:
    """By EXIF, 1 if there is none. Not by the file's own class: PNG's would decode it."""
    try:
        return int(Image.Image.getexif(image).get(ORIENTATION, 1))
    except Exception:  # as in `decode`: the pixels are fine anyway
        return 1


def _mode(image: Image.Image) -> str:
    """`RGB`, `grey, 16 bit`, `palette with transparency`, …"""
    mode = image.mode
    kind = "grey" if mode.startswith("I") else KINDS.get(mode, mode)
    alpha = mode.endswith(("A", "a")) or "transparency" in image.info
    # of 16-bit colours Pillow reads the upper 8 bits: only how they are stored says so
    deep = mode.startswith("I") or ";16" in str(getattr(image, "tile", ""))
    return kind + " with transparency" * alpha + ", 16 bit" * deep
