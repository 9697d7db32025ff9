"""Sparse convolution and pooling in plain torch: gather, small matrix products, and sums over the pairs of a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from st_ssl.ops.sparse.maps import KernelMap, Links

CACHED = 1 << 17
"""Numbers that are gathered at a time: products take them from the cache of a core, and most offsets fill it alone."""
NARROW = 16
"""Up to so many channels, gradients of weights add up several times as fast along the other axis."""


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
            total = _zeros_like(weight)
            totals = total.unbind(1)[::turn]
        if ctx.needs_input_grad[0]:
            back = _gather_and_sum(grad, kernels, links, features if totals else None, totals)
        elif totals:
            _sum_weights(grad, links, features, totals)
        return back, None if total is None else total.reshape(weight.shape).to(weight).contiguous(), None, None


def _zeros_like(weight: Tensor) -> Tensor:
    """Where the gradient of ``weight`` [C', kx, ky, kz, C] adds up: [C', K, C], in single precision at least."""
    weight = weight.flatten(1, 3)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    if weight.shape[2] < NARROW:
        return torch.zeros_like(weight.permute(1, 2, 0).contiguous(), dtype=dtype).permute(2, 0, 1)
    return torch.zeros_like(weight, dtype=dtype)


def _blocks(links: Links) -> Iterator[tuple[int, slice, list[int]]]:
    """First row, pairs and counts by offset of each block."""
    start = 0
    for number, counts in enumerate(links.counts):
        size = sum(counts)
        yield number * links.block, slice(start, start + size), counts
        start += size


def _chunks(counts: list[int], most: int) -> Iterator[tuple[slice, slice]]:
    """Offsets of a block and their pairs within it: as many offsets at a time as have ``most`` pairs, at least one."""
    first, start, end = 0, 0, 0
    for offset, count in enumerate(counts):
        if offset > first and end + count - start > most:
            yield slice(first, offset), slice(start, end)
            first, start = offset, end
        end += count
    yield slice(first, len(counts)), slice(start, end)


class _Rows:
    """Gathers rows into one buffer, which stays in the cache."""

    def __init__(self, values: Tensor, links: Links, most: int) -> None:
        self.values = values
        widest = max((max(counts) for counts in links.counts), default=0)
        self.buffer = values.new_empty(max(widest, most), values.shape[1])

    def __call__(self, index: Tensor) -> Tensor:
        return torch.index_select(self.values, 0, index, out=self.buffer[: len(index)])


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
    most = CACHED // max(width, values.shape[1])
    products = values.new_empty(max((sum(counts) for counts in links.counts), default=0), width)
    gather, gather_other = _Rows(values, links, most), None if other is None else _Rows(other, links, most)
    for row, pairs, counts in _blocks(links):
        source, target = links.source[pairs], links.target[pairs]
        results = products[: len(source)]
        for offsets, part in _chunks(counts, most):
            rows, sizes = gather(source[part]), counts[offsets]
            lefts, outs = rows.split_with_sizes(sizes), results[part].split_with_sizes(sizes)
            for left, kernel, result in zip(lefts, kernels[offsets], outs, strict=True):
                torch.mm(left, kernel, out=result)
            if gather_other is not None:
                _add_products(totals[offsets], rows, gather_other(target[part]), sizes)
        last = min(row + links.block, links.rows)
        starts = links.bag_start[row : last + 1] - pairs.start
        out[row:last] = embedding_bag(links.bag[pairs], results, starts, mode="sum", include_last_offset=True)
    return out


def _sum_weights(grad: Tensor, links: Links, features: Tensor, totals: Sequence[Tensor]) -> None:
    """``_gather_and_sum`` for ``totals`` alone."""
    most = CACHED // max(grad.shape[1], features.shape[1])
    gather, gather_other = _Rows(grad, links, most), _Rows(features, links, most)
    for _, pairs, counts in _blocks(links):
        source, target = links.source[pairs], links.target[pairs]
        for offsets, part in _chunks(counts, most):
            _add_products(totals[offsets], gather(source[part]), gather_other(target[part]), counts[offsets])


def _add_products(totals: Sequence[Tensor], left: Tensor, right: Tensor, counts: list[int]) -> None:
    """totals[k] += left[k]^T @ right[k], of ``counts[k]`` rows each."""
    for sum, a, b in zip(totals, left.T.split_with_sizes(counts, 1), right.split_with_sizes(counts), strict=True):
        if sum.dtype == a.dtype:
            torch.addmm(sum, a, b, out=sum)
        else:  # half precision is added up in float32
            sum += a @ b
