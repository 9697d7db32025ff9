from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.errors import DataError
from st_ssl.data.sources.drives import read_drives
from tests.data.drives.made import source_of, world, write_sweep

SECONDS = ("59.5000001", "59.603", "59.701")


def write_raw(root: Path, calib: bool = True) -> Path:
    """A drive of three sweeps, 11.1 m to the north each, that looks to the east; the sensor is 1 m before the IMU."""
    day = root / "2011_09_26"
    drive = day / "2011_09_26_drive_0001_sync"
    for at in range(3):
        write_sweep(drive / "velodyne_points" / "data" / f"{at:010d}.bin", world())
        packet = drive / "oxts" / "data" / f"{at:010d}.txt"
        packet.parent.mkdir(parents=True, exist_ok=True)
        packet.write_text(f"{49 + 1e-4 * at} 8.4 110 0 0 0 {' '.join('0' * 24)}\n")
    stamps = "".join(f"2011-09-26 13:02:{second}00\n" for second in SECONDS)
    (drive / "velodyne_points" / "timestamps.txt").write_text(stamps)
    if calib:
        text = "calib_time: 25-May-2012 16:47:16\nR: 1 0 0 0 1 0 0 0 1\nT: -1 0 0\n"
        (day / "calib_imu_to_velo.txt").write_text(text)
    return drive


def test_a_drive_has_times_and_poses_in_metres(tmp_path: Path) -> None:
    drive = write_raw(tmp_path)
    for root in (tmp_path, drive.parent, drive):
        layout, (found,), told = read_drives(root)
        assert layout.name == "kitti_raw" and found.path == str(drive) and not told
    np.testing.assert_allclose(found.times, [0, 0.103, 0.201], atol=1e-5)
    north = 6378137 * np.pi / 180 * 1e-4
    for at in range(3):
        np.testing.assert_allclose(found.poses[at, :3, :3], np.eye(3), atol=1e-12)
        np.testing.assert_allclose(found.poses[at, :3, 3], [1, at * north, 0], atol=2e-4)
    assert len(source_of(tmp_path, sweeps=2).entries()) == 3


def test_angles_turn_yaw_last(tmp_path: Path) -> None:
    drive = write_raw(tmp_path)
    (drive / "oxts" / "data" / "0000000001.txt").write_text(f"49 8.4 110 0.1 0.2 {np.pi / 2} 0\n")
    pose = read_drives(tmp_path)[1][0].poses[1]
    # ahead: down by the pitch, then from east to north by the yaw
    np.testing.assert_allclose(pose[:3, 0], [0, np.cos(0.2), -np.sin(0.2)], atol=1e-9)
    np.testing.assert_allclose(pose[2, 1], np.sin(0.1) * np.cos(0.2), atol=1e-9)


def test_without_the_place_of_the_sensor_there_are_no_poses(tmp_path: Path) -> None:
    write_raw(tmp_path, calib=False)
    _, (drive,), told = read_drives(tmp_path)
    assert not drive.posed.any() and "no poses, since calib_imu_to_velo.txt is not in" in told[0]


def test_a_wrong_time_or_packet_is_named(tmp_path: Path) -> None:
    drive = write_raw(tmp_path)
    (drive / "oxts" / "data" / "0000000002.txt").write_text("49 8.4\n")
    with pytest.raises(DataError, match=r"0000000002\.txt: expected a line of latitude, longitude, altitude, roll"):
        read_drives(tmp_path)
    (drive / "velodyne_points" / "timestamps.txt").write_text("yesterday\n")
    with pytest.raises(DataError, match=r"timestamps\.txt: line 1: 'yesterday' is no time"):
        read_drives(tmp_path)
