"""The command's frame: the app, how a verb fails, and what the verbs share."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from resight import __version__
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


def verb(function: Callable[P, R]) -> Callable[P, R]:
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


def changes_of(pairs: list[str] | None, **words: Any) -> dict[str, Any]:
    """`--set` and the options of their own, as the public functions take them."""
    from resight.recipe import parse_setting

    return dict(parse_setting(pair) for pair in pairs or []) | words


def reporter_for(as_json: bool) -> Reporter:
    from resight.progress import default_reporter

    return default_reporter(sys.stderr if as_json else sys.stdout)


def _show_warning(
    message: Warning | str, category: type[Warning], *args: object, **kwargs: object
) -> None:
    if issubclass(category, ResightWarning):
        print(f"warning: {message}", file=sys.stderr)
