"""Contrast: pull the views of one sample together, push those of others away."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from st_ssl.distributed import gather_with_gradient, rank, world_size


def _unit(x: Tensor) -> Tensor:
    """Rows of length 1, in at least float32."""
    return normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1)


def _logits(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Their products, in their own precision also under autocast: in bfloat16 the gradient is off by a per cent."""
    with torch.autocast(queries.device.type, enabled=False):
        return queries @ keys.T / temperature


def info_nce(first: Tensor, second: Tensor, temperature: float = 0.1) -> tuple[Tensor, Tensor]:
    """InfoNCE between two views, NT-Xent form (SimCLR 2020; CVRL 2021).

    ``first`` and ``second`` [B, D] are embeddings of the two views of the same samples, row by row. Each of the 2B
    rows must find its other view among all views of all processes but itself: one positive, 2 (B × world − 1)
    negatives. Embeddings are normalised here, logits are taken in at least float32.

    Returns the mean loss over this process's rows, and the share of rows whose positive ranks first. Averaging the
    gradients over processes (as DDP does) gives those of one process with the whole batch.
    """
    assert first.shape == second.shape, (first.shape, second.shape)
    first, second = _unit(first), _unit(second)
    rows = len(first)
    all_first, all_second = gather_with_gradient(first), gather_with_gradient(second)
    logits = _logits(torch.cat([first, second]), torch.cat([all_first, all_second]), temperature)
    own = torch.arange(rows, device=first.device) + rank() * rows
    other = own + len(all_first)
    itself, positive = torch.cat([own, other]), torch.cat([other, own])
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    accuracy = (logits.detach().argmax(1) == positive).float().mean()
    return cross_entropy(logits, positive), accuracy


def point_info_nce(first: Tensor, second: Tensor, valid: Tensor, temperature: float = 0.4) -> tuple[Tensor, Tensor]:
    """PointInfoNCE (PointContrast, Xie et al. 2020): each point of the first view must find its match in the second.

    Row by row ``first`` and ``second`` [N, D] are features of matched points; rows where ``valid`` bool [N] is false
    are padding, neither asked nor found. The negatives of a row are the matches of all other rows of all processes;
    points of its own view are none. Features are normalised here, logits are taken in at least float32.

    Returns the loss and the share of rows that find their match, both taken so that their mean over processes is the
    mean over all valid rows (0 where there are none).
    """
    assert first.shape == second.shape, (first.shape, second.shape)
    first, second = _unit(first), _unit(second)
    dtype = first.dtype
    keys, known = gather_with_gradient(second), gather_with_gradient(valid.to(dtype))
    own = torch.arange(len(first), device=first.device) + rank() * len(first)
    logits = _logits(first, keys, temperature).masked_fill(known[None] == 0, float("-inf"))
    logits = logits.scatter(1, own[:, None], (first * second).sum(1, keepdim=True) / temperature)  # finite for padding
    share = valid.to(dtype) * world_size() / known.sum().clamp(min=1)
    found = (logits.detach().argmax(1) == own).to(dtype)
    return (cross_entropy(logits, own, reduction="none") * share).sum(), (found * share).sum()
