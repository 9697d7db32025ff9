"""Kinetics-400, -600 and -700 (Kay et al., 2017): the tables that come with it, and clips named after their rows."""

from __future__ import annotations

import re
from pathlib import Path

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, Row
from st_ssl.data.sources.splits import split_in, split_name
from st_ssl.data.sources.table_rows import Table, peek_header
from st_ssl.data.sources.video.base import VIDEO
from st_ssl.data.sources.video.folder import VideoIndex

_COLUMNS = ("youtube_id", "time_start", "time_end")


def _tables(place: Place) -> list[Path]:
    return [file for file in place.find(re.compile(r".*\.csv", re.IGNORECASE)) if {*_COLUMNS} <= {*peek_header(file)}]


def _read(place: Place) -> list[Entry]:
    """Each row is the clip ``{youtube_id}_{time_start:06d}_{time_end:06d}``, wherever below the root it is.

    Times are seconds of the original, which the clip has been cut from. Missing clips are counted and left out.
    """
    tables = _tables(place)
    if not tables:
        raise DataError(f"{place.notes}: no table with the columns {', '.join(_COLUMNS)}, as Kinetics has them")
    index = VideoIndex(place)
    rows: list[Row] = []
    for file in tables:
        rows += _rows(Table(file, VIDEO), index)
    # the official tables are many and nobody's to mend: a clip listed again under another name keeps the first
    return index.entries(tables[0], rows, strict=False)


def _rows(table: Table, index: VideoIndex) -> list[Row]:
    video, start, end = (table.needed((name,)) for name in _COLUMNS)
    label, split = table.column(("label",)), table.column(("split",))
    said = split_in(table.file.name)  # train.csv, kinetics_700_val.csv
    usual = said[0] if said else "train"
    rows = []
    for at, values in table:
        where = f"{table.file}, {at}"
        times = [_seconds(where, name, values[name]) for name in (start, end)]
        name = f"{values[video]}_{times[0]:06d}_{times[1]:06d}"
        known = values[label] if label else ""
        found = index.find([name], known)
        part = split_name(where, values[split]) if split and values[split] else usual
        if found is not None:
            rows.append(Row(table.file, at, name, Entry(found, part, {"label": known} if known else {})))
    return rows


def _seconds(where: str, column: str, text: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where}: {column} is {text!r}, expected seconds") from error


FORMATS = (Format("kinetics", _read, lambda place: bool(_tables(place))),)
