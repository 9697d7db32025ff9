"""Tables with a header: one of ours (``factors.csv``), and whatever people have."""

from __future__ import annotations

import os
import re
from functools import partial

from st_ssl.core.errors import DataError, nearest
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Kind, Place, Row, exists, listed
from st_ssl.data.sources.paths import Finder
from st_ssl.data.sources.split_files import by_split
from st_ssl.data.sources.splits import SPLITS, folder_split, split_name
from st_ssl.data.sources.table_rows import Table, peek_rows, plain

FACTORS_FILE = "factors.csv"
_BOX = ("x0", "y0", "x1", "y1")  # where the object is in the first frame: known, and not a label
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


def _path(table: Table, at: str, values: dict[str, str], column: str) -> str:
    path = values.pop(column)
    if not path:
        raise DataError(f"{table.file}, {at}: the path is empty")
    return path


def _read_factors(kind: Kind, place: Place) -> list[Entry]:
    table = Table(place.notes / FACTORS_FILE if place.notes.is_dir() else place.notes, kind)
    column = table.needed(("path",))
    rows = []
    for at, values in table:
        path = _path(table, at, values, column)
        split = split_name(f"{table.file}, {at}", values.pop("split", ""))
        labels = {name: value for name, value in values.items() if name not in _BOX and value}
        rows.append(Row(table.file, at, path, Entry(str(place.root / path), split, labels)))
    _check_rows(table, rows)
    return listed(table.file, rows, [place.root])


def _check_rows(table: Table, rows: list[Row]) -> None:
    if not rows:
        raise DataError(f"{table.file} lists no {table.kind.name}s: expected one row for each below the header")


def _read_csv(kind: Kind, place: Place) -> list[Entry]:
    table = Table(place.notes, kind)
    folders = list(dict.fromkeys((place.root, place.notes.parent)))
    finder = Finder(kind, folders)
    lines = list(table)
    column = _path_column(table, finder, lines)
    label, tags, split = table.column(LABEL), table.column(TAGS), table.column(SPLIT)
    if split is None and (split := _split_column(table, lines, [column, label, tags])):
        place.told.append(f"{table.file}: splits by its column {split!r}, whose values are all names of splits")
    names = [_path(table, at, values, column) for at, values in lines]
    below = None if split else _splits_of(names, place)
    rows = []
    for (at, values), name, path in zip(lines, names, finder.all(names), strict=True):
        said = split_name(f"{table.file}, {at}", values[split]) if split and values[split] else place.part
        entry = Entry(
            path,
            below[name.replace("\\", "/").lstrip("/").split("/")[0]] if below else said,
            {"label": values[label]} if label and values[label] else {},
            tags=_tags(values[tags]) if tags else (),
        )
        rows.append(Row(table.file, at, name, entry))
    _check_rows(table, rows)
    used = [name for name in (column, label, tags, split) if name is not None]
    _tell(place, table, used, label is not None or tags is not None)
    return listed(table.file, rows, folders)


def _path_column(table: Table, finder: Finder, lines: list[tuple[str, dict[str, str]]]) -> str:
    """Of the columns that may name files the first that does, in one of the first rows; the first one where none does.
    ``DataError`` where the header has none that is known."""
    names = table.columns(PATH)
    if not names:
        known = f"the columns are {', '.join(table.header)}; known are {_SAID}"
        likely = [name for name in table.header if any(exists(finder.one(row[name])) for _, row in lines[:_FEW])]
        near = next((found for name in table.header if (found := nearest(plain(name), PATH))), "")
        raise DataError(
            f"{table.file}, line 1: no column `path` (or filename, video, name, …){near}: "
            f"{known}{f'; {likely[0]!r} has the names of files: call it `path`' if likely else ''}"
        )
    for name in names[1:] and names:
        if any(row[name] and exists(finder.one(row[name])) for _, row in lines[:_FEW]):
            return name
    return names[0]


def _split_column(table: Table, lines: list[tuple[str, dict[str, str]]], used: list[str | None]) -> str | None:
    """The only column but those ``used`` whose values are names of splits, and not all the same."""
    found = []
    for name in table.header:
        values = {row[name].lower() for _, row in lines}
        if name not in used and len(values) > 1 and values <= SPLITS.keys():
            found.append(name)
    return found[0] if len(found) == 1 else None


def _splits_of(names: list[str], place: Place) -> dict[str, str] | None:
    """The splits by the top folders of paths, where all of these are named as splits; told."""
    tops = dict.fromkeys(name.replace("\\", "/").lstrip("/").split("/")[0] for name in names)
    if any("/" not in name.replace("\\", "/") for name in names) or not all(map(folder_split, tops)) or not tops:
        return None
    place.told.append(f"{place.notes}: splits by the folders {', '.join(tops)} in its paths")
    return {top: split for top in tops if (split := folder_split(top))}


def _tell(place: Place, table: Table, used: list[str], labelled: bool) -> None:
    others = [name for name in table.header if name not in used]
    if not others:
        return
    line = f"{table.file}: columns that are not used: {', '.join(others)}"
    if not labelled:
        near = next((found for name in others if (found := nearest(plain(name), LABEL))), "")
        line += f". It has no labels: known are {', '.join(LABEL[:9])}, …{near}"
    place.told.append(line)


def _tags(cell: str) -> tuple[str, ...]:
    """``run|jump``, ``run;jump``, ``run,jump`` or, for numbers alone, ``1 4 7``."""
    numbers = cell.split()
    parts = numbers if all(part.isdigit() for part in numbers) else re.split(r"[|;,]", cell)
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _is_csv(kind: Kind, place: Place) -> bool:
    """Whether the first line names columns: a known one for the path and none that is a path itself; or, whatever they
    are called, with the same number of cells below it, of which some are names of files, and none in it is."""
    if not place.notes.is_file():
        return False
    rows = peek_rows(place.notes)
    if not rows:
        return False
    if place.notes.suffix.lower() == ".jsonl":
        return True
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


def table_formats(kind: Kind) -> tuple[Format, Format]:
    """The formats ``factors`` and ``csv``, of files of that kind."""
    return (
        Format(
            "factors",
            partial(_read_factors, kind),
            lambda place: place.notes.is_dir() and (place.notes / FACTORS_FILE).is_file(),
            lists=True,
        ),
        by_split(Format("csv", partial(_read_csv, kind), partial(_is_csv, kind)), kind),
    )
