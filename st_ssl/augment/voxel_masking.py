"""Which voxels of LiDAR sweeps a network may see: fewer of the many near ones, more of the few far ones."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from st_ssl.augment.point_noise import uniform
from st_ssl.core.config import Config


class VoxelMaskConfig(Config):
    """``hidden``: the share of the voxels that is hidden in each band of distance, nearest first; ``edges`` are the
    distances between bands. They are metres from the sensor, as the paper has it, or ``cells`` from the corner of the
    grid, as its code measures them."""

    edges: tuple[float, ...] = (30.0, 50.0)
    hidden: tuple[float, ...] = Field(default=(0.5, 0.3, 0.3), min_length=1)
    distance: Literal["metres", "cells"] = "metres"

    @model_validator(mode="after")
    def _checked(self) -> VoxelMaskConfig:
        if len(self.hidden) != len(self.edges) + 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError(f"hidden {self.hidden} needs as many bands as rising edges {self.edges} divide")
        if not all(0 <= share < 1 for share in self.hidden):
            raise ValueError(f"hidden {self.hidden}: expected shares of at least 0 and below 1")
        return self


def visible_voxels(config: VoxelMaskConfig, distance: Tensor, cloud: Tensor, number: Tensor, seed: Tensor) -> Tensor:
    """The voxels that are not hidden: their rows int64 [K], ascending. Of each band of each cloud that share is hidden,
    and which ones depends on the cloud's ``seed`` int64 [B] and the ``number`` int64 [M] of a voxel in the grid alone.
    ``distance`` [M] and ``cloud`` int64 [M] are those of the voxels."""
    edges = distance.new_tensor(config.edges)
    group = cloud * len(config.hidden) + torch.bucketize(distance, edges, right=True)
    draw = uniform(seed[cloud], number)
    order = torch.argsort(draw, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    counts = torch.bincount(group, minlength=len(seed) * len(config.hidden))
    first = torch.cumsum(counts, 0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - first[group[order]]
    shares = draw.new_tensor(config.hidden, dtype=torch.float64).repeat(len(seed))
    hidden = (shares * counts).round().long()
    return (rank >= hidden[group]).nonzero().squeeze(1)
