"""What is packed of a cloud: all of its points, or one of each voxel."""

from __future__ import annotations

from pydantic import Field

from st_ssl.augment.point_cuts import one_per_voxel
from st_ssl.core.errors import SampleError
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import Entry, PointCloud
from st_ssl.data.packs.points_index import CloudTable, describe_cloud
from st_ssl.data.packs.points_read import CloudPack, encode
from st_ssl.data.packs.write_pack import Packer, ShardConfig
from st_ssl.data.streams.limits import MAX_POINTS
from st_ssl.data.streams.points import ReadOptions, read_counted

_MOST_VOXELS = 2.0**62


class CloudPackConfig(ShardConfig):
    """How clouds are packed. ``voxel_size``: of each voxel of this side, in the unit of the files, one point is kept,
    drawn by a rule (default: all points are). ``shard_size``: clouds in a shard. All others as in ``data``: what files
    leave open is decided once for all of them, and the ranges stand in ``pack.json``."""

    voxel_size: float | None = Field(default=None, gt=0)
    surface_points: int = Field(default=8192, gt=1)
    bin_columns: int | None = Field(default=None, ge=3, le=16)
    max_points: int = Field(default=MAX_POINTS, gt=1, exclude=True)  # what is packed of a cloud is the same
    columns: tuple[str, ...] | None = None
    color_range: tuple[float, float] | None = None
    intensity_range: tuple[float, float] | None = None


class CloudPacker(Packer):
    """Clouds as readers give them, thinned if asked for. ``options``: how they are read (by default: each by what it
    says alone)."""

    pack = CloudPack

    def __init__(self, config: CloudPackConfig, options: ReadOptions | None = None) -> None:
        super().__init__(config)
        self.how = config
        self.options = options or ReadOptions(config.surface_points, config.bin_columns, config.max_points)

    def make(self, entry: Entry, name: str) -> tuple[bytes, CloudTable]:
        cloud, lost = read_counted(entry.path, self.options)
        if self.how.voxel_size is not None:
            cloud = _thinned(entry.path, cloud, self.how.voxel_size)
        return encode(cloud), describe_cloud(cloud, lost)


def _thinned(path: str, cloud: PointCloud, size: float) -> PointCloud:
    sides = (cloud.xyz.max(axis=0) - cloud.xyz.min(axis=0)).astype(float) / size + 1
    if sides.prod() > _MOST_VOXELS:
        raise SampleError(path, f"voxels of {size:g} are too small for its extent of {(sides - 1).max() * size:g}")
    kept = one_per_voxel(cloud.xyz, size, keyed_rng("thinned", len(cloud)))
    if len(kept) < 2:
        raise SampleError(path, f"lies in one voxel of {size:g}: a cloud needs at least 2 points")
    return cloud.take(kept)
