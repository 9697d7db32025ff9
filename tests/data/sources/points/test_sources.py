"""Every layout, written tiny in its own form and read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.points import FORMATS, PointFormat, read_source
from st_ssl.data.sources.points.scanobjectnn import CLASSES
from st_ssl.data.streams.points import read_cloud
from tests.data.streams.points.test_scannet import write_scannet
from tests.data.streams.points.test_scenes import rows, write_pointcept, write_room

Seen = list[tuple[str, str, str | None]]
SHARED = Path(__file__).parents[4] / "../shared/data/points/kitti"
OFF = "OFF\n4 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 {}\n3 0 1 2\n3 0 1 3\n"


def seen(root: Path, entries: list[Entry]) -> Seen:
    return [(os.path.relpath(entry.path, root), entry.split, entry.labels.get("label")) for entry in entries]


def text_of(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def save(path: Path, table: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, table)


def normals(count: int = 4) -> np.ndarray:
    return np.hstack([rows(count)[:, :3], np.tile([0.0, 0, 1], (count, 1))])


def table(values: np.ndarray, mark: str = " ") -> str:
    return "".join(mark.join(f"{v:.6f}" for v in row) + "\n" for row in values)


def hdf5(path: Path, labels: list[int], **arrays: Any) -> None:
    h5py = pytest.importorskip("h5py")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["data"] = np.random.default_rng(0).normal(size=(len(labels), 8, 3)).astype("f4")
        file["label"] = np.array(labels, dtype=np.uint8)[:, None]
        for name, values in arrays.items():
            file[name] = values


def modelnet(root: Path) -> None:
    for name in ("bathtub/train/bathtub_0001", "bathtub/test/bathtub_0107", "night_stand/train/night_stand_0001"):
        text_of(root / f"{name}.off", OFF.format(len(name)))
    text_of(root / "README.txt", "about it")


def modelnet_hdf5(root: Path) -> None:
    hdf5(root / "ply_data_train0.h5", [2, 0])
    hdf5(root / "ply_data_train1.h5", [1])
    hdf5(root / "ply_data_test0.h5", [0])
    train = [f"data/modelnet40_ply_hdf5_2048/ply_data_train{i}.h5" for i in range(2)]
    text_of(root / "train_files.txt", "\n".join(train) + "\n")
    text_of(root / "test_files.txt", "data/modelnet40_ply_hdf5_2048/ply_data_test0.h5\n")
    text_of(root / "shape_names.txt", "airplane\nbathtub\nbed\n")


def modelnet_resampled(root: Path) -> None:
    for name in ("airplane_0001", "night_stand_0001", "night_stand_0202"):
        text_of(root / name.rpartition("_")[0] / f"{name}.txt", table(normals(), ","))
    text_of(root / "modelnet40_train.txt", "airplane_0001\nnight_stand_0001\n")
    text_of(root / "modelnet40_test.txt", "night_stand_0202\n")
    text_of(root / "modelnet40_shape_names.txt", "airplane\nnight_stand\n")
    text_of(root / "modelnet10_train.txt", "night_stand_0001\n")
    text_of(root / "modelnet10_test.txt", "night_stand_0202\n")


def scanobjectnn(root: Path) -> None:
    for part, labels in (("training", [4, 14]), ("test", [0])):
        mask = np.tile(np.arange(8) - 1, (len(labels), 1))
        hdf5(root / f"h5_files/main_split/{part}_objectdataset.h5", labels, mask=mask)
        hdf5(root / f"h5_files/main_split_nobg/{part}_objectdataset.h5", labels)
        hdf5(
            root / f"h5_files/main_split/{part}_objectdataset_augmentedrot_scale75.h5", [*labels, 1], mask=[[0] * 8] * 3
        )


def shapenet55(root: Path) -> None:
    names = ["02691156-1a04e3eab45ca15dd86060f189eb133.npy", "03001627-a.npy", "04379243-b.npy"]
    for name in names:
        save(root / "shapenet_pc" / name, rows(5)[:, :3])
    text_of(root / "ShapeNet-55/train.txt", "\n".join(names[:2]) + "\n")
    text_of(root / "ShapeNet-55/test.txt", names[2])


def shapenet_part(root: Path) -> None:
    for name in ("02691156/1a", "02691156/1b", "03001627/2a"):
        text_of(root / f"{name}.txt", table(np.hstack([normals(), [[0.0], [1], [2], [1]]])))
    text_of(root / "synsetoffset2category.txt", "Airplane\t02691156\nChair\t03001627\n")
    for split, names in (("train", ["03001627/2a"]), ("val", ["02691156/1b"]), ("test", ["02691156/1a"])):
        file = root / f"train_test_split/shuffled_{split}_file_list.json"
        text_of(file, json.dumps([f"shape_data/{name}" for name in names]))


def s3dis(root: Path) -> None:
    for room in ("Area_1/office_1", "Area_5/conferenceRoom_2"):
        write_room(root / room, {"chair_1": rows(5), "wall_1": rows(6)})
    text_of(root / "ReadMe.txt", "about it")


def s3dis_pointcept(root: Path) -> None:
    for room in ("Area_1/office_1", "Area_5/conferenceRoom_2"):
        write_pointcept(root / room)


def scannet(root: Path) -> None:
    for scene in ("train/scene0000_00", "val/scene0011_00", "test/scene0707_00"):
        write_pointcept(root / scene)


def scannet_raw(root: Path) -> None:
    for scene in ("scans/scene0000_00", "scans/scene0001_01", "scans_test/scene0707_00"):
        write_scannet(root / scene, labels=None if "test" in scene else [0, 1, 39])


def kitti(root: Path) -> None:
    for frame in ("training/velodyne/000000", "training/velodyne/000001", "testing/velodyne/000000"):
        (root / frame).parent.mkdir(parents=True, exist_ok=True)
        rows(6)[:, :4].astype("<f4").tofile(root / f"{frame}.bin")
    line = "{} 0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44 -1.56\n"
    text_of(root / "training/label_2/000000.txt", line.format("Car") + line.format("Car") + line.format("DontCare"))
    text_of(root / "training/label_2/000001.txt", line.format("Truck") + line.format("Cyclist"))


def folder(root: Path) -> None:
    for name in ("train/chair/a.ply", "val/table/b.xyz", "val/c.npy"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    text_of(root / "val/table/b.xyz", table(rows(5)[:, :3]))
    np.save(root / "val/c.npy", rows(5))
    text = "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    text_of(root / "train/chair/a.ply", text + "0 0 0\n1 1 1\n")


def factors(root: Path) -> None:
    for name in ("a.npy", "b.npy"):
        save(root / name, rows(5))
    text_of(root / "factors.csv", "path,split,label\na.npy,train,x\nb.npy,test,y\n")


def csv(root: Path) -> None:
    factors(root)
    (root / "factors.csv").rename(root / "list.csv")


ROOM: Seen = [("Area_1/office_1", "train", "office"), ("Area_5/conferenceRoom_2", "test", "conferenceRoom")]
LAYOUTS: dict[str, tuple[str, Callable[[Path], None], Seen]] = {
    "modelnet": (
        "modelnet",
        modelnet,
        [
            ("bathtub/train/bathtub_0001.off", "train", "bathtub"),
            ("night_stand/train/night_stand_0001.off", "train", "night_stand"),
            ("bathtub/test/bathtub_0107.off", "test", "bathtub"),
        ],
    ),
    "modelnet_hdf5": (
        "modelnet_hdf5",
        modelnet_hdf5,
        [
            ("ply_data_train0.h5#0", "train", "bed"),
            ("ply_data_train0.h5#1", "train", "airplane"),
            ("ply_data_train1.h5#0", "train", "bathtub"),
            ("ply_data_test0.h5#0", "test", "airplane"),
        ],
    ),
    "modelnet_resampled": (
        "modelnet_resampled",
        modelnet_resampled,
        [
            ("airplane/airplane_0001.txt", "train", "airplane"),
            ("night_stand/night_stand_0001.txt", "train", "night_stand"),
            ("night_stand/night_stand_0202.txt", "test", "night_stand"),
        ],
    ),
    "shapenet55": (
        "shapenet55",
        shapenet55,
        [
            ("shapenet_pc/02691156-1a04e3eab45ca15dd86060f189eb133.npy", "train", "02691156"),
            ("shapenet_pc/03001627-a.npy", "train", "03001627"),
            ("shapenet_pc/04379243-b.npy", "test", "04379243"),
        ],
    ),
    "shapenet_part": (
        "shapenet_part",
        shapenet_part,
        [
            ("03001627/2a.txt", "train", "Chair"),
            ("02691156/1b.txt", "val", "Airplane"),
            ("02691156/1a.txt", "test", "Airplane"),
        ],
    ),
    "s3dis": ("s3dis", s3dis, ROOM),
    "s3dis, Pointcept": ("s3dis", s3dis_pointcept, ROOM),
    "scannet, Pointcept": (
        "folder",
        scannet,
        [
            ("test/scene0707_00", "test", None),
            ("train/scene0000_00", "train", None),
            ("val/scene0011_00", "val", None),
        ],
    ),
    "scannet": (
        "scannet",
        scannet_raw,
        [
            ("scans/scene0000_00/scene0000_00_vh_clean_2.ply", "train", None),
            ("scans/scene0001_01/scene0001_01_vh_clean_2.ply", "train", None),
            ("scans_test/scene0707_00/scene0707_00_vh_clean_2.ply", "test", None),
        ],
    ),
    "kitti": (
        "kitti",
        kitti,
        [
            ("training/velodyne/000000.bin", "train", None),
            ("training/velodyne/000001.bin", "train", None),
            ("testing/velodyne/000000.bin", "test", None),
        ],
    ),
    "folder": (
        "folder",
        folder,
        [("train/chair/a.ply", "train", "chair"), ("val/c.npy", "val", None), ("val/table/b.xyz", "val", "table")],
    ),
    "factors": ("factors", factors, [("a.npy", "train", "x"), ("b.npy", "test", "y")]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path: Path, name: str) -> None:
    format, make, expected = LAYOUTS[name]
    make(tmp_path)
    entries = read_source(tmp_path)
    assert seen(tmp_path, entries) == expected
    assert read_source(tmp_path, format=format) == entries
    for entry in entries:
        assert len(read_cloud(entry.path)) >= 2


def test_every_format_has_a_layout() -> None:
    variants = {"scanobjectnn_pb_t50_rs", "scanobjectnn_obj_bg", "scanobjectnn_obj_only", "csv", "list"}  # tested below
    variants |= {"modelnet_few_shot"}  # in test_pickled.py
    assert {format for format, *_ in LAYOUTS.values()} | variants == set(FORMATS)
    assert set(get_args(PointFormat)) == {"auto", *FORMATS}


@pytest.mark.parametrize(
    ("format", "path", "labels"),
    [
        ("scanobjectnn_obj_bg", "main_split/{}_objectdataset.h5", [4, 14]),
        ("scanobjectnn_obj_only", "main_split_nobg/{}_objectdataset.h5", [4, 14]),
        ("scanobjectnn_pb_t50_rs", "main_split/{}_objectdataset_augmentedrot_scale75.h5", [4, 14, 1]),
    ],
)
def test_variants_of_scanobjectnn(tmp_path: Path, format: str, path: str, labels: list[int]) -> None:
    scanobjectnn(tmp_path)
    entries = read_source(tmp_path, format=format)
    train = [(f"h5_files/{path.format('training')}#{i}", "train", CLASSES[label]) for i, label in enumerate(labels)]
    found = seen(tmp_path, entries)
    assert found[: len(train)] == train
    assert found[len(train)] == (f"h5_files/{path.format('test')}#0", "test", "bag")
    assert all(len(read_cloud(entry.path)) == 8 for entry in entries)
    assert ("segment" in read_cloud(entries[0].path).labels) == (format != "scanobjectnn_obj_only")


def test_several_variants_of_scanobjectnn_are_a_choice(tmp_path: Path) -> None:
    scanobjectnn(tmp_path)
    with pytest.raises(DataError, match=r"several variants .* data.format=scanobjectnn_pb_t50_rs or scanobjectnn_obj_"):
        read_source(tmp_path)
    alone = read_source(tmp_path / "h5_files/main_split_nobg")
    assert {Path(entry.path).parent.name for entry in alone} == {"main_split_nobg"}
    with pytest.raises(DataError, match=r"no main_split/training_objectdataset.h5 .* there is scanobjectnn_obj_only"):
        read_source(tmp_path / "h5_files/main_split_nobg", format="scanobjectnn_obj_bg")


def test_a_table_with_a_header(tmp_path: Path) -> None:
    csv(tmp_path)
    expected = [("a.npy", "train", "x"), ("b.npy", "test", "y")]
    assert seen(tmp_path, read_source(tmp_path / "list.csv")) == expected
    assert seen(tmp_path, read_source(tmp_path, tmp_path / "list.csv")) == expected
    with pytest.raises(
        DataError, match=r"a.npy is a cloud: expected a folder of clouds, .* data.root=.* data.list=FILE"
    ):
        read_source(tmp_path / "a.npy")


def test_modelnet10_by_its_list(tmp_path: Path) -> None:
    modelnet_resampled(tmp_path)
    entries = read_source(tmp_path, tmp_path / "modelnet10_train.txt")
    assert [entry.labels["label"] for entry in entries] == ["night_stand", "night_stand"]
    for number in ("train", "test"):
        (tmp_path / f"modelnet40_{number}.txt").unlink()
    assert read_source(tmp_path) == entries


def test_areas_of_s3dis_are_splits(tmp_path: Path) -> None:
    s3dis(tmp_path)
    assert [entry.split for entry in read_source(tmp_path, split=1)] == ["test", "train"]
    with pytest.raises(DataError, match=r"data.split=2: no Area_2 in .* there are areas \[1, 5\]"):
        read_source(tmp_path, split=2)
    (tmp_path / "Area_1/office_1/Annotations").rename(tmp_path / "Area_1/office_1/annotated")
    assert [entry.split for entry in read_source(tmp_path)] == ["test"]


def test_kitti_splits_and_types(tmp_path: Path) -> None:
    kitti(tmp_path)
    assert [entry.tags for entry in read_source(tmp_path)] == [("Car",), ("Truck", "Cyclist"), ()]
    text_of(tmp_path / "ImageSets/train.txt", "000001\n000007\n")
    text_of(tmp_path / "ImageSets/val.txt", "000000\n")
    with pytest.warns(UserWarning, match="1 of 3 clouds are not in .*velodyne and are left out; the first: 000007"):
        entries = read_source(tmp_path)
    assert [(Path(entry.path).stem, entry.split) for entry in entries] == [
        ("000001", "train"),
        ("000000", "val"),
        ("000000", "test"),
    ]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no KITTI frames here")
def test_real_kitti() -> None:
    entries = read_source(SHARED)
    assert [entry.tags for entry in entries] == [("Pedestrian",), ("Truck", "Car", "Cyclist"), ("Misc", "Car")]


def test_notes_beside_clouds_are_no_clouds(tmp_path: Path) -> None:
    folder(tmp_path)
    expected = seen(tmp_path, read_source(tmp_path))
    text_of(tmp_path / "train/README.txt", "about it")
    text_of(tmp_path / "classes.csv", "chair,table")
    assert seen(tmp_path, read_source(tmp_path)) == expected
    text_of(tmp_path / "text/a/1.txt", table(rows(5)[:, :3]))
    assert seen(tmp_path, read_source(tmp_path / "text")) == [("text/a/1.txt", "train", "a")]


CAR = "Car 0 0 0 0 0 0 0 0 0 0 0 0 0 0"
WRONG: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    "hdf5 file": (
        modelnet_hdf5,
        "train_files.txt",
        "a/ply_data_trian0.h5",
        r"line 1: ply_data_trian0.h5 is not in .*; did you mean 'ply_data_train0.h5'",
    ),
    "hdf5 classes": (modelnet_hdf5, "shape_names.txt", "airplane", "label 2, but there are 1 classes"),
    "hdf5 nothing": (modelnet_hdf5, "shape_names.txt", "\n", "shape_names.txt is empty"),
    "resampled": (modelnet_resampled, "modelnet40_train.txt", "airplane", "line 1: 'airplane', expected a class and a"),
    "resampled, all gone": (modelnet_resampled, "modelnet40_train.txt", "", "modelnet40_train.txt is empty"),
    "shapenet55": (shapenet55, "ShapeNet-55/test.txt", "x.npy", r"test.txt, line 1: 'x.npy', expected `02691156-"),
    "part categories": (shapenet_part, "synsetoffset2category.txt", "Airplane", "line 1: 'Airplane', expected a cat"),
    "part synset": (
        shapenet_part,
        "synsetoffset2category.txt",
        "Airplane 02691156\nChair 03001628",
        r"entry 0 .*: no category '03001627' in .*; did you mean '03001628'",
    ),
    "part list": (shapenet_part, "train_test_split/shuffled_val_file_list.json", "{", "not JSON"),
    "part list of others": (shapenet_part, "train_test_split/shuffled_val_file_list.json", "[1]", "expected a list of"),
    "kitti type": (kitti, "training/label_2/000001.txt", CAR.replace("Car", "Cat"), r"line 1: no type 'Cat'.*'Car'"),
    "kitti fields": (kitti, "training/label_2/000001.txt", CAR + "\n" + CAR[:-2], "line 2: 14 fields, expected 15"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_in_lists_are_named(tmp_path: Path, case: str) -> None:
    make, file, text, message = WRONG[case]
    make(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=message):
        read_source(tmp_path)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_folder_without_clouds(tmp_path: Path, format: str) -> None:
    text_of(tmp_path / "notes.md", "nothing")
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        read_source(tmp_path, format=format)


def test_places_and_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no format 's3diss': .* did you mean 's3dis'"):
        read_source(tmp_path, format="s3diss")
    with pytest.raises(DataError, match="does not exist"):
        read_source(tmp_path / "gone")
    with pytest.raises(DataError, match=r"is empty: expected clouds \(npy npz bin ply pcd"):
        read_source(tmp_path)
    text_of(tmp_path / "a.mp4", "x")
    with pytest.raises(DataError, match=r"holds no clouds: .* found 1 .mp4"):
        read_source(tmp_path)
