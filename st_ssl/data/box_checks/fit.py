"""How well boxes fit the points of a sweep. P points, N boxes, H guesses of what each box should have been."""

from __future__ import annotations

import numpy as np

REACH = 200.0  # metres from the sensor beyond which points are not looked at
_CELL, _STEP = 2.0, 0.3  # metres: cells of the ground, and how far above it objects begin
_SLACK, _MARGIN = 0.05, 0.05  # by which share and by how many metres a box may be too small
_SHELL = 0.5  # metres around a box in which there should be nothing
_LARGEST = 60.0  # metres: nothing on a road is longer


def above_ground(xyz: np.ndarray) -> np.ndarray:
    """The points of ``xyz`` [P, 3] that stand on the ground: [Q, 3], sorted by x.

    The ground of a cell is the lowest of what is in it and around it, but for the lowest twentieth of each.
    """
    xyz = xyz[(np.abs(xyz[:, :2]) < REACH).all(1) & np.isfinite(xyz[:, 2])]
    if not len(xyz):
        return xyz
    column, row = ((xyz[:, :2] + REACH) // _CELL).astype(np.int64).T + 1
    side = int(2 * REACH / _CELL) + 3
    cell = column * side + row
    order = np.lexsort((xyz[:, 2], cell))
    cells, first, count = np.unique(cell[order], return_index=True, return_counts=True)
    lowest = np.full(side * side, np.inf)
    lowest[cells] = xyz[order[first + count // 20], 2]
    around = [step * side + other for step in (-1, 0, 1) for other in (-1, 0, 1)]
    ground = np.min([lowest[cell + step] for step in around], axis=0)
    kept = xyz[xyz[:, 2] > ground + _STEP]
    return kept[np.argsort(kept[:, 0], kind="stable")]


def fits(xyz: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How well ``boxes`` [H, N, 7] fit ``xyz`` [P, 3] (as from ``above_ground``), in 0 … 1, float [H, N]; and how many
    points are in each or close to it, int [H, N].

    The fit is the share of those points that are inside, times the share of the box's sizes that these span, the mean
    of the three: a box that is elsewhere or too small misses the first, one that is too large the second.
    """
    fit, seen = np.zeros(boxes.shape[:2]), np.zeros(boxes.shape[:2], np.int64)
    usable = np.isfinite(boxes).all(2) & (boxes[..., 3:6] > 0).all(2) & (boxes[..., 3:6] < _LARGEST).all(2)
    for number in range(boxes.shape[1]):
        own = np.flatnonzero(usable[:, number])
        places, which = np.unique(boxes[own, number, :2], axis=0, return_inverse=True)
        for place, (x, y) in enumerate(places):
            guesses = own[which.reshape(-1) == place]
            fit[guesses, number], seen[guesses, number] = _fits_at(xyz, x, y, boxes[guesses, number])
    return fit, seen


def _fits_at(xyz: np.ndarray, x: float, y: float, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of boxes [H, 7] whose centres are all at ``x`` and ``y``."""
    reach = float(np.hypot(boxes[:, 3], boxes[:, 4]).max()) / 2 + _SHELL
    first, last = np.searchsorted(xyz[:, 0], (x - reach, x + reach))
    close = xyz[first:last]
    close = close[np.abs(close[:, 1] - y) <= reach]
    if not len(close):
        return np.zeros(len(boxes)), np.zeros(len(boxes), np.int64)
    dx, dy = close[:, 0] - x, close[:, 1] - y
    cos, sin = np.cos(boxes[:, 6:]), np.sin(boxes[:, 6:])
    local = np.stack([cos * dx + sin * dy, cos * dy - sin * dx, close[:, 2] - boxes[:, 2:3]])  # [3, H, P]
    half = boxes[:, 3:6].T[:, :, None] / 2
    inside = (np.abs(local) <= half * (1 + _SLACK) + _MARGIN).all(0)
    seen = (np.abs(local) <= half + _SHELL).all(0) | inside
    low, high = (np.where(inside, local, sign * np.inf) for sign in (1, -1))
    span = np.clip((high.max(2) - low.min(2)) / (2 * half[:, :, 0]), 0, 1).mean(0)
    count = seen.sum(1)
    return inside.sum(1) / np.maximum(count, 1) * span, count
