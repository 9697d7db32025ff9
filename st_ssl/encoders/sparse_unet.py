"""Residual networks of sparse convolutions for scenes: MinkUNet (Choy et al., CVPR 2019) and SpUNet, which is the same
network as spconv users build it (Graham et al., CVPR 2018; Pointcept), and their encoder halves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.inputs import ATTRIBUTE_WIDTHS, CloudNeeds, Modality, PointInputConfig
from st_ssl.core.types import Features, PointBatch
from st_ssl.encoders.base import ENCODERS, CloudEncoder
from st_ssl.ops.sparse import Backend, SparseConv3d, SparseModule, SparseSequential, SparseTensor, global_pool
from st_ssl.ops.voxels import VoxelHash, mean_by_voxel, voxelise

VOXEL_SIZE = 0.02
"""Of an input that names none: 2 cm, as is usual for rooms."""
LEVELS = 4

Variant = Literal["spunet", "34C", "18A", "14A", "small", "tiny"]
VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "spunet": ((32, 64, 128, 256, 256, 128, 96, 96), (2, 3, 4, 6, 2, 2, 2, 2)),
    "34C": ((32, 64, 128, 256, 256, 128, 96, 96), (2, 3, 4, 6, 2, 2, 2, 2)),
    "18A": ((32, 64, 128, 256, 128, 128, 96, 96), (2, 2, 2, 2, 2, 2, 2, 2)),
    "14A": ((32, 64, 128, 256, 128, 128, 96, 96), (1, 1, 1, 1, 1, 1, 1, 1)),
    "small": ((16, 32, 64, 128, 128, 64, 32, 32), (1, 1, 1, 1, 1, 1, 1, 1)),
    "tiny": ((8, 12, 16, 24, 16, 16, 12, 12), (1, 1, 1, 1, 1, 1, 1, 1)),
}
"""Channels and residual blocks of the four levels down and the four back up. Where ``spunet`` and the small ones halve
the resolution they change the number of channels too; MinkUNet's change it in the block after."""


