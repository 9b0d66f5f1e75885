"""The losses of every recipe's first steps on images made here: `python tests/golden.py` writes
them, and who moves them says why in the commit."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from resight.recipe.catalog import RECIPES
from resight.training import lr_test_plan
from trainings import fit, images_for, tiny

FILE = Path(__file__).parent / "training" / "golden.json"
EPOCHS = 7  # of three steps


def losses(name: str) -> list[float]:
    """Mean training loss of each epoch: fp32, one thread."""
    recipe = tiny(name).with_epochs(EPOCHS)
    with tempfile.TemporaryDirectory() as folder:
        run = fit(recipe, images_for(recipe), Path(folder) / "run")
        return [row["train_loss"] for row in run.metrics]


if __name__ == "__main__":
    torch.set_num_threads(1)
    lr_test_plan.MAX_SHARE = 100.0
    measured = {name: [float(f"{x:.7g}") for x in losses(name)] for name in sorted(RECIPES)}
    text = ",\n".join(f'  "{name}": {json.dumps(values)}' for name, values in measured.items())
    FILE.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
    print(f"wrote {FILE.name}: {len(measured)} recipes")
