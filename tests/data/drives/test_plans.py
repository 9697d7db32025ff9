from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from st_ssl.core.errors import UnfitError
from st_ssl.core.random import keyed_rng
from st_ssl.data.drives.plans import Ahead, OneSweep, Pair
from st_ssl.data.streams.points.drives import DriveMeta, unposed
from tests.data.drives.made import pose_at


class Drive:
    """A stream of sweeps of which only the meta is asked."""

    def __init__(self, count: int, posed: Sequence[int] | None = None) -> None:
        poses = unposed(count)
        for at in range(count) if posed is None else posed:
            poses[at] = pose_at(at / 10)
        self.meta = DriveMeta(count, poses)

    def times(self) -> np.ndarray:
        return np.arange(self.meta.num_frames) / 10


def draws(plan: object, drive: Drive, count: int = 2000) -> list[list[int]]:
    """The sweeps of many draws, those of all views."""
    found = (plan.draw(keyed_rng(number), drive) for number in range(count))  # type: ignore[attr-defined]
    return [[int(at) for draw in one for at in draw.at] for one in found]


def test_one_sweep_is_any_as_often_and_the_same_in_all_views() -> None:
    found = draws(OneSweep(2), Drive(5))
    assert all(first == second for first, second in found)
    assert all(abs(count - 400) < 80 for count in Counter(first for first, _ in found).values())


def test_ahead_draws_steps_by_their_shares_and_stays_inside() -> None:
    plan, drive = Ahead((0.5, 0.25, 0.15, 0.1), stride=2), Drive(30)
    found = draws(plan, drive)
    assert max(later for _, later in found) == 29 and {(b - a) % 2 for a, b in found} == {0}
    early = Counter((b - a) // 2 for a, b in found if a + 8 < 30)
    for step, share in zip(range(1, 5), plan.shares, strict=True):
        assert abs(early[step] / early.total() - share) < 0.05
    (draw,) = plan.draw(keyed_rng(3), drive)  # type: ignore[arg-type]
    start, later = draw.at
    assert draw.labels["step"].tolist() == [(later - start) // 2]
    for step, pose in enumerate(draw.labels["path"]):
        assert start + 2 * step >= 30 or np.array_equal(pose, drive.meta.poses[start + 2 * step])


def test_ahead_takes_only_sweeps_whose_poses_are_known() -> None:
    found = draws(Ahead((0.5, 0.5)), Drive(6, [0, 1, 3, 4, 5]), 200)
    assert {tuple(pair) for pair in found} == {(0, 1), (3, 4), (3, 5), (4, 5)}
    with pytest.raises(UnfitError, match="none of its 4 sweeps has a pose"):
        draws(Ahead(), Drive(4, []), 1)
    with pytest.raises(UnfitError, match="of its 1 sweeps, 1 with a pose, no two are 1 ahead"):
        draws(Ahead(), Drive(1), 1)


def test_pairs_are_as_far_apart_as_asked_in_either_order() -> None:
    found = draws(Pair((0.2, 0.3)), Drive(10, [0, 1, 2, 3, 4, 9]))
    pairs = {tuple(pair) for pair in found}
    assert pairs == {p for a, b in [(0, 2), (0, 3), (1, 3), (1, 4), (2, 4)] for p in ((a, b), (b, a))}
    with pytest.raises(UnfitError, match="of its 3 sweeps, 3 with a pose, no two are 1 to 2 s apart"):
        draws(Pair((1, 2)), Drive(3), 1)
