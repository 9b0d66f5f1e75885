"""Images/s of training steps of several sizes by one thread and by all, idle and beside a process.

    python benchmarks/threads.py [--cases "digits" "fast model.width=16 train.batch_size=32" …]
                                 [--rounds 5] [--burst 0.5]

Each case is a recipe and its changes; the images are random, of the recipe's full size. A burst is
as many steps as take about so many seconds with one thread. One thread and all that torch would
use take turns, first on the machine as it is, then beside one process that computes all the time.
GFLOP: of the part of a batch that goes through the net at a time, as `engine/needs.py` counts them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import torch

from estimate import beside
from measuring import (
    Spread,
    Work,
    one_line_errors,
    options_parser,
    print_table,
    seconds_of,
    take_turns,
    whole_number,
    write_figures,
)
from resight.engine.fitting import piece_size
from resight.engine.job import Job, build_job
from resight.engine.needs import step_needs
from resight.engine.runtime import Runtime
from resight.recipe.catalog import find_recipe
from resight.recipe.overrides import parse_setting
from workload import at_full_size, begin_epoch, describe, random_data

FAST = "fast train.norm_batch=0"
CASES = [
    "digits model.width=8 train.batch_size=16",
    "digits train.batch_size=16",
    "digits",
    "digits train.batch_size=256",
    f"{FAST} model.width=32 train.batch_size=16",
    f"{FAST} train.batch_size=16",
    f"{FAST} train.batch_size=64",
    f"{FAST} model.width=32 train.batch_size=16 data.image_size=96",
    f"{FAST} train.batch_size=16 data.image_size=64",
    f"{FAST} train.batch_size=250",
]


def job_of(case: str, threads: int) -> Job:
    name, *pairs = shlex.split(case)
    recipe = at_full_size(find_recipe(name).with_changes(dict(parse_setting(p) for p in pairs)))
    runtime = Runtime.choose("cpu", threads=threads)
    runtime.apply()
    return build_job(recipe, random_data(recipe, recipe.train.batch_size), runtime)


def burst(job: Job, steps: int) -> Work:
    def work() -> None:
        job.runtime.apply()
        for _ in range(steps):
            job.executor.step(0)
            float(job.state.trace.losses[0])

    return work


def measure(case: str, rounds: int, seconds: float, most: int) -> dict[str, Any]:
    """Images/s of each number of threads, idle and busy, and what a step computes."""
    jobs = {threads: job_of(case, threads) for threads in (1, most)}
    for job in jobs.values():
        begin_epoch(job, 0)
        burst(job, 1)()
    steps = max(1, round(seconds / seconds_of(burst(jobs[1], 1))))
    works = {str(threads): burst(job, steps) for threads, job in jobs.items()}
    recipe, job = jobs[1].recipe, jobs[1]
    images = piece_size(recipe, job.runtime) or recipe.train.batch_size
    needs = step_needs(recipe, classes=10, channels=3, half=False)
    figures: dict[str, Any] = {
        "gflop": images * needs.flop / 1e9,
        "step_seconds": seconds_of(works["1"]) / steps,
    }
    for kind, busy in (("idle", False), ("busy", True)):
        with beside(busy=busy):
            taken = take_turns(works, rounds)
        shown = steps * recipe.train.batch_size
        rates = {threads: Spread.of(shown / s for s in times) for threads, times in taken.items()}
        figures[kind] = {threads: rate.median for threads, rate in rates.items()}
        figures[f"{kind}_gain"] = Spread.of_ratios(taken["1"], taken[str(most)]).to_dict()
    return figures


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="CASE")
    parser.add_argument("--rounds", type=whole_number, default=5)
    parser.add_argument("--burst", type=float, default=0.5, help="seconds")
    arguments = parser.parse_args(argv)
    most = torch.get_num_threads()
    machine = describe(Runtime.choose("cpu"))
    print(f"{machine['device_name']}, torch {machine['torch']}, {arguments.rounds} rounds")
    figures = {
        case: measure(case, arguments.rounds, arguments.burst, most) for case in arguments.cases
    }
    rows = []
    for case, found in figures.items():
        cells = [f"{found['gflop']:.3g}", f"{1000 * found['step_seconds']:.3g}"]
        for kind in ("idle", "busy"):
            cells += [f"{found[kind]['1']:,.0f}", str(Spread(**found[f"{kind}_gain"]))]
        rows.append((case, *cells))
    headings = ("GFLOP", "ms by 1", "images/s by 1, idle", f"{most} ÷ 1", "busy", f"{most} ÷ 1")
    print_table(("step", *headings), rows)
    write_figures(arguments.json, {"benchmark": "threads", "machine": machine, **figures})


if __name__ == "__main__":
    main()
