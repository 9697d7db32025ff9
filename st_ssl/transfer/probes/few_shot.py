"""Few-shot classification: n classes, k labelled samples of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry
from st_ssl.transfer.fitting.label_fractions import Parts, divide, fold
from st_ssl.transfer.tasks.base import TASKS
from st_ssl.transfer.tasks.object_classification import Classify, ClassifyConfig

FOLD = "fold"
"""The label that tells a sample's fold."""


class FewShotConfig(ClassifyConfig):
    """``ways`` classes with ``shots`` samples each to train on and ``queries`` to test on; so often as ``folds`` says,
    each time with other classes and samples."""

    name: Literal["few_shot"] = "few_shot"  # type: ignore[assignment]
    ways: int = Field(default=5, gt=1)
    shots: int = Field(default=10, gt=0)
    queries: int = Field(default=20, gt=0)
    folds: int = Field(default=10, gt=0)


@TASKS.register(FewShotConfig)
class FewShot(Classify):
    """n-way k-shot (Sharma and Kaul 2020), mean ± std over folds: those of the data, if its samples have a label
    ``fold``, or else drawn from any labelled data set. There is no validation part: the last epoch counts, where papers
    report the best one on the queries."""

    has_fractions: ClassVar[bool] = False
    config: FewShotConfig

    def repeats(self, seeds: int) -> int:
        return self.config.folds

    def parts(self, entries: Sequence[Entry], repeat: int) -> Parts:
        if any(FOLD in entry.labels for entry in entries):
            return self._given(entries, repeat)
        whole = divide(self.labels.select(entries), self.group)
        return fold(whole, self.group, self.config.ways, self.config.shots, self.config.queries, repeat)

    def _given(self, entries: Sequence[Entry], repeat: int) -> Parts:
        names = sorted({entry.labels[FOLD] for entry in entries if FOLD in entry.labels}, key=lambda n: (len(n), n))
        setting = (
            f"{self.config.ways}way_{self.config.shots}shot/"  # data of several settings say which each fold is of
        )
        names = [name for name in names if name.startswith(setting)] or names
        if self.config.folds > len(names):  # told in the first repetition, not after the last that there is
            raise DataError(f"task.folds: {self.config.folds} are asked for, and the data has {len(names)}")
        own = [
            replace(entry, labels={name: label for name, label in entry.labels.items() if name != FOLD})
            for entry in entries
            if entry.labels.get(FOLD) == names[repeat]
        ]
        known = self.labels.select(own)
        train, test = ([entry for entry in known if entry.split == split] for split in ("train", "test"))
        shots = Counter(map(self.group, train))
        if len(shots) != self.config.ways or set(shots.values()) != {self.config.shots} or not test:
            counts = ", ".join(map(str, sorted(set(shots.values()))))
            raise ConfigError(
                f"task.ways={self.config.ways} task.shots={self.config.shots}: the fold {names[repeat]!r} of the data "
                f"has {len(shots)} classes of {counts or 'no'} training samples each, and {len(test)} test samples"
            )
        return Parts(train, [], test)
