"""Chamfer distance between point sets."""

from __future__ import annotations

from torch import Tensor

from st_ssl.ops.checks import as_float
from st_ssl.ops.neighbours import gather_points, nearest


def chamfer(a: Tensor, b: Tensor, order: int = 2) -> Tensor:
    """Chamfer distance of each pair of sets, [B], differentiable in both: ``a`` [B, N, D], ``b`` [B, M, D],
    D = 3 in space.

    In the words of Point-MAE (Pang et al., 2022): ``order=2`` is CDL2, the mean squared distance of a point of ``a`` to
    the nearest of ``b`` plus that from ``b`` to ``a``; ``order=1`` is CDL1, half the sum of the two means of distances
    that are not squared. Raises ``ValueError`` for other orders and for empty sets.
    """
    if order not in (1, 2):
        raise ValueError(f"order {order}: expected 1 or 2")
    if a.shape[1] == 0 or b.shape[1] == 0:
        raise ValueError(f"sets of {a.shape[1]} and {b.shape[1]} points: expected one point or more in each")
    there, back = _one_way(a, b, order), _one_way(b, a, order)
    return there + back if order == 2 else (there + back) / 2


def _one_way(a: Tensor, b: Tensor, order: int) -> Tensor:
    a, b = as_float(a), as_float(b)
    matched = gather_points(b, nearest(a, b, 1)[1].squeeze(2))
    if order == 2:
        return (a - matched).square().sum(2).mean(1)
    # The gradient of a norm at 0 is defined as 0 here, so that points that coincide do no harm.
    return (a - matched).norm(dim=2).mean(1)