class SparseResNetConfig(Config):
    """The way down alone: four levels, each of half the resolution of the one before. ``channels`` and ``blocks`` take
    the place of the variant's. ``offsets`` adds where in its voxel the mean of the points lies to the input. All
    ``backend``s give the same, from the same weights; see ``st_ssl.ops.sparse``."""

    name: Literal["sparse_resnet"] = "sparse_resnet"
    variant: Variant = "spunet"
    channels: tuple[int, ...] | None = None
    blocks: tuple[int, ...] | None = None
    stem: int = Field(default=32, gt=0)
    stem_kernel: Literal[3, 5] = 5
    offsets: bool = False
    backend: Backend = "auto"

    @property
    def shape(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Channels and blocks of the levels. Raises ``ConfigError`` where they are not as many as the levels."""
        number = self._levels()
        channels, blocks = VARIANTS[self.variant]
        result = self.channels or channels[:number], self.blocks or blocks[:number]
        for name, values in zip(("channels", "blocks"), result, strict=True):
            if len(values) != number or min(values) < 1:
                raise ConfigError(f"encoder.{name}={list(values)}: {self.name} takes {number} numbers above 0")
        return result

    def _levels(self) -> int:
        return LEVELS


class SparseUNetConfig(SparseResNetConfig):
    """All of it: down as ``sparse_resnet``, and back up with the features of the way down beside."""

    name: Literal["sparse_unet"] = "sparse_unet"  # type: ignore[assignment]

    def _levels(self) -> int:
        return 2 * LEVELS


class Residual(SparseModule):
    """Two submanifold convolutions, with what came in added."""

    def __init__(self, cin: int, cout: int, key: str, backend: Backend) -> None:
        super().__init__()
        self.conv1, self.norm1 = SparseConv3d(cin, cout, 3, key=key, backend=backend), _norm(cout)
        self.conv2, self.norm2 = SparseConv3d(cout, cout, 3, key=key, backend=backend), _norm(cout)
        self.shortcut: SparseSequential | None = None
        if cin != cout:
            self.shortcut = SparseSequential(SparseConv3d(cin, cout, 1, backend=backend), _norm(cout))

    def forward(self, x: SparseTensor) -> SparseTensor:
        out = self.conv1(x)
        out = self.conv2(out.replace(self.norm1(out.features).relu_()))
        same = x if self.shortcut is None else self.shortcut(x)
        return out.replace((self.norm2(out.features) + same.features).relu_())


class Way(nn.Module):
    """Four levels, down or up: ``steps`` change the resolution, and ``stages`` are the blocks at each."""

    def __init__(self, steps: Sequence[nn.Module], stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.steps, self.stages = nn.ModuleList(steps), nn.ModuleList(stages)


def _norm(channels: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=1e-3)


def _step(cin: int, cout: int, level: int, up: bool, backend: Backend) -> SparseSequential:
    """To half the resolution of ``level``, or back to it."""
    if up:
        conv = SparseConv3d(cin, cout, 2, "inverse", key=f"down{level}", backend=backend)
    else:
        conv = SparseConv3d(cin, cout, 2, "strided", stride=2, key=f"down{level}", backend=backend)
    return SparseSequential(conv, _norm(cout), nn.ReLU(inplace=True))


def _stage(cin: int, cout: int, blocks: int, level: int, backend: Backend) -> SparseSequential:
    widths = [cin, *[cout] * blocks]
    return SparseSequential(*(Residual(a, b, f"level{level}", backend) for a, b in pairwise(widths)))


class SparseEncoder(CloudEncoder):
    """What both have in common: from points to voxels, the way down, and back to points."""

    modality: ClassVar[Modality] = "points"
    per_point: ClassVar[bool] = True

    def __init__(self, config: SparseResNetConfig, input: PointInputConfig) -> None:
        super().__init__(config, input)
        self.voxel_size = input.voxel_size or VOXEL_SIZE
        self.offsets = config.offsets
        self.channels, self.blocks = config.shape
        backend = config.backend
        width = sum(ATTRIBUTE_WIDTHS[name] for name in input.attributes) + 3 * config.offsets
        key = None if config.stem_kernel == 5 else "level0"
        self.stem = SparseSequential(
            SparseConv3d(max(width, 1), config.stem, config.stem_kernel, key=key, backend=backend),
            _norm(config.stem),
            nn.ReLU(inplace=True),
        )
        before = [config.stem, *self.channels[: LEVELS - 1]]
        widened = before if config.variant in ("34C", "18A", "14A") else self.channels
        rows = list(zip(before, widened, self.channels, self.blocks, strict=False))
        self.down = Way(
            [_step(cin, middle, level, False, backend) for level, (cin, middle, _, _) in enumerate(rows)],
            [_stage(middle, cout, n, level + 1, backend) for level, (_, middle, cout, n) in enumerate(rows)],
        )
        self.embed_dim = self.channels[LEVELS - 1]

    @classmethod
    def needs(cls, config: Any, input: Any) -> CloudNeeds:
        return CloudNeeds(voxel_size=input.voxel_size or VOXEL_SIZE)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, SparseConv3d):  # He et al. (2015), by what goes out, as MinkUNet
                nn.init.normal_(module.weight, std=math.sqrt(2 / (module.out_channels * math.prod(module.kernel))))

    def voxels(self, points: PointBatch) -> tuple[SparseTensor, Tensor]:
        """What the network is fed, and the voxel of each point int64 [P]: the means of attributes over the points of a
        voxel, or 1 where there are none. The grid is the world's, so that it does not move with what else is seen."""
        coords, point_to_voxel, counts = voxelise(points.xyz, points.offsets, self.voxel_size)
        parts = [self._attribute(points, name) for name in self.input.attributes]
        if self.offsets:
            parts.append(points.xyz / self.voxel_size - coords[point_to_voxel, 1:] - 0.5)
        values = torch.cat(parts, 1) if parts else torch.ones_like(points.xyz[:, :1])
        features = mean_by_voxel(values.to(next(self.parameters()).dtype), point_to_voxel, counts)
        coarsest = 2**LEVELS
        cloud, cells = coords[:, :1].long(), coords[:, 1:].long()
        low = cells.new_zeros(len(points), 3).scatter_reduce(0, cloud.expand(-1, 3), cells, "amin", include_self=False)
        cells = cells - (low.div(coarsest, rounding_mode="floor") * coarsest)[cloud.squeeze(1)]
        # Whole cells of the coarsest level, or the last would be cut off
        x, y, z = ((int(m) // coarsest + 1) * coarsest for m in (cells.amax(0) if len(cells) else low.new_zeros(3)))
        return SparseTensor(features, torch.cat([cloud, cells], 1).int(), (x, y, z), len(points)), point_to_voxel

    def _attribute(self, points: PointBatch, name: str) -> Tensor:
        values = points.attributes.get(name)
        if values is None:
            raise DataError(f"input.attributes has {name!r}, which these points lack: they have {[*points.attributes]}")
        return values

    def ways_down(self, x: SparseTensor) -> list[SparseTensor]:
        """The features of all five resolutions, finest first."""
        levels = [self.stem(x)]
        for step, stage in zip(self.down.steps, self.down.stages, strict=True):
            levels.append(stage(step(levels[-1])))
        return levels


@ENCODERS.register(SparseResNetConfig)
class SparseResNet(SparseEncoder):
    """``points`` have the feature of the coarsest voxel that they are in, ``pooled`` is the mean of these voxels."""

    def __init__(self, config: SparseResNetConfig, input: PointInputConfig) -> None:
        super().__init__(config, input)
        self._initialise()

    def forward(self, clip: PointBatch, keep: Tensor | None = None) -> Features:
        """Clouds to features of each point [P, D] and of each cloud [B, D]."""
        assert keep is None
        x, point_to_voxel = self.voxels(clip)
        coarse = self.ways_down(x)[-1]
        found = _rows_of(coarse, x.coords // x.coords.new_tensor([1, *[2**LEVELS] * 3]))
        return Features(global_pool(coarse), points=coarse.features.index_select(0, found[point_to_voxel]))


@ENCODERS.register(SparseUNetConfig)
class SparseUNet(SparseEncoder):
    """``points`` have the feature of the voxel that they are in, ``pooled`` is the mean over voxels."""

    def __init__(self, config: SparseUNetConfig, input: PointInputConfig) -> None:
        super().__init__(config, input)
        backend, beside = config.backend, [*self.channels[LEVELS - 2 :: -1], config.stem]
        before = self.channels[LEVELS - 1 : 2 * LEVELS - 1]
        rows = list(
            zip(range(LEVELS - 1, -1, -1), before, beside, self.channels[LEVELS:], self.blocks[LEVELS:], strict=True)
        )
        self.up = Way(
            [_step(cin, cout, level, True, backend) for level, cin, _, cout, _ in rows],
            [_stage(cout + skip, cout, n, level, backend) for level, _, skip, cout, n in rows],
        )
        self.embed_dim = self.channels[-1]
        self._initialise()

    def forward(self, clip: PointBatch, keep: Tensor | None = None) -> Features:
        """Clouds to features of each point [P, D] and of each cloud [B, D]."""
        assert keep is None
        x, point_to_voxel = self.voxels(clip)
        x = self.network(x)
        return Features(global_pool(x), points=x.features.index_select(0, point_to_voxel))

    def network(self, x: SparseTensor) -> SparseTensor:
        """Voxels [M, C] to [M, D], at the same places."""
        *levels, x = self.ways_down(x)
        for step, stage, skip in zip(self.up.steps, self.up.stages, reversed(levels), strict=True):
            up = step(x)
            x = stage(up.replace(torch.cat([up.features, skip.features], 1)))
        return x


def _rows_of(x: SparseTensor, coords: Tensor) -> Tensor:
    """The row of ``x`` that each of ``coords`` int32 [N, 4], all of them voxels of ``x``, has: int64 [N]."""
    found = VoxelHash(x.coords).find(coords)
    assert bool((found >= 0).all())
    return found
