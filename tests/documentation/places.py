"""Tiny data at the places that the documentation names: ``/my/videos``, ``/data/ucf101``, ``tile.las``, …"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.data.synthetic.drives import SyntheticDriveConfig
from st_ssl.data.synthetic.drives import write_dataset as write_drives
from tests.data.sources.drives.test_once_waymo import write_once
from tests.data.sources.points import test_sources as clouds
from tests.data.streams.points.test_pickled import fold
from tests.data.streams.points.test_scenes import write_pointcept, write_room
from tests.data.streams.points.test_sweeps import write_recording
from tests.runs import write_video
from tests.transfer import layouts

RNG = np.random.default_rng(0)
COUNT = 6  # samples of a class


def _videos(root: Path) -> None:
    for number in range(2 * COUNT):
        folder = root / ("train", "test")[number < 4] / ("jump", "run")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{number}.mp4", number, 12)


def _known(name: str) -> Callable[[Path], None]:
    """A data set of videos in the layout of ``name``, by its usual folders and those that recipes speak of."""

    def write(root: Path) -> None:
        originals = root.parent / "originals"
        made = (
            [sorted(originals.glob(f"{name}*")) for name in layouts.NAMES]
            if originals.is_dir()
            else layouts.write_originals(originals)
        )
        layouts.LAYOUTS[name](root, made)
        for folder in ("UCF-101", "20bn-something-something-v2"):
            if (root / folder).is_dir():
                (root / "videos").symlink_to(root / folder)

    return write


def _objects(*folders: str) -> Callable[[Path], None]:
    """Clouds of 200 points with normals, in ``folders``."""

    def write(root: Path) -> None:
        for folder in folders or ("",):
            for number in range(COUNT):
                clouds.save(root / folder / f"{number}.npy", RNG.normal(size=(200, 3)).astype("f4"))

    return write


def _scan(count: int = 600) -> dict[str, Any]:
    """A floor and a wall of 2 m with their classes, colours and intensities."""
    half = count // 2
    xyz = np.concatenate([RNG.random((half, 3)) * [2, 2, 0], RNG.random((half, 3)) * [2, 0, 2]]).astype(np.float32)
    segment = np.repeat([0, 1], half)
    intensity = RNG.random(count).astype(np.float32)[:, None]
    return {"xyz": xyz, "segment": segment, "intensity": intensity}


def _scans(root: Path) -> None:
    root.mkdir(parents=True)
    for number in range(COUNT):
        scan = _scan()
        np.hstack([scan["xyz"], scan["intensity"]]).astype("<f4").tofile(root / f"{number}.bin")


def _labelled_scans(root: Path) -> None:
    for split in ("train", "val", "test"):
        (root / split).mkdir(parents=True)
        for number in range(3):
            np.savez(root / split / f"{number}.npz", **_scan())


def _recordings(root: Path) -> None:
    for number in range(4 * COUNT):
        folder = root / ("train", "test")[number < COUNT] / ("jump", "walk")[number % 2]
        write_recording(folder / f"{number}.npz", number)


def _drives(layout: Any) -> Callable[[Path], None]:
    """Small planted drives in a layout."""

    def write(root: Path) -> None:
        few = {"num_train": 6, "num_val": 1, "num_test": 2, "sweeps": 5, "key_every": 1, "beams": 12, "columns": 120}
        write_drives(root, SyntheticDriveConfig(**few, layout=layout))

    return write


def _once(root: Path) -> None:
    """Sequences of two sweeps, of which the first has boxes."""
    (root / "ImageSets").mkdir(parents=True)
    for split, count in {"train": 6, "val": 2}.items():
        names = [f"{split}{number}" for number in range(count)]
        (root / "ImageSets" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            write_once(
                root,
                name,
                {"names": ["Car"], "boxes_3d": [[3.0, 1.0, -0.5, 4.0, 2.0, 1.5, 0.4]]},
                [0, 0, 0, 1, 0, 0, 0],
            )


def _rooms(root: Path) -> None:
    for split in ("train", "val"):
        for number in range(4):
            scan = _scan()
            labels = RNG.integers(0, 20, 600)
            write_pointcept(root / split / f"scene000{number}_00", 600, coord=scan["xyz"], segment20=labels)


def _s3dis(root: Path) -> None:
    for area in (1, 2, 5):
        for number in range(2):
            room = root / f"Area_{area}" / f"office_{number}"
            write_room(room, {"chair_1": clouds.rows(200) * [2, 2, 2, 1, 1, 1], "wall_1": clouds.rows(200)})


def _modelnet(root: Path) -> None:
    for name in ("bathtub", "bed", "chair", "desk", "door", "lamp", "plant", "sofa", "stool", "table"):
        for number in range(40):
            for split in ("train", "test"):
                text = clouds.OFF.format(1 + number)
                clouds.text_of(root / f"{name}/{split}/{name}_{number:04d}.off", text)


def _scanobjectnn(root: Path) -> None:
    for part in ("training", "test"):
        file = root / f"h5_files/main_split/{part}_objectdataset_augmentedrot_scale75.h5"
        clouds.hdf5(file, [0, 1, 2, 0, 1, 2], mask=[[0] * 8] * 6)


def _parts(root: Path) -> None:
    clouds.text_of(root / "synsetoffset2category.txt", "Airplane\t02691156\nChair\t03001627\n")
    for split in ("train", "val", "test"):
        names = []
        for number in range(4):
            name = f"{('02691156', '03001627')[number % 2]}/{split}{number}"
            rows = np.hstack([clouds.normals(40), np.arange(40)[:, None] % 2 + 2.0 * (number % 2)])
            clouds.text_of(root / f"{name}.txt", clouds.table(rows))
            names.append(f'"shape_data/{name}"')
        clouds.text_of(root / f"train_test_split/shuffled_{split}_file_list.json", f"[{', '.join(names)}]")


def _shapenet55(root: Path) -> None:
    names = [f"0269115{number % 3}-{number}.npy" for number in range(2 * COUNT)]
    for name in names:
        clouds.save(root / "shapenet_pc" / name, RNG.normal(size=(200, 3)).astype("f4"))
    clouds.text_of(root / "ShapeNet-55/train.txt", "\n".join(names[:COUNT]))
    clouds.text_of(root / "ShapeNet-55/test.txt", "\n".join(names[COUNT:]))


def _few_shot(root: Path) -> None:
    (root / "5way_10shot").mkdir(parents=True)
    for number in range(2):
        (root / f"5way_10shot/{number}.pkl").write_bytes(pickle.dumps(fold(5, 10, 20)))


DATA: dict[str, Callable[[Path], None]] = {
    "/my/videos": _videos,
    "/data/videos": _videos,
    "/my/clouds": _objects(),
    "/my/scans": _scans,
    "/labelled/clouds": _objects("train/chair", "train/table", "test/chair", "test/table"),
    "/labelled/scans": _labelled_scans,
    "/data/scenes": _labelled_scans,
    "/data/radhar": _recordings,
    "/data/k400": _known("kinetics"),
    "/data/ucf101": _known("ucf101"),
    "/data/hmdb51": _known("hmdb51"),
    "/data/ssv2": _known("ssv2"),
    "/data/diving48": _known("diving48"),
    "/data/ShapeNet55-34": _shapenet55,
    "/data/shapenetpart": _parts,
    "/data/modelnet40": _modelnet,
    "/data/ModelNetFewShot": _few_shot,
    "/data/ScanObjectNN": _scanobjectnn,
    "/data/scannet": _rooms,
    "/data/s3dis": _s3dis,
    "/my/drives": _drives("own"),
    "/data/kitti": _drives("kitti"),
    "/data/nuscenes": _drives("nuscenes"),
    "/data/semantic_kitti": _drives("semantic_kitti"),
    "/data/once": _once,
}


def data_at(path: str, machine: Path) -> Path:
    """Where the data that the documentation has at ``path`` are below ``machine``, written on first use."""
    name = next((name for name in DATA if path == name or path.startswith(f"{name}/")), None)
    assert name is not None, f"no data for {path}: write some in tests/documentation/places.py"
    root = machine / name.lstrip("/")
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        DATA[name](root)
    return machine / path.lstrip("/")


def file_at(name: str) -> None:
    """A file of that name in the current folder, where the documentation takes one for given: a video, a tile of a
    scan, a checkpoint of somebody else's."""
    file = Path(name)
    if file.exists():
        return
    if file.suffix == ".mp4":
        write_video(file, 0)
    elif file.suffix == ".las":
        laspy = pytest.importorskip("laspy")
        scan = _scan()
        tile = laspy.create(point_format=0, file_version="1.2")
        tile.header.scales, tile.header.offsets = [0.001] * 3, [512000.0, 5403000.0, 0.0]
        tile.x, tile.y, tile.z = (np.array([512345.25, 5403211.0, 300.0]) + scan["xyz"]).T
        tile.intensity = (65535 * scan["intensity"][:, 0]).astype(np.uint16)
        tile.write(file)
    elif file.suffix == ".pth":
        from tests.weights.test_importing import write

        write(file)
