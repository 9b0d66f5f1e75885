"""Resight's LR test next to torch-lr-finder's: the same net, weights, batches, optimizer and LRs.

    python benchmarks/lr_finder.py [--recipe digits] [--data DIR] [--set model.width=24]

Both run in fp32, so that they do the same arithmetic. torch-lr-finder reads its own curve with its
defaults: smoothing 0.05, and the steepest gradient without the first 10 and the last 5 points.
`--json FILE` also writes the figures to a file.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import time
import warnings
from collections.abc import Iterator, Sequence

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from measuring import one_line_errors, options_parser, print_table, write_figures
from resight.engine.job import Job, prepare
from resight.engine.runtime import Runtime
from resight.engine.state import init_net
from resight.errors import ResightError
from resight.recipe.overrides import parse_setting
from resight.training.find_lr import LR_RANGE, run_range_test
from resight.training.lr_test_plan import MAX_STEPS, MIN_STEPS, LrTestPlan

try:
    from torch_lr_finder import LRFinder  # type: ignore[import-untyped]
except ImportError:
    LRFinder = None

mpl.use("Agg")


def drawn_batches(job: Job) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels as the job's own steps see them, epoch after epoch from the first."""
    for epoch in itertools.count():
        plan = job.plan(epoch)
        for position in range(job.steps_per_epoch):
            index = plan.batch(position, job.recipe.train.batch_size)
            yield job.train.augmented(index, plan, job.recipe.augment)


def their_test(job: Job, steps: int) -> tuple[list[float], list[float], float | None]:
    """torch-lr-finder's LRs, raw losses and suggestion on the batches that the job draws."""
    recipe = job.recipe
    batches = list(itertools.islice(drawn_batches(job), steps))
    model = init_net(recipe, classes=len(job.data.classes), channels=job.data.channels)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(
        model.parameters(), lr=LR_RANGE[0], weight_decay=recipe.optimizer.weight_decay
    )
    losses: list[float] = []

    class Recorded(nn.CrossEntropyLoss):
        def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            loss: torch.Tensor = super().forward(logits, labels)
            losses.append(float(loss))
            return loss

    finder = LRFinder(model, optimizer, Recorded(), device="cpu")
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(io.StringIO()):
            loader: DataLoader[Tensor] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
            finder.range_test(loader, end_lr=LR_RANGE[1], num_iter=steps, step_mode="exp")
            drawn = finder.plot(suggest_lr=True)
    return finder.history["lr"], losses, drawn[1] if isinstance(drawn, tuple) else None


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--data")
    parser.add_argument("--set", action="append", default=[], help="set a field of the recipe")
    arguments = parser.parse_args(argv)
    if LRFinder is None:
        raise ResightError("torch-lr-finder is not installed: pip install torch-lr-finder")
    changes = dict(parse_setting(pair) for pair in arguments.set)
    job = prepare(arguments.recipe, arguments.data, Runtime.choose("cpu", "fp32"), changes=changes)
    if job.recipe.optimizer.name != "adam":
        raise ResightError(
            f"--recipe {arguments.recipe} has optimizer.name = '{job.recipe.optimizer.name}' and "
            "the comparison is only for adam: give --set optimizer.name=adam"
        )
    start = time.perf_counter()
    steps = max(MIN_STEPS, min(MAX_STEPS, job.steps_per_epoch))
    ours = run_range_test(job, LrTestPlan(steps, job.batch_images(0)))
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    lrs, losses, suggestion = their_test(job, steps)
    their_seconds = time.perf_counter() - start
    shared = min(len(ours.lrs), len(lrs))
    apart = np.abs(ours.losses[:shared] - np.array(losses[:shared]))
    before = int(ours.lrs.searchsorted(1e-2))
    suggestions = ours.suggestions()
    print(f"{arguments.recipe} on {job.data.name}, at most {steps} steps up to LR {LR_RANGE[1]:g}")
    readings: dict[str, float | None] = {
        f"resight {method}": value for method, value in suggestions.items()
    }
    readings["torch-lr-finder steepest"] = suggestion
    rows = [(name, "none" if lr is None else f"{lr:.3g}") for name, lr in readings.items()]
    print_table(("reading", "LR"), rows)
    print(f"resight {len(ours.lrs)} steps in {seconds:.1f} s ({ours.stop}); ", end="")
    print(f"torch-lr-finder {len(lrs)} steps in {their_seconds:.1f} s")
    print(f"raw losses below LR 0.01 differ by at most {apart[:before].max():.2g}")
    figures = {
        "benchmark": "lr_finder",
        "recipe": arguments.recipe,
        "changes": changes,
        "resight": suggestions,
        "resight_steps": len(ours.lrs),
        "resight_stop": ours.stop,
        "resight_seconds": seconds,
        "torch_lr_finder": suggestion,
        "torch_lr_finder_steps": len(lrs),
        "torch_lr_finder_seconds": their_seconds,
        "largest_loss_difference_below_lr_0.01": float(apart[:before].max()),
    }
    write_figures(arguments.json, figures)


if __name__ == "__main__":
    main()
