"""A table of a net's layers: shapes, parameters, receptive fields and multiply-accumulates.

The columns and totals of torchsummary (https://github.com/sksq96/pytorch-summary) and two more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from resight.errors import ResightError, described
from resight.models.receptive_field import ReceptiveFields

_BYTES_PER_NUMBER = 4
_BYTES_PER_MB = 1024**2
_TABLE_COLUMNS = 100


@dataclass(frozen=True)
class Row:
    """One call of one module.

    `name` is the module's path (`res1.conv1`), `output_shape` begins with -1 for the batch, and
    `params` are the module's own, without its children's. `receptive_field` is the side in pixels
    of the part of the image that one output cell depends on by the geometry of convolutions and
    pools (the longer side if they differ; larger than the image where padding is counted in; the
    statistics a norm takes over the map are not). It is None for an output that is no map, and
    where it is not known. `macs` are the multiply-accumulates per image of a convolution or linear
    layer, else 0.
    """

    index: int
    name: str
    type: str
    output_shape: tuple[int, ...]
    params: int
    receptive_field: int | None
    macs: int

    @property
    def label(self) -> str:
        """torchsummary's `Layer (type)`, counted from 1: `Conv2d-1`."""
        return f"{self.type}-{self.index}"


@dataclass(frozen=True)
class ModelSummary:
    """Rows in call order, and totals with torchsummary's arithmetic.

    A number takes 4 bytes, a MB is 1024² bytes. Each parameter counts once in the totals, however
    often its module is called.
    """

    input_shape: tuple[int, int, int]
    rows: tuple[Row, ...]
    total_params: int
    trainable_params: int

    @property
    def non_trainable_params(self) -> int:
        return self.total_params - self.trainable_params

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates per image, forward; floating-point operations are twice as many."""
        return sum(row.macs for row in self.rows)

    @property
    def input_mb(self) -> float:
        return _mb(math.prod(self.input_shape))

    @property
    def forward_backward_mb(self) -> float:
        """Every row's output and its gradient, for one image."""
        return 2 * _mb(sum(math.prod(row.output_shape[1:]) for row in self.rows))

    @property
    def params_mb(self) -> float:
        return _mb(self.total_params)

    @property
    def total_mb(self) -> float:
        return self.input_mb + self.forward_backward_mb + self.params_mb

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for JSON."""
        rows = [
            {"label": row.label, **asdict(row), "output_shape": list(row.output_shape)}
            for row in self.rows
        ]
        totals = (
            "total_params",
            "trainable_params",
            "non_trainable_params",
            "total_macs",
            "input_mb",
            "forward_backward_mb",
            "params_mb",
            "total_mb",
        )
        return {
            "input_shape": list(self.input_shape),
            "rows": rows,
            **{total: getattr(self, total) for total in totals},
        }

    def __str__(self) -> str:
        """The table, at most 100 columns wide."""
        table = _table(self.rows)
        rule = max(len(line) for line in table)
        totals = (
            f"Total params: {self.total_params:,}",
            f"Trainable params: {self.trainable_params:,}",
            f"Non-trainable params: {self.non_trainable_params:,}",
            f"Multiply-accumulates per image: {self.total_macs:,}",
        )
        megabytes = (
            f"Input size (MB): {self.input_mb:.2f}",
            f"Forward/backward pass size (MB): {self.forward_backward_mb:.2f}",
            f"Params size (MB): {self.params_mb:.2f}",
            f"Estimated total size (MB): {self.total_mb:.2f}",
        )
        head, *body = table
        lines = (head, "=" * rule, *body, "=" * rule, *totals, "-" * rule, *megabytes)
        return "\n".join(lines)


def summarize(
    model: nn.Module, input_shape: tuple[int, int, int], *, blocks: bool = False
) -> ModelSummary:
    """Summarise `model` for images of `input_shape` (C, H, W), from one forward pass in eval mode.

    One row per call of a module without children; with `blocks` also one, after its children's, per
    call of any other module except containers (`Sequential`) and the model itself. The model is
    left as it was: training flags, buffers, hooks and torch's random state.

    Raises `ResightError` where the shape is not three positive integers or the model can't take
    such an image.
    """
    if len(input_shape) != 3 or any(not isinstance(n, int) or n < 1 for n in input_shape):
        raise ResightError(
            f"input_shape = {input_shape!r}: must be three integers ≥ 1: channels, height and "
            "width; for CIFAR-10 (3, 32, 32)"
        )
    rows = _trace_rows(model, input_shape, blocks=blocks)
    parameters = list(model.parameters())
    return ModelSummary(
        input_shape=input_shape,
        rows=tuple(rows),
        total_params=sum(p.numel() for p in parameters),
        trainable_params=sum(p.numel() for p in parameters if p.requires_grad),
    )


def _trace_rows(model: nn.Module, input_shape: tuple[int, int, int], *, blocks: bool) -> list[Row]:
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    # Two images, because some norms refuse a single value per channel.
    images = torch.zeros(2, *input_shape, device=first.device, dtype=first.dtype)
    fields = ReceptiveFields(images)
    rows: list[Row] = []
    hooks = []

    for name, module in model.named_modules():
        if not _has_row(module, is_top=module is model, blocks=blocks):
            continue

        def hook(
            module: nn.Module,
            inputs: tuple[Any, ...],
            keywords: dict[str, Any],
            output: Any,
            *,
            name: str = name,
        ) -> None:
            tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
            if not tensors:
                return
            shape = tensors[0].shape
            rows.append(
                Row(
                    index=len(rows) + 1,
                    name=name,
                    type=type(module).__name__,
                    output_shape=(-1, *shape[1:]),
                    params=sum(p.numel() for p in module.parameters(recurse=False)),
                    receptive_field=fields.side_px(tensors[0]),
                    macs=macs_of(module, [*inputs, *keywords.values()], tensors[0]),
                )
            )

        hooks.append(module.register_forward_hook(hook, with_kwargs=True))

    gpus = [images.device] if images.is_cuda else []
    try:
        with _eval_mode(model), torch.random.fork_rng(gpus), torch.no_grad(), fields:
            model(images)
    except Exception as error:  # a user's model may raise anything
        raise ResightError(
            f"input_shape = {tuple(input_shape)!r}: the model can't take such an image "
            f"({described(error)}); give the channels and the image size it was built for"
        ) from error
    finally:
        for handle in hooks:
            handle.remove()
    return rows


def _has_row(module: nn.Module, *, is_top: bool, blocks: bool) -> bool:
    is_container = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
    is_leaf = next(module.children(), None) is None
    hooked = not isinstance(module, torch.jit.ScriptModule)  # which takes no hooks
    return hooked and not is_container and (is_leaf or (blocks and not is_top))


def macs_of(module: nn.Module, inputs: Sequence[Any], output: Tensor) -> int:
    """Multiply-accumulates of a convolution or linear layer for each image; 0 for other modules.

    A linear layer uses each weight once per row; a convolution, once per position.
    """
    if isinstance(module, nn.Linear):
        return module.weight.numel() * math.prod(output.shape[1:-1])
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return module.weight.numel() * math.prod(output.shape[2:])
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        positions: int = math.prod(inputs[0].shape[2:])
        return module.weight.numel() * positions
    return 0


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode; on leaving, each has its own flag again."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in training:
            module.training = flag


def _mb(numbers: int) -> float:
    return numbers * _BYTES_PER_NUMBER / _BYTES_PER_MB


def _table(rows: Sequence[Row]) -> list[str]:
    """The heading and one line per row; the path is cut where the line would be too long."""
    cells = [("Layer (type)", "Path", "Output shape", "Params", "RF px", "MACs")]
    for row in rows:
        field = "-" if row.receptive_field is None else str(row.receptive_field)
        shape = str(list(row.output_shape))
        cells.append((row.label, row.name, shape, f"{row.params:,}", field, f"{row.macs:,}"))
    label_width, path_width, shape_width, *number_widths = (
        max(len(line[column]) for line in cells) for column in range(6)
    )
    label_width = min(label_width, 24)
    taken = label_width + shape_width + sum(number_widths) + 2 * 5
    path_width = max(1, min(path_width, _TABLE_COLUMNS - taken))
    lines = []
    for label, path, shape, *numbers in cells:
        left = (_cut(label, label_width), _cut(path, path_width), shape.ljust(shape_width))
        right = (n.rjust(width) for n, width in zip(numbers, number_widths, strict=True))
        lines.append("  ".join((*left, *right)))
    return lines


def _cut(text: str, width: int) -> str:
    """`text` in exactly `width` characters; its end, the telling part, is what stays."""
    return text.ljust(width) if len(text) <= width else "…" + text[len(text) - width + 1 :]
