"""Many files, several processes, one progress bar."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any, TypeVar

from st_ssl.core.errors import WorkerError, shown
from st_ssl.data.loading.child_process import Child, Failure, end_all

T = TypeVar("T")
R = TypeVar("R")
C = TypeVar("C")


def parallel_map(
    work: Callable[[T], R],
    items: Sequence[T],
    num_workers: int,
    title: str,
    done: int = 0,
    progress: bool = True,
    crashed: C | None = None,
) -> Iterator[tuple[T, R | C]]:
    """Each item with ``work`` of it, in the order in which they are finished, with a progress bar called ``title``.

    0 ``num_workers`` stay in this process, and so does 1 without ``crashed``. ``done``: how many were finished before.
    An error of ``work`` is raised here. It, Ctrl-C, and asking for no more results kill the processes at once, so
    ``work`` should return what is to be written, not write it. An item whose process dies is tried once more, alone:
    the others may have left it too little memory. If it dies again, its result is ``crashed``; without that a
    ``WorkerError`` is raised.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task(shown(title), total=done + len(items), completed=done)
        here = num_workers == 0 or (num_workers == 1 and crashed is None)
        for pair in ((item, work(item)) for item in items) if here else _spread(work, items, num_workers, crashed):
            bar.advance(task)
            yield pair


def _spread(
    work: Callable[[T], R], items: Iterable[T], num_workers: int, crashed: C | None
) -> Iterator[tuple[T, R | C]]:
    rest = iter(items)
    died: list[T] = []
    while True:
        yield from _until_one_dies(work, rest, num_workers, died)
        if not died:
            return
        for item in died:
            again: list[T] = []
            yield from _until_one_dies(work, iter([item]), 1, again)
            if again and crashed is None:
                raise WorkerError(f"the process that worked on {item!r} died: killed for want of memory, most often")
            if again:
                yield item, crashed  # type: ignore[misc]
        died.clear()


def _until_one_dies(
    work: Callable[[T], R], rest: Iterator[T], num_workers: int, died: list[T]
) -> Iterator[tuple[T, R]]:
    """Each item with its result. Where a process dies, its item goes to ``died`` and no other one is begun."""
    busy: dict[Connection, tuple[Child, T]] = {}
    children: list[Child] = []

    def give(child: Child | None) -> None:
        """The next item, if there is one, for a child that is idle, or a new one."""
        for item in itertools.islice(rest, 0 if died else 1):
            if child is None:
                children.append(child := Child.start(_serve, work))
            child.tell(item)
            busy[child.connection] = child, item

    close = Finalize(None, end_all, (children,), exitpriority=0)  # also where the process ends before the results do
    try:
        for _ in range(num_workers):
            give(None)
        while busy:
            for connection in wait(list(busy)):
                child, item = busy.pop(connection)  # type: ignore[call-overload]
                try:
                    result = child.connection.recv()
                except (EOFError, OSError):
                    died.append(item)
                    continue
                give(child)  # before the caller is busy with the result
                if isinstance(result, Failure):
                    raise result.again()
                yield item, result
    finally:
        close()


def _serve(connection: Connection, work: Callable[[T], R]) -> None:
    while True:
        item = connection.recv()
        try:
            result: Any = work(item)
        except Exception as error:
            result = Failure.of(error)
        connection.send(result)
