"""Does a captured step give the eager one's losses on a GPU? The same steps by both, case by case.

    python benchmarks/executors.py [--cases "fast" "best" "custom-resnet train.ema=0.99" …]
                                   [--steps 20] [--images 5000]

Each case is a recipe and its changes, for example `precision=fp16`, on random images of its size.
Prints by how much the losses of the first steps differ at most, relative to eager's, by how much
the logits of a replayed evaluation differ from those of an eager one, and the seconds until the
first replay. Exits 2 at the first case that falls back to eager execution.

Without a GPU it says so and exits 2; `--device cpu` tries it out, eager against eager.
"""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from measuring import one_line_errors, options_parser, print_table, whole_number, write_figures
from resight.engine.forward import Forwards, predict
from resight.engine.job import Job, build_job
from resight.engine.runtime import Runtime
from resight.errors import ResightError, ResightWarning
from resight.recipe.catalog import find_recipe
from resight.recipe.overrides import parse_setting
from workload import begin_epoch, describe, random_data

CASES = [
    "fast",
    "fast precision=fp16",
    "fast train.norm_batch=0 train.batch_size=2000",
    "best",
    "custom-resnet",
    "custom-resnet precision=fp16",
    "custom-resnet train.ema=0.99",
    "custom-resnet optimizer.clip_grad_norm=1.0",
    "custom-resnet train.batch_size=480 train.last_batch=keep",
    "custom-resnet-fast",
    "resnet18",
]
PRECISION = "precision="  # in a case: it is no setting of a recipe
SHOWN = 2000  # images that are evaluated


def job_of(case: str, device: str, *, eager: bool, images: int) -> Job:
    name, *pairs = shlex.split(case)
    given = [pair.removeprefix(PRECISION) for pair in pairs if pair.startswith(PRECISION)]
    changes = dict(parse_setting(pair) for pair in pairs if not pair.startswith(PRECISION))
    precision = given[0] if given else "auto"
    runtime = Runtime.choose(device, precision, executor="eager" if eager else "auto")
    runtime.apply()
    recipe = find_recipe(name).with_changes(changes)
    return build_job(recipe, random_data(recipe, images), runtime)


def losses_of(job: Job, steps: int) -> tuple[Tensor, float]:
    """The losses of the first steps, and the seconds until the first is done."""
    found: list[Tensor] = []
    began, first = time.perf_counter(), 0.0
    while len(found) < steps:
        begin_epoch(job, len(found) // job.steps_per_epoch)
        for position in range(min(job.steps_per_epoch, steps - len(found))):
            job.executor.step(position)
            found.append(job.state.trace.losses[position].clone())
            if len(found) == 1:
                found[0].item()  # waits for it
                first = time.perf_counter() - began
    return torch.stack(found).cpu(), first


def compared(case: str, device: str, steps: int, images: int) -> dict[str, Any]:
    """Raises `ResightError` if a recording fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResightWarning)
        try:
            jobs = {
                eager: job_of(case, device, eager=eager, images=images) for eager in (True, False)
            }
            (plain, _), (replayed, first) = (
                losses_of(jobs[eager], steps) for eager in (True, False)
            )
            job = jobs[False]
            forwards = None if job.runtime.on_cpu else Forwards(job.runtime)
            shown = job.test.at(torch.arange(min(SHOWN, images)))
            logits = [
                predict(job.state.model, shown, job.runtime, forwards=f) for f in (None, forwards)
            ]
        except ResightWarning as warning:
            raise ResightError(f"{case}: {warning}") from None
    size = logits[0].abs().max()
    return {
        "executor": job.runtime.executor,
        "loss_difference": float(((replayed - plain).abs() / plain.abs()).max()),
        "logit_difference": float((logits[1] - logits[0]).abs().max() / size),
        "last_loss": float(plain[-1]),
        "first_seconds": first,
    }


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="CASE")
    parser.add_argument("--steps", type=whole_number, default=20)
    parser.add_argument("--images", type=whole_number, default=5000, help="per epoch")
    parser.add_argument("--device", default="cuda", help="cpu: to try the benchmark out")
    arguments = parser.parse_args(argv)
    machine = describe(Runtime.choose(arguments.device))
    print(
        f"{machine['device_name']}, torch {machine['torch']}, {arguments.steps} steps", flush=True
    )
    figures = {
        case: compared(case, arguments.device, arguments.steps, arguments.images)
        for case in arguments.cases
    }
    rows = [
        (
            case,
            found["executor"],
            f"{found['loss_difference']:.2g}",
            f"{found['logit_difference']:.2g}",
            f"{found['last_loss']:.3f}",
            f"{found['first_seconds']:.2f}",
        )
        for case, found in figures.items()
    ]
    names = ("executor", "losses differ", "logits differ", "last loss", "first step s")
    print_table(("case", *names), rows)
    write_figures(arguments.json, {"benchmark": "executors", "machine": machine, **figures})


if __name__ == "__main__":
    main()
