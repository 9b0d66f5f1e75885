"""The page of a run, driven in Chromium as its reader drives it: mouse, keys, phone, live."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate

from browsing import WIDE, Opener
from resight.characters import printable
from resight.render.page import embedded, render_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "</script><img src=x onerror=alert(1)>"
CLASSES = [
    "cat",
    "dog",
    HOSTILE,
    '"quoted" & <b>',
    "{{ 7 * 7 }} 🦊",
    "a name of two hundred characters " + "x" * 167,
    "__proto__",
    "horse",
    "ship",
    "truck",
]
MISTAKES = [(0, 1)] * 70 + [(1, 0)] * 5 + [(2, 3)] * 3 + [(7, 0)]
RIGHT = [(k, k) for k in range(10)]
SIDE = 3  # cells of a map


def sheet(n: int, *, cell_px: int = 8, columns: int = 9) -> dict[str, Any]:
    """Cells of one colour each: `colour(i)`."""
    pixels = np.zeros((-(-n // columns) * cell_px, columns * cell_px, 3), dtype=np.uint8)
    for i in range(n):
        y, x = i // columns * cell_px, i % columns * cell_px
        pixels[y : y + cell_px, x : x + cell_px] = colour(i)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    src = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"src": src, "cell_px": cell_px, "columns": columns, "count": n}


def colour(i: int) -> tuple[int, int, int]:
    return (i * 37 % 256, i * 101 % 256, i * 3 % 256)


def make_gallery() -> dict[str, Any]:
    pairs = MISTAKES + RIGHT
    n = len(pairs)
    maps = np.zeros((n, SIDE, SIDE), dtype=np.uint8)
    maps[:, 1, 2] = 255
    bytes64 = base64.b64encode(maps.tobytes()).decode()
    rest = [(p + 1) % 10 for _, p in pairs]
    confidence = [round(0.3 + (i * 7 % n) / n * 0.7, 4) for i in range(n)]
    return {
        "sheet": sheet(n),
        "total_mistakes": 1935,
        "shown_mistakes": len(MISTAKES),
        "id": [f"test/{t}/{i:04d}.jpg" for i, (t, _) in enumerate(pairs)],
        "true": [t for t, _ in pairs],
        "predicted": [p for _, p in pairs],
        "loss": [round(9 - i * 0.1, 4) for i in range(len(MISTAKES))] + [0.1] * len(RIGHT),
        "confidence": confidence,
        "top": [
            [[p, confidence[i]], [rest[i], 0.02]] + ([[t, 0.01]] if t not in (p, rest[i]) else [])
            for i, (t, p) in enumerate(pairs)
        ],
        "suspect": [i in (4, 75) for i in range(n)],
        "maps": {
            "method": "gradcam",
            "layer": "layer2",
            "height": SIDE,
            "width": SIDE,
            "predicted": bytes64,
            "true": bytes64,
            "predicted_empty": [i == 1 for i in range(n)],
            "true_empty": [i == 0 for i in range(n)],
        },
    }


def make_facts() -> dict[str, Any]:
    confusion = np.zeros((10, 10), dtype=int)
    for t, p in MISTAKES:
        confusion[t, p] += 1
    confusion[0, 1] = 90  # of which 70 are in the gallery
    confusion[np.arange(10), np.arange(10)] = 100
    lrs = np.geomspace(1e-4, 1, 9)
    return {
        "version": 1,
        "title": f"custom-resnet on {HOSTILE}",
        "run": "runs/<b>one</b>",
        "resight": "0.1.0",
        "live": None,
        "headline": {
            "accuracy": 0.8065,
            "low": 0.7986,
            "high": 0.8141,
            "loss": 0.5612,
            "images": 10000,
            "split": "test",
            "weights": "last epoch",
            "train_accuracy": 0.82,
            "epochs": 3,
            "seed": 0,
            "parameters": 6573130,
            "recipe": "custom-resnet",
            "data": "cifar10",
            "train_seconds": 748.2,
            "wall_seconds": 3960.0,
            "images_per_second": 200.5,
            "device": "a processor, 2 threads",
            "precision": "bf16",
            "command": "resight train --recipe 'a b.json'",
        },
        "findings": [
            {
                "name": name,
                "severity": severity,
                "title": f"Finding {name}",
                "evidence": f"evidence of {HOSTILE}",
                "threshold": "more than 10 points",
                "advice": "augment more",
                "command": command,
            }
            for name, severity, command in [
                ("a-note", "note", None),
                ("a-problem", "problem", "resight find-lr 'x y'"),
            ]
        ],
        "diagnosed": True,
        "notes": ["no validation split"],
        "classes": CLASSES,
        "confusion": confusion.tolist(),
        "most_confused": [
            {"true": 0, "predicted": 1, "count": 90, "share": 0.47},
            {"true": 1, "predicted": 0, "count": 5, "share": 0.048},
        ],
        "per_class": [
            {
                "class": name,
                "support": 100 + k,
                "correct": 100,
                "accuracy": 0.9 - 0.05 * k if k != 6 else None,
                "recall": 0.9 - 0.05 * k if k != 6 else None,
                "precision": 0.3 + 0.05 * k if k != 5 else None,
                "f1": 0.5 + 0.01 * (k * 3 % 10),
            }
            for k, name in enumerate(CLASSES)
        ],
        "metrics": [
            {
                "epoch": e,
                "step": 98 * e,
                "lr": 0.01,
                "train_loss": 2.0 / e,
                "train_accuracy": 0.3 * e,
                "test_loss": 2.5 / e if e != 2 else None,
                "test_accuracy": 0.25 * e if e != 2 else None,
                "train_seconds": 250.0,
                "evaluate_seconds": 10.0,
                "images_per_second": 200.0,
            }
            for e in (1, 2, 3)
        ],
        "schedule": {"epoch": [0.0, 1.5, 3.0], "lr": [0.001, 0.01, 0.001], "shape": "one-cycle"},
        "lr_test": {
            "lrs": lrs.tolist(),
            "losses": [2.3, 2.3, 2.2, 2.0, 1.6, 1.4, 1.9, 4.0, 9.0],
            "smoothed": [2.3, 2.3, 2.2, 2.0, 1.7, 1.5, 1.8, 3.0, 6.0],
            "suggestions": {"valley": 0.001, "steepest": 0.1},
            "refused": None,
            "method": "valley",
            "used": 0.01,
            "stop": "diverged at 1",
        },
        "calibration": {
            "bins": [
                {
                    "low": b / 5,
                    "high": (b + 1) / 5,
                    "count": 10 * b,
                    "correct": 8 * b,
                    "confidence": b / 5 + 0.1 if b else None,
                    "accuracy": 0.8 if b else None,
                }
                for b in range(5)
            ],
            "ece": 0.031,
            "temperature": None,
            "temperature_reason": "no validation split to fit it on",
        },
        "summary": {
            "rows": [
                {
                    "label": "Conv2d-1",
                    "name": "prep.conv",
                    "output_shape": [-1, 64, 32, 32],
                    "params": 1728,
                    "receptive_field": field,
                    "macs": 1769472,
                }
                for field in (3, None)
            ],
            "total_params": 3456,
            "trainable_params": 3456,
            "non_trainable_params": 0,
            "total_macs": 3538944,
            "input_mb": 0.01,
            "forward_backward_mb": 4.0,
            "params_mb": 0.013,
            "total_mb": 4.02,
        },
        "augmented": {"sheet": sheet(4, columns=2), "label": [0, 2, 3, 5], "mixed": None},
        "gallery": make_gallery(),
        "duplicates": [
            {
                "test": "test/cat/1.jpg",
                "train": f"train/{HOSTILE}.jpg",
                "kind": "near",
                "distance": 0.01,
                "test_label": 0,
                "train_label": 1,
            }
        ],
        "duplicates_total": {"exact": 3, "near": 20},
        "suspects_total": 2,
    }


def with_classes(k: int) -> dict[str, Any]:
    """Facts of k classes; the gallery's ten stay."""
    facts = make_facts()
    facts["classes"] = [*CLASSES, *(f"class {i}" for i in range(10, k))][:k]
    matrix = np.eye(k, dtype=int) * 7
    matrix[1, 0] = 3
    facts["confusion"] = matrix.tolist() if k <= 100 else None
    facts["per_class"] = [{**facts["per_class"][0], "class": name} for name in facts["classes"]]
    if k < 10:
        for part in ("gallery", "augmented"):
            facts[part] = None
    return facts


