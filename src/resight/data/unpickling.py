"""Pickles of CIFAR batches, read so that no stranger's code runs."""

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

    Only what arrays, bytes and str are made of is looked up. Raises ResightError naming `where`
    for any other global, a truncated file or something that is no dictionary.
    """
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except ResightError as error:
        raise ResightError(f"{where} {error}") from error
    except Exception as error:  # a damaged pickle can make the machine raise anything
        raise ResightError(
            f"{where} is damaged or no CIFAR batch ({reason(error)}): download the data again"
        ) from error
    if not isinstance(content, dict):
        raise ResightError(f"{where} holds a {type(content).__name__}, not the dictionary of CIFAR")
    return {text(key): value for key, value in content.items()}


def text(value: object) -> str:
    """A name as Python 2 (bytes) or 3 (str) stored it."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 2's protocol 2 writes bytes in Python 3; no other codec is wanted."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding}")
    return text.encode("latin1")


def _builder(protocol: int) -> Callable[..., Any]:
    """The function by which numpy rebuilds an array, wherever this version of numpy keeps it."""
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
                "it could run a stranger's code; use the official files"
            ) from None
