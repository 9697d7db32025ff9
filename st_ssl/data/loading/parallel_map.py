"""Many files, several processes, one progress bar."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing import connection
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from st_ssl.core.errors import shown
from st_ssl.data.loading.child_process import end_with

T = TypeVar("T")
R = TypeVar("R")

_PATIENCE = 3  # half seconds from telling a process to stop to ending it
_GRACE = 1  # second that an idle process which was told to stop waits to hear that there is no more to do


def parallel_map(
    work: Callable[[T], R],
    items: Iterable[T],
    num_workers: int,
    title: str,
    done: int = 0,
    progress: bool = True,
    crashed: Callable[[T], R] | None = None,
    count: int | None = None,
) -> Iterator[R]:
    """``work`` of each item, in the order in which they are finished, with a progress bar called ``title``.

    ``num_workers`` processes are spawned; 0 stays in this one, and so does 1 without ``crashed``, and with a warning a
    system that has no semaphores, which processes share their work by. ``done``: how many were finished before;
    ``count``: how many ``items`` there are, where they are made only as they are needed and have no length. An error of
    ``work`` is raised here, and what has not begun is not begun any more; Ctrl-C, and asking for no more results, also
    interrupts what has begun (``KeyboardInterrupt`` in ``work``). Items that may have ended a process are tried again,
    each in one of its own; who does so again alone has the result ``crashed(item)``, where that is given; not where
    all stays in this process, which ends with it.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        count = count if count is not None or not isinstance(items, Sized) else len(items)
        task = bar.add_task(shown(title), total=None if count is None else done + count, completed=done)
        here = num_workers == 0 or (num_workers == 1 and crashed is None) or not _has_semaphores()
        for result in map(work, items) if here else _spread(work, items, num_workers, crashed):
            bar.advance(task)
            yield result


def _has_semaphores() -> bool:
    """Whether processes can be spawned that wait for each other: their semaphores are files in /dev/shm, which a
    container may lack, or have no room in. If not, there is a warning."""
    try:
        SpawnContext().Queue(), SpawnContext().SimpleQueue()  # what a pool has
    except (OSError, ImportError) as error:  # ImportError: Python was built without them
        warnings.warn(
            f"no semaphores ({getattr(error, 'strerror', None) or error}), so that one process does all the work, "
            "and a file that crashes its decoder ends it: they need a /dev/shm with room in it "
            "(docker run --shm-size=1g)",
            stacklevel=4,
        )
        return False
    return True


def _spread(
    work: Callable[[T], R], items: Iterable[T], num_workers: int, crashed: Callable[[T], R] | None
) -> Iterator[R]:
    rest = iter(items)
    while suspects := (yield from _until_broken(work, rest, num_workers)):
        died: list[T] = []
        for at in range(0, len(suspects), num_workers):
            died += yield from _apart(work, suspects[at : at + num_workers])
        for item in died:  # once more and alone, since the others may have left it too little memory
            if not (yield from _apart(work, [item])):
                continue
            if crashed is None:
                raise BrokenProcessPool(f"the process that worked on {item!r} died")
            yield crashed(item)


def _apart(work: Callable[[T], R], items: list[T]) -> Generator[R, None, list[T]]:
    """Results of items side by side, each in a process of its own: returns those whose process died."""
    died = []
    with ExitStack() as stack:
        jobs = {stack.enter_context(_pool(1)).submit(_interruptible, work, item): item for item in items}
        for job in as_completed(jobs):
            try:
                result = job.result()
            except BrokenProcessPool:
                died.append(jobs[job])
            else:
                yield result
    return died


def _until_broken(work: Callable[[T], R], rest: Iterator[T], num_workers: int) -> Generator[R, None, list[T]]:
    """Results until all is done, or one process has died: returns the items that were then under way."""
    with _pool(num_workers) as pool:
        running: dict[Future[R], T] = {}
        try:
            while True:
                for item in itertools.islice(rest, 4 * num_workers - len(running)):  # millions of items are not as
                    try:  # many waiting jobs
                        job = pool.submit(_interruptible, work, item)
                    except BrokenProcessPool:  # it broke while the caller was busy with a result
                        return [*running.values(), item]
                    running[job] = item
                if not running:
                    return []
                for job in wait(running, return_when=FIRST_COMPLETED)[0]:
                    result = job.result()
                    del running[job]
                    yield result
        except BrokenProcessPool:
            return list(running.values())


class _Spawn(SpawnContext):
    """Starts new processes, and knows which: the caller may have others."""

    def __init__(self) -> None:
        self.started: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        """One more process."""
        self.started.append(SpawnProcess(*args, **kwargs))
        return self.started[-1]


@contextmanager
def _pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for the block. An error in it waits for the jobs that have begun; anything else stops them."""
    context = _Spawn()
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_settle, initargs=(os.getpid(),))
    try:
        yield pool
    except Exception:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        _stop(context.started)
        raise
    pool.shutdown()


def _stop(processes: Iterable[BaseProcess]) -> None:
    """Interrupt the processes, and end those that do not mind: a decoder that hangs, say."""
    for _ in range(_PATIENCE):
        alive: list[Any] = [process.sentinel for process in processes if process.is_alive()]
        for process in processes:
            process.terminate()  # until it works: C code may swallow the exception that the signal raises
        until = time.monotonic() + 0.5
        while alive and (left := until - time.monotonic()) > 0:
            for sentinel in connection.wait(alive, left):
                alive.remove(sentinel)
    for process in processes:
        process.kill()
        process.join()


_busy = _told = False
"""In a process of the pool: whether it works on an item, and whether it was told to stop."""


def _settle(parent: int) -> None:
    """End with the parent, however that ends; and stop when it says so, not by the Ctrl-C that it gets as well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    end_with(parent)


def _interrupt(signum: int, frame: object) -> None:
    global _told
    _told = True
    # Where it is not busy it waits for an item, and will be told that there is none. What the first signal set in
    # motion is not interrupted by the next one; where the exception was swallowed, it is raised again.
    if not _busy:
        _end_soon()
    elif not _unwinding(sys.exc_info()[1]):
        raise KeyboardInterrupt


def _end_soon() -> None:
    """End if nothing more is heard: since Python 3.12 a pool in which a process has died signals the others, tells them
    nothing more, and waits for them."""
    signal.alarm(_GRACE)  # its default action ends the process


def _unwinding(error: BaseException | None) -> bool:
    """Whether the error that is handled right now, or one during whose handling it came, is an interruption."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _interruptible(work: Callable[[T], R], item: T) -> R:
    global _busy
    if _told:  # it had one more item in its queue
        raise KeyboardInterrupt
    _busy = True
    try:
        return work(item)
    finally:
        _busy = False
        if _told:
            _end_soon()
