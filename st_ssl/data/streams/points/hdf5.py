"""HDF5 files of many clouds each, as ModelNet40 and ScanObjectNN are handed around: ``FILE#3`` is the fourth cloud."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from st_ssl.core.errors import MissingDependencyError, SampleError, UserError
from st_ssl.data.streams.points.base import RawCloud, ReadOptions, check_file

_ITEM = re.compile(r"(.+)#(\d+)")


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
        if "data" not in file or not hasattr(file["data"], "shape"):
            raise SampleError(path, f"has no array `data`; it has {', '.join(file) or 'nothing'}")
        shape = file["data"].shape
        if len(shape) == 3 and item is None:
            raise SampleError(path, f"holds {shape[0]} clouds: one of them is {path}#0")
        if len(shape) not in (2, 3) or (len(shape) == 2 and item is not None):
            raise SampleError(path, f"its `data` is {list(shape)}: expected [clouds, points, 3]")
        if item is not None and item >= shape[0]:
            raise SampleError(path, f"holds {shape[0]} clouds, counted from 0")
        table = _row(file, "data", item)
        cloud = RawCloud(np.empty((0, 3)), table=table)
        if "normal" in file:
            cloud.attributes["normal"] = _beside(path, file, "normal", item, len(table))
        for name, label in (("pid", "part"), ("mask", "segment")):
            if name in file:
                cloud.labels[label] = _beside(path, file, name, item, len(table))
    return cloud


def _row(file: Any, name: str, item: int | None) -> np.ndarray:
    return np.asarray(file[name][()] if item is None else file[name][item])


def _beside(path: str, file: Any, name: str, item: int | None, count: int) -> np.ndarray:
    row = _row(file, name, item) if item is None or item < file[name].shape[0] else np.empty(0)
    if len(row) != count:
        raise SampleError(path, f"its `{name}` has {len(row)} rows, for {count} points")
    return row
