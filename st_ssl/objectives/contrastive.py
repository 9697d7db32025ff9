"""Contrast: pull the views of one sample together, push those of others away."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, softplus

from st_ssl.training.distributed import gather_rows, gather_with_gradient, rank, world_size


def _unit(x: Tensor) -> Tensor:
    """Rows of length 1, in at least float32."""
    return normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1)


def _logits(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Their products, in their own precision also under autocast: in bfloat16 the gradient is off by a per cent."""
    with torch.autocast(queries.device.type, enabled=False):
        return queries @ keys.T / temperature


def info_nce(
    first: Tensor, second: Tensor, temperature: float = 0.1, alike: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """InfoNCE between two views, NT-Xent form (SimCLR 2020; CVRL 2021).

    ``first`` and ``second`` [B, D] are embeddings of the two views of the same samples, row by row. Each of the 2B
    rows must find its other view among all views of all processes but itself: one positive, 2 (B × world − 1)
    negatives. ``alike`` int64 [B]: samples of one number are no negatives of each other (UberNCE of CoCLR, Han et al.
    2020, with one positive). Embeddings are normalised here, logits are taken in at least float32.

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
    hidden = torch.zeros_like(logits, dtype=torch.bool).scatter(1, itself[:, None], True)
    if alike is not None:
        hidden |= alike.repeat(2)[:, None] == gather_rows(alike).repeat(2)[None]
        hidden = hidden.scatter(1, positive[:, None], False)
    logits = logits.masked_fill(hidden, float("-inf"))
    accuracy = (logits.detach().argmax(1) == positive).float().mean()
    return cross_entropy(logits, positive), accuracy


Negatives = Literal["all", "process"]


def point_info_nce(
    first: Tensor, second: Tensor, valid: Tensor, temperature: float = 0.4, negatives: Negatives = "all"
) -> tuple[Tensor, Tensor]:
    """PointInfoNCE (PointContrast, Xie et al. 2020): each point of the first view must find its match in the second.

    Row by row ``first`` and ``second`` [N, D] are features of matched points; rows where ``valid`` bool [N] is false
    are padding, neither asked nor found. The negatives of a row are the matches of all other rows, of ``all`` processes
    or of its own ``process`` alone; points of its own view are none. Features are normalised here, logits are taken in
    at least float32.

    Returns the loss and the share of rows that find their match, both taken so that their mean over processes is the
    mean over all valid rows (0 where there are none). With ``process`` they are means over the rows of this process.
    """
    assert first.shape == second.shape, (first.shape, second.shape)
    first, second = _unit(first), _unit(second)
    dtype = first.dtype
    keys, known, own = second, valid.to(dtype), torch.arange(len(first), device=first.device)
    processes = 1
    if negatives == "all":
        keys, known, own = gather_with_gradient(keys), gather_with_gradient(known), own + rank() * len(first)
        processes = world_size()
    logits = _logits(first, keys, temperature).masked_fill(known[None] == 0, float("-inf"))
    logits = logits.scatter(1, own[:, None], (first * second).sum(1, keepdim=True) / temperature)  # finite for padding
    share = valid.to(dtype) * processes / known.sum().clamp(min=1)
    found = (logits.detach().argmax(1) == own).to(dtype)
    return (cross_entropy(logits, own, reduction="none") * share).sum(), (found * share).sum()


def region_info_nce(
    first: Tensor, second: Tensor, valid: tuple[Tensor, Tensor], anchors: Tensor, temperature: float = 0.4
) -> tuple[Tensor, Tensor]:
    """Regional grouping contrast (FAC, Liu et al. 2023): a point must find all points of its segment in the other view.

    ``first`` and ``second`` [G, R, D] are features of R points of each of G segments in two views, in no order, of
    which ``valid`` bool [G, R] each are there. The points of the first view in the segments ``anchors`` bool [G] ask.
    For such a point i, the points P of its segment in the second view, the points N of all other segments there, of all
    processes, and s the products of the normalised features over ``temperature``,

        loss_i = mean over j in P of  -log( exp s_ij / (exp s_ij + sum over k in N of exp s_ik) ),

    so that points of one segment do not compete. Points without a P do not ask. Logits are in at least float32.

    Returns the loss and the share of points whose nearest in the second view is of their segment, both taken so that
    their mean over processes is the mean over all points that ask (0 where there are none).
    """
    assert first.shape == second.shape, (first.shape, second.shape)
    groups, points, _ = first.shape
    asking = valid[0] & (anchors & valid[1].any(1))[:, None]
    first, second = _unit(first.flatten(0, 1)), _unit(second.flatten(0, 1))
    keys, known = gather_with_gradient(second), gather_with_gradient(valid[1].flatten().to(first.dtype))
    queries = first.view(groups, points, -1)[anchors].flatten(0, 1)
    own = anchors.nonzero().repeat_interleave(points, dim=0) + rank() * groups
    group = torch.arange(len(keys), device=keys.device).div(points, rounding_mode="floor")
    logits = _logits(queries, keys, temperature)
    others = _log_sum(logits, (group != own) & (known != 0))
    positive = logits.gather(1, own * points + torch.arange(points, device=own.device))
    there = valid[1][anchors].repeat_interleave(points, dim=0).to(first.dtype)
    loss = (softplus(others[:, None] - positive) * there).sum(1) / there.sum(1).clamp(min=1)
    best = logits.detach().masked_fill(known == 0, float("-inf")).argmax(1)
    found = (group[best] == own.squeeze(1)).to(first.dtype)
    share = _shares(asking[anchors].flatten(), first.dtype)
    return (loss * share).sum(), (found * share).sum()


def foreground_info_nce(
    first: Tensor,
    second: Tensor,
    valid: Tensor,
    background: Tensor,
    known: Tensor,
    temperature: float = 0.4,
) -> Tensor:
    """Foreground against background (FAC, Liu et al. 2023): a segment must look the same in two views, and not like the
    background; other foreground may look as it likes, for it may be of the same class.

    Row by row ``first`` and ``second`` [N, D] are features of the same foreground segment, where ``valid`` bool [N];
    ``background`` [M, D] are those of background segments, where ``known`` bool [M]. With s_i the product of the two
    normalised features of a row over ``temperature``, and s_ik that of the first with background k, of all processes,

        loss_i = -log( exp s_i / (exp s_i + sum over k of exp s_ik) ).

    Returns the loss, taken so that its mean over processes is the mean over all
    valid rows (0 where there are none).
    """
    assert first.shape == second.shape, (first.shape, second.shape)
    first, second, background = _unit(first), _unit(second), _unit(background)
    keys, there = gather_with_gradient(background), gather_with_gradient(known.to(first.dtype))
    others = _log_sum(_logits(first, keys, temperature), (there != 0).expand(len(first), -1))
    loss = softplus(others - (first * second).sum(1) / temperature)
    return (loss * _shares(valid, loss.dtype)).sum()


def _log_sum(logits: Tensor, chosen: Tensor) -> Tensor:
    """The logarithm of the sum of the exponentials of the ``chosen`` of each row, very low where there are none."""
    return logits.masked_fill(~chosen, -1e9).logsumexp(1)  # not -inf, of which the gradient is none


def _shares(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """What each row weighs, for the mean over processes of weighted sums to be the mean over all valid rows."""
    weight = valid.to(dtype)
    total = gather_with_gradient(weight.sum()[None]).sum()
    return weight * world_size() / total.clamp(min=1)
