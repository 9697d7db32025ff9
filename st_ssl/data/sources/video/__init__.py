"""Sources: from what people have (a folder of videos, a list, the files of a known data set) to a list of entries.

One file for each family of formats; ``FORMATS`` has them in the order in which they are tried.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Formats, Listing
from st_ssl.data.sources.tables import table_formats
from st_ssl.data.sources.video import diving48, folder, hmdb51, kinetics, lists, ssv2, ucf101
from st_ssl.data.sources.video.base import VIDEO
from st_ssl.data.sources.video.series import with_series
from st_ssl.data.streams.video import VIDEO_EXTENSIONS

__all__ = ["FORMATS", "VIDEO_EXTENSIONS", "SourceFormat", "read_source", "target_names"]

_FAMILIES = (  # the more special ones first
    *(kinetics.FORMATS, ucf101.FORMATS, hmdb51.FORMATS, ssv2.FORMATS, diving48.FORMATS),
    *(table_formats(VIDEO), lists.FORMATS, folder.FORMATS),
)


def _in_series(form: Format) -> Format:
    """The format; where it lists files, folders of several series of images become the series that is meant."""
    return replace(form, read=lambda place: with_series(place, form.read(place))) if form.lists else form


FORMATS = Formats(VIDEO, (_in_series(form) for family in _FAMILIES for form in family))
if TYPE_CHECKING:
    SourceFormat = str
else:
    SourceFormat = Literal["auto", *FORMATS]


def read_source(
    root: Path, listing: Path | None = None, format: str = "auto", split: int | None = None, series: str | None = None
) -> Listing:
    """The videos of one source, in a fixed order; ``entry.path`` is what ``open_video`` takes.

    ``root`` holds the videos, ``listing`` (a file or a folder) says what is known of them; without it, ``root`` is
    either a folder that has both, or the file. ``format`` is one of ``FORMATS``, or "auto" for what it looks like:

    - the files of Kinetics, UCF101, HMDB51, Something-Something v2 and Diving48, in the folder or in one of the usual
      folders for annotations within it. ``split`` is the number of the official split of those that have
      several (1 if None);
    - a table: ``factors.csv`` in the folder (each column is a target), or a file whose first line names columns, one
      of them ``path`` (or ``video_name``, ``clip_id``, …; ``tables.py`` has the names); JSON lines with such keys too;
    - any other file is a list of one video a line. Numbers behind the path are what they can only be by their values
      (a number of frames is at least 2, and -1 stands for all; a label is not negative); if that leaves a choice it is
      an error that names the choices. Blank lines and those starting with ``#`` are skipped. Relative paths are taken
      from ``root``, then from the folder of the list;
    - several lists or tables, one for each split, whose names say it (``train.csv`` and ``val.csv``; the rules are in
      ``split_files.py``), in the folder ``listing``, beside the file ``listing``, or in ``root``;
    - a folder: all videos in it, at any depth, in byte order of their paths. A folder that holds images is one video,
      or several (``series`` names which series of images, where two readings fit: see ``series.py``), whatever else is
      in it but videos. Splits and labels are the names of folders (see ``folder_entries``).

    Where nothing tells the split it is "train". Files missing from lists and tables are left to the reader; videos of
    known data sets that are missing are counted in a warning, and so are rows that repeat another one. ``DataError``
    where the source as a whole cannot be used, with file, line and what was expected; ``ConfigError`` for a format
    that does not exist.
    """
    return FORMATS.read(root, listing, format, split, series)


def target_names(entries: Iterable[Entry]) -> list[str]:
    """The names of the targets that any of ``entries`` has a label for, in order of appearance: ``["label"]``, say."""
    return list(dict.fromkeys(name for entry in entries for name in entry.labels))
