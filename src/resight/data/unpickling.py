"""Read pickles of CIFAR batches without running any code that they contain."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from resight.data.decode import reason
from resight.errors import ResightError


def unpickle(data: bytes, where: str) -> dict[str, Any]:
    """The dictionary in a CIFAR pickle, of Python 2 or 3, with str keys.

    Only the globals that arrays, bytes and str need are loaded. Raises ResightError naming `where`
    for any other global, a truncated file or anything but a dictionary.
    """
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except ResightError as error:
        raise ResightError(f"{where} {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise ResightError(
            f"{where} is damaged or not a CIFAR batch ({reason(error)}): download the data again"
        ) from error
    if not isinstance(content, dict):
        raise ResightError(
            f"{where} contains a {type(content).__name__}, not the dictionary of a CIFAR batch: "
            "download the data again"
        )
    return {text(key): value for key, value in content.items()}


def text(value: object) -> str:
    """A name as Python 2 (bytes) or 3 (str) stored it."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in pickle protocol 2; no other codec is needed."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"unexpected codec {encoding}")
    return text.encode("latin1")


def _builder(protocol: int) -> Callable[..., Any]:
    """The function that rebuilds an array, wherever this version of numpy has it."""
    return cast(Callable[..., Any], np.empty(0).__reduce_ex__(protocol)[0])


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
    ("numpy.core.multiarray", "_reconstruct"): _builder(2),
    ("numpy._core.multiarray", "_reconstruct"): _builder(2),
    ("numpy.core.numeric", "_frombuffer"): _builder(5),
    ("numpy._core.numeric", "_frombuffer"): _builder(5),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return ALLOWED[module_name, global_name]
        except KeyError:
            raise ResightError(
                f"asks for {module_name}.{global_name}, which no CIFAR batch needs: not loaded, "
                "as it could run harmful code; use the official files"
            ) from None
