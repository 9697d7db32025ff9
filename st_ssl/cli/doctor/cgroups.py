"""The share of the machine that this process may use: affinity, and limits of control groups, versions 1 and 2."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def memory_limit(root: Path = ROOT) -> int | None:
    """The bytes that the processes of this container may have together, None without a limit."""
    texts = [_read(folder / "memory.limit_in_bytes") for folder in _folders("memory", root)]
    texts += [_read(folder / "memory.max") for folder in _folders("", root)]
    limits = [int(text) for text in texts if text.isdigit() and int(text) < 2**60]
    return min(limits, default=None)


def usable_cores(root: Path = ROOT) -> float:
    """The cores that may be used: those of the machine, less what affinity and quotas withhold."""
    count = float(os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    pairs = [f"{_read(f / 'cpu.cfs_quota_us')} {_read(f / 'cpu.cfs_period_us')}" for f in _folders("cpu", root)]
    pairs += [_read(folder / "cpu.max") for folder in _folders("", root)]
    shares = [int(pair.split()[0]) / int(pair.split()[1]) for pair in pairs if re.fullmatch(r"\d+ \d+", pair)]
    return min([count, *shares])


def _folders(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's group and of all those around it; version 2 has no controllers."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            top = root / "sys/fs/cgroup"
            unified = top / "unified" if (top / "unified").is_dir() else top
            inner = Path(path.lstrip("/"))
            for group in (inner, *inner.parents):  # in a container the outer part of the path is not there
                yield (top / controllers if controllers else unified) / group


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
