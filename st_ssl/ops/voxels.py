"""Points on a regular grid: which voxels are occupied, which point is in which, and where a voxel is in a list."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from st_ssl.ops.checks import check_finite, check_offsets, check_points

INT32, INT64 = 2**31, 2**63


def voxelise(xyz: Tensor, offsets: Tensor, size: float | Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The voxels that clouds occupy. Voxel (0, 0, 0) begins at the origin; coordinates may be negative.

    ``xyz`` [P, 3], ``offsets`` int64 [B + 1], ``size`` of a voxel in the unit of ``xyz``, one number or three. Returns
    ``coords`` int32 [M, 4] (batch, x, y, z) in ascending order, none twice; the voxel of each point int64 [P]; and the
    number of points in each voxel int64 [M]. Raises ``ValueError`` where a coordinate is not finite or ``size`` so
    small that voxels cannot be counted in 64 bits.
    """
    check_points("xyz", xyz, 2)
    check_offsets("offsets", offsets, len(xyz))
    check_finite("xyz", xyz)
    sizes = torch.as_tensor(size, dtype=torch.float64, device=xyz.device).expand(3)
    if not (sizes > 0).all():
        raise ValueError(f"voxels of size {size}: expected numbers above 0")
    # In double precision, so that a point's voxel does not depend on how far it is from the origin.
    cells = (xyz.detach().double() / sizes).floor()
    if len(cells) and cells.abs().max() >= INT32:
        raise ValueError(f"voxels of size {size}: too small for points at {xyz.abs().max().item():g}")
    cloud = torch.arange(len(offsets) - 1, device=xyz.device).repeat_interleave(offsets.diff().to(xyz.device))
    coords = torch.cat([cloud.unsqueeze(1), cells.long()], 1)
    ordered, order = linear_keys(coords, *_bounds(coords)).sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    point_to_voxel = torch.empty_like(order)
    point_to_voxel[order] = first.cumsum(0) - 1
    begin = first.nonzero().squeeze(1)
    counts = torch.cat([begin, begin.new_tensor([len(xyz)])]).diff()
    return coords[order[begin]].int(), point_to_voxel, counts


def mean_by_voxel(values: Tensor, point_to_voxel: Tensor, counts: Tensor) -> Tensor:
    """The mean of ``values`` [P, C] over the points of each voxel, [M, C], differentiable; the rest as ``voxelise``
    returns it."""
    sums = values.new_zeros(len(counts), values.shape[1]).index_add(0, point_to_voxel, values)
    return sums / counts.unsqueeze(1)


class VoxelHash:
    """Where a voxel is in a list: ``coords`` integers [M, D], no row twice, in any order.

    Raises ``ValueError`` where a row comes twice. Instead of a hash table the rows are numbered on the box that they
    span, sorted, and found by bisection: the same on every device.
    """

    def __init__(self, coords: Tensor) -> None:
        coords = coords.long()
        self.low, self.extent = _bounds(coords)
        self.keys, self.order = linear_keys(coords, self.low, self.extent).sort()
        twice = (self.keys[1:] == self.keys[:-1]).nonzero()
        if len(twice):
            raise ValueError(f"voxel {coords[self.order[twice[0, 0]]].tolist()} comes twice")

    def find(self, coords: Tensor) -> Tensor:
        """The row of each of ``coords`` integers [..., D], int64 [...]; -1 where there is none."""
        coords = coords.long()
        if len(self.keys) == 0:
            return torch.full(coords.shape[:-1], -1, device=coords.device)
        inside = ((coords >= self.low) & (coords < self.low + self.extent)).all(-1)
        keys = torch.where(inside, linear_keys(coords, self.low, self.extent), -1)
        place = torch.searchsorted(self.keys, keys).clamp_max_(len(self.keys) - 1)
        return torch.where(self.keys[place] == keys, self.order[place], -1)


def _bounds(coords: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest of ``coords`` int64 [M, D] on each axis, and how many cells there are from it to the largest."""
    if len(coords) == 0:
        return torch.zeros_like(coords.sum(0)), torch.ones_like(coords.sum(0))
    low, high = coords.aminmax(dim=0)
    extent = high - low + 1
    cells = 1
    for length in extent.tolist():
        cells *= length  # Python's integers do not overflow
    if cells >= INT64:
        raise ValueError(f"a grid of {extent.tolist()} cells does not fit into 64 bits: expected larger voxels")
    return low, extent


def linear_keys(coords: Tensor, low: Sequence[int] | Tensor, extent: Sequence[int] | Tensor) -> Tensor:
    """The number of each cell int64 [..., D] within the box of ``extent`` cells from ``low`` on, int64 [...]: ascending
    as the rows do."""
    keys = coords[..., 0] - low[0]
    for axis in range(1, coords.shape[-1]):
        keys = keys * extent[axis] + (coords[..., axis] - low[axis])
    return keys
