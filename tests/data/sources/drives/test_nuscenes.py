from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.errors import DataError, SampleError
from st_ssl.data.sources.drives import read_drives
from st_ssl.data.sources.drives.base import velocities
from st_ssl.data.sources.drives.nuscenes import SEGMENTS, read_labels
from tests.data.drives.made import world, write_sweep

STAND = {"translation": [0.0, 0.0, 0.0], "rotation": [1.0, 0.0, 0.0, 0.0]}
LEFT = {"translation": [10.0, 20.0, 0.0], "rotation": [2**-0.5, 0.0, 0.0, 2**-0.5]}
"""An ego pose that looks along the world's y."""


def write_tables(root: Path, version: str = "v1.0-trainval", scenes: tuple[str, ...] = ("scene-0001",)) -> None:
    """Scenes of two samples and a sweep between them, with a car on the right, and a stroller."""
    tables: dict[str, list[dict[str, object]]] = {
        "sensor": [{"token": "lidar", "channel": "LIDAR_TOP"}, {"token": "camera", "channel": "CAM_FRONT"}],
        "calibrated_sensor": [
            {"token": "cal", "sensor_token": "lidar", **STAND, "translation": [1.0, 0.0, 1.8]},
            {"token": "other", "sensor_token": "camera", **STAND},
        ],
        "category": [
            {"token": "car", "name": "vehicle.car"},
            {"token": "stroller", "name": "human.pedestrian.stroller"},
        ],
        "attribute": [{"token": "parked", "name": "vehicle.parked"}],
        **{name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "instance", "sample_annotation")},
    }
    for scene in scenes:
        tables["scene"].append({"token": scene, "name": scene})
        tables["instance"] += [{"token": f"{scene}-{kind}", "category_token": kind} for kind in ("car", "stroller")]
        for at, key in enumerate((True, False, True)):
            token, sample, stamp = f"{scene}-{at}", f"{scene}-s{(at + 1) // 2}", 10**15 + 500_000 * at
            file = f"{'samples' if key else 'sweeps'}/LIDAR_TOP/{token}.pcd.bin"
            write_sweep(root / file, world())
            sample_data = {"sample_token": sample, "ego_pose_token": token, "timestamp": stamp, "is_key_frame": key}
            of = {"calibrated_sensor_token": "cal", "filename": file}
            tables["sample_data"] += [
                {"token": token, **sample_data, **of},
                {"token": f"{token}-image", **sample_data, "calibrated_sensor_token": "other", "filename": "a.jpg"},
            ]
            tables["ego_pose"].append({"token": token, **LEFT})
            if key:
                tables["sample"].append({"token": sample, "scene_token": scene, "timestamp": stamp})
                box = {"sample_token": sample, "num_lidar_pts": 5, "num_radar_pts": 1, **LEFT}
                place = {"translation": [15.0 + at, 21.0, 1.0], "size": [2.0, 4.0, 1.5]}
                own = {"instance_token": f"{scene}-car", "attribute_tokens": ["parked"]}
                tables["sample_annotation"].append({**box, **own, **place})
                if at == 0:
                    own = {"instance_token": f"{scene}-stroller", "attribute_tokens": []}
                    tables["sample_annotation"].append({**box, **own, **place})
    (root / version).mkdir(parents=True)
    for name, rows in tables.items():
        (root / version / f"{name}.json").write_text(json.dumps(rows))


