"""Objects of other sweeps, pasted with their boxes into a sweep (SECOND, Yan et al., Sensors 2018)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from st_ssl.core.boxes import Boxes
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointBatch, PointCloud
from st_ssl.ops.boxes import iou_bev, points_in_boxes

Bank = Mapping[int, Sequence[PointCloud]]
"""By the number of their class: objects, each a cloud of its points with its box, where it was seen."""


def gather_objects(sweeps: Iterable[PointCloud], least: int) -> dict[int, list[PointCloud]]:
    """The labelled objects of ``sweeps`` that have ``least`` points or more."""
    found: dict[int, list[PointCloud]] = {}
    for sweep in sweeps:
        boxes = sweep.boxes
        if boxes is None or not len(boxes):
            continue
        inside = points_inside(sweep.xyz, boxes.values)
        for row in np.flatnonzero((boxes.classes >= 0) & (inside.sum(0) >= least)).tolist():
            own = sweep.take(inside[:, row])
            found.setdefault(int(boxes.classes[row]), []).append(replace(own, boxes=boxes.take(np.array([row]))))
    return found


@dataclass(frozen=True, eq=False)
class PasteObjects:
    """A transform of sweeps that pastes objects of the ``bank``, each where it was seen in its own sweep.

    ``most`` is how many objects of a class a sweep should have, by the number of the class. An object that would
    overlap another one, seen from above, is not pasted. Points of the sweep inside a pasted box are removed."""

    bank: Bank
    most: Mapping[int, int]

    def sample(self, rng: np.random.Generator, meta: Any = None, num_frames: int = 1) -> dict[str, np.ndarray]:
        """``paste`` int64 [1], what all draws follow from."""
        return {"paste": rng.integers(1 << 63, size=1)}

    def cut(self, items: Sequence[PointCloud], params: Mapping[str, np.ndarray]) -> list[PointCloud]:
        """Each of the sweeps with objects in it."""
        return [self.pasted(sweep, keyed_rng(int(params["paste"][0]), "paste")) for sweep in items]

    def apply(self, content: PointBatch, params: Mapping[str, Tensor]) -> PointBatch:
        """Nothing is done to a batch."""
        return content

    def pasted(self, sweep: PointCloud, rng: np.random.Generator) -> PointCloud:
        """``sweep`` with objects in it, whose points come first."""
        boxes = sweep.boxes
        if boxes is None:
            return sweep
        placed, added = boxes.values[np.isfinite(boxes.values[:, :7]).all(1), :7], []
        for number, most in self.most.items():
            pool = self.bank.get(number, [])
            count = max(0, most - int((boxes.classes == number).sum()))
            chosen = [pool[row] for row in rng.permutation(len(pool))[:count]]
            if not chosen:
                continue
            values = np.concatenate([_box(one).values[:, :7] for one in chosen])
            free = ~collide(values, placed, False) & ~collide(values, values, True)
            added += [one for one, fits in zip(chosen, free, strict=True) if fits]
            placed = np.concatenate([placed, values[free]])
        if not added:
            return sweep
        new = _box(added[0])
        for one in added[1:]:
            new = new.joined(_box(one))
        kept = sweep.take(np.flatnonzero(~points_inside(sweep.xyz, new.values).any(1)))
        parts = [*added, kept]
        return PointCloud(
            np.concatenate([part.xyz for part in parts]),
            {name: np.concatenate([part.attributes[name] for part in parts]) for name in sweep.attributes},
            {name: np.concatenate([part.labels[name] for part in parts]) for name in sweep.labels},
            sweep.pose,
            sweep.time,
            None,
            new.joined(boxes),
        )


def _box(cloud: PointCloud) -> Boxes:
    assert cloud.boxes is not None
    return cloud.boxes


def points_inside(xyz: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which points [N, 3] are in which boxes [M, 7 or more], bool [N, M]; none in one that is nowhere."""
    boxes = torch.from_numpy(np.nan_to_num(values[:, :7]))
    return points_in_boxes(torch.from_numpy(xyz), boxes.to(torch.float32)).numpy()


def collide(values: np.ndarray, others: np.ndarray, same: bool) -> np.ndarray:
    """Which boxes [N, 7] overlap one of ``others`` [M, 7], seen from above, bool [N]; with ``same`` one but itself."""
    if not len(others):
        return np.zeros(len(values), dtype=bool)
    first, second = (torch.from_numpy(np.asarray(part, dtype=np.float64)) for part in (values, others))
    overlap = iou_bev(first, second).numpy() > 0
    if same:
        np.fill_diagonal(overlap, False)
    return np.asarray(overlap.any(1))
