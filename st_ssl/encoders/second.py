"""SECOND's backbone (Yan, Mao, Li: Sensors 2018) as OpenPCDet has it: sparse convolutions from the voxels of a LiDAR
sweep to a volume of an eighth of their resolution seen from above, and less in height."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat
from torch import nn

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import ATTRIBUTE_WIDTHS, PointInputConfig
from st_ssl.core.types import PointBatch
from st_ssl.encoders.base import ENCODERS
from st_ssl.encoders.volume_encoder import VolumeEncoder, point_values
from st_ssl.ops.sparse import Backend, SparseConv3d, SparseModule, SparseSequential, SparseTensor
from st_ssl.ops.sparse.tensor import Size
from st_ssl.ops.volumes import Lattice, Range, Voxels, grid_size, voxelise_range
from st_ssl.ops.voxels import mean_by_voxel


class SecondConfig(Config):
    """The points within ``range`` (x0, y0, z0, x1, y1, z1, metres) in ``voxel``s of so many metres along x, y and z: by
    default KITTI's, ahead of the car. Each of ``widths`` is a stage, every one after the first of half the resolution;
    ``out`` channels are left after a last convolution that halves the height once more. ``residual`` has blocks with
    what came in added (VoxelResBackBone8x, whose ``widths`` are 16, 32, 64, 128). See ``st_ssl.ops.sparse`` for
    ``backend``."""

    name: Literal["second"] = "second"
    range: Range = (0, -40, -3, 70.4, 40, 1)
    voxel: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.05, 0.05, 0.1)
    widths: tuple[int, ...] = Field(default=(16, 32, 64, 64), min_length=2)
    out: int = Field(default=128, gt=0)
    residual: bool = False
    backend: Backend = "auto"


class ResidualBlock(SparseModule):
    """Two submanifold convolutions, with what came in added."""

    def __init__(self, width: int, key: str, backend: Backend) -> None:
        super().__init__()
        self.conv1 = SparseConv3d(width, width, 3, bias=True, key=key, backend=backend)
        self.bn1 = _norm(width)
        self.conv2 = SparseConv3d(width, width, 3, bias=True, key=key, backend=backend)
        self.bn2 = _norm(width)

    def forward(self, x: SparseTensor) -> SparseTensor:
        out = self.conv1(x)
        out = self.conv2(out.replace(self.bn1(out.features).relu_()))
        return out.replace((self.bn2(out.features) + x.features).relu_())


def _norm(channels: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=1e-3)


def _block(conv: SparseConv3d) -> SparseSequential:
    return SparseSequential(conv, _norm(conv.out_channels), nn.ReLU(inplace=True))


@ENCODERS.register(SecondConfig)
class Second(VolumeEncoder):
    """A voxel is fed the mean of all its points' x, y, z and attributes. Names of weights are those of OpenPCDet's
    ``backbone_3d``, and axes those of its grids: z, y, x, with one empty layer of voxels on top. Batch norm follows ten
    times as fast as there, where its averages would take hundreds of steps to forget how they began."""

    def __init__(self, config: SecondConfig, input: PointInputConfig) -> None:
        super().__init__(config, input)
        backend = config.backend
        self.range, self.voxel, self.embed_dim = config.range, config.voxel, config.out
        x, y, z = grid_size(config.range, config.voxel)
        self.shape: Size = (z + 1, y, x)
        first, *widths = config.widths
        width = 3 + sum(ATTRIBUTE_WIDTHS[name] for name in input.attributes)
        self.conv_input = _block(SparseConv3d(width, first, 3, key="subm1", backend=backend))
        self.conv1 = SparseSequential(*self._blocks(first, 1, 1 + config.residual))
        self.lattices = [Lattice(_centre(config.range, config.voxel), config.voxel)]
        before = first
        for number, width in enumerate(widths, 2):
            padding = (0 if number == len(config.widths) else 1, 1, 1)
            key = f"down{number}"
            down = SparseConv3d(before, width, 3, "strided", stride=2, padding=padding, key=key, backend=backend)
            self.add_module(f"conv{number}", SparseSequential(_block(down), *self._blocks(width, number, 2)))
            self.lattices.append(self.lattices[-1].strided((3, 3, 3), (2, 2, 2), padding[::-1]))
            before = width
        out = SparseConv3d(before, config.out, (3, 1, 1), "strided", stride=(2, 1, 1), key="out", backend=backend)
        self.conv_out = _block(out)
        self.lattices.append(self.lattices[-1].strided((1, 1, 3), (1, 1, 2), (0, 0, 0)))
        self.depth = _last_height(z + 1, len(config.widths))
        if self.depth < 1:
            raise ConfigError(f"encoder.range is {z} voxels high: too few for {len(config.widths)} stages of widths")

    def _blocks(self, width: int, number: int, blocks: int) -> list[SparseModule]:
        assert isinstance(self.config, SecondConfig)
        backend = self.config.backend
        if self.config.residual:
            return [ResidualBlock(width, f"subm{number}", backend) for _ in range(blocks)]
        return [_block(SparseConv3d(width, width, 3, key=f"subm{number}", backend=backend)) for _ in range(blocks)]

    def voxelise(self, points: PointBatch) -> Voxels:
        """The occupied voxels within the range; ``features`` [M, C] are the means over the points of each."""
        voxels = voxelise_range(points, self.range, self.voxel)
        inside = (voxels.of_point >= 0).nonzero().squeeze(1)
        values = point_values(points, self.input).index_select(0, inside)
        voxels.features = mean_by_voxel(values, voxels.of_point[inside], voxels.counts)
        return voxels

    def stages(self, voxels: Voxels) -> list[SparseTensor]:
        """The features of each resolution at (cloud, z, y, x), finest first: one a width, and those of the last
        convolution."""
        x = SparseTensor(voxels.features, voxels.coordinates.int(), self.shape, voxels.clouds)
        stages = [self.conv1(self.conv_input(x))]
        for number in range(2, len(self.lattices)):
            stages.append(self.get_submodule(f"conv{number}")(stages[-1]))
        return [*stages, self.conv_out(stages[-1])]


def _last_height(height: int, stages: int) -> int:
    """How many cells of ``height`` are left after all strided convolutions; those of the last two are not padded."""
    for _ in range(stages - 2):
        height = (height - 1) // 2 + 1
    return ((height - 3) // 2 + 1 - 3) // 2 + 1


def _centre(range: Range, voxel: tuple[float, float, float]) -> tuple[float, float, float]:
    """The centre of the first voxel."""
    x, y, z = (low + size / 2 for low, size in zip(range[:3], voxel, strict=True))
    return x, y, z
