"""Claims and gains, on outcomes written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from st_ssl.study.cells import outcomes, packed
from st_ssl.study.compare import Comparison, claim_of, compared, compared_metric, mean_gain
from st_ssl.study.config import ClaimConfig, TuningConfig
from st_ssl.transfer.probes.scores import Scores


def drawn(share: float, seed: int, count: int = 200) -> str:
    """A contestant that gets about ``share`` right."""
    return "".join(str(int(x < share)) for x in np.random.default_rng(seed).random(count))


def cell(right: dict[str, str], metric: float = 0.0) -> dict[str, Any]:
    table = {"samples": [], "scores": {"motion": {"knn": right}}}
    return {"test": table, "val": table, "metrics": {"rank": metric}}


def test_scores_are_packed_and_come_back() -> None:
    scores = Scores(["a", "b", "c"])
    scores.add(("scene", "knn", "pretrained"), np.array([1.0, 0.0]), np.array([0, 2]))
    scores.add(("speed", "knn_r2", "pretrained"), np.array([0.25, -1.5, 1.0]), np.array([0, 1, 2]))
    told = packed(scores, {"pretrained": "pretrained"})
    assert told["scores"]["scene"]["knn"]["pretrained"] == "1-0"
    assert told["scores"]["speed"]["knn_r2"]["pretrained"] == [0.25, -1.5, 1.0]
    assert outcomes(["1-0"]).values().tolist() == [50.0]
    assert outcomes([[0.25, -1.5, 1.0]], 1.0).values() == pytest.approx([-1 / 12])


@pytest.mark.parametrize(
    ("low", "high", "values", "word"),
    [
        (1.0, 5.0, (2.0, 4.0), "holds"),
        (-5.0, -1.0, (-2.0, -4.0), "the opposite holds"),
        (1.0, 5.0, (-0.1, 6.0), "undecided"),  # a seed disagrees
        (-2.0, 2.5, (-1.0, 1.0), "no difference"),
        (-2.0, 3.5, (-1.0, 2.0), "undecided"),
        (0.1, 2.0, (0.0, 2.0), "no difference"),  # within 3 points, and one seed has no sign
    ],
)
def test_the_words_of_a_verdict(low: float, high: float, values: tuple[float, ...], word: str) -> None:
    assert Comparison((low + high) / 2, low, high, values).word() == word


def test_a_large_paired_difference_holds_and_none_does_not() -> None:
    good = [drawn(0.7, seed) for seed in range(5)]
    bad = [drawn(0.4, seed + 10) for seed in range(5)]
    found = compared(good, bad, "knn")
    assert found is not None and found.word() == "holds" and found.mean == pytest.approx(30, abs=5)
    same = compared(good, good, "knn")
    assert same is not None and same.word() == "no difference" and same.low == same.high == 0
    assert compared([], [], "knn") is None


def test_a_metric_has_the_interval_of_students_t() -> None:
    found = compared_metric([4.0, 5.0, 6.0], [1.0, 1.0, 3.0])
    assert found is not None
    assert found.mean == pytest.approx(10 / 3)
    half = 4.302652729911275 * np.std([3, 4, 3], ddof=1) / 3**0.5
    assert (found.low, found.high) == pytest.approx((10 / 3 - half, 10 / 3 + half))
    assert compared_metric([1.0], [0.0]) is None


def claim(**changes: Any) -> ClaimConfig:
    return ClaimConfig(**{"name": "x", "more": "one", "less": "two", "target": "motion", **changes})


def test_claims_pair_the_seeds_that_both_arms_have() -> None:
    one = {seed: cell({"pretrained": drawn(0.7, seed)}, 5.0 + seed) for seed in range(5)}
    two = {seed: cell({"pretrained": drawn(0.4, seed + 10)}, 1.0) for seed in range(1, 6)}
    untrained = {seed: cell({"random": drawn(0.7, seed)}) for seed in range(5)}
    found = claim_of(claim(), {"one": one, "two": two}, untrained)
    assert (found.word, found.seeds, found.passed) == ("holds", 4, None)
    assert claim_of(claim(control=True), {"one": one, "two": two}, {}).passed is True
    assert claim_of(claim(control=True, expect="not_more"), {"one": one, "two": two}, {}).passed is False
    level = claim_of(claim(less="untrained", control=True, expect="not_more"), {"one": one}, untrained)
    assert (level.word, level.passed) == ("no difference", True)
    rank = claim_of(claim(target=None, metric="rank"), {"one": one, "two": two}, {})
    assert rank.word == "holds" and rank.figures[0] == (6.0, 7.0, 8.0, 9.0)
    missing = claim_of(claim(target=None, metric="other"), {"one": one, "two": two}, {})
    assert missing.word == "not done" and missing.as_json()["difference"] is None


def test_trials_are_judged_by_the_mean_gain_on_validation() -> None:
    arm = {"result": {"val": {"scores": {"a": {"knn": {"pretrained": "1110"}}, "b": {"knn": {"pretrained": "1100"}}}}}}
    other = {"result": {"val": {"scores": {"a": {"knn": {"random": "1000"}}, "b": {"knn": {"random": "1111"}}}}}}
    assert mean_gain(arm, other, TuningConfig()) == 0.0
    assert mean_gain(arm, other, TuningConfig(targets=("a",))) == 50.0


def test_windows_of_a_recording_are_drawn_together() -> None:
    """Four windows of each of 50 recordings that get the same: the interval is that of 50, not of 200."""
    good, bad = ("".join(4 * letter for letter in drawn(share, 1, 50)) for share in (0.7, 0.4))
    names = [f"{n // 4}.npz:window {n}+3" for n in range(200)]
    alone, together = compared([good], [bad]), compared([good], [bad], samples=names)
    assert alone is not None and together is not None and alone.mean == together.mean
    assert together.high - together.low == pytest.approx(2 * (alone.high - alone.low), rel=0.25)
