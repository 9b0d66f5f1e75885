"""The first steps of every recipe give the losses that were written down: who moves them says why.

Another CPU's kernels round differently, and a training amplifies that: with AVX2 kernels instead
of AVX-512 the first epoch differed by 2e-6 at most, the second by 1e-3, the third by 1e-2, the
last by half. A changed initialisation, augmentation, schedule or optimizer shows in the first.
"""

from __future__ import annotations

import json

import pytest

from golden import FILE, losses
from resight.recipe.catalog import RECIPES

TOLERANCES = (1e-4, 5e-3, 5e-2, 0.2, 0.5, 1.0, 2.0)  # relative, by epoch
KNOWN = json.loads(FILE.read_text(encoding="utf-8"))


def test_every_recipe_is_there() -> None:
    assert sorted(KNOWN) == sorted(RECIPES)


@pytest.mark.usefixtures("any_lr_test")
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_losses_are_those_written_down(name: str) -> None:
    for now, then, tolerance in zip(losses(name), KNOWN[name], TOLERANCES, strict=True):
        assert now == pytest.approx(then, rel=tolerance)
