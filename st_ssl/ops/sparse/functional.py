"""Sparse convolution and pooling in plain torch: gather, small matrix products, and sums over the pairs of a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        kernels = [kernel.T for kernel in weight.flatten(1, 3).unbind(1)]  # K of [C, C']
        return _gather_and_sum(features, kernels, map.backward if inverse else map.forward)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """The output's gradient [M', C'] to those of the features [M, C] and of the weights, where asked for."""
        features, weight = ctx.saved_tensors
        map = ctx.map
        links = map.forward if ctx.inverse else map.backward
        # The offset back is the opposite one.
        turn = -1 if map.mirrored else 1
        kernels = weight.flatten(1, 3).unbind(1)[::turn]  # K of [C', C]
        grad = grad.contiguous()
        back, total = None, None
        totals: tuple[Tensor, ...] = ()
        if ctx.needs_input_grad[1]:
            total = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
            totals = total.flatten(1, 3).unbind(1)[::turn]
        if ctx.needs_input_grad[0]:
            back = _gather_and_sum(grad, kernels, links, features if totals else None, totals)
        elif totals:
            _sum_weights(grad, links, features, totals)
        return back, None if total is None else total.to(weight.dtype), None, None


def _blocks(links: Links) -> Iterator[tuple[int, slice, list[int]]]:
    """First row, pairs and counts by offset of each block."""
    start = 0
    for number, counts in enumerate(links.counts):
        size = sum(counts)
        yield number * links.block, slice(start, start + size), counts
        start += size


def _gather_and_sum(
    values: Tensor,
    kernels: Sequence[Tensor],
    links: Links,
    other: Tensor | None = None,
    totals: Sequence[Tensor] = (),
) -> Tensor:
    """out[t] = sum of values[s] @ kernels[k] over the pairs (s, t, k): [M, C] and K of [C, C'] to [rows, C'].

    With ``other`` [rows, C'], values[s]^T @ other[t] is added to ``totals`` [C, C'] on the way.
    """
    width = kernels[0].shape[1]
    out = values.new_empty(links.rows, width)
    most = max((sum(counts) for counts in links.counts), default=0)
    gathered, products = values.new_empty(most, values.shape[1]), values.new_empty(most, width)
    others = None if other is None else other.new_empty(most, other.shape[1])
    for row, pairs, counts in _blocks(links):
        size = pairs.stop - pairs.start
        rows, results = gathered[:size], products[:size]
        torch.index_select(values, 0, links.source[pairs], out=rows)
        for part, kernel, result in zip(rows.split(counts), kernels, results.split(counts), strict=True):
            torch.mm(part, kernel, out=result)
        if other is not None and others is not None:
            torch.index_select(other, 0, links.target[pairs], out=others[:size])
            _add_products(totals, rows, others[:size], counts)
        last = min(row + links.block, links.rows)
        starts = links.bag_start[row : last + 1] - pairs.start
        out[row:last] = embedding_bag(links.bag[pairs], results, starts, mode="sum", include_last_offset=True)
    return out


def _sum_weights(grad: Tensor, links: Links, features: Tensor, totals: Sequence[Tensor]) -> None:
    """``_gather_and_sum`` for ``totals`` alone."""
    for _, pairs, counts in _blocks(links):
        rows = grad.index_select(0, links.source[pairs])
        others = features.index_select(0, links.target[pairs])
        _add_products(totals, rows, others, counts)


def _add_products(totals: Sequence[Tensor], left: Tensor, right: Tensor, counts: list[int]) -> None:
    """totals[k] += left[k]^T @ right[k], of ``counts[k]`` rows each."""
    for sum, a, b in zip(totals, left.T.split(counts, 1), right.split(counts), strict=True):
        if sum.dtype == a.dtype:
            torch.addmm(sum, a, b, out=sum)
        else:  # half precision is added up in float32
            sum += a @ b
