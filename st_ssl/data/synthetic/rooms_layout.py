"""Furnished rooms: what stands where, and how it looks. Metres; z is up, the floor at 0 and a corner at the origin."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from st_ssl.data.synthetic.primitives import Solid, turned
from st_ssl.data.synthetic.shapes3d import build

SEGMENTS = (
    *("wall", "floor", "ceiling", "door", "window", "table"),
    *("chair", "sofa", "bed", "shelf", "lamp", "box"),
)
PATTERNS = ("plain", "stripes", "checks", "speckle")
_SCALE = {"table": (1.0, 1.3), "chair": (0.75, 0.9), "sofa": (0.85, 1.0), "bed": (0.85, 1.0), "shelf": (1.1, 1.5),
          "lamp": (0.9, 1.2)}  # fmt: skip
_TRIES = 20  # places that are tried for a piece of furniture before it is left out
_GAP = 0.05  # metres between two pieces, and between a piece and its wall


@dataclass(frozen=True)
class Look:
    """How a surface looks: two colours (RGB in 0 … 1) in a pattern of this period in metres."""

    first: np.ndarray
    second: np.ndarray
    pattern: str
    period: float


@dataclass(frozen=True)
class Piece:
    """One solid of a room: its class (a place in ``SEGMENTS``), the object it belongs to (-1: the room itself)."""

    solid: Solid
    segment: int
    instance: int
    look: Look


@dataclass
class Room:
    """``size``: width, depth and height inside. ``taken``: the footprints of the furniture, (x0, y0, x1, y1)."""

    size: np.ndarray
    pieces: list[Piece]
    taken: list[tuple[float, float, float, float]]

    def add(self, name: str, solids: list[Solid], looks: list[Look], whole: bool) -> None:
        """One more object (``whole``), or a part of the room itself."""
        instance = 1 + max((piece.instance for piece in self.pieces), default=-1) if whole else -1
        segment = SEGMENTS.index(name)
        self.pieces += [Piece(s, segment, instance, looks[s.label % len(looks)]) for s in solids]

    def free(self, box: tuple[float, float, float, float]) -> bool:
        """Whether nothing stands on this part of the floor, which has to lie within the walls."""
        inside = box[0] >= 0 and box[1] >= 0 and box[2] <= self.size[0] and box[3] <= self.size[1]
        return inside and not any(
            box[0] < b[2] + _GAP and b[0] < box[2] + _GAP and box[1] < b[3] + _GAP and b[1] < box[3] + _GAP
            for b in self.taken
        )


def draw_look(rng: np.random.Generator) -> Look:
    """Colours and pattern, drawn without regard to what they are for."""
    first = rng.uniform(0.1, 0.95, 3)
    second = np.clip(first * rng.uniform(0.5, 1.3) + rng.uniform(-0.15, 0.15, 3), 0.03, 1.0)
    return Look(first, second, PATTERNS[rng.integers(len(PATTERNS))], rng.uniform(0.06, 0.4))


def draw_room(rng: np.random.Generator, ceiling: bool) -> Room:
    """A room of 3.5 to 7 by 3.5 to 6 metres with 6 to 16 objects."""
    size = np.array([rng.uniform(3.5, 7.0), rng.uniform(3.5, 6.0), rng.uniform(2.4, 3.2)])
    room = Room(size, [], [])
    _shell(room, rng, ceiling)
    for name, most in (("sofa", 1), ("bed", 1), ("shelf", 3), ("box", 3), ("lamp", 2)):
        for _ in range(int(rng.integers(1, most + 1)) if rng.random() < 0.8 else 0):
            _against_wall(room, name, rng)
    for _ in range(int(rng.integers(1, 3))):
        _table_with_chairs(room, rng)
    for name in ("box", "lamp", "chair"):
        if rng.random() < 0.6:
            _anywhere(room, name, rng)
    return room


def _slab(low: tuple[float, float, float], high: tuple[float, float, float]) -> Solid:
    a, b = np.array(low), np.array(high)
    return Solid("box", 0, (a + b) / 2, (b - a) / 2, np.eye(3))


def _shell(room: Room, rng: np.random.Generator, ceiling: bool) -> None:
    w, d, h = room.size
    room.add("floor", [_slab((-0.1, -0.1, -0.1), (w + 0.1, d + 0.1, 0.0))], [draw_look(rng)], False)
    if ceiling:
        room.add("ceiling", [_slab((-0.1, -0.1, h), (w + 0.1, d + 0.1, h + 0.1))], [draw_look(rng)], False)
    paint = draw_look(rng)
    walls = [
        _slab((-0.1, -0.1, 0), (0, d + 0.1, h)),
        _slab((w, -0.1, 0), (w + 0.1, d + 0.1, h)),
        _slab((0, -0.1, 0), (w, 0, h)),
        _slab((0, d, 0), (w, d + 0.1, h)),
    ]
    room.add("wall", walls, [paint], False)
    spots = rng.permutation(4)
    door = _on_wall(room, int(spots[0]), rng.uniform(0.2, 0.8), rng.uniform(0.75, 1.0), (0.0, 2.05))
    room.add("door", [door], [draw_look(rng)], True)
    (x, y), (across, along) = door.centre[:2], np.maximum(door.size[:2], 0.4)
    room.taken.append((x - across, y - along, x + across, y + along))  # the way in is free
    for wall in spots[1 : 1 + rng.integers(1, 3)]:
        sill = rng.uniform(0.7, 1.1)
        span = (sill, sill + rng.uniform(0.8, 1.2))
        window = _on_wall(room, int(wall), rng.uniform(0.3, 0.7), rng.uniform(0.8, 1.8), span)
        room.add("window", [window], [draw_look(rng)], True)


def _on_wall(room: Room, wall: int, place: float, width: float, height: tuple[float, float]) -> Solid:
    """A flat thing on one of the walls (x = 0, x = w, y = 0, y = d), 3 cm thick."""
    axis = wall // 2
    length, at = room.size[1 - axis], 0.0 if wall % 2 == 0 else float(room.size[axis])
    middle = width / 2 + place * (length - width)
    centre, half = np.zeros(3), np.zeros(3)
    centre[axis], centre[1 - axis], centre[2] = at, middle, (height[0] + height[1]) / 2
    half[axis], half[1 - axis], half[2] = 0.03, width / 2, (height[1] - height[0]) / 2
    return Solid("box", 0, centre, half, np.eye(3))


def _furniture(name: str, rng: np.random.Generator) -> tuple[list[Solid], list[Look]]:
    """The solids of a piece around the origin, its front towards x and its foot at 0."""
    if name == "box":
        size = np.array([rng.uniform(0.12, 0.35), rng.uniform(0.15, 0.6), rng.uniform(0.12, 0.6)])
        solids = [Solid("box", 0, np.array([0, 0, size[2]]), size, np.eye(3))]
        if rng.random() < 0.4:  # another one on top
            upper = size * rng.uniform(0.4, 0.9, 3)
            solids.append(Solid("box", 1, np.array([0, 0, 2 * size[2] + upper[2]]), upper, np.eye(3)))
    else:
        parts = build(name, rng.uniform(0.7, 1.4), rng.uniform(0.75, 1.3), rng)
        solids = [replace(part, kind="ellipsoid") if part.kind == "superquadric" else part for part in parts]
        scale = rng.uniform(*_SCALE[name])
        solids = [solid.moved(np.eye(3), np.zeros(3), scale) for solid in solids]
    return solids, [draw_look(rng) for _ in range(3)]


def _extent(solids: list[Solid]) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the box around solids: [3], [3]."""
    reach = [np.abs(solid.turn) @ solid.size for solid in solids]
    low = np.min([solid.centre - r for solid, r in zip(solids, reach, strict=True)], axis=0)
    high = np.max([solid.centre + r for solid, r in zip(solids, reach, strict=True)], axis=0)
    return low, high


