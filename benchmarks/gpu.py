"""All that is to be measured on a GPU, in one command of so many minutes, a table at the end.

    python benchmarks/gpu.py --data DIR [--minutes 9] [--parts tests kernels executors search …]
        [--folder FOLDER] [--n 10]

DIR is CIFAR-10 as for `resight train --data`. The first part is the tests of engine and models, of
which some are skipped without a GPU (a checkpoint while steps are recorded, among others); each of
the others is one or more of the other benchmarks. All are processes of their own; their output goes
to FOLDER/NAME.txt and their figures to FOLDER/NAME.json as soon as they are done. The parts run in
the order of the list below until one fails, as one does whose training falls back to eager
execution, or until the time is over; what is left is named.

--list prints each part's commands. `--device cpu` tries it out, without the trainings.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from measuring import one_line_errors, options_parser, print_table, whole_number, write_figures
from resight.errors import ResightError

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"
TRAININGS = "time_to_accuracy.py"
LEAST_SECONDS = 20.0  # that are left for a command to be begun
MUON_94 = "--batch-size 2000 --epochs 8 --lr 0.24 --set train.norm_batch=0"
THREE_SIZES = (
    "--set schedule.small_epochs=3 --set schedule.medium_epochs=3 --set schedule.medium_px=28"
)
SAME_BITS = "--precision bf16 --deterministic"
WRITE_UPS = ("custom-resnet-ln", "custom-resnet-a", "custom-resnet-d", "resnet18", "resnet18-gn")


def commands(data: str, n: int, device: str) -> dict[str, dict[str, str]]:
    """The benchmarks with their arguments, by name, in each part."""
    on, data = f"--device {device}", f"--data {shlex.quote(data)}"
    tested = " ".join(shlex.quote(str(TESTS / room)) for room in ("engine", "models"))
    parts: dict[str, dict[str, str]] = {
        "tests": {"tests": f"-m pytest -v -p no:cacheprovider {tested}"},
        "kernels": {"layers": f"fused_layers.py {on}"},
        "executors": {"executors": f"executors.py {on}"},
        "search": {
            f"{recipe}, search {count}": (
                f"gpu_step.py --recipe {recipe} --search {count} --rounds 5 {on}"
            )
            for recipe in ("custom-resnet", "fast")
            for count in (0, 1, 4, 10)
        },
    }
    if device == "cpu":
        return parts
    few = max(1, n // 2)
    return parts | {
        "fast": {
            "fast, nothing cached": f"{TRAININGS} --recipe fast --n 1 --fresh-cache {data}",
            "fast": f"{TRAININGS} --recipe fast --n {n} --target 0.9066 {data}",
        },
        "candidates": {
            "fast, airbench94_muon's batch": (
                f"{TRAININGS} --recipe fast --n {n} --options {shlex.quote(MUON_94)} {data}"
            ),
            "fast, 24, 28, 32 px": (
                f"{TRAININGS} --recipe fast --n {n} --options {shlex.quote(THREE_SIZES)} {data}"
            ),
        },
        "recipes": {
            name: f"{TRAININGS} --recipe {name} --n {few} {data}"
            for name in ("custom-resnet", "custom-resnet-fast", "best")
        },
        "deterministic": {
            "fast, deterministic": (
                f"{TRAININGS} --recipe fast --n {few} --options {shlex.quote(SAME_BITS)} {data}"
            )
        },
        "write-ups": {name: f"{TRAININGS} --recipe {name} --n 1 {data}" for name in WRITE_UPS},
    }


def run(name: str, words: Sequence[str], folder: Path, seconds: float) -> str:
    """Run a benchmark, or `-m MODULE`; the last line of what it printed. Raises `ResightError` if
    it fails."""
    stem = name.replace(", ", "-").replace(" ", "-").replace("'", "")
    command = [sys.executable, *words]
    if words[0] != "-m":
        command[1] = str(HERE / words[0])
        command += ["--json", str(folder / f"{stem}.json")]
    output = folder / f"{stem}.txt"
    with output.open("w", encoding="utf-8") as file:
        try:
            done = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise ResightError(f"{name}: the time is over; see {output}") from None
    said = output.read_text(encoding="utf-8").strip().splitlines() or ["it printed nothing"]
    if done.returncode:
        raise ResightError(f"{name}: exit {done.returncode}: {said[-1]}")
    print(f"\n{name}", *said, sep="\n", flush=True)
    return said[-1]


def chosen(parts: dict[str, dict[str, str]], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for part in names or parts:
        if part not in parts:
            raise ResightError(f"--parts {part}: must be one of {', '.join(parts)}")
        yield from parts[part].items()


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--data", default="cifar10", help="as `resight train --data`")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--parts", nargs="+", default=[], metavar="PART")
    parser.add_argument("--folder", type=Path, default=Path("gpu-figures"))
    parser.add_argument("--n", type=whole_number, default=10, help="trainings of `fast`")
    parser.add_argument("--device", default="cuda", help="cpu: to try the benchmark out")
    parser.add_argument("--list", action="store_true", help="print the commands and exit")
    arguments = parser.parse_args(argv)
    todo = list(chosen(commands(arguments.data, arguments.n, arguments.device), arguments.parts))
    if arguments.list:
        print(*(f"{name}: {line}" for name, line in todo), sep="\n")
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes
    rows: list[tuple[str, str, str]] = []
    failed = ""
    for name, line in todo:
        left = end - time.monotonic()
        if failed or left < LEAST_SECONDS:
            rows.append((name, "", "not run"))
            continue
        began = time.monotonic()
        try:
            last = run(name, shlex.split(line), arguments.folder, left)
        except ResightError as error:
            failed = last = str(error)
        rows.append((name, f"{time.monotonic() - began:.0f}", last))
    print()
    print_table(("", "seconds", "last line"), rows)
    write_figures(arguments.json, {"benchmark": "gpu", "done": [list(row) for row in rows]})
    if failed:
        raise ResightError(failed)


if __name__ == "__main__":
    main()
