"""Neighbours of points: the nearest, those within a ball, and the values that they carry."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from st_ssl.ops.checks import as_float, check_offsets, check_points

# Floats of the largest intermediate: what is compared at once stays in a cache on a CPU, and small on a GPU.
CHUNK = {"cpu": 1 << 17, "cuda": 1 << 26}
# From so many queries of a cloud and pairs with its points on, a tree on a CPU is quicker than comparing them all.
MIN_QUERIES_FOR_TREE, MIN_PAIRS_FOR_TREE = 64, 1 << 18
# Up to so many coordinates, distances are sums of squared differences; above, matrix products.
MAX_PLAIN_WIDTH = 4
HIGH = int(sys.byteorder == "little")  # which half of an int64 counts more


@torch.no_grad()
def nearest(query: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` points nearest to each query, nearest first; a query that is a point finds itself.

    ``query`` [B, Q, D], ``points`` [B, N, D], D = 3 in space (more is possible: features). Returns the squared
    distances [B, Q, k], in squares of the input's unit, and the indices int64 [B, Q, k]; no gradients. Exact for D up
    to 4; wider rows are ranked by matrix products. Which of points equally far comes first is not defined, nor which
    are near where a coordinate is not finite: a query of NaN is NaN away from whatever it is given. Raises
    ``ValueError`` where ``k`` is not within 1 … N.
    """
    check_points("query", query, 3, None)
    check_points("points", points, 3, query.shape[-1])
    if len(query) != len(points):
        raise ValueError(f"{len(query)} clouds of queries, {len(points)} of points")
    if not 1 <= k <= points.shape[1]:
        raise ValueError(f"{k} nearest of {points.shape[1]} points: expected 1 to {points.shape[1]}")
    query, points = as_float(query), as_float(points)
    if query.numel() == 0:
        shape = (*query.shape[:2], k)
        return query.new_empty(shape), torch.empty(shape, dtype=torch.int64, device=query.device)
    pairs = query.shape[1] * points.shape[1]
    large = query.shape[1] >= MIN_QUERIES_FOR_TREE and pairs >= MIN_PAIRS_FOR_TREE
    fits = large and query.shape[-1] == 3 and not query.is_cuda
    if fits and query.isfinite().all() and points.isfinite().all():  # a tree takes no others
        index = torch.stack([_nearest_by_tree(*cloud, k) for cloud in zip(query, points, strict=True)])
        return (gather_points(points, index) - query.unsqueeze(2)).square().sum(3), index
    return nearest_by_comparing(query, points, k)


def nearest_by_comparing(query: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``nearest`` by all distances, as many clouds, or queries of one cloud, at once as ``CHUNK`` allows."""
    if query.shape[-1] > MAX_PLAIN_WIDTH:  # a product loses less the nearer all are to the origin
        middle = points.mean(1, keepdim=True)
        query, points = query - middle, points - middle
    rows = points.transpose(1, 2).contiguous()
    num_queries = max(1, CHUNK[query.device.type] // points.shape[1])
    num_clouds = max(1, num_queries // query.shape[1])
    found = []
    for part, part_rows in zip(query.split(num_clouds), rows.split(num_clouds), strict=True):
        pairs = [_smallest(few, part_rows, k) for few in part.split(num_queries, 1)]
        found.append([torch.cat(parts, 1) for parts in zip(*pairs, strict=True)])
    distances, index = (torch.cat(parts) for parts in zip(*found, strict=True))
    return distances, index


def _smallest(query: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """query [B, Q, D], rows [B, D, N] to distances and indices [B, Q, k]."""
    if rows.shape[1] > MAX_PLAIN_WIDTH:
        with torch.autocast(query.device.type, enabled=False):  # half precision would rank wrongly
            distances = rows.square().sum(1, keepdim=True).baddbmm(query, rows, alpha=-2)
        distances = distances.add_(query.square().sum(2, keepdim=True)).clamp_min_(0)
    else:
        distances = (query[:, :, :1] - rows[:, None, 0]).square_()
        for axis in range(1, rows.shape[1]):
            difference = query[:, :, axis : axis + 1] - rows[:, None, axis]
            distances += difference.square_()
    if k == 1:
        values, index = distances.min(dim=2, keepdim=True)
        return values, index
    if distances.is_cuda or distances.dtype != torch.float32:
        values, index = distances.topk(k, dim=2, largest=False)
        return values, index
    # The bits of a float that is not negative order as an integer does. With the index in the lower half one number is
    # sorted in place of two, half as long, and of equal distances the first comes first.
    keys = torch.arange(distances.shape[2]).expand(distances.shape).contiguous()
    halves = keys.view(torch.int32).unflatten(2, (-1, 2))
    halves[..., HIGH] = distances.view(torch.int32)
    halves = keys.topk(k, dim=2, largest=False).values.view(torch.int32).unflatten(2, (-1, 2))
    return halves[..., HIGH].contiguous().view(torch.float32), halves[..., 1 - HIGH].long()


def _nearest_by_tree(query: Tensor, points: Tensor, k: int) -> Tensor:
    """Indices int64 [Q, k] of one cloud by a k-d tree, which works in double precision."""
    from scipy.spatial import cKDTree

    tree = cKDTree(points.numpy(), balanced_tree=False, compact_nodes=False)
    index = tree.query(query.numpy(), k=[*range(1, k + 1)], workers=torch.get_num_threads())[1]
    return torch.from_numpy(index)


@torch.no_grad()
def nearest_packed(
    query: Tensor, query_offsets: Tensor, points: Tensor, offsets: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """``nearest`` within each of B clouds of any sizes, one after the other.

    ``query`` [R, D], ``points`` [P, D], their offsets int64 [B + 1]. Returns the squared distances [R, k] and the
    indices into ``points``, int64 [R, k]. Raises ``ValueError`` where a cloud with queries has fewer than ``k`` points.
    """
    check_points("query", query, 2, None)
    check_points("points", points, 2, query.shape[-1])
    query_bounds = check_offsets("query_offsets", query_offsets, len(query))
    bounds = check_offsets("offsets", offsets, len(points))
    if len(query_bounds) != len(bounds):
        raise ValueError(f"{len(query_bounds) - 1} clouds of queries, {len(bounds) - 1} of points")
    distances = as_float(query).new_empty(len(query), k)
    index = torch.empty(len(query), k, dtype=torch.int64, device=query.device)
    for cloud in range(len(bounds) - 1):
        asked = slice(query_bounds[cloud], query_bounds[cloud + 1])
        if asked.start == asked.stop:
            continue
        found = nearest(query[None, asked], points[None, bounds[cloud] : bounds[cloud + 1]], k)
        distances[asked], index[asked] = found[0][0], found[1][0] + bounds[cloud]
    return distances, index


def gather_points(values: Tensor, index: Tensor) -> Tensor:
    """``values`` [B, N, C] at ``index`` int64 [B, ...]: [B, ..., C], differentiable in the values."""
    flat = index.reshape(len(index), -1, 1).expand(-1, -1, values.shape[2])
    return values.gather(1, flat).view(*index.shape, values.shape[2])
