"""What the formats of videos share."""

from __future__ import annotations

import os

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
