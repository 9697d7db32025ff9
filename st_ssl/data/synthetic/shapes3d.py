"""Twelve classes of objects built from solids, each with named parts; z is up and x is the front.

A class is a function of the style (``thick``: of legs, boards and bodies; ``large``: of the second part, such as the
back of a chair or the wings of an aeroplane) and of random details that both styles share.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from st_ssl.data.synthetic.primitives import Kind, Solid, turned

PARTS: dict[str, tuple[str, ...]] = {
    "airplane": ("body", "wing", "tail", "engine"),
    "bed": ("mattress", "frame", "headboard", "pillow"),
    "bottle": ("body", "shoulder", "neck", "cap"),
    "car": ("body", "cabin", "wheel"),
    "chair": ("seat", "leg", "back", "arm"),
    "lamp": ("base", "pole", "shade"),
    "mug": ("body", "handle", "rim"),
    "rocket": ("body", "nose", "fin", "nozzle"),
    "shelf": ("side", "board", "back"),
    "sofa": ("seat", "back", "arm", "foot"),
    "stool": ("seat", "leg", "bar"),
    "table": ("top", "leg"),
}
CLASSES = tuple(PARTS)
PART_NAMES = tuple(f"{name}/{part}" for name, parts in PARTS.items() for part in parts)

Span = tuple[float, float]
Point = tuple[float, float, float]
_UPRIGHT = np.eye(3)


class Maker:
    """Collects the solids of one object; every part is named, and its label is its place in ``PART_NAMES``."""

    def __init__(self, name: str, rng: np.random.Generator) -> None:
        self.name, self.rng, self.solids = name, rng, list[Solid]()

    def draw(self, low: float, high: float) -> float:
        """A random detail."""
        return float(self.rng.uniform(low, high))

    def chance(self, share: float) -> bool:
        """Whether the object has something that this share of its class has."""
        return bool(self.rng.random() < share)

    def add(
        self, kind: Kind, part: str, centre: Point, size: Point, turn: np.ndarray = _UPRIGHT, *shape: float
    ) -> None:
        """Any solid: ``size`` are its half sizes."""
        label = PART_NAMES.index(f"{self.name}/{part}")
        form = (shape[0], shape[-1]) if shape else (1.0, 1.0)
        self.solids.append(Solid(kind, label, np.array(centre), np.array(size), turn, form))

    def box(self, part: str, x: Span, y: Span, z: Span) -> None:
        """A box between these coordinates."""
        spans = (x, y, z)
        centre, size = ([(s[0] + sign * s[1]) / 2 * sign for s in spans] for sign in (1, -1))
        self.add("box", part, tuple(centre), tuple(size))  # type: ignore[arg-type]

    def post(self, part: str, x: float, y: float, z: Span, radius: float, top: float = 1.0) -> None:
        """An upright cone or cylinder; ``top``: its upper radius in lower ones."""
        self.add("frustum", part, (x, y, (z[0] + z[1]) / 2), (radius, radius, (z[1] - z[0]) / 2), _UPRIGHT, top)

    def rod(self, part: str, start: Point, end: Point, radius: float, top: float = 1.0) -> None:
        """A cone or cylinder from one point to another."""
        along = np.subtract(end, start)
        length = float(np.sqrt((along**2).sum()))
        axis = along / length
        side = np.cross(axis, [1.0, 0.0, 0.0] if abs(axis[0]) < 0.9 else [0.0, 1.0, 0.0])
        side /= np.sqrt((side**2).sum())
        turn = np.stack([side, np.cross(axis, side), axis], axis=1)
        middle = np.add(start, end) / 2
        self.add("frustum", part, tuple(middle), (radius, radius, length / 2), turn, top)

    def legs(self, part: str, x: float, y: float, height: float, radius: float, spread: float, count: int) -> None:
        """Legs below a board at ``height``: four at its corners, or three or five around its middle."""
        for number in range(count):
            if count == 4:
                across, along = x * (-1) ** (number // 2), y * (-1) ** number
            else:
                angle = 2 * math.pi * number / count
                across, along = x * math.cos(angle), y * math.sin(angle)
            self.rod(part, (across * spread, along * spread, 0.0), (across, along, height), radius, 1.2)


def _airplane(m: Maker, thick: float, large: float) -> None:
    radius, span = 0.13 * thick, 0.85 * large
    m.add("superquadric", "body", (0, 0, 0), (1, radius, radius), _UPRIGHT, m.draw(0.7, 1.1), 1.0)
    at, sweep, chord = m.draw(-0.1, 0.25), m.draw(0.1, 0.6), m.draw(0.14, 0.24)
    for side in (-1, 1):
        turn = turned(side * sweep)
        middle = turn @ np.array([0.0, side * span / 2, 0.0])
        m.add("box", "wing", (at + middle[0], middle[1], -0.02), (chord, span / 2, 0.02 * thick), turn)
        m.box("tail", (-0.95, -0.75), (min(0, side * 0.35 * large), max(0, side * 0.35 * large)), (0.03, 0.06))
        if m.chance(0.7):
            m.rod("engine", (at - 0.1, side * span * 0.45, -0.1), (at + 0.15, side * span * 0.45, -0.1), 0.06 * thick)
    m.box("tail", (-1.0, -0.75), (-0.02, 0.02), (0.0, 0.35 * large))


def _bed(m: Maker, thick: float, large: float) -> None:
    width, height = m.draw(0.45, 0.8), m.draw(0.15, 0.3)
    m.box("mattress", (-0.95, 0.95), (-width, width), (height, height + 0.15 * thick))
    m.box("frame", (-1, 1), (-width - 0.04, width + 0.04), (height - 0.08, height))
    for x in (-0.95, 0.95):
        for y in (-width, width):
            m.post("frame", x, y, (0, height), 0.05 * thick)
    m.box("headboard", (-1.06, -1), (-width, width), (0.1, height + 0.45 * large))
    for y in (-0.5, 0.5) if m.chance(0.7) else (0.0,):
        m.add("superquadric", "pillow", (-0.75, y * width, height + 0.15 * thick + 0.05), (0.15, 0.3, 0.07),
              _UPRIGHT, 0.6, 0.4)  # fmt: skip


def _bottle(m: Maker, thick: float, large: float) -> None:
    radius, body, east = 0.28 * thick, m.draw(0.5, 0.9), m.draw(0.3, 1.0)
    m.add("superquadric", "body", (0, 0, body / 2), (radius, radius * m.draw(0.6, 1.0), body / 2), _UPRIGHT, 0.2, east)
    slim = 0.35 * m.draw(0.8, 1.2)
    m.post("shoulder", 0, 0, (body * 0.97, body + 0.2), radius * 0.75, slim)
    neck = body + 0.2 + 0.25 * large
    m.post("neck", 0, 0, (body + 0.15, neck), radius * 0.75 * slim)
    m.post("cap", 0, 0, (neck, neck + 0.08), radius * 0.75 * slim * m.draw(1.1, 1.5))


def _car(m: Maker, thick: float, large: float) -> None:
    width, wheel = m.draw(0.35, 0.5), 0.17 * thick
    m.add("superquadric", "body", (0, 0, wheel + 0.16), (1, width, 0.18), _UPRIGHT, m.draw(0.3, 0.7), m.draw(0.2, 0.5))
    back, length = m.draw(-0.4, 0.05), 0.5 * large
    m.add("superquadric", "cabin", (back, 0, wheel + 0.36), (length, width * 0.88, 0.22), _UPRIGHT, 0.5, 0.3)
    for x in (-m.draw(0.5, 0.7), m.draw(0.5, 0.7)):
        for side in (-1, 1):
            m.rod("wheel", (x, side * (width - 0.08), wheel), (x, side * (width + 0.04), wheel), wheel)


def _chair(m: Maker, thick: float, large: float) -> None:
    x, y, seat, leg = m.draw(0.3, 0.45), m.draw(0.3, 0.45), m.draw(0.5, 0.8), 0.04 * thick
    m.box("seat", (-x, x), (-y, y), (seat, seat + 0.07 * thick))
    if m.chance(0.25):
        m.post("leg", 0, 0, (0.05, seat), leg)
        m.post("leg", 0, 0, (0.0, 0.06), 0.8 * x)
    else:
        m.legs("leg", x - leg, y - leg, seat, leg, m.draw(1.0, 1.2), 4)
    top = seat + 0.65 * large
    if m.chance(0.5):
        m.box("back", (-x - 0.03 * thick, -x + 0.03 * thick), (-y, y), (seat, top))
    else:
        for place in np.linspace(-1, 1, int(m.rng.integers(2, 6))):
            m.rod("back", (-x, place * (y - leg), seat), (-x - 0.1, place * (y - leg), top), leg)
        m.box("back", (-x - 0.14, -x - 0.06), (-y, y), (top - 0.12, top))
    if m.chance(0.4):
        for side in (-1, 1):
            m.rod("arm", (-x, side * y, seat + 0.3), (x * 0.8, side * y, seat + 0.3), leg)
            m.rod("arm", (x * 0.7, side * y, seat), (x * 0.7, side * y, seat + 0.3), leg)


def _lamp(m: Maker, thick: float, large: float) -> None:
    height, pole = m.draw(0.8, 1.6), 0.035 * thick
    if m.chance(0.4):
        m.legs("base", 0.03, 0.03, 0.4, pole, m.draw(5.0, 11.0), 3)
    else:
        m.post("base", 0, 0, (0, m.draw(0.04, 0.2)), m.draw(0.18, 0.35), m.draw(0.5, 1.0))
    reach = m.draw(0.1, 0.5) if m.chance(0.4) else 0.0
    m.rod("pole", (0, 0, 0), (0, 0, height), pole)
    if reach:
        m.rod("pole", (0, 0, height), (reach, 0, height), pole)
    m.post("shade", reach, 0, (height - 0.15 * large, height + 0.2 * large), 0.33 * large, m.draw(0.3, 0.95))


def _mug(m: Maker, thick: float, large: float) -> None:
    radius, height = 0.4, m.draw(0.6, 1.3)
    m.post("body", 0, 0, (0, height), radius * m.draw(0.75, 1.0), m.draw(1.0, 1.3))
    loop = 0.26 * large
    turn = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    size = (loop, loop * m.draw(0.9, 1.4), 0.05 * thick)
    m.add("torus", "handle", (radius + 0.2 * loop, 0, height * 0.5), size, turn, 0.25 * min(thick, 1.2))
    m.add("torus", "rim", (0, 0, height), (radius * 1.05, radius * 1.05, 0.04 * thick), _UPRIGHT, 0.12 * thick)


def _rocket(m: Maker, thick: float, large: float) -> None:
    radius, height = 0.2 * thick, m.draw(0.8, 1.3)
    m.post("body", 0, 0, (0, height), radius, m.draw(0.8, 1.0))
    m.post("nose", 0, 0, (height, height + m.draw(0.3, 0.6)), radius * 0.85, 0.05)
    m.post("nozzle", 0, 0, (-0.15, 0.05), radius * 0.8, 0.6)
    count = int(m.rng.integers(3, 5))
    for number in range(count):
        turn = turned(2 * math.pi * number / count)
        middle = turn @ np.array([radius + 0.14 * large, 0.0, 0.0])
        m.add("box", "fin", (middle[0], middle[1], 0.12), (0.17 * large, 0.02, 0.2 * large), turn)


def _shelf(m: Maker, thick: float, large: float) -> None:
    depth, width, height, board = m.draw(0.15, 0.3), m.draw(0.35, 0.7), m.draw(0.8, 1.5), 0.03 * thick
    for side in (-1, 1):
        m.box("side", (-depth, depth), (side * width - board, side * width + board), (0, height))
    count = round(4 * large) + int(m.rng.integers(0, 2))
    for place in np.linspace(0.03, 0.97, count):
        m.box("board", (-depth, depth), (-width, width), (place * height - board, place * height + board))
    if m.chance(0.6):
        m.box("back", (-depth - 0.02, -depth + 0.01), (-width, width), (0, height))


def _sofa(m: Maker, thick: float, large: float) -> None:
    depth, width, seat = m.draw(0.35, 0.5), m.draw(0.55, 1.1), m.draw(0.3, 0.45)
    for number in range(count := int(m.rng.integers(1, 4))):
        low = -width + 2 * width * number / count
        m.box("seat", (-depth, depth), (low + 0.01, low + 2 * width / count - 0.01), (0.12, seat))
    m.box("back", (-depth - 0.2 * thick, -depth), (-width, width), (0.12, seat + 0.45 * large))
    arm = 0.12 * thick
    for side in (-1, 1):
        m.box("arm", (-depth, depth), (side * (width + arm) - arm, side * (width + arm) + arm), (0.12, seat + 0.22))
        for x in (-depth, depth):
            m.post("foot", x, side * width, (0, 0.13), 0.05)


def _stool(m: Maker, thick: float, large: float) -> None:
    radius, height, leg = 0.34 * large, m.draw(0.5, 1.2), 0.04 * thick
    if m.chance(0.5):
        m.post("seat", 0, 0, (height, height + 0.08 * thick), radius)
    else:
        m.box("seat", (-radius, radius), (-radius, radius), (height, height + 0.08 * thick))
    count, spread = int(m.rng.integers(3, 5)), m.draw(1.0, 1.4)
    m.legs("leg", radius * 0.7, radius * 0.7, height, leg, spread, count)
    reach = radius * 0.7 * spread * (0.98 if count == 3 else 1.2)
    m.add("torus", "bar", (0, 0, height * 0.25), (reach, reach, leg * 0.6), _UPRIGHT, min(0.3, leg / reach))


def _table(m: Maker, thick: float, large: float) -> None:
    x, y, height, leg = m.draw(0.35, 0.7) * large, m.draw(0.35, 0.7) * large, m.draw(0.4, 0.8), 0.045 * thick
    if m.chance(0.35):
        m.add("frustum", "top", (0, 0, height + 0.03 * thick), (x, y, 0.03 * thick), _UPRIGHT, 1.0)
    else:
        m.box("top", (-x, x), (-y, y), (height, height + 0.06 * thick))
    if m.chance(0.3):
        m.post("leg", 0, 0, (0, height), leg * 1.5)
        m.post("leg", 0, 0, (0, 0.06), 0.5 * min(x, y), 0.6)
    else:
        m.legs("leg", x * 0.7, y * 0.7, height, leg, m.draw(1.0, 1.25), 4)


_CLASSES: dict[str, Callable[[Maker, float, float], None]] = {
    **{"airplane": _airplane, "bed": _bed, "bottle": _bottle, "car": _car, "chair": _chair, "lamp": _lamp},
    **{"mug": _mug, "rocket": _rocket, "shelf": _shelf, "sofa": _sofa, "stool": _stool, "table": _table},
}


def build(name: str, thick: float, large: float, rng: np.random.Generator) -> list[Solid]:
    """The solids of an object of class ``name``, their labels places in ``PART_NAMES``."""
    maker = Maker(name, rng)
    _CLASSES[name](maker, thick, large)
    return maker.solids
