from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from st_ssl.augment.temporal_disturbance import TemporalDisturbance, TemporalDisturbanceConfig
from st_ssl.core.random import keyed_rng


def order(num_frames: int, seed: int, **changes: Any) -> np.ndarray:
    params = TemporalDisturbance(TemporalDisturbanceConfig(**changes)).sample(keyed_rng(seed), None, num_frames)
    return params["order"]


@settings(max_examples=100, deadline=None)
@given(st.integers(3, 20), st.integers(0, 10**6), st.floats(0.01, 1.0), st.integers(1, 3))
def test_all_frames_stay_but_not_in_their_order(num_frames: int, seed: int, share: float, rounds: int) -> None:
    found = order(num_frames, seed, share=share, rounds=rounds)
    assert found.shape == (num_frames, 1)
    assert sorted(found[:, 0]) == list(range(num_frames))
    assert (found[:, 0] != np.arange(num_frames)).any()
    assert np.array_equal(found, order(num_frames, seed, share=share, rounds=rounds))


def test_the_disturbance_is_local() -> None:
    """Two moves and two swaps of 16 frames leave most neighbours together; a larger share fewer."""
    together = {
        share: np.mean([(np.diff(order(16, seed, share=share)[:, 0]) == 1).mean() for seed in range(300)])
        for share in (0.1, 0.5)
    }
    assert 0.3 < together[0.1] < 0.7  # at most 3 · 2 + 4 · 2 of 15 pairs are broken
    assert min((np.diff(order(16, seed)[:, 0]) == 1).sum() for seed in range(300)) >= 1
    assert together[0.5] < 0.2


def test_moves_come_before_swaps_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rng:
        pairs = iter([(0, 3), (5, 1), (0, 1), (2, 5)])

        def choice(self, count: int, size: int, replace: bool) -> tuple[int, int]:
            assert (count, size, replace) == (6, 2, False)
            return next(self.pairs)

    disturbance: Any = TemporalDisturbance(TemporalDisturbanceConfig(rounds=2, share=0.1))
    # 012345 → 123045 → 152304 → 512304 → 514302
    assert disturbance.sample(Rng(), None, 6)["order"][:, 0].tolist() == [5, 1, 4, 3, 0, 2]


def test_frames_are_cut_in_the_order_that_is_told() -> None:
    disturbance = TemporalDisturbance(TemporalDisturbanceConfig())
    params = disturbance.sample(keyed_rng(0), None, 5)
    frames = [np.full((2, 2, 3), i) for i in range(5)]
    assert [int(frame[0, 0, 0]) for frame in disturbance.cut(frames, params)] == params["order"][:, 0].tolist()
    assert disturbance.apply(frames, {}) is frames
