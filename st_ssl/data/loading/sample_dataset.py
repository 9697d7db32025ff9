"""Samples behind (pass, index) keys, of whatever modality, with broken ones replaced by a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import Dataset

from st_ssl.core.errors import DataError, SampleError, sample_fault
from st_ssl.core.random import Key, keyed_rng
from st_ssl.core.types import Entry
from st_ssl.data.base import BadSample, Batch, CutsViews
from st_ssl.data.loading.partners import Partners
from st_ssl.data.loading.sample_order import SampleKey
from st_ssl.data.loading.worker_heartbeat import DECODING, Stage, Watched
from st_ssl.data.streams.base import Recording
from st_ssl.data.views import CutView, stack

MAX_REPLACEMENTS = 10


@dataclass
class Sample:
    """The views of one sample (none if it and all its replacements were broken), what its file says of itself, and what
    was found broken."""

    views: list[CutView] | None
    facts: tuple[float, ...] | None
    index: int
    wanted: int
    bad: list[BadSample]


def no_check(view: CutView) -> None:
    """Any view will do."""


def no_facts(recording: Recording) -> tuple[float, ...]:
    """Nothing is told."""
    return ()


class SampleDataset(Watched, Dataset[Sample]):
    """Views of the recordings that ``open`` finds behind ``entries``. Every draw of a sample is a function of (seed,
    pass, index, view) and nothing else.

    One that cannot be used is replaced by another one, chosen by the same rule on every machine; which ones were found
    broken travels with the sample. ``check`` raises ``UnfitError`` for a view that the encoder cannot be fed; ``facts``
    are what the files say of themselves; ``stages`` are of the work on a sample: reading, then cutting.
    At most ``max_replacements`` others are tried in its place. With ``partners`` all views but the first are of the
    partner's recording. Raises ``DataError`` without entries; ``items`` are "videos", say.
    """

    max_replacements = MAX_REPLACEMENTS
    partners: Partners | None = None

    def __init__(
        self,
        entries: Sequence[Entry],
        views: CutsViews,
        open: Callable[[Entry], Recording],
        items: str = "samples",
        seed: Key = 0,
        check: Callable[[CutView], None] = no_check,
        facts: Callable[[Recording], tuple[float, ...]] = no_facts,
        stages: Sequence[Stage] = DECODING,
    ) -> None:
        if not entries:
            raise DataError(f"no {items} to read")
        self.entries, self.views, self.seed = entries, views, seed
        self.open, self.check, self.facts, self.stages = open, check, facts, stages

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: SampleKey) -> Sample:
        epoch, wanted = key[:2]
        step = key[2] if len(key) > 2 else 0
        bad: list[BadSample] = []
        for index in self._candidates(epoch, wanted):
            found = self._cut(index, (self.seed, epoch, wanted), step, bad)
            if found is None:
                continue
            views, facts = found
            if self.partners is not None:
                other = self._cut(self.partners.of(epoch, index), (self.seed, epoch, wanted), step, bad)
                if other is None:
                    continue
                views = [views[0], *other[0][1:]]
                alike = self.partners.alike(index)
                views = [replace(view, labels={**view.labels, **alike}) for view in views]
            return Sample(views, facts, index, wanted, bad)
        return Sample(None, None, wanted, wanted, bad)

    def _cut(
        self, index: int, key: tuple[Key, ...], step: int, bad: list[BadSample]
    ) -> tuple[list[CutView], tuple[float, ...]] | None:
        """The views of one recording, and what its file says of itself; None of a broken one, which goes to ``bad``."""
        entry = self.entries[index]
        try:
            with self.working_on(index), sample_fault(entry.path), self.open(entry) as recording:
                views = self.views.cut(recording, key, step, self.reach)
                for view in views:
                    self.check(view)
                return views, self.facts(recording)
        except SampleError as error:
            bad.append(BadSample.of(entry, error.reason))
            return None

    def _candidates(self, epoch: int, wanted: int) -> Iterator[int]:
        yield wanted
        others = keyed_rng(self.seed, epoch, wanted, "replacement").permutation(len(self.entries))
        yield from others[others != wanted][: self.max_replacements].tolist()


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples to a batch; without views where one of them had no usable replacement."""
    cuts = [sample.views for sample in samples if sample.views is not None]
    rows: list[Any] = [sample.facts for sample in samples if sample.facts is not None]
    indices = [sample.index for sample in samples]
    return Batch(
        views=stack(cuts, indices) if len(cuts) == len(samples) else [],
        indices=torch.tensor(indices),
        wanted=torch.tensor([sample.wanted for sample in samples]),
        bad=list(dict.fromkeys(bad for sample in samples for bad in sample.bad)),
        metadata=torch.tensor(rows, dtype=torch.float64).view(len(rows), -1) if rows else torch.empty(0, 0).double(),
    )
