"""Tables with a header, separated values or JSON lines: one of ours (``factors.csv``), and whatever people have."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from st_ssl.core.errors import DataError, nearest
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Kind, Place, Row, exists, listed, read_lines
from st_ssl.data.sources.list_lines import peek_lines
from st_ssl.data.sources.paths import Finder
from st_ssl.data.sources.split_files import by_split
from st_ssl.data.sources.splits import SPLITS, folder_split, split_name

FACTORS_FILE = "factors.csv"
_NO_LABELS = ("x0", "y0", "x1", "y1", "cut_frames")  # where the object is, and shots begin: known, and no label
# What people call a column, in any case and with blanks, - and _ left out.
PATH = (
    *("path", "filename", "filepath", "videopath", "clippath", "cloudpath", "framespath", "relpath", "relativepath"),
    *("video", "file", "clip", "cloud", "scan", "scene", "videofile", "videofilename", "videoname", "clipname"),
    *("cloudname", "scenename", "name", "videoid", "clipid", "youtubeid", "ytid", "fileid", "sceneid", "uid", "id"),
)
LABEL = (
    *("label", "class", "classname", "labelname", "category", "categoryname", "action", "actionname", "target"),
    *("activity", "gesture", "gloss", "actionlabel", "actionclass", "classlabel", "videolabel", "labeltext", "y"),
    *("labelid", "classid", "categoryid", "actionid", "targetid", "labelidx", "classidx", "labelindex", "classindex"),
)
TAGS = ("tags", "labels", "classes")
SPLIT = ("split", "subset", "partition", "set", "phase", "usage", "datasplit")
_SAID = "path, video_name, clip_id, id, … for the file; label, class, category, action, … ; split, subset, set; tags"
_FEW = 64
_DELIMITERS = ",\t;|"


def _read_factors(kind: Kind, place: Place) -> list[Entry]:
    table = Table(place.notes / FACTORS_FILE if place.notes.is_dir() else place.notes, kind)
    column = table.needed("path")
    rows = []
    for at, values in table:
        path = values.pop(column)
        split = split_name(f"{table.file}, {at}", values.pop("split", ""))
        labels = {name: value for name, value in values.items() if name not in _NO_LABELS and value}
        rows.append(Row(table.file, at, path, Entry(str(place.root / path), split, labels)))
    return listed(kind, table.file, rows, [str(place.root)])


def _read_csv(kind: Kind, place: Place) -> list[Entry]:
    table = Table(place.notes, kind)
    finder = Finder(kind, [place.root, place.notes.parent])
    lines = list(table)
    column = _path_column(table, finder, lines)
    label, tags, split = table.column(LABEL), table.column(TAGS), table.column(SPLIT)
    if split is None and (split := _split_column(table, lines, [column, label, tags])):
        place.tell(f"{table.file}: splits by its column {split!r}, whose values are all names of splits")
    names = [values[column] for _, values in lines]
    tops = _split_folders(names, place) if split is None else {}
    rows = []
    for (at, values), name, path in zip(lines, names, finder.all(names), strict=True):
        said = split_name(f"{table.file}, {at}", values[split]) if split and values[split] else place.part
        labels = {"label": values[label]} if label and values[label] else {}
        entry = Entry(path, tops.get(_top(name), said), labels, tags=_tags(values[tags]) if tags else ())
        rows.append(Row(table.file, at, name, entry))
    if others := [name for name in table.header if name not in (column, label, tags, split)]:
        line = f"{table.file}: columns that are not used: {', '.join(others)}"
        if label is None and tags is None:
            line += f". It has no labels: known are {', '.join(LABEL[:9])}, …{_nearest(others, LABEL)}"
        place.tell(line)
    return listed(kind, table.file, rows, finder.folders)


def _nearest(names: Sequence[str], known: Sequence[str]) -> str:
    """As ``nearest``, of the first of ``names`` that is near to any."""
    return next((near for name in names if (near := nearest(plain(name), known))), "")


def _path_column(table: Table, finder: Finder, lines: list[tuple[str, dict[str, str]]]) -> str:
    """Of the columns that may name files the first that does, in one of the first rows; the first one where none does.
    ``DataError`` where the header has none that is known."""

    def naming(names: list[str]) -> str | None:
        return next((n for n in names if any(row[n] and exists(finder.one(row[n])) for _, row in lines[:_FEW])), None)

    names = table.columns(PATH)
    if not names:
        missing = f"no column `path` (or filename, video, name, …){_nearest(table.header, PATH)}"
        likely = naming(table.header)
        hint = f"; {likely!r} has the names of files: call it `path`" if likely else ""
        known = f"the columns are {', '.join(table.header)}; known are {_SAID}{hint}"
        raise DataError(f"{table.file}, line 1: {missing}: {known}")
    return names[0] if len(names) == 1 else naming(names) or names[0]


def _split_column(table: Table, lines: list[tuple[str, dict[str, str]]], used: list[str | None]) -> str | None:
    """The only column but those ``used`` whose values are names of splits, and not all the same."""
    values = {name: {row[name].lower() for _, row in lines} for name in table.header if name not in used}
    found = [name for name, own in values.items() if len(own) > 1 and own <= SPLITS.keys()]
    return found[0] if len(found) == 1 else None


def _top(name: str) -> str:
    """The first folder of a path."""
    return name.replace("\\", "/").lstrip("/").split("/")[0]


def _split_folders(names: list[str], place: Place) -> dict[str, str]:
    """The split of each path by its top folder, if every top folder has the name of a split (it is told); else none."""
    tops = {top: folder_split(top) for top in map(_top, names)}
    found = {top: split for top, split in tops.items() if split}
    if not found or len(found) < len(tops) or any("/" not in name.replace("\\", "/") for name in names):
        return {}
    place.tell(f"{place.notes}: splits by the folders {', '.join(tops)} in its paths")
    return found


def _tags(cell: str) -> tuple[str, ...]:
    """``run|jump``, ``run;jump``, ``run,jump`` or, for numbers alone, ``1 4 7``."""
    numbers = cell.split()
    parts = numbers if all(part.isdigit() for part in numbers) else re.split(r"[|;,]", cell)
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _is_csv(kind: Kind, place: Place) -> bool:
    """Whether the first line names columns: a known one for the path and none that is a path itself; or, whatever they
    are called, with the same number of cells below it, of which some are names of files, and none in it is."""
    rows = peek_rows(place.notes) if place.notes.is_file() else []
    if not rows or place.notes.suffix.lower() == ".jsonl":
        return bool(rows)
    names = rows[0]
    finder = Finder(kind, [place.root, place.notes.parent])
    # a list of paths may begin with a folder of that name
    alone = len(names) == 1 and os.path.exists(place.root / names[0])
    if alone or any(map(kind.is_file, " ".join(names).split())):
        return False
    if any(plain(name) in PATH for name in names):
        return True
    if len(names) < 2 or len({len(row) for row in rows}) > 1 or any(exists(finder.one(name)) for name in names if name):
        return False
    return any(cell and (kind.is_file(cell) or exists(finder.one(cell))) for row in rows[1:] for cell in row)


class Table:
    """Values below a ``header``, separated by comma, tab, semicolon or bar, or JSON objects, one a line (``.jsonl``);
    goes through its rows as (place, values by column). ``DataError`` with the line where it is none."""

    def __init__(self, file: Path, kind: Kind) -> None:
        self.file, self.kind = file, kind
        lines = read_lines(file, kind)
        self._rows = _objects(file, lines) if file.suffix.lower() == ".jsonl" else _cells(file, lines)
        self._at, self.header = next(self._rows, (1, []))
        twice = [name for name, count in Counter(self.header).items() if count > 1]
        if twice:
            raise DataError(f"{file}, line {self._at}: the column {twice[0]!r} is there twice, or has no name")

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
            raise DataError(f"{self.file}, line {self._at}: no column `{name}`; the columns are {known}")
        return found


def _cells(file: Path, lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells of the rows that are not blank, the header first."""
    first = next((line for line in lines if line.strip()), "")
    reader = csv.reader(lines, delimiter=delimiter(first), strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: not a table of comma-separated values: {error}") from error


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


def table_formats(kind: Kind) -> tuple[Format, Format]:
    """The formats ``factors`` and ``csv``, of files of that kind."""
    factors = partial(_read_factors, kind)
    return (
        Format("factors", factors, lambda place: (place.notes / FACTORS_FILE).is_file(), lists=True),
        by_split(Format("csv", partial(_read_csv, kind), partial(_is_csv, kind)), kind),
    )
