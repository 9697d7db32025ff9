"""Plans: which instants of a stream become which view. A method names its plan; a plan draws indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from st_ssl.data.streams.base import Stream, WindowsMeta


@dataclass
class Draw:
    """One draw of a plan: ``at`` int64 [T], indices of a stream, and ``labels`` that say what the plan did: an order, a
    speed, the odd one out."""

    at: np.ndarray
    labels: dict[str, np.ndarray] = field(default_factory=dict)


class Plan(Protocol):
    """Makes ``num_clips`` draws at once, all inside the stream. ``epoch`` counts from 0."""

    @property
    def num_clips(self) -> int: ...

    def draw(self, rng: np.random.Generator, stream: Stream, epoch: int = 0) -> Sequence[Draw]: ...


@dataclass(frozen=True)
class Still:
    """``num_clips`` views of all that there is: of a cloud, or of an image. Of the windows of a recording all views are
    of one, drawn at random."""

    num_clips: int = 1

    def draw(self, rng: np.random.Generator, stream: Stream, epoch: int = 0) -> list[Draw]:
        total = stream.meta.num_frames
        one = isinstance(stream.meta, WindowsMeta) and total > 1
        at = rng.integers(total, size=1) if one else np.arange(total)
        return [Draw(at) for _ in range(self.num_clips)]


def clip_indices(start: int, num_frames: int, stride: int, video_frames: int) -> np.ndarray:
    """``num_frames`` indices from ``start``, ``stride`` apart; a video too short for them is played in a loop."""
    return (start + stride * np.arange(num_frames)) % video_frames


def last_start(num_frames: int, stride: int, video_frames: int) -> int:
    """The last start from which a whole clip fits, 0 where none does."""
    return max(0, video_frames - (num_frames - 1) * stride - 1)


@dataclass(frozen=True)
class RandomClips:
    """``num_clips`` clips at independent uniform starts: decode once, cut several (repeated sampling, ST-MAE 2022)."""

    num_frames: int
    stride: int
    num_clips: int = 1

    def draw(self, rng: np.random.Generator, stream: Stream, epoch: int = 0) -> list[Draw]:
        last = last_start(self.num_frames, self.stride, stream.meta.num_frames)
        starts = rng.integers(0, last + 1, size=self.num_clips)
        return [
            Draw(clip_indices(int(start), self.num_frames, self.stride, stream.meta.num_frames)) for start in starts
        ]


@dataclass(frozen=True)
class ClipPair:
    """Two clips of one video whose distance in time is drawn first (CVRL, 2021).

    With T the largest possible distance in frames, ``decreasing`` has the density 2/T (1 - t/T), ``uniform`` 1/T, and
    ``constant`` always takes ``interval`` frames (or T where the video is shorter). Which clip comes first is a coin.
    """

    num_frames: int
    stride: int
    distribution: Literal["decreasing", "uniform", "constant"] = "decreasing"
    interval: int = 0
    num_clips: int = 2

    def draw(self, rng: np.random.Generator, stream: Stream, epoch: int = 0) -> list[Draw]:
        largest = last_start(self.num_frames, self.stride, stream.meta.num_frames)
        u, place, order = rng.random(3)
        distance = self._distance(float(u), largest)
        first = int(place * (largest - distance + 1))
        starts = [first, first + distance] if order < 0.5 else [first + distance, first]
        return [Draw(clip_indices(start, self.num_frames, self.stride, stream.meta.num_frames)) for start in starts]

    def _distance(self, u: float, largest: int) -> int:
        if self.distribution == "constant":
            return min(self.interval, largest)
        if self.distribution == "uniform":
            return int(u * (largest + 1))
        # The inverse of the cumulative distribution 2 t/T - (t/T)^2, over the integers 0 … largest.
        return int((1 - np.sqrt(1 - u)) * (largest + 1))


@dataclass(frozen=True)
class EvenClips:
    """Clips centred at even distances over ``span`` (shares of the video), nothing random: for evaluation.

    With ``jitter`` the centres move by a draw of the key, by at most that share of their distance.
    """

    num_frames: int
    stride: int
    num_clips: int = 1
    span: tuple[float, float] = (0.0, 1.0)
    jitter: float = 0.0

    def draw(self, rng: np.random.Generator, stream: Stream, epoch: int = 0) -> list[Draw]:
        low, high = (round(share * stream.meta.num_frames) for share in self.span)
        low = min(low, stream.meta.num_frames - 1)  # a span of less than half a frame at the very end
        frames = max(1, high - low)
        last = last_start(self.num_frames, self.stride, frames)
        shift = (rng.random(self.num_clips) - 0.5) * self.jitter
        places = np.clip((np.arange(self.num_clips) + 0.5 + shift) / self.num_clips, 0, 1)
        return [Draw(low + clip_indices(round(place * last), self.num_frames, self.stride, frames)) for place in places]


@dataclass(frozen=True)
class SegmentClips:
    """Clips over all of a video: it is cut into ``num_frames`` equal segments, of each of which a clip has one frame,
    ``random`` or at a fixed place (TSN, Wang et al., ECCV 2016). Of fewer frames than segments some are repeated.

    A single fixed clip has the middles. Several have places at even distances, the middle one among them: of two
    clips the second has the first frame of each segment, as VideoMAE (2022) tests on Something-Something v2.
    """

    num_frames: int
    num_clips: int = 1
    random: bool = False

    def draw(self, rng: np.random.Generator, stream: Stream, epoch: int = 0) -> list[Draw]:
        segment = np.arange(self.num_frames)
        if self.random:
            places = (segment + rng.random((self.num_clips, self.num_frames))) / self.num_frames
            last = stream.meta.num_frames - 1
            return [Draw(at) for at in np.minimum((places * stream.meta.num_frames).astype(np.int64), last)]
        parts = 2 * self.num_clips  # of a segment, so that all is exact
        shifts = [(self.num_clips + 2 * (clip - (self.num_clips - 1) // 2)) % parts for clip in range(self.num_clips)]
        total = stream.meta.num_frames
        return [Draw((parts * segment + shift) * total // (parts * self.num_frames)) for shift in shifts]
