"""Clouds as pictures: seen from a few sides at once, nearer points in front."""

from __future__ import annotations

import numpy as np

_UP = np.deg2rad(25)  # how far the eye is above the horizon


def render(
    xyz: np.ndarray, colour: np.ndarray | None = None, sides: int = 4, size: int = 112, frame: np.ndarray | None = None
) -> np.ndarray:
    """Points [N, 3] (z up) to pictures uint8 [``sides``, ``size``, ``size``, 3], one a side, all at even turns.

    ``colour`` float [N, 3] in 0 … 1 (default: by height). ``frame`` [M, 3]: the points that are to fit in the picture
    (default: these), so that several clouds are drawn to one scale.
    """
    known = xyz if frame is None or not len(frame) else frame
    pictures = np.full((sides, size, size, 3), 255, np.uint8)
    if not len(xyz):
        return pictures
    centre = (known.min(0) + known.max(0)) / 2
    radius = max(float(np.linalg.norm(known - centre, axis=1).max()), 1e-9)
    points = (xyz - centre) / radius
    shown = _by_height(points[:, 2]) if colour is None else colour
    for side, turn in enumerate(np.arange(sides) * 2 * np.pi / sides + np.pi / 6):
        pictures[side] = _seen(points, shown, turn, size)
    return pictures


def _seen(points: np.ndarray, colour: np.ndarray, turn: float, size: int) -> np.ndarray:
    """One picture of points in the unit sphere. Far ones are paler."""
    across = points[:, :2] @ np.array([np.cos(turn), np.sin(turn)])
    away = points[:, :2] @ np.array([-np.sin(turn), np.cos(turn)])
    up = points[:, 2] * np.cos(_UP) + away * np.sin(_UP)
    depth = away * np.cos(_UP) - points[:, 2] * np.sin(_UP)
    column, row = ((size / 2 * (1 + 0.95 * value)).astype(int).clip(0, size - 2) for value in (across, -up))
    pale = (0.25 * (1 + depth) / 2).clip(0, 0.5)[:, None]
    ink = (255 * (colour * (1 - pale) + pale)).round().clip(0, 255).astype(np.uint8)
    picture = np.full((size, size, 3), 255, np.uint8)
    order = np.argsort(-depth, kind="stable")  # the nearest is drawn last
    for down in (0, 1):  # a point is two pixels wide and high
        for right in (0, 1):
            picture[row[order] + down, column[order] + right] = ink[order]
    return picture


def _by_height(height: np.ndarray) -> np.ndarray:
    """Blue at the bottom over green to orange at the top, [N, 3]."""
    stops = np.array([[0.15, 0.25, 0.65], [0.1, 0.6, 0.5], [0.9, 0.55, 0.1]])
    share = (height - height.min()) / max(float(np.ptp(height)), 1e-9)
    return np.stack([np.interp(share, [0.0, 0.5, 1.0], stops[:, i]) for i in range(3)], axis=1)
