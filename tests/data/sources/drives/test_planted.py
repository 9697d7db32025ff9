"""Every layout that planted drives are written in reads back as the same drives."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from st_ssl.core.types import PointCloud
from st_ssl.data.drives.dataset import DriveSource
from st_ssl.data.streams.points.drives import DriveSweeps
from st_ssl.data.synthetic.drives import SEGMENTS, SyntheticDriveConfig, scan_sweep, write_dataset
from tests.data.drives.made import source_of

SMALL = {"num_train": 1, "num_val": 1, "num_test": 1, "sweeps": 5, "key_every": 2, "beams": 16, "columns": 180}


@lru_cache
def truth(split: str, at: int) -> PointCloud:
    """What was planted: the sweep ``at`` of the only drive of ``split``."""
    return scan_sweep(SyntheticDriveConfig.model_validate(SMALL), split, 0, at).cloud


@pytest.fixture(scope="module", params=["own", "kitti", "semantic_kitti", "nuscenes"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DriveSource:
    config = SyntheticDriveConfig.model_validate({**SMALL, "layout": request.param})
    root = write_dataset(tmp_path_factory.mktemp(request.param), config, num_workers=1, progress=False)
    found = source_of(root)
    assert found.layout.name == request.param, "auto finds it"
    return found


def sweeps(source: DriveSource, split: str) -> dict[int, PointCloud]:
    """The sweeps of a split by the number that they have in the planted drive."""
    drives = [drive for drive in source.drives.values() if drive.split == split]
    step = SMALL["key_every"] if source.layout.name == "kitti" else 1  # frames that know no other
    clouds = [
        cloud for drive in drives for _, cloud in DriveSweeps(drive, source.sweep_options).read(range(len(drive)))
    ]
    return {step * at: cloud for at, cloud in enumerate(clouds)}


@pytest.mark.parametrize("split", ["train", "val"])
def test_points_times_and_poses_are_those_planted(source: DriveSource, split: str) -> None:
    found = sweeps(source, split)
    assert list(found) == ([0, 2, 4] if source.layout.name == "kitti" else [0, 1, 2, 3, 4])
    for at, cloud in found.items():
        own, first = truth(split, at), truth(split, 0)
        assert own.pose is not None and first.pose is not None and own.time is not None and first.time is not None
        tilted = 0.5 if source.layout.name == "nuscenes" else 1e-5  # its sensor does not stand upright
        np.testing.assert_allclose(cloud.xyz, own.xyz, atol=tilted)
        np.testing.assert_allclose(cloud.attributes["intensity"], own.attributes["intensity"], atol=0.003)
        if source.layout.name == "kitti":
            assert cloud.pose is None
            continue
        assert cloud.time == pytest.approx(own.time - first.time, abs=1e-5)
        assert cloud.pose is not None
        pose = np.linalg.inv(first.pose) @ own.pose if source.layout.name == "semantic_kitti" else own.pose
        places = own.xyz @ pose[:3, :3].T + pose[:3, 3]
        np.testing.assert_allclose(cloud.xyz @ cloud.pose[:3, :3].T + cloud.pose[:3, 3], places, atol=2e-4)


def test_boxes_are_those_planted(source: DriveSource) -> None:
    if source.layout.name == "semantic_kitti":
        assert source.box_classes == () and not any(drive.boxes for drive in source.drives.values())
        return
    names, seen = ("car", "pedestrian", "cyclist"), 0
    for at, cloud in sweeps(source, "train").items():
        own = truth("train", at).boxes
        assert own is not None
        assert (cloud.boxes is not None) == (at % 2 == 0)
        if cloud.boxes is None:
            continue
        for values, kind in zip(cloud.boxes.values, cloud.boxes.facts["kind"].tolist(), strict=True):
            name = source.kinds[kind].replace("bicycle", "cyclist")
            if name == "dontcare":
                continue
            near = own.take(own.classes == names.index(name))
            best = int(np.abs(near.values[:, :3] - values[:3]).sum(1).argmin())
            loose = 0.3 if source.layout.name == "nuscenes" else 0.01
            np.testing.assert_allclose(values[:3], near.values[best, :3], atol=loose)
            np.testing.assert_allclose(values[3:6], near.values[best, 3:6], atol=0.01)
            turn = (values[6] - near.values[best, 6] + np.pi) % (2 * np.pi) - np.pi
            assert abs(turn) < 0.01
            if source.layout.name == "own":
                np.testing.assert_allclose(values[7:], near.values[best, 7:], atol=1e-3)
            seen += 1
    assert seen > 10


def test_labels_of_points_are_those_planted(source: DriveSource) -> None:
    if source.layout.name == "kitti":
        assert source.point_classes == ()
        return
    theirs = {
        "own": {name: name for name in SEGMENTS},
        "semantic_kitti": {"road": "road", "car": "car", "person": "pedestrian", "pole": "pole"},
        "nuscenes": {"driveable_surface": "road", "car": "car", "pedestrian": "pedestrian", "terrain": "terrain"},
    }[source.layout.name]
    for at, cloud in sweeps(source, "train").items():
        if source.layout.name == "nuscenes" and at % 2:
            assert "segment" not in cloud.labels
            continue
        own = truth("train", at).labels["segment"]
        for name, planted in theirs.items():
            ours = cloud.labels["segment"] == source.point_classes.index(name)
            np.testing.assert_array_equal(ours, own == SEGMENTS.index(planted))


def test_velocities_of_nuscenes_follow_from_where_a_box_was(source: DriveSource) -> None:
    if source.layout.name != "nuscenes":
        pytest.skip("others say the velocity, or not")
    found = [cloud for cloud in sweeps(source, "train").values() if cloud.boxes is not None]
    first, second = found[:2]
    assert first.boxes is not None and second.boxes is not None and first.time is not None and second.time is not None
    assert first.pose is not None and second.pose is not None
    motion, seen = np.linalg.inv(first.pose) @ second.pose, 0
    for values, track in zip(first.boxes.values, first.boxes.facts["track"], strict=True):
        later = second.boxes.values[second.boxes.facts["track"] == track]
        if len(later):  # the first of a chain has one neighbour alone
            moved = motion[:3, :3] @ later[0, :3] + motion[:3, 3] - values[:3]
            np.testing.assert_allclose(values[7:], moved[:2] / (second.time - first.time), atol=1e-3)
            seen += 1
    assert seen > 3


def test_key_frames_are_what_is_labelled(source: DriveSource) -> None:
    counts = {split: sum(entry.split == split for entry in source.entries()) for split in ("train", "val", "test")}
    every = {"own": 3, "kitti": 3, "semantic_kitti": 5, "nuscenes": 3}[source.layout.name]
    assert counts == {"train": every, "val": every, "test": every}
