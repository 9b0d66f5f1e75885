"""`TrainState`: everything a step changes, with a snapshot that restores in place."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from resight.data.plan import generator
from resight.engine.averages import Averages, make_averages
from resight.engine.host import to_host
from resight.engine.optim import make_optimizer
from resight.models.build import build_net
from resight.recipe.recipe import Recipe

EXECUTOR_KEYS = ("params", "lr", "capturable")  # of a parameter group


class Whitened(Protocol):
    """A net whose stem is set from training images (`Net.whitening_stem`). stem_frozen: no gradient
    is computed for the stem."""

    stem_frozen: bool

    def whiten_(self, images: Tensor) -> None: ...


@dataclass
class Trace:
    """Loss and correct predictions per step of the running epoch: float32 (S,), int64 (S,).

    They stay on the device until they are read: one transfer per interval, none per step.
    """

    losses: Tensor
    correct: Tensor

    @classmethod
    def empty(cls, steps: int, device: torch.device) -> Trace:
        return cls(
            torch.zeros(steps, dtype=torch.float32, device=device),
            torch.zeros(steps, dtype=torch.int64, device=device),
        )


@dataclass
class TrainState:
    """model and optimizer, averaged weights if the recipe uses them, the step (from 0, over the
    whole training), the running epoch's trace and the finished epochs' rows."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Averages | None
    trace: Trace
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    epoch_seconds: float = 0.0  # spent on the running epoch's steps
    whitening_seconds: float = 0.0  # spent on setting a whitening stem

    @classmethod
    def build(
        cls,
        recipe: Recipe,
        *,
        classes: int,
        channels: int,
        steps_per_epoch: int,
        device: torch.device,
        sample: Tensor | None = None,
    ) -> TrainState:
        """Fresh weights, drawn from (seed, "init"); global generators are not touched.

        sample: float (n, C, H, W), normalised images that a whitening stem is set from.
        """
        model = init_net(recipe, classes=classes, channels=channels)
        began = time.perf_counter()
        if sample is not None:
            cast(Whitened, model).whiten_(sample)  # ends on the CPU, so nothing is left to do
        whitening = time.perf_counter() - began
        model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = make_averages(model, recipe.train)  # of the whitened net
        optimizer = make_optimizer(model, recipe.optimizer)
        trace = Trace.empty(steps_per_epoch, device)
        return cls(model, optimizer, average, trace, whitening_seconds=whitening)

    @property
    def eval_model(self) -> nn.Module:
        """The weights that are evaluated: the averaged ones if there are any."""
        return self.average.model if self.average else self.model

    def state_dict(self) -> dict[str, Any]:
        """Plain dicts and live tensors; `snapshot` clones them."""
        return {
            "model": self.model.state_dict(),
            "optimizer": _portable(self.optimizer.state_dict()),
            "ema": self.average.model.state_dict() if self.average else None,
            "trace": {"losses": self.trace.losses, "correct": self.trace.correct},
            "step": self.step,
            "history": self.history,
            "epoch_seconds": self.epoch_seconds,
        }

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Add a finished epoch's row and clear the trace for the next one."""
        self.history.append(row)
        self.trace.losses.zero_()
        self.trace.correct.zero_()
        self.epoch_seconds = 0.0

    def fault(self, saved: dict[str, Any], *, epochs: int) -> str | None:
        """Why `saved` can't be a state of this training of `epochs`; None if it can."""
        live = self.state_dict()
        tensors = {key for key, value in live.items() if key not in ("history", "optimizer")}
        if live.keys() - saved.keys():
            return f"without {', '.join(sorted(live.keys() - saved.keys()))}"
        if why := misfit({k: live[k] for k in tensors}, {k: saved[k] for k in tensors}):
            return why
        steps, step, rows = len(self.trace.losses), saved["step"], saved["history"]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return "its history is not a list of epochs"
        if not isinstance(step, int) or not (
            len(rows) <= epochs and len(rows) * steps <= step <= min(len(rows) + 1, epochs) * steps
        ):
            return f"step {step!r:.20} after {len(rows)} epochs of {steps} steps"
        return self._optimizer_fault(saved["optimizer"])

    def _optimizer_fault(self, saved: Any) -> str | None:
        live = _portable(self.optimizer.state_dict())
        groups, state = _entry(saved, "param_groups"), _entry(saved, "state")
        if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
            return "the optimizer has no parameter groups"
        if len(groups) != len(live["param_groups"]):
            return f"{len(groups)} parameter groups, not {len(live['param_groups'])}"
        for mine, theirs in zip(live["param_groups"], groups, strict=True):
            both = mine.keys() & theirs.keys()  # torch's versions differ in what they keep
            if why := misfit({k: mine[k] for k in both}, {k: theirs[k] for k in both}, "group"):
                return why
            if theirs.get("params") != mine["params"]:
                return "a parameter group has other parameters"
        return misfit(live["state"], state, "state") if live["state"] else None

    def snapshot(self) -> dict[str, Any]:
        """A copy of the state that later steps do not touch."""
        copied: dict[str, Any] = _clone(self.state_dict())
        return copied

    def host_snapshot(self) -> Callable[[], dict[str, Any]]:
        """What gives a snapshot of the state as it is now on the CPU: see `to_host`."""
        return to_host(self.snapshot(), self.trace.losses.device)

    @torch.no_grad()
    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to `saved`, writing into the existing tensors: none of them is replaced."""
        _copy_into(self.model.state_dict(), saved["model"])
        if self.average:
            _copy_into(self.average.model.state_dict(), saved["ema"])
        live = self.optimizer.state_dict()
        for index, tensors in live["state"].items():
            _copy_into(tensors, saved["optimizer"]["state"][index])
        for group, old in zip(
            self.optimizer.param_groups, saved["optimizer"]["param_groups"], strict=True
        ):
            # the executor's keys stay as they are; a step sets the LR anyway
            group.update({key: value for key, value in old.items() if key not in EXECUTOR_KEYS})
            if "betas" in group:
                group["betas"] = tuple(group["betas"])
        self.trace.losses.copy_(saved["trace"]["losses"])
        self.trace.correct.copy_(saved["trace"]["correct"])
        self.step, self.epoch_seconds = saved["step"], saved["epoch_seconds"]
        self.history = _clone(saved["history"])
        self.optimizer.zero_grad(set_to_none=True)


def init_net(recipe: Recipe, *, classes: int, channels: int) -> nn.Module:
    """The recipe's net with torch's default initialisation, keyed by the recipe's seed."""
    settings = recipe.model
    key = generator(recipe.train.seed, 0, "init").initial_seed()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key)
        return build_net(
            settings, classes=classes, channels=channels, image_size=recipe.data.image_size
        )


