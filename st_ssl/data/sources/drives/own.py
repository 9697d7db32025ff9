"""Drives of one's own: a folder of sweeps, with text files of poses and boxes beside it.

    train/drive_0000/          or the drives directly in the root, which may be one itself
        sweeps/000000.bin      or .pcd .npy .las …; without a folder sweeps/ the files lie in the drive
        poses.txt              NAME SECONDS and the 12 numbers of the matrix [3, 4] from sweep to world
        boxes/000000.txt       CLASS X Y Z LENGTH WIDTH HEIGHT YAW [VX VY [TRACK]]
        labels/000000.label    one number a point: uint8, or uint32 with the instance in the upper 16 bits
        classes.txt            what these numbers mean, one class a line

A file of boxes without a line is a sweep without objects; no file is a sweep that nobody has looked at.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from st_ssl.core.errors import DataError, SampleError
from st_ssl.data.sources.base import Place
from st_ssl.data.sources.drives.base import Layout, box_values, fields, filled_times, numbers, sweeps_in
from st_ssl.data.sources.points.base import lists_in, names_in, subfolders
from st_ssl.data.sources.splits import folder_split
from st_ssl.data.streams.points.drives import Drive, NamedBoxes, rigid, unposed

BOX_LINE = "class x y z length width height yaw [vx vy [track]]"
POSE_LINE = "name seconds [12 numbers of the matrix 3 x 4 from sweep to world, row by row]"
_BESIDE = ("boxes", "labels", "sweeps")


def _read(place: Place, rate: float) -> list[Drive]:
    """Splits are folders (``train``, ``val``, ``test``), or lists of the names of drives (``train.txt``, …) in the
    root or in ``ImageSets``; without either all are "train"."""
    root = place.root
    drives = [drive for folder, split in _folders(root) for drive in _drives(folder, split, rate)]
    if not drives:
        raise DataError(f"{root}: no drives: expected folders with sweeps/*.bin (or .pcd .npy .las …)")
    lists = lists_in([root, root / "ImageSets"], "{}.txt", ("train", "val", "test"))
    told = {name: split for file, split in lists for _, name in names_in(file)}
    if not told:
        return drives
    by_name = {Path(drive.path).name if len(drive) > 1 else name_of(Path(drive.path)): drive for drive in drives}
    if left := sorted(by_name.keys() - told.keys()):
        place.tell(f"{root}: {len(left)} drives are in none of its lists and are left out, {left[0]} say")
    if gone := sorted(told.keys() - by_name.keys()):
        place.tell(f"{root}: {len(gone)} drives of its lists are not there, {gone[0]} say")
    return [replace(drive, split=told[name]) for name, drive in by_name.items() if name in told]


def _folders(root: Path) -> list[tuple[Path, str]]:
    """The folders that have sweeps, with their splits."""
    if sweeps_of(root):
        return [(root, "train")]
    found = []
    for folder in subfolders(root):
        split = folder_split(folder.name) or "train"
        inside = [folder] if sweeps_of(folder) else subfolders(folder)
        found += [(inner, split) for inner in inside if inner.name not in _BESIDE and sweeps_of(inner)]
    return found


def _drives(folder: Path, split: str, rate: float) -> list[Drive]:
    """The drive that a folder is. Files without a folder ``sweeps`` and without poses are frames of any drives: each
    is one of its own."""
    drive = _drive(folder, split, rate)
    if (folder / "sweeps").is_dir() or (folder / "poses.txt").is_file():
        return [drive]
    return [_alone(drive, at) for at in range(len(drive))]


def _alone(drive: Drive, at: int) -> Drive:
    """The sweep ``at`` of ``drive``."""
    boxes = {0: drive.boxes[at]} if at in drive.boxes else {}
    labels = {0: drive.labels[at]} if at in drive.labels else {}
    return Drive(drive.files[at], drive.split, (drive.files[at],), np.zeros(1), unposed(1), boxes, labels)


def sweeps_of(folder: Path) -> list[Path]:
    """The sweeps of a drive, by their names."""
    inner = folder / "sweeps"
    return sweeps_in(inner if inner.is_dir() else folder)


def _drive(folder: Path, split: str, rate: float) -> Drive:
    """Where no file tells the times, sweeps are ``rate`` a second."""
    files = sweeps_of(folder)
    names = [name_of(file) for file in files]
    times, poses = _poses(folder, names, rate)
    order = np.argsort(times, kind="stable")
    files, names = [files[at] for at in order], [names[at] for at in order]
    boxes = {at: folder / "boxes" / f"{name}.txt" for at, name in enumerate(names)}
    labels = {at: folder / "labels" / f"{name}.label" for at, name in enumerate(names)}
    classes = _classes(folder)
    read_boxes_of = {at: partial(read_boxes, file) for at, file in boxes.items() if file.is_file()}
    read_labels_of = {at: partial(read_labels, file, classes) for at, file in labels.items() if file.is_file()}
    paths = tuple(map(str, files))
    return Drive(str(folder), split, paths, times[order], poses[order], read_boxes_of, read_labels_of)


def matrix_text(pose: np.ndarray) -> str:
    """The upper three rows of ``pose`` [4, 4] as 12 numbers."""
    return " ".join(f"{value:.9g}" for value in pose[:3].ravel())


def name_of(file: Path) -> str:
    """What the files of a sweep are called in other folders: ``000000`` of ``000000.bin``, or of nuScenes's
    ``000000.pcd.bin``."""
    return file.stem.removesuffix(".pcd")


def _poses(folder: Path, names: list[str], rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Times float64 [T] and poses [T, 4, 4]. A sweep that is not in the file has no pose, and a time between those
    of its neighbours."""
    file, places = folder / "poses.txt", {name: at for at, name in enumerate(names)}
    times, poses = np.full(len(names), np.nan), unposed(len(names))
    for line, words in fields(file, POSE_LINE, (2, 14)) if file.is_file() else ():
        values = numbers(file, line, words[1:])
        if not np.isfinite(values[0]):
            raise SampleError(str(file), f"line {line}: the time {words[1]} is not finite")
        if (at := places.get(words[0])) is not None:  # a log may have more poses than sweeps
            times[at] = values[0]
            poses[at] = rigid(np.array(values[1:])) if len(values) > 1 else poses[at]
    return filled_times(times, rate), poses


