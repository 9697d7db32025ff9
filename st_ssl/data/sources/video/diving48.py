"""Diving48 (Li et al., 2018): JSON files of videos and numbered classes, a vocabulary, and ``rgb/<name>.mp4``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, read_json
from st_ssl.data.sources.video.base import VIDEO
from st_ssl.data.sources.video.folder import VideoIndex

# The second version has the labels of 2020, which papers since then use.
_FILES = re.compile(r"Diving48_(V2_)?(train|test)\.json", re.IGNORECASE)
_VOCABULARY = "Diving48_vocab.json"
_EXPECTED = '{"vid_name": "-mmq0PT-u8k_00155", "label": 0}'


def _read(place: Place) -> list[Entry]:
    """The class of a video is its four parts in the vocabulary, joined by "_" (``Back_15som_05Twis_FREE``), or its
    number where there is none. Videos come cut to the dive: ``start_frame`` and ``end_frame`` are not needed."""
    files: dict[str, dict[str, Path]] = {}
    for file in place.find(_FILES.fullmatch):
        if name := _FILES.fullmatch(file.name):
            files.setdefault("V2_" if name[1] else "", {})[name[2].lower()] = file
    if not files:
        raise DataError(f"{place.notes}: no Diving48_V2_train.json there, nor in annotations or labels within")
    version = max(files)
    folder = next(iter(files[version].values())).parent
    if missing := {"train", "test"} - files[version].keys():
        raise DataError(f"{folder}: no Diving48_{version}{missing.pop()}.json, which is official")
    index, classes = VideoIndex(place), _classes(folder / _VOCABULARY)
    for part, file in files[version].items():
        for number, item in enumerate(read_json(file, VIDEO, list, "a list of videos"), 1):
            video, label = _item(f"{file}, entry {number}", item, classes)
            index.add(file, f"entry {number}", video, part, label)
    return index.entries(folder)


def _classes(file: Path) -> list[str]:
    """The names of the classes in the order of their numbers; nothing where there is no vocabulary."""
    if not file.is_file():
        return []
    names = read_json(file, VIDEO, list, "a list of classes")
    if not names:
        raise DataError(f"{file} names no classes")
    return ["_".join(map(str, name)) if isinstance(name, list) else str(name) for name in names]


def _item(where: str, item: Any, classes: list[str]) -> tuple[str, str]:
    video, label = (item.get("vid_name"), item.get("label")) if isinstance(item, dict) else (None, None)
    if not isinstance(video, str) or not video or type(label) is not int:
        raise DataError(f"{where}: expected {_EXPECTED}, found {str(item)[:80]}")
    if label < 0 or (classes and label >= len(classes)):
        known = f" in {_VOCABULARY}, which has 0 to {len(classes) - 1}" if classes else ": expected 0 or more"
        raise DataError(f"{where}: no class {label}{known}")
    return video, classes[label] if classes else str(label)


FORMATS = (Format("diving48", _read, lambda place: place.find(_FILES.fullmatch)),)
