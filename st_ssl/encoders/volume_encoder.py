"""What encoders of a range of space share: voxels in, and a dense volume out, which is read where the points are."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from st_ssl.core.errors import DataError
from st_ssl.core.inputs import Modality, PointInputConfig
from st_ssl.core.types import Features, PointBatch
from st_ssl.encoders.base import CloudEncoder
from st_ssl.ops.sparse import SparseTensor, global_pool
from st_ssl.ops.volumes import Lattice, Range, Volume, Voxels, dense


@dataclass
class VolumeFeatures(Features):
    """Features with the ``volume`` that they are read from."""

    volume: Volume = field(kw_only=True)


class VolumeEncoder(CloudEncoder):
    """An encoder of the points within ``range``: others are counted nowhere and have zeros for features.

    ``volume_of(voxelise(points).take(index))`` is the volume of a part of the voxels. ``lattices`` say where the
    cells of each of its ``stages`` are.
    """

    modality: ClassVar[Modality] = "points"
    per_point: ClassVar[bool] = True
    range: Range
    lattices: list[Lattice]
    depth: int
    """Cells of the volume along z."""

    @abstractmethod
    def voxelise(self, points: PointBatch) -> Voxels:
        """The occupied voxels of the range, with the features that the network is fed."""

    @abstractmethod
    def stages(self, voxels: Voxels) -> list[SparseTensor]:
        """The features of each resolution at (cloud, z, y, x), finest first; the last are what ``volume_of`` has."""

    def volume_of(self, voxels: Voxels, stage: int = -1) -> Volume:
        """The dense volume of ``voxels``, after all stages or after an earlier ``stage``."""
        return Volume(dense(self.stages(voxels)[stage]), self.range, self.lattices[stage])

    def volume(self, points: PointBatch) -> Volume:
        """Clouds to their dense volume."""
        return self.volume_of(self.voxelise(points))

    def forward(self, clip: PointBatch, keep: Tensor | None = None) -> VolumeFeatures:
        """Clouds to features of each point [P, D], of the volume where it is, and of each cloud [B, D], the mean over
        its occupied cells."""
        assert keep is None
        last = self.stages(self.voxelise(clip))[-1]
        volume = Volume(dense(last), self.range, self.lattices[-1])
        cloud = torch.arange(len(clip), device=clip.device).repeat_interleave(clip.offsets.diff())
        return VolumeFeatures(global_pool(last), points=volume.at(clip.xyz, cloud), volume=volume)


def point_values(points: PointBatch, input: PointInputConfig) -> Tensor:
    """x, y and z of each point, and the attributes that ``input`` names: [P, C]. Raises ``DataError`` where one is
    missing."""
    parts = [points.xyz]
    for name in input.attributes:
        if name not in points.attributes:
            raise DataError(f"input.attributes has {name!r}, which these points lack: they have {[*points.attributes]}")
        parts.append(points.attributes[name])
    return torch.cat(parts, 1)
