"""Plans that change how a clip plays: its speed, its direction, its order (Jenni et al., ECCV 2020)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from st_ssl.data.clip_plans import Draw
from st_ssl.data.streams.base import Stream

Transformation = Literal["original", "forward_backward", "shuffled", "random_skips"]
TRANSFORMATIONS: tuple[Transformation, ...] = ("original", "forward_backward", "shuffled", "random_skips")
AT_A_SPEED = ("original", "forward_backward")
"""The transformations that play at one speed."""
NO_SPEED = -1
"""The label ``speed`` of a clip that has no single speed."""


@dataclass(frozen=True)
class TemporalTransformations:
    """One clip of ``num_frames`` frames for each of the ``transformations``, in their order, all of one recording.

    A speed v is drawn from those of ``speeds`` that fit: at speed v frames lie v × ``stride`` apart. The clips:

    - ``original``: plays at the speed v.
    - ``forward_backward``: plays at the speed v, turns round once and plays back. The way back shows other frames than
      the way there, where the speed leaves frames in between.
    - ``shuffled``: consecutive frames at speed 1, in a random order.
    - ``random_skips``: each step is drawn from 1 to the largest speed that fits. Where that is 1 or 2, the frames
      are drawn from the whole recording without replacement and played in their order.

    Labels int64 []: ``transformation`` counts ``transformations``; ``speed`` counts ``speeds``, and is ``NO_SPEED`` for
    the last two. A speed v fits where the recording has num_frames × v × stride frames. So short recordings have fewer
    speeds; one where none fits repeats frames evenly, as in slow motion, until the smallest does. Nothing is played in
    a loop, because a network would see the jump. Speeds that do not fit are a warning.
    """

    num_frames: int
    stride: int = 1
    transformations: tuple[Transformation, ...] = TRANSFORMATIONS
    speeds: tuple[int, ...] = (1, 2, 4, 8)

    def __post_init__(self) -> None:
        assert self.num_frames >= 4, "too short to turn round"

    @property
    def num_clips(self) -> int:
        return len(self.transformations)

    def draw(self, rng: np.random.Generator, stream: Stream, epoch: int = 0) -> list[Draw]:
        timeline = self._timeline(rng, stream.meta.num_frames)
        fitting = [speed for speed in self.speeds if self.num_frames * speed <= len(timeline)]
        speed, fastest = fitting[int(rng.integers(len(fitting)))], max(fitting)
        whole = len(timeline)
        frames: dict[str, Callable[[], np.ndarray]] = {
            "original": lambda: self._original(rng, whole, speed),
            "forward_backward": lambda: self._forward_backward(rng, whole, speed),
            "shuffled": lambda: rng.permutation(self._original(rng, whole, 1)),
            "random_skips": lambda: self._random_skips(rng, whole, fastest),
        }
        clips = []
        for number, name in enumerate(self.transformations):
            label = self.speeds.index(speed) if name in AT_A_SPEED else NO_SPEED
            labels = {"transformation": np.array(number), "speed": np.array(label)}
            clips.append(Draw(timeline[frames[name]()], labels))
        return clips

    def _timeline(self, rng: np.random.Generator, total: int) -> np.ndarray:
        """The frames, ``stride`` apart, that clips are made of: enough of them for the smallest speed."""
        count = max(1, total // self.stride)
        offset = int(rng.integers(total - (count - 1) * self.stride))
        frames = offset + self.stride * np.arange(count)
        if count < self.num_frames * max(self.speeds):
            needed = self.num_frames * max(self.speeds) * self.stride
            short = f"videos of fewer than {needed} frames are too short for some of the speeds {list(self.speeds)}"
            clips = f"clips of {self.num_frames} frames and stride {self.stride}"
            warnings.warn(f"{short} with {clips}: only the speeds that fit are drawn", stacklevel=2)
        length = self.num_frames * min(self.speeds)
        return frames if count >= length else frames[np.arange(length) * count // length]

    def _original(self, rng: np.random.Generator, total: int, speed: int) -> np.ndarray:
        span = (self.num_frames - 1) * speed + 1
        return int(rng.integers(total - span + 1)) + speed * np.arange(self.num_frames)

    def _forward_backward(self, rng: np.random.Generator, total: int, speed: int) -> np.ndarray:
        window = (self.num_frames - 1) * speed
        there = int(rng.integers(total - window + 1)) + speed * np.arange(self.num_frames - 2)
        shift = int(rng.integers(0, 2) if speed == 1 else rng.integers(1, speed))
        both = np.concatenate([there, there[::-1] + shift])
        first = int(rng.integers(len(both) - self.num_frames + 1))
        return both[first : first + self.num_frames]

    def _random_skips(self, rng: np.random.Generator, total: int, fastest: int) -> np.ndarray:
        if fastest <= 2:
            return np.sort(rng.choice(total, self.num_frames, replace=False))
        steps = rng.integers(1, fastest + 1, self.num_frames)
        return int(rng.integers(total - self.num_frames * fastest + 1)) + steps.cumsum() - 1
