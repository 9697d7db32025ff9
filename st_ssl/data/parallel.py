"""Many files, several processes, one progress bar."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def parallel_map(
    work: Callable[[T], R],
    items: Sequence[T],
    num_workers: int,
    title: str,
    done: int = 0,
    progress: bool = True,
) -> Iterator[R]:
    """``work`` of each item, in the order in which they are finished, with a progress bar called ``title``.

    ``num_workers`` processes are spawned; 0 or 1 stays in this one. ``done``: how many were finished before. An error
    of ``work`` is raised here, and what has not begun is not begun any more.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task(title, total=done + len(items), completed=done)
        for result in map(work, items) if num_workers <= 1 else _spread(work, items, num_workers):
            bar.advance(task)
            yield result


def _spread(work: Callable[[T], R], items: Sequence[T], num_workers: int) -> Iterator[R]:
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        rest = iter(items)
        running: set[Future[R]] = {pool.submit(work, item) for item in itertools.islice(rest, 4 * num_workers)}
        try:
            while running:  # a few at a time: millions of files are not millions of waiting jobs
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(work, item) for item in itertools.islice(rest, len(finished))}
                for job in finished:
                    yield job.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