PAGE = render_run(make_facts()).encode()


def while_training() -> dict[str, Any]:
    facts = make_facts()
    for part in [
        "confusion",
        "per_class",
        "schedule",
        "lr_test",
        "calibration",
        "summary",
        "augmented",
        "gallery",
        "duplicates_total",
        "suspects_total",
    ]:
        facts[part] = None
    facts["headline"] = dict.fromkeys(facts["headline"])
    return facts | {
        "findings": [],
        "diagnosed": False,
        "notes": [],
        "classes": [],
        "most_confused": [],
        "metrics": [],
        "duplicates": [],
    }


def at_epoch(epoch: int, **changes: Any) -> dict[str, Any]:
    live = {
        "state": "training",
        "epoch": epoch,
        "epochs": 24,
        "done": 49,
        "total": 98,
        "loss": 1.2,
        "accuracy": 0.61,
        "lr": 0.01,
        "images_per_second": 210.0,
        "seconds_left": 1200.0,
    }
    return {**make_facts(), "live": live | changes}


@pytest.fixture
def opened(opened: Opener, tmp_path: Path) -> Opener:
    """Opens the page of facts."""
    file = tmp_path / "index.html"

    def open_(facts: dict[str, Any] | None = None, **context: Any) -> Page:
        file.write_bytes(PAGE if facts is None else render_run(facts).encode())
        return opened(file, **context)

    return open_


