"""Boxes in space: corners, the points inside, overlap, and non-maximum suppression.

A box is (x, y, z, length, width, height, yaw): its centre, its sizes along its own axes, all in one unit, and the angle
in radians by which it is turned about the z axis, from x towards y. Boxes without the seventh number are not turned.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

# The corners in units of half a size: the lower four against the clock, then those above them.
SIGNS = ((1, 1), (-1, 1), (-1, -1), (1, -1))
PAIRS_AT_ONCE = 1 << 18
SUPPRESSED_AT_ONCE = 64
# Relative to the sizes of two boxes.
BORDER = 1e-12
# The sine of an angle below which two sides are taken for parallel.
PARALLEL = 1e-9
TINY = 1e-200


def box_corners(boxes: Tensor) -> Tensor:
    """``boxes`` [N, 6 or 7] to corners [N, 8, 3]: the lower four against the clock, seen from above, from that at
    (+length / 2, +width / 2) on, then the upper four likewise. Differentiable."""
    boxes = _with_yaw("boxes", boxes)
    flat = torch.tensor(SIGNS, dtype=boxes.dtype, device=boxes.device) / 2 * boxes[:, None, 3:5]
    turned = _turn(flat, boxes[:, 6:]) + boxes[:, None, :2]
    heights = boxes[:, None, 2] + boxes.new_tensor([[-0.5], [0.5]]).T * boxes[:, None, 5]
    height = heights.repeat_interleave(4, 1).unsqueeze(2)
    return torch.cat([turned.repeat(1, 2, 1), height], 2)


@torch.no_grad()
def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Which of ``points`` [P, 3] are in which of ``boxes`` [N, 6 or 7], the border included: bool [P, N]."""
    boxes = _with_yaw("boxes", boxes)
    inside = torch.empty(len(boxes), len(points), dtype=torch.bool, device=points.device)
    rows = points.T.contiguous()
    half, cos, sin = boxes[:, 3:6] / 2, boxes[:, 6].cos(), boxes[:, 6].sin()
    for number, out in enumerate(inside.unbind()):
        x, y, z = rows - boxes[number, :3, None]
        torch.le(z.abs_(), half[number, 2], out=out)
        out &= (x * cos[number] + y * sin[number]).abs_() <= half[number, 0]
        out &= (y * cos[number] - x * sin[number]).abs_() <= half[number, 1]
    return inside.T


@torch.no_grad()
def iou_bev(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of the boxes ``a`` [N, 6 or 7] and ``b`` [M, 6 or 7] seen from above: [N, M], exact; no
    gradients. 0 where both have no area."""
    a, b = _with_yaw("a", a), _with_yaw("b", b)
    overlap = _overlap_bev(a, b)
    return _iou(overlap, a[:, 3:5].prod(1), b[:, 3:5].prod(1)).to(a.dtype)


@torch.no_grad()
def iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of the volumes of ``a`` [N, 6 or 7] and ``b`` [M, 6 or 7]: [N, M], as ``iou_bev``."""
    a, b = _with_yaw("a", a), _with_yaw("b", b)
    (top_a, top_b), (bottom_a, bottom_b) = ([x[:, 2] + sign * x[:, 5] / 2 for x in (a, b)] for sign in (1, -1))
    height = torch.minimum(top_a[:, None], top_b) - torch.maximum(bottom_a[:, None], bottom_b)
    overlap = _overlap_bev(a, b) * height.clamp_min(0)
    return _iou(overlap, a[:, 3:6].prod(1), b[:, 3:6].prod(1)).to(a.dtype)


@torch.no_grad()
def nms(boxes: Tensor, scores: Tensor, threshold: float, kind: Literal["bev", "3d"] = "bev") -> Tensor:
    """Greedy non-maximum suppression: the indices int64 of the boxes kept, the highest score first. A box is dropped
    where its IoU with one that is kept is above ``threshold``; of equal scores the first box goes first.

    ``boxes`` [N, 6 or 7], ``scores`` [N].
    """
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"scores {list(scores.shape)} of {len(boxes)} boxes: expected one for each")
    order = scores.sort(descending=True, stable=True).indices
    overlap = {"bev": iou_bev, "3d": iou_3d}[kind]
    kept = order[:0]
    for block in order.split(SUPPRESSED_AT_ONCE):  # most boxes meet only the few that are kept
        block = block[~(overlap(boxes[block], boxes[kept]) > threshold).any(1)]
        close = (overlap(boxes[block], boxes[block]) > threshold).cpu().numpy()
        dropped, chosen = np.zeros(len(block), dtype=bool), []
        for box in range(len(block)):
            if not dropped[box]:
                chosen.append(box)
                dropped |= close[box]
        kept = torch.cat([kept, block[torch.tensor(chosen, dtype=torch.int64, device=order.device)]])
    return kept


