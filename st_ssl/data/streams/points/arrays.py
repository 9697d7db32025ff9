"""NumPy's own files: ``.npy`` with one table, ``.npz`` with arrays by name. Object arrays are refused."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from tokenize import TokenError

import numpy as np

from st_ssl.core.errors import SampleError, UserError, nearest
from st_ssl.data.streams.limits import check_points, check_unpacked
from st_ssl.data.streams.points.base import RawCloud, ReadOptions, check_file
from st_ssl.data.streams.points.columns import SINGLES, plain

NO_POINTS = np.empty((0, 3), dtype=np.float32)
_XYZ = ("xyz", "points", "point", "coord", "coords", "pos", "pc", "pointcloud", "data", "arr0")
_ATTRIBUTES = {
    "color": ("color", "colors", "colour", "colours", "rgb"),
    "normal": ("normal", "normals"),
    "intensity": SINGLES["intensity"],
}
_LABELS = {
    "segment": ("segment", *SINGLES["segment"]),
    "instance": (*SINGLES["instance"], "instances"),
    "part": SINGLES["part"],
}
_BESIDE = {name for wanted in (_ATTRIBUTES, _LABELS) for names in wanted.values() for name in names}

_ERRORS = (
    OSError,
    TokenError,
    ValueError,
    OverflowError,
    RecursionError,
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
    table = load_array(path)
    check_points(path, len(table) if table.ndim else 0, options.max_points)
    return RawCloud(NO_POINTS, table=table)


def read_npz(path: str, options: ReadOptions) -> RawCloud:
    """Arrays of N rows: the points as ``xyz``, ``points``, ``coord``, ``pos`` or ``data``, perhaps with more columns as
    in ``guess_roles``; ``color``, ``normal``, ``intensity``, ``segment``, ``instance``, ``part`` beside them."""
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _cloud(path, _Members(path, archive, options.max_points))
    except _ERRORS as error:
        if isinstance(error, UserError):
            raise
        raise SampleError(path, f"not a file of arrays: {error}") from error


class _Members:
    """The arrays of a file, each read when it is asked for: what nobody needs costs nothing."""

    def __init__(self, path: str, archive: zipfile.ZipFile, most: int) -> None:
        self.path, self.archive, self.most = path, archive, most
        self.names = [name.removesuffix(".npy") for name in archive.namelist()]

    def named(self, options: Sequence[str]) -> Iterator[str]:
        """Those arrays that are called as one of ``options``, in their order: see ``plain``."""
        there = {plain(name): name for name in reversed(self.names)}
        return (there[name] for name in options if name in there)

    def load(self, name: str) -> np.ndarray:
        """An array, once its header and its size are those of numbers that the file has room for."""
        whole_name = name if name in self.archive.NameToInfo else f"{name}.npy"
        member = self.archive.getinfo(whole_name)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{whole_name} is compressed in a way that NumPy never uses")
        with self.archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(f"{whole_name} promises {shape} of {dtype} in {member.file_size} bytes")
        check_points(self.path, shape[0] if shape else 0, self.most)
        check_unpacked(self.path, member.file_size, member.compress_size, self.most)
        with self.archive.open(member) as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _cloud(path: str, arrays: _Members) -> RawCloud:
    key = next(arrays.named(_XYZ), None)
    if key is None:
        known = f"{', '.join(arrays.names[:20]) or 'nothing'}{nearest('points', arrays.names[:20])}"
        raise SampleError(path, f"has no array of points ({', '.join(_XYZ)}); it has {known}")
    table = arrays.load(key)
    cloud = RawCloud(NO_POINTS, table=table)
    count = len(table) if table.ndim else 0
    for found, wanted in ((cloud.attributes, _ATTRIBUTES), (cloud.labels, _LABELS)):
        for name, options in wanted.items():
            if (values := _beside(path, arrays, options, count)) is not None:
                found[name] = values
    cloud.ignored = tuple(name for name in arrays.names if name != key and plain(name) not in _BESIDE)
    return cloud


def _beside(path: str, arrays: _Members, names: tuple[str, ...], count: int) -> np.ndarray | None:
    for name in arrays.named(names):
        values = arrays.load(name)
        if values.shape in ((), (1,)) and count != 1:
            continue  # a single number is the label of the whole cloud, which is not a reader's business
        if len(values) != count or values.dtype.kind not in "fiub":
            raise SampleError(path, f"{name} is {values.dtype} {list(values.shape)}, for {count} points")
        return values
    return None
