"""`prepare poses`: how the sensor moved, for drives that do not say so."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from st_ssl.core.errors import DataError, SampleError, shown
from st_ssl.core.files import replace_text
from st_ssl.data.drives.config import DriveDataConfig
from st_ssl.data.drives.dataset import DriveSource
from st_ssl.data.drives.odometry import track_sensor
from st_ssl.data.sources.drives.own import matrix_text, name_of
from st_ssl.data.streams.points.drives import Drive, read_sweep
from st_ssl.engine.console import RunProgress

FILE = "poses.txt"


def write_poses(config: DriveDataConfig, reach: float, voxel: float, overwrite: bool, threads: int = 0) -> int:
    """Write ``poses.txt`` for each of your own drives that has none; with ``overwrite`` for all of them.

    Returns 1 where a sweep cannot be read, and 0 otherwise. Such a drive is named and left as it was. Raises
    ``DataError`` where there are no drives of your own with several sweeps."""
    source = DriveSource(config)
    if source.layout.name != "own":
        raise DataError(f"{config.root}: layout {source.layout.name}: poses are written for drives of one's own alone")
    drives = [drive for drive in source.drives.values() if len(drive) > 1]
    if not drives:
        raise DataError(f"{config.root}: no drive has several sweeps: each needs a folder of its own, with sweeps/")
    asked = [drive for drive in drives if overwrite or not drive.posed.any()]
    if left := len(drives) - len(asked):
        print(f"{left} of {len(drives)} drives have poses, and keep them (--overwrite: find them again)")
    broken, done = 0, 0
    with RunProgress("poses", sum(len(drive) for drive in asked), 0, True, "sweep") as bar:
        for drive in asked:
            poses = []
            try:
                for pose in track_sensor(_sweeps(drive, source), reach, voxel, threads):
                    poses.append(pose)
                    bar.update(done + len(poses), Path(drive.path).name)
            except SampleError as error:
                broken += 1
                print(shown(f"left as it is: {drive.path}: {error}"))
            else:
                _write(drive, poses)
                metres = sum(float(np.linalg.norm(b[:3, 3] - a[:3, 3])) for a, b in pairwise(poses))
                print(shown(f"{drive.path}: {len(poses)} sweeps, {metres:.1f} m"))
            done += len(drive)
    return int(bool(broken))


def _sweeps(drive: Drive, source: DriveSource) -> Iterator[np.ndarray]:
    for file in drive.files:
        yield read_sweep(file, source.reading.options, source.drives_config.near, None, drive.axes)[0].xyz


def _write(drive: Drive, poses: list[np.ndarray]) -> None:
    """A line a sweep: its name, its time, and where it was."""
    rows = zip(drive.files, drive.times, poses, strict=True)
    lines = [f"{name_of(Path(file))} {time:.6f} {matrix_text(pose)}\n" for file, time, pose in rows]
    replace_text(Path(drive.path) / FILE, "".join(lines))
