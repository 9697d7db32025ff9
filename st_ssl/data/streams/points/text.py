"""Tables of numbers as text: ``.xyz``, ``.txt``, ``.pts``, ``.asc``, ``.csv``."""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.limits import check_points
from st_ssl.data.streams.points.base import RawCloud, ReadOptions, read_bytes
from st_ssl.data.streams.points.columns import from_fields, roles_of

_HEADER_LINES = 32
_NUMBERS = re.compile(r"[-+0-9.eEnaNifIF,;\s]+")


def read_text(path: str, options: ReadOptions) -> RawCloud:
    """One point a line; spaces, tabs, commas or semicolons between numbers; ``#`` begins a comment.

    Lines before the first one of numbers are a header: names such as ``x y z r g b`` in it tell the columns (see
    ``from_fields``), unless ``options`` name them; without names their numbers do (see ``guess_roles``). A ``.pts`` may
    begin with its size. ``SampleError`` where a header is there that is not understood.
    """
    data = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    skip, header, promised = _head(path, data)
    check_points(path, data.count(b"\n") - skip, options.max_points)
    line = data.split(b"\n", skip + 1)[skip].decode("latin-1")
    delimiter = next((mark for mark in ",;" if mark in line), None)
    table = _load(path, io.BytesIO(data), delimiter, skip)
    if promised is not None and promised != len(table):
        raise SampleError(path, f"promises {promised} points, and has {len(table)}")
    between = delimiter or ("\t" if "\t" in line else None)
    names = None if options.named else _names(path, header, between, table.shape[1])
    if names is None:
        return RawCloud(np.empty((0, 3)), table=table, kind="pts" if path.lower().endswith(".pts") else "")
    unique = [name if names.index(name) == at else f"{name} ({at + 1})" for at, name in enumerate(names)]
    return from_fields(path, dict(zip(unique, table.T, strict=True)))


def _head(path: str, data: bytes) -> tuple[int, list[str], int | None]:
    """How many lines come before the numbers, those of them that are text, and how many points they promise."""
    header: list[str] = []
    promised = None
    lines = data[: 1 << 16].split(b"\n")
    for number, raw in enumerate(lines[:_HEADER_LINES]):
        line = raw.decode("utf-8", errors="replace").strip()
        if line and _NUMBERS.fullmatch(line) and not line[0].isalpha():
            words = re.split(r"[\s,;]+", line.strip(",;"))
            if len(words) > 1:
                return number, header, promised
            promised = int(words[0][:18]) if words[0].isdecimal() else None  # what an int64 holds
        elif line:
            header.append(line)
    raise SampleError(path, f"no numbers in its first {min(len(lines), _HEADER_LINES)} lines: expected a point a line")


def _names(path: str, header: list[str], delimiter: str | None, count: int) -> list[str] | None:
    """The names of ``count`` columns that the last understood line of ``header`` has; None where it has none."""
    for line in reversed(header):
        comment = line.startswith(("#", "//", "%"))
        parts = _parts(line.lstrip("#/% "), delimiter)
        there = ", ".join(parts)
        keys = "data.columns=[…] names the columns"
        if "x" in roles_of(parts):
            if len(parts) == count:
                return parts
            if not (comment and count == 3):  # "# x y z in metres"
                counts = f"{len(parts)} names ({there}), its rows {count} numbers"
                raise SampleError(path, f"its header has {counts}; {keys}")
        elif not comment and len(parts) == count:
            raise SampleError(path, f"its header is not understood: no x, y and z among {there}; {keys}")
    return None


def _parts(line: str, delimiter: str | None) -> list[str]:
    """The names in a line: between delimiters, or words, of which units in brackets are none."""
    if delimiter is not None and delimiter in line:
        parts = line.split(delimiter)
    else:
        parts = re.split(r"[\s,;]+", re.sub(r"\s*[\[(][^\])]*[\])]", "", line))
    names = [part.strip().strip("\"'").strip() for part in parts]
    return names[:-1] if names and not names[-1] else names


def _load(path: str, file: io.BytesIO, delimiter: str | None, skip: int = 0, max_rows: int | None = None) -> np.ndarray:
    try:
        return quietly(
            file, delimiter=delimiter, skiprows=skip, max_rows=max_rows, ndmin=2, encoding="latin-1", comments="#"
        )
    except ValueError as error:
        raise SampleError(path, f"{str(error).partition(';')[0].rstrip('.')}: expected numbers") from error


def quietly(*args: Any, **options: Any) -> np.ndarray:
    """``np.loadtxt``, which does not need to tell of blank lines: their effect is a count that is checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return np.loadtxt(*args, **options)


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
