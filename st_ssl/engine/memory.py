"""How much memory there is for a run: what a container allows counts, not only what the machine has."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

LITTLE = 1 << 30
"""Bytes: about what the video quickstart takes, its workers and its files in the cache included."""

_LIMITS = ("memory/memory.limit_in_bytes", "memory.max")  # version 1 and 2, as seen inside a container
_UNLIMITED = 1 << 60


def memory_limit(groups: Path = Path("/sys/fs/cgroup"), total: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that this process and its workers may use together; None where the system does not say."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        found.append(int(total.read_text().split("MemTotal:")[1].split()[0]) << 10)
    for name in _LIMITS:
        with suppress(OSError, ValueError):  # "max" in version 2
            found.append(int((groups / name).read_text()))
    limits = [limit for limit in found if limit < _UNLIMITED]
    return min(limits) if limits else None


def warn_of_little_memory(limit: int | None = None) -> None:
    """Warn where a run may be killed for want of memory, which comes without a word."""
    limit = memory_limit() if limit is None else limit
    if limit is not None and limit < LITTLE:
        warnings.warn(
            f"{limit / 2**30:.2f} GiB of memory is little: a run that ends with nothing but 'Killed' (exit code 137) "
            "had too little; data.num_workers=0 and a smaller engine.batch_size need less",
            stacklevel=2,
        )
