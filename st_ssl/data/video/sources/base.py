"""What the formats share: text files, splits by name, where a video is, and rows that stand twice."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from re import Pattern
from typing import NamedTuple

from st_ssl.errors import DataError, nearest
from st_ssl.types import VideoEntry

NAMES = "mp4 mkv avi mov webm m4v mpg mpeg ts flv wmv 3gp ogv gif"
VIDEO_EXTENSIONS = tuple(f".{name}" for name in NAMES.split())
SPLITS = {"train": "train", "val": "val", "validation": "val", "validate": "val", "test": "test"}
_BESIDE = ("annotations", "annotation", "labels", "splits", "ucftraintestlist", "testtrainmulti_7030_splits")


@dataclass(frozen=True)
class Place:
    """Where a source is: ``root`` has the videos, ``notes`` (a file or a folder; ``root`` itself where nothing else is
    named) what is known of them. ``number`` is the official split; ``auto`` tells that nobody named the format."""

    root: Path
    notes: Path
    number: int = 1
    auto: bool = False

    @cached_property
    def _folders(self) -> list[list[Path]]:
        """Files of ``notes``, then of the folders in it whose names are those of annotations."""
        if not self.notes.is_dir():
            return [[self.notes]]
        try:
            inside = sorted(os.scandir(self.notes), key=lambda item: os.fsencode(item.name))
            beside = [item.path for item in inside if item.name.lower() in _BESIDE and item.is_dir()]
            below = [sorted(path for path in Path(folder).iterdir() if path.is_file()) for folder in beside]
        except OSError as error:
            raise DataError(f"the folder {error.filename} cannot be listed: {error.strerror}") from error
        return [[Path(item.path) for item in inside if item.is_file()], *below]

    def find(self, name: Pattern[str]) -> list[Path]:
        """The files whose whole name matches, all from the first folder that has any."""
        found = ([path for path in files if name.fullmatch(path.name)] for files in self._folders)
        return next((paths for paths in found if paths), [])


@dataclass(frozen=True)
class Format:
    """One way to tell which videos there are: ``read`` gives the entries of a place, ``matches`` says whether it looks
    like this format (by names of files and the first line of one); ``numbered`` where it has official splits."""

    name: str
    read: Callable[[Place], list[VideoEntry]]
    matches: Callable[[Place], bool] = lambda place: False
    numbered: bool = False


class Row(NamedTuple):
    """One row of an annotation file: where it stands (``at``: "line 3"), the video as it is written there, and what
    became of it."""

    file: Path
    at: str
    video: str
    entry: VideoEntry


def sibling(path: Path) -> str:
    """The nearest name in the folder where ``path`` should be, as the end of a message."""
    parent = path.absolute().parent
    return nearest(path.name, sorted(os.listdir(parent))) if parent.is_dir() else f", nor does the folder {parent}"


def is_video(name: str) -> bool:
    """Whether a file name ends like that of a video."""
    return name.lower().endswith(VIDEO_EXTENSIONS)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8 (a byte order mark is dropped); ``DataError`` where it is none."""
    if is_video(path.name):
        raise DataError(f"{path} is a video: expected a folder of videos, or a text file that lists them")
    try:
        # not splitlines(): it also breaks lines at characters that may be part of a file name
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 (byte {error.start}): expected one video on each line") from error
    except IsADirectoryError as error:
        raise DataError(f"the list {path} cannot be read: it is a folder; expected a file") from error
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist{sibling(path)}") from error
    except OSError as error:
        raise DataError(f"the list {path} cannot be read: {error.strerror}") from error


def split_name(where: str, name: str) -> str:
    """The split by its usual name; an empty cell is "train"."""
    known = SPLITS.get(name.lower() or "train")
    if known is None:
        raise DataError(f"{where}: split {name!r}, expected one of {', '.join(SPLITS)}{nearest(name.lower(), SPLITS)}")
    return known


def resolve(path: str, folders: Sequence[Path]) -> str:
    """``path`` in the first of ``folders`` that has it (in the first one where none has); absolute ones stay."""
    candidates = [str(folder / path) for folder in folders]
    return next((candidate for candidate in candidates if os.path.exists(candidate)), candidates[0])


def unique(rows: Iterable[Row], strict: bool = True) -> list[VideoEntry]:
    """The entries, each once: rows that say the same twice are counted in a warning; those that contradict each other
    are a ``DataError``, or count as the first one where not ``strict``."""
    kept: dict[tuple[str, int, int | None], Row] = {}
    repeated: list[Row] = []
    for row in rows:
        first = kept.setdefault((row.entry.path, row.entry.start, row.entry.num_frames), row)
        if first is row:
            continue
        if strict and first.entry != row.entry:
            where = f"on {first.at}" if first.file == row.file else f"in {first.file}, {first.at}"
            raise DataError(f"{row.file}, {row.at}: {row.video} is there twice, first {where}, with other labels")
        repeated.append(row)
    if repeated:
        last = repeated[0]
        warnings.warn(
            f"{last.file}: {len(repeated)} rows repeat a video and are left out; the first: {last.at}, {last.video}",
            stacklevel=2,
        )
    return [row.entry for row in kept.values()]


def listed(file: Path, rows: Sequence[Row], folders: Sequence[Path], hint: str = "") -> list[VideoEntry]:
    """The entries of a list whose rows name files. One missing file is one broken sample, left to the reader; where all
    are missing the folder is wrong: ``DataError``, with ``hint`` behind it."""
    entries = unique(rows)
    if not any(os.path.exists(entry.path) for entry in entries):
        tried = " and ".join(str(folder) for folder in folders)
        first = rows[0].video
        raise DataError(
            f"{file}: none of the {len(entries)} files listed exists; the first, {first}, not in {tried}{hint}"
        )
    return entries
