"""The optional libraries: which extra of Resight brings which."""

from __future__ import annotations

import importlib.util

from resight.errors import ResightError, listed

EXTRAS = {"onnx": ("onnx", "onnxscript", "onnxruntime")}


def missing_from(extra: str) -> list[str]:
    """The modules of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]


def require(extra: str, what: str) -> None:
    """Raise `ResightError` if a module of an extra is not installed; what: what needs it."""
    if missing := missing_from(extra):
        raise ResightError(
            f"{what} needs {listed(missing)}: install with `pip install 'resight[{extra}]'`"
        )
