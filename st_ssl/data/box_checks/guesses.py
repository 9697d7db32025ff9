"""What may be wrong with all boxes of a log, each with the repair that would make them right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

Repair = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Guess:
    """``mistake``: its short name, of several guesses where they are one mistake in variants. ``told``: what boxes look
    like, and ``how`` they fit better, for people. ``repair`` takes boxes [N, 7] to what they should be; it is none
    where boxes are nonsense then. A ``vague`` one is for what no other explains."""

    mistake: str
    told: str
    how: str
    repair: Repair
    vague: bool = False


def _turned(yaw: Callable[[np.ndarray], np.ndarray]) -> Repair:
    return lambda boxes: np.column_stack([boxes[:, :6], yaw(boxes[:, 6])])


def _raised(share: float) -> Repair:
    return lambda boxes: np.column_stack([boxes[:, :2], boxes[:, 2] + share * boxes[:, 5], boxes[:, 3:]])


def _scaled(factor: float) -> Repair:
    return lambda boxes: np.column_stack([boxes[:, :3], factor * boxes[:, 3:6], boxes[:, 6]])


def _lifted(metres: float) -> Repair:
    return lambda boxes: np.column_stack([boxes[:, :2], boxes[:, 2] + metres, boxes[:, 3:]])


def _ordered(order: tuple[int, ...]) -> Repair:
    return lambda boxes: np.column_stack([boxes[:, :3], boxes[:, [3 + place for place in order]], boxes[:, 6]])


def _moved(matrix: np.ndarray, along: bool, raised: float = 0.0) -> Repair:
    """Centres in other axes; ``along``: angles too."""

    def repair(boxes: np.ndarray) -> np.ndarray:
        centre, yaw = boxes[:, :3] @ matrix.T, boxes[:, 6]
        if along and matrix[2, 2]:
            ahead = np.column_stack([np.cos(yaw), np.sin(yaw)]) @ matrix[:2, :2].T
            yaw = np.arctan2(ahead[:, 1], ahead[:, 0])
        elif along:  # a camera's angle is about the axis that looks down, from the one to the right
            yaw = -yaw - np.pi / 2
        centre[:, 2] += raised * boxes[:, 5]
        return np.column_stack([centre, boxes[:, 3:6], yaw])

    return repair


def _quarter(boxes: np.ndarray) -> np.ndarray:
    return np.column_stack([boxes[:, :6], boxes[:, 6] + np.pi / 2])


def beyond_a_turn(boxes: np.ndarray) -> np.ndarray:
    """Which boxes [N, 7] have an angle that is more than a whole turn, if it is in radians."""
    return np.asarray(np.abs(boxes[:, 6]) > 2.2 * np.pi)


def _from_degrees(boxes: np.ndarray) -> np.ndarray:
    if not beyond_a_turn(boxes).any():
        return np.full_like(boxes, np.nan)
    return np.column_stack([boxes[:, :6], np.deg2rad(boxes[:, 6])])


def _from_twice(boxes: np.ndarray) -> np.ndarray:
    if not (np.abs(boxes[:, 6]) <= np.deg2rad(np.pi) + 1e-6).all():
        return np.full_like(boxes, np.nan)
    return np.column_stack([boxes[:, :6], np.rad2deg(boxes[:, 6])])


def _all() -> list[Guess]:
    """All guesses. A quarter turn stands for swapped length and width as well: see ``judge``."""
    names = ("length", "width", "height")
    guesses = [
        Guess("bottom", "centres look like bottoms", "raised by half their height", _raised(0.5)),
        Guess("top", "centres look like tops", "lowered by half their height", _raised(-0.5)),
        Guess("quarter", "angles look off by 90°", "turned by 90°", _quarter),
        Guess("sign", "angles look as if counted the other way", "with the opposite angle", _turned(np.negative)),
        Guess("other axis", "angles look measured from y towards x", "with 90° less their angle",
              _turned(lambda yaw: np.pi / 2 - yaw)),
        Guess("degrees", "angles look like degrees", "with their angles taken for degrees", _from_degrees),
        Guess("radians", "angles look like radians that were converted twice", "with 180 / π times their angle",
              _from_twice),
    ]  # fmt: skip
    scales = {2.0: "half sizes", 0.5: "twice the sizes", 1 / 0.3048: "too small by 3.28, as if feet were metres",
              0.3048: "feet", 100.0: "too small by 100", 0.01: "centimetres", 1000.0: "too small by 1000",
              0.001: "millimetres"}  # fmt: skip
    for factor, told in scales.items():
        guesses.append(Guess(f"scale {factor:.3g}", f"sizes look like {told}", f"{factor:.3g} times as large",
                             _scaled(factor)))  # fmt: skip
    for order in permutations(range(3)):
        if order not in ((0, 1, 2), (1, 0, 2)):
            given = ", ".join(names[order.index(place)] for place in range(3))
            guesses.append(Guess(f"sizes {given}", f"sizes look like {given}", "with their sizes so named",
                                 _ordered(order)))  # fmt: skip
    for swapped, x, y, along in product((False, True), (1, -1), (1, -1), (True, False)):
        matrix = np.diag([x, y, 1.0])
        matrix = matrix[[1, 0, 2]] if swapped else matrix
        if not np.array_equal(matrix, np.eye(3)):
            axes = ", ".join(f"{'-' if sign < 0 else ''}{name}" for sign, name in _rows(matrix))
            guesses.append(Guess(f"axes {axes}", "x and y look swapped or mirrored", f"at ({axes}, z)",
                                 _moved(matrix, along)))  # fmt: skip
    camera = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    for along, raised in product((True, False), (0.0, 0.5)):
        guesses.append(Guess("camera axes", "boxes look like those of a camera: x to the right, y down, z ahead",
                             "at (z, -x, -y)", _moved(camera, along, raised)))  # fmt: skip
    for metres in (step * 0.4 for step in range(-5, 6) if step):
        told, how = f"too {'low' if metres > 0 else 'high'}", f"{'raised' if metres > 0 else 'lowered'} by"
        guesses.append(Guess("height", f"all boxes look {told}, as if counted from another height",
                             f"{how} {abs(metres):.1f} m", _lifted(metres), vague=True))  # fmt: skip
    return guesses


def _rows(matrix: np.ndarray) -> list[tuple[float, str]]:
    return [(float(row[:2].sum()), "xy"[int(np.abs(row[:2]).argmax())]) for row in matrix[:2]]


GUESSES = tuple(_all())
