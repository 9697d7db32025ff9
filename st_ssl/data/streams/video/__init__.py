"""Readers: one open video behind one protocol, whichever library decodes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from st_ssl.core.errors import ConfigError, nearest
from st_ssl.data.streams.video.base import MAX_PIXELS, VIDEO_EXTENSIONS, VideoReader
from st_ssl.data.streams.video.decord import DecordReader
from st_ssl.data.streams.video.frame_table import FrameTable
from st_ssl.data.streams.video.image_sequence import FramesReader
from st_ssl.data.streams.video.image_series import IMAGE_EXTENSIONS, is_series
from st_ssl.data.streams.video.pyav import PyAVReader
from st_ssl.data.streams.video.torchcodec import TorchCodecReader

__all__ = ["IMAGE_EXTENSIONS", "READERS", "VIDEO_EXTENSIONS", "Backend", "VideoReader", "open_video"]

Backend = Literal["auto", "pyav", "torchcodec", "decord", "frames"]
READERS: dict[str, Callable[..., VideoReader]] = {
    "pyav": PyAVReader,
    "torchcodec": TorchCodecReader,
    "decord": DecordReader,
    "frames": FramesReader,
}


def open_video(
    path: str | Path, backend: str = "auto", table: FrameTable | None = None, max_pixels: int = MAX_PIXELS
) -> VideoReader:
    """Open the video at ``path``: a file, a folder of images in natural order, or a series of them
    (``folder#img_*``); ``"auto"`` reads the latter two as such.

    ``table``: what an index knows of the file. ``max_pixels``: a frame that has more is refused before any room is made
    for it.

    Raises ``SampleError`` with a short reason when this video cannot be used, here or in ``read``;
    ``MissingDependencyError`` or ``MissingLibraryError`` when the backend is not installed, ``ConfigError`` when there
    is none of that name.
    """
    if backend == "auto":
        backend = "frames" if os.path.isdir(path) or is_series(str(path)) else "pyav"
    if backend not in READERS:
        allowed = ("auto", *READERS)
        raise ConfigError(f"no video reader {backend!r}: one of {', '.join(allowed)}{nearest(str(backend), allowed)}")
    if backend == "frames":
        return FramesReader(str(path), max_pixels)
    return READERS[backend](str(path), table=table, max_pixels=max_pixels)
