"""KITTI's object benchmark (Geiger et al., 2012): sweeps of a LiDAR, and the objects before the car in ``label_2``."""

from __future__ import annotations

from pathlib import Path

from st_ssl.core.errors import DataError, nearest
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, filled_lines
from st_ssl.data.sources.points.base import CLOUD, files_in, listed_clouds, lists_in

TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare")
_FIELDS = 15  # of a line of label_2; results have a 16th, the score


def _read(place: Place) -> list[Entry]:
    """``training/velodyne/000000.bin``; ``ImageSets/train.txt`` and ``val.txt`` (Chen et al., 2015) are splits where
    they are there. Types of labelled objects are ``tags``. ``testing`` is "test"."""
    training, sets = place.root / "training", place.root / "ImageSets"
    sweeps = files_in(training / "velodyne", ".bin")
    if not sweeps:
        raise DataError(f"{place.root}: no training/velodyne/*.bin, as KITTI's object benchmark has them")

    def entry(_: str, name: str, split: str) -> Entry:
        return Entry(str(training / "velodyne" / f"{name}.bin"), split, tags=_types(training, name))

    if lists := lists_in([sets], "{}.txt", ("train", "val")):
        entries = listed_clouds(sets, training / "velodyne", lists, entry)
    else:
        entries = [Entry(str(sweep), "train", tags=_types(training, sweep.stem)) for sweep in sweeps]
    return entries + [Entry(str(s), "test") for s in files_in(place.root / "testing" / "velodyne", ".bin")]


def _types(training: Path, name: str) -> tuple[str, ...]:
    """The types of objects in a frame, each once; none where it has no labels."""
    file = training / "label_2" / f"{name}.txt"
    types: dict[str, None] = {}
    for at, line in filled_lines(file, CLOUD) if file.is_file() else ():
        kind, *values = line.split()
        if kind not in TYPES:
            raise DataError(f"{file}, line {at}: no type {kind!r} of {', '.join(TYPES)}{nearest(kind, TYPES)}")
        if len(values) < _FIELDS - 1:
            raise DataError(f"{file}, line {at}: {len(values) + 1} fields, expected {_FIELDS}")
        types[kind] = None
    types.pop("DontCare", None)
    return tuple(types)


FORMATS = (Format("kitti", _read, lambda place: files_in(place.root / "training" / "velodyne", ".bin")),)
