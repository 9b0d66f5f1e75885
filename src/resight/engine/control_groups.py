"""This process's control groups, for example a container's, which limit its memory and cores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def control_groups(
    controller: str, groups: Path = GROUPS, own: Path = OWN
) -> Iterator[tuple[int, Path]]:
    """Version and folder of each group that may limit what `controller` ("memory", "cpu") counts:
    the process's own and those above it. Nothing where there are none, as elsewhere than on Linux;
    within a container not every folder is there."""
    try:
        memberships = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in memberships:
        if controllers and controller not in controllers.split(","):
            continue
        version, top = (1, groups / controller) if controllers else (2, groups)
        inside = Path(path.lstrip("/"))
        for level in (inside, *inside.parents):
            yield version, top / level
