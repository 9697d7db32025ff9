"""The line of a terminal that says what is being looked at, and goes when that is done."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

CLEAR = "\r\x1b[K"
"""To the beginning of the line, and nothing in it any more."""


class Status:
    """What is being looked at, by several threads maybe; nothing where ``file`` is none or no terminal."""

    def __init__(self, file: TextIO | None = None) -> None:
        shown = file is not None and file.isatty() and os.environ.get("TERM") != "dumb"
        self._file = file if shown else None
        self._names: list[str] = []
        self._lock = threading.Lock()

    @contextmanager
    def at(self, name: str) -> Iterator[None]:
        """Show ``name`` beside what else is being looked at, as long as the context lasts."""
        with self._lock:
            self._names.append(name)
            self._show()
        try:
            yield
        finally:
            with self._lock:
                self._names.remove(name)
                self._show()

    def _show(self) -> None:
        if self._file is None:
            return
        line = f"looking at {', '.join(self._names)} …" if self._names else ""
        line = line.encode(self._file.encoding or "ascii", "replace").decode(self._file.encoding or "ascii")
        with suppress(OSError):  # a terminal that is gone is no finding
            self._file.write(CLEAR + line[: self._columns() - 1])  # a line that wraps could not be taken back
            self._file.flush()

    def _columns(self) -> int:
        assert self._file is not None
        columns = 0
        with suppress(OSError):
            columns = os.get_terminal_size(self._file.fileno()).columns
        return columns or 80
