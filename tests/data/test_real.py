"""The JPEG copy of CIFAR-10, all 60,000 images, in both layouts; skipped where it is missing."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from helpers import SHARED, channel_statistics
from resight.data import cache, cifar, table, workers
from resight.data.sources import load_data
from resight.data.types import ImageData

DATA = SHARED / "data"
pytestmark = pytest.mark.skipif(
    not (DATA / "cifar10-jpeg.tar.xz").is_file(), reason=f"no cifar10-jpeg.tar.xz in {DATA}"
)
MEAN, STD = [0.4913, 0.4821, 0.4465], [0.2452, 0.2428, 0.2606]
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """DEST/folder with train/ and test/, DEST/batches with cifar-10-batches-py/."""
    place = tmp_path_factory.mktemp("cifar10-jpeg")
    for name, options in (("folder", []), ("batches", ["--batches"])):
        command = [sys.executable, str(DATA / "unpack_cifar10.py"), str(place / name), *options]
        subprocess.run(command, check=True, capture_output=True)
    yield place
    cache.settle()
    shutil.rmtree(place)  # 60,000 files; pytest would keep three sessions' worth


@pytest.fixture(autouse=True)
def places(unpacked, monkeypatch):
    monkeypatch.setenv("RESIGHT_CACHE", str(unpacked / "cache"))


@pytest.fixture(scope="module")
def loaded(unpacked):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIGHT_CACHE", str(unpacked / "cache"))
        return {name: load_data(unpacked / name, image_size=32) for name in ("folder", "batches")}


@pytest.mark.parametrize("layout", ["folder", "batches"])
def test_counts_and_statistics(loaded, layout):
    data = loaded[layout]
    assert data.classes == CLASSES
    assert data.train.images.shape == (50_000, 32, 32, 3)
    assert data.test.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(data.train.labels).tolist() == [5000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert len(set(data.train.ids.tolist())) == 50_000
    assert data.mean.round(4).tolist() == MEAN
    assert data.std.round(4).tolist() == STD
    assert data.notes == data.bad == ()
    assert data.name == {"folder": "folder", "batches": "cifar10"}[layout]


def test_sums_of_rows_give_the_statistics_of_the_pixels(loaded):
    mean, std = channel_statistics(loaded["folder"].train.images)
    assert np.array_equal(mean, loaded["folder"].mean)
    assert np.array_equal(std, loaded["folder"].std)
    assert np.array_equal(mean, loaded["batches"].mean)


def images_by_class(data: ImageData) -> Counter[tuple[str, int, bytes]]:
    return Counter(
        (name, label, hashlib.blake2b(image.tobytes(), digest_size=8).digest())
        for name, split in (("train", data.train), ("test", data.test))
        for image, label in zip(split.images, split.labels.tolist(), strict=True)
    )


def test_both_layouts_hold_the_same_images(loaded):
    assert images_by_class(loaded["folder"]) == images_by_class(loaded["batches"])


@pytest.mark.parametrize("layout", ["folder", "batches"])
def test_the_second_load_decodes_nothing(loaded, unpacked, monkeypatch, layout):
    def refuse(*_):
        raise AssertionError("decoded again")

    for module, name in (
        (workers, "decode_file"),
        (cifar, "unpickle"),
        (cache, "decode_table"),
        (table, "row_digests"),
    ):
        monkeypatch.setattr(module, name, refuse)
    data = load_data(unpacked / layout, image_size=32)
    assert data.fingerprint == loaded[layout].fingerprint
    assert isinstance(data.train.images, np.memmap)


def test_a_folder_without_test_split(loaded, unpacked):
    """Test's 10,000 images alone, as a folder a class."""
    data = load_data(unpacked / "folder" / "test", image_size=32)
    assert np.bincount(data.train.labels).tolist() == [800] * 10
    assert np.bincount(data.test.labels).tolist() == [200] * 10
