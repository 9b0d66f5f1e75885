"""The report as Markdown with pictures, for places where a page does not open, like GitHub."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from resight.files import in_one_line, make_folder, write_atomically
from resight.render import charts, sprites, tiles
from resight.render.drawing import png
from resight.reporting.readme_text import (
    MAX_AUGMENTED_SHOWN,
    MAX_MAPS_SHOWN,
    MAX_MISTAKES_SHOWN,
    readme,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from resight.reporting.facts import Facts, GalleryFacts, Maps
    from resight.reporting.gallery import Gallery

PICTURES = (
    "augmented",
    "lr-test",
    "schedule",
    "curves",
    "per-class",
    "confusion",
    "mistakes",
    "grad-cam",
    "reliability",
)


def write_readme(folder: Path, facts: Facts, gallery: Gallery | None) -> None:
    """Write `README.md` and `images/NAME.png` into `folder`, and remove pictures of an older
    report that this one does not have. gallery: the images of `facts["gallery"]`."""
    images = folder / "images"
    make_folder(images)
    drawn = figures(facts, gallery)
    for name, figure in drawn.items():
        write_atomically(images / f"{name}.png", png(figure))
    write_atomically(folder / "README.md", readme(facts).encode())
    for name in PICTURES:
        picture = images / f"{name}.png"
        with in_one_line(picture):
            if name not in drawn:
                picture.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the user may have put other files there
        images.rmdir()


def figures(facts: Facts, gallery: Gallery | None) -> dict[str, Figure]:
    """The pictures that `readme(facts)` shows, by name."""
    drawn: dict[str, Figure] = {}
    classes = facts["classes"]
    if facts["augmented"]:
        some = sprites.cells(facts["augmented"]["sheet"])[:MAX_AUGMENTED_SHOWN]
        labels = facts["augmented"]["label"][:MAX_AUGMENTED_SHOWN]
        mixed = None
        if facts["augmented"]["mixed"]:
            parts = facts["augmented"]["mixed"][:MAX_AUGMENTED_SHOWN]
            mixed = [(part["share"], classes[part["other"]]) for part in parts]
        drawn["augmented"] = tiles.samples(some, [classes[label] for label in labels], mixed)
    if facts["lr_test"]:
        drawn["lr-test"] = charts.lr_test(facts["lr_test"])
    if facts["schedule"]:
        drawn["schedule"] = charts.lr_schedule(facts["schedule"])
    if facts["metrics"]:
        drawn["curves"] = charts.curves(facts["metrics"])
    if facts["per_class"]:
        drawn["per-class"] = charts.per_class(facts["per_class"])
    if facts["confusion"]:
        drawn["confusion"] = charts.confusion(facts["confusion"], classes)
    shown = facts["gallery"]
    if shown and shown["shown_mistakes"]:
        assert gallery is not None
        drawn["mistakes"] = _mistakes(gallery, shown, classes, MAX_MISTAKES_SHOWN)
        if shown["maps"]:
            drawn["grad-cam"] = _mistakes(
                gallery, shown, classes, MAX_MAPS_SHOWN, maps=shown["maps"]
            )
    if facts["calibration"]:
        drawn["reliability"] = charts.reliability(facts["calibration"])
    return drawn


def _mistakes(
    gallery: Gallery, shown: GalleryFacts, classes: list[str], limit: int, maps: Maps | None = None
) -> Figure:
    """The first mistakes of the gallery, which have the highest losses."""
    first = slice(0, min(limit, shown["shown_mistakes"]))
    cells = [_cells(maps, maps["predicted"]), _cells(maps, maps["true"])] if maps else []
    images = tiles.enlarged(gallery.images[first])
    for i, photo in enumerate(gallery.photos[first]):
        if photo:
            images[i] = tiles.resized(photo.pixels, images.shape[1])
    return tiles.mistakes(
        images,
        [classes[label] for label in shown["true"][first]],
        [classes[label] for label in shown["predicted"][first]],
        shown["confidence"][first],
        shown["id"][first],
        *(part[first] for part in cells),
    )


def _cells(maps: Maps, encoded: str) -> npt.NDArray[np.uint8]:
    """uint8 (n, h, w), zeros where there is no evidence."""
    cells = np.frombuffer(base64.b64decode(encoded), dtype=np.uint8)
    return cells.reshape(-1, maps["height"], maps["width"])
