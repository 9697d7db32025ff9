"""Clouds to look at side by side: which of their points are shown, in which colours, from where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from st_ssl.augment.point_cuts import one_per_voxel
from st_ssl.core.random import keyed_rng
from st_ssl.report.clouds import Eye, by_height, fit

MOST = 16_000  # points shown of a cloud: 192 kB in the page, and 64 kB for every other colouring of them
GREY = (0.62, 0.64, 0.67)


@dataclass(frozen=True)
class Cloud:
    """``xyz`` float [N, 3], z up, ``colour`` float [N, 3] in 0 … 1, and the lines of a caption."""

    caption: list[str]
    xyz: np.ndarray
    colour: np.ndarray


@dataclass(frozen=True)
class Links:
    """Lines from points ``start`` float [K, 3] of the first cloud of a scene to points ``end`` [K, 3] of the second,
    with ``colour`` float [K, 3] in 0 … 1."""

    start: np.ndarray
    end: np.ndarray
    colour: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Clouds side by side that turn together. ``shared``: they lie in one frame, that of the first with
    points; otherwise each is centred for itself, all to one scale."""

    name: str
    labels: list[tuple[str, str]]
    clouds: list[Cloud]
    eye: Eye
    links: Links | None = None
    shared: bool = True

    def frames(self) -> list[tuple[np.ndarray, float]]:
        """The middle and the radius that each cloud is drawn with."""
        found = [fit(cloud.xyz) for cloud in self.clouds]
        known = [frame for frame, cloud in zip(found, self.clouds, strict=True) if len(cloud.xyz)] or found
        if self.shared:
            return known[:1] * len(found)
        radius = max(radius for _, radius in known)
        return [(middle, radius) for middle, _ in found]


def eye_for(unit_sphere: bool) -> Eye:
    """Objects are seen from the side, scenes from above."""
    return Eye(30, 22) if unit_sphere else Eye(30, 48)


def choose(xyz: np.ndarray, unit_sphere: bool, most: int = MOST) -> np.ndarray:
    """Which points [M] of a cloud [N, 3] to show, ascending: ``most`` at most, spread evenly in space, since scanners
    see a hundred times as much of what is near; of a room with a ceiling those below it, or nothing else was seen."""
    index = np.arange(len(xyz)) if unit_sphere else np.flatnonzero(~_ceiling(xyz))
    if len(index) <= most:
        return index
    rng = keyed_rng("shown", len(xyz))
    if unit_sphere:
        return np.sort(rng.permutation(index)[:most])
    low, high = 0.0, fit(xyz)[1]
    chosen = index[:0]
    for _ in range(12):
        side = (low + high) / 2
        found = index[one_per_voxel(xyz[index], side, rng)]
        if len(found) > most:
            low = side
        else:
            high, chosen = side, found
    return chosen


def _ceiling(xyz: np.ndarray) -> np.ndarray:
    """Which points are of a layer at the top that covers most of what is below, bool [N]."""
    nothing = np.zeros(len(xyz), bool)
    if len(xyz) < 100:
        return nothing
    low, top = np.percentile(xyz, [1, 99.8], axis=0)
    sides = np.maximum(top - low, 1e-9)
    cell = ((xyz[:, :2] - low[:2]) / sides[:2] * 12).astype(int).clip(0, 11) @ np.array([12, 1])
    layer = xyz[:, 2] > top[2] - 0.07 * sides[2]
    below = xyz[:, 2] < low[2] + 0.5 * sides[2]
    covered, there = np.unique(cell[layer]), np.unique(cell[below])
    return layer if len(np.intersect1d(covered, there)) > 0.6 * len(there) else nothing


def natural(xyz: np.ndarray, color: np.ndarray | None) -> np.ndarray:
    """The colours [N, 3] that points have, brightened where all are dark; by height where they have none."""
    if color is None or not len(color):
        return by_height(xyz)
    return (color * max(1.0, 0.6 / max(float(np.percentile(color, 95)), 0.2))).clip(0, 1)
