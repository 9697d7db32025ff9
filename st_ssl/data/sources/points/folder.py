"""Any folder of clouds, scenes among them: its folders are splits and labels."""

from __future__ import annotations

import os
import re

from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place
from st_ssl.data.sources.folders import LeftOut, Sample, Sifted, check_no_list, folder_entries, walk
from st_ssl.data.sources.points.base import CLOUD, EXTENSIONS
from st_ssl.data.streams.points import is_cloud, is_scene

_NOTES = (".txt", ".csv")
# Files that belong to clouds beside them, by their paths: what they are, and how to tell.
_OTHERS = (
    ("voxels of SemanticKITTI (voxels/*.bin)", re.compile(r"(.*/)?voxels/\d+\.bin", re.I)),
    ("labels of nuScenes (lidarseg, panoptic)", re.compile(r".*_(lidarseg|panoptic)\.(bin|npz)", re.I)),
    ("labels of SemanticKITTI (.label)", re.compile(r".*\.label", re.I)),
    ("masks of SemanticKITTI (.invalid, .occluded)", re.compile(r".*\.(invalid|occluded)", re.I)),
)
_LABELS = ".labels.ply"


def _read(place: Place) -> list[Entry]:
    """Beside clouds of other kinds ``.txt`` and ``.csv`` are notes, and left out; so are files that belong to clouds:
    ``x.labels.ply`` beside ``x.ply``, and voxels and labels of drives, by their names."""
    check_no_list(place)
    root, left = place.root, LeftOut()

    def sift(folder: str, folders: list[str], files: list[str]) -> Sifted:
        if is_scene(folder):
            return Sifted(files, True)
        here = os.path.abspath(folder).replace(os.sep, "/")
        there = {name.lower() for name in files}
        others = {name: what for name in files if (what := _belongs(f"{here}/{name}", name.lower(), there))}
        return Sifted([name for name in files if is_cloud(name) and name not in others], others=others)

    paths = sorted(walk(root, sift, left), key=lambda path: os.fsencode(path.as_posix()))
    # beside clouds of other kinds these are notes and lists: README.txt, classes.csv
    clouds = [path for path in paths if path.suffix.lower() not in _NOTES] or paths
    if not clouds:
        kinds = " ".join(suffix.removeprefix(".") for suffix in EXTENSIONS)
        raise left.nothing(root, CLOUD, kinds, "folders that are scenes")
    if clouds is not paths:
        left.files.update(suffix for path in paths if (suffix := path.suffix.lower()) in _NOTES)
    left.tell(place, CLOUD)
    return folder_entries(place, [Sample(path, path.parts[:-1]) for path in clouds], CLOUD)


def _belongs(path: str, name: str, there: set[str]) -> str | None:
    """What the file ``name`` (in lower case) at ``path`` is, beside others that are ``there``, if it is no cloud of its
    own."""
    if name.endswith(_LABELS) and name.removesuffix(_LABELS) + ".ply" in there:
        return f"labels of clouds (*{_LABELS})"
    return next((what for what, pattern in _OTHERS if pattern.fullmatch(path)), None)


FORMATS = (Format("folder", _read, lambda place: place.notes == place.root),)
