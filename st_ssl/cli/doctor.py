"""What st_ssl needs of this machine, whether it works, and the remedy where it does not.

examples:
  st-ssl doctor
  st-ssl doctor --json | jq .broken

Exit code 1 where something that is needed is broken. Runs before anything is installed.
"""

# It imports the standard library alone. What may crash or hang is tried in a process of its own.

from __future__ import annotations

import argparse
import ctypes.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from st_ssl.cli import Parser
from st_ssl.core.limits import default_workers, memory_limit, usable_cores
from st_ssl.core.packages import EXTRAS, IN_CHECKOUT, NOT_MADE, REQUIRED, ROOT, install, pip, version

OLDEST_PYTHON, NEWEST_PYTHON, OLDEST_TORCH = (3, 11), (3, 13), (2, 10)
NVIDIA_SMI = "timeout 30 nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader"
FFMPEG = "apt-get install ffmpeg, or what your system calls it"
SAMPLE = Path(__file__).with_name("colours.mp4")
"""Eight frames of 64 × 64 pixels, H.264, one colour each."""
_TORCH = """
import json, warnings, torch
product = lambda device: (torch.eye(8, device=device) @ torch.ones(8, 8, device=device)).sum().item()
assert product("cpu") == 64, "a product of matrices is wrong"
devices = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        try:
            error = "" if product(f"cuda:{number}") == 64 else "a product of matrices is wrong"
        except Exception as e:
            error = str(e).partition("\\n")[0]
        devices.append([torch.cuda.get_device_name(number), error])
said = [str(warning.message).partition("\\n")[0] for warning in caught if "CUDA" in str(warning.message)]
build = torch.version.cuda and f"CUDA {torch.version.cuda}" or torch.version.hip and f"ROCm {torch.version.hip}"
print(json.dumps({"build": build, "devices": devices, "said": said}))
"""
TORCHVISION = """
import torch, torchvision
boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]])
assert torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]
print("its operators fit this torch")
"""
DECODER = f"""
from st_ssl.data.streams.video import open_video
with open_video({str(SAMPLE)!r}, "BACKEND") as video:
    ((_, frame),) = video.read([5])
shown = frame.mean((0, 1)).round().tolist()
assert max(abs(a - b) for a, b in zip(shown, (60, 190, 200))) < 9, f"frame 5 is {{shown}}, expected [60, 190, 200]"
print("decodes a frame")
"""
# A convolution of ones counts the neighbours of each voxel.
SPARSE = """
import torch
from st_ssl.ops.sparse import SparseConv3d, sparse_tensor
coords = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2], [0, 3, 2, 1], [0, 2, 2, 2]])
devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
for device in devices:
    layer = SparseConv3d(1, 1, backend="BACKEND").to(device)
    torch.nn.init.ones_(layer.weight)
    out = layer(sparse_tensor(torch.ones(4, 1, device=device), coords.to(device), (4, 4, 4), 1))
    counts = dict(zip(map(tuple, out.coords[:, 1:].tolist()), out.features[:, 0].tolist()))
    assert counts == {(1, 1, 1): 3, (1, 1, 2): 3, (3, 2, 1): 2, (2, 2, 2): 4}, f"wrong on {device}: {counts}"
print("convolves on", " and ".join(devices))
"""
OPEN3D = """
from st_ssl.report.viewers import require_open3d
require_open3d("the viewer")
print("can be imported")
"""


class Finding(NamedTuple):
    """A row of the table. ``status``: "ok"; "warning": slow, or something optional does not work; "missing": optional
    and not installed; "broken": needed, and does not work."""

    name: str
    status: str
    found: str
    remedy: str = ""


class Part(NamedTuple):
    """A package to try by ``code``, which prints what it did. ``extra`` installs it."""

    name: str
    package: str
    code: str
    use: str
    extra: str
    needed: bool = False


TORCH = Part("torch", "torch", _TORCH, "", "all", True)
PARTS = (
    Part("torchvision", "torchvision", TORCHVISION, "networks and operators on images", "all", True),
    Part("PyAV", "av", DECODER.replace("BACKEND", "pyav"), "the default video reader", "video", True),
    Part("torchcodec", "torchcodec", DECODER.replace("BACKEND", "torchcodec"), "data.reader=torchcodec", "video"),
    Part("decord", "decord", DECODER.replace("BACKEND", "decord"), "data.reader=decord", "video"),
    Part("sparse convolution", "torch", SPARSE.replace("BACKEND", "torch"), "our own, in plain torch", "all", True),
    Part("spconv", "spconv", SPARSE.replace("BACKEND", "spconv"), "sparse convolution, beside our own", "points"),
    Part("open3d", "open3d", OPEN3D, "report.py --viewer open3d", "points"),
)


