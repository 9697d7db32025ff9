"""Retrieval: is a video of the same class among the nearest ones? No classifier is trained: the features alone count.

The protocol of Büchler et al. (2018) and CoCLR (Han et al. 2020): test videos ask, training videos answer, R@k is the
share of queries with their own label among the k nearest by cosine similarity.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

_TIED = 1e-9  # cosines of float32 features that differ by less tell nothing apart


def hits_at(
    gallery: Tensor,
    labels: np.ndarray,
    queries: Tensor,
    truth: np.ndarray,
    ks: tuple[int, ...],
    apart: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Whether each of ``queries`` [M, D] with labels ``truth`` int64 [M] has a row of its own label among the k nearest
    of ``gallery`` [N, D] with ``labels`` int64 [N], for each of ``ks``: float64 [M, ks] in 0 … 1.

    ``apart``: identities of the gallery's rows [N] and of the queries [M]; a row of the same identity is the query
    itself and is passed over. Rows that are equally near come in random order, and what counts is the expected value:
    an encoder that gives the same features to all is at chance, whatever the order of the files. A query whose label
    is nowhere in the gallery is a miss.
    """
    if len(gallery) == 0 or len(queries) == 0:
        return np.zeros((len(queries), len(ks)))
    counts = np.asarray(ks)
    hits = []
    y, asked = torch.from_numpy(labels), torch.from_numpy(truth)
    same = None if apart is None else (torch.from_numpy(apart[0]), torch.from_numpy(apart[1]))
    rows, columns = normalize(queries.double(), dim=1), normalize(gallery.double(), dim=1).T
    for part in torch.arange(len(queries)).split(256):
        similarity = rows[part] @ columns
        if same is not None:
            similarity.masked_fill_(same[1][part, None] == same[0], -torch.inf)
        right = asked[part, None] == y
        best = similarity.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        tied = (similarity - best).abs() <= _TIED  # never true of -inf: inf - inf is not a number
        ahead = (~right & (similarity > best + _TIED)).sum(1)
        hits.append(_expected(ahead.numpy(), (tied & right).sum(1).numpy(), (tied & ~right).sum(1).numpy(), counts))
    return np.concatenate(hits)


def recall_at(
    gallery: Tensor,
    labels: np.ndarray,
    queries: Tensor,
    truth: np.ndarray,
    ks: tuple[int, ...],
    apart: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[float]:
    """R@k in per cent for each of ``ks``: the mean of ``hits_at`` over the queries, 0 where there are none."""
    hits = hits_at(gallery, labels, queries, truth, ks, apart)
    return (100 * hits.mean(0)).tolist() if len(hits) else [0.0] * len(ks)


def recall_by_chance(
    labels: np.ndarray, truth: np.ndarray, ks: tuple[int, ...], apart: tuple[np.ndarray, np.ndarray] | None = None
) -> list[float]:
    """R@k in per cent of a ranking drawn at random: what features that are all the same give."""
    return recall_at(torch.ones(len(labels), 1), labels, torch.ones(len(truth), 1), truth, ks, apart)


def _expected(ahead: np.ndarray, right: np.ndarray, wrong: np.ndarray, ks: np.ndarray) -> np.ndarray:
    """The chance [M, ks] that one of ``right`` rows comes among the first k, where ``ahead`` rows come before them and
    ``wrong`` ones are mixed with them in random order; all int64 [M]."""
    found = ((right > 0)[:, None] & (ahead[:, None] < ks)).astype(np.float64)
    for query in np.flatnonzero((right > 0) & (wrong > 0)):  # ties are rare, but for features that say nothing
        mine, others = int(right[query]), int(wrong[query])
        for column in np.flatnonzero(found[query]):
            places = int(ks[column] - ahead[query])
            # all places go to the wrong ones: C(wrong, places) out of C(wrong + right, places) ways
            drawn = np.arange(min(places, others + 1))
            found[query, column] = 1 - np.prod((others - drawn) / (others + mine - drawn))
    return found
