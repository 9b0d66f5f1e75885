"""Time and memory per image, from a thousand images to a million: neither should grow.

    python benchmarks/scaling.py [--max 1e6] [--rounds 5] [--mapped]

For each size an epoch's plan is drawn; a split is placed on the device; an epoch, or 16 batches of
512 spread over it, is augmented; predictions for 10 classes are counted into a confusion matrix and
binned for calibration. The sizes take turns in every round; small ones are repeated, up to a
twentieth of a second or the memory of the largest. The images are random, 32×32 RGB, in memory or,
with --mapped, streamed from a memory-mapped file, like a cache that is larger than the memory.

ns/image is the median over the rounds; the ratio is the largest size over the smallest, per round.
Bytes are those that the result holds. The peak is by how much the process grew at most, at the
largest size (Linux).
"""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
from resight.data.batches import DeviceSplit
from resight.data.plan import EpochPlan
from resight.data.types import Split
from resight.engine.memory import free_memory
from resight.engine.runtime import Runtime
from resight.errors import ResightError
from resight.recipe.recipe import Recipe
from resight.runs.calibration import calibration
from resight.runs.predictions import Predictions
from workload import describe, random_split

SIDE, CLASSES, BATCH, SAMPLED_BATCHES = 32, 10, 512, 16
IMAGE_BYTES = SIDE * SIDE * 3
OTHER_BYTES = 300  # per image: logits, label, id, plan, predictions
MIN_SECONDS = 0.05
HALF = torch.full((3,), 0.5)


@dataclass(frozen=True)
class Timed:
    """Work on `images` images, whose result is for `kept` of them."""

    run: Work
    images: int
    kept: int


def drawing(split: Split) -> Timed:
    n, settings = len(split), Recipe().augment
    return Timed(lambda: EpochPlan.draw(n, SIDE, settings, seed=0, epoch=0), n, n)


def placing(split: Split, *, resident: bool) -> Timed:
    def place() -> DeviceSplit:
        return DeviceSplit.place(split, HALF, HALF, torch.device("cpu"), resident=resident)

    return Timed(place, len(split), len(split))


def augmenting(split: Split) -> Timed:
    """At most 16 batches, from the epoch's first to its last."""
    settings = Recipe().augment
    plan = EpochPlan.draw(len(split), SIDE, settings, seed=0, epoch=0)
    placed = DeviceSplit.place(split, HALF, HALF, torch.device("cpu"), resident=False)
    starts = range(0, len(split), BATCH)
    places = np.linspace(0, len(starts) - 1, min(SAMPLED_BATCHES, len(starts)))
    batches = [plan.order[starts[int(place)] :][:BATCH] for place in places]

    def augment() -> tuple[Tensor, Tensor]:
        for index in batches:
            last = placed.augmented(index, plan, settings)
        return last

    return Timed(augment, sum(map(len, batches)), len(batches[-1]))


def counting(split: Split) -> Timed:
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((len(split), CLASSES), dtype=np.float32)
    classes = tuple(str(number) for number in range(CLASSES))

    def count() -> Predictions:
        predictions = Predictions(logits, split.labels, split.ids, classes)
        _ = predictions.confusion, calibration(predictions)
        return predictions

    return Timed(count, len(split), len(split))


def all_works(splits: Sequence[Split], *, resident: bool) -> dict[str, dict[int, Timed]]:
    """By name, then by size."""
    return {
        "drawing a plan": {len(split): drawing(split) for split in splits},
        "placing a split": {len(split): placing(split, resident=resident) for split in splits},
        "augmenting": {len(split): augmenting(split) for split in splits},
        "confusion, calibration": {len(split): counting(split) for split in splits},
    }


