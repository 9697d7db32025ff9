"""Figures of merit out of confusion matrices, in per cent; a truth of -1 means unlabelled and counts nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

IGNORE = -1


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """How often class t (row) was taken for class p (column), int64 [K, K], from int64 [M] each.

    Raises ``ValueError`` where a truth (but -1) or a prediction is no class.
    """
    known = truth != IGNORE
    truth, predicted = truth[known].astype(np.int64), predicted[known].astype(np.int64)
    for what, values in (("truth", truth), ("prediction", predicted)):
        if len(values) and not 0 <= values.min() <= values.max() < num_classes:
            wrong = values.min() if values.min() < 0 else values.max()
            raise ValueError(f"a {what} of {wrong} is none of {num_classes} classes (0 to {num_classes - 1})")
    return np.bincount(truth * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def classification_scores(confusion: np.ndarray) -> dict[str, float]:
    """``accuracy`` over all samples, and ``mean_class_accuracy`` over the classes that have any."""
    return {"accuracy": _overall(confusion), "mean_class_accuracy": _mean_class(confusion)}


def segmentation_scores(confusion: np.ndarray, background: Sequence[int] = ()) -> dict[str, float]:
    """``mIoU``, over the classes that are in truth or predictions, ``mAcc``, over those in truth, and ``allAcc``. Where
    some classes are ``background`` also ``foreground_mIoU``, over the others."""
    each = ious(confusion)
    scores = {"mIoU": _mean(each), "mAcc": _mean_class(confusion), "allAcc": _overall(confusion)}
    return scores | ({"foreground_mIoU": _mean(np.delete(each, background))} if len(background) else {})


def ious(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, float [K]; NaN for one that is neither in truth nor in predictions."""
    hit = np.diagonal(confusion).astype(float)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)


def shape_iou(truth: np.ndarray, predicted: np.ndarray, parts: Sequence[int]) -> float:
    """The mean IoU of one shape over the ``parts`` of its category, in 0 … 1; a part that is neither in truth nor in
    predictions counts as 1 (Yi et al. 2016, as PointNet 2017 reports it). Points of truth -1 count nowhere."""
    known = truth != IGNORE
    truth, predicted = truth[known], predicted[known]
    values = []
    for part in parts:
        ours, theirs = predicted == part, truth == part
        union = int((ours | theirs).sum())
        values.append(int((ours & theirs).sum()) / union if union else 1.0)
    return float(np.mean(values))


def part_scores(shapes: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """From the IoUs of the shapes of each category: ``instance_mIoU``, the mean over shapes, and ``class_mIoU``, the
    mean over categories."""
    everything = [value for values in shapes.values() for value in values]
    return {
        "instance_mIoU": _percent(np.mean(everything)) if everything else float("nan"),
        "class_mIoU": _percent(np.mean([np.mean(v) for v in shapes.values() if v])) if everything else float("nan"),
    }


def _mean(shares: np.ndarray) -> float:
    """Of those that are not NaN, in per cent."""
    known = shares[~np.isnan(shares)]
    return _percent(known.mean()) if len(known) else float("nan")


def _overall(confusion: np.ndarray) -> float:
    total = confusion.sum()
    return _percent(np.trace(confusion) / total) if total else float("nan")


def _mean_class(confusion: np.ndarray) -> float:
    count = confusion.sum(1)
    there = count > 0
    return _percent((np.diagonal(confusion)[there] / count[there]).mean()) if there.any() else float("nan")


def _percent(share: float | np.floating) -> float:
    return float(100 * share)
