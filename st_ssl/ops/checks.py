"""What the operations ask of their input: errors that name the values."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def check_points(name: str, points: Tensor, dims: int, width: int | None = 3) -> None:
    """Raises ``ValueError`` unless ``points`` has ``dims`` axes, the last of ``width`` (None: any)."""
    if points.dim() != dims or (width is not None and points.shape[-1] != width):
        form = {2: "P, ", 3: "B, N, "}[dims] + str(width or "D")
        raise ValueError(f"{name} has the shape {list(points.shape)}; expected [{form}]")


def check_offsets(name: str, offsets: Tensor, total: int) -> list[int]:
    """``offsets`` int64 [B + 1] as a list; raises ``ValueError`` unless they rise from 0 to ``total``."""
    values: list[int] = offsets.tolist()
    if not values or values[0] != 0 or values[-1] != total or any(a > b for a, b in pairwise(values)):
        raise ValueError(f"{name} {values}: expected to rise from 0 to the number of points, {total}")
    return values


def check_finite(name: str, points: Tensor) -> None:
    """Raises ``ValueError`` with the first of ``points`` [..., 3] that is not finite."""
    finite = points.isfinite()
    if not finite.all():
        *place, _ = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name}{place} is {points[tuple(place)].tolist()}: expected finite numbers")


def as_float(points: Tensor) -> Tensor:
    """float32 in place of half precision, in which neither distances nor indices would be right."""
    return points if points.dtype == torch.float64 else points.float()
