"""The one entrance: known names, paths, digits, and what is said of anything else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from resight.data.sources import load_data
from resight.errors import ResightError


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "the-cache"))
    monkeypatch.setenv("RESIGHT_DATA", str(tmp_path / "the-data"))
    monkeypatch.chdir(tmp_path)


def make(root: Path, classes: str = "ab") -> Path:
    for number in range(8):
        path = root / classes[number % len(classes)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 2 * number, 3 * number)).save(path)
    return root


def error_of(source, **options) -> str:
    with pytest.raises(ResightError) as caught:
        load_data(source, **{"image_size": 4, **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", image_size=8)


def test_digits_are_scikit_learns_scaled_to_255(digits):
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    assert digits.classes == tuple("0123456789")
    assert (digits.name, digits.source) == ("digits", "digits")
    assert digits.channels == 1
    bunch = load_digits()
    for split in (digits.train, digits.test):
        numbers = [int(name.removeprefix("digits-")) for name in split.ids]
        assert split.labels.tolist() == bunch.target[numbers].tolist()
        exact = bunch.images[numbers] * 255 / 16
        assert np.abs(split.images[..., 0] - exact).max() <= 0.5
    assert digits.train.images.max() == 255
    assert digits.notes[0] == (
        "no test split in digits: 20% of each class held out (seed 0), 1438 train / 359 test"
    )
    sizes, held = (np.bincount(s.labels) for s in (digits.train, digits.test))
    assert np.abs(held / (sizes + held) - 0.2).max() < 0.005


def test_digits_can_be_measured_whole(digits):
    data = load_data("digits", image_size=8, held_out=False)
    assert data.train is data.test
    assert len(data.test) == 1797
    assert data.notes == ("no test split in digits: all 1797 images are evaluated",)
    assert data.fingerprint != digits.fingerprint


def test_digits_at_another_size_seed_and_colour(digits):
    other = load_data("digits", image_size=32, channels=3, split_seed=1)
    assert other.train.images.shape[1:] == (32, 32, 3)
    assert other.test.ids.tolist() != digits.test.ids.tolist()
    assert other.fingerprint != digits.fingerprint
    assert load_data("digits", image_size=8).fingerprint == digits.fingerprint


def test_progress_of_digits():
    calls = []
    load_data("digits", image_size=8, progress=lambda *call: calls.append(call))
    assert calls[-1] == (1797, 1797)


def test_a_name_that_is_nearly_known():
    assert "did you mean 'digits'?" in error_of("digts")
    assert "did you mean 'cifar10'?" in error_of("CIFAR-10")
    assert error_of("mnist") == (
        "no data 'mnist': not a known name, and no such file or folder; "
        "known: cifar10, cifar100, digits"
    )


def test_a_path_that_is_nearly_there(tmp_path):
    make(tmp_path / "pictures")
    assert error_of(str(tmp_path / "pictres")).endswith("; did you mean 'pictures'?")
    assert error_of("picturs").endswith("; did you mean 'pictures'?")
    assert error_of("no/such/place").startswith("no data 'no/such/place'")
    assert error_of("").startswith("no data ''")


def test_a_known_name_wins_and_a_path_means_the_folder(tmp_path):
    make(tmp_path / "digits")
    assert len(load_data("digits", image_size=8).classes) == 10
    for path in ("./digits", tmp_path / "digits", Path("digits")):
        assert load_data(path, image_size=4).classes == ("a", "b")


def test_the_source_is_absolute_and_the_home_folder_is_known(tmp_path, monkeypatch):
    make(tmp_path / "pictures")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("pictures", "~/pictures", "./pictures/", tmp_path / "a" / ".." / "pictures"):
        data = load_data(path, image_size=4)
        assert data.source == str(tmp_path / "pictures")
        assert data.name == "pictures"


def test_options_out_of_range(tmp_path):
    make(tmp_path / "pictures")
    assert error_of("pictures", channels=2) == (
        "channels must be 1 (grey), 3 (RGB) or left out, not 2"
    )
    assert error_of("pictures", image_size=0) == "image_size must be at least 1 pixel, not 0"


def test_no_torch_and_no_scikit_learn_at_import():
    code = (
        "import sys, resight.data.sources, resight.data.download;"
        "sys.exit(bool({'torch', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_images_print_as_one_line():
    data = load_data("digits", image_size=8)
    assert repr(data) == "ImageData(digits: 1,438 train / 359 test, 10 classes, 8×8 px, grey)"
    assert repr(data.test) == "Split(359 images, 8×8 px, grey)"
