"""What one action does in a process of its own: what it raises, how much memory it takes, what it starts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from st_ssl.core.errors import UserError

SECONDS, MEMORY = 10, 512
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn")


def outcome(action: Callable[[], object]) -> str:
    """The message of the ``UserError`` that ``action`` raises, "" for none. ``AssertionError`` for any other error, a
    program that is started, over 10 s of work (20 s of waiting), or 512 MiB more than before."""
    context = multiprocessing.get_context("fork")
    ear, mouth = context.Pipe(duplex=False)
    process = context.Process(target=_act, args=(action, mouth))
    process.start()
    mouth.close()
    try:
        kind, said, grown = ear.recv()
    except EOFError:
        process.join()
        raise AssertionError(f"ended by signal {-(process.exitcode or 0)}") from None
    process.join()
    assert kind in ("", "UserError"), f"{kind}: {said}"
    assert grown < MEMORY, f"{grown} MiB"
    return str(said)


def _act(action: Callable[[], object], mouth: Connection) -> None:
    started: list[str] = []
    for signalled in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(signalled, signal.SIG_DFL)  # which ends the process, whatever code it is in
    sys.addaudithook(lambda event, _: started.append(event) if event in _PROGRAMS else None)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders say
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 2 * SECONDS)
    before, kind, said = memory_now(), "", ""
    try:
        action()
    except UserError as error:
        kind, said = "UserError", str(error)
    except BaseException as error:
        kind, said = type(error).__name__, str(error)
    if started:
        kind, said = "a program", started[0]
    mouth.send((kind, said, (memory_peak() - before) >> 20))


def memory_now() -> int:
    """Bytes of memory that this process has now, from where its peak is counted anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def memory_peak() -> int:
    """The most bytes of memory that this process has had since ``memory_now``."""
    return _memory("VmHWM")


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) << 10
