"""Rows of tables: separated values below a header, and JSON lines."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from st_ssl.core.errors import DataError, nearest
from st_ssl.data.sources.base import Kind, read_lines

_DELIMITERS = ",\t;|"
_FEW = 20


class Table:
    """Values below a ``header``, separated by comma, tab, semicolon or bar, or JSON objects, one a line (``.jsonl``);
    goes through its rows as (place, values by column). ``DataError`` with the line where it is none."""

    def __init__(self, file: Path, kind: Kind) -> None:
        self.file, self.kind = file, kind
        self._lines = read_lines(file, kind)
        self._objects = file.suffix.lower() == ".jsonl"
        if self._objects:
            first = next(((at, line) for at, line in enumerate(self._lines, 1) if line.strip()), None)
            self.header = list(_object(file, *first)) if first else []
            return
        self._rows = csv.reader(self._lines, delimiter=delimiter(self._lines[0]), strict=True)
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
        if self._objects:
            for at, line in enumerate(self._lines, 1):
                if line.strip():
                    values = _object(self.file, at, line)
                    yield f"line {at}", {name: values.get(name, "") for name in self.header}
            return
        while (row := self._next()) is not None:
            if not any(value.strip() for value in row):
                continue
            where = f"line {self._rows.line_num}"
            if len(row) != len(self.header):
                expected = f"expected {len(self.header)} ({', '.join(self.header)})"
                raise DataError(f"{self.file}, {where}: {len(row)} fields, {expected}")
            yield where, dict(zip(self.header, (value.strip() for value in row), strict=True))

    def columns(self, names: tuple[str, ...]) -> list[str]:
        """The columns that have one of ``names`` (as ``plain`` writes them), in the order of these."""
        own: dict[str, str] = {}
        for name in self.header:
            own.setdefault(plain(name), name)
        return [own[name] for name in names if name in own]

    def column(self, names: tuple[str, ...]) -> str | None:
        """The first column that has one of ``names``."""
        return next(iter(self.columns(names)), None)

    def needed(self, names: tuple[str, ...]) -> str:
        """As ``column``; ``DataError`` where there is none."""
        own = {name.lower(): name for name in self.header}
        found = next((own[name] for name in names if name in own), None)
        if found is None:
            known = f"{', '.join(self.header)}{nearest(names[0], self.header)}"
            raise DataError(f"{self.file}, line 1: no column `{names[0]}`; the columns are {known}")
        return found


def _object(file: Path, at: int, line: str) -> dict[str, str]:
    """One line of JSON: text as it is, lists of values with bars between."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}, line {at}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f'{file}, line {at}: expected one object, as {{"file_name": "a.mp4"}}; found {line[:40]!r}')
    return {str(name): _cell(value) for name, value in values.items()}


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(map(_cell, value))
    return "" if value is None else str(value)


def plain(name: str) -> str:
    """How the name of a column is compared: in lower case, without blanks, ``-`` and ``_``."""
    return re.sub(r"[\s_-]+", "", name.lower())


def peek_rows(file: Path) -> list[list[str]]:
    """The cells of the first rows of ``file`` as if it were a table, the header first; [] for no text."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            lines = text.read(1 << 16).split("\n")
    except OSError:
        return []
    lines = [line for line in lines[: _FEW + 1] if line.strip()]
    if not lines:
        return []
    try:
        rows = list(csv.reader(lines, delimiter=delimiter(lines[0])))
    except csv.Error:
        rows = [line.split(delimiter(lines[0])) for line in lines]
    return [[cell.strip() for cell in row] for row in rows]


def peek_header(file: Path) -> list[str]:
    """The names in the first line of ``file``, in lower case, as if it were the header of a table; [] for no text."""
    return [name.lower() for name in next(iter(peek_rows(file)), [])]


def delimiter(line: str) -> str:
    """What separates the cells of a header: the mark that is there most often."""
    return max(_DELIMITERS, key=line.count)
