"""GPUs that are made up, as their driver and torch tell of them; and those of this machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from st_ssl.cli.doctor import accelerator, repair
from st_ssl.cli.doctor.accelerator import Driver, covers
from st_ssl.cli.doctor.children import Report
from tests.cli.findings import one
from tests.runs import ROOT

ARCHS = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
H100 = {"name": "NVIDIA H100", "driver_version": "580.82.07", "compute_cap": "9.0", "memory.total": "81559 MiB"}
P100 = {"name": "Tesla P100", "driver_version": "580.82.07", "compute_cap": "6.0", "memory.total": "16384 MiB"}


def reports(
    capabilities: Iterable[tuple[int, int]] = (), cuda: str | None = "13.0", error: str = "", **facts: Any
) -> dict[str, Report]:
    """What torch tells with such GPUs."""
    devices = [{"name": "GPU", "capability": [*pair], "error": error} for pair in capabilities]
    known = {
        "available": bool(devices),
        "devices": devices,
        "arch_list": ARCHS,
        "warnings": [],
        "nccl": "",
        "gloo": True,
    }
    build = {"version": "2.14.1", "cuda": cuda, "hip": None}
    return {"torch": Report(build), "cuda": Report(known | facts)}


def smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_nvidia_smi_names_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, "echo 'NVIDIA H100, PCIe, 580.82.07, 9.0, 81559 MiB'", monkeypatch)
    driver = accelerator.look_for_driver(tmp_path)
    assert driver.gpus == [H100 | {"name": "NVIDIA H100, PCIe"}]
    finding = one(accelerator.check_driver(driver))
    assert finding.level == "green"
    assert "driver 580.82.07: NVIDIA H100, PCIe (81559 MiB, compute capability 9.0)" in finding.text


def test_an_old_nvidia_smi_knows_no_compute_capability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = """case "$*" in *compute_cap*) echo 'Field "compute_cap" is not a valid field to query.'; exit 2;; esac"""
    smi(tmp_path, f"{unknown}; echo 'Tesla K80, 470.1, 11441 MiB'", monkeypatch)
    finding = one(accelerator.check_driver(accelerator.look_for_driver(tmp_path)))
    assert finding.text == "driver 470.1: Tesla K80 (11441 MiB, compute capability unknown)"


@pytest.mark.parametrize(("nodes", "level"), [(1, "red"), (0, "yellow")])
def test_nvidia_smi_may_fail(nodes: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "in_container", lambda: False)
    smi(
        tmp_path,
        "printf '\\377'; echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
        monkeypatch,
    )
    (tmp_path / "dev").mkdir()
    for number in range(nodes):
        (tmp_path / "dev" / f"nvidia{number}").touch()
    finding = one(accelerator.check_driver(accelerator.look_for_driver(tmp_path)))
    assert finding.level == level
    assert "version mismatch" in finding.text
    assert finding.mend.endswith("reboot" if nodes else "modprobe nvidia")
    monkeypatch.setattr(accelerator, "in_container", lambda: True)
    inside = one(accelerator.check_driver(accelerator.look_for_driver(tmp_path)))
    assert ("--gpus all" in inside.mend) == (nodes == 0)


@pytest.mark.parametrize(("nodes", "level"), [(0, "yellow"), (2, "green")])
def test_without_nvidia_smi_the_kernel_tells(
    nodes: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    kernel = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n"
    (tmp_path / "proc/driver/nvidia/version").write_text(kernel)
    (tmp_path / "dev").mkdir()
    for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{i}" for i in range(nodes))):
        (tmp_path / "dev" / name).touch()
    driver = accelerator.look_for_driver(tmp_path)
    assert (driver.version, driver.nodes) == ("535.129.03", nodes)
    finding = one(accelerator.check_driver(driver))
    assert finding.level == level
    assert ("--gpus all" in finding.mend) == (nodes == 0)
    (tmp_path / "proc/driver/nvidia/version").unlink()
    assert accelerator.look_for_driver(tmp_path).version == ""


@pytest.mark.parametrize(
    ("archs", "capability", "covered"),
    [
        (["sm_80"], (8, 6), True),  # a later minor version runs it
        (["sm_86"], (8, 0), False),
        (["sm_90"], (10, 0), False),
        (["sm_90", "compute_90"], (10, 0), True),  # the driver compiles PTX
        (["compute_120"], (9, 0), False),
        (["sm_90a"], (9, 0), True),
        (["sm_90a", "compute_90a"], (10, 0), False),
        (ARCHS, (6, 1), False),
        (ARCHS, (12, 1), True),
        ([], (8, 0), False),
    ],
)
def test_kernels_for_a_compute_capability(archs: list[str], capability: tuple[int, int], covered: bool) -> None:
    assert covers(archs, capability) == covered


def test_a_gpu_that_the_build_has_no_kernels_for() -> None:
    fine, old = accelerator.check_cuda(Driver("580.82.07", [H100, P100], 2), reports([(9, 0), (6, 0)]))
    assert (fine.name, fine.level, old.name, old.level) == ("cuda:0", "green", "cuda:1", "red")
    assert "compute capability 6.0: torch 2.14.1 has no kernels for it (sm_75, " in old.text
    assert old.mend.endswith("--index-url https://download.pytorch.org/whl/cu126")
    new = one(accelerator.check_cuda(Driver("600.1", [H100], 1), reports([(13, 0)])))
    assert new.level == "red"
    assert "--index-url" not in new.mend
    oldest = one(accelerator.check_cuda(Driver("470.1", [P100], 1), reports([(3, 7)])))
    assert (oldest.level, oldest.mend.split()[-1]) == ("red", "engine.device=cpu")
    failing = one(accelerator.check_cuda(Driver("580.82.07", [H100], 1), reports([(9, 0)], error="out of memory")))
    assert failing.level == "red"
    assert failing.text.endswith("out of memory")


@pytest.mark.parametrize(
    ("driver", "cuda", "level", "text", "mend"),
    [
        ("535.129.03", "13.0", "red", "too old for CUDA 13.0, .*: take 580 or later, or", "whl/cu126"),
        ("470.1", "12.6", "red", "too old for CUDA 12.6, .*: take 525 or later", "^$"),
        ("580.82.07", "13.0", "red", "cannot use the GPU of driver 580.82.07: CUDA unknown error", "reboot"),
        (
            "580.82.07",
            None,
            "yellow",
            "built for CPUs: the GPU is idle",
            "--force-reinstall 'torch>=[^ ]*' 'torchvision>=[^ ]*'$",
        ),
    ],
)
def test_a_gpu_that_torch_cannot_use(
    driver: str, cuda: str | None, level: str, text: str, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "installed", lambda name: "2.14.1" if cuda else "2.14.1+cpu")
    monkeypatch.setattr(accelerator.shutil, "which", lambda name: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    told = reports(cuda=cuda, warnings=["CUDA unknown error"])
    finding = one(accelerator.check_cuda(Driver(driver, [H100 | {"driver_version": driver}], 1), told))
    assert finding.level == level
    assert re.search(text, finding.text), finding.text
    assert re.search(mend, finding.mend)


def test_gpus_that_were_hidden_and_those_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hidden = one(accelerator.check_cuda(Driver("580.82.07", [H100], 1), reports()))
    assert (hidden.level, hidden.mend) == ("yellow", "unset CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")  # of SLURM, in a job that asked for no GPU
    unnamed = one(accelerator.check_cuda(Driver("580.82.07", [H100], 1), reports()))
    assert (unnamed.level, unnamed.mend) == ("yellow", "unset CUDA_VISIBLE_DEVICES")
    old = one(accelerator.check_cuda(Driver("535.1", [H100], 1), reports()))
    assert (old.level, "too old" in old.text) == ("red", True)
    assert list(accelerator.check_cuda(Driver(), reports())) == []
    assert one(accelerator.check_driver(Driver())).text == "no NVIDIA GPU: runs go to the CPU"


def test_gpus_that_torch_alone_finds() -> None:
    for driver in (Driver(), Driver(error="not found")):
        finding = one(accelerator.check_driver(driver, used=True))
        assert finding.level == "green"
        assert "torch" in finding.text and "CPU" not in finding.text


def test_a_torch_that_hangs_looking_for_gpus_is_red() -> None:
    told = reports() | {"cuda": Report(error="no answer in 60 s", kind="hung")}
    finding = one(accelerator.check_cuda(Driver("580.82.07", [H100], 1), told))
    assert (finding.level, finding.text) == ("red", "torch cannot look for GPUs: no answer in 60 s")
    assert list(accelerator.check_nccl(told)) == []


@pytest.mark.parametrize(
    ("count", "nccl", "gloo", "level"),
    [(2, "2.30.7", True, "green"), (2, "", True, "yellow"), (0, "", True, "green"), (0, "", False, "yellow")],
)
def test_what_processes_talk_by(count: int, nccl: str, gloo: bool, level: str) -> None:
    finding = one(accelerator.check_nccl(reports([(9, 0)] * count, nccl=nccl, gloo=gloo)))
    assert finding.level == level


@pytest.mark.gpu
def test_the_gpu_of_this_machine_multiplies() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "doctor.py"), "--json", "--quick"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    levels = {finding["name"]: finding["level"] for finding in json.loads(done.stdout)["findings"]}
    assert levels["cuda:0"] == levels["driver"] == levels["NCCL"] == "green"
