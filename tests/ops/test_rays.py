from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from st_ssl.ops.rays import leave_box, ray_weights, refine, spread


def test_rays_leave_a_box_where_they_meet_its_first_wall() -> None:
    origin = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0, 0, 0]])
    direction = torch.tensor([[1.0, 0, 0], [0, -1, 0], [math.sqrt(0.5), 0, math.sqrt(0.5)]])
    far = leave_box(origin, direction, (-2, -3, -4, 5, 6, 2))
    torch.testing.assert_close(far, torch.tensor([5, 4, 2 * math.sqrt(2)]))


def test_ranges_are_spread_over_the_ray() -> None:
    found = spread(1.0, torch.tensor([9.0, 5.0]), 4)
    assert found.tolist() == [[2, 4, 6, 8], [1.5, 2.5, 3.5, 4.5]]
    moved = spread(1.0, torch.tensor([9.0]), 4, torch.zeros(1, 4))
    assert moved.tolist() == [[1, 3, 5, 7]]


def slow_weights(distances: list[float], sharpness: float) -> list[float]:
    """Section by section, as NeuS says it."""
    left, found = 1.0, []
    for first, second in pairwise(distances):
        a, b = (1 / (1 + math.exp(-sharpness * value)) for value in (first, second))
        stopped = max((a - b) / a, 0)
        found.append(left * stopped)
        left *= 1 - stopped
    return found


def test_weights_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    distance = torch.randn(5, 7, dtype=torch.float64)
    found = ray_weights(distance, torch.tensor(3.0, dtype=torch.float64))
    for row, values in zip(found, distance.tolist(), strict=True):
        torch.testing.assert_close(row, torch.tensor(slow_weights(values, 3.0), dtype=torch.float64))
    assert torch.autograd.gradcheck(ray_weights, (distance.requires_grad_(), torch.tensor(3.0, dtype=torch.float64)))


def test_a_ray_ends_at_the_surface() -> None:
    ranges = torch.linspace(0, 10, 101)[None]
    weights = ray_weights(6.3 - ranges, torch.tensor(50.0))
    middle = (ranges[:, 1:] + ranges[:, :-1]) / 2
    assert float((weights * middle).sum()) == pytest.approx(6.3, abs=0.1)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-3)
    more = refine(ranges, weights, 8)
    assert float((more - 6.3).abs().median()) < 0.1
