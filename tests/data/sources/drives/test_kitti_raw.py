from __future__ import annotations

from pathlib import Path
from typing import Any

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


CAR = {"objectType": "Car", "h": 1.5, "w": 1.6, "l": 4.0, "first_frame": 1}
WALKER = {"objectType": "Person (sitting)", "h": 1.2, "w": 0.5, "l": 0.6, "first_frame": 0}


def write_tracks(drive: Path, *tracks: tuple[dict[str, object], list[tuple[float, ...]]]) -> Path:
    """``tracklet_labels.xml`` of tracks, each with its poses: x, y, z, yaw and truncation."""

    def tags(values: dict[str, object]) -> str:
        return "".join(f"<{name}>{value}</{name}>" for name, value in values.items())

    items = []
    for about, poses in tracks:
        names = ("tx", "ty", "tz", "rz", "truncation")
        rows = "".join(
            f"<item>{tags(dict(zip(names, pose, strict=True)))}<occlusion>1</occlusion></item>" for pose in poses
        )
        items.append(f"<item>{tags(about)}<poses><count>{len(poses)}</count>{rows}</poses></item>")
    file = drive / "tracklet_labels.xml"
    head = f"<tracklets><count>{len(items)}</count><item_version>1</item_version>"
    file.write_text(f'<?xml version="1.0"?>\n<!DOCTYPE boost_serialization>\n<boost_serialization signature="x">{head}'
                    f"{''.join(items)}</tracklets></boost_serialization>")  # fmt: skip
    return file


def test_tracks_are_boxes_on_their_bottom_and_of_the_image_alone(tmp_path: Path) -> None:
    drive = write_raw(tmp_path)
    north = 6378137 * np.pi / 180 * 1e-4  # which the sensor goes from sweep to sweep, to its left
    write_tracks(
        drive,
        (CAR, [(10, -2, -1.7, 0.3, 0), (10, -2 - north, -1.7, 0.3, 1), (10, 0, -1.7, 0.3, 0)]),
        (WALKER, [(5, 1, -1.6, 0, 0), (5, 1, -1.6, 0, 2)]),
    )
    found = source_of(tmp_path)
    assert found.box_classes == ("car", "pedestrian", "cyclist")
    (made,) = found.drives.values()
    first, second, third = (made.boxes[at]() for at in range(3))
    assert first.names == ("person_sitting",) and second.names == ("car", "dontcare") and third.names == ("car",)
    np.testing.assert_allclose(second.values[0, :7], [10, -2, -0.95, 4, 1.6, 1.5, 0.3])
    # It stood still in the world from the second sweep to the third, in which the sensor went to the left.
    np.testing.assert_allclose(second.values[0, 7:], [0, 0], atol=2e-3)
    np.testing.assert_allclose(first.values[0, 7:], [0, north / 0.103], rtol=1e-3)
    assert [one.facts["track"].tolist() for one in (first, second, third)] == [[1], [0, 1], [0]]
    assert second.facts["truncated"].tolist() == [0, 2] and second.facts["occluded"].tolist() == [1, 1]


def test_without_tracks_nobody_has_looked_for_objects(tmp_path: Path) -> None:
    drive = write_raw(tmp_path)
    assert not read_drives(tmp_path)[1][0].boxes
    write_tracks(drive)
    assert [len(read().names) for read in read_drives(tmp_path)[1][0].boxes.values()] == [0, 0, 0]


def test_the_camera_of_the_day_sees_what_is_ahead(tmp_path: Path) -> None:
    day = write_raw(tmp_path).parent
    turn = "0 -1 0 0 0 -1 1 0 0"  # x to the right, y down, z ahead
    (day / "calib_velo_to_cam.txt").write_text(f"R: {turn}\nT: 0 0 0\n")
    (day / "calib_cam_to_cam.txt").write_text(
        "S_rect_02: 100 50\nR_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: 50 0 50 0 0 50 25 0 0 0 1 0\n"
    )
    (drive,) = read_drives(tmp_path)[1]
    seen = drive.cameras[0]().sees(np.array([[10.0, 0, 0], [10, 9.9, 0], [10, 10.1, 0], [10, 0, -5.1], [-10, 0, 0]]))
    assert seen.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("about", "poses", "told"),
    [
        (CAR | {"objectType": "Kar"}, [], r"track 1: no class 'Kar'; did you mean 'Car'\?"),
        (CAR | {"h": "tall"}, [], r"track 1: h is 'tall', expected a number"),
        (CAR, [(10, -2, -1.7, float("nan"), 0)], r"track 1, pose 1: a box at .* is not finite"),
        (CAR | {"l": 0}, [(10, -2, -1.7, 0, 0)], r"track 1, pose 1: a box of length, width and height 0"),
    ],
)
def test_a_wrong_track_is_named(tmp_path: Path, about: dict[str, object], poses: list[Any], told: str) -> None:
    drive = write_raw(tmp_path)
    write_tracks(drive, (about, poses))
    with pytest.raises(DataError, match=rf"tracklet_labels\.xml: {told}"):
        read_drives(tmp_path)
    (drive / "tracklet_labels.xml").write_text("<boost_serialization>")
    with pytest.raises(DataError, match=r"tracklet_labels\.xml: no XML: "):
        read_drives(tmp_path)


def test_a_wrong_time_or_packet_is_named(tmp_path: Path) -> None:
    drive = write_raw(tmp_path)
    (drive / "oxts" / "data" / "0000000002.txt").write_text("49 8.4\n")
    with pytest.raises(DataError, match=r"0000000002\.txt: expected a line of latitude, longitude, altitude, roll"):
        read_drives(tmp_path)
    (drive / "velodyne_points" / "timestamps.txt").write_text("yesterday\n")
    with pytest.raises(DataError, match=r"timestamps\.txt: line 1: 'yesterday' is no time"):
        read_drives(tmp_path)
