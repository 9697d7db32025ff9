"""Classifiers on frozen features: k nearest neighbours, linear, attentive; and for value targets ridge regression and
nearest neighbours, with what each sample counts. All take and give numpy or CPU tensors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from st_ssl.core.random import keyed_rng, keyed_seed
from st_ssl.parts.attentive_pooling import AttentivePool
from st_ssl.transfer.fitting.label_fractions import FEW


def centred(train: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """``train`` [N, D] and ``others`` [M, D] less the mean of ``train``, float64. Cosine similarities of features that
    are not centred are all near 1 where the features have much in common, and tell little."""
    mean = train.double().mean(0) if len(train) else 0.0
    return tuple(rows.double() - mean for rows in (train, *others))


def knn_predict(
    train: Tensor, labels: np.ndarray, test: Tensor, num_classes: int, k: int = 20, temperature: float = 0.07
) -> np.ndarray:
    """Weighted nearest neighbours by cosine similarity (Wu et al. 2018): each of the ``k`` nearest of ``train``
    [N, D] votes exp(similarity / temperature) for its label. Predictions for ``test`` [M, D]: int64 [M]."""
    similarity = normalize(test.double(), dim=1) @ normalize(train.double(), dim=1).T
    best, index = similarity.topk(min(k, len(train)), dim=1)
    votes = torch.zeros(len(test), num_classes, dtype=torch.float64)
    votes.scatter_add_(1, torch.from_numpy(labels)[index], ((best - best[:, :1]) / temperature).exp())
    return votes.argmax(1).numpy()


def linear_predict(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int, strengths: tuple[float, ...]
) -> tuple[np.ndarray, float]:
    """Logistic regression on standardised features; the inverse regularisation is the one of ``strengths`` that does
    best on a fifth of the training rows held out, or of fewer than ``FEW`` rows the middle one: a fifth of so few tells
    next to nothing. Predictions int64 [M] and the strength chosen."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    return fit_best(
        lambda strength: LogisticRegression(C=strength, max_iter=1000, tol=1e-3),
        (scaler.transform(train), labels, scaler.transform(test)),
        seed,
        strengths,
    )


def svm_predict(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    seed: int,
    strengths: tuple[float, ...] = (0.012,),
    standardise: bool = False,
) -> tuple[np.ndarray, float]:
    """A linear SVM, one class against one: how encoders of objects are compared.

    The papers feed it ``max_mean`` of the tokens as they are and fix C: 0.012 in Point-M2AE (2022) and Point2Vec
    (2023), the default here. Of several ``strengths`` it is chosen as in ``linear_predict``; with ``standardise`` each
    feature has mean 0 and deviation 1, which makes one range of C fit features of any scale. Predictions int64 [M] and
    C.
    """
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    if standardise:
        scaler = StandardScaler().fit(train)
        train, test = scaler.transform(train), scaler.transform(test)
    return fit_best(lambda strength: SVC(C=strength, kernel="linear"), (train, labels, test), seed, strengths)


def max_mean(tokens: Tensor) -> Tensor:
    """Tokens [B, L, D] to [B, 2D]: each channel's maximum, then each one's mean."""
    return torch.cat([tokens.max(1).values, tokens.mean(1)], 1)


