"""The verbs that put a trained net to use: serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resight.cli.look import MovedOption
from resight.cli.options import DeviceOption
from resight.cli.output import reporter_for


def serve(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
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
    from resight.deploy.serve import serve as answer

    reporter = reporter_for(as_json=False)
    try:
        answer(run, port=port, host=host, data=data, device=device, reporter=reporter)
    finally:
        reporter.close()
