"""The loader: batches of one long run of steps, in order, without pauses between epochs, whatever decoders do.

Decoders are other people's C code and run in workers. A worker that hangs or dies costs the sample that it was on: that
one is listed as broken and replaced by the rule for broken samples, its batch is made again by a new worker, and all
other samples are what they would have been. Where it was on none, as it began or put a batch together, it costs none.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch.utils.data import Dataset

from st_ssl.core.errors import DataError, WorkerError
from st_ssl.core.limits import SAMPLE_TIMEOUT
from st_ssl.core.types import Entry
from st_ssl.data.base import Batch
from st_ssl.data.loading.child_process import Child, Failure, end_all
from st_ssl.data.loading.worker_heartbeat import DECODING, NOTHING, Board, Watched, describe_exit
from st_ssl.data.loading.worker_process import receive, work

_CRASHES = 2  # the second one proves that it is the sample: the first may be memory that another one spoiled
_UNEXPLAINED = 3  # ends of the same worker in a row, outside any sample
_LOOK = 1.0  # seconds; at most so much is counted between two looks at the workers, however long the process slept


def build_loader(
    dataset: Dataset[Any],
    batches: Iterable[list[Any]],
    collate: Callable[[list[Any]], Batch],
    num_workers: int,
    pin_memory: bool = False,
    prefetch: int = 2,
    timeout: float = SAMPLE_TIMEOUT,
    max_lost: float = float("inf"),
    in_turn: bool = False,
) -> Iterable[Batch]:
    """The batches of ``batches``, in that order and with the same content for any ``num_workers``, each of which works
    up to ``prefetch`` batches ahead. ``in_turn``: batch n is made by worker n % ``num_workers``, and by no other.

    A sample that keeps a worker for longer than ``timeout`` seconds, or ends it twice, is lost, if ``dataset`` is
    ``Watched``: the data set is then told never to touch it again. More than ``max_lost`` of them raise ``DataError``,
    and a worker that hangs or ends outside any sample, and so do the two that replace it, ``WorkerError``.
    With 0 workers everything happens in this process, which nothing protects.
    """
    made: Iterator[Batch] = (collate([dataset[key] for key in keys]) for keys in batches)
    if num_workers:
        made = _pooled(_Pool(dataset, collate, num_workers, prefetch, timeout, max_lost, in_turn), batches)
    return _pinned(made) if pin_memory else made


def _pinned(batches: Iterator[Batch]) -> Iterator[Batch]:
    """``batches`` in page-locked memory, one ahead, so that copying them there takes no time of the caller."""
    thread = ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(torch.cuda.current_device(),))
    ahead: Future[Batch] | None = None
    with thread:
        while True:
            batch, failure = None, None
            try:
                batch = next(batches, None)
            except Exception as error:  # not before the batch that comes before it
                failure = error
            last, ahead = ahead, None if batch is None else thread.submit(batch.pin_memory)
            if last is not None:
                yield last.result()
            if failure is not None:
                raise failure
            if ahead is None:
                return


def _pooled(pool: _Pool, batches: Iterable[list[Any]]) -> Iterator[Batch]:
    todo = enumerate(batches)
    arrived: dict[int, Any] = {}
    with closing(pool):
        given = head = 0
        while True:
            arrived |= pool.collect(0)
            while pool.has_room(given - head) and (task := next(todo, None)) is not None:
                pool.give(*task)
                given += 1
            if head == given:
                return
            if head not in arrived:
                arrived |= pool.collect(_LOOK)
                continue
            batch = arrived.pop(head)
            head += 1
            if isinstance(batch, Failure):
                raise batch.again()
            yield batch


@dataclass
class _Worker(Child):
    """``tasks`` number to keys, in the order given; ``quiet`` seconds since its count on the board was ``beats`` or a
    batch came; ``unexplained`` ends in a row, outside any sample, of those that it replaces."""

    tasks: dict[int, list[Any]] = field(default_factory=dict)
    beats: int = 0
    quiet: float = 0.0
    unexplained: int = 0


@dataclass(eq=False)
class _Pool:
    """Workers that are watched, and replaced where they hang or die: see ``build_loader``."""

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Batch]
    num_workers: int
    prefetch: int
    timeout: float
    max_lost: float
    in_turn: bool

    def __post_init__(self) -> None:
        self._look, self._looked = min(_LOOK, self.timeout / 4), time.monotonic()
        watched = isinstance(self.dataset, Watched)
        self._entries: Sequence[Entry] = self.dataset.entries if watched else []  # type: ignore[attr-defined]
        stages = self.dataset.stages if watched else DECODING  # type: ignore[attr-defined]
        self._board = Board(self.num_workers, len(self._entries), self.timeout, stages)
        self._crashes: Counter[int] = Counter()
        self._lost: list[int] = []
        self._workers: list[_Worker] = []
        # Also at the end of the process, before multiprocessing asks them to end and waits: one that hangs since it was
        # forked has its parent's handlers, and need not end.
        self.close = Finalize(self, end_all, (self._workers,), exitpriority=0)

    def has_room(self, ahead: int) -> bool:
        """Whether some worker can be given another batch, ``ahead`` being on their way."""
        room = any(len(worker.tasks) < self.prefetch for worker in self._workers) or not self._workers
        return room and ahead < self.prefetch * self.num_workers

    def give(self, number: int, keys: list[Any]) -> None:
        """Have batch ``number`` made of ``keys``."""
        while len(self._workers) < self.num_workers:
            self._workers.append(self._start(len(self._workers)))
        idlest = min(self._workers, key=lambda worker: len(worker.tasks))
        worker = self._workers[number % self.num_workers] if self.in_turn else idlest
        worker.tasks[number] = keys
        worker.tell((number, keys))

    def collect(self, patience: float) -> dict[int, Any]:
        """What has been made, waiting for it for up to ``patience`` seconds; and a look at who makes it."""
        busy = [at for at, worker in enumerate(self._workers) if worker.tasks]
        if not busy:
            return {}
        ready = wait([self._workers[at].connection for at in busy], min(patience, self._look))
        arrived: dict[int, Any] = {}
        for at in busy:
            worker = self._workers[at]
            dead = worker.connection in ready and not self._read(worker, arrived)
            if dead or not worker.process.is_alive():
                self._replace(at, arrived, hung=False)
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, self._look), now
        for at in busy:
            if self._is_hung(at, passed):
                self._replace(at, arrived, hung=True)
        return arrived

    def _read(self, worker: _Worker, arrived: dict[int, Any]) -> bool:
        """All that ``worker`` has sent. False: it will send no more."""
        try:
            while worker.connection.poll():
                number, result = receive(worker.connection)
                arrived[number] = result
                del worker.tasks[number]
                worker.quiet, worker.unexplained = 0.0, 0
        except (EOFError, OSError):
            return False
        return True

    def _is_hung(self, at: int, passed: float) -> bool:
        worker = self._workers[at]
        beats, _ = self._board.seen(at)
        if beats != worker.beats or not worker.tasks:
            worker.beats, worker.quiet = beats, 0.0
        else:
            worker.quiet += passed
        return worker.quiet > self.timeout

    def _replace(self, at: int, arrived: dict[int, Any], hung: bool) -> None:
        """A new worker in place of one that hangs or is dead, with what that one had still to do."""
        worker = self._workers[at]
        if not hung:
            worker.process.join(5)  # its connection may be closed a moment before its end
        worker.end()
        self._read(worker, arrived)  # what it sent before
        worker.connection.close()
        if not hung or self._board.seen(at)[0] == worker.beats:  # else it went on at the last moment
            self._blame(at, None if hung else worker.process.exitcode)
        self._board.move(at, NOTHING)
        self._workers[at] = new = self._start(at)
        new.tasks, new.unexplained = worker.tasks, worker.unexplained
        for number, keys in new.tasks.items():
            new.tell((number, keys))

    def _blame(self, at: int, code: int | None) -> None:
        """Note what worker ``at`` was on when it ended with ``code``, or (None) hung."""
        _, entry = self._board.seen(at)
        if entry == NOTHING:
            worker = self._workers[at]
            worker.unexplained += 1
            if worker.unexplained == _UNEXPLAINED:
                what = f"hung for {self.timeout:g} s" if code is None else f"ended ({describe_exit(code)})"
                raise WorkerError(f"a worker of the loader {what} {_UNEXPLAINED} times in a row, outside any sample")
            return
        self._crashes[entry] += 1
        if code is not None and self._crashes[entry] < _CRASHES:
            return
        self._board.lose(entry, code, at)
        self._lost.append(entry)
        if len(self._lost) > self.max_lost:
            lines = [f"  {self._entries[i].shown}: {self._board.reason(i)}" for i in self._lost[:5]]
            raise DataError(
                f"{len(self._lost)} of {len(self._entries)} samples hung or crashed a worker, more than "
                "data.max_bad_share allows: then it is the reader, the disk or the memory, not the samples\n"
                + "\n".join(lines)
            )

    def _start(self, at: int) -> _Worker:
        return _Worker.start(work, at, self.dataset, self.collate, self._board)
