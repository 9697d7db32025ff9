"""Tables of numbers as text: ``.xyz``, ``.txt``, ``.pts``, ``.asc``, ``.csv``."""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.core.types import PointCloud
from st_ssl.data.streams.limits import check_points
from st_ssl.data.streams.points.base import ReadOptions, from_columns, from_fields, read_bytes

_HEADER_LINES = 32
_NUMBERS = re.compile(r"[-+0-9.eEnaNifIF,;\s]+")


def read_text(path: str, options: ReadOptions) -> PointCloud:
    """One point a line; spaces, tabs, commas or semicolons between numbers; ``#`` begins a comment.

    Lines before the first one of numbers are a header: names such as ``x y z r g b`` in it tell the columns (see
    ``from_fields``), otherwise their number does (see ``from_columns``). A ``.pts`` may begin with its size.
    """
    data = read_bytes(path)
    skip, names, promised = _head(path, data)
    check_points(path, data.count(b"\n") - skip, options.max_points)
    line = data.split(b"\n", skip + 1)[skip]
    delimiter = next((mark for mark in (",", ";") if mark.encode() in line), None)
    table = _load(path, io.BytesIO(data), delimiter, skip)
    if promised is not None and promised != len(table):
        raise SampleError(path, f"promises {promised} points, and has {len(table)}")
    if names is not None and len(names) == table.shape[1]:
        return from_fields(path, dict(zip(names, table.T, strict=True)))
    return from_columns(path, table, intensity_first=path.lower().endswith(".pts"))


def _head(path: str, data: bytes) -> tuple[int, list[str] | None, int | None]:
    """How many lines come before the numbers, the names in them if any, and how many points they promise."""
    names = promised = None
    lines = data[: 1 << 16].split(b"\n")
    for number, raw in enumerate(lines[:_HEADER_LINES]):
        line = raw.decode("latin-1").strip()
        words = re.split(r"[\s,;]+", line.strip(",;"))
        if line and _NUMBERS.fullmatch(line) and not line[0].isalpha():
            if len(words) > 1:
                return number, names, promised
            promised = int(words[0][:18]) if words[0].isdecimal() else None  # what an int64 holds
        known = [word.strip('"').lower() for word in re.split(r"[\s,;]+", line.lstrip("#/ "))]
        if {"x", "y", "z"} <= set(known):
            names = known
    raise SampleError(path, f"no numbers in its first {min(len(lines), _HEADER_LINES)} lines: expected a point a line")


def _load(path: str, file: io.BytesIO, delimiter: str | None, skip: int = 0, max_rows: int | None = None) -> np.ndarray:
    try:
        return quietly(
            file, delimiter=delimiter, skiprows=skip, max_rows=max_rows, ndmin=2, encoding="latin-1", comments="#"
        )
    except ValueError as error:
        raise SampleError(path, f"{_line(str(error), skip)}: expected numbers") from error


def quietly(*args: Any, **options: Any) -> np.ndarray:
    """``np.loadtxt``, which does not need to tell of blank lines: their effect is a count that is checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return np.loadtxt(*args, **options)


def _line(message: str, skip: int) -> str:
    """NumPy's message in terms of lines, counted from 1 (blank lines and comments are not counted by it)."""
    message = message.split(";")[0].rstrip(".")
    return re.sub(r"at row (\d+)", lambda row: f"about line {int(row[1]) + skip + 1}", message)


def parse_rows(path: str, body: bytes | memoryview, count: int, columns: int) -> np.ndarray:
    """``count`` lines of ``columns`` numbers, float64: the text part of a file whose header promises them."""
    if 2 * count * columns > len(body) + 1:
        raise SampleError(path, f"promises {count} points of {columns} numbers, and has {len(body)} bytes for them")
    if count == 0:
        return np.empty((0, columns))
    rows = _load(path, io.BytesIO(body), None, max_rows=count)
    if rows.shape != (count, columns):
        raise SampleError(path, f"promises {count} points of {columns} numbers, and has {list(rows.shape)}")
    return rows
