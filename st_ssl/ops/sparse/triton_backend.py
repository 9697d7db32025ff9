"""Sparse convolution as implicit matrix products in Triton, for CUDA: each program looks up the neighbours of some
outputs and adds up their products, so that neither gathered rows nor products are ever stored. The plain twin is in
``functional``. Imported only where it is asked for.
"""

from __future__ import annotations

from subprocess import CalledProcessError
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from st_ssl.core.errors import MissingLibraryError
from st_ssl.ops.sparse.maps import KernelMap, Links

ROWS, CHANNELS, COLUMNS = 64, 32, 64  # of what a program multiplies at a time
MIN_SIDE = 16  # of a matrix that the hardware multiplies
PROGRAMS = 1024  # enough to keep a GPU busy


class TritonConvolution(torch.autograd.Function):
    """As ``functional``'s: ``features`` [M, C] to [M', C'] over the pairs of ``map``. Raises ``MissingLibraryError``
    where Triton cannot build what it calls the GPU with, which it keeps for later processes."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, map: KernelMap, inverse: bool) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.map, ctx.inverse = map, inverse
        links = map.backward if inverse else map.forward
        try:
            return gather_and_sum(features, weight.flatten(1, 3).permute(1, 2, 0), links)
        except (FileNotFoundError, CalledProcessError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "C compiler" not in str(error):
                raise
            needs = "a C compiler and Python.h: apt-get install gcc python3-dev, or take the backend 'torch'"
            raise MissingLibraryError(f"the backend 'triton' needs {needs}") from error

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        features, weight = ctx.saved_tensors
        links = ctx.map.forward if ctx.inverse else ctx.map.backward
        grad = grad.contiguous()
        back, total = None, None
        if ctx.needs_input_grad[0]:
            back = gather_and_sum(grad, weight.flatten(1, 3).transpose(0, 1), links, ctx.map.mirrored)
        if ctx.needs_input_grad[1]:
            total = sum_weights(grad, features, links)
            total = (total.flip(0) if ctx.map.mirrored else total).transpose(0, 1)
            total = total.reshape(weight.shape).to(weight).contiguous()
        return back, total, None, None


def gather_and_sum(values: Tensor, kernels: Tensor, links: Links, turned: bool = False) -> Tensor:
    """out[t] = sum of values[s] @ kernels[k] over the pairs (s, t, k): [M, C] and [K, C, C'] to [rows, C']. Where
    ``turned``, the kernels are taken in reverse."""
    values, table = values.contiguous(), links.table
    number, rows = table.shape
    _, channels, columns = kernels.shape
    out = values.new_empty(rows, columns)
    if out.numel() == 0:
        return out
    side = _side(COLUMNS, columns)
    _gather_and_sum[triton.cdiv(rows, ROWS), triton.cdiv(columns, side)](
        values,
        kernels,
        table,
        out,
        rows,
        channels,
        columns,
        *kernels.stride(),
        number,
        turned,
        ROWS,
        _side(CHANNELS, channels),
        side,
        _precision(),
    )
    return out


def sum_weights(values: Tensor, other: Tensor, links: Links) -> Tensor:
    """The sums of values[s]^T @ other[t] over the pairs of each offset: [M, C] and [rows, C'] to float32 [K, C, C'].
    Rows are shared out between programs, whose sums are added in a fixed order."""
    values, other, table = values.contiguous(), other.contiguous(), links.table
    number, rows = table.shape
    channels, columns = values.shape[1], other.shape[1]
    high, wide = _side(COLUMNS, channels), _side(COLUMNS, columns)
    tiles = triton.cdiv(channels, high) * triton.cdiv(columns, wide)
    parts = max(1, min(PROGRAMS // (number * tiles), triton.cdiv(rows, 16 * CHANNELS)))
    share = triton.cdiv(triton.cdiv(rows, parts), CHANNELS) * CHANNELS
    totals = torch.zeros(parts, number, channels, columns, device=values.device)
    if rows and totals.numel():
        _sum_weights[number, tiles, parts](
            values, other, table, totals, rows, channels, columns, share, number, CHANNELS, high, wide, _precision()
        )
    return totals.sum(0)


def _side(most: int, size: int) -> int:
    return min(most, max(MIN_SIDE, triton.next_power_of_2(size)))


def _precision() -> str:
    """That of torch's own products of float32."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@triton.jit
def _gather_and_sum(  # type: ignore[no-untyped-def]
    values,
    kernels,
    table,
    out,
    rows,
    channels,
    columns,
    stride_k,
    stride_in,
    stride_out,
    number: tl.constexpr,
    turned: tl.constexpr,
    block_rows: tl.constexpr,
    block_in: tl.constexpr,
    block_out: tl.constexpr,
    precision: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    column = tl.program_id(1) * block_out + tl.arange(0, block_out)
    total = tl.zeros((block_rows, block_out), tl.float32)
    for k in range(number):
        source = tl.load(table + k * rows + row, mask=row < rows, other=-1).to(tl.int64)
        if tl.max(source, 0) >= 0:
            kernel = kernels + ((number - 1 - k) if turned else k) * stride_k
            for first in range(0, channels, block_in):
                channel = first + tl.arange(0, block_in)
                known = (source[:, None] >= 0) & (channel[None, :] < channels)
                left = tl.load(values + source[:, None] * channels + channel[None, :], mask=known, other=0.0)
                within = (channel[:, None] < channels) & (column[None, :] < columns)
                place = channel[:, None] * stride_in + column[None, :] * stride_out
                right = tl.load(kernel + place, mask=within, other=0.0)
                total = tl.dot(left, right, total, input_precision=precision)
    kept = (row[:, None] < rows) & (column[None, :] < columns)
    tl.store(out + row[:, None] * columns + column[None, :], total.to(out.dtype.element_ty), mask=kept)


@triton.jit
def _sum_weights(  # type: ignore[no-untyped-def]
    values,
    other,
    table,
    totals,
    rows,
    channels,
    columns,
    share,
    number: tl.constexpr,
    block_rows: tl.constexpr,
    block_in: tl.constexpr,
    block_out: tl.constexpr,
    precision: tl.constexpr,
):
    k, tile, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    across = tl.cdiv(columns, block_out)
    channel = tile // across * block_in + tl.arange(0, block_in)
    column = tile % across * block_out + tl.arange(0, block_out)
    total = tl.zeros((block_in, block_out), tl.float32)
    for first in range(part * share, tl.minimum(part * share + share, rows), block_rows):
        row = (first + tl.arange(0, block_rows)).to(tl.int64)
        source = tl.load(table + k * rows + row, mask=row < rows, other=-1).to(tl.int64)
        if tl.max(source, 0) >= 0:
            known = (source >= 0)[None, :] & (channel[:, None] < channels)
            left = tl.load(values + source[None, :] * channels + channel[:, None], mask=known, other=0.0)
            within = (source >= 0)[:, None] & (column[None, :] < columns)
            right = tl.load(other + row[:, None] * columns + column[None, :], mask=within, other=0.0)
            total = tl.dot(left, right, total, input_precision=precision)
    kept = (channel[:, None] < channels) & (column[None, :] < columns)
    place = ((part * number + k) * channels + channel[:, None]) * columns + column[None, :]
    tl.store(totals + place, total, mask=kept)
