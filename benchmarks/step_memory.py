"""The memory that a training step is expected to need for each image, and what it takes.

    python benchmarks/step_memory.py [--recipes custom-resnet fast] [--sizes 64 224]

Expected: `resight.engine.needs.step_needs`. Measured: how far the peak of the process's resident
memory grows in two steps on random images of each size, on the CPU, divided by the images; each
in a process of its own, that keeps freed memory as `resight train` does. Weights, gradients and
the optimizer's state are made in the first step, so they are in it too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import one_line_errors, options_parser, print_table, whole_number, write_figures
from resight.errors import ResightError

PIXELS = 8 * 224**2  # of a step's images


def measure(recipe: str, size: int, precision: str) -> dict[str, Any]:
    """In a new process, since the peak of this one only grows."""
    words = [sys.executable, __file__, "--one", recipe, str(size), precision]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ResightError(f"{' '.join(words)}: {done.stderr.strip().splitlines()[-1:]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def in_this_process(name: str, size: int, precision: str) -> dict[str, Any]:
    from resight.engine.job import build_job
    from resight.engine.needs import step_needs
    from resight.engine.runtime import Runtime, keep_memory
    from resight.recipe.catalog import find_recipe
    from resight.recipe.overrides import changed
    from workload import at_full_size, begin_epoch, random_data

    keep_memory()
    images = max(2, PIXELS // size**2)
    sizes = {"image_size": size, "batch_size": images, "train.norm_batch": 0, "lr": 1e-3}
    recipe = at_full_size(changed(find_recipe(name), sizes))
    runtime = Runtime.choose("cpu", precision).with_pieces(0, "")
    job = build_job(recipe, random_data(recipe, images), runtime)
    half = precision != "fp32"
    expected = step_needs(recipe, classes=10, channels=3, half=half).nbytes
    before = _memory("VmRSS")
    for epoch in range(2):
        begin_epoch(job, epoch)
        job.executor.step(0)
    measured = (_memory("VmHWM") - before) / images
    return {"images": images, "expected": expected, "measured": measured}


def _memory(what: str) -> int:
    """Bytes; what: VmRSS for now, VmHWM for the highest so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) * 1024


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--recipes", nargs="+", default=["custom-resnet", "fast"])
    parser.add_argument("--sizes", nargs="+", type=whole_number, default=[64, 224], metavar="PX")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--one", nargs=3, help="what each process measures")
    arguments = parser.parse_args(argv)
    if arguments.one:
        name, size, precision = arguments.one
        print(json.dumps(in_this_process(name, int(size), precision)))
        return
    figures = [
        {"recipe": recipe, "size": size, "precision": precision} | measure(recipe, size, precision)
        for recipe in arguments.recipes
        for size in arguments.sizes
        for precision in arguments.precisions
    ]
    rows = [
        (
            f"{made['recipe']}, {made['size']} px, {made['precision']}",
            str(made["images"]),
            f"{made['expected'] / 1e6:.1f}",
            f"{made['measured'] / 1e6:.1f}",
            f"{made['measured'] / made['expected']:.2f}",
        )
        for made in figures
    ]
    headings = ("step", "images", "expected MB/image", "measured MB/image", "measured/expected")
    print_table(headings, rows)
    write_figures(arguments.json, {"benchmark": "step_memory", "figures": figures})


if __name__ == "__main__":
    main()
