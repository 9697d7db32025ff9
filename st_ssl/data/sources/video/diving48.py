"""Diving48 (Li et al., 2018): JSON files of videos and numbered classes, a vocabulary, and ``rgb/<name>.mp4``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, Row
from st_ssl.data.sources.video.base import read_json
from st_ssl.data.sources.video.folder import VideoIndex

# The second version has the labels of 2020, which papers since then use.
_FILES = re.compile(r"Diving48_(V2_)?(train|test)\.json", re.IGNORECASE)
_VOCABULARY = "Diving48_vocab.json"
_EXPECTED = '{"vid_name": "-mmq0PT-u8k_00155", "label": 0}'


def _read(place: Place) -> list[Entry]:
    """The class of a video is its four parts in the vocabulary, joined by "_" (``Back_15som_05Twis_FREE``), or its
    number where there is none. Videos come cut to the dive: ``start_frame`` and ``end_frame`` are not needed."""
    files = {file: name for file in place.find(_FILES) if (name := _FILES.fullmatch(file.name)) is not None}
    if not files:
        raise DataError(f"{place.notes}: no Diving48_V2_train.json there, nor in annotations or labels within")
    second = any(name[1] for name in files.values())
    version, parts = "V2_" if second else "", {name[2].lower() for name in files.values() if not second or name[1]}
    if missing := {"train", "test"} - parts:
        raise DataError(f"{next(iter(files)).parent}: no Diving48_{version}{missing.pop()}.json, which is official")
    index = VideoIndex(place)
    rows: list[Row] = []
    for file, name in files.items():
        if second and not name[1]:
            continue
        classes = _classes(file.parent / _VOCABULARY)
        items = read_json(file)
        if not isinstance(items, list):
            raise DataError(f"{file}: expected a list of videos, found {type(items).__name__}")
        for number, item in enumerate(items, 1):
            video, label = _item(f"{file}, entry {number}", item, classes)
            found = index.find([video], label)
            if found is not None:
                rows.append(Row(file, f"entry {number}", video, Entry(found, name[2].lower(), {"label": label})))
    return index.entries(next(iter(files)).parent, rows)


def _classes(file: Path) -> list[str]:
    """The names of the classes in the order of their numbers; nothing where there is no vocabulary."""
    if not file.is_file():
        return []
    names = read_json(file)
    if not isinstance(names, list) or not names:
        raise DataError(f"{file}: expected a list of classes, found {type(names).__name__}")
    return ["_".join(map(str, name)) if isinstance(name, list) else str(name) for name in names]


def _item(where: str, item: Any, classes: list[str]) -> tuple[str, str]:
    video, label = (item.get("vid_name"), item.get("label")) if isinstance(item, dict) else (None, None)
    if not isinstance(video, str) or not video or not isinstance(label, int) or isinstance(label, bool):
        raise DataError(f"{where}: expected {_EXPECTED}, found {str(item)[:80]}")
    if label < 0 or (classes and label >= len(classes)):
        known = f" in {_VOCABULARY}, which has 0 to {len(classes) - 1}" if classes else ": expected 0 or more"
        raise DataError(f"{where}: no class {label}{known}")
    return video, classes[label] if classes else str(label)


FORMATS = (Format("diving48", _read, lambda place: bool(place.find(_FILES))),)
