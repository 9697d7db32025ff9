"""Contrast of many views: each view of a sample is compared with all its other views at once."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from st_ssl.training.distributed import gather_with_gradient, rank

Aggregate = Literal["geometric", "arithmetic", "sufficient_statistics"]


def poly_view(
    views: Tensor, temperature: float = 0.1, aggregate: Aggregate = "geometric", unit_mean: bool = False
) -> tuple[Tensor, Tensor]:
    """Poly-view contrast (Shidani et al., ICLR 2024) of ``views`` [B, V, D], the embeddings of V views of B samples.

    x_ia is the normalised embedding of view a of sample i, f(x, y) the product of two over ``temperature``. The
    negatives of sample i are all views of all other samples of all processes. With

        l(i, a, y) = exp f(x_ia, y) / ( exp f(x_ia, y) + sum over negatives n of exp f(n, q) )

    the loss is the mean over i and a of, with b over the V - 1 other views of the sample,

    - ``geometric``: the mean over b of -log l(i, a, x_ib), with q = x_ia;
    - ``arithmetic``: -log of the mean over b of l(i, a, x_ib), with q = x_ia;
    - ``sufficient_statistics``: -log l(i, a, u), with q = u, the mean over b of x_ib (``unit_mean``: normalised again).

    Other views of a sample are never its negatives. With two views all three are ``info_nce``. Logits are in at least
    float32.

    Returns the mean loss over this process's samples, and the share of positives that rank before all negatives.
    Averaging the gradients over processes gives those of one process with the whole batch.
    """
    rows, count, _ = views.shape
    if count < 2:
        raise ValueError(f"two views or more are compared, not {count}")
    x = normalize(views.to(torch.promote_types(views.dtype, torch.float32)), dim=2)
    everyone = gather_with_gradient(x)
    queries = x
    with torch.autocast(x.device.type, enabled=False):
        if aggregate == "sufficient_statistics":
            queries = (x.sum(1, keepdim=True) - x) / (count - 1)
            queries = normalize(queries, dim=2) if unit_mean else queries
            positives = (x * queries).sum(2, keepdim=True) / temperature
        else:
            apart = ~torch.eye(count, dtype=torch.bool, device=x.device)
            pairs = x @ x.transpose(1, 2) / temperature
            positives = pairs[:, apart].view(rows, count, count - 1)
        logits = (queries.flatten(0, 1) @ everyone.flatten(0, 1).T / temperature).view(rows, count, -1, count)
    own = (torch.arange(rows, device=x.device) + rank() * rows).view(rows, 1, 1, 1)
    logits = logits.masked_fill(torch.arange(len(everyone), device=x.device).view(1, 1, -1, 1) == own, float("-inf"))
    negatives = logits.flatten(2)
    found = (positives.detach() > negatives.detach().amax(2, keepdim=True)).to(x.dtype).mean()
    log_shares = positives - torch.logaddexp(positives, _log_sum(negatives))
    if aggregate == "arithmetic":
        return (math.log(count - 1) - log_shares.logsumexp(2)).mean(), found
    return -log_shares.mean(), found


def _log_sum(negatives: Tensor) -> Tensor:
    """The logarithm of the sum of the exponentials of each row, [B, V, 1]; very low where there are no negatives."""
    return negatives.clamp(min=-1e9).logsumexp(2, keepdim=True)  # not -inf, of which the gradient is none
