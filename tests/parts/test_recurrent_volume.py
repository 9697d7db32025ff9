from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
from torch import Tensor

from st_ssl.parts.recurrent_volume import ACTION, RecurrentVolume, actions, sinusoids


def pose(x: float, y: float, yaw: float) -> torch.Tensor:
    found = torch.eye(4, dtype=torch.float64)
    found[:2, :2] = torch.tensor([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    found[:2, 3] = torch.tensor([x, y])
    return found


def test_actions_are_seen_from_the_first_sweep() -> None:
    start = pose(5, -3, 1.0)
    path = torch.stack([start @ pose(0, 0, 0), start @ pose(2, 0.5, 0.1), start @ pose(5, 1, 0.4)])[None]
    found = actions(path)
    assert found.shape == (1, 2, ACTION)
    for step, (x, y, turn) in enumerate([(2, 0.5, 0.1), (3, 0.5, 0.3)]):
        shift = sinusoids(torch.tensor([x, y], dtype=torch.float64), 16).flatten()
        expected = torch.cat([shift, torch.tensor([math.sin(turn), math.cos(turn)], dtype=torch.float64)])
        torch.testing.assert_close(found[0, step], expected)


def test_a_step_depends_on_the_action() -> None:
    torch.manual_seed(0)
    step = RecurrentVolume(4)
    volume = torch.randn(2, 4, 3, 5, 5)
    first, second = step(volume, torch.randn(2, ACTION)), step(volume, torch.randn(2, ACTION))
    assert first.shape == volume.shape
    assert not torch.allclose(first, second)


def slow_convolution(layer: Any, volume: Tensor) -> Tensor:
    """Cell by cell: each takes in the 27 around it, and nothing from outside."""
    sides = list(product(*(range(side) for side in volume.shape[1:])))
    cells: list[Tensor] = []
    for here in sides:
        cell = layer.bias
        for place, other in enumerate(sides):
            z, y, x = (b - a + 1 for a, b in zip(here, other, strict=True))
            if max(abs(z - 1), abs(y - 1), abs(x - 1)) <= 1:
                cell = cell + layer.weight[:, :, z, y, x] @ volume.flatten(1)[:, place]
        cells.append(cell)
    return torch.stack(cells, 1).view(-1, *volume.shape[1:])


def test_value_and_gradient_of_a_slow_reference() -> None:
    torch.manual_seed(0)
    step = RecurrentVolume(3, action=2).double()
    volume = torch.randn(2, 3, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    action = torch.randn(2, ACTION, dtype=torch.float64, requires_grad=True)
    rows = []
    for own, told in zip(volume, step.act(action), strict=True):
        beside = torch.cat([own, told[:, None, None, None].expand(-1, *own.shape[1:])])
        rows.append(own + slow_convolution(step.step[2], slow_convolution(step.step[0], beside).relu()))
    slow, fast = torch.stack(rows), step(volume, action)
    torch.testing.assert_close(fast, slow)
    wanted = [volume, action, *step.parameters()]
    for one, other in zip(*(torch.autograd.grad(found.sin().sum(), wanted) for found in (fast, slow)), strict=True):
        torch.testing.assert_close(one, other)
