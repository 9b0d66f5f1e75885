"""What each augmentation costs on this CPU, as a share of a training step.

    python benchmarks/augment.py [--rounds 5] [--recipe NAME ...] [--batch-size 125]

For each recipe, `auto` being the one for a thousand photos: the numbers of a batch are drawn, the
batch is augmented, and a step is taken without augmentation. The time without any is subtracted.
Figures are medians over the rounds, in which all take turns. The pixels are random.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

from cpu_step import resight_step
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
from resight.data.plan import EpochPlan
from resight.engine.job import Job, build_job
from resight.engine.runtime import Runtime
from resight.recipe.auto import Images, choose
from resight.recipe.catalog import AUTO, find_recipe
from resight.recipe.policies import OFF, POLICIES
from resight.recipe.recipe import Recipe
from resight.recipe.settings import Augment
from workload import at_full_size, describe, random_data

PHOTOS = Images(train=1119, classes=("cats", "dogs"), side_px=375)


def augmentations(side_px: int) -> dict[str, Augment]:
    """Each by itself, then the policies, for images of `side_px`."""
    eighth, quarter = max(1, side_px // 8), max(1, side_px // 4)
    single: dict[str, dict[str, Any]] = {
        "crop": {"crop_pad_px": min(eighth, side_px - 1), "crop_fill": "reflect"},
        "flip": {"flip": "random"},
        "rotation and scale": {"rotate_deg": 15.0, "scale": 0.25},
        "brightness, contrast, saturation": dict.fromkeys(
            ("brightness", "contrast", "saturation"), 0.2
        ),
        "hue": {"hue_deg": 20.0},
        "grey": {"grey": 0.1},
        "blur": {"blur": 0.5, "blur_px": side_px / 32},
        "cutout": {"cutout_px": quarter},
        "random erasing": {"erase": 0.25, "erase_area": 0.25},
        "Mixup": {"mixup": 0.2},
        "CutMix": {"cutmix": 1.0},
        "RandAugment, 2 operations": {"randaugment": 2, "randaugment_magnitude": 9},
        "TrivialAugment": {"trivialaugment": True},
    }
    alone = {name: OFF.model_copy(update=changes) for name, changes in single.items()}
    named = {f"policy {name}": policy(side_px) for name, policy in POLICIES.items()}
    return {"none": OFF, **alone, **{name: one for name, one in named.items() if one != OFF}}


def augmenting(job: Job, settings: Augment) -> Work:
    """Draws the numbers of one batch and augments it."""
    images, side = job.recipe.train.batch_size, job.data.image_size

    def work() -> object:
        plan = EpochPlan.draw(images, side, settings, seed=0, epoch=0)
        return job.train.augmented(plan.order, plan, settings)

    return work


def measure(job: Job, rounds: int) -> dict[str, Any]:
    """Seconds per round of a step and of each augmentation of its batch, and derived figures."""
    works = {
        name: augmenting(job, settings)
        for name, settings in augmentations(job.data.image_size).items()
    }
    seconds = take_turns({"step": resight_step(job), **works}, rounds)
    images, plain = job.recipe.train.batch_size, seconds["none"]
    added = {
        name: [both - none for both, none in zip(seconds[name], plain, strict=True)]
        for name in works
        if name != "none"
    }
    return {
        "seconds": seconds,
        "microseconds_per_image": {
            name: 1e6 * statistics.median(values) / images for name, values in added.items()
        },
        "share_of_step": {
            name: Spread.of_ratios(values, seconds["step"]).to_dict()
            for name, values in added.items()
        },
    }


def prepare(name: str, batch_size: int | None, settings: dict[str, Any]) -> Job:
    recipe: Recipe = choose(PHOTOS).recipe if name == AUTO else find_recipe(name)
    changes = {"augment.policy": "none", "train.norm_batch": 0, **settings}
    changes |= {} if batch_size is None else {"train.batch_size": batch_size}
    recipe = at_full_size(recipe).with_changes(changes)
    runtime = Runtime.choose("cpu")
    runtime.apply()
    return build_job(recipe, random_data(recipe, recipe.train.batch_size), runtime)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser: argparse.ArgumentParser = options_parser(__doc__)
    parser.add_argument("--recipe", nargs="+", default=["fast", AUTO], help="names or files")
    parser.add_argument("--batch-size", type=whole_number, help="by default the recipe's")
    parser.add_argument("--width", type=whole_number, help="by default the recipe's")
    parser.add_argument("--rounds", type=whole_number, default=5)
    arguments = parser.parse_args(argv)
    settings = {} if arguments.width is None else {"model.width": arguments.width}
    found, headings, machine = {}, ["µs/image, % of a step"], None
    for name in arguments.recipe:
        job = prepare(name, arguments.batch_size, settings)
        machine = describe(job.runtime)
        size, batch = job.data.image_size, job.recipe.train.batch_size
        headings += [f"{name}, {size} px", f"batch {batch}"]
        found[name] = {"recipe": job.recipe.to_dict(), **measure(job, arguments.rounds)}
    assert machine is not None
    print(f"{machine['device_name']}, torch {machine['torch']}, {arguments.rounds} rounds")
    some = next(iter(found.values()))["share_of_step"]
    rows = []
    for name in some:
        cells = [name]
        for one in found.values():
            cells.append(f"{one['microseconds_per_image'][name]:.1f}")
            cells.append(f"{100 * one['share_of_step'][name]['median']:.2f}")
        rows.append(cells)
    print_table(headings, rows)
    head = {"benchmark": "augment", "machine": machine, "rounds": arguments.rounds}
    write_figures(arguments.json, {**head, "recipes": found})


if __name__ == "__main__":
    main()
