"""A process that works for another one."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_SOONER, _FIRST = 500, 1000  # where memory runs out, who has the most is killed; nobody may have more than 1,000


def end_with(parent: int) -> None:
    """Have this process end with ``parent``, however that ends; and before it where memory runs out, since the parent
    can tell of a child that was killed, but nobody of the parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        with suppress(OSError):  # a sandbox may hide it
            score = Path("/proc/self/oom_score_adj")
            score.write_text(str(min(_FIRST, int(score.read_text()) + _SOONER)))  # it began with its parent's
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C waits until the end of the block, and in a process forked within until ``ignore_interrupts``: before that
    it would end the child with a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent, also the one that waits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def garbage_waits() -> Iterator[None]:
    """No garbage is collected until the end of the block, and in a process forked within until ``leave_garbage``: what
    is thrown away in a child may wait for threads that only the parent has, as FFmpeg's decoders do, forever."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def leave_garbage() -> None:
    """Collect from now on, but nothing that was inherited; so it stays shared with the parent, too: a collection would
    write to all of it."""
    gc.freeze()
    gc.enable()


def own_streams() -> None:
    """Write to where standard output and errors of the parent go, but through objects of our own: a thread of it that
    was writing as this process was forked holds their locks, and so does one that draws a progress bar, whose place
    they take at a terminal. Here nobody would ever release them."""
    for name in ("stdout", "stderr"):
        inherited = getattr(sys, f"__{name}__")
        with suppress(OSError, ValueError):  # closed
            if inherited is not None:
                fd, encoding = inherited.fileno(), inherited.encoding
                setattr(sys, name, os.fdopen(fd, "w", 1, encoding, "backslashreplace", closefd=False))
