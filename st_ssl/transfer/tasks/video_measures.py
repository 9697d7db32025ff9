"""What is measured of recognised videos: of one class each, or of any number."""

from __future__ import annotations

import numpy as np

from st_ssl.core.types import Entry
from st_ssl.transfer.tasks.metrics import (
    IGNORE,
    Calibration,
    calibration,
    classification_scores,
    confusion_matrix,
    mean_average_precision,
    top_k_accuracy,
)


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
