"""What boxes hold and where they are, whatever is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from st_ssl.core.boxes import Boxes
from st_ssl.ops.boxes import iou_3d, points_in_boxes

RANGES = (0.0, 20.0, 40.0, np.inf)
"""Metres from the sensor at which rows of boxes are told apart."""
_SAME = 0.7  # IoU of two boxes around one object
_FAR = 1.05  # times as far as the farthest points is outside


@dataclass(frozen=True)
class Counted:
    """Of the boxes of one sweep [N]: their ``points``, the ``distance`` of their centres in metres, and which are
    ``nonsense`` (not finite, or without a size), ``outside`` of where there are points, or ``twice`` there."""

    points: np.ndarray
    distance: np.ndarray
    nonsense: np.ndarray
    outside: np.ndarray
    twice: np.ndarray


def count(xyz: np.ndarray, boxes: Boxes) -> Counted:
    """Count what the boxes of a sweep with the points ``xyz`` [P, 3] hold."""
    values = boxes.values[:, :7].astype(np.float64)
    distance = np.hypot(values[:, 0], values[:, 1])
    nonsense = np.logical_or(~np.isfinite(values).all(1), (values[:, 3:6] <= 0).any(1))
    points, twice = np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    sound = np.flatnonzero(~nonsense)
    own = torch.from_numpy(values[sound])
    points[sound] = points_in_boxes(torch.from_numpy(xyz), own.to(torch.float32)).sum(0).numpy()
    same = np.triu(iou_3d(own, own).numpy() > _SAME, 1) & (boxes.classes[sound, None] == boxes.classes[sound])
    twice[sound] = same.any(0)
    reach = np.hypot(xyz[:, 0], xyz[:, 1]).max(initial=0)
    outside = ~nonsense & (distance > _FAR * reach)
    return Counted(points, distance, nonsense, outside, twice)


@dataclass(frozen=True)
class Row:
    """Boxes of a class from ``near`` to ``far`` metres away: how many, how many are ``empty``, and the median of the
    ``points`` in them."""

    name: str
    near: float
    far: float
    boxes: int
    empty: int
    points: float


def rows(classes: np.ndarray, points: np.ndarray, distance: np.ndarray, names: tuple[str, ...]) -> list[Row]:
    """Boxes [N] by class and range, where there are any."""
    found = []
    for number, name in enumerate(names):
        for near, far in pairwise(RANGES):
            own = points[(classes == number) & (distance >= near) & (distance < far)]
            if len(own):
                found.append(Row(name, near, far, len(own), int((own == 0).sum()), float(np.median(own))))
    return found


@dataclass(frozen=True)
class Proposal:
    """What to give a detector: ``sizes``, by class the mean length, width and height, the mean height of the centre,
    and the number of boxes; ``extent`` (x0, y0, z0, x1, y1, z1), which all but 1 % of the boxes are within, metres."""

    sizes: dict[str, tuple[float, float, float, float, int]]
    extent: tuple[float, ...]


def propose(values: np.ndarray, classes: np.ndarray, names: tuple[str, ...]) -> Proposal | None:
    """A proposal from boxes [N, 7], none of which is nonsense; None where there is none."""
    if not len(values):
        return None
    sizes = {}
    for number, name in enumerate(names):
        own = values[classes == number]
        if len(own):
            length, width, height, z = (float(own[:, place].mean()) for place in (3, 4, 5, 2))
            sizes[name] = length, width, height, z, len(own)
    share = 1 / 6  # of the 1 %, for each of the sides
    half = np.column_stack([np.repeat(np.hypot(values[:, 3], values[:, 4])[:, None] / 2, 2, 1), values[:, 5] / 2])
    low = np.percentile(values[:, :3] - half, share, axis=0)
    high = np.percentile(values[:, :3] + half, 100 - share, axis=0)
    return Proposal(sizes, tuple(np.concatenate([low, high]).round(1).tolist()))
