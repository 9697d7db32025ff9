"""Folders of images, each a video."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.core.types import VideoMeta
from st_ssl.data.streams.video.base import FALLBACK_FPS, MAX_PIXELS, Reader, check_regular, check_size, file_mode
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

    def __init__(self, path: str, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(path)
        self.folder, series = split_series(path)
        if not stat.S_ISDIR(file_mode(self.folder)):
            raise SampleError(path, "not a folder of images")
        self._max_pixels = max_pixels
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

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The frames at ``indices`` (sorted, unique), in order, as (index, uint8 [H, W, 3] RGB)."""
        for index in self._asked(indices):
            yield index, self._sized(index, self._load(index))

    def _load(self, index: int) -> np.ndarray:
        name = self._names[index]
        file = os.path.join(self.folder, name)
        try:
            check_regular(file, file_mode(file))
            return load_image(file, self._max_pixels)
        except SampleError as error:
            raise self._undecodable(index, f"{name}: {error.reason}") from error
        except Exception as error:  # Pillow's decoders raise whatever they run into
            why = str(error).replace(file, name).replace(os.sep + name, name) or type(error).__name__
            raise self._undecodable(index, f"{name}: {why}") from error


_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""The formats of ``IMAGE_EXTENSIONS``. Pillow knows more, and hands some of them to other programs (EPS)."""
_PLAIN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def load_image(file: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The image in a file, upright, uint8 [H, W, 3] RGB.

    Grey levels of 16 bits are scaled by 1/257, as FFmpeg scales those of videos; transparency is dropped; of several
    pictures in a file the first is read. Raises ``SampleError`` where it has more than ``max_pixels`` pixels, or holds
    numbers that are no grey levels; what Pillow raises where it is damaged.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        image = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise SampleError(file, f"not an image: {', '.join(_FORMATS)} are read") from error
    with image:
        check_size(file, image.width, image.height, max_pixels)
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode in _PLAIN:
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        if image.mode not in _SIXTEEN_BITS:
            raise SampleError(file, f"images of mode {image.mode} are not read: their numbers are no grey levels")
        levels = np.asarray(image)
    if levels.dtype.itemsize > 2 and (levels.min() < 0 or levels.max() > 0xFFFF):
        span = f"numbers from {levels.min()} to {levels.max()}"
        raise SampleError(file, f"images of mode {image.mode} are read as 16-bit grey; this one has {span}")
    grey = ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
