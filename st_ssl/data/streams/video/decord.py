"""decord: fast on plain H.264 in MP4; it returns wrong frames for some other containers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from st_ssl.core.errors import MissingDependencyError, SampleError
from st_ssl.data.streams.video.base import MAX_PIXELS, Reader, check_file
from st_ssl.data.streams.video.frame_table import FrameTable
from st_ssl.data.streams.video.pyav import agreed, frame_table


class DecordReader(Reader):
    """decord, single-threaded. It turns frames itself. Files on which it would abort, or that it would show otherwise
    than PyAV does, are refused. What there is to know of a file is found out by PyAV, or comes with ``table``."""

    def __init__(self, path: str, table: FrameTable | None = None, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(path)
        check_file(path, max_pixels)
        try:
            import decord
        except ImportError as error:
            raise MissingDependencyError("decord", "video", "reading videos with decord") from error
        self._errors = (decord.DECORDError, RuntimeError, IndexError, EOFError)
        self._video: Any = None
        self.table = table or frame_table(path, max_pixels)
        try:
            self._video = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            num_frames = len(self._video)
        except self._errors as error:
            raise SampleError(path, f"not a video: {_first_line(error)}") from error
        if num_frames == 0:
            raise SampleError(path, "no frames")
        self.meta = agreed(path, "decord", self.table, num_frames)
        try:
            channels = self._video[0].shape[2]
        except self._errors as error:
            raise SampleError(path, f"frame 0 of {num_frames} cannot be decoded: {_first_line(error)}") from error
        if channels != 3:  # where it turns narrow frames it takes the padding of their rows for pixels
            raise SampleError(path, f"decord finds {channels} colours in it; data.reader=pyav reads it")

    def close(self) -> None:
        """Release the file; may be called twice."""
        self._video = None

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The frames at ``indices`` (sorted, unique), in order, as (index, uint8 [H, W, 3] RGB)."""
        for index in self._asked(indices):
            try:
                image = self._video[index].asnumpy()
            except self._errors as error:
                raise self._undecodable(index, _first_line(error)) from error
            yield index, self._sized(index, self._stretched(image))


def _first_line(error: Exception) -> str:
    """decord's message without its stack."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
