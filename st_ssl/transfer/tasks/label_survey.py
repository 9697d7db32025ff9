"""Which labels the points of all samples have, looked at before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.tasks.metrics import IGNORE

MAX_CLASSES = 1024


@dataclass(frozen=True)
class PointLabels:
    """What the points of ``entry`` are labelled with: ``values`` int64 [K], sorted, and ``counts`` int64 [K] of points
    with each. ``reason``: why there are none, where the file is broken or lacks them."""

    entry: Entry
    values: np.ndarray
    counts: np.ndarray
    reason: str | None = None

    def without(self, ignored: Sequence[int]) -> PointLabels:
        """As it is when the labels ``ignored``, and -1, are none."""
        kept = ~np.isin(self.values, [IGNORE, *ignored])
        return PointLabels(self.entry, self.values[kept], self.counts[kept], self.reason)


Look = Callable[[Sequence[Entry], str], list[PointLabels]]
"""The labels of that name of each of some samples, in their order."""


@dataclass(frozen=True)
class Surveyed:
    """The ``parts`` without those that are broken or lack labels, and the labels of what is left by the ``Parts`` field
    that it is of."""

    parts: Parts
    seen: dict[str, list[PointLabels]]

    @property
    def all(self) -> Iterable[PointLabels]:
        """The labels of all parts."""
        return chain.from_iterable(self.seen.values())

    @property
    def of_training(self) -> list[PointLabels]:
        """Those of the training part, and of parts that were drawn from it."""
        return [
            row for part, rows in self.seen.items() for row in rows if part == "train" or row.entry.split == "train"
        ]

    def counts(self, part: str, num_classes: int) -> np.ndarray:
        """How many points of a part have each class, int64 [K]."""
        found = np.zeros(num_classes, dtype=np.int64)
        for row in self.seen[part]:
            found[row.values] += row.counts
        return found


_NAMES = {"train": "training", "val": "validation", "test": "test"}


def survey(parts: Parts, look: Look, name: str, ignored: Sequence[int] = ()) -> Surveyed:
    """Look at the labels ``name`` of all samples; those that are ``ignored``, and -1, are none.

    Warns of samples that are left out, with the first of them: those that cannot be read or have no such labels, and of
    the test part those of which no point has one. Raises ``DataError`` where none with a label is left to
    train or to test on, and ``ConfigError`` for a label below -1.
    """
    own = {part: getattr(parts, part) for part in _NAMES}
    found = iter(look([entry for entries in own.values() for entry in entries], name))
    seen = {part: [next(found).without(ignored) for _ in entries] for part, entries in own.items()}
    kept, told = {}, []
    for part, rows in seen.items():
        lost = [row for row in rows if row.reason is not None]
        kept[part] = [row for row in rows if row.reason is None]
        if part != "val" and not any(len(row.values) for row in kept[part]):
            first = (lost or rows)[0]
            why = first.reason or f"all its points are {', '.join(map(str, (IGNORE, *ignored)))}"
            left = "; test_on=val tests on the validation part" if part == "test" and seen["val"] else ""
            who = f"none of the {len(rows)} {_NAMES[part]} clouds has labels"
            raise DataError(f"task.labels={name}: {who}; the first: {first.entry.shown}: {why}{left}")
        if part == "test":  # nothing could be judged there
            lost += [row for row in kept[part] if not len(row.values)]
            kept[part] = [row for row in kept[part] if len(row.values)]
        if lost:
            why = lost[0].reason or "none of its points has a label"
            told.append(f"{len(lost)} of {len(rows)} {_NAMES[part]} clouds ({lost[0].entry.shown}: {why})")
    if told:
        warnings.warn(f"task.labels={name}: left out are {' and '.join(told)}", stacklevel=4)
    train, val, test = ([row.entry for row in kept[part]] for part in ("train", "val", "test"))
    result = Surveyed(Parts(train, val, test, parts.tested), kept)
    for row in result.all:
        if len(row.values) and row.values[0] < 0:
            value = int(row.values[0])
            raise ConfigError(
                f"{row.entry.shown}: {name} has the label {value} ({int(row.counts[0]):,} points): classes are 0, 1, "
                f"2, … and -1 is none; task.ignored={[value, *ignored]} makes it none"
            )
    return result


def largest(rows: Sequence[PointLabels], name: str, most: int) -> int:
    """The largest label in ``rows``. Raises ``ConfigError`` where it makes more than ``most`` classes."""
    row = max((row for row in rows if len(row.values)), key=lambda row: int(row.values[-1]))
    value = int(row.values[-1])
    if value >= most:
        raise ConfigError(
            f"{row.entry.shown}: {name} has the label {value} ({int(row.counts[-1]):,} points), which makes "
            f"{value + 1:,} classes, more than task.max_classes={most}. {_packed(value)}"
        )
    return value


def _packed(value: int) -> str:
    told = "Instance and class packed into one number look like that (instance << 16 | class"
    if value >= 1 << 16:
        told += f": {value} is class {value & 0xFFFF} of instance {value >> 16}"
    return f"{told}): write the class alone (label & 0xFFFF); what is no class goes to task.ignored"


def check_range(rows: Iterable[PointLabels], name: str, num_classes: int, ways: str) -> None:
    """Raise ``ConfigError`` where a label is none of ``num_classes`` classes; ``ways`` are those out of it."""
    for row in rows:
        stray = row.values >= num_classes
        if stray.any():
            values, count = row.values[stray], int(row.counts[stray].sum())
            more = f" and {len(values) - 5} more" if len(values) > 5 else ""
            packed = f" {_packed(int(values[-1]))}." if values[-1] >= 1 << 16 else ""
            raise ConfigError(
                f"{row.entry.shown}: {name} has {', '.join(map(str, values[:5]))}{more} ({count:,} points), which is "
                f"none of the {num_classes} classes (0 to {num_classes - 1}).{packed} {ways.format(int(values[-1]))}"
            )
