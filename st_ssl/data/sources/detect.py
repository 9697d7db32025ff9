"""Whether a place has videos or clouds, by the names of the files in it or in its list; and whether it is in the format
that was named for another place."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.inputs import Modality
from st_ssl.data.packs import read_pack as pack
from st_ssl.data.sources import points as clouds
from st_ssl.data.sources import video as videos
from st_ssl.data.sources.base import in_folder
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

    A format that only one of them has decides, then the names in a list (or in the lists of a folder that holds nothing
    else), or else those of the first thousand files that are videos or clouds, whichever are more. Images, text and
    ``.pkl`` may be anything: images are videos, and the others clouds, only where nothing else is there. ``DataError``
    where a pack is none.
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
    files = [Path(item.path) for item in in_folder(place)]
    lists = all(file.suffix.lower() in (".txt", ".csv") and file.is_file() for file in files)
    if lists and (told := _of_names(name for file in files[:3] for name in _names_in(file))):
        return told
    every = walk(place, lambda _, __, files: Sifted(files), LeftOut())
    return _of_names(path.name for path in every) or "video"


def of_another_root(
    data: Mapping[str, Any], asked: Collection[str], modality: Modality, where: str = "the recipe"
) -> dict[str, Any]:
    """The section ``data`` of a configuration whose root or list is not from the file that names the format.

    ``asked``: the keys of the section that the user gave. A ``format`` that is not among them is kept where the place
    looks like it, or cannot be looked at; else it becomes "auto", ``split`` goes with it, and a warning says so, with
    ``where`` the format is from. The format of a list stays for any list.
    """
    kept = dict(data)
    name, root, listing = data.get("format", "auto"), data.get("root") or data.get("list"), data.get("list")
    formats = clouds.FORMATS if modality == "points" else videos.FORMATS
    if "format" in asked or name not in formats or not isinstance(root, str) or not isinstance(listing, str | None):
        return kept
    if pack.is_pack(os.path.expanduser(root)):
        kept.pop("format")  # a pack needs none, and its own warning is for who asked for one
        return kept
    beside = None if listing is None or listing == root else Path(listing).expanduser()
    try:
        named, place = formats.find(Path(root).expanduser(), beside, name)
        found = named if named.matches(place) else formats.find(Path(root).expanduser(), beside, "auto")[0]
    except (DataError, ConfigError):
        return kept  # who reads it says what is wrong with the place
    if found is named or (found.lists and named.lists):
        return kept
    kept["format"] = "auto"
    if "split" not in asked:
        kept.pop("split", None)
    warnings.warn(
        f"{where}: data.format={name} is left out, since {beside or root} does not look like it: read as {found.name} "
        f"(data.format={name} on the command line keeps it)",
        stacklevel=2,
    )
    return kept


def _of_names(names: Iterable[str]) -> Modality | None:
    kinds: dict[str, Callable[[str], bool]] = {"video": is_video, "points": CLOUD.is_file}
    kinds["images"] = lambda name: name.endswith(IMAGE_EXTENSIONS)
    kinds["maybe"] = lambda name: os.path.splitext(name)[1] in READERS
    seen: Counter[str] = Counter()
    for name in map(str.lower, names):
        seen.update(kind for kind, fits in kinds.items() if fits(name))
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
