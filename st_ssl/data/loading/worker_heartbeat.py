"""What a loader and its workers tell each other without messages, which a worker that hangs or dies could not send."""

from __future__ import annotations

import ctypes
import mmap
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray
from typing import Any

from st_ssl.core.errors import SampleError
from st_ssl.core.types import Entry
from st_ssl.data.loading.child_process import CONTEXT

NOTHING = -1
"""No entry: a worker that waits, or puts a batch together."""
_HUNG, _LEFT = 1 << 20, 1 << 21  # larger than any exit code; _LEFT stands for 0


@dataclass(frozen=True)
class Stage:
    """A part of the work on a sample: what is said of it where it ``hung`` for "{:g}" seconds, or ``crashed``."""

    hung: str
    crashed: str


DECODING = (Stage("decoder hung for {:g} s", "decoder crashed"),)


class Board:
    """Shared memory of a loader and its workers.

    For each worker: a count that grows with everything it does, the entry that it works on, and at which of ``stages``
    it is. For each entry of the data set: whether it hung or crashed a worker, which keeps all of them from touching it
    again, and at which stage.
    """

    def __init__(self, num_workers: int, num_entries: int, timeout: float, stages: Sequence[Stage] = DECODING) -> None:
        self.timeout, self.stages = timeout, stages
        self._stages = _shared(ctypes.c_int, num_workers)
        self._lost_at = _shared(ctypes.c_int, num_entries)
        self._beats = _shared(ctypes.c_longlong, num_workers)
        self._entries = _shared(ctypes.c_longlong, num_workers)
        self._entries[:] = [NOTHING] * num_workers
        self._lost = _shared(ctypes.c_int, num_entries)

    def move(self, worker: int, entry: int) -> None:
        """``worker`` goes on to ``entry``, or to ``NOTHING``."""
        self._entries[worker], self._stages[worker] = entry, 0
        self._beats[worker] += 1

    def reach(self, worker: int, stage: int) -> None:
        """``worker`` is at another stage of its entry; the time it may take is that of all stages."""
        self._stages[worker] = stage

    def seen(self, worker: int) -> tuple[int, int]:
        """Count and entry of ``worker``."""
        return self._beats[worker], self._entries[worker]

    def lose(self, entry: int, exit_code: int | None, worker: int) -> None:
        """Nobody touches ``entry`` again: it ended ``worker`` with ``exit_code``, or (None) hung it."""
        self._lost_at[entry] = self._stages[worker]
        self._lost[entry] = _HUNG if exit_code is None else exit_code or _LEFT

    def reason(self, entry: int) -> str | None:
        """Why ``entry`` must not be touched, or None."""
        code = self._lost[entry]
        if code == 0:
            return None
        stage = self.stages[self._lost_at[entry]]
        return stage.hung.format(self.timeout) if code == _HUNG else f"{stage.crashed} ({describe_exit(code)})"


def _shared(kind: Any, count: int) -> Any:
    """``count`` zeros that processes started from here share. Forked ones inherit memory without a name, which needs no
    /dev/shm: a container may lack that, or have no room in it."""
    if CONTEXT.get_start_method() != "fork":
        return RawArray(kind, count)
    return (kind * count).from_buffer(mmap.mmap(-1, max(1, ctypes.sizeof(kind * count))))


def describe_exit(code: int | None) -> str:
    """The exit code of a process in words."""
    if code is None or code >= 0:
        return f"it ended its process with code {code if code != _LEFT else 0}"
    names = {number.value: number.name for number in signal.Signals}
    memory = "; out of memory?" if -code == signal.SIGKILL else ""
    return f"signal {-code}, {names.get(-code, 'unknown')}{memory}"


class Watched:
    """A data set that says on which of its ``entries`` it works, so that it is known which one ended a worker, and at
    which of the ``stages`` of the work."""

    entries: Sequence[Entry]
    stages: Sequence[Stage] = DECODING
    _board: Board | None = None
    _worker: int = 0

    def watch(self, board: Board, worker: int) -> None:
        """From now on tell ``board`` that it is ``worker`` who works here."""
        self._board, self._worker = board, worker

    def reach(self, stage: int) -> None:
        """Go on to ``stages[stage]`` of the work on an entry, if there are as many."""
        if self._board is not None and stage < len(self.stages):
            self._board.reach(self._worker, stage)

    @contextmanager
    def working_on(self, entry: int) -> Iterator[None]:
        """Around all work on ``entry``. Raises ``SampleError`` where that has hung or crashed a worker before."""
        if self._board is None:
            yield
            return
        reason = self._board.reason(entry)
        if reason is not None:
            raise SampleError(self.entries[entry].path, reason)
        self._board.move(self._worker, entry)
        try:
            yield
        finally:
            self._board.move(self._worker, NOTHING)
