"""ModelNet10 and ModelNet40 (Wu et al., 2015) in the three forms they are handed around in."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from st_ssl.core.errors import DataError, nearest
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, Row, found
from st_ssl.data.sources.points.base import CLOUD, clouds_in, files_in, folders_of, names_in, subfolders

_LIST = re.compile(r"modelnet(10|40)_(train|test)\.txt", re.IGNORECASE)


def _read_meshes(place: Place) -> list[Entry]:
    """``chair/train/chair_0001.off``: the meshes as they come."""
    entries = [
        Entry(str(file), split, {"label": folder.name})
        for split in ("train", "test")
        for folder in subfolders(place.root)
        for file in files_in(folder / split, ".off")
    ]
    if not entries:
        raise DataError(f"{place.root}: no <class>/train/*.off nor <class>/test/*.off, as ModelNet has them")
    return entries


def _has_meshes(place: Place) -> bool:
    return place.notes == place.root and any(files_in(folder / "train", ".off") for folder in subfolders(place.root))


def _read_hdf5(place: Place) -> list[Entry]:
    """``modelnet40_ply_hdf5_2048``: ``train_files.txt`` and ``test_files.txt`` name HDF5 files by paths of which the
    last part counts; ``shape_names.txt`` has a class on each line."""
    folder = _hdf5_folder(place)
    if folder is None:
        raise DataError(f"{place.root}: no train_files.txt and shape_names.txt there, as modelnet40_ply_hdf5_2048 has")
    classes = [name for _, name in names_in(folder / "shape_names.txt")]
    entries = []
    for split in ("train", "test"):
        listing = folder / f"{split}_files.txt"
        if split == "test" and not listing.is_file():
            continue
        for at, name in names_in(listing):
            file = folder / PurePosixPath(name).name
            if not file.is_file():
                others = [path.name for path in files_in(folder, ".h5")]
                raise DataError(f"{listing}, line {at}: {file.name} is not in {folder}{nearest(file.name, others)}")
            entries += clouds_in(file, split, classes)
    return entries


def _hdf5_folder(place: Place) -> Path | None:
    for folder in folders_of(place):
        if (folder / "train_files.txt").is_file() and (folder / "shape_names.txt").is_file():
            return folder
    return None


def _read_resampled(place: Place) -> list[Entry]:
    """``modelnet40_normal_resampled``: ``modelnet40_train.txt`` names ``airplane_0001``, which is the file
    ``airplane/airplane_0001.txt``. ModelNet10 where its list is named (``data.list``), or only its lists are there."""
    lists = _resampled_lists(place)
    if not lists:
        raise DataError(f"{place.root}: no modelnet40_train.txt nor modelnet10_train.txt there")
    rows, missing = [], []
    for file, split in lists:
        for at, name in names_in(file):
            label, _, number = name.rpartition("_")
            if not label or not number.isdecimal():
                raise DataError(f"{file}, line {at}: {name!r}, expected a class and a number, as `airplane_0001`")
            path = place.root / label / f"{name}.txt"
            if path.is_file():
                rows.append(Row(file, f"line {at}", name, Entry(str(path), split, {"label": label})))
            else:
                missing.append(name)
    return found(CLOUD, lists[0][0], place.root, rows, missing)


def _resampled_lists(place: Place) -> list[tuple[Path, str]]:
    """The lists of ModelNet40 or ModelNet10 and their splits."""
    named = _LIST.fullmatch(place.notes.name)
    for folder in folders_of(place):
        for number in (named[1],) if named else ("40", "10"):
            lists = [(folder / f"modelnet{number}_{split}.txt", split) for split in ("train", "test")]
            if any(file.is_file() for file, _ in lists):
                return [(file, split) for file, split in lists if file.is_file()]
    return []


FORMATS = (
    Format("modelnet_hdf5", _read_hdf5, lambda place: _hdf5_folder(place) is not None),
    Format("modelnet_resampled", _read_resampled, lambda place: bool(_resampled_lists(place))),
    Format("modelnet", _read_meshes, _has_meshes),
)
