"""Values of points carried over to other places."""

from __future__ import annotations

from torch import Tensor

from st_ssl.ops.neighbours import gather_points, nearest


def interpolate(query: Tensor, points: Tensor, values: Tensor, k: int = 3) -> Tensor:
    """Values at ``query`` as the mean of the ``k`` nearest points', weighted by the inverse of the squared distance.

    ``query`` [B, Q, 3], ``points`` [B, N, 3], ``values`` [B, N, C] to [B, Q, C]; differentiable in the values alone.
    Clouds of fewer than ``k`` points use them all. At a point it is the point's own value, up to rounding. Qi et al.,
    PointNet++, 2017.
    """
    if values.shape[:2] != points.shape[:2]:
        raise ValueError(f"values {list(values.shape)} of points {list(points.shape)}: expected one row for each point")
    distances, index = nearest(query, points, min(k, points.shape[1]))
    weights = 1 / distances.clamp_min(1e-10)
    weights = (weights / weights.sum(2, keepdim=True)).to(values.dtype)
    return (gather_points(values, index) * weights.unsqueeze(3)).sum(2)
