from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from st_ssl.core.random import keyed_rng
from st_ssl.core.types import VideoMeta
from st_ssl.data.clip_plans import ClipPair, EvenClips, Plan, RandomClips, SegmentClips, clip_indices

PLANS: dict[str, Any] = {
    "random": lambda t, s: RandomClips(t, s, num_clips=3),
    "decreasing": lambda t, s: ClipPair(t, s),
    "uniform": lambda t, s: ClipPair(t, s, "uniform"),
    "constant": lambda t, s: ClipPair(t, s, "constant", interval=7),
    "even": lambda t, s: EvenClips(t, s, num_clips=2),
    "first half": lambda t, s: EvenClips(t, s, span=(0.0, 0.5), jitter=0.5),
    "second half": lambda t, s: EvenClips(t, s, span=(0.5, 1.0), jitter=1.0),
    "end": lambda t, s: EvenClips(t, s, span=(0.99, 1.0)),
}


class Video:
    """A stream of which no plan reads more than its length."""

    def __init__(self, num_frames: int) -> None:
        self.meta = VideoMeta(num_frames, 25.0, 64, 48)

    def read(self, at: Sequence[int]) -> Iterator[tuple[int, Any]]:
        raise AssertionError("a plan reads no content")

    def times(self) -> np.ndarray:
        return np.arange(self.meta.num_frames) / self.meta.fps

    def close(self) -> None:
        """Nothing is open."""


def drawn_by(plan: Plan, rng: np.random.Generator, num_frames: int) -> list[np.ndarray]:
    """The indices of each clip of one draw."""
    draws = plan.draw(rng, Video(num_frames))
    assert all(draw.labels == {} for draw in draws)
    return [draw.at for draw in draws]


def starts(plan: Plan, num_frames: int, draws: int) -> np.ndarray:
    """The first frame of each clip, [draws, clips]."""
    rng = keyed_rng("plans", num_frames)
    return np.array([[clip[0] for clip in drawn_by(plan, rng, num_frames)] for _ in range(draws)])


@given(st.sampled_from(sorted(PLANS)), st.integers(1, 9), st.integers(1, 5), st.integers(1, 60), st.integers(0, 99))
def test_indices_are_inside_and_evenly_apart(name: str, length: int, stride: int, num_frames: int, seed: int) -> None:
    plan = PLANS[name](length, stride)
    clips = drawn_by(plan, keyed_rng(seed), num_frames)
    assert len(clips) == plan.num_clips
    for clip in clips:
        assert clip.shape == (length,)
        assert clip.dtype == np.int64
        assert clip.min() >= 0
        assert clip.max() < num_frames
        if (length - 1) * stride + 1 <= num_frames and "half" not in name and name != "end":
            assert (np.diff(clip) == stride).all()
    again = drawn_by(plan, keyed_rng(seed), num_frames)
    np.testing.assert_array_equal(clips, again)


def test_short_videos_are_played_in_a_loop() -> None:
    np.testing.assert_array_equal(clip_indices(1, 6, 2, 5), [1, 3, 0, 2, 4, 1])
    (clip,) = drawn_by(RandomClips(8, 4), keyed_rng(0), 6)
    np.testing.assert_array_equal(clip, [0, 4, 2, 0, 4, 2, 0, 4])


def test_random_clips_start_uniformly_and_independently() -> None:
    drawn = starts(RandomClips(4, 2, num_clips=2), 16, 5000)  # last start 9
    counts = np.bincount(drawn.ravel(), minlength=10)
    assert len(counts) == 10
    assert chi_square(counts, np.full(10, 0.1)) < 33.7  # 9 degrees of freedom, p = 1e-4
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.06


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = probabilities * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def distances(distribution: Any, largest: int, draws: int = 20000) -> np.ndarray:
    """Counts of the distances between the two clips of ``draws`` pairs, [largest + 1]."""
    drawn = starts(ClipPair(1, 1, distribution), largest + 1, draws)
    counts = np.bincount(np.abs(drawn[:, 0] - drawn[:, 1]), minlength=largest + 1)
    assert len(counts) == largest + 1
    return counts


def test_decreasing_pairs_follow_the_density_of_the_paper() -> None:
    # The density 2/T (1 - t/T) has the cumulative distribution 2x - x^2 with x = t/T; its integer version has steps.
    x = np.arange(21) / 20
    cumulative = 2 * x - x**2
    counts = distances("decreasing", 19)
    assert chi_square(counts, np.diff(cumulative)) < 50.8  # 19 degrees of freedom, p = 1e-4
    assert np.abs(counts.cumsum() / counts.sum() - cumulative[1:]).max() < 0.0158  # Kolmogorov, p < 1e-4
    assert chi_square(counts, np.full(20, 0.05)) > 1000  # and a uniform one would have been told apart


