"""The optional libraries: what each extra of the package (`pip install 'resight[onnx]'`) gives."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec

from resight.errors import ResightError, described, listed


@dataclass(frozen=True)
class Extra:
    """modules: the names that are imported; gives: what does not work without them."""

    modules: tuple[str, ...]
    gives: str


EXTRAS = {
    "onnx": Extra(("onnx", "onnxscript", "onnxruntime"), "resight export --to onnx"),
    "serve": Extra(("fastapi", "uvicorn", "python_multipart"), "resight serve"),
    "heic": Extra(("pillow_heif",), "HEIC photos, as phones take them"),
}


def install_command(extra: str) -> str:
    return f"pip install 'resight[{extra}]'"


def missing(extra: str) -> list[str]:
    """The modules of an extra that are not installed; imports nothing."""
    return [module for module in EXTRAS[extra].modules if find_spec(module) is None]


def require(extra: str) -> None:
    """Import the modules of an extra. Raises `ResightError` with the command that installs them."""
    gives = EXTRAS[extra].gives
    if lacking := missing(extra):
        raise ResightError(f"{gives}: {listed(lacking)} missing; {install_command(extra)}")
    for module in EXTRAS[extra].modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # a library that does not fit its own may raise anything
            raise ResightError(
                f"{gives}: {module} is installed, but can't be imported ({described(error)}); "
                f"pip install --force-reinstall {module.replace('_', '-')}"
            ) from error
