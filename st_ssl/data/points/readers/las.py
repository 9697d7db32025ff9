"""LAS and LAZ (ASPRS): airborne and terrestrial scans, read by laspy piece by piece."""

from __future__ import annotations

from typing import Any

import numpy as np

from st_ssl.data.points.readers.base import ReadOptions, check_file, color, intensity, whole
from st_ssl.errors import MissingDependencyError, SampleError
from st_ssl.types import PointCloud

_PIECE = 1_000_000


def read_las(path: str, options: ReadOptions) -> PointCloud:
    """Places in metres, intensity, colour where there is one, and the classification as ``segment``."""
    check_file(path)
    try:
        import laspy
    except ImportError as error:
        raise MissingDependencyError("laspy", "points", f"reading {path}") from error
    pieces: dict[str, list[np.ndarray]] = {}
    try:
        with laspy.open(path) as file:
            promised = file.header.point_count
            for piece in file.chunk_iterator(_PIECE):
                for name, values in _columns(piece).items():
                    pieces.setdefault(name, []).append(values)
    except (laspy.errors.LaspyException, OSError, ValueError, RuntimeError, OverflowError) as error:
        raise SampleError(path, f"not a LAS or LAZ file that can be read: {error}") from error
    fields = {name: np.concatenate(parts) for name, parts in pieces.items()}
    found = len(fields.get("xyz", ()))
    if found != promised:
        raise SampleError(path, f"promises {promised} points, and has {found}")
    if found == 0:
        return PointCloud(np.empty((0, 3)))
    attributes = {"intensity": intensity(fields["intensity"])}
    if "color" in fields and fields["color"].any():
        attributes["color"] = color(fields["color"])
    return PointCloud(fields["xyz"], attributes, {"segment": whole(fields["segment"])})


def _columns(piece: Any) -> dict[str, np.ndarray]:
    columns = {
        "xyz": np.stack([piece.x, piece.y, piece.z], axis=1),
        "intensity": np.asarray(piece.intensity)[:, None],
        "segment": np.asarray(piece.classification),
    }
    if "red" in piece.array.dtype.names:
        columns["color"] = np.stack([np.asarray(piece[name]) for name in ("red", "green", "blue")], axis=1)
    return columns
