"""A box of space cut into cells: its occupied voxels with their features, and dense volumes to read between cells."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from st_ssl.core.errors import ConfigError
from st_ssl.core.types import PointBatch
from st_ssl.ops.checks import check_finite, check_offsets, check_points
from st_ssl.ops.sparse import SparseTensor
from st_ssl.ops.voxels import voxelise

Vector = tuple[float, float, float]
Range = tuple[float, float, float, float, float, float]
"""(x0, y0, z0, x1, y1, z1) in metres."""


@dataclass(frozen=True)
class Lattice:
    """Where the cells of a grid are: the centre of cell (0, 0, 0), and how far apart cells are along x, y and z."""

    first: Vector
    cell: Vector

    def strided(self, kernel: Vector, stride: Vector, padding: Vector) -> Lattice:
        """The lattice of what a convolution makes of this one, all three along x, y and z: a cell is where the middle
        of its kernel is."""
        steps = zip(self.first, self.cell, kernel, padding, strict=True)
        first = tuple(start + cell * ((k - 1) / 2 - p) for start, cell, k, p in steps)
        cell = tuple(size * s for size, s in zip(self.cell, stride, strict=True))
        return Lattice(first, cell)  # type: ignore[arg-type]


@dataclass
class Voxels:
    """The occupied voxels of a batch of clouds: ``features`` [M, C], ``coordinates`` int64 [M, 4] (cloud, z, y, x) in
    ascending order, and the number of points in each, ``counts`` int64 [M]. ``of_point`` int64 [P] is the voxel of each
    point of the batch, -1 for one outside of the range (or in a voxel that was left out)."""

    features: Tensor
    coordinates: Tensor
    counts: Tensor
    of_point: Tensor
    clouds: int

    def __len__(self) -> int:
        """Voxels, of all clouds."""
        return len(self.coordinates)

    def take(self, index: Tensor) -> Voxels:
        """Only the voxels ``index`` int64 [K], which ascends: what a masked encoder sees."""
        place = torch.full((len(self) + 1,), -1, device=index.device)
        place[index] = torch.arange(len(index), device=index.device)
        return Voxels(
            self.features.index_select(0, index),
            self.coordinates.index_select(0, index),
            self.counts.index_select(0, index),
            place[self.of_point],
            self.clouds,
        )


@dataclass
class Volume:
    """``values`` [B, C, D, H, W] at cells along z, y and x; ``range`` is all the space that was looked at, in metres,
    and ``lattice`` says where in it the cells are."""

    values: Tensor
    range: Range
    lattice: Lattice

    @property
    def cell(self) -> Vector:
        """The sizes of a cell along x, y and z in metres."""
        return self.lattice.cell

    def bev(self) -> Tensor:
        """Seen from above: [B, C · D, H, W], with the D heights of a channel beside one another."""
        return self.values.flatten(1, 2)

    def centres(self) -> Tensor:
        """The places of the cells, [D, H, W, 3] as (x, y, z) in metres."""
        sizes = self.values.shape[:1:-1]
        x, y, z = (
            start + step * torch.arange(n, device=self.values.device, dtype=torch.float32)
            for start, step, n in zip(self.lattice.first, self.cell, sizes, strict=True)
        )
        return torch.stack([*torch.meshgrid(z, y, x, indexing="ij")][::-1], 3)

    def at(self, xyz: Tensor, cloud: Tensor) -> Tensor:
        """Values at the places ``xyz`` [Q, 3], in metres, of the clouds ``cloud`` int64 [Q]: [Q, C], trilinear between
        cell centres, those at the border going on up to the end of the range, and zeros outside of it. Differentiable
        in the values, and in the places."""
        low, high = xyz.new_tensor(self.range[:3]), xyz.new_tensor(self.range[3:])
        inside = ((xyz >= low) & (xyz < high)).all(1)
        sizes = torch.tensor(self.values.shape[:1:-1], device=xyz.device)
        place = (xyz - xyz.new_tensor(self.lattice.first)) / xyz.new_tensor(self.cell)
        place = torch.minimum(place.clamp_min(0), sizes - 1)
        lower = torch.minimum(place.detach().floor().long(), (sizes - 2).clamp_min(0))
        share = place - lower
        steps = torch.tensor([*product((0, 1), repeat=3)], device=xyz.device)
        corners = torch.minimum(lower[:, None] + steps, sizes - 1)  # a grid of one cell has no second
        weights = torch.where(steps.bool(), share[:, None], 1 - share[:, None]).prod(2) * inside[:, None]
        width, height, depth = self.values.shape[:1:-1]
        x, y, z = corners.unbind(2)
        rows = ((cloud[:, None] * depth + z) * height + y) * width + x
        table = self.values.permute(0, 2, 3, 4, 1).flatten(0, 3)
        return embedding_bag(rows, table, per_sample_weights=weights.to(table.dtype), mode="sum")


def grid_size(range: Range, cell: Vector, where: str = "encoder") -> tuple[int, int, int]:
    """How many cells there are along x, y and z. Raises ``ConfigError`` where they do not fill the range: the last
    would lie half outside."""
    sizes = []
    for axis, low, high, size in zip("xyz", range[:3], range[3:], cell, strict=True):
        number = (high - low) / size
        if number < 0.5 or abs(number - round(number)) > 1e-3:
            raise ConfigError(
                f"{where}.range {low:g} to {high:g} along {axis} is {number:g} voxels of {size:g} m: "
                f"expected a whole number, as from {low:g} to {low + max(1, round(number)) * size:g}"
            )
        sizes.append(round(number))
    return sizes[0], sizes[1], sizes[2]


def voxelise_range(points: PointBatch, range: Range, cell: Vector) -> Voxels:
    """The voxels of the points within ``range``; their features [M, 0] are for the caller to make. Points outside are
    counted nowhere."""
    check_points("xyz", points.xyz, 2)
    check_finite("xyz", points.xyz)
    check_offsets("offsets", points.offsets, len(points.xyz))
    size = grid_size(range, cell)
    xyz = points.xyz.detach().double() - torch.tensor(range[:3], dtype=torch.float64, device=points.device)
    cells = xyz / torch.tensor(cell, dtype=torch.float64, device=points.device)
    inside = ((cells >= 0) & (cells < torch.tensor(size, device=points.device))).all(1)
    index = inside.nonzero().squeeze(1)
    kept = torch.cat([points.offsets.new_zeros(1), inside.long().cumsum(0)])[points.offsets]
    coords, voxel, counts = voxelise(cells[index].flip(1), kept, 1)
    of_point = voxel.new_full((len(xyz),), -1).index_copy_(0, index, voxel)
    return Voxels(points.xyz.new_empty(len(coords), 0), coords.long(), counts, of_point, len(points))


def dense(x: SparseTensor) -> Tensor:
    """The features of ``x`` on the whole grid, zeros where there is no voxel: [B, C, X, Y, Z], along the axes of its
    coordinates."""
    cloud, *place = x.coords.long().unbind(1)
    rows = cloud
    for size, at in zip(x.shape, place, strict=True):
        rows = rows * size + at
    first, second, third = x.shape
    width = x.features.shape[1]
    table = x.features.new_zeros(x.batch_size * first * second * third, width).index_copy(0, rows, x.features)
    return table.view(x.batch_size, first, second, third, width).permute(0, 4, 1, 2, 3)