def shown(page: Page) -> list[int]:
    """The images of the thumbnails, in their order."""
    return page.locator(".thumb").evaluate_all("all => all.map(one => Number(one.dataset.image))")


def rows_of(pair: tuple[int, int]) -> list[int]:
    return [i for i, one in enumerate(MISTAKES + RIGHT) if one == pair]


@settings(max_examples=50)
@given(st.text() | st.dictionaries(st.text(), st.sampled_from([HOSTILE, "\u2028", "&lt;"])))
def test_no_text_can_end_the_script_that_holds_it(value: Any) -> None:
    text = embedded({"value": value})
    if isinstance(value, str):
        known: Any = printable(value, "\n")
    else:
        known = {key: printable(text, "\n") for key, text in value.items()}
    assert json.loads(text) == {"value": known}
    assert text.isascii()
    assert not re.search("[<>&]", text)


def test_a_file_name_that_is_no_utf8_can_be_written() -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    facts = make_facts() | {"title": name}
    facts["gallery"]["id"][0] = name
    assert b"\\udce9.jpg" in render_run(facts).encode()


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        render_run(make_facts() | {"loss": float("nan")})


def test_hostile_names_are_text(opened: Opener) -> None:
    page = opened()
    assert page.locator("h1").inner_text() == f"custom-resnet on {HOSTILE}"
    assert page.locator("#confusion tbody th").all_inner_texts() == CLASSES
    assert page.locator("#filter-true option").all_inner_texts() == ["any", *CLASSES]
    page.locator("#filter-predicted").select_option(label=CLASSES[3])
    page.locator(".thumb").first.click()
    assert page.locator("#detail-title").inner_text() == f"{HOSTILE} predicted as {CLASSES[3]}"
    assert page.evaluate("JSON.parse(byId('facts').textContent)") == make_facts()
    assert page.locator("img, b").count() == 0
    assert page.locator("script").count() == render_run(make_facts()).count("<script")


def test_the_page_runs_no_script_but_its_own(opened: Opener) -> None:
    page = opened()
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content") or ""
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy


