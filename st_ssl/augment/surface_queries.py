"""Places around a surface that a LiDAR has seen: before it is empty, right behind it is not (ALSO, 2023)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from st_ssl.augment.point_noise import random_bits, uniform
from st_ssl.core.types import PointBatch

_WHICH, _WHERE = 11, 12  # streams of a cloud's seed


class Queries(NamedTuple):
    """Q places of every cloud, ``xyz`` [B · Q, 3], of the clouds ``cloud`` int64 [B · Q]; ``occupied`` bool [B · Q];
    ``point`` int64 [B · Q] is the point of the batch that each is near to, -1 for one anywhere before it."""

    xyz: Tensor
    cloud: Tensor
    occupied: Tensor
    point: Tensor


def surface_queries(
    points: PointBatch, count: int, reach: float, seed: Tensor, origin: Tensor | None = None
) -> Queries:
    """A third of ``count`` places up to ``reach`` metres behind a point, as the ray of the sensor goes, which are
    occupied; a third up to that far in front of it; and a third anywhere from the sensor to the point: both are empty.

    Points are drawn with replacement, by ``seed`` int64 [B]. ``origin`` [3] is where the sensor is (the origin).
    """
    third, device = count // 3, points.device
    clouds = len(points)
    cloud = torch.arange(clouds, device=device).repeat_interleave(3 * third)
    number = torch.arange(3 * third, device=device).repeat(clouds)
    kind = number // third
    sizes = points.offsets.diff()
    which = (uniform(random_bits(seed, _WHICH)[cloud], number) * sizes[cloud]).long()
    point = points.offsets[cloud] + torch.minimum(which, sizes[cloud] - 1)
    share = uniform(random_bits(seed, _WHERE)[cloud], number).to(points.xyz.dtype)[:, None]
    start = points.xyz.new_zeros(3) if origin is None else origin.to(points.xyz)
    ray = points.xyz[point] - start
    ahead = ray / ray.norm(dim=1, keepdim=True).clamp_min(1e-6)
    end = points.xyz[point]
    near = torch.where(kind[:, None] == 0, end + reach * share * ahead, end - reach * share * ahead)
    xyz = torch.where(kind[:, None] == 2, start + share * ray, near)
    return Queries(xyz, cloud, kind == 0, torch.where(kind == 2, -1, point))
