"""Probes of value targets: ridge regression and nearest neighbours on frozen features, and what each sample counts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from st_ssl.transfer.probes.classifiers import fit_best


def ridge_predict(
    train: np.ndarray, values: np.ndarray, test: np.ndarray, seed: int, strengths: tuple[float, ...]
) -> tuple[np.ndarray, float]:
    """Ridge regression on D standardised features, with the penalty strength × D.

    So the strength is relative to the squared length of a sample's features, and one range fits encoders of any width.
    Of several ``strengths`` the one with the highest R² is chosen on held-out training rows, as in ``linear_predict``.
    ``train`` float [N, D], ``values`` float [N], ``test`` [M, D]. Predictions float64 [M] and the strength chosen.
    """
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train.astype(np.float64))
    x, y = (scaler.transform(part.astype(np.float64)) for part in (train, test))
    return fit_best(lambda strength: Ridge(alpha=strength * train.shape[1]), (x, values, y), seed, strengths)


def knn_mean(train: Tensor, values: np.ndarray, test: Tensor, k: int = 20) -> np.ndarray:
    """The mean of the ``values`` float [N] of the ``k`` rows of ``train`` [N, D] that are nearest by cosine similarity,
    for each row of ``test`` [M, D]: float64 [M]."""
    similarity = normalize(test.double(), dim=1) @ normalize(train.double(), dim=1).T
    index = similarity.topk(min(k, len(train)), dim=1).indices
    return torch.from_numpy(values)[index].mean(1).numpy()


def r2_scores(predicted: np.ndarray | float, truth: np.ndarray) -> np.ndarray:
    """What each sample adds to R²: 1 - (truth - predicted)² / variance of ``truth`` [M], float64 [M].

    Their mean is R² exactly. So a difference of two contestants is the difference of their squared errors, sample by
    sample, in units of one variance. 0 throughout where all of ``truth`` is the same.
    """
    variance = truth.var() if len(truth) else 0.0
    return 1 - (truth - predicted) ** 2 / variance if variance > 0 else np.zeros(len(truth))


def rank_scores(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What each sample adds to Spearman's rank correlation of ``predicted`` and ``truth``, float64 [M]: the product of
    its two ranks in standard scores. Their mean is the correlation. 0 throughout where either is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(part) for part in (predicted, truth)]
    spread = [part.std() if len(part) else 0.0 for part in ranks]
    if min(spread) == 0:
        return np.zeros(len(truth))
    first, second = ((part - part.mean()) / deviation for part, deviation in zip(ranks, spread, strict=True))
    return first * second
