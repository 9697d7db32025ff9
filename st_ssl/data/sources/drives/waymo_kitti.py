"""Waymo's open data set (Sun et al., CVPR 2020) as MMDetection3D's converter of 2020 to 2022 writes it: like KITTI."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from st_ssl.core.errors import DataError, SampleError
from st_ssl.data.sources.base import Place
from st_ssl.data.sources.drives.base import NOT_LABELLED, Layout, numbers, sweeps_in, text_lines
from st_ssl.data.sources.drives.kitti import read_boxes
from st_ssl.data.streams.points.drives import Drive, unposed

NAMES = {"Car": "vehicle", "Pedestrian": "pedestrian", "Cyclist": "cyclist", "Sign": "sign", "DontCare": NOT_LABELLED}
_SPLITS = {"0": "train", "1": "val", "2": "test"}
_WITH_CAMERA = (15, 16, 17)  # columns: the camera and the track may stand behind KITTI's


def _read(place: Place, rate: float) -> list[Drive]:
    """``training`` and ``testing`` with ``velodyne/0123045.bin``: split, segment (three digits) and sweep (three).
    ``pose`` has matrices [4, 4] from the vehicle, in whose axes points are, to the world; ``label_all`` objects. Times
    are those of 10 sweeps a second, whatever ``rate`` is."""
    drives = []
    for part in ("training", "testing"):
        segments: dict[str, list[Path]] = {}
        for file in sweeps_in(place.root / part / "velodyne", ".bin"):
            segments.setdefault(file.stem[:4], []).append(file)
        drives += [_segment(place.root / part, name, files) for name, files in segments.items()]
    if not drives:
        raise DataError(f"{place.root}: no training/velodyne/*.bin, as Waymo's data in KITTI's form have them")
    return drives


def _segment(part: Path, name: str, files: list[Path]) -> Drive:
    if name[0] not in _SPLITS:
        raise DataError(f"{files[0]}: begins with {name[0]}, expected 0 (train), 1 (val) or 2 (test)")
    poses, boxes = unposed(len(files)), {}
    for at, file in enumerate(files):
        pose, label, calib = (part / folder / f"{file.stem}.txt" for folder in ("pose", "label_all", "calib"))
        if pose.is_file():
            poses[at] = _pose(pose)
        if label.is_file():
            boxes[at] = partial(read_boxes, label, calib, NAMES, "_0", _WITH_CAMERA)
    times = np.array([int(file.stem[4:]) for file in files]) / 10
    path = files[0].parent / name  # no such folder: the segment, by its number
    return Drive(str(path), _SPLITS[name[0]], tuple(map(str, files)), times, poses, boxes)


def _pose(file: Path) -> np.ndarray:
    values = np.array([value for at, line in text_lines(file) for value in numbers(file, at, line.split())])
    if len(values) != 16:
        raise SampleError(str(file), f"{len(values)} numbers, expected those of a matrix 4 x 4")
    return values.reshape(4, 4)


def _matches(place: Place) -> bool:
    files = sweeps_in(place.root / "training" / "velodyne", ".bin")
    return bool(files) and len(files[0].stem) == 7 and (place.root / "training" / "pose").is_dir()


LAYOUT = Layout(
    "waymo_kitti",
    _read,
    _matches,
    NAMES,
    ("vehicle", "pedestrian", "cyclist"),
    columns=("x", "y", "z", "intensity", "_", "_"),
)
