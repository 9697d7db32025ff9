"""Small sparse tensors, and what convolution gives on the dense grid."""

from __future__ import annotations

import torch
from torch import Tensor

from st_ssl.ops.sparse import SparseTensor, sparse_tensor

SHAPE = (7, 6, 9)


def random_tensor(
    channels: int = 4, share: float = 0.3, batch: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32
) -> SparseTensor:
    """A share of the cells of a batch whose second entry is empty, in an order of no meaning."""
    generator = torch.Generator().manual_seed(seed)
    filled = torch.rand(batch, *SHAPE, generator=generator) < share
    filled[1:2] = False
    coords = filled.nonzero()
    coords = coords[torch.randperm(len(coords), generator=generator)]
    features = torch.randn(len(coords), channels, generator=generator, dtype=dtype)
    return sparse_tensor(features, coords, SHAPE, batch)


def dense(x: SparseTensor, features: Tensor | None = None) -> Tensor:
    """[B, C, X, Y, Z], 0 where there is no voxel."""
    values = x.features if features is None else features
    b, i, j, k = x.coords.long().unbind(1)
    grid = values.new_zeros(x.batch_size, *x.shape, values.shape[1])
    return grid.index_put((b, i, j, k), values).permute(0, 4, 1, 2, 3)


def at(grid: Tensor, x: SparseTensor) -> Tensor:
    """``grid`` [B, C, X, Y, Z] at the voxels of ``x``: [M, C]."""
    b, i, j, k = x.coords.long().unbind(1)
    return grid[b, :, i, j, k]


def with_gradient(x: SparseTensor) -> SparseTensor:
    return x.replace(x.features.detach().clone().requires_grad_())
