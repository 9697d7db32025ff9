"""NumPy's own files: ``.npy`` with one table, ``.npz`` with arrays by name. Object arrays are refused."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from tokenize import TokenError
from typing import NamedTuple, TypeVar

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
_TIMED = {
    "time": ("time", "times", "timestamp", "timestamps", "t"),
    "velocity": ("velocity", "velocities", "doppler", "radialvelocity"),
    "sweep": ("sweep", "sweeps", "sweepid", "scan", "scanid", "frame", "frameid"),
}
_BESIDE = {name for wanted in (_ATTRIBUTES, _LABELS) for names in wanted.values() for name in names}

_T = TypeVar("_T")
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
    in ``guess_roles``; ``color``, ``normal``, ``intensity``, ``segment``, ``instance``, ``part`` beside them, and of
    recordings (``options.timed``) ``time`` and ``velocity``, and ``sweep`` as the rank of each point's sweep."""
    return _opened(path, options, lambda arrays: _cloud(path, arrays, options.timed))


class Clock(NamedTuple):
    """The clock of a recording of S sweeps with N points, in seconds from its first point on: when each sweep
    ``begins``, float64 [S], rising; the ``time`` float64 [N] and the ``sweep`` int64 [N] of each point."""

    begins: np.ndarray
    time: np.ndarray
    sweep: np.ndarray


def read_clock(path: str, options: ReadOptions) -> Clock:
    """The clock of a recording, and nothing else of it. Sweeps count in the order of time, whatever their numbers are;
    without an array of sweeps, points of one time are one. Raises ``SampleError``."""
    return _opened(path, options, lambda arrays: _clock(path, arrays))


def _opened(path: str, options: ReadOptions, read: Callable[[_Members], _T]) -> _T:
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return read(_Members(path, archive, options.max_points))
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


def _clock(path: str, arrays: _Members, count: int | None = None) -> Clock:
    time, sweep = (_beside(path, arrays, _TIMED[name], count) for name in ("time", "sweep"))
    if time is None:
        there = ", ".join(arrays.names[:20]) or "nothing"
        raise SampleError(path, f"has no array of times ({', '.join(_TIMED['time'])}) for data.window; it has {there}")
    time = time.reshape(len(time), -1).astype(np.float64)
    if time.shape[1] != 1 or len(time) == 0 or not np.isfinite(time).all():
        raise SampleError(path, f"its time is {list(time.shape)}: expected a finite number of seconds for each point")
    if sweep is not None and sweep.size != len(time):
        raise SampleError(path, f"its sweep is {list(sweep.shape)}, for {len(time)} times")
    time = time[:, 0] - time.min()
    _, number = np.unique(time if sweep is None else sweep.reshape(-1), return_inverse=True)
    begins = np.full(number.max() + 1, np.inf)
    np.minimum.at(begins, number, time)
    order = np.argsort(begins, kind="stable")  # sweeps may be numbered in any order
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Clock(begins[order], time, rank[number])


def _cloud(path: str, arrays: _Members, timed: bool) -> RawCloud:
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
    meant = _BESIDE
    if timed:
        meant = _BESIDE.union(*_TIMED.values())
        _, cloud.attributes["time"], cloud.labels["sweep"] = _clock(path, arrays, count)
        if (velocity := _beside(path, arrays, _TIMED["velocity"], count)) is not None:
            cloud.attributes["velocity"] = velocity
    cloud.ignored = tuple(name for name in arrays.names if name != key and plain(name) not in meant)
    return cloud


def _beside(path: str, arrays: _Members, names: tuple[str, ...], count: int | None) -> np.ndarray | None:
    for name in arrays.named(names):
        values = arrays.load(name)
        count = len(values) if count is None and values.ndim else count
        if values.shape in ((), (1,)) and count != 1:
            continue  # a single number is the label of the whole cloud, which is not a reader's business
        if len(values) != count or values.dtype.kind not in "fiub":
            raise SampleError(path, f"{name} is {values.dtype} {list(values.shape)}, for {count} points")
        return values
    return None
