"""HMDB51 (Kuehne et al., 2011): one ``<class>_test_splitN.txt`` for each class and each of three splits."""

from __future__ import annotations

import re
from pathlib import Path

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, filled_lines
from st_ssl.data.sources.video.base import VIDEO
from st_ssl.data.sources.video.folder import VideoIndex

_LISTS = re.compile(r"(.+)_test_split(\d+)\.txt", re.IGNORECASE)
_PARTS = {"0": None, "1": "train", "2": "test"}


def _read(place: Place) -> list[Entry]:
    """Lines are ``video.avi 1``: 1 is training, 2 is test, 0 is in neither part of this split and left out."""
    lists: dict[str, list[tuple[Path, str]]] = {}
    for file in place.find(_LISTS.fullmatch):
        if name := _LISTS.fullmatch(file.name):
            lists.setdefault(name[2], []).append((file, name[1]))
    number = str(place.number)
    if number not in lists:
        known = f"there are splits {', '.join(sorted(lists))}" if lists else "nor in testTrainMulti_7030_splits within"
        raise DataError(f"{place.notes}: no <class>_test_split{number}.txt there; {known}")
    index = VideoIndex(place)
    for file, label in lists[number]:
        for at, line in filled_lines(file, VIDEO):
            video, *part = line.rsplit(maxsplit=1)  # some names begin with #: there are no comments
            if not part or part[0] not in _PARTS:
                raise DataError(f"{file}, line {at}: {line!r}, expected a video and 0, 1 (train) or 2 (test)")
            if split := _PARTS[part[0]]:
                index.add(file, f"line {at}", video, split, label)
    return index.entries(lists[number][0][0].parent)


FORMATS = (Format("hmdb51", _read, lambda place: place.find(_LISTS.fullmatch), numbered=True),)
