"""Neighbour maps: which voxel meets which under every offset of a kernel, laid out for products of small matrices.

Keys of sorted voxels stay sorted when an offset is added to them, so that neighbours are found by binary searches that
move through memory once, and the pairs of an offset come out sorted on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from st_ssl.ops.sparse.tensor import Size, coords_of_keys, keys_of_coords

BLOCK = {"cpu": 4096}
LARGE_BLOCK = 1 << 17
"""Rows that are computed at a time: what a block gathers should stay in the cache of a core, or keep a GPU busy."""

Pairs = list[tuple[Tensor, Tensor]]
"""For each of the K offsets the rows (source, target), int64, both ascending."""


@dataclass
class Links:
    """The pairs of a map as its targets need them: block by block of targets, within a block offset by offset.

    ``source`` and ``target`` int32 [n] are the rows of each pair; ``counts`` [blocks][K] how many pairs each offset has
    in each block. ``bag`` int32 [n] lists for each target row the places of its pairs within its block, from
    ``bag_start[row]`` on (int32 [rows + 1]).
    """

    source: Tensor
    target: Tensor
    counts: list[list[int]]
    bag: Tensor
    bag_start: Tensor
    block: int

    @property
    def rows(self) -> int:
        """Targets."""
        return len(self.bag_start) - 1

    def sources(self) -> Tensor:
        """The sources of all targets in turn, as ``bag_start`` divides them: int32 [n]."""
        sizes = torch.tensor([sum(row) for row in self.counts], device=self.bag.device)
        start = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
        return self.source.index_select(0, self.bag + start)


@dataclass
class KernelMap:
    """One convolution's geometry. ``forward`` leads from inputs to outputs and ``backward`` from outputs to inputs;
    for submanifold maps (``mirrored``) these are the same links, with the offsets of the kernel in reverse."""

    kernel: Size
    forward: Links
    backward: Links
    coords: tuple[Tensor, Tensor]
    shapes: tuple[Size, Size]
    mirrored: bool = False
    dilation: int = 1
    order: Tensor | None = None
    """int64 [M]: where inputs were not sorted, the rows in the order that the links count them in."""


def arrange(pairs: Pairs, rows: int, device: torch.device) -> Links:
    """``pairs`` laid out for ``rows`` targets."""
    block = BLOCK.get(device.type, LARGE_BLOCK)
    edges = torch.arange(0, rows + block, block, device=device)[: -(-rows // block) + 1]
    counts = torch.stack([torch.searchsorted(target, edges) for _, target in pairs], 1).diff(dim=0)  # [blocks, K]
    sizes = counts.tolist()

    def by_block(values: list[Tensor]) -> Tensor:
        parts = [v.int().split([row[k] for row in sizes]) for k, v in enumerate(values)] if sizes else []
        return torch.cat([parts[k][b] for b in range(len(sizes)) for k in range(len(parts))] or [edges[:0].int()])

    source, target = by_block([s for s, _ in pairs]), by_block([t for _, t in pairs])
    per_row = torch.zeros(rows + 1, dtype=torch.int64, device=device)
    for _, rows_of_k in pairs:
        per_row.scatter_add_(0, rows_of_k + 1, torch.ones_like(rows_of_k))
    bag_start = per_row.cumsum_(0)
    bag, slot = torch.empty_like(source), bag_start.clone()
    # Where the pairs of an offset begin within each block, less those of the blocks before
    shift = counts.cumsum(1) - counts - (counts.cumsum(0) - counts)
    for k, (_, rows_of_k) in enumerate(pairs):  # an offset has at most one pair a target
        place = torch.arange(len(rows_of_k), device=device) + torch.repeat_interleave(shift[:, k], counts[:, k])
        here = slot.index_select(0, rows_of_k)
        bag.scatter_(0, here, place.int())
        slot.scatter_(0, rows_of_k, here + 1)
    return Links(source, target, sizes, bag, bag_start.int(), block)


def _search(ordered: Tensor, values: Tensor) -> Tensor:
    """``searchsorted`` of ascending values: numpy's starts each search where the last one ended."""
    if ordered.is_cuda:
        return torch.searchsorted(ordered, values)
    return torch.from_numpy(np.searchsorted(ordered.numpy(), values.numpy()))


def _rows(mask: Tensor) -> Tensor:
    """Where ``mask`` bool [M] holds: int64, ascending. Numpy is several times as fast here."""
    return mask.nonzero().squeeze(1) if mask.is_cuda else torch.from_numpy(np.flatnonzero(mask.numpy()))


