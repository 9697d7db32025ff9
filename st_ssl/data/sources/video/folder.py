"""A folder of videos: its folders are splits and labels. And videos by name, for the formats that name no paths."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path, PurePath

from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, Row, found
from st_ssl.data.sources.folders import LeftOut, Sample, Sifted, check_no_list, folder_entries, walk
from st_ssl.data.sources.video.base import NAMES, VIDEO, is_video
from st_ssl.data.sources.video.series import EACH, choose, taken
from st_ssl.data.streams.video.image_series import RGB, is_image, series_of

# Folders that belong to the images beside them.
_BELONGING = {
    *("flow", "flows", "flow_x", "flow_y", "optical_flow", "tvl1", "depth", "depths", "ir", "mask", "masks", "seg"),
    *("segmentation", "label", "labels", "annotation", "annotations", "gt", "pose", "poses", "keypoints", "audio"),
    *("thumb", "thumbs", "thumbnails", "preview", "previews"),
}


def _read(place: Place) -> list[Entry]:
    check_no_list(place)
    samples, left = _samples(place)
    left.tell(place, VIDEO)
    return folder_entries(place, samples, VIDEO)


def _samples(place: Place) -> tuple[list[Sample], LeftOut]:
    """The videos below the root in byte order of their paths, and what is left out; ``DataError`` where there are none.

    A folder that holds images is one video, or several (see ``series.py``), whatever else is in it, but for videos:
    beside those, images are left out. Where there are folders in it, those that belong to images (``flow``, ``masks``,
    …) or hold no samples are left out; beside others, it is the images that are. Of folders beside each other, those
    that belong to images are left out where another is called as pictures are (``rgb``, ``frames``, …).
    """
    root, left = place.root, LeftOut()
    images: dict[PurePath, Counter[str]] = {}

    def sift(folder: str, folders: list[str], files: list[str]) -> Sifted:
        videos = [name for name in files if is_video(name)]
        pictures = [name for name in files if is_image(name)]
        if videos or not pictures:
            # rgb beside depth and flow: one video in several ways
            shown = not videos and any(name.lower() in RGB for name in folders)
            return Sifted(videos, closed=[name for name in folders if shown and name.lower() in _BELONGING])
        closed = [name for name in folders if name.lower() in _BELONGING or not _holds_any(os.path.join(folder, name))]
        if len(closed) < len(folders):
            return Sifted(())
        found = images[PurePath(os.path.relpath(folder, root))] = series_of(pictures)
        if stray := len(pictures) - found.total():
            left.files["image beside the series"] += stray
        return Sifted(pictures, True, closed)

    paths = list(walk(root, sift, left))
    if not paths:
        raise left.nothing(root, VIDEO, NAMES, "folders of images")
    choice = choose(place, {os.path.join(root, path): series for path, series in images.items()})
    samples = []
    for path in sorted(paths, key=lambda path: os.fsencode(path.as_posix())):
        if path not in images:
            samples.append(Sample(path, path.parts[:-1]))
            continue
        own = images[path]
        for series in taken(choice, os.path.join(root, path), own):
            samples.append(Sample(path, path.parts if choice == EACH else path.parts[:-1], series))
            place.lengths[samples[-1].below(root)] = own.get(series, own.total())
    return samples, left


def _holds_any(folder: str) -> bool:
    """Whether there is a video or an image at any depth."""
    return any(is_video(name) or is_image(name) for _, _, names in os.walk(folder) for name in names)


class VideoIndex:
    """The videos below a root by name, whatever folders they are in and whatever they have been converted to; and the
    rows of annotations that name them.

    ``x`` is ``x.webm``, ``a/b/x.mp4``, a folder ``x`` of images, or the series ``x_*`` of images in a folder. Accents
    count as the same, composed or not.
    """

    def __init__(self, place: Place) -> None:
        self._root = place.root
        self._paths: dict[str, list[Sample]] = {}
        for sample in sorted(_samples(place)[0], key=lambda one: not is_video(one.path.name)):  # files before folders
            self._paths.setdefault(_stem(sample), []).append(sample)
        self._rows: list[Row] = []

    def add(self, file: Path, at: str, name: str, split: str, label: str, *others: str) -> None:
        """Add the row ``at`` of ``file``: the video ``name``, or the first of its ``others`` that there is; the one in
        the folder ``label`` where there are several of that name."""
        samples = next((own for text in (name, *others) if (own := self._paths.get(_plain(text)))), [])
        folder = label.replace(" ", "_")
        best = sorted(samples, key=lambda one: one.path.parent.name.replace(" ", "_") != folder)
        path = best[0].below(self._root) if best else ""
        self._rows.append(Row(file, at, name, Entry(path, split, {"label": label} if label else {})))

    def entries(self, notes: Path, strict: bool = True) -> list[Entry]:
        """The entries of all rows once each, with a warning that counts those missing; ``DataError`` if all are."""
        return found(VIDEO, notes, self._root, self._rows, strict)


def _stem(sample: Sample) -> str:
    """By what name a video is asked for."""
    own = len(sample.folders) == len(sample.path.parts) and sample.series
    return _plain(sample.series.replace("*", "").strip("_-. ") if own else sample.path.name)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", os.path.splitext(name)[0] if is_video(name) else name)


FORMATS = (Format("folder", _read, lambda place: place.notes == place.root),)
