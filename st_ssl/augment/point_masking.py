"""Which tokens of a cloud an encoder may see: sorted indices, never booleans. G patches of a cloud, M voxels of all.

Patches have centres, known only on the device: a block of them is found there, from a number that the worker drew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from st_ssl.augment.masking import MaskConfig, draw_mask
from st_ssl.augment.point_noise import random_bits
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.types import Mask

_RANGE = 1 << 17  # block coordinates lie within ± this


class PointMaskConfig(Config):
    """How the patches of a cloud are masked: each on its own (``random``), or those nearest to one of them (``block``;
    both: Point-BERT and Point-MAE, 2022). ``ratio``: the share that is hidden."""

    kind: Literal["random", "block"] = "random"
    ratio: float = Field(default=0.6, gt=0, lt=1)


def check_point_mask(config: PointMaskConfig, num_groups: int) -> None:
    """Raise ``ConfigError`` where a mask would hide all of ``num_groups`` patches, or none."""
    if not 0 < round(num_groups * config.ratio) < num_groups:
        raise ConfigError(
            f"method.mask.ratio={config.ratio}: of {num_groups} patches it would hide "
            f"{'none' if round(num_groups * config.ratio) == 0 else 'all'}"
        )


def random_point_mask(num_groups: int, ratio: float, rng: np.random.Generator) -> Mask:
    """The mask of one cloud, drawn in the worker: of every draw the same number is hidden, so masks stack."""
    return draw_mask(MaskConfig(kind="random", ratio=ratio), (num_groups, 1, 1), rng)


def block_point_mask(centres: Tensor, draw: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Hide the patches nearest to one of them: ``centres`` [B, G, 3], ``draw`` [B] in [0, 1) chooses that one. Returns
    keep int64 [B, K] and masked int64 [B, G - K], both sorted; of patches equally far those of lower number are hidden.
    """
    num_groups = centres.shape[1]
    seed = (draw.to(centres.device) * num_groups).long().clamp_(0, num_groups - 1)
    middle = centres[torch.arange(len(centres), device=centres.device), seed]
    distance = (centres - middle[:, None]).square().sum(-1)
    order = torch.sort(distance, dim=1, stable=True).indices
    hidden = round(num_groups * ratio)
    return order[:, hidden:].sort(dim=1).values, order[:, :hidden].sort(dim=1).values


@dataclass(frozen=True)
class PatchMask:
    """The mask plan of ``num_groups`` patches of a cloud. Of a ``block`` the ``masked`` [1] is one patch, drawn here:
    the others are those around it, which are known on the device alone (``block_point_mask``)."""

    config: PointMaskConfig
    num_groups: int

    def __post_init__(self) -> None:
        check_point_mask(self.config, self.num_groups)

    def draw(self, rng: np.random.Generator, batch_rng: np.random.Generator, recording: Any) -> Mask:
        if self.config.kind == "block":
            return Mask(None, rng.integers(self.num_groups, size=1))
        return random_point_mask(self.num_groups, self.config.ratio, rng)


class VoxelMask(NamedTuple):
    """Rows of the voxels of a batch, each int64 and sorted: ``keep`` [K] is what an encoder sees, ``masked`` [M - K].
    Their numbers differ from cloud to cloud."""

    keep: Tensor
    masked: Tensor


def voxel_block_masks(
    levels: Sequence[Tensor], strides: Sequence[int], block: int, ratio: float, seed: Tensor
) -> list[VoxelMask]:
    """Hide whole blocks of space, the same ones at every scale of an encoder, so that no scale tells what another hides
    (as SparK, 2023, does for images).

    ``levels`` are the voxels of one batch at several scales, each int [M_l, 4] (cloud, x, y, z) in any order; a voxel
    of level l is ``strides[l]`` of the finest ones wide, and ``block`` of those make a block: each stride has to divide
    it. Of the blocks of each cloud that hold a voxel of the first level, ``round(ratio · number)`` are hidden, but at
    least one is and one is not, where there are two; which ones depends on ``seed`` int64 [B], a number for each
    cloud. Raises ``ValueError`` for strides that do not divide ``block``, and for voxels too far away.
    """
    if uneven := [stride for stride in strides if block % stride]:
        raise ValueError(f"blocks of {block} voxels at strides {list(strides)}: {uneven[0]} does not divide {block}")
    keys = [_block_key(coords, block // stride) for coords, stride in zip(levels, strides, strict=True)]
    blocks = torch.unique(keys[0])
    hidden = blocks[_draw_blocks(blocks, ratio, seed)]
    masks = []
    for key in keys:
        at = torch.searchsorted(hidden, key).clamp_(max=max(0, len(hidden) - 1))
        inside = hidden[at] == key if len(hidden) else torch.zeros_like(key, dtype=torch.bool)
        masks.append(VoxelMask((~inside).nonzero().flatten(), inside.nonzero().flatten()))
    return masks


def _block_key(coords: Tensor, size: int) -> Tensor:
    """One int64 for each voxel, that of its cloud and block: ascending in cloud, x, y, z."""
    at = torch.div(coords[:, 1:].long(), size, rounding_mode="floor")
    if len(at) and int(at.abs().max()) >= _RANGE:
        raise ValueError(f"voxel blocks up to {int(at.abs().max())} from the origin: expected less than {_RANGE}")
    x, y, z = (at + _RANGE).unbind(1)
    width = 2 * _RANGE
    return ((coords[:, 0].long() * width + x) * width + y) * width + z


def _draw_blocks(blocks: Tensor, ratio: float, seed: Tensor) -> Tensor:
    """Which rows of ``blocks`` (sorted keys) are hidden: int64, sorted."""
    width = (2 * _RANGE) ** 3
    cloud = torch.div(blocks, width, rounding_mode="floor")
    order = torch.sort(random_bits(seed.to(blocks.device)[cloud], blocks % width), stable=True).indices
    order = order[torch.sort(cloud[order], stable=True).indices]  # by cloud, and within it by the drawn number
    counts = torch.bincount(cloud, minlength=len(seed))
    rank = torch.arange(len(blocks), device=blocks.device) - (counts.cumsum(0) - counts)[cloud]
    most = (counts - 1).clamp_min(0)
    wanted = torch.minimum(torch.round(counts * ratio).long().clamp_min(1), most)
    return order[(rank < wanted[cloud]).nonzero().flatten()].sort().values
