"""Images/s of training on this CPU: Resight's steps, or whole epochs, compared with plain PyTorch.

    python benchmarks/cpu_step.py [--recipe custom-resnet] [--batch-size 512] [--rounds 5]
    python benchmarks/cpu_step.py --epoch-images 2048 [--workers 0 2]

Resight's step is the one that `resight train` runs: augmentation from drawn random numbers,
channels-last, bf16 where the CPU has it. The plain step is the same net in eager execution:
contiguous fp32, torch's default Adam, a batch that is already in memory. The same rounds also time
the augmentation alone, for its share of Resight's step, and a large product of square matrices,
whose rate is the most that this CPU can do (FLOPs per image: see `training_flop`).

With --epoch-images whole epochs over that many images are compared. The plain one follows the usual
tutorials: a DataLoader over PIL images with torchvision's augmentation (also Albumentations, if it
is installed) and loss.item() at each step; the fastest number of workers counts. Resight's also
draws its plan, augments, and reads the loss at each step.

The sides take turns, so that a drift in the machine's speed favours none of them. Figures are
medians over the rounds, ratios are computed per round. The pixels are random.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from loaders import make_loader, transforms
from measuring import (
    Spread,
    Work,
    one_line_errors,
    options_parser,
    print_table,
    take_turns,
    whole_number,
    write_figures,
)
from resight.data.types import ImageData
from resight.engine.job import Job, build_job
from resight.engine.runtime import Runtime
from resight.recipe.catalog import find_recipe
from resight.recipe.overrides import parse_setting
from workload import (
    MatrixProduct,
    at_full_size,
    begin_epoch,
    describe,
    random_data,
    training_flop,
)

LR = 1e-3


def plain_net(job: Job) -> nn.Module:
    """A copy of the job's net in contiguous memory; to be made before the first step."""
    net = copy.deepcopy(job.state.model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    assert isinstance(net, nn.Module)
    return net.train()


def plain_adam(model: nn.Module) -> torch.optim.Adam:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.Adam(trained, lr=LR, weight_decay=1e-4)


def resight_step(job: Job) -> Work:
    begin_epoch(job, 0, LR)

    def step() -> float:
        job.executor.step(0)
        return float(job.state.trace.losses[0])

    return step


def plain_step(job: Job) -> Work:
    model = plain_net(job)
    optimizer = plain_adam(model)
    images = job.train.plain(0, job.recipe.train.batch_size).contiguous()
    labels = job.train.labels[: job.recipe.train.batch_size]

    def step() -> None:
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def augmentation(job: Job) -> Work:
    plan = job.plan(0)
    index = plan.batch(0, job.recipe.train.batch_size)
    return lambda: job.train.augmented(index, plan, job.recipe.augment)


def resight_epoch(job: Job) -> Work:
    """An epoch as `resight train` runs it, reading the loss after each step."""

    def epoch() -> float:
        job.state.step = 0  # each round does the work of the first epoch
        begin_epoch(job, 0, LR)
        trace, total = job.state.trace, 0.0
        for position in range(job.steps_per_epoch):
            job.executor.step(position)
            total += float(trace.losses[position])
        return total

    return epoch


def plain_epoch(job: Job, loader: DataLoader[tuple[Tensor, int]]) -> Work:
    model = plain_net(job)
    optimizer = plain_adam(model)

    def epoch() -> tuple[float, int]:
        total, correct = 0.0, 0
        for images, labels in loader:
            optimizer.zero_grad()
            logits = model(images)
            loss = cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item()
            correct += int((logits.argmax(1) == labels).sum().item())
        return total, correct

    return epoch


def measure_steps(job: Job, matrix: int, rounds: int) -> dict[str, Any]:
    """Seconds per round of both steps, the augmentation and the products, and derived figures."""
    runtime, batch = job.runtime, job.recipe.train.batch_size
    flop = training_flop(job.state.model, (3, job.data.image_size, job.data.image_size)) * batch
    kinds = ["fp32", "bf16"] if runtime.precision == "bf16" else ["fp32"]
    products = {f"{kind} product": MatrixProduct(matrix, kind, runtime.device) for kind in kinds}
    works: dict[str, Work] = {
        "plain": plain_step(job),
        "resight": resight_step(job),
        "augmentation": augmentation(job),
        **products,
    }
    seconds = take_turns(works, rounds)
    ours = [flop / value for value in seconds["resight"]]
    of_product = {
        kind: Spread.of_ratios(ours, [products[kind].flop / value for value in seconds[kind]])
        for kind in products
    }
    gflops = {side: flop / statistics.median(seconds[side]) / 1e9 for side in ("resight", "plain")}
    for kind, product in products.items():
        gflops[kind] = product.flop / statistics.median(seconds[kind]) / 1e9
    return {
        "seconds": seconds,
        "flop_per_step": flop,
        "gflop_per_second": gflops,
        "images_per_second": {
            side: batch / statistics.median(seconds[side]) for side in ("resight", "plain")
        },
        "ratio": Spread.of_ratios(seconds["plain"], seconds["resight"]).to_dict(),
        "fraction_of_product": {kind: value.to_dict() for kind, value in of_product.items()},
        "augmentation_share": Spread.of_ratios(
            seconds["augmentation"], seconds["resight"]
        ).to_dict(),
    }


def measure_epochs(job: Job, workers: Sequence[int], rounds: int) -> dict[str, Any]:
    """Seconds per round of an epoch of either side, for each way of loading, and derived
    figures."""
    recipe, images = job.recipe, job.epoch_images()
    works: dict[str, Work] = {}
    for library, transform in transforms(job.data, recipe.augment).items():
        for count in workers:
            loader = make_loader(job.data, transform, recipe.train, count)
            works[f"{library}, {count} workers"] = plain_epoch(job, loader)
    plain = list(works)
    seconds = take_turns({**works, "resight": resight_epoch(job)}, rounds)
    best = min(plain, key=lambda name: statistics.median(seconds[name]))
    return {
        "seconds": seconds,
        "images": images,
        "images_per_second": {
            name: images / statistics.median(values) for name, values in seconds.items()
        },
        "best_plain": best,
        "ratio": Spread.of_ratios(seconds[best], seconds["resight"]).to_dict(),
    }


def say_steps(job: Job, figures: dict[str, Any]) -> None:
    names = {
        "resight": f"resight: {job.runtime.precision}, channels-last, augmented",
        "plain": "plain: fp32, NCHW, Adam, a batch in memory",
    }
    rows = []
    for side, gflops in figures["gflop_per_second"].items():
        rate = figures["images_per_second"].get(side)
        rows.append((names.get(side, side), f"{rate:.1f}" if rate else "", f"{gflops:.0f}"))
    print_table(("step", "images/s", "GFLOP/s"), rows)
    print(f"ratio resight/plain {Spread(**figures['ratio'])}")
    for kind, fraction in figures["fraction_of_product"].items():
        print(f"FLOP/s of resight's step relative to a large {kind}: {Spread(**fraction)}")
    share = Spread(**{key: 100 * value for key, value in figures["augmentation_share"].items()})
    print(f"augmentation as a percentage of resight's step: {share}")


def say_epochs(job: Job, figures: dict[str, Any]) -> None:
    rates = figures["images_per_second"]
    rows = [
        (f"plain: fp32, NCHW, Adam, {n}", f"{r:.1f}") for n, r in rates.items() if n != "resight"
    ]
    rows.append((f"resight: {job.runtime.precision}, channels-last", f"{rates['resight']:.1f}"))
    print_table((f"epoch of {figures['images']:,} images", "images/s"), rows)
    print(f"ratio resight/plain ({figures['best_plain']}) {Spread(**figures['ratio'])}")


def prepare_job(arguments: argparse.Namespace) -> Job:
    changes = dict(parse_setting(pair) for pair in arguments.set)
    if arguments.batch_size:
        changes["train.batch_size"] = arguments.batch_size
    recipe = at_full_size(find_recipe(arguments.recipe).with_changes(changes))
    data: ImageData = random_data(recipe, arguments.epoch_images or recipe.train.batch_size)
    runtime = Runtime.choose("cpu")
    runtime.apply()
    return build_job(recipe, data, runtime)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--recipe", default="custom-resnet", help="a name or a file")
    parser.add_argument("--set", action="append", default=[], help="set a field of the recipe")
    parser.add_argument("--batch-size", type=whole_number, help="by default the recipe's")
    parser.add_argument("--rounds", type=whole_number, default=5)
    parser.add_argument("--matrix", type=whole_number, default=4096, help="side of the products")
    parser.add_argument(
        "--epoch-images",
        type=whole_number,
        nargs="?",
        const=2048,
        help="compare whole epochs of so many images (2048 if no number is given)",
    )
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 2], help="numbers of DataLoader workers"
    )
    arguments = parser.parse_args(argv)
    job = prepare_job(arguments)
    machine = describe(job.runtime)
    print(
        f"{machine['device_name']}, torch {machine['torch']}, {job.recipe.name}, batch "
        f"{job.recipe.train.batch_size}, {arguments.rounds} rounds"
    )
    if arguments.epoch_images:
        figures = measure_epochs(job, arguments.workers, arguments.rounds)
        say_epochs(job, figures)
    else:
        figures = measure_steps(job, arguments.matrix, arguments.rounds)
        say_steps(job, figures)
    head = {"benchmark": "cpu_step", "machine": machine, "recipe": job.recipe.to_dict()}
    write_figures(arguments.json, {**head, "rounds": arguments.rounds, **figures})


if __name__ == "__main__":
    main()
