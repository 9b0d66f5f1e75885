"""Receptive fields by geometry, followed through a forward pass as it runs.

Every operation on tensors is seen below the modules, so functional pools, sums of branches and any
control flow are covered. What is not understood is unknown, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Each keeps every position to itself, leaving out the statistics that a norm takes over the map.
_POSITIONWISE = {
    "aten::_batch_norm_no_update",
    "aten::_batch_norm_with_update",
    "aten::_native_batch_norm_legit",
    "aten::_native_batch_norm_legit_no_training",
    "aten::_prelu_kernel",
    "aten::_to_copy",
    "aten::alias",
    "aten::cat",
    "aten::cudnn_batch_norm",
    "aten::detach",
    "aten::hardswish",
    "aten::miopen_batch_norm",
    "aten::native_batch_norm",
    "aten::native_group_norm",
}


@dataclass(frozen=True)
class _Reach:
    """Output index i depends on input pixels `step*i + low` to `step*i + high`, along one axis."""

    step: int
    low: int
    high: int

    def through(self, kernel: int, stride: int, padding: int, dilation: int) -> _Reach:
        start = self.low - self.step * padding
        return _Reach(
            step=self.step * stride,
            low=start,
            high=self.high + self.step * (dilation * (kernel - 1) - padding),
        )


_Field = tuple[_Reach, _Reach]


class ReceptiveFields(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which each tensor computed from `images` (N, C, H, W) gets its receptive field.

    Keeps those tensors alive, for it knows them by their identity.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        pixel = _Reach(step=1, low=0, high=0)
        self._fields: dict[int, _Field | None] = {id(images): (pixel, pixel)}
        self._tensors = [images]

    def side_px(self, tensor: Tensor) -> int | None:
        """The longer side of the receptive field of one cell of `tensor`; None where not known."""
        field = self._fields.get(id(tensor))
        return max(reach.high - reach.low + 1 for reach in field) if field else None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        operands = _tensors_in((args, kwargs))
        if any(id(t) in self._fields for t in operands):
            results = _tensors_in(out)
            try:
                field = self._field_after(func, args, operands, results)
            except (ValueError, TypeError, IndexError, AttributeError):
                field = None  # called in a way that is not known here
            if func._schema.is_mutable:
                self._forget_what_shares_memory_with(results)
            for tensor in results:
                self._fields[id(tensor)] = field
            self._tensors += results
        return out

    def _field_after(
        self, func: Any, args: Sequence[Any], operands: list[Tensor], results: list[Tensor]
    ) -> _Field | None:
        name = func._schema.name
        if name in _POSITIONWISE or torch.Tag.pointwise in func.tags:
            return self._union(operands, results[0]) if results else None
        image, *weights = operands
        field = self._fields.get(id(image))
        if field is None or image.ndim != 4 or any(id(w) in self._fields for w in weights):
            return None
        if name == "aten::convolution":
            _, weight, _, stride, padding, dilation, transposed, *_ = args
            if not transposed:
                return _slide(field, weight.shape[2:], stride, padding, dilation)
        if name == "aten::max_pool2d_with_indices":
            # the fifth argument, ceil_mode, adds cells at the border that reach as far as others
            kernel, stride, padding, dilation = _with_defaults(args[1:5], (None, [], [0], [1]))
            return _slide(field, kernel, stride or kernel, padding, dilation)
        if name == "aten::avg_pool2d":
            kernel, stride, padding = _with_defaults(args[1:4], (None, [], [0]))
            return _slide(field, kernel, stride or kernel, padding, [1])
        return None

    def _union(self, operands: list[Tensor], result: Tensor) -> _Field | None:
        """What the operands reach together, if position goes with position; else None."""
        fields = []
        for tensor in operands:
            if id(tensor) not in self._fields and _is_one_position(tensor):
                continue
            field = self._fields.get(id(tensor))
            if field is None or result.ndim != 4 or tensor.shape[2:] != result.shape[2:]:
                return None
            fields.append(field)
        rows, columns = (_union_of([field[axis] for field in fields]) for axis in (0, 1))
        return (rows, columns) if rows and columns else None

    def _forget_what_shares_memory_with(self, written: list[Tensor]) -> None:
        """A write through a view changes its base too, which the base's field knows nothing of."""
        changed = {_memory(tensor) for tensor in written}
        for tensor in self._tensors:
            if None in changed or _memory(tensor) in (None, *changed):
                self._fields[id(tensor)] = None


def _memory(tensor: Tensor) -> int | None:
    """Where its values are; None where there is no one place, as for a sparse tensor."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:  # NotImplementedError is one
        return None


def _tensors_in(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_one_position(tensor: Tensor) -> bool:
    """A constant for each channel at most, as a norm's `(C,)` or a scale's `(C, 1, 1)`."""
    return tensor.ndim == 1 or math.prod(tensor.shape[-2:]) == 1


def _with_defaults(given: Sequence[Any], defaults: Sequence[Any]) -> list[Any]:
    return [*given, *defaults[len(given) :]]


def _slide(
    field: _Field,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> _Field:
    rows, columns = (
        reach.through(*(pair[axis % len(pair)] for pair in (kernel, stride, padding, dilation)))
        for axis, reach in enumerate(field)
    )
    return rows, columns


def _union_of(reaches: list[_Reach]) -> _Reach | None:
    if len({reach.step for reach in reaches}) != 1:
        return None
    return _Reach(
        step=reaches[0].step,
        low=min(reach.low for reach in reaches),
        high=max(reach.high for reach in reaches),
    )
