"""Max-pool, batch norm and activation in one: torch's own layers against the plain twin, the twin
against Triton's kernels.

The kernels run in Triton's interpreter, which needs no GPU but forgives what the compiler does not;
so they are compiled as well, for a GPU that need not be there. Both happen in processes of their
own: Triton reads its environment when it is imported.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from helpers import TESTS
from pooling import EPS, MOMENTUM, Case, make_case, two_passes
from resight.errors import ResightError, ResightWarning
from resight.models.kernels import pool_norm, pool_norm_twin
from resight.models.kernels.pool_norm import available, pool_norm_act

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton, which is not installed"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

SHAPES = [(4, 24, 31, 15), (3, 10, 7, 9), (2, 48, 8, 6), (5, 1, 2, 3)]
# What rounding to a dtype may take off a value, and a little for sums in another order.
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def torchs_own(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, **how: Any
) -> Any:
    pooled = F.max_pool2d(x, 2)
    normed = F.batch_norm(pooled, mean, var, weight, bias, True, how["momentum"], how["eps"])
    return F.relu(normed) if how["activation"] == "relu" else F.gelu(normed)


def step(layer: Any, case: Case) -> dict[str, Tensor]:
    """Forward and backward: the output, the gradients, the moved statistics."""
    x, weight, bias = (case[k].detach().clone().requires_grad_() for k in ("x", "weight", "bias"))
    mean, var = case["running_mean"].clone(), case["running_var"].clone()
    how = {"momentum": MOMENTUM, "eps": EPS, "activation": case["activation"]}
    out = layer(x, weight, bias, mean, var, **how)
    out.backward(case["grad"])
    grads = {"grad_x": x.grad, "grad_weight": weight.grad, "grad_bias": bias.grad}
    return {"out": out.detach(), **grads, "running_mean": mean, "running_var": var}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Each value within the tolerance of its dtype, float32 also of the largest of its tensor.

    A gradient is a difference of larger numbers, and a sum of many.
    """
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        got = actual[key]
        assert got.dtype == value.dtype, key
        if not value.is_floating_point():
            assert torch.equal(got, value), key
            continue
        narrow = value.dtype in (torch.float16, torch.bfloat16)
        rtol = tolerance if narrow else min(tolerance, ROUNDING[torch.float32])
        atol = rtol * (0.1 if narrow else 1.0) * float(value.nan_to_num().abs().max())
        torch.testing.assert_close(
            got, value, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text, k=key: f"{k}: {text}"
        )


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", list(ROUNDING))
def test_a_step_is_that_of_torchs_layers_in_float32(
    shape: tuple[int, ...], dtype: torch.dtype, activation: str
) -> None:
    case = make_case(shape, dtype, activation)
    expected = step(torchs_own, {**case, "x": case["x"].float(), "grad": case["grad"].float()})
    for key in ("out", "grad_x"):
        expected[key] = expected[key].to(dtype)
    actual = step(pool_norm_act, case)
    assert_same(actual, expected, ROUNDING[dtype])
    assert actual["out"].is_contiguous(memory_format=torch.channels_last)
    assert actual["grad_x"].is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=60)
@given(
    n=st.integers(1, 4),
    c=st.integers(1, 5),
    h=st.integers(2, 7),
    w=st.integers(2, 7),
    activation=st.sampled_from(["relu", "gelu"]),
    integers=st.booleans(),
    contiguous=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_of_equal_values_the_first_is_the_maximum_as_in_torch(
    n: int, c: int, h: int, w: int, activation: str, integers: bool, contiguous: bool, seed: int
) -> None:
    if n * (h // 2) * (w // 2) < 2:
        n = 2
    case = make_case((n, c, h, w), torch.float64, activation, seed=seed, integers=integers)
    if contiguous:
        case["x"] = case["x"].contiguous()
    actual, expected = step(pool_norm_act, case), step(torchs_own, case)
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key], rtol=1e-9, atol=1e-9)


