"""The command `resight`: its verbs in the order of `--help`, and how a verb fails.

A verb that has a public function of its name calls it, in the same words. Torch is imported inside
the verbs, so `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from typer.core import TyperGroup

from resight.characters import printable
from resight.cli import look, make, ship
from resight.cli.output import silence
from resight.errors import ResightError, ResightWarning
from resight.findings import folded
from resight.version import __version__

OUTPUT_FAILED = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT, errno.EFBIG)
P = ParamSpec("P")
R = TypeVar("R")


def main() -> None:
    """The entry point of the command."""
    if sys.stdout is None:
        sys.stdout = _Closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an encoding without × must not raise an error
            stream.reconfigure(errors="replace")
    try:
        app()
    except OSError as error:  # outside the verbs: --help, --version
        _say_refused(error)
        sys.exit(2)


class _Closed(io.TextIOBase):
    """In place of an stdout that was closed (`>&-`): printing would succeed without a trace."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """Exit with one line and 2 for what the user can fix, with 130 after Ctrl-C."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", ResightWarning)
                warnings.showwarning = _show_warning
                result = function(*args, **kwargs)
            if sys.stdout is not None:  # what it prints may be in no file yet
                sys.stdout.flush()
            return result
        except ResightError as error:
            _say_aside(str(error), "error: ")
            raise typer.Exit(2) from None
        except KeyboardInterrupt as stop:
            _say_aside(str(stop) or "stopped")
            raise typer.Exit(getattr(stop, "exit_code", 130)) from None
        except BrokenPipeError:  # `resight … | head`: the reader has all that it wants
            silence(sys.stdout)
            raise typer.Exit(0) from None
        except OSError as error:
            _say_refused(error)
            raise typer.Exit(2) from None

    return run


def _say_refused(error: OSError) -> None:
    """One line for a path that can't be used, or output that can't be written. Raises any other
    error again."""
    if error.filename is not None:
        _say_aside(f"{printable(str(error.filename))}: {error.strerror}", "error: ")
        return
    if error.errno not in OUTPUT_FAILED:
        raise error
    silence(sys.stdout)
    _say_aside(f"the output can't be written: {error.strerror}", "error: ")


def _say_aside(text: str, start: str = "") -> None:
    """On stderr, which may be gone: one line, folded only where a terminal shows it."""
    with contextlib.suppress(OSError):
        line = start + text
        if sys.stderr is not None and sys.stderr.isatty():
            columns = shutil.get_terminal_size().columns
            line = "\n".join(folded(text, start, columns))
        print(line, file=sys.stderr)


def _show_warning(
    message: Warning | str, category: type[Warning], *args: object, **kwargs: object
) -> None:
    if issubclass(category, ResightWarning):
        _say_aside(str(message), "warning: ")


class _Verbs(TyperGroup):
    """Leaves `--show-completion` out of `--help`, where two options for one thing are too many."""

    def get_params(self, ctx: Any) -> Any:  # Typer's types of both depend on its version
        params: Any = super().get_params(ctx)
        for param in params:
            if param.name == "show_completion":
                param.hidden = True
        return params


app = typer.Typer(
    name="resight",
    help="Train small-image classifiers in seconds and see what they see.",
    epilog="Start with: resight train --recipe digits (no download). Then use your own images: "
    "resight train --data DIR.",
    no_args_is_help=True,
    cls=_Verbs,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"resight {__version__}")
        raise typer.Exit


_VERBS: dict[str, Callable[..., None]] = {
    "train": make.train,
    "find-lr": make.find_lr,
    "recipes": make.recipes,
    "data": make.data,
    "evaluate": look.evaluate,
    "predict": ship.predict,
    "export": ship.export,
    "serve": ship.serve,
    "diagnose": look.diagnose,
    "report": look.report,
    "compare": look.compare,
    "reproduce": make.reproduce,
    "summary": look.summary,
    "doctor": make.doctor,
}
for _name, _verb in _VERBS.items():
    app.command(_name)(verb(_verb))
