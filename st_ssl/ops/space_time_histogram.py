"""What a window of a recording shows without any network: where its points are at which time, and how fast."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from st_ssl.core.types import View


def space_time_histogram(view: View, cells: int = 4, steps: int = 4, speeds: int = 8) -> np.ndarray:
    """The share of the points in each of ``cells``³ cells of the bounding box in each of ``steps`` equal parts of the
    window, and in each of ``speeds`` equal parts of the velocities -1 … 1 in each of these steps: float64 [B, ``steps``
    × (``cells``³ + ``speeds``)], the second part 0 where velocities are not known."""
    bounds = view.points.offsets.tolist()
    columns = [view.points.attributes.get(name) for name in ("time", "velocity")]
    time, velocity = (None if column is None else column[:, 0].cpu().numpy() for column in columns)
    assert time is not None, "the clouds are no windows"
    rows = []
    for first, last in pairwise(bounds):
        xyz = view.points.xyz[first:last].cpu().numpy().astype(np.float64)
        low, size = xyz.min(0), np.maximum(np.ptp(xyz, axis=0), 1e-12)
        cell = (cells * (xyz - low) / size).astype(np.int64).clip(0, cells - 1) @ np.array([cells * cells, cells, 1])
        step = _part(time[first:last], steps)
        row = [np.bincount(step * cells**3 + cell, minlength=steps * cells**3), np.zeros(steps * speeds)]
        if velocity is not None:
            row[1] = np.bincount(step * speeds + _part(velocity[first:last], speeds), minlength=steps * speeds)
        rows.append(np.concatenate(row) / (last - first))
    return np.stack(rows)


def _part(values: np.ndarray, parts: int) -> np.ndarray:
    """In which of ``parts`` equal parts of -1 … 1 each of the ``values`` [N] lies."""
    return ((values.astype(np.float64) + 1) / 2 * parts).astype(np.int64).clip(0, parts - 1)
