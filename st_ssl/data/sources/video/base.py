"""What the formats of videos share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from st_ssl.core.errors import DataError
from st_ssl.core.plain_json import load_json
from st_ssl.data.sources import base as sources
from st_ssl.data.sources.base import Kind
from st_ssl.data.streams.video import VIDEO_EXTENSIONS
from st_ssl.data.streams.video.image_series import is_image

NAMES = "mp4 mkv avi mov webm mts and whatever else FFmpeg reads"


def is_video(name: str) -> bool:
    """Whether a file name ends like that of a video."""
    return name.lower().endswith(VIDEO_EXTENSIONS)


def holds_images(folder: str) -> bool:
    """Whether there are images in a folder, which is a video then."""
    return any(map(is_image, os.listdir(folder)))


VIDEO = Kind("video", is_video, holds_images)


def read_lines(path: Path) -> list[str]:
    """The lines of a list of videos: see ``sources.read_lines``."""
    return sources.read_lines(path, VIDEO)


def read_json(path: Path) -> Any:
    """What a JSON file says; ``DataError`` with the line where it is none."""
    try:
        return load_json("\n".join(read_lines(path)))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not JSON of plain data: {error}") from error
