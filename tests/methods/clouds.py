"""Point methods at a tiny size and what they are fed: clouds of noise on planes, with masks drawn from their seed."""

from __future__ import annotations

from typing import Any

import torch

from st_ssl.augment.point_masking import PointMaskConfig, random_point_mask
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import Mask, PointBatch, View
from st_ssl.encoders.base import ENCODERS, Encoder
from st_ssl.methods.base import METHODS
from tests.methods.steps import TINY_ENCODERS

POINT_VIT = next(row for row in TINY_ENCODERS if row["name"] == "point_vit")
NUM_POINTS = 48


def point_encoder(row: dict[str, Any] = POINT_VIT, seed: int = 0, **changes: Any) -> Encoder:
    torch.manual_seed(seed)
    config = ENCODERS.config(row["name"]).model_validate(row | changes)
    return ENCODERS.build(config, PointInputConfig(num_points=NUM_POINTS))


def build_points(name: str, encoder: Encoder | None = None, **settings: Any) -> Any:
    """The method ``name`` around ``encoder``, or around a tiny point_vit, in training mode."""
    config = METHODS.config(name).model_validate({"name": name, **settings})
    encoder = encoder or point_encoder()
    torch.manual_seed(1)
    return METHODS.build(config, encoder).train()


def point_batch(batch: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> PointBatch:
    """``batch`` clouds, each of two planes of noise that cross."""
    generator = torch.Generator().manual_seed(seed)
    planes = torch.randn(batch, 2, 2, 3, generator=generator)
    places = torch.rand(batch, 2, NUM_POINTS // 2, 2, generator=generator) - 0.5
    xyz = (places @ planes).reshape(-1, 3).to(dtype)
    return PointBatch(xyz, torch.arange(batch + 1) * NUM_POINTS)


def point_view(mask: PointMaskConfig, batch: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> View:
    points, groups = point_batch(batch, seed, dtype), POINT_VIT["num_groups"]
    at = torch.zeros(batch, 1, dtype=torch.int64)
    if mask.kind == "block":
        return View(points, at, masks=(Mask(None, torch.arange(batch)[:, None] + 3),))
    draws = [random_point_mask(groups, mask.ratio, keyed_rng(seed, i)) for i in range(batch)]
    keep, masked = (torch.stack([torch.from_numpy(draw[i]) for draw in draws]) for i in (0, 1))
    return View(points, at, masks=(Mask(keep, masked),))
