"""No training imports torch's compiler, and its optimizers are torch's."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from helpers import TESTS
from resight.engine import uncompiled

SCRIPT = """
import sys, tempfile
import resight
from helpers import make_data
from resight.progress import Quiet
from trainings import tiny

recipe = tiny(sys.argv[1], **{"optimizer.name": sys.argv[2]})
data = make_data(size=recipe.data.image_size)
with tempfile.TemporaryDirectory() as folder:
    resight.train(recipe, data, out=folder + "/run", report=False, reporter=Quiet())
print([name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor"))])
"""


@pytest.mark.parametrize(
    ("recipe", "optimizer"),
    [("digits", "adam"), ("digits", "adamw"), ("digits", "sgd"), ("fast", "muon")],
)
def test_a_training_imports_no_compiler(recipe: str, optimizer: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, recipe, optimizer],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("mine", "theirs", "options"),
    [
        (uncompiled.SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (uncompiled.Adam, torch.optim.Adam, {"weight_decay": 0.1}),
        (uncompiled.AdamW, torch.optim.AdamW, {"weight_decay": 0.1}),
    ],
)
def test_their_steps_are_torchs(
    mine: type[torch.optim.Optimizer],
    theirs: type[torch.optim.Optimizer],
    options: dict[str, object],
) -> None:
    weights = [torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_() for _ in range(2)]
    kept = [
        kind([weight], lr=0.1, fused=True, **options)  # type: ignore[call-arg]
        for kind, weight in zip((mine, theirs), weights, strict=True)
    ]
    for step in range(3):
        for optimizer, weight in zip(kept, weights, strict=True):
            weight.grad = torch.full_like(weight, 0.5 + step)
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], torch.linspace(-1, 1, 12).reshape(3, 4))
    assert str(kept[0].state_dict()) == str(kept[1].state_dict())
