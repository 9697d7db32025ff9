"""A camera beside the planted LiDAR, as KITTI has it: no image is made, but where everything would be in it is known.

Its axes are x to the right, y down, z ahead. A actors, M points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from st_ssl.data.synthetic.drives.bodies import BLOCK, CYLINDER, Parts

Array = np.ndarray
SIZE = (1242, 375)  # width and height of the image, pixels
_NEAR = 0.1  # metres ahead at which what is nearer, or behind, is cut off


def _turn(axis: int, degrees: float) -> Array:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rest = [i for i in range(3) if i != axis]
    matrix = np.eye(3)
    matrix[np.ix_(rest, rest)] = [[c, -s], [s, c]]
    return matrix


AXES = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])  # of the LiDAR, to those of a camera
RECTIFY = _turn(0, -0.25) @ _turn(1, 0.4)
"""From the axes of camera 0 to those all cameras share, [3, 3]."""
TO_CAMERA = np.vstack(
    [np.column_stack([_turn(0, 0.35) @ _turn(2, 0.2) @ AXES, [-0.004, -0.076, -0.272]]), [0, 0, 0, 1]]
)
"""From the LiDAR to camera 0, [4, 4]: not quite parallel, as in every car."""


def projection(right: float) -> Array:
    """The matrix [3, 4] of a camera that is ``right`` metres right of camera 0."""
    focal, x, y = 721.5377, 609.5593, 172.854
    return np.array([[focal, 0, x, 0.0 - focal * right], [0, focal, y, 0], [0, 0, 1, 0]])


CAMERAS = tuple(projection(right) for right in (0.0, 0.54, -0.06, 0.48))
"""The four of KITTI; objects are labelled in the third."""


def rectified(points: Array) -> Array:
    """Points [..., 3] of the LiDAR in the shared axes of the cameras."""
    return (points @ TO_CAMERA[:3, :3].T + TO_CAMERA[:3, 3]) @ RECTIFY.T


@dataclass(frozen=True)
class Seen:
    """``boxes`` [A, 4] are the smallest rectangles around actors in the image (left, top, right, bottom), ``truncated``
    [A] the share of each that the image cuts off, 1 for what is not in it."""

    boxes: Array
    truncated: Array


def look(parts: Parts, actors: Array) -> Seen:
    """What the third camera sees of ``actors`` [A], whose parts are among ``parts``; nothing hides anything."""
    points, owner = outline(parts)
    points = rectified(points)
    ahead = points[:, 2].copy()
    points[:, 2] = np.maximum(ahead, _NEAR)
    flat = np.hstack([points, np.ones((len(points), 1))]) @ CAMERAS[2].T
    flat = flat[:, :2] / flat[:, 2:]
    whole = np.zeros((len(actors), 4))
    cut = np.zeros((len(actors), 4))
    truncated = np.ones(len(actors))
    for number, actor in enumerate(actors):
        own = owner == actor
        if not (ahead[own] > _NEAR).any():
            continue
        whole[number] = [*flat[own].min(0), *flat[own].max(0)]
        cut[number] = np.clip(whole[number], 0, [SIZE[0] - 1, SIZE[1] - 1] * 2)
        (width, height), (all_width, all_height) = (b[number, 2:] - b[number, :2] for b in (cut, whole))
        truncated[number] = 1 - width * height / (all_width * all_height)
    return Seen(cut, truncated)


def outline(parts: Parts) -> tuple[Array, Array]:
    """Points [M, 3] on the edges of ``parts``, which nothing of them reaches beyond (by more than 2 % of a radius
    where they are round), and whose they are [M]."""
    around = np.arange(24) * (2 * math.pi / 24)
    ring = np.stack([np.cos(around), np.sin(around)], axis=1)
    found, owner = [], []
    for number in np.flatnonzero(parts.owner >= 0):
        (x, y, z), (front, back, side) = parts.half[number], parts.top[number]
        if parts.kind[number] == BLOCK:
            lower = np.array([(x, y, -z), (-x, y, -z), (-x, -y, -z), (x, -y, -z)])
            upper = np.array([(x * front, y * side, z), (-x * back, y * side, z)])
            points = np.vstack([lower, upper, upper * [1, -1, 1]])
        elif parts.kind[number] == CYLINDER:
            points = np.vstack([np.column_stack([ring * [x, y], np.full(24, sign * z)]) for sign in (1, -1)])
        else:
            up = np.radians([-90, -67.5, -45, -22.5, 0, 22.5, 45, 67.5, 90])
            points = np.vstack([np.column_stack([ring * math.cos(a), np.full(24, math.sin(a))]) for a in up])
            points = points * [x, y, z]
        c, s = math.cos(parts.yaw[number]), math.sin(parts.yaw[number])
        found.append(points @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + parts.centre[number])
        owner.append(np.full(len(points), parts.owner[number]))
    if not found:
        return np.zeros((0, 3)), np.zeros(0, dtype=np.int64)
    return np.vstack(found), np.concatenate(owner)
