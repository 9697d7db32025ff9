"""What this process may use of the machine: affinity, limits of control groups (versions 1 and 2), a compiler."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
LITTLE = 1 << 30
"""Bytes: about what the video quickstart takes, its workers and its files in the cache included."""

SAMPLE_TIMEOUT = 60.0
"""Seconds that a worker may spend on one sample."""


def memory_limits(groups: Path = GROUPS, own: Path = OWN) -> list[int]:
    """The bytes that this process's group, and each one around it, may have; [] without a limit."""
    texts = [_read(folder / "memory.limit_in_bytes") for folder in _folders("memory", groups, own)]
    texts += [_read(folder / "memory.max") for folder in _folders("", groups, own)]
    return [int(text) for text in texts if text.isdigit() and int(text) < 1 << 60]


def memory_limit(groups: Path = GROUPS, total: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that this process and its workers may use together; None where the system does not say."""
    limits = memory_limits(groups)
    with suppress(OSError, ValueError, IndexError):
        limits.append(int(total.read_text().split("MemTotal:")[1].split()[0]) << 10)
    return min(limits, default=None)


def warn_of_little_memory(limit: int | None = None) -> None:
    """Warn where a run may be killed for want of memory, which comes without a word."""
    limit = memory_limit() if limit is None else limit
    if limit is not None and limit < LITTLE:
        warnings.warn(
            f"{limit / 2**30:.2f} GiB of memory is little: a run that ends with nothing but 'Killed' (exit code 137) "
            "had too little; data.num_workers=0 and a smaller engine.batch_size need less",
            stacklevel=2,
        )


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
