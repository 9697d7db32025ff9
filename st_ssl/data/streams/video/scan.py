"""Going through all packets of a video once: which frames it has, when they are shown, and how."""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from fractions import Fraction
from typing import Any, NamedTuple

from st_ssl.core.errors import SampleError
from st_ssl.core.types import VideoMeta
from st_ssl.data.streams.video.av_stream import AVStream
from st_ssl.data.streams.video.base import FALLBACK_FPS, check_size
from st_ssl.data.streams.video.frame_table import LARGEST, FrameTable, compact, frame_rate

_SETTLED = 64  # frames that come one after the other, none left out: then all that follow will come
_LEAST_STRETCH = 0.01  # of pixels: less is a rounding error of whoever made the file


def scan(video: AVStream) -> FrameTable:
    """The frames that decoding all of ``video`` from its start gives. The packets are read once; what is decoded is the
    beginning, up to the first frame, which shows size and rotation. Where the stream begins in the middle of another
    (a recording that was cut, an open group of pictures), it is decoded until it has settled; what is sent as a stream
    (MPEG-TS, MPEG-PS) also from its last key frame on, or whole where packets were lost. All is decoded where time
    stamps are absent, guessed or out of order.

    Raises ``SampleError`` where no frame comes.
    """
    seen = _packets(video)
    if not seen.pts:
        raise SampleError(video.path, "no frames")
    if seen.first is None:
        raise SampleError(video.path, f"no frame can be decoded: {video.error}")
    first, stream = seen.first, video.stream
    check_size(video.path, first.width, first.height, video.max_pixels)
    turns, mirrored = _orientation(video.path, first)
    nominal = float(stream.average_rate or stream.guessed_rate or FALLBACK_FPS)
    tick = Fraction(stream.time_base or 1)  # the stream is gone as soon as the file is opened anew
    shown = FrameTable(VideoMeta(0, nominal, 0, 0), None, {}, turns, mirrored, _aspect(stream))
    width, height = shown.stretched(first.width, first.height)
    check_size(video.path, width, height, video.max_pixels)
    width, height = (height, width) if turns % 2 else (width, height)

    def table(num_frames: int, fps: float, pts: Any = None, **rest: Any) -> FrameTable:
        meta = VideoMeta(num_frames, fps, width, height)
        return FrameTable(meta, pts, rest.pop("keys", {}), turns, mirrored, shown.aspect, **rest)

    if _untrusted(video, seen):
        return table(_count(video), nominal)
    lost, there = _lost(video, seen), sorted(seen.pts)
    whole = seen.damaged and not _has_table(video)
    if video.container.format.name in ("mpegts", "mpeg") and not whole:
        end = _end(video, there, seen.keys)
        there, whole = there[:end], end is None
    if whole or not (seen.starts_with_key and seen.pts[0] == there[0] == first.pts):
        settled = _settled(video, there, whole)
        if settled is None:
            return table(_count(video), nominal)
        there = settled
    num_frames = len(there) + lost  # what is left of a file that was cut short keeps its indices
    if lost and seen.last_dts is not None:  # the lost packets may be shown before some that are here, but not before
        there = there[: max(1, bisect_right(there, seen.last_dts))]
    keys = {bisect_left(there, pts): (pts, dts) for pts, dts in seen.keys.items() if _place(there, pts) is not None}
    fps = frame_rate(there, tick, nominal)
    return table(num_frames, fps, compact(there), keys=keys, tick=tick, last=seen.durations.get(there[-1], 0))


class _Seen(NamedTuple):
    """What the packets tell: of those that are shown, the time stamps as they come; those of key frames, with the time
    of decoding; how long the last ones are shown. ``damaged``: whether a packet says that something before or in it was
    lost. ``total``: the number of packets."""

    first: Any
    pts: list[Any]
    keys: dict[Any, int | None]
    durations: dict[Any, int]
    starts_with_key: bool
    ordered: bool
    damaged: bool
    last_dts: int | None
    total: int


