"""Clouds as still pictures: points as small balls, the nearer in front, with dark rims where depth jumps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# viewer.js draws with the same numbers, so that a still and the view that takes its place look alike.
DISTANCE = 3.2  # of the eye from the middle, in radii of what is shown
FILL = 0.88  # share of the picture that the sphere around it takes
RIM = 1.4  # how much darker what lies behind a nearby edge is, for each radius of depth
HAZE = 0.4  # how much of the farthest point the page shines through
FINE = 2  # pixels drawn for each one shown, along both axes
POINT = 0.45  # radius of a single point, in sides of the picture; each of n is drawn √n times as small
_TAIL = 3.0  # times the median distance: what is farther out is a tail
LARGEST = 12.0  # pixels of a point's radius, at most


@dataclass(frozen=True)
class Eye:
    """Where a cloud is looked at from: ``turn`` about the vertical axis and ``tilt`` above the horizon in degrees."""

    turn: float = 30.0
    tilt: float = 25.0

    def see(self, points: np.ndarray) -> np.ndarray:
        """Points [N, 3] to what lies across, up and away [N, 3], in the same unit."""
        (cos_turn, sin_turn), (cos_tilt, sin_tilt) = (
            (np.cos(angle), np.sin(angle)) for angle in np.deg2rad([self.turn, self.tilt])
        )
        across = points[:, 0] * cos_turn + points[:, 1] * sin_turn
        away = points[:, 1] * cos_turn - points[:, 0] * sin_turn
        up = points[:, 2] * cos_tilt + away * sin_tilt
        return np.stack([across, up, away * cos_tilt - points[:, 2] * sin_tilt], axis=1)


def fit(xyz: np.ndarray) -> tuple[np.ndarray, float]:
    """The middle of points [N, 3] and a radius around it that has them all; but of a cloud with far tails, as a LiDAR
    sweep has, only four fifths, so that what is near can be seen."""
    if not len(xyz):
        return np.zeros(3), 1.0
    middle = np.percentile(xyz, [1, 99], axis=0).mean(0)
    distance = np.linalg.norm(xyz - middle, axis=1)
    if distance.max() > _TAIL * np.median(distance):
        middle = np.median(xyz, axis=0)
        distance = np.linalg.norm(xyz - middle, axis=1)
        return middle, max(1.1 * float(np.percentile(distance, 80)), 1e-9)
    return middle, max(float(distance.max()), 1e-9)


def render(
    xyz: np.ndarray, colour: np.ndarray | None = None, sides: int = 4, size: int = 112, frame: np.ndarray | None = None
) -> np.ndarray:
    """Points [N, 3] (z up) to pictures uint8 RGBA [``sides``, ``size``, ``size``, 4], one a side, all at even turns.

    ``colour`` float [N, 3] in 0 … 1 (default: by height). ``frame`` [M, 3]: the points that are to fit in the picture
    (default: these), so that several clouds are drawn to one scale.
    """
    middle, radius = fit(xyz if frame is None or not len(frame) else frame)
    points, shown = (xyz - middle) / radius, by_height(xyz) if colour is None else colour
    eyes = [Eye(30 + 360 * side / sides) for side in range(sides)]
    return np.stack([shrink(draw(points, shown, eye, FINE * size)) for eye in eyes])


def draw(points: np.ndarray, colour: np.ndarray, eye: Eye, size: int, most: int | None = None) -> np.ndarray:
    """Points [N, 3] of which the unit sphere fills the picture, and their colours in 0 … 1, to float RGBA
    [``size``, ``size``, 4] in 0 … 1, not multiplied by alpha. ``most``: points of the largest of the clouds that are
    drawn beside it, so that all have points of one size."""
    depth, owner, light = _splat(points, eye, size, point_radius(most or len(points), size))
    there = owner >= 0
    picture = np.zeros((size, size, 4))
    if not there.any():
        return picture
    ink = colour[owner[there]] * (light * _rims(depth))[there][:, None]
    picture[there, :3] = ink.clip(0, 1)
    picture[there, 3] = 1 - HAZE * (depth[there] / 2).clip(0, 1)
    return picture


def place(points: np.ndarray, eye: Eye, size: int) -> np.ndarray:
    """Column, row and depth [N, 3] of points in a picture of ``size``; the depth is 0 at the near end of the unit
    sphere and 2 at the far one."""
    across, up, away = eye.see(points).T
    near = size / 2 * FILL * DISTANCE / np.maximum(DISTANCE + away, 0.3)
    return np.stack([size / 2 + across * near, size / 2 - up * near, 1 + away], axis=1)


def point_radius(count: int, size: int) -> float:
    """How large points are drawn, in pixels: the more there are the smaller, so that they make a surface."""
    return float(np.clip(POINT * size / max(1, count) ** 0.5, 0.5, LARGEST * size / 440))


def _splat(points: np.ndarray, eye: Eye, size: int, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, number of the point (-1: none) and light [``size``, ``size``] of what is seen at each pixel."""
    depth = np.full((size, size), np.inf)
    owner = np.full((size, size), -1)
    light = np.ones((size, size))
    placed = place(points, eye, size)
    order = np.argsort(-placed[:, 2], kind="stable")  # of those at one pixel the nearest is written last
    column, row = np.floor(placed[order, :2]).astype(int).T
    away = placed[order, 2]
    for right, down, bright in _ball(radius):
        x, y = column + right, row + down
        inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
        x, y, z, number = x[inside], y[inside], away[inside], order[inside]
        nearer = z < depth[y, x]
        y, x = y[nearer], x[nearer]
        depth[y, x], owner[y, x], light[y, x] = z[nearer], number[nearer], bright
    return depth, owner, light


