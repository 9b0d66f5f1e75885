"""Whether memory stays flat: a training of many epochs, many reports, many Grad-CAM calls.

    python benchmarks/memory.py [--epochs 1000] [--reports 100] [--maps 500]

Prints the process's resident memory (MB) after a tenth of each, at the end, and the difference.
"""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import resight
from measuring import one_line_errors, options_parser, print_table, whole_number, write_figures
from resight.progress import Quiet


def resident_mb() -> float:
    """Of this process now; its peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


class Sampled(Quiet):
    """Notes the memory after the epochs `at`."""

    def __init__(self, at: Sequence[int]) -> None:
        self.at, self.seen = set(at), list[float]()

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        if row["epoch"] in self.at:
            self.seen.append(resident_mb())


def repeated(times: int, work: Callable[[], object]) -> list[float]:
    """The memory after a tenth of the calls, and after all."""
    seen = []
    for number in range(1, times + 1):
        work()
        if number in (times // 10, times):
            seen.append(resident_mb())
    return seen


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--epochs", type=whole_number, default=1000)
    parser.add_argument("--reports", type=whole_number, default=100)
    parser.add_argument("--maps", type=whole_number, default=500)
    arguments = parser.parse_args(argv)
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sampled = Sampled((arguments.epochs // 10, arguments.epochs))
        out = Path(folder) / "run"
        options: dict[str, Any] = {"out": out, "report": False, "reporter": sampled}
        changes: dict[str, Any] = {"epochs": arguments.epochs, "lr": 0.01, "model": {"width": 4}}
        run = resight.train("digits", **options, **changes)
        figures[f"{arguments.epochs:,} epochs"] = sampled.seen
        figures[f"{arguments.reports:,} reports"] = repeated(
            arguments.reports, lambda: resight.report(run, reporter=Quiet())
        )
        net, images = run.model(), torch.rand(8, 1, 8, 8)
        figures[f"{arguments.maps:,} maps"] = repeated(
            arguments.maps, lambda: resight.grad_cam(net, images)
        )
    rows = [(what, *(f"{mb:.1f}" for mb in (a, b, b - a))) for what, (a, b) in figures.items()]
    print_table(("of", "after a tenth, MB", "at the end, MB", "difference"), rows)
    write_figures(arguments.json, {"benchmark": "memory", **figures})


if __name__ == "__main__":
    main()
