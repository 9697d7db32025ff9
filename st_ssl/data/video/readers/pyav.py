"""FFmpeg through PyAV: the default reader."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from st_ssl.data.video.readers.base import FALLBACK_FPS, Reader, check_file
from st_ssl.errors import MissingDependencyError, SampleError
from st_ssl.types import VideoMeta

_SEEK_GAIN = 8  # frames that a seek must skip to pay for refilling the decoder


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

    On opening, the packets are read once without decoding them, which gives the exact number of frames and the time
    stamp and key flag of each; one frame is decoded, for the size and rotation that only a frame shows. Where time
    stamps are absent or guessed (MPEG-4 in AVI), frames are counted from the start instead.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        check_file(path)
        self._av = _import_av()
        self._container: Any = None
        self._reformatter: Any = self._av.video.reformatter.VideoReformatter()  # one scaler for all frames
        # newer PyAV scales in as many threads as there are cores, unless told
        self._scaling = {"threads": 1} if "threads" in str(self._reformatter.reformat.__doc__) else {}
        self._error: object = "it is missing from the stream"
        try:
            self._open()
            self._index()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file; may be called twice."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self) -> None:
        self.close()
        self._container, self._stream = _open_av(self._av, self.path)

    def _index(self) -> None:
        """Learn which frames there are: ``_pts`` sorted (None: count them), ``_keys`` frame index to key (pts, dts)."""
        pts: list[Any] = []
        keys: dict[int, int | None] = {}
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
        self._pts = None if self._guessed_times(pts) else sorted(pts)
        self._keys = {} if self._pts is None else {bisect_right(self._pts, k) - 1: (k, d) for k, d in keys.items()}
        if self._pts is None:
            status = os.stat(self.path)
            num_frames = _count_decoded(self.path, status.st_size, status.st_mtime_ns)
        else:
            num_frames = self._cut_short(last_dts, total)
        self._key_indices = sorted(self._keys)
        turned = int(getattr(first, "rotation", 0)) % 360  # PyAV before 14 does not tell
        self._turns = round(turned / 90) % 4
        width, height = (first.width, first.height) if self._turns % 2 == 0 else (first.height, first.width)
        fps = float(self._stream.average_rate or self._stream.guessed_rate or FALLBACK_FPS)
        self.meta = VideoMeta(num_frames, fps, width, height)

    def _guessed_times(self, pts: list[Any]) -> bool:
        """Whether the time stamps cannot tell the frames apart, or are FFmpeg's guess (AVI has none of its own)."""
        if None in pts or len(set(pts)) < len(pts):
            return True
        context = self._stream.codec_context
        return self._container.format.name == "avi" and (context.name == "mpeg4" or bool(context.has_b_frames))

    def _cut_short(self, last_dts: int | None, packets: int) -> int:
        """The number of frames there should be; what is left of a file that was cut short keeps its indices."""
        assert self._pts is not None
        table = getattr(self._stream, "index_entries", ())  # PyAV before 17 does not show it
        missing = len(table) - packets
        if missing <= 0 or "mp4" not in self._container.format.name:  # others have no full table
            return len(self._pts)
        num_frames = len(self._pts) + missing
        if last_dts is not None:  # the lost packets may be shown before some that are here, but not before this time
            self._pts = self._pts[: bisect_right(self._pts, last_dts)]
        return num_frames

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


def _open_av(av: Any, path: str) -> tuple[Any, Any]:
    """The container and its video stream, set to decode in this thread alone."""
    try:
        container = av.open(os.path.abspath(path), metadata_errors="ignore")  # "a:b.mp4" is no protocol
    except (av.FFmpegError, OSError) as error:
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


@lru_cache(maxsize=1 << 16)  # one number per file: later epochs do not pay again
def _count_decoded(path: str, size: int, mtime_ns: int) -> int:
    """The number of frames that decoding gives, for files whose packets do not tell."""
    av = _import_av()
    container, stream = _open_av(av, path)
    count = 0
    with container:
        for packet in _packets(av, container, stream):
            try:
                count += len(packet.decode())
            except (av.FFmpegError, EOFError):
                continue  # those frames are lost to the reader as well
    return count
