"""The verbs that put a trained net to use: predict, export, serve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from resight.characters import printable
from resight.cli.complete import run_folders, words
from resight.cli.look import MovedOption
from resight.cli.options import DeviceOption, PrecisionOption
from resight.cli.output import answer_lines, is_piped, reporter_for, write_out
from resight.errors import ResightError
from resight.findings import folded


def predict(
    run: Annotated[
        Path, typer.Argument(help="A finished run's folder.", autocompletion=run_folders)
    ],
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, patterns in quotes; - for a list of files on standard input.",
            metavar="PATH",
        ),
    ],
    top: Annotated[
        int, typer.Option("--top", help="How many classes to show for each image.", min=1)
    ] = 3,
    min_confidence: Annotated[
        float,
        typer.Option(
            "--min-confidence",
            help="Answer `none of these` where the most probable class has a lower probability.",
            metavar="P",
        ),
    ] = 0.0,
    cam: Annotated[
        Path | None,
        typer.Option("--cam", help="Write Grad-CAM maps over the photos into this new folder."),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", help="Write one row per image into this file; - for stdout."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one line of JSON per image; everything else goes to stderr."
        ),
    ] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Predict the classes of images, with their probabilities: a table, CSV or lines of JSON."""
    from resight.deploy.predict import predict as show_images
    from resight.deploy.predict import price_of
    from resight.runs.run import load_run

    piped = is_piped(csv, as_json=as_json)
    if not 0 <= min_confidence <= 1:
        raise ResightError(f"min_confidence = {min_confidence:g} must be from 0 to 1")
    opened, reporter = load_run(run), reporter_for(as_json=True)
    try:
        answers = show_images(
            opened,
            paths,
            min_confidence=min_confidence,
            cam=cam,
            device=device,
            precision=precision,
            listed=_listed() if "-" in paths else None,
            reporter=reporter,
        )
    finally:
        reporter.close()
    for name, why in answers.unreadable.items():
        print(f"not read: {printable(name)}: {why}", file=sys.stderr)
    if as_json:
        for line in answers.json_lines(top):
            print(line)
    if piped:
        write_out(answers.csv_text(top))
    elif csv is not None:
        answers.to_csv(csv, top)
    aside = sys.stderr if as_json or piped else sys.stdout
    if not (as_json or csv is not None):
        for line in answer_lines(answers, top):
            print(line)
    print(answers.headline, file=aside)
    if min_confidence:
        price = folded(price_of(opened, min_confidence), f"at {min_confidence:g}  ")
        print("\n".join(price), file=aside)
    if csv is not None and not piped:
        print(f"rows  {csv}", file=aside)
    if cam is not None:
        print(f"maps  {cam}", file=aside)


def _listed() -> bytes:
    """What is on standard input. Raises `ResightError` if it is closed."""
    if sys.stdin is None:
        raise ResightError("standard input is closed: pipe a list of files into it, or name them")
    return sys.stdin.buffer.read()


def export(
    run: Annotated[
        Path, typer.Argument(help="A finished run's folder.", autocompletion=run_folders)
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="onnx, safetensors or hub-folder.",
            metavar="FORM",
            autocompletion=words("onnx", "safetensors", "hub-folder"),
        ),
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A new file or folder; by default in RUN/export."),
    ] = None,
    data: MovedOption = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Also measure 8 bits; kept if they lose at most 0.2 points, not significantly.",
        ),
    ] = False,
    keep_int8: Annotated[
        bool, typer.Option("--keep-int8", help="Keep the 8-bit file whatever it loses.")
    ] = False,
    licence: Annotated[
        str, typer.Option("--licence", help="Of the Hub's model card, such as mit.", metavar="ID")
    ] = "unknown",
) -> None:
    """Export a run's net: an ONNX file, checked against it, weights, or a folder for the Hub."""
    from resight.deploy.export import export as write

    reporter = reporter_for(as_json=False)
    try:
        written = write(
            run,
            to,  # type: ignore[arg-type]
            out,
            data=data,
            int8=int8,
            keep_int8=keep_int8,
            licence=licence,
            reporter=reporter,
        )
    finally:
        reporter.close()
    print(written)


def serve(
    run: Annotated[
        Path, typer.Argument(help="A finished run's folder.", autocompletion=run_folders)
    ],
    port: Annotated[
        int, typer.Option("--port", help="Where the page is; 0 for any port that is free.")
    ] = 8322,
    host: Annotated[
        str,
        typer.Option("--host", help="The address to listen at; 0.0.0.0 lets other machines ask."),
    ] = "127.0.0.1",
    data: MovedOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Serve a run's net: a page to drop images on, and a JSON API."""
    from resight.serving.serve import serve as answer

    reporter = reporter_for(as_json=False)
    try:
        answer(run, port=port, host=host, data=data, device=device, reporter=reporter)
    finally:
        reporter.close()
