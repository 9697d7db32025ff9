"""How much memory there is for a run: what a container allows counts, not only what the machine has."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

from st_ssl.limits import GROUPS, memory_limits

LITTLE = 1 << 30
"""Bytes: about what the video quickstart takes, its workers and its files in the cache included."""


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
