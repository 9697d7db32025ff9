"""The samples of a task on their way to a network: batch after batch for training, all of them once for testing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch

from st_ssl.core.errors import DataError
from st_ssl.core.random import Key, keyed_seed
from st_ssl.core.types import Entry
from st_ssl.data.base import BadSample, Batch, CutsViews, DataSource
from st_ssl.data.loading.loader import build_loader
from st_ssl.data.loading.sample_dataset import SampleDataset, collate
from st_ssl.data.loading.sample_order import Order
from st_ssl.data.points.views import COUNT, label_views
from st_ssl.training import distributed
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import Task
from st_ssl.transfer.tasks.label_survey import PointLabels

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Interrupted(Exception):  # noqa: N818 - not an error: what is done is saved, and can be gone on from
    """The fits were told to stop; the message says where they stand."""


@dataclass
class Feed:
    """The samples of ``source`` as ``task`` wants to see them, on ``device``; ``bad`` is what was found broken.
    ``stopped`` tells whether this process was asked to end, and ``looked`` is told how many of how many samples have
    been looked at before anything is trained. ``plain``: training samples are not varied, but shown as in a test."""

    source: DataSource
    task: Task
    input: Any
    device: torch.device
    bad: dict[BadSample, None] = field(default_factory=dict)
    stopped: Callable[[], bool] = lambda: False
    looked: Callable[[int, int], None] = lambda *_: None
    plain: bool = False

    def look(self, entries: Sequence[Entry], name: str) -> list[PointLabels]:
        """Which labels ``name`` the points of each of ``entries`` have: each is read once, by one process. Raises
        ``Interrupted`` where one of them is asked to end."""
        rank, world_size = distributed.rank(), distributed.world_size()
        keys = [[(0, i)] for i in range(rank, len(entries), world_size)]
        nothing = np.zeros(0, dtype=np.int64)

        def found() -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray, str | None]]]:
            self.looked(0, len(entries))
            batches = self._batches(entries, label_views(name), 0, keys, replaces=False)
            for number, batch in enumerate(batches, 1):
                (row,) = batch.wanted.tolist()
                if batch.views:
                    labels = batch.views[0].points.labels
                    yield row, (labels[name].cpu().numpy().copy(), labels[COUNT].cpu().numpy().copy(), None)
                else:
                    yield row, (nothing, nothing, batch.bad[0].reason)
                self.looked(min(number * world_size, len(entries)), len(entries))

        rows = self.joined(found(), "before the first fit")
        return [PointLabels(entry, *rows[row]) for row, entry in enumerate(entries)]

    def joined(self, found: Iterable[tuple[_Key, _Value]], when: str) -> dict[_Key, _Value]:
        """What all processes have ``found``, by key; all call it. Raises ``Interrupted``, which says ``when``, where
        one of them is asked to end."""
        own: dict[_Key, _Value] = {}
        stopped = False
        for key, value in found:
            own[key] = value
            if stopped := self.stopped():
                break
        shared = distributed.gather_objects((stopped, own))
        if any(stop for stop, _ in shared):
            raise Interrupted(f"stopped {when}")
        return {key: value for _, part in shared for key, value in part.items()}

    def training(
        self, entries: list[Entry], seed: int, batch_size: int, total: int, accumulate: int = 1, start: int = 0
    ) -> Iterator[Shown]:
        """The steps of a fit from ``start`` to ``total``, in as many passes over ``entries`` as that takes. Each is a
        varied batch: of this process's share of it ``accumulate`` parts one after the other, whose sizes may differ by
        one. Broken samples are replaced by the rule of the data set."""
        order = Order(seed, len(entries), min(batch_size, len(entries)))
        views = self._training_views()
        steps = _shares(order, start, total, accumulate)
        for number, batch in enumerate(self._batches(entries, views, seed, steps), start * accumulate):
            if not batch.views:
                raise DataError(f"a whole batch is broken; the first: {batch.bad[0].path}: {batch.bad[0].reason}")
            first, *others = batch.views
            passes = number // accumulate // order.steps_per_pass
            keys: list[tuple[Key, ...]] = [(seed, "augment", passes, i) for i in batch.wanted.tolist()]
            if others:
                batch.views = [first.joined(others)]
                keys = [(*key, view) for view in range(views.num_views) for key in keys]
            (shown,) = self._shown(views, batch, entries)
            yield shown if self.plain else self.task.augmented(shown, keys)

    def _training_views(self) -> CutsViews:
        return self.source.evaluation(self.input) if self.plain else self.task.training_views(self.source, self.input)

    def testing(
        self, entries: Sequence[Entry], batch_size: int, votes: int = 1, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[list[Shown], Shown]]:
        """All of ``entries`` once, or of their batches the share of one process: ``votes`` views of each batch, and
        what is asked about, which is whole clouds or the first view; those that are broken are left out. Where views
        may be fed together, ``batch_size`` counts them."""
        if self.task.views_together:
            batch_size = max(1, batch_size // votes)
        views = self.task.testing_views(self.source, self.input, votes)
        rows = [(0, i) for i in range(len(entries))]
        steps = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        for batch in self._batches(entries, views, 0, steps[rank::world_size]):
            for part in self._sound(batch):
                shown = self._shown(views, part, entries)
                asked = shown.pop() if self.task.whole else shown[0]
                yield [self.task.varied(view, vote) if vote else view for vote, view in enumerate(shown)], asked

    def share_bad(self) -> None:
        """What each process has found broken is known to all."""
        for found in distributed.gather_objects(list(self.bad)):
            self.bad.update(dict.fromkeys(found))

    def _batches(
        self, entries: Sequence[Entry], views: CutsViews, seed: int, steps: Iterable[Any], replaces: bool = True
    ) -> Iterator[Batch]:
        source = self.source
        dataset = source.dataset(entries, views, keyed_seed(seed, "finetune"))
        if not replaces and isinstance(dataset, SampleDataset):
            dataset.max_replacements = 0
        pin = self.device.type == "cuda"
        lost = source.max_bad(len(entries))
        timeout = source.sample_timeout
        for batch in build_loader(dataset, steps, collate, source.num_workers, pin, timeout=timeout, max_lost=lost):
            self.bad.update(dict.fromkeys(batch.bad))
            yield batch.to(self.device)

    def _sound(self, batch: Batch) -> Iterator[Batch]:
        """The batch, or those of its samples that stand for themselves, one by one."""
        if batch.views and batch.indices.equal(batch.wanted):
            yield batch
        elif batch.views:
            yield from (part for part in batch.split(len(batch.wanted)) if part.indices.equal(part.wanted))

    def _shown(self, views: CutsViews, batch: Batch, entries: Sequence[Entry]) -> list[Shown]:
        """The views, each with the entries of its rows: several times over where it is several joined."""
        own = [entries[i] for i in batch.indices.tolist()]
        return [Shown(view, own * (len(view) // len(own))) for view in views.prepare(list(batch.views))]


def _shares(order: Order, start: int, stop: int, accumulate: int) -> Iterator[list[tuple[int, int, int]]]:
    """This process's parts of the steps from ``start`` to ``stop``."""
    first, parts = distributed.rank() * accumulate, distributed.world_size() * accumulate
    for step in range(start, stop):
        keys = order.step(step)
        bounds = [len(keys) * part // parts for part in range(first, first + accumulate + 1)]
        yield from (keys[a:b] for a, b in pairwise(bounds))
