"""LAS and LAZ (ASPRS): airborne and terrestrial scans, read by laspy piece by piece."""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np

from st_ssl.core.errors import MissingDependencyError, SampleError
from st_ssl.data.streams.limits import check_points, check_unpacked
from st_ssl.data.streams.points.base import RawCloud, ReadOptions, check_file

_PIECE = 1_000_000, 1 << 26  # points, and bytes
_PANIC = "PanicException"  # of lazrs, on bytes that make no sense: no Exception, and no module to import it from
_MOST = 1024  # LAZ makes a tenth of real scans; without a bound a damaged count decompresses for ever


def read_las(path: str, options: ReadOptions) -> RawCloud:
    """Places in metres, intensity, colour where there is one, and the classification as ``segment``."""
    compressed, bytes_a_point = _check_header(path, options.max_points)
    try:
        import laspy
    except ImportError as error:
        raise MissingDependencyError("laspy", "points", f"reading {path}") from error
    if compressed and not laspy.LazBackend.Lazrs.is_available():
        raise MissingDependencyError("lazrs", "points", f"reading {path}")
    if compressed:
        _check_chunks(path)
    pieces: dict[str, list[np.ndarray]] = {}
    try:
        # Not its parallel form: that takes memory for whole chunks, whose size a damaged file exaggerates, and ends the
        # process where there is not enough. Workers are as many as the cores anyway.
        with laspy.open(path, laz_backend=laspy.LazBackend.Lazrs) as file:
            promised = file.header.point_count
            for piece in file.chunk_iterator(max(1, min(_PIECE[0], _PIECE[1] // bytes_a_point))):
                for name, values in _columns(piece).items():
                    pieces.setdefault(name, []).append(values)
    except BaseException as error:
        damage = (laspy.errors.LaspyException, OSError, ValueError, RuntimeError, OverflowError, struct.error)
        if not isinstance(error, damage) and type(error).__name__ != _PANIC:
            raise
        raise SampleError(path, f"not a LAS or LAZ file that can be read: {error}") from error
    fields = {name: np.concatenate(parts) for name, parts in pieces.items()}
    found = len(fields.get("xyz", ()))
    if found != promised:
        raise SampleError(path, f"promises {promised} points, and has {found}")
    if found == 0:
        return RawCloud(np.empty((0, 3)))
    attributes = {"intensity": fields["intensity"]}
    if "color" in fields and fields["color"].any():
        attributes["color"] = fields["color"]
    return RawCloud(fields["xyz"], attributes, {"segment": fields["segment"]})


def _check_header(path: str, most: int) -> tuple[bool, int]:
    """Whether the file is compressed, and the bytes of a point; ``SampleError`` where the header promises more than
    the file has room for, or than ``most`` points."""
    check_file(path)
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(375)
    except OSError as error:
        raise SampleError(path, f"file cannot be read: {error.strerror}") from error
    if not head.startswith(b"LASF") or len(head) < 227:
        raise SampleError(path, "not a LAS or LAZ file: it does not begin with LASF and a header")
    begin, records, kind, point, count = struct.unpack_from("<IIBHI", head, 96)
    later, more = struct.unpack_from("<IQ", head, 243) if head[25] >= 4 and len(head) == 375 else (0, 0)
    count = max(count, more)
    if begin > size:  # all that is before it is read at once
        raise SampleError(path, f"its points would be at byte {begin} of {size}")
    if 54 * records + 60 * later > size:
        raise SampleError(path, f"promises {records + later} records, and has {size} bytes")
    compressed = bool(kind & 0xC0)
    if count * max(point, 1) > size * (_MOST if compressed else 1):
        raise SampleError(path, f"promises {count} points of {point} bytes, and has {size} bytes")
    check_points(path, count, most)
    check_unpacked(path, count * max(point, 1), size, most)
    return compressed, max(point, 1)


def _check_chunks(path: str) -> None:
    """``SampleError`` where the table of chunks cannot be read, or promises more than the file has room for: lazrs
    takes memory for all of them at once, and ends the whole process where there is not enough."""
    try:
        size, chunks = _count_chunks(path)
    except OSError as error:
        raise SampleError(path, f"file cannot be read: {error.strerror}") from error
    except struct.error as error:
        raise SampleError(path, "file cannot be read: it became shorter") from error
    if chunks > size:
        raise SampleError(path, f"promises {chunks} chunks, and has {size} bytes")


def _count_chunks(path: str) -> tuple[int, int]:
    """The bytes of a file, and how many chunks it promises."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:

        def number(at: int, kind: str) -> int:
            length = struct.calcsize(kind)
            if not 0 <= at <= size - length:
                raise SampleError(path, f"not a whole LAS or LAZ file: its chunks would be at byte {at} of {size}")
            file.seek(at)
            return int(struct.unpack(kind, file.read(length))[0])

        table = number(number(96, "<I"), "<q")  # named where the points begin
        if table == -1:  # written without going back: the place stands at the very end
            table = number(size - 8, "<q")
        number(table, "<I")  # its version
        return size, number(table + 4, "<I")


def _columns(piece: Any) -> dict[str, np.ndarray]:
    columns = {
        "xyz": np.stack([piece.x, piece.y, piece.z], axis=1),
        "intensity": np.asarray(piece.intensity)[:, None],
        "segment": np.asarray(piece.classification),
    }
    if "red" in piece.array.dtype.names:
        columns["color"] = np.stack([np.asarray(piece[name]) for name in ("red", "green", "blue")], axis=1)
    return columns
