"""Boxes drawn as points along their edges, so that they are seen wherever clouds are."""

from __future__ import annotations

import numpy as np
import torch

from st_ssl.ops.boxes import box_corners

_EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)])


def box_edges(values: np.ndarray, spacing: float = 0.1) -> np.ndarray:
    """Boxes [N, 7 or more] to points [P, 3] about ``spacing`` metres apart on their edges and on a line from the middle
    of the floor to the middle of the front, which tells where ahead is."""
    if not len(values):
        return np.zeros((0, 3))
    corners = box_corners(torch.from_numpy(np.asarray(values[:, :7], np.float64))).numpy()
    start, end = (corners[:, _EDGES[:, side]].reshape(-1, 3) for side in (0, 1))
    floor, front = corners[:, :4].mean(1), corners[:, [0, 3]].mean(1)
    start, end = np.concatenate([start, floor]), np.concatenate([end, front])
    count = np.maximum(2, np.ceil(np.linalg.norm(end - start, axis=1) / spacing).astype(int) + 1)
    row = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    share = (place / (count[row] - 1))[:, None]
    return start[row] * (1 - share) + end[row] * share
