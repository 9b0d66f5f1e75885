"""A run that is served."""

from __future__ import annotations

import pytest

import resight
from servers import train_photos


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> resight.Run:
    root = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIGHT_CACHE", str(root / "cache"))
        return train_photos(root, report=True)
