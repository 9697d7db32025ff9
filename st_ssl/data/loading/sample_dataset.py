"""Samples behind (pass, index) keys, of whatever modality, with broken ones replaced by a rule."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import Dataset

from st_ssl.core.errors import DataError, SampleError, sample_fault
from st_ssl.core.random import Key, keyed_rng
from st_ssl.core.types import Entry
from st_ssl.data.base import BadSample, Batch
from st_ssl.data.loading.sample_order import SampleKey
from st_ssl.data.loading.worker_heartbeat import Watched

MAX_REPLACEMENTS = 10

Cut = TypeVar("Cut")
Meta = TypeVar("Meta")


@dataclass
class Sample(Generic[Cut, Meta]):
    """The views of one sample (none if it and all its replacements were broken), what its file says of itself, and what
    was found broken."""

    views: list[Cut] | None
    meta: Meta | None
    index: int
    wanted: int
    bad: list[BadSample]


class SampleDataset(Watched, Dataset[Sample[Cut, Meta]], Generic[Cut, Meta]):
    """Every draw of a sample is a function of (seed, pass, index, view) and nothing else.

    One that cannot be used is replaced by another one, chosen by the same rule on every machine; which ones were found
    broken travels with the sample. Raises ``DataError`` without entries; ``items`` are "videos", say.
    ``max_replacements``: how many others are tried in place of one.
    """

    max_replacements = MAX_REPLACEMENTS

    def __init__(self, entries: Sequence[Entry], items: str, seed: Key = 0) -> None:
        if not entries:
            raise DataError(f"no {items} to read")
        self.entries = entries
        self.seed = seed

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: SampleKey) -> Sample[Cut, Meta]:
        epoch, wanted = key
        bad: list[BadSample] = []
        for index in self._candidates(epoch, wanted):
            entry = self.entries[index]
            try:
                with self.working_on(index), sample_fault(entry.path):
                    return Sample(*self._cut(entry, (self.seed, epoch, wanted)), index, wanted, bad)
            except SampleError as error:
                bad.append(BadSample.of(entry, error.reason))
        return Sample(None, None, wanted, wanted, bad)

    def _candidates(self, epoch: int, wanted: int) -> Iterator[int]:
        yield wanted
        others = keyed_rng(self.seed, epoch, wanted, "replacement").permutation(len(self.entries))
        yield from others[others != wanted][: self.max_replacements].tolist()

    @abstractmethod
    def _cut(self, entry: Entry, key: tuple[Key, ...]) -> tuple[list[Cut], Meta]:
        """The views of ``entry``, each a function of ``key`` and its number; ``SampleError`` where it is broken."""


def batch_of(
    samples: Sequence[Sample[Cut, Meta]],
    stack: Callable[[list[list[Cut]]], list[Any]],
    row: Callable[[Meta], tuple[float, ...]],
) -> Batch:
    """Samples to a batch: ``stack`` makes views of batches of samples × views, ``row`` is the metadata of a sample.
    Without views where one of them had no usable replacement."""
    cuts = [sample.views for sample in samples if sample.views is not None]
    rows = [row(sample.meta) for sample in samples if sample.meta is not None]
    return Batch(
        views=stack(cuts) if len(cuts) == len(samples) else [],
        indices=torch.tensor([sample.index for sample in samples]),
        wanted=torch.tensor([sample.wanted for sample in samples]),
        bad=list(dict.fromkeys(bad for sample in samples for bad in sample.bad)),
        metadata=torch.tensor(rows, dtype=torch.float64).view(len(rows), -1) if rows else torch.empty(0, 0).double(),
    )
