"""What `auto` reaches on small sets of images, beside other recipes and a careful manual choice.

    python benchmarks/small_sets.py --out FOLDER --copy DIR --photos DIR [--seeds 3]
        [--sets photos "copy, 10 × 100" …] [--recipes auto "auto --set augment.mixup=0.2" …]

DIR are CIFAR-10's images and photos of a few hundred per class, as folders with a sub-folder per
class. A recipe may be followed by other options of `resight train`. Each set is made once in
FOLDER/sets, each training is a run in FOLDER/runs; what is finished there is not trained again, so
that a long measurement can be stopped and resumed. Prints test accuracy (mean ± std over the seeds)
and seconds of the whole command, per set and recipe.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from measuring import one_line_errors, options_parser, print_table, whole_number, write_figures
from resight.data.folder import natural_order
from resight.errors import ResightError

TEST_PER_CLASS = 200
UNEQUAL = (200, 60, 20, 8, 2)
DIGITS_TEST = 100  # per class; scikit-learn has 174 or more
PHOTO_TEST = 200  # per class, of those that are not trained on
MIXED = 100  # images per class of the set of mixed sizes, formats and modes
FORMATS = (  # suffix, and the modes that the format can store
    (".jpg", ("RGB", "L", "CMYK")),
    (".png", ("RGB", "L", "RGBA", "P")),
    (".webp", ("RGB", "RGBA")),
    (".bmp", ("RGB", "L")),
    (".gif", ("P",)),
    (".tif", ("RGB", "L", "CMYK")),
)
FEW = 600  # training images up to which a careful person takes batches of 32


@dataclasses.dataclass(frozen=True)
class Set:
    """make: writes the images into a new folder. photos: whether they are larger than 32 px."""

    make: Callable[[Path], None]
    photos: bool = False


def sets(copy: Path | None, photos: Path | None) -> dict[str, Set]:
    """Every set that can be made of the folders at hand, by name."""
    made: dict[str, Set] = {}
    if photos is not None:
        made["photos"] = Set(lambda to: all_photos(photos, to), photos=True)
        for count in (50, 100, 300):
            made[f"photos, {count} per class"] = Set(
                lambda to, count=count: some_photos(photos, to, count), photos=True
            )
    if copy is not None:
        for classes in (2, 5, 10):
            for count in (25, 100, 500):
                made[f"copy, {classes} × {count}"] = Set(
                    lambda to, classes=classes, count=count: some_classes(
                        copy, to, [count] * classes, [TEST_PER_CLASS] * classes
                    )
                )
        made["copy, mixed files"] = Set(lambda to: mixed_files(copy, to), photos=True)
        made["copy, 200 to 2 per class"] = Set(
            lambda to: some_classes(copy, to, UNEQUAL, [2 * count for count in UNEQUAL])
        )
    made["digits, 10 per class"] = Set(few_digits)
    return made


def options(recipe: str, of: Set, train: int) -> list[str]:
    """The options of `resight train` for a recipe and its options, or for the "manual" choice."""
    if recipe != "manual":
        return ["--recipe", *shlex.split(recipe)]
    # what somebody who knows the field tries first: Adam's usual LR, small batches, many epochs
    size = ["--image-size", "64", "--set", "model.width=32"] if of.photos else []
    batch = "32" if train < FEW else "64"
    words = ["--recipe", "custom-resnet", "--lr", "0.003", "--batch-size", batch, "--epochs", "40"]
    words += ["--set", "evaluate.when=end"]
    return [*words, *size]


def files_of(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if p.is_file()), key=lambda p: natural_order(p.name))


def classes_of(folder: Path) -> list[Path]:
    found = sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: natural_order(p.name))
    if len(found) < 2:
        raise ResightError(f"{folder} has fewer than two sub-folders of images")
    return found


def place(files: Sequence[Path], to: Path) -> None:
    """Copy `files` into the new folder `to`."""
    to.mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, to / file.name)


def all_photos(photos: Path, to: Path) -> None:
    for folder in classes_of(photos):
        place(files_of(folder), to / folder.name)


def some_photos(photos: Path, to: Path, count: int) -> None:
    """`count` photos per class to train on, the last `PHOTO_TEST` of each class to test."""
    for folder in classes_of(photos):
        files = files_of(folder)
        if len(files) < count + PHOTO_TEST:
            raise ResightError(f"{folder} has {len(files)} images, fewer than {count + PHOTO_TEST}")
        place(files[:count], to / "train" / folder.name)
        place(files[-PHOTO_TEST:], to / "test" / folder.name)


def some_classes(copy: Path, to: Path, train: Sequence[int], test: Sequence[int]) -> None:
    """The first classes of CIFAR-10, with as many images of each as `train` and `test` say."""
    for split, counts in (("train", train), ("test", test)):
        for folder, count in zip(classes_of(copy / split), counts, strict=False):
            place(files_of(folder)[:count], to / split / folder.name)


def mixed_files(copy: Path, to: Path) -> None:
    """Images of CIFAR-10 enlarged to other sizes and shapes, in every format and mode."""
    for split, count in (("train", MIXED), ("test", TEST_PER_CLASS)):
        for label, folder in enumerate(classes_of(copy / split)):
            target = to / split / folder.name
            target.mkdir(parents=True)
            draws = np.random.default_rng([label, count])
            for number, file in enumerate(files_of(folder)[:count]):
                suffix, modes = FORMATS[number % len(FORMATS)]
                mode = modes[int(draws.integers(len(modes)))]
                width, height = (int(side) for side in draws.integers(40, 240, 2))
                with Image.open(file) as image:
                    larger = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
                larger.convert(mode).save(target / f"{number:04}{suffix}")


def few_digits(to: Path) -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        for split, some in (("train", rows[:10]), ("test", rows[10 : 10 + DIGITS_TEST])):
            folder = to / split / str(label)
            folder.mkdir(parents=True)
            for row in some:
                Image.fromarray(pixels[row]).save(folder / f"{row:04}.png")


def file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9.=_]+", "-", name.replace("×", "x"))


def made(name: str, of: Set, folder: Path) -> Path:
    """The set's folder, made under another name first so that it is whole or not there."""
    target = folder / file_name(name)
    if not target.exists():
        unfinished = target.with_name(f".{target.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        of.make(unfinished)
        unfinished.rename(target)
    return target


def images_to_train_on(data: Path) -> int:
    split = data / "train"
    whole = sum(len(files_of(folder)) for folder in classes_of(split if split.is_dir() else data))
    return whole if split.is_dir() else round(0.8 * whole)


def trained(data: Path, words: Sequence[str], out: Path) -> dict[str, Any]:
    """The run's result, with the seconds of its whole command; from `out` if it is there."""
    kept = out.with_name(f"{out.name}.json")
    if not kept.exists():
        command = [sys.executable, "-m", "resight", "train", "--data", str(data), *words]
        if (out / "last.pt").exists():
            command = [sys.executable, "-m", "resight", "train", "--resume", str(out)]
        else:
            shutil.rmtree(out, ignore_errors=True)
            command += ["--out", str(out)]
        done = subprocess.run(
            [*command, "--no-report", "--json"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["it printed nothing"]
            raise ResightError(f"{out.name}: exit {done.returncode}: {said[-1]}")
        kept.write_text(done.stdout.strip().splitlines()[-1] + "\n", encoding="utf-8")
    result: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return result


def cell(results: Sequence[Mapping[str, Any]]) -> str:
    """`70.1 ± 0.8 %, 65 s`: mean and standard deviation (n - 1) of the accuracy, median seconds."""
    accuracies = [100 * result["test_accuracy"] for result in results]
    spread = f" ± {statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
    seconds = statistics.median(result["wall_seconds"] for result in results)
    return f"{statistics.mean(accuracies):.1f}{spread} %, {seconds:.0f} s"


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--copy", type=Path, help="CIFAR-10 as folders train/ and test/")
    parser.add_argument("--photos", type=Path, help="photos, one folder per class, no split")
    parser.add_argument("--seeds", type=whole_number, default=3)
    parser.add_argument("--sets", nargs="+", metavar="NAME")
    parser.add_argument(
        "--recipes", nargs="+", default=["auto", "custom-resnet", "fast", "manual"], metavar="NAME"
    )
    arguments = parser.parse_args(argv)
    known = sets(arguments.copy, arguments.photos)
    chosen = arguments.sets or list(known)
    for name in chosen:
        if name not in known:
            raise ResightError(f"--sets '{name}': expected one of {', '.join(known)}")
    figures: dict[str, dict[str, list[dict[str, Any]]]] = {}
    rows = []
    for name in chosen:
        data = made(name, known[name], arguments.out / "sets")
        train = images_to_train_on(data)
        runs = arguments.out / "runs" / data.name
        runs.mkdir(parents=True, exist_ok=True)
        figures[name] = {
            recipe: [
                trained(
                    data,
                    [*options(recipe, known[name], train), "--seed", str(seed)],
                    runs / f"{file_name(recipe)}-{seed}",
                )
                for seed in range(arguments.seeds)
            ]
            for recipe in arguments.recipes
        }
        first = figures[name][arguments.recipes[0]][0]
        counts = f"{train:,} / {first['test_images']:,}"
        cells = [cell(results) for results in figures[name].values()]
        rows.append((name, counts, f"{first['guess_accuracy']:.1%}", *cells))
        print(f"{name}: {'; '.join(cells)}", file=sys.stderr, flush=True)
    print(f"n = {arguments.seeds} seeds")
    table = [("set", "train / test", "guessing", *arguments.recipes), *rows]
    if len(arguments.recipes) > len(rows):  # the fewer columns the better
        table = list(zip(*table, strict=True))
    print_table(table[0], table[1:])
    write_figures(arguments.json, {"benchmark": "small_sets", **figures})


if __name__ == "__main__":
    main()
