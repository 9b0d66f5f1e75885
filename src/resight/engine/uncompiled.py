"""torch's optimizers as they are, without importing torch's compiler.

torch wraps several of an optimizer's methods to keep `torch.compile` out of them, and the wrappers
import `torch._dynamo` when they are first called: more than a second, though nothing is compiled
here. The classes below have the same methods without the wrappers. A torch that wraps them in
another way only costs that second again.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch

F = TypeVar("F")


def _plain(method: F) -> F:
    unwrapped: F = inspect.unwrap(method)  # type: ignore[arg-type]
    return unwrapped


class Uncompiled(torch.optim.Optimizer):
    """The methods that every optimizer has."""

    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    zero_grad = _plain(torch.optim.Optimizer.zero_grad)
    state_dict = _plain(torch.optim.Optimizer.state_dict)
    load_state_dict = _plain(torch.optim.Optimizer.load_state_dict)


class SGD(Uncompiled, torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return _SGD_STEP(self, closure)


class Adam(Uncompiled, torch.optim.Adam):
    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return _ADAM_STEP(self, closure)


class AdamW(Uncompiled, torch.optim.AdamW):
    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return _ADAM_STEP(self, closure)  # AdamW inherits it


_SGD_STEP = _plain(torch.optim.SGD.step)
_ADAM_STEP = _plain(torch.optim.Adam.step)
