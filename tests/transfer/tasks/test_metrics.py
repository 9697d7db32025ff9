"""Metrics against scikit-learn and against sums made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as oracle

from st_ssl.transfer.tasks.metrics import (
    ScoreMeter,
    average_precisions,
    calibration,
    classification_scores,
    confusion_matrix,
    ious,
    mean_average_precision,
    part_scores,
    segmentation_scores,
    shape_iou,
    top_k_accuracy,
)


def drawn(seed: int, classes: int, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, count)
    return truth, np.where(rng.random(count) < 0.6, truth, rng.integers(0, classes, count))


@pytest.mark.parametrize("classes", [2, 7])
def test_scores_are_those_of_sklearn(classes: int) -> None:
    truth, predicted = drawn(classes, classes)
    confusion = confusion_matrix(truth, predicted, classes)
    np.testing.assert_array_equal(confusion, oracle.confusion_matrix(truth, predicted, labels=range(classes)))
    found = classification_scores(confusion) | segmentation_scores(confusion)
    assert found["accuracy"] == found["allAcc"] == pytest.approx(100 * oracle.accuracy_score(truth, predicted))
    balanced = 100 * oracle.balanced_accuracy_score(truth, predicted)
    assert found["mean_class_accuracy"] == found["mAcc"] == pytest.approx(balanced)
    np.testing.assert_allclose(ious(confusion), oracle.jaccard_score(truth, predicted, average=None))
    assert found["mIoU"] == pytest.approx(100 * oracle.jaccard_score(truth, predicted, average="macro"))


def test_unlabelled_points_count_nowhere() -> None:
    truth, predicted = drawn(0, 5)
    hidden = truth.copy()
    hidden[::3] = -1
    kept = np.delete(np.arange(len(truth)), np.arange(0, len(truth), 3))
    np.testing.assert_array_equal(
        confusion_matrix(hidden, predicted, 5), oracle.confusion_matrix(truth[kept], predicted[kept], labels=range(5))
    )
    assert shape_iou(hidden, predicted, range(5)) == pytest.approx(
        oracle.jaccard_score(truth[kept], predicted[kept], average="macro")
    )


def test_a_class_that_is_nowhere_is_left_out_of_the_mean() -> None:
    # Class 2 is nowhere; class 1 is predicted alone, and counts as an IoU of 0 but has no accuracy.
    confusion = confusion_matrix(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]), 3)
    assert segmentation_scores(confusion) == {"mIoU": pytest.approx(37.5), "mAcc": 75.0, "allAcc": 75.0}


def test_foreground_is_the_classes_that_are_not_background() -> None:
    truth, predicted = drawn(3, 6)
    confusion = confusion_matrix(truth, predicted, 7)  # class 6 is nowhere
    found = segmentation_scores(confusion, [0, 4])
    each = oracle.jaccard_score(truth, predicted, average=None)
    assert found["foreground_mIoU"] == pytest.approx(100 * each[[1, 2, 3, 5]].mean())
    assert found["mIoU"] == pytest.approx(100 * each.mean())
    assert np.isnan(segmentation_scores(confusion, range(6))["foreground_mIoU"])


def test_parts_by_hand() -> None:
    truth = np.array([4, 4, 5, 5])
    assert shape_iou(truth, np.array([4, 4, 5, 4]), [4, 5]) == pytest.approx((2 / 3 + 1 / 2) / 2)
    # Part 6 of the category is neither there nor predicted: 1.
    assert shape_iou(truth, np.array([4, 4, 5, 4]), [4, 5, 6]) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert part_scores({"chair": [0.5, 1.0, 0.9], "lamp": [0.4]}) == {
        "instance_mIoU": pytest.approx(70.0),
        "class_mIoU": pytest.approx(60.0),
    }


@pytest.mark.parametrize(("truth", "predicted", "named"), [(3, 0, "truth of 3"), (-2, 0, "-2"), (0, 5, "prediction")])
def test_what_is_no_class_is_refused(truth: int, predicted: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        confusion_matrix(np.array([0, truth]), np.array([0, predicted]), 3)


def test_nothing_labelled_is_no_number() -> None:
    nothing = confusion_matrix(np.array([-1]), np.array([0]), 3)
    assert all(np.isnan(value) for value in (classification_scores(nothing) | segmentation_scores(nothing)).values())


def guessed(seed: int, classes: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [count, classes] that know something of the truth [count]."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + 1.5 * np.eye(classes)[truth]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), truth


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_is_the_one_of_sklearn(k: int) -> None:
    scores, truth = guessed(k, 8)
    expected = oracle.top_k_accuracy_score(truth, scores, k=k, labels=range(8))
    assert top_k_accuracy(scores, truth, k) == pytest.approx(100 * expected)
    hidden = np.where(np.arange(300) % 3, truth, -1)
    expected = oracle.top_k_accuracy_score(truth[hidden >= 0], scores[hidden >= 0], k=k, labels=range(8))
    assert top_k_accuracy(scores, hidden, k) == pytest.approx(100 * expected)


def test_a_network_that_says_nothing_is_no_better_than_chance() -> None:
    scores, truth = np.full((60, 6), 1 / 6), np.arange(60) % 6
    assert top_k_accuracy(scores, truth, 1) == pytest.approx(100 / 6)
    assert top_k_accuracy(scores, truth, 5) == pytest.approx(500 / 6)


def test_average_precision_by_hand_and_by_sklearn() -> None:
    truth = np.array([[1, 0], [0, 0], [1, 0], [0, 0], [-1, -1]])
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.4], [0.99, 0.99]])
    found = average_precisions(scores, truth)
    assert found[0] == pytest.approx((1 / 1 + 2 / 3) / 2) and np.isnan(found[1])  # class 1 is nowhere
    assert mean_average_precision(scores, truth) == pytest.approx(100 * 5 / 6)
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 2, (90, 4)), rng.random((90, 4))
    expected = oracle.average_precision_score(truth, scores, average="macro")
    assert mean_average_precision(scores, truth) == pytest.approx(100 * expected)


def test_calibration_by_hand() -> None:
    found = calibration(np.array([0.05, 0.1, 0.55, 0.6, 1.0]), np.array([0, 1, 1, 0, 1]), bins=10)
    assert found.count.tolist() == [2, 0, 0, 0, 0, 2, 0, 0, 0, 1]
    np.testing.assert_allclose(found.confidence[[0, 5, 9]], [0.075, 0.575, 1.0])
    np.testing.assert_allclose(found.right[[0, 5, 9]], [0.5, 0.5, 1.0])
    assert found.error() == pytest.approx(100 * (2 * 0.425 + 2 * 0.075 + 0) / 5)
    assert calibration(np.zeros(3), np.zeros(3)).count[0] == 3
    assert np.isnan(calibration(np.empty(0), np.empty(0)).error())


def test_calibration_is_the_distance_from_the_diagonal() -> None:
    """A network that is right as often as it says is calibrated; one that is surer than that by 0.2 is off by 20 %."""
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.3, 0.8, 40_000)
    right = rng.random(40_000) < sure
    assert calibration(sure, right).error() < 1.5
    assert calibration(sure + 0.2, right).error() == pytest.approx(20, abs=1)


def test_meters_of_clips_by_sklearn() -> None:
    scores, truth = guessed(0, 7)
    meter = ScoreMeter(7)
    for rows in np.array_split(np.arange(300), 4):
        meter.add(scores[rows], truth[rows], rows, [])
    found = meter.result()
    assert list(found) == ["top1", "top5", "mean_class_accuracy", "ece"]
    assert found["top1"] == pytest.approx(100 * oracle.accuracy_score(truth, scores.argmax(1)))
    assert found["mean_class_accuracy"] == pytest.approx(100 * oracle.balanced_accuracy_score(truth, scores.argmax(1)))
    assert found["top5"] == top_k_accuracy(scores, truth, 5)
    assert "top5" not in ScoreMeter(5).result()  # would be 100
    assert all(np.isnan(value) for value in ScoreMeter(7).result().values())

    several = np.random.default_rng(1).random((300, 7)) < scores
    tags = ScoreMeter(7, several=True)
    tags.add(scores, several.astype(np.float32), truth, [])
    expected = oracle.average_precision_score(several, scores, average="macro")
    assert tags.result()["mAP"] == pytest.approx(100 * expected)
    assert tags.result()["ece"] < 3  # drawn as often as the scores say
    assert all(np.isnan(value) for value in ScoreMeter(7, several=True).result().values())
