"""`Machine`: what this machine has for a training, without judging it.

Torch is imported inside the functions: that it can't be is one of the things to find out.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resight.data.cache import cache_dir
from resight.data.cifar import VARIANTS
from resight.data.download import data_dir
from resight.data.table import cores
from resight.engine.control_groups import GROUPS, OWN, control_groups
from resight.errors import described
from resight.extras import EXTRAS, missing

if TYPE_CHECKING:
    from resight.engine.runtime import Runtime

NVIDIA_GPU = Path("/dev/nvidia0")
VARIABLES = (  # of the environment, that change what is found
    *("RESIGHT_CACHE", "RESIGHT_DATA", "RESIGHT_MIRROR"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
)
QUOTAS = {  # of a control group, by version: the files with the µs of CPU time and of the period
    2: ("cpu.max",),
    1: ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
}
ALL_CORES = 1 << 20


@dataclass(frozen=True)
class Torch:
    """cuda: the CUDA that it was built for; runtime: what `Runtime.choose` chooses; free_bytes: of
    the machine; device_bytes: free on the GPU; failure: why the device can't compute, "" if it
    can; said: torch's warning when it was asked for a GPU."""

    version: str
    cuda: str | None
    runtime: dict[str, Any]
    free_bytes: int
    device_bytes: int | None
    failure: str
    said: str


@dataclass(frozen=True)
class Folder:
    """variable: of the environment, which sets it; used_bytes: by Resight's files; free_bytes: on
    its disk, None if that can't be known."""

    purpose: str
    path: Path
    variable: str | None
    writable: bool
    used_bytes: int
    free_bytes: int | None


@dataclass(frozen=True)
class Outdated:
    """A library that is older than Resight needs; version None: not installed."""

    name: str
    version: str | None
    least: str


@dataclass(frozen=True)
class Machine:
    """torch: None if it can't be imported, for the reason `no_torch`; cores: of this process;
    cpu_limit: how many cores' time its control group may use; free_cores: see `free_cores`;
    variables: those that are set; extras: by name, each library with its version, or None if it is
    not installed."""

    python: str
    system: str
    torch: Torch | None
    no_torch: str
    cores: int
    cpu_limit: float | None
    free_cores: float | None
    has_nvidia_gpu: bool
    variables: dict[str, str]
    folders: tuple[Folder, ...]
    outdated: tuple[Outdated, ...]
    extras: dict[str, dict[str, str | None]]


def survey() -> Machine:
    """Look at this machine; writes nothing."""
    torch, why = None, ""
    try:
        torch = look_at_torch()
    except Exception as error:  # of a broken installation, which may raise anything
        why = described(error)
    sets = [data_dir() / name for v in VARIANTS.values() for name in (v.archive, v.folder)]
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        torch=torch,
        no_torch=why,
        cores=cores(ALL_CORES),
        cpu_limit=min(cpu_limits(), default=None),
        free_cores=free_cores(),
        has_nvidia_gpu=NVIDIA_GPU.exists(),
        variables=variables(os.environ),
        folders=(
            look_at("cache", cache_dir(), "RESIGHT_CACHE", [cache_dir() / "decoded"]),
            look_at("data", data_dir(), "RESIGHT_DATA", sets),
            look_at("runs", Path("runs"), None, [Path("runs")]),
        ),
        outdated=tuple(outdated(requirements())),
        extras={name: versions(name) for name in EXTRAS},
    )


def free_cores() -> float | None:
    """The computer's cores that no program used or waited for in the last minute, on average; None
    where the system does not know."""
    total = os.cpu_count()
    if total is None or not hasattr(os, "getloadavg"):  # Windows has none
        return None
    with contextlib.suppress(OSError):
        return max(0.0, total - os.getloadavg()[0])
    return None


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of `VARIABLES` that are set; without the password of an address, if there is one."""
    found = {name: environment[name] for name in VARIABLES if name in environment}
    return {name: re.sub(r"//[^/]*@", "//", value) for name, value in found.items()}


def look_at_torch() -> Torch:
    """Raises whatever a broken torch raises."""
    import torch

    from resight.engine.memory import free_memory
    from resight.engine.runtime import Runtime

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        runtime = Runtime.choose()
    failure = try_out(runtime)
    usable_gpu = not runtime.on_cpu and not failure
    return Torch(
        version=torch.__version__,
        cuda=torch.version.cuda,
        runtime=runtime.to_dict(),
        free_bytes=free_memory(torch.device("cpu")),
        device_bytes=free_memory(runtime.device) if usable_gpu else None,
        failure=failure,
        said=str(said[0].message).strip().split("\n")[0] if said else "",
    )


def try_out(runtime: Runtime) -> str:
    """Why a convolution and its gradient fail on the device; "" if they don't."""
    import torch

    try:
        images = torch.ones(2, 8, 8, 8, device=runtime.device)
        weight = torch.ones(8, 8, 3, 3, device=runtime.device, requires_grad=True)
        with runtime.autocast():
            total = torch.conv2d(images, weight).float().sum()
        total.backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None
        finite = bool(weight.grad.isfinite().all())
    except Exception as error:  # of a driver, which may raise anything
        return described(error)
    return "" if finite else "a gradient is not finite"


def cpu_limits(groups: Path = GROUPS, own: Path = OWN) -> Iterator[float]:
    """How many cores' time each of this process's control groups may use."""
    for version, group in control_groups("cpu", groups, own):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            words = " ".join((group / name).read_text() for name in QUOTAS[version])
            quota, period = map(int, words.split())
            if quota > 0:  # -1: no limit
                yield quota / period


def look_at(purpose: str, path: Path, variable: str | None, content: Iterable[Path]) -> Folder:
    """content: Resight's files in it, and folders of such."""
    path = path.absolute()
    above = next(folder for folder in (path, *path.parents) if folder.exists())
    writable = above.is_dir() and os.access(above, os.W_OK | os.X_OK)
    free = None
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(above).free
    return Folder(purpose, path, variable, writable, sum(map(size_of, content)), free)


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files in a folder; what can't be read counts as 0."""
    total = 0
    with contextlib.suppress(OSError):
        for file in path.rglob("*") if path.is_dir() else [path]:
            with contextlib.suppress(OSError):
                total += file.lstat().st_size if file.is_file() else 0
    return total


def requirements() -> list[str]:
    """What the installed package requires; nothing if it is run without being installed."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.requires("resight") or []
    return []


def outdated(requirements: Iterable[str]) -> Iterator[Outdated]:
    """Which of a package's requirements (`torch>=2.10`) are not fulfilled; extras do not count."""
    for line in requirements:
        found = re.fullmatch(r"([\w.-]+)>=([\d.]+)", line.replace(" ", ""))
        if found is None:
            continue
        name, least = found.groups()
        version = installed(name)
        if version is None or _numbers(version) < _numbers(least):
            yield Outdated(name, version, least)


def installed(package: str) -> str | None:
    """Its version, by the name that is installed or imported; None if it is not installed."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def versions(extra: str) -> dict[str, str | None]:
    """The libraries of an extra with their versions, None for one that is not installed."""
    lacking = missing(extra)
    return {
        module: None if module in lacking else installed(module) or "?"
        for module in EXTRAS[extra].modules
    }


def _numbers(version: str) -> tuple[int, ...]:
    """Of a version, without zeros at its end and what follows, such as the CUDA of a build."""
    dotted = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, re.sub(r"(\.0+)+$", "", dotted[0]).split("."))) if dotted else ()
