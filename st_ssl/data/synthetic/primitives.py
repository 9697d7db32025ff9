"""Solids that objects and rooms are built from: points on their surfaces, what is inside, and where rays meet them.

Every solid is one of unit size (within -1 … 1) under an affine map, so that areas and normals follow from the map.
N points or rays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Array = np.ndarray
Kind = Literal["box", "frustum", "ellipsoid", "superquadric", "torus"]
_SKIN = 1e-4  # what is less than this share below a surface counts as being on it


def turned(yaw: float) -> Array:
    """The rotation [3, 3] about z by an angle in radians."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Solid:
    """One solid: ``kind`` of half sizes ``size`` (3,), turned by ``turn`` (3, 3) and moved to ``centre`` (3,).

    ``label`` says what it is a part of. ``frustum``: a cone cut off, of radius 1 below and ``shape[0]`` above (a
    cylinder: 1, a cone: 0). ``superquadric`` (Barr, 1981): its exponents are ``shape`` (north-south, east-west; 1 is
    round, towards 0 a box, 2 an octahedron). ``torus``: about z, its ring 1 - r from the middle, its tube of radius
    r = ``shape[0]`` across and 1 up.
    """

    kind: Kind
    label: int
    centre: Array
    size: Array
    turn: Array
    shape: tuple[float, float] = (1.0, 1.0)

    def moved(self, turn: Array, to: Array, scale: float) -> Solid:
        """Scaled, then turned by ``turn`` (3, 3), then moved by ``to`` (3,)."""
        return replace(self, centre=turn @ self.centre * scale + to, size=self.size * scale, turn=turn @ self.turn)

    @property
    def area(self) -> float:
        """About the area of the surface: that of its box."""
        a, b, c = self.size
        return float(8 * (a * b + b * c + c * a))

    def local(self, points: Array) -> Array:
        """Points [N, 3] in the coordinates in which the solid has unit size."""
        return ((points - self.centre) @ self.turn) / self.size

    def inside(self, points: Array) -> Array:
        """Which of ``points`` [N, 3] lie within, and not on the surface: bool [N]."""
        return _level(self, self.local(points)) < 1.0 - _SKIN

    def surface(self, count: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """``count`` points of the surface [N, 3], their outward normals [N, 3], and the area that each stands for [N]:
        where it is large they are sparse."""
        points, normals, area = _unit_surface(self, count, rng)
        normals = normals / self.size
        stretch = np.sqrt((normals**2).sum(1))
        moved = (points * self.size) @ self.turn.T + self.centre
        return moved, (normals / stretch[:, None]) @ self.turn.T, area * stretch * np.prod(self.size) / count

    def cast(self, origin: Array, rays: Array) -> tuple[Array, Array]:
        """Where ``rays`` [N, 3] from outside at ``origin`` (3,) enter: the distance [N] in lengths of the ray (inf
        where they miss), and the outward normal there [N, 3]. Of boxes, frustums and ellipsoids."""
        start, direction = self.local(origin[None])[0], (rays @ self.turn) / self.size
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.kind == "box":
                distance, normals = _cast_box(start, direction)
            elif self.kind == "frustum":
                distance, normals = _cast_frustum(self.shape[0], start, direction)
            else:
                assert self.kind == "ellipsoid", f"where rays meet a {self.kind} is not known"
                distance, normals = _cast_ball(start, direction)
        normals = normals / self.size
        length = np.sqrt((normals**2).sum(1, keepdims=True))
        return distance, (normals / np.where(length > 0, length, 1.0)) @ self.turn.T


def _level(solid: Solid, at: Array) -> Array:
    """Below 1 inside the unit solid, 1 on its surface."""
    x, y, z = np.abs(at[:, 0]), np.abs(at[:, 1]), np.abs(at[:, 2])
    if solid.kind == "box":
        return np.maximum(np.maximum(x, y), z)
    if solid.kind == "ellipsoid":
        return x * x + y * y + z * z
    if solid.kind == "superquadric":
        return _superquadric(solid.shape, x, y, z)
    radius = np.sqrt(x * x + y * y)
    if solid.kind == "frustum":
        edge = 1.0 + (solid.shape[0] - 1.0) * (at[:, 2] + 1.0) / 2.0
        return np.maximum(np.where(edge > 0, radius / np.where(edge > 0, edge, 1.0), 2.0), z)
    tube = solid.shape[0]
    return ((radius - (1.0 - tube)) / tube) ** 2 + z * z


def _superquadric(shape: tuple[float, float], x: Array, y: Array, z: Array) -> Array:
    north, east = shape
    return (x ** (2 / east) + y ** (2 / east)) ** (east / north) + z ** (2 / north)


def _unit_surface(solid: Solid, count: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Points and normals of the unit solid [N, 3], and the area [N] that each stands for times ``count``."""
    if solid.kind == "box":
        return _box_surface(count, rng)
    if solid.kind == "frustum":
        return _frustum_surface(solid.shape[0], count, rng)
    if solid.kind == "torus":
        return _torus_surface(solid.shape[0], count, rng)
    direction = rng.normal(size=(count, 3))
    direction /= np.sqrt((direction**2).sum(1, keepdims=True))
    if solid.kind == "ellipsoid":
        return direction, direction, np.full(count, 4 * np.pi)
    # The area that a direction sees is r² / cos of the angle between it and the normal.
    north, east = solid.shape
    x, y, z = np.abs(direction).T
    points = direction * _superquadric(solid.shape, x, y, z)[:, None] ** (-north / 2)
    x, y, z = np.abs(points).T
    level = (x ** (2 / east) + y ** (2 / east)) ** (east / north - 1)
    slope = np.stack([level * x ** (2 / east - 1), level * y ** (2 / east - 1), z ** (2 / north - 1)], axis=1)
    normals = np.sign(points) * slope / np.sqrt((slope**2).sum(1, keepdims=True))
    return points, normals, 4 * np.pi * (points**2).sum(1) / np.maximum((normals * direction).sum(1), 1e-6)


def _box_surface(count: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    points = rng.uniform(-1, 1, (count, 3))
    axis, side = np.arange(count) % 3, np.where(np.arange(count) % 6 < 3, -1.0, 1.0)
    points[np.arange(count), axis] = side
    return points, np.eye(3)[axis] * side[:, None], np.full(count, 24.0)


def _frustum_surface(top: float, count: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    angle, height = rng.uniform(0, 2 * np.pi, count), rng.uniform(-1, 1, count)
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    radius, rise = 1.0 + (top - 1.0) * (height + 1.0) / 2.0, (1.0 - top) / 2.0
    slant = np.sqrt(1.0 + rise * rise)
    points = np.column_stack([around * radius[:, None], height])
    normals = np.column_stack([around / slant, np.full(count, rise / slant)])
    area = 4 * np.pi * radius * slant * 2  # of each second point a cap, so these stand for twice as much
    cap = np.flatnonzero(np.arange(count) % 2)
    side, edge = np.where(cap % 4 == 1, -1.0, 1.0), np.where(cap % 4 == 1, 1.0, top)
    points[cap] = np.column_stack([around[cap] * (edge * np.sqrt(rng.random(len(cap))))[:, None], side])
    normals[cap] = side[:, None] * [0.0, 0.0, 1.0]
    area[cap] = 4 * np.pi * edge**2
    return points, normals, area


def _torus_surface(tube: float, count: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    u, v = rng.uniform(0, 2 * np.pi, (2, count))
    across = np.stack([np.cos(u), np.sin(u)], axis=1)
    radius = (1.0 - tube) + tube * np.cos(v)
    normals = np.column_stack([across * (np.cos(v) / tube)[:, None], np.sin(v)])
    length = np.sqrt((normals**2).sum(1, keepdims=True))
    area = 4 * np.pi**2 * radius * tube * length[:, 0]  # of a torus of tube r by r, made 1 high
    return np.column_stack([across * radius[:, None], np.sin(v)]), normals / length, area


def _cast_box(start: Array, direction: Array) -> tuple[Array, Array]:
    near, far = (-1.0 - start) / direction, (1.0 - start) / direction
    near, far = np.minimum(near, far), np.maximum(near, far)
    axis = np.argmax(near, axis=1)
    enter = near[np.arange(len(near)), axis]
    hit = (enter <= far.min(axis=1)) & (enter > 0)
    normals = np.zeros_like(direction)
    rows = np.arange(len(direction))
    normals[rows, axis] = -np.sign(direction[rows, axis])
    return np.where(hit, enter, np.inf), normals


def _cast_frustum(top: float, start: Array, direction: Array) -> tuple[Array, Array]:
    """The mantle is x² + y² = (m + g z)², with m its radius at z = 0 and g its growth."""
    middle, growth = (1.0 + top) / 2.0, (top - 1.0) / 2.0
    flat, rise = direction[:, :2], direction[:, 2]
    radius = middle + growth * start[2]
    a = (flat**2).sum(1) - (growth * rise) ** 2
    b = flat @ start[:2] - growth * radius * rise
    root = np.sqrt(b * b - a * (start[:2] @ start[:2] - radius**2))
    mantle = np.full(len(direction), np.inf)
    for distance in ((-b - root) / a, (-b + root) / a):
        valid = (distance > 0) & (np.abs(start[2] + distance * rise) <= 1.0) & (distance < mantle)
        mantle = np.where(valid, distance, mantle)
    normals = np.zeros_like(direction)
    side = np.isfinite(mantle)
    normals[side, :2] = start[:2] + mantle[side, None] * flat[side]
    normals[side, 2] = -growth * (middle + growth * (start[2] + mantle[side] * rise[side]))
    for lid, edge in ((-1.0, 1.0), (1.0, top)):
        distance = (lid - start[2]) / rise
        on_lid = ((start[:2] + distance[:, None] * flat) ** 2).sum(1) <= edge**2
        nearer = (distance > 0) & on_lid & (distance < mantle)
        mantle = np.where(nearer, distance, mantle)
        normals[nearer] = [0.0, 0.0, lid]
    return mantle, normals


def _cast_ball(start: Array, direction: Array) -> tuple[Array, Array]:
    a, b, c = (direction**2).sum(1), direction @ start, start @ start - 1.0
    root = (-b - np.sqrt(b * b - a * c)) / a
    distance = np.where(root > 0, root, np.inf)
    hit = np.isfinite(distance)
    normals = np.zeros_like(direction)
    normals[hit] = start + distance[hit, None] * direction[hit]
    return distance, normals
