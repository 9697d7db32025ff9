"""Covariance contrast: push embeddings away from the main directions of past ones (TiCo, Zhu et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from st_ssl.training.distributed import gather_with_gradient


def unit(x: Tensor) -> Tensor:
    """Rows [B, D] of length 1, in at least float32."""
    return normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1)


def second_moment(rows: Tensor) -> Tensor:
    """The mean of the outer products of ``rows`` [N, D] of length 1 with themselves, [D, D]: the covariance of the
    paper, which is not centred. Its trace is 1."""
    with torch.autocast(rows.device.type, enabled=False):
        return rows.T @ rows / len(rows)


def covariance_contrast(
    first: Tensor, second: Tensor, past: Tensor, beta: float, batch_gradient: bool = True
) -> tuple[Tensor, Tensor]:
    """The two terms of TiCo for embeddings ``first`` and targets ``second`` [B, D] of the same samples, row by row.

    With z the normalised rows of ``first``, and C = ``beta`` ``past`` + (1 - ``beta``) (their second moment over all
    processes), ``past`` [D, D]: the distance, 1 minus the mean cosine of a row and its target; and the contrast, the
    mean of z^T C z, from about 1/D (all directions alike) to the trace of C (all rows the same). Neither ``second`` nor
    ``past`` has a gradient; without ``batch_gradient`` C as a whole has none.

    Averaging the gradients over processes gives those of one process with the whole batch.
    """
    assert first.shape == second.shape, (first.shape, second.shape)
    first, second = unit(first), unit(second.detach())
    own = second_moment(gather_with_gradient(first))
    if not batch_gradient:
        own = own.detach()
    covariance = beta * past.detach().to(own.dtype) + (1 - beta) * own
    with torch.autocast(first.device.type, enabled=False):
        contrast = (first @ covariance * first).sum(1).mean()
    return 1 - (first * second).sum(1).mean(), contrast
