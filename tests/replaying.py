"""A stand-in for CUDA graphs, as strict as they are, where no GPU is.

What Python computes is frozen when a step is recorded, each operation reads and writes the tensors
that were there then, and none may wait for a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero")
HIDDEN_WRITES = {"native_batch_norm": (3, 4)}  # running statistics, which its schema leaves out


class Recording(TorchDispatchMode):
    """Runs operations and keeps them, with the values that they overwrite."""

    def __init__(self, refused: str = "") -> None:
        super().__init__()
        self.refused = refused
        self.operations: list[tuple[Any, Any, Any, dict[int, Tensor]]] = []
        self.overwritten: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, func._schema.name.removeprefix("aten::")
        indices = tree_leaves(args[1:]) if name == "index" else []
        by_mask = any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices)
        if name in WAITS or by_mask or (self.refused and self.refused in name):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        written = _written(func, args, kwargs, name)
        self.overwritten += [(tensor, tensor.clone()) for tensor in written]
        result = func(*args, **kwargs)
        taken = {_storage(tensor) for tensor in _tensors((args, kwargs)).values()}
        made = {i: t for i, t in _tensors(result).items() if _storage(t) not in taken}
        if made or written:  # a view sees what is written to its base
            self.operations.append((func, args, kwargs, made))
        return result

    def undo(self) -> None:
        """Nothing is computed while a graph is captured: what was there is there again."""
        with torch.no_grad():
            for tensor, before in reversed(self.overwritten):
                tensor.copy_(before)
        self.overwritten.clear()

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, made in self.operations:
            again = _tensors(func(*args, **kwargs))
            for place, tensor in made.items():
                tensor.copy_(again[place])


def _tensors(tree: Any) -> dict[int, Tensor]:
    return {i: leaf for i, leaf in enumerate(tree_leaves(tree)) if isinstance(leaf, Tensor)}


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _written(func: Any, args: Any, kwargs: dict[str, Any], name: str) -> list[Tensor]:
    places = HIDDEN_WRITES.get(name, ())
    given = [
        args[place] if place < len(args) else kwargs.get(argument.name)
        for place, argument in enumerate(func._schema.arguments)
        if place in places or (argument.alias_info is not None and argument.alias_info.is_write)
    ]
    return list(_tensors(given).values())


class Replay:
    """Graphs of torch's operations. refused: a part of the name of one that can't be captured."""

    def __init__(self, refused: str = "") -> None:
        self.refused = refused
        self.recorded = 0
        self.replayed = 0

    def warm_up(self, body: Callable[[], None]) -> None:
        for _ in range(3):
            body()

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        recording = Recording(self.refused)
        try:
            with recording:
                body()
        finally:
            recording.undo()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            recording.replay()

        return replay


class NothingRead(TorchDispatchMode):
    """Refuses `item()`, `if tensor:` and their like, which a CUDA graph can't capture."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))
