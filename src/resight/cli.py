"""The command `resight`: each verb calls the public function of its name, in the same words.

Torch is imported inside the verbs, so `--help` answers at once.
"""

from __future__ import annotations

import functools
import io
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from resight import __version__
from resight.cli_options import (
    BatchOption,
    DataOption,
    DeviceOption,
    JsonOption,
    LrOption,
    PrecisionOption,
    RecipeOption,
    SeedOption,
    SetOption,
    SkipBadOption,
    ValOption,
)
from resight.cli_output import headline, listed, print_classes, print_result
from resight.errors import ResightError, ResightWarning

if TYPE_CHECKING:
    from resight.progress import Reporter

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    name="resight",
    help="Train small-image classifiers in seconds and see what they see.",
    epilog="First: resight train --recipe digits (no download). Then your own folder: --data DIR.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _verb(function: Callable[P, R]) -> Callable[P, R]:
    """One line and exit 2 for what the user can mend, 130 after Ctrl-C."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", ResightWarning)
                warnings.showwarning = _show_warning
                return function(*args, **kwargs)
        except ResightError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt as stop:
            print(str(stop) or "stopped", file=sys.stderr)
            raise typer.Exit(getattr(stop, "exit_code", 130)) from None
        except BrokenPipeError:  # `resight … | head`: what was asked for is done
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None

    return run


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"resight {__version__}")
        raise typer.Exit


@app.command()
@_verb
def train(
    recipe: RecipeOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Every duration of the schedule scales along.")
    ] = None,
    batch_size: BatchOption = None,
    lr: LrOption = None,
    seed: SeedOption = None,
    val: ValOption = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", help="As many whole epochs as fit, LR test included."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The run's folder; runs/RECIPE-N unless given.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="A run to go on with, bit for bit.")
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="On CUDA: the same bits again, more slowly.")
    ] = False,
    skip_bad: SkipBadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe on images and leave a run folder; custom-resnet on cifar10 unless told."""
    import time

    from resight.runtime import seconds_since_process_start
    from resight.training import train as run_training

    started = time.perf_counter() - seconds_since_process_start()
    run = run_training(
        recipe,
        data,
        out=out,
        resume=resume,
        minutes=minutes,
        device=device,
        precision=precision,
        deterministic=deterministic,
        skip_bad=skip_bad,
        reporter=_reporter(as_json),
        started=started,
        **_changes(set_, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, val=val),
    )
    if as_json:
        print(json.dumps(run.result))
    else:
        print_result(run)


@app.command("find-lr")
@_verb
def find_lr(
    recipe: RecipeOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    batch_size: BatchOption = None,
    seed: SeedOption = None,
    val: ValOption = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write the curve as a .png, .svg or .pdf.")
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    skip_bad: SkipBadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Raise the LR step by step on the recipe's own training step and suggest one."""
    from resight.lr_curve import check_plot, save_plot
    from resight.range_test import find_lr as run_test

    if plot is not None:
        check_plot(plot)
    test = run_test(
        recipe or "custom-resnet",
        data,
        device=device,
        precision=precision,
        skip_bad=skip_bad,
        reporter=_reporter(as_json),
        **_changes(set_, batch_size=batch_size, seed=seed, val=val),
    )
    if plot is not None:
        save_plot(test, plot)
        print(f"curve: {plot}", file=sys.stderr)
    suggestions = test.suggestions()
    if as_json:
        print(json.dumps({"suggestions": suggestions, **test.to_dict()}))
        return
    print(f"LR test: {len(test.lrs)} steps, {test.stop}")
    for method, value in suggestions.items():
        mark = "   what --lr find takes" if method == test.method else ""
        print(f"  {method:<11} {value:.3g}{mark}")
    words = ["--lr", f"{suggestions[test.method]:.3g}"]
    for option, given in (("--recipe", recipe), ("--data", data), ("--batch-size", batch_size)):
        words += [] if given is None else [option, str(given)]
    words += [word for pair in set_ or [] for word in ("--set", pair)]
    print(f"next: resight train {shlex.join(words)}")


@app.command()
@_verb
def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Other images with the run's classes.")
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    skip_bad: SkipBadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a run: loss, accuracy with its 95 % interval, per class; writes predictions.npz."""
    from resight.evaluation import evaluate as measure

    reporter = _reporter(as_json)
    try:
        predictions = measure(
            run,
            data,
            device=device,
            precision=precision,
            skip_bad=skip_bad,
            reporter=reporter,
        )
    finally:
        reporter.close()
    if as_json:
        low, high = predictions.accuracy_interval
        facts = {
            "images": len(predictions),
            "accuracy": predictions.accuracy,
            "accuracy_95": [low, high],
            "loss": predictions.loss,
            "per_class": predictions.per_class(),
        }
        print(json.dumps(facts))
        return
    print(headline(predictions))
    print_classes(predictions)


@app.command()
@_verb
def summary(
    target: Annotated[str, typer.Argument(help="A net, a recipe, a TOML file or a run.")] = (
        "custom-resnet"
    ),
    blocks: Annotated[bool, typer.Option("--blocks", help="Rows for residual blocks too.")] = False,
    classes: Annotated[int, typer.Option("--classes")] = 10,
    channels: Annotated[int, typer.Option("--channels")] = 3,
    image_size: Annotated[
        int | None, typer.Option("--image-size", help="px, for a net: 32 unless given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print a net's layers: output shape, parameters, receptive field, multiply-adds."""
    from resight.targets import summary as summarize

    table = summarize(
        target, blocks=blocks, classes=classes, channels=channels, image_size=image_size
    )
    print(json.dumps(table.to_dict()) if as_json else table)


@app.command()
@_verb
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this one as TOML, to edit.")] = None,
) -> None:
    """List the named recipes with what was measured of them, or print one as TOML."""
    from resight.catalog import RECIPES, find_recipe, promise

    if name is not None:
        print(find_recipe(name).to_toml(), end="")
        return
    for known in RECIPES:
        first, *rest = promise(known).splitlines()
        print(f"{known}\n    {first}")
        print("\n".join(f"    {line}" for line in rest if line.strip()) + "\n")
    print("next: resight recipes NAME > mine.toml, edit it, resight train --recipe mine.toml")


@app.command()
@_verb
def data(
    name: Annotated[str, typer.Argument(help="cifar10 or cifar100 to download; digits; a folder.")],
    image_size: Annotated[int, typer.Option("--image-size", help="px, for a folder.")] = 32,
    skip_bad: SkipBadOption = False,
) -> None:
    """Download CIFAR, or say what is understood of a folder: splits, classes, statistics."""
    from resight.data.cifar import VARIANTS
    from resight.data.download import download
    from resight.data.sources import load_data

    reporter = _reporter(as_json=False)
    try:
        if name in VARIANTS:
            show = reporter.counting(f"downloading {name}, MB")

            def progress(done: int, total: int | None) -> None:
                show(done // 1_000_000, total and total // 1_000_000)

            path = download(name, progress=progress)
            reporter.say(f"{name} is at {path}")
        loaded = load_data(
            name,
            image_size=8 if name == "digits" else image_size,
            skip_bad=skip_bad,
            progress=reporter.counting("decoding images"),
        )
    finally:
        reporter.close()
    for split in ("train", "val", "test"):
        images = getattr(loaded, split)
        if images is not None:
            size = "×".join(str(n) for n in images.images.shape[1:])
            print(f"{split:<6}{len(images):>8,} images {size}")
    print(f"classes {len(loaded.classes)}: {listed(loaded.classes)}")
    print("mean    " + " ".join(f"{value:.4f}" for value in loaded.mean))
    print("std     " + " ".join(f"{value:.4f}" for value in loaded.std))
    for note in loaded.notes:
        print(f"note: {note}")
    print(
        f"next: resight train --data {shlex.quote(name)}"
        + (" --recipe digits" if name == "digits" else "")
    )


def main() -> None:
    """The entry point of the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a bar or × that the encoding lacks is no error
            stream.reconfigure(errors="replace")
    app()


def _changes(pairs: list[str] | None, **words: Any) -> dict[str, Any]:
    """`--set` and the options of their own, as the public functions take them."""
    from resight.recipe import parse_setting

    return dict(parse_setting(pair) for pair in pairs or []) | words


def _reporter(as_json: bool) -> Reporter:
    from resight.progress import default_reporter

    return default_reporter(sys.stderr if as_json else sys.stdout)


def _show_warning(
    message: Warning | str, category: type[Warning], *args: object, **kwargs: object
) -> None:
    if issubclass(category, ResightWarning):
        print(f"warning: {message}", file=sys.stderr)
