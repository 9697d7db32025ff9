"""NumPy's own files: ``.npy`` with one table, ``.npz`` with arrays by name. Object arrays are refused."""

from __future__ import annotations

import math
import zipfile
import zlib
from tokenize import TokenError
from typing import Any

import numpy as np

from st_ssl.core.errors import SampleError, nearest
from st_ssl.data.streams.points.base import RawCloud, ReadOptions, check_file

NO_POINTS = np.empty((0, 3), dtype=np.float32)
_XYZ = ("xyz", "points", "point", "coord", "coords", "pos", "pc", "pointcloud", "data", "arr_0")
_ATTRIBUTES = {
    "color": ("color", "colors", "rgb"),
    "normal": ("normal", "normals"),
    "intensity": ("intensity", "remission"),
}
_LABELS = {
    "segment": ("segment", "label", "labels", "semantic"),
    "instance": ("instance", "instances"),
    "part": ("part",),
}

_ERRORS = (
    OSError,
    TokenError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def load_array(path: str) -> np.ndarray:
    """The array of a ``.npy`` file, its numbers still on disk, so that a header that promises too much costs nothing.
    Raises ``SampleError``."""
    check_file(path)
    try:
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))  # refuses arrays of objects
    except _ERRORS as error:
        raise SampleError(path, f"not an array: {error}") from error


def read_npy(path: str, options: ReadOptions) -> RawCloud:
    """One table [N, k]: see ``guess_roles``."""
    return RawCloud(NO_POINTS, table=load_array(path))


def read_npz(path: str, options: ReadOptions) -> RawCloud:
    """Arrays of N rows: the points as ``xyz``, ``points``, ``coord``, ``pos`` or ``data``, perhaps with more columns as
    in ``guess_roles``; ``color``, ``normal``, ``intensity``, ``segment``, ``instance``, ``part`` beside them."""
    check_file(path)
    try:
        _check_members(path)
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in file.files}
    except _ERRORS as error:
        raise SampleError(path, f"not a file of arrays: {error}") from error
    key = next((name for name in _XYZ if name in arrays), None)
    if key is None:
        known = f"{', '.join(arrays) or 'nothing'}{nearest('points', arrays)}"
        raise SampleError(path, f"has no array of points ({', '.join(_XYZ)}); it has {known}")
    cloud = RawCloud(NO_POINTS, table=arrays[key])
    count = len(arrays[key]) if arrays[key].ndim else 0
    for found, wanted in ((cloud.attributes, _ATTRIBUTES), (cloud.labels, _LABELS)):
        for name, names in wanted.items():
            if (values := _beside(path, arrays, names, count)) is not None:
                found[name] = values
    return cloud


def _beside(path: str, arrays: dict[str, np.ndarray], names: tuple[str, ...], count: int) -> np.ndarray | None:
    name = next((name for name in names if name in arrays and arrays[name].ndim > 0), None)
    if name is None:
        return None  # a single number is the label of the whole cloud, which is not a reader's business
    values = arrays[name]
    if len(values) != count or values.dtype.kind not in "fiub":
        raise SampleError(path, f"{name} is {values.dtype} {list(values.shape)}, for {count} points")
    return values


def _check_members(path: str) -> None:
    """Raise ``ValueError`` where the header of an array promises more than its member of the archive holds."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} promises {shape} of {dtype} in {member.file_size} bytes")
