"""Recordings of points in time: a stream of sweeps, and one of windows, each a cloud whose points know their time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from pydantic import Field

from st_ssl.core.config import Config
from st_ssl.core.errors import SampleError
from st_ssl.core.types import Entry, PointCloud
from st_ssl.data.streams.base import Recording, WindowsMeta
from st_ssl.data.streams.points import read_cloud
from st_ssl.data.streams.points.arrays import read_clock
from st_ssl.data.streams.points.base import MIN_POINTS, ReadOptions

_SMALL = 1 << 20  # bytes of the file of a recording


class WindowConfig(Config):
    """Files are recordings (``.npz`` with ``points``, ``time`` in seconds, perhaps ``sweep``, ``velocity`` in m/s and
    ``intensity``), and a sample is a window of ``seconds`` of one: a cloud of all points in it.

    Pretraining sees each recording at a random moment every time. What is probed or fine-tuned are fixed windows, which
    begin ``stride`` seconds apart (default: as long as they are) and cover the recording; those of one recording are
    always in one split, and label fractions take as few recordings as they need.

    Points have two more attributes (``input.attributes``). ``time`` goes from -1 at the beginning of the window to 1 at
    its end. ``velocity`` is divided by ``speed`` (m/s) and clipped to -1 … 1. Points farther than ``within`` metres
    from the sensor are left out (default: none), since a single stray point would set the unit sphere.
    """

    seconds: float = Field(default=2.0, gt=0)
    stride: float | None = Field(default=None, gt=0)
    speed: float = Field(default=1.0, gt=0)
    within: float | None = Field(default=None, gt=0)

    @property
    def ranges(self) -> dict[str, list[float]]:
        """What became -1 … 1, by name, for ``encoder.json``."""
        half = self.seconds / 2
        return {"time_range": [-half, half], "velocity_range": [-self.speed, self.speed]}


@dataclass(frozen=True)
class SweepsMeta:
    """What is known of a stream of sweeps before reading them."""

    num_frames: int


class Sweeps:
    """The sweeps of the recording at ``path``, each a cloud. The file is read as a whole. Points beyond
    ``window.within`` are left out, so a sweep may be empty. Raises ``SampleError``."""

    def __init__(self, path: str, window: WindowConfig, options: ReadOptions) -> None:
        self.path = path
        cloud = read_cloud(path, replace(options, timed=True))
        self._times = read_clock(path, options).begins
        if window.within is not None:
            cloud = cloud.take(np.linalg.norm(cloud.xyz, axis=1) <= window.within)
        order = np.argsort(cloud.labels["sweep"], kind="stable")
        self._bounds = np.searchsorted(cloud.labels["sweep"][order], np.arange(len(self._times) + 1))
        self._cloud = cloud.take(order)
        del self._cloud.labels["sweep"]
        if "velocity" in self._cloud.attributes:
            self._cloud.attributes["velocity"] = (self._cloud.attributes["velocity"] / window.speed).clip(-1, 1)
        self.meta = SweepsMeta(len(self._times))

    def times(self) -> np.ndarray:
        """When each sweep begins, float64 [T] seconds from the first on."""
        return self._times

    def read(self, at: Sequence[int]) -> Iterator[tuple[int, PointCloud]]:
        """The clouds of the sweeps ``at``; the attribute ``time`` is in seconds from the beginning of the recording."""
        return ((index, self.points(index, index + 1)) for index in at)

    def points(self, start: int, stop: int) -> PointCloud:
        """One cloud of all points of the sweeps from ``start`` up to, without, ``stop``."""
        return self._cloud.take(np.arange(self._bounds[start], self._bounds[stop]))

    def close(self) -> None:
        """Nothing is open."""


class Windows:
    """The windows of a recording, one from each sweep on that is followed by enough: the last ends with it, and one
    that is too short is a single window. Of an ``entry`` that is a window only this one."""

    def __init__(self, sweeps: Sweeps, window: WindowConfig, entry: Entry) -> None:
        self._sweeps, self._half = sweeps, window.seconds / 2
        times = sweeps.times()
        if entry.num_frames is None:
            self._starts = np.arange(last_start(times, window.seconds) + 1)
            self._stops = stops_of(times, self._starts, window.seconds)
        else:
            self._starts, self._stops = np.array([entry.start]), np.array([entry.start + entry.num_frames])
            if not 0 <= entry.start < self._stops[0] <= len(times):
                told = f"sweeps {entry.start} to {self._stops[0]}"
                raise SampleError(entry.path, f"has {len(times)} sweeps, but the window is {told}")
        self.meta = WindowsMeta(len(self._starts))

    @property
    def num_points(self) -> int:
        """How many points there are from the first window to the last."""
        return len(self._sweeps.points(int(self._starts[0]), int(self._stops[-1])))

    def times(self) -> np.ndarray:
        """The middle of each window, float64 [T] seconds from the first sweep on."""
        return self._sweeps.times()[self._starts] + self._half

    def read(self, at: Sequence[int]) -> Iterator[tuple[int, PointCloud]]:
        """The windows ``at``, each one cloud. Raises ``SampleError`` for one without points."""
        middles = self.times()
        for index in at:
            cloud = self._sweeps.points(int(self._starts[index]), int(self._stops[index]))
            if len(cloud) < MIN_POINTS:
                begin = middles[index] - self._half
                told = f"{len(cloud)} points from {begin:.3f} s on: a window needs {MIN_POINTS} (data.window)"
                raise SampleError(self._sweeps.path, told)
            seconds = cloud.attributes["time"].astype(np.float64)
            time = ((seconds - middles[index]) / self._half).astype(np.float32)
            yield index, replace(cloud, attributes=cloud.attributes | {"time": time}, source=None)

    def close(self) -> None:
        """Nothing is open."""


def open_windows(entry: Entry, window: WindowConfig, options: ReadOptions) -> Recording:
    """The recording of ``entry``, with two streams: its windows as ``points``, and its ``sweeps``."""
    sweeps = partial(_opened, entry.path, window, options)
    return Recording({"points": lambda: Windows(sweeps(), window, entry), "sweeps": sweeps})


def _opened(path: str, window: WindowConfig, options: ReadOptions) -> Sweeps:
    """A small recording is read once a process, since many samples may be windows of it."""
    small = os.path.isfile(path) and os.path.getsize(path) <= _SMALL
    return (_kept if small else Sweeps)(path, window, options)


@lru_cache(maxsize=64)
def _kept(path: str, window: WindowConfig, options: ReadOptions) -> Sweeps:
    return Sweeps(path, window, options)


def last_start(times: np.ndarray, seconds: float) -> int:
    """The sweep from which on a window of ``seconds`` reaches the end of a recording, whose sweeps are at ``times``
    float64 [S]; 0 where all of it is shorter."""
    return int(np.searchsorted(times, times[-1] - seconds, side="right"))


def stops_of(times: np.ndarray, starts: np.ndarray, seconds: float) -> np.ndarray:
    """The sweeps at which the windows of ``seconds`` from the sweeps ``starts`` on end, int64 [W]: the first ones not
    in them."""
    return np.searchsorted(times, times[starts] + seconds)


def windows_of(entry: Entry, window: WindowConfig, options: ReadOptions) -> list[Entry]:
    """The fixed windows of a recording as samples, by their first sweep and number of sweeps; the last ends with the
    recording. One that cannot be read stays as it is: whoever reads it tells why."""
    try:
        times = read_clock(entry.path, options).begins
    except SampleError:
        return [entry]
    last = last_start(times, window.seconds)
    wanted = np.arange(0.0, times[last], window.stride or window.seconds)
    starts = np.unique(np.append(np.searchsorted(times, wanted), last))
    stops = stops_of(times, starts, window.seconds)
    return [
        replace(entry, start=start, num_frames=stop - start, window=True)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    ]