def submanifold_map(coords: Tensor, shape: Size, kernel: Size, dilation: int = 1) -> KernelMap:
    """Outputs are the inputs (Graham and van der Maaten 2017). ``kernel`` is odd; offsets count as the kernel does,
    z fastest, from -dilation * (kernel // 2) on."""
    margin = max(kernel) // 2 * dilation
    keys = keys_of_coords(coords, shape, margin)
    order = None
    if not bool((keys[1:] > keys[:-1]).all()):
        keys, order = keys.sort()
    step_y = shape[2] + 2 * margin
    step_x = step_y * (shape[1] + 2 * margin)
    rows = torch.arange(len(keys), device=keys.device)
    ended = torch.cat([keys, keys.new_full((1,), torch.iinfo(torch.int64).max)])  # what is not found is found here
    half: Pairs = []
    for dx, dy in product(*(range(-(k // 2), k // 2 + 1) for k in kernel[:2])):
        if (dx, dy) > (0, 0):
            column = keys + (dx * step_x + dy * step_y - kernel[2] // 2) * dilation
            half.extend(_column(ended, column, kernel[2], dilation))
    above = [_found(ended, keys + dz * dilation, rows, dz * dilation) for dz in range(1, kernel[2] // 2 + 1)]
    half = above + half
    pairs = [(target, source) for source, target in reversed(half)] + [(rows, rows)] + half
    links = arrange(pairs, len(keys), keys.device)
    return KernelMap(kernel, links, links, (coords, coords), (shape, shape), True, dilation, order)


def _column(ended: Tensor, keys: Tensor, height: int, dilation: int) -> Pairs:
    """The pairs of the ``height`` offsets from ``keys`` upwards: one search, and then steps to the next voxel."""
    pairs = []
    for dz in range(height):
        if dz == 0 or dilation > 1:
            place = _search(ended, keys)
        found = ended.index_select(0, place) == keys
        target = _rows(found)
        pairs.append((place.index_select(0, target), target))
        place = place + found
        keys = keys + dilation
    return pairs


def _found(ended: Tensor, keys: Tensor, rows: Tensor, furthest: int) -> tuple[Tensor, Tensor]:
    """The pairs of voxels with those in the same column ``furthest`` cells above, which is at most as many rows on."""
    place = rows + 1 if furthest == 1 else _search(ended, keys)
    target = _rows(ended.index_select(0, place) == keys)
    return place.index_select(0, target), target


def strided_map(
    coords: Tensor, shape: Size, kernel: Size, stride: Size, padding: Size, dilation: int, transposed: bool = False
) -> KernelMap:
    """Outputs are all cells that an input reaches. Input i and offset k meet the output o where
    o · stride - padding + k · dilation = i; where ``transposed``, the output i from the input o."""
    if transposed:
        out = tuple((n - 1) * s - 2 * p + k for n, s, p, k in zip(shape, stride, padding, kernel, strict=True))
    else:
        spans = [dilation * (k - 1) + 1 for k in kernel]
        out = tuple((n + 2 * p - w) // s + 1 for n, p, w, s in zip(shape, padding, spans, stride, strict=True))
    if min(out) < 1:
        raise ValueError(f"a grid of {shape} is too small for kernel {kernel}, stride {stride}, padding {padding}")
    keys = keys_of_coords(coords, shape)
    order = None
    if not bool((keys[1:] > keys[:-1]).all()):
        order = keys.argsort()
    ordered = coords if order is None else coords[order]
    places, valid = [], []
    for axis in range(3):
        p = ordered[:, axis + 1].long()
        moved = torch.arange(kernel[axis], device=p.device)[:, None] * dilation - padding[axis]
        at = p * stride[axis] + moved if transposed else p - moved  # [k, M]
        ok = torch.ones_like(at, dtype=torch.bool) if transposed else at % stride[axis] == 0
        at = at if transposed else at.div(stride[axis], rounding_mode="floor")
        places.append(at)
        valid.append(ok & (at >= 0) & (at < out[axis]))
    sources, cells = [], []
    for kx, ky, kz in product(*map(range, kernel)):
        source = _rows(valid[0][kx] & valid[1][ky] & valid[2][kz])
        cell = ordered[source, 0].long()
        for axis, k in enumerate((kx, ky, kz)):
            cell = cell * out[axis] + places[axis][k].index_select(0, source)
        sources.append(source)
        cells.append(cell)
    reached, place = torch.unique(torch.cat(cells), return_inverse=True)
    targets = place.split([len(s) for s in sources])
    pairs = list(zip(sources, targets, strict=True))
    size = (out[0], out[1], out[2])
    return KernelMap(
        kernel,
        arrange(pairs, len(reached), keys.device),
        arrange([(t, s) for s, t in pairs], len(keys), keys.device),
        (coords, coords_of_keys(reached, size)),
        (shape, size),
        dilation=dilation,
        order=order,
    )