def test_the_headline_says_how_good_how_fast_and_how_to_repeat_it(opened: Opener) -> None:
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    text = page.locator("#headline").inner_text().replace("\u00a0", " ")
    for part in [
        "80.65 %",
        "95 % interval 79.86 to 81.41 %",
        "10,000 test images, weights of the last epoch",
        "12 min 28 s",
        "1 h 06 min",
        "200.5",
        "6,573,130",
        "a processor, 2 threads",
        "resight train --recipe 'a b.json'",
    ]:
        assert part in text
    page.locator("#headline .copy").click()
    page.locator("#headline .copied", has_text="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "resight train --recipe 'a b.json'"


@pytest.mark.parametrize("digits", [0, 1, 2])
def test_percentages_are_rounded_as_in_the_terminal(opened: Opener, digits: int) -> None:
    shares = [k / n for n in (8, 32, 160, 359, 800) for k in range(n + 1)]
    shares += [k / 20_000 for k in range(0, 20_001, 7)]
    script = "([shares, digits]) => shares.map((share) => percent(share, digits, true))"
    said = opened().evaluate(script, [shares, digits])

    assert said == [f"{share:.{digits}%}".replace("%", "\u00a0%") for share in shares]


def test_the_interval_is_rounded_as_in_the_terminal(opened: Opener) -> None:
    facts = make_facts()
    facts["headline"] |= {"accuracy": 21 / 32, "low": 0.40625, "high": 0.84375}
    text = opened(facts).locator("#headline").inner_text().replace("\u00a0", " ")

    assert "65.62 %" in text
    assert "95 % interval 40.62 to 84.38 %" in text


def test_problems_come_before_notes_and_are_named_in_words(opened: Opener) -> None:
    page = opened()
    findings = page.locator("#findings .finding")
    assert findings.evaluate_all("all => all.map(one => one.dataset.name)") == [
        "a-problem",
        "a-note",
    ]
    assert page.locator("#findings .severity").all_inner_texts() == ["▲ Problem", "● Note"]
    assert f"evidence of {HOSTILE}" in findings.first.inner_text()
    assert "resight find-lr 'x y'" in findings.first.inner_text()
    assert "No problem found" not in page.locator("#findings").inner_text()


def test_no_problem_is_claimed_only_of_a_run_that_was_looked_at(opened: Opener) -> None:
    page = opened(make_facts() | {"findings": []})
    assert "No problem found." in page.locator("#findings").inner_text()
    page = opened(make_facts() | {"findings": [], "diagnosed": False})
    assert page.locator("#findings").is_hidden()
    page = opened(make_facts() | {"findings": make_facts()["findings"][:1], "diagnosed": False})
    assert page.locator("#findings .severity").all_inner_texts() == ["● Note"]
    assert "No problem found." not in page.locator("#findings").inner_text()


def test_a_cell_of_the_matrix_shows_its_images(opened: Opener) -> None:
    page = opened()
    page.locator("td[data-true='1'][data-predicted='0']").click()
    assert shown(page) == rows_of((1, 0))
    assert page.locator("#gallery-count").inner_text() == "5 images: dog predicted as cat."
    assert page.locator("td[aria-selected=true]").get_attribute("data-key") == "cell-1-0"
    page.locator("td[data-true='0'][data-predicted='1']").click()
    assert shown(page) == rows_of((0, 1))[:60]
    assert page.locator("#gallery-count").inner_text() == (
        "Showing 60 of 70 images: cat predicted as dog, of 90 in the whole split."
    )
    page.locator("td[data-true='7'][data-predicted='7']").click()
    assert shown(page) == rows_of((7, 7))
    page.locator("td[data-true='8'][data-predicted='7']").click()
    assert shown(page) == []
    assert page.locator("#gallery-count").inner_text() == "No images match."


def test_the_matrix_is_one_tab_stop_and_obeys_the_arrow_keys(opened: Opener) -> None:
    page = opened()
    assert page.locator("#confusion td[tabindex='0']").count() == 1
    page.locator("#confusion td[tabindex='0']").focus()
    for key in ["ArrowUp", "ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight"]:
        page.keyboard.press(key)
    focused = "document.activeElement.dataset.key"
    assert page.evaluate(focused) == "cell-2-3"
    page.keyboard.press("Enter")
    assert shown(page) == rows_of((2, 3))
    assert page.evaluate("document.activeElement.id") == "gallery-heading"


def test_a_confused_pair_shows_its_images(opened: Opener) -> None:
    page = opened()
    page.locator("#confusion .pair").nth(1).click()
    assert shown(page) == rows_of((1, 0))


def test_a_hundred_classes_are_a_heat_map_with_a_cursor(opened: Opener) -> None:
    page = opened(with_classes(100))
    heat = page.locator("#confusion .heat")
    heat.focus()
    page.keyboard.press("ArrowDown")
    said = page.locator("#confusion [aria-live]")
    assert said.inner_text().replace("\u00a0", " ") == "dog predicted as cat, 3 of 10 images, 30 %"
    assert page.locator("#tip").inner_text().startswith("dog predicted as cat\n3 of 10 images")
    page.keyboard.press("Enter")
    assert shown(page) == rows_of((1, 0))
    box = heat.bounding_box()
    assert box
    heat.click(position={"x": box["width"] * 0.015, "y": box["height"] * 0.005})
    assert shown(page) == rows_of((0, 1))[:60]


def test_filters_and_search_narrow_the_gallery(opened: Opener) -> None:
    page = opened()
    assert shown(page) == list(range(60))
    about = page.locator("#gallery-about").inner_text()
    assert "The 79 of 1,935 mistakes with the highest loss" in about
    page.locator("#more").click()
    assert shown(page) == list(range(79))
    assert page.locator("#more").is_hidden()
    assert page.evaluate("document.activeElement.dataset.image") == "60"
    page.locator("#filter-predicted").select_option("0")
    assert shown(page) == rows_of((1, 0)) + rows_of((7, 0))
    page.locator("#filter-true").select_option("7")
    assert shown(page) == rows_of((7, 0))
    page.locator("#filter-reset").click()
    page.locator("#search").fill("TEST/2/")
    assert shown(page) == rows_of((2, 3))
    page.locator("#filter-kind").select_option("all")
    assert shown(page) == rows_of((2, 3)) + rows_of((2, 2))
    page.locator("#search").fill("")
    page.locator("#filter-kind").select_option("right")
    assert shown(page) == list(range(79, 89))
    page.locator("#gallery-about button").click()
    assert page.locator("#filter-kind").input_value() == "suspects"
    assert shown(page) == [4, 75]


@pytest.mark.parametrize("by", ["loss", "confidence"])
def test_the_gallery_is_sorted_both_ways(opened: Opener, by: str) -> None:
    page = opened()
    page.locator("#filter-kind").select_option("all")
    values = make_facts()["gallery"][by]
    for direction, sign in [("desc", -1), ("asc", 1)]:
        page.locator("#sort").select_option(f"{by}-{direction}")
        wanted = sorted(range(len(values)), key=lambda i: (sign * values[i], i))
        assert shown(page) == wanted[:60]


def test_a_thumbnail_is_its_cell_of_the_sheet_enlarged_without_blur(opened: Opener) -> None:
    page = opened()
    canvas = page.locator(".thumb canvas").nth(23)
    pixel = "[...c.getContext('2d').getImageData(4, 4, 1, 1).data]"
    assert canvas.evaluate(f"c => gallery.sheet.decoded.then(() => {pixel})") == [*colour(23), 255]
    assert canvas.evaluate("c => getComputedStyle(c).imageRendering") == "pixelated"


def test_a_photo_takes_the_place_of_its_cell_and_its_map_lies_over_all_of_it(
    opened: Opener,
) -> None:
    facts = make_facts()
    file = io.BytesIO()
    Image.new("RGB", (20, 20), (200, 30, 30)).save(file, "WEBP")
    photo = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
    facts["gallery"]["photos"] = [None, None, photo]
    page = opened(facts)
    page.locator("#cam-toggle").check()
    of_sheet, shown_as = page.locator(".thumb").nth(3), page.locator(".thumb").nth(2)
    assert of_sheet.locator("canvas:not(.map)").count() == 1
    assert shown_as.locator("canvas:not(.map)").count() == 0
    picture = shown_as.locator("img")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 20
    assert picture.get_attribute("alt") == ""  # the button says what it is
    assert picture.bounding_box() == shown_as.locator(".map").bounding_box()
    shown_as.click()
    image = page.locator("#detail .stack").first
    assert image.locator("img").get_attribute("alt") == f"Image {facts['gallery']['id'][2]}"
    assert image.bounding_box() == image.locator("img").bounding_box()
    assert page.locator("#detail .stack img").count() == 3


@pytest.mark.parametrize("folder", [None, "file:///home/me/a%20b"])
def test_an_id_leads_to_its_file_if_there_is_one(opened: Opener, folder: str | None) -> None:
    facts = make_facts()
    name = f"test/{HOSTILE}/é #1?&'.jpg"
    facts["gallery"]["id"][0] = name
    facts["gallery"]["folder"] = folder
    page = opened(facts)
    page.locator(".thumb").first.click()
    assert name in page.locator("#detail dl").inner_text()
    link = page.locator("#detail a")
    assert link.count() == (folder is not None)
    if folder:
        path = link.evaluate("link => link.protocol + '//' + link.pathname")
        assert unquote(path) == unquote(folder) + "/" + name  # no part of it is a query or a hash
        assert path.startswith(f"{folder}/test/")


def test_the_maps_lie_over_the_images_and_an_empty_one_is_said_to_be_empty(opened: Opener) -> None:
    page = opened()
    assert page.locator(".map").count() == 0
    assert "Grad-CAM" in page.locator("#cam-controls").inner_text()
    page.locator("#cam-toggle").check()
    assert page.locator(".thumb .map").count() == 59
    assert page.locator(".thumb .map-empty").count() == 1
    assert page.locator(".thumb").nth(1).locator(".map-empty").is_visible()
    overlay = page.locator(".thumb .map").first
    side = overlay.evaluate("c => c.width")
    read = "(c, side) => [...c.getContext('2d').getImageData(0, 0, side, side).data]"
    pixels = np.reshape(overlay.evaluate(read, side), (side, side, 4))
    middle = side // SIDE // 2
    assert side % (2 * SIDE) == SIDE  # an odd number of pixels a cell, so that it has a middle
    assert pixels[middle :: side // SIDE, middle :: side // SIDE].tolist() == [
        [[252, 255, 164, 255] if (y, x) == (1, 2) else [0, 0, 4, 255] for x in range(SIDE)]
        for y in range(SIDE)
    ]
    page.locator("#cam-opacity").fill("0.25")
    assert overlay.evaluate("c => getComputedStyle(c).opacity") == "0.25"
    page.locator("#sort").select_option("loss-asc")
    assert page.locator(".thumb .map").count() == 60
    page.locator("#cam-toggle").uncheck()
    assert page.locator(".map, .map-empty").count() == 0


def test_a_map_is_enlarged_as_torch_does_it(opened: Opener) -> None:
    cells = np.random.default_rng(0).integers(0, 256, (4, 3), dtype=np.uint8)
    result = opened().evaluate("cells => [...enlarged(cells, 4, 3, 5)]", cells.ravel().tolist())
    tensor = torch.from_numpy(cells)[None, None].double()
    wanted = interpolate(tensor, scale_factor=5, mode="bilinear", align_corners=False)
    assert np.abs(np.array(result) - wanted.numpy().ravel()).max() <= 0.5 + 1e-9


def test_the_ramp_of_the_maps_rises_in_lightness(opened: Opener) -> None:
    ramp = np.array(opened().evaluate("RAMP"), dtype=float) / 255
    linear = np.where(ramp <= 0.04045, ramp / 12.92, ((ramp + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(
        luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27
    )
    assert len(ramp) == 256
    assert (np.diff(lightness[::8]) > 0).all()


def test_the_detail_walks_through_the_images_by_arrow_keys(opened: Opener) -> None:
    page = opened()
    page.locator("#filter-true").select_option("1")
    page.locator(".thumb").first.click()
    detail = page.locator("#detail")
    rows = rows_of((1, 0))
    ids = make_facts()["gallery"]["id"]
    assert ids[rows[0]] in detail.inner_text()
    page.keyboard.press("ArrowLeft")  # there is none before the first
    assert page.locator("#detail-place").inner_text() == "1 of 5"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#detail-place").inner_text() == "3 of 5"
    assert ids[rows[2]] in detail.inner_text()
    page.locator("#detail-previous").click()
    assert ids[rows[1]] in detail.inner_text()
    page.keyboard.press("Escape")
    assert detail.is_hidden()
    page.locator(f".thumb[data-image='{rows[1]}']:focus").wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("#detail-place").inner_text() == "3 of 5"


def test_the_detail_goes_past_the_images_that_have_a_thumbnail(opened: Opener) -> None:
    page = opened()
    page.locator(".thumb").nth(59).click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    page.locator(".thumb[data-image='60']:focus").wait_for()


def test_the_detail_shows_both_maps_and_the_probabilities(opened: Opener) -> None:
    page = opened()
    page.locator(".thumb").nth(1).click()
    captions = page.locator("#detail figcaption").all_inner_texts()
    assert captions == [
        "The image",
        "Evidence for dog (predicted): the map is empty, no positive evidence",
        "Evidence for cat (true)",
    ]
    assert page.locator("#detail .map").count() == 1
    page.keyboard.press("ArrowLeft")
    captions = page.locator("#detail figcaption").all_inner_texts()
    assert captions[2] == "Evidence for cat (true): the map is empty, no positive evidence"
    top = page.locator(".probabilities li")
    assert top.evaluate_all("all => all.map(one => one.className)") == [
        "predicted",
        "other",
        "true",
    ]
    text = page.locator("#detail").inner_text().replace("\u00a0", " ")
    assert "30.0 %" in text
    assert "Loss\n9\n" in text
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert "label may be wrong" in page.locator("#detail").inner_text()


def test_the_classes_are_sorted_by_any_column(opened: Opener) -> None:
    page = opened()
    names = page.locator("#per-class tbody th")
    facts = make_facts()["per_class"]
    header = page.locator("#per-class thead th")
    for column, key in enumerate(["class", "support", "recall", "precision", "f1"]):
        if column == 0:
            continue
        header.nth(column).locator("button").click()
        falling = header.nth(column).get_attribute("aria-sort") == "descending"
        rows = sorted(facts, key=lambda row: -1 if row[key] is None else row[key], reverse=falling)
        assert names.all_inner_texts() == [row["class"] for row in rows]
        header.nth(column).locator("button").click()
        assert names.all_inner_texts() == [row["class"] for row in reversed(rows)]
    header.nth(0).locator("button").click()
    assert names.all_inner_texts()[-3:] == ["horse", "ship", "truck"]


def test_a_chart_gives_its_values_to_the_mouse_and_the_keys(opened: Opener) -> None:
    page = opened()
    plot = page.locator("#loss-chart .chart-plot")
    plot.focus()
    for wanted in [
        "epoch 1, train 2, test 2.5",
        "epoch 2, train 1",
        "epoch 3, train 0.6667, test 0.8333",
    ]:
        page.keyboard.press("ArrowRight")
        assert page.locator("#loss-chart [aria-live]").text_content() == wanted
    label = plot.get_attribute("aria-label") or ""
    assert "loss by epoch. train: from 2 to 0.6667" in label
    page.locator("#accuracy-chart .chart-plot").hover(position={"x": 60, "y": 60})
    assert (
        page.locator("#tip").inner_text().replace("\u00a0", " ") == "epoch 1\ntrain 30 %\ntest 25 %"
    )
    page.mouse.move(0, 0)
    assert page.locator("#tip").is_hidden()
    dashes = page.locator("#loss-chart path.chart-line").evaluate_all(
        "all => all.map(one => one.getAttribute('stroke-dasharray'))"
    )
    assert len(set(dashes)) == 2


def test_the_lr_test_marks_its_suggestions_on_a_log_axis(opened: Opener) -> None:
    page = opened()
    marks = page.locator("#lr-test line.chart-mark")
    names = page.locator("#lr-test text.chart-mark-name").all_text_contents()
    assert names == ["valley", "used", "steepest"]
    x = marks.evaluate_all("all => all.map(one => Number(one.getAttribute('x1')))")
    assert x[1] - x[0] == pytest.approx(x[2] - x[1])
    text = page.locator("#lr-test").inner_text()
    assert "valley (chosen)" in text
    assert "The test ended: diverged at 1." in text


def test_a_refused_lr_test_says_why(opened: Opener) -> None:
    facts = make_facts()
    facts["lr_test"] |= {"suggestions": {}, "refused": "too few steps", "used": None}
    page = opened(facts)
    assert "No suggestion: too few steps" in page.locator("#lr-test").inner_text()
    assert page.locator("#lr-test line.chart-mark").count() == 0


def test_calibration_names_its_error_and_the_temperature_or_why_there_is_none(
    opened: Opener,
) -> None:
    facts = make_facts()
    text = opened(facts).locator("#calibration").inner_text().replace("\u00a0", " ")
    assert "calibration error 3.1 %" in text
    assert "No temperature: no validation split to fit it on" in text
    facts["calibration"]["temperature"] = {"value": 1.3, "split": "val", "ece_after": 0.012}
    page = opened(facts)
    text = page.locator("#calibration").inner_text().replace("\u00a0", " ")
    assert "A temperature of 1.3, fitted on val, changes it to 1.2 %." in text
    page.locator("#confidence-chart .chart-plot").focus()
    page.keyboard.press("End")
    assert page.locator("#tip").inner_text().replace("\u00a0", " ") == (
        "confidence 80 % to 100 %\n32 correct\n8 wrong\n40 % of all images"
    )


def test_the_rest_is_there_in_words(opened: Opener) -> None:
    page = opened()
    assert "3 exact duplicates and 20 near duplicates" in page.locator("#duplicates").inner_text()
    assert "cat in test, dog in training" in page.locator("#duplicates").inner_text()
    assert "3,456" in page.locator("#summary").inner_text()
    page.locator("#summary summary").click()
    cells = page.locator("#summary tbody tr").first.locator("th, td").all_inner_texts()
    assert cells == ["Conv2d-1", "prep.conv", "64 × 32 × 32", "1,728", "1.77\u00a0M", "3 px"]
    assert page.locator("#augmented canvas").count() == 4
    assert "no validation split" in page.locator("#notes").inner_text()
    assert page.locator("#contents a").all_inner_texts()[:3] == ["Findings", "Confusion", "Images"]


def test_a_mixed_sample_names_both_classes_with_their_shares(opened: Opener) -> None:
    facts = make_facts()
    mixed = [{"share": share, "other": 1} for share in (0.75, 0.5, 0.25, 1.0)]
    facts["augmented"]["mixed"] = mixed
    names = opened(facts).locator("#augmented .verdict").all_inner_texts()
    shares = [("75", "25"), ("50", "50"), ("25", "75"), ("100", "0")]
    assert [name.replace("\u00a0", " ") for name in names] == [
        f"{part} % {name}"
        for label, (own, other) in zip([0, 2, 3, 5], shares, strict=True)
        for part, name in ((own, CLASSES[label]), (other, CLASSES[1]))
    ]


def test_the_theme_is_the_systems_until_one_is_chosen(opened: Opener) -> None:
    page = opened(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    assert page.locator("#theme-toggle").get_attribute("aria-pressed") == "true"
    page.locator("#theme-toggle").click()
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == light
    assert page.locator("#theme-toggle").get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_stand_out_from_what_they_stand_on(opened: Opener, theme: str) -> None:
    page = opened(color_scheme=theme)
    names = ["ground", "surface", "sunk", "problem-ground", "heat-right", "heat-wrong"]
    names += ["ink", "muted", "accent", "problem", "fine"]
    read = "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue(n))"
    colours = dict(zip(names, page.evaluate(read, [f"--{name}" for name in names]), strict=True))

    def luminance(name: str) -> float:
        srgb = np.array([int(colours[name].strip()[k : k + 2], 16) / 255 for k in (1, 3, 5)])
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def contrast(one: str, other: str) -> float:
        low, high = sorted([luminance(one), luminance(other)])
        return (high + 0.05) / (low + 0.05)

    for ground in names[:4]:
        assert contrast("ink", ground) >= 7
        assert contrast("muted", ground) >= 4.5
    for ground in ["ground", "surface", "problem-ground"]:
        for text in ["accent", "problem", "fine"]:
            assert contrast(text, ground) >= 4.5, (text, ground)
    for heat in ["heat-right", "heat-wrong"]:
        assert contrast("ink", heat) >= 4.5, heat


@pytest.mark.parametrize("k", [2, 10, 100, 1000])
def test_a_phone_need_not_scroll_sideways(opened: Opener, k: int) -> None:
    page = opened(make_facts() if k == 10 else with_classes(k))
    for width in [360, 1200]:
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    if k >= 10:
        page.set_viewport_size({"width": 360, "height": 740})
        page.locator(".thumb").first.click()
        assert page.evaluate("byId('detail').scrollWidth - byId('detail').clientWidth") <= 0


def test_parts_that_are_missing_leave_no_trace(opened: Opener) -> None:
    page = opened(while_training())
    assert page.locator("main section:visible").count() <= 1
    for one in page.locator("main section:visible").all():
        assert one.get_attribute("id") == "headline"
        assert one.inner_text() == ""
    assert page.locator("#contents a").count() == 0
    assert "null" not in page.locator("body").inner_text()


NULLABLE = ["confusion", "per_class", "schedule", "lr_test", "calibration", "summary", "augmented"]


def test_each_part_may_be_missing_alone(opened: Opener) -> None:
    page = opened()
    whole = make_facts()
    for part in [*NULLABLE, "gallery", "duplicates_total", "suspects_total"]:
        page.evaluate("facts => render(facts)", whole | {part: None})
        text = page.locator("main").inner_text()
        for word in ["null", "undefined", "NaN"]:
            assert word not in text, part
        section = page.locator(f"#{part.replace('_', '-')}")
        if part == "confusion":  # the pairs are still there
            assert section.locator(".pair").count() == 2
        elif section.count():
            assert section.is_hidden(), part
        if part == "gallery":
            page.locator("td[data-true='1'][data-predicted='0']").click()
    page.evaluate("facts => render(facts)", whole)
    assert shown(page) == list(range(60))


def test_a_gallery_without_maps_has_no_switch_for_them(opened: Opener) -> None:
    facts = make_facts()
    facts["gallery"]["maps"] = None
    page = opened(facts)
    assert page.locator("#cam-controls").is_hidden()
    page.locator(".thumb").first.click()
    assert page.locator("#detail figcaption").all_inner_texts() == ["The image"]


def test_rendering_again_changes_nothing(opened: Opener) -> None:
    page = opened()
    page.locator("#loss-chart svg.chart").wait_for()
    page.locator("#filter-true").select_option("1")
    page.locator("#summary summary").click()
    before = page.locator("body").inner_html()
    page.evaluate("render(JSON.parse(byId('facts').textContent))")
    assert page.locator("body").inner_html() == before


class Facts(BaseHTTPRequestHandler):
    """Serves a page and the facts that a test sets; 503 while `lost`."""

    facts: dict[str, Any]
    lost = False
    asked = 0

    def do_GET(self) -> None:
        kind = type(self)
        if self.path == "/facts.json":
            kind.asked += 1
            body = json.dumps(kind.facts).encode()
        else:
            body = render_run(kind.facts).encode()
        self.send_response(503 if kind.lost else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        return


@pytest.fixture
def live(browser: Browser) -> Iterator[tuple[Page, type[Facts]]]:
    class Served(Facts):
        facts = at_epoch(3)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    context = browser.new_context(viewport=WIDE, reduced_motion="reduce")
    page = context.new_page()
    page.clock.install()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    yield page, Served
    context.close()
    server.shutdown()
    server.server_close()
    assert errors == []


def test_a_live_page_follows_the_training_and_stops_at_its_end(
    live: tuple[Page, type[Facts]],
) -> None:
    page, served = live
    line = page.locator("#live")
    text = line.inner_text().replace("\u00a0", " ")
    for part in ["epoch 3 of 24", "step 49 of 98", "loss 1.2", "accuracy 61 %", "20 min 00 s left"]:
        assert part in text
    assert page.locator("progress").get_attribute("value") == "2.5"

    served.facts = at_epoch(4)
    page.clock.run_for(2100)
    line.get_by_text("epoch 4 of 24").wait_for()

    served.lost = True
    page.clock.run_for(2100)
    line.get_by_text("connection lost").wait_for()
    served.lost = False
    page.clock.run_for(2100)
    line.get_by_text("connection lost").wait_for(state="detached")

    served.facts = at_epoch(24, state="finished")
    page.clock.run_for(2100)
    line.get_by_text("Finished").wait_for()
    asked = served.asked
    page.clock.run_for(20_000)
    assert page.evaluate("fetch('facts.json').then(() => 'answered')") == "answered"
    assert served.asked == asked + 1  # the test's own


def test_a_live_page_keeps_what_its_reader_has_set(live: tuple[Page, type[Facts]]) -> None:
    page, served = live
    page.locator("#loss-chart svg.chart").wait_for()
    # the browser's own anchoring, which not all have, would hide that the page does it
    page.evaluate("document.body.style.overflowAnchor = 'none'")
    page.locator("#filter-true").select_option("1")
    page.locator("#search").fill("test/1")
    page.locator("#summary summary").click()
    header = page.locator("#per-class thead button").nth(3)
    header.click()
    before = page.locator("#per-class").bounding_box()
    changed = copy.deepcopy(at_epoch(4))
    changed["findings"] = changed["findings"] * 3  # the page above grows
    changed["per_class"][0]["support"] = 12345
    changed["summary"]["rows"] *= 2
    changed["gallery"]["loss"][70] = 8.0
    served.facts = changed
    page.clock.run_for(2100)
    page.locator("#per-class").get_by_text("12,345").wait_for()
    after = page.locator("#per-class").bounding_box()
    assert before
    assert after
    assert after["y"] == pytest.approx(before["y"], abs=2)
    assert page.locator("#search").input_value() == "test/1"
    assert shown(page) == [70, 71, 72, 73, 74]
    assert page.locator("#summary details").get_attribute("open") is not None
    assert page.evaluate("document.activeElement.dataset.key") == "per-class-sort-3"
    assert page.locator("#per-class thead th").nth(3).get_attribute("aria-sort") == "descending"


def test_a_page_from_disk_does_not_ask_for_new_facts(opened: Opener) -> None:
    page = opened(at_epoch(3))
    assert page.evaluate("following(firstFacts)") is False
    assert "epoch 3 of 24" in page.locator("#live").inner_text()
