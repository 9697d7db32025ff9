"""Sparse convolution and pooling in plain torch: gather, small matrix products, and sums over the pairs of a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from st_ssl.ops.sparse.maps import KernelMap, Links


def convolve(features: Tensor, weight: Tensor, map: KernelMap, inverse: bool = False) -> Tensor:
    """``features`` [M, C] to [M', C'] with ``weight`` [C', kx, ky, kz, C] over the pairs of ``map``; where ``inverse``,
    from its outputs back to its inputs. Differentiable in both, and keeps neither gathered rows nor products."""
    if map.order is not None and not inverse:
        features = features.index_select(0, map.order)
    out: Tensor = _Convolution.apply(features, weight.to(features.dtype), map, inverse)
    if map.order is not None and (inverse or map.mirrored):
        out = torch.empty_like(out).index_copy(0, map.order, out)
    return out


def pool(features: Tensor, map: KernelMap, mode: Literal["max", "mean"]) -> Tensor:
    """``features`` [M, C] to [M', C], the ``max`` or ``mean`` over the inputs of each output of ``map``."""
    links = map.forward
    features = features if map.order is None else features.index_select(0, map.order)
    return embedding_bag(links.sources(), features, links.bag_start, mode=mode, include_last_offset=True)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, map: KernelMap, inverse: bool) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.map, ctx.inverse = map, inverse
        kernels = weight.flatten(1, 3).permute(1, 2, 0).contiguous()  # [K, C, C']
        return _gather_and_sum(features, kernels, map.backward if inverse else map.forward)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        features, weight = ctx.saved_tensors
        map = ctx.map
        links = map.forward if ctx.inverse else map.backward
        kernels = weight.flatten(1, 3).transpose(0, 1)  # [K, C', C]
        kernels = (kernels.flip(0) if map.mirrored else kernels).contiguous()
        grad = grad.contiguous()
        back, total = None, None
        if ctx.needs_input_grad[1]:
            total = torch.zeros_like(kernels, dtype=torch.promote_types(kernels.dtype, torch.float32))
        if ctx.needs_input_grad[0]:
            back = _gather_and_sum(grad, kernels, links, features, total)
        elif total is not None:
            _sum_weights(grad, links, features, total)
        if total is not None:
            total = (total.flip(0) if map.mirrored else total).transpose(0, 1).reshape(weight.shape).to(weight.dtype)
        return back, total, None, None


def _blocks(links: Links) -> Iterator[tuple[int, slice, list[int]]]:
    """First row, pairs and counts by offset of each block."""
    start = 0
    for number, counts in enumerate(links.counts):
        size = sum(counts)
        yield number * links.block, slice(start, start + size), counts
        start += size


def _gather_and_sum(
    values: Tensor, kernels: Tensor, links: Links, other: Tensor | None = None, total: Tensor | None = None
) -> Tensor:
    """out[t] = sum of values[s] @ kernels[k] over the pairs (s, t, k): [M, C] and [K, C, C'] to [rows, C'].

    With ``total`` [K, C, C'] and ``other`` [rows, C'], values[s]^T @ other[t] is added to it on the way.
    """
    out = values.new_empty(links.rows, kernels.shape[2])
    most = max((sum(counts) for counts in links.counts), default=0)
    gathered, products = values.new_empty(most, values.shape[1]), values.new_empty(most, kernels.shape[2])
    others = None if other is None or total is None else other.new_empty(most, other.shape[1])
    each = kernels.unbind()
    for row, pairs, counts in _blocks(links):
        size = pairs.stop - pairs.start
        rows, results = gathered[:size], products[:size]
        torch.index_select(values, 0, links.source[pairs], out=rows)
        for part, kernel, result in zip(rows.split(counts), each, results.split(counts), strict=True):
            torch.mm(part, kernel, out=result)
        if total is not None and other is not None and others is not None:
            torch.index_select(other, 0, links.target[pairs], out=others[:size])
            _add_products(total, rows, others[:size], counts)
        last = min(row + links.block, links.rows)
        starts = links.bag_start[row : last + 1] - pairs.start
        out[row:last] = embedding_bag(links.bag[pairs], results, starts, mode="sum", include_last_offset=True)
    return out


def _sum_weights(grad: Tensor, links: Links, features: Tensor, total: Tensor) -> None:
    """``_gather_and_sum`` for ``total`` alone."""
    for _, pairs, counts in _blocks(links):
        rows = grad.index_select(0, links.source[pairs])
        others = features.index_select(0, links.target[pairs])
        _add_products(total, rows, others, counts)


def _add_products(total: Tensor, left: Tensor, right: Tensor, counts: list[int]) -> None:
    """total[k] += left[k]^T @ right[k], of ``counts[k]`` rows each."""
    for sum, a, b in zip(total.unbind(), left.T.split(counts, 1), right.split(counts), strict=True):
        if sum.dtype == a.dtype:
            torch.addmm(sum, a, b, out=sum)
        else:  # half precision is added up in float32
            sum += a @ b
