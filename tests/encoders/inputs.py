"""What encoders of either modality are fed in tests: clips of noise, and clouds of two crossing planes of noise."""

from __future__ import annotations

from typing import Any

import torch

from st_ssl.encoders.base import ENCODERS, AnyInput
from st_ssl.inputs import InputConfig, Modality, PointInputConfig
from st_ssl.types import PointBatch

INPUTS: dict[Modality, AnyInput] = {
    "video": InputConfig(num_frames=4, stride=2, size=32, mean=(0.1, 0.2, 0.3)),
    "points": PointInputConfig(num_points=48, attributes=("color",)),
}


def modality(name: str) -> Modality:
    """That of the encoder ``name``."""
    return ENCODERS.registered(name).modality


def clouds(batch: int = 2, num_points: int = 48, seed: int = 0) -> PointBatch:
    """``batch`` coloured clouds inside the unit sphere."""
    generator = torch.Generator().manual_seed(seed)
    planes = torch.randn(batch, 2, 2, 3, generator=generator)
    places = (torch.rand(batch, 2, num_points // 2, 2, generator=generator) - 0.5) / 4
    xyz = (places @ planes).reshape(-1, 3).clamp(-0.57, 0.57)
    colour = torch.rand(batch * num_points, 3, generator=generator)
    source = torch.arange(num_points).repeat(batch)
    return PointBatch(xyz, torch.arange(batch + 1) * num_points, {"color": colour}, source=source)


def an_input(name: str, batch: int = 2) -> Any:
    """What the encoder ``name`` is fed."""
    if modality(name) == "points":
        return clouds(batch)
    return torch.randn(batch, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


def second(content: Any) -> Any:
    """The second of the samples alone."""
    return content.part(1, 2) if isinstance(content, PointBatch) else content[1:2]
