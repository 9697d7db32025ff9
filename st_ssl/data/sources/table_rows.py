"""Rows of tables: separated values below a header, and JSON lines."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
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
        lines = read_lines(file, kind)
        self._rows = _objects(file, lines) if file.suffix.lower() == ".jsonl" else _cells(file, lines)
        self.header = next(self._rows, (1, []))[1]
        twice = [name for name, count in Counter(self.header).items() if count > 1]
        if twice:
            raise DataError(f"{file}, line 1: the column {twice[0]!r} is there twice, or has no name")

    def __iter__(self) -> Iterator[tuple[str, dict[str, str]]]:
        for at, row in self._rows:
            if len(row) != len(self.header):
                expected = f"expected {len(self.header)} ({', '.join(self.header)})"
                raise DataError(f"{self.file}, line {at}: {len(row)} fields, {expected}")
            yield f"line {at}", dict(zip(self.header, row, strict=True))

    def columns(self, names: Sequence[str]) -> list[str]:
        """The columns that have one of ``names`` (as ``plain`` writes them), in the order of these."""
        own = {plain(name): name for name in reversed(self.header)}
        return [own[name] for name in names if name in own]

    def column(self, names: Sequence[str]) -> str | None:
        """The first column that has one of ``names``."""
        return next(iter(self.columns(names)), None)

    def needed(self, name: str) -> str:
        """The column ``name``; ``DataError`` where there is none."""
        found = self.column([plain(name)])
        if found is None:
            known = f"{', '.join(self.header)}{nearest(name, self.header)}"
            raise DataError(f"{self.file}, line 1: no column `{name}`; the columns are {known}")
        return found


def _cells(file: Path, lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells of the rows that are not blank, the header first."""
    reader = csv.reader(lines, delimiter=delimiter(lines[0]), strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        where = f"{file}, line {reader.line_num}"
        raise DataError(f"{where}: not a table of comma-separated values: {error}") from error


def _objects(file: Path, lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """As ``_cells``, of JSON: the names in the first object are the header."""
    header: list[str] | None = None
    for at, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {at}: not JSON: {error}") from error
        if not isinstance(values, dict):
            raise DataError(f'{file}, line {at}: expected one object, as {{"file_name": "a.mp4"}}; found {line[:40]!r}')
        if header is None:
            header = list(values)
            yield at, header
        yield at, [_cell(values.get(name)) for name in header]


def _cell(value: Any) -> str:
    """Text as it is, lists of values with bars between."""
    if isinstance(value, list):
        return "|".join(map(_cell, value))
    return "" if value is None else str(value)


def plain(name: str) -> str:
    """How the name of a column is compared: in lower case, without blanks, ``-`` and ``_``."""
    return re.sub(r"[\s_-]+", "", name.lower())


def peek_lines(file: Path) -> list[str]:
    """The first lines of ``file`` that are not blank; [] where it cannot be read."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            lines = text.read(1 << 16).split("\n")
    except OSError:
        return []
    return [line for line in lines[: _FEW + 1] if line.strip()]


def peek_rows(file: Path) -> list[list[str]]:
    """The cells of the first rows of ``file`` as if it were a table, the header first; [] for no text."""
    lines = peek_lines(file)
    mark = delimiter("".join(lines[:1]))
    try:
        rows = list(csv.reader(lines, delimiter=mark))
    except csv.Error:
        rows = [line.split(mark) for line in lines]
    return [[cell.strip() for cell in row] for row in rows]


def delimiter(line: str) -> str:
    """What separates the cells of a header: the mark that is there most often."""
    return max(_DELIMITERS, key=line.count)
