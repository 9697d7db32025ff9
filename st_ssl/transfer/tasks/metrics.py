"""Figures of merit, of confusion matrices or of scores, in per cent; a truth of -1 is unlabelled and counts nowhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from st_ssl.core.types import Entry

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


class ConfusionMeter:
    """What ``measures`` makes of how often each class was taken for each, over all rows."""

    def __init__(self, num_classes: int, measures: Callable[[np.ndarray], dict[str, float]]) -> None:
        self.confusion, self.measures = np.zeros((num_classes, num_classes), dtype=np.int64), measures

    def add(self, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> None:
        """As a ``Meter``."""
        self.confusion += confusion_matrix(truth, scores.argmax(1), len(self.confusion))

    def result(self) -> dict[str, float]:
        """The figures, in per cent."""
        return self.measures(self.confusion)


def part_scores(shapes: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """From the IoUs of the shapes of each category: ``instance_mIoU``, the mean over shapes, and ``class_mIoU``, the
    mean over categories."""
    everything = [value for values in shapes.values() for value in values]
    return {
        "instance_mIoU": _percent(np.mean(everything)) if everything else float("nan"),
        "class_mIoU": _percent(np.mean([np.mean(v) for v in shapes.values() if v])) if everything else float("nan"),
    }


def right_parts(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """What each of N samples of one class adds to ``verdict.mean_figure``, the accuracy: int64 [N, 2]."""
    known = truth != IGNORE
    return np.stack([known & (truth == predicted), known], 1).astype(np.int64)


def iou_parts(
    truth: np.ndarray, predicted: np.ndarray, sample: np.ndarray, samples: int, num_classes: int
) -> np.ndarray:
    """What each of the ``samples`` adds to ``iou_figure``: of its points, int64 [P] each, those that were hit of each
    class, those that have it and those that were given it, int64 [samples, 3 K]."""
    known = truth != IGNORE
    truth, predicted, row = truth[known], predicted[known], num_classes * sample[known]
    counts = [
        np.bincount(place, minlength=samples * num_classes).reshape(samples, num_classes)
        for place in ((row + truth)[truth == predicted], row + truth, row + predicted)
    ]
    return np.concatenate(counts, 1)


def iou_figure(totals: np.ndarray) -> np.ndarray:
    """``mIoU`` in per cent from sums [..., 3 K] of ``iou_parts``, as ``segmentation_scores`` has it of a confusion
    matrix; NaN of none."""
    hit, truth, predicted = np.split(totals, 3, axis=-1)
    union = truth + predicted - hit
    there = union > 0
    each = np.divide(hit, union, out=np.zeros(hit.shape), where=there)
    with np.errstate(invalid="ignore"):
        return 100 * each.sum(-1) / there.sum(-1)


def top_k_accuracy(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """How often the class int64 [N] is one of the ``k`` with the highest of ``scores`` [N, K]; of equal ones those that
    come first, so that k = 1 is the argmax."""
    known = truth != IGNORE
    best = (-scores[known]).argsort(1, kind="stable")[:, :k]
    return _percent((best == truth[known, None]).any(1).mean()) if known.any() else float("nan")


def average_precisions(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The average precision of each class in 0 … 1, float [K], from ``scores`` and ``truth`` of 0 and 1, both [N, K];
    rows of -1 count nowhere. NaN for a class that no row has."""
    from sklearn.metrics import average_precision_score

    known = (truth != IGNORE).all(1)
    scores, truth = scores[known], truth[known]
    found = np.full(truth.shape[1], np.nan)
    for number in np.flatnonzero(truth.any(0)):
        found[number] = average_precision_score(truth[:, number], scores[:, number])
    return found


def mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """The mean of ``average_precisions`` over the classes that some row has (mAP, as on Charades, 2016)."""
    return _mean(average_precisions(scores, truth))


@dataclass(frozen=True)
class Calibration:
    """Predictions by their confidence, in bins of equal width over 0 … 1: of each the ``count`` int64, the mean
    ``confidence`` and the share that is ``right``, float in 0 … 1 (NaN where it is empty)."""

    count: np.ndarray
    confidence: np.ndarray
    right: np.ndarray

    def error(self) -> float:
        """The expected calibration error (Guo et al. 2017): how far confidence is from accuracy, on average."""
        there = self.count > 0
        if not there.any():
            return float("nan")
        gaps = np.abs(self.confidence[there] - self.right[there])
        return _percent((gaps * self.count[there]).sum() / self.count.sum())


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> Calibration:
    """Of N predictions: ``confidence`` float in 0 … 1, and whether each is ``right``, both [N]. A bin takes its upper
    bound in, as in the paper."""
    number = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(number, minlength=bins)
    sums = (np.bincount(number, values.astype(float), bins) for values in (confidence, right))
    means = (np.divide(s, count, out=np.full(bins, np.nan), where=count > 0) for s in sums)
    return Calibration(count, *means)


class ScoreMeter:
    """Keeps all scores and truths that it is given, in order; ``several``: a row may be of several classes.

    Its figures are ``top1``, ``top5`` where there are more classes than that, the mean accuracy over classes, and the
    expected calibration error ``ece``; of several classes ``mAP``, and the ``ece`` of which every class of every sample
    is a prediction."""

    def __init__(self, num_classes: int, several: bool = False) -> None:
        self.num_classes, self.several = num_classes, several
        self._scores: list[np.ndarray] = []
        self._truth: list[np.ndarray] = []

    def add(self, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> None:
        """As a ``Meter``."""
        self._scores.append(scores)
        self._truth.append(truth)

    @property
    def scores(self) -> np.ndarray:
        """Probabilities float [N, K]."""
        return np.concatenate([np.empty((0, self.num_classes), np.float32), *self._scores])

    @property
    def truth(self) -> np.ndarray:
        """[N], or [N, K] of several classes."""
        nothing = np.empty((0, self.num_classes), np.float32) if self.several else np.empty(0, np.int64)
        return np.concatenate([nothing, *self._truth])

    def result(self) -> dict[str, float]:
        """The figures, in per cent."""
        scores, truth = self.scores, self.truth
        error = {"ece": calibrated(scores, truth).error()}
        if self.several:
            return {"mAP": mean_average_precision(scores, truth)} | error
        figures = {"top1": top_k_accuracy(scores, truth, 1)}
        if self.num_classes > 5:
            figures["top5"] = top_k_accuracy(scores, truth, 5)
        confusion = confusion_matrix(truth, scores.argmax(1), self.num_classes)
        figures["mean_class_accuracy"] = classification_scores(confusion)["mean_class_accuracy"]
        return figures | error


def calibrated(scores: np.ndarray, truth: np.ndarray) -> Calibration:
    """Of the class that is chosen of each row; of tags (``truth`` [N, K]) of all of them, how often each is there
    beside its probability."""
    if truth.ndim == 1:
        known = truth != IGNORE
        return calibration(scores[known].max(1, initial=0), scores[known].argmax(1) == truth[known])
    known = (truth != IGNORE).all(1)
    return calibration(scores[known].ravel(), truth[known].ravel() > 0)


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
