"""What guessing costs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from resight.diagnosis.evidence import chance_loss


def test_chance_is_ln_k_for_equal_classes_and_the_entropy_for_others() -> None:
    assert chance_loss(np.array([5, 5, 5, 5]), 0.0) == pytest.approx(math.log(4))
    assert chance_loss(np.array([9, 1]), 0.0) == pytest.approx(0.325083, abs=1e-6)
    assert chance_loss(np.array([7, 7]), 0.3) == pytest.approx(math.log(2))
    assert chance_loss(np.array([3, 0]), 0.0) == 0.0
