"""Average precision as KITTI's object benchmark counts it (Geiger et al., 2012; 40 points: Simonelli et al., 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch

from st_ssl.ops.boxes import iou_3d, iou_bev
from st_ssl.transfer.detection.kitti_objects import KittiObjects

Kind = Literal["2d", "bev", "3d"]
KINDS: tuple[Kind, ...] = ("2d", "bev", "3d")
DIFFICULTIES = ("easy", "moderate", "hard")
LEAST_HEIGHT, MOST_OCCLUDED, MOST_TRUNCATED = (40, 25, 25), (0, 1, 2), (0.15, 0.3, 0.5)
OVERLAPS: Mapping[str, float] = MappingProxyType(
    {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5, "Van": 0.7, "Person_sitting": 0.5, "Truck": 0.7}
)
_NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}
_POINTS = 41
# What a box counts as: as much, neither right nor wrong, or nothing at all.
_COUNTS, _NEITHER, _OTHER = 0, 1, -1


@dataclass(frozen=True)
class _Frame:
    """Of K results and N labels of a frame: ``overlap`` [K, N], what each counts as, ``found`` [K] and ``true`` [N],
    the ``score`` [K], and which results lie in a region that nobody labelled, bool [K]."""

    overlap: np.ndarray
    found: np.ndarray
    true: np.ndarray
    score: np.ndarray
    unlabelled: np.ndarray


def kitti_scores(
    results: Sequence[KittiObjects],
    labels: Sequence[KittiObjects],
    overlaps: Mapping[str, float] = OVERLAPS,
    classes: Sequence[str] = ("Car", "Pedestrian", "Cyclist"),
    kinds: Sequence[Kind] = KINDS,
) -> dict[str, float]:
    """``3d_Car_moderate_R40`` and so on, in per cent: by 40 points of the recall and by 11, of frames that ``results``
    and ``labels`` have in one order. A result has to overlap a label by more than ``overlaps`` of its class.

    One threshold of the score belongs to each point, so that fewer than 41 objects cannot reach 100; of such
    ``average_precision`` says more.
    """
    figures = {}
    for kind in kinds:
        tables = [_overlap(*pair, kind) for pair in zip(results, labels, strict=True)]
        for name in classes:
            regions = [_in_regions(*pair, kind, overlaps[name]) for pair in zip(results, labels, strict=True)]
            for level, difficulty in enumerate(DIFFICULTIES):
                frames = [
                    _Frame(table, _of_results(found, name, level), _of_labels(true, name, level), found.score, region)
                    for table, found, true, region in zip(tables, results, labels, regions, strict=True)
                ]
                precision = _precision(frames, overlaps[name])
                figures[f"{kind}_{name}_{difficulty}_R40"] = float(100 * precision[1:].mean())
                figures[f"{kind}_{name}_{difficulty}_R11"] = float(100 * precision[::4].mean())
    return figures


def _of_labels(true: KittiObjects, name: str, level: int) -> np.ndarray:
    """What labels count as for a class: int64 [N]."""
    names = np.array([own.lower() for own in true.names], dtype=object)
    height = true.image[:, 3] - true.image[:, 1]
    hard = (true.occluded > MOST_OCCLUDED[level]) | (true.truncated > MOST_TRUNCATED[level])
    hard |= height <= LEAST_HEIGHT[level]
    own, near = names == name.lower(), names == _NEIGHBOURS.get(name.lower())
    return np.where(own & ~hard, _COUNTS, np.where(own | near, _NEITHER, _OTHER)).astype(np.int64)


def _of_results(found: KittiObjects, name: str, level: int) -> np.ndarray:
    """What results count as for a class: int64 [K]. A low one is neither, whatever its class."""
    own = np.array([other.lower() == name.lower() for other in found.names], dtype=bool)
    low = abs(found.image[:, 3] - found.image[:, 1]) < LEAST_HEIGHT[level]
    return np.where(low, _NEITHER, np.where(own, _COUNTS, _OTHER)).astype(np.int64)


def _overlap(found: KittiObjects, true: KittiObjects, kind: Kind) -> np.ndarray:
    """How much results and labels of a frame overlap, [K, N]."""
    if kind == "2d":
        shared, (own, other) = _shared(found.image, true.image), (_areas(found.image), _areas(true.image))
        return shared / np.maximum(own[:, None] + other - shared, 1e-12)
    measure = {"bev": iou_bev, "3d": iou_3d}[kind]
    return measure(torch.from_numpy(found.upright), torch.from_numpy(true.upright)).numpy()


def _in_regions(found: KittiObjects, true: KittiObjects, kind: Kind, least: float) -> np.ndarray:
    """Which results lie, by more than ``least`` of their area in the image, in a region that nobody labelled."""
    regions = true.image[[name == "DontCare" for name in true.names]]
    if kind != "2d" or not len(regions):
        return np.zeros(len(found), dtype=bool)
    inside = _shared(found.image, regions) > least * _areas(found.image)[:, None]
    return np.asarray(inside.any(1))


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    return (high - low).clip(0).prod(2)


def _areas(image: np.ndarray) -> np.ndarray:
    return (image[:, 2:] - image[:, :2]).prod(1)


def _precision(frames: Sequence[_Frame], least: float) -> np.ndarray:
    """The best precision at each of 41 points of the recall or beyond, float64 [41]; 0 where it is not reached."""
    count = sum(int((frame.true == _COUNTS).sum()) for frame in frames)
    scores = np.array([score for frame in frames for score in _recalled(frame, least)])
    levels = _levels(scores, count)
    right, wrong = np.zeros(len(levels)), np.zeros(len(levels))
    for frame in frames:
        for total, part in zip((right, wrong), _counted(frame, least, levels), strict=True):
            total += part
    precision = np.zeros(_POINTS)
    precision[: len(levels)] = right / np.maximum(right + wrong, 1)
    return np.maximum.accumulate(precision[::-1])[::-1]


def _recalled(frame: _Frame, least: float) -> list[float]:
    """The scores of results that find a label, each label taking the one with the highest score."""
    free, scores = frame.found != _OTHER, []
    for label in np.flatnonzero(frame.true != _OTHER):
        rows = np.flatnonzero(free & (frame.overlap[:, label] > least))
        if not len(rows):
            continue
        row = rows[frame.score[rows].argmax()]
        free[row] = False
        if frame.true[label] == _COUNTS and frame.found[row] == _COUNTS:
            scores.append(float(frame.score[row]))
    return scores


def _levels(scores: np.ndarray, count: int) -> np.ndarray:
    """The scores, falling, at which the recall of ``count`` objects is nearest to the points."""
    levels: list[float] = []
    recall = 0.0  # a sum, whose rounding decides between two that are as near
    for place, score in enumerate(np.sort(scores)[::-1].tolist()):
        last = place == len(scores) - 1
        if last or (place + 2) / count - recall >= recall - (place + 1) / count:
            levels.append(score)
            recall += 1 / (_POINTS - 1)
    return np.array(levels)


def _counted(frame: _Frame, least: float, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many results are right and wrong at each level of the score, each label taking the one that overlaps it
    most: float64 [L] both."""
    free = (frame.score >= levels[:, None]) & (frame.found != _OTHER)
    right, at = np.zeros(len(levels)), np.arange(len(levels))
    if len(frame.score):
        for label in np.flatnonzero(frame.true != _OTHER):
            overlap = frame.overlap[:, label]
            near = free & (overlap > least)
            own, low = near & (frame.found == _COUNTS), near & (frame.found == _NEITHER)
            row = np.where(own.any(1), np.where(own, overlap, -1).argmax(1), low.argmax(1))
            taken = near.any(1)
            free[at[taken], row[taken]] = False
            if frame.true[label] == _COUNTS:
                right += own.any(1)
    wrong = free & (frame.found == _COUNTS) & ~frame.unlabelled
    return right, wrong.sum(1).astype(np.float64)
