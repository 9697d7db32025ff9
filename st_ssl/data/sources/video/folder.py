"""A folder of videos: its folders are splits and labels. And videos by name, for the formats that name no paths."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, Row, found
from st_ssl.data.sources.folders import LeftOut, Sample, Sifted, folder_entries, walk
from st_ssl.data.sources.video.base import NAMES, VIDEO, is_video
from st_ssl.data.sources.video.series import EACH, choose
from st_ssl.data.streams.video.image_series import is_image, series_of

# Folders that belong to the images beside them.
_BELONGING = frozenset(
    {
        *("flow", "flows", "flow_x", "flow_y", "optical_flow", "tvl1", "depth", "depths", "ir", "mask", "masks", "seg"),
        *("segmentation", "label", "labels", "annotation", "annotations", "gt", "pose", "poses", "keypoints", "audio"),
        *("thumb", "thumbs", "thumbnails", "preview", "previews"),
    }
)


def _read(place: Place) -> list[Entry]:
    root = place.root
    if place.notes != root:
        raise DataError(f"data.format=folder reads no list: leave {place.notes} out, or name the format of the list")
    samples, left = _samples(place)
    place.told.extend(left.lines(root, VIDEO))
    return folder_entries(root, samples, VIDEO, place.told)


def _samples(place: Place) -> tuple[list[Sample], LeftOut]:
    """The videos below the root in byte order of their paths, and what is left out; ``DataError`` where there are none.

    A folder that holds images is one video, or several (see ``series.py``), whatever else is in it, but for videos:
    beside those, images are left out. Where there are folders in it, those that belong to images (``flow``, ``masks``,
    …) or hold no samples are left out; beside others, it is the images that are.
    """
    root, left = place.root, LeftOut()
    images: dict[PurePath, Counter[str]] = {}

    def sift(folder: str, folders: list[str], files: list[str]) -> Sifted:
        videos = [name for name in files if is_video(name)]
        pictures = [name for name in files if is_image(name)]
        if videos or not pictures:
            return Sifted(videos)
        closed = [name for name in folders if name.lower() in _BELONGING or not _holds_any(os.path.join(folder, name))]
        if len(closed) < len(folders):
            return Sifted(())
        found = images[PurePath(os.path.relpath(folder, root))] = series_of(pictures)
        if stray := len(pictures) - found.total():
            left.files["image beside the series"] += stray
        return Sifted(pictures, True, closed)

    paths = list(walk(root, sift, left))
    if not paths:
        seen = left.files
        if not seen:
            raise DataError(f"{root} is empty: expected videos ({NAMES}), or folders of images")
        instead = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in seen.most_common(5))
        raise DataError(f"{root} holds no videos: looked for {NAMES}, or folders of images; found {instead}")
    choice = choose(place, {os.path.join(root, path): series for path, series in images.items()})
    samples = []
    for path in sorted(paths, key=lambda path: os.fsencode(path.as_posix())):
        if path not in images:
            samples.append(Sample(path, path.parts[:-1]))
            continue
        own = images[path]
        for series in choice.of(os.path.join(root, path), own):
            samples.append(Sample(path, path.parts if choice.series == EACH else path.parts[:-1], series))
            where = str(root / path) + (f"#{series}" if series else "")
            place.lengths[where] = own.get(series, own.total())
    return samples, left


def _holds_any(folder: str) -> bool:
    """Whether there is a video or an image at any depth."""
    return any(is_video(name) or is_image(name) for _, _, names in os.walk(folder) for name in names)


class VideoIndex:
    """The videos below a root by name, whatever folders they are in and whatever they have been converted to.

    ``x`` is ``x.webm``, ``a/b/x.mp4``, a folder ``x`` of images, or the series ``x_*`` of images in a folder. Accents
    count as the same, composed or not. Those asked for in vain are counted.
    """

    def __init__(self, place: Place) -> None:
        self.root = place.root
        self._paths: dict[str, list[Sample]] = {}
        for sample in sorted(_samples(place)[0], key=lambda one: not is_video(one.path.name)):  # files before folders
            self._paths.setdefault(_stem(sample), []).append(sample)
        self._missing: list[str] = []

    def find(self, names: Sequence[str], label: str = "") -> str | None:
        """The path of the video with the first of ``names`` that there is, or None; one from the folder ``label`` where
        there are several of that name."""
        for name in names:
            samples = self._paths.get(_plain(name), [])
            folder = label.replace(" ", "_")
            for sample in sorted(samples, key=lambda one: one.path.parent.name.replace(" ", "_") != folder):
                return str(self.root / sample.path) + (f"#{sample.series}" if sample.series else "")
        self._missing.append(names[0])
        return None

    def entries(self, notes: Path, rows: Sequence[Row], strict: bool = True) -> list[Entry]:
        """The entries of ``rows`` once each, with a warning that counts those missing; ``DataError`` if all are."""
        return found(VIDEO, notes, self.root, rows, self._missing, strict)


def _stem(sample: Sample) -> str:
    """By what name a video is asked for."""
    own = len(sample.folders) == len(sample.path.parts) and sample.series
    return _plain(sample.series.replace("*", "").strip("_-. ") if own else sample.path.name)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", os.path.splitext(name)[0] if is_video(name) else name)


FORMATS = (Format("folder", _read, lambda place: place.notes == place.root),)
