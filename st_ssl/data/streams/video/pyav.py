"""FFmpeg through PyAV: the default reader."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.core.types import VideoMeta
from st_ssl.data.streams.video.av_stream import AVStream
from st_ssl.data.streams.video.base import MAX_PIXELS, Reader
from st_ssl.data.streams.video.frame_table import FrameTable
from st_ssl.data.streams.video.scan import scan

_SEEK_GAIN = 8  # frames that a seek must skip to pay for refilling the decoder
_MOST_TABLES = 1 << 17
_TABLES: dict[tuple[str, int, int], FrameTable] = {}  # by path, size and time of change: later epochs do not scan again


class PyAVReader(Reader):
    """FFmpeg through PyAV, single-threaded: the workers of a loader are what runs in parallel.

    Frames that nobody asked for and no other frame is predicted from are not decoded (a quarter of the time at stride
    4 of usual H.264); what is asked for is the same to the bit.

    On first opening, the packets are read once and hardly decoded (see ``scan``), which gives the exact number of
    frames and the time stamp and key flag of each. What was found is remembered as a ``FrameTable`` for as long as the
    file does not change, or comes with ``table``. Where time stamps are absent or guessed (MPEG-4 in AVI), frames are
    counted from the start instead. ``data`` are the bytes of the file, where it is not one of its own. Frames are shown
    as players show them: turned, mirrored, and with square pixels.
    """

    table: FrameTable

    def __init__(
        self, path: str, table: FrameTable | None = None, data: bytes | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        super().__init__(path)
        self._video = AVStream(path, data, max_pixels)
        try:
            self._reformatter = _reformatter()
            self.table = table or (scan(self._video) if data is not None else self._remembered())
        except BaseException:
            self.close()
            raise
        self.meta = self.table.meta
        self._pts, self._keys = self.table.pts, self.table.keys
        self._key_indices = sorted(self._keys)
        self._shown: dict[tuple[int, int], tuple[int, int]] = {}  # sizes as stored and as shown

    def close(self) -> None:
        """Release the file; may be called twice."""
        self._video.close()

    def _remembered(self) -> FrameTable:
        status = os.stat(self.path)
        key = (os.path.abspath(self.path), status.st_size, status.st_mtime_ns)
        if key not in _TABLES:
            if len(_TABLES) >= _MOST_TABLES:
                _TABLES.clear()
            _TABLES[key] = scan(self._video)
        return _TABLES[key]

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The frames at ``indices`` (sorted, unique), in order, as (index, uint8 [H, W, 3] RGB)."""
        wanted = self._asked(indices)
        done, from_start = 0, self._pts is None
        while done < len(wanted):
            before = done
            if self._pts is not None and wanted[done] >= len(self._pts):
                raise self._undecodable(wanted[done], "the file is cut short")
            for index, frame in self._decode(wanted[done:], from_start):
                if index == wanted[done]:
                    yield index, self._rgb(index, frame)
                    done += 1
                if done == len(wanted):
                    return
                if index > wanted[done] or (not from_start and self._key_before(wanted[done]) > index + _SEEK_GAIN):
                    break
            if done == before:  # the frame does not come on this road: the other one is from the start
                if from_start:
                    raise self._undecodable(wanted[done], self._video.error)
                from_start = True

    def _key_before(self, index: int) -> int:
        at = bisect_right(self._key_indices, index) - 1
        return self._key_indices[at] if at >= 0 else -1

    def _index(self, pts: int | None) -> int | None:
        """The index of the frame with a time stamp; None where there is none."""
        if self._pts is None or pts is None:
            return None
        index = bisect_right(self._pts, pts) - 1
        return index if index >= 0 and self._pts[index] == pts else None

    def _decode(self, wanted: Sequence[int], from_start: bool) -> Iterator[tuple[int, Any]]:
        """(index, frame) from the key frame before the first of ``wanted`` on, without some that are not wanted; or
        all from the start of the file."""
        if from_start:
            self._video.open()
            packets = self._video.packets()
        else:
            packets = self._seek(self._key_before(wanted[0]))
        asked = None if from_start or self._pts is None else {self._pts[i] for i in wanted if i < len(self._pts)}
        shown = -1
        for packet in packets:
            if asked is not None:
                self._video.stream.codec_context.skip_frame = "DEFAULT" if packet.pts in asked else "NONREF"
            for frame in self._video.decode(packet):
                shown += 1
                index = shown if self._pts is None else self._index(frame.pts)
                if index is not None:
                    yield index, frame

    def _seek(self, key: int) -> Iterator[Any]:
        """Packets from key frame ``key`` on; nothing where no seek leads to it (containers differ in the time used)."""
        for time in self._keys.get(key, ()):
            if time is None or not self._video.seek(time):
                continue
            packets = self._video.packets()
            first = next(packets, None)
            if first is not None and first.is_keyframe and first.pts is not None and first.pts <= self._keys[key][0]:
                yield first
                yield from packets
                return

    def _rgb(self, index: int, frame: Any) -> np.ndarray:
        if frame.is_corrupt:
            raise self._undecodable(index, "its data are damaged")
        stored = frame.width, frame.height
        if stored not in self._shown:  # of most files all frames are of one size
            self._shown[stored] = self.table.stretched(*stored)
        width, height = self._shown[stored]
        image = self._reformatter(frame, width=width, height=height, format="rgb24").to_ndarray()
        if self.table.mirrored:
            image = image[:, ::-1]
        if self.table.turns:
            image = np.rot90(image, self.table.turns)  # both count anticlockwise
        return self._sized(index, np.ascontiguousarray(image))  # rows of odd widths are padded


def frame_table(path: str, max_pixels: int = MAX_PIXELS) -> FrameTable:
    """What PyAV finds out of a file. Raises ``SampleError``."""
    with PyAVReader(path, max_pixels=max_pixels) as reader:
        return reader.table


def agreed(path: str, backend: str, table: FrameTable, num_frames: int) -> VideoMeta:
    """What all readers say of a file; ``SampleError`` where ``backend``, which counts ``num_frames``, would show others
    or in another way."""
    if table.mirrored:
        raise SampleError(path, f"{backend} does not mirror frames, as its display matrix asks; data.reader=pyav does")
    if num_frames != table.meta.num_frames:
        counts = f"{num_frames} frames, of which {table.meta.num_frames} can be decoded"
        raise SampleError(path, f"{backend} finds {counts} from its start; data.reader=pyav reads those")
    return table.meta


def _reformatter() -> Any:
    """One scaler for all frames, in this thread alone."""
    import functools

    from av.video.reformatter import VideoReformatter

    reformat = VideoReformatter().reformat
    # newer PyAV scales in as many threads as there are cores, unless told
    return functools.partial(reformat, threads=1) if "threads" in str(reformat.__doc__) else reformat
