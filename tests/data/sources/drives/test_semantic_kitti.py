from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.errors import DataError, SampleError
from st_ssl.data.sources.drives import read_drives
from st_ssl.data.sources.drives.semantic_kitti import CLASSES, IGNORED, read_labels, written_back
from tests.data.drives.made import pose_at, source_of, world, write_sweep

TR = np.array([[0.0, -1, 0, 0.1], [0, 0, -1, -0.05], [1, 0, 0, -0.3]])
POINTS = 400


def write_sequence(folder: Path, sweeps: int = 3, poses: int = 3, labels: bool = True) -> None:
    """A sequence whose poses are those of the camera."""
    to_camera = np.vstack([TR, [0, 0, 0, 1]])
    rows = []
    for at in range(sweeps):
        write_sweep(folder / "velodyne" / f"{at:06d}.bin", world())
        pose = to_camera @ np.linalg.inv(pose_at(0)) @ pose_at(at / 10) @ np.linalg.inv(to_camera)
        rows.append(" ".join(map(repr, pose[:3].ravel().tolist())))
        if labels:
            (folder / "labels").mkdir(exist_ok=True)
            (np.arange(POINTS, dtype=np.uint32) << 16 | 252).tofile(folder / "labels" / f"{at:06d}.label")
    (folder / "poses.txt").write_text("\n".join(rows[:poses]) + "\n")
    (folder / "calib.txt").write_text(f"P0: {' '.join('0' * 12)}\nTr: {' '.join(map(str, TR.ravel()))}\n")
    (folder / "times.txt").write_text("0.0\n1.0e-01\n0.21\n")


@pytest.mark.parametrize("inside", ["", "dataset"])
def test_sequences_are_splits_and_their_poses_those_of_the_sensor(tmp_path: Path, inside: str) -> None:
    for name in ("00", "08", "11"):
        write_sequence(tmp_path / inside / "sequences" / name, labels=name != "11")
    layout, drives, told = read_drives(tmp_path)
    assert layout.name == "semantic_kitti" and not told
    assert [(Path(drive.path).name, drive.split, len(drive.labels)) for drive in drives] == [
        ("00", "train", 3),
        ("08", "val", 3),
        ("11", "test", 0),
    ]
    first = np.linalg.inv(pose_at(0))
    for at in range(3):
        np.testing.assert_allclose(drives[0].poses[at], first @ pose_at(at / 10), atol=1e-9)
    np.testing.assert_allclose(drives[0].times, [0, 0.1, 0.21])
    assert len(source_of(tmp_path).entries()) == 9


def test_poses_of_the_odometry_benchmark_lie_beside_the_sequences(tmp_path: Path) -> None:
    write_sequence(tmp_path / "sequences" / "03", poses=2)
    (tmp_path / "poses").mkdir()
    (tmp_path / "sequences" / "03" / "poses.txt").rename(tmp_path / "poses" / "03.txt")
    _, (drive,), told = read_drives(tmp_path)
    assert drive.posed.tolist() == [True, True, False]
    assert "03.txt: 2 poses for 3 sweeps: the others have none" in told[0]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("calib.txt", f"Tr: {' '.join('0' * 12)}\n", "cannot be used: LinAlgError: Singular matrix"),
        ("calib.txt", "P0: 1\n", r"calib\.txt: no line Tr or Tr_velo_to_cam \(there are: P0\)"),
        ("poses.txt", "1 0 0\n", r"poses\.txt: line 1: 3 numbers, expected 12"),
        ("times.txt", "soon\n", r"times\.txt: line 1: 'soon' is no number"),
    ],
)
def test_a_sequence_with_a_damaged_file_is_named(tmp_path: Path, name: str, text: str, reason: str) -> None:
    write_sequence(tmp_path / "sequences" / "00")
    (tmp_path / "sequences" / "00" / name).write_text(text)
    with pytest.raises(DataError, match=reason):
        read_drives(tmp_path)


def test_the_labels_of_a_sweep_are_mapped_and_written_back(tmp_path: Path) -> None:
    known = [label for labels in CLASSES.values() for label in labels] + list(IGNORED)
    assert len(known) == len(set(known)) == 34 and len(CLASSES) == 19
    file = tmp_path / "a.label"
    (np.array(known, dtype=np.uint32) | 7 << 16).tofile(file)
    found = read_labels(file, len(known))
    assert (found["instance"] == 7).all()
    names = list(CLASSES)
    for label, segment in zip(known, found["segment"].tolist(), strict=True):
        assert (segment == -1) == (label in IGNORED) and (segment == -1 or label in CLASSES[names[segment]])
    back = written_back(found["segment"])
    back.tofile(file)
    np.testing.assert_array_equal(read_labels(file, len(known))["segment"], found["segment"])
    assert back[found["segment"] == names.index("other-vehicle")].tolist() == [20] * 6 and set(back) <= set(known)


def test_labels_that_do_not_fit_the_points_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.label"
    file.write_bytes(bytes(4 * 9 + 1))
    with pytest.raises(SampleError, match=r"a\.label: 9 labels and 1 bytes for 10 points"):
        read_labels(file, 10)
    np.array([10, 17], dtype=np.uint32).tofile(file)
    with pytest.raises(SampleError, match="label 17 is none of SemanticKITTI's"):
        read_labels(file, 2)