def misfit(live: Any, saved: Any, where: str = "") -> str | None:
    """Where `saved` is not built as `live` is: other keys, shapes or kinds of values; None if it
    is.

    A number may be any other, a list a tuple, and None any number.
    """
    if isinstance(live, Tensor):
        if not isinstance(saved, Tensor):
            return f"{where} is not a tensor"
        if saved.shape != live.shape or saved.is_floating_point() != live.is_floating_point():
            return f"{where} is {saved.dtype} {list(saved.shape)}, not {list(live.shape)}"
        return None
    if isinstance(live, dict):
        if not isinstance(saved, dict) or live.keys() != saved.keys():
            other = live.keys() ^ (saved.keys() if isinstance(saved, dict) else ())
            names = ", ".join(map(str, other))[:60]
            return f"{where or 'it'} does not have the same entries ({names})"
        pairs = [(f"{where}.{key}" if where else str(key), live[key], saved[key]) for key in live]
    elif isinstance(live, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(live):
            return f"{where} is not a list of {len(live)}"
        pairs = [(f"{where}.{i}", a, b) for i, (a, b) in enumerate(zip(live, saved, strict=True))]
    else:
        plain = (int, float, type(None)) if isinstance(live, int | float | None) else type(live)
        return None if isinstance(saved, plain) else f"{where} is {saved!r:.40}"
    return next((why for name, a, b in pairs if (why := misfit(a, b, name))), None)


def _portable(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state without what an executor owns, so that any other can resume from it."""
    groups = [
        {key: v for key, v in g.items() if key not in EXECUTOR_KEYS[1:]}
        for g in optimizer["param_groups"]
    ]
    return {**optimizer, "param_groups": groups}


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _clone(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clone(item) for item in value]
    return value


def _entry(values: Any, key: str) -> Any:
    return values.get(key) if isinstance(values, dict) else None


def _copy_into(live: dict[str, Any], saved: dict[str, Any]) -> None:
    assert live.keys() == saved.keys(), sorted(live.keys() ^ saved.keys())
    for key, tensor in live.items():
        tensor.copy_(saved[key])
