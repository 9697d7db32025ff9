"""A limit of memory for a command and all it starts, by a control group of the kernel (version 1 or 2)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType

PREFIX = "bare-root-"


def controller(mounts: str) -> tuple[Path, int] | None:
    """Where groups for memory are made and their version, from the text of /proc/self/mountinfo; None: nowhere."""
    unified = None
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        place, (kind, _, options) = Path(left.split()[4]), right.split(" ", 2)
        if kind == "cgroup" and "memory" in options.split(","):
            return place, 1
        if kind == "cgroup2":
            unified = place
    return (unified, 2) if unified else None


class MemoryLimit:
    """Within it, a group of at most ``limit`` bytes exists; processes join by writing to its ``cgroup.procs``.

    The folder is ``group`` and where tools look for it ``inside``. Making or entering it raises ``OSError`` where the
    kernel offers no such groups or this user may not make them.
    """

    def __init__(self, limit: int, mounts: Path = Path("/proc/self/mountinfo")) -> None:
        found = controller(mounts.read_text())
        if found is None:
            raise OSError("no control groups are mounted: memory cannot be limited")
        self.limit = limit
        self.place, self.version = found
        self.inside = "/sys/fs/cgroup/memory" if self.version == 1 else "/sys/fs/cgroup"
        self.group = self.place / f"{PREFIX}{os.getpid()}-{time.monotonic_ns()}"

    def __enter__(self) -> MemoryLimit:
        self._sweep()
        if self.version == 2 and "memory" not in (self.place / "cgroup.subtree_control").read_text().split():
            (self.place / "cgroup.subtree_control").write_text("+memory")
        self.group.mkdir()
        names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        if self.version == 2:
            names = ("memory.max", "memory.swap.max")
        (self.group / names[0]).write_text(str(self.limit))
        if (self.group / names[1]).exists():  # no swapping beyond it either, where the kernel can count that
            (self.group / names[1]).write_text(str(self.limit if self.version == 1 else 0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in range(100):
            try:
                self.group.rmdir()
                return
            except OSError:  # its last process is still going away
                time.sleep(0.05)

    def _sweep(self) -> None:
        """Remove what a killed run of ours left."""
        for group in self.place.glob(f"{PREFIX}*"):
            owner = group.name.removeprefix(PREFIX).split("-")[0]
            if not Path("/proc", owner).exists() and not (group / "cgroup.procs").read_text().strip():
                group.rmdir()
