"""Ways through a street, made of straight lines and arcs, and how something moves along one. Metres, seconds,
radians."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Frame:
    """Street coordinates: ``along`` the middle of a street of one ``curvature`` (1/m, to the left), which begins at
    (``x``, ``y``) with the heading ``yaw``, and ``left`` of it."""

    x: float
    y: float
    yaw: float
    curvature: float

    def world(self, along: Array | float, left: Array | float = 0.0) -> Array:
        """Places [..., 2] of the world."""
        along, left = np.asarray(along, dtype=np.float64), np.asarray(left, dtype=np.float64)
        turn, yaw = self.curvature * along, self.heading(along)
        chord = along * np.sinc(turn / 2 / np.pi)
        x = self.x + chord * np.cos(self.yaw + turn / 2) - left * np.sin(yaw)
        y = self.y + chord * np.sin(self.yaw + turn / 2) + left * np.cos(yaw)
        return np.stack(np.broadcast_arrays(x, y), axis=-1)

    def heading(self, along: Array | float) -> Array:
        """The direction of the street there."""
        return self.yaw + self.curvature * np.asarray(along, dtype=np.float64)

    def street(self, places: Array) -> tuple[Array, Array]:
        """``along`` and ``left`` of places [..., 2] of the world."""
        x, y = places[..., 0] - self.x, places[..., 1] - self.y
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        ahead, left = c * x + s * y, c * y - s * x
        if self.curvature == 0:
            return ahead, left
        sign, radius = math.copysign(1.0, self.curvature), 1 / abs(self.curvature)
        inward = radius - sign * left  # from the middle of the circle towards its begin
        return np.arctan2(ahead, inward) * radius, sign * (radius - np.hypot(ahead, inward))


@dataclass(frozen=True)
class Path:
    """Pieces of one curvature, one after the other, as (length, curvature); the last has no end."""

    x: float
    y: float
    yaw: float
    pieces: tuple[tuple[float, float], ...]

    def at(self, distance: Array) -> tuple[Array, Array]:
        """Places [T, 2] and headings [T] after ``distance`` [T] along it."""
        place, yaw = np.zeros((len(distance), 2)), np.zeros(len(distance))
        x, y, heading, passed, begin = self.x, self.y, self.yaw, 0.0, -math.inf
        for length, curvature in self.pieces:
            frame = Frame(x, y, heading, curvature)
            on = distance >= begin
            place[on], yaw[on] = frame.world(distance[on] - passed), frame.heading(distance[on] - passed)
            if length < math.inf:
                (x, y), heading = frame.world(length).tolist(), float(frame.heading(length))
                passed = begin = passed + length
        return place, yaw


@dataclass(frozen=True)
class Pace:
    """Distance over time: ``start`` metres at first, then ``speed`` m/s, which swings by the share ``swing`` with
    ``period`` seconds."""

    start: float
    speed: float
    swing: float = 0.0
    period: float = 1.0
    phase: float = 0.0

    def distance(self, time: Array) -> Array:
        """Metres [T] at ``time`` [T]."""
        turn = 2 * np.pi / self.period
        swung = (np.sin(turn * time + self.phase) - math.sin(self.phase)) / turn
        return self.start + self.speed * (time + self.swing * swung)

    def speeds(self, time: Array) -> Array:
        """Metres a second [T] at ``time`` [T]."""
        return self.speed * (1 + self.swing * np.cos(2 * np.pi / self.period * time + self.phase))
