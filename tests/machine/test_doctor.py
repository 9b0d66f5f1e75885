"""`doctor`: what is found on machines that are not there, and on the one that is."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import resight
from resight.cli.app import app
from resight.engine import memory, runtime
from resight.extras import EXTRAS
from resight.machine import survey as survey_module
from resight.machine.checks import examine
from resight.machine.doctor import HEALTHY, Checkup, doctor
from resight.machine.survey import (
    Folder,
    Machine,
    Outdated,
    Torch,
    cpu_limits,
    outdated,
    survey,
    variables,
)

GB = 1_000_000_000
REASONS = {
    "device": "no CUDA GPU found",
    "precision": "the device does not support bf16 in hardware",
}


def torch_of(**changes: Any) -> Torch:
    """A CPU with two threads and a torch without CUDA."""
    chosen = {
        "device": "cpu",
        "device_name": "A processor, 2 threads",
        "precision": "fp32",
        "threads": 2,
        "reasons": REASONS,
    }
    chosen |= changes.pop("runtime", {})
    plain = Torch("2.13.0", None, chosen, 8 * GB, None, "", "")
    return dataclasses.replace(plain, **changes)


def folder_of(purpose: str, **changes: Any) -> Folder:
    variable = {"cache": "RESIGHT_CACHE", "data": "RESIGHT_DATA", "runs": None}[purpose]
    plain = Folder(purpose, Path("/somewhere") / purpose, variable, True, 0, 50 * GB)
    return dataclasses.replace(plain, **changes)


def machine_of(**changes: Any) -> Machine:
    plain = Machine(
        python="3.12.3",
        system="Linux x86_64",
        torch=torch_of(),
        no_torch="",
        cores=2,
        cpu_limit=None,
        free_cores=8.0,
        has_nvidia_gpu=False,
        variables={},
        folders=tuple(map(folder_of, ("cache", "data", "runs"))),
        outdated=(),
        extras={name: dict.fromkeys(extra.modules, "1.0") for name, extra in EXTRAS.items()},
    )
    return dataclasses.replace(plain, **changes)


def found(machine: Machine) -> dict[str, str]:
    """The names of the findings with their severities."""
    return {finding.name: finding.severity for finding in examine(machine).findings}


def text_of(machine: Machine) -> str:
    return str(Checkup(machine, examine(machine)))


def test_a_plain_machine_in_one_screen() -> None:
    lines = text_of(machine_of()).splitlines()
    assert lines[:6] == [
        HEALTHY,
        f"resight    {resight.__version__}, Python 3.12.3, Linux x86_64",
        "torch      2.13.0, built without CUDA",
        "device     cpu (no CUDA GPU found): A processor, 2 threads",
        "precision  fp32 (the device does not support bf16 in hardware)",
        "cores      2 for this process; torch uses 2 threads",
    ]
    assert lines[6:9] == [
        "memory     8.0 GB free",
        "cache      /somewhere/cache: empty, 50.0 GB free (RESIGHT_CACHE changes it)",
        "data       /somewhere/data: empty, 50.0 GB free (RESIGHT_DATA changes it)",
    ]
    assert lines[9] == "runs       /somewhere/runs: empty, 50.0 GB free (--out changes it)"
    assert len(lines) <= 24
    assert found(machine_of()) == {}


def test_a_gpu_machine() -> None:
    chosen = {
        "device": "cuda",
        "device_name": "A GPU",
        "precision": "bf16",
        "reasons": {"device": "a CUDA GPU is available", "precision": "in hardware"},
    }
    machine = machine_of(
        torch=torch_of(cuda="13.0", runtime=chosen, device_bytes=70 * GB), has_nvidia_gpu=True
    )
    text = text_of(machine)
    assert "torch      2.13.0, built for CUDA 13.0" in text
    assert "device     cuda (a CUDA GPU is available): A GPU" in text
    assert "memory     8.0 GB free, 70.0 GB on the GPU" in text
    assert found(machine) == {}


def test_a_missing_extra_says_what_it_gives_and_how_to_get_it() -> None:
    extras = machine_of().extras
    extras["onnx"] |= {"onnx": None, "onnxruntime": None}
    lines = text_of(machine_of(extras=extras)).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("[onnx]"))
    assert lines[at : at + 2] == [
        "[onnx]     resight export --to onnx: onnx, onnxruntime missing",
        "           pip install 'resight[onnx]'",
    ]
    assert "[heic]     HEIC photos, as phones take them: pillow_heif 1.0" in lines


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"torch": None, "no_torch": "OSError: libcudart.so.13"}, {"no-torch": "problem"}),
        ({"outdated": (Outdated("torch", "2.4.1", "2.10"),)}, {"outdated": "problem"}),
        ({"torch": torch_of(failure="RuntimeError: x")}, {"device-fails": "problem"}),
        ({"has_nvidia_gpu": True}, {"gpu-unused": "note"}),
        ({"torch": torch_of(free_bytes=GB - 1)}, {"little-memory": "note"}),
        ({"torch": torch_of(free_bytes=GB)}, {}),
        ({"cpu_limit": 1.9}, {"many-threads": "note"}),
        ({"free_cores": 1.7}, {}),
        ({"free_cores": 1.69}, {"busy-cores": "note"}),
        ({"free_cores": None}, {}),
        ({"free_cores": 0.86, "cpu_limit": 1.0, "torch": torch_of(runtime={"threads": 1})}, {}),
        ({"cpu_limit": 0.5}, {"many-threads": "note"}),
        ({"cpu_limit": 2.0}, {}),
        ({"cores": 4}, {}),  # torch's own choice, such as one thread for two of one core
        ({"cores": 4, "variables": {"OMP_NUM_THREADS": "2"}}, {"few-threads": "note"}),
        ({"variables": {"OMP_NUM_THREADS": "2"}}, {}),
        ({"folders": (folder_of("cache", writable=False),)}, {"cache-unwritable": "note"}),
        ({"folders": (folder_of("data", writable=False),)}, {"data-unwritable": "note"}),
        ({"folders": (folder_of("runs", writable=False),)}, {"runs-unwritable": "problem"}),
        ({"folders": (folder_of("runs", free_bytes=GB - 1),)}, {"full-disk": "note"}),
        ({"folders": (folder_of("runs", free_bytes=None),)}, {}),
    ],
)
def test_what_is_found(changes: dict[str, Any], expected: dict[str, str]) -> None:
    machine = machine_of(**changes)
    assert found(machine) == expected
    text = text_of(machine)
    assert (HEALTHY in text) == ("problem" not in expected.values())
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize(
    ("torch_changes", "set_", "evidence"),
    [
        ({}, {}, "torch 2.13.0 is built without CUDA"),
        ({"cuda": "13.0"}, {"CUDA_VISIBLE_DEVICES": "-1"}, "CUDA_VISIBLE_DEVICES=-1 hides it"),
        ({"cuda": "13.0", "said": "the driver is too old"}, {}, "the driver is too old"),
        ({"cuda": "13.0"}, {}, "torch 2.13.0 finds no GPU"),
    ],
)
def test_why_a_gpu_is_not_used(
    torch_changes: dict[str, Any], set_: dict[str, str], evidence: str
) -> None:
    machine = machine_of(torch=torch_of(**torch_changes), has_nvidia_gpu=True, variables=set_)
    (finding,) = examine(machine).findings
    assert finding.evidence == evidence


def test_problems_come_first_each_with_what_to_do() -> None:
    machine = machine_of(
        folders=(folder_of("cache", writable=False), folder_of("runs", writable=False)),
        outdated=(Outdated("numpy", None, "1.26"),),
    )
    lines = text_of(machine).splitlines()
    assert lines[:3] == [
        "problem: numpy is missing: not installed; Resight needs 1.26 or later",
        "         install it:",
        "         pip install 'numpy>=1.26'",
    ]
    assert [line[:8] for line in lines[3:7]] == ["problem:", " " * 8, "note: /s", " " * 6 + "ea"]


@pytest.mark.parametrize(
    ("version", "least", "fulfilled"),
    [
        ("2.13.0+cpu", "2.10", True),
        ("2.9.1+cu128", "2.10", False),
        ("2.10", "2.10.0", True),
        ("10", "10.0", True),
        ("2.10.0rc1", "2.10", True),
        ("1.9", "1.26", False),
        (None, "1", False),
    ],
)
def test_versions_are_compared_as_numbers(
    monkeypatch: pytest.MonkeyPatch, version: str | None, least: str, fulfilled: bool
) -> None:
    monkeypatch.setattr(survey_module, "installed", lambda name: version)
    expected = [] if fulfilled else [Outdated("torch", version, least)]
    assert list(outdated([f"torch>={least}", "onnx>=99; extra == 'onnx'"])) == expected


def test_the_limits_of_the_control_groups(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("4:memory:/a\n3:cpu,cpuacct:/c\n0::/user/job\n")
    for name, content in {
        "cpu/c/cpu.cfs_quota_us": "50000",
        "cpu/c/cpu.cfs_period_us": "100000",
        "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000",
        "user/job/cpu.max": "max 100000",
        "user/cpu.max": "300000 100000",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert list(cpu_limits(tmp_path, own)) == [0.5, 3.0]
    assert list(cpu_limits(tmp_path, tmp_path / "none")) == []


def test_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    cache = Path(os.environ["RESIGHT_CACHE"])
    (cache / "decoded" / "entry").mkdir(parents=True)
    (cache / "decoded" / "entry" / "images.npy").write_bytes(bytes(1000))
    (cache / "somebody's").write_bytes(bytes(100))
    machine = survey()
    assert machine.torch is not None
    assert machine.torch.runtime == runtime.Runtime.choose().to_dict()
    assert machine.torch.failure == ""
    assert machine.torch.free_bytes > 0
    folders = {folder.purpose: folder for folder in machine.folders}
    assert (folders["cache"].path, folders["cache"].used_bytes) == (cache, 1000)
    assert folders["runs"].path == tmp_path / "runs"
    assert all(folder.writable for folder in machine.folders)
    assert machine.variables["RESIGHT_CACHE"] == str(cache)
    assert not (tmp_path / "runs").exists()
    assert not folders["data"].path.exists()


def test_a_machine_without_bf16_or_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_cpu_has_bf16", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = str(doctor())
    assert "device     cpu (no CUDA GPU found)" in text
    assert "precision  fp32 (the device does not support bf16 in hardware)" in text


def test_what_torch_says_of_a_driver_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old() -> bool:
        warnings.warn("CUDA initialization: the driver is too old\nmore", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    machine = survey()
    assert machine.torch is not None
    assert machine.torch.said == "CUDA initialization: the driver is too old"


def test_a_device_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernel(*_: Any) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    monkeypatch.setattr(torch, "conv2d", no_kernel)
    (problem,) = doctor().problems
    assert problem.name == "device-fails"
    assert problem.evidence == "RuntimeError: CUDA error: no kernel image is available"


def test_a_broken_torch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (problem,) = doctor().problems
    assert problem.name == "no-torch"
    assert problem.evidence.startswith("ModuleNotFoundError: import of torch halted")


def test_folders_that_can_not_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "file" / "cache"))
    assert {finding.name for finding in doctor().findings} >= {"cache-unwritable"}
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert [problem.name for problem in doctor().problems] == ["runs-unwritable"]


def test_a_user_without_a_home_folder_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where HOME is not set
    assert "/cache: empty" in str(doctor())  # the variables are set
    monkeypatch.delenv("RESIGHT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(resight.ResightError, match="no home folder is known: set HOME, or RESIGHT"):
        doctor()


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIGHT_CACHE", "~/somewhere")
    assert "cache      ~/somewhere: empty" in str(doctor())


def test_a_password_is_not_shown() -> None:
    given = {"RESIGHT_MIRROR": "https://me:secret@host/x", "RESIGHT_DATA": "/d", "HOME": "/h"}
    assert variables(given) == {"RESIGHT_MIRROR": "https://host/x", "RESIGHT_DATA": "/d"}


def test_the_verb_prints_what_the_function_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_in_groups", lambda: iter([5 * GB]))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=9 * GB))
    run = CliRunner().invoke(app, ["doctor"])
    assert (run.exit_code, run.stdout) == (0, f"{doctor()}\n")
    values = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert values["resight"] == resight.__version__
    assert values["torch"]["free_bytes"] == 5 * GB
    assert set(values["extras"]) == set(EXTRAS)


def test_the_verb_exits_1_for_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SimpleNamespace(problems=("x",), to_dict=lambda: {"findings": ["x"]})
    monkeypatch.setattr("resight.machine.doctor.doctor", lambda: plain)
    run = CliRunner().invoke(app, ["doctor", "--json"])
    assert (run.exit_code, json.loads(run.stdout)) == (1, {"findings": ["x"]})
