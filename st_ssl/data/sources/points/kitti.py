"""KITTI's object benchmark (Geiger et al., 2012): sweeps of a LiDAR, and the objects before the car in ``label_2``."""

from __future__ import annotations

from pathlib import Path

from st_ssl.core.errors import DataError, nearest
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, Row, found, read_lines
from st_ssl.data.sources.points.base import CLOUD, files_in, names_in

TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare")
_FIELDS = 15  # of a line of label_2; results have a 16th, the score


def _read(place: Place) -> list[Entry]:
    """``training/velodyne/000000.bin``; ``ImageSets/train.txt`` and ``val.txt`` (Chen et al., 2015) are splits where
    they are there. Types of labelled objects are ``tags``. ``testing`` is "test"."""
    training = place.root / "training"
    sweeps = files_in(training / "velodyne", ".bin")
    if not sweeps:
        raise DataError(f"{place.root}: no training/velodyne/*.bin, as KITTI's object benchmark has them")
    sets = place.root / "ImageSets"
    lists = [(sets / f"{split}.txt", split) for split in ("train", "val") if (sets / f"{split}.txt").is_file()]
    if lists:
        entries = _listed(training, lists)
    else:
        entries = [Entry(str(sweep), "train", tags=_types(training, sweep.stem)) for sweep in sweeps]
    return entries + [Entry(str(s), "test") for s in files_in(place.root / "testing" / "velodyne", ".bin")]


def _listed(training: Path, lists: list[tuple[Path, str]]) -> list[Entry]:
    rows, missing = [], []
    for file, split in lists:
        for at, name in names_in(file):
            sweep = training / "velodyne" / f"{name}.bin"
            if sweep.is_file():
                entry = Entry(str(sweep), split, tags=_types(training, name))
                rows.append(Row(file, f"line {at}", name, entry))
            else:
                missing.append(name)
    return found(CLOUD, lists[0][0].parent, training / "velodyne", rows, missing)


def _types(training: Path, name: str) -> tuple[str, ...]:
    """The types of objects in a frame, each once; none where it has no labels."""
    file = training / "label_2" / f"{name}.txt"
    if not file.is_file():
        return ()
    types = []
    for at, line in enumerate(read_lines(file, CLOUD), 1):
        fields = line.split()
        if not fields:
            continue
        if fields[0] not in TYPES:
            known = f"expected one of {', '.join(TYPES)}{nearest(fields[0], TYPES)}"
            raise DataError(f"{file}, line {at}: no type {fields[0]!r}; {known}")
        if len(fields) < _FIELDS:
            raise DataError(f"{file}, line {at}: {len(fields)} fields, expected {_FIELDS}")
        types.append(fields[0])
    return tuple(dict.fromkeys(kind for kind in types if kind != "DontCare"))


FORMATS = (Format("kitti", _read, lambda place: bool(files_in(place.root / "training" / "velodyne", ".bin"))),)
