"""nuScenes' detection score and what it is made of (Caesar et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch

from st_ssl.core.boxes import Boxes
from st_ssl.data.sources.drives.nuscenes import CLASSES
from st_ssl.ops.boxes import points_in_boxes

DISTANCES = (0.5, 1.0, 2.0, 4.0)
"""Metres between centres, seen from above, below which a prediction finds a box; the errors are those at 2."""
ERRORS = ("ATE", "ASE", "AOE", "AVE", "AAE")
"""Of translation (metres), scale (1 - IoU), orientation (radians), velocity (m/s) and attribute (share)."""
RANGES: Mapping[str, float] = MappingProxyType(
    {name: 30.0 if name in ("traffic_cone", "barrier") else 50.0 for name in CLASSES}
    | {"pedestrian": 40.0, "motorcycle": 40.0, "bicycle": 40.0}
)
"""Metres from the vehicle within which boxes of each class count."""
_ERRORS_AT = 2.0
_UNDEFINED = {"traffic_cone": ("AOE", "AVE", "AAE"), "barrier": ("AVE", "AAE")}
_RECALLS = np.linspace(0, 1, 101)
_FIRST = 11  # of these recalls: lower ones do not count
_LEAST_PRECISION = 0.1


def counted(boxes: Boxes, classes: Sequence[str], vehicle: np.ndarray, racks: np.ndarray) -> Boxes:
    """The ``boxes`` of a sample that count: of the ten classes, near enough to the ``vehicle`` [2], with points of
    LiDAR or radar in them (facts ``points`` and ``radar``, where known), and no cycle whose centre is in one of the
    bicycle ``racks`` [R, 7 or more]."""
    reach = np.array([*(RANGES.get(name, 0.0) for name in classes), 0.0])  # the last is of class -1
    kept = np.linalg.norm(boxes.values[:, :2] - vehicle, axis=1) < reach[boxes.classes]
    if "points" in boxes.facts:
        kept &= boxes.facts["points"] + boxes.facts.get("radar", 0) != 0
    cycles = [number for number, name in enumerate(classes) if name in ("bicycle", "motorcycle")]
    if len(racks):
        places = (torch.from_numpy(np.asarray(values, np.float64)) for values in (boxes.values[:, :3], racks[:, :7]))
        kept &= ~(np.isin(boxes.classes, cycles) & points_in_boxes(*places).any(1).numpy())
    return boxes.take(kept)


def nuscenes_scores(
    predicted: Sequence[Boxes],
    truth: Sequence[Boxes],
    classes: Sequence[str] = CLASSES,
    vehicles: np.ndarray | None = None,
    racks: Sequence[np.ndarray] | None = None,
) -> dict[str, float]:
    """``NDS``, ``mAP`` and ``AP_<class>`` in per cent, ``mATE`` to ``mAAE`` in their units, of S samples.

    Boxes may be in the axes of the sweep or of the world: ``vehicles`` [S, 2] say where the vehicle is (none: at 0),
    ``racks`` which bicycle racks there are. Predictions have the fact ``score``; both may have ``attribute``, int64 by
    its place in ``ATTRIBUTES``. A class of the ten that is not among ``classes`` is one that nobody found.
    """
    vehicles = np.zeros((len(truth), 2)) if vehicles is None else vehicles
    racks = [np.zeros((0, 7))] * len(truth) if racks is None else racks
    found, true = (
        _joined([counted(*row) for row in zip(boxes, [classes] * len(boxes), vehicles, racks, strict=True)], scored)
        for boxes, scored in ((predicted, True), (truth, False))
    )
    precisions, errors = {}, []
    for name in CLASSES:
        number = list(classes).index(name) if name in classes else len(classes)
        own, other = found[found[:, 1] == number], true[true[:, 1] == number]
        own = own[np.argsort(own[:, 2], kind="stable")[::-1]]  # of equal scores the later one comes first
        matches = {distance: _matches(own, other, distance) for distance in DISTANCES}
        curves = {distance: _curve(own, match, len(other)) for distance, match in matches.items()}
        clipped = [(curve[_FIRST:, 0] - _LEAST_PRECISION).clip(0).mean() for curve in curves.values()]
        precisions[name] = float(np.mean(clipped) / (1 - _LEAST_PRECISION))
        each = _errors(own, other, matches[_ERRORS_AT], curves[_ERRORS_AT][:, 1], name)
        errors.append([np.nan if error in _UNDEFINED.get(name, ()) else each[error] for error in ERRORS])
    means = np.nanmean(np.array(errors), 0)
    mean = float(np.mean(list(precisions.values())))
    score = (5 * mean + (1 - means).clip(0).sum()) / 10
    figures = {"NDS": 100 * float(score), "mAP": 100 * mean}
    figures |= {f"m{error}": float(value) for error, value in zip(ERRORS, means, strict=True)}
    return figures | {f"AP_{name}": 100 * value for name, value in precisions.items()}


def _joined(samples: Sequence[Boxes], scored: bool) -> np.ndarray:
    """A row for each box, float64 [N, 13]: the sample, class, score, attribute and the 9 values."""
    rows = [np.zeros((0, 13))]
    for number, boxes in enumerate(samples):
        attribute = boxes.facts.get("attribute", np.full(len(boxes), -1))
        score = boxes.facts["score"] if scored else np.zeros(len(boxes))
        columns = (np.full(len(boxes), number), boxes.classes, score, attribute, boxes.values)
        rows.append(np.column_stack(columns).astype(np.float64))
    return np.concatenate(rows)


def _matches(found: np.ndarray, true: np.ndarray, distance: float) -> np.ndarray:
    """The row of ``true`` that each of ``found`` takes, the nearest that is free if nearer than ``distance``: int64
    [K], -1 for none."""
    rows = {sample: np.flatnonzero(true[:, 0] == sample) for sample in np.unique(true[:, 0])}
    free = np.ones(len(true), dtype=bool)
    taken = np.full(len(found), -1)
    for at, (sample, place) in enumerate(zip(found[:, 0].tolist(), found[:, 4:6], strict=True)):
        own = rows.get(sample, np.zeros(0, np.int64))
        own = own[free[own]]
        away = np.linalg.norm(true[own, 4:6] - place, axis=1)
        if len(own) and away.min() < distance:
            taken[at] = own[away.argmin()]
            free[taken[at]] = False
    return taken


def _curve(found: np.ndarray, match: np.ndarray, count: int) -> np.ndarray:
    """Precision and score at each of 101 recalls, [101, 2]; 0 where it is not reached."""
    hits = np.cumsum(match >= 0)
    if not count or not len(hits) or not hits[-1]:
        return np.zeros((len(_RECALLS), 2))
    recall, precision = hits / count, hits / np.arange(1, len(hits) + 1)
    return np.column_stack([np.interp(_RECALLS, recall, column, right=0) for column in (precision, found[:, 2])])


def _errors(found: np.ndarray, true: np.ndarray, match: np.ndarray, scores: np.ndarray, name: str) -> dict[str, float]:
    """The mean errors of what was found, over the scores at each recall from the first that counts on; 1 where that is
    not reached."""
    reached = np.flatnonzero(scores)
    if not len(reached) or reached[-1] < _FIRST:
        return dict.fromkeys(ERRORS, 1.0)
    own, other = found[match >= 0], true[match[match >= 0]]
    smaller = np.minimum(own[:, 7:10], other[:, 7:10]).prod(1)
    period = np.pi if name == "barrier" else 2 * np.pi
    turn = (other[:, 10] - own[:, 10] + period / 2) % period - period / 2
    each = (
        np.linalg.norm(own[:, 4:6] - other[:, 4:6], axis=1),
        1 - smaller / (own[:, 7:10].prod(1) + other[:, 7:10].prod(1) - smaller),
        abs(turn),
        np.linalg.norm(own[:, 11:] - other[:, 11:], axis=1),
        np.where(other[:, 3] < 0, np.nan, own[:, 3] != other[:, 3]),
    )
    figures = {}
    for error, values in zip(ERRORS, each, strict=True):
        curve = np.interp(scores[::-1], own[::-1, 2], _running_mean(values)[::-1])[::-1]
        figures[error] = float(curve[_FIRST : reached[-1] + 1].mean())
    return figures


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Of those that are known; 0 before the first, 1 where there is none."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    return np.nancumsum(values) / np.cumsum(known).clip(1)
