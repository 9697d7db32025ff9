"""Contrast against a memory: a query must tell its key from those of a queue."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from st_ssl.training.distributed import gather_rows, rank


def queue_info_nce(
    queries: Tensor, keys: Tensor, queue: Tensor, temperature: float = 0.2, in_batch: bool = False
) -> tuple[Tensor, Tensor]:
    """InfoNCE of MoCo (He et al. 2020): each query must find its key among past keys.

    ``queries`` and ``keys`` [B, D] belong together row by row; ``queue`` [K, D], of length 1, holds the negatives. With
    ``in_batch`` the keys of the other rows of all processes are negatives too. Queries and keys are normalised here,
    logits are taken in at least float32. Keys and queue get no gradient.

    Returns the mean loss over this process's rows, and the share of rows whose own key ranks first. Averaging the
    gradients over processes gives those of one process with the whole batch.
    """
    assert queries.shape == keys.shape, (queries.shape, keys.shape)
    queries, keys = (normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1) for x in (queries, keys))
    keys, queue = keys.detach(), queue.detach().to(queries.dtype)
    with torch.autocast(queries.device.type, enabled=False):  # in bfloat16 the gradient is off by a per cent
        if in_batch:
            logits = queries @ torch.cat([gather_rows(keys), queue]).T
            own = torch.arange(len(queries), device=queries.device) + rank() * len(queries)
        else:
            logits = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ queue.T], 1)
            own = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        logits = logits / temperature
    accuracy = (logits.detach().argmax(1) == own).float().mean()
    return cross_entropy(logits, own), accuracy
