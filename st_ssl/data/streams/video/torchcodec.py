"""torchcodec: decodes with the FFmpeg of the system; the only reader that can use a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from st_ssl.core.errors import MissingDependencyError, MissingLibraryError, SampleError
from st_ssl.data.streams.video.base import MAX_PIXELS, Reader, check_file
from st_ssl.data.streams.video.frame_table import FrameTable
from st_ssl.data.streams.video.pyav import agreed, frame_table

_ERRORS = (RuntimeError, ValueError, IndexError, AssertionError)
_NEEDED_FOR = "reading videos with torchcodec"
_FFMPEG = "FFmpeg's shared libraries, versions 4 to 9 (Debian, Ubuntu: apt-get install ffmpeg)"
_INEXACT = "torchcodec does not find its frames by number; data.reader=pyav does"


class TorchCodecReader(Reader):
    """torchcodec's exact mode, single-threaded, on ``device`` ("cpu", "cuda", "cuda:1"); frames come back as arrays.

    It finds frames by time stamp, which is wrong where a container has none, or where its seeks land elsewhere. So only
    containers with time stamps of their own are read, every frame's time stamp is compared with that of the index asked
    for, and where they differ the frames are decoded from the start. What is not exact even then is a ``SampleError``.
    What there is to know of a file is found out by PyAV, or comes with ``table``.
    Unlike PyAV's, a frame with damaged data is shown as the decoder mends it.

    Worker processes that were forked cannot use CUDA: with ``device="cuda"``, decode in the process itself.
    """

    def __init__(
        self, path: str, table: FrameTable | None = None, max_pixels: int = MAX_PIXELS, device: str = "cpu"
    ) -> None:
        super().__init__(path)
        check_file(path, max_pixels)
        _import_torchcodec()
        self.table = table or frame_table(path, max_pixels)
        self._device = device
        self._video: Any
        self._open()
        if not _has_time_stamps(path):
            raise SampleError(path, f"neither MP4, Matroska, GIF nor MPEG-TS: {_INEXACT}")
        self.meta = agreed(path, "torchcodec", self.table, len(self._video))

    def close(self) -> None:
        """Release the file; may be called twice."""
        self._video = None

    def _open(self) -> None:
        decoder, self._belongs = _import_torchcodec()
        try:
            self._video = decoder(
                self.path,
                dimension_order="NHWC",
                seek_mode="exact",
                num_ffmpeg_threads=1,
                device=self._device,
            )
        except _ERRORS as error:
            if "libtorchcodec" in str(error):  # newer ones find out that they have no FFmpeg when they are used
                raise _unloadable() from error
            raise SampleError(self.path, f"not a video: {_short(error)}") from error
        if len(self._video) == 0:
            raise SampleError(self.path, "no frames")

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The frames at ``indices`` (sorted, unique), in order, as (index, uint8 [H, W, 3] RGB)."""
        wanted = self._asked(indices)
        for at, index in enumerate(wanted):
            image = self._frame(index)
            if isinstance(image, str):
                yield from self._from_start(wanted[at:])
                return
            yield index, self._sized(index, self._stretched(image))

    def _from_start(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """As ``read``, without a seek."""
        self._open()
        left = set(wanted)
        for index in range(wanted[-1] + 1):
            image = self._frame(index)
            if isinstance(image, str):
                raise self._undecodable(max(index, wanted[0]), image)
            if index in left:
                yield index, self._sized(index, self._stretched(image))

    def _frame(self, index: int) -> np.ndarray | str:
        """The frame, or why it cannot be had."""
        try:
            frame = self._video.get_frame_at(index)
        except _ERRORS as error:
            return _short(error)
        if not self._belongs(self._video._decoder, frame_index=index, pts_seconds_to_test=frame.pts_seconds):
            return _INEXACT
        return np.asarray(frame.data.cpu().numpy())


def _import_torchcodec() -> tuple[Any, Any]:
    """The decoder, and the test whether an index has a time stamp."""
    try:
        from torchcodec._core import _test_frame_pts_equality
        from torchcodec.decoders import VideoDecoder
    except ImportError as error:
        raise MissingDependencyError("torchcodec", "video", _NEEDED_FOR, f", and {_FFMPEG}") from error
    except (RuntimeError, OSError) as error:  # older ones load FFmpeg when they are imported
        raise _unloadable() from error
    return VideoDecoder, _test_frame_pts_equality


def _unloadable() -> MissingLibraryError:
    return MissingLibraryError(
        f"{_NEEDED_FOR} needs {_FFMPEG}, and a torchcodec that fits this torch: its libraries cannot be loaded"
    )


def _has_time_stamps(path: str) -> bool:
    """Whether the container stores when each frame is shown (AVI and MPEG-PS do not), judged by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(377)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):  # MP4, MOV
        return True
    if head.startswith((b"\x1a\x45\xdf\xa3", b"GIF8")):  # Matroska, WebM; GIF
        return True
    return head[:1] == head[188:189] == head[376:377] == b"\x47"  # MPEG-TS


def _short(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
