"""How fast the disk is under the folder that runs are written to."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from st_ssl.cli.doctor.findings import Finding

BLOCK = 1 << 20
BLOCKS = 64
SLOW_WRITE, SLOW_READ = 10, 20
"""MB a second: a checkpoint would take half a minute; one core decodes more."""


def check_disk_speed(folder: Path, blocks: int = BLOCKS) -> Iterator[Finding]:
    """Write and read 64 MiB, past the page cache where the system lets us."""
    subject, name = "Machine", "disk speed"
    try:
        if shutil.disk_usage(folder).free < 4 * blocks * BLOCK:
            raise OSError(errno.ENOSPC, "no room")
        write, read = measure(folder, blocks)
    except OSError as error:
        yield Finding(subject, name, "yellow", f"not measured: {error.strerror} in {folder}", f"df -h {folder}")
        return
    text = f"writes {write:,.0f} MB/s, reads {read:,.0f} MB/s, {blocks} MiB in {folder}"
    if write < SLOW_WRITE or read < SLOW_READ:
        mend = "st-ssl prepare pack VIDEOS --output /a/faster/disk/PACK"
        yield Finding(subject, name, "yellow", f"{text}: slow, pack the videos on another", mend)
    else:
        yield Finding(subject, name, "green", text)


def measure(folder: Path, blocks: int) -> tuple[float, float]:
    """MB a second written (and on the disk) and read, of a file that is gone afterwards."""
    block = os.urandom(BLOCK)  # disks and file systems that compress get nothing for nothing
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        start = time.perf_counter()
        for _ in range(blocks):
            file.write(block)
        os.fsync(file.fileno())
        write = time.perf_counter() - start
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        start = time.perf_counter()
        while file.read(BLOCK):
            continue
        read = time.perf_counter() - start
    amount = blocks * BLOCK / 1e6
    return amount / write, amount / read
