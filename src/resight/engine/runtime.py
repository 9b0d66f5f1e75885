"""`Runtime`: how a recipe runs on this machine. Chosen once, with reasons, recorded in the run."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import os
import platform
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from resight.engine.memory import free_memory
from resight.errors import ResightError, ResightWarning

Precision = Literal["fp32", "bf16", "fp16"]
Execution = Literal["eager", "captured"]

# in fp16 the gradients of a mean loss would underflow; one fixed scale, a power of two
LOSS_SCALE_FP16 = 1024.0
REQUESTED = "requested"  # the reason for what a call gave itself
TORCHS_DEFAULT, STORED = "torch's default", "as stored in the run"
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


@dataclass(frozen=True)
class RuntimeOptions:
    """What a call requests; `Runtime.choose` decides what is "auto"."""

    device: str = "auto"
    precision: str = "auto"
    executor: str = "auto"
    deterministic: bool = False

    def choose(self) -> Runtime:
        """Raises `ResightError` for what this machine does not have."""
        return Runtime.choose(
            self.device,
            self.precision,
            executor=self.executor,
            deterministic=self.deterministic,
        )

    @property
    def given(self) -> dict[str, str | bool]:
        """The options that were requested, without those left at their default."""
        return {key: value for key, value in vars(self).items() if value not in ("auto", False)}


@dataclass(frozen=True)
class Runtime:
    """device, precision, threads and executor of a run; `reasons` explains each choice in words.

    micro_batch: images that go through the net at a time, their gradients summed; 0 for all. fused:
    pools, norms and activations in our own kernels. search: how many algorithms cuDNN times for
    each shape of a convolution; 0: it chooses one without timing. None: either is not decided yet,
    which is the same as 0.
    """

    device: torch.device
    precision: Precision
    threads: int
    deterministic: bool = False
    executor: Execution = "eager"
    micro_batch: int | None = None
    fused: bool = False
    search: int | None = None
    reasons: dict[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def choose(
        cls,
        device: str = "auto",
        precision: str = "auto",
        *,
        threads: int | None = None,
        deterministic: bool = False,
        executor: str = "auto",
    ) -> Runtime:
        """Choose what is "auto". Raises `ResightError` for what this machine does not have."""
        chosen, why_device = _device(device)
        kind, why_precision = _precision(precision, chosen)
        count = threads or default_threads()
        why_threads = STORED if threads else TORCHS_DEFAULT
        how, why_executor = _executor(executor, chosen)
        reasons = {
            "device": why_device,
            "precision": why_precision,
            "threads": why_threads,
            "executor": why_executor,
        }
        return cls(chosen, kind, count, deterministic, how, reasons=reasons)

    @classmethod
    def like(
        cls, stored: Mapping[str, Any] | None, options: RuntimeOptions, *, run: Path
    ) -> Runtime:
        """The runtime that a run recorded (`to_dict`), if this machine has it and nothing else was
        requested; a new one if it recorded none.

        Warns if it differs from the run's, as the result will then not be bit-identical.
        """
        if not stored:
            return options.choose()
        device, precision, executor = options.device, options.precision, options.executor
        if device == "auto" and (stored["device"] == "cpu" or torch.cuda.is_available()):
            device = stored["device"]
        if precision == "auto":
            precision = stored["precision"]
        if executor == "auto" and stored["device"] == device:
            executor = stored["executor"]
        runtime = cls.choose(
            device,
            precision,
            threads=stored["threads"],
            deterministic=options.deterministic or stored["deterministic"],
            executor=executor,
        )
        taken = {"device": device, "precision": precision, "executor": executor}
        as_stored = {key: STORED for key, value in taken.items() if value != getattr(options, key)}
        runtime = dataclasses.replace(runtime, reasons=runtime.reasons | as_stored)
        if runtime.device.type == stored["device"] and "micro_batch" in stored:
            runtime = runtime.with_pieces(
                stored["micro_batch"], stored.get("reasons", {}).get("micro_batch", "")
            )
        now = runtime.to_dict()
        keys = ("device", "device_name", "precision", "deterministic", "executor", "torch")
        differ = [
            f"{key}: {stored.get(key)} → {now[key]}" for key in keys if stored.get(key) != now[key]
        ]
        if differ:
            warnings.warn(
                f"{run}: this runtime differs from the run's ({'; '.join(differ)}): the result "
                "will not be bit-identical",
                ResightWarning,
                stacklevel=3,
            )
        return runtime

    def with_pieces(self, micro_batch: int, why: str) -> Runtime:
        """With pieces of `micro_batch` images, and the reason for them if there is one."""
        reasons = {key: reason for key, reason in self.reasons.items() if key != "micro_batch"}
        reasons |= {"micro_batch": why} if why else {}
        return dataclasses.replace(self, micro_batch=micro_batch, reasons=reasons)

    def with_threads(self, threads: int, why: str) -> Runtime:
        return dataclasses.replace(self, threads=threads, reasons={**self.reasons, "threads": why})

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    @property
    def name(self) -> str:
        """The device's name, for people."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        threads = f"{self.threads} thread" + ("s" if self.threads != 1 else "")
        return f"{cpu_name()}, {threads}"

    def apply(self) -> None:
        """Set all of torch's process-wide switches, whatever an earlier run has set."""
        self.apply_threads()
        if self.deterministic:
            # cuBLAS is deterministic only with a workspace of fixed size
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        now = torch.are_deterministic_algorithms_enabled()
        if now != self.deterministic or torch.is_deterministic_algorithms_warn_only_enabled():
            # not if it is so anyway: the call imports torch's compiler, which takes seconds
            torch.use_deterministic_algorithms(self.deterministic)
        self.apply_search()
        if self.device.type == "cuda":
            _wake_once(self.device)

    def wait_until_awake(self) -> None:
        """Wait for what `apply` has started on a GPU: nothing may disturb a capture."""
        if self.device.type == "cuda":
            _wake_once(self.device).join()

    def apply_threads(self) -> None:
        """Set the number of torch's threads alone."""
        _threads.replaced = default_threads()
        _threads.applied = self.threads
        torch.set_num_threads(self.threads)

    def apply_search(self) -> None:
        """Set torch's switches for cuDNN's search alone."""
        torch.backends.cudnn.benchmark = bool(self.search) and not self.deterministic
        if self.search:
            torch.backends.cudnn.benchmark_limit = self.search

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """bf16 or fp16 arithmetic on fp32 weights, if that is the `precision`."""
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        with torch.autocast(self.device.type, dtype=dtype, enabled=self.precision != "fp32"):
            yield

    @property
    def loss_scale(self) -> float:
        """The loss is multiplied by it before the backward pass, the gradients divided after."""
        return LOSS_SCALE_FP16 if self.precision == "fp16" else 1.0

    def fits(self, nbytes: int) -> bool:
        """Whether `nbytes` of images stay on the device: at most half of its free memory."""
        return nbytes <= free_memory(self.device) // 2

    def to_dict(self) -> dict[str, Any]:
        return {
            "device": self.device.type,
            "device_name": self.name,
            "precision": self.precision,
            "threads": self.threads,
            "deterministic": self.deterministic,
            "executor": self.executor,
            "micro_batch": self.micro_batch or 0,
            "fused": self.fused,
            "search": self.search,
            "reasons": self.reasons,
            "torch": torch.__version__,
        }


