"""Flat shapes that move: coverage, extent and motion, in arithmetic that gives the same bits on every machine.

Only ``+ - * /``, ``sqrt``, comparisons and rounding are used: IEEE 754 fixes their results, whereas the sine of one
mathematics library differs from another's in the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray
_SLOPE = 0.8660254037844386  # sine of 60 degrees
_LONG, _WIDE = 1.04, 0.5  # half sides of the bar, in radii
_ARM, _BEAM = 1.1, 0.31  # half length and half width of the beams of the cross, in radii
REACH = 1.16  # the farthest point of any shape from its centre, in radii

MOTIONS = ("horizontal", "vertical", "circle_cw", "circle_ccw", "spin", "pulse")
PULSE = 0.5  # the radius shrinks by this fraction and grows back


def sine(turns: float) -> float:
    """Sine of an angle in turns by two parabolas: within 0.002 of the real one, and exactly reproducible."""
    x = turns - math.floor(turns)
    y = 8.0 * x * (1.0 - 2.0 * x) if x < 0.5 else -8.0 * (x - 0.5) * (2.0 - 2.0 * x)
    return y * (0.775 + 0.225 * abs(y))


def direction(turns: float) -> tuple[float, float]:
    """The unit vector (cosine, sine) at an angle in turns, normalised so that rotating by it keeps lengths."""
    c, s = sine(turns + 0.25), sine(turns)
    norm = math.sqrt(c * c + s * s)
    return c / norm, s / norm


def _disc(u: Array, v: Array, r: float) -> Array:
    return np.sqrt(u * u + v * v) - r


def _ring(u: Array, v: Array, r: float) -> Array:
    return np.abs(np.sqrt(u * u + v * v) - r * 0.77) - r * 0.27


def _bar(u: Array, v: Array, r: float) -> Array:
    return np.maximum(np.abs(u) - r * _LONG, np.abs(v) - r * _WIDE)


def _triangle(u: Array, v: Array, r: float) -> Array:
    return np.maximum(-u, 0.5 * u + _SLOPE * np.abs(v)) - r * (REACH / 2)


def _cross(u: Array, v: Array, r: float) -> Array:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - r * _ARM, b - r * _BEAM), np.maximum(b - r * _ARM, a - r * _BEAM))


_DISTANCE: dict[str, Callable[[Array, Array, float], Array]] = {
    "disc": _disc,
    "bar": _bar,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}
SHAPES = tuple(_DISTANCE)
_ROUND = {"disc": 1.0, "ring": 1.04}  # outer radius, in radii
_CORNERS = {
    "bar": ((_LONG, _WIDE), (-_LONG, _WIDE), (_LONG, -_WIDE), (-_LONG, -_WIDE)),
    "triangle": ((REACH, 0.0), (-REACH / 2, REACH * _SLOPE), (-REACH / 2, -REACH * _SLOPE)),
    "cross": tuple((a * i, b * j) for a, b in ((_ARM, _BEAM), (_BEAM, _ARM)) for i in (1, -1) for j in (1, -1)),
}


def pose(
    motion: str, phase: float, amplitude: float, radius: float, heading: float, rest: tuple[float, float]
) -> tuple[float, ...]:
    """Offset x, y (pixels, y down), radius (pixels) and heading (turns) of the object at a ``phase`` in turns.

    ``rest``: the phases, in turns, at which x and y stand still where the motion does not move them. So a place in one
    frame does not tell the motion.
    """
    swing = sine(phase)
    x, y = amplitude * sine(rest[0]), amplitude * sine(rest[1])
    if motion == "horizontal":
        return amplitude * swing, y, radius, heading
    if motion == "vertical":
        return x, amplitude * swing, radius, heading
    if motion == "spin":
        return x, y, radius, heading + phase
    if motion == "pulse":
        return x, y, radius * (1.0 - PULSE * (0.5 - 0.5 * swing)), heading
    sense = 1.0 if motion == "circle_cw" else -1.0  # y points down, so a growing angle runs clockwise on screen
    c, s = direction(phase)
    return amplitude * c, amplitude * sense * s, radius, heading


def half_extent(shape: str, radius: float, heading: float) -> tuple[float, float, float, float]:
    """How far the shape reaches left, up, right and down of its centre, in pixels (without its soft edge)."""
    if shape in _ROUND:
        return (radius * _ROUND[shape],) * 4
    c, s = direction(heading)
    xs = [radius * (c * u - s * v) for u, v in _CORNERS[shape]]
    ys = [radius * (s * u + c * v) for u, v in _CORNERS[shape]]
    return -min(xs), -min(ys), max(xs), max(ys)


def coverage(shape: str, x: Array, y: Array, radius: float, heading: float, rim: float) -> tuple[Array, Array, Array]:
    """Fractions in [0, 1] of each pixel covered by the shape, by its inside (without a ``rim`` pixels wide outline)
    and by its marking, a wedge towards its heading that makes a turn visible for every shape.

    ``x`` [1, W] and ``y`` [H, 1] are pixel positions relative to the centre; the results are [H, W].
    """
    c, s = direction(heading)
    u, v = c * x + s * y, c * y - s * x
    distance = _DISTANCE[shape](u, v, radius)
    outer, inner = np.clip(0.5 - distance, 0.0, 1.0), np.clip(0.5 - rim - distance, 0.0, 1.0)
    return outer, inner, inner * np.clip(0.5 + (u - 0.8 * np.abs(v)), 0.0, 1.0)
