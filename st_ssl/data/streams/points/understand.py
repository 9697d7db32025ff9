"""From the numbers of a file to a cloud: columns by their roles, colours and intensities in 0 … 1, whole labels."""

from __future__ import annotations

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.core.types import PointCloud
from st_ssl.data.streams.points.base import RawCloud, ReadOptions
from st_ssl.data.streams.points.columns import XYZ, UnclearColumnsError, by_roles, guess_roles, is_normal
from st_ssl.data.streams.points.units import scaled

_WIDTHS = {"color": (3, 4), "normal": (3,), "intensity": (1,), "time": (1,), "velocity": (1,)}


def understand(path: str, raw: RawCloud, options: ReadOptions) -> PointCloud:
    """The cloud that ``raw`` is: ``color`` float32 [N, 3] and ``intensity`` [N, 1] in 0 … 1, ``normal`` [N, 3] of
    length 1 (0 where unknown), ``time`` and ``velocity`` [N, 1] as in the file, labels int64 [N]. ``SampleError`` where
    its columns cannot be told, an attribute is of another shape, or what was decided for the data set does not fit."""
    raw = named(path, raw, options)
    attributes = {}
    for name, values in raw.attributes.items():
        values = _shaped(path, name, values, len(raw.xyz))
        if name == "normal":
            attributes[name] = normal(values)
        elif name in ("time", "velocity"):
            attributes[name] = values
        else:
            attributes[name] = scaled(path, name, values, getattr(options, f"{name}_range"))
    labels = {name: whole(path, name, values, len(raw.xyz)) for name, values in raw.labels.items()}
    return PointCloud(raw.xyz, attributes, labels, raw.pose, raw.time)


def named(path: str, raw: RawCloud, options: ReadOptions) -> RawCloud:
    """``raw`` with its ``table`` taken apart: by the layout for that number of columns, or else by its numbers. What
    stands beside the table under names of its own is kept."""
    table = raw.table
    if table is None:
        return raw
    if table.ndim != 2 or table.dtype.kind not in "fiu" or table.shape[1] < 3:
        raise SampleError(path, f"holds {table.dtype} {list(table.shape)}: expected numbers [points, 3 or more]")
    found = by_roles(path, table, _roles(path, table, raw.kind, options))
    found.attributes |= raw.attributes
    found.labels |= raw.labels
    found.ignored = raw.ignored
    return found


def _roles(path: str, table: np.ndarray, kind: str, options: ReadOptions) -> tuple[str, ...]:
    count = table.shape[1]
    roles = next((roles for roles in options.layouts if len(roles) == count), None)
    if roles is not None:
        at = roles.index("nx") if "nx" in roles else None
        if at is not None and not options.named and not is_normal(table[:, at : at + 3]):
            raise SampleError(path, f"its columns {at + 1} to {at + 3} are no normals, as those of other files are")
        return roles
    if options.named:
        raise SampleError(path, f"has {count} columns, and data.columns names {len(options.layouts[0])}")
    if count == 3:
        return XYZ
    if options.layouts:
        known = " or ".join(str(len(roles)) for roles in options.layouts)
        raise SampleError(path, f"has {count} columns, other files of the data set {known} (data.columns names them)")
    try:
        return guess_roles(table, kind)
    except UnclearColumnsError as error:
        raise SampleError(path, f"{error} (data.columns=[…] says which)") from error


def _shaped(path: str, name: str, values: np.ndarray, count: int) -> np.ndarray:
    values = np.asarray(values)
    values = values.reshape(-1, 1) if values.ndim == 1 else values
    widths = _WIDTHS[name]
    if values.dtype.kind not in "fiub" or values.ndim != 2 or len(values) != count or values.shape[1] not in widths:
        expected = f"[{count}, {' or '.join(map(str, widths))}]"
        raise SampleError(path, f"its {name} is {values.dtype} {list(values.shape)}: expected numbers {expected}")
    return values[:, : widths[0]]  # alpha is no colour


def normal(values: np.ndarray) -> np.ndarray:
    """Normals of length 1, float32 [N, 3]; 0 where there is none."""
    values = np.nan_to_num(np.asarray(values, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 1e-12, length, 1).astype(np.float32)


def whole(path: str, name: str, values: np.ndarray, count: int) -> np.ndarray:
    """Labels int64 [N]; -1 where they are not finite. ``SampleError`` where there are more or fewer than points, or
    they do not fit into 64 bits."""
    values = np.asarray(values)
    if values.dtype.kind not in "fiub" or values.size != count:
        raise SampleError(path, f"its {name} is {values.dtype} {list(values.shape)}, for {count} points")
    values = values.reshape(-1)
    if values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, -1)
    if values.size and (values.max() >= 2**63 or values.min() < -(2**63)):
        raise SampleError(path, f"its {name} has numbers beyond 64 bits")
    return values.astype(np.int64)
