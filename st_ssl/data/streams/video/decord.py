"""decord: fast on plain H.264 in MP4; it returns wrong frames for some other containers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from st_ssl.core.errors import MissingDependencyError, SampleError
from st_ssl.core.types import VideoMeta
from st_ssl.data.streams.video.base import FALLBACK_FPS, Reader, check_file


class DecordReader(Reader):
    """decord, single-threaded. It applies rotation itself. Files on which it would abort are told apart before."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        check_file(path)
        try:
            import decord
        except ImportError as error:
            raise MissingDependencyError("decord", "video", "reading videos with decord") from error
        self._errors = (decord.DECORDError, RuntimeError, IndexError, EOFError)
        self._video: Any = None
        try:
            self._video = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            num_frames = len(self._video)
        except self._errors as error:
            raise SampleError(path, f"not a video: {_first_line(error)}") from error
        if num_frames == 0:
            raise SampleError(path, "no frames")
        try:
            height, width, channels = self._video[0].shape
        except self._errors as error:
            raise SampleError(path, f"frame 0 of {num_frames} cannot be decoded: {_first_line(error)}") from error
        if channels != 3:  # where it turns narrow frames it takes the padding of their rows for pixels
            raise SampleError(path, f"decord finds {channels} colours in it; data.reader=pyav reads it")
        self.meta = VideoMeta(num_frames, float(self._video.get_avg_fps()) or FALLBACK_FPS, width, height)

    def close(self) -> None:
        """Release the file; may be called twice."""
        self._video = None

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The frames at ``indices`` (sorted, unique), in order, as (index, uint8 [H, W, 3] RGB)."""
        for index in self._asked(indices):
            try:
                image = self._video[index].asnumpy()
            except self._errors as error:
                raise self._undecodable(index, _first_line(error)) from error
            yield index, self._sized(index, image)


def _first_line(error: Exception) -> str:
    """decord's message without its time, source line and stack."""
    line = str(error).strip().partition("\n")[0]
    return re.sub(r"^(\[[\d:]+\] )?\S+:\d+: (Check failed: )?", "", line) or type(error).__name__
