"""A sample is a recording: named streams on one clock. A stream is read by index; an image or a still cloud is a stream
of length one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from st_ssl.core.errors import nearest
from st_ssl.core.types import PointCloud


class Stream(Protocol):
    """One stream of a recording. ``meta`` is known on opening."""

    @property
    def meta(self) -> Any: ...

    def read(self, at: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """What is at the indices ``at`` (sorted, unique), in order, as (index, item): frames uint8 [H, W, 3], clouds,
        or whatever the stream is of."""
        ...

    def times(self) -> np.ndarray:
        """When each instant is, float64 [T] seconds: the clock of the recording."""
        ...

    def close(self) -> None:
        """Release what is open; may be called twice."""
        ...


Opener = Callable[[], Stream]


class Recording:
    """The streams of one sample by name, each opened when it is first asked for. Use as a context manager.

    ``first`` is the stream that a view sees unless it names another.
    """

    def __init__(self, openers: Mapping[str, Opener]) -> None:
        assert openers, "a recording without streams"
        self._openers = dict(openers)
        self._open: dict[str, Stream] = {}
        self.first = next(iter(self._openers))

    @classmethod
    def of(cls, stream: Stream, name: str = "video") -> Recording:
        """A recording of one stream that is open already."""
        return cls({name: lambda: stream})

    def stream(self, name: str = "") -> Any:
        """The stream ``name`` (``first`` where there is no name). Raises ``ValueError`` for one that is not there."""
        name = name or self.first
        if name not in self._openers:
            known = ", ".join(self._openers)
            raise ValueError(f"no stream named {name!r}{nearest(name, self._openers)} (the recording has: {known})")
        if name not in self._open:
            self._open[name] = self._openers[name]()
        return self._open[name]

    def close(self) -> None:
        """Close what was opened."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def nearest_instants(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The indices int64 [T] of the ``times`` float64 [N] (sorted) that are nearest to those ``wanted`` [T]; of two as
    near the earlier."""
    after = np.searchsorted(times, wanted).clip(0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(np.abs(times[before] - wanted) <= np.abs(times[after] - wanted), before, after)


class StillMeta:
    """The meta of a stream of length one."""

    num_frames = 1


@dataclass(frozen=True)
class WindowsMeta:
    """The meta of a stream whose items overlap: a view shows one of them, as if it were all there is."""

    num_frames: int


class StillCloud:
    """A cloud as a stream of length one, read when it is first asked for."""

    meta = StillMeta()

    def __init__(self, read: Callable[[], PointCloud]) -> None:
        self._read = read
        self._cloud: PointCloud | None = None

    @property
    def cloud(self) -> PointCloud:
        """The cloud itself."""
        if self._cloud is None:
            self._cloud = self._read()
        return self._cloud

    @property
    def num_points(self) -> int:
        """How many points there are."""
        return len(self.cloud)

    def read(self, at: Sequence[int]) -> Iterator[tuple[int, PointCloud]]:
        """The cloud, at index 0."""
        return ((index, self.cloud) for index in at)

    def times(self) -> np.ndarray:
        return np.zeros(1)

    def close(self) -> None:
        """Nothing is open."""
