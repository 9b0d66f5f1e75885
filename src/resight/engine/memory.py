"""The memory that is free here, and whether an error says that there is none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from resight.engine.control_groups import GROUPS, OWN, control_groups

LIMITS = {  # of a control group, by version: limit, usage, prefix of the lines of memory.stat
    2: ("memory.max", "memory.current", ""),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch found no memory for a tensor, on any device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "can't allocate memory" in str(error)  # of a CPU, a RuntimeError
    )


def free_memory(device: torch.device) -> int:
    """Free bytes of a GPU, or of the machine as far as this process may use them."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return min([_free_on_machine(), *free_in_groups()])


def _free_on_machine() -> int:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable"))
        return int(available.split()[1]) * 1024
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return 4 << 30


def free_in_groups(groups: Path = GROUPS, own: Path = OWN) -> Iterator[int]:
    """What is left of the limit of each of this process's control groups, for example a
    container's; the cached files in it count as free."""
    for version, group in control_groups("memory", groups, own):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            yield _free_in(group, *LIMITS[version])


def _free_in(group: Path, limit: str, usage: str, prefix: str) -> int:
    most, used = (int((group / name).read_text()) for name in (limit, usage))
    lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    stat = {name: int(count) for name, count in lines}
    files = sum(stat.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
    return max(0, most - used + files)
