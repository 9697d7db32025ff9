"""A volume of features that is taken forward in time, step by step, by how the sensor moves (TREND, 2025)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

ACTION = 34
"""Numbers of an action: 16 each for the shifts along x and y, and the sine and cosine of the turn."""


def sinusoids(values: Tensor, width: int, shortest: float = 0.5) -> Tensor:
    """``values`` [...] as ``width`` sines and cosines [..., width] of wavelengths from ``shortest`` on, each twice the
    one before."""
    waves = 2 * math.pi / (shortest * 2.0 ** torch.arange(width // 2, device=values.device, dtype=values.dtype))
    phase = values[..., None] * waves
    return torch.cat([phase.sin(), phase.cos()], -1)


def actions(path: Tensor) -> Tensor:
    """How the sensor moves from each pose to the next, as seen from the first: ``path`` [B, S + 1, 4, 4] to
    [B, S, ``ACTION``]."""
    from_first = torch.linalg.inv(path[:, :1]) @ path
    shift = from_first[:, 1:, :2, 3] - from_first[:, :-1, :2, 3]
    yaw = torch.atan2(from_first[..., 1, 0], from_first[..., 0, 0])
    turn = yaw[:, 1:] - yaw[:, :-1]
    return torch.cat([sinusoids(shift, 16).flatten(2), turn.sin()[..., None], turn.cos()[..., None]], 2)


class RecurrentVolume(nn.Module):
    """One step forward: an action [B, ``ACTION``] is put beside every cell of a volume [B, C, D, H, W], and two
    convolutions say what is added to it. The same weights serve all steps."""

    def __init__(self, width: int, action: int = 16) -> None:
        super().__init__()
        self.act = nn.Sequential(nn.Linear(ACTION, action), nn.ReLU(), nn.Linear(action, action))
        self.step = nn.Sequential(
            nn.Conv3d(width + action, width, 3, padding=1), nn.ReLU(), nn.Conv3d(width, width, 3, padding=1)
        )

    def forward(self, volume: Tensor, action: Tensor) -> Tensor:
        """The volume of the next instant."""
        told = self.act(action)[..., None, None, None].expand(-1, -1, *volume.shape[2:])
        return volume + self.step(torch.cat([volume, told], 1))
