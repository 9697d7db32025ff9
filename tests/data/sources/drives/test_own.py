from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.errors import DataError, SampleError
from st_ssl.data.sources.drives import read_drives
from st_ssl.data.sources.drives.own import read_boxes, read_labels
from st_ssl.data.streams.points.drives import DriveSweeps
from tests.data.drives.made import CAR, box_line, pose_at, source_of, world, write_drive, write_sweep


def named(root: Path) -> list[tuple[str, str, int]]:
    """Name, split and number of sweeps of each drive."""
    return [(Path(drive.path).name, drive.split, len(drive)) for drive in read_drives(root)[1]]


def test_drives_lie_in_folders_of_splits_or_in_the_root_or_are_it(tmp_path: Path) -> None:
    write_drive(tmp_path / "a" / "train" / "x")
    write_drive(tmp_path / "a" / "val" / "y", sweeps=2)
    assert named(tmp_path / "a") == [("x", "train", 6), ("y", "val", 2)]
    assert named(tmp_path / "a" / "val") == [("y", "train", 2)]
    assert named(tmp_path / "a" / "val" / "y") == [("y", "train", 2)]


def test_lists_of_drives_are_splits_too(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_drive(tmp_path / name, sweeps=2)
    (tmp_path / "train.txt").write_text("b\n")
    (tmp_path / "test.txt").write_text("a\nd\n")
    assert named(tmp_path) == [("a", "test", 2), ("b", "train", 2)]
    told = read_drives(tmp_path)[2]
    assert "1 drives are in none of its lists and are left out, c say" in told[0]
    assert "1 drives of its lists are not there, d say" in told[1]


def test_a_flat_folder_is_frames_that_know_no_other(tmp_path: Path) -> None:
    for name in ("2", "10", "1"):
        write_sweep(tmp_path / f"{name}.bin", world())
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "10.txt").write_text(box_line())
    assert named(tmp_path) == [("1.bin", "train", 1), ("2.bin", "train", 1), ("10.bin", "train", 1)]
    entries = source_of(tmp_path).entries()
    assert [(Path(entry.path).name, entry.window) for entry in entries] == [("10.bin", False)]
    (tmp_path / "val.txt").write_text("2\n")
    (tmp_path / "train.txt").write_text("1\n10\n")
    assert [split for _, split, _ in named(tmp_path)] == ["train", "val", "train"]


def test_with_poses_a_flat_folder_is_one_drive_in_the_order_of_time(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        write_sweep(tmp_path / f"{name}.bin", world())
    matrix = " ".join(map(str, pose_at(1.0)[:3].ravel()))
    (tmp_path / "poses.txt").write_text(f"# a log\nc 0.5 {matrix}\na 1.5 {matrix}\nb 1.0\nother 7.0 {matrix}\n")
    _, (drive,), _ = read_drives(tmp_path)
    assert [Path(file).stem for file in drive.files] == ["c", "d", "b", "a"]
    assert drive.times.tolist() == [0.5, 0.6, 1.0, 1.5], "d is in no line: by its name it comes after c, at data.rate"
    assert drive.posed.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("car 1 2 3 4 5 6", "line 2: 7 columns, expected 8 or 10 or 11: class x y z length width height yaw [vx vy"),
        ("car 1 2 3 4 5 6 0 1", "line 2: 9 columns, expected 8 or 10 or 11"),
        ("car 1 2 3 4 5 6 north", "line 2: 'north' is no number"),
        ("car 1 2 3 4 -5 6 0", "line 2: a box of length, width and height 4 -5 6"),
        ("car 1 2 3 4 5 6 nan", "line 2: a box at 1 2 3, 4 5 6 nan is not finite"),
    ],
)
def test_a_wrong_line_of_boxes_is_named(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "0.txt"
    file.write_text(f"{box_line()}{line}  # here\n")
    with pytest.raises(SampleError) as error:
        read_boxes(file)
    assert error.value.path == str(file) and error.value.reason.startswith(reason)


def test_boxes_may_have_a_velocity_and_a_track_and_a_file_none(tmp_path: Path) -> None:
    file = tmp_path / "0.txt"
    file.write_text("\n" + box_line() + box_line(more="1 -2") + box_line("bus", more="nan nan 9"))
    found = read_boxes(file)
    np.testing.assert_allclose(found.values[:, :7], [CAR] * 3)
    np.testing.assert_array_equal(found.values[:, 7:], [[np.nan, np.nan], [1, -2], [np.nan, np.nan]])
    assert found.names == ("car", "car", "bus") and found.facts["track"].tolist() == [-1, -1, 9]
    file.write_text("")
    assert read_boxes(file).values.shape == (0, 9)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a 0.5 1 0 0\n", r"poses\.txt: line 1: 5 columns, expected 2 or 14: name seconds"),
        ("a nan\n", r"poses\.txt: line 1: the time nan is not finite"),
        ("a now\n", r"poses\.txt: line 1: 'now' is no number"),
    ],
)
def test_a_wrong_line_of_poses_is_named(tmp_path: Path, text: str, reason: str) -> None:
    write_sweep(tmp_path / "a.bin", world())
    (tmp_path / "poses.txt").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_drives(tmp_path)


def test_labels_are_bytes_or_have_instances(tmp_path: Path) -> None:
    file = tmp_path / "0.label"
    np.array([0, 2, 255], dtype=np.uint8).tofile(file)
    assert {name: value.tolist() for name, value in read_labels(file, ("a", "b", "c"), 3).items()} == {
        "segment": [0, 2, -1]
    }
    np.array([1 | 5 << 16, 0xFFFF, 2], dtype=np.uint32).tofile(file)
    found = read_labels(file, (), 3)
    assert found["segment"].tolist() == [1, -1, 2] and found["instance"].tolist() == [5, -1, -1]
    with pytest.raises(SampleError, match=r"label 2, and classes\.txt has 2 classes, from 0 on"):
        read_labels(file, ("a", "b"), 3)
    with pytest.raises(SampleError, match=r"0\.label: 12 bytes for 5 points: expected uint8 or uint32, one for each"):
        read_labels(file, (), 5)


def test_labels_stay_with_their_points_where_some_are_left_out(tmp_path: Path) -> None:
    xyz = world(count=100)
    xyz[3], xyz[7, 2] = 0, np.nan
    write_sweep(tmp_path / "sweeps" / "0.bin", xyz)
    (tmp_path / "labels").mkdir()
    np.arange(100, dtype=np.uint8).tofile(tmp_path / "labels" / "0.label")
    source = source_of(tmp_path)
    ((_, cloud),) = DriveSweeps(next(iter(source.drives.values())), source.sweep_options).read([0])
    assert cloud.labels["segment"].tolist() == [label for label in range(100) if label not in (3, 7)]


def test_coordinates_of_a_map_are_brought_near_with_their_boxes(tmp_path: Path) -> None:
    far = np.array([500_000.0, 5_400_000.0, 300.0])
    (tmp_path / "sweeps").mkdir()
    np.save(tmp_path / "sweeps" / "0.npy", world() + far)
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "0.txt").write_text(box_line(box=(*(far + 1.0), *CAR[3:])))
    source = source_of(tmp_path)
    ((_, cloud),) = DriveSweeps(next(iter(source.drives.values())), source.sweep_options).read([0])
    assert cloud.pose is not None and cloud.boxes is not None
    np.testing.assert_allclose(cloud.xyz + cloud.pose[:3, 3], world() + far, atol=1e-4)
    assert cloud.boxes.values.dtype == np.float32
    np.testing.assert_allclose(cloud.boxes.values[0, :3] + cloud.pose[:3, 3], far + 1, atol=1e-4)
