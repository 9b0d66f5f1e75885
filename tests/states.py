"""Whether two states are the same, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from resight.records import CLOCKS

TIMES = {*CLOCKS, "epoch_seconds"}


def assert_same(a: Any, b: Any, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - TIMES:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts and lists, with their paths."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from tensors(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from tensors(item, f"{name}.{place}")
    else:
        yield name, value


def pointers(value: Any) -> list[int]:
    return [leaf.data_ptr() for _, leaf in tensors(value) if isinstance(leaf, torch.Tensor)]


def changes_between(before: Any, after: Any) -> list[str]:
    one, other = dict(tensors(before)), dict(tensors(after))
    assert one.keys() == other.keys()
    return [
        key
        for key, value in one.items()
        if not (
            torch.equal(value, other[key])
            if isinstance(value, torch.Tensor)
            else value == other[key]
        )
    ]
