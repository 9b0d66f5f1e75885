"""`doctor`: what this machine has for a training, and what stands in the way."""

from __future__ import annotations

import contextlib
import dataclasses
import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resight.extras import EXTRAS, install_command
from resight.findings import COLUMNS, Diagnosis, Finding
from resight.machine.checks import examine, gigabytes, usable_cores
from resight.machine.survey import Folder, Machine, Torch, survey
from resight.render.terminal import wrapped
from resight.version import __version__

HEALTHY = "nothing stands in the way of a training"
INDENT = " " * 11


@dataclass(frozen=True)
class Checkup:
    """A machine, and what was found; problems are what prevents a training."""

    machine: Machine
    diagnosis: Diagnosis

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Problems first."""
        return self.diagnosis.findings

    @property
    def problems(self) -> tuple[Finding, ...]:
        return self.diagnosis.problems

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        facts = dataclasses.asdict(self.machine)
        for folder in facts["folders"]:
            folder["path"] = str(folder["path"])
        findings = self.diagnosis.to_dict()["findings"]
        return {"resight": __version__, "findings": findings, **facts}

    def __str__(self) -> str:
        """One screen of 80 columns."""
        lines = [str(finding) for finding in self.findings]
        lines += [] if self.problems else [HEALTHY]
        for name, value in facts_of(self.machine):
            lines += wrapped(value, COLUMNS, f"{name:<{len(INDENT)}}")
        for name in EXTRAS:
            lines += extra_lines(name, self.machine.extras[name])
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def doctor() -> Checkup:
    """Look at this machine: python, torch, device and precision with the reason, threads, memory,
    folders, optional libraries; and what of it prevents a training or slows it down.

    Imports torch, tries it out, and writes nothing.
    """
    machine = survey()
    return Checkup(machine, examine(machine))


def facts_of(machine: Machine) -> Iterator[tuple[str, str]]:
    yield "resight", f"{__version__}, Python {machine.python}, {machine.system}"
    if machine.torch is not None:
        yield from torch_facts(machine, machine.torch)
    for folder in machine.folders:
        yield folder.purpose, folder_line(folder, machine.variables)


def torch_facts(machine: Machine, torch: Torch) -> Iterator[tuple[str, str]]:
    chosen, why = torch.runtime, torch.runtime["reasons"]
    built = f"built for CUDA {torch.cuda}" if torch.cuda else "built without CUDA"
    yield "torch", f"{torch.version}, {built}"
    yield "device", f"{chosen['device']} ({why['device']}): {chosen['device_name']}"
    yield "precision", f"{chosen['precision']} ({why['precision']})"
    usable = usable_cores(machine)
    limited = f", of {machine.cores} by its control group" * (usable < machine.cores)
    threads = f"{chosen['threads']} thread{'s' * (chosen['threads'] != 1)}"
    yield "cores", f"{usable} for this process{limited}; torch uses {threads}"
    on_gpu = "" if torch.device_bytes is None else f", {gigabytes(torch.device_bytes)} on the GPU"
    yield "memory", f"{gigabytes(torch.free_bytes)} free{on_gpu}"


def folder_line(folder: Folder, variables: dict[str, str]) -> str:
    """`~/.cache/resight: 0.25 GB, 12.5 GB free (RESIGHT_CACHE changes it)`"""
    used = gigabytes(folder.used_bytes) if folder.used_bytes else "empty"
    free = "" if folder.free_bytes is None else f", {gigabytes(folder.free_bytes)} free"
    way = folder.variable or "--out"
    way = f"set by {way}" if way in variables else f"{way} changes it"
    mirror = variables.get("RESIGHT_MIRROR") if folder.purpose == "data" else None
    return f"{short(folder.path)}: {used}{free} ({way})" + (
        f"; downloads come from {mirror}, set by RESIGHT_MIRROR" if mirror else ""
    )


def short(path: Path) -> str:
    """With ~ for the home folder, if there is one: a user without a name may have none."""
    with contextlib.suppress(RuntimeError, ValueError):
        return f"~/{path.relative_to(Path.home())}"
    return str(path)


def extra_lines(name: str, libraries: dict[str, str | None]) -> list[str]:
    """`[onnx]     resight export --to onnx: onnx 1.23.2, …`, or what is missing and its command."""
    lacking = [library for library, version in libraries.items() if version is None]
    there = [f"{library} {version}" for library, version in libraries.items() if version]
    said = ", ".join(there) if not lacking else f"{', '.join(lacking)} missing"
    lines = wrapped(f"{EXTRAS[name].gives}: {said}", COLUMNS, f"{f'[{name}]':<{len(INDENT)}}")
    return lines + ([INDENT + install_command(name)] if lacking else [])
