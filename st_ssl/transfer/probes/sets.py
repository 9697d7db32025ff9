"""What is probed: which targets there are, classes or values, and the samples that have a label for each."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from st_ssl.core.errors import nearest
from st_ssl.data.sources.video import target_names
from st_ssl.transfer.features.features import INSTANCE, ClipSet, Split, classes_of
from st_ssl.transfer.features.values import known_numbers, numbers_of, value_targets
from st_ssl.transfer.probes.few_labels import Episodes
from st_ssl.transfer.probes.probe_config import ProbeConfig
from st_ssl.transfer.probes.scores import VALUE_ROWS, Scores


def find_targets(splits: tuple[Split, Split], config: ProbeConfig) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """The classes of each target, the targets that are values, and those of these that can be probed: some kind of
    probe is for them, and their values differ in both parts."""
    parts = [part.entries for part in splits]
    values = value_targets(parts[0], parts[1], config.values)
    able = VALUE_ROWS.keys() & set(config.kinds)
    probed = [name for name in values if able and all(len(np.unique(known_numbers(part, name))) > 1 for part in parts)]
    return classes_of(*splits, values), values, probed


def tell_values(splits: tuple[Split, Split], values: Sequence[str], config: ProbeConfig) -> None:
    """Warn once of names in ``probe.values`` that no target has; of targets that were taken for ``values`` by their
    labels, and of the kinds of probes that leave values out."""
    names = target_names(entry for part in splits for entry in part.entries)
    for name in config.values.keys() - set(names):
        near = nearest(name, names)
        warnings.warn(f"probe.values.{name} is ignored: no target is called {name!r}{near}", stacklevel=3)
    decided = [name for name in values if name not in config.values]
    skip = [kind for kind in config.kinds if kind not in VALUE_ROWS]
    told = f"not for values ({', '.join(values)}): {', '.join(skip)}" if values and skip else ""
    if decided:
        how = f"probe.values.{decided[0]}=false takes each number as a class"
        told = f"values, as their labels have fractions: {', '.join(decided)}; {how}{told and f'; {told}'}"
    if told:
        warnings.warn(f"probe: {told}", stacklevel=3)


@dataclass
class Sets:
    """The training and the test samples of one seed, the classes of each target that has some, the targets that are
    ``values``, and what is probed and how."""

    train: ClipSet
    test: ClipSet
    classes: dict[str, list[str]]
    values: list[str]
    config: ProbeConfig
    seed: int

    @property
    def names(self) -> list[str]:
        """Of all targets, those with classes first."""
        return [*self.classes, *self.values]

    def _known(self, part: ClipSet, name: str) -> tuple[np.ndarray, np.ndarray]:
        if name in self.values:
            found = numbers_of(part.entries, name)
            rows = np.flatnonzero(~np.isnan(found))
        else:
            found = part.targets[name]
            rows = np.flatnonzero(found >= 0)
        return rows, found[rows]

    def rows(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the training and of the test samples that have a label for a target, int64."""
        return self._known(self.train, name)[0], self._known(self.test, name)[0]

    def labels(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The labels of these ``rows``, int64; of a value target the numbers, float64."""
        return self._known(self.train, name)[1], self._known(self.test, name)[1]

    def identities(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """A number for each of these ``rows``, the same for the same file: a sample must not find itself, unless that
        is what is asked for."""
        if name == INSTANCE:
            return None
        paths = [
            [part.entries[i].path for i in own]
            for part, own in zip((self.train, self.test), self.rows(name), strict=True)
        ]
        number = {path: i for i, path in enumerate(dict.fromkeys(paths[0] + paths[1]))}
        train, test = (np.array([number[path] for path in own], dtype=np.int64) for own in paths)
        return train, test

    def add(self, scores: Scores, name: str, key: str, who: str, found: np.ndarray | Episodes) -> None:
        """Keep what ``who`` got of the labelled test samples, at once or in episodes."""
        cell, rows = (name, key, who), self.test.rows[self.rows(name)[1]]
        if isinstance(found, Episodes):
            scores.add(cell, found.right, rows, found.asked)
            scores.intervals.setdefault(cell, []).append(found.half_interval())
        else:
            scores.add(cell, found, rows)
