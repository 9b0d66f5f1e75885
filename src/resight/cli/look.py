"""The verbs that inspect runs and nets: evaluate, diagnose, report, compare, summary."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from resight.cli.complete import nets_recipes_and_runs, run_folders, words
from resight.cli.options import DeviceOption, JsonOption, PrecisionOption, SkipBadOption
from resight.cli.output import (
    is_piped,
    print_classes,
    print_findings,
    reporter_for,
    write_out,
)
from resight.errors import ResightError

RunArgument = Annotated[Path, typer.Argument(help="A run's folder.", autocompletion=run_folders)]
MovedOption = Annotated[
    str | None, typer.Option("--data", help="Where the run's images are, if they have moved.")
]


def evaluate(
    run: Annotated[
        Path, typer.Argument(help="A finished run's folder.", autocompletion=run_folders)
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", help="Evaluate on these images instead; same classes as the run."),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            help="Split of the run's images: test, val or train.",
            autocompletion=words("test", "val", "train"),
        ),
    ] = "test",
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            help="Write one row per image: id, true, predicted, loss …; to stdout for -, "
            "and everything else to stderr.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    skip_bad: SkipBadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a run: loss, accuracy with 95 % interval and per class; writes predictions.npz."""
    from resight.look.evaluate import evaluate as measure

    piped = is_piped(csv, as_json=as_json)
    reporter = reporter_for(as_json or piped)
    try:
        predictions = measure(
            run,
            data,
            split=split,
            device=device,
            precision=precision,
            skip_bad=skip_bad,
            reporter=reporter,
        )
    finally:
        reporter.close()
    if piped:
        write_out(predictions.csv_text())
    elif csv is not None:
        predictions.to_csv(csv)
    if as_json:
        low, high = predictions.accuracy_interval
        facts = {
            "images": len(predictions),
            "accuracy": predictions.accuracy,
            "accuracy_95": [low, high],
            "guess_accuracy": predictions.guess_accuracy,
            "balanced_accuracy": predictions.balanced_accuracy,
            "loss": predictions.loss,
            "per_class": predictions.per_class(),
        }
        print(json.dumps(facts))
        return
    with contextlib.redirect_stdout(sys.stderr) if piped else contextlib.nullcontext():
        print(predictions.headline)
        print(predictions.beside_accuracy)
        print_classes(predictions)


def diagnose(
    run: RunArgument,
    data: MovedOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Look for silent failures in a run: the evidence, the threshold and one thing to try."""
    from resight.diagnosis.diagnose import diagnose as look_for

    reporter = reporter_for(as_json)
    try:
        diagnosis = look_for(run, data, device=device, reporter=reporter)
    finally:
        reporter.close()
    print(json.dumps(diagnosis.to_dict()) if as_json else diagnosis)


def report(
    run: RunArgument,
    data: MovedOption = None,
    layer: Annotated[
        str | None,
        typer.Option("--layer", help="Layer of the Grad-CAM maps: a module path, e.g. res2."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="Method of the maps: gradcam, gradcam++ or hirescam.",
            autocompletion=words("gradcam", "gradcam++", "hirescam"),
        ),
    ] = "gradcam",
    device: DeviceOption = "auto",
) -> None:
    """Write a run's report: report/index.html, which works offline, and report/README.md."""
    from resight.reporting.report import report as write
    from resight.runs.run import load_run

    reporter = reporter_for(as_json=False)
    page = write(run, data, layer=layer, method=method, device=device, reporter=reporter)  # type: ignore[arg-type]
    print_findings(load_run(run))
    print(f"page   {page}")
    print(f"README {page.parent / 'README.md'}")


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Two or more run folders, or folders of seeds.", autocompletion=run_folders
        ),
    ],
    page: Annotated[
        Path | None,
        typer.Option("--page", help="Write an HTML page with curves and disagreements."),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the comparison as Markdown.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare runs: results, recipe differences, and whether the results differ by chance.

    Folders of seeds are compared as recipes, paired by seed.
    """
    from resight.comparison.compare import compare as set_beside
    from resight.comparison.page import write_page
    from resight.comparison.seeds import SeedsComparison
    from resight.runs.run import SEEDS

    comparison = set_beside([run for run in runs if run.name != SEEDS])  # FOLDER/* matches it too
    if isinstance(comparison, SeedsComparison):
        if page is not None:
            raise ResightError(
                "--page shows runs, not folders of seeds; name runs, such as "
                f"{comparison.results[0].path}/seed-N"
            )
    elif page is not None:
        write_page(comparison, page)
    if as_json:
        print(json.dumps(comparison.to_dict()))
    else:
        print(comparison.to_markdown() if markdown else comparison)
    if page is not None and not as_json:
        print(f"page {page}")
    elif not (as_json or markdown or isinstance(comparison, SeedsComparison)):
        words = shlex.join(["resight", "compare", *map(str, runs), "--page", "compare.html"])
        print(f"next: {words}    # curves, images")


def summary(
    target: Annotated[
        str,
        typer.Argument(
            help="A net, a recipe, a TOML file or a run.", autocompletion=nets_recipes_and_runs
        ),
    ] = "custom-resnet",
    blocks: Annotated[
        bool, typer.Option("--blocks", help="Add a row for each residual block.")
    ] = False,
    classes: Annotated[int, typer.Option("--classes", help="Number of classes.")] = 10,
    channels: Annotated[int, typer.Option("--channels", help="Number of image channels.")] = 3,
    image_size: Annotated[
        int | None, typer.Option("--image-size", help="Image size in px, for a net; 32 by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print a net's layers: output shape, parameters, receptive field, multiply-adds."""
    from resight.look.summary import summary as summarize

    table = summarize(
        target, blocks=blocks, classes=classes, channels=channels, image_size=image_size
    )
    print(json.dumps(table.to_dict()) if as_json else table)
