"""Tests with other processes wait for what these do, not for a time; and not forever."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

PATIENCE = 120.0
"""Seconds after which a process hangs: torch alone takes ten to be imported where much else runs."""

LONG = 1_000
"""Seconds that something lasts which is to be ended before; what a failed test leaves ends by itself."""


class Polled(Protocol):
    """A process, of ``subprocess`` or of ``tests.forked``."""

    def poll(self) -> int | None: ...


def until(condition: Callable[[], object], process: Polled | None = None, pause: float = 0.01) -> None:
    """Wait until ``condition()`` is true, or ``process`` has ended, which the caller looks at next."""
    end = time.monotonic() + PATIENCE
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < end, f"not within {PATIENCE:g} s"
        time.sleep(pause)


def alive(pid: int) -> bool:
    """Whether a process is left, or with a minus any of a group; one that has ended and nobody collects is not."""
    status = Path(f"/proc/{pid}/status")
    try:
        os.kill(pid, 0)
        return not status.exists() or "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def meet(folder: Path, number: int, occasion: int) -> None:
    """Of two processes, number 1 and 2, each waits here for the other: what they do next they do at once."""
    (folder / f"ready_{number}_{occasion}").touch()
    until((folder / f"ready_{3 - number}_{occasion}").exists, pause=0)


HELD = """
import os
import sys
import time
from pathlib import Path

from {module} import {owner}
from st_ssl.cli import guarded
from st_ssl.cli.{tool} import main

calls = 0
end = time.monotonic() + {long}


def held(*arguments, plain={owner}.{function}):
    global calls
    calls += 1
    while calls > {count} and not Path(__file__).with_suffix(".go").exists():
        if time.monotonic() > end:
            os._exit(1)
        time.sleep(0.01)
    return plain(*arguments)


{owner}.{function} = held
if __name__ == "__main__":
    sys.exit(guarded(main))
"""


def write_held(file: Path, tool: str, where: str, count: int) -> Path:
    """``tools/<tool>.py`` as ``file``, a script that makes ``count`` calls of ``where`` (``module:Class.function``) and
    holds in the next one until ``let_go(file)``, or ``LONG``: what happens meanwhile happens in the middle."""
    module, _, name = where.partition(":")
    owner, _, function = name.partition(".")
    file.write_text(HELD.format(module=module, owner=owner, function=function, tool=tool, count=count, long=LONG))
    return file


def let_go(file: Path) -> None:
    """Have a script of ``write_held`` go on."""
    file.with_suffix(".go").touch()
