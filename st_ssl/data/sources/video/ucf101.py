"""UCF101 (Soomro et al., 2012): ``classInd.txt``, and ``trainlist0N.txt`` and ``testlist0N.txt`` of three splits."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from st_ssl.core.errors import DataError, nearest
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, filled_lines
from st_ssl.data.sources.video.base import VIDEO
from st_ssl.data.sources.video.folder import VideoIndex

_CLASSES = re.compile(r"classInd\.txt", re.IGNORECASE)


def _read(place: Place) -> list[Entry]:
    """Lines of the lists are ``Class/v_Class_g01_c01.avi 1``; those of a test list have no number."""
    found = place.find(_CLASSES.fullmatch)
    if not found:
        raise DataError(f"{place.notes}: no classInd.txt there, nor in ucfTrainTestlist or annotations within")
    classes, index = _classes(found[0]), VideoIndex(place)
    for part in ("train", "test"):
        lists = place.find(re.compile(rf"{part}list0{place.number}\.txt", re.IGNORECASE).fullmatch)
        if not lists:
            raise DataError(f"{found[0].parent}: no {part}list0{place.number}.txt, for data.split={place.number}")
        for at, line in filled_lines(lists[0], VIDEO):
            where, (video, *numbers) = f"{lists[0]}, line {at}", line.split()
            if len(numbers) > 1:
                raise DataError(f"{where}: {line!r}, expected `Class/video.avi` and perhaps a number")
            path = PurePosixPath(video)
            label = _label(where, path.parent.name, numbers, classes)
            # the files of one class are spelled v_HandStandPushups in some copies, like the class in others
            spelled = f"v_{label}_{'_'.join(path.name.split('_')[2:])}"
            index.add(lists[0], f"line {at}", path.name, part, label, spelled)
    return index.entries(found[0].parent)


def _classes(file: Path) -> dict[str, str]:
    """Number to name."""
    classes: dict[str, str] = {}
    for at, line in filled_lines(file, VIDEO):
        fields = line.split()
        if len(fields) != 2 or not fields[0].isdigit() or fields[0] in classes:
            raise DataError(f"{file}, line {at}: {line!r}, expected a new number and a class, as `1 Archery`")
        classes[fields[0]] = fields[1]
    if not classes:
        raise DataError(f"{file} names no classes: expected one `1 Archery` on each line")
    return classes


def _label(where: str, folder: str, numbers: list[str], classes: dict[str, str]) -> str:
    """The class by its number, and by its folder; they must say the same."""
    by_folder = next((name for name in classes.values() if name.lower() == folder.lower()), None)
    if not numbers:
        if by_folder is None:
            raise DataError(f"{where}: no class {folder!r} in classInd.txt{nearest(folder, classes.values())}")
        return by_folder
    label = classes.get(numbers[0])
    if label is None:
        raise DataError(f"{where}: no class {numbers[0]} in classInd.txt, which has {len(classes)}")
    if folder and by_folder != label:
        raise DataError(f"{where}: class {numbers[0]} is {label} in classInd.txt, but the folder is {folder}")
    return label


FORMATS = (Format("ucf101", _read, lambda place: place.find(_CLASSES.fullmatch), numbered=True),)