@dataclass
class _Threads:
    """applied: the number that a runtime has set last; replaced: the one before any had."""

    applied: int = 0
    replaced: int = 0


_threads = _Threads()


def default_threads() -> int:
    """The threads of this process's torch, as if no runtime had set them."""
    now = torch.get_num_threads()
    return _threads.replaced if now == _threads.applied else now


@contextlib.contextmanager
def kept_threads() -> Iterator[None]:
    """What runs inside may set the threads; afterwards they are again what they were. Also a
    decorator: for calls whose end should leave a user's own torch as it was."""
    before, applied = torch.get_num_threads(), dataclasses.replace(_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _threads.applied, _threads.replaced = applied.applied, applied.replaced


def keep_memory() -> None:
    """Let glibc keep what this process frees, from now on, instead of returning it to the system.

    Else each large tensor is new memory, which the system clears page by page: a tenth of a step on
    a CPU. For processes that do nothing but train. Where there is no glibc nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # TypeError: no such library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)  # never


@functools.cache
def _wake_once(device: torch.device) -> threading.Thread:
    # not a daemon: a process that exits waits for it instead of being torn down inside CUDA
    thread = threading.Thread(target=_wake, args=(device,))
    thread.start()
    return thread


def _wake(device: torch.device) -> None:
    """Create a GPU's context and load cuDNN and cuBLAS: takes seconds, while images are loaded."""
    with contextlib.suppress(RuntimeError):  # errors will be reported where the GPU is used
        images = torch.zeros(1, 8, 8, 8, device=device, dtype=torch.float16)
        weight = torch.zeros(8, 8, 3, 3, device=device, dtype=torch.float16)
        torch.conv2d(images, weight).flatten(1) @ torch.zeros(288, 8, device=device).half()


def cpu_name() -> str:
    """The processor's name, if the system provides it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name")).split(":")[1].strip()
    return platform.processor() or platform.machine()


def _device(name: str) -> tuple[torch.device, str]:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), "a CUDA GPU is available"
        return torch.device("cpu"), "no CUDA GPU found"
    if name == "cpu":
        return torch.device("cpu"), REQUESTED
    if name == "cuda":
        if not torch.cuda.is_available():
            raise ResightError(
                "device = 'cuda': torch finds no CUDA GPU; use --device cpu, or install a "
                f"CUDA build of torch (this one is {torch.__version__})"
            )
        return torch.device("cuda"), REQUESTED
    raise ResightError(f"device = '{name}' must be auto, cpu or cuda")


def _executor(name: str, device: torch.device) -> tuple[Execution, str]:
    if name not in ("auto", "eager", "captured"):
        raise ResightError(f"executor = '{name}' must be auto, eager or captured")
    if name == "captured" and device.type != "cuda":
        raise ResightError(
            "executor = 'captured' needs a CUDA GPU, but the device is a CPU: must be auto or eager"
        )
    if name == "auto":
        if device.type == "cuda":
            return "captured", "one CUDA graph per step avoids Python overhead"
        return "eager", "CUDA graphs need a GPU"
    return ("captured" if name == "captured" else "eager"), REQUESTED


def _precision(name: str, device: torch.device) -> tuple[Precision, str]:
    if name not in ("auto", "fp32", "bf16", "fp16"):
        raise ResightError(f"precision = '{name}' must be auto, fp32, bf16 or fp16")
    if name == "fp16":
        emulated = "" if device.type == "cuda" else "; this device only emulates it"
        return "fp16", REQUESTED + emulated
    if name == "fp32":
        return "fp32", REQUESTED
    if device.type == "cuda":
        hardware = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        hardware = _cpu_has_bf16()
    if name == "bf16":
        return "bf16", REQUESTED if hardware else f"{REQUESTED}; this device only emulates it"
    if hardware:
        return "bf16", "the device supports bf16 in hardware"
    return "fp32", "the device does not support bf16 in hardware"


def _cpu_has_bf16() -> bool:
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return "avx512_bf16" in flags or "amx_bf16" in flags
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(probe())
