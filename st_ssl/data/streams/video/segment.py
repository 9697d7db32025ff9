"""Part of a video, as if it were all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.core.types import Entry
from st_ssl.data.streams.video import VideoReader
from st_ssl.data.streams.video.base import Reader
from st_ssl.data.streams.video.frame_table import uneven


def segment_of(reader: VideoReader, entry: Entry) -> VideoReader:
    """The frames of ``reader`` that belong to ``entry``: ``reader`` itself where all do.

    Raises ``SampleError``, and closes the reader, where the video has fewer frames than the entry says.
    """
    if entry.start == 0 and entry.num_frames is None:
        return reader
    total = reader.meta.num_frames
    num_frames = total - entry.start if entry.num_frames is None else entry.num_frames
    if num_frames < 1 or entry.start + num_frames > total:
        reader.close()
        count = "the rest" if entry.num_frames is None else entry.num_frames
        raise SampleError(entry.path, f"has {total} frames, but the list says {count} from frame {entry.start} on")
    return SegmentReader(reader, entry.path, entry.start, num_frames)


class SegmentReader(Reader):
    """``num_frames`` frames of another reader from ``start`` on; frame 0 is that frame. Closes the other reader."""

    def __init__(self, reader: VideoReader, path: str, start: int, num_frames: int) -> None:
        super().__init__(path)
        self._reader = reader
        self._start = start
        self.meta = replace(reader.meta, num_frames=num_frames)
        times = self.times()
        if uneven(times, self.meta.fps) and times[-1] > 0:  # not at the rate of the whole
            self.meta = replace(self.meta, fps=(num_frames - 1) / float(times[-1]))

    def times(self) -> np.ndarray:
        """When each frame is shown, float64 [T], in seconds from the first one on."""
        times = self._reader.times()[self._start : self._start + self.meta.num_frames]
        return times - times[0]

    def duration(self) -> float:
        """Seconds from when the first frame is shown to the end of the last one."""
        ends = np.append(self._reader.times(), self._reader.duration())
        return float(ends[self._start + self.meta.num_frames] - ends[self._start])

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The frames at ``indices`` (sorted, unique) of the segment, in order, as (index, uint8 [H, W, 3] RGB)."""
        asked, start = self._asked(indices), self._start
        shifted = range(asked.start + start, asked.stop + start, asked.step) if isinstance(asked, range) else None
        for index, image in self._reader.read(shifted or [start + i for i in asked]):
            yield index - self._start, image

    def close(self) -> None:
        """Release the file; may be called twice."""
        self._reader.close()
