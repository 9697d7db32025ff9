"""What a street is built from: blocks, cylinders and ellipsoids, upright, and what they are of.

The parts of an object are given as tuples around its foot: its front towards x, its foot at z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

Array = np.ndarray

SEGMENTS = (
    *("road", "sidewalk", "terrain", "building", "fence", "pole"),
    *("vegetation", "object", "car", "pedestrian", "cyclist"),
)
CLASSES = ("car", "pedestrian", "cyclist")
BLOCK, CYLINDER, ELLIPSOID = 0, 1, 2


class Part(NamedTuple):
    """One solid: ``centre`` and half sizes (3,) along its own axes, turned by ``yaw``.

    ``top``, of a block: how far its upper face reaches to the front, the back and the sides, as shares of its half
    sizes. ``reflectivity`` in 0 … 1. ``lost``: the share of rays that do not come back. ``open``: the share that goes
    through; the others end somewhere within. ``stride``: how far it swings along x with the steps of its owner.
    """

    kind: int
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    segment: str
    reflectivity: float
    yaw: float = 0.0
    top: tuple[float, float, float] = (1.0, 1.0, 1.0)
    lost: float = 0.0
    open: float = 0.0
    stride: float = 0.0


@dataclass(frozen=True)
class Parts:
    """P parts as arrays [P, ...]; ``owner`` int64 [P]: the actor that each is of, -1 for the street itself."""

    kind: Array
    centre: Array
    half: Array
    segment: Array
    reflectivity: Array
    yaw: Array
    top: Array
    lost: Array
    open: Array
    stride: Array
    owner: Array

    def __len__(self) -> int:
        return len(self.kind)

    @classmethod
    def of(cls, parts: list[Part], owner: list[int]) -> Parts:
        """``parts`` of the actors ``owner``."""

        def column(name: str, *shape: int) -> Array:
            return np.array([getattr(part, name) for part in parts], dtype=np.float64).reshape(-1, *shape)

        return cls(
            np.array([part.kind for part in parts], dtype=np.int64),
            column("centre", 3),
            column("half", 3),
            np.array([SEGMENTS.index(part.segment) for part in parts], dtype=np.int64),
            *(column("reflectivity"), column("yaw"), column("top", 3), column("lost"), column("open")),
            column("stride"),
            np.array(owner, dtype=np.int64),
        )

    def take(self, index: Array) -> Parts:
        """The parts ``index`` (int64 [M], or bool [P])."""
        return Parts(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def joined(self, other: Parts) -> Parts:
        """These parts, then those of ``other``."""
        return Parts(**{f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)})

    def moved(self, yaw: Array | float, to: Array) -> Parts:
        """Turned by ``yaw`` ([P] or a number), then moved by ``to`` ([P, 3] or (3,))."""
        c, s = np.cos(yaw), np.sin(yaw)
        x, y, z = self.centre.T
        centre = np.stack([c * x - s * y, s * x + c * y, z], axis=1) + to
        return replace(self, centre=centre, yaw=self.yaw + yaw)

    def strode(self, phase: Array) -> Parts:
        """After steps of ``phase`` [P] (radians)."""
        centre = self.centre.copy()
        centre[:, 0] += self.stride * np.sin(phase)
        return replace(self, centre=centre)


def car(rng: np.random.Generator) -> tuple[tuple[float, float, float], list[Part]]:
    """Length, width and height, and the parts: body, cabin of glass, and two axles."""
    shape = rng.choice(4, p=[0.35, 0.3, 0.2, 0.15])
    length = (rng.uniform(3.6, 4.2), rng.uniform(4.3, 4.9), rng.uniform(4.3, 4.9), rng.uniform(4.7, 5.4))[shape]
    width = rng.uniform(1.65, 1.85) + 0.15 * (shape >= 2)
    height = (rng.uniform(1.42, 1.55), rng.uniform(1.4, 1.5), rng.uniform(1.6, 1.78), rng.uniform(1.85, 2.1))[shape]
    # Where the cabin begins behind the middle and ends ahead of it, as shares of half the length, and how far up the
    # roof goes of that.
    back, front, roof_back, roof_front = (
        *((0.97, 0.45, 0.8, 0.45), (0.62, 0.45, 0.55, 0.4)),
        *((0.98, 0.42, 0.88, 0.5), (0.99, 0.72, 0.97, 0.6)),
    )[shape]
    floor, waist = 0.2, (0.58 if shape < 3 else 0.5) * height
    paint = 0.08 + 0.8 * rng.random() ** 1.5
    h, w = length / 2, width / 2
    middle, reach = (front - back) / 2 * h, (front + back) / 2 * h
    parts = [
        Part(BLOCK, (0, 0, (floor + waist) / 2), (h, w, (waist - floor) / 2), "car", paint, top=(0.97, 0.99, 0.97)),
        Part(
            *(BLOCK, (middle, 0, (waist + height) / 2), (reach, 0.95 * w, (height - waist) / 2), "car"),
            0.6 * paint + 0.05,
            top=((roof_front * front * h - middle) / reach, (roof_back * h + middle) / reach, 0.8),
            lost=0.35 if shape < 3 else 0.15,
        ),
    ]
    parts += [Part(BLOCK, (x * h, 0, 0.3), (0.31, 0.98 * w, 0.3), "car", 0.08) for x in (-0.6, 0.62)]
    return (length, width, height), parts


def pedestrian(rng: np.random.Generator) -> tuple[tuple[float, float, float], list[Part]]:
    """Length, width and height, and the parts: two legs that swing, a trunk, arms and a head."""
    height = rng.uniform(1.5, 1.92) if rng.random() < 0.88 else rng.uniform(1.05, 1.4)
    length, width = height * rng.uniform(0.36, 0.46), height * rng.uniform(0.32, 0.42)
    coat, trousers = rng.uniform(0.1, 0.8, 2)
    h, w = length / 2, width / 2
    leg = 0.24 * height
    parts = [
        *(
            Part(CYLINDER, (0, side * 0.4 * w, leg), (0.3 * h, 0.3 * w, leg), "pedestrian", trousers, stride=step)
            for side, step in ((1, 0.68 * h), (-1, -0.68 * h))
        ),
        Part(ELLIPSOID, (0, 0, 0.64 * height), (0.62 * h, 0.72 * w, 0.21 * height), "pedestrian", coat),
        *(
            Part(
                *(CYLINDER, (0, side * 0.84 * w, 0.62 * height), (0.22 * h, 0.15 * w, 0.18 * height), "pedestrian"),
                *(coat, 0.0),
                stride=step,
            )
            for side, step in ((1, -0.5 * h), (-1, 0.5 * h))
        ),
        Part(ELLIPSOID, (0, 0, 0.925 * height), (0.4 * h, 0.4 * w, 0.075 * height), "pedestrian", 0.45),
    ]
    return (length, width, height), parts


def cyclist(rng: np.random.Generator) -> tuple[tuple[float, float, float], list[Part]]:
    """Length, width and height, and the parts: two wheels, a frame and a handlebar, legs, a trunk that leans and a
    head."""
    length, width, height = rng.uniform(1.65, 1.85), rng.uniform(0.5, 0.66), rng.uniform(1.6, 1.85)
    coat, trousers = rng.uniform(0.1, 0.8, 2)
    h, w, wheel = length / 2, width / 2, 0.34
    name = "cyclist"
    parts = [
        *(Part(ELLIPSOID, (x, 0, wheel), (wheel, 0.04, wheel), name, 0.2, open=0.4) for x in (wheel - h, h - wheel)),
        Part(BLOCK, (-0.05, 0, 0.6), (0.38, 0.04, 0.22), name, 0.5, open=0.3),
        Part(BLOCK, (0.5 * h, 0, 0.6 * height), (0.05, w, 0.04), name, 0.5),
        *(
            Part(CYLINDER, (0.05, side * 0.5 * w, 0.33 * height), (0.09, 0.08, 0.17 * height), name, trousers, 0.0,
                 stride=0.1 * side)
            for side in (1, -1)
        ),
        Part(
            *(BLOCK, (-0.08, 0, 0.67 * height), (0.17, 0.72 * w, 0.19 * height), name, coat, 0.0),
            top=(2.4, -0.7, 1.0),
        ),
        Part(ELLIPSOID, (0.22, 0, 0.925 * height), (0.12, 0.1, 0.075 * height), name, 0.45),
    ]  # fmt: skip
    return (length, width, height), parts


MAKERS = {"car": car, "pedestrian": pedestrian, "cyclist": cyclist}


def tree(rng: np.random.Generator) -> list[Part]:
    """A trunk and a crown of two or three balls of leaves."""
    trunk, radius, crown = rng.uniform(1.8, 3.2), rng.uniform(0.1, 0.25), rng.uniform(1.1, 2.2)
    parts = [Part(CYLINDER, (0, 0, trunk / 2 + 0.3), (radius, radius, trunk / 2 + 0.3), "vegetation", 0.35)]
    for _ in range(int(rng.integers(2, 4))):
        x, y = rng.uniform(-0.5, 0.5, 2) * crown
        size = crown * rng.uniform(0.7, 1.1, 3)
        centre = (float(x), float(y), trunk + 0.9 * float(size[2]) + rng.uniform(-0.2, 0.6))
        parts.append(Part(ELLIPSOID, centre, tuple(size.tolist()), "vegetation", 0.5, open=0.12))
    return parts


def bush(rng: np.random.Generator) -> list[Part]:
    """A ball of leaves about as high as a person."""
    size = rng.uniform(0.4, 1.0, 3)
    return [Part(ELLIPSOID, (0, 0, 0.8 * float(size[2])), tuple(size.tolist()), "vegetation", 0.5, open=0.08)]


def lamp(rng: np.random.Generator) -> list[Part]:
    """A pole with an arm."""
    height, radius = rng.uniform(4.5, 7.0), rng.uniform(0.06, 0.12)
    return [
        Part(CYLINDER, (0, 0, height / 2), (radius, radius, height / 2), "pole", 0.5),
        Part(BLOCK, (0.6, 0, height), (0.6, 0.06, 0.05), "pole", 0.5),
    ]


def sign(rng: np.random.Generator) -> list[Part]:
    """A thin pole with a plate that shines."""
    height, size = rng.uniform(2.2, 2.8), rng.uniform(0.25, 0.4)
    return [
        Part(CYLINDER, (0, 0, height / 2), (0.035, 0.035, height / 2), "pole", 0.5),
        Part(BLOCK, (0.05, 0, height - size), (0.02, size, size), "pole", 1.0),
    ]


def bollard(rng: np.random.Generator) -> list[Part]:
    """A short thick pole."""
    height, radius = rng.uniform(0.8, 1.3), rng.uniform(0.08, 0.2)
    return [Part(CYLINDER, (0, 0, height / 2), (radius, radius, height / 2), "pole", 0.45)]


def column(rng: np.random.Generator) -> list[Part]:
    """An advertising column, or a cabinet: about as high as a person, or as long as a small car."""
    if rng.random() < 0.4:
        radius, height = rng.uniform(0.3, 0.6), rng.uniform(1.5, 2.6)
        return [Part(CYLINDER, (0, 0, height / 2), (radius, radius, height / 2), "object", rng.uniform(0.2, 0.7))]
    half = (rng.uniform(0.2, 0.4), rng.uniform(0.3, 1.2), rng.uniform(0.4, 0.8))
    return [Part(BLOCK, (0, 0, half[2]), half, "object", rng.uniform(0.2, 0.7))]


def bench(rng: np.random.Generator) -> list[Part]:
    """A seat with a back."""
    half = rng.uniform(0.7, 1.0)
    return [
        Part(BLOCK, (0, 0, 0.25), (0.22, half, 0.25), "object", 0.35, lost=0.3),
        Part(BLOCK, (-0.2, 0, 0.65), (0.03, half, 0.2), "object", 0.35),
    ]


FURNITURE = (tree, lamp, sign, bollard, column, bench)
