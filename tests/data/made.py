"""Videos of every kind whose frames show their own number, written by the tests of readers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from st_ssl.core.errors import MissingDependencyError, MissingLibraryError
from st_ssl.data.streams.video import open_video

av = pytest.importorskip("av")

REAL = Path(__file__).parents[2] / "../shared/data/video"
REAL_FILES = sorted(str(path.relative_to(REAL)) for path in REAL.glob("*/*.*")) if REAL.is_dir() else []
SIZE, BITS = 64, 8


def barcode(index: int, width: int = SIZE, height: int = SIZE) -> np.ndarray:
    """The index in binary, as eight vertical bars, dark or light: it outlives any codec."""
    bars = np.array([200 if index >> bit & 1 else 40 for bit in range(BITS)], dtype=np.uint8)
    return np.broadcast_to(bars[np.arange(width) * BITS // width][None, :, None], (height, width, 3)).copy()


def number(image: np.ndarray) -> int:
    """The index that ``barcode`` wrote."""
    bars = [bar.mean() for bar in np.array_split(image.mean(axis=(0, 2)), BITS)]
    return sum(1 << bit for bit in range(BITS) if bars[bit] > 120)


@contextmanager
def scheduled_as_before() -> Iterator[None]:
    """SVT-AV1 gives its caller real-time priority where it may (as root), and all that is started from it inherits
    it: processes that wait busily would keep every other from the cores."""
    if not hasattr(os, "sched_getscheduler"):  # macOS
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def write_video(
    path: Path,
    num_frames: int = 64,
    codec: str = "libx264",
    times: list[int] | None = None,
    shift: int = 0,
    container: dict[str, str] | None = None,
    turn: int = 0,
    size: tuple[int, int] = (SIZE, SIZE),
    pix_fmt: str = "yuv420p",
    sound: bool = False,
    **options: str,
) -> Path:
    """Frame i shows i. ``times`` in milliseconds for a variable rate; ``shift`` in frames moves all time stamps;
    ``size`` width and height; ``sound`` adds a track of silence."""
    base = Fraction(1, 1000) if times else Fraction(1, 25)
    with scheduled_as_before(), av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "rgb8" if codec == "gif" else pix_fmt
        stream.codec_context.time_base = base
        audio = output.add_stream("aac", rate=16000) if sound else None
        if turn:
            stream.set_display_rotation(turn)
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(barcode(index, *size), format="rgb24")
            frame.pts, frame.time_base = (times[index] if times else index + shift), base
            output.mux(stream.encode(frame))
            if audio:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 640), dtype=np.float32), format="fltp", layout="mono")
                silence.sample_rate = 16000
                output.mux(audio.encode(silence))
        for encoder in (stream, audio):
            output.mux(encoder.encode() if encoder else [])
    return path


def without_first(source: Path, path: Path, packets: int) -> Path:
    """``source`` without its first packets: a recording that begins in the middle of a stream."""
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for at, packet in enumerate(p for p in container.demux(video=0) if p.dts is not None):
            if at >= packets:
                packet.stream = stream
                output.mux(packet)
    return path


def sequential(path: Path | str) -> list[np.ndarray]:
    """All frames by decoding from the start: the reference of all readers."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        out = []
        for frame in container.decode(stream):
            image = as_displayed(frame, stream)
            out.append(np.rot90(image, frame.rotation // 90) if frame.rotation else image)
        return out


def as_displayed(frame: Any, stream: Any) -> np.ndarray:
    """A frame with square pixels, not turned: uint8 [H, W, 3]."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width = round(frame.width * aspect) if abs(aspect - 1) > 0.01 else frame.width
    image: np.ndarray = frame.to_ndarray(format="rgb24", width=width, height=frame.height)
    return image


def skip_without(backend: str, made: Path) -> None:
    """Skip where ``backend`` or its libraries are missing."""
    try:
        if backend != "frames":
            open_video(made / "intra.mp4", backend).close()
    except (MissingDependencyError, MissingLibraryError) as error:
        pytest.skip(str(error))


RAGGED = [40 * i + (300 if i > 20 else 0) + 7 * (i % 3) for i in range(64)]
KINDS: dict[str, dict[str, Any]] = {
    "long_gop.mp4": {"bf": "3", "g": "250"},
    "b_frames.mp4": {"bf": "3", "g": "12"},
    "tiny_gop.mp4": {"bf": "2", "g": "3", "sc_threshold": "0"},
    "intra.mp4": {"g": "1"},
    "open_gop.mkv": {"bf": "3", "g": "12", "x264-params": "open-gop=1:scenecut=0"},
    "refresh.mp4": {"x264-params": "intra-refresh=1:keyint=12"},
    "variable_rate.mkv": {"times": RAGGED, "bf": "2", "g": "10"},
    "variable_rate.mp4": {"times": RAGGED, "bf": "2", "g": "10"},
    "late_start.mp4": {"shift": 100, "bf": "2", "g": "10"},
    "late_start.ts": {"shift": 100, "bf": "2", "g": "10"},
    "plain.mpg": {"codec": "mpeg2video", "bf": "2", "g": "10"},
    "b_frames.avi": {"codec": "mpeg4", "bf": "2", "g": "10"},
    "no_b_frames.avi": {"codec": "mpeg4", "bf": "0", "g": "10"},
    "h264.avi": {"bf": "2", "g": "10"},
    "mpeg4.mp4": {"codec": "mpeg4", "bf": "2", "g": "10"},
    "hevc.mp4": {"codec": "libx265", "x265-params": "bframes=4:keyint=20:log-level=none:pools=1"},
    "av1.mp4": {"codec": "libsvtav1", "g": "20", "preset": "12", "svtav1-params": "lp=1"},
    "vp8.webm": {"codec": "libvpx", "g": "10"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "20", "lag-in-frames": "20", "auto-alt-ref": "1", "cpu-used": "8"},
    "plain.gif": {"codec": "gif"},
    "fragmented.mp4": {"g": "10", "container": {"movflags": "frag_keyframe+empty_moov"}},
    "sound.mp4": {"sound": True, "bf": "2", "g": "10"},
    "odd.webm": {"codec": "libvpx-vp9", "size": (67, 49), "g": "20", "cpu-used": "8"},
    "odd_444.mp4": {"pix_fmt": "yuv444p", "size": (67, 49), "bf": "2", "g": "10"},
    "422.mp4": {"pix_fmt": "yuv422p", "bf": "2", "g": "10"},
    "grey.mp4": {"pix_fmt": "gray", "bf": "2", "g": "10"},
    "ten_bits.mp4": {"pix_fmt": "yuv420p10le", "bf": "3", "g": "12"},
    "hevc_ten_bits.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le", "x265-params": "log-level=none:pools=1"},
    "full_range.mp4": {"x264-params": "fullrange=on:colormatrix=bt709", "bf": "2", "g": "10"},
    "interlaced.mp4": {"x264-params": "tff=1", "bf": "2", "g": "10"},
    "mjpeg.mkv": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "lossless_rgb.mkv": {"codec": "ffv1", "pix_fmt": "bgr0"},
}


def write_images(folder: Path, num_frames: int) -> Path:
    folder.mkdir()
    for index in range(num_frames):
        Image.fromarray(barcode(index)).save(folder / f"img_{index + 1}.png")
    return folder
