from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from st_ssl.core.types import PointCloud, VideoMeta
from st_ssl.data.streams.base import Recording, StillCloud, nearest_instants

TIMES = st.lists(st.integers(0, 50), min_size=1, max_size=12).map(sorted)


@given(TIMES, st.lists(st.integers(-10, 60), max_size=8))
def test_the_nearest_instants_are_those_of_a_search_through_all(times: list[int], wanted: list[int]) -> None:
    found = nearest_instants(np.array(times, dtype=np.float64), np.array(wanted, dtype=np.float64))
    assert found.dtype == np.int64 and found.shape == (len(wanted),)
    for index, time in zip(found.tolist(), wanted, strict=True):
        distances = [abs(other - time) for other in times]
        assert distances[index] == min(distances)
        assert times[index] == times[distances.index(min(distances))]  # of two as near the earlier


def test_the_nearest_instants_by_hand() -> None:
    times = np.array([0.0, 1.0, 3.0])
    assert nearest_instants(times, np.array([-5, 0.4, 0.5, 0.6, 2.0, 2.1, 99])).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert nearest_instants(np.array([7.0]), np.array([0.0, 7.0, 9.0])).tolist() == [0, 0, 0]


class Noted:
    """Notes in ``told`` when it is opened and closed."""

    meta = VideoMeta(3, 25.0, 4, 4)

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told
        told.append(f"open {name}")

    def read(self, at: Sequence[int]) -> Iterator[tuple[int, Any]]:
        return ((index, self.name) for index in at)

    def times(self) -> np.ndarray:
        return np.arange(3.0)

    def close(self) -> None:
        self.told.append(f"close {self.name}")


def openers(told: list[str]) -> dict[str, Callable[[], Noted]]:
    return {name: lambda name=name: Noted(name, told) for name in ("video", "flow", "depth")}  # type: ignore[misc]


def test_a_stream_is_opened_when_it_is_first_asked_for() -> None:
    told: list[str] = []
    with Recording(openers(told)) as recording:
        assert recording.first == "video" and told == []
        assert recording.stream("flow") is recording.stream("flow")
        assert told == ["open flow"]
        assert recording.stream() is recording.stream("video")
        assert list(recording.stream().read([0, 2])) == [(0, "video"), (2, "video")]
        assert told == ["open flow", "open video"]
    assert sorted(told[2:]) == ["close flow", "close video"]
    recording.close()
    assert len(told) == 4  # closed once


def test_what_was_opened_is_closed_after_an_error() -> None:
    told: list[str] = []
    with pytest.raises(ValueError, match="no stream named 'rgb'"), Recording(openers(told)) as recording:
        assert recording.stream("depth").read([0]) is not recording.stream("rgb")
    assert told == ["open depth", "close depth"]


def test_an_unknown_stream_names_the_nearest() -> None:
    recording = Recording(openers([]))
    with pytest.raises(
        ValueError, match=r"^no stream named 'dept'; did you mean 'depth'\? \(the recording has: video, "
    ):
        recording.stream("dept")
    with pytest.raises(ValueError, match=r"^no stream named 'xyz' \(the recording has: video, flow, depth\)$"):
        recording.stream("xyz")


def test_a_recording_of_an_open_stream() -> None:
    told: list[str] = []
    stream = Noted("a", told)
    recording = Recording.of(stream, "sweeps")
    assert recording.first == "sweeps" and recording.stream() is recording.stream("sweeps") is stream
    with pytest.raises(AssertionError, match="a recording without streams"):
        Recording({})


def test_a_still_cloud_is_a_stream_of_one_instant_read_once() -> None:
    cloud, read = PointCloud(np.zeros((4, 3), np.float32)), []

    def reading() -> PointCloud:
        read.append(1)
        return cloud

    still = StillCloud(reading)
    assert (still.meta.num_frames, still.times().tolist(), read) == (1, [0.0], [])
    assert next(iter(still.read([0]))) == (0, cloud)
    assert still.cloud is cloud and read == [1]
