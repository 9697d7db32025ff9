"""HDF5 files of many clouds each, as ModelNet40 and ScanObjectNN are handed around: ``FILE#3`` is the fourth cloud."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np

from st_ssl.core.errors import MissingDependencyError, SampleError, UserError
from st_ssl.data.streams.limits import check_points, check_unpacked
from st_ssl.data.streams.points.base import RawCloud, ReadOptions, check_file

_ITEM = re.compile(r"(.+)#(\d{1,18})", re.DOTALL)  # a longer number is part of a name
_MOST_COLUMNS = 64


def split_item(path: str) -> tuple[str, int | None]:
    """``a.h5#3`` to ``a.h5`` and 3: a file of many clouds and the number of one; any other path as it is."""
    found = _ITEM.fullmatch(path)
    if found is None or os.path.exists(path):
        return path, None
    return found[1], int(found[2])


@contextmanager
def open_hdf5(path: str) -> Iterator[Any]:
    """The open file; ``SampleError`` where it is none, ``MissingDependencyError`` without h5py."""
    check_file(path)
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError("h5py", "points", f"reading {path}") from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except UserError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise SampleError(path, f"not an HDF5 file that can be read: {error}") from error


def read_hdf5(path: str, options: ReadOptions) -> RawCloud:
    """``data`` [M, N, 3 or more], ``normal`` [M, N, 3], ``pid`` (parts) and ``mask`` (ScanObjectNN: -1 is background)
    [M, N]; of a cloud alone without M. The labels of whole clouds are a source's business."""
    path_of_file, item = split_item(path)
    with open_hdf5(path_of_file) as file:
        if "data" not in file:
            raise SampleError(path, f"has no array `data`; it has {', '.join(islice(file, 20)) or 'nothing'}")
        shape = array_in(path, file, "data").shape
        if len(shape) == 3 and item is None:
            raise SampleError(path, f"holds {shape[0]} clouds: one of them is {path}#0")
        if len(shape) not in (2, 3) or (len(shape) == 2 and item is not None):
            raise SampleError(path, f"its `data` is {list(shape)}: expected [clouds, points, 3]")
        if item is not None and item >= shape[0]:
            raise SampleError(path, f"holds {shape[0]} clouds, counted from 0")
        most = options.max_points
        check_points(path, shape[-2], most)
        if shape[-1] > _MOST_COLUMNS:
            raise SampleError(path, f"its `data` is {list(shape)}: expected [clouds, points, 3]")
        table = _row(path, file, "data", item, most)
        cloud = RawCloud(np.empty((0, 3)), table=table)
        if "normal" in file:
            cloud.attributes["normal"] = _beside(path, file, "normal", item, len(table), most)
        for name, label in (("pid", "part"), ("mask", "segment")):
            if name in file:
                cloud.labels[label] = _beside(path, file, name, item, len(table), most)
    return cloud


def array_in(path: str, file: Any, name: str) -> Any:
    """The data set ``name`` of an open file. ``SampleError`` where it is none of numbers, or its numbers are not in the
    file itself: a link or external storage may name any file of this machine."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise SampleError(path, f"its `{name}` is a link to somewhere else, which is not followed")
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise SampleError(path, f"its `{name}` is a {type(found).__name__.lower()}, and no array")
    if found.external or found.is_virtual:
        raise SampleError(path, f"its `{name}` is kept in another file, which is not read")
    if found.dtype.kind not in "fiub":
        raise SampleError(path, f"its `{name}` is of {found.dtype}: expected numbers")
    return found


def read_rows(path: str, array: Any, item: int | None, most: int) -> np.ndarray:
    """All of an array, or its row ``item``. ``SampleError`` where that takes far more memory than the file has bytes
    for it: a chunk is unpacked whole, and what was never written is made up."""
    shape = array.shape if item is None else array.shape[1:]
    size = max(math.prod(shape), math.prod(array.chunks or (1,))) * array.dtype.itemsize
    check_unpacked(path, size, array.id.get_storage_size(), most)
    return np.asarray(array[()] if item is None else array[item])


def _row(path: str, file: Any, name: str, item: int | None, most: int) -> np.ndarray:
    return read_rows(path, array_in(path, file, name), item, most)


def _beside(path: str, file: Any, name: str, item: int | None, count: int, most: int) -> np.ndarray:
    shape = array_in(path, file, name).shape
    own = shape if item is None else shape[1:] if item < shape[0] else (0,)
    if own[:1] != (count,) or math.prod(own) > _MOST_COLUMNS * count:
        raise SampleError(path, f"its `{name}` is {list(shape)}, for {count} points")
    return _row(path, file, name, item, most)
