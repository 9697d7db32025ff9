"""Schedules against values worked out by hand, and what holds for all of them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from st_ssl.training.schedule import ScheduleConfig, lr_at


def test_cosine_by_hand() -> None:
    config = ScheduleConfig(warmup_epochs=2, warmup_lr=0.1, min_lr=0.2)
    # 5 steps per epoch: warm-up over steps 0..9, cosine over 10..50
    expected = {0: 0.1, 5: 0.55, 9: 0.91, 10: 1.0, 20: 0.6 + 0.4 * math.sqrt(0.5), 30: 0.6, 50: 0.2, 60: 0.2}
    for step, lr in expected.items():
        assert lr_at(step, 50, 5, config, 1.0) == pytest.approx(lr, rel=1e-12), step
    assert lr_at(10, 50, 5, config, 1.0) == 1.0
    assert lr_at(50, 50, 5, config, 1.0) == 0.2


def test_constant_and_fractional_warmup() -> None:
    config = ScheduleConfig(name="constant", warmup_epochs=0.5)
    assert [lr_at(step, 100, 8, config, 2.0) for step in range(6)] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    assert lr_at(99, 100, 8, config, 2.0) == 2.0


def test_exponential_decay_by_hand() -> None:
    config = ScheduleConfig(name="exponential", warmup_epochs=1, decay=0.5, every=3, min_lr=0.2)
    rates = [lr_at(step, 100, 2, config, 1.0) for step in range(12)]
    assert rates == [0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2]
    with pytest.warns(UserWarning, match="every=3 is ignored: the schedule is not exponential"):
        ScheduleConfig(every=3)


def test_a_run_shorter_than_its_warmup() -> None:
    config = ScheduleConfig(warmup_epochs=40)
    assert [lr_at(step, 4, 4, config, 160.0) for step in range(5)] == [0, 1, 2, 3, 4]


def test_ignored_settings_are_warnings() -> None:
    with pytest.warns(UserWarning, match="min_lr=0.1 is ignored"):
        ScheduleConfig(name="constant", min_lr=0.1)
    with pytest.warns(UserWarning, match="warmup_lr=0.1 is ignored"):
        ScheduleConfig(warmup_lr=0.1)
    with pytest.warns(UserWarning, match="of_peak=true is ignored"):
        ScheduleConfig(warmup_epochs=1, of_peak=True)


@pytest.mark.parametrize("peak", [0.5, 4.0])
def test_shares_of_the_peak_scale_with_it(peak: float) -> None:
    config = ScheduleConfig(warmup_epochs=2, warmup_lr=0.1, min_lr=0.2, of_peak=True)
    same = ScheduleConfig(warmup_epochs=2, warmup_lr=0.1 * peak, min_lr=0.2 * peak)
    for step in range(60):
        assert lr_at(step, 50, 5, config, peak) == lr_at(step, 50, 5, same, peak), step
    assert (lr_at(0, 50, 5, config, peak), lr_at(50, 50, 5, config, peak)) == (0.1 * peak, 0.2 * peak)
    with pytest.raises(ValueError, match=r"min_lr=1\.5: with of_peak it is a share of the peak"):
        ScheduleConfig(min_lr=1.5, of_peak=True)


@given(
    total=st.integers(1, 2000),
    per_epoch=st.integers(1, 50),
    warmup=st.floats(0.01, 20),
    low=st.floats(0, 2),
    first=st.floats(0, 2),
    peak=st.floats(1e-6, 10),
)
def test_rises_then_falls_within_bounds(
    total: int, per_epoch: int, warmup: float, low: float, first: float, peak: float
) -> None:
    config = ScheduleConfig(warmup_epochs=warmup, min_lr=low, warmup_lr=first)
    rates = [lr_at(step, total, per_epoch, config, peak) for step in range(total)]
    steps = round(warmup * per_epoch)
    slack = 1e-9 * peak
    assert all(min(low, first, peak) - slack <= rate <= peak + slack for rate in rates)
    assert all(a <= b + slack for a, b in pairwise(rates[: steps + 1]))
    assert all(a >= b - slack for a, b in pairwise(rates[steps:]))
    if steps < total:
        assert rates[steps] == peak
        assert lr_at(total, total, per_epoch, config, peak) == min(low, peak)
