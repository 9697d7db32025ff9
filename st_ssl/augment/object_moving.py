"""Objects of a sweep moved and turned, each for itself and with its box (SECOND, Yan et al., Sensors 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from st_ssl.augment.object_pasting import collide, points_inside
from st_ssl.core.config import Config
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointBatch, PointCloud


class MoveObjectsConfig(Config):
    """``shift``: the deviation of the normal shift along x, y and z, in metres. ``angle``: an object is turned about
    its own vertical axis by up to ± this, in degrees. ``tries``: how often a place is drawn for an object until it
    overlaps no other one, seen from above; an object that finds none stays where it is."""

    shift: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = (1.0, 1.0, 0.5)
    angle: float = Field(default=45.0, ge=0, le=180)
    tries: PositiveInt = 100


@dataclass(frozen=True)
class MoveObjects:
    """A transform of sweeps with boxes. Points go with the first box that they are in; velocities turn with it."""

    config: MoveObjectsConfig

    def sample(self, rng: np.random.Generator, meta: Any = None, num_frames: int = 1) -> dict[str, np.ndarray]:
        """``move`` int64 [1], what all draws follow from."""
        return {"move": rng.integers(1 << 63, size=1)}

    def cut(self, items: Sequence[PointCloud], params: Mapping[str, np.ndarray]) -> list[PointCloud]:
        """Each of the sweeps with its objects moved."""
        return [self.moved(sweep, keyed_rng(int(params["move"][0]), "move")) for sweep in items]

    def apply(self, content: PointBatch, params: Mapping[str, Tensor]) -> PointBatch:
        """Nothing is done to a batch."""
        return content

    def moved(self, sweep: PointCloud, rng: np.random.Generator) -> PointCloud:
        """``sweep`` with each of its objects somewhere near where it was."""
        boxes = sweep.boxes
        rows = np.zeros(0, np.int64) if boxes is None else np.flatnonzero(np.isfinite(boxes.values[:, :7]).all(1))
        if boxes is None or not len(rows):
            return sweep
        before = boxes.values[rows].astype(np.float64)
        after = self._places(before, rng)
        inside, xyz = points_inside(sweep.xyz, before), sweep.xyz.copy()
        first = np.where(inside.any(1), inside.argmax(1), -1)
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            own = first == place
            xyz[own] = (xyz[own] - old[:3]) @ _turn(new[6] - old[6]).T + new[:3]
        values = boxes.values.copy()
        values[rows] = after
        return replace(sweep, xyz=xyz, boxes=replace(boxes, values=values))

    def _places(self, boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Where boxes float64 [N, 9] come to stand, one after the other."""
        config, found = self.config, boxes.copy()
        for row, box in enumerate(boxes):
            angles = np.deg2rad(config.angle) * rng.uniform(-1, 1, config.tries)
            tried = np.tile(box, (config.tries, 1))
            tried[:, :3] += rng.normal(size=(config.tries, 3)) * config.shift
            tried[:, 6] += angles
            clear = np.flatnonzero(~collide(tried[:, :7], np.delete(found[:, :7], row, 0), False))
            if len(clear):
                found[row] = tried[clear[0]]
                found[row, 7:] = _turn(angles[clear[0]])[:2, :2] @ box[7:]
        return found


def _turn(angle: float) -> np.ndarray:
    """The turn about z by ``angle`` radians, [3, 3]."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
