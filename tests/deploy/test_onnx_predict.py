"""`examples/onnx_predict.py`: photos as Resight reads them, answers as Resight gives them, and
nothing imported but numpy, Pillow and onnxruntime."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from deploying import predictor
from helpers import ROOT, pictures
from resight.data.decode import decode_file
from resight.deploy.onnx_graph import facts, labelled, onnx_model
from resight.recipe.settings import Fit

SCRIPT = ROOT / "examples" / "onnx_predict.py"
BLOCKED = "import runpy, sys\nfor name in ('torch', 'resight'):\n    sys.modules[name] = None\n"
RUN = f"{BLOCKED}sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A large JPEG, one on its side, transparency, a palette, 16 bits, and the net's own size."""
    root = tmp_path_factory.mktemp("photos")
    large = Image.fromarray(pictures(1, size=120)[0]).crop((0, 0, 120, 90))
    large.save(root / "large.jpg", quality=95)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    large.crop((0, 0, 50, 31)).save(root / "turned.jpg", exif=exif)
    clear = large.resize((40, 33)).convert("RGBA")
    clear.putalpha(Image.fromarray(pictures(1, 1, size=40, channels=1)[0, :33, :, 0]))
    clear.save(root / "clear.png")
    large.resize((31, 47)).quantize(16).save(root / "palette.gif", transparency=3)
    deep = (pictures(1, 2, size=37, channels=1)[0, :29, :, 0].astype(np.uint16) * 257) + 77
    Image.fromarray(deep).save(root / "deep.png")
    Image.fromarray(pictures(1, 3, size=16)[0]).save(root / "own size.png")
    Image.fromarray(pictures(1, 4, size=20, channels=1)[0, :, :16, 0]).save(root / "grey.png")
    return sorted(root.iterdir())


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("onnx_predict", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("channels", [1, 3])
def test_photos_are_read_pixel_for_pixel_as_resight_reads_them(
    script: ModuleType, photos: list[Path], fit: Fit, channels: int
) -> None:
    for photo in photos:
        expected = decode_file(str(photo), 16, channels, fit)
        np.testing.assert_array_equal(script.load(photo, 16, channels, fit), expected, str(photo))


def test_it_prints_resights_answers_without_resight_and_torch(
    photos: list[Path], tmp_path: Path
) -> None:
    made = predictor("fastnet", tta="flip", logit_scale=4.0, classes=5, temperature=1.7)
    ours = dataclasses.replace(made, fit="pad")
    model = labelled(onnx_model(ours, {}), facts(ours))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    words = [str(tmp_path / "model.onnx"), *map(str, photos)]
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(SCRIPT), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    answers = ours.answers(photos)
    lines = done.stdout.splitlines()
    assert len(lines) == len(photos)
    for line, photo, shares in zip(lines, photos, answers.probabilities, strict=True):
        best = np.argsort(shares)[::-1][:3]
        expected = [f"{ours.classes[i]} {shares[i]:.1%}" for i in best]
        assert line == "  ".join([str(photo), *expected])
    assert len({line.split("  ")[1] for line in lines}) > 1


def test_the_block_blocks() -> None:
    code = f"{BLOCKED}import torch"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode
