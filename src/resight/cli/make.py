"""The verbs for training and what comes before it: doctor, train, find-lr, recipes, data."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from resight.cli.complete import recipe_names, run_folders
from resight.cli.options import (
    SOURCES,
    BatchOption,
    DataOption,
    DeviceOption,
    ExecutorOption,
    GroupOption,
    ImageSizeOption,
    JsonOption,
    LrOption,
    PrecisionOption,
    RecipeOption,
    SeedOption,
    SetOption,
    SkipBadOption,
    ValOption,
    changes_of,
)
from resight.cli.output import print_trained, reporter_for
from resight.errors import ResightError


def train(
    recipe: RecipeOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", help="Number of epochs; the schedule's durations scale with it."),
    ] = None,
    batch_size: BatchOption = None,
    lr: LrOption = None,
    seed: SeedOption = None,
    val: ValOption = None,
    group: GroupOption = None,
    image_size: ImageSizeOption = None,
    early_stop: Annotated[
        int | None,
        typer.Option(
            "--early-stop",
            help="Stop after N epochs without a better validation accuracy; the weights of the "
            "best epoch count. Holds out 10% of the training images if there is no validation "
            "split.",
            metavar="N",
            min=0,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            help="Train only as many epochs as fit into M minutes, LR test included; with --seeds, "
            "per seed.",
            metavar="M",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The folder to write, for one run or for all seeds; by default runs/RECIPE-N.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            help="Train N runs in one folder, with consecutive seeds from --seed on, and print "
            "mean ± std. Only the first run gets a report; `resight report` writes the others.",
            metavar="N",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            help="Resume this run, or folder of seeds, where it stopped.",
            autocompletion=run_folders,
        ),
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    executor: ExecutorOption = "auto",
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="On CUDA: bitwise reproducible results, but slower."),
    ] = False,
    skip_bad: SkipBadOption = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Serve the report on 127.0.0.1 during training.")
    ] = False,
    timings: Annotated[
        bool, typer.Option("--timings", help="Print how the command's time was spent.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe on images and write a run folder.

    Default recipe: auto for a folder of images, else custom-resnet.
    Default data: cifar10.
    """
    from resight.progress import Enduring, default_reporter
    from resight.runs.run import holds_seeds
    from resight.training.timings import seconds_since_process_start

    started = time.perf_counter() - seconds_since_process_start()
    changes = changes_of(
        set_,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        val=val,
        group=group,
        image_size=image_size,
        early_stop=early_stop,
    )
    output = Enduring(sys.stderr if as_json else sys.stdout)
    options: dict[str, Any] = {
        "out": out,
        "resume": resume,
        "minutes": minutes,
        "device": device,
        "precision": precision,
        "executor": executor,
        "deterministic": deterministic,
        "skip_bad": skip_bad,
        "report": not no_report,
        "reporter": default_reporter(output),
        "started": started,
        **changes,
    }
    several = seeds is not None or (resume is not None and holds_seeds(resume))
    if several and live:
        raise ResightError("--live shows a single run; leave out --live or --seeds")
    with contextlib.nullcontext() if resume else _loading(recipe, data, changes, skip_bad):
        from resight.engine.runtime import keep_memory
        from resight.training.seeds import train_seeds
        from resight.training.train import train as train_run

        keep_memory()
        if several:
            result = train_seeds(recipe, data, seeds=seeds, **options)
            values = result.to_dict()
        else:
            run = train_run(recipe, data, live=live, **options)
            values = run.result
    if not as_json:
        print_trained(result if several else run, values if timings else None, output)
    elif not several:
        found = run.diagnosis.to_dict()["findings"] if run.diagnosis else []
        print(json.dumps({**values, "findings": found}))
    else:
        print(json.dumps(values))
    if values.get("failed"):
        raise typer.Exit(2)


def reproduce(
    run: Annotated[
        Path, typer.Argument(help="A finished run's folder.", autocompletion=run_folders)
    ],
    data: Annotated[
        str | None, typer.Option("--data", help="Where the run's images are, if they have moved.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder to write; by default runs/RECIPE-N.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a run again from what it holds, and say whether it is the same, bit for bit.

    Exits 0 if it is, 1 if it differs.
    """
    from resight.engine.runtime import keep_memory
    from resight.training.reproduce import reproduce as train_again

    keep_memory()
    found = train_again(run, data, out=out, reporter=reporter_for(as_json))
    print(json.dumps(found.to_dict()) if as_json else found)
    if not found.identical:
        raise typer.Exit(1)


def find_lr(
    recipe: RecipeOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    batch_size: BatchOption = None,
    seed: SeedOption = None,
    val: ValOption = None,
    group: GroupOption = None,
    image_size: ImageSizeOption = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write the curve to a .png, .svg or .pdf file.")
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    executor: ExecutorOption = "auto",
    skip_bad: SkipBadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run an LR range test with the recipe's own training step and suggest a learning rate."""
    from resight.recipe.catalog import is_file
    from resight.recipe.overrides import SHORT, parse_setting
    from resight.runs.lr_test import check_plot, save_plot, without_advice

    if plot is not None:
        check_plot(plot)
    changes = changes_of(
        set_, batch_size=batch_size, seed=seed, val=val, group=group, image_size=image_size
    )
    with _loading(recipe, data, changes, skip_bad):
        from resight.training.find_lr import find_lr as run_test

        test = run_test(
            recipe,
            data,
            device=device,
            precision=precision,
            executor=executor,
            skip_bad=skip_bad,
            reporter=reporter_for(as_json),
            **changes,
        )
    if plot is not None:
        save_plot(test, plot)
        print(f"curve: {plot}", file=sys.stderr)
    try:
        suggestions, refused = test.suggestions(), ""
    except ResightError as error:
        suggestions, refused = {}, without_advice(error)
    if as_json:
        advised = {"suggestions": suggestions, "advised_lr": test.advised_lr}
        print(json.dumps(advised | test.to_dict()))
        return
    print(f"LR test: {len(test.lrs)} steps, {test.stop}")
    if refused:
        print(refused)
    for method, value in suggestions.items():
        used = method == test.method and test.usual_lr is None
        mark = "   used by --lr find" if used else ""
        print(f"  {method:<11} {value:.3g}{mark}")
    if test.recipe_lr is not None:
        print(
            f"the built-in recipe's own LR max is {test.recipe_lr:.3g}: use it, since it was "
            "chosen by whole trainings; the curve is for recipes that set none"
        )
    elif test.usual_lr is not None:
        why = "" if refused else "with so few images the curve is not to be trusted: "
        print(f"{why}use LR max {test.usual_lr:.3g}, usual for this optimizer")
    pairs = set_ or []
    lr_given = is_file(recipe or "") or SHORT["lr"] in {parse_setting(pair)[0] for pair in pairs}
    # else a built-in recipe has its own LR without being told
    words = ["--lr", f"{test.advised_lr:.3g}"] if lr_given or test.recipe_lr is None else []
    options = {
        "--recipe": recipe,
        "--data": data,
        "--batch-size": batch_size,
        "--seed": seed,
        "--val": val,
        "--group": group,
        "--image-size": image_size,
    }
    for option, given in options.items():
        words += [] if given is None else [option, str(given)]
    words += ["--skip-bad"] if skip_bad else []
    for pair in pairs:
        if "--lr" not in words or parse_setting(pair)[0] != SHORT["lr"]:
            words += ["--set", pair]
    print(f"next: resight train {shlex.join(words)}")


@contextlib.contextmanager
def _loading(
    recipe: str | None, data: str | None, changes: dict[str, Any], skip_bad: bool
) -> Iterator[None]:
    """Load the images of a training in a thread: torch's import, inside, takes as long."""
    from resight.data.ahead import loading
    from resight.data.auto import recipe_for
    from resight.data.sources import listed_once

    with listed_once():
        wanted = recipe_for(recipe, data, changes).recipe
        source = wanted.data.source if data is None else data
        if source == "digits":  # it is scikit-learn's import that takes long
            yield
            return
        with loading(
            source,
            image_size=wanted.data.image_size,
            fit=wanted.data.fit,
            split_seed=wanted.data.split_seed,
            group=wanted.data.group,
            skip_bad=skip_bad,
        ):
            yield


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Print this recipe as TOML, ready to edit.", autocompletion=recipe_names
        ),
    ] = None,
) -> None:
    """List the named recipes with their measured results, or print one as TOML."""
    from resight.recipe.catalog import RECIPES, find_recipe, promise

    if name is not None:
        print(find_recipe(name).to_toml(), end="")
        return
    for known in RECIPES:
        first, *rest = promise(known).splitlines()
        print(f"{known}\n    {first}")
        print("\n".join(f"    {line}" for line in rest if line.strip()) + "\n")
    print(
        "next: resight recipes fast > mine.toml, then edit it, then "
        "resight train --recipe mine.toml"
    )


def data(
    name: Annotated[
        str,
        typer.Argument(
            help="cifar10 or cifar100 (downloaded if needed), digits or a folder.",
            autocompletion=SOURCES,
        ),
    ],
    image_size: ImageSizeOption = None,
    val: ValOption = None,
    group: GroupOption = None,
    set_: SetOption = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", help="Write an HTML page with the images of each class."),
    ] = None,
    skip_bad: SkipBadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Look before training: classes, sizes, bad files, copies, odd images. Downloads CIFAR."""
    from resight.data.cifar import VARIANTS
    from resight.data.download import download
    from resight.data.sources import listed_once
    from resight.inspection.inspect import inspect_data
    from resight.inspection.page import check_page, write_page

    if page is not None:
        check_page(page)
    reporter = reporter_for(as_json)
    try:
        if name in VARIANTS:
            show = reporter.counting(f"downloading {name}, MB")

            def progress(done: int, total: int | None) -> None:
                show(done // 1_000_000, total and total // 1_000_000)

            path = download(name, progress=progress)
            reporter.say(f"{name} is at {path}")
        changes = changes_of(set_, val=val, group=group, image_size=image_size)
        with listed_once():
            inspection = inspect_data(name, skip_bad=skip_bad, reporter=reporter, **changes)
        if page is not None:
            write_page(inspection, page, reporter=reporter)
    finally:
        reporter.close()
    print(json.dumps(inspection.to_dict()) if as_json else inspection)
    if as_json:
        return
    if page is not None:
        print(f"page: {page}")
    refused = any(finding.name == "refused" for finding in inspection.findings)
    print(f"next: {inspection.next_command}" + "    # when that is fixed" * refused)


def doctor(as_json: JsonOption = False) -> None:
    """Look at this machine: torch, device, precision, threads, memory, folders, extras.

    Exits 0 unless something prevents a training, then 1.
    """
    from resight.machine.doctor import doctor as look_at_machine

    checkup = look_at_machine()
    print(json.dumps(checkup.to_dict()) if as_json else checkup)
    if checkup.problems:
        raise typer.Exit(1)
