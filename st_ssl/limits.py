"""What this process may use of the machine: affinity, limits of control groups (versions 1 and 2), a compiler."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def memory_limits(groups: Path = GROUPS, own: Path = OWN) -> list[int]:
    """The bytes that this process's group, and each one around it, may have; [] without a limit."""
    texts = [_read(folder / "memory.limit_in_bytes") for folder in _folders("memory", groups, own)]
    texts += [_read(folder / "memory.max") for folder in _folders("", groups, own)]
    return [int(text) for text in texts if text.isdigit() and int(text) < 1 << 60]


def usable_cores(groups: Path = GROUPS, own: Path = OWN) -> float:
    """The cores that may be used: those of the machine, less what affinity and quotas withhold."""
    count = float(os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    folders = _folders("cpu", groups, own)
    pairs = [f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}" for folder in folders]
    pairs += [_read(folder / "cpu.max") for folder in _folders("", groups, own)]
    shares = [int(pair.split()[0]) / int(pair.split()[1]) for pair in pairs if re.fullmatch(r"\d+ [1-9]\d*", pair)]
    return min([count, *shares])


def default_workers() -> int:
    """``data.num_workers`` where a configuration does not set it: a process for each core that may be used, up to 8."""
    return max(1, min(8, int(usable_cores())))


def lacking_to_compile(gpu: bool) -> list[str]:
    """What torch.compile would not find here, on GPUs or on CPUs: a compiler, the headers of Python."""
    variable, usual = ("CC", ["gcc", "clang"]) if gpu else ("CXX", ["g++"])
    chosen = os.environ.get(variable)
    names = usual if chosen is None else [chosen]
    lacking = []
    if not any(shutil.which(name.partition(" ")[0]) for name in names):
        lacking.append(f"a compiler ({' or '.join(usual) if chosen is None else f'{variable}={chosen}'})")
    header = Path(sysconfig.get_path("include"), "Python.h")
    return lacking if header.exists() else [*lacking, str(header)]


def _folders(controller: str, groups: Path, own: Path) -> Iterator[Path]:
    """The folders of this process's group and of those around it; version 2 has no controllers."""
    yield groups / controller
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            top = groups / (controllers or ("unified" if (groups / "unified").is_dir() else ""))
            inner = Path(path.lstrip("/"))
            for group in (inner, *inner.parents):  # in a container the outer part of the path is not there
                yield top / group


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
