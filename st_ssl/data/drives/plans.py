"""Which sweeps of a drive are seen: one, one and a later one, or a pair some seconds apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from st_ssl.core.errors import UnfitError
from st_ssl.data.clip_plans import Draw
from st_ssl.data.streams.base import Stream
from st_ssl.data.views import PATH


@dataclass(frozen=True)
class OneSweep:
    """``num_clips`` views of one sweep of a drive, any of them as likely."""

    num_clips: int = 1

    def draw(self, rng: np.random.Generator, stream: Stream, epoch: int = 0) -> list[Draw]:
        at = rng.integers(stream.meta.num_frames, size=1)
        return [Draw(at) for _ in range(self.num_clips)]


@dataclass(frozen=True)
class Ahead:
    """One view of T = 2 sweeps: a present one, any as likely, and one that is m steps of ``stride`` sweeps later, with
    the probabilities ``shares`` of m = 1, 2, … (TREND, Chen et al., NeurIPS 2025). Only sweeps that the drive still has
    are drawn.

    Labels: ``step`` int64 [1], which is m, and ``path`` float64 [steps + 1, 4, 4], the poses of the present sweep and
    of each step after it, the last one repeated where the drive ends; they are turned with the points, as ``pose`` is.
    Raises ``UnfitError`` where a drive has no sweep ahead of another, or lacks a pose that is needed.
    """

    shares: tuple[float, ...] = (1.0,)
    stride: int = 1
    num_clips: int = 1

    def draw(self, rng: np.random.Generator, stream: Stream, epoch: int = 0) -> list[Draw]:
        poses, steps = stream.meta.poses, len(self.shares)
        posed = stream.meta.posed
        starts = np.flatnonzero(posed[: -self.stride] & posed[self.stride :])
        if not len(starts):
            raise UnfitError(_why(posed, f"{self.stride} ahead"))
        start = int(rng.choice(starts))
        ahead = start + self.stride * np.arange(steps + 1)
        there = (ahead < len(posed)) & posed[np.minimum(ahead, len(posed) - 1)]
        reach = int(np.logical_and.accumulate(there).sum()) - 1
        shares = np.array(self.shares[:reach], dtype=np.float64)
        step = 1 + int(rng.choice(reach, p=shares / shares.sum()))
        path = poses[np.minimum(ahead, ahead[reach])]
        return [Draw(ahead[[0, step]], {"step": np.array([step]), PATH: path})]


@dataclass(frozen=True)
class Pair:
    """Two views, each of one sweep: any pair of a drive that is from ``gap[0]`` to ``gap[1]`` seconds apart, in either
    order. Raises ``UnfitError`` where there is none whose poses are known."""

    gap: tuple[float, float] = (0.5, 1.0)
    num_clips: int = 2

    def draw(self, rng: np.random.Generator, stream: Stream, epoch: int = 0) -> list[Draw]:
        posed, times = stream.meta.posed, stream.times()
        # so wide that a gap which is a multiple of the time between sweeps is met, whatever its rounding
        low = np.searchsorted(times, times + self.gap[0] - _ROUNDING)
        high = np.searchsorted(times, times + self.gap[1] + _ROUNDING, side="right")
        pairs = [(i, j) for i in np.flatnonzero(posed) for j in range(max(low[i], i + 1), high[i]) if posed[j]]
        if not pairs:
            raise UnfitError(_why(posed, f"{self.gap[0]:g} to {self.gap[1]:g} s apart"))
        pair = pairs[int(rng.integers(len(pairs)))]
        first, second = pair if rng.random() < 0.5 else pair[::-1]
        return [Draw(np.array([first])), Draw(np.array([second]))]


_ROUNDING = 1e-4  # seconds


def _why(posed: np.ndarray, apart: str) -> str:
    """Why there are no two sweeps of a drive."""
    if not posed.any():
        return f"none of its {len(posed)} sweeps has a pose"
    return f"of its {len(posed)} sweeps, {int(posed.sum())} with a pose, no two are {apart}"
