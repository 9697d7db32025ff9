"""HMDB51 (Kuehne et al., 2011): one ``<class>_test_splitN.txt`` for each class and each of three splits."""

from __future__ import annotations

import re

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, Row
from st_ssl.data.sources.video.base import read_lines
from st_ssl.data.sources.video.folder import VideoIndex

_LISTS = re.compile(r"(.+)_test_split(\d+)\.txt", re.IGNORECASE)
_PARTS = {"0": None, "1": "train", "2": "test"}


def _read(place: Place) -> list[Entry]:
    """Lines are ``video.avi 1``: 1 is training, 2 is test, 0 is in neither part of this split and left out."""
    names = {file: name for file in place.find(_LISTS) if (name := _LISTS.fullmatch(file.name)) is not None}
    numbers = sorted({name[2] for name in names.values()})
    if str(place.number) not in numbers:
        known = f"there are splits {', '.join(numbers)}" if numbers else "nor in testTrainMulti_7030_splits within"
        raise DataError(f"{place.notes}: no <class>_test_split{place.number}.txt there; {known}")
    index = VideoIndex(place)
    rows = []
    for file, name in names.items():
        if name[2] != str(place.number):
            continue
        for at, line in enumerate(read_lines(file), 1):
            fields = line.rsplit(maxsplit=1)  # some names begin with #: there are no comments
            if not fields:
                continue
            if len(fields) != 2 or fields[1] not in _PARTS:
                raise DataError(f"{file}, line {at}: {line.strip()!r}, expected a video and 0, 1 (train) or 2 (test)")
            video, part = fields[0].strip(), _PARTS[fields[1]]
            found = index.find([video], name[1]) if part else None
            if part and found is not None:
                rows.append(Row(file, f"line {at}", video, Entry(found, part, {"label": name[1]})))
    return index.entries(next(iter(names)).parent, rows)


FORMATS = (Format("hmdb51", _read, lambda place: bool(place.find(_LISTS)), numbered=True),)