def _reinstall(packages: str, kind: str | None = None) -> str:
    """``kind``: which builds of torch, such as "cu126"; "" those of PyPI; None the kind that is installed."""
    if kind is None:
        label = re.search(r"\+(cpu|xpu|cu\d+|rocm[\d.]+)$", version("torch"))
        kind = label[1] if label else ""
    index = ["--index-url", f"https://download.pytorch.org/whl/{kind}"] if kind and "torch" in packages else []
    return pip("--force-reinstall", *packages.split(), *index)


def attempt(code: str, timeout: float) -> tuple[bool, str]:
    """Whether ``code`` runs to its end in a process of its own, and the last line that it printed or its error."""
    path = [*([str(ROOT)] if IN_CHECKOUT else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    code += "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)"  # some libraries crash as they are unloaded
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer in {timeout:g} s (--timeout)"
    except OSError as error:
        return False, f"no process can be started: {error}"
    if done.returncode == 0:
        return True, done.stdout.strip().splitlines()[-1]
    lines = [line for line in done.stderr.splitlines() if line.strip()] or [""]
    if done.returncode < 0:
        return False, f"its process died of {signal.Signals(-done.returncode).name}: {lines[-1]}"
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)] or lines
    return False, re.sub(r"^st_ssl[\w.]+: ", "", raised[-1])[:400]


def examine(folder: Path, timeout: float) -> Iterator[Finding]:
    """All findings on this machine, where runs are written to ``folder``. An attempt takes ``timeout`` s at most."""
    found = f"{platform.python_version()}, {platform.platform()}"
    if sys.version_info < OLDEST_PYTHON:
        yield Finding("Python", "broken", f"{found}: expected 3.11 or newer", "uv venv --seed --python 3.11")
        return
    status, newer = ("warning", ", newer than those tested") if sys.version_info[:2] > NEWEST_PYTHON else ("ok", "")
    yield Finding("Python", status, found + newer)
    yield Finding("st_ssl", "ok", f"{sys.modules['st_ssl'].__version__} in {ROOT}")
    codes = {part.name: part.code for part in (TORCH, *PARTS) if version(part.package)}
    if codes and sys.stderr.isatty():
        print(f"trying {', '.join(codes)} …", file=sys.stderr)
    with ThreadPoolExecutor(min(4, max(1, int(usable_cores())))) as pool:
        tried = dict(zip(codes, pool.map(lambda code: attempt(code, timeout), codes.values()), strict=True))
    yield from check_torch(tried.get("torch"))
    lacking = [name for name in REQUIRED if not version(name)]
    if lacking:
        yield Finding("required packages", "broken", f"not installed: {', '.join(lacking)}", install())
    ffmpeg = ctypes.util.find_library("avcodec") or ""
    if tried.get("torchcodec", (False, ""))[0] or ffmpeg:
        yield Finding("FFmpeg libraries", "ok", f"{ffmpeg or 'there'}: what torchcodec decodes with")
    else:
        yield Finding("FFmpeg libraries", "missing", "torchcodec alone needs them", FFMPEG)
    yield from (check_part(part, tried.get(part.name), bool(ffmpeg)) for part in PARTS)
    yield from check_machine(folder)
    yield from check_extras()


def check_torch(tried: tuple[bool, str] | None) -> Iterator[Finding]:
    """torch, the driver and the GPUs. ``tried``: what the attempt gave, None without torch."""
    works, said = tried or (False, "")
    facts: dict[str, Any] = json.loads(said) if works else {"build": None, "devices": [], "said": []}
    if tried is None:
        yield Finding("torch", "broken", "not installed", install())
    elif not works:
        yield Finding("torch", "broken", said, _reinstall("torch torchvision"))
    elif tuple(map(int, re.findall(r"\d+", version("torch"))[:2])) < OLDEST_TORCH:
        yield Finding("torch", "broken", f"{version('torch')}: expected 2.10 or newer", install())
    else:
        yield Finding("torch", "ok", f"{version('torch')}, built for {facts['build'] or 'CPUs'}")
    for number, (name, error) in enumerate(facts["devices"]):
        remedy = _reinstall("torch torchvision", "cu126") if error else ""  # which still has kernels for old GPUs
        status = "broken" if error else "ok"
        yield Finding(f"cuda:{number}", status, f"{name}: {error or 'multiplies matrices'}", remedy)
    code, told = subprocess.getstatusoutput(NVIDIA_SMI)
    gpus = "; ".join(told.splitlines()) if code == 0 else ""
    if code not in (0, 127):  # of a shell: no such program
        remedy = "reboot, or install the driver again"
        yield Finding("driver", "warning", f"nvidia-smi fails with {code}: {told}", remedy)
    elif gpus or facts["devices"]:
        yield Finding("driver", "ok", gpus or "known to torch alone")
    elif Path("/proc/driver/nvidia/version").exists():
        yield Finding("driver", "warning", "it is there, but no GPU is given to us", "docker run --gpus all …")
    else:
        yield Finding("driver", "ok", "no NVIDIA driver: runs go to the CPU")
    if not works or not gpus or facts["devices"]:
        return
    if not facts["build"]:
        remedy = _reinstall("torch torchvision", "")
        yield Finding("CUDA", "warning", "this torch is built for CPUs: the GPU is idle", remedy)
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield Finding("CUDA", "warning", "CUDA_VISIBLE_DEVICES hides the GPU", "unset CUDA_VISIBLE_DEVICES")
    else:
        remedy = f"a newer driver (nvidia.com/drivers), or {_reinstall('torch torchvision', 'cu126')}"
        yield Finding("CUDA", "broken", "; ".join(facts["said"]) or "torch finds no GPU", remedy)


