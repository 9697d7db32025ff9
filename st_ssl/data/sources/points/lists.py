"""Lists of clouds: one on each line, a file, an item of one (``a.h5#3``) or a scene, and perhaps its label."""

from __future__ import annotations

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, Row, listed, read_lines
from st_ssl.data.sources.list_lines import check_labels, separator_hint, split_lines
from st_ssl.data.sources.paths import Finder
from st_ssl.data.sources.points.base import CLOUD
from st_ssl.data.sources.split_files import by_split
from st_ssl.data.streams.points import is_cloud, split_item


def _read(place: Place) -> list[Entry]:
    file = place.notes
    lines = split_lines(read_lines(file, CLOUD), lambda word: is_cloud(split_item(word)[0]), 1)
    if not lines:
        raise DataError(f"{file} lists no clouds: expected one `path label`, or one path, on each line")
    check_labels(file, lines)
    folders = list(dict.fromkeys((place.root, file.parent)))
    rows = []
    paths = Finder(CLOUD, folders).all([line.path for line in lines])
    for line, path in zip(lines, paths, strict=True):
        label = {"label": " ".join(line.fields)} if line.fields else {}
        rows.append(Row(file, f"line {line.at}", line.path, Entry(path, place.part, label)))
    return listed(file, rows, folders, separator_hint(lines[0]))


def _matches(place: Place) -> bool:
    """Any file that is named and can be no cloud: a text file may be either, and is a list."""
    name = place.notes.name.lower()
    return place.notes.is_file() and (name.endswith((".txt", ".csv")) or not is_cloud(name))


FORMATS = (by_split(Format("list", _read, _matches), CLOUD),)
