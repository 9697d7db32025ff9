"""Cores, memory, shared memory, open files, disk and home: what a run takes of the machine."""

from __future__ import annotations

import getpass
import multiprocessing
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from st_ssl.cli.doctor.findings import Finding, apt_install, as_root, in_container, size
from st_ssl.cli.doctor.requirements import run_with
from st_ssl.core.limits import LITTLE, lacking_to_compile, memory_limit, usable_cores

SUBJECT = "Machine"
GIB = 1 << 30
FULL, SMALL_DISK = GIB // 4, 5 * GIB
"""Free bytes: a run could not keep its checkpoints; it could, but not much of a data set."""
FEW_FILES = 1024
DOCKER_SHARED = 64 << 20
"""Bytes of shared memory that docker gives unless told otherwise, with which NCCL ends in a message of its own."""


def check_cores(workers: int) -> Iterator[Finding]:
    """Cores that may be used, against the processes that decode."""
    cores = usable_cores()
    text = f"{cores:g} of {os.cpu_count()} may be used, {workers} workers decode"
    if cores < workers:
        mend = run_with(f"data.num_workers={max(1, int(cores))}")
        yield Finding(SUBJECT, "cores", "yellow", f"{text} unless told otherwise: they take turns", mend)
    else:
        yield Finding(SUBJECT, "cores", "green", text)


def check_memory() -> Iterator[Finding]:
    """Memory, within the limit of a container, against what the quickstart takes."""
    there, (total, available) = memory_limit(), _meminfo()
    if there is None:
        yield Finding(SUBJECT, "memory", "green", "not told by this system")
        return
    text = size(there)
    if total is not None and there < total:
        text += f" by the limit of this container or job, of {size(total)}"
    text += f", {size(available)} of the machine available" if available is not None else ""
    if min(there, available or there) < LITTLE:
        text += f": the video quickstart takes about {size(LITTLE)}"
        yield Finding(SUBJECT, "memory", "yellow", text, run_with("data.num_workers=0"))
    else:
        yield Finding(SUBJECT, "memory", "green", text)


def _meminfo() -> tuple[int | None, int | None]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None, None
    entries = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    return entries.get("MemTotal"), entries.get("MemAvailable")


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """/dev/shm, where locks and NCCL live; batches of a run do not."""
    name = str(folder)
    try:
        multiprocessing.get_context("spawn").Lock()
    except (OSError, ImportError) as error:
        text = f"no locks between processes ({error}): data are written, indexed and packed by one"
        yield Finding(SUBJECT, name, "yellow", text, _mount(folder))
        return
    if not folder.is_dir():
        yield Finding(SUBJECT, name, "green", "none on this system")
        return
    free = shutil.disk_usage(folder).free
    text = f"{size(free)} free"
    if free <= DOCKER_SHARED:
        text += ": too little for NCCL between several GPUs; nothing else wants more"
        yield Finding(SUBJECT, name, "yellow", text, _mount(folder))
    else:
        yield Finding(SUBJECT, name, "green", text)


def _mount(folder: Path) -> str:
    """More of it: in a container only who starts that can give it."""
    if in_container():
        return "docker run --shm-size=1g …"
    option = "remount," if folder.is_mount() else ""
    return as_root(f"mount -t tmpfs -o {option}size=1G tmpfs {folder}")


def check_open_files() -> Iterator[Finding]:
    """``ulimit -n``: every worker holds files, pipes and batches open."""
    try:
        import resource
    except ImportError:
        yield Finding(SUBJECT, "open files", "green", "no limit on this system")
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    text = "no limit" if soft == unlimited else f"{soft} at a time"
    if soft == unlimited or soft >= FEW_FILES:
        yield Finding(SUBJECT, "open files", "green", text)
    elif hard == unlimited or hard > soft:
        most = 4096 if hard == unlimited else min(hard, 4096)
        yield Finding(SUBJECT, "open files", "yellow", f"{text}, too few for many workers", f"ulimit -n {most}")
    else:
        mend = as_root(f"prlimit --pid $$ --nofile={FEW_FILES * 4}")
        yield Finding(
            SUBJECT, "open files", "yellow", f"{text}, and no more is allowed: too few for many workers", mend
        )


def check_disk(folder: Path) -> Iterator[Finding]:
    """Room where runs are written, and for temporary files."""
    free = shutil.disk_usage(folder).free
    nodes = os.statvfs(folder) if hasattr(os, "statvfs") else None
    text, refused = f"{size(free)} free in {folder}", _refused(folder)
    elsewhere = run_with("output_dir=/another/disk/runs")
    if nodes is not None and nodes.f_files and not nodes.f_favail:
        yield Finding(SUBJECT, "disk", "red", f"{text}, but no file more: all inodes are taken", f"df -i {folder}")
    elif free < FULL:
        yield Finding(SUBJECT, "disk", "red", f"{text}: full; make room, or write runs elsewhere", elsewhere)
    elif refused:
        text = f"{folder} cannot be written to, and runs are written here: {refused}"
        yield Finding(SUBJECT, "disk", "red", text, elsewhere)
    elif free < SMALL_DISK:
        yield Finding(SUBJECT, "disk", "yellow", f"{text}: little; make room, or write runs elsewhere", elsewhere)
    else:
        yield Finding(SUBJECT, "disk", "green", text)
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError:
        mend = f"mkdir -p {shlex.quote(str(folder / 'tmp'))} && export TMPDIR={shlex.quote(str(folder / 'tmp'))}"
        yield Finding(SUBJECT, "temporary files", "red", "no folder for them can be written to", mend)
        return
    room = shutil.disk_usage(temporary).free
    level = "yellow" if room < FULL else "green"
    mend = f"export TMPDIR={shlex.quote(str(folder))}" if room < FULL else ""
    yield Finding(SUBJECT, "temporary files", level, f"{size(room)} free in {temporary}", mend)


def _refused(folder: Path) -> str:
    """Why no file can be written to ``folder``, ``""`` where one can: of quotas and NFS only writing tells."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(bytes(1 << 16))
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def check_home() -> Iterator[Finding]:
    """A home that can be written to and a user with a name: caches of torch and matplotlib want both."""
    home = Path(os.path.expanduser("~"))
    if not home.is_dir() or not os.access(home, os.W_OK):
        text = f"{home} cannot be written to: torch, Triton and matplotlib keep caches there"
        yield Finding(SUBJECT, "home", "yellow", text, 'export HOME="$(mktemp -d)"')
    else:
        yield Finding(SUBJECT, "home", "green", str(home))
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        text = f"user {os.getuid()} has no name, which torch.compile's cache wants"
        yield Finding(SUBJECT, "user", "yellow", text, "export USER=user")


def check_compiler(gpu: bool) -> Iterator[Finding]:
    """What torch.compile alone needs, on the device that runs go to: a compiler and the headers of Python."""
    lacking = lacking_to_compile(gpu)
    if lacking:
        text = f"engine.compile=true needs {' and '.join(lacking)}; nothing else does"
        yield Finding(SUBJECT, "compiler", "yellow", text, apt_install("g++", "python3-dev"))
    else:
        yield Finding(SUBJECT, "compiler", "green", "there, and the headers of Python: engine.compile=true can be used")
