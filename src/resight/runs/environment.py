"""What a run records of where and how it was trained: versions, machine, commit, command."""

from __future__ import annotations

import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from resight.version import __version__

PACKAGES = ("torch", "numpy", "pillow", "pydantic", "safetensors", "scikit-learn")


def describe_environment(runtime: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """runtime: `Runtime.to_dict`; fingerprint: of the images."""
    return {
        "resight": __version__,
        "commit": commit_of(Path(__file__)),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_kernels": torch.backends.cpu.get_cpu_capability(),
        "runtime": runtime,
        "fingerprint": fingerprint,
        "command": command_of(sys.argv),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def command_of(argv: list[str]) -> list[str] | None:
    """The command in words that repeat it; None in a notebook or somebody's script."""
    program = Path(argv[0])
    ours = program.stem == "resight" or program.parts[-2:] == ("resight", "__main__.py")
    return ["resight", *argv[1:]] if ours else None


def commit_of(file: Path) -> str | None:
    """The commit that is checked out where `file`, of a room of `resight`, is part of a git
    repository's src/; None for an installed package. What was changed since is not seen."""
    root = file.resolve().parents[2]
    if root.name != "src":
        return None
    try:
        git = root.parent / ".git"
        if git.is_file():  # a work tree beside the repository
            git = root.parent / git.read_text(encoding="utf-8").split("gitdir:")[1].strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        common = git / "commondir"
        if common.is_file():
            git = git / common.read_text(encoding="utf-8").strip()
        if (git / name).is_file():
            return (git / name).read_text(encoding="utf-8").strip()
        packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
    except (OSError, UnicodeDecodeError, IndexError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