def test_the_gradient_goes_to_the_first_of_a_constant_window_and_never_past_the_windows() -> None:
    case = make_case((2, 3, 5, 5), activation="gelu")
    windows = torch.arange(24.0).view(2, 3, 2, 2)
    case["x"] = F.pad(
        windows.repeat_interleave(2, 2).repeat_interleave(2, 3), (0, 1, 0, 1), value=99
    )
    grad = step(pool_norm_act, case)["grad_x"]
    assert (grad[:, :, :4:2, :4:2] != 0).all()
    assert int((grad != 0).sum()) == windows.numel()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_gradients_are_those_of_finite_differences(activation: str) -> None:
    case = make_case((2, 3, 5, 4), torch.float64, activation)
    inputs = [case[k].requires_grad_() for k in ("x", "weight", "bias")]

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        stats = torch.zeros(3, dtype=x.dtype), torch.ones(3, dtype=x.dtype)
        return pool_norm_act(x, weight, bias, *stats, momentum=0.1, eps=1e-5, activation=activation)

    assert torch.autograd.gradcheck(layer, inputs)


def test_nan_spoils_its_channel_alone() -> None:
    case = make_case((2, 4, 6, 6))
    case["x"][1, 2, 3, 0] = torch.nan
    out = step(pool_norm_act, case)["out"]
    assert out[:, 2].isnan().all()
    assert not out[:, [0, 1, 3]].isnan().any()


