"""Milliseconds of pooled layers on a GPU: `pool_norm_act` compared with torch's three layers.

    python benchmarks/fused_layers.py [--batch-size 512] [--width 64] [--dtype fp16]

Max-pool, batch norm in training mode and ReLU, forward and backward, on the three feature maps that
custom-resnet pools; channels-last. Both sides run in every round, --repeats times in a CUDA graph,
and the clock stops when the GPU is done. Ratios are computed per round. Bytes per second count the
least that the fused layers have to move: x read, its gradient written, the pooled map and its
gradient each read or written once, a one-byte index written and read.

Without a GPU it says so and exits 2; `--device cpu` tries it out with the plain PyTorch version.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, max_pool2d, relu

from measuring import (
    Spread,
    Work,
    one_line_errors,
    options_parser,
    print_table,
    take_turns,
    whole_number,
    write_figures,
)
from resight.engine.runtime import Runtime
from resight.errors import ResightError
from resight.models.kernels.pool_norm import available, pool_norm_act
from workload import DTYPES, describe

Layer = Callable[[Tensor, nn.BatchNorm2d], Tensor]


def fused(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return pool_norm_act(
        x,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        momentum=norm.momentum or 0.0,
        eps=norm.eps,
        activation="relu",
    )


def apart(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    pooled = max_pool2d(x, 2)
    normed = batch_norm(
        pooled,
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        training=True,
        momentum=norm.momentum or 0.0,
        eps=norm.eps,
    )
    return relu(normed)


def both_ways(layer: Layer, x: Tensor, repeats: int) -> Work:
    """`repeats` times forward and backward; on a GPU as one CUDA graph."""
    norm = nn.BatchNorm2d(x.shape[1], device=x.device)
    x = x.clone(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.randn_like(layer(x, norm))

    def run() -> None:
        for _ in range(repeats):
            out = layer(x, norm)
            torch.autograd.grad(out, (x, norm.weight, norm.bias), gradient)

    if not x.is_cuda:
        return run
    stream = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream(x.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize(x.device)

    return replay


def least_bytes(x: Tensor) -> int:
    pooled = x.numel() // 4
    return 2 * x.nbytes + 2 * pooled * x.element_size() + 2 * pooled


def measure(x: Tensor, repeats: int, rounds: int) -> dict[str, Any]:
    works = {"fused": both_ways(fused, x, repeats), "torch": both_ways(apart, x, repeats)}
    turns = take_turns(works, rounds)
    seconds = {name: [value / repeats for value in values] for name, values in turns.items()}
    return {
        "shape": list(x.shape),
        "seconds": seconds,
        "ms": {name: 1000 * statistics.median(values) for name, values in seconds.items()},
        "ratio": Spread.of_ratios(seconds["torch"], seconds["fused"]).to_dict(),
        "fused_bytes_per_second": least_bytes(x) / statistics.median(seconds["fused"]),
    }


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--batch-size", type=whole_number, default=512)
    parser.add_argument("--width", type=whole_number, default=64, help="custom-resnet's width")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp16")
    parser.add_argument("--rounds", type=whole_number, default=11)
    parser.add_argument("--repeats", type=whole_number, default=20)
    parser.add_argument("--device", default="cuda", help="cpu: to try the benchmark out")
    arguments = parser.parse_args(argv)
    runtime = Runtime.choose(arguments.device)
    layers = []
    for scale in (1, 2, 4):
        shape = (arguments.batch_size, 2 * scale * arguments.width, 32 // scale, 32 // scale)
        x = torch.randn(shape, device=runtime.device, dtype=DTYPES[arguments.dtype])
        x = x.contiguous(memory_format=torch.channels_last)
        if not runtime.on_cpu and not available(x, "relu"):
            raise ResightError(
                f"the kernels don't support {shape} in {arguments.dtype} on this GPU"
            )
        layers.append(measure(x, arguments.repeats, arguments.rounds))
    machine = describe(runtime)
    print(f"{machine['device_name']}, torch {machine['torch']}, {arguments.dtype}", end=", ")
    print(f"{arguments.rounds} rounds of {arguments.repeats}")
    rows = [
        (
            "×".join(map(str, layer["shape"])),
            f"{layer['ms']['torch']:.4f}",
            f"{layer['ms']['fused']:.4f}",
            str(Spread(**layer["ratio"])),
            f"{layer['fused_bytes_per_second'] / 1e12:.3f}",
        )
        for layer in layers
    ]
    total = {name: sum(layer["ms"][name] for layer in layers) for name in ("torch", "fused")}
    together = total["torch"] / total["fused"]
    rows.append(("all", f"{total['torch']:.4f}", f"{total['fused']:.4f}", f"{together:.3g}", ""))
    print_table(("N×C×H×W", "torch ms", "fused ms", "torch/fused", "fused TB/s"), rows)
    head = {"benchmark": "fused_layers", "machine": machine, "dtype": arguments.dtype}
    more = {"repeats": arguments.repeats, "layers": layers, "total_ms": total, "ratio": together}
    write_figures(arguments.json, {**head, "rounds": arguments.rounds, **more})


if __name__ == "__main__":
    main()
