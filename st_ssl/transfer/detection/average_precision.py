"""Average precision of boxes: which were found, how many were made up, and where they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import torch

from st_ssl.core.boxes import Boxes
from st_ssl.ops.boxes import iou_3d, iou_bev

LEVELS = 200
"""Steps of the score, 0 … 1, at which ``level_parts`` counts."""
RANGES = (15.0, 30.0)
"""Metres from the sensor that divide boxes into near, middle and far ones."""
POINTS = (5, 20, 100)
"""Numbers of points that divide boxes into sparse and dense ones."""
Kind = Literal["bev", "3d"]


@dataclass(frozen=True)
class Matched:
    """The boxes of one class in one sweep. Of K predictions, best first: ``row`` int64 [K] among all of the sweep,
    ``score`` [K], and ``truth`` int64 [K], the true box that each found: -1 for one that is made up, -2 for one that is
    neither right nor wrong. ``true`` int64 [N] are the rows of the true boxes that are to be found."""

    row: np.ndarray
    score: np.ndarray
    truth: np.ndarray
    true: np.ndarray


def match(predicted: Boxes, truth: Boxes, number: int, overlap: float, kind: Kind = "bev") -> Matched:
    """Which true boxes of class ``number`` the predictions of that class find. One after the other, the highest
    ``score`` first, each takes the free true box that it overlaps most, if by ``overlap`` at least. One that finds
    none and overlaps a box of class -1 by as much is neither right nor wrong."""
    own = np.flatnonzero(predicted.classes == number)
    score = predicted.facts["score"][own]
    order = np.argsort(-score, kind="stable")
    row, score = own[order], score[order]
    known = np.isfinite(truth.values[:, :7]).all(1) if len(truth) else np.zeros(0, bool)
    true, other = np.flatnonzero((truth.classes == number) & known), np.flatnonzero((truth.classes == -1) & known)
    iou = _overlaps(predicted.values[row], truth.values[true], kind)
    left = _overlaps(predicted.values[row], truth.values[other], kind)
    found = np.full(len(row), -1)
    for at in range(len(row)):
        best = int(iou[at].argmax()) if len(true) else 0
        if len(true) and iou[at, best] >= overlap:
            found[at] = true[best]
            iou[:, best] = -1
        elif len(other) and left[at].max() >= overlap:
            found[at] = -2
    return Matched(row, score, found, true)


def _overlaps(a: np.ndarray, b: np.ndarray, kind: Kind) -> np.ndarray:
    measure = {"bev": iou_bev, "3d": iou_3d}[kind]
    return measure(torch.from_numpy(a[:, :7].astype(np.float64)), torch.from_numpy(b[:, :7].astype(np.float64))).numpy()


def average_precision(score: np.ndarray, hit: np.ndarray, count: int) -> float:
    """The area under precision over recall, in per cent: the precision at a recall is the best one at that recall or a
    higher one (as in PASCAL VOC 2010). ``score`` [K] and ``hit`` bool [K] of predictions, of ``count`` true boxes; NaN
    where there is none. Predictions of one score count together."""
    if not count:
        return float("nan")
    recall, precision = precision_recall(score, hit, count)
    return float(100 * (np.diff(recall, prepend=0) * np.maximum.accumulate(precision[::-1])[::-1]).sum())


def precision_recall(score: np.ndarray, hit: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision in 0 … 1 at each score that predictions have, from the highest on."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(hit[order])
    last = np.flatnonzero(np.diff(score[order], append=-np.inf))
    return hits[last] / max(count, 1), hits[last] / (last + 1)


def level_parts(found: Matched) -> np.ndarray:
    """What a sweep adds to the sums that ``level_figure`` is of: hits and made up boxes at each level of the score, and
    how many boxes there were, float [2 · ``LEVELS`` + 1]."""
    level = np.clip((found.score * LEVELS).astype(int), 0, LEVELS - 1)
    hits, misses = (np.bincount(level[which], minlength=LEVELS) for which in (found.truth >= 0, found.truth == -1))
    return np.concatenate([hits, misses, [len(found.true)]]).astype(np.float64)


def level_figure(totals: np.ndarray) -> np.ndarray:
    """``average_precision`` of scores that are rounded to their level, from sums [..., 2 · ``LEVELS`` + 1]; NaN where
    there is no box."""
    hits, misses, count = totals[..., :LEVELS], totals[..., LEVELS : 2 * LEVELS], totals[..., -1]
    hits, misses = (np.cumsum(part[..., ::-1], -1) for part in (hits, misses))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(hits + misses > 0, hits / (hits + misses), 0.0)
        best = np.maximum.accumulate(precision[..., ::-1], -1)[..., ::-1]
        return 100 * (np.diff(hits, prepend=0, axis=-1) * best).sum(-1) / np.where(count > 0, count, np.nan)


@dataclass
class DetectionMeter:
    """Adds up what was found in sweeps of the ``classes``, where boxes that overlap by ``overlaps`` of the class's name
    are the same.

    Distances are those of centres from the sensor, seen from above, in metres. The number of ``points`` in a true box
    is a fact of it.
    """

    classes: Sequence[str]
    overlaps: Mapping[str, float]
    kind: Kind = "bev"
    _predictions: list[np.ndarray] = field(default_factory=list)
    _truth: list[np.ndarray] = field(default_factory=list)
    _sweeps: int = 0

    def add(self, predicted: Boxes, truth: Boxes) -> list[Matched]:
        """Take a sweep. Returns what was found of each class."""
        found = []
        for number, name in enumerate(self.classes):
            own = match(predicted, truth, number, self.overlaps[name], self.kind)
            found.append(own)
            away = np.linalg.norm(truth.values[:, :2], axis=1)
            points = truth.facts.get("points", np.full(len(truth), -1))
            hit = own.truth >= 0
            where = np.where(hit, away[own.truth.clip(0)] if len(truth) else 0, _distance(predicted.values[own.row]))
            inside = np.where(hit, points[own.truth.clip(0)] if len(truth) else 0, -1)
            kept = own.truth != -2
            rows = np.stack([np.full(len(hit), number), own.score, hit, where, inside], 1)[kept]
            self._predictions.append(rows.astype(np.float64))
            scores = np.full(len(truth), -1.0)
            scores[own.truth[hit]] = own.score[hit]
            rows = np.stack(
                [
                    np.full(len(truth), number),
                    scores,
                    away,
                    points,
                    np.arange(len(truth)),
                    np.full(len(truth), self._sweeps),
                ],
                1,
            )[own.true]
            self._truth.append(rows.astype(np.float64))
        self._sweeps += 1
        return found

    def result(self) -> dict[str, float]:
        """``AP_<class>`` of each class, and ``mAP``, the mean over those that there are, in per cent."""
        each = {f"AP_{name}": self.ap(name) for name in self.classes}
        known = [value for value in each.values() if not np.isnan(value)]
        return {**each, "mAP": float(np.mean(known)) if known else float("nan")}

    def ap(self, name: str) -> float:
        """The average precision of one class."""
        predictions, truth = self._of(name)
        return average_precision(predictions[:, 1], predictions[:, 2] > 0, len(truth))

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Recall and precision of one class in 0 … 1."""
        predictions, truth = self._of(name)
        return precision_recall(predictions[:, 1], predictions[:, 2] > 0, len(truth))

    def by_range(self, name: str, bounds: Sequence[float] = RANGES) -> dict[str, tuple[float, float, int]]:
        """By distance: the average precision, the recall at any score, both in per cent, and how many boxes there are.
        A prediction that found a box is where that is."""
        return self._divided(name, bounds, 3, 2, lambda predictions, inside: predictions[inside])

    def by_points(self, name: str, bounds: Sequence[float] = POINTS) -> dict[str, tuple[float, float, int]]:
        """As ``by_range``, by how many points are in the true box. What was made up counts everywhere."""
        return self._divided(
            name, bounds, 4, 3, lambda predictions, inside: predictions[inside | (predictions[:, 2] == 0)]
        )

    def missed(self, name: str, most: int = 10) -> list[tuple[int, int, int]]:
        """The boxes that were not found at any score, those with the most points first: the number of the sweep, of the
        box in it, and of its points."""
        _, truth = self._of(name)
        rows = truth[truth[:, 1] < 0]
        rows = rows[np.argsort(-rows[:, 3], kind="stable")][:most]
        return [(int(row[5]), int(row[4]), int(row[3])) for row in rows]

    def _of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        number = self.classes.index(name)
        rows = np.concatenate([*self._predictions, np.zeros((0, 5))]), np.concatenate([*self._truth, np.zeros((0, 6))])
        return rows[0][rows[0][:, 0] == number], rows[1][rows[1][:, 0] == number]

    def _divided(
        self,
        name: str,
        bounds: Sequence[float],
        column: int,
        true: int,
        choose: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> dict[str, tuple[float, float, int]]:
        predictions, truth = self._of(name)
        ends = [0.0, *bounds, np.inf]
        found = {}
        for low, high in pairwise(ends):
            own = truth[(truth[:, true] >= low) & (truth[:, true] < high)]
            rows = choose(predictions, (predictions[:, column] >= low) & (predictions[:, column] < high))
            recall = float(100 * (own[:, 1] >= 0).mean()) if len(own) else float("nan")
            words = f"{low:g} or more" if np.isinf(high) else f"{low:g} to {high:g}"
            found[words] = average_precision(rows[:, 1], rows[:, 2] > 0, len(own)), recall, len(own)
        return found


def _distance(values: np.ndarray) -> np.ndarray:
    return np.linalg.norm(values[:, :2], axis=1)
