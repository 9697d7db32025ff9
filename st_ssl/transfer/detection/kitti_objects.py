"""Objects as KITTI's text files have them (Geiger et al., 2012): labels, and results with a score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from st_ssl.core.boxes import Boxes
from st_ssl.core.errors import SampleError
from st_ssl.data.sources.drives.base import numbers, text_lines
from st_ssl.data.sources.drives.kitti import LABEL_LINE, NAMES
from st_ssl.data.streams.points.drives import Camera
from st_ssl.ops.boxes import box_corners

_WRITTEN = {ours: theirs for theirs, ours in NAMES.items()}
_NEAREST = 0.1  # metres before the camera; what is nearer is as wide as the image


@dataclass(frozen=True)
class KittiObjects:
    """The N objects of one frame. ``names`` are KITTI's; ``image`` [N, 4] is left, top, right and bottom in pixels;
    ``size`` [N, 3] height, width and length in metres; ``bottom`` [N, 3] the centre of the bottom in the rectified
    camera's axes (x right, y down, z ahead); ``turn`` [N] the angle about its y axis; all float64."""

    names: tuple[str, ...]
    truncated: np.ndarray
    occluded: np.ndarray
    alpha: np.ndarray
    image: np.ndarray
    size: np.ndarray
    bottom: np.ndarray
    turn: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of_rows(cls, names: Sequence[str], rows: np.ndarray) -> KittiObjects:
        """From the columns [N, 15] that follow the name in a file of results."""
        truncated, occluded, alpha, turn, score = rows[:, [0, 1, 2, 13, 14]].T
        return cls(tuple(names), truncated, occluded, alpha, rows[:, 3:7], rows[:, 7:10], rows[:, 10:13], turn, score)

    @property
    def rows(self) -> np.ndarray:
        """The columns [N, 15] that follow the name in a file of results."""
        first, last = (self.truncated, self.occluded, self.alpha), (self.turn, self.score)
        return np.column_stack([*first, self.image, self.size, self.bottom, *last])

    @property
    def upright(self) -> np.ndarray:
        """As boxes [N, 7] of ``ops.boxes``: x to the right, y ahead, z down; what nobody labelled has no
        size."""
        height, width, length = self.size.clip(0).T
        x, y, z = self.bottom.T
        return np.column_stack([x, z, y - height / 2, length, width, height, -self.turn])


def read_objects(file: Path) -> KittiObjects:
    """Labels, whose score is 0, or results. Raises ``SampleError``."""
    names, rows = [], []
    for at, line in text_lines(file):
        name, *words = line.split()
        if len(words) not in (14, 15):
            raise SampleError(str(file), f"line {at}: {len(words) + 1} columns, expected 15 or 16: {LABEL_LINE}")
        names.append(name)
        rows.append([*numbers(file, at, words), 0.0][:15])
    return KittiObjects.of_rows(names, np.array(rows, dtype=np.float64).reshape(-1, 15))


def result_text(objects: KittiObjects) -> str:
    """A file of results: four decimals, a line an object."""
    lines = [
        f"{name} {row[0]:.0f} {row[1]:.0f} {' '.join(f'{value:.4f}' for value in row[2:])}\n"
        for name, row in zip(objects.names, objects.rows, strict=True)
    ]
    return "".join(lines)


def in_camera(boxes: Boxes, classes: Sequence[str], to_camera: np.ndarray, camera: Camera) -> KittiObjects:
    """Found ``boxes`` of a sweep, with the fact ``score``, as results of KITTI: those of which the image of ``camera``
    shows something. ``to_camera`` [4, 4] is from the sweep to the rectified camera."""
    boxes = boxes.take(boxes.classes >= 0)
    values = boxes.values[:, :7].astype(np.float64)
    x, y, z, length, width, height, yaw = values.T
    bottom = np.column_stack([x, y, z - height / 2]) @ to_camera[:3, :3].T + to_camera[:3, 3]
    turn = _wrapped(-yaw - np.pi / 2)
    alpha = _wrapped(turn - np.arctan2(bottom[:, 0], bottom[:, 2]))
    image = _projected(values, camera)
    seen = (bottom[:, 2] > 0) & (image[:, 2] > image[:, 0]) & (image[:, 3] > image[:, 1])
    nothing = np.full(len(values), -1.0)  # of what only people know
    columns = (nothing, nothing, alpha, image, height, width, length, bottom, turn, boxes.facts["score"])
    names = [_WRITTEN[classes[number]] for number in boxes.classes[seen].tolist()]
    return KittiObjects.of_rows(names, np.column_stack(columns)[seen])


def _projected(values: np.ndarray, camera: Camera) -> np.ndarray:
    """The rectangles [N, 4] of an image that hold the corners of boxes [N, 7], cut at its border."""
    corners = box_corners(torch.from_numpy(values)).numpy()
    u, v, depth = np.moveaxis(corners @ camera.matrix[:, :3].T + camera.matrix[:, 3], -1, 0)
    depth = depth.clip(_NEAREST)
    u, v = (u / depth).clip(0, camera.width - 1), (v / depth).clip(0, camera.height - 1)
    return np.column_stack([u.min(1), v.min(1), u.max(1), v.max(1)])


def _wrapped(angle: np.ndarray) -> np.ndarray:
    return (angle + np.pi) % (2 * np.pi) - np.pi
