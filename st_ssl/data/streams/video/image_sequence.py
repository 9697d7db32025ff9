"""Folders of images, each a video."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.core.types import VideoMeta
from st_ssl.data.streams.video.base import FALLBACK_FPS, Reader

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class FramesReader(Reader):
    """A folder of images, in natural order (``img_9`` before ``img_10``), taken as ``FALLBACK_FPS`` frames a second."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        if not os.path.exists(path):
            raise SampleError(path, "file is missing")
        if not os.path.isdir(path):
            raise SampleError(path, "not a folder of images")
        names = (n for n in os.listdir(path) if n.lower().endswith(IMAGE_EXTENSIONS) and not n.startswith("."))
        self._names = sorted(names, key=_natural)
        if not self._names:
            raise SampleError(path, f"no frames: the folder holds no image ({', '.join(IMAGE_EXTENSIONS)})")
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
            with Image.open(os.path.join(self.path, name)) as image:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            why = str(error).replace(os.path.join(self.path, name), name).replace(os.sep + name, name)
            raise self._undecodable(index, f"{name}: {why}") from error


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key in which runs of digits count as numbers; the name itself breaks ties (``01`` and ``1``)."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if at % 2 else (0, part) for at, part in enumerate(parts)], name
