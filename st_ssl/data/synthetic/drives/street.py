"""A street that is driven through: what stands there, who is under way, and where they are at each sweep.

Traffic keeps to the right. The world's z is 0 on the road. T sweeps, A actors, N places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from st_ssl.data.synthetic.drives.bodies import BLOCK, CLASSES, FURNITURE, MAKERS, SEGMENTS, Part, Parts, bush, tree
from st_ssl.data.synthetic.drives.paths import Array, Frame, Pace, Path

KERB = 0.12  # metres that everything but the road lies higher
_LANE, _CYCLES, _PARKING = 3.2, 1.4, 2.2  # widths, from the middle of the road to its sides
_BEYOND = 60.0  # metres of street behind the first sweep, ahead of the last one, and to the sides
_GAP = 0.2  # metres between two actors, at least
_ROAD, _SIDEWALK, _TERRAIN = (SEGMENTS.index(name) for name in ("road", "sidewalk", "terrain"))


@dataclass(frozen=True)
class Ground:
    """A road with sidewalks, crossed by others: each crossing is (along, half its width)."""

    frame: Frame
    half: float
    walk: float
    crossings: tuple[tuple[float, float], ...]

    def crossed(self, along: Array, more: float = 0.0) -> Array:
        """Where a street crosses, bool [N], widened by ``more`` to both sides."""
        away = [np.abs(along - middle) < half + more for middle, half in self.crossings]
        return np.any(away, axis=0) if away else np.zeros(np.shape(along), dtype=bool)

    def is_road(self, places: Array) -> Array:
        """Whether places [N, 2] are on a road."""
        along, left = self.frame.street(places)
        return (np.abs(left) < self.half) | self.crossed(along)

    def look(self, places: Array) -> tuple[Array, Array]:
        """Segment int64 [N] and reflectivity [N] of places [N, 2]."""
        along, left = self.frame.street(places)
        side, crossed = np.abs(left), self.crossed(along)
        road = (side < self.half) | crossed
        walk = (side < self.half + self.walk) | self.crossed(along, self.walk)
        line = (side < 0.08) & (along % 9 < 3) | (np.abs(side - _LANE) < 0.06) & (along % 6 < 5)
        zebra = self.crossed(along, 3.2) & ~self.crossed(along, 0.6) & (left % 1.0 < 0.5)
        painted = (side < self.half) & (line & ~self.crossed(along, 3.5) | zebra & ~crossed)
        segment = np.where(road, _ROAD, np.where(walk, _SIDEWALK, _TERRAIN))
        return segment, np.where(painted, 0.75, np.array([0.18, 0.33, 0.42])[segment])

    def height(self, places: Array) -> Array:
        """Of places [N, 2]."""
        return np.where(self.is_road(places), 0.0, KERB)


@dataclass(frozen=True)
class Actors:
    """Everybody but the ego vehicle, over time: ``place`` [T, A, 3] of their feet, ``yaw`` [T, A], ``velocity``
    [T, A, 2] and ``phase`` [T, A] of their steps in the world; ``classes`` (places in ``CLASSES``) and ``parked`` [A],
    ``size`` [A, 3]: length, width, height; ``parts`` around their feet."""

    classes: Array
    size: Array
    parked: Array
    place: Array
    yaw: Array
    velocity: Array
    phase: Array
    parts: Parts


@dataclass(frozen=True)
class Street:
    """``fixed`` parts in the world; the ego vehicle's ``place`` [T, 2] and ``yaw`` [T]; ``times`` [T] in seconds."""

    ground: Ground
    fixed: Parts
    actors: Actors
    times: Array
    place: Array
    yaw: Array


