"""Raw float32 numbers, as KITTI and nuScenes store sweeps of a LiDAR."""

from __future__ import annotations

import os

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.core.types import PointCloud
from st_ssl.data.streams.limits import check_points
from st_ssl.data.streams.points.base import ReadOptions, check_file, intensity


def read_bin(path: str, options: ReadOptions) -> PointCloud:
    """x, y, z, intensity and, with five columns, the ring, which is left out; with three columns places alone.

    The file does not say how many columns it has. ``options.bin_columns`` does; without it, nuScenes's names
    (``.pcd.bin``) mean five, all others four (KITTI), or five where the size fits those alone.
    """
    check_file(path)
    size = os.path.getsize(path)
    columns = options.bin_columns or _columns(path, size)
    if size % (4 * columns):
        raise SampleError(path, f"has {size} bytes: no whole number of points of {columns} float32 numbers")
    check_points(path, size // (4 * columns), options.max_points)
    try:
        table = np.fromfile(path, dtype="<f4").reshape(-1, columns)
    except OSError as error:
        raise SampleError(path, f"file cannot be read: {error.strerror}") from error
    return PointCloud(table[:, :3], {"intensity": intensity(table[:, 3:4])} if columns > 3 else {})


def _columns(path: str, size: int) -> int:
    if path.lower().endswith(".pcd.bin"):
        return 5
    return 5 if size % 16 and size % 20 == 0 else 4
