"""Mutations of small valid files of every format, read as a run reads them, each in bounded time and memory.

    python -m tests.fuzz.mutations --count 200000

Mutation N of a seed is always the same one. What is reported: a program that is started, 10 s of work (or 60 s of
waiting), 512 MiB above what the process had before, a process that dies, and any error that is no ``UserError``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from st_ssl.core.errors import UserError
from tests.fuzz.child import memory_now, memory_peak
from tests.fuzz.seeds import Seed, make

CPU_SECONDS, WALL_SECONDS, MEMORY = 10, 60, 512 << 20
_ROOM = 3 << 30  # of addresses, above what there is: a machine shared with others is not to be filled
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn")
_DEATHS = {-signal.SIGPROF: "works too long", -signal.SIGALRM: "waits too long"}
_NUMBERS = (
    b"0",
    b"-1",
    b"1e999",
    b"NaN",
    b"Infinity",
    b"134217728",
    b"99999999999999999999",
    b"9" * 5000,
    b"0x7fffffff",
)
_PIECES = (b"\0", b"\n", b"\n" * 5000, b" ", b"[", b"[" * 5000, b"{", b'"', b"#", b"../", b"\xff", b"\x1b[31m", b",")
_WORDS = tuple(
    value.to_bytes(size, "little") for size in (4, 8) for value in (0, 1 << 27, (1 << 31) - 1, (1 << 32) - 1)
)


@dataclass(frozen=True)
class Finding:
    """What mutation ``number`` of a file did that none may do."""

    number: int
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.number} ({self.name}): {self.what}"


def mutated(content: bytes, drawn: random.Random) -> bytes:
    """``content`` after one to four changes: of bytes and words, of its numbers as text, of its length."""
    data = bytearray(content)
    for _ in range(drawn.choice((1, 1, 1, 2, 4))):
        at = drawn.randrange(len(data) + 1) if drawn.random() < 0.5 else drawn.randrange(min(len(data), 400) + 1)
        _CHANGES[drawn.randrange(len(_CHANGES))](data, at, drawn)
    return bytes(data)


def _byte(data: bytearray, at: int, drawn: random.Random) -> None:
    data[at : at + 1] = bytes([drawn.randrange(256)])


def _bit(data: bytearray, at: int, drawn: random.Random) -> None:
    if at < len(data):
        data[at] ^= 1 << drawn.randrange(8)


def _word(data: bytearray, at: int, drawn: random.Random) -> None:
    word = drawn.choice(_WORDS)[:: drawn.choice((1, -1))]
    data[at : at + len(word)] = word


def _number(data: bytearray, at: int, drawn: random.Random) -> None:
    places = [found.span() for found in re.finditer(rb"-?\d+(\.\d+)?", bytes(data[:4096]))]
    first, last = drawn.choice(places) if places else (at, at)
    data[first:last] = drawn.choice(_NUMBERS)


def _insert(data: bytearray, at: int, drawn: random.Random) -> None:
    data[at:at] = drawn.choice(_PIECES)


def _cut(data: bytearray, at: int, drawn: random.Random) -> None:
    del data[at : at + 1 + drawn.randrange(64)]


def _end(data: bytearray, at: int, drawn: random.Random) -> None:
    del data[at:]


def _repeat(data: bytearray, at: int, drawn: random.Random) -> None:
    data[at:at] = data[at : at + 1 + drawn.randrange(64)] * drawn.choice((1, 1, 100))


_CHANGES: tuple[Callable[[bytearray, int, random.Random], None], ...] = (
    *(_byte, _byte, _bit, _bit, _word, _word, _number, _number),
    *(_insert, _cut, _end, _repeat),
)


class Case:
    """Which file is mutated and how, as a function of seed and number."""

    def __init__(self, seeds: dict[str, Seed], folder: Path, seed: int) -> None:
        self.seeds, self.folder, self.seed = seeds, folder, seed
        self._names = [name for name, one in seeds.items() for _ in range(one.weight)]

    def name(self, number: int) -> str:
        """The file that mutation ``number`` is of."""
        return self._names[random.Random(f"name {self.seed} {number}").randrange(len(self._names))]

    def content(self, number: int) -> bytes:
        """What becomes of it."""
        name = self.name(number)
        valid = (self.folder / name / self.seeds[name].path).read_bytes()
        return mutated(valid, random.Random(f"{self.seed} {number}"))


def _work(case: Case, numbers: Sequence[int], at: Any, tell: Connection) -> None:
    """Read mutations, and send what they did."""
    started: list[str] = []
    for kind in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(kind, signal.SIG_DFL)  # which ends the process, whatever code it is in
    sys.addaudithook(lambda event, _: started.append(event) if event in _PROGRAMS else None)
    with tempfile.TemporaryDirectory() as place:
        for name in case.seeds:
            shutil.copytree(case.folder / name, Path(place, name))
        for name, one in case.seeds.items():  # warm: the first of a kind loads its packages
            if not one.moves:
                one.read(Path(place, name))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders say
        used = _addresses()
        resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM, used + _ROOM))
        for number in numbers:
            at.value = number
            found = _read(case, number, Path(place), started)
            if found:
                tell.send(Finding(number, case.name(number), found))
            tell.send(number)
            if found.startswith("memory"):
                return  # what it left in this process is not the next one's
    tell.close()


def _read(case: Case, number: int, place: Path, started: list[str]) -> str:
    """What reading a mutation did wrong; "" for nothing."""
    name = case.name(number)
    one, folder = case.seeds[name], place / name
    if one.moves:
        shutil.rmtree(folder)
        shutil.copytree(case.folder / name, folder)
    (folder / one.path).write_bytes(case.content(number))
    before, said = memory_now(), ""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        one.read(folder)
    except UserError as error:
        said = "memory: more than there is room for" if "does not fit into memory" in str(error) else ""
    except BaseException as error:
        said = f"{type(error).__name__}: {str(error)[:200]}"
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    grown = memory_peak() - before
    if grown > MEMORY:
        said = f"memory: {grown >> 20} MiB more"
    if started:
        said = f"starts a program: {started.pop()}"
        started.clear()
    return said


def _addresses() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def run(count: int, seed: int = 0, processes: int = 1, folder: Path | None = None, first: int = 0) -> list[Finding]:
    """Read mutations ``first`` to ``first + count`` in processes of their own; what they did wrong."""
    with tempfile.TemporaryDirectory() as made:
        folder = folder or Path(made)
        case = Case(make(folder), folder, seed)
        context = multiprocessing.get_context("fork")  # what was imported is there
        shares = [range(first + part, first + count, processes) for part in range(processes)]
        findings: list[Finding] = []
        jobs = [_start(context, case, share) for share in shares if share]
        while jobs:
            ready = multiprocessing.connection.wait([job[1] for job in jobs])
            for job in [job for job in jobs if job[1] in ready]:
                process, ear, at, share, done = job
                try:
                    heard = ear.recv()
                    if isinstance(heard, Finding):
                        findings.append(heard)
                        print(heard, flush=True)
                    else:
                        done[0] = heard
                    continue
                except EOFError:
                    process.join()
                jobs.remove(job)
                if at.value < 0:
                    raise RuntimeError(f"a process ended before its first mutation ({process.exitcode})")
                left = [number for number in share if number > done[0]]
                if left and process.exitcode:
                    died = _DEATHS.get(process.exitcode, f"its process died ({process.exitcode})")
                    findings.append(Finding(at.value, case.name(at.value), died))
                    print(findings[-1], flush=True)
                    left = [number for number in left if number > at.value]
                if left:
                    jobs.append(_start(context, case, left))
        return findings


def _start(context: Any, case: Case, share: Sequence[int]) -> tuple[Any, Connection, Any, Sequence[int], list[int]]:
    ear, mouth = context.Pipe(duplex=False)
    at = context.Value("q", -1, lock=False)
    process = context.Process(target=_work, args=(case, share, at, mouth), daemon=True)
    process.start()
    mouth.close()
    return process, ear, at, share, [-1]


def main() -> int:
    """The command line: 1 where anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="how many mutations (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--keep", type=Path, help="a folder for the files of which something was found")
    arguments = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        findings = run(arguments.count, arguments.seed, arguments.processes, Path(made), arguments.first)
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            case = Case(make(Path(made, "again")), Path(made, "again"), arguments.seed)
            for one in findings:
                (arguments.keep / f"{one.number}-{one.name.replace(' ', '_')}").write_bytes(case.content(one.number))
    kinds = Counter(f"{one.name}: {one.what[:60]}" for one in findings)
    print(*(f"{count} x {kind}" for kind, count in kinds.most_common()), sep="\n")
    print(f"{arguments.count} mutations in {time.monotonic() - begun:.0f} s: {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
