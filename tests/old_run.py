"""Write the run folders of the format that this version writes, as `tests/old_runs` keeps them.

`PYTHONPATH=tests python tests/old_run.py`, once for each new format, from the last commit that
writes it; see `tests/old_runs/README.md`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch

import resight
from resight.formats import FORMAT
from resight.progress import Quiet
from resight.training import lr_test_plan
from trainings import StopAt, interrupt

OLD_RUNS = Path(__file__).parent / "old_runs"
SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "val": 0.1,
    "batch_size": 128,
    "model": {"width": 2},
    "train": {"ema": 0.9},
}
STEPS = 11 + 11  # of the stopped run: two of its three epochs, the second not yet measured


def write(folder: Path) -> None:
    """Into `folder`: `finished`, without its checkpoint, and `stopped`, which was interrupted."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, reporter in {"finished": Quiet(), "stopped": StopAt(STEPS, interrupt)}.items():
        with contextlib.suppress(resight.Interrupted):
            resight.train(
                "digits",
                "digits",
                out=folder / name,
                precision="fp32",
                report=False,
                reporter=reporter,
                **SETTINGS,
            )
        for lock in (folder / name).glob(".*lock"):
            lock.unlink()
    (folder / "finished" / "last.pt").unlink()


if __name__ == "__main__":
    torch.set_num_threads(1)
    lr_test_plan.MAX_SHARE = 100.0  # so that there is an LR test
    os.chdir(OLD_RUNS)  # so that no file of the runs names a place on this machine
    write(Path(f"format-{FORMAT}"))