def test_boxes_and_points_are_turned_to_x_ahead(tmp_path: Path) -> None:
    write_tables(tmp_path)
    layout, (drive,), told = read_drives(tmp_path)
    assert layout.name == "nuscenes" and not told and len(drive) == 3 and drive.keys.tolist() == [0, 2]
    assert drive.tokens[2] == ("scene-0001-s1", "scene-0001-2")
    np.testing.assert_allclose(drive.times, [0, 0.5, 1.0])
    boxes = drive.boxes[0]()
    assert boxes.names == ("car", "stroller")
    # The ego vehicle is at (10, 20) and looks along the world's y; the sensor is 1 m before it and, in files, its x
    # points where the vehicle's x does: x ahead of a sweep is then the vehicle's y, the world's -x.
    place, pose = np.array([15.0, 21.0, 1.0]), drive.poses[0]
    np.testing.assert_allclose(pose[:3, :3] @ boxes.values[0, :3] + pose[:3, 3], place, atol=1e-5)
    np.testing.assert_allclose(boxes.values[0, :3], [-5.0, 0.0, -0.8], atol=1e-5)
    np.testing.assert_allclose(boxes.values[0, 3:7], [4.0, 2.0, 1.5, -np.pi / 2], atol=1e-5)
    np.testing.assert_allclose(boxes.values[0, 7:], [-2.0, 0.0], atol=1e-5)
    assert np.isnan(boxes.values[1, 7:]).all(), "seen once"
    facts = {name: value.tolist() for name, value in boxes.facts.items()}
    assert facts == {"track": [0, 1], "points": [5, 5], "radar": [1, 1], "attribute": [2, -1]}


def test_velocities_follow_the_rule_of_the_devkit() -> None:
    track = np.array([0, 1, 0, 0, 2, 2, 3, 3, 3])
    seconds = np.array([0.0, 0.0, 0.5, 1.0, 0.0, 2.0, 0.0, 1.4, 2.9])
    places = np.stack([np.array([0.0, 5, 1, 4, 0, 2, 0, 1.4, 5.8]), np.zeros(9), np.zeros(9)], 1)
    found = velocities(places, track, seconds)[:, 0]
    assert found == pytest.approx([2, np.nan, 4, 6, np.nan, np.nan, 1, 2, 4.4 / 1.5], nan_ok=True)


def test_official_and_custom_splits(tmp_path: Path) -> None:
    write_tables(tmp_path / "a", scenes=("scene-0003", "scene-0004", "scene-0103", "scene-0553"))
    assert [drive.split for drive in read_drives(tmp_path / "a")[1]] == ["val", "train", "val", "val"]
    write_tables(tmp_path / "b", "v1.0-mini", scenes=("scene-0103", "scene-0553"))
    assert [drive.split for drive in read_drives(tmp_path / "b")[1]] == ["val", "train"]
    write_tables(tmp_path / "c", scenes=("north", "south"))
    (tmp_path / "c" / "v1.0-trainval" / "splits.json").write_text('{"my_val": ["south"], "my_train": ["north"]}')
    assert [drive.split for drive in read_drives(tmp_path / "c")[1]] == ["train", "val"]


def test_scenes_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    write_tables(tmp_path, scenes=("scene-0001", "scene-0002"))
    for file in (tmp_path / "samples" / "LIDAR_TOP").glob("scene-0001*"):
        file.unlink()
    _, drives, told = read_drives(tmp_path)
    assert len(drives) == 1 and "1 of 2 scenes are not there" in told[0]


@pytest.mark.parametrize(
    ("table", "text", "reason"),
    [
        ("sensor", "[{", "sensor.json: not a table of nuScenes"),
        ("sample", '[{"token": "a"}]', "v1.0-trainval: its tables do not belong together: no 'scene_token'"),
        ("ego_pose", None, "ego_pose.json: cannot be read: No such file"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path: Path, table: str, text: str | None, reason: str) -> None:
    write_tables(tmp_path)
    file = tmp_path / "v1.0-trainval" / f"{table}.json"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(DataError, match=reason):
        read_drives(tmp_path)


def test_labels_of_points(tmp_path: Path) -> None:
    file = tmp_path / "a_lidarseg.bin"
    np.array([17, 4, 0, 31, 30], dtype=np.uint8).tofile(file)
    names = list(SEGMENTS)
    wanted = [names.index("car"), names.index("pedestrian"), -1, -1, names.index("vegetation")]
    assert read_labels(file, 5)["segment"].tolist() == wanted
    with pytest.raises(SampleError, match="5 labels for 6 points"):
        read_labels(file, 6)