def draw_street(rng: np.random.Generator, times: Array) -> Street:
    """A street for a drive with sweeps at ``times`` [T] in seconds."""
    stands, turns = rng.random(2) < [0.08, 0.2]
    swing, period, phase = rng.uniform(0, 0.3), rng.uniform(6, 12), rng.uniform(0, 2 * math.pi)
    pace = Pace(0.0, 0.0 if stands else rng.uniform(3.5, 5.5 if turns else 11.0), swing, period, phase)
    length = float(pace.distance(times)[-1])
    ground = _draw_ground(rng, length)
    span = (-_BEYOND, length + _BEYOND)
    fixed, obstacles = _build(ground, span, rng)
    crowd = _Crowd(ground, times, rng, obstacles)
    ahead = [middle for middle, _ in ground.crossings if 12 < middle < 40]
    path = crowd.turning(1, ahead[0], ahead[0] - 8) if turns and ahead else crowd.lane(1, 0.0, _LANE / 2)
    place, yaw = path.at(pace.distance(times))
    crowd.discs(place[:, None] + _along(yaw, np.array([-1.4, 0.0, 1.4])), 1.1)
    crowd.populate(span, pace.speed)
    return Street(ground, fixed, crowd.actors(), times, place, yaw)


def _draw_ground(rng: np.random.Generator, length: float) -> Ground:
    whole = length + 2 * _BEYOND
    bend = 0.0 if rng.random() < 0.4 else rng.choice([-1, 1]) * rng.uniform(0.3, 1.0) / max(120.0, 0.6 * whole)
    x, y = rng.uniform(-200, 200, 2).tolist()
    frame = Frame(x, y, rng.uniform(-math.pi, math.pi), float(bend))
    walk = rng.uniform(3.3, 4.3)
    crossings, at = [], -_BEYOND + rng.uniform(0, 70)
    while at < length + _BEYOND:
        crossings.append((at, rng.uniform(3.8, 4.8)))
        at += rng.uniform(45, 100)
    return Ground(frame, _LANE + _CYCLES + _PARKING, walk, tuple(crossings))


class _Site:
    """Where parts are stood in street coordinates."""

    def __init__(self, ground: Ground) -> None:
        self.frame = ground.frame
        self.parts: list[Part] = []
        self.turn: list[float] = []
        self.to: list[tuple[float, float, float]] = []

    def put(self, parts: list[Part], along: float, left: float, yaw: float = 0.0) -> None:
        """Stand ``parts`` there, their front ``yaw`` left of the street's direction."""
        x, y = self.frame.world(along, left).tolist()
        self.parts += parts
        self.turn += [float(self.frame.heading(along)) + yaw] * len(parts)
        self.to += [(x, y, KERB)] * len(parts)

    def built(self) -> Parts:
        parts = Parts.of(self.parts, [-1] * len(self.parts))
        return parts.moved(np.array(self.turn), np.array(self.to).reshape(-1, 3))


def _build(ground: Ground, span: tuple[float, float], rng: np.random.Generator) -> tuple[Parts, Array]:
    """What stands at the street, and the furniture's places [M, 2]."""
    site, obstacles = _Site(ground), []
    kerb, front = ground.half, ground.half + ground.walk
    for side in (1, -1):
        at = span[0]
        while at < span[1]:
            width = rng.uniform(8, 22)
            middle = at + width / 2
            away = min((abs(middle - m) - half for m, half in ground.crossings), default=np.inf)
            if away > width / 2 + ground.walk:
                _lot(site, middle, side, front, width, rng)
                at += width + (rng.uniform(1.5, 7) if rng.random() < 0.4 else 0.1)
            else:
                at += 2.0
        at = span[0] + rng.uniform(0, 10)
        while at < span[1]:
            if not ground.crossed(np.array(at), 4.0):
                left = side * (kerb + rng.uniform(0.5, 0.7))
                make = FURNITURE[rng.choice(len(FURNITURE), p=[0.32, 0.2, 0.13, 0.17, 0.12, 0.06])]
                site.put(make(rng), at, left, -side * math.pi / 2)
                obstacles.append(ground.frame.world(at, left))
            at += rng.uniform(3, 14)
    for middle, half in ground.crossings:
        for side in (1, -1):
            for edge in (1, -1):
                at = front + 22.0
                while at < _BEYOND:
                    width, depth, back = rng.uniform(8, 20), rng.uniform(8, 14), rng.uniform(0, 3)
                    along = middle + edge * (half + ground.walk + back + depth / 2)
                    site.put([_house(depth, width, rng)], along, side * (at + width / 2))
                    at += width + rng.uniform(0.1, 6)
    return site.built(), np.array(obstacles).reshape(-1, 2)


