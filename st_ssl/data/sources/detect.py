"""Whether a place has videos or clouds, by the names of the files in it or in its list."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from st_ssl.core.inputs import Modality
from st_ssl.data.packs import read_pack as pack
from st_ssl.data.sources import points as clouds
from st_ssl.data.sources import video as videos
from st_ssl.data.sources.folders import LeftOut, Sifted, walk
from st_ssl.data.sources.points.base import CLOUD
from st_ssl.data.sources.video.base import is_video
from st_ssl.data.streams.points import READERS
from st_ssl.data.streams.video import IMAGE_EXTENSIONS

_ENOUGH = 1000
_LIST_BYTES = 1 << 20


def modality_of(root: str, listing: Path | None = None, format: str = "auto") -> Modality:
    """Of what the data set at ``root`` is (a folder, a list or a pack, as ``data.root``), whose list may be ``listing``
    and whose ``format`` may be named; "video" where nothing tells.

    A format that only one of them has decides, then the names in a list, or else those of the first thousand files that
    are videos or clouds, whichever are more. Images, text and ``.pkl`` may be anything: images are videos, and the
    others clouds, only where nothing else is there. ``DataError`` where a pack is none.
    """
    if pack.is_pack(root):
        return "points" if pack.packed_items(root) == "clouds" else "video"
    if (format in videos.FORMATS) != (format in clouds.FORMATS):
        return "points" if format in clouds.FORMATS else "video"
    place = Path(root).expanduser()
    if place.is_file() and CLOUD.is_file(place.name):
        return "points"  # a cloud alone, which is no data set: said by those who know clouds
    for file in (listing, place):
        if file is not None and file.is_file() and (told := _of_names(_names_in(file))):
            return told
    if not place.is_dir():
        return "video"
    every = walk(place, lambda _, __, files: Sifted(files), LeftOut())
    return _of_names(path.name for path in every) or "video"


def _of_names(names: Iterable[str]) -> Modality | None:
    seen: Counter[str] = Counter()
    for name in names:
        if is_video(name):
            seen["video"] += 1
        elif CLOUD.is_file(name):
            seen["points"] += 1
        elif name.lower().endswith(IMAGE_EXTENSIONS):
            seen["images"] += 1
        elif os.path.splitext(name)[1].lower() in READERS:
            seen["maybe"] += 1
        if seen["video"] + seen["points"] >= _ENOUGH:
            break
    if seen["video"] or seen["points"]:
        return "points" if seen["points"] > seen["video"] else "video"
    return "video" if seen["images"] else "points" if seen["maybe"] else None


def _names_in(file: Path) -> list[str]:
    """Words of a list that may be names of files, an item of one (``a.h5#3``) without its number."""
    with file.open("rb") as text:
        words = re.split(r"[\s,;\"\[\]]+", text.read(_LIST_BYTES).decode("utf-8", errors="replace"))
    return [re.sub(r"#\d+$", "", word) for word in words]
