"""Imports that may abort or hang, tried in processes of their own, so that what ends them is a finding."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from st_ssl.cli.doctor.requirements import CHECKOUT
from st_ssl.cli.doctor.status import Status

_CODE = """
import sys
parent, root = int(sys.argv[1]), sys.argv[2]
sys.path[:] = ([] if root in sys.path else [root]) + [entry for entry in sys.path if entry]
from st_ssl.cli.doctor import probes
from st_ssl.data.loading.child_process import end_with
end_with(parent)
probes.answer(sys.argv[3:])
"""
_REASONS = {
    "SIGILL": ", an instruction that this processor lacks",
    "SIGKILL": ", as when memory is short",
}
PATIENCE = 5
"""Seconds for a process that was killed to end: one that a driver or a disk holds may never."""


@dataclass(frozen=True)
class Report:
    """What a probe found: ``facts``, or with ``error`` why there are none.

    ``kind`` is the name of the exception, "died", "hung" or "refused"; ``missing`` the module that is not installed."""

    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    kind: str = ""
    missing: str = ""


def ask(
    groups: Iterable[Sequence[str]], options: Sequence[str], processes: int, limit: float, status: Status | None = None
) -> dict[str, Report]:
    """What the probes answer, by name. The probes of a group share a process, and so what is slow to import, until one
    of them ends it or is silent for ``limit`` seconds; the rest goes on in another. ``status`` shows who is asked."""
    groups, children = list(groups), _Children(status or Status())
    with ThreadPoolExecutor(max(1, processes)) as pool:
        try:
            answered = list(pool.map(lambda group: _group(group, options, limit, children), groups))
        except RuntimeError as error:  # no thread can be started, as where processes are limited
            children.end()
            failed = Report(error=f"not tried: {error}", kind="refused")
            return {name: failed for group in groups for name in group}
        except BaseException:
            children.end()
            raise
    return {name: report for reports in answered for name, report in reports.items()}


class _Children:
    """Those that run, so that a Ctrl-C need not wait for one that hangs."""

    def __init__(self, status: Status) -> None:
        self.status = status
        self.running: set[subprocess.Popen[bytes]] = set()
        self.ended = False

    def end(self) -> None:
        """End all of them; none is started after it."""
        self.ended = True
        for process in list(self.running):
            _kill(process)


def _group(names: Sequence[str], options: Sequence[str], limit: float, children: _Children) -> dict[str, Report]:
    reports: dict[str, Report] = {}
    while len(reports) < len(names) and not children.ended:
        rest = names[len(reports) :]
        try:
            reports.update(_child(rest, options, limit, children))
        except (OSError, RuntimeError, ValueError) as error:  # no process or thread can be started, or it wrote no JSON
            reports[rest[0]] = Report(error=f"not tried: {error}", kind="refused")
    return reports


def _child(names: Sequence[str], options: Sequence[str], limit: float, children: _Children) -> dict[str, Report]:
    """The answers of one process; the last one may be how it ended. There is always one."""
    flags = [flag for flag, given in (("-I", sys.flags.isolated), ("-S", sys.flags.no_site)) if given]
    process = subprocess.Popen(
        [sys.executable, *flags, "-c", _CODE, str(os.getpid()), str(CHECKOUT), *options, *names],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    children.running.add(process)
    assert process.stdout is not None and process.stderr is not None
    lines: queue.Queue[bytes | None] = queue.Queue()
    noise: deque[bytes] = deque(maxlen=50)
    readers = [
        threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True),
        threading.Thread(target=noise.extend, args=(process.stderr,), daemon=True),
    ]
    reports: dict[str, Report] = {}
    try:
        for reader in readers:
            reader.start()
        if children.ended:  # since it was started
            return reports
        for name in names:
            with children.status.at(name):
                line = lines.get(timeout=limit)
            if line is None or not line.endswith(b"\n"):  # half a line is of one that was writing as it died
                readers[1].join(timeout=1)
                reports[name] = Report(error=_end(process.wait(limit), noise), kind="died")
                return reports
            reports[name] = Report(**json.loads(line))
    except (queue.Empty, subprocess.TimeoutExpired):
        reports[name] = Report(error=f"no answer in {limit:.0f} s", kind="hung")
    finally:
        _kill(process)
        children.running.discard(process)
        for reader, stream in zip(readers, (process.stdout, process.stderr), strict=True):
            if reader.ident is not None:
                reader.join(timeout=PATIENCE)
            if not reader.is_alive():  # closing would wait for it
                stream.close()
    return reports


def _pump(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=PATIENCE)


def _end(code: int, noise: Iterable[bytes]) -> str:
    said = [line for line in (raw.decode(errors="replace").strip() for raw in noise) if line]
    last = f": {said[-1]}" if said else ""
    if code >= 0:
        return f"its process ended with exit code {code}{last}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process died of {name}{_REASONS.get(name, '')}{last}"
