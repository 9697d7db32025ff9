"""A folder of videos: its folders are splits and labels. And videos by name, for the formats that name no paths."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, Row, folder_entry, found, walk
from st_ssl.data.sources.video.base import NAMES, VIDEO, is_video
from st_ssl.data.streams.video import IMAGE_EXTENSIONS


def _read(place: Place) -> list[Entry]:
    root = place.root
    if place.notes != root:
        raise DataError(f"data.format=folder reads no list: leave {place.notes} out, or name the format of the list")
    return [folder_entry(root, path) for path in _videos(root)]


def _videos(root: Path) -> list[PurePath]:
    """Paths of the videos below ``root``, relative to it, in byte order; ``DataError`` where there are none."""
    seen: Counter[str] = Counter()
    videos = sorted(walk(root, seen, is_video, _is_frames), key=lambda path: os.fsencode(path.as_posix()))
    if videos:
        return videos
    if not seen:
        raise DataError(f"{root} is empty: expected videos ({NAMES}), or folders of images")
    instead = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in seen.most_common(5))
    raise DataError(f"{root} holds no videos: looked for {NAMES}, or folders of images only; found {instead}")


def _is_frames(folder: str, folders: list[str], files: list[str]) -> bool:
    """Whether a folder holds images and nothing else: it is one video."""
    return bool(files) and not folders and all(os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS for name in files)


class VideoIndex:
    """The videos below ``root`` by name, whatever folders they are in and whatever they have been converted to.

    ``x`` is ``x.webm``, ``a/b/x.mp4`` or a folder ``x`` of images. Those asked for in vain are counted.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._paths: dict[str, list[PurePath]] = {}
        for path in sorted(_videos(root), key=lambda path: not is_video(path.name)):  # files before folders of images
            self._paths.setdefault(_stem(path.name), []).append(path)
        self._missing: list[str] = []

    def find(self, names: Sequence[str], label: str = "") -> str | None:
        """The path of the video with the first of ``names`` that there is, or None; one from the folder ``label`` where
        there are several of that name."""
        for name in names:
            paths = self._paths.get(_stem(name), [])
            folder = label.replace(" ", "_")
            for path in sorted(paths, key=lambda path: path.parent.name.replace(" ", "_") != folder):
                return str(self.root / path)
        self._missing.append(names[0])
        return None

    def entries(self, notes: Path, rows: Sequence[Row], strict: bool = True) -> list[Entry]:
        """The entries of ``rows`` once each, with a warning that counts those missing; ``DataError`` if all are."""
        return found(VIDEO, notes, self.root, rows, self._missing, strict)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0] if is_video(name) else name


FORMATS = (Format("folder", _read, lambda place: place.notes == place.root),)
