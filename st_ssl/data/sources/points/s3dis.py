"""S3DIS (Armeni et al., 2016): six areas of rooms, as they come or in Pointcept's form. ScanNet is a plain folder."""

from __future__ import annotations

import re

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place
from st_ssl.data.sources.points.base import subfolders
from st_ssl.data.streams.points import is_scene

_AREA = re.compile(r"Area_(\d)")
_ROOM = re.compile(r"(.+)_\d+")
_HELD_OUT = 5  # what papers report where they report one


def _read(place: Place) -> list[Entry]:
    """``Area_1/office_1``: the area ``data.split`` is "test" (5 if nothing is said) and the others are "train". The
    label is the kind of room."""
    areas = {int(found[1]): path for path in subfolders(place.root) if (found := _AREA.fullmatch(path.name))}
    test = place.split or _HELD_OUT
    if not areas:
        raise DataError(f"{place.root}: no folders Area_1, Area_2, … there, as S3DIS has them")
    if place.split is not None and test not in areas:
        raise DataError(f"data.split={test}: no Area_{test} in {place.root}; there are areas {sorted(areas)}")
    entries = [
        Entry(str(room), "test" if number == test else "train", {"label": kind[1]})
        for number, area in sorted(areas.items())
        for room in subfolders(area)
        if (kind := _ROOM.fullmatch(room.name)) and is_scene(str(room))
    ]
    if not entries:
        raise DataError(f"{place.root}: no rooms in its areas: expected folders with Annotations or coord.npy in them")
    return entries


def _matches(place: Place) -> bool:
    return place.notes == place.root and any(_AREA.fullmatch(path.name) for path in subfolders(place.root))


FORMATS = (Format("s3dis", _read, _matches, numbered=True),)
