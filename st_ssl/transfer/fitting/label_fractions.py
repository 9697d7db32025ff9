"""Who is trained on, and who is asked: parts of a data set, label fractions, and few-shot folds. All are functions of
what the samples are called and of a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from st_ssl.core.errors import ConfigError, DataError, nearest
from st_ssl.core.random import keyed_rng, keyed_seed
from st_ssl.core.types import Entry

Share = Annotated[float, Field(gt=0, le=1)]
"""A share of the labels, as configurations have it."""

Group = Callable[[Entry], str]
"""What a sample is counted under, where subsets are balanced: its class."""


@dataclass
class Parts:
    """Samples to train on, to choose the best epoch by (there may be none: then it is the last), and to test on;
    ``tested`` says in words where the latter come from."""

    train: list[Entry]
    val: list[Entry] = field(default_factory=list)
    test: list[Entry] = field(default_factory=list)
    tested: str = "the split test of the data"


FEW = 200
"""Labelled training samples under which nothing is chosen by a validation part: so few tell little about an epoch, and
are better trained on."""


def divide(entries: Sequence[Entry], group: Group, test_share: float = 0.25) -> Parts:
    """The parts of a data set, none of which depends on a seed.

    Its own splits where it has them: "test", or else "val", is tested on. Without either, a ``test_share`` of all is
    drawn by name. "val" is the validation part where it is not tested on; without it there is none: ``with_validation``
    takes it out of the labels. Raises ``DataError`` where nothing is left to train or test on.
    """
    by_split: dict[str, list[Entry]] = {}
    for entry in entries:
        by_split.setdefault(entry.split, []).append(entry)
    test = by_split.get("test") or by_split.get("val") or []
    val = by_split.get("val", []) if by_split.get("test") else []
    train = by_split.get("train", [])
    tested = "the split test of the data" if by_split.get("test") else "the split val of the data: it has no test split"
    if not test:
        tested = f"no test split: {100 * test_share:g} % of each class drawn by name"
        test = apart(train, test_share, group, "test")
        train = without(train, test)
    if not train or not test:
        raise DataError(f"{len(entries)} samples are too few: {len(train)} to train on and {len(test)} to test on")
    return Parts(train, val, test, tested)


def balanced(
    entries: Sequence[Entry], share: float, group: Group, *key: int | str, leave_one: bool = False
) -> list[Entry]:
    """A ``share`` of the samples of each class, at least one (with ``leave_one`` none of a class of one), in the order
    of ``entries``. For one ``key`` a smaller share is a subset of a larger one. Windows are of as few recordings as
    will do; see ``apart`` for whole recordings."""
    return [entries[row] for row in balanced_rows(entries, share, group, *key, leave_one=leave_one)]


def apart(entries: Sequence[Entry], share: float, group: Group, key: str, leave_one: bool = False) -> list[Entry]:
    """As ``balanced``, but of windows all those of a share of the recordings, so that no recording is on both sides."""
    units: dict[str | int, list[Entry]] = {}
    for row, entry in enumerate(entries):
        units.setdefault(_unit(entries, row), []).append(entry)
    parts = list(units.values())
    chosen = balanced_rows([part[0] for part in parts], share, group, key, leave_one=leave_one)
    return [entry for row in chosen for entry in parts[row]]


def _unit(entries: Sequence[Entry], row: int) -> str | int:
    """What a sample is drawn with: the recording that it is a window of, or else it alone."""
    return entries[row].shown if entries[row].window else row


def balanced_rows(
    entries: Sequence[Entry], share: float, group: Group, *key: int | str, leave_one: bool = False
) -> list[int]:
    """``balanced`` as row numbers, sorted."""
    chosen: set[int] = set()
    for name, rows in _classes(entries, group).items():
        count = max(1, round(share * len(rows)))
        count = min(count, len(rows) - leave_one)
        order = [rows[i] for i in keyed_rng("subset", *key, name).permutation(len(rows)).tolist()]
        met: dict[str | int, list[int]] = {}  # the windows of one recording after those of another
        for row in order:
            met.setdefault(_unit(entries, row), []).append(row)
        chosen.update([row for own in met.values() for row in own][:count])
    return sorted(chosen)


def with_validation(labels: Sequence[Entry], own: Sequence[Entry], group: Group, val_share: float) -> Parts:
    """``labels``, and those of a validation split of its ``own`` that the data may have, as samples to train on and to
    choose the best epoch by.

    From ``FEW`` labels on it is chosen on ``own``, or without it on a ``val_share`` of each class of ``labels``; in
    either case on no more samples than are trained on. Of fewer labels all are trained on, and nothing is chosen.
    """
    if len(labels) < FEW:
        return Parts(list(labels))
    if own:
        return Parts(list(labels), at_most(own, len(labels), group, "val"))
    if not val_share:
        return Parts(list(labels))
    val = at_most(apart(labels, val_share, group, "val", leave_one=True), len(labels) // 2, group, "val")
    return Parts(without(labels, val), val)


def draws(labels: int, seeds: int | None, runs: int = 1) -> int:
    """How often a fraction of so many ``labels`` is drawn: ``seeds`` times, or where that is None five times under
    ``FEW`` labels and three times from there on; more where ``runs`` take turns, so that each has as many."""
    wanted = seeds or (5 if labels < FEW else 3)
    return math.ceil(wanted / runs) * runs


def at_most(entries: Sequence[Entry], count: int, group: Group, *key: int | str) -> list[Entry]:
    """All of ``entries``, or ``count`` of them with the same share of every class, in their order. For one ``key``
    fewer are a subset of more."""
    if len(entries) <= count:
        return list(entries)
    dealt: list[tuple[float, int, int]] = []
    for name, rows in _classes(entries, group).items():
        rng, turn = keyed_rng("at most", *key, name), keyed_seed("at most", *key, name)
        dealt += [((place + 0.5) / len(rows), turn, rows[i]) for place, i in enumerate(rng.permutation(len(rows)))]
    return [entries[row] for row in sorted(row for *_, row in sorted(dealt)[:count])]


def fold(parts: Parts, group: Group, ways: int, shots: int, queries: int, number: int) -> Parts:
    """Few-shot fold ``number``: ``ways`` classes, of each ``shots`` samples to train on and ``queries`` to test on.

    Training samples come from ``parts.train`` and ``parts.val``, the others from ``parts.test``. Raises ``DataError``
    where too few classes are large enough.
    """
    pools = [_classes([*parts.train, *parts.val], group), _classes(parts.test, group)]
    sources = [[*parts.train, *parts.val], parts.test]
    able = sorted(name for name in pools[0] if len(pools[0][name]) >= shots and len(pools[1].get(name, [])) >= queries)
    if len(able) < ways:
        most = [sorted((len(pool.get(name, [])) for name in pools[0]), reverse=True)[:ways] or [0] for pool in pools]
        raise DataError(
            f"few-shot folds of {ways} classes with {shots} samples to train on and {queries} to test on: only "
            f"{len(able)} of {len(pools[0])} classes have so many. Of {min(ways, len(pools[0]))} classes there are "
            f"{most[0][-1]} or more samples in the training part (task.shots) and {most[1][-1]} in the test part "
            "(task.queries)"
        )
    names = [able[i] for i in sorted(keyed_rng("fold", number).permutation(len(able))[:ways])]
    drawn = [
        [
            entries[pool[name][i]]
            for name in names
            for i in keyed_rng("fold", number, part, name).permutation(len(pool[name]))[:count]
        ]
        for pool, entries, count, part in zip(pools, sources, (shots, queries), ("train", "test"), strict=True)
    ]
    return Parts(drawn[0], [], drawn[1], parts.tested)


def labelled(entries: Sequence[Entry], target: str | None) -> tuple[str, list[Entry]]:
    """The target to learn, and the samples that have a label for it: the only one there is where ``target`` is None.

    Raises ``ConfigError`` where there is none, or a choice."""
    names = sorted({name for entry in entries for name in entry.labels})
    if target is None and len(names) == 1:
        target = names[0]
    has = f"the data has: {', '.join(names)}"
    if not names:
        why = (
            "the data has no labels: expected a folder for each class, or a table of samples and labels "
            "(data.list; `st-ssl configs README.md` has the formats)"
        )
    elif target is None:
        why = f"is needed ({has}), for example task.target={names[0]}"
    else:
        only = "; task.target=null takes it" if len(names) == 1 else ""
        why = f"no target named {target!r}{nearest(target, names)} ({has}{only})"
    if target not in names:
        raise ConfigError(f"task.target: {why}")
    assert target is not None
    return target, [entry for entry in entries if target in entry.labels]


def kept_labels(path: str, seed: int, count: int, kept: int | float) -> list[int]:
    """Which of the ``count`` labelled points of a sample keep their label: ``kept`` of them, or that share if it is a
    float; at least one. The same ones every time."""
    number = kept if isinstance(kept, int) else round(kept * count)
    return keyed_rng(seed, "label points", path).permutation(count)[: max(1, number)].tolist()


def _classes(entries: Sequence[Entry], group: Group) -> dict[str, list[int]]:
    """Rows of each class, ordered by a draw of their names, so that the order of a listing plays no part."""
    rows: dict[str, list[int]] = {}
    for row, entry in enumerate(entries):
        rows.setdefault(group(entry), []).append(row)
    for found in rows.values():
        found.sort(key=lambda row: keyed_seed(entries[row].shown))
    return rows


def without(entries: Sequence[Entry], taken: Sequence[Entry]) -> list[Entry]:
    """Those of ``entries`` that are not among ``taken``, which are some of the same objects, and that are no windows of
    the same recordings."""
    gone, names = {id(entry) for entry in taken}, {entry.shown for entry in taken if entry.window}
    return [entry for entry in entries if id(entry) not in gone and not (entry.window and entry.shown in names)]
