"""Where the rays of a spinning LiDAR meet parts. All pairs of a ray and a part that may meet are tried at once: a part
is tried with the rays between the angles at which its bounding box is seen.

The sensor stands upright in the origin. Ray r = beam * columns + column; R rays, P parts, Q pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from st_ssl.data.synthetic.drives.bodies import BLOCK, CYLINDER, Parts

Array = np.ndarray


@dataclass(frozen=True)
class Rays:
    """Unit directions [R, 3] of ``beams`` rings, the lowest first, of ``columns`` rays each; column 0 looks ahead, the
    next to its left. ``slopes`` [beams]: tangents of the elevation."""

    beams: int
    columns: int
    slopes: Array
    directions: Array


@lru_cache(maxsize=4)
def spin(beams: int, columns: int, lowest: float, highest: float) -> Rays:
    """Rings at equal angles between two elevations in degrees."""
    up = np.radians(np.linspace(lowest, highest, beams))
    around = 2 * np.pi * np.arange(columns) / columns
    level = np.broadcast_to(np.cos(up)[:, None], (beams, columns))
    grid = [level * np.cos(around), level * np.sin(around), np.broadcast_to(np.sin(up)[:, None], level.shape)]
    return Rays(beams, columns, np.tan(up), np.stack(grid, axis=-1).reshape(-1, 3))


@dataclass(frozen=True)
class Pairs:
    """Rays and parts that meet, alone: indices [Q], where the ray enters and leaves, in metres, and the cosine of the
    angle between ray and surface normal."""

    ray: Array
    part: Array
    enter: Array
    leave: Array
    cosine: Array


def meet(rays: Rays, parts: Parts) -> Pairs:
    """Every ray with every part that it would meet if there were no other."""
    ray, part = _candidates(rays, parts)
    enter, leave, cosine = (np.full(len(ray), np.inf) for _ in range(3))
    c, s = np.cos(parts.yaw), np.sin(parts.yaw)
    x, y, z = parts.centre.T
    start = np.stack([-c * x - s * y, s * x - c * y, -z], axis=1)  # of the rays, along the axes of each part
    dx, dy, dz = rays.directions[ray].T
    turned = np.stack([c[part] * dx + s[part] * dy, c[part] * dy - s[part] * dx, dz], axis=1)
    for kind in np.unique(parts.kind):
        own = np.flatnonzero(parts.kind[part] == kind)
        which = part[own]
        if kind == BLOCK:
            found = _block(start, parts.half, parts.top, which, turned[own])
        else:
            solid = _cylinder if kind == CYLINDER else _ellipsoid
            found = solid(start[which] / parts.half[which], turned[own], parts.half[which])
        enter[own], leave[own], cosine[own] = found
    hit = np.flatnonzero((enter > 0) & (enter < leave))
    return Pairs(ray[hit], part[hit], enter[hit], leave[hit], cosine[hit])


def _candidates(rays: Rays, parts: Parts) -> tuple[Array, Array]:
    """Indices of rays [Q] and parts [Q]."""
    reach = np.maximum(parts.top, 1.0)
    half = parts.half[:, :2] * np.stack([np.maximum(reach[:, 0], reach[:, 1]), reach[:, 2]], axis=1)
    c, s = np.cos(parts.yaw), np.sin(parts.yaw)
    x, y, z = parts.centre.T
    local = np.abs(np.stack([c * x + s * y, c * y - s * x], axis=1))
    near = np.hypot(*np.maximum(local - half, 0.0).T)
    far = np.hypot(*(local + half).T)
    corners = []
    for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1)):
        u, v = a * half[:, 0], b * half[:, 1]
        corners.append(np.arctan2(y + s * u + c * v, x + c * u - s * v))
    middle = np.arctan2(y, x)
    apart = (np.array(corners) - middle + np.pi) % (2 * np.pi) - np.pi
    step = 2 * np.pi / rays.columns
    first = np.ceil((middle + apart.min(0)) / step - 1e-9).astype(np.int64)
    width = np.floor((middle + apart.max(0)) / step + 1e-9).astype(np.int64) - first + 1
    within = near < 1e-6  # the sensor stands below or above it, or in it
    first, width = np.where(within, 0, first), np.where(within, rays.columns, width)
    low, high = z - parts.half[:, 2], z + parts.half[:, 2]
    near = np.maximum(near, 1e-6)
    lowest = np.searchsorted(rays.slopes, np.minimum(low / near, low / far) - 1e-9)
    number = np.searchsorted(rays.slopes, np.maximum(high / near, high / far) + 1e-9) - lowest
    count = np.maximum(width * number, 0)
    part = np.repeat(np.arange(len(parts)), count)
    place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    beam, column = np.divmod(place, width[part])
    return (lowest[part] + beam) * rays.columns + (first[part] + column) % rays.columns, part


def _block(start: Array, half: Array, top: Array, which: Array, direction: Array) -> tuple[Array, Array, Array]:
    """Six planes, n · p ≤ c: a ray enters behind the last that it comes in through and leaves by the first out."""
    (x, y, z), (front, back, side) = half.T, top.T
    one, none = np.ones(len(half)), np.zeros(len(half))
    planes = (
        ((one, none, x * (1 - front) / (2 * z)), x * (1 + front) / 2),
        ((-one, none, x * (1 - back) / (2 * z)), x * (1 + back) / 2),
        ((none, one, y * (1 - side) / (2 * z)), y * (1 + side) / 2),
        ((none, -one, y * (1 - side) / (2 * z)), y * (1 + side) / 2),
        ((none, none, one), z),
        ((none, none, -one), z),
    )
    enter, leave, cosine = np.full(len(which), -np.inf), np.full(len(which), np.inf), np.zeros(len(which))
    dx, dy, dz = direction.T
    for (nx, ny, nz), c in planes:
        inside = (c - nx * start[:, 0] - ny * start[:, 1] - nz * start[:, 2])[which]  # how far, times the length of n
        length = np.sqrt(nx * nx + ny * ny + nz * nz)[which]
        rise = nx[which] * dx + ny[which] * dy + nz[which] * dz
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = inside / rise
        into = (rise < 0) & (distance > enter)
        enter[into], cosine[into] = distance[into], -(rise / length)[into]
        out = (rise > 0) & (distance < leave)
        leave[out] = distance[out]
        leave[(rise == 0) & (inside < 0)] = -np.inf
    return enter, leave, cosine


def _ellipsoid(start: Array, turned: Array, half: Array) -> tuple[Array, Array, Array]:
    """In units of its half sizes it is a ball."""
    direction = turned / half
    a, b, c = (direction**2).sum(1), (direction * start).sum(1), (start**2).sum(1) - 1.0
    with np.errstate(invalid="ignore"):
        root = np.sqrt(b * b - a * c)
    enter = (-b - root) / a
    normal = (start + enter[:, None] * direction) / half
    cosine = -(normal * turned).sum(1) / np.sqrt((normal**2).sum(1))
    return enter, (-b + root) / a, cosine


def _cylinder(start: Array, turned: Array, half: Array) -> tuple[Array, Array, Array]:
    direction = turned / half
    flat, rise = direction[:, :2], direction[:, 2]
    a, b = (flat**2).sum(1), (flat * start[:, :2]).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(b * b - a * ((start[:, :2] ** 2).sum(1) - 1.0))
        mantle, lid = (-b - root) / a, (-np.sign(rise) - start[:, 2]) / rise
        lid = np.where(rise == 0, np.where(np.abs(start[:, 2]) <= 1, -np.inf, np.inf), lid)
        last = np.where(rise == 0, np.inf, (np.sign(rise) - start[:, 2]) / rise)
    normal = (start[:, :2] + mantle[:, None] * flat) / half[:, :2]
    around = -(normal * turned[:, :2]).sum(1) / np.sqrt((normal**2).sum(1))
    cosine = np.where(lid > mantle, np.abs(turned[:, 2]), around)
    return np.maximum(mantle, lid), np.minimum((-b + root) / a, last), cosine
