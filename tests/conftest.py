"""What the tests share: one thread, caches of their own, and small images that can be learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from resight.data.types import ImageData, Split


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
    return


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path_factory.mktemp("user")
    monkeypatch.setenv("RESIGHT_CACHE", str(base / "cache"))
    monkeypatch.setenv("RESIGHT_DATA", str(base / "data"))


def make_split(n: int, *, classes: int, size: int, channels: int, seed: int) -> Split:
    """Noise around a colour and a corner of the class's own: learnt in a few steps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % classes
    images = rng.integers(60, 120, (n, size, size, channels)).astype(np.int64)
    for i, label in enumerate(labels):
        images[i, label % size, :, :] += 100
    ids = np.array([f"{seed}-{i:05d}" for i in range(n)])
    return Split(images.clip(0, 255).astype(np.uint8), labels, ids)


def make_data(
    n: int = 70,
    *,
    classes: int = 3,
    size: int = 8,
    channels: int = 3,
    n_test: int = 30,
    val: int = 0,
) -> ImageData:
    """A dataset in memory, the same at each call."""
    train = make_split(n, classes=classes, size=size, channels=channels, seed=1)
    test = make_split(n_test, classes=classes, size=size, channels=channels, seed=2)
    held = make_split(val, classes=classes, size=size, channels=channels, seed=3) if val else None
    pixels = train.images.reshape(-1, channels).astype(np.float64) / 255
    return ImageData(
        name="made",
        source="memory",
        classes=tuple(f"class {i}" for i in range(classes)),
        train=train,
        test=test,
        mean=pixels.mean(0),
        std=pixels.std(0),
        fingerprint=f"made-{n}-{classes}-{size}-{channels}-{n_test}-{val}",
        val=held,
    )


@pytest.fixture
def data() -> ImageData:
    return make_data()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"
