"""What the machine refuses (room, permission, memory) is told in one line, and a fallback in a warning."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path

import pytest
import torch

from st_ssl.cli import guarded
from st_ssl.core.errors import ConfigError, MissingLibraryError, WorkerError
from st_ssl.engine.runtime import require_compiler


def no_room(path: str | None = None) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


REFUSALS = {
    "disk": (no_room("runs/a.json"), "runs/a.json: No space left on device"),
    "no-name": (no_room(), "No space left on device"),
    "folder": (PermissionError(errno.EACCES, "Permission denied", "/data"), "/data: Permission denied"),
    "files": (OSError(errno.EMFILE, "Too many open files"), "Too many open files: ulimit -n 4096, or fewer workers"),
    "memory": (MemoryError(), "out of memory; less is needed with a smaller batch or fewer workers"),
    "tensor": (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory ("),
    "gpu": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory (CUDA out of memory"),
    "processes": (
        BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
        "no more processes or threads may be started (Resource temporarily",
    ),
    "threads": (RuntimeError("can't start new thread"), "no more processes or threads may be started (can't start"),
    "workers": (WorkerError("workers of the loader ended (signal 9, SIGKILL)"), "workers of the loader ended"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_machine_refuses_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    error, told = REFUSALS[name]

    def command() -> int:
        raise error

    assert guarded(command) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {told}") and shown.count("\n") == 1
    assert shown.endswith(" (ST_SSL_TRACEBACK=1 shows where)\n") == (name != "workers")  # a UserError says it all


@pytest.mark.parametrize("error", [no_room(), ConfigError("a key")], ids=["refused", "mistake"])
def test_where_it_happened_is_told_to_those_who_ask(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error.add_note("in a worker of the loader: more of it")

    def command() -> int:
        raise error

    code = guarded(command)
    line = capsys.readouterr().err
    monkeypatch.setenv("ST_SSL_TRACEBACK", "1")
    assert guarded(command) == code
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and "in command\n" in shown
    assert shown.endswith(f"in a worker of the loader: more of it\n{line}")


OTHERS = {
    "file": FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
    "pipe": BlockingIOError(errno.EAGAIN, "write could not complete without blocking", 0),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_errors_are_our_own_fault_and_not_hidden(name: str) -> None:
    def command() -> int:
        raise OTHERS[name]

    with pytest.raises(type(OTHERS[name])):
        guarded(command)


def test_tables_are_printed_in_any_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert guarded(lambda: print("33.3 ± 0.5")) == 0
    assert out.buffer.getvalue() == b"33.3 ? 0.5\n"


def test_compiling_without_a_compiler_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "g++"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(MissingLibraryError, match=r"engine.compile=true needs .*g\+\+\) and .*: apt-get install g\+\+"):
        require_compiler(torch.device("cpu"), "engine.compile=true")
    (tmp_path / "g++").touch(0o755)
    with pytest.raises(MissingLibraryError, match=r"--compile needs \S+/Python.h: apt-get install g\+\+ python3-dev"):
        require_compiler(torch.device("cpu"), "--compile")
    (tmp_path / "Python.h").touch()
    require_compiler(torch.device("cpu"), "--compile")
