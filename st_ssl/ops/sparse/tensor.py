"""The sparse tensor: features at the occupied voxels of a grid, and the neighbour maps found so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from st_ssl.ops.voxels import linear_keys

Size = tuple[int, int, int]


@dataclass
class SparseTensor:
    """``features`` [M, C] at M voxels of a batch of grids.

    ``coords`` int32 [M, 4] are (batch, x, y, z), no two alike, within ``shape`` (X, Y, Z) and ``batch_size``; their
    order is free, but convolution is fastest where they are sorted. An entry of the batch may have no voxel at all.
    ``maps`` are the neighbour maps by backend and key; tensors that come from one another share them, so a key stands
    for one geometry in all of a network.
    """

    features: Tensor
    coords: Tensor
    shape: Size
    batch_size: int
    maps: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """Voxels, of all the batch."""
        return len(self.coords)

    def replace(self, features: Tensor) -> SparseTensor:
        """The same voxels with other features [M, C']."""
        assert len(features) == len(self.coords), f"{len(features)} features for {len(self.coords)} voxels"
        return SparseTensor(features, self.coords, self.shape, self.batch_size, self.maps)


def sparse_tensor(features: Tensor, coords: Tensor, shape: Size, batch_size: int) -> SparseTensor:
    """A ``SparseTensor`` of checked parts. Raises ``ValueError`` where the two differ in length, or a coordinate lies
    outside, or two are the same: convolution would give wrong sums, silently."""
    if coords.ndim != 2 or coords.shape[1] != 4 or len(coords) != len(features):
        raise ValueError(f"features {tuple(features.shape)} need coords [{len(features)}, 4], not {list(coords.shape)}")
    if min(shape) < 1 or batch_size < 1:
        raise ValueError(f"a grid of {shape} in a batch of {batch_size}: expected sizes above 0")
    limits = torch.tensor([batch_size, *shape], device=coords.device)
    outside = ((coords < 0) | (coords >= limits)).any(1)
    if outside.any():
        raise ValueError(f"voxel {coords[outside][0].tolist()} (batch, x, y, z) lies outside of {limits.tolist()}")
    keys = keys_of_coords(coords, shape)
    ordered = keys.sort().values
    if (ordered[1:] == ordered[:-1]).any():
        raise ValueError("two voxels have the same coordinates: merge them first")
    return SparseTensor(features, coords.to(torch.int32).contiguous(), shape, batch_size)


def keys_of_coords(coords: Tensor, shape: Size, margin: int = 0) -> Tensor:
    """One int64 [M] for each of ``coords`` [M, 4], ordered as they are, with ``margin`` free cells around each grid."""
    return linear_keys(coords.long(), (0, *[-margin] * 3), (0, *(size + 2 * margin for size in shape)))


def coords_of_keys(keys: Tensor, shape: Size) -> Tensor:
    """The inverse of ``keys_of_coords`` without a margin: int64 [M] to int32 [M, 4]."""
    x, y, z = shape
    parts = [keys // (x * y * z), keys // (y * z) % x, keys // z % y, keys % z]
    return torch.stack(parts, 1).to(torch.int32)
