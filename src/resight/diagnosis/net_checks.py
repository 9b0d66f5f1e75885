"""What a forward pass over training images shows: wrong batch-norm statistics, dead channels."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from resight.diagnosis.thresholds import THRESHOLDS
from resight.findings import Finding

PROBE_IMAGES, PROBE_PIXELS, MIN_PROBE_IMAGES = 1000, 1000 * 64**2, 64


def probe_images(side_px: int) -> int:
    """How many training images the checks look at: 1,000, and fewer of large ones."""
    return min(PROBE_IMAGES, max(MIN_PROBE_IMAGES, PROBE_PIXELS // side_px**2))


@torch.no_grad()
def batch_norm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    at_once: int | None = None,
    *,
    lr_end: float | str | None = None,
) -> Iterator[Finding]:
    """Accuracy on training images with batch statistics against running statistics.

    images: float32 (N, C, H, W), as the training saw them; labels: int64 (N,). at_once: images per
    pass, whose statistics the batch's are; by default all. lr_end: the schedule's, if it has one.
    Running statistics that do not match the batches (too few steps, too small a momentum, an LR
    that moves the weights faster than the running means can follow) make a net train well and test
    badly.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms or len(images) < 2:
        return
    running = accuracy(model, images, labels, at_once)
    trial = copy.deepcopy(model)
    for module in trial.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    batch = accuracy(trial, images, labels, at_once)
    drop = batch - running
    if drop <= THRESHOLDS.batch_norm_drop:
        return
    yield Finding(
        name="batch-norm-statistics",
        severity="problem",
        title="batch norm's running statistics do not match its batches",
        evidence=f"accuracy on {len(images):,} training images is {batch:.1%} with batch "
        f"statistics and {running:.1%} with running statistics",
        threshold=f"a difference of {100 * THRESHOLDS.batch_norm_drop:.0f} points",
        advice="train for more steps (more epochs or a smaller --batch-size)"
        + ", or end at a lower LR: --set schedule.lr_end=0" * bool(lr_end),
    )


@torch.no_grad()
def dead_channels(
    model: nn.Module, images: Tensor, at_once: int | None = None
) -> Iterator[Finding]:
    """Channels that are 0 after a ReLU in every cell of every image. at_once: images per pass."""
    passes = []
    for some in _parts(images, at_once):
        with _Relus(model) as relus:
            model(some)
        passes.append(relus.alive)
    worst_name, worst_share, dead, of = "", 0.0, 0, 0
    for calls in zip(*passes, strict=True):
        name, alive = calls[0][0], torch.stack([channels for _, channels in calls]).any(0)
        own = float((~alive).float().mean())
        dead, of = dead + int((~alive).sum()), of + len(alive)
        if own > worst_share:
            worst_name, worst_share = name, own
    share = dead / max(of, 1)
    if worst_share < THRESHOLDS.dead_note and share <= THRESHOLDS.dead_problem:
        return
    yield Finding(
        name="dead-channels",
        severity="problem" if share > THRESHOLDS.dead_problem else "note",
        title="many channels are dead",
        evidence=f"{worst_share:.0%} of the channels after the ReLU in {worst_name} are 0 for all "
        f"of {len(images):,} training images; in the whole net, {dead:,} of {of:,} channels are",
        threshold=f"{THRESHOLDS.dead_note:.0%} of a layer; a problem above "
        f"{THRESHOLDS.dead_problem:.0%} of the net",
        advice="train again with a lower LR or a longer warm-up (schedule.peak_epoch)",
    )


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, at_once: int | None) -> float:
    predicted = torch.cat([model(some).argmax(1) for some in _parts(images, at_once)])
    return float((predicted == labels).float().mean())


def _parts(images: Tensor, at_once: int | None) -> Sequence[Tensor]:
    """`images` in the fewest equal parts of at most `at_once`."""
    return torch.tensor_split(images, -(-len(images) // (at_once or len(images))))


class _Relus(TorchFunctionMode):
    """Records every ReLU of a forward pass, module or function: the name of the module it ran in
    and, per channel, whether any cell of any image was above 0 (bool (C,))."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.alive: list[tuple[str, Tensor]] = []
        self._inside: list[str] = []
        self._model = model
        self._hooks: list[Any] = []

    def __enter__(self) -> _Relus:
        for name, module in self._model.named_modules():
            self._hooks.append(
                module.register_forward_pre_hook(
                    lambda module, inputs, name=name: self._inside.append(name)
                )
            )
            self._hooks.append(
                module.register_forward_hook(
                    lambda module, inputs, output: self._leave(), always_call=True
                )
            )
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def _leave(self) -> None:
        self._inside.pop()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        # F.relu calls torch.relu internally: only one of the two is counted
        if func in (torch.relu, torch.relu_, F.relu) and output.dim() == 4:
            self.alive.append((self._inside[-1] or "the net", (output > 0).any(3).any(2).any(0)))
        return output
