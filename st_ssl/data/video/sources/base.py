"""What the formats of videos share."""

from __future__ import annotations

from pathlib import Path

from st_ssl.data import sources
from st_ssl.errors import DataError

NAMES = "mp4 mkv avi mov webm m4v mpg mpeg ts flv wmv 3gp ogv gif"
VIDEO_EXTENSIONS = tuple(f".{name}" for name in NAMES.split())


def is_video(name: str) -> bool:
    """Whether a file name ends like that of a video."""
    return name.lower().endswith(VIDEO_EXTENSIONS)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8 (a byte order mark is dropped); ``DataError`` where it is none."""
    if is_video(path.name):
        raise DataError(f"{path} is a video: expected a folder of videos, or a text file that lists them")
    return sources.read_lines(path, "video")