def _put(room: Room, name: str, solids: list[Solid], looks: list[Look], x: float, y: float, yaw: float) -> bool:
    """Stand a piece at a place, where that is free."""
    placed = [solid.moved(turned(yaw), np.array([x, y, 0.0]), 1.0) for solid in solids]
    low, high = _extent(placed)
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    if not room.free(box) or high[2] > room.size[2]:
        return False
    room.taken.append(box)
    room.add(name, placed, looks, True)
    return True


def _against_wall(room: Room, name: str, rng: np.random.Generator) -> None:
    """The back to a wall: quarter turns, the front into the room."""
    solids, looks = _furniture(name, rng)
    low, high = _extent(solids)
    for _ in range(_TRIES):
        wall, along = int(rng.integers(4)), rng.random()
        axis = wall // 2
        yaw = (0.0, math.pi, math.pi / 2, -math.pi / 2)[wall]
        away = _GAP - low[0]
        at = np.zeros(2)
        at[axis] = away if wall % 2 == 0 else room.size[axis] - away
        half = (high[1] - low[1]) / 2
        at[1 - axis] = half + along * max(0.0, room.size[1 - axis] - 2 * half)
        if _put(room, name, solids, looks, float(at[0]), float(at[1]), yaw):
            return


def _anywhere(room: Room, name: str, rng: np.random.Generator) -> None:
    solids, looks = _furniture(name, rng)
    for _ in range(_TRIES):
        x, y = rng.uniform(0.3, 0.7, 2) * room.size[:2]
        if _put(room, name, solids, looks, float(x), float(y), rng.uniform(0, 2 * math.pi)):
            return


def _table_with_chairs(room: Room, rng: np.random.Generator) -> None:
    """A table anywhere, and up to four chairs of one make that face it."""
    solids, looks = _furniture("table", rng)
    chair, paint = _furniture("chair", rng)
    low, high = _extent(solids)
    for _ in range(_TRIES):
        x, y = (float(v) for v in rng.uniform(0.2, 0.8, 2) * room.size[:2])
        if not _put(room, "table", solids, looks, x, y, 0.0):
            continue
        for side in rng.permutation(4)[: rng.integers(1, 5)]:
            yaw = side * math.pi / 2
            reach = (high[0], high[1], -low[0], -low[1])[side] + _extent(chair)[1][0] + 0.1
            at_x, at_y = x + reach * math.cos(yaw), y + reach * math.sin(yaw)
            _put(room, "chair", chair, paint, at_x, at_y, yaw + math.pi + rng.uniform(-0.3, 0.3))
        return