def _classes(folder: Path) -> tuple[str, ...]:
    """The names of the labels of points; () where no file tells them."""
    file = folder / "classes.txt"
    return tuple(name for _, name in names_in(file)) if file.is_file() else ()


def read_boxes(file: Path) -> NamedBoxes:
    """The boxes of a text file. Raises ``SampleError`` with the line that is wrong."""
    rows = fields(file, BOX_LINE, (8, 10, 11))
    values = box_values(file, [numbers(file, at, words[1:10]) for at, words in rows], [f"line {at}" for at, _ in rows])
    names = tuple(words[0] for _, words in rows)
    tracks = [numbers(file, at, words[10:]) or [-1.0] for at, words in rows]
    return NamedBoxes(values, names, {"track": np.array([int(track) for (track,) in tracks], dtype=np.int64)})


def read_labels(file: Path, classes: tuple[str, ...], count: int) -> dict[str, np.ndarray]:
    """The labels of ``count`` points: ``segment``, of uint32 also ``instance``, which is 0 for none there. A class of
    all ones is none. Raises ``SampleError`` where there are more or fewer, or one that is none of ``classes``."""
    size = file.stat().st_size
    if size not in (count, 4 * count):
        raise SampleError(str(file), f"{size} bytes for {count} points: expected uint8 or uint32, one for each")
    wide = size == 4 * count
    numbers = np.fromfile(file, dtype="<u4" if wide else np.uint8).astype(np.int64)
    segment = numbers & 0xFFFF
    segment[segment == (0xFFFF if wide else 0xFF)] = -1
    if classes and count and segment.max() >= len(classes):
        raise SampleError(str(file), f"label {segment.max()}, and classes.txt has {len(classes)} classes, from 0 on")
    instance = {"instance": np.where(numbers >> 16, numbers >> 16, -1)} if wide else {}
    return {"segment": segment, **instance}


LAYOUT = Layout("own", _read, lambda place: _folders(place.root), segments=lambda drive: _classes(Path(drive.path)))
