"""The files of a gallery's images, decoded anew at a size at which one can see what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resight.data.decode import decode_file, own_side
from resight.data.table import decoding_threads
from resight.recipe.settings import Fit
from resight.render.sprites import CELL_PX, photo_uri

PHOTO_PX = 160
MAX_CHARACTERS = 6_000_000  # of all photos in the page
AT_ONCE = 64


@dataclass(frozen=True)
class Photo:
    """pixels: uint8 (px, px, C); uri: the same for the page."""

    pixels: npt.NDArray[np.uint8]
    uri: str


def folder_of(source: str, ids: Sequence[str]) -> Path | None:
    """The folder that the images with these ids were read from; None if they are no files."""
    folder = Path(source)
    return folder if folder.is_absolute() and len(ids) and (folder / ids[0]).is_file() else None


def photos_of(
    folder: Path,
    ids: Sequence[str],
    images: npt.NDArray[np.uint8],
    fit: Fit,
    *,
    most: int = MAX_CHARACTERS,
) -> list[Photo | None]:
    """The files `ids` at up to 160 px, the first ones first, as far as `most` characters go.

    images: uint8 (n, H, W, C), what the net sees of them. None for a file that is no larger than
    what is shown anyway, is gone, or has changed. [] if there is no photo at all.
    """
    kept: list[Photo | None] = []
    spent = 0

    def photo(i: int) -> Photo | None:
        return _photo(str(folder / ids[i]), images[i], fit)

    with decoding_threads() as pool:
        for start in range(0, len(ids), AT_ONCE):
            for made in pool.map(photo, range(start, min(start + AT_ONCE, len(ids)))):
                spent += len(made.uri) if made else 0
                if spent > most:
                    return kept
                kept.append(made)
    return kept if any(kept) else []


def _photo(path: str, image: npt.NDArray[np.uint8], fit: Fit) -> Photo | None:
    px, _, channels = image.shape
    try:
        side = min(PHOTO_PX, own_side(path, fit))
        if side <= min(px, CELL_PX) or not np.array_equal(
            decode_file(path, px, channels, fit), image
        ):
            return None
        pixels = decode_file(path, side, channels, fit)
    except Exception:  # Pillow's readers raise anything on a damaged file
        return None
    return Photo(pixels, photo_uri(pixels))
