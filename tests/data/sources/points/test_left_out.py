"""Files that belong to clouds are no clouds of their own; ScanNet's lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from st_ssl.core.errors import DataError
from st_ssl.data.sources.points import read_source
from st_ssl.data.streams.points import read_cloud
from tests.data.sources.points.test_sources import scannet_raw, seen
from tests.data.sources.video.test_sources import touch
from tests.data.streams.points.test_scannet import write_scannet

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def told(root: Path) -> str:
    return "\n".join(read_source(root).told)


def test_voxels_and_labels_of_drives(tmp_path: Path) -> None:
    touch(tmp_path, "kitti/sequences/00/velodyne/000000.bin", "kitti/sequences/00/velodyne/000001.bin")
    touch(tmp_path, *(f"kitti/sequences/00/voxels/000000.{end}" for end in ("bin", "label", "invalid", "occluded")))
    touch(tmp_path, "kitti/sequences/00/labels/000000.label")
    touch(tmp_path, "nusc/samples/LIDAR_TOP/a.pcd.bin", "nusc/lidarseg/v1.0-mini/a_lidarseg.bin")
    touch(tmp_path, "nusc/panoptic/v1.0-mini/a_panoptic.npz")
    assert [Path(entry.path).parent.name for entry in read_source(tmp_path / "kitti")] == ["velodyne", "velodyne"]
    assert [Path(entry.path).name for entry in read_source(tmp_path / "nusc")] == ["a.pcd.bin"]
    line = told(tmp_path / "kitti")
    assert "1 voxels of SemanticKITTI (voxels/*.bin)" in line and "2 labels of SemanticKITTI (.label)" in line
    assert "2 labels of nuScenes (lidarseg, panoptic)" in told(tmp_path / "nusc")


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("voxels/000000.bin", "1 voxels of SemanticKITTI"),
        ("lidarseg/v1.0-mini/a_lidarseg.bin", "1 labels of nuScenes"),
        ("labels/000000.label", "1 labels of SemanticKITTI"),
        ("voxels/000000.invalid", "1 masks of SemanticKITTI"),
    ],
)
def test_a_root_with_nothing_else_names_what_they_are(tmp_path: Path, file: str, what: str) -> None:
    touch(tmp_path, file)
    for root in (tmp_path, (tmp_path / file).parent):
        with pytest.raises(DataError, match=f"holds no clouds: .* found {what}"):
            read_source(root)


def test_labels_beside_a_cloud_are_no_cloud(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.ply", "a/x.labels.ply", "b/y.labels.ply")
    assert seen(tmp_path, read_source(tmp_path)) == [("a/x.ply", "train", "a"), ("b/y.labels.ply", "train", "b")]
    assert "left out: 1 labels of clouds (*.labels.ply)" in told(tmp_path)


def test_scenes_in_one_folder(tmp_path: Path) -> None:
    for name in ("scene0000_00", "scene0001_00"):
        folder = tmp_path / "made" / name
        for file in write_scannet(folder, [1, 2, 3]).parent.glob("*.ply"):
            (tmp_path / "train").mkdir(exist_ok=True)
            file.rename(tmp_path / "train" / file.name)
    for root in (tmp_path, tmp_path / "train"):
        listing = read_source(root)
        assert [Path(entry.path).name for entry in listing] == [
            "scene0000_00_vh_clean_2.ply",
            "scene0001_00_vh_clean_2.ply",
        ]
        assert [read_cloud(entry.path).labels["segment"].tolist() for entry in listing] == [[0, 1, 2]] * 2


@pytest.mark.parametrize("place", [".", "..", "lists"])
def test_lists_of_scannet_are_splits(tmp_path: Path, place: str) -> None:
    root = tmp_path / "scannet"
    scannet_raw(root)
    (root / "scans/scene0001_01/scene0001_01_vh_clean.ply").touch()
    folder = root / place
    folder.mkdir(exist_ok=True)
    (folder / "scannetv2_train.txt").write_text("scene0001_01\nscene0099_00\n")
    (folder / "scannetv2_val.txt").write_text("scene0000_00\n")
    listing = read_source(root, folder if place == "lists" else None)
    assert [(Path(entry.path).parent.name, entry.split) for entry in listing] == [
        ("scene0001_01", "train"),
        ("scene0000_00", "val"),
    ]
    lines = "\n".join(listing.told)
    assert "1 of 3 scenes are in no list and left out" in lines
    assert "1 of 3 clouds are not in" in lines and "scene0099_00" in lines
    assert "left out: 6 .json; 3 .txt; 1 .ply" in lines
    if place == "lists":
        assert read_source(root, folder / "scannetv2_val.txt") == listing
