"""Metrics against scikit-learn and against sums made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as oracle

from st_ssl.transfer.metrics import (
    classification_scores,
    confusion_matrix,
    ious,
    part_scores,
    segmentation_scores,
    shape_iou,
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
