"""Something-Something v2 (Goyal et al., 2017): JSON files of ids and templates, and ``<id>.webm``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from st_ssl.core.errors import DataError, nearest
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, read_json
from st_ssl.data.sources.list_lines import peek_lines
from st_ssl.data.sources.splits import split_name
from st_ssl.data.sources.video.base import VIDEO
from st_ssl.data.sources.video.folder import VideoIndex

# as of 2018, and as distributed today
_FILES = re.compile(r"(?:something-something-v2-)?(train|validation|test)\.json", re.IGNORECASE)
_OURS = "something-something-v2-"
_LABELS = "labels.json"


def _matches(place: Place) -> bool:
    """Names that say so; ``train.json`` alone says nothing, with "template" near its beginning it does."""
    files = place.find(_FILES.fullmatch)
    return any(f.name.lower().startswith(_OURS) or '"template"' in "".join(peek_lines(f))[:1000] for f in files)


def _read(place: Place) -> list[Entry]:
    """The class of a video is its template without brackets, which ``labels.json`` (where there is one) must have; the
    videos of the test part have none."""
    files = place.find(_FILES.fullmatch)
    if not files:
        wanted = f"no {_OURS}train.json (or train.json) there"
        raise DataError(f"{place.notes}: {wanted}, nor in labels or annotations within")
    index, known = VideoIndex(place), _known(files[0].parent)
    for file in files:
        split = split_name(str(file), file.stem.lower().removeprefix(_OURS))
        for number, item in enumerate(read_json(file, VIDEO, list, "a list of videos"), 1):
            video, label = _item(f"{file}, entry {number}", item, known)
            index.add(file, f"entry {number}", video, split, label)
    return index.entries(files[0].parent)


def _known(folder: Path) -> Any:
    """The classes of the ``labels.json`` in ``folder``; nothing where there is none."""
    files = (folder / f"{_OURS}{_LABELS}", folder / _LABELS)
    file = next((file for file in files if file.is_file()), None)
    return read_json(file, VIDEO, dict, "classes and their numbers") if file else ()


def _item(where: str, item: Any, known: Iterable[str]) -> tuple[str, str]:
    template = item.get("template", "") if isinstance(item, dict) else None
    if not isinstance(template, str) or not isinstance(item.get("id"), str | int):
        raise DataError(f'{where}: expected {{"id": "1", "template": "Holding [something]"}}, found {str(item)[:80]}')
    label = template.replace("[", "").replace("]", "").strip()
    if label and known and label not in known:
        raise DataError(f"{where}: {label!r} is not one of the classes of {_LABELS}{nearest(label, known)}")
    return str(item["id"]), label


FORMATS = (Format("ssv2", _read, _matches),)
