"""Folders of images, each a video."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.core.types import VideoMeta
from st_ssl.data.streams.video.base import FALLBACK_FPS, Reader
from st_ssl.data.streams.video.image_series import (
    ALL,
    IMAGE_EXTENSIONS,
    names_of,
    rgb_of,
    series_of,
    some,
    split_series,
)


class FramesReader(Reader):
    """A folder of images, in natural order (``img_9`` before ``img_10``), taken as ``FALLBACK_FPS`` frames a second; or
    one series of images in it (``folder#img_*``: see ``image_series.py``)."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.folder, series = split_series(path)
        if not os.path.exists(self.folder):
            raise SampleError(path, "file is missing")
        if not os.path.isdir(self.folder):
            raise SampleError(path, "not a folder of images")
        names = os.listdir(self.folder)
        found = series_of(names)
        if not found:
            raise SampleError(path, f"no frames: the folder holds no image ({', '.join(IMAGE_EXTENSIONS)})")
        if series == ALL:
            only = next(iter(found)) if len(found) == 1 else rgb_of(found)
            if only is None:
                raise SampleError(path, f"its images are of {len(found)} series, {some(found)}: data.series names one")
            series = only
        self._names = names_of(names, series)
        if not self._names:
            raise SampleError(path, f"no frames: its images are {some(found)}")
        self.meta = VideoMeta(len(self._names), FALLBACK_FPS, 0, 0)
        height, width = self._load(0).shape[:2]
        self.meta = VideoMeta(len(self._names), FALLBACK_FPS, width, height)

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The frames at ``indices`` (sorted, unique), in order, as (index, uint8 [H, W, 3] RGB)."""
        for index in self._asked(indices):
            yield index, self._sized(index, self._load(index))

    def _load(self, index: int) -> np.ndarray:
        from PIL import Image, ImageOps

        name = self._names[index]
        try:
            with Image.open(os.path.join(self.folder, name)) as image:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            why = str(error).replace(os.path.join(self.folder, name), name).replace(os.sep + name, name)
            raise self._undecodable(index, f"{name}: {why}") from error
