"""Farthest point sampling of one size of cloud or of many sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from st_ssl.ops.checks import as_float, check_offsets, check_points


@torch.no_grad()
def farthest_points(xyz: Tensor, count: int, start: Tensor | None = None) -> Tensor:
    """Farthest point sampling: from ``start`` on, again and again the point farthest from all that were taken.

    ``xyz`` [B, N, 3], finite; ``start`` int64 [B], by default 0. Returns the indices int64 [B, count] in the order of
    taking. Of points equally far the first is taken, and none twice, duplicates included. Raises ``ValueError`` where
    ``count`` is not within 0 … N or a start not within the cloud. Qi et al., PointNet++, 2017.
    """
    check_points("xyz", xyz, 3)
    batch, num_points, _ = xyz.shape
    if not 0 <= count <= num_points:
        raise ValueError(f"{count} farthest points of clouds of {num_points}: expected 0 to {num_points}")
    if start is None:
        start = torch.zeros(batch, dtype=torch.int64, device=xyz.device)
    if batch == 0 or count == 0:
        return torch.empty(batch, count, dtype=torch.int64, device=xyz.device)
    if start.shape != (batch,) or start.min() < 0 or start.max() >= num_points:
        raise ValueError(f"starts {start.tolist()}: expected {batch} numbers within 0 … {num_points - 1}")
    distance = torch.full((batch, num_points), torch.inf, dtype=as_float(xyz).dtype, device=xyz.device)
    return farthest_loop(as_float(xyz), distance, count, start.to(xyz.device))


@torch.no_grad()
def farthest_points_packed(xyz: Tensor, offsets: Tensor, counts: Sequence[int] | Tensor) -> Tensor:
    """``farthest_points`` of clouds of any sizes, one after the other, each from its first point on.

    ``xyz`` [P, 3], ``offsets`` int64 [B + 1], ``counts`` how many to take of each cloud. Returns the indices into
    ``xyz``, int64 [sum of counts], cloud after cloud. Raises ``ValueError`` where a cloud has fewer points than asked.
    """
    check_points("xyz", xyz, 2)
    bounds = check_offsets("offsets", offsets, len(xyz))
    wanted = [int(count) for count in counts]
    if len(wanted) != len(bounds) - 1:
        raise ValueError(f"{len(wanted)} counts for {len(bounds) - 1} clouds")
    picked = []
    for first, last, count in zip(bounds, bounds[1:], wanted, strict=False):
        picked.append(farthest_points(xyz[None, first:last], count)[0] + first)
    return torch.cat(picked) if picked else torch.empty(0, dtype=torch.int64, device=xyz.device)


def farthest_loop(xyz: Tensor, distance: Tensor, count: int, start: Tensor) -> Tensor:
    """The plain algorithm on all clouds at once. ``distance`` [B, N] is where each squared distance starts, and is
    overwritten. Nothing is allocated within the loop."""
    rows = xyz.permute(2, 0, 1).contiguous()
    difference, square = torch.empty_like(rows), torch.empty_like(distance)
    picked = torch.empty(count, len(xyz), dtype=torch.int64, device=xyz.device)
    centre = rows.new_empty(3, len(xyz), 1)
    shared = None if xyz.is_cuda else distance.numpy()  # numpy finds the largest of a row ten times as fast
    picked[0] = start
    for step in range(count):
        last = picked[step].unsqueeze(1)
        torch.gather(rows, 2, last.expand(3, -1, -1), out=centre)
        torch.sub(rows, centre, out=difference)
        difference.mul_(difference)
        torch.add(difference[0], difference[1], out=square).add_(difference[2])
        torch.minimum(distance, square, out=distance)
        distance.scatter_(1, last, -1)
        if step + 1 == count:
            break
        if shared is None:
            torch.argmax(distance, 1, out=picked[step + 1])
        else:
            shared.argmax(1, out=picked[step + 1].numpy())
    return picked.T.contiguous()
