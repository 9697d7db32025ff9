"""Alignment and uniformity: how close positives lie, and how evenly all features spread (Wang and Isola, ICML 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from st_ssl.training.distributed import gather_with_gradient


def alignment(first: Tensor, second: Tensor, alpha: float = 2.0) -> Tensor:
    """The mean of |x - y|^alpha over the pairs x, y of ``first`` and ``second`` [B, D], row by row; ``alpha`` >= 1.

    The features are taken as they are: normalise them for the published measure, which then lies in 0 … 2^alpha, 0
    where all pairs agree. The mean is over this process's rows, in at least float32.
    """
    assert first.shape == second.shape, (first.shape, second.shape)
    assert alpha >= 1, "there is no gradient where a pair agrees"
    squared = (_wide(first) - _wide(second)).square().sum(1)
    if alpha == 2:
        return squared.mean()
    there = squared > 0  # the root has no gradient at 0
    distance = squared.where(there, torch.ones_like(squared)).sqrt().where(there, squared)
    return distance.pow(alpha).mean()


def uniformity(features: Tensor, t: float = 2.0) -> Tensor:
    """log of the mean of exp(-t |x - y|²) over all pairs of two rows x, y of ``features`` [B, D], those of all
    processes together.

    The features are taken as they are: normalise them for the published measure, which is 0 where all are one, and
    about -2t where they are spread over a sphere of many dimensions. It depends on the number of rows: the logarithm
    of a mean of few pairs is biased. The same on all processes, in at least float32. Raises ``ValueError`` for a single
    row.
    """
    x = gather_with_gradient(_wide(features))
    rows = len(x)
    if rows < 2:
        raise ValueError(f"uniformity is of pairs of samples: it needs a batch of two or more, not {rows}")
    with torch.autocast(x.device.type, enabled=False):
        squares = x.square().sum(1)
        distances = (squares[:, None] + squares - 2 * x @ x.T).clamp(min=0)
    itself = torch.eye(rows, dtype=torch.bool, device=x.device)
    total = (-t * distances).masked_fill(itself, float("-inf")).flatten().logsumexp(0)
    return total - math.log(rows * (rows - 1))


def _wide(x: Tensor) -> Tensor:
    """In at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
