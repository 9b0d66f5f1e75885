"""scikit-learn's digits: 1,797 scans of 8x8 pixels that come with the library, so no download."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from resight.data.decode import fit, pixels, plain
from resight.data.table import Listing

BRIGHTEST = 16  # pixels of the scans are 0 to 16


def read(image_size: int, channels: int | None) -> Listing:
    """The scans, 0…16 scaled to 0…255, in scikit-learn's order; the first id is 'digits-0000'."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    scans = np.floor(bunch.images * 255 / BRIGHTEST + 0.5).astype(np.uint8)

    def fill(start: int, out: npt.NDArray[np.uint8]) -> dict[int, str]:
        for row, scan in enumerate(scans[start : start + len(out)]):
            out[row] = pixels(fit(plain(Image.fromarray(scan), out.shape[3]), image_size))
        return {}

    return Listing(
        labels=bunch.target.astype(np.int64),
        ids=np.array([f"digits-{number:04d}" for number in range(len(scans))]),
        classes=tuple(str(digit) for digit in range(10)),
        parts=(("all", len(scans)),),
        image_size=image_size,
        channels=channels or 1,
        fill=fill,
    )
