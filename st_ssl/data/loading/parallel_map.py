"""Many files, several processes, one progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any, TypeVar

from st_ssl.core.errors import WorkerError, shown
from st_ssl.data.loading.child_process import Child, Failure, end_all

T = TypeVar("T")
R = TypeVar("R")
C = TypeVar("C")

AHEAD = 8


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

    With 0 workers, or 1 and no ``crashed``, the work is done in this process. ``done``: how many were finished before.
    An error of ``work`` is raised here. An error, Ctrl-C or closing the generator kills the processes at once, so
    ``work`` should return what is to be written, not write it, and keep to numpy: torch's threads do not outlive a
    fork. An item whose process dies is tried once more, alone: the others may have left it too little memory. If it
    dies again, its result is ``crashed``; without that a ``WorkerError`` is raised. While an item is under way, at most
    ``AHEAD`` times ``num_workers`` later ones are begun: who needs the results in order keeps few of them.
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
                raise WorkerError(f"the process that worked on {item!r} died: fewer workers need less memory")
            if again:
                yield item, crashed  # type: ignore[misc]
        died.clear()


def _until_one_dies(
    work: Callable[[T], R], rest: Iterator[T], num_workers: int, died: list[T]
) -> Iterator[tuple[T, R]]:
    """Each item with its result. Where a process dies, its item goes to ``died`` and no other one is begun."""
    numbered, begun = enumerate(rest), 0
    busy: dict[Connection, tuple[Child, int, T]] = {}
    children: list[Child] = []
    idle: list[Child] = []

    def give() -> None:
        """The items that may be begun, for children that are idle, or new ones."""
        nonlocal begun
        while not died and len(busy) < num_workers:
            oldest = min((number for _, number, _ in busy.values()), default=begun)
            found = next(numbered, None) if begun - oldest < AHEAD * num_workers else None
            if found is None:
                return
            if not idle:
                idle.append(Child.start(_serve, work))
                children.append(idle[-1])
            child, (number, item) = idle.pop(), found
            child.tell(item)
            busy[child.connection], begun = (child, number, item), number + 1

    close = Finalize(None, end_all, (children,), exitpriority=0)  # also where the process ends before the results do
    try:
        give()
        while busy:
            for connection in wait(list(busy)):
                child, _, item = busy.pop(connection)  # type: ignore[call-overload]
                try:
                    result = child.connection.recv()
                except (EOFError, OSError):
                    died.append(item)
                    continue
                idle.append(child)
                give()  # before the caller is busy with the result
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
