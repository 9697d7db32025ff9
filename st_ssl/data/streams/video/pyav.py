"""FFmpeg through PyAV: the default reader."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from st_ssl.core.errors import MissingDependencyError, SampleError
from st_ssl.core.types import VideoMeta
from st_ssl.data.streams.video.base import FALLBACK_FPS, Reader, check_file, check_head
from st_ssl.data.streams.video.frame_table import FrameTable, compact

_SEEK_GAIN = 8  # frames that a seek must skip to pay for refilling the decoder
_MOST_TABLES = 1 << 17
# Formats that hold their own frames: none that names other files or addresses (play lists, concat, HLS, DASH, SDP).
_CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,gif,ivf,mxf,nut,h264,hevc,obu,dv,rm,wtv,yuv4mpegpipe"
)
_TABLES: dict[tuple[str, int, int], FrameTable] = {}  # by path, size and time of change: later epochs do not scan again


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError("av", "video", "reading videos with PyAV") from error
    return av


class PyAVReader(Reader):
    """FFmpeg through PyAV, single-threaded: the workers of a loader are what runs in parallel.

    Frames that nobody asked for and no other frame is predicted from are not decoded (a quarter of the time at stride
    4 of usual H.264); what is asked for is the same to the bit.

    On first opening, the packets are read once without decoding them, which gives the exact number of frames and the
    time stamp and key flag of each; one frame is decoded, for the size and rotation that only a frame shows. What was
    found is remembered as a ``FrameTable`` for as long as the file does not change, or comes with ``table``.
    Where time stamps are absent or guessed (MPEG-4 in AVI), frames are counted from the start instead.
    ``data`` are the bytes of the file, where it is not one of its own.
    """

    def __init__(self, path: str, table: FrameTable | None = None, data: bytes | None = None) -> None:
        super().__init__(path)
        if data is None:
            check_file(path)
        else:
            check_head(path, data[:512])
        self._data = data
        self._av = _import_av()
        self._container: Any = None
        self._reformatter: Any = self._av.video.reformatter.VideoReformatter()  # one scaler for all frames
        # newer PyAV scales in as many threads as there are cores, unless told
        self._scaling = {"threads": 1} if "threads" in str(self._reformatter.reformat.__doc__) else {}
        self._error: object = "it is missing from the stream"
        try:
            self._open()
            self.table = table or self._remembered()
        except BaseException:
            self.close()
            raise
        self.meta = self.table.meta
        self._pts, self._keys, self._turns = self.table.pts, self.table.keys, self.table.turns
        self._key_indices = sorted(self._keys)

    def close(self) -> None:
        """Release the file; may be called twice."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self) -> None:
        self.close()
        self._container, self._stream = _open_av(self._av, self.path, self._data)

    def _remembered(self) -> FrameTable:
        if self._data is not None:
            return self._scan()
        status = os.stat(self.path)
        key = (os.path.abspath(self.path), status.st_size, status.st_mtime_ns)
        if key not in _TABLES:
            if len(_TABLES) >= _MOST_TABLES:
                _TABLES.clear()
            _TABLES[key] = self._scan()
        return _TABLES[key]

    def _scan(self) -> FrameTable:
        pts: list[Any] = []
        keys: dict[Any, int | None] = {}
        first, last_dts, total = None, None, 0
        hidden = self._stream.codec_context.name == "vp8"  # may hold frames that are decoded and never shown
        for packet in _packets(self._av, self._container, self._stream):
            if first is None:
                first = next(iter(self._decode_packet(packet)), None)
            if packet.size == 0:
                continue
            total += 1
            if packet.is_discard or (hidden and not bytes(packet)[0] & 0x10):
                continue
            last_dts = packet.dts if packet.dts is not None else last_dts
            pts.append(packet.pts)
            if packet.is_keyframe:
                keys[packet.pts] = packet.dts
        if not pts:
            raise SampleError(self.path, "no frames")
        if first is None:
            raise SampleError(self.path, f"no frame can be decoded: {self._error}")
        turned = int(getattr(first, "rotation", 0)) % 360  # PyAV before 14 does not tell
        turns = round(turned / 90) % 4
        width, height = (first.width, first.height) if turns % 2 == 0 else (first.height, first.width)
        fps = float(self._stream.average_rate or self._stream.guessed_rate or FALLBACK_FPS)
        if self._guessed_times(pts):
            return FrameTable(VideoMeta(self._count(), fps, width, height), None, {}, turns)
        num_frames, there = self._cut_short(sorted(pts), last_dts, total)
        places = {bisect_right(there, pts) - 1: (pts, dts) for pts, dts in keys.items()}
        return FrameTable(VideoMeta(num_frames, fps, width, height), compact(there), places, turns)

    def _guessed_times(self, pts: list[Any]) -> bool:
        """Whether the time stamps cannot tell the frames apart, or are FFmpeg's guess (AVI has none of its own)."""
        if None in pts or len(set(pts)) < len(pts):
            return True
        context = self._stream.codec_context
        return self._container.format.name == "avi" and (context.name == "mpeg4" or bool(context.has_b_frames))

    def _cut_short(self, pts: list[int], last_dts: int | None, packets: int) -> tuple[int, list[int]]:
        """The number of frames there should be, and the time stamps of those that are there: what is left of a file
        that was cut short keeps its indices."""
        table = getattr(self._stream, "index_entries", ())  # PyAV before 17 does not show it
        missing = len(table) - packets
        if missing <= 0 or "mp4" not in self._container.format.name:  # others have no full table
            return len(pts), pts
        # the lost packets may be shown before some that are here, but not before this time
        return len(pts) + missing, pts if last_dts is None else pts[: bisect_right(pts, last_dts)]

    def _count(self) -> int:
        """The number of frames that decoding gives, for files whose packets do not tell; damaged ones are lost."""
        self._open()
        packets = _packets(self._av, self._container, self._stream)
        return sum(len(self._decode_packet(packet)) for packet in packets)

    def _decode_packet(self, packet: Any) -> list[Any]:
        """A damaged packet costs the frames in it, and only those who ask for them."""
        try:
            return list(packet.decode())
        except (self._av.FFmpegError, EOFError) as error:
            self._error = _plain(error)
            return []

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
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
                    raise self._undecodable(wanted[done], self._error)
                from_start = True

    def _key_before(self, index: int) -> int:
        at = bisect_right(self._key_indices, index) - 1
        return self._key_indices[at] if at >= 0 else -1

    def _decode(self, wanted: list[int], from_start: bool) -> Iterator[tuple[int, Any]]:
        """(index, frame) from the key frame before the first of ``wanted`` on, without some that are not wanted; or
        all from the start of the file."""
        if from_start:
            self._open()
            packets = _packets(self._av, self._container, self._stream)
        else:
            packets = self._seek(self._key_before(wanted[0]))
        asked = None if self._pts is None or from_start else {self._pts[i] for i in wanted if i < len(self._pts)}
        shown = -1
        for packet in packets:
            if asked is not None:
                self._stream.codec_context.skip_frame = "DEFAULT" if packet.pts in asked else "NONREF"
            for frame in self._decode_packet(packet):
                shown += 1
                index = shown if self._pts is None else bisect_right(self._pts, frame.pts) - 1
                if self._pts is None or (index >= 0 and self._pts[index] == frame.pts):
                    yield index, frame

    def _seek(self, key: int) -> Iterator[Any]:
        """Packets from key frame ``key`` on; nothing where no seek leads to it (containers differ in the time used)."""
        for time in self._keys.get(key, ()):
            if time is None:
                continue
            try:
                self._container.seek(time, stream=self._stream)
            except self._av.FFmpegError:
                continue
            packets = _packets(self._av, self._container, self._stream)
            first = next(packets, None)
            if first is not None and first.is_keyframe and first.pts is not None and first.pts <= self._keys[key][0]:
                yield first
                yield from packets
                return

    def _rgb(self, index: int, frame: Any) -> np.ndarray:
        if frame.is_corrupt:
            raise self._undecodable(index, "its data are damaged")
        image = self._reformatter.reformat(frame, format="rgb24", **self._scaling).to_ndarray()
        if self._turns:
            image = np.rot90(image, self._turns)  # both count anticlockwise
        return self._sized(index, np.ascontiguousarray(image))  # rows of odd widths are padded


def _plain(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _open_av(av: Any, path: str, data: bytes | None) -> tuple[Any, Any]:
    """The container and its video stream, set to decode in this thread alone."""
    file = os.path.abspath(path) if data is None else io.BytesIO(data)  # absolute: "a:b.mp4" is no protocol
    # Up to 18 PyAV refuses tags that are no UTF-8 unless told otherwise; since 19 it takes them, and cannot be told.
    lenient = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:  # of the container alone: with `options`, PyAV up to 17 crashes where streams show up late, as in MPEG-PS
        container = av.open(file, container_options={"format_whitelist": _CONTAINERS}, **lenient)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise SampleError(path, f"not a video: {_plain(error)}") from error
    stream = container.streams.best("video")  # of several, the one that players show
    if stream is None or stream.codec_context is None or stream.disposition & av.stream.Disposition.attached_pic:
        container.close()
        raise SampleError(path, "no video stream")  # a cover picture of a sound file is none
    stream.codec_context.thread_count = 1
    return container, stream


def _packets(av: Any, container: Any, stream: Any) -> Iterator[Any]:
    """The packets of ``stream``; an error of the file ends them as its end does."""
    try:
        yield from container.demux(stream)
    except (av.FFmpegError, EOFError):
        return