def _with_yaw(name: str, boxes: Tensor) -> Tensor:
    if boxes.dim() != 2 or boxes.shape[1] not in (6, 7):
        raise ValueError(f"{name} has the shape {list(boxes.shape)}; expected [N, 6] or, with a yaw, [N, 7]")
    if (boxes[:, 3:6] < 0).any():
        raise ValueError(f"{name} has a box of size {boxes[(boxes[:, 3:6] < 0).any(1)][0, 3:6].tolist()}")
    return boxes if boxes.shape[1] == 7 else torch.cat([boxes, torch.zeros_like(boxes[:, :1])], 1)


def _turn(flat: Tensor, yaw: Tensor) -> Tensor:
    """``flat`` [..., L, 2] turned by ``yaw`` [..., 1]."""
    cos, sin = yaw.cos(), yaw.sin()
    x, y = flat.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], -1)


def _iou(overlap: Tensor, a: Tensor, b: Tensor) -> Tensor:
    union = a[:, None] + b - overlap
    return torch.where(union > 0, overlap / union.clamp_min(torch.finfo(union.dtype).tiny), 0)


def _overlap_bev(a: Tensor, b: Tensor) -> Tensor:
    """Areas [N, M] in double precision, of those pairs alone whose outer circles meet."""
    a, b = a.double(), b.double()
    reach = a[:, 3:5].norm(dim=1)[:, None] / 2 + b[:, 3:5].norm(dim=1) / 2
    near = (torch.cdist(a[:, :2], b[:, :2], compute_mode="donot_use_mm_for_euclid_dist") <= reach).nonzero()
    area = a.new_zeros(len(a), len(b))
    for pairs in near.split(PAIRS_AT_ONCE):
        first, second = pairs.unbind(1)
        area[first, second] = _overlap_of_pairs(a[first], b[second])
    return area


def _overlap_of_pairs(a: Tensor, b: Tensor) -> Tensor:
    """The area that each of the rectangles ``a`` shares with its ``b``, both [R, 7]: [R].

    Twice the area is the sum, over the sides of either that are within the other, of the cross product of their ends:
    no corners have to be sorted. So that no two sides lie on one another, b is taken larger by the ``BORDER``.
    """
    (length_a, width_a), (length_b, width_b) = a[:, 3:5].T, b[:, 3:5].T
    largest = torch.minimum(length_a * width_a, length_b * width_b)
    slack = BORDER * (length_a + width_a + length_b + width_b)
    length_b, width_b = length_b + slack, width_b + slack
    x, y = (b[:, :2] - a[:, :2]).T
    cos_a, sin_a, cos_b, sin_b = a[:, 6].cos(), a[:, 6].sin(), b[:, 6].cos(), b[:, 6].sin()
    x, y = cos_a * x + sin_a * y, cos_a * y - sin_a * x  # the centre of b as a sees it
    cos, sin = cos_a * cos_b + sin_a * sin_b, cos_a * sin_b - sin_a * cos_b
    cos, sin = (torch.where(part.abs() < PARALLEL, 0.0, part) for part in (cos, sin))
    own = _shares_within(-(cos * x + sin * y), sin * x - cos * y, cos, -sin, length_a, width_a, length_b, width_b)
    other = _shares_within(x, y, cos, sin, length_b, width_b, length_a, width_a)
    ahead, aside = length_b * (x * sin - y * cos), width_b * (x * cos + y * sin)
    double = length_b * width_b / 2 + torch.stack([aside, -ahead, -aside, ahead])  # of the triangles from a's centre
    area = (own.sum(0) * length_a * width_a / 2 + (other * double).sum(0)) / 2
    return torch.minimum(area.clamp_min(0), largest)


def _shares_within(
    x: Tensor, y: Tensor, cos: Tensor, sin: Tensor, length: Tensor, width: Tensor, long: Tensor, wide: Tensor
) -> Tensor:
    """Of each side of rectangles, all [R], against the clock from the right end on, the share [4, R] that is within
    rectangles of ``long`` by ``wide`` around the origin. The rectangles are centred at (x, y) and turned by the angle
    of ``cos`` and ``sin``."""
    along, across = torch.stack([length * cos, length * sin]), torch.stack([-width * sin, width * cos])
    step = torch.stack([across, -along, -across, along])  # [4, 2, R]
    middle = torch.stack([along, across, -along, -across]) / 2 + torch.stack([x, y])
    half = torch.stack([long, wide]) / 2
    step = torch.where(step.abs() < TINY, TINY, step)
    reach, centre = half / step.abs(), 0.5 - middle / step
    return ((centre + reach).amin(1).clamp_max(1) - (centre - reach).amax(1).clamp_min(0)).clamp_min(0)
