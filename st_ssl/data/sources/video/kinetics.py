"""Kinetics-400, -600 and -700 (Kay et al., 2017): the tables that come with it, and clips named after their rows."""

from __future__ import annotations

from pathlib import Path

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place
from st_ssl.data.sources.splits import split_in, split_name
from st_ssl.data.sources.tables import Table, peek_rows
from st_ssl.data.sources.video.base import VIDEO
from st_ssl.data.sources.video.folder import VideoIndex

_COLUMNS = ("youtube_id", "time_start", "time_end")


def _tables(place: Place) -> list[Path]:
    files = place.find(lambda name: name.lower().endswith(".csv"))
    return [
        file for file in files if {name.lower() for row in peek_rows(file)[:1] for name in row}.issuperset(_COLUMNS)
    ]


def _read(place: Place) -> list[Entry]:
    """Each row is the clip ``{youtube_id}_{time_start:06d}_{time_end:06d}``, wherever below the root it is.

    Times are seconds of the original, which the clip has been cut from. Missing clips are counted and left out.
    """
    tables = _tables(place)
    if not tables:
        raise DataError(f"{place.notes}: no table with the columns {', '.join(_COLUMNS)}, as Kinetics has them")
    index = VideoIndex(place)
    for file in tables:
        table, said = Table(file, VIDEO), split_in(file.name)  # train.csv, kinetics_700_val.csv
        video, start, end = map(table.needed, _COLUMNS)
        label, split = table.column(("label",)), table.column(("split",))
        for at, values in table:
            where = f"{file}, {at}"
            first, last = (_seconds(where, name, values[name]) for name in (start, end))
            part = split_name(where, values[split]) if split and values[split] else said[0] if said else "train"
            index.add(file, at, f"{values[video]}_{first:06d}_{last:06d}", part, values[label] if label else "")
    # the official tables are many and nobody's to mend: a clip listed again under another name keeps the first
    return index.entries(tables[0], strict=False)


def _seconds(where: str, column: str, text: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where}: {column} is {text!r}, expected seconds") from error


FORMATS = (Format("kinetics", _read, _tables),)
