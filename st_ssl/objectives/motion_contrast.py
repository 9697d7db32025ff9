"""Contrast with a negative of the same sample that shows the same scene in other motion (DSM, Wang et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, triplet_margin_loss

from st_ssl.training.distributed import gather_with_gradient, rank


def queue_contrast(
    query: Tensor, key: Tensor, negative: Tensor, queue: Tensor, temperature: float = 0.07
) -> tuple[Tensor, Tensor]:
    """InfoNCE in which each query must find its key among its own ``negative`` and all keys of the ``queue``.

    ``query``, ``key`` and ``negative`` [B, D] are of length 1 and belong together row by row, ``queue`` [K, D] are keys
    of earlier batches. Returns the mean loss and the share of queries whose key ranks first.
    """
    with torch.autocast(query.device.type, enabled=False):  # in bfloat16 the gradient is off by a per cent
        own = torch.stack([(query * key).sum(1), (query * negative).sum(1)], 1)
        logits = torch.cat([own, query @ queue.T], 1) / temperature
    found = (logits.detach().argmax(1) == 0).to(logits.dtype)
    return cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)), found.mean()


def double_triplet(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.5) -> Tensor:
    """The triplet loss with each anchor's own negative, plus that with the negative of another sample.

    All are [B, D], row by row. A term is max(0, ``margin`` + |anchor - positive| - |anchor - negative|) in Euclidean
    distances, 1e-6 added to each difference. The other negatives are those of the whole batch, of all processes, in
    reverse order. The mean over processes is that of one process with the whole batch.
    """
    own = slice(rank() * len(anchor), (rank() + 1) * len(anchor))
    others = gather_with_gradient(negative).flip(0)[own]
    first, second = (triplet_margin_loss(anchor, positive, other, margin) for other in (negative, others))
    return first + second
