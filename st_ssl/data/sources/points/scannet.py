"""ScanNet v2 (Dai et al., 2017) as it comes: ``scans/scene0000_00/scene0000_00_vh_clean_2.ply``. As Pointcept has it,
ScanNet is a plain folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place
from st_ssl.data.sources.folders import LeftOut, Sifted, walk
from st_ssl.data.sources.points.base import CLOUD, folders_of, listed_clouds, lists_in, subfolders
from st_ssl.data.sources.splits import folder_split
from st_ssl.data.streams.points.scannet import LABELS, SCENE

_NAME = re.compile(r"scene\d{4}_\d\d")
_LIST = re.compile(r"scannetv2_(train|val|test)\.txt")


def _folders(root: Path) -> Iterator[Path]:
    """Where scenes may be: the root, ``scans``, and folders named as splits (``scans_test``, ``val``)."""
    yield root
    yield from (folder for folder in subfolders(root) if folder.name == "scans" or folder_split(folder.name))


def _scenes(folder: Path) -> dict[str, Path]:
    """The scenes in a folder by name: folders of their own, or files beside each other."""
    own = {path.name: path / f"{path.name}{SCENE}" for path in subfolders(folder) if _NAME.fullmatch(path.name)}
    beside = {path.name.removesuffix(SCENE): path for path in folder.glob(f"scene*{SCENE}")}
    return {name: path for name, path in sorted((beside | own).items()) if path.is_file()}


def _read(place: Place) -> list[Entry]:
    """Splits are those of ``scannetv2_train.txt``, ``_val.txt`` and ``_test.txt``, in the root, beside it, or where
    ``data.list`` says; without them, folders named as splits (``scans_test``) are, and all else is "train". Labels are
    in ``*_vh_clean_2.labels.ply``, which the reader takes (see ``streams/points/scannet.py``)."""
    root = place.root
    scenes = {
        name: Entry(str(path), folder_split(folder.name) or "train")
        for folder in _folders(root)
        for name, path in _scenes(folder).items()
    }
    if not scenes:
        raise DataError(f"{root}: no scene0000_00/scene0000_00{SCENE} there nor in scans, as ScanNet has them")
    left = LeftOut()
    list(walk(root, _sift, left))  # for what it leaves out
    left.tell(place, CLOUD)
    lists = lists_in([*folders_of(place), root.absolute().parent], "scannetv2_{}.txt", ("train", "val", "test"))
    if not lists:
        return list(scenes.values())

    def entry(_: str, name: str, split: str) -> Entry:
        return Entry(scenes[name].path if name in scenes else "", split)

    entries = listed_clouds(lists[0][0].parent, root, lists, entry)
    names = ", ".join(str(file) for file, _ in lists)
    if others := len(scenes) - len(entries):
        place.tell(f"{names}: {others} of {len(scenes)} scenes are in no list and left out")
    place.tell(f"splits by {names}")
    return entries


def _sift(folder: str, folders: list[str], files: list[str]) -> Sifted:
    """What of the scenes is read: not high-resolution meshes, segments and aggregations."""
    return Sifted([name for name in files if name.endswith((SCENE, LABELS)) or _LIST.fullmatch(name)])


def _matches(place: Place) -> bool:
    listed = place.notes == place.root or bool(_LIST.fullmatch(place.notes.name)) or place.notes.is_dir()
    return listed and any(_scenes(folder) for folder in _folders(place.root))


FORMATS = (Format("scannet", _read, _matches),)
