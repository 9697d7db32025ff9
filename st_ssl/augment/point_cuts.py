"""Which points of a cloud a view keeps: index arrays int64, drawn in the worker. N points, K of them kept."""

from __future__ import annotations

import math

import numpy as np

_TRIES = 10  # of the frustum, before the one that saw most is taken
_BEAM = math.radians(0.2)  # finer than the beams of a LiDAR lie apart


def nearest_share(distance: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` points of smallest ``distance`` [N], in the cloud's order."""
    if count >= len(distance):
        return np.arange(len(distance))
    return np.sort(np.argpartition(distance, count)[:count])


def sphere(xyz: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The ``count`` points nearest to one of them: what lies in a sphere around it."""
    return nearest_share(((xyz - xyz[rng.integers(len(xyz))]) ** 2).sum(1), count)


def cuboid(xyz: np.ndarray, count: int, aspect: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """The ``count`` points that the smallest box around one of them holds; the sides of the box are those of the cloud,
    each times a factor drawn from ``aspect``."""
    extent = xyz.max(0) - xyz.min(0)
    sides = np.where(extent > 0, extent, 1.0) * rng.uniform(*aspect, size=3)
    return nearest_share((np.abs(xyz - xyz[rng.integers(len(xyz))]) / sides).max(1), count)


def some_beams(xyz: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Without a ``share`` of the beams of a LiDAR at the origin: of the angles above the horizon, in steps of 0.2°."""
    lost = rng.random(math.ceil(math.pi / _BEAM) + 1) < share
    pitch = np.arctan2(xyz[:, 2], np.hypot(xyz[:, 0], xyz[:, 1]))
    return np.flatnonzero(~lost[((pitch + math.pi / 2) / _BEAM).astype(np.int64)])


def faded(xyz: np.ndarray, half: float, rng: np.random.Generator) -> np.ndarray:
    """What is left of points that lose half of them with every ``half`` metres from the origin."""
    return np.flatnonzero(rng.random(len(xyz)) < 0.5 ** (np.linalg.norm(xyz, axis=1) / half))


def frustum(
    xyz: np.ndarray,
    field_of_view: float,
    distance: tuple[float, float],
    occlusion: bool,
    least: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """The points that a camera sees: a square image of ``field_of_view`` degrees, at a height of up to 60 degrees above
    one of the points, looking at it from ``distance`` (low, high) times the radius of the cloud; with ``occlusion``
    without those behind others. Of ten draws the first that sees ``least`` points, or else the one that saw most."""
    radius = float(np.sqrt(((xyz - xyz.mean(0)) ** 2).sum(1).max()))
    best = np.arange(0)
    for _ in range(_TRIES):
        target = xyz[rng.integers(len(xyz))].astype(np.float64)
        azimuth, sine = 2 * math.pi * rng.random(), math.sin(math.pi / 3) * rng.random()
        away = np.array([math.cos(azimuth), math.sin(azimuth), 0.0]) * math.sqrt(1 - sine**2) + [0.0, 0.0, sine]
        eye = target + away * radius * rng.uniform(*distance)
        seen = _in_view(xyz, eye, -away, field_of_view, occlusion)
        if len(seen) > len(best):
            best = seen
        if len(best) >= least:
            break
    return best


def _in_view(xyz: np.ndarray, eye: np.ndarray, forward: np.ndarray, field_of_view: float, hidden: bool) -> np.ndarray:
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    ray = xyz - eye
    depth, across, above = (ray @ axis for axis in (forward, right, up))
    half = math.tan(math.radians(field_of_view / 2))
    inside = np.flatnonzero((depth > 0) & (np.abs(across) < half * depth) & (np.abs(above) < half * depth))
    if not hidden or len(inside) == 0:
        return inside
    depth = depth[inside]
    image = np.stack([across[inside] / depth, above[inside] / depth], axis=1) / half
    return inside[in_front(image, depth, resolution=max(4, round(math.sqrt(len(inside)) / 2)))]


def in_front(image: np.ndarray, depth: np.ndarray, resolution: int, tolerance: float | None = None) -> np.ndarray:
    """The points that a depth buffer of ``resolution`` x ``resolution`` cells over -1 … 1 shows: those less than
    ``tolerance`` (by default 1.5 sides of a cell at its depth for a view of 90 degrees) behind the nearest of their
    cell. ``image`` [N, 2], ``depth`` [N]; returns int64 [K], sorted."""
    place = np.clip(((image + 1) * (resolution / 2)).astype(np.int64), 0, resolution - 1)
    cell = place[:, 0] * resolution + place[:, 1]
    front = np.full(resolution * resolution, np.inf)
    np.minimum.at(front, cell, depth)
    nearest = front[cell]
    return np.flatnonzero(depth <= nearest + (3.0 / resolution * nearest if tolerance is None else tolerance))


def voxel_keys(xyz: np.ndarray, size: float) -> tuple[np.ndarray, int]:
    """The number of the voxel of side ``size`` that each point is in, int64 [N], ascending by x, then y, then z, and
    how many there may be."""
    key, cells = np.zeros(len(xyz), dtype=np.int64), 1
    for column in xyz.T:
        cell = np.floor((column - column.min()) / size).astype(np.int64)
        extent = int(cell.max()) + 1
        if cells * extent > 1 << 63:  # ranks in place of numbers: no more than there are points
            key, cell = (np.unique(values, return_inverse=True)[1] for values in (key, cell))
            cells = extent = len(xyz)
        key, cells = key * extent + cell, cells * extent
    return key, cells


def one_per_voxel(xyz: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """A random point of each voxel of side ``size``, in the cloud's order."""
    key, cells = voxel_keys(xyz, size)
    shuffled = rng.permutation(len(xyz))
    bits = len(xyz).bit_length()
    if cells << bits > 1 << 63:
        return np.sort(shuffled[np.unique(key[shuffled], return_index=True)[1]])
    # The same in half the time: numbers with the voxel above and the place below are sorted as they are.
    ordered = key[shuffled] << bits | np.arange(len(xyz))
    ordered.sort()
    first = np.ones(len(xyz), dtype=bool)
    np.not_equal(ordered[1:] >> bits, ordered[:-1] >> bits, out=first[1:])
    return np.sort(shuffled[ordered[first] & ((1 << bits) - 1)])


def exactly(count: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """``number`` of ``count`` points: a random subset, in random order; where there are too few all of them, and then
    random ones again."""
    chosen = rng.permutation(count)[:number]
    return chosen if number <= count else np.concatenate([chosen, rng.integers(count, size=number - count)])
