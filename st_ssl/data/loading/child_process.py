"""A process that works for another one: how it starts, talks and ends."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Self

CONTEXT: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
"""How processes start: a child of a fork server would not be this process's, and could not end with it."""
_PR_SET_PDEATHSIG = 1
_SOONER, _FIRST = 500, 1000  # where memory runs out, who has the most is killed; nobody may have more than 1,000


@dataclass
class Child:
    """A process that this one started, and this one's end of the pipe between them."""

    process: BaseProcess
    connection: Connection

    @classmethod
    def start(cls, target: Callable[..., None], *args: Any) -> Self:
        """Run ``target(connection, *args)`` in a new process. It ends with this one, and leaves Ctrl-C to it.

        Until the process has settled, Ctrl-C waits (it would end the process with a traceback) and no garbage is
        collected: what is thrown away there may wait for threads that only this process has, as FFmpeg's decoders do,
        for ever.
        """
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_run, args=(os.getpid(), target, theirs, *args), daemon=True)
        collects, mask = gc.isenabled(), signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        gc.disable()
        try:
            process.start()
        finally:
            if collects:
                gc.enable()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        return cls(process, ours)

    def tell(self, message: Any) -> None:
        """Send ``message``. A dead process gets none, which the next look at it finds."""
        with suppress(OSError):
            self.connection.send(message)

    def end(self) -> None:
        """Kill the process. What it has sent can still be received."""
        self.process.kill()
        self.process.join(5)  # not for ever: a process that waits for a dead disk cannot even be killed


def end_all(children: Collection[Child]) -> None:
    """End processes, all at once: a Ctrl-C may end the wait for the first one."""
    for child in children:
        child.process.kill()
    for child in children:
        child.end()
        child.connection.close()


@dataclass(frozen=True)
class Failure:
    """An error raised in a child, to be raised again in its parent, and the child's traceback."""

    error: Exception
    where: str

    @staticmethod
    def of(error: Exception) -> Failure:
        """``error`` as itself, or as a plain ``RuntimeError`` where it cannot travel."""
        where = "in a worker process:\n" + "".join(traceback.format_exception(error))
        try:
            ForkingPickler.loads(ForkingPickler.dumps(error))
        except Exception:
            return Failure(RuntimeError(str(error)), where)
        return Failure(error, where)

    def again(self) -> Exception:
        """The error, with the child's traceback as a note."""
        self.error.add_note(self.where)
        return self.error


def _run(parent: int, target: Callable[..., None], connection: Connection, *args: Any) -> None:
    # The parent decides when to stop: it catches both signals, and a forked process inherits its handlers.
    ignore_interrupts()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setpgid(0, 0)  # a signal to the whole group (torchrun, schedulers) must not take the children from the parent
    end_with(parent)
    _own_streams()
    gc.freeze()  # what was inherited is not collected, and stays shared with the parent: a collection writes to all
    gc.enable()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        target(connection, *args)


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent, also the one that waits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def end_with(parent: int) -> None:
    """Have this process end with ``parent``, however that ends, even while C code hangs; and before it where memory
    runs out, since the parent can tell of a child that was killed, but nobody of the parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        with suppress(OSError):  # a sandbox may hide it
            score = Path("/proc/self/oom_score_adj")
            score.write_text(str(min(_FIRST, int(score.read_text()) + _SOONER)))  # it began with its parent's
    if os.getppid() != parent:
        os._exit(1)


def _own_streams() -> None:
    """Write to where standard output and errors of the parent go, but through objects of our own: a thread of it that
    was writing as this process was forked holds their locks, and so does one that draws a progress bar, whose place
    they take at a terminal. Here nobody would ever release them."""
    for name in ("stdout", "stderr"):
        inherited = getattr(sys, f"__{name}__")
        with suppress(OSError, ValueError):  # closed
            if inherited is not None:
                fd, encoding = inherited.fileno(), inherited.encoding
                setattr(sys, name, os.fdopen(fd, "w", 1, encoding, "backslashreplace", closefd=False))
