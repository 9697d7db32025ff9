"""Scenes that are folders: Pointcept's (one ``.npy`` for each attribute) and S3DIS's rooms as they come."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.limits import check_points
from st_ssl.data.streams.points.arrays import load_array
from st_ssl.data.streams.points.base import RawCloud, ReadOptions, read_bytes

S3DIS_CLASSES = (
    *("ceiling", "floor", "wall", "beam", "column", "window", "door"),
    *("table", "chair", "sofa", "bookcase", "board", "clutter"),
)
_ATTRIBUTES = {"color": 3, "normal": 3, "strength": 1}
_SHORTEST = 12  # bytes of the shortest line `x y z r g b`; those of real rooms have 24 and more
_LABELS = {"segment": ("segment", "segment20", "segment200"), "instance": ("instance",)}


def is_scene(path: str) -> bool:
    """Whether a folder is one cloud, in either form."""
    return os.path.isfile(os.path.join(path, "coord.npy")) or os.path.isdir(os.path.join(path, "Annotations"))


def read_scene(path: str, options: ReadOptions) -> RawCloud:
    """A folder with ``coord.npy``, or one with ``Annotations/``."""
    most = options.max_points
    return _read_pointcept(path, most) if os.path.isfile(os.path.join(path, "coord.npy")) else _read_room(path, most)


def _read_pointcept(path: str, most: int) -> RawCloud:
    """``coord`` [N, 3], ``color`` (bytes), ``normal``, ``strength``, ``segment`` (or ScanNet's ``segment20``,
    ``segment200``, in this order) and ``instance`` [N]."""
    folder = Path(path)
    xyz = _array(path, "coord", 3, None)
    check_points(path, len(xyz), most)
    cloud = RawCloud(np.asarray(xyz, dtype=np.float32 if xyz.dtype == np.float32 else np.float64))
    for name, columns in _ATTRIBUTES.items():
        if (folder / f"{name}.npy").is_file():
            values = _array(path, name, columns, len(cloud))
            cloud.attributes["intensity" if name == "strength" else name] = values
    for label, names in _LABELS.items():
        found = next((name for name in names if (folder / f"{name}.npy").is_file()), None)
        if found is not None:
            cloud.labels[label] = _array(path, found, 1, len(cloud))
    return cloud


def _array(path: str, name: str, columns: int, count: int | None) -> np.ndarray:
    values = load_array(os.path.join(path, f"{name}.npy"))
    if values.dtype.kind not in "fiub" or values.size != (len(values) if count is None else count) * columns:
        rows = "points" if count is None else count
        raise SampleError(path, f"{name}.npy is {values.dtype} {list(values.shape)}: expected [{rows}, {columns}]")
    return values.reshape(-1, columns)


def _read_room(path: str, most: int) -> RawCloud:
    """The objects of ``Annotations/``, files ``chair_3.txt`` of ``x y z r g b``: class and number become labels.
    Classes that S3DIS has no name for count as clutter, as in its benchmark."""
    files = sorted(Path(path, "Annotations").glob("*.txt"), key=lambda file: os.fsencode(file.name))
    if not files:
        raise SampleError(path, "its folder Annotations holds no .txt")
    size = sum(file.stat().st_size for file in files)
    check_points(path, size // _SHORTEST, 2 * most)
    tables = [_object(file) for file in files]
    sizes = [len(table) for table in tables]
    names = [file.name.split("_")[0].lower() for file in files]
    classes = [S3DIS_CLASSES.index(name if name in S3DIS_CLASSES else "clutter") for name in names]
    table = np.concatenate(tables)
    labels = {"segment": np.repeat(classes, sizes), "instance": np.repeat(np.arange(len(files)), sizes)}
    return RawCloud(
        table[:, :3],
        {"color": table[:, 3:6]},
        {name: values.astype(np.int64) for name, values in labels.items()},
    )


def _object(file: Path) -> np.ndarray:
    """Numbers [N, 6]. A line with something else (one of Area_5 has a byte that is no digit) becomes a point that is
    nowhere, which is dropped and counted like any other one."""
    data = read_bytes(str(file))
    try:
        table = np.loadtxt(io.BytesIO(data), ndmin=2, encoding="latin-1")
        if table.shape[1] >= 6:
            return table[:, :6]
    except ValueError:
        table = np.array([_line(line) for line in data.split(b"\n") if line.strip()])
    bad = int(np.isnan(table).any(axis=1).sum())
    if table.shape[1] < 6 or bad > max(1, len(table) // 1000):
        raise SampleError(str(file), f"{bad or len(table)} of {len(table)} lines are not `x y z r g b`")
    return table


def _line(line: bytes) -> list[float]:
    words = line.split()
    try:
        return [float(word) for word in words] if len(words) == 6 else [np.nan] * 6
    except ValueError:
        return [np.nan] * 6
