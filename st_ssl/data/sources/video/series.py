"""Which series of images is a video, where folders hold several: decided once for a data set.

Looked at are at most 64 folders that hold several series (see ``streams/video/image_series.py``), chosen by a key:

- the same series in nearly all of them (``img_*``, ``flow_x_*``, ``flow_y_*``) show one video in several ways: it is
  the series whose name is that of pictures (img, rgb, frame, image, colour, or a number alone beside names);
- series that each are in one folder alone, or in one folder and alike but for numbers, are videos: each of them is one,
  labelled by its folder;
- everything else can be meant in two ways: an error names the series, and the key ``data.series`` that says which.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from st_ssl.core.errors import ConfigError, DataError, nearest
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Place
from st_ssl.data.sources.video.base import is_video
from st_ssl.data.streams.video.image_series import ALL, EVERY, rgb_of, series_of, some

LOOKED_AT = 64
EACH, ONE_FOLDER = "each", "all"
_NEARLY = 0.9
_OWN = "\0"  # stands for the name of the folder within that of a series
_KEYS = (
    f"data.series=NAME takes one of them, data.series={EACH} takes each as a video of its own, and "
    f"data.series={ONE_FOLDER} takes all images of a folder as one video"
)


def taken(choice: str, folder: str, found: Mapping[str, int]) -> list[str]:
    """The series that are videos of ``folder``, whose series are ``found``, by what ``choose`` says."""
    if choice == EACH:
        return list(found)
    own = choice.replace(_OWN, os.path.basename(folder))
    # a folder with one series of that name, or with none (which is broken), needs no name for it
    return [ALL if own == ALL or list(found) == [own] else own]


def choose(place: Place, folders: Mapping[str, Mapping[str, int]]) -> str:
    """What to take of folders of images, by their paths and series: a series, EVERY image, each series (EACH), or what
    the reader takes (ALL). Tells what was decided. ``DataError`` where two readings fit, ``ConfigError`` for a
    ``place.series`` that is none of theirs."""
    several = [folder for folder, found in folders.items() if len(found) > 1]
    if place.series is not None and not folders:
        place.tell(f"data.series={place.series} is ignored: there are no folders of images")
        return ALL
    if place.series is not None:
        return {ONE_FOLDER: EVERY, EACH: EACH}.get(place.series) or _asked(place.series, folders)
    if not several:
        return ALL
    rows = keyed_rng("series", len(several)).permutation(len(several))[:LOOKED_AT]
    looked = [{_own(folder, name) for name in folders[folder]} for folder in (several[i] for i in sorted(rows))]
    plain = Counter(name for i in rows for name in folders[several[i]])
    there = Counter(name for found in looked for name in found)
    shared = [name for name, count in there.items() if count >= _NEARLY * len(looked)]
    alone = sum(count == 1 for count in plain.values()) >= _NEARLY * len(plain)
    alike = len({re.sub("[0-9]+", "0", name) for name in shared}) == 1 < len(shared)
    names = some(name.replace(_OWN, "FOLDER") for name in there)
    of = f"{len(several)} of {len(folders)} folders of images hold several series ({names})"
    if alone and (len(looked) > 1 or alike) and (alike or len(shared) < 2):
        total = sum(len(found) for found in folders.values())
        place.tell(f"{place.root}: {of}: each is a video, {total} in all, labelled by its folder (data.series)")
        return EACH
    chosen = rgb_of(there) if not alike else None
    if chosen is not None and chosen in shared:
        name = chosen.replace(_OWN, "FOLDER")
        place.tell(f"{place.root}: {of}: {name} is taken, the others are left out (data.series)")
        return chosen
    raise DataError(f"{place.root}: {of}, which can be meant in several ways: {_KEYS}")


def _own(folder: str, series: str) -> str:
    name = os.path.basename(folder)
    if not name or name.isdigit():
        return series
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z])", _OWN, series)


def _asked(asked: str, folders: Mapping[str, Mapping[str, int]]) -> str:
    """The series that ``data.series`` names: as it is written, or the text before or behind its number."""
    known = {_own(folder, name): name for folder, found in folders.items() for name in found}
    for same in (str, lambda name: name.replace("*", ""), _letters):
        found = [own for own, name in known.items() if same(asked) in (same(name), same(own))]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"data.series={asked}: that may be {some(known[own] for own in found)}: name one of them")
    near = nearest(asked, known.values())
    raise ConfigError(f"data.series={asked}: no such series; there are {some(known.values())}{near}")


def _letters(name: str) -> str:
    return name.replace("*", "").strip("_-. ").lower()


def with_series(place: Place, entries: Sequence[Entry]) -> list[Entry]:
    """The entries of a list, those that are folders of several series of images as the series that is meant (see
    ``choose``). At most 64 folders are looked at; where each series is a video, all of them."""
    paths = dict.fromkeys(entry.path for entry in entries if not is_video(entry.path) and os.path.isdir(entry.path))
    folders = list(paths)
    rows = sorted(keyed_rng("series", len(folders)).permutation(len(folders))[:LOOKED_AT])
    looked = {folders[i]: _series_in(folders[i]) for i in rows}
    several = list(dict.fromkeys(name for found in looked.values() if len(found) > 1 for name in found))
    choice = choose(place, looked)
    if choice == EACH and place.series != EACH:
        raise DataError(
            f"{place.notes}: folders that it lists hold several series of images ({some(several)}), which are videos "
            f"of their own by their names: name them in the list (folder#{several[0]}), or data.series={EACH} takes "
            f"each with the label of its folder"
        )
    result = []
    for entry in entries:
        own = [ALL]
        if entry.path in paths:
            found = looked.get(entry.path) or (_series_in(entry.path) if choice == EACH else Counter())
            own = taken(choice, entry.path, found)
        result += [replace(entry, path=f"{entry.path}#{series}") if series else entry for series in own]
    return result


def _series_in(folder: str) -> Counter[str]:
    """The series of the images in a folder; none where it cannot be listed."""
    try:
        return series_of(os.listdir(folder))
    except OSError:
        return Counter()