def check_part(part: Part, tried: tuple[bool, str] | None, ffmpeg: bool) -> Finding:
    """``tried``: what the attempt gave, None without the package."""
    if tried is None and NOT_MADE.get(part.package):
        return Finding(part.name, "ok", f"not made for this Python or system ({part.use})")
    if tried is None:
        return Finding(part.name, "broken" if part.needed else "missing", part.use, install(part.extra))
    works, said = tried
    found = f"{version(part.package)}: {said} ({part.use})"
    if works:
        return Finding(part.name, "ok", found)
    together = {"torchvision": "torch torchvision", "torchcodec": "torch torchvision torchcodec"}
    remedy = _reinstall(together.get(part.package, part.package))
    if part.name == "torchcodec" and not ffmpeg:
        remedy = FFMPEG
    return Finding(part.name, "broken" if part.needed else "warning", found, remedy)


def check_machine(folder: Path, shared: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Cores and memory, shared memory, and the disk with ``folder``, where runs are written."""
    memory = _size(memory_limit() or 0)
    yield Finding("machine", "ok", f"{usable_cores():g} cores for {default_workers()} workers, {memory} of memory")
    if shared.is_dir():
        room = shutil.disk_usage(shared).free
        if room <= 64 << 20:  # what Docker gives
            found = "enough for all workers, too little for NCCL between several GPUs"
            remedy = "docker run --shm-size=8g …, or more for the tmpfs in /etc/fstab"
            yield Finding("shared memory", "warning", f"{_size(room)} free: {found}", remedy)
        else:
            yield Finding("shared memory", "ok", f"{_size(room)} free: enough for all workers and NCCL")
    else:
        yield Finding("shared memory", "ok", f"no {shared}: workers need none; NCCL between several GPUs does")
    free, refused = shutil.disk_usage(folder).free, ""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:  # of quotas only writing tells
            file.write(bytes(1 << 16))
    except OSError as error:
        refused = f": {error.strerror}"
    status = "broken" if refused or free < 1 << 28 else "warning" if free < 5 << 30 else "ok"
    remedy = "" if status == "ok" else "make room, or output_dir=/another/disk/runs"
    yield Finding("disk", status, f"{_size(free)} free in {folder}{refused}", remedy)


def check_extras() -> Iterator[Finding]:
    """What is installed of each extra."""
    for extra, names in EXTRAS.items():
        wanted = [name for name in names.split() if not NOT_MADE.get(name)]
        found = ", ".join(f"{name} {version(name) or 'not installed'}" for name in wanted)
        complete = all(map(version, wanted))
        yield Finding(f"extra {extra}", "ok" if complete else "missing", found, "" if complete else install(extra))


def _size(count: float) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


def _arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--folder", type=Path, help="where runs are written (default: runs/, or here)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds to try a package (default: %(default)s)")
    arguments = parser.parse()
    arguments.folder = arguments.folder or (Path("runs") if Path("runs").is_dir() else Path())
    if not arguments.folder.is_dir():
        parser.error(f"--folder {arguments.folder}: expected a folder that is there")
    return arguments


def main() -> int:
    """Run the command; 1 where something that is needed is broken."""
    arguments = _arguments()
    findings = list(examine(arguments.folder.resolve(), arguments.timeout))
    broken = any(finding.status == "broken" for finding in findings)
    if arguments.json:
        print(json.dumps({"findings": [finding._asdict() for finding in findings], "broken": broken}, indent=2))
    else:
        show(findings)
    return int(broken)


def show(findings: list[Finding]) -> None:
    """Print the findings as a table, each with its remedy below it."""
    for name, status, found, remedy in findings:
        print(f"{name:18}  {status:8} {found}", *filter(None, [remedy]), sep="\n  > ")
