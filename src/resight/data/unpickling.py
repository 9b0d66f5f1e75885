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


CALLED = (np.dtype, _latin1, _builder(2), _builder(5))  # of these; the others are arguments
NEEDED = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.NONE),
    *(pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.LONG, pickle.LONG1, pickle.FLOAT, pickle.BINFLOAT),
    *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING),
    *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.BYTEARRAY8),
    *(pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.EMPTY_DICT, pickle.DICT, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD),
)


_Python: Any = pickle._Unpickler  # type: ignore[attr-defined, unused-ignore]


class _Unpickler(_Python):  # type: ignore[misc]
    """pickle's own reader in Python: in the one in C, an index of four bytes makes a list of up to
    64 GB. What arrays, lists and dictionaries with names as keys do not need is refused: nested
    tuples as keys, for one, take a time that doubles with each level."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return ALLOWED[module_name, global_name]
        except KeyError:
            raise ResightError(
                f"asks for {module_name}.{global_name}, which no CIFAR batch needs: not loaded, "
                "as it could run harmful code; use the official files"
            ) from None

    def load_nothing(self) -> None:
        raise pickle.UnpicklingError("an instruction that no CIFAR batch needs")

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not any(function is called for called in CALLED):
            raise pickle.UnpicklingError("a call that no CIFAR batch needs")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        state, array = self.stack.pop(), self.stack[-1]
        if not isinstance(array, np.ndarray | np.dtype):
            raise pickle.UnpicklingError("a state of something else than an array")
        cast(Any, array).__setstate__(state)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(_named(items))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._into_dict([key, value])

    def load_setitems(self) -> None:
        self._into_dict(self.pop_mark())

    def _into_dict(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise pickle.UnpicklingError("an item of something else than a dictionary")
        self.stack[-1].update(_named(items))


def _named(items: list[Any]) -> dict[str | bytes, Any]:
    """Keys and values by turns; each key a name."""
    keys = items[::2]
    if not all(isinstance(key, str | bytes) for key in keys):
        raise pickle.UnpicklingError("a key that is no name")
    return dict(zip(keys, items[1::2], strict=True))


_OWN = {
    pickle.REDUCE: _Unpickler.load_reduce,
    pickle.BUILD: _Unpickler.load_build,
    pickle.DICT: _Unpickler.load_dict,
    pickle.SETITEM: _Unpickler.load_setitem,
    pickle.SETITEMS: _Unpickler.load_setitems,
}
_Unpickler.dispatch = dict.fromkeys(range(256), _Unpickler.load_nothing) | {
    code[0]: _OWN.get(code, _Python.dispatch[code[0]]) for code in NEEDED
}
