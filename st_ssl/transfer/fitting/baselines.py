"""Trivial baselines of fine-tuning: what the same labels are worth without any network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from st_ssl.core.types import Entry
from st_ssl.training import distributed
from st_ssl.transfer.features.features import one_by_one
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.fitting.outcomes import Judged, OutcomeStore, sample_name
from st_ssl.transfer.fitting.task_loader import Feed
from st_ssl.transfer.probes.classifiers import linear_predict
from st_ssl.transfer.tasks.labels import LabelTask
from st_ssl.transfer.tasks.metrics import IGNORE

METADATA = "metadata"
"""The baseline that is fed what files say of themselves: sizes, rate and length, or the number of points."""

MOST = 10_000
"""Labelled samples above which there are no baselines: they take too long to fit."""

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse regularisations that are chosen among, inside the labelled samples; of few labels it is the middle one."""


@dataclass
class Baselines:
    """Logistic regression on what a sample shows without any network (``DataSource.raw_features``), and on its file's
    metadata, for tasks with one class for each sample. Segmentation has none beyond the network from scratch.

    They see the labels that the networks see, those of the validation part among them, and are asked about the same
    test samples. Each sample is decoded once, for all fractions, repetitions and official splits: one view, as in
    validation. What they get goes to ``store``.
    """

    feed: Feed
    store: OutcomeStore
    _entries: Sequence[Entry] = ()
    _rows: dict[str, int] = field(default_factory=dict)
    """Where each sample is among all of the source, which what is drawn of it depends on."""
    _answers: dict[tuple[str, tuple[str, ...], tuple[str, ...]], np.ndarray] = field(default_factory=dict)

    def add(self, parts: Parts, share: float, repeat: int, tell: Callable[[str], None]) -> None:
        """Make those of ``parts``, which are the samples of a fit with that ``share`` of the labels in that repetition,
        unless the store has them; what is done goes to ``tell``. All processes call it and share the reading; the main
        one does the rest. Raises ``Interrupted`` where one of them is asked to end."""
        task = self.feed.task
        if not isinstance(task, LabelTask) or task.labels.several:
            return
        if not distributed.gather_objects(self.store.has_baselines(share, repeat))[0]:
            tell(f"baselines, {100 * share:g} % of the labels, repetition {repeat + 1}")
            self._add(task, [*parts.train, *parts.val], parts.test, share, repeat)

    def _add(self, task: LabelTask, shown: Sequence[Entry], asked: Sequence[Entry], share: float, repeat: int) -> None:
        if len(shown) > MOST:
            warnings.warn(f"no baselines with {len(shown):,} labelled samples: {MOST:,} are the most", stacklevel=2)
            return
        self._read([*shown, *asked])
        if distributed.rank() > 0:
            return
        known, asked = ([e for e in entries if self.store.features[sample_name(e)]] for entries in (shown, asked))
        known = [e for e, label in zip(known, task.labels.targets(known), strict=True) if label != IGNORE]
        if not known or not asked:
            return
        labels, truth = (task.labels.targets(entries).numpy() for entries in (known, asked))
        judged = {name: Judged() for name in self.store.features[sample_name(known[0])]}
        for name, own in judged.items():
            scores = np.eye(len(task.labels.classes))[self._predicted(name, known, labels, asked)]
            own.add(task, scores, truth, np.arange(len(asked)), asked)
        self.store.add_baselines(share, repeat, judged)

    def _predicted(self, name: str, shown: Sequence[Entry], labels: np.ndarray, asked: Sequence[Entry]) -> np.ndarray:
        """Classes int64 [M]; the same for the same samples, which all of the labels are in every repetition."""
        train, test = (tuple(map(sample_name, entries)) for entries in (shown, asked))
        if (name, train, test) not in self._answers:
            x, y = (np.stack([self.store.features[sample][name] for sample in names]) for names in (train, test))
            self._answers[name, train, test], _ = linear_predict(x, labels, y, 0, STRENGTHS)
        return self._answers[name, train, test]

    def _read(self, entries: Sequence[Entry]) -> None:
        """Decode those that were not yet, each by one process; all processes know them then."""
        feed, rank, world_size = self.feed, distributed.rank(), distributed.world_size()
        if not self._rows:
            self._entries = feed.source.entries()
            self._rows = {sample_name(entry): row for row, entry in enumerate(self._entries)}
        own = [name for name in dict.fromkeys(map(sample_name, entries)) if name not in self.store.features]
        own = own[rank::world_size]
        views = feed.source.evaluation(feed.input)
        rows = [self._rows[name] for name in own]

        def found() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
            for name, batch in zip(own, one_by_one(feed.source, self._entries, rows, views, 0), strict=True):
                feed.bad.update(dict.fromkeys(batch.bad))
                features: dict[str, np.ndarray] = {}
                if batch.views:
                    features = feed.source.raw_features(batch.views[0]) | {METADATA: batch.metadata.numpy()}
                yield name, {who: np.nan_to_num(row[0].astype(np.float32)) for who, row in features.items()}

        self.store.features.update(feed.joined(found(), "as the baselines were read"))
