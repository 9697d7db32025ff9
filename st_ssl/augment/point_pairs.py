"""The same points in two views of a cloud."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from st_ssl.core.types import PointBatch


def correspondences(a: PointBatch, b: PointBatch, radius: float | None = None) -> Tensor:
    """Pairs of points of the clouds ``a[i]`` and ``b[i]``: int64 [K, 2], rows of ``a.xyz`` and of ``b.xyz``, ascending
    in the first, each of which stands there once at most.

    Without ``radius`` those that are the same point of the source; where ``b`` has that several times, its first. With
    it the nearest point of ``b`` that is not farther away (PointContrast, 2020; up to the last bit of a distance the
    lowest in number); then both have to be in one frame, as two scans are by their poses, and before ``apply``; it runs
    on the CPU. Raises ``ValueError`` where the batches are not of as many clouds, or sources are asked for and missing.
    """
    if len(a) != len(b):
        raise ValueError(f"correspondences of {len(a)} clouds with {len(b)}: expected as many")
    if radius is not None:
        return _nearest(a, b, radius)
    if a.source is None or b.source is None:
        raise ValueError("correspondences need PointBatch.source in both, or a radius")
    if len(a.xyz) == 0 or len(b.xyz) == 0:
        return a.offsets.new_zeros((0, 2))
    width = torch.maximum(a.source.max(), b.source.max()) + 1
    first, second = (points.source + _cloud(points) * width for points in (a, b) if points.source is not None)
    ordered, order = torch.sort(second, stable=True)
    found = torch.searchsorted(ordered, first).clamp_(max=len(ordered) - 1)
    rows = (ordered[found] == first).nonzero().flatten()
    return torch.stack([rows, order[found[rows]]], dim=1)


def _cloud(points: PointBatch) -> Tensor:
    numbers = torch.arange(len(points), device=points.offsets.device)
    return numbers.repeat_interleave(points.offsets.diff(), output_size=len(points.xyz))


def _nearest(a: PointBatch, b: PointBatch, radius: float) -> Tensor:
    from scipy.spatial import cKDTree

    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for i in range(len(a)):
        (start, end), (low, high) = (points.offsets[i : i + 2].tolist() for points in (a, b))
        if start == end or low == high:
            continue
        known = b.xyz[low:high].cpu().numpy()
        # Two at the same distance: the tree's order would decide, so ask for both.
        distance, place = cKDTree(known).query(a.xyz[start:end].cpu().numpy(), k=min(2, len(known)))
        distance, place = distance.reshape(end - start, -1), place.reshape(end - start, -1)
        place = np.where(distance == distance[:, :1], place, len(known)).min(axis=1)
        near = np.flatnonzero(distance[:, 0] <= radius)
        pairs.append(np.stack([near + start, place[near] + low], axis=1))
    return torch.from_numpy(np.concatenate(pairs)).to(a.xyz.device)
