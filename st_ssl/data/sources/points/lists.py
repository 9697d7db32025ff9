"""Lists of clouds: one on each line, a file, an item of one (``a.h5#3``) or a scene, and perhaps its label."""

from __future__ import annotations

from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, Row, listed
from st_ssl.data.sources.list_lines import check_labels, read_list, separator_hint
from st_ssl.data.sources.paths import Finder
from st_ssl.data.sources.points.base import CLOUD
from st_ssl.data.sources.split_files import by_split
from st_ssl.data.streams.points import is_cloud, split_item


def _read(place: Place) -> list[Entry]:
    file = place.notes
    lines = read_list(file, CLOUD, lambda word: is_cloud(split_item(word)[0]), 1)
    check_labels(file, lines)
    finder = Finder(CLOUD, [place.root, file.parent])
    rows = []
    for line, path in zip(lines, finder.all([line.path for line in lines]), strict=True):
        label = {"label": " ".join(line.fields)} if line.fields else {}
        rows.append(Row(file, f"line {line.at}", line.path, Entry(path, place.part, label)))
    return listed(CLOUD, file, rows, finder.folders, separator_hint(lines[0]))


def _matches(place: Place) -> bool:
    """Any file that is named and can be no cloud: a text file may be either, and is a list."""
    name = place.notes.name.lower()
    return place.notes.is_file() and (name.endswith((".txt", ".csv")) or not is_cloud(name))


FORMATS = (by_split(Format("list", _read, _matches), CLOUD),)
