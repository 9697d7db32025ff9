"""Any folder of clouds, scenes among them: its folders are splits and labels."""

from __future__ import annotations

import os
from collections import Counter

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, folder_entry, walk
from st_ssl.data.sources.points.base import EXTENSIONS
from st_ssl.data.streams.points import is_cloud, is_scene


def _read(place: Place) -> list[Entry]:
    root = place.root
    if place.notes != root:
        raise DataError(f"data.format=folder reads no list: leave {place.notes} out, or name the format of the list")
    seen: Counter[str] = Counter()
    clouds = walk(root, seen, is_cloud, lambda folder, folders, files: is_scene(folder))
    found = sorted(clouds, key=lambda path: os.fsencode(path.as_posix()))
    # beside clouds of other kinds these are notes and lists: README.txt, classes.csv
    found = [path for path in found if path.suffix.lower() not in (".txt", ".csv")] or found
    if found:
        return [folder_entry(root, path) for path in found]
    kinds = " ".join(suffix.removeprefix(".") for suffix in EXTENSIONS)
    if not seen:
        raise DataError(f"{root} is empty: expected clouds ({kinds}), or folders that are scenes")
    instead = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in seen.most_common(5))
    raise DataError(f"{root} holds no clouds: looked for {kinds}, or folders that are scenes; found {instead}")


FORMATS = (Format("folder", _read, lambda place: place.notes == place.root),)
