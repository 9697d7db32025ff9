from __future__ import annotations

import math

import torch

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
