"""Rays through a field: where they are sampled, and how far a signed distance lets them go (NeuS, 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

Box = tuple[float, float, float, float, float, float]


def leave_box(origin: Tensor, direction: Tensor, box: Box) -> Tensor:
    """How far rays [R, 3] of unit ``direction`` go before they leave ``box`` (x0, y0, z0, x1, y1, z1), from an
    ``origin`` [R, 3] within it: [R]."""
    low, high = origin.new_tensor(box[:3]), origin.new_tensor(box[3:])
    safe = torch.where(direction.abs() < 1e-9, 1e-9, direction)
    return torch.maximum((low - origin) / safe, (high - origin) / safe).amin(1).clamp_min(0)


def spread(near: float, far: Tensor, count: int, jitter: Tensor | None = None) -> Tensor:
    """``count`` ranges of every ray from ``near`` to its ``far`` [R], evenly spread: in the middle of their sections
    or, with ``jitter`` [R, count] in 0 … 1, anywhere in them: [R, count], ascending."""
    place = torch.arange(count, device=far.device, dtype=far.dtype)
    share = (place + (0.5 if jitter is None else jitter)) / count
    return near + (far[:, None] - near).clamp_min(1e-3) * share


def ray_weights(distance: Tensor, sharpness: Tensor) -> Tensor:
    """What each of the N - 1 sections of R rays stops of its ray, [R, N - 1], from signed distances [R, N] to the
    surface at N ranges, positive outside. With Φ(x) = sigmoid(``sharpness`` · x) a section stops
    max((Φ(dᵢ) - Φ(dᵢ₊₁)) / Φ(dᵢ), 0) of what reaches it."""
    seen = torch.sigmoid(sharpness * distance)
    stopped = ((seen[:, :-1] - seen[:, 1:]) / seen[:, :-1].clamp_min(1e-6)).clamp(0, 1)
    reached = torch.cumprod(torch.cat([torch.ones_like(stopped[:, :1]), 1 - stopped], 1), 1)
    return reached[:, :-1] * stopped


@torch.no_grad()
def refine(ranges: Tensor, weights: Tensor, count: int) -> Tensor:
    """``count`` more ranges of every ray, [R, count], where ``weights`` [R, N - 1] of the sections between ``ranges``
    [R, N] are large: at even quantiles of them (each section counts a little)."""
    share = weights + 1e-3
    share = share / share.sum(1, keepdim=True)
    ends = torch.cat([torch.zeros_like(share[:, :1]), share.cumsum(1)], 1)
    asked = (torch.arange(count, device=ranges.device, dtype=ranges.dtype) + 0.5).div(count).expand(len(ranges), -1)
    section = (torch.searchsorted(ends.contiguous(), asked.contiguous(), right=True) - 1).clamp(0, share.shape[1] - 1)
    within = (asked - ends.gather(1, section)) / share.gather(1, section)
    start, end = ranges.gather(1, section), ranges.gather(1, section + 1)
    return start + within.clamp(0, 1) * (end - start)