def test_uniform_pairs() -> None:
    assert chi_square(distances("uniform", 19), np.full(20, 0.05)) < 50.8


def test_constant_pairs_and_their_limit() -> None:
    assert set(np.abs(np.diff(starts(ClipPair(1, 1, "constant", 7), 30, 50))).ravel()) == {7}
    assert set(np.abs(np.diff(starts(ClipPair(1, 1, "constant", 7), 5, 50))).ravel()) == {4}
    assert set(np.abs(np.diff(starts(ClipPair(1, 1, "constant", 0), 30, 50))).ravel()) == {0}


def test_either_clip_of_a_pair_may_come_first() -> None:
    drawn = starts(ClipPair(1, 1, "constant", 7), 30, 1000)
    assert 0.42 < (drawn[:, 0] < drawn[:, 1]).mean() < 0.58
    assert set(drawn.min(axis=1)) == set(range(30 - 7))


def test_even_clips_draw_nothing_and_are_centred() -> None:
    plan = EvenClips(4, 2, num_clips=3)  # 7 frames each
    clips = drawn_by(plan, keyed_rng(0), 37)
    np.testing.assert_array_equal([clip[0] for clip in clips], [5, 15, 25])  # of starts 0 … 30
    np.testing.assert_array_equal(clips, drawn_by(plan, keyed_rng(1), 37))
    (middle,) = drawn_by(EvenClips(5, 1), keyed_rng(0), 25)
    np.testing.assert_array_equal(middle, [10, 11, 12, 13, 14])


@given(st.integers(2, 80), st.integers(1, 6), st.integers(1, 4), st.integers(0, 50))
def test_halves_of_a_video_do_not_meet(num_frames: int, length: int, stride: int, seed: int) -> None:
    (first,) = drawn_by(EvenClips(length, stride, span=(0.0, 0.5), jitter=0.5), keyed_rng(seed), num_frames)
    (second,) = drawn_by(EvenClips(length, stride, span=(0.5, 1.0), jitter=0.5), keyed_rng(seed), num_frames)
    assert first.max() < second.min()


def test_jitter_moves_the_centre_within_its_share() -> None:
    drawn = starts(EvenClips(1, 1, jitter=0.5), 101, 400)
    assert drawn.min() >= 25
    assert drawn.max() <= 75
    assert len(set(drawn.ravel())) > 40


def test_a_frame_of_each_segment_by_hand() -> None:
    """10 frames in 4 segments of 2.5: [0, 2.5), [2.5, 5), [5, 7.5), [7.5, 10)."""
    rng = keyed_rng(0)
    (middles,) = drawn_by(SegmentClips(4), rng, 10)  # 1.25, 3.75, 6.25, 8.75
    np.testing.assert_array_equal(middles, [1, 3, 6, 8])
    np.testing.assert_array_equal(drawn_by(SegmentClips(4, 2), rng, 10), [[1, 3, 6, 8], [0, 2, 5, 7]])
    thirds = drawn_by(SegmentClips(4, 3), rng, 24)  # of 6 frames, at 1, 3 and 5
    np.testing.assert_array_equal(thirds, [[1, 7, 13, 19], [3, 9, 15, 21], [5, 11, 17, 23]])
    (short,) = drawn_by(SegmentClips(6), rng, 3)
    np.testing.assert_array_equal(short, [0, 0, 1, 1, 2, 2])
    assert middles.dtype == short.dtype == np.int64


@given(st.integers(1, 40), st.integers(1, 16))
def test_two_clips_of_segments_are_those_of_videomae(num_frames: int, segments: int) -> None:
    tick = num_frames / segments
    middles, starts = drawn_by(SegmentClips(segments, 2), keyed_rng(0), num_frames)
    for x in range(segments):
        assert abs(middles[x] - (tick / 2 + tick * x - 0.5)) <= 0.5 + 1e-9
        assert abs(starts[x] - (tick * x - 0.5)) <= 0.5 + 1e-9


def test_random_frames_of_segments_are_uniform_and_keyed() -> None:
    plan = SegmentClips(4, 2, random=True)
    rng = keyed_rng("segments")
    drawn = np.array([drawn_by(plan, rng, 20) for _ in range(2000)])  # [draws, clips, segments]
    for segment in range(4):
        counts = np.bincount(drawn[:, :, segment].ravel(), minlength=20)
        assert counts[5 * segment : 5 * segment + 5].sum() == 4000 and counts[counts > 0].min() > 700
    assert (drawn[:, 0] != drawn[:, 1]).any(1).mean() > 0.99
    np.testing.assert_array_equal(drawn_by(plan, keyed_rng(3), 20), drawn_by(plan, keyed_rng(3), 20))
    (short,) = drawn_by(SegmentClips(6, 1, random=True), rng, 3)
    np.testing.assert_array_equal(short, [0, 0, 1, 1, 2, 2])
