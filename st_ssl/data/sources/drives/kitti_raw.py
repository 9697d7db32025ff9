"""KITTI's raw recordings (Geiger et al., IJRR 2013), synchronised: sweeps, and poses from GPS and inertial sensors."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np

from st_ssl.core.errors import DataError, SampleError
from st_ssl.data.sources.base import Place
from st_ssl.data.sources.drives.base import Layout, filled_times, numbers, sweeps_in, text_lines
from st_ssl.data.sources.drives.kitti import COLUMNS, from_calib, read_calib
from st_ssl.data.sources.points.base import subfolders
from st_ssl.data.streams.points.drives import Drive, unposed

_EARTH = 6378137.0  # its radius in metres


def _read(place: Place, rate: float) -> list[Drive]:
    """``2011_09_26/2011_09_26_drive_0001_sync`` with ``velodyne_points`` and ``oxts``; ``calib_imu_to_velo.txt`` is
    beside the drives of a day. The root holds days, or is one. All drives are "train"."""
    folders = _folders(place.root)
    if not folders:
        raise DataError(
            f"{place.root}: no velodyne_points/data/*.bin in its drives, as KITTI's raw recordings have them"
        )
    return [_drive(place, folder, rate) for folder in folders]


def _folders(root: Path) -> list[Path]:
    """The folders of drives."""
    days = subfolders(root)
    drives = [root, *days, *(drive for day in days for drive in subfolders(day))]
    return [drive for drive in drives if sweeps_in(drive / "velodyne_points" / "data", ".bin")]


def _drive(place: Place, folder: Path, rate: float) -> Drive:
    files = sweeps_in(folder / "velodyne_points" / "data", ".bin")
    times = _times(folder / "velodyne_points" / "timestamps.txt", files, rate)
    calib, poses = folder.parent / "calib_imu_to_velo.txt", unposed(len(files))
    packets = [folder / "oxts" / "data" / f"{file.stem}.txt" for file in files]
    there = np.array([packet.is_file() for packet in packets])
    if there.any() and calib.is_file():
        own = read_calib(calib)
        to_sweep = np.eye(4)
        to_sweep[:3, :3], to_sweep[:3, 3] = (
            from_calib(calib, own, ("R",), 9).reshape(3, 3),
            from_calib(calib, own, ("T",), 3),
        )
        moves = oxts_poses(np.stack([_packet(packet) for packet in packets if packet.is_file()]))
        poses[there] = moves @ np.linalg.inv(to_sweep)
    elif there.any():
        place.tell(f"{folder}: no poses, since {calib.name} is not in {calib.parent}")
    return Drive(str(folder), "train", tuple(map(str, files)), times, poses)


def _times(file: Path, files: list[Path], rate: float) -> np.ndarray:
    """Times float64 [T] in seconds from the first sweep on; lines are of all sweeps, also of those that are missing."""
    times = np.full(len(files), np.nan)
    stamps = dict(enumerate(line for _, line in text_lines(file))) if file.is_file() else {}
    for at, sweep in enumerate(files):
        stamp = stamps.get(int(sweep.stem)) if sweep.stem.isdecimal() else None
        if stamp is not None:
            try:
                times[at] = datetime.fromisoformat(stamp[:26]).timestamp()  # to the microsecond
            except ValueError as error:
                raise SampleError(str(file), f"line {int(sweep.stem) + 1}: {stamp!r} is no time") from error
    times = filled_times(times, rate)
    return times - times[0]


def _packet(file: Path) -> np.ndarray:
    """Latitude and longitude in degrees, height in metres, roll, pitch and yaw in radians, float64 [6]."""
    rows = text_lines(file)
    if not rows or len(words := rows[0][1].split()) < 6:
        raise SampleError(str(file), "expected a line of latitude, longitude, altitude, roll, pitch, yaw …")
    return np.array(numbers(file, rows[0][0], words[:6]))


def oxts_poses(packets: np.ndarray) -> np.ndarray:
    """Poses float64 [T, 4, 4] of the inertial sensor from ``packets`` [T, 6] (see ``_packet``), in metres east, north
    and up of the first: a Mercator projection at the latitude of that one, as KITTI's development kit has it."""
    latitude, longitude, height, roll, pitch, yaw = packets.T
    scale = np.cos(np.radians(latitude[0]))
    east = scale * _EARTH * np.radians(longitude)
    north = scale * _EARTH * np.log(np.tan(np.radians(90 + latitude) / 2))
    places = np.stack([east, north, height], axis=1)
    poses = np.tile(np.eye(4), (len(packets), 1, 1))
    poses[:, :3, :3] = _turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll)
    poses[:, :3, 3] = places - places[0]
    return poses


def _turn(axis: int, angle: np.ndarray) -> np.ndarray:
    """Rotations [T, 3, 3] about an axis."""
    turn = np.zeros((len(angle), 3, 3))
    one, two = (axis + 1) % 3, (axis + 2) % 3
    turn[:, axis, axis] = 1
    turn[:, one, one] = turn[:, two, two] = np.cos(angle)
    turn[:, two, one], turn[:, one, two] = np.sin(angle), -np.sin(angle)
    return turn


LAYOUT = Layout("kitti_raw", _read, lambda place: _folders(place.root), columns=COLUMNS, intensity_range=(0.0, 1.0))