def measure(of_sizes: dict[int, Timed], rounds: int) -> dict[str, Any]:
    """One row per size, and the cost per image of the largest size over that of the smallest."""
    held = {n: held_bytes(work.run()) for n, work in of_sizes.items()}
    largest = max(of_sizes)
    times = {}
    for n, work in of_sizes.items():
        wanted = math.ceil(MIN_SECONDS / max(seconds_of(work.run), 1e-9))
        times[n] = min(wanted, max(1, held[largest] // held[n]))

    def repeated(n: int) -> Work:
        # all results are kept, so that each is written to memory outside the caches, as in a run
        return lambda: [of_sizes[n].run() for _ in range(times[n])]

    seconds = take_turns({str(n): repeated(n) for n in of_sizes}, rounds)
    ns = {
        n: [1e9 * value / (times[n] * work.images) for value in seconds[str(n)]]
        for n, work in of_sizes.items()
    }
    of_image = {n: held[n] / work.kept for n, work in of_sizes.items()}
    smallest = min(of_sizes)
    return {
        "sizes": [
            {
                "images": n,
                "ns_per_image": ns[n],
                "ns_per_image_median": statistics.median(ns[n]),
                "bytes_per_image": of_image[n],
            }
            for n in of_sizes
        ],
        "ratio": Spread.of_ratios(ns[largest], ns[smallest]).to_dict(),
        "bytes_ratio": of_image[largest] / of_image[smallest],
        "peak_bytes": peak_growth(of_sizes[largest].run),
    }


def held_bytes(value: object) -> int:
    """Bytes of the arrays and tensors in an object or a tuple."""
    parts = value if isinstance(value, tuple) else vars(value).values()
    return sum(int(part.nbytes) for part in parts if isinstance(part, Tensor | np.ndarray))


def peak_growth(work: Work) -> int | None:
    """Bytes by which the process grew at most during `work`; None except on Linux."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
        before = _status_bytes("VmRSS")
        work()
        return max(0, _status_bytes("VmHWM") - before)
    except (OSError, StopIteration):
        return None


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


@contextlib.contextmanager
def images_of(n: int, *, mapped: bool) -> Iterator[Split]:
    """Random images in memory, or in a file that is deleted afterwards."""
    if not mapped:
        yield random_split(n, size=SIDE, classes=CLASSES)
        return
    small = random_split(min(n, 10_000), size=SIDE, classes=CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images"
        try:
            with path.open("wb") as file:
                for start in range(0, n, len(small)):
                    file.write(small.images[: n - start].tobytes())
        except OSError as error:
            raise ResightError(f"--mapped: {path} can't be written: {error.strerror}") from None
        images = np.memmap(path, np.uint8, mode="r", shape=(n, SIDE, SIDE, 3))
        yield Split(images, np.resize(small.labels, n), np.arange(n).astype("U8"))


def sizes_between(least: int, most: int) -> list[int]:
    """`least`, ten times that, and so on up to `most`. Raises `ResightError` if it is only one."""
    sizes = [least]
    while sizes[-1] * 10 <= most:
        sizes.append(sizes[-1] * 10)
    if len(sizes) < 2:
        raise ResightError(f"--max {most} must be at least ten times --min {least}")
    return sizes


def check_memory(n: int, *, mapped: bool) -> None:
    """Raise `ResightError` if the largest size does not fit."""
    need = n * ((0 if mapped else 2 * IMAGE_BYTES) + OTHER_BYTES)
    free = free_memory(torch.device("cpu"))
    if need > free:
        raise ResightError(
            f"--max {n} needs {need / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; give "
            "a smaller --max, or --mapped"
        )


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--min", type=whole_number, default=1000, help="smallest number of images")
    parser.add_argument(
        "--max", type=whole_number, default=1_000_000, help="largest number of images, e.g. 1e5"
    )
    parser.add_argument("--rounds", type=whole_number, default=5)
    parser.add_argument("--mapped", action="store_true", help="images in a memory-mapped file")
    arguments = parser.parse_args(argv)
    sizes = sizes_between(arguments.min, arguments.max)
    check_memory(sizes[-1], mapped=arguments.mapped)
    runtime = Runtime.choose("cpu")
    runtime.apply()
    machine = describe(runtime)
    with images_of(sizes[-1], mapped=arguments.mapped) as split:
        splits = [Split(split.images[:n], split.labels[:n], split.ids[:n]) for n in sizes]
        works = all_works(splits, resident=not arguments.mapped)
        figures = {name: measure(timed, arguments.rounds) for name, timed in works.items()}
    where = "memory-mapped" if arguments.mapped else "in memory"
    print(
        f"{machine['device_name']}, torch {machine['torch']}, images {where}, "
        f"{arguments.rounds} rounds"
    )
    rows = []
    for name, work in figures.items():
        costs = [f"{row['ns_per_image_median']:,.1f}" for row in work["sizes"]]
        held = work["sizes"][-1]["bytes_per_image"]
        peak = "" if work["peak_bytes"] is None else f"{work['peak_bytes'] / 1e6:,.0f}"
        ratio = str(Spread(**work["ratio"]))
        rows.append((name, *costs, ratio, f"{held:,.1f}", f"{work['bytes_ratio']:.2f}", peak))
    headings = ["ns/image at", *(f"{n:,}" for n in sizes), "largest/smallest"]
    print_table([*headings, "bytes/image", "largest/smallest", "peak MB"], rows)
    head = {"benchmark": "scaling", "machine": machine, "mapped": arguments.mapped}
    write_figures(arguments.json, {**head, "rounds": arguments.rounds, "works": figures})


if __name__ == "__main__":
    main()
