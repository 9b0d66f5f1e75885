"""Maps over images: dark where there is no evidence, bright where there is the most."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

OPACITY = 0.6  # of a map over its image, as on the page
WASHED_OUT = 0.7  # how far the part of a photo that the net does not see is turned to white

BILINEAR = Image.Resampling.BILINEAR

Images = npt.NDArray[np.uint8]


def overlaid(images: Images, maps: Images) -> Images:
    """uint8 images (n, px, px, 3) under their maps (n, h, w)."""
    side = (images.shape[2], images.shape[1])
    smooth = np.stack([np.asarray(Image.fromarray(m).resize(side, BILINEAR)) for m in maps])
    return _blended(images, smooth)


def overlaid_photo(
    photo: Images, cells: npt.NDArray[np.float32], square: tuple[int, int, int, int]
) -> Images:
    """A photo uint8 (H, W, 3) under the map (h, w) in [0, 1] of the part that the net saw; what it
    did not see is grey and pale. square: left, top, right and bottom edge of that part in px of the
    photo, maybe beyond it: see `decode.square_of`."""
    height, width = photo.shape[:2]
    left, top, right, bottom = square
    heat = Image.fromarray(cells.astype(np.float32))
    smooth = heat.resize((right - left, bottom - top), BILINEAR)
    here = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    there = (
        slice(here[0].start - top, here[0].stop - top),
        slice(here[1].start - left, here[1].stop - left),
    )
    grey = photo.mean(2, keepdims=True).repeat(3, axis=2)
    shown: Images = ((1 - WASHED_OUT) * grey + WASHED_OUT * 255).round().astype(np.uint8)
    shown[here] = _blended(photo[here], np.asarray(smooth)[there].clip(0, 1))
    return shown


def _blended(images: Images, maps: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> Images:
    """maps: of the images' size, uint8 or in [0, 1]."""
    from matplotlib import colormaps

    colors = colormaps["inferno"](maps)[..., :3] * 255
    blended: Images = ((1 - OPACITY) * images + OPACITY * colors).round().astype(np.uint8)
    return blended
