"""The video stream of a file through PyAV: its packets, and the frames in them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

from st_ssl.core.errors import MissingDependencyError, SampleError
from st_ssl.data.streams.video.base import MAX_PIXELS, check_file, check_head, check_size

# Formats that hold their own frames: none that names other files or addresses (play lists, concat, HLS, DASH, SDP).
_CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,gif,ivf,mxf,nut,h264,hevc,obu,dv,rm,wtv,yuv4mpegpipe"
)


class AVStream:
    """The video stream of a file, or of ``data``, its bytes, decoded in this thread alone.

    Raises ``SampleError`` where it is none, or where frames have more than ``max_pixels`` pixels.
    """

    def __init__(self, path: str, data: bytes | None = None, max_pixels: int = MAX_PIXELS) -> None:
        self.path, self.max_pixels = path, max_pixels
        if data is None:
            check_file(path, max_pixels)
        else:
            check_head(path, data[:512], max_pixels)
        self._data = data
        try:
            import av
        except ImportError as error:
            raise MissingDependencyError("av", "video", "reading videos with PyAV") from error
        self._av: Any = av
        self.container: Any = None
        self.error: object = "it is missing from the stream"
        self.open()

    def open(self) -> None:
        """Be at the start of the file, also once more."""
        self.close()
        av, limit = self._av, {"max_pixels": str(self.max_pixels)}
        file = os.path.abspath(self.path) if self._data is None else io.BytesIO(self._data)  # "a:b.mp4" is no protocol
        version = int(av.__version__.split(".")[0])
        # Up to 18 PyAV refuses tags that are no UTF-8 unless told otherwise; 19 takes them, and cannot be told.
        how: dict[str, Any] = {"metadata_errors": "ignore"} if version < 19 else {}
        if version > 17:  # older ones crash with `options` where streams show up late, as in MPEG-PS
            how["options"] = limit
        try:
            container = av.open(file, container_options={"format_whitelist": _CONTAINERS}, **how)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise SampleError(self.path, f"not a video: {_plain(error)}") from error
        self.container = container
        try:
            self.stream = self._best()
            context = self.stream.codec_context
            context.thread_count = 1
            context.options = {**context.options, **limit}
        except BaseException:
            self.close()
            raise

    def _best(self) -> Any:
        """Of several streams, the one that players show."""
        stream = self.container.streams.best("video")
        if (
            stream is None
            or stream.codec_context is None
            or stream.disposition & self._av.stream.Disposition.attached_pic
        ):
            raise SampleError(self.path, "no video stream")  # a cover picture of a sound file is none
        check_size(self.path, stream.codec_context.width, stream.codec_context.height, self.max_pixels)
        return stream

    def close(self) -> None:
        """Release the file; may be called twice."""
        if self.container is not None:
            self.container.close()
            self.container = None

    def packets(self) -> Iterator[Any]:
        """The packets from where the file is; an error of the file ends them as its end does."""
        try:
            yield from self.container.demux(self.stream)
        except (self._av.FFmpegError, EOFError):
            return

    def decode(self, packet: Any) -> list[Any]:
        """The frames that come with ``packet``. A damaged one costs the frames in it; ``error`` is then why."""
        try:
            return list(packet.decode())
        except (self._av.FFmpegError, EOFError) as error:
            self.error = _plain(error)
            return []

    def seek(self, time: int) -> bool:
        """Go to the last key frame at or before a time stamp; whether that is possible."""
        try:
            self.container.seek(time, stream=self.stream)
        except self._av.FFmpegError:
            return False
        return True


def _plain(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
