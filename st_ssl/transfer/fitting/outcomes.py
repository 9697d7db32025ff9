"""What fits and trivial baselines got of every test sample, kept beside the result, and the verdicts on it."""

from __future__ import annotations

import hashlib
import json
import tokenize
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from st_ssl.core.files import write_atomically
from st_ssl.core.plain_json import NOT_PLAIN, load_json
from st_ssl.core.summary import summary
from st_ssl.core.types import Entry
from st_ssl.core.verdict import Figure, Outcomes, judge, strongest, units_of
from st_ssl.training import distributed
from st_ssl.transfer.tasks.base import Task

SCRATCH = "scratch"
"""The mode that the others are held against."""

Repeat = tuple[int, int]
"""The official split (0: the only one), and the number of the repetition."""

_Cell = tuple[int, str, float, int]
"""Official split, mode or baseline, fraction of the labels, repetition."""


def sample_name(entry: Entry) -> str:
    """What tells a sample from all others, the same in every fit: its path, and which part of a file it is."""
    if entry.window:
        return f"{entry.path}:window {entry.start}+{entry.num_frames}"
    whole = (entry.start, entry.num_frames) == (0, None)
    return entry.path if whole else f"{entry.path}:{entry.start}+{entry.num_frames}"


@dataclass
class Judged:
    """What each test sample adds to the sums that the metric of a task is made of: ``names``, and as many ``rows`` [K].
    Both are empty where the metric is made of no sums. ``count``: how many samples were judged, which those without a
    label are not."""

    names: list[str] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    count: int = 0

    def add(self, task: Task, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> None:
        """Take a batch, of which all is given that a ``Meter`` is."""
        self.count += task.judged(truth, sample, entries)
        if task.figure is not None:
            self.names += map(sample_name, entries)
            self.rows += list(task.outcomes(scores, truth, sample, entries))


@dataclass
class OutcomeStore:
    """The outcomes of all fits of one result, and of the ``baselines``, by name.

    They are kept in ``file`` (None: in memory alone), which ``stamp`` (JSON) tells from that of other fits. One process
    has them, the main one. ``split``: the official split whose fits are added and judged; None for a verdict over all.
    ``dataclasses.replace(store, split=2)`` is the same store, seen from another split. ``features``: what baselines are
    fed of each sample, by its name and theirs, float32 [k], nothing of a broken one; all processes have it, in memory.
    """

    file: Path | None = None
    stamp: Mapping[str, Any] = field(default_factory=dict)
    split: int | None = 0
    baselines: list[str] = field(default_factory=list)
    features: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    _rows: dict[str, int] = field(default_factory=dict)
    _cells: dict[_Cell, np.ndarray] = field(default_factory=dict)

    def read(self) -> None:
        """Go on with what ``file`` holds; nothing where it is missing, damaged, or of other fits."""
        assert self.file is not None and not self._cells, "read once, before anything is added"
        try:
            with np.load(self.file, allow_pickle=False) as stored:
                about = load_json(stored["about"].tobytes())
                if about["digest"] != self._digest():
                    return
                cells = {
                    (int(split), str(who), float(share), int(repeat)): stored[str(number)]
                    for number, (split, who, share, repeat) in enumerate(about["cells"])
                }
                names, baselines = list(map(str, about["names"])), list(map(str, about["baselines"]))
            if any(parts.ndim != 2 or len(parts) > len(names) for parts in cells.values()):
                return
        except (OSError, EOFError, BadZipFile, zlib.error, tokenize.TokenError, *NOT_PLAIN, RecursionError):
            return
        self._rows.update({name: row for row, name in enumerate(names)})
        self._cells.update(cells)
        self.baselines += baselines

    def add(self, who: str, share: float, repeat: int, judged: Judged) -> None:
        """Keep what the mode ``who`` got with that fraction of the labels in that repetition."""
        if judged.rows:
            self._keep(who, share, repeat, judged)
            self._write()

    def add_baselines(self, share: float, repeat: int, judged: Mapping[str, Judged]) -> None:
        """Keep what all baselines got, by name: all of them are kept, or none."""
        for name, own in judged.items():
            if name not in self.baselines:
                self.baselines.append(name)
            self._keep(name, share, repeat, own)
        self._write()

    def _keep(self, who: str, share: float, repeat: int, judged: Judged) -> None:
        assert self.split is not None, "all splits together are for verdicts alone"
        for name in judged.names:
            self._rows.setdefault(name, len(self._rows))
        parts = np.zeros((len(self._rows), len(judged.rows[0])), judged.rows[0].dtype)
        np.add.at(parts, [self._rows[name] for name in judged.names], np.stack(judged.rows))  # one may be listed twice
        self._cells[self.split, who, share, repeat] = parts

    @property
    def names(self) -> list[str]:
        """The samples of ``repeats``, in order."""
        return list(self._rows)

    def has_baselines(self, share: float, repeat: int) -> bool:
        """Whether those are there that were trained with that fraction of the labels in that repetition."""
        return any((self.split, name, share, repeat) in self._cells for name in self.baselines)

    def repeats(self, who: str, share: float) -> dict[Repeat, np.ndarray]:
        """The outcomes [M, K] of each repetition, of the same M samples; zeros for one that was not judged."""
        found = {}
        for (split, name, part, repeat), parts in sorted(self._cells.items(), key=lambda item: item[0]):
            if (name, part) == (who, share) and self.split in (None, split):
                found[split, repeat] = np.pad(parts, ((0, len(self._rows) - len(parts)), (0, 0)))
        return found

    def shares(self) -> list[float]:
        """The fractions of the labels that there is anything of, the smallest first."""
        return sorted({share for split, _, share, _ in self._cells if self.split in (None, split)})

    def _digest(self) -> str:
        return hashlib.sha256(json.dumps(self.stamp, sort_keys=True).encode()).hexdigest()

    def _write(self) -> None:
        if self.file is None:
            return
        about = {"digest": self._digest(), "cells": list(self._cells), "names": list(self._rows)}
        text = json.dumps(about | {"baselines": self.baselines}).encode()
        arrays: dict[str, Any] = {str(number): parts for number, parts in enumerate(self._cells.values())}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(self.file, alone=True) as unfinished, unfinished.open("wb") as stream:
            np.savez_compressed(stream, about=np.frombuffer(text, np.uint8), **arrays)


def told(store: OutcomeStore, task: Task, modes: Sequence[str], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What goes into a result, ready for JSON, of which ``results`` are the fits so far and ``modes`` those asked for:
    ``baselines`` and ``verdicts``, as the functions of these names have them. All processes call it."""
    own = {}
    if distributed.rank() == 0:
        own = {"baselines": baselines(store, task), "verdicts": verdicts(store, task, modes, results)}
    return distributed.gather_objects(own)[0]


def baselines(store: OutcomeStore, task: Task) -> list[dict[str, Any]]:
    """For each baseline and fraction of the labels what ``metric`` is: ``mean``, ``std`` and single ``values`` over the
    repetitions, in per cent; of all splits together over their means, and ``seeds`` has the values of each."""
    rows = []
    for share in store.shares():
        for name in store.baselines:
            seeds: dict[int, list[float]] = {}
            for (split, _), value in _values(store, task.figure, name, share).items():
                seeds.setdefault(split, []).append(value)
            own = list(seeds.values())
            if own:
                of_all = store.split is None
                figures = summary([float(np.mean(v)) for v in own]) | {"seeds": own} if of_all else summary(own[0])
                rows.append({"name": name, "fraction": share, "metrics": {task.metric: figures}})
    return rows


def verdicts(
    store: OutcomeStore, task: Task, modes: Sequence[str], results: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Whether each mode but ``scratch`` is ahead of ``scratch``, if it is one of ``modes``, and of the strongest
    baseline, if there is any: for each row of ``results`` its ``mode`` and ``fraction``, and the ``verdict`` (as
    ``Verdict.as_json`` has it) over the repetitions that all of them have; or else null, and ``why``."""
    rows = []
    for row in results:
        if row["mode"] != SCRATCH:
            found = _verdict(store, task, SCRATCH in modes, row["mode"], row["fraction"])
            rows.append({"mode": row["mode"], "fraction": row["fraction"], **found})
    return rows


def _verdict(store: OutcomeStore, task: Task, scratch: bool, mode: str, share: float) -> dict[str, Any]:
    figure = task.figure
    if figure is None:
        return _undecided(f"{task.metric} is not made of sums over test samples")
    ours = store.repeats(mode, share)
    rivals = {SCRATCH: store.repeats(SCRATCH, share)} if scratch else {}
    means = {}
    for name in store.baselines:
        values = [value for repeat, value in _values(store, figure, name, share).items() if repeat in ours]
        means[name] = float(np.mean(values)) if values else np.nan
    if (best := strongest(means)) is not None:
        rivals[best] = store.repeats(best, share)
    if not rivals:
        return _undecided("there is neither a fit from scratch nor a baseline")
    common = [repeat for repeat in ours if all(repeat in theirs for theirs in rivals.values())]
    if not common:
        missing = [name for name, found in {mode: ours, **rivals}.items() if not found]
        return _undecided(f"what {' and '.join(missing or rivals)} got of single test samples is not known")
    everyone = [np.stack([found[repeat] for repeat in common]) for found in (ours, *rivals.values())]
    units = units_of(store.names)
    first, *others = (Outcomes(parts, figure).together(units) for parts in everyone)
    return {"verdict": judge(first, dict(zip(rivals, others, strict=True))).as_json()}


def _undecided(why: str) -> dict[str, Any]:
    return {"verdict": None, "why": why}


def _values(store: OutcomeStore, figure: Figure | None, who: str, share: float) -> dict[Repeat, float]:
    """The metric of each repetition in per cent."""
    assert figure is not None, "outcomes are of sums"
    return {repeat: float(figure(parts.sum(0))) for repeat, parts in store.repeats(who, share).items()}
