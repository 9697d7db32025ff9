"""Farthest point sampling of one size of cloud or of many sizes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from st_ssl.ops.checks import as_float, check_finite, check_offsets, check_points
from st_ssl.ops.farthest import farthest_blocks


@torch.no_grad()
def farthest_points(xyz: Tensor, count: int, start: Tensor | None = None) -> Tensor:
    """Farthest point sampling: from ``start`` on, again and again the point farthest from all that were taken.

    ``xyz`` [B, N, 3], or [B, N, 4] with a time in the unit of space, finite; ``start`` int64 [B], by default 0. Returns
    the indices int64 [B, count] in the order of taking. Of points equally far the first is taken, and none twice,
    duplicates included. Raises ``ValueError`` where ``count`` is not within 0 … N, a start not in the cloud, or a
    coordinate not finite. Qi et al., PointNet++, 2017.
    """
    check_points("xyz", xyz, 3, _width(xyz))
    batch, num_points, width = xyz.shape
    if not 0 <= count <= num_points:
        raise ValueError(f"{count} farthest points of clouds of {num_points}: expected 0 to {num_points}")
    if start is None:
        start = torch.zeros(batch, dtype=torch.int64, device=xyz.device)
    if batch == 0 or count == 0:
        return torch.empty(batch, count, dtype=torch.int64, device=xyz.device)
    if start.shape != (batch,) or start.min() < 0 or start.max() >= num_points:
        raise ValueError(f"starts {start.tolist()}: expected {batch} numbers within 0 … {num_points - 1}")
    xyz = as_float(xyz.detach())
    check_finite("xyz", xyz)
    if not xyz.is_cuda and width == 3 and _blocks_are_quicker(batch, num_points, count):
        clouds = [farthest_blocks(cloud.numpy(), count, int(first)) for cloud, first in zip(xyz, start, strict=True)]
        return torch.stack([torch.from_numpy(picked) for picked in clouds])
    distance = torch.full((batch, num_points), torch.inf, dtype=xyz.dtype, device=xyz.device)
    return farthest_loop(xyz, distance, count, start)


def _width(points: Tensor) -> int:
    """How many coordinates points should have: those of space, and a time where they have one more."""
    return 4 if points.shape[-1] == 4 else 3


def _blocks_are_quicker(batch: int, num_points: int, count: int) -> bool:
    """Rough microseconds a cloud, as measured on one core."""
    return 2000 + 0.1 * num_points + 10 * count < count * (20 / batch + 0.0016 * num_points)


@torch.no_grad()
def farthest_points_packed(xyz: Tensor, offsets: Tensor, counts: Sequence[int] | Tensor) -> Tensor:
    """``farthest_points`` of clouds of any sizes, one after the other, each from its first point on.

    ``xyz`` [P, 3] or [P, 4], ``offsets`` int64 [B + 1], ``counts`` how many to take of each cloud. Returns the indices
    into ``xyz``, int64 [sum of counts], cloud after cloud. Raises ``ValueError`` where a cloud has fewer points than
    asked.
    """
    check_points("xyz", xyz, 2, _width(xyz))
    bounds = check_offsets("offsets", offsets, len(xyz))
    wanted = [int(count) for count in counts]
    if len(wanted) != len(bounds) - 1:
        raise ValueError(f"{len(wanted)} counts for {len(bounds) - 1} clouds")
    sizes = [last - first for first, last in pairwise(bounds)]
    for size, count in zip(sizes, wanted, strict=True):
        if not 0 <= count <= size:
            raise ValueError(f"{count} farthest points of a cloud of {size}: expected 0 to {size}")
    if sum(wanted) == 0:
        return torch.empty(0, dtype=torch.int64, device=xyz.device)
    check_finite("xyz", xyz)
    widest = max(sizes)
    even = len(sizes) * widest <= 2 * len(xyz) and not _blocks_are_quicker(len(sizes), widest, max(wanted))
    if xyz.is_cuda or even:
        return _padded(as_float(xyz.detach()), bounds, wanted)
    clouds = zip(xyz.split(sizes), bounds, wanted, strict=False)
    return torch.cat([farthest_points(cloud[None], count)[0] + first for cloud, first, count in clouds])


def _padded(xyz: Tensor, bounds: list[int], wanted: list[int]) -> Tensor:
    """All clouds in one loop, filled up to the largest with points that count as taken."""
    sizes = [last - first for first, last in pairwise(bounds)]
    points = pad_sequence(xyz.split(sizes), batch_first=True)
    place = torch.arange(points.shape[1], device=xyz.device)
    distance = torch.where(place < torch.tensor(sizes, device=xyz.device).unsqueeze(1), torch.inf, -1.0).to(xyz.dtype)
    start = torch.zeros(len(sizes), dtype=torch.int64, device=xyz.device)
    picked = farthest_loop(points, distance, max(wanted), start)
    return torch.cat([row[:count] + first for row, count, first in zip(picked, wanted, bounds, strict=False)])


def farthest_loop(xyz: Tensor, distance: Tensor, count: int, start: Tensor) -> Tensor:
    """The plain algorithm on all clouds at once. ``distance`` [B, N] is where each squared distance starts, and is
    overwritten. Nothing is allocated within the loop."""
    rows = xyz.permute(2, 0, 1).contiguous()
    difference, square = torch.empty_like(rows), torch.empty_like(distance)
    picked = torch.empty(count, len(xyz), dtype=torch.int64, device=xyz.device)
    centre = rows.new_empty(len(rows), len(xyz), 1)
    shared = None if xyz.is_cuda else distance.numpy()  # numpy finds the largest of a row ten times as fast
    picked[0] = start
    for step in range(count):
        last = picked[step].unsqueeze(1)
        torch.gather(rows, 2, last.expand(len(rows), -1, -1), out=centre)
        torch.sub(rows, centre, out=difference)
        difference.mul_(difference)
        torch.add(difference[0], difference[1], out=square)
        for axis in difference[2:]:
            square.add_(axis)
        torch.minimum(distance, square, out=distance)
        distance.scatter_(1, last, -1)
        if step + 1 == count:
            break
        if shared is None:
            torch.argmax(distance, 1, out=picked[step + 1])
        else:
            shared.argmax(1, out=picked[step + 1].numpy())
    return picked.T.contiguous()