def _ball(radius: float) -> Sequence[tuple[int, int, float]]:
    """The pixels of a ball, as steps right and down from its middle, and how much light falls on each."""
    reach = int(radius)
    steps = [(x, y) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1) if x * x + y * y <= radius**2]
    if radius < 2.5:
        return [(x, y, 1.0) for x, y in steps]
    pixels = []
    for x, y in steps:
        out = (1 - (x * x + y * y) / (radius + 0.5) ** 2) ** 0.5
        pixels.append((x, y, 0.62 + 0.46 * max(0.0, (-0.4 * x - 0.6 * y) / (radius + 0.5) + 0.69 * out)))
    return pixels


def _rims(depth: np.ndarray) -> np.ndarray:
    """Factors of light [S, S]: darker where something near stands out in front (eye-dome lighting, Boucheny 2009)."""
    step = max(1, round(len(depth) / 300))
    padded = np.pad(depth, step, constant_values=np.inf)
    known, behind = np.where(np.isfinite(depth), depth, 0), np.zeros_like(depth)
    for down, right in ((0, 1), (2, 1), (1, 0), (1, 2)):
        rows, columns = (slice(k * step, k * step + len(depth)) for k in (down, right))
        behind += np.maximum(0, known - padded[rows, columns])
    return np.exp(-RIM * behind / 4)


def shrink(picture: np.ndarray) -> np.ndarray:
    """Float RGBA [F S, F W, 4] to uint8 [S, W, 4], F = ``FINE``: the mean, colours weighted by alpha."""
    height, width = picture.shape[0] // FINE, picture.shape[1] // FINE
    cells = picture.reshape(height, FINE, width, FINE, 4)
    alpha = cells[..., 3:]
    total = alpha.sum((1, 3))
    colour = np.divide((cells[..., :3] * alpha).sum((1, 3)), total, out=np.ones((height, width, 3)), where=total > 0)
    return (255 * np.concatenate([colour, total / FINE**2], 2)).round().astype(np.uint8)


def by_height(xyz: np.ndarray) -> np.ndarray:
    """Blue at the bottom over green to orange at the top, float [N, 3] in 0 … 1."""
    stops = np.array(
        [[0.21, 0.29, 0.69], [0.16, 0.55, 0.72], [0.22, 0.68, 0.48], [0.85, 0.71, 0.25], [0.88, 0.42, 0.2]]
    )
    if not len(xyz):
        return np.zeros((0, 3))
    low, high = np.percentile(xyz[:, 2], [1, 99])  # the mast or the hole of a LiDAR sweep takes no colour of the others
    share = (xyz[:, 2] - low) / max(float(high - low), 1e-9)
    return np.stack([np.interp(share, np.linspace(0, 1, len(stops)), stops[:, i]) for i in range(3)], axis=1)
