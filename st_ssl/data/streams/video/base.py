"""What all readers share: random access to the frames of one video, by frame index, exact to the frame.

An index counts the frames in the order in which they are shown, so that index i is the i-th frame that decoding the
whole file gives, whatever its time stamps, frame rate or group of pictures. T frames, H W size as displayed.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.core.types import VideoMeta
from st_ssl.data.streams.video.frame_table import FrameTable

FALLBACK_FPS = 30.0
"""Frames a second where nothing tells: a folder of images, say."""
MAX_PIXELS = 36 << 20
"""Pixels that a frame may have, unless ``data.max_pixels`` says otherwise: enough for videos of 8192 x 4320."""


_NAMES = """
mp4 m4v mp4v mov qt mj2 3gp 3gpp 3g2 f4v mkv mk3d webm avi divx xvid amv flv asf wmv wm ogv ogm ogx rm rmvb rv
ts mts m2ts m2t tp trp tod mpg mpeg mpe mpv m1v m2v m2p vob vro mod mxf nut ivf obu av1 dv dif wtv y4m gif
h264 264 avc h265 265 hevc
"""
VIDEO_EXTENSIONS = tuple(f".{name}" for name in _NAMES.split())
"""How files end that FFmpeg reads as a video: the usual names of the containers in ``pyav.py``."""


class VideoReader(Protocol):
    """One open video. ``meta`` is known on opening; use as a context manager, or ``close`` it."""

    meta: VideoMeta

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The frames at ``indices`` (sorted, unique), in order, as (index, uint8 [H, W, 3] RGB)."""
        ...

    def times(self) -> np.ndarray:
        """When each frame is shown, float64 [T], in seconds from the first one on."""
        ...

    def duration(self) -> float:
        """Seconds from when the first frame is shown to the end of the last one."""
        ...

    def close(self) -> None:
        """Release the file; may be called twice."""
        ...

    def __enter__(self) -> VideoReader: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class Reader:
    """What the readers share: the context manager, and the checks of what is asked for and what comes out."""

    meta: VideoMeta
    table: FrameTable | None = None

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; may be called twice."""

    def times(self) -> np.ndarray:
        """When each frame is shown, float64 [T], in seconds from the first one on."""
        return np.arange(self.meta.num_frames) / self.meta.fps if self.table is None else self.table.times()

    def duration(self) -> float:
        """Seconds from when the first frame is shown to the end of the last one."""
        return self.meta.num_frames / self.meta.fps if self.table is None else self.table.duration()

    def _asked(self, indices: Sequence[int]) -> Sequence[int]:
        wanted = indices if isinstance(indices, range) else [int(i) for i in indices]  # a range may be of any length
        rising = wanted.step > 0 if isinstance(wanted, range) else all(a < b for a, b in pairwise(wanted))
        assert rising, "indices must be sorted and unique"
        for index in (wanted[0], wanted[-1]) if wanted else ():
            if not 0 <= index < self.meta.num_frames:
                raise SampleError(self.path, f"frame {index} is outside: it has {self.meta.num_frames} frames")
        return wanted

    def _sized(self, index: int, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        if (width, height) != (self.meta.width, self.meta.height):
            size = f"{self.meta.width}x{self.meta.height}"
            raise SampleError(self.path, f"frame {index} is {width}x{height}, the first one {size}")
        return image

    def _stretched(self, image: np.ndarray) -> np.ndarray:
        """An image as the decoder turned it, with square pixels."""
        assert self.table is not None
        height, width = image.shape[:2]
        if self.table.turns % 2:
            height, width = self.table.stretched(height, width)
        else:
            width, height = self.table.stretched(width, height)
        if (height, width) == image.shape[:2]:
            return image
        from PIL import Image

        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))

    def _undecodable(self, index: int, why: object) -> SampleError:
        return SampleError(self.path, f"frame {index} of {self.meta.num_frames} cannot be decoded: {why}")


def check_file(path: str, max_pixels: int = MAX_PIXELS) -> None:
    """What can be told of a bad file before a decoder sees it (some decoders abort on them)."""
    mode = file_mode(path)
    if stat.S_ISDIR(mode):
        raise SampleError(path, "not a video: it is a folder")
    check_regular(path, mode)
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise SampleError(path, f"file cannot be read: {error.strerror}") from error
    check_head(path, head, max_pixels)


def file_mode(path: str) -> int:
    """The mode of the file or folder at ``path``; ``SampleError`` where there is none."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SampleError(path, "file is missing") from error
    except OSError as error:
        raise SampleError(path, f"file cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SampleError(path, "not a path: it holds a NUL character") from error


def check_regular(path: str, mode: int) -> None:
    """Raise ``SampleError`` for pipes, sockets and devices, where a reader would wait for ever."""
    if not stat.S_ISREG(mode):
        raise SampleError(path, "not a regular file")


def check_size(path: str, width: int, height: int, max_pixels: int) -> None:
    """Raise ``SampleError`` where a frame of this size has more pixels than allowed."""
    if width * height > max_pixels:
        raise SampleError(path, f"{width}x{height} is over the limit of {max_pixels} pixels a frame (data.max_pixels)")


_NAMING_OTHERS = (b"ffconcat", b"#ext", b"<?xml", b"<mpd", b"[playlist]", b"v=0")


def check_head(path: str, head: bytes, max_pixels: int = MAX_PIXELS) -> None:
    """Raise ``SampleError`` where a file that begins with ``head`` is empty, text, or a play list in disguise: through
    those a "video" could name other files and addresses, which a decoder would open; or a GIF that is too large."""
    if not head:
        raise SampleError(path, "file is empty")
    if not head.startswith(b"YUV4MPEG2 ") and all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head[:512]):
        raise SampleError(path, "not a video: it is text")
    if head.startswith(b"GIF8") and len(head) >= 10:  # FFmpeg makes room for the whole screen when it opens the file
        width, height = struct.unpack("<HH", head[6:10])
        check_size(path, width, height, max_pixels)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_NAMING_OTHERS):
        raise SampleError(path, "not a video: it is a list that names other files")


_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"


def check_whole(path: str) -> None:
    """Raise ``SampleError`` where a Matroska or WebM file has fewer bytes than its header tells of (RFC 9559): decoders
    take what is left of one for all of it. Files whose header does not tell, and those of other kinds, pass."""
    with open(path, "rb") as file:
        head = file.read(4096)
        there = file.seek(0, os.SEEK_END)
    at = 0
    while head.startswith(_EBML) and at + 12 <= len(head):
        name, size, content = _element(head, at)
        if size is None:  # written as it was filmed
            return
        at = content + size
        if name == _SEGMENT:
            if there < at:
                raise SampleError(path, f"the file is cut short: its header tells of {at} bytes, {there} are there")
            return


def _element(head: bytes, at: int) -> tuple[bytes, int | None, int]:
    """The name of the EBML element at a place (RFC 8794), the size of its content, if it tells, and where that begins.
    Of both numbers the zeros in front tell the width in bytes."""
    end = at + 9 - head[at].bit_length()
    width = 9 - head[end].bit_length()
    most = (1 << 7 * width) - 1
    size = int.from_bytes(head[end : end + width], "big") & most
    return head[at:end], None if size == most else size, end + width
