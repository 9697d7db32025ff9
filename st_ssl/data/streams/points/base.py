"""What the readers of clouds share: files and their sizes, columns and fields by name, and what a usable cloud is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.core.types import PointCloud
from st_ssl.data.streams.limits import MAX_POINTS

MIN_POINTS = 2
_FAR = 2.0**14  # metres: from here on float32 resolves no millimetres
_NOWHERE = 1e15  # no place is so far away, and its square is still a float32


@dataclass(frozen=True)
class ReadOptions:
    """What files leave open, as a key says or as it was decided for a data set (None: by what a file says alone).

    ``surface_points``: how many points are drawn on a mesh. ``bin_columns``: how many float32 numbers a point has in a
    ``.bin`` file. ``max_points``: a cloud of more points, or that takes the memory of more, is refused before that is
    taken (see ``streams/limits.py``). ``layouts``: the roles of the columns of tables without names, one for each
    number of columns; ``named``: they are the user's, and count for headers too. ``color_range`` and
    ``intensity_range``: the lowest and highest value, which become 0 and 1. ``vertices``: meshes in PLY are read as
    their vertices, since some of the data set have labels for them. ``timed``: files are recordings of sweeps, whose
    points have a ``time`` (see ``sweeps.py``).
    """

    surface_points: int = 8192
    bin_columns: int | None = None
    max_points: int = MAX_POINTS
    layouts: tuple[tuple[str, ...], ...] = ()
    named: bool = False
    color_range: tuple[float, float] | None = None
    intensity_range: tuple[float, float] | None = None
    vertices: bool = False
    timed: bool = False


@dataclass
class RawCloud(PointCloud):
    """A cloud with the numbers of its file: attributes in the file's units, labels of any type.

    ``table`` [N, k]: points as rows of numbers without names, still to be understood (``xyz`` is empty), of the
    ``kind`` "bin", "pts" or "". ``ignored``: the names of columns and arrays
    that mean nothing to us. ``drawn``: whether its points were drawn on the surface of a mesh.
    """

    table: np.ndarray | None = None
    kind: str = ""
    ignored: tuple[str, ...] = ()
    drawn: bool = False


CloudReader = Callable[[str, ReadOptions], RawCloud]
"""Path and options to a cloud as it is in the file; ``understand`` and ``clean`` make it one that can be used."""


def read_bytes(path: str) -> bytes:
    """The file; ``SampleError`` where it is missing, empty or cannot be read."""
    check_file(path)
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise SampleError(path, f"file cannot be read: {error.strerror}") from error


def check_file(path: str) -> None:
    """``SampleError`` where there is no file, or nothing in it."""
    try:
        if os.path.isdir(path):
            raise SampleError(path, "not a point cloud: it is a folder")
        if os.path.getsize(path) == 0:
            raise SampleError(path, "file is empty")
    except FileNotFoundError as error:
        raise SampleError(path, "file is missing") from error
    except OSError as error:
        raise SampleError(path, f"file cannot be read: {error.strerror}") from error


def clean(path: str, cloud: PointCloud) -> tuple[PointCloud, int]:
    """A cloud that can be used, and how many points it lost because they are nowhere (NaN, infinity, 1e15 and more).

    What is not finite in an attribute becomes 0. Far from the origin (UTM metres, say) the cloud is moved by its median
    and ``pose`` takes it back, since float32 is too coarse. ``SampleError`` where fewer than two points are left.
    """
    total = len(cloud.xyz)
    with np.errstate(invalid="ignore"):
        # column by column: three at a time are five times slower
        keep = np.logical_and.reduce([np.abs(column) < _NOWHERE for column in cloud.xyz.T])
    lost = total - int(keep.sum())
    if total and lost == total:
        raise SampleError(path, f"none of its {total} points is finite")
    if total - lost < MIN_POINTS:
        points = "no points" if total == 0 else "1 point"
        among = f" that is finite, of {total}" if lost else ""
        raise SampleError(path, f"has {points}{among}: a cloud needs at least {MIN_POINTS}")
    if lost:
        cloud = cloud.take(keep)
    xyz, pose = _near(cloud.xyz, cloud.pose)
    attributes = {name: _finite(values) for name, values in cloud.attributes.items()}
    return PointCloud(xyz, attributes, cloud.labels, pose, cloud.time), lost


def _finite(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(values, dtype=np.float32)
    return values if np.isfinite(values).all() else np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _near(xyz: np.ndarray, pose: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    if xyz.dtype == np.float32 or max(abs(xyz.min()), abs(xyz.max())) < _FAR:
        return np.ascontiguousarray(xyz, dtype=np.float32), pose
    shift = np.floor(np.median(xyz, axis=0))  # not the smallest: a single stray point would keep all others far away
    back = np.eye(4)
    back[:3, 3] = shift
    return (xyz - shift).astype(np.float32), back if pose is None else pose @ back
