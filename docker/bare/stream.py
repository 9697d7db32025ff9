"""A program whose output is passed on as it comes; whatever ends the wait ends the program too."""

from __future__ import annotations

import codecs
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO, TextIO


def stream(
    command: list[str],
    shown: Sequence[str],
    timeout: float | None = None,
    echo: TextIO | bool = True,
    stop: signal.Signals | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` in a session of its own; returns ``shown``, its exit code and all that it printed.

    With ``stop`` (in the main thread alone), SIGTERM and SIGINT do not end the wait: each is told to the program as
    one byte on its standard input, the number of ``stop``. After ``timeout`` seconds it is killed: the code is 124.
    """
    late = threading.Event()
    told = subprocess.DEVNULL if stop is None else subprocess.PIPE
    with subprocess.Popen(
        command, bufsize=0, stdin=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout or 0, end)
        if timeout is not None:
            timer.start()
        try:
            assert process.stdout is not None
            with _told(process.stdin, stop):
                output = _copy(process.stdout, echo)
                code = process.wait()
        finally:
            timer.cancel()
            process.kill()  # where it still runs; by unshare's --kill-child all that it started
    return subprocess.CompletedProcess(list(shown), 124 if late.is_set() else code, output)


@contextmanager
def _told(pipe: IO[bytes] | None, stop: signal.Signals | None) -> Iterator[None]:
    """While it lasts, SIGTERM and SIGINT are written to the pipe as ``stop``."""
    if pipe is None or stop is None:
        yield
        return

    def tell(number: int, frame: FrameType | None) -> None:
        with suppress(BrokenPipeError):  # it has just ended by itself
            os.write(pipe.fileno(), bytes([stop]))

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _copy(source: IO[bytes], echo: TextIO | bool) -> str:
    decode, kept = codecs.getincrementaldecoder("utf-8")("replace").decode, []
    out = sys.stdout if echo is True else echo or None
    while chunk := os.read(source.fileno(), 65536):
        kept.append(decode(chunk))
        if out is not None:
            out.write(kept[-1])
            out.flush()
    return "".join(kept)
