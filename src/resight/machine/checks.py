"""What of a machine stands in the way of a training (a problem) or only costs something (a note).

Each check is a function of the machine that yields its findings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from resight.findings import Diagnosis, Finding
from resight.machine.survey import Folder, Machine, Torch

MIN_FREE_BYTES = 1_000_000_000  # of memory and of a disk; a training of photos needs more
MIN_FREE_SHARE = 0.85  # of the cores
INSTALL_TORCH = "with the line for your system from https://pytorch.org/get-started/locally/"
WITHOUT = {  # what happens where a folder can't be written to, and the way out
    "cache": ("folders of images are decoded anew each time", "set RESIGHT_CACHE to another one"),
    "data": ("what `resight data cifar10` downloads can't be kept", "set RESIGHT_DATA to another"),
    "runs": ("a training writes its run there", "go to another folder, or train with --out FOLDER"),
}


def examine(machine: Machine) -> Diagnosis:
    """All findings, problems first."""
    found = [*no_torch(machine), *outdated(machine)]
    if machine.torch is not None:
        found += [*device_fails(machine.torch), *gpu_unused(machine, machine.torch)]
        found += [*threads(machine, machine.torch), *busy(machine, machine.torch)]
        found += little_memory(machine.torch)
    found += [*unwritable(machine.folders), *full_disk(machine.folders)]
    return Diagnosis.of(found, [])


def no_torch(machine: Machine) -> Iterator[Finding]:
    if machine.torch is None:
        yield Finding(
            name="no-torch",
            severity="problem",
            title="torch can't be imported",
            evidence=machine.no_torch,
            threshold="`import torch` works",
            advice=f"install it again, {INSTALL_TORCH}",
        )


def outdated(machine: Machine) -> Iterator[Finding]:
    for library in machine.outdated:
        there = f"version {library.version}" if library.version else "not installed"
        yield Finding(
            name="outdated",
            severity="problem",
            title=f"{library.name} is {'too old' if library.version else 'missing'}",
            evidence=f"{there}; Resight needs {library.least} or later",
            threshold=f"{library.name} ≥ {library.least}",
            advice="install it",
            command=f"pip install '{library.name}>={library.least}'",
        )


def device_fails(torch: Torch) -> Iterator[Finding]:
    if torch.failure:
        on_gpu = torch.runtime["device"] == "cuda"
        yield Finding(
            name="device-fails",
            severity="problem",
            title=f"torch can't compute on {torch.runtime['device_name']}",
            evidence=torch.failure,
            threshold="a convolution of two small images works",
            advice="train with --device cpu, or install a torch that knows this GPU, "
            f"{INSTALL_TORCH}"
            if on_gpu
            else f"install torch again, {INSTALL_TORCH}",
        )


def gpu_unused(machine: Machine, torch: Torch) -> Iterator[Finding]:
    if not machine.has_nvidia_gpu or torch.runtime["device"] == "cuda":
        return
    hidden = machine.variables.get("CUDA_VISIBLE_DEVICES")
    if torch.cuda is None:
        evidence = f"torch {torch.version} is built without CUDA"
        advice = f"install a torch with CUDA, {INSTALL_TORCH}"
    elif hidden in ("", "-1"):
        evidence, advice = f"CUDA_VISIBLE_DEVICES={hidden} hides it", "unset CUDA_VISIBLE_DEVICES"
    else:
        evidence = torch.said or f"torch {torch.version} finds no GPU"
        advice = f"update the driver, or install a torch for an older CUDA, {INSTALL_TORCH}"
    yield Finding(
        name="gpu-unused",
        severity="note",
        title="an NVIDIA GPU is there, but is not used",
        evidence=evidence,
        threshold="torch.cuda.is_available()",
        advice=advice,
    )


def threads(machine: Machine, torch: Torch) -> Iterator[Finding]:
    """Of torch, compared with the cores that the process may use."""
    count = torch.runtime["threads"]
    usable = usable_cores(machine)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    limits = [name for name in names if name in machine.variables]
    if count < usable and limits:
        yield Finding(
            name="few-threads",
            severity="note",
            title=f"torch uses {count} of {usable} cores",
            evidence=", ".join(f"{name}={machine.variables[name]}" for name in limits),
            threshold="as many threads as cores, unless a variable says so",
            advice=f"a training on the CPU takes longer: unset {' and '.join(limits)}",
        )
    if count > usable:
        yield Finding(
            name="many-threads",
            severity="note",
            title=f"torch uses {count} threads on {usable} core{'s' * (usable != 1)}",
            evidence="the threads wait for each other, so a training on the CPU takes longer",
            threshold="at most as many threads as cores",
            advice=f"set OMP_NUM_THREADS={usable}",
        )


def busy(machine: Machine, torch: Torch) -> Iterator[Finding]:
    """Other programs on the cores that a training on the CPU would have."""
    usable, free = usable_cores(machine), machine.free_cores
    if torch.runtime["device"] != "cpu" or free is None or free >= MIN_FREE_SHARE * usable:
        return
    yield Finding(
        name="busy-cores",
        severity="note",
        title="other programs use the cores",
        evidence=f"{free:.1f} cores were free in the last minute, of {usable} for this process",
        threshold=f"{MIN_FREE_SHARE:.0%} of its cores",
        advice="end them, if you can: a training beside them may take three times as long",
    )


def usable_cores(machine: Machine) -> int:
    """The cores of the process, or of its control group's time if that is less; at least 1."""
    if machine.cpu_limit is None:
        return machine.cores
    return max(1, min(machine.cores, math.floor(machine.cpu_limit)))


def little_memory(torch: Torch) -> Iterator[Finding]:
    for kind, free in (("memory", torch.free_bytes), ("memory of the GPU", torch.device_bytes)):
        if free is not None and free < MIN_FREE_BYTES:
            yield Finding(
                name="little-memory",
                severity="note",
                title=f"little {kind} is free",
                evidence=gigabytes(free),
                threshold=f"at least {gigabytes(MIN_FREE_BYTES)}",
                advice="end other programs, or train smaller images (--image-size)",
            )


def unwritable(folders: Sequence[Folder]) -> Iterator[Finding]:
    for folder in folders:
        if not folder.writable:
            what, way_out = WITHOUT[folder.purpose]
            yield Finding(
                name=f"{folder.purpose}-unwritable",
                severity="problem" if folder.purpose == "runs" else "note",
                title=f"{folder.path} can't be written to",
                evidence=what,
                threshold="the folder, or where it would be made, can be written to",
                advice=way_out,
            )


def full_disk(folders: Sequence[Folder]) -> Iterator[Finding]:
    free = {f.path: f.free_bytes for f in folders if f.writable and f.free_bytes is not None}
    full = [f"{path}: {gigabytes(n)}" for path, n in free.items() if n < MIN_FREE_BYTES]
    if full:
        yield Finding(
            name="full-disk",
            severity="note",
            title="little room is left",
            evidence="; ".join(full),
            threshold=f"at least {gigabytes(MIN_FREE_BYTES)}",
            advice="make room: an interrupted training resumes where the disk was full",
        )


def gigabytes(count: int) -> str:
    """`0.25 GB`, `12.5 GB`"""
    return f"{count / 1e9:,.{1 if count >= MIN_FREE_BYTES else 2}f} GB"
