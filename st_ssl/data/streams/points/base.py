"""What the readers of clouds share: files and their sizes, columns and fields by name, and what a usable cloud is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
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
    """What files leave open: ``surface_points`` is how many points are drawn on a mesh; ``bin_columns`` how many
    float32 numbers a point has in a ``.bin`` file (None: by the rule of ``read_bin``). ``max_points``: a cloud of more
    points, or that takes the memory of more, is refused before that is taken (see ``streams/limits.py``)."""

    surface_points: int = 8192
    bin_columns: int | None = None
    max_points: int = MAX_POINTS


CloudReader = Callable[[str, ReadOptions], PointCloud]
"""Path and options to a cloud as it is in the file; ``clean`` makes it one that can be used."""


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

    What is not finite in an attribute becomes 0. Far from the origin (UTM metres, say) the cloud is moved there and
    ``pose`` takes it back, since float32 is too coarse. ``SampleError`` where fewer than two points are left.
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
    shift = np.floor(xyz.min(axis=0))
    back = np.eye(4)
    back[:3, 3] = shift
    return (xyz - shift).astype(np.float32), back if pose is None else pose @ back


_NAMES = {
    "color": (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")),
    "normal": (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z")),
    "intensity": (("intensity",), ("scalar_intensity",), ("reflectance",), ("i",)),
}
_LABELS = {
    "segment": ("label", "segment", "semantic", "class", "classification", "scalar_label", "scalar_classification"),
    "instance": ("instance", "instance_id", "object_id", "objectid", "scalar_instance"),
}


def from_fields(path: str, fields: Mapping[str, np.ndarray]) -> PointCloud:
    """A cloud from arrays [N] by name, as PLY, PCD and headers of tables have them: in any case, in any order; what
    has an unknown name is left out. ``SampleError`` without x, y and z."""
    known = {name.lower(): values for name, values in fields.items()}
    if not {"x", "y", "z"} <= known.keys():
        raise SampleError(path, f"has no x, y and z; its fields are {', '.join(fields) or 'none'}")
    attributes = {}
    for attribute, options in _NAMES.items():
        names = next((option for option in options if known.keys() >= set(option)), None)
        if names is not None:
            attributes[attribute] = ATTRIBUTES[attribute](np.stack([known[name] for name in names], axis=1))
    labels = {}
    for label, aliases in _LABELS.items():
        name = next((alias for alias in aliases if alias in known), None)
        if name is not None:
            labels[label] = whole(known[name])
    return PointCloud(_stack_xyz([known[axis] for axis in "xyz"]), attributes, labels)


def _stack_xyz(axes: list[np.ndarray]) -> np.ndarray:
    kind = np.float32 if all(axis.dtype.kind == "f" and axis.dtype.itemsize == 4 for axis in axes) else np.float64
    return np.stack([np.asarray(axis, dtype=kind) for axis in axes], axis=1)


def from_columns(path: str, table: np.ndarray, intensity_first: bool = False) -> PointCloud:
    """A cloud from numbers [N, k] without names:

    - 3: xyz; 4 and 5: xyz, intensity (and a ring or a time, left out); 6: xyz and a colour or a normal;
    - 7: xyz, a normal and a ``part`` (ShapeNetPart) or a colour and a ``segment`` (S3DIS); with ``intensity_first``
      (``.pts``) xyz, intensity, colour;
    - 9: xyz, colour and normal, in either order; three further numbers that are neither (S3DIS's place in the room)
      are left out.

    Three numbers are a normal where their length is 1 or 0 (within 5 %) in nine of ten points, and else a colour, in
    0 … 1 or 0 … 255. ``SampleError`` for anything else.
    """
    if table.ndim != 2 or table.dtype.kind not in "fiu" or table.shape[1] not in (3, 4, 5, 6, 7, 9):
        raise SampleError(
            path, f"holds {table.dtype} {list(table.shape)}: expected numbers [points, 3, 4, 5, 6, 7 or 9]"
        )
    num_columns = table.shape[1]
    cloud = PointCloud(np.asarray(table[:, :3], dtype=np.float32 if table.dtype == np.float32 else np.float64))
    if num_columns in (4, 5) or (num_columns == 7 and intensity_first):
        cloud.attributes["intensity"] = intensity(table[:, 3:4])
    if num_columns == 7 and intensity_first:
        cloud.attributes["color"] = color(table[:, 4:7])
        return cloud
    for start in range(3, num_columns - 2, 3) if num_columns >= 6 else ():
        name, values = _triple(path, table[:, start : start + 3], start)
        if name is not None and name not in cloud.attributes:
            cloud.attributes[name] = values
    if num_columns == 7:
        if not (np.floor(table[:, 6]) == table[:, 6]).all():
            raise SampleError(path, "has 7 columns, the last of which is no class: expected whole numbers")
        cloud.labels["part" if "normal" in cloud.attributes else "segment"] = whole(table[:, 6])
    return cloud


def _triple(path: str, values: np.ndarray, start: int) -> tuple[str | None, np.ndarray]:
    length = np.linalg.norm(values.astype(np.float64), axis=1)
    if len(values) and np.mean((abs(length - 1) < 0.05) | (length == 0)) >= 0.9 and length.any():
        return "normal", normal(values)
    finite = values[np.isfinite(values)]
    if finite.size == 0 or (finite.min() >= 0 and finite.max() <= 255):
        return "color", color(values)
    if start > 3:
        return None, values
    columns = f"columns {start + 1} to {start + 3}"
    raise SampleError(path, f"{columns} are neither normals (length 1) nor colours (0 … 1 or 0 … 255)")


def color(values: np.ndarray) -> np.ndarray:
    """RGB in 0 … 1: bytes and 16-bit numbers by their range, other numbers by 255 where any is above 1."""
    return _share(values, (255.0, 65535.0))


def intensity(values: np.ndarray) -> np.ndarray:
    """Intensity [N, 1] in 0 … 1: as ``color``; below 0 (Leica's -2048 … 2047) the range is taken as it is."""
    values = np.asarray(values)
    finite = values[np.isfinite(values)]
    low = float(finite.min()) if finite.size else 0.0
    if low < 0:
        return ((values - low) / max(float(finite.max()) - low, 1e-12)).astype(np.float32)
    return _share(values, (255.0, 65535.0))


def _share(values: np.ndarray, ranges: tuple[float, ...]) -> np.ndarray:
    finite = values[np.isfinite(values)]
    top = float(finite.max()) if finite.size else 0.0
    if values.dtype.kind in "iu":
        unit = next((limit for limit in ranges if top <= limit), top)
    else:
        unit = next((limit for limit in (1.0, *ranges) if top <= limit), top)
    return (values / max(unit, 1e-12)).astype(np.float32)


def normal(values: np.ndarray) -> np.ndarray:
    """Normals of length 1, float32 [N, 3]; 0 where there is none."""
    values = np.nan_to_num(np.asarray(values, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 1e-12, length, 1).astype(np.float32)


def whole(values: np.ndarray) -> np.ndarray:
    """Labels int64 [N]; -1 where they are not finite."""
    values = np.asarray(values).reshape(-1)
    if values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, -1)
    return values.astype(np.int64)


ATTRIBUTES = {"color": color, "normal": normal, "intensity": intensity}