def test_what_needs_no_gradient_gets_none() -> None:
    case = make_case((3, 4, 6, 6))
    x, weight, bias = case["x"].requires_grad_(), case["weight"], case["bias"].requires_grad_()
    stats = case["running_mean"], case["running_var"]
    how = {"momentum": MOMENTUM, "eps": EPS, "activation": "relu"}
    before = stats[0].clone(), stats[1].clone()
    pool_norm_act(x, weight, bias, *stats, **how).backward(case["grad"])
    assert weight.grad is None
    expected = step(
        torchs_own, {**case, "x": x.detach(), "running_mean": before[0], "running_var": before[1]}
    )
    torch.testing.assert_close(x.grad, expected["grad_x"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bias.grad, expected["grad_bias"], rtol=1e-5, atol=1e-5)

    bias.grad = None
    pool_norm_act(x.detach(), weight, bias, *stats, **how).backward(case["grad"])
    torch.testing.assert_close(bias.grad, expected["grad_bias"], rtol=1e-5, atol=1e-5)


def test_x_is_not_kept_and_where_the_maxima_were_takes_a_byte() -> None:
    case = make_case((2, 16, 8, 8))
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step(pool_norm_act, case)
    maps = [(t.dtype, tuple(t.shape)) for t in kept if t.ndim == 4]
    assert sorted(maps, key=str) == [
        (torch.float32, (2, 16, 4, 4)),
        (torch.uint8, (2, 16, 4, 4)),
    ]


def test_autocast_changes_nothing() -> None:
    case = make_case((3, 8, 6, 6), torch.bfloat16, "gelu")
    expected = step(pool_norm_act, case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = step(pool_norm_act, case)
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key
        assert actual[key].dtype == value.dtype, key


@pytest.mark.parametrize("shape", [(1, 8, 3, 2), (4, 8, 1, 8), (0, 8, 4, 4)])
def test_too_few_values_for_a_spread_are_refused(shape: tuple[int, ...]) -> None:
    x, ones = torch.zeros(shape), torch.ones(8)
    with pytest.raises(ResightError, match="at least 2"):
        pool_norm_act(x, ones, ones, ones, ones, momentum=0.1, eps=1e-5, activation="relu")


def test_where_the_kernels_take_x_they_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return getattr(pool_norm_twin, name)(*args, **kwargs)

        return call

    kernels = SimpleNamespace(forward=counted("forward"), backward=counted("backward"))
    case = make_case((2, 16, 4, 4))
    monkeypatch.setattr(pool_norm, "_kernels", lambda: kernels)
    assert not available(case["x"], "relu")  # no GPU holds it
    expected = step(pool_norm_act, case)
    assert calls == []
    monkeypatch.setattr(pool_norm, "available", lambda x, activation: True)
    assert_same(step(pool_norm_act, case), expected, 0.0)
    assert calls == ["forward", "backward"]


def test_where_triton_cannot_compile_its_kernels_are_unavailable_with_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(pool_norm, "_kernels", lambda: SimpleNamespace(try_out=fail))
    device = torch.device("cuda", 0)

    def compiles(device: torch.device) -> bool:
        works: bool = pool_norm._works.__wrapped__(device, torch.float16, "relu", 64)
        return works

    with pytest.warns(ResightWarning, match=r"cuda:0 \(Failed to find C compiler\)"):
        assert not compiles(device)

    monkeypatch.setattr(pool_norm, "_kernels", lambda: SimpleNamespace(try_out=lambda *_: None))
    assert compiles(device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not compiles(device)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not compiles(device)


def interpreter_cases() -> dict[str, Case]:
    """Small: a program of Triton's interpreter takes milliseconds."""
    f16, f32, bf16 = torch.float16, torch.float32, torch.bfloat16
    cases = {
        "odd sizes": make_case((2, 24, 31, 15), f16, "relu"),
        "odd sizes, gelu": make_case((3, 10, 7, 9), f16, "gelu"),
        "float32": make_case((2, 48, 8, 6), f32, "gelu"),
        "two blocks of channels": make_case((1, 136, 6, 4), f32, "relu"),
        "bfloat16": make_case((2, 16, 5, 4), bf16, "relu"),
        "ties": make_case((3, 16, 6, 6), f32, "gelu", integers=True),
        "not a number": make_case((2, 16, 6, 6), f16, "relu"),
        "far from 0": make_case((2, 4, 24, 24), f32, "relu"),
    }
    cases["not a number"]["x"][1, 2, 3, 0] = torch.nan
    # float32 holds these to 6e-5, and a sum of their squares only to 30 or so.
    cases["far from 0"]["x"] += 1000
    return cases


INTERPRET = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from pooling import two_passes
from resight.models.kernels import pool_norm_triton
pool_norm_triton._PARTS = 4  # so that programs go through several blocks
cases = torch.load("cases.pt")
torch.save({name: two_passes(pool_norm_triton, case) for name, case in cases.items()}, "got.pt")
"""


@needs_triton
def test_triton_interpreted_is_the_twin(tmp_path: Path) -> None:
    cases = interpreter_cases()
    torch.save(cases, tmp_path / "cases.pt")
    run_python(INTERPRET, str(TESTS), cwd=tmp_path, TRITON_INTERPRET="1")
    got = torch.load(tmp_path / "got.pt")
    for name, case in cases.items():
        expected = two_passes(pool_norm_twin, case)
        if (
            name == "far from 0"
        ):  # where float32 can't hold x̂ to more than 1e-4, the spread still is
            pooled = F.max_pool2d(case["x"].double(), 2)
            invstd = (pooled.var((0, 2, 3), correction=0) + EPS).rsqrt()
            torch.testing.assert_close(got[name]["stats"][1].double(), invstd, rtol=1e-5, atol=0)
            continue
        try:
            assert_same(got[name], expected, ROUNDING[case["x"].dtype])
        except AssertionError as error:
            error.add_note(f"in the case {name!r}")
            raise


COMPILE = """
import sys
import resight.models.kernels.pool_norm
assert "triton" not in sys.modules, "imported before it is needed"
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from resight.models.kernels import pool_norm_kernels, pool_norm_triton

plan = pool_norm_triton._Plan(windows=8192, channels=256, value_bytes=2)
halves = ("x", "pooled", "out", "grad", "grad_x")
pointers = {**dict.fromkeys(halves, "*bf16"), "places": "*u8"}
floats = ("parts", "running_mean", "running_var", "stats", "weight", "bias", "total")
pointers |= dict.fromkeys(floats, "*fp32")
for name in ("pool", "statistics", "norm_act", "grad_parts", "sums", "grad_input"):
    kernel = getattr(pool_norm_kernels, name)
    arguments, parts = kernel.arg_names, "BLOCK_PARTS" in kernel.arg_names
    blocks = {"BLOCK_PARTS": pool_norm_triton._PARTS}
    blocks["BLOCK_CHANNELS"] = pool_norm_triton._PART_CHANNELS if parts else plan.block_channels
    blocks |= {"BLOCK_WINDOWS": plan.block_windows, "ACTIVATION": "gelu"}
    constants = {key: value for key, value in blocks.items() if key in arguments}
    types = {**pointers, **dict.fromkeys(constants, "constexpr"), "momentum": "fp32", "eps": "fp32"}
    signature = {key: types.get(key, "i32") for key in arguments}
    aligned = [i for i, key in enumerate(arguments) if key in pointers or key == "channels"]
    source = ASTSource(
        kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned}
    )
    options = {"num_warps": 8 if parts else pool_norm_triton._WARPS, **pool_norm_triton._FUSE}
    code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    assert "ld.global.v4.b32" in code, f"{name} does not read 16 bytes at a time"
    print(name)
"""


@needs_triton
def test_the_kernels_compile_for_a_gpu_and_read_16_bytes_at_a_time(tmp_path: Path) -> None:
    printed = run_python(COMPILE, cwd=tmp_path, TRITON_CACHE_DIR=str(tmp_path))
    assert len(printed.split()) == 6


def run_python(code: str, *arguments: str, cwd: Path, **variables: str) -> str:
    inherited = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=inherited | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def on_gpu(case: Case) -> Case:
    return {key: v.cuda() if isinstance(v, Tensor) else v for key, v in case.items()}


@needs_gpu
@needs_triton
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("shape", [(16, 48, 31, 31), (8, 256, 15, 7), (64, 128, 32, 32)])
@pytest.mark.parametrize("dtype", list(ROUNDING))
def test_triton_compiled_is_the_twin_and_repeats_its_bits(
    shape: tuple[int, ...], dtype: torch.dtype, activation: str
) -> None:
    from resight.models.kernels import pool_norm_triton

    case = on_gpu(make_case(shape, dtype, activation))
    assert available(case["x"], "relu")
    first = two_passes(pool_norm_triton, case)
    assert_same(first, two_passes(pool_norm_twin, case), ROUNDING[dtype])
    again = two_passes(pool_norm_triton, case)
    assert all(torch.equal(again[key], value) for key, value in first.items())


@needs_gpu
@needs_triton
def test_triton_captured_in_a_graph_is_triton() -> None:
    from resight.models.kernels import pool_norm_triton

    case = on_gpu(make_case((16, 64, 15, 15), torch.float16, "gelu"))
    expected = two_passes(pool_norm_triton, case)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = two_passes(pool_norm_triton, case)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(captured[key], value) for key, value in expected.items())


TRY_OUT = """
import pytest, torch
from resight.models.kernels import pool_norm_triton

for dtype, activation, channels in ((torch.float16, "gelu", 16), (torch.float32, "relu", 144)):
    pool_norm_triton.try_out(torch.device("cpu"), dtype, activation, channels)
right = pool_norm_triton.backward
pool_norm_triton.backward = lambda *given, **named: [1.1 * g for g in right(*given, **named)]
with pytest.raises(AssertionError, match="not close"):
    pool_norm_triton.try_out(torch.device("cpu"), torch.float16, "gelu", 16)
"""


@needs_triton
def test_the_first_try_compares_with_the_twin(tmp_path: Path) -> None:
    run_python(TRY_OUT, cwd=tmp_path, TRITON_INTERPRET="1")
