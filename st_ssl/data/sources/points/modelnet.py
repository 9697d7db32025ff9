"""ModelNet10 and ModelNet40 (Wu et al., 2015) in the four forms they are handed around in."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from st_ssl.core.errors import DataError, SampleError, nearest, sample_fault
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place
from st_ssl.data.sources.points.base import (
    clouds_in,
    files_in,
    folder_with,
    folders_of,
    listed_clouds,
    lists_in,
    names_in,
    subfolders,
)
from st_ssl.data.streams.points.pickled import few_shot_samples

_LIST = re.compile(r"modelnet(10|40)_(train|test)\.txt", re.IGNORECASE)
_SETTING = re.compile(r"(\d+)way_(\d+)shot")
_FOLD = re.compile(r"(\d+)\.pkl")
_HDF5 = ("train_files.txt", "shape_names.txt")


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
    folder = folder_with(_HDF5, folders_of(place))
    if folder is None:
        raise DataError(f"{place.root}: no train_files.txt and shape_names.txt there, as modelnet40_ply_hdf5_2048 has")
    classes = [name for _, name in names_in(folder / "shape_names.txt")]
    entries = []
    for listing, split in lists_in([folder], "{}_files.txt", ("train", "test")):
        for at, name in names_in(listing):
            file = folder / PurePosixPath(name).name
            if not file.is_file():
                others = [path.name for path in files_in(folder, ".h5")]
                raise DataError(f"{listing}, line {at}: {file.name} is not in {folder}{nearest(file.name, others)}")
            entries += clouds_in(file, split, classes)
    return entries


def _read_resampled(place: Place) -> list[Entry]:
    """``modelnet40_normal_resampled``: ``modelnet40_train.txt`` names ``airplane_0001``, which is the file
    ``airplane/airplane_0001.txt``. ModelNet10 where its list is named (``data.list``), or only its lists are there."""
    lists = _resampled_lists(place)
    if not lists:
        raise DataError(f"{place.root}: no modelnet40_train.txt nor modelnet10_train.txt there")

    def entry(where: str, name: str, split: str) -> Entry:
        label, _, number = name.rpartition("_")
        if not label or not number.isdecimal():
            raise DataError(f"{where}: {name!r}, expected a class and a number, as `airplane_0001`")
        return Entry(str(place.root / label / f"{name}.txt"), split, {"label": label})

    return listed_clouds(lists[0][0], place.root, lists, entry)


def _resampled_lists(place: Place) -> list[tuple[Path, str]]:
    """The lists of ModelNet40 or ModelNet10 and their splits."""
    named = _LIST.fullmatch(place.notes.name)
    numbers = [named[1]] if named else ["40", "10"]
    found = (
        lists_in([folder], f"modelnet{n}_{{}}.txt", ("train", "test")) for folder in folders_of(place) for n in numbers
    )
    return next((lists for lists in found if lists), [])


def _read_few_shot(place: Place) -> list[Entry]:
    """Few-shot folds (Sharma and Kaul, 2020), as Point-BERT and those after it use them: ``5way_10shot/0.pkl`` to
    ``9.pkl``, and other numbers of ways and shots. They are in the root, in ``ModelNetFewShot`` within, or the root (or
    ``data.list``) is the folder of one setting. Labels are ``label`` within the fold, from "0", and the ``fold``,
    ``5way_10shot/0``."""
    folds = _folds(place)
    if not folds:
        raise DataError(f"{place.root}: no folders `5way_10shot` with folds `0.pkl` there, as ModelNetFewShot has them")
    entries = []
    for ways, shots, number, file in folds:
        try:
            with sample_fault(str(file)):
                samples = few_shot_samples(str(file))
        except SampleError as error:
            raise DataError(str(error)) from error
        for i, sample in enumerate(samples):
            labels = {"label": str(sample.label), "fold": f"{ways}way_{shots}shot/{number}"}
            entries.append(Entry(f"{file}#{i}", sample.part, labels))
    return entries


def _folds(place: Place) -> list[tuple[int, int, int, Path]]:
    """(ways, shots, number, file) of all folds, in this order; of several files of a fold the first."""
    base = folders_of(place)[0]
    found: dict[tuple[int, int, int], Path] = {}
    for folder in (base, *subfolders(base), *subfolders(base / "ModelNetFewShot")):
        setting = _SETTING.fullmatch(folder.absolute().name)
        for file in files_in(folder, ".pkl") if setting else ():
            if setting and (fold := _FOLD.fullmatch(file.name)):
                found.setdefault((int(setting[1]), int(setting[2]), int(fold[1])), file)
    return sorted((*key, file) for key, file in found.items())


FORMATS = (
    Format("modelnet_few_shot", _read_few_shot, _folds),
    Format("modelnet_hdf5", _read_hdf5, lambda place: folder_with(_HDF5, folders_of(place))),
    Format("modelnet_resampled", _read_resampled, _resampled_lists),
    Format("modelnet", _read_meshes, _has_meshes),
)