def fit_best(
    build: Callable[[float], Any],
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    seed: int,
    strengths: tuple[float, ...],
) -> tuple[np.ndarray, float]:
    """Predictions [M] of the classifier or regressor that ``build`` makes of a strength, and the strength: of several
    it is chosen as in ``linear_predict``, by accuracy or R². ``rows``: training features [N, D], labels or values [N],
    and test features [M, D]."""
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    train, labels, test = rows
    if len(np.unique(labels)) < 2:
        return np.full(len(test), labels[0]), strengths[0]  # nothing to tell apart, which sklearn refuses
    order = keyed_rng(seed, "held out").permutation(len(train))
    held, kept = order[: len(order) // 5], order[len(order) // 5 :]
    best = strengths[len(strengths) // 2]
    # Matrices this small are slower on many threads than on one, and far slower where others want the cores.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        # It suspects a regression, but a label for each sample may be meant: which one it is is a target of ours.
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning, "sklearn")
        if len(strengths) > 1 and len(train) >= FEW and len(np.unique(labels[kept])) >= 2:
            scores = [build(c).fit(train[kept], labels[kept]).score(train[held], labels[held]) for c in strengths]
            if any(scores):  # an accuracy of 0 throughout tells nothing
                best = strengths[int(np.argmax(scores))]
        return build(best).fit(train, labels).predict(test), best


class AttentiveProbes(nn.Module):
    """One attentive classifier per target over the same frozen tokens (attentive probing, V-JEPA 2024)."""

    def __init__(self, dim: int, classes: dict[str, int], heads: int) -> None:
        super().__init__()
        self.names = list(classes)
        self.pool = AttentivePool(dim, len(classes), heads)
        self.classifiers = nn.ModuleList(nn.Linear(self.pool.width, count) for count in classes.values())
        for classifier in self.classifiers:
            nn.init.normal_(classifier.weight, std=0.01)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Tokens [B, L, D] to the logits of each target, [B, classes] each."""
        pooled = self.pool(tokens)
        return [classifier(pooled[:, i]) for i, classifier in enumerate(self.classifiers)]


def attentive_predict(
    train: Tensor,
    labels: dict[str, np.ndarray],
    test: Tensor,
    num_classes: dict[str, int],
    seed: int,
    epochs: int,
    lr: float,
    shrinkages: tuple[float, ...] = (1.0, 0.1, 0.01),
) -> dict[str, np.ndarray]:
    """Attentive probes on frozen tokens: ``train`` [N, L, D] with labels int64 [N] per target (-1 for none), ``test``
    [M, L, D]. Predictions int64 [M] per target.

    Tokens are whitened, or else what a few strong directions hold is all that a short training can see. How far is
    swept like a regularisation: for each target the shrinkage that does best on a fifth of the rows held out; of fewer
    than ``FEW`` rows it is the middle one.
    """
    given = (train, {name: torch.from_numpy(labels[name]) for name in num_classes}, num_classes, seed, epochs, lr)
    order = torch.from_numpy(keyed_rng(seed, "held out").permutation(len(train)))
    held, kept = order[: len(order) // 5], order[len(order) // 5 :]
    # The middle one, too, where the held-out rows tell nothing: each is of a class of its own, say.
    chosen = dict.fromkeys(num_classes, shrinkages[len(shrinkages) // 2])
    best = dict.fromkeys(num_classes, 0.0)
    for shrinkage in shrinkages if len(train) >= FEW else ():
        for name, predicted in _attend(*given, shrinkage, kept, train[held]).items():
            score = float(np.mean(predicted == labels[name][held]))
            if score > best[name]:
                best[name], chosen[name] = score, shrinkage
    predictions: dict[str, np.ndarray] = {}
    for shrinkage in sorted(set(chosen.values())):
        on_test = _attend(*given, shrinkage, order, test)
        predictions |= {name: on_test[name] for name in num_classes if chosen[name] == shrinkage}
    return predictions


def _attend(
    tokens: Tensor,
    labels: dict[str, Tensor],
    num_classes: dict[str, int],
    seed: int,
    epochs: int,
    lr: float,
    shrinkage: float,
    kept: Tensor,
    asked: Tensor,
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """Predictions for the tokens ``asked`` of probes that are trained on the rows ``kept`` of ``tokens``: AdamW with a
    one-cycle cosine; every target is a probe of its own."""
    centre, whiten = _whitening(tokens, shrinkage)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_seed(seed, "attentive"))
        probes = AttentiveProbes(tokens.shape[2], num_classes, heads=4)
    optimizer = torch.optim.AdamW(probes.parameters(), lr=lr, weight_decay=0.01)
    steps = math.ceil(len(kept) / batch_size) * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for epoch in range(epochs):
        order = torch.from_numpy(keyed_rng(seed, "attentive", epoch).permutation(len(kept)))
        for rows in kept[order].split(batch_size):
            logits = probes((tokens[rows].float() - centre) @ whiten)
            losses = [
                cross_entropy(logit, labels[name][rows], ignore_index=-1)
                for name, logit in zip(probes.names, logits, strict=True)
                if (labels[name][rows] >= 0).any()
            ]
            optimizer.zero_grad()
            if losses:
                torch.stack(losses).sum().backward()
                optimizer.step()
            schedule.step()
    with torch.inference_mode():
        parts = [[logit.argmax(1) for logit in probes((part.float() - centre) @ whiten)] for part in asked.split(64)]
    columns = zip(*parts, strict=True)
    return {name: torch.cat(column).numpy() for name, column in zip(probes.names, columns, strict=True)}


def _whitening(tokens: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """The mean [D] of all tokens, and a matrix [D, D] that brings channels and then directions to like scale.

    A direction of the standardised channels whose variance is v is divided by the root of v + ``shrinkage``: a large
    one leaves the directions as they are, a small one whitens (ZCA).
    """
    dim = tokens.shape[2]
    total, products = torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64)
    for part in tokens.split(64):
        x = part.flatten(0, 1).float()
        total += x.sum(0).double()
        products += (x.T @ x).double()
    count = tokens.shape[0] * tokens.shape[1]
    mean = total / count
    covariance = products / count - mean.outer(mean)
    deviation = covariance.diagonal().clamp_min(1e-12).sqrt()
    values, vectors = torch.linalg.eigh(covariance / deviation.outer(deviation))
    whiten = vectors / (values.clamp_min(0) + shrinkage).sqrt() @ vectors.T
    return mean.float(), (whiten / deviation[:, None]).float()


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
