"""Series of images in one folder: ``img_*`` beside ``flow_x_*``, or the frames of several videos.

A series is the images whose names differ in one number alone. It is written as its names with ``*`` for that number:
``img_*``, ``*_left``, ``*.png`` (with the extension where a number is there in two), ``*.*`` for time stamps. The path
``folder#img_*`` is that series of the folder, as ``file.h5#3`` is an item of a file.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
RGB = frozenset(("img", "imgs", "image", "images", "rgb", "frame", "frames", "color", "colour", "im"))
"""What people call the pictures themselves, where other series lie beside."""

ALL, EVERY = "", "**"
"""A folder without a series in its path: its only one, or its pictures. And every image of it, whatever their names."""

_DIGITS = re.compile(r"([0-9]+)")


def is_image(name: str) -> bool:
    """Whether a file is an image that is read as a frame; hidden files are none."""
    return name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")


def natural(name: str) -> tuple[list[tuple[int, str, str]], str]:
    """Sort key in which runs of digits count as numbers; the name itself breaks ties (``01`` and ``1``)."""
    parts = _DIGITS.split(name)
    # of two numbers without leading zeros the longer one is the larger: int() refuses thousands of digits
    numbers = (part.lstrip("0") if at % 2 else "" for at, part in enumerate(parts))
    return [(len(n), n, "" if at % 2 else part) for at, (part, n) in enumerate(zip(parts, numbers, strict=True))], name


def series_of(names: Iterable[str]) -> Counter[str]:
    """The series that the images among ``names`` fall into, with their numbers of images.

    Images that belong to no series (a cover beside the frames) are left out, if the series have most of the images;
    where they do not, all images are one series, ``EVERY``."""
    images = [name for name in names if is_image(name)]
    groups: dict[str, list[list[str]]] = {}  # by the name with # for numbers, without the extension: pieces of names
    for name in images:
        pieces = _pieces(name)
        groups.setdefault("#".join(pieces[0:-1:2]), []).append(pieces)
    found: Counter[str] = Counter()
    for group in groups.values():
        found.update(_split(group))
    real = Counter({series: count for series, count in found.items() if count > 1})
    return real if 2 * real.total() >= len(images) and real else Counter({EVERY: len(images)} if images else {})


def _pieces(name: str) -> list[str]:
    """Text, number, text, …, number, text of the stem, and then the extension."""
    stem, end = os.path.splitext(name)
    return [*_DIGITS.split(stem), {".jpeg": ".jpg"}.get(end.lower(), end.lower())]


def _split(group: Sequence[list[str]]) -> Counter[str]:
    """The series of names of one kind (as ``_pieces``), whose texts are alike and numbers are not."""
    count = len(group[0]) // 2 - 1
    if count < 1:
        return Counter(_written(pieces, (), True) for pieces in group)
    last = 2 * count - 1
    videos: dict[tuple[str, ...], list[list[str]]] = {}
    for pieces in group:
        videos.setdefault(tuple(pieces[:last]), []).append(pieces)
    if count > 1 and (len(videos) * 3 > len(group) or _goes_on(group, list(videos.values()), last)):
        varying = [at for at in range(1, last + 1, 2) if len({pieces[at] for pieces in group}) > 1]
        return _by_extension(group, tuple(varying))
    found: Counter[str] = Counter()
    for own in videos.values():
        found.update(_by_extension(own, (last,)))
    return found


def _goes_on(group: Sequence[list[str]], runs: Sequence[Sequence[list[str]]], last: int) -> bool:
    """Whether the ``last`` number of names goes on from run to run (names alike up to it), as that of a clock or of
    parts of a second does, and so counts no frames: it is behind a decimal point, or has a fixed width and rises to
    its end before the number in front changes."""
    widths = {len(pieces[last]) for pieces in group}
    if len(runs) < 2 or len(widths) > 1:
        front = group[0][last - 3 : last]
        return len(runs) > 1 and front[-1] == "." and not front[0][-1:].isalpha()
    width = widths.pop()
    if not 1 < width < 19:
        return False
    numbers = sorted((tuple(pieces[:last]), int(pieces[last])) for pieces in group)
    ends: dict[tuple[str, ...], int] = dict(numbers)  # the last one of each run
    step = max((b - a for (own, a), (other, b) in pairwise(numbers) if own == other), default=0)
    full = (60, 100) if width == 2 else (10**width,)
    return any(all(top + 2 * step >= end > top for top in list(ends.values())[:-1]) for end in full)


def _by_extension(group: Sequence[list[str]], varying: tuple[int, ...]) -> Counter[str]:
    """One series, or one for each extension where a number is there in several."""
    numbers = Counter(tuple(pieces[at] for at in varying) for pieces in group)
    ends = {pieces[-1] for pieces in group}
    split = len(ends) > 1 and len(numbers) < len(group)
    return Counter(_written(pieces, varying, split) for pieces in group)


def _written(pieces: Sequence[str], varying: tuple[int, ...], with_end: bool) -> str:
    stem = "".join("*" if at in varying else piece for at, piece in enumerate(pieces[:-1]))
    return stem + (pieces[-1] if with_end else "")


def names_of(names: Iterable[str], series: str) -> list[str]:
    """The images of ``series`` among ``names``, in natural order."""
    stem, end = os.path.splitext(series)
    ends: tuple[str, ...] = (end, ".jpeg") if end == ".jpg" else (end,)
    if end not in IMAGE_EXTENSIONS:
        stem, ends = series, IMAGE_EXTENSIONS
    pattern = re.compile("[0-9]+".join(map(re.escape, stem.split("*"))))
    images = [name for name in names if is_image(name)]
    if series != EVERY:
        parts = [(name, *os.path.splitext(name)) for name in images]
        images = [name for name, own, suffix in parts if suffix.lower() in ends and pattern.fullmatch(own)]
    return sorted(images, key=natural)


def rgb_of(series: Iterable[str]) -> str | None:
    """The only one of several ``series`` that is named as pictures are, or that has no name beside others that do."""
    words = {one: set(re.findall("[a-z]+", os.path.splitext(one)[0].lower())) for one in series}
    named = [one for one, own in words.items() if own & RGB] or [one for one, own in words.items() if not own]
    return named[0] if len(named) == 1 else None


def some(series: Iterable[str], most: int = 6) -> str:
    """The first few of ``series``, for messages."""
    names = sorted(series, key=natural)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def split_series(path: str) -> tuple[str, str]:
    """Folder and series of ``folder#img_*``; a path that exists as it is has no series (``ALL``)."""
    folder, mark, series = path.rpartition("#")
    if mark and "*" in series and os.sep not in series and not os.path.lexists(path):
        return folder, series
    return path, ALL


def is_series(path: str) -> bool:
    """Whether ``path`` is a series of images in a folder that is there."""
    folder, series = split_series(path)
    return series != ALL and os.path.isdir(folder)
