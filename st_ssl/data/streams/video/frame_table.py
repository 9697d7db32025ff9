"""What opening a video file must otherwise find out by going through all of its packets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from st_ssl.core.types import VideoMeta

FORMAT = 2
"""Counts up whenever the frames of a file are found in another way: an index of another format is not believed."""
MOST_FRAMES = 1 << 24
"""Frames that a stored table may have: 155 hours at 30 frames a second."""
LARGEST = 1 << 61
"""Time stamps lie between this and minus this."""


@dataclass(frozen=True)
class FrameTable:
    """The frames of a file and where decoding can start.

    ``pts``: the sorted time stamps of the frames that are there, a ``range`` where they are even; None where they tell
    nothing and frames are counted instead. ``keys``: frame index of each key frame to its (pts, dts). ``turns``: by
    how many quarter turns anticlockwise frames are shown, after left and right were exchanged where they are
    ``mirrored``. ``aspect``: width of a pixel by its height. ``tick``: seconds from one time stamp to the next (None:
    not known, in tables of older packs); ``last``: how many of them the last frame is shown. ``format``: by which rules
    all of this was found.
    """

    meta: VideoMeta
    pts: Sequence[int] | None
    keys: dict[int, tuple[int, int | None]]
    turns: int = 0
    mirrored: bool = False
    aspect: Fraction = Fraction(1)
    tick: Fraction | None = None
    last: int = 0
    format: int = FORMAT

    def times(self) -> np.ndarray:
        """When each frame is shown, float64 [T], in seconds from the first one on."""
        even = np.arange(self.meta.num_frames) / self.meta.fps
        if self.pts is None or self.tick is None:
            return even
        there = (np.asarray(self.pts, dtype=np.int64) - self.pts[0]) * float(self.tick)
        lost = even[len(there) :]  # of a file that was cut short: as if they came at the usual rate
        return np.concatenate([there, lost - even[len(there) - 1] + there[-1]]) if len(lost) else there

    def duration(self) -> float:
        """Seconds from when the first frame is shown to the end of the last one."""
        known = self.last > 0 and self.tick is not None and self.pts is not None
        last = self.last * float(self.tick or 0) if known else 1 / self.meta.fps
        return float(self.times()[-1]) + last

    def stretched(self, width: int, height: int) -> tuple[int, int]:
        """The size at which a stored frame is shown, before it is turned: players widen it by ``aspect``."""
        return max(1, round(width * self.aspect)), height

    def to_json(self) -> dict[str, Any]:
        """As plain data; even time stamps are three numbers."""
        pts = self.pts
        short = {"start": pts.start, "stop": pts.stop, "step": pts.step} if isinstance(pts, range) else None
        keys = [[index, *times] for index, times in self.keys.items()]
        shown = {"turns": self.turns, "mirrored": self.mirrored, "aspect": _pair(self.aspect)}
        clock = {"tick": None if self.tick is None else _pair(self.tick), "last": self.last, "format": self.format}
        return {**asdict(self.meta), "pts": short or pts, "keys": keys, **shown, **clock}

    @staticmethod
    def from_json(data: dict[str, Any]) -> FrameTable:
        """The inverse of ``to_json``; tables of format 1 have neither ``mirrored`` nor what follows. ``KeyError``
        where others are missing, ``ValueError`` for anything else."""
        if not isinstance(data, dict):
            raise ValueError(f"a table is a mapping, not {type(data).__name__}")
        num_frames = _integer("num_frames", data["num_frames"], 1, MOST_FRAMES)
        sizes = [_integer(name, data[name], 1, 1 << 31) for name in ("width", "height")]
        meta = VideoMeta(num_frames, _rate(data["fps"]), *sizes)
        pts, mirrored = _pts(data["pts"], num_frames), data.get("mirrored", False)
        if not isinstance(mirrored, bool):
            raise ValueError("mirrored: neither true nor false")
        tick = data.get("tick")
        return FrameTable(
            meta,
            pts,
            _keys(data["keys"]),
            _integer("turns", data["turns"], 0, 3),
            mirrored,
            _fraction("aspect", data.get("aspect", [1, 1])),
            None if tick is None else _fraction("tick", tick),
            _integer("last", data.get("last", 0), 0, LARGEST),
            _integer("format", data.get("format", 1), 1, 1 << 31),
        )


def compact(pts: list[int]) -> Sequence[int]:
    """Sorted, distinct time stamps as a ``range`` where they are even, which holds thousands in the room of three."""
    if len(pts) < 2:
        return pts
    even = range(pts[0], pts[-1] + 1, pts[1] - pts[0])
    return even if len(even) == len(pts) and all(a == b for a, b in zip(even, pts, strict=True)) else pts


def frame_rate(pts: Sequence[int], tick: Fraction, nominal: float) -> float:
    """Frames a second between the first and the last of sorted time stamps; ``nominal`` where it tells the same, or
    where there is one frame. Time stamps are rounded to a tick."""
    if len(pts) < 2 or pts[-1] <= pts[0]:
        return nominal
    span = float((pts[-1] - pts[0]) * tick)
    return nominal if abs((len(pts) - 1) / nominal - span) <= 2 * tick else (len(pts) - 1) / span


def uneven(times: np.ndarray, fps: float) -> bool:
    """Whether frames come at another time than a constant rate says, by more than half a frame."""
    return bool(np.any(np.abs(times - np.arange(len(times)) / fps) > 0.5 / fps))


def _pair(number: Fraction) -> list[int]:
    return [number.numerator, number.denominator]


def _shown(value: Any) -> str:
    return str(value)[:40] if isinstance(value, (int, float, str)) else type(value).__name__


def _integer(name: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name}: expected an integer from {least} to {most}, not {_shown(value)}")
    return value


def _rate(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < 1e9 or not math.isfinite(value):
        raise ValueError(f"fps: expected a number above 0, not {_shown(value)}")
    return float(value)


def _fraction(name: str, value: Any) -> Fraction:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{name}: expected two integers")
    return Fraction(*(_integer(name, part, 1, LARGEST) for part in value))


def _pts(value: Any, num_frames: int) -> Sequence[int] | None:
    if value is None:
        return None
    if isinstance(value, dict):
        parts = [_integer(f"pts {name}", value.get(name), -LARGEST, LARGEST) for name in ("start", "stop", "step")]
        if parts[2] < 1:
            raise ValueError("pts step: expected an integer above 0")
        pts: Sequence[int] = range(*parts)
    elif isinstance(value, list):
        pts = [_integer("pts", time, -LARGEST, LARGEST) for time in value]
        if any(a >= b for a, b in pairwise(pts)):
            raise ValueError("pts: not sorted")
    else:
        raise ValueError("pts: neither a list nor a range")
    if not 1 <= len(pts) <= num_frames:
        raise ValueError(f"pts: {len(pts)} time stamps of {num_frames} frames")
    return pts


def _keys(value: Any) -> dict[int, tuple[int, int | None]]:
    if not isinstance(value, list) or not all(isinstance(key, list) and len(key) == 3 for key in value):
        raise ValueError("keys: expected a list of [frame, pts, dts]")
    keys = {}
    for index, pts, dts in value:
        dts = None if dts is None else _integer("keys", dts, -LARGEST, LARGEST)
        keys[_integer("keys", index, 0, MOST_FRAMES)] = (_integer("keys", pts, -LARGEST, LARGEST), dts)
    return keys
