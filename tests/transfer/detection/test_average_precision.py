from __future__ import annotations

import numpy as np
import pytest

from st_ssl.core.boxes import Boxes
from st_ssl.transfer.detection.average_precision import (
    LEVELS,
    DetectionMeter,
    average_precision,
    level_figure,
    level_parts,
    match,
)


def boxes(rows: list[tuple[float, float]], classes: list[int] | None = None, **facts: list[float]) -> Boxes:
    """Boxes of 4 × 2 × 1.5 m at the places x, y."""
    values = np.zeros((len(rows), 9), np.float32)
    values[:, 3:6] = (4, 2, 1.5)
    if rows:
        values[:, :2] = rows
    return Boxes(
        values,
        np.array(classes if classes is not None else [0] * len(rows), dtype=np.int64),
        {name: np.array(value) for name, value in facts.items()},
    )


def slow_ap(score: np.ndarray, hit: np.ndarray, count: int) -> float:
    """By the definition: at each recall the best precision at that recall or above."""
    pairs = []
    for limit in sorted(set(score.tolist()), reverse=True):
        kept = score >= limit
        pairs.append((hit[kept].sum() / count, hit[kept].sum() / kept.sum()))
    area = before = 0.0
    for recall, _ in pairs:
        area += (recall - before) * max(precision for other, precision in pairs if other >= recall)
        before = recall
    return 100 * area


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_the_area_under_the_curve(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, hit = rng.integers(0, 12, 40) / 12, rng.random(40) < 0.6
    count = int(hit.sum()) + 5
    assert average_precision(score, hit, count) == pytest.approx(slow_ap(score, hit, count))


def test_each_true_box_is_found_once_by_the_best() -> None:
    predicted = boxes([(0, 0), (0.2, 0), (20, 0)], score=[0.5, 0.9, 0.8])
    found = match(predicted, boxes([(0, 0), (10, 0)]), 0, 0.5)
    assert found.row.tolist() == [1, 2, 0]
    assert found.truth.tolist() == [0, -1, -1]
    assert found.true.tolist() == [0, 1]


def test_a_prediction_on_an_ignored_box_is_neither_right_nor_wrong() -> None:
    truth = boxes([(0, 0), (10, 0), (20, 0)], [0, -1, -1])
    truth.values[2] = np.nan  # a region of which nobody said what is in it
    found = match(boxes([(0, 0), (10, 0), (30, 0)], score=[0.9, 0.8, 0.7]), truth, 0, 0.5)
    assert found.truth.tolist() == [0, -2, -1]


def test_classes_are_counted_apart_and_the_mean_is_over_those_that_there_are() -> None:
    meter = DetectionMeter(("car", "cyclist", "tram"), dict.fromkeys(("car", "cyclist", "tram"), 0.5))
    meter.add(boxes([(0, 0), (10, 0)], [0, 0], score=[0.9, 0.8]), boxes([(0, 0), (10, 0)], [0, 1], points=[30, 3]))
    result = meter.result()
    assert result["AP_car"] == 100
    assert result["AP_cyclist"] == 0
    assert np.isnan(result["AP_tram"])
    assert result["mAP"] == 50
    assert meter.missed("cyclist") == [(0, 1, 3)]
    assert meter.missed("car") == []


def test_by_range_and_by_points() -> None:
    meter = DetectionMeter(("car",), {"car": 0.5})
    truth = boxes([(5, 0), (20, 0), (40, 0), (41, 10)], points=[200, 30, 2, 1])
    meter.add(boxes([(5, 0), (20, 0), (41, 10), (25, 5)], score=[0.9, 0.6, 0.5, 0.7]), truth)
    assert meter.by_range("car") == {
        "0 to 15": (100, 100, 1),
        "15 to 30": (50, 100, 1),  # the one that was made up is there
        "30 or more": (50, 50, 2),
    }
    found = meter.by_points("car")
    assert found["100 or more"] == (100, 100, 1)
    assert found["0 to 5"] == (pytest.approx(25), 50, 2)
    assert meter.missed("car") == [(0, 2, 2)]


def test_figures_of_sums_over_sweeps_are_those_of_all_sweeps_together() -> None:
    rng = np.random.default_rng(0)
    meter, parts = DetectionMeter(("car",), {"car": 0.5}), []
    for _ in range(30):
        places = rng.uniform(-30, 30, (6, 2))
        scores = rng.integers(1, LEVELS, 8) / LEVELS + 0.1 / LEVELS
        seen = np.concatenate([places[:5] + rng.normal(0, 0.5, (5, 2)), rng.uniform(-30, 30, (3, 2))])
        (found,) = meter.add(boxes(seen.tolist(), score=scores.tolist()), boxes(places.tolist()))
        parts.append(level_parts(found))
    totals = np.sum(parts, 0)
    assert 5 < meter.ap("car") < 95
    assert level_figure(totals) == pytest.approx(meter.ap("car"))
    assert level_figure(np.stack([totals, 2 * totals])) == pytest.approx(meter.ap("car"))
    assert np.isnan(level_figure(0 * totals))


def test_nothing_at_all() -> None:
    meter = DetectionMeter(("car",), {"car": 0.5})
    meter.add(boxes([], score=[]), Boxes.none())
    assert np.isnan(meter.result()["AP_car"])
    assert np.isnan(meter.result()["mAP"])
