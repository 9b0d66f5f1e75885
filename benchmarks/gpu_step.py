"""Milliseconds per training step on a GPU: captured as a CUDA graph compared with eager.

    python benchmarks/gpu_step.py [--recipe custom-resnet] [--batch-size 512] [--rounds 7]

A round is a whole epoch of random images (--images; by default as many as CIFAR-10 has) with each
executor in turn: its plan is drawn and copied, images are augmented, losses kept, and the clock
stops when the GPU is done. The same rounds time a large bf16 product of square matrices, whose rate
is the most that this GPU can do (FLOPs per image: see `training_flop`). Ratios are computed per
round. Warm-up and capture are reported separately: `first s` is an executor's first epoch. "Fused"
uses the kernels of `resight.models.kernels` for pool, norm and activation, the others use torch's.

Without a GPU it says so and exits 2; `--device cpu` tries it out with the eager executor alone.
"""

from __future__ import annotations

import dataclasses
import statistics
import warnings
from collections.abc import Sequence
from typing import Any

import torch

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
from resight.data.types import ImageData
from resight.engine.job import Job, build_job
from resight.engine.runtime import Execution, Runtime
from resight.errors import ResightError, ResightWarning
from resight.models.blocks import fuse
from resight.recipe.catalog import find_recipe
from resight.recipe.overrides import parse_setting
from resight.recipe.recipe import Recipe
from workload import (
    MatrixProduct,
    at_full_size,
    begin_epoch,
    describe,
    random_data,
    training_flop,
)

PRODUCTS = 20  # per round: one takes a millisecond or two


def make_jobs(recipe: Recipe, data: ImageData, runtime: Runtime) -> dict[str, Job]:
    """A separate job for each executor that the device has; eager is always there."""
    ways: dict[str, tuple[Execution, bool]] = {"eager": ("eager", False)}
    if not runtime.on_cpu:
        ways["captured"] = ("captured", False)
        ways["captured, fused"] = ("captured", True)
    jobs = {}
    for name, (executor, fused) in ways.items():
        how = dataclasses.replace(runtime, executor=executor)
        job = build_job(recipe, data, how)
        if job.runtime.executor != executor:
            raise ResightError(
                f"recipe {recipe.name}: its step can't run {executor}: "
                f"{job.runtime.reasons['executor']}"
            )
        fuse(job.state.model, fused=fused)  # overrides the job's own choice
        jobs[name] = job
    return jobs


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def epoch_of(job: Job) -> Work:
    """An epoch's steps, from drawing its plan until the device is done."""

    def epoch() -> None:
        job.state.step = 0  # each round does the work of the first epoch
        begin_epoch(job, 0)
        for position in range(job.steps_per_epoch):
            job.executor.step(position)
        synchronize(job.runtime.device)

    return epoch


def first_seconds(epoch: Work) -> float:
    """Seconds of the first epoch. Raises `ResightError` if it falls back to eager execution."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResightWarning)
        try:
            return seconds_of(epoch)
        except ResightWarning as warning:
            raise ResightError(str(warning)) from None


def products(product: MatrixProduct, device: torch.device) -> Work:
    def work() -> None:
        for _ in range(PRODUCTS):
            product()
        synchronize(device)

    return work


def measure(jobs: dict[str, Job], matrix: int, rounds: int) -> dict[str, Any]:
    """Seconds per round of an epoch with each executor and of the products, and derived
    figures."""
    eager = jobs["eager"]
    device, steps, data = eager.runtime.device, eager.steps_per_epoch, eager.data
    image = (data.channels, data.image_size, data.image_size)
    flop = training_flop(eager.state.model, image) * eager.epoch_images()
    epochs = {name: epoch_of(job) for name, job in jobs.items()}
    first = {name: first_seconds(epoch) for name, epoch in epochs.items()}
    product = MatrixProduct(matrix, "bf16", device)
    seconds = take_turns({**epochs, "bf16 product": products(product, device)}, rounds)
    peak = [PRODUCTS * product.flop / value for value in seconds["bf16 product"]]
    executors = {}
    for name in jobs:
        rates = [flop / value for value in seconds[name]]
        median = statistics.median(seconds[name])
        executors[name] = {
            "first_seconds": first[name],
            "ms_per_step": 1000 * median / steps,
            "images_per_second": eager.epoch_images() / median,
            "tflop_per_second": flop / median / 1e12,
            "fraction_of_product": Spread.of_ratios(rates, peak).to_dict(),
            "training_seconds": median * eager.recipe.schedule.epochs,
            "ratio_to_eager": Spread.of_ratios(seconds["eager"], seconds[name]).to_dict(),
        }
    return {
        "seconds": seconds,
        "steps": steps,
        "images": eager.epoch_images(),
        "flop_per_epoch": flop,
        "product_tflop_per_second": statistics.median(peak) / 1e12,
        "executors": executors,
    }


def say(figures: dict[str, Any], epochs: int) -> None:
    rows = [
        (
            name,
            f"{row['ms_per_step']:.3f}",
            f"{row['images_per_second']:,.0f}",
            f"{row['tflop_per_second']:.3g}",
            f"{row['fraction_of_product']['median']:.3f}",
            f"{row['training_seconds']:.2f}",
            f"{row['first_seconds']:.2f}",
            str(Spread(**row["ratio_to_eager"])),
        )
        for name, row in figures["executors"].items()
    ]
    peak = figures["product_tflop_per_second"]
    rows.append(("a large bf16 product", "", "", f"{peak:.3g}", "", "", "", ""))
    training = f"{epochs} epochs s"
    names = ("ms/step", "images/s", "TFLOP/s", "of product", training, "first s", "rate over eager")
    print_table(("executor", *names), rows)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--recipe", default="custom-resnet", help="a name or a file")
    parser.add_argument("--set", action="append", default=[], help="set a field of the recipe")
    parser.add_argument("--batch-size", type=whole_number, help="by default the recipe's")
    parser.add_argument("--images", type=whole_number, default=50_000, help="images per epoch")
    parser.add_argument("--rounds", type=whole_number, default=7)
    parser.add_argument("--matrix", type=whole_number, default=8192, help="side of the products")
    parser.add_argument("--device", default="cuda", help="cpu: to try the benchmark out")
    parser.add_argument("--search", type=int, help="algorithms that cuDNN times per convolution")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")
    arguments = parser.parse_args(argv)
    runtime = Runtime.choose(arguments.device, arguments.precision)
    runtime = dataclasses.replace(runtime, search=arguments.search)
    runtime.apply()
    changes = dict(parse_setting(pair) for pair in arguments.set)
    if arguments.batch_size:
        changes["train.batch_size"] = arguments.batch_size
    recipe = at_full_size(find_recipe(arguments.recipe).with_changes(changes))
    jobs = make_jobs(recipe, random_data(recipe, arguments.images), runtime)
    machine = describe(runtime)
    print(
        f"{machine['device_name']}, {machine['precision']}, torch {machine['torch']}, "
        f"{recipe.name}, batch {recipe.train.batch_size}, {arguments.images:,} images, "
        f"{arguments.rounds} rounds"
    )
    figures = measure(jobs, arguments.matrix, arguments.rounds)
    say(figures, recipe.schedule.epochs)
    head = {"benchmark": "gpu_step", "machine": machine, "recipe": recipe.to_dict()}
    write_figures(arguments.json, {**head, "rounds": arguments.rounds, **figures})


if __name__ == "__main__":
    main()
