"""What frozen features are worth with few labels: few-shot episodes, and accuracy by the share of the labels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from st_ssl.core.config import Config
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import Entry
from st_ssl.transfer.fitting.label_fractions import balanced_rows
from st_ssl.transfer.probes.classifiers import linear_predict

FEW_SHOT = ("centroid", "logistic")
"""Classifiers of an episode: the nearest class mean, and logistic regression."""


class EpisodeConfig(Config):
    """``episodes`` draws of ``ways`` classes, each with ``shots`` samples of the training part to learn from and
    ``queries`` of the test part to tell."""

    ways: int = Field(default=5, gt=1)
    shots: int = Field(default=1, gt=0)
    queries: int = Field(default=15, gt=0)
    episodes: int = Field(default=600, gt=1)


def able_classes(labels: np.ndarray, truth: np.ndarray, config: EpisodeConfig) -> np.ndarray:
    """The classes that have samples enough in both parts, int64, sorted; ``labels`` int64 [N] and ``truth`` int64 [M]
    without unlabelled ones."""
    size = 1 + max(labels.max(initial=-1), truth.max(initial=-1))
    shots, queries = (np.bincount(part, minlength=size) for part in (labels, truth))
    return np.flatnonzero((shots >= config.shots) & (queries >= config.queries))


@dataclass
class Episodes:
    """The ``accuracy`` of every episode in 0 … 1, float64 [episodes]; and of every test sample in how many episodes it
    was ``asked`` about and ``right``, float64 [M]."""

    accuracy: np.ndarray
    asked: np.ndarray
    right: np.ndarray

    def half_interval(self) -> float:
        """Half the width of the 95 % interval of the mean over episodes, in per cent."""
        return float(100 * 1.96 * np.std(self.accuracy, ddof=1) / np.sqrt(len(self.accuracy)))


def few_shot_episodes(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray, config: EpisodeConfig, seed: int
) -> dict[str, Episodes]:
    """What came of the episodes, by the names in ``FEW_SHOT``.

    ``train`` float [N, D] with ``labels`` int64 [N], ``test`` [M, D] with ``truth`` int64 [M]. Features have the mean
    of the training part taken off and length 1 (CL2N of SimpleShot, Wang et al. 2019); logistic regression on them is
    the baseline of Tian et al. (2020). Episodes depend on the seed and the labels alone, so that all who are compared
    get the same ones. Nothing where fewer than ``ways`` classes are large enough.
    """
    able = able_classes(labels, truth, config)
    if len(able) < config.ways:
        return {}
    centre = train.mean(0)
    x, y = (_unit(part - centre) for part in (train, test))
    found = {name: Episodes(np.zeros(config.episodes), *np.zeros((2, len(test)))) for name in FEW_SHOT}
    answers = np.repeat(np.arange(config.ways), config.queries)
    for number in range(config.episodes):
        rng = keyed_rng(seed, "episode", number)
        classes = rng.permutation(able)[: config.ways]
        shots = np.stack([rng.permutation(np.flatnonzero(labels == c))[: config.shots] for c in classes])
        queries = np.stack([rng.permutation(np.flatnonzero(truth == c))[: config.queries] for c in classes])
        for name, predicted in _predict(x[shots], y[queries].reshape(-1, y.shape[1])).items():
            right = predicted == answers
            found[name].accuracy[number] = right.mean()
            found[name].asked[queries.ravel()] += 1
            found[name].right[queries.ravel()] += right
    return found


def _predict(shots: np.ndarray, queries: np.ndarray) -> dict[str, np.ndarray]:
    """Predictions int64 [Q] for ``queries`` [Q, D] from ``shots`` [ways, shots, D]."""
    from sklearn.linear_model import LogisticRegression

    means = shots.mean(1)
    distances = (means**2).sum(1) - 2 * queries @ means.T
    labels = np.repeat(np.arange(len(shots)), shots.shape[1])
    with warnings.catch_warnings():
        # It suspects a regression where there is one sample of each class.
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning, "sklearn")
        logistic = LogisticRegression(max_iter=1000).fit(shots.reshape(len(labels), -1), labels)
    return {"centroid": distances.argmin(1), "logistic": logistic.predict(queries)}


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def subset_rows(entries: Sequence[Entry], name: str, share: float, seed: int) -> list[int]:
    """The rows of a ``share`` of the samples of each class of the target ``name``, at least one; a smaller share is
    part of a larger one."""
    return balanced_rows(entries, share, lambda entry: entry.labels[name], "labels", seed)


def right_by_share(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    truth: np.ndarray,
    subsets: Sequence[Sequence[int]],
    seed: int,
    strengths: tuple[float, ...],
) -> list[np.ndarray]:
    """Which of ``test`` [M, D] ``linear_predict`` tells right, bool [M], trained on each of ``subsets`` of the rows of
    ``train`` [N, D]."""
    return [
        linear_predict(train[rows], labels[rows], test, seed, strengths)[0] == truth
        for rows in map(np.asarray, subsets)
    ]
