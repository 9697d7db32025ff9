"""What the formats of clouds share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from st_ssl.core.errors import DataError, SampleError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Kind, Place, Row, filled_lines, found, in_folder
from st_ssl.data.streams.limits import MAX_POINTS
from st_ssl.data.streams.points import READERS, is_cloud, is_scene
from st_ssl.data.streams.points.hdf5 import array_in, open_hdf5, read_rows

EXTENSIONS = tuple(suffix for suffix in READERS if is_cloud(f"x{suffix}"))
TEXT = (".txt", ".csv", ".asc", ".xyz", ".pts")
"""Ends of names of clouds that lists may have as well."""

CLOUD = Kind("cloud", lambda name: is_cloud(name) and not name.lower().endswith(TEXT), is_scene)


def folders_of(place: Place) -> list[Path]:
    """Where the lists of a source may be: what is named as such, then the root."""
    notes = place.notes if place.notes.is_dir() else place.notes.parent
    return list(dict.fromkeys((notes, place.root)))


def folder_with(files: Sequence[str], folders: Sequence[Path]) -> Path | None:
    """The first of ``folders`` that has all ``files``."""
    return next((folder for folder in folders if all((folder / name).is_file() for name in files)), None)


def lists_in(folders: Sequence[Path], name: str, splits: Sequence[str]) -> list[tuple[Path, str]]:
    """The lists ``name`` (``modelnet40_{}.txt``) of ``splits``, with these, in the first of ``folders`` that has
    any."""
    found = ([(folder / name.format(split), split) for split in splits] for folder in folders)
    there = ([(file, split) for file, split in lists if file.is_file()] for lists in found)
    return next((lists for lists in there if lists), [])


def names_in(file: Path) -> list[tuple[int, str]]:
    """Line numbers and what is on the lines of a list, without blank ones; ``DataError`` where there are none."""
    rows = filled_lines(file, CLOUD)
    if not rows:
        raise DataError(f"{file} is empty: expected one cloud on each line")
    return rows


def cloud_row(file: Path, at: str, name: str, entry: Entry) -> Row:
    """The row ``at`` of ``file``, whose ``entry`` may be a file that is not there."""
    return Row(file, at, name, entry if Path(entry.path).is_file() else replace(entry, path=""))


def listed_clouds(
    notes: Path, root: Path, lists: Sequence[tuple[Path, str]], entry: Callable[[str, str, str], Entry]
) -> list[Entry]:
    """The clouds that ``lists`` name, one on each line, each list with its split: ``entry`` of the place of a line, its
    text and the split. Those missing from ``root`` are counted in a warning."""
    rows = [
        cloud_row(file, f"line {at}", name, entry(f"{file}, line {at}", name, split))
        for file, split in lists
        for at, name in names_in(file)
    ]
    return found(CLOUD, notes, root, rows)


def clouds_in(file: Path, split: str, classes: Sequence[str]) -> list[Entry]:
    """One entry for each cloud of an HDF5 file with ``data`` [M, N, 3] and ``label`` [M] or [M, 1]."""
    where = str(file)
    try:
        with open_hdf5(where) as arrays:
            if "data" not in arrays or "label" not in arrays:
                there = ", ".join(islice(arrays, 20)) or "nothing"
                raise DataError(f"{file}: expected the arrays data and label; it has {there}")
            shape, kept = array_in(where, arrays, "data").shape, array_in(where, arrays, "label")
            if len(shape) != 3 or kept.shape not in ((shape[0],), (shape[0], 1)) or kept.dtype.kind not in "iu":
                expected = "expected [clouds, points, 3] and one whole number for each cloud"
                raise DataError(f"{file}: data {list(shape)} and label {list(kept.shape)} {kept.dtype}: {expected}")
            labels = read_rows(where, kept, None, MAX_POINTS).reshape(-1)
    except SampleError as error:
        raise DataError(str(error)) from error
    wrong = labels[(labels < 0) | (labels >= len(classes))]
    if len(wrong):
        raise DataError(f"{file}: label {wrong[0]}, but there are {len(classes)} classes, from 0 on")
    return [Entry(f"{file}#{i}", split, {"label": classes[label]}) for i, label in enumerate(labels.tolist())]


def subfolders(folder: Path) -> list[Path]:
    """The folders in ``folder`` that are not hidden, in byte order; [] where there is no such folder."""
    return [Path(item.path) for item in (in_folder(folder) if folder.is_dir() else ()) if item.is_dir()]


def files_in(folder: Path, suffix: str) -> list[Path]:
    """The files in ``folder`` whose names end so, in byte order; [] where there is no such folder."""
    items = in_folder(folder) if folder.is_dir() else []
    return [Path(item.path) for item in items if item.name.lower().endswith(suffix)]
