"""UCF101 (Soomro et al., 2012): ``classInd.txt``, and ``trainlist0N.txt`` and ``testlist0N.txt`` of three splits."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from st_ssl.core.errors import DataError, nearest
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, Row
from st_ssl.data.sources.video.base import read_lines
from st_ssl.data.sources.video.folder import VideoIndex

_CLASSES = re.compile(r"classInd\.txt", re.IGNORECASE)


def _read(place: Place) -> list[Entry]:
    """Lines of the lists are ``Class/v_Class_g01_c01.avi 1``; those of a test list have no number."""
    found = place.find(_CLASSES)
    if not found:
        raise DataError(f"{place.notes}: no classInd.txt there, nor in ucfTrainTestlist or annotations within")
    classes = _classes(found[0])
    index = VideoIndex(place)
    rows: list[Row] = []
    for part in ("train", "test"):
        lists = place.find(re.compile(rf"{part}list0{place.number}\.txt", re.IGNORECASE))
        if not lists:
            raise DataError(f"{found[0].parent}: no {part}list0{place.number}.txt, for data.split={place.number}")
        rows += _rows(lists[0], part, classes, index)
    return index.entries(found[0].parent, rows)


def _classes(file: Path) -> dict[str, str]:
    """Number to name."""
    classes: dict[str, str] = {}
    for at, line in enumerate(read_lines(file), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not fields[0].isdigit() or fields[0] in classes:
            raise DataError(f"{file}, line {at}: {line.strip()!r}, expected a new number and a class, as `1 Archery`")
        classes[fields[0]] = fields[1]
    if not classes:
        raise DataError(f"{file} names no classes: expected one `1 Archery` on each line")
    return classes


def _rows(file: Path, split: str, classes: dict[str, str], index: VideoIndex) -> list[Row]:
    rows = []
    for at, line in enumerate(read_lines(file), 1):
        fields = line.split()
        if not fields:
            continue
        where = f"{file}, line {at}"
        if len(fields) > 2:
            raise DataError(f"{where}: {line.strip()!r}, expected `Class/video.avi` and perhaps a number")
        path = PurePosixPath(fields[0])
        label = _label(where, path, fields[1] if len(fields) == 2 else None, classes)
        # the files of one class are spelled v_HandStandPushups in some copies, like the class in others
        spelled = f"v_{label}_{'_'.join(path.name.split('_')[2:])}"
        found = index.find([path.name, spelled], label)
        if found is not None:
            rows.append(Row(file, f"line {at}", fields[0], Entry(found, split, {"label": label})))
    return rows


def _label(where: str, path: PurePosixPath, number: str | None, classes: dict[str, str]) -> str:
    """The class by its number, and by its folder; they must say the same."""
    folder = path.parent.name
    by_folder = next((name for name in classes.values() if name.lower() == folder.lower()), None)
    if number is None:
        if by_folder is None:
            raise DataError(f"{where}: no class {folder!r} in classInd.txt{nearest(folder, classes.values())}")
        return by_folder
    if number not in classes:
        raise DataError(f"{where}: no class {number} in classInd.txt, which has {len(classes)}")
    if folder and by_folder != classes[number]:
        raise DataError(f"{where}: class {number} is {classes[number]} in classInd.txt, but the folder is {folder}")
    return classes[number]


FORMATS = (Format("ucf101", _read, lambda place: bool(place.find(_CLASSES)), numbered=True),)
