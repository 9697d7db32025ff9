from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.errors import DataError, SampleError
from st_ssl.data.sources.drives import read_drives
from tests.data.drives.made import pose_at, source_of, world, write_sweep
from tests.data.sources.drives.test_kitti import CALIB, CAR


def write_once(root: Path, name: str, annos: dict[str, object] | None, pose: list[float]) -> None:
    """A sequence of two sweeps, of which the first has boxes."""
    folder, frames = root / "data" / name, []
    for at in range(2):
        stamp = str(1_600_000_000_000 + 500 * at)
        write_sweep(folder / "lidar_roof" / f"{stamp}.bin", world(), intensity=127)
        frames.append({"frame_id": stamp, "pose": pose} | ({"annos": annos} if annos and at == 0 else {}))
    (folder / f"{name}.json").write_text(json.dumps({"meta_info": {}, "calib": {}, "frames": frames}))


BOX = {"names": ["Truck"], "boxes_3d": [[5.0, 1.0, -0.5, 8.0, 2.5, 3.0, 0.4]], "boxes_2d": {}}
TURNED = [0.0, 0.0, 2**-0.5, 2**-0.5, 7.0, 8.0, 9.0]


def test_once_has_sets_of_sequences_of_which_the_raw_have_no_labels(tmp_path: Path) -> None:
    write_once(tmp_path, "000000", BOX, TURNED)
    write_once(tmp_path, "000001", None, [0.0] * 7)
    write_once(tmp_path, "000002", BOX, TURNED)
    (tmp_path / "ImageSets").mkdir()
    for name, rows in {"train": "000000", "raw_small": "000001", "val": "000002"}.items():
        (tmp_path / "ImageSets" / f"{name}.txt").write_text(rows + "\n")
    source = source_of(tmp_path)
    assert source.layout.name == "once" and source.box_classes == ("car", "bus", "truck", "pedestrian", "cyclist")
    assert [(Path(e.path).name, e.split) for e in source.recordings()] == [
        ("000000", "train"),
        ("000001", "train"),
        ("000002", "val"),
    ]
    assert [(Path(e.path).name, e.start, e.tags) for e in source.entries()] == [
        ("000000", 0, ("truck",)),
        ("000002", 0, ("truck",)),
    ], "a raw sequence has no key frames where others have boxes"
    first, second, _ = source.drives.values()
    np.testing.assert_allclose(first.times, [0, 0.5])
    np.testing.assert_allclose(first.poses[0] @ [1, 0, 0, 1], [7, 9, 9, 1], atol=1e-12)
    assert not second.posed.any(), "a quaternion without a length is no pose"
    np.testing.assert_allclose(first.boxes[0]().values[0, :7], BOX["boxes_3d"][0])  # type: ignore[index]


def test_a_wrong_sequence_of_once_is_named(tmp_path: Path) -> None:
    write_once(tmp_path, "000000", BOX | {"names": ["Lorry"]}, TURNED)
    with pytest.raises(SampleError, match=r"000000\.json: box 1: no class 'Lorry' \(there are: Car, Bus"):
        read_drives(tmp_path)[1][0].boxes[0]()
    write_once(tmp_path, "000000", BOX, TURNED[:6])
    with pytest.raises(DataError, match=r"000000\.json: a frame without a frame_id or a pose of 7 numbers"):
        read_drives(tmp_path)


def write_waymo(root: Path, name: str, label: str) -> None:
    """A frame in KITTI's form; the name is the split, the segment and the sweep."""
    part = root / "training"
    xyz = np.hstack([world(), np.full((400, 3), 0.25)]).astype(np.float32)
    for folder in ("velodyne", "calib", "pose", "label_all"):
        (part / folder).mkdir(parents=True, exist_ok=True)
    xyz.tofile(part / "velodyne" / f"{name}.bin")
    (part / "calib" / f"{name}.txt").write_text(CALIB.replace("Tr_velo_to_cam", "Tr_velo_to_cam_0"))
    np.savetxt(part / "pose" / f"{name}.txt", pose_at(int(name[4:]) / 10))
    (part / "label_all" / f"{name}.txt").write_text(label)


def test_waymo_in_the_form_of_kitti_is_segments_with_poses(tmp_path: Path) -> None:
    for name in ("0000000", "0000001", "0001000", "1000000"):
        write_waymo(tmp_path, name, CAR.strip() + " 0\n")
    source = source_of(tmp_path)
    assert source.layout.name == "waymo_kitti"
    drives = list(source.drives.values())
    assert [(Path(drive.path).name, drive.split, len(drive)) for drive in drives] == [
        ("0000", "train", 2),
        ("0001", "train", 1),
        ("1000", "val", 1),
    ]
    np.testing.assert_allclose(drives[0].poses[1], pose_at(0.1))
    boxes = drives[0].boxes[1]()
    assert boxes.names == ("vehicle",)
    np.testing.assert_allclose(boxes.values[0, :3], [20.3, 2.1, -1.0], atol=1e-5)
    (tmp_path / "training" / "pose" / "0000001.txt").write_text("1 0 0 0\n")
    with pytest.raises(DataError, match=r"0000001\.txt: 4 numbers, expected those of a matrix 4 x 4"):
        read_drives(tmp_path)