def _house(length: float, width: float, rng: np.random.Generator) -> Part:
    height = rng.uniform(3.5, 14)
    return Part(BLOCK, (0, 0, height / 2), (length / 2, width / 2, height / 2), "building", rng.uniform(0.25, 0.65),
                lost=0.1)  # fmt: skip


def _lot(site: _Site, along: float, side: int, front: float, width: float, rng: np.random.Generator) -> None:
    """One house, or a garden behind a fence or a hedge."""
    room = width * min(1.0, 1 - site.frame.curvature * side * (front + 8))  # the inner side of a bend is shorter
    back, depth = (rng.uniform(0.2, 5) if rng.random() < 0.6 else 0.2), rng.uniform(8, 14)
    garden = rng.random() < 0.22
    if not garden:
        site.put([_house(room, depth, rng)], along, side * (front + back + depth / 2))
    if garden or (back > 2 and rng.random() < 0.5):
        height, hedge = rng.uniform(0.8, 1.8), rng.random() < 0.5
        half = (room / 2, 0.35 if hedge else 0.05, height / 2)
        wall = Part(BLOCK, (0, 0, height / 2), half, "vegetation" if hedge else "fence", rng.uniform(0.35, 0.55),
                    open=0.03 if hedge else 0.25)  # fmt: skip
        site.put([wall], along, side * (front + 0.7))
    for _ in range(int(rng.integers(1, 5)) if garden else int(back > 3)):
        left = front + (rng.uniform(2, 14) if garden else 1.8)
        site.put(tree(rng) if garden and rng.random() < 0.5 else bush(rng), along + rng.uniform(-0.4, 0.4) * room,
                 side * left)  # fmt: skip


def _along(yaw: Array, offsets: Array) -> Array:
    """Shifts [T, M, 2] by ``offsets`` [M] in the directions ``yaw`` [T]."""
    return np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)[:, None] * offsets[:, None]


