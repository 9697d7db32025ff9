"""Tables with a header: one of ours (``factors.csv``), and whatever people have."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from st_ssl.core.errors import DataError, nearest
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Kind, Place, Row, listed, read_lines, resolve, split_name

FACTORS_FILE = "factors.csv"
_BOX = ("x0", "y0", "x1", "y1")  # where the object is in the first frame: known, and not a label
_DELIMITERS = ",\t;"
# What people call a column, in any case; the first of these that a table has is taken.
_PATH = ("path", "filename", "file_name", "filepath", "file_path", "video_path", "video", "file", "clip")
_LABEL = ("label", "class", "class_name", "label_name", "category", "action", "target")
_TAGS = ("tags", "labels", "classes")
_SPLIT = ("split", "subset", "partition", "set")


class Table:
    """Comma-, tab- or semicolon-separated values below a ``header``, as the first line has them; goes through its rows
    as (place, values by column). ``DataError`` with the line where it is none."""

    def __init__(self, file: Path, kind: Kind) -> None:
        self.file, self.kind = file, kind
        lines = read_lines(file, kind)
        self._rows = csv.reader(lines, delimiter=_delimiter(lines[0]), strict=True)
        self.header = [name.strip() for name in self._next() or []]
        twice = [name for name, count in Counter(self.header).items() if count > 1]
        if twice:
            raise DataError(f"{file}, line 1: the column {twice[0]!r} is there twice, or has no name")

    def _next(self) -> list[str] | None:
        try:
            return next(self._rows, None)
        except csv.Error as error:
            where = f"{self.file}, line {self._rows.line_num}"
            raise DataError(f"{where}: not a table of comma-separated values: {error}") from error

    def __iter__(self) -> Iterator[tuple[str, dict[str, str]]]:
        while (row := self._next()) is not None:
            if not any(value.strip() for value in row):
                continue
            at = f"line {self._rows.line_num}"
            if len(row) != len(self.header):
                expected = f"expected {len(self.header)} ({', '.join(self.header)})"
                raise DataError(f"{self.file}, {at}: {len(row)} fields, {expected}")
            yield at, dict(zip(self.header, (value.strip() for value in row), strict=True))

    def column(self, names: tuple[str, ...]) -> str | None:
        """The column that has one of ``names``, in any case."""
        own = {name.lower(): name for name in self.header}
        return next((own[name] for name in names if name in own), None)

    def needed(self, names: tuple[str, ...]) -> str:
        """As ``column``; ``DataError`` where there is none."""
        found = self.column(names)
        if found is None:
            known = f"{', '.join(self.header)}{nearest(names[0], self.header)}"
            others = f" (or {', '.join(names[1:])})" if names[1:] else ""
            raise DataError(f"{self.file}, line 1: no column `{names[0]}`{others}; the columns are {known}")
        return found


def peek_header(file: Path) -> list[str]:
    """The names in the first line of ``file``, in lower case, as if it were the header of a table; [] for no text."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            line = text.readline(1 << 16)
    except OSError:
        return []
    return [name.strip().strip('"').lower() for name in line.split(_delimiter(line))]


def _delimiter(line: str) -> str:
    return max(_DELIMITERS, key=line.count)


def _path(table: Table, at: str, values: dict[str, str], column: str) -> str:
    path = values.pop(column)
    if not path:
        raise DataError(f"{table.file}, {at}: the path is empty")
    return path


def _factors_file(place: Place) -> Path:
    return place.notes / FACTORS_FILE if place.notes.is_dir() else place.notes


def _read_factors(kind: Kind, place: Place) -> list[Entry]:
    table = Table(_factors_file(place), kind)
    column = table.needed(("path",))
    rows = []
    for at, values in table:
        path = _path(table, at, values, column)
        split = split_name(f"{table.file}, {at}", values.pop("split", ""))
        labels = {name: value for name, value in values.items() if name not in _BOX and value}
        rows.append(Row(table.file, at, path, Entry(str(place.root / path), split, labels)))
    return _listed(table, rows, [place.root])


def _listed(table: Table, rows: list[Row], folders: list[Path]) -> list[Entry]:
    if not rows:
        raise DataError(f"{table.file} lists no {table.kind.name}s: expected one row for each below the header")
    return listed(table.file, rows, folders)


def _read_csv(kind: Kind, place: Place) -> list[Entry]:
    table = Table(place.notes, kind)
    column, label = table.needed(_PATH), table.column(_LABEL)
    tags, split = table.column(_TAGS), table.column(_SPLIT)
    folders = list(dict.fromkeys((place.root, place.notes.parent)))
    rows = []
    for at, values in table:
        path = _path(table, at, values, column)
        entry = Entry(
            resolve(path, folders),
            split_name(f"{table.file}, {at}", values[split]) if split else "train",
            {"label": values[label]} if label and values[label] else {},
            tags=_tags(values[tags]) if tags else (),
        )
        rows.append(Row(table.file, at, path, entry))
    return _listed(table, rows, folders)


def _tags(cell: str) -> tuple[str, ...]:
    """``run|jump``, ``run;jump``, ``run,jump`` or, for numbers alone, ``1 4 7``."""
    numbers = cell.split()
    parts = numbers if all(part.isdigit() for part in numbers) else re.split(r"[|;,]", cell)
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _is_csv(kind: Kind, place: Place) -> bool:
    """Whether the first line names columns: one for the path, and none that is a path itself."""
    if not place.notes.is_file():
        return False
    names = peek_header(place.notes)
    # a list of paths may begin with a folder of that name
    alone = len(names) == 1 and os.path.exists(place.root / names[0])
    return any(name in _PATH for name in names) and not alone and not any(map(kind.is_file, " ".join(names).split()))


def table_formats(kind: Kind) -> tuple[Format, Format]:
    """The formats ``factors`` and ``csv``, of files of that kind."""
    return (
        Format(
            "factors",
            partial(_read_factors, kind),
            lambda place: place.notes.is_dir() and _factors_file(place).is_file(),
        ),
        Format("csv", partial(_read_csv, kind), partial(_is_csv, kind)),
    )
