"""PointPillars' encoder (Lang et al., CVPR 2019): one layer for each point of a column of space, and their maximum."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.core.inputs import ATTRIBUTE_WIDTHS, PointInputConfig
from st_ssl.core.types import PointBatch
from st_ssl.encoders.base import ENCODERS
from st_ssl.encoders.volume_encoder import VolumeEncoder, point_values
from st_ssl.ops.sparse import SparseTensor
from st_ssl.ops.volumes import Lattice, Range, Voxels, grid_size, voxelise_range
from st_ssl.ops.voxels import mean_by_voxel


class PillarsConfig(Config):
    """The points within ``range`` (x0, y0, z0, x1, y1, z1, metres) in pillars of ``pillar`` metres along x and y, as
    high as the range: by default KITTI's, ahead of the car. ``widths`` are the layers of each point; half of what all
    but the last give is the maximum of the pillar."""

    name: Literal["pillars"] = "pillars"
    range: Range = (0, -39.68, -3, 69.12, 39.68, 1)
    pillar: tuple[PositiveFloat, PositiveFloat] = (0.16, 0.16)
    widths: tuple[int, ...] = Field(default=(64,), min_length=1)


class PillarLayer(nn.Module):
    """Points [P, C] of the pillars ``pillar`` int64 [P] to the maximum of each pillar [M, D] where it is the ``last``
    layer, else to points [P, D]: half their own, half the maximum of their pillar."""

    def __init__(self, cin: int, cout: int, last: bool) -> None:
        super().__init__()
        self.last = last
        width = cout if last else cout // 2
        self.linear = nn.Linear(cin, width, bias=False)
        self.norm = nn.BatchNorm1d(width, eps=1e-3)

    def forward(self, x: Tensor, pillar: Tensor, pillars: int) -> Tensor:
        x = self.norm(self.linear(x)).relu()
        # A pillar has a point, and after ReLU no value is below 0
        highest = x.new_zeros(pillars, x.shape[1]).scatter_reduce(0, pillar[:, None].expand_as(x), x, "amax")
        return highest if self.last else torch.cat([x, highest[pillar]], 1)


@ENCODERS.register(PillarsConfig)
class Pillars(VolumeEncoder):
    """A point is fed as x, y, z and its attributes, its place from the mean of its pillar's points, and from the middle
    of the pillar. Names of weights are those of OpenPCDet's ``vfe``; all points of a pillar count, and none is made up
    to fill it (its ``DynamicPillarVFE``)."""

    def __init__(self, config: PillarsConfig, input: PointInputConfig) -> None:
        super().__init__(config, input)
        low, high = config.range[2], config.range[5]
        self.range, self.pillar = config.range, (*config.pillar, high - low)
        x, y, _ = grid_size(config.range, self.pillar)
        self.shape = (1, y, x)
        self.embed_dim, self.depth = config.widths[-1], 1
        first = (config.range[0] + self.pillar[0] / 2, config.range[1] + self.pillar[1] / 2, (low + high) / 2)
        self.lattices = [Lattice(first, self.pillar)]
        widths = (9 + sum(ATTRIBUTE_WIDTHS[name] for name in input.attributes), *config.widths)
        last = len(config.widths) - 1
        layers = (PillarLayer(cin, cout, number == last) for number, (cin, cout) in enumerate(pairwise(widths)))
        self.pfn_layers = nn.ModuleList(layers)

    def voxelise(self, points: PointBatch) -> Voxels:
        """The occupied pillars; ``features`` [M, D] are those after the layers."""
        voxels = voxelise_range(points, self.range, self.pillar)
        inside = (voxels.of_point >= 0).nonzero().squeeze(1)
        pillar = voxels.of_point[inside]
        xyz = points.xyz.index_select(0, inside)
        mean = mean_by_voxel(xyz, pillar, voxels.counts)
        cells = voxels.coordinates[:, 1:].flip(1).to(xyz.dtype)
        middle = cells * xyz.new_tensor(self.pillar) + xyz.new_tensor(self.lattices[0].first)
        values = point_values(points, self.input).index_select(0, inside)
        x = torch.cat([values, xyz - mean[pillar], xyz - middle[pillar]], 1)
        for layer in self.pfn_layers:
            x = layer(x, pillar, len(voxels))
        voxels.features = x
        return voxels

    def stages(self, voxels: Voxels) -> list[SparseTensor]:
        """The pillars themselves: [M, D] at (cloud, 0, y, x)."""
        return [SparseTensor(voxels.features, voxels.coordinates.int(), self.shape, voxels.clouds)]