class _Crowd:
    """Actors, each drawn until it comes near no other at any time, or left out."""

    def __init__(self, ground: Ground, times: Array, rng: np.random.Generator, obstacles: Array) -> None:
        self.ground, self.frame, self.times, self.rng = ground, ground.frame, times, rng
        self.centres = np.broadcast_to(obstacles, (len(times), *obstacles.shape))
        self.radii = np.full(len(obstacles), 0.45)
        self.drawn: list[tuple[int, tuple[float, float, float], bool, Path, Pace]] = []
        self.parts: list[Part] = []
        self.owner: list[int] = []

    def discs(self, centres: Array, radius: float) -> None:
        """What is taken: ``centres`` [T, M, 2]."""
        self.centres = np.concatenate([self.centres, centres], axis=1)
        self.radii = np.concatenate([self.radii, np.full(centres.shape[1], radius)])

    def add(self, name: str, path: Path, pace: Pace, parked: bool = False) -> bool:
        """One more actor, where there is room for it."""
        size, parts = MAKERS[name](self.rng)
        place, yaw = path.at(pace.distance(self.times))
        radius = 0.55 * size[1]
        offsets = np.linspace(-1, 1, 3 if name == "car" else 2) * max(0.0, size[0] / 2 - 0.8 * radius)
        centres = place[:, None] + _along(yaw, offsets)
        apart = np.hypot(*np.moveaxis(centres[:, :, None] - self.centres[:, None], -1, 0))
        if (apart < radius + self.radii + _GAP).any():
            return False
        self.discs(centres, radius)
        self.owner += [len(self.drawn)] * len(parts)
        self.drawn.append((CLASSES.index(name), size, parked, path, pace))
        self.parts += parts
        return True

    def lane(self, direction: int, along: float, right: float) -> Path:
        """With the street (1) or against it (-1) from ``along`` on, ``right`` of its middle as one drives."""
        left = -direction * right
        bend = direction * self.frame.curvature / (1 - self.frame.curvature * left)
        return self._from(along, left, 0.0 if direction == 1 else math.pi, ((math.inf, bend),))

    def _from(self, along: float, left: float, yaw: float, pieces: tuple[tuple[float, float], ...]) -> Path:
        x, y = self.frame.world(along, left).tolist()
        return Path(x, y, float(self.frame.heading(along)) + yaw, pieces)

    def turning(self, direction: int, middle: float, before: float) -> Path:
        """From ``before`` metres ahead of a crossing into it, to either side."""
        to_right = self.rng.random() < 0.5
        radius = self.rng.uniform(4.5, 6.0) if to_right else self.rng.uniform(6.5, 8.5)
        begin = middle - direction * (radius + (_LANE / 2 if to_right else -_LANE / 2))
        lane = self.lane(direction, begin - direction * before, _LANE / 2)
        bend = lane.pieces[0][1]
        left = -direction * _LANE / 2
        straight = before * (1 - self.frame.curvature * left)
        # The street turns a little on the way to the middle of the crossing, which the turn makes up for.
        rest = float(self.frame.heading(middle) - self.frame.heading(begin))
        angle = math.pi / 2 + (-rest if to_right else rest)
        sign = -1 if to_right else 1
        return Path(lane.x, lane.y, lane.yaw, ((straight, bend), (angle * radius, sign / radius), (math.inf, 0.0)))

    def populate(self, span: tuple[float, float], ego_speed: float) -> None:
        """Parked cars, then traffic, then people."""
        rng, hundred = self.rng, (span[1] - span[0]) / 100
        for direction in (1, -1):
            self._park(direction, span)
        for direction, often in ((1, 2.5), (-1, 4.0)):
            for _ in range(rng.poisson(often * hundred)):
                speed = ego_speed * rng.uniform(0.8, 1.2) if direction == 1 else rng.uniform(4, 12)
                pace = Pace(0.0, speed, *_swing(rng, 0.15))
                self.add("car", self.lane(direction, rng.uniform(*span), _LANE / 2), pace)
        for middle, _ in self.ground.crossings:
            for _ in range(rng.poisson(1.6)):
                direction, speed = int(rng.choice([-1, 1])), rng.uniform(3.5, 6.5)
                self.add("car", self.turning(direction, middle, rng.uniform(0, 40)), Pace(0.0, speed))
            for _ in range(rng.poisson(2.0)):
                path = self._across(middle, _LANE / 2, rng.uniform(9, 55))
                self.add("car", path, Pace(0.0, rng.uniform(4, 9) if rng.random() < 0.6 else 0.0))
            for _ in range(rng.poisson(0.8)):
                self.add("cyclist", self._across(middle, 3.2, rng.uniform(5, 45)), Pace(0.0, rng.uniform(2.5, 5.5)))
            for _ in range(rng.poisson(2.5)):
                half = dict(self.ground.crossings)[middle]
                right = half + rng.uniform(0.8, self.ground.walk - 0.5)
                self.add(
                    "pedestrian", self._across(middle, right, rng.uniform(0, 20)), Pace(0.0, rng.uniform(0.8, 1.8))
                )
        for _ in range(rng.poisson(8.0 * hundred)):
            path = self.lane(int(rng.choice([-1, 1])), rng.uniform(*span), rng.uniform(3.6, 4.1))
            self.add("cyclist", path, Pace(0.0, rng.uniform(2.5, 6.5), *_swing(rng, 0.15)))
        for _ in range(rng.poisson(16.0 * hundred)):
            self._walk(span)

    def _park(self, direction: int, span: tuple[float, float]) -> None:
        rng, share, at = self.rng, self.rng.uniform(0.1, 0.8), span[0]
        while at < span[1]:
            if rng.random() < share and not self.ground.crossed(np.array(at), 6.0):
                right = self.ground.half - rng.uniform(0.98, 1.15)
                backwards = rng.random() < 0.1  # parked against the traffic
                path = self.lane(-direction if backwards else direction, at, -right if backwards else right)
                self.add("car", path, Pace(0.0, 0.0), parked=True)
            at += rng.uniform(5.8, 6.8)

    def _across(self, middle: float, right: float, before: float) -> Path:
        """Straight on along a street that crosses, from ``before`` metres ahead of the road's middle."""
        direction = int(self.rng.choice([-1, 1]))
        return self._from(middle + direction * right, -direction * before, direction * math.pi / 2, ((math.inf, 0.0),))

    def _walk(self, span: tuple[float, float]) -> None:
        """One or two people: who walk on the sidewalk, cross the road, or stand."""
        rng, ground = self.rng, self.ground
        side, along = int(rng.choice([-1, 1])), rng.uniform(*span)
        off = ground.half + rng.uniform(1.75, ground.walk - 1.1)
        what = rng.choice(3, p=[0.65, 0.15, 0.2])
        pace = Pace(0.0, 0.0 if what == 2 else rng.uniform(0.8, 1.8), *_swing(rng, 0.1))
        if what == 0:
            direction = int(rng.choice([-1, 1]))
            paths = [
                self.lane(direction, along + d * direction, side * (off + b)) for d, b in ((0.0, 0.0), (0.1, 0.75))
            ]
        elif what == 1:
            paths = [self._from(along + d, side * off, -side * math.pi / 2, ((math.inf, 0.0),)) for d in (0.0, 0.8)]
        else:
            turn = rng.uniform(0, 2 * math.pi)
            paths = [self._from(along + d, side * off, turn + d * math.pi, ((math.inf, 0.0),)) for d in (0.0, 0.9)]
        for path in paths[: 1 + (rng.random() < 0.25)]:
            self.add("pedestrian", path, pace)

    def actors(self) -> Actors:
        """All that were added."""
        count, shape = len(self.drawn), (len(self.times), len(self.drawn))
        place, yaw, velocity, phase = np.zeros((*shape, 3)), np.zeros(shape), np.zeros((*shape, 2)), np.zeros(shape)
        for number, (kind, _, _, path, pace) in enumerate(self.drawn):
            distance, speed = pace.distance(self.times), pace.speeds(self.times)
            place[:, number, :2], yaw[:, number] = path.at(distance)
            velocity[:, number] = _along(yaw[:, number], np.ones(1))[:, 0] * speed[:, None]
            phase[:, number] = 2 * math.pi * (distance / (4.0 if CLASSES[kind] == "cyclist" else 1.5) + 0.37 * number)
            phase[:, number] *= pace.speed > 0
        place[..., 2] = self.ground.height(place[..., :2])
        return Actors(
            np.array([kind for kind, *_ in self.drawn], dtype=np.int64),
            np.array([size for _, size, *_ in self.drawn]).reshape(count, 3),
            np.array([parked for _, _, parked, *_ in self.drawn], dtype=bool),
            place,
            yaw,
            velocity,
            phase,
            Parts.of(self.parts, self.owner),
        )


def _swing(rng: np.random.Generator, most: float) -> tuple[float, float, float]:
    """Swing, period and phase of a ``Pace``."""
    return rng.uniform(0, most), rng.uniform(5, 12), rng.uniform(0, 2 * math.pi)
