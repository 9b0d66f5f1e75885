"""Is the LR that `--lr find` reads off its curve a good one? Trainings at it and on either side.

    python benchmarks/lr_readings.py --data DIR [--recipe R] [--set optimizer.name=sgd ...]
        [--factor 2] [--each-side 3] [--test-epochs N]

Runs the recipe's LR test, then whole trainings with LR max at the reading times powers of the
factor, everything else the same (`lr_min`, where the schedule has one, stays a tenth of it or
less). Prints the test accuracy of each, and what each method reads off the curve. An LR test sees a
tenth of a training's images, which of a short training shows nothing: --test-epochs gives it those
of a longer one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import resight
from measuring import one_line_errors, options_parser, print_table, whole_number, write_figures
from resight.errors import ResightError
from resight.progress import Quiet
from resight.recipe.catalog import find_recipe
from resight.recipe.overrides import changed, parse_setting
from resight.runs.lr_test import METHODS, LrTest


def readings(test: LrTest) -> dict[str, float | None]:
    """What each method reads; None where the curve shows nothing."""
    read: dict[str, float | None] = {}
    for method in METHODS:
        try:
            read[method] = test.suggest(method)
        except ResightError:
            read[method] = None
    return read


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--recipe", default="custom-resnet")
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=whole_number)
    parser.add_argument("--test-epochs", type=whole_number, help="of the LR test's training")
    parser.add_argument("--set", action="append", default=[], help="set a field of the recipe")
    parser.add_argument("--factor", type=float, default=2.0)
    parser.add_argument("--each-side", type=whole_number, default=3)
    parser.add_argument("--middle", type=float, help="an LR for the middle instead of the reading")
    arguments = parser.parse_args(argv)
    settings = dict(parse_setting(pair) for pair in arguments.set)
    epochs = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    recipe = changed(find_recipe(arguments.recipe), settings | epochs)
    tested = recipe.with_epochs(arguments.test_epochs or recipe.schedule.epochs)
    test = resight.find_lr(tested, arguments.data, reporter=Quiet())
    read = readings(test)
    middle = (
        arguments.middle or read[test.method] or recipe.optimizer.usual_lr(recipe.train.batch_size)
    )
    least = test.suggest_lr_min(middle) if read[test.method] else middle / 25
    sides = range(-arguments.each_side, arguments.each_side + 1)
    accuracies: dict[float, float | None] = {}
    for power in sides:
        lr = middle * arguments.factor**power
        changes: dict[str, object] = {"schedule.lr_max": lr}
        if hasattr(recipe.schedule, "lr_min"):
            changes["schedule.lr_min"] = min(least, lr / 10)
        with tempfile.TemporaryDirectory() as folder:
            try:
                run = resight.train(
                    recipe.with_changes(changes),
                    arguments.data,
                    out=Path(folder) / "run",
                    report=False,
                    announce=False,
                    reporter=Quiet(),
                )
                accuracies[lr] = run.result["test_accuracy"]
            except ResightError:  # the loss became infinite
                accuracies[lr] = None
    name = f"{recipe.name}, {recipe.optimizer.name}, {recipe.schedule.shape}"
    print(f"{name}, {recipe.schedule.epochs} epochs, batch {recipe.train.batch_size}")
    print(f"LR test: {len(test.lrs)} steps of {test.batch} images, {test.stop}")
    said = (f"{m} {'none' if lr is None else f'{lr:.3g}'}" for m, lr in read.items())
    print(f"readings ({test.method} is what --lr find uses): {', '.join(said)}")
    rows = [
        (f"{lr:.3g}", "diverged" if accuracy is None else f"{accuracy:.2%}", "←" * (lr == middle))
        for lr, accuracy in accuracies.items()
    ]
    print_table(("LR max", "test accuracy", ""), rows)
    figures = {
        "benchmark": "lr_readings",
        "recipe": recipe.to_dict(),
        "readings": read,
        "method": test.method,
        "accuracies": {str(lr): accuracy for lr, accuracy in accuracies.items()},
    }
    write_figures(arguments.json, figures)


if __name__ == "__main__":
    main()
