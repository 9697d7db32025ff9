"""Writing H.264 that is quick to cut clips from."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import BinaryIO

import numpy as np

from st_ssl.core.errors import MissingDependencyError

_CLOCK = 90000  # ticks a second of time stamps that are not even


def encode(
    file: str | BinaryIO,
    frames: Iterable[np.ndarray],
    fps: float,
    size: tuple[int, int],
    crf: int,
    keyframes: int,
    preset: str = "fast",
    times: np.ndarray | None = None,
) -> None:
    """Write uint8 [H, W, 3] frames as H.264 in MP4, ``size`` (width, height) pixels, both even, frame i
    at second ``times[i]``, or at a constant rate.

    Made for decoders: no arithmetic coding and no loop filter; a key frame every ``keyframes`` frames; seven of eight
    frames in between are ones that no other frame needs, and which a reader that wants every fourth frame can skip. The
    bytes are the same at every call with one version of the encoder: x264's macroblock tree is off because it reads
    memory that it never wrote on small frames, and its choices then differ from call to call.
    """
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError("av", "video", "writing videos") from error
    options = {
        "preset": preset,
        "tune": "fastdecode",
        "crf": str(crf),
        "threads": "1",
        "x264-params": "bframes=7:b-adapt=0:b-pyramid=none:ref=1:scenecut=0:mbtree=0",
    }
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, "yuv420p", keyframes
        if times is not None:
            stream.codec_context.time_base = Fraction(1, _CLOCK)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(*size, format="yuv420p", interpolation="AREA")
            frame.pts = number
            if times is not None:
                frame.pts, frame.time_base = round(times[number] * _CLOCK), Fraction(1, _CLOCK)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
