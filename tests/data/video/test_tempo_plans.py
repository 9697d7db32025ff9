from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from st_ssl.core.random import keyed_rng
from st_ssl.data.clip_plans import Draw
from st_ssl.data.video.tempo_plans import NO_SPEED, TemporalTransformations


class Video:
    """A stream of ``num_frames`` frames of which none is read."""

    def __init__(self, num_frames: int) -> None:
        self.meta: Any = type("Meta", (), {"num_frames": num_frames})


def drawn(plan: TemporalTransformations, num_frames: int, key: int = 0) -> dict[str, Draw]:
    stream: Any = Video(num_frames)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(zip(plan.transformations, plan.draw(keyed_rng("tempo", key), stream), strict=True))


@pytest.mark.parametrize("num_frames", [1, 3, 7, 8, 15, 16, 40, 64, 200])
@pytest.mark.parametrize("stride", [1, 3])
def test_all_frames_are_inside(num_frames: int, stride: int) -> None:
    plan = TemporalTransformations(8, stride)
    for key in range(30):
        for draw in drawn(plan, num_frames, key).values():
            assert draw.at.shape == (8,)
            assert draw.at.dtype == np.int64
            assert draw.at.min() >= 0 and draw.at.max() < num_frames
        again = drawn(plan, num_frames, key)
        assert all(np.array_equal(again[name].at, draw.at) for name, draw in drawn(plan, num_frames, key).items())


def test_what_each_transformation_does() -> None:
    plan = TemporalTransformations(8)
    turns, shuffled = set(), set()
    for key in range(200):
        clips = drawn(plan, 200, key)
        assert [int(draw.labels["transformation"]) for draw in clips.values()] == [0, 1, 2, 3]
        speed = plan.speeds[int(clips["original"].labels["speed"])]
        assert clips["forward_backward"].labels["speed"] == clips["original"].labels["speed"]
        assert clips["shuffled"].labels["speed"] == clips["random_skips"].labels["speed"] == NO_SPEED

        assert set(np.diff(clips["original"].at)) == {speed}

        steps = np.diff(clips["forward_backward"].at)
        turn = int((steps < 0).argmax()) - 1
        assert (steps[:turn] == speed).all() and (steps[turn + 1 :] == -speed).all()
        assert 0 <= steps[turn] < max(2, speed)
        assert speed == 1 or len(set(clips["forward_backward"].at)) == 8  # the way back shows other frames
        turns.add(turn)

        at = clips["shuffled"].at
        assert np.array_equal(np.sort(at), np.arange(at.min(), at.min() + 8))
        shuffled.add(tuple(at - at.min()))

        skips = np.diff(clips["random_skips"].at)
        assert skips.min() >= 1 and skips.max() <= 8
        assert len(set(skips)) > 1
    assert turns == set(range(1, 6))  # two frames or more on either side
    assert len(shuffled) > 190


def test_speeds_are_drawn_evenly_of_those_that_fit() -> None:
    plan = TemporalTransformations(8)
    for num_frames, expected in [(64, 4), (63, 3), (32, 3), (31, 2), (16, 2), (15, 1), (8, 1), (5, 1)]:
        found = [int(drawn(plan, num_frames, key)["original"].labels["speed"]) for key in range(400)]
        counts = np.bincount(found)
        assert len(counts) == expected
        assert counts.min() > 0.7 * 400 / expected


def test_a_stride_takes_the_frames_apart() -> None:
    plan = TemporalTransformations(8, stride=3)
    firsts = set()
    for key in range(50):
        clips = drawn(plan, 100, key)  # 33 instants: speeds 1, 2 and 4
        speed = plan.speeds[int(clips["original"].labels["speed"])]
        assert set(np.diff(clips["original"].at)) == {3 * speed}
        assert set(np.diff(np.sort(clips["shuffled"].at))) == {3}
        assert (np.diff(clips["random_skips"].at) % 3 == 0).all()
        firsts |= set((clips["original"].at % 3).tolist())
    assert firsts == {0, 1, 2}


def test_random_skips_of_a_short_video_are_frames_of_all_of_it() -> None:
    plan = TemporalTransformations(8)
    spans = []
    for key in range(100):
        at = drawn(plan, 20, key)["random_skips"].at  # speeds 1 and 2
        assert (np.diff(at) >= 1).all()
        spans.append(np.diff(at).max())
    assert max(spans) > 2


def test_a_video_shorter_than_a_clip_is_played_in_slow_motion() -> None:
    plan = TemporalTransformations(8)
    clips = drawn(plan, 4)
    np.testing.assert_array_equal(clips["original"].at, [0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(np.sort(clips["shuffled"].at), [0, 0, 1, 1, 2, 2, 3, 3])
    slow = drawn(TemporalTransformations(4, speeds=(2, 4)), 4)["original"]
    assert (slow.at[:-1] <= slow.at[1:]).all() and slow.labels["speed"] == 0


def test_short_videos_are_told_of_once() -> None:
    plan, stream = TemporalTransformations(8), Video(60)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for key in range(5):
            plan.draw(keyed_rng(key), stream)  # type: ignore[arg-type]
    assert len(told) == 1
    assert "fewer than 64 frames" in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan.draw(keyed_rng(0), Video(64))  # type: ignore[arg-type]


def test_a_choice_of_transformations_and_speeds() -> None:
    plan = TemporalTransformations(8, transformations=("random_skips", "original"), speeds=(1, 3))
    assert plan.num_clips == 2
    speeds = set()
    for key in range(50):
        clips = drawn(plan, 24, key)
        assert list(clips) == ["random_skips", "original"]
        assert [int(draw.labels["transformation"]) for draw in clips.values()] == [0, 1]
        speeds.add(int(np.diff(clips["original"].at)[0]))
        assert np.diff(clips["random_skips"].at).max() <= 3
    assert speeds == {1, 3}
