"""What the formats of clouds share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from st_ssl.core.errors import DataError, SampleError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Kind, Place, read_lines
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


def names_in(file: Path) -> list[tuple[int, str]]:
    """Line numbers and what is on the lines of a list, without blank ones; ``DataError`` where there are none."""
    rows = [(at, line.strip()) for at, line in enumerate(read_lines(file, CLOUD), 1) if line.strip()]
    if not rows:
        raise DataError(f"{file} is empty: expected one cloud on each line")
    return rows


def clouds_in(file: Path, split: str, classes: Sequence[str]) -> list[Entry]:
    """One entry for each cloud of an HDF5 file with ``data`` [M, N, 3] and ``label`` [M] or [M, 1]."""
    try:
        with open_hdf5(str(file)) as arrays:
            if "data" not in arrays or "label" not in arrays:
                there = ", ".join(islice(arrays, 20)) or "nothing"
                raise DataError(f"{file}: expected the arrays data and label; it has {there}")
            where = str(file)
            shape, kept = array_in(where, arrays, "data").shape, array_in(where, arrays, "label")
            if len(shape) != 3 or kept.shape not in ((shape[0],), (shape[0], 1)):
                expected = "expected [clouds, points, 3] and one label for each cloud"
                raise DataError(f"{file}: data {list(shape)} and label {list(kept.shape)}: {expected}")
            count, labels = shape[0], read_rows(where, kept, None, MAX_POINTS).reshape(-1)
    except SampleError as error:
        raise DataError(str(error)) from error
    if len(labels) != count or labels.dtype.kind not in "iu":
        raise DataError(f"{file}: {count} clouds, and {len(labels)} labels of type {labels.dtype}: expected as many")
    wrong = labels[(labels < 0) | (labels >= len(classes))]
    if len(wrong):
        raise DataError(f"{file}: label {wrong[0]}, but there are {len(classes)} classes, from 0 on")
    return [Entry(f"{file}#{i}", split, {"label": classes[label]}) for i, label in enumerate(labels.tolist())]


def subfolders(folder: Path) -> list[Path]:
    """The folders in ``folder`` whose names do not begin with a dot, in byte order."""
    try:
        inside = [item.path for item in os.scandir(folder) if not item.name.startswith(".") and item.is_dir()]
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be listed: {error.strerror}") from error
    return [Path(path) for path in sorted(inside, key=os.fsencode)]


def files_in(folder: Path, suffix: str) -> list[Path]:
    """The files in ``folder`` whose names end so, in byte order; [] where there is no such folder."""
    if not folder.is_dir():
        return []
    inside = [item for item in folder.iterdir() if item.name.lower().endswith(suffix) and not item.name.startswith(".")]
    return sorted(inside, key=lambda path: os.fsencode(path.name))
