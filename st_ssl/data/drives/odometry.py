"""Poses of a drive that has none, from its sweeps alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from st_ssl.core.errors import MissingDependencyError
from st_ssl.data.box_checks import above_ground

_FEW = 100  # points that are not enough to go by


def track_sensor(sweeps: Iterable[np.ndarray], reach: float, voxel: float, threads: int = 0) -> Iterator[np.ndarray]:
    """Poses float64 [4, 4] of ``sweeps`` (each [N, 3], in metres) one after the other, in the axes of the first: each
    is laid onto the map of those before it (KISS-ICP, Vizzo et al., RA-L 2023). ``reach``: points farther away are not
    looked at; ``voxel``: how wide those of the map are, in metres. A sweep counts as seen at one moment. The ground is
    left out: rings of points on it move with the sensor, and would hold it where it is. ``threads``: 0 for all
    cores."""
    try:
        from kiss_icp.config import KISSConfig
        from kiss_icp.kiss_icp import KissICP
    except ImportError as error:
        raise MissingDependencyError("kiss-icp", "poses", "poses of drives that have none") from error
    config = KISSConfig()
    config.data.max_range, config.data.deskew = reach, False
    config.mapping.voxel_size = voxel
    config.registration.max_num_threads = threads
    found = KissICP(config)
    for xyz in sweeps:
        standing = above_ground(xyz)
        shown = standing if len(standing) >= _FEW else xyz
        found.register_frame(np.ascontiguousarray(shown, dtype=np.float64), np.zeros(0))
        yield np.array(found.last_pose)
