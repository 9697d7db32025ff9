"""Who is ahead: the interval against theory and a slow loop, and what becomes of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from st_ssl.core.verdict import DRAWS, FEWEST, MOST, Difference, Outcomes, Verdict, judge, strongest


def scores(right: float, seeds: int = 3, samples: int = 400, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((seeds, samples)) < right).astype(float)


def test_of_one_seed_the_interval_is_that_of_the_central_limit() -> None:
    ours, theirs = scores(0.8, 1, 2000, 1), scores(0.7, 1, 2000, 2)
    (found,) = judge(Outcomes.of_scores(ours), {"random": Outcomes.of_scores(theirs)}).against
    pairs = 100 * (ours - theirs)[0]
    half = 1.96 * pairs.std() / np.sqrt(len(pairs))
    assert found.mean == pytest.approx(pairs.mean())
    assert found.low == pytest.approx(pairs.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(pairs.mean() + half, abs=0.15 * half)


def test_the_interval_is_that_of_a_slow_loop() -> None:
    ours, theirs = scores(0.6, 3, 50, 3), scores(0.5, 3, 50, 4)
    ours[1, 7] = theirs[1, 7] = np.nan  # not judged in that seed
    (found,) = judge(Outcomes.of_scores(ours), {"random": Outcomes.of_scores(theirs)}).against
    rng, draws = np.random.default_rng(5), []
    for _ in range(DRAWS):
        samples = rng.integers(0, 50, 50)
        by_seed = np.nanmean(ours[:, samples], 1) - np.nanmean(theirs[:, samples], 1)
        draws.append(100 * by_seed[rng.integers(0, 3, 3)].mean())
    low, high = np.percentile(draws, [2.5, 97.5])
    assert found.low == pytest.approx(low, abs=1.0) and found.high == pytest.approx(high, abs=1.0)


def test_pairing_counts() -> None:
    """Two points more on the same samples is clear; on other samples it is lost in the noise."""
    theirs = scores(0.5, 1, 400, 1)
    ours = theirs.copy()
    ours[0, np.flatnonzero(theirs[0] == 0)[:8]] = 1
    paired = judge(Outcomes.of_scores(ours), {"random": Outcomes.of_scores(theirs)})
    shuffled = np.random.default_rng(6).permutation(ours[0])[None]
    loose = judge(Outcomes.of_scores(shuffled), {"random": Outcomes.of_scores(theirs)})
    assert paired.against[0].standing == "ahead" and loose.against[0].standing == "level"
    assert paired.against[0].mean == pytest.approx(2.0) and loose.against[0].mean == pytest.approx(2.0)


def test_seeds_count() -> None:
    """A lead that one seed of three alone has is none."""
    theirs = scores(0.5, 3, 400, 1)
    ours = theirs.copy()
    ours[0] = 1
    assert judge(Outcomes.of_scores(ours), {"random": Outcomes.of_scores(theirs)}).against[0].standing == "level"
    ours[1:, :60] = 1
    assert judge(Outcomes.of_scores(ours), {"random": Outcomes.of_scores(theirs)}).against[0].standing == "ahead"


@pytest.mark.parametrize(
    ("random", "baseline", "standing", "words"),
    [
        (0.5, 0.6, "ahead", ["ahead of random", "ahead of occupancy"]),
        (0.5, 0.9, "behind", ["ahead of random", "behind occupancy"]),
        (0.9, 0.5, "behind", ["behind random", "ahead of occupancy"]),
        (0.5, None, "level", ["ahead of random", "level with occupancy (+0.0"]),
    ],
)
def test_ahead_is_ahead_of_both(random: float, baseline: float | None, standing: str, words: list[str]) -> None:
    ours = scores(0.75, seed=1)
    rivals = {"random": scores(random, seed=2), "occupancy": ours if baseline is None else scores(baseline, seed=3)}
    verdict = judge(Outcomes.of_scores(ours), {name: Outcomes.of_scores(found) for name, found in rivals.items()})
    assert verdict.standing == standing
    assert all(word in verdict.sentence() for word in words)


def test_ahead_of_one_rival_alone_is_not_ahead() -> None:
    """Without a baseline nothing tells that a trivial one would not do as well; behind is behind."""
    ours, theirs = Outcomes.of_scores(scores(0.8, seed=1)), Outcomes.of_scores(scores(0.3, seed=2))
    alone = judge(ours, {"scratch": theirs})
    assert alone.against[0].standing == "ahead" and alone.standing == "level"
    assert judge(theirs, {"scratch": ours}).standing == "behind"


def test_a_rival_that_was_judged_by_no_sample_is_none() -> None:
    nothing = Outcomes.of_scores(np.full((3, 400), np.nan))
    verdict = judge(Outcomes.of_scores(scores(0.8)), {"random": nothing})
    assert verdict.against == () and verdict.standing == "level"


def test_a_handful_of_samples_decides_nothing() -> None:
    few = FEWEST - 1
    verdict = judge(Outcomes.of_scores(np.ones((3, few))), {"random": Outcomes.of_scores(np.zeros((3, few)))})
    assert verdict.standing == "level" and f"{few} test samples are too few" in verdict.sentence()


def test_figures_need_not_be_means() -> None:
    """An IoU is made of sums over samples: hits and union here, of 30 scenes."""
    rng = np.random.default_rng(7)
    union = rng.integers(50, 100, (2, 30)).astype(float)
    ours, theirs = (np.stack([union * share, union], -1) for share in (0.6, 0.4))
    verdict = judge(
        Outcomes(ours, lambda totals: 100 * totals[..., 0] / totals[..., 1]),
        {"scratch": Outcomes(theirs, lambda totals: 100 * totals[..., 0] / totals[..., 1])},
    )
    (found,) = verdict.against
    assert (found.mean, found.low, found.high) == pytest.approx((20.0, 20.0, 20.0))


def test_many_samples_are_drawn_in_groups_and_the_interval_is_the_same() -> None:
    samples = 3 * MOST
    ours, theirs = scores(0.8, 1, samples, 1), scores(0.79, 1, samples, 2)
    (found,) = judge(Outcomes.of_scores(ours), {"random": Outcomes.of_scores(theirs)}).against
    pairs = 100 * (ours - theirs)[0]
    width = 2 * 1.96 * pairs.std() / np.sqrt(samples)
    assert found.mean == pytest.approx(pairs.mean())
    assert found.high - found.low == pytest.approx(width, rel=0.15)


def test_rivals_are_called_as_people_call_them() -> None:
    against = (Difference("random", 9.1, 6.0, 12.2), Difference("raw", -2.0, -3.1, -0.9))
    told = Verdict(against, 40, 3).sentence({"random": "untrained"})
    assert told == "ahead of untrained (+9.1, +6.0 to +12.2), behind raw (-2.0, -3.1 to -0.9)"


@pytest.mark.filterwarnings("error")
def test_draws_without_a_judged_sample_tell_nothing() -> None:
    """Each seed has judged samples of its own, as in official splits: some draws have none of any of theirs."""
    ours = np.full((3, 12), np.nan)
    for seed in range(3):
        ours[seed, seed] = 1
    verdict = judge(Outcomes.of_scores(ours), {"random": Outcomes.of_scores(0 * ours)})
    (found,) = verdict.against
    assert (found.mean, found.low, found.high) == (100, 100, 100)


def test_a_verdict_goes_through_json() -> None:
    theirs = Outcomes.of_scores(scores(0.3, seed=1))
    verdict = judge(Outcomes.of_scores(scores(0.8)), {"random": theirs, "raw": theirs})
    told = json.loads(json.dumps(verdict.as_json()))
    assert told["standing"] == "ahead" and Verdict.from_json(told) == verdict
    del told["digits"]  # as files were before there were values
    assert Verdict.from_json(told) == verdict


def test_differences_of_r2_have_more_decimals() -> None:
    verdict = Verdict((Difference("random", 0.0912, 0.06, 0.1234), Difference("raw", 0.02, 0.01, 0.03)), 40, 3, 3)
    assert verdict.sentence() == "ahead of random (+0.091, +0.060 to +0.123), ahead of raw (+0.020, +0.010 to +0.030)"
    assert Verdict.from_json(verdict.as_json()) == verdict


def test_the_strongest_is_the_first_of_the_largest() -> None:
    assert strongest({"a": 1.0, "b": 3.0, "c": 3.0, "d": float("nan")}) == "b"
    assert strongest({"d": float("nan")}) is None


def test_samples_that_belong_together_are_drawn_together() -> None:
    """Ten copies of each sample say no more than the samples do: the interval is that of these, and not narrower."""
    rng = np.random.default_rng(0)
    ours, theirs = (rng.random((3, 20)) < share for share in (0.8, 0.5))
    alone = judge(Outcomes.of_scores(ours), {"rival": Outcomes.of_scores(theirs)})
    units = np.repeat(np.arange(20), 10)
    many = [Outcomes.of_scores(np.repeat(scores, 10, axis=1)) for scores in (ours, theirs)]
    together = judge(many[0].together(units), {"rival": many[1].together(units)})
    apart = judge(many[0], {"rival": many[1]})
    assert (together.samples, apart.samples) == (20, 200)
    assert together.against == alone.against
    assert apart.against[0].high - apart.against[0].low < 0.75 * (alone.against[0].high - alone.against[0].low)
