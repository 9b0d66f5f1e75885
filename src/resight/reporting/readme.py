"""The report as Markdown with pictures, for where a page does not open: GitHub, a terminal."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from resight.files import make_folder, write_atomically
from resight.render import charts, sprites, tiles
from resight.render.drawing import png
from resight.reporting.readme_text import (
    MOST_AUGMENTED,
    MOST_MAPS,
    MOST_MISTAKES,
    Facts,
    readme,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    report that this one has not. gallery: the images of `facts["gallery"]`."""
    images = folder / "images"
    make_folder(images)
    drawn = figures(facts, gallery)
    for name, figure in drawn.items():
        write_atomically(images / f"{name}.png", png(figure))
    write_atomically(folder / "README.md", readme(facts).encode())
    for name in PICTURES:
        if name not in drawn:
            (images / f"{name}.png").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # pictures of other hands may lie there
        images.rmdir()


def figures(facts: Facts, gallery: Gallery | None) -> dict[str, Figure]:
    """The pictures that `readme(facts)` shows, by name."""
    drawn: dict[str, Figure] = {}
    classes = facts["classes"]
    if facts["augmented"]:
        some = sprites.cells(facts["augmented"]["sheet"])[:MOST_AUGMENTED]
        labels = facts["augmented"]["label"][:MOST_AUGMENTED]
        drawn["augmented"] = tiles.samples(some, [classes[label] for label in labels])
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
        drawn["mistakes"] = _mistakes(facts, gallery, MOST_MISTAKES)
        if shown["maps"]:
            drawn["grad-cam"] = _mistakes(facts, gallery, MOST_MAPS, with_maps=True)
    if facts["calibration"]:
        drawn["reliability"] = charts.reliability(facts["calibration"])
    return drawn


def _mistakes(facts: Facts, gallery: Gallery, most: int, *, with_maps: bool = False) -> Figure:
    """The first mistakes of the gallery, which are those of the highest loss."""
    shown, classes = facts["gallery"], facts["classes"]
    first = slice(0, min(most, shown["shown_mistakes"]))
    kinds = ("predicted", "true") if with_maps else ()
    return tiles.mistakes(
        gallery.images[first],
        [classes[label] for label in shown["true"][first]],
        [classes[label] for label in shown["predicted"][first]],
        shown["confidence"][first],
        shown["id"][first],
        *(_maps(shown["maps"], kind)[first] for kind in kinds),
    )


def _maps(maps: Facts, kind: str) -> npt.NDArray[np.uint8]:
    """uint8 (n, h, w), zeros where there is no evidence."""
    cells = np.frombuffer(base64.b64decode(maps[kind]), dtype=np.uint8)
    return cells.reshape(-1, maps["height"], maps["width"])