def _packets(video: AVStream) -> _Seen:
    pts: list[Any] = []
    keys: dict[Any, int | None] = {}
    durations: dict[Any, int] = {}
    first, last_dts, total = None, None, 0
    starts_with_key, ordered, damaged = False, True, False
    hidden = video.stream.codec_context.name == "vp8"  # may hold frames that are decoded and never shown
    for packet in video.packets():
        if first is None:
            first = next(iter(video.decode(packet)), None)
        if packet.size == 0:
            continue
        starts_with_key |= total == 0 and packet.is_keyframe
        total += 1
        damaged |= packet.is_corrupt
        if packet.is_discard or (hidden and not bytes(packet)[0] & 0x10):
            continue
        if packet.dts is not None:
            ordered &= last_dts is None or packet.dts >= last_dts
            last_dts = packet.dts
        pts.append(packet.pts)
        durations = {time: durations[time] for time in pts[-32:-1] if time in durations}
        durations[packet.pts] = packet.duration or 0
        if packet.is_keyframe:
            keys[packet.pts] = packet.dts
    return _Seen(first, pts, keys, durations, starts_with_key, ordered, damaged, last_dts, total)


def _untrusted(video: AVStream, seen: _Seen) -> bool:
    """Whether the time stamps cannot tell the frames apart, begin anew on the way (recordings one after the other), or
    are FFmpeg's guess (AVI has none of its own)."""
    if None in seen.pts or len(set(seen.pts)) < len(seen.pts) or not seen.ordered:
        return True
    if max(map(abs, seen.pts)) > LARGEST:
        return True
    context = video.stream.codec_context
    return video.container.format.name == "avi" and (context.name == "mpeg4" or bool(context.has_b_frames))


def _lost(video: AVStream, seen: _Seen) -> int:
    """The number of packets that an MP4 file tells of in its header and that are not there: it was cut short. Others,
    and MP4 in fragments, have no table of all packets."""
    table = getattr(video.stream, "index_entries", ())  # PyAV before 17 does not show it
    return max(0, len(table) - seen.total) if _has_table(video) else 0


def _has_table(video: AVStream) -> bool:
    return "mp4" in video.container.format.name and video.stream.frames > 0


def _settled(video: AVStream, there: list[int], whole: bool) -> list[int] | None:
    """Those of the sorted time stamps ``there`` of which a frame comes, by decoding until frames come without a gap, or
    ``whole``; None where others come, or out of order."""
    video.open()
    come: list[int] = []
    last, steady = -1, 0
    for packet in video.packets():
        for frame in video.decode(packet):
            place = _place(there, frame.pts)
            if place is None or place <= last:
                return None
            steady = steady + 1 if place == last + 1 else 1
            come.append(there[place])
            last = place
            if steady >= _SETTLED and not whole:
                return come + there[last + 1 :]
    return come or None


def _end(video: AVStream, there: list[int], keys: dict[Any, int | None]) -> int | None:
    """The number of frames, of those with the sorted time stamps ``there``, up to the last that comes when the file is
    decoded from its last key frame on; None where none does, or one that is not among them."""
    video.open()
    pts, dts = max(keys.items(), default=(None, None))
    if pts is None or not video.seek(pts if dts is None else dts):
        return None
    places = [_place(there, frame.pts) for packet in video.packets() for frame in video.decode(packet)]
    known = [place for place in places if place is not None]
    return max(known) + 1 if known and len(known) == len(places) else None


def _place(there: list[int], pts: int | None) -> int | None:
    """The index of a time stamp; None where it is not among them."""
    if pts is None:
        return None
    place = bisect_left(there, pts)
    return place if place < len(there) and there[place] == pts else None


def _count(video: AVStream) -> int:
    """The number of frames that decoding gives, for files whose packets do not tell; damaged ones are lost."""
    video.open()
    return sum(len(video.decode(packet)) for packet in video.packets())


def _orientation(path: str, frame: Any) -> tuple[int, bool]:
    """By how many quarter turns anticlockwise a frame is shown, and whether left and right are exchanged before that,
    as FFmpeg does it by the display matrix."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    # what is stored at (x, y) is shown at (a x + c y, b x + d y), with y downwards
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    straight, crossed = max(abs(a), abs(d)), max(abs(b), abs(c))
    if min(straight, crossed) > 0.02 * max(straight, crossed):
        raise SampleError(path, "is shown turned by an angle that is no quarter turn")
    if crossed > straight:
        mirrored = b * c > 0
        return (1 if (b > 0) == mirrored else 3), mirrored
    return (0 if d >= 0 else 2), a * d < 0


def _aspect(stream: Any) -> Fraction:
    """Width of a pixel by its height; 1 where nothing tells, or nearly."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    return aspect if aspect > 0 and abs(aspect - 1) > _LEAST_STRETCH else Fraction(1)
