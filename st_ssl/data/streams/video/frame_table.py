"""What opening a video file must otherwise find out by going through all of its packets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from st_ssl.core.types import VideoMeta


@dataclass(frozen=True)
class FrameTable:
    """The frames of a file and where decoding can start.

    ``pts``: the sorted time stamps of the frames that are there, a ``range`` where they are even; None where they tell
    nothing and frames are counted instead. ``keys``: frame index of each key frame to its (pts, dts). ``turns``: by
    how many quarter turns anticlockwise frames are shown.
    """

    meta: VideoMeta
    pts: Sequence[int] | None
    keys: dict[int, tuple[int, int | None]]
    turns: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain data; even time stamps are three numbers."""
        pts = self.pts
        short = {"start": pts.start, "stop": pts.stop, "step": pts.step} if isinstance(pts, range) else None
        keys = [[index, *times] for index, times in self.keys.items()]
        return {**asdict(self.meta), "pts": short or pts, "keys": keys, "turns": self.turns}

    @staticmethod
    def from_json(data: dict[str, Any]) -> FrameTable:
        """The inverse of ``to_json``; raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
        pts = data["pts"]
        if isinstance(pts, dict):
            pts = range(int(pts["start"]), int(pts["stop"]), int(pts["step"]))
        meta = VideoMeta(int(data["num_frames"]), float(data["fps"]), int(data["width"]), int(data["height"]))
        keys = {int(i): (int(p), None if d is None else int(d)) for i, p, d in data["keys"]}
        return FrameTable(meta, pts, keys, int(data["turns"]))


def compact(pts: list[int]) -> Sequence[int]:
    """Sorted, distinct time stamps as a ``range`` where they are even, which holds thousands in the room of three."""
    if len(pts) < 2:
        return pts
    even = range(pts[0], pts[-1] + 1, pts[1] - pts[0])
    return even if len(even) == len(pts) and all(a == b for a, b in zip(even, pts, strict=True)) else pts
