"""NVIDIA GPUs: the driver, what the build of torch wants of it, the compute capability, NCCL."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from st_ssl.cli.doctor.children import Report
from st_ssl.cli.doctor.findings import Finding, apt_install, as_root, in_container
from st_ssl.cli.doctor.repair import broken, reinstall
from st_ssl.cli.doctor.requirements import release, run_with

SUBJECT = "GPU"
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
"""The driver that each major version of CUDA needs at least (NVIDIA, CUDA compatibility, table 1)."""
LEGACY, LEGACY_BELOW = "cu126", (7, 5)
"""The last builds of torch for GPUs of a compute capability below; they also run on drivers from 525 on."""
OLDEST_GPU = (5, 0)
"""The compute capability below which none of those builds has kernels."""
_GIVE = "docker run --gpus all …"
_FIELDS = ["name", "driver_version", "compute_cap", "memory.total"]


@dataclass(frozen=True)
class Driver:
    """What the driver tells without torch: its ``version`` ("" without one), its ``gpus`` as nvidia-smi names them,
    ``nodes``: how many of their device files there are, ``error``: what nvidia-smi complained of."""

    version: str = ""
    gpus: list[dict[str, str]] = field(default_factory=list)
    nodes: int = 0
    error: str = ""


def look_for_driver(root: Path = Path("/")) -> Driver:
    """Ask nvidia-smi, and the kernel where there is none."""
    version, program = "", shutil.which("nvidia-smi")
    gpus, error = _ask_nvidia_smi(program, _FIELDS) if program is not None else ([], "")
    if program is not None and "compute_cap" in error:  # of drivers that are too old to know of it
        gpus, error = _ask_nvidia_smi(program, [field for field in _FIELDS if field != "compute_cap"])
    kernel = root / "proc/driver/nvidia/version"
    with suppress(OSError):
        found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", kernel.read_text(errors="replace"))
        version = found[1] if found else ""
    nodes = [node for node in (root / "dev").glob("nvidia*") if node.name[6:].isdigit()]
    return Driver(gpus[0]["driver_version"] if gpus else version, gpus, len(nodes), error)


def _ask_nvidia_smi(program: str, fields: list[str]) -> tuple[list[dict[str, str]], str]:
    """Its GPUs, or what it complains of."""
    call = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        return [], str(error)
    try:
        out, err = (told.decode(errors="replace") for told in process.communicate(timeout=30))
    except subprocess.TimeoutExpired as error:
        process.kill()  # and not waited for: a driver that is stuck does not let go of it
        return [], str(error)
    if process.returncode:
        return [], " ".join((out + err).split())[:300]
    rows = [[part.strip() for part in line.rsplit(",", len(fields) - 1)] for line in out.splitlines()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)], ""


def check_driver(driver: Driver, used: bool = False) -> Iterator[Finding]:
    """The driver, and GPUs that this container or process was not given. ``used``: whether torch has GPUs to use."""
    version = f"driver {driver.version}"
    if used and not driver.version:
        yield Finding(SUBJECT, "driver", "green", "known to torch alone, which finds GPUs (ROCm, Jetson, WSL)")
    elif driver.error and not driver.version and not driver.nodes:
        text = f"no driver runs, so runs go to the CPU; nvidia-smi says: {driver.error}"
        mend = _GIVE if in_container() else as_root("modprobe nvidia")
        yield Finding(SUBJECT, "driver", "yellow", text, mend)
    elif driver.error:
        mend = as_root("reboot") if "mismatch" in driver.error else "nvidia-smi"
        yield Finding(SUBJECT, "driver", "red", f"nvidia-smi fails: {driver.error}", mend)
    elif driver.gpus:
        named = [
            f"{gpu['name']} ({gpu['memory.total']}, compute capability {gpu.get('compute_cap', 'unknown')})"
            for gpu in driver.gpus
        ]
        yield Finding(SUBJECT, "driver", "green", f"{version}: {', '.join(named)}")
    elif driver.version and not driver.nodes:
        text = f"{version} in the kernel, but no GPU was given to this container: runs go to the CPU"
        yield Finding(SUBJECT, "driver", "yellow", text, _GIVE)
    elif driver.version:
        yield Finding(SUBJECT, "driver", "green", f"{version}, {driver.nodes} GPUs; no nvidia-smi to name them")
    else:
        yield Finding(SUBJECT, "driver", "green", "no NVIDIA GPU: runs go to the CPU")


def check_cuda(driver: Driver, reports: Mapping[str, Report]) -> Iterator[Finding]:
    """Whether torch can use the GPUs that there are."""
    report, build = reports["cuda"], reports["torch"].facts
    there = bool(driver.gpus or (driver.version and driver.nodes))
    if reports["torch"].error:
        if there:
            yield Finding(SUBJECT, "CUDA", "yellow", "not looked at without a torch that works")
    elif report.error:
        text = f"torch cannot look for GPUs: {broken(report)}"
        yield Finding(SUBJECT, "CUDA", "red", text, "nvidia-smi" if there else reinstall("torch", "torchvision"))
    elif report.facts["available"]:
        for number, device in enumerate(report.facts["devices"]):
            yield _device(number, device, report.facts["arch_list"], build)
    elif there and build["cuda"] is None:
        text = f"torch {build['version']} is built for CPUs: the GPU is idle"
        yield Finding(SUBJECT, "CUDA", "yellow", text, _other_build())
    elif there:
        yield _unavailable(driver, report.facts["warnings"], build)


def _unavailable(driver: Driver, warnings: list[str], build: Mapping[str, Any]) -> Finding:
    """There is a GPU, and a torch for GPUs, and they do not go together."""
    oldest = OLDEST_DRIVER.get(int(build["cuda"].partition(".")[0]), 0)
    said, visible = f": {warnings[0]}" if warnings else "", os.environ.get("CUDA_VISIBLE_DEVICES")
    too_old = release(driver.version) < (oldest,)
    if visible in ("", "-1") or (visible is not None and not too_old):
        text = f"CUDA_VISIBLE_DEVICES={visible!r} leaves torch no GPU, so runs go to the CPU{said}"
        return Finding(SUBJECT, "CUDA", "yellow", text, "unset CUDA_VISIBLE_DEVICES")
    if too_old:
        text = f"driver {driver.version} is too old for CUDA {build['cuda']}, which torch {build['version']} is of"
        if release(driver.version) >= (OLDEST_DRIVER[12],):
            return Finding(SUBJECT, "CUDA", "red", f"{text}: take {oldest} or later, or", _other_build(LEGACY))
        newer = as_root("ubuntu-drivers install") if shutil.which("ubuntu-drivers") else apt_install("nvidia-driver")
        return Finding(SUBJECT, "CUDA", "red", f"{text}: take {oldest} or later (nvidia.com/drivers)", newer)
    text = f"torch cannot use the GPU of driver {driver.version}{said}"
    return Finding(SUBJECT, "CUDA", "red", text, as_root("reboot"))


def _device(number: int, device: Mapping[str, Any], arch_list: list[str], build: Mapping[str, Any]) -> Finding:
    major, minor = device["capability"]
    text = f"{device['name']}, compute capability {major}.{minor}"
    name = f"cuda:{number}"
    if build["hip"] is None and not covers(arch_list, (major, minor)):
        text += f": torch {build['version']} has no kernels for it ({', '.join(arch_list)})"
        if (major, minor) < OLDEST_GPU:
            text += ", nor has any build that st_ssl runs with"
            return Finding(SUBJECT, name, "red", text, run_with("engine.device=cpu"))
        return Finding(SUBJECT, name, "red", text, _other_build(LEGACY if (major, minor) < LEGACY_BELOW else ""))
    if device["error"]:
        return Finding(SUBJECT, name, "red", f"{text}: {device['error']}", "nvidia-smi")
    return Finding(SUBJECT, name, "green", f"{text}: multiplies matrices")


def covers(arch_list: list[str], capability: tuple[int, int]) -> bool:
    """Whether a build of torch runs on a GPU: kernels for its major version and no later minor one, or PTX for no
    later a capability, which the driver compiles. Kernels of kinds such as ``sm_90a`` run on that capability alone."""
    for arch in arch_list:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        if found is None:
            continue
        kind, built = found[1], (int(found[2]), int(found[3]))
        if found[4]:
            fits = built == capability
        elif kind == "sm":
            fits = built[0] == capability[0] and built <= capability
        else:
            fits = built <= capability
        if fits:
            return True
    return False


def check_nccl(reports: Mapping[str, Report]) -> Iterator[Finding]:
    """What processes talk by: NCCL between GPUs, gloo on CPUs."""
    report = reports["cuda"]
    if report.error:
        return
    facts, count = report.facts, len(report.facts["devices"])
    if facts["nccl"]:
        use = f"{count} GPUs" if count > 1 else "one GPU has no use for it"
        yield Finding(SUBJECT, "NCCL", "green", f"{facts['nccl']}, {use}")
    elif count > 1:
        text = f"{count} GPUs and a torch without NCCL: torchrun would be slow"
        yield Finding(SUBJECT, "NCCL", "yellow", text, _other_build())
    elif count == 1:
        yield Finding(SUBJECT, "NCCL", "yellow", "none in this torch, which one GPU has no use for", _other_build())
    elif facts["gloo"]:
        yield Finding(SUBJECT, "NCCL", "green", "not needed without GPUs: processes talk by gloo")
    else:
        yield Finding(SUBJECT, "NCCL", "yellow", "neither NCCL nor gloo: torchrun cannot be used", _other_build())


def _other_build(kind: str = "") -> str:
    return reinstall("torch", "torchvision", kind=kind)
